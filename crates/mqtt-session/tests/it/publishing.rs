//! PUBLISH from the client: what is taken, what is refused, and how.

use bytes::Bytes;
use mqtt_codec::{
    Ack, Connect, Packet, Publish, PublishProperties, QoS, ReasonCode, SubscriptionIds, Version,
};
use mqtt_session::{ProtocolError, ServerProfile};

use crate::script::*;

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn of_qos(qos: QoS) -> Publish {
    publish(1, qos, if qos == QoS::AtMostOnce { 0 } else { 5 })
}

#[test]
fn a_publish_becomes_the_message_the_client_sent() {
    let properties =
        PublishProperties::builder().content_type("text/plain").user_property("a", "b").build();
    for version in VERSIONS {
        for qos in QOS {
            let mut script = Script::start(version);
            let sent = Publish {
                retain: true,
                expiry_secs: Some(7),
                properties: properties.clone().unwrap(),
                ..of_qos(qos)
            };
            script.send(Packet::Publish(sent.clone()));
            let (message, ticket) = script.publish_event();
            assert_eq!(Some(message.topic), sent.topic);
            assert_eq!(message.payload, sent.payload);
            assert_eq!(message.qos, qos);
            assert!(message.retain);
            assert_eq!(message.expiry_secs, Some(7));
            assert_eq!(message.properties, sent.properties);
            script.expect_nothing();
            script.connection.complete(ticket, ReasonCode::Success);
            script.expect_no_event();
        }
    }
}

/// [MQTT-3.3.4-6]
#[test]
fn a_subscription_identifier_from_a_client_is_a_protocol_error() {
    let mut script = Script::start(Version::V5);
    let subscription_ids = SubscriptionIds::from_elem(subscription_id(1), 1);
    let error =
        script.send_wrong(Packet::Publish(Publish { subscription_ids, ..of_qos(QoS::AtMostOnce) }));
    assert_eq!(error, wrong(ReasonCode::ProtocolError, "MQTT-3.3.4-6"));
    script.expect_farewell(ReasonCode::ProtocolError);
    script.expect_no_event();
}

/// [MQTT-3.2.2-11]
#[test]
fn a_publish_above_the_maximum_qos_ends_the_connection() {
    let profile = ServerProfile { maximum_qos: QoS::AtLeastOnce, ..ServerProfile::default() };
    for version in VERSIONS {
        let mut script = Script::with(&connect(version), profile.clone());
        script.send(qos1(1, 1));
        script.accept();
        script.expect(puback(1));
        let error = script.send_wrong(qos2(1, 2));
        assert_eq!(error, wrong(ReasonCode::QoSNotSupported, "MQTT-3.2.2-11"));
        script.expect_farewell(ReasonCode::QoSNotSupported);
    }
}

/// [MQTT-3.2.2-14]
#[test]
fn a_retained_publish_ends_the_connection_where_nothing_is_retained() {
    let profile = ServerProfile { retain_available: false, ..ServerProfile::default() };
    for version in VERSIONS {
        let mut script = Script::with(&connect(version), profile.clone());
        script.send(qos0(1));
        script.accept();
        let retained = Publish { retain: true, ..of_qos(QoS::AtMostOnce) };
        let error = script.send_wrong(Packet::Publish(retained));
        assert_eq!(error, wrong(ReasonCode::RetainNotSupported, "MQTT-3.2.2-14"));
        script.expect_farewell(ReasonCode::RetainNotSupported);
    }
}

/// A topic with too many levels, or a payload that is not the text it claims to be: MQTT 5.0
/// acknowledges with the reason; without an acknowledgement the connection is all there is.
#[test]
fn an_unacceptable_message_is_refused_as_the_version_allows() {
    let profile = ServerProfile {
        maximum_topic_levels: 2,
        check_payload_format: true,
        ..ServerProfile::default()
    };
    let text = PublishProperties::builder().payload_format(1).build().unwrap();
    let deep = |publish| Publish { topic: Some(topic("a/b/c")), ..publish };
    let garbled = |publish| Publish {
        topic: Some(topic("a/b")),
        payload: Bytes::from_static(&[0xc3, 0x28]),
        properties: text.clone(),
        ..publish
    };
    for version in VERSIONS {
        for qos in QOS {
            for (publish, reason) in [
                (deep(of_qos(qos)), ReasonCode::TopicNameInvalid),
                (garbled(of_qos(qos)), ReasonCode::PayloadFormatInvalid),
            ] {
                let mut script = Script::with(&connect(version), profile.clone());
                let ack = Ack::new(id(5), reason);
                match (version, qos) {
                    (Version::V5, QoS::AtLeastOnce) => {
                        script.send(Packet::Publish(publish));
                        script.expect(Packet::PubAck(ack));
                    }
                    (Version::V5, QoS::ExactlyOnce) => {
                        script.send(Packet::Publish(publish));
                        script.expect(Packet::PubRec(ack));
                    }
                    _ => {
                        assert_eq!(script.send_wrong(Packet::Publish(publish)).reason, reason);
                        script.expect_farewell(reason);
                    }
                }
                script.expect_nothing();
                script.expect_no_event();
            }
        }
    }
}

#[test]
fn a_payload_format_is_checked_only_when_asked_for() {
    let text = PublishProperties::builder().payload_format(1).build().unwrap();
    let garbled = Publish {
        payload: Bytes::from_static(&[0xff]),
        properties: text,
        ..of_qos(QoS::AtMostOnce)
    };
    let mut script = Script::start(Version::V5);
    script.send(Packet::Publish(garbled.clone()));
    script.accept();
    let checking = ServerProfile { check_payload_format: true, ..ServerProfile::default() };
    let mut script = Script::with(&connect(Version::V5), checking);
    let bytes = Publish { properties: PublishProperties::default(), ..garbled.clone() };
    script.send(Packet::Publish(bytes));
    script.accept();
    let text = Publish { payload: Bytes::from_static("é".as_bytes()), ..garbled };
    script.send(Packet::Publish(text));
    script.accept();
}

#[test]
fn topic_levels_are_counted_up_to_the_maximum() {
    let profile = ServerProfile { maximum_topic_levels: 3, ..ServerProfile::default() };
    let mut script = Script::with(&connect(Version::V5), profile);
    for (name, allowed) in
        [("a/b/c", true), ("//", true), ("long/enough/name", true), ("///", false)]
    {
        let publish = Publish { topic: Some(topic(name)), ..of_qos(QoS::AtLeastOnce) };
        script.send(Packet::Publish(publish));
        assert_eq!(script.connection.poll_event().is_some(), allowed, "{name}");
    }
}

/// [MQTT-3.3.4-7] [MQTT-3.3.4-9] of the server's receive maximum.
#[test]
fn more_messages_than_the_receive_maximum_end_the_connection() {
    let profile = ServerProfile { receive_maximum: maximum(2), ..ServerProfile::default() };
    let mut script = Script::with(&connect(Version::V5), profile);
    script.send(qos1(1, 1));
    script.send(qos2(2, 2));
    script.accept();
    script.accept();
    script.expect(puback(1));
    script.expect(pubrec(2));
    // The QoS 2 message counts until its PUBCOMP.
    script.send(qos1(3, 3));
    script.send(pubrel(2));
    script.expect(pubcomp(2));
    script.send(qos2(4, 4));
    let error = script.send_wrong(qos1(5, 5));
    assert_eq!(error, wrong(ReasonCode::ReceiveMaximumExceeded, "MQTT-3.3.4-7"));
    script.expect_farewell(ReasonCode::ReceiveMaximumExceeded);
}

/// [MQTT-3.3.4-7] A refused message counts no more.
#[test]
fn a_refused_message_frees_its_place_in_the_receive_maximum() {
    let profile = ServerProfile { receive_maximum: maximum(1), ..ServerProfile::default() };
    let mut script = Script::with(&connect(Version::V5), profile);
    for number in 0..3 {
        script.send(qos2(number, 9));
        let (_, ticket) = script.publish_event();
        script.connection.complete(ticket, ReasonCode::QuotaExceeded);
        script.expect(Packet::PubRec(Ack::new(id(9), ReasonCode::QuotaExceeded)));
    }
}

/// [MQTT-4.9.0-3] QoS 1 and 2 have their quota; everything else, and all of MQTT 3, is bounded by
/// not reading.
#[test]
fn input_rests_while_too_many_requests_are_open() {
    let profile = ServerProfile { receive_maximum: maximum(3), ..ServerProfile::default() };
    for version in VERSIONS {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut script = Script::with(&connect(version), profile.clone());
            let mut tickets = Vec::new();
            for number in 1..=3 {
                assert!(script.connection.accepts_input());
                let packet_id = if qos == QoS::AtMostOnce { 0 } else { number };
                script.send(Packet::Publish(publish(1, qos, packet_id)));
                tickets.push(script.publish_event().1);
            }
            let quota = version == Version::V5 && qos > QoS::AtMostOnce;
            assert_eq!(script.connection.accepts_input(), quota);
            script.connection.complete(tickets.remove(0), ReasonCode::Success);
            assert!(script.connection.accepts_input());
        }
    }
}

/// [MQTT-4.4.0-1] Repetitions within a connection are not for nothing.
#[test]
fn input_rests_when_repetitions_wait_in_line() {
    let profile = ServerProfile { receive_maximum: maximum(3), ..ServerProfile::default() };
    for version in VERSIONS {
        let mut script = Script::with(&connect(version), profile.clone());
        script.send(qos2(1, 1));
        script.accept();
        script.expect(pubrec(1));
        script.send(qos1(2, 2));
        for _ in 0..6 {
            assert!(script.connection.accepts_input());
            script.send(qos2(1, 1));
        }
        assert!(!script.connection.accepts_input());
        script.accept();
        assert!(script.connection.accepts_input());
    }
}

/// A silence is not the client's if nobody listens.
#[test]
fn keep_alive_does_not_run_out_while_input_rests() {
    let profile = ServerProfile { receive_maximum: maximum(1), ..ServerProfile::default() };
    let connect = Connect { keep_alive_secs: 10, ..connect(Version::V3_1_1) };
    let mut script = Script::with(&connect, profile);
    script.send(qos1(1, 1));
    script.advance(secs(60));
    assert_eq!(script.connection.closed(), None);
    script.accept();
    script.advance(secs(14));
    assert_eq!(script.connection.closed(), None);
    script.advance(secs(1));
    assert!(script.connection.closed().is_some());
}

fn wrong(reason: ReasonCode, statement: &'static str) -> ProtocolError {
    ProtocolError { reason, statement }
}
