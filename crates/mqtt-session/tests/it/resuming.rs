//! A session that goes on with another connection.

use bytes::Bytes;
use std::sync::Arc;

use mqtt_codec::{Connect, Message, Packet, Publish, QoS, ReasonCode, Version};
use mqtt_session::{Delivery, ServerProfile};

use crate::script::*;

fn resent(number: u32, qos: QoS, packet_id: u16) -> Packet {
    Packet::Publish(Publish { dup: true, ..publish(number, qos, packet_id) })
}

/// [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.3.3-6]
#[test]
fn what_is_unacknowledged_is_sent_again_in_its_order() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        for (number, qos) in [
            (1, QoS::ExactlyOnce),
            (2, QoS::AtLeastOnce),
            (3, QoS::AtLeastOnce),
            (4, QoS::ExactlyOnce),
            (5, QoS::AtMostOnce),
            (6, QoS::AtLeastOnce),
        ] {
            script.deliver(delivery(number, qos));
            script.expect_publish();
        }
        script.send(pubrec(1));
        script.expect(pubrel(1));
        script.send(puback(2));
        for _ in 0..2 {
            script = script.reconnect(&connect(version));
            script.expect(pubrel(1));
            script.expect(resent(3, QoS::AtLeastOnce, 3));
            script.expect(resent(4, QoS::ExactlyOnce, 4));
            script.expect(resent(6, QoS::AtLeastOnce, 5));
            script.expect_nothing();
        }
        // New messages come behind, with new identifiers.
        script.deliver(delivery(7, QoS::AtLeastOnce));
        assert_eq!(script.expect_publish().packet_id, Some(id(6)));
        script.send(pubcomp(1));
        script.send(puback(3));
        script.send(pubrec(4));
        script.expect(pubrel(4));
        script.send(pubcomp(4));
        script.send(puback(5));
        script.send(puback(6));
        assert!(script.connection.session().is_settled());
        assert_eq!(script.connection.stray_acknowledgements(), 0);
    }
}

/// [MQTT-4.4.0-1] At no other time.
#[test]
fn nothing_is_sent_again_within_a_connection() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.deliver(delivery(1, QoS::ExactlyOnce));
        script.expect_publish();
        script.advance(secs(100_000));
        script.send(Packet::PingReq);
        script.expect(Packet::PingResp);
        script.expect_nothing();
    }
}

/// [MQTT-3.3.4-9] [MQTT-3.3.4-10] The new connection's receive maximum holds for what is sent
/// again; a PUBREL is not delayed by it.
#[test]
fn a_smaller_receive_maximum_holds_back_what_is_sent_again() {
    let mut script = Script::start(Version::V5);
    for number in 1..=5 {
        script.deliver(delivery(number, QoS::ExactlyOnce));
        script.expect_publish();
    }
    script.send(pubrec(5));
    script.expect(pubrel(5));
    let narrow = Connect { receive_maximum: maximum(2), ..connect(Version::V5) };
    let mut script = script.reconnect(&narrow);
    script.expect(pubrel(5));
    script.expect(resent(1, QoS::ExactlyOnce, 1));
    script.expect(resent(2, QoS::ExactlyOnce, 2));
    script.expect_nothing();
    assert_eq!(script.connection.window(), 0);
    script.send(pubcomp(5)); // Not one of the two: frees no place.
    script.expect_nothing();
    script.send(pubrec(1));
    script.expect(pubrel(1));
    script.expect_nothing();
    script.send(pubcomp(1));
    script.expect(resent(3, QoS::ExactlyOnce, 3));
    // It is acknowledged before it is sent again, as its first sending did arrive.
    script.send(pubrec(4));
    script.expect(pubrel(4));
    script.expect_nothing();
    assert_eq!(script.connection.window(), 0);
    script.send(pubrec(2));
    script.expect(pubrel(2));
    script.send(pubcomp(2));
    assert_eq!(script.connection.window(), 1);
    script.expect_nothing();
}

/// [MQTT-4.3.3-7]
#[test]
fn a_message_that_was_sent_expires_no_more() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        let expires_at = Some(script.now + secs(10));
        script.deliver(Delivery { expires_at, ..delivery(1, QoS::AtLeastOnce) });
        script.expect_publish();
        script.advance(secs(4));
        let mut script = script.reconnect(&connect(version));
        let left = |seconds| (version == Version::V5).then_some(seconds);
        assert_eq!(script.expect_publish().expiry_secs, left(6));
        script.advance(secs(60));
        let mut script = script.reconnect(&connect(version));
        assert_eq!(script.expect_publish().expiry_secs, left(0));
    }
}

/// [MQTT-3.1.2-25]
#[test]
fn what_the_client_no_longer_takes_counts_as_sent() {
    let mut script = Script::start(Version::V5);
    let large = Message { payload: Bytes::from(vec![0; 200]), ..message(1) };
    script.deliver(Delivery { message: Arc::new(large), ..delivery(1, QoS::AtLeastOnce) });
    script.deliver(delivery(2, QoS::AtLeastOnce));
    script.expect_publish();
    script.expect_publish();
    let small = Connect { maximum_packet_size: Some(100), ..connect(Version::V5) };
    let mut script = script.reconnect(&small);
    script.expect(resent(2, QoS::AtLeastOnce, 2));
    assert_eq!(script.connection.session().in_flight_len(), 1);
    assert_eq!(script.connection.window(), 1023);
}

/// [MQTT-3.3.2-7]
#[test]
fn aliases_do_not_outlive_their_connection() {
    let connect = Connect { topic_alias_maximum: 10, ..connect(Version::V5) };
    let mut script = Script::with(&connect, ServerProfile::default());
    script.deliver(delivery(1, QoS::AtLeastOnce));
    script.deliver(delivery(2, QoS::AtLeastOnce));
    assert!(script.expect_publish().topic.is_some());
    assert!(script.expect_publish().topic.is_none());
    let mut script = script.reconnect(&connect);
    assert!(script.expect_publish().topic.is_some());
    assert!(script.expect_publish().topic.is_none());
}

/// [MQTT-4.3.3-10] Across connections.
#[test]
fn a_qos2_publish_repeated_after_a_lost_pubrec_is_delivered_once() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(qos2(1, 4));
        script.accept();
        let mut script = script.reconnect(&connect(version));
        script.send(qos2(1, 4));
        script.expect_no_event();
        script.expect(pubrec(4));
        let mut script = script.reconnect(&connect(version));
        script.send(pubrel(4));
        script.expect(pubcomp(4));
        assert!(script.connection.session().is_settled());
    }
}

/// The connection ends while the broker is at it: the promise of a PUBREC is still the broker's.
#[test]
fn a_ticket_of_qos2_is_answered_on_the_next_connection() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(qos1(1, 1));
        script.send(qos2(2, 2));
        script.send(qos0(3));
        script.send(unsubscribe(4, &["a"]));
        let tickets =
            [script.publish_event().1, script.publish_event().1, script.publish_event().1];
        let Some(mqtt_session::Event::Unsubscribe { ticket: other, .. }) =
            script.connection.poll_event()
        else {
            panic!("an unsubscribe event");
        };
        let mut script = script.reconnect(&connect(version));
        script.send(qos2(2, 2));
        script.expect_no_event();
        script.expect_nothing();
        for ticket in tickets {
            script.connection.complete(ticket, ReasonCode::Success);
        }
        script.connection.complete_unsubscribe(other, vec![ReasonCode::Success]);
        script.expect(pubrec(2));
        script.expect_nothing();
        assert!(script.connection.accepts_input());
    }
}

/// The same, with the answer before the repetition, and while no connection is there.
#[test]
fn a_ticket_of_qos2_is_answered_by_the_session() {
    for version in VERSIONS {
        for reason in [ReasonCode::Success, ReasonCode::QuotaExceeded] {
            for parked in [false, true] {
                let mut script = Script::start(version);
                script.send(qos2(2, 2));
                let (_, ticket) = script.publish_event();
                let now = script.now;
                let mut session = script.end().session;
                let mut ticket = Some(ticket);
                if parked {
                    session.complete(ticket.take().unwrap(), reason);
                }
                let profile = ServerProfile::default();
                let mut script = Script::open(&connect(version), profile, Some(session), now);
                script.connack();
                if let Some(ticket) = ticket {
                    script.connection.complete(ticket, reason);
                }
                script.expect_nothing();
                assert_eq!(script.connection.closed(), None);
                script.send(qos2(2, 2));
                if reason.is_error() {
                    script.accept(); // It was not taken, so this is a new message.
                }
                script.expect_no_event();
                script.expect(pubrec(2));
            }
        }
    }
}

/// [MQTT-4.9.0-1] What an earlier connection had counted is not counted again.
#[test]
fn the_receive_maximum_starts_anew_with_each_connection() {
    let profile = ServerProfile { receive_maximum: maximum(2), ..ServerProfile::default() };
    let connect = connect(Version::V5);
    let mut script = Script::with(&connect, profile.clone());
    script.send(qos2(1, 1));
    script.send(qos2(2, 2));
    script.accept();
    script.accept();
    let now = script.now;
    let session = script.end().session;
    let mut script = Script::open(&connect, profile, Some(session), now);
    script.connack();
    // Both are released without having been sent on this connection.
    script.send(qos2(3, 3));
    script.send(qos2(4, 4));
    script.send(pubrel(1));
    script.expect(pubcomp(1));
    script.send(pubrel(2));
    script.expect(pubcomp(2));
    let error = script.send_wrong(qos2(5, 5));
    assert_eq!(error.reason, ReasonCode::ReceiveMaximumExceeded);
}
