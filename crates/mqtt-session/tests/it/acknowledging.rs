//! PUBACK, PUBREC and PUBCOMP to the client: when, in which order, and how often.

use mqtt_codec::{Ack, Packet, Publish, QoS, ReasonCode, Version};
use mqtt_session::CloseReason;

use crate::script::*;

/// [MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-2.2.1-5] Nothing before the broker's answer.
#[test]
fn a_message_is_acknowledged_when_the_broker_has_it() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        for (packet, acknowledgement) in [(qos1(1, 7), puback(7)), (qos2(1, 8), pubrec(8))] {
            script.send(packet);
            let (_, ticket) = script.publish_event();
            script.expect_nothing();
            script.connection.complete(ticket, ReasonCode::Success);
            script.expect(acknowledgement);
        }
        script.send(qos0(1));
        script.accept();
        script.expect_nothing();
    }
}

/// [MQTT-4.6.0-2] [MQTT-4.6.0-3]
#[test]
fn acknowledgements_leave_in_publish_order() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        for number in 1..=4 {
            script.send(qos1(1, number));
        }
        script.send(qos2(1, 5));
        let mut tickets: Vec<_> = (0..5).map(|_| Some(script.publish_event().1)).collect();
        for late in [4, 2, 1] {
            script.connection.complete(tickets[late].take().unwrap(), ReasonCode::Success);
            script.expect_nothing();
        }
        script.connection.complete(tickets[0].take().unwrap(), ReasonCode::Success);
        for number in 1..=3 {
            script.expect(puback(number));
        }
        script.expect_nothing();
        script.connection.complete(tickets[3].take().unwrap(), ReasonCode::Success);
        script.expect(puback(4));
        script.expect(pubrec(5));
    }
}

#[test]
fn what_the_broker_found_is_told_in_mqtt5() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(qos1(1, 1));
        let (_, ticket) = script.publish_event();
        script.connection.complete(ticket, ReasonCode::NoMatchingSubscribers);
        let reason = lowered(version, ReasonCode::NoMatchingSubscribers);
        script.expect(Packet::PubAck(Ack::new(id(1), reason)));
    }
}

/// [MQTT311-3.3.5-2] MQTT 3 cannot refuse a message: it is dropped if it may never be sent,
/// and the connection is closed if it may be taken later.
#[test]
fn a_refusal_by_the_broker_is_told_as_the_version_allows() {
    for version in VERSIONS {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for reason in [ReasonCode::NotAuthorized, ReasonCode::QuotaExceeded] {
                let mut script = Script::start(version);
                script.send(Packet::Publish(publish(1, qos, 3)));
                let (_, ticket) = script.publish_event();
                script.connection.complete(ticket, reason);
                if version < Version::V5 && reason == ReasonCode::QuotaExceeded {
                    script.expect_farewell(reason);
                    continue;
                }
                let ack = Ack::new(id(3), lowered(version, reason));
                script.expect(match qos {
                    QoS::ExactlyOnce => Packet::PubRec(ack),
                    _ => Packet::PubAck(ack),
                });
                assert_eq!(script.connection.closed(), None);
            }
        }
    }
}

#[test]
fn a_reason_that_puback_does_not_know_is_told_as_unspecified() {
    let mut script = Script::start(Version::V5);
    script.send(qos1(1, 3));
    let (_, ticket) = script.publish_event();
    script.connection.complete(ticket, ReasonCode::ServerBusy);
    script.expect(Packet::PubAck(Ack::new(id(3), ReasonCode::UnspecifiedError)));
}

/// [MQTT-4.3.3-10]
#[test]
fn a_repeated_qos2_publish_is_acknowledged_again_and_goes_nowhere() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(qos2(1, 4));
        script.accept();
        script.expect(pubrec(4));
        for dup in [true, false] {
            script.send(Packet::Publish(Publish { dup, ..publish(1, QoS::ExactlyOnce, 4) }));
            script.expect(pubrec(4));
            script.expect_no_event();
        }
    }
}

/// [MQTT-4.3.3-10] The repetition comes while the broker is still at it.
#[test]
fn a_qos2_publish_repeated_before_its_pubrec_waits_for_the_broker() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(qos2(1, 4));
        script.send(qos2(1, 4));
        script.send(qos1(2, 5));
        script.expect_nothing();
        script.accept();
        script.expect(pubrec(4));
        script.expect_nothing();
        script.accept();
        script.expect(puback(5));
        script.expect_no_event();
    }
}

/// [MQTT-4.6.0-3] The repetition's PUBREC does not overtake an earlier one.
#[test]
fn a_repeated_qos2_publish_keeps_its_place_in_the_order() {
    let mut script = Script::start(Version::V5);
    script.send(qos2(1, 1));
    script.accept();
    script.expect(pubrec(1));
    script.send(qos2(2, 2));
    script.send(qos2(1, 1));
    script.expect_nothing();
    script.accept();
    script.expect(pubrec(2));
    script.expect(pubrec(1));
}

/// [MQTT-4.3.3-11] [MQTT-4.3.3-12]
#[test]
fn a_released_packet_id_is_new_again() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        for _ in 0..3 {
            script.send(qos2(1, 4));
            script.accept();
            script.expect(pubrec(4));
            script.send(pubrel(4));
            script.expect(pubcomp(4));
        }
    }
}

/// [MQTT-4.3.3-9]
#[test]
fn a_refused_qos2_packet_id_is_new_again() {
    let mut script = Script::start(Version::V5);
    script.send(qos2(1, 4));
    let (_, ticket) = script.publish_event();
    script.connection.complete(ticket, ReasonCode::NotAuthorized);
    script.expect(Packet::PubRec(Ack::new(id(4), ReasonCode::NotAuthorized)));
    script.send(qos2(1, 4));
    script.accept();
    script.expect(pubrec(4));
}

/// [MQTT-4.3.2-5]
#[test]
fn an_acknowledged_qos1_packet_id_is_new_whatever_its_dup_flag() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        for dup in [false, true, false] {
            script.send(Packet::Publish(Publish { dup, ..publish(1, QoS::AtLeastOnce, 4) }));
            script.accept();
            script.expect(puback(4));
        }
    }
}

/// [MQTT-4.3.3-11] MQTT 3 has no reason for it.
#[test]
fn a_pubrel_for_nothing_is_answered_all_the_same() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(pubrel(9));
        let reason = lowered(version, ReasonCode::PacketIdentifierNotFound);
        script.expect(Packet::PubComp(Ack::new(id(9), reason)));
    }
}

/// [MQTT-4.3.3-4] Nobody has told the client that the message arrived.
#[test]
fn a_pubrel_before_its_pubrec_is_a_protocol_error() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(qos2(1, 4));
        assert_eq!(script.send_wrong(pubrel(4)).reason, ReasonCode::ProtocolError);
        script.expect_farewell(ReasonCode::ProtocolError);
    }
}

/// [MQTT-2.2.1-3] An identifier in use by a QoS 2 message cannot name another message.
#[test]
fn a_packet_id_in_use_is_refused() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(qos2(1, 4));
        script.accept();
        script.expect(pubrec(4));
        if version == Version::V5 {
            script.send(qos1(2, 4));
            let ack = Ack::new(id(4), ReasonCode::PacketIdentifierInUse);
            script.expect(Packet::PubAck(ack));
        } else {
            script.send_wrong(qos1(2, 4));
            script.expect_farewell(ReasonCode::PacketIdentifierInUse);
        }
        script.expect_no_event();
    }
}

/// Completing after the end sends nothing.
#[test]
fn nothing_is_acknowledged_after_the_end() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(qos1(1, 1));
        script.send(qos2(2, 2));
        script.connection.close(ReasonCode::ServerShuttingDown);
        script.expect_farewell(ReasonCode::ServerShuttingDown);
        script.accept();
        script.accept();
        script.expect_nothing();
        let reason = CloseReason::Server(ReasonCode::ServerShuttingDown);
        assert_eq!(script.connection.closed(), Some(&reason));
    }
}
