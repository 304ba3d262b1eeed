//! Messages to the client: flags, identifiers, window, expiry, size, and the acknowledgements.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{
    Ack, Connect, Message, Packet, PublishProperties, QoS, ReasonCode, SubscriptionIds, Version,
};
use mqtt_session::{Delivery, DeliveryOutcome, ServerProfile};

use crate::script::*;

fn refused(connection: &mut mqtt_session::Connection, now: std::time::Instant) -> bool {
    let delivery = delivery(0, QoS::AtLeastOnce);
    let expected = DeliveryOutcome::Refused(delivery.clone());
    connection.window() == 0 && connection.handle_delivery(delivery, now) == expected
}

/// [MQTT-4.3.1-1] [MQTT-4.3.2-2] [MQTT-4.3.3-2] [MQTT-3.3.1-3] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]
#[test]
fn a_delivery_is_sent_as_it_was_handed_in() {
    let properties = PublishProperties::builder()
        .payload_format(1)
        .content_type("text/plain")
        .response_topic("answer/here")
        .correlation_data(b"7")
        .user_property("a", "1")
        .user_property("a", "2")
        .build()
        .unwrap();
    for version in VERSIONS {
        let mut script = Script::start(version);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let v5 = version == Version::V5;
            let delivery = Delivery {
                message: Arc::new(Message { properties: properties.clone(), ..message(1) }),
                retain: true,
                subscription_ids: SubscriptionIds::from_vec(vec![
                    subscription_id(3),
                    subscription_id(300_000),
                ]),
                ..delivery(1, qos)
            };
            script.deliver(delivery.clone());
            let sent = script.expect_publish();
            assert!(!sent.dup);
            assert!(sent.retain);
            assert_eq!(sent.qos, qos);
            assert_eq!(sent.packet_id.is_some(), qos > QoS::AtMostOnce);
            assert_eq!(sent.topic.as_ref(), Some(&delivery.message.topic));
            assert_eq!(sent.payload, delivery.message.payload);
            assert_eq!(sent.properties == properties, v5);
            assert_eq!(sent.subscription_ids == delivery.subscription_ids, v5);
        }
    }
}

/// [MQTT-4.3.2-3] [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5]
#[test]
fn a_delivery_is_in_flight_until_its_last_acknowledgement() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.deliver(delivery(1, QoS::AtLeastOnce));
        script.deliver(delivery(2, QoS::ExactlyOnce));
        script.expect_publish();
        script.expect_publish();
        assert_eq!(script.connection.in_flight(), 2);
        script.send(puback(1));
        assert_eq!(script.connection.in_flight(), 1);
        script.send(pubrec(2));
        script.expect(pubrel(2));
        assert_eq!(script.connection.in_flight(), 1);
        script.send(pubcomp(2));
        assert!(script.connection.is_settled());
        script.expect_nothing();
        assert_eq!(script.connection.stray_acknowledgements(), 0);
    }
}

/// [MQTT-4.4.0-2]
#[test]
fn an_acknowledgement_with_an_error_ends_the_delivery() {
    let mut script = Script::start(Version::V5);
    script.deliver(delivery(1, QoS::AtLeastOnce));
    script.deliver(delivery(2, QoS::ExactlyOnce));
    script.expect_publish();
    script.expect_publish();
    script.send(Packet::PubAck(Ack::new(id(1), ReasonCode::UnspecifiedError)));
    script.send(Packet::PubRec(Ack::new(id(2), ReasonCode::QuotaExceeded)));
    script.expect_nothing();
    assert!(script.connection.is_settled());
}

/// [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2]
#[test]
fn no_more_is_in_flight_than_client_and_server_allow() {
    let profile = ServerProfile { inflight_maximum: 3, ..ServerProfile::default() };
    for (client, expected) in [(2, 2), (3, 3), (u16::MAX, 3)] {
        let connect = Connect { receive_maximum: maximum(client), ..connect(Version::V5) };
        let mut script = Script::with(&connect, profile.clone());
        for left in (0..expected).rev() {
            script.deliver(delivery(1, QoS::ExactlyOnce));
            script.expect_publish();
            assert_eq!(script.connection.window(), left);
        }
        assert!(refused(&mut script.connection, script.now));
        // QoS 0 has no window.
        script.deliver(delivery(1, QoS::AtMostOnce));
        script.expect_publish();
        // A PUBREC frees nothing, a PUBCOMP does, an error does.
        script.send(pubrec(1));
        script.expect(pubrel(1));
        assert!(refused(&mut script.connection, script.now));
        script.send(pubcomp(1));
        assert_eq!(script.connection.window(), 1);
        script.send(Packet::PubRec(Ack::new(id(2), ReasonCode::UnspecifiedError)));
        assert_eq!(script.connection.window(), 2);
    }
}

/// A client that reads and never acknowledges holds a bounded number of bytes.
#[test]
fn large_messages_close_the_window_before_the_receive_maximum_does() {
    let mut script = Script::start(Version::V5);
    let large = |qos| {
        let message = Message { payload: Bytes::from(vec![0; 1 << 20]), ..message(1) };
        Delivery { message: Arc::new(message), ..delivery(1, qos) }
    };
    let mut sent = 0;
    while script.connection.window() > 0 {
        script.deliver(large(QoS::ExactlyOnce));
        script.expect_publish();
        sent += 1;
    }
    assert!((2..20).contains(&sent), "{sent} of them in flight");
    assert!(refused(&mut script.connection, script.now));
    // What the client has received no longer counts, nor what it has refused.
    script.send(pubrec(1));
    script.expect(pubrel(1));
    assert!(script.connection.window() > 0);
}

/// [MQTT-3.3.4-10] [MQTT-4.9.0-3]
#[test]
fn everything_else_goes_on_while_the_window_is_empty() {
    let connect = Connect { receive_maximum: maximum(1), ..connect(Version::V5) };
    let mut script = Script::with(&connect, ServerProfile::default());
    script.deliver(delivery(1, QoS::AtLeastOnce));
    script.expect_publish();
    script.send(Packet::PingReq);
    script.expect(Packet::PingResp);
    script.send(qos1(1, 1));
    script.accept();
    script.expect(puback(1));
}

/// [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1] A message that is never acknowledged keeps its
/// identifier while the others go round.
#[test]
fn a_packet_id_in_use_is_not_given_out_again() {
    let mut script = Script::start(Version::V3_1_1);
    script.deliver(delivery(0, QoS::AtLeastOnce));
    assert_eq!(script.expect_publish().packet_id, Some(id(1)));
    let mut last = 1;
    for number in 0..140_000 {
        script.deliver(delivery(number, QoS::AtLeastOnce));
        let given = script.expect_publish().packet_id.unwrap();
        assert_ne!(given, id(1));
        assert_eq!(given.value(), if last == u16::MAX { 2 } else { last + 1 });
        last = given.value();
        script.send(puback(last));
    }
    assert_eq!(script.connection.in_flight(), 1);
    script.send(puback(1));
    assert!(script.connection.is_settled());
    assert_eq!(script.connection.stray_acknowledgements(), 0);
}

#[test]
fn acknowledgements_may_come_in_any_order() {
    let mut script = Script::start(Version::V3_1_1);
    for _ in 0..60_000 {
        script.deliver(delivery(1, QoS::AtLeastOnce));
        let given = script.expect_publish().packet_id.unwrap();
        script.send(puback(given.value()));
    }
    // Around the wrap of the identifiers.
    let mut given = Vec::new();
    for _ in 0..6 {
        for _ in 0..1000 {
            script.deliver(delivery(1, QoS::AtLeastOnce));
            given.push(script.expect_publish().packet_id.unwrap().value());
        }
        while given.len() > 10 {
            let middle = given.remove(given.len() / 3);
            script.send(puback(middle));
        }
    }
    for packet_id in given.into_iter().rev() {
        script.send(puback(packet_id));
    }
    assert!(script.connection.is_settled());
    assert_eq!(script.connection.stray_acknowledgements(), 0);
}

#[test]
fn an_acknowledgement_of_nothing_is_ignored_and_counted() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(puback(1));
        script.send(pubcomp(1));
        script.expect_nothing();
        script.send(pubrec(1));
        let reason = lowered(version, ReasonCode::PacketIdentifierNotFound);
        script.expect(Packet::PubRel(Ack::new(id(1), reason)));
        assert_eq!(script.connection.stray_acknowledgements(), 3);
    }
}

#[test]
fn an_acknowledgement_of_another_qos_is_a_protocol_error() {
    for version in VERSIONS {
        for (qos, packet) in [
            (QoS::AtLeastOnce, pubrec(1)),
            (QoS::AtLeastOnce, pubcomp(1)),
            (QoS::ExactlyOnce, puback(1)),
            (QoS::ExactlyOnce, pubcomp(1)),
        ] {
            let mut script = Script::start(version);
            script.deliver(delivery(1, qos));
            script.expect_publish();
            script.send_wrong(packet);
            script.expect_farewell(ReasonCode::ProtocolError);
            assert_eq!(script.connection.in_flight(), 1);
        }
    }
}

/// [MQTT-4.3.3-4]
#[test]
fn a_repeated_pubrec_gets_its_pubrel_again() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.deliver(delivery(1, QoS::ExactlyOnce));
        script.expect_publish();
        for _ in 0..3 {
            script.send(pubrec(1));
            script.expect(pubrel(1));
        }
    }
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[test]
fn a_message_is_sent_with_what_is_left_of_its_life() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        let expires_at = Some(script.now + secs(10));
        let perishable = || Delivery { expires_at, ..delivery(1, QoS::AtMostOnce) };
        for (wait_ms, left) in [(0, 10), (1, 10), (999, 9), (2500, 7), (6499, 1)] {
            script.advance(std::time::Duration::from_millis(wait_ms));
            script.deliver(perishable());
            let expiry = (version == Version::V5).then_some(left);
            assert_eq!(script.expect_publish().expiry_secs, expiry);
        }
        script.advance(std::time::Duration::from_millis(1));
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let late = Delivery { qos, ..perishable() };
            let outcome = script.connection.handle_delivery(late, script.now);
            assert_eq!(outcome, DeliveryOutcome::Expired);
        }
        script.expect_nothing();
        assert!(script.connection.is_settled());
    }
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25] The limit is for the whole packet, and included.
#[test]
fn a_message_the_client_does_not_take_counts_as_sent() {
    // Fixed header 2, topic 2 + 23, packet identifier 2, property length 1.
    let overhead = 30;
    let of_len = |length| Delivery {
        message: Arc::new(Message { payload: Bytes::from(vec![0; length]), ..message(1) }),
        ..delivery(1, QoS::ExactlyOnce)
    };
    let connect = Connect { maximum_packet_size: Some(100), ..connect(Version::V5) };
    let mut script = Script::with(&connect, ServerProfile::default());
    assert_eq!(message(1).topic.as_str().len(), 22);
    let fits = 100 - overhead + 1;
    script.deliver(of_len(fits));
    script.expect_publish();
    let outcome = script.connection.handle_delivery(of_len(fits + 1), script.now);
    assert_eq!(outcome, DeliveryOutcome::TooLarge);
    script.expect_nothing();
    assert_eq!(script.connection.in_flight(), 1);
    // It took no identifier.
    script.deliver(of_len(0));
    assert_eq!(script.expect_publish().packet_id, Some(id(2)));
}

#[test]
fn nothing_is_delivered_after_the_end() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(disconnect(ReasonCode::Success));
        assert!(refused(&mut script.connection, script.now));
        let delivery = delivery(1, QoS::AtMostOnce);
        let outcome = script.connection.handle_delivery(delivery.clone(), script.now);
        assert_eq!(outcome, DeliveryOutcome::Refused(delivery));
        script.expect_nothing();
    }
}

/// One idle client must not cost what only a busy one needs.
#[test]
fn an_idle_connection_is_small() {
    let size = size_of::<mqtt_session::Connection>();
    assert!(size <= 480, "{size} bytes");
}
