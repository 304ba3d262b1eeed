//! Sections 3.3 to 3.7, 4.3 and 4.6: PUBLISH, its acknowledgements, order.

use mqtt_codec::{Ack, Packet, PacketId, PublishProperties, QoS, ReasonCode, TopicName, Version};
use testkit::{Broker, wire};

use crate::support::{ALL, BOTH, LEVELS, client, name, subscriber, topic_of};

fn ack(id: u16) -> Ack {
    Ack::new(PacketId::new(id).expect("the test gives an identifier"), ReasonCode::Success)
}

/// [MQTT-3.3.4-1] [MQTT-4.3.1-1] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT-2.2.1-5]
/// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.7.2-1] [MQTT311-3.3.4-1] [MQTT311-4.3.1-1]
/// [MQTT311-4.3.2-2] [MQTT311-4.3.3-2] [MQTT311-2.3.1-6] Each QoS has its own answer, under the
/// packet identifier of the PUBLISH.
#[tokio::test]
async fn each_qos_is_answered_as_the_standard_says() {
    for version in ALL {
        let topic = name("pub");
        let mut client = client(version, "pub").await;
        for id in [1, 77, 65_535] {
            let mut publish = client.new_publish(&topic, QoS::AtMostOnce, "0");
            client.send(Packet::Publish(publish.clone())).await;
            client.expect_nothing().await;
            publish.packet_id = PacketId::new(id);
            publish.qos = QoS::AtLeastOnce;
            client.send(Packet::Publish(publish.clone())).await;
            let puback = client.expect_puback().await;
            assert_eq!(puback.packet_id.value(), id);
            assert!(accepted(puback.reason), "{puback:?}");
            publish.qos = QoS::ExactlyOnce;
            client.send(Packet::Publish(publish)).await;
            let pubrec = client.expect_pubrec().await;
            assert_eq!(pubrec.packet_id.value(), id);
            assert!(accepted(pubrec.reason), "{pubrec:?}");
            client.send(Packet::PubRel(ack(id))).await;
            assert_eq!(client.expect_pubcomp().await, ack(id));
            client.expect_nothing().await;
        }
    }
}

fn accepted(reason: ReasonCode) -> bool {
    [ReasonCode::Success, ReasonCode::NoMatchingSubscribers].contains(&reason)
}

/// [MQTT-4.3.2-2] [MQTT-4.3.3-2] [MQTT-4.3.3-4] [MQTT-2.2.1-4] [MQTT-3.6.2-1] [MQTT311-4.3.2-1]
/// [MQTT311-4.3.3-1] [MQTT311-2.3.1-4] [MQTT-3.3.1-2] [MQTT311-3.3.1-2] As a sender the server keeps
/// the same rules: DUP 0 at first, a packet identifier for QoS 1 and 2, PUBREL after PUBREC.
#[tokio::test]
async fn the_server_delivers_by_the_rules_of_a_sender() {
    for version in ALL {
        let topic = name("pub");
        let mut receiver = subscriber(version, &topic, QoS::ExactlyOnce).await;
        let mut sender = client(version, "pub").await;
        for qos in LEVELS {
            sender.publish(&topic, qos, "x").await;
            let publish = receiver.expect_publish().await;
            assert_eq!(publish.qos, qos);
            assert!(!publish.dup);
            assert_eq!(publish.packet_id.is_some(), qos != QoS::AtMostOnce);
            let Some(id) = publish.packet_id else { continue };
            let ack = Ack::new(id, ReasonCode::Success);
            if qos == QoS::AtLeastOnce {
                receiver.send(Packet::PubAck(ack)).await;
            } else {
                receiver.expect_nothing().await;
                receiver.send(Packet::PubRec(ack.clone())).await;
                assert_eq!(receiver.expect_pubrel().await, ack);
                receiver.send(Packet::PubComp(ack)).await;
            }
            receiver.expect_nothing().await;
        }
    }
}

/// [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT-4.3.2-3] [MQTT-4.3.3-3] [MQTT311-2.3.1-4]
/// [MQTT311-4.3.2-1] [MQTT311-4.3.3-1] Packet identifiers of unacknowledged messages are not used for
/// other ones.
#[tokio::test]
async fn unacknowledged_messages_have_different_packet_identifiers() {
    for version in BOTH {
        let topic = name("pub");
        let mut receiver = subscriber(version, &topic, QoS::ExactlyOnce).await;
        let mut sender = client(version, "pub").await;
        let mut ids = Vec::new();
        for number in 0..20 {
            let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            sender.publish(&topic, qos, "x").await;
            ids.push(receiver.expect_publish().await.packet_id.expect("QoS above 0 has one"));
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20);
    }
}

/// [MQTT-3.3.1-3] [MQTT311-3.3.1-3] DUP of the incoming PUBLISH is not passed on.
#[tokio::test]
async fn dup_is_not_passed_on() {
    for version in BOTH {
        let topic = name("pub");
        let mut receiver = subscriber(version, &topic, QoS::ExactlyOnce).await;
        let mut sender = client(version, "pub").await;
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut publish = sender.new_publish(&topic, qos, "x");
            publish.dup = true;
            sender.publish_with(publish).await;
            assert!(!receiver.expect_message("x").await.dup);
        }
    }
}

/// [MQTT-3.3.1-2] [MQTT-3.3.1-4] [MQTT311-3.3.1-2] [MQTT311-3.3.1-4] [MQTT311-2.2.2-2] QoS 3, and DUP on
/// QoS 0, are malformed.
#[tokio::test]
async fn impossible_publish_flags_end_the_connection() {
    for version in BOTH {
        for first in [0x36, 0x37, 0x3E, 0x38, 0x39] {
            let mut client = client(version, "pub").await;
            client.send_bytes(&wire::frame(first, &[0, 1, b't', 0, 1, 0, b'x'])).await;
            client.expect_end(ReasonCode::MalformedPacket).await;
        }
    }
}

/// [MQTT-2.2.1-3] [MQTT311-2.3.1-1] A PUBLISH with QoS above 0 needs a packet identifier.
#[tokio::test]
async fn a_publish_with_packet_identifier_zero_is_a_protocol_error() {
    for version in BOTH {
        for first in [0x32, 0x34] {
            let mut client = client(version, "pub").await;
            client.send_bytes(&wire::frame(first, &[0, 1, b't', 0, 0, 0])).await;
            client.expect_end(ReasonCode::ProtocolError).await;
        }
    }
}

/// [MQTT-2.2.1-2] [MQTT311-2.3.1-5] A QoS 0 PUBLISH has no packet identifier: what stands there is
/// payload, or properties.
#[tokio::test]
async fn a_qos_0_publish_has_no_packet_identifier() {
    for version in BOTH {
        let topic = name("pub");
        let mut receiver = subscriber(version, &topic, QoS::AtMostOnce).await;
        let mut sender = client(version, "pub").await;
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let body = [&wire::field(&topic), none, &[0, 9, b'x']].concat();
        sender.send_bytes(&wire::frame(0x30, &body)).await;
        receiver.expect_message([0, 9, b'x']).await;
    }
}

/// [MQTT-4.3.2-5] [MQTT311-4.3.2-2] After a PUBACK the same packet identifier is a new message,
/// whatever DUP says.
#[tokio::test]
async fn an_acknowledged_packet_identifier_starts_a_new_message() {
    for version in BOTH {
        let topic = name("pub");
        let mut receiver = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let mut sender = client(version, "pub").await;
        let mut publish = sender.new_publish(&topic, QoS::AtLeastOnce, "x");
        for dup in [false, false, true] {
            publish.dup = dup;
            sender.publish_with(publish.clone()).await;
            receiver.expect_message("x").await;
        }
        receiver.expect_nothing().await;
    }
}

/// [MQTT-4.3.3-10] [MQTT311-4.3.3-2] A QoS 2 PUBLISH that is repeated before its PUBREL is
/// acknowledged again and delivered once.
#[tokio::test]
async fn a_qos_2_publish_repeated_before_its_pubrel_is_delivered_once() {
    for version in ALL {
        let topic = name("pub");
        let mut receiver = subscriber(version, &topic, QoS::ExactlyOnce).await;
        let mut sender = client(version, "pub").await;
        let mut publish = sender.new_publish(&topic, QoS::ExactlyOnce, "once");
        let id = publish.packet_id.expect("QoS 2 has one");
        for dup in [false, true, true] {
            publish.dup = dup;
            sender.send(Packet::Publish(publish.clone())).await;
            let pubrec = sender.expect_pubrec().await;
            assert_eq!(pubrec.packet_id, id);
            assert!(accepted(pubrec.reason), "{pubrec:?}");
        }
        sender.send(Packet::PubRel(ack(id.value()))).await;
        assert_eq!(sender.expect_pubcomp().await.packet_id, id);
        receiver.expect_message("once").await;
        receiver.expect_nothing().await;
    }
}

/// [MQTT-4.3.3-12] [MQTT311-4.3.3-2] After the PUBCOMP the same packet identifier is a new message.
#[tokio::test]
async fn a_completed_packet_identifier_starts_a_new_message() {
    for version in BOTH {
        let topic = name("pub");
        let mut receiver = subscriber(version, &topic, QoS::ExactlyOnce).await;
        let mut sender = client(version, "pub").await;
        let mut publish = sender.new_publish(&topic, QoS::ExactlyOnce, "x");
        for dup in [false, false, true] {
            publish.dup = dup;
            sender.publish_with(publish.clone()).await;
            receiver.expect_message("x").await;
        }
        receiver.expect_nothing().await;
    }
}

/// [MQTT-4.3.3-11] [MQTT-3.7.2-1] [MQTT311-4.3.3-2] A PUBREL is always answered, also for an unknown
/// packet identifier.
#[tokio::test]
async fn a_pubrel_for_an_unknown_packet_identifier_is_answered() {
    for version in BOTH {
        let mut client = client(version, "pub").await;
        client.send(Packet::PubRel(ack(99))).await;
        let pubcomp = client.expect_pubcomp().await;
        assert_eq!(pubcomp.packet_id.value(), 99);
        if version == Version::V5 {
            assert_eq!(pubcomp.reason, ReasonCode::PacketIdentifierNotFound);
        }
    }
}

/// [MQTT-3.6.2-1] [MQTT-4.3.3-4] [MQTT311-4.3.3-1] A PUBREC for an unknown packet identifier is
/// answered by a PUBREL that says so.
#[tokio::test]
async fn a_pubrec_for_an_unknown_packet_identifier_is_answered() {
    for version in BOTH {
        let mut client = client(version, "pub").await;
        client.send(Packet::PubRec(ack(99))).await;
        let pubrel = client.expect_pubrel().await;
        assert_eq!(pubrel.packet_id.value(), 99);
        if version == Version::V5 {
            assert_eq!(pubrel.reason, ReasonCode::PacketIdentifierNotFound);
        }
    }
}

/// [MQTT-2.2.1-5] [MQTT311-2.3.1-6] A PUBACK or PUBCOMP nobody waits for changes nothing.
#[tokio::test]
async fn an_acknowledgement_nobody_waits_for_changes_nothing() {
    for version in BOTH {
        let topic = name("pub");
        let mut client = subscriber(version, &topic, QoS::AtLeastOnce).await;
        client.send(Packet::PubAck(ack(99))).await;
        client.send(Packet::PubComp(ack(98))).await;
        client.publish(&topic, QoS::AtLeastOnce, "x").await;
        client.expect_message("x").await;
    }
}

/// [MQTT-3.6.1-1] [MQTT311-3.6.1-1] [MQTT-2.1.3-1] [MQTT311-2.2.2-1] The flags of a PUBREL are 0010.
#[tokio::test]
async fn a_pubrel_with_other_flags_is_malformed() {
    for version in BOTH {
        for flags in [0, 1, 3, 6, 10, 15] {
            let mut client = client(version, "pub").await;
            client.send_bytes(&[0x60 | flags, 2, 0, 1]).await;
            client.expect_end(ReasonCode::MalformedPacket).await;
        }
    }
}

/// [MQTT-4.4.0-2] [MQTT-4.3.3-4] A refusing PUBACK or PUBREC ends the delivery.
#[tokio::test]
async fn a_refusing_acknowledgement_ends_the_delivery() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (id, topic) = (name("pub"), name("pub"));
        let server = crate::support::server();
        let mut receiver = server.connect(Version::V5, &id, testkit::persistent).await;
        receiver.subscribe(&topic, qos).await;
        client(Version::V5, "pub").await.publish(&topic, qos, "unwelcome").await;
        let publish = receiver.expect_publish().await;
        let refusal = Ack::new(
            publish.packet_id.expect("QoS above 0 has one"),
            ReasonCode::ImplementationSpecificError,
        );
        let refuse = if qos == QoS::ExactlyOnce { Packet::PubRec } else { Packet::PubAck };
        receiver.send(refuse(refusal)).await;
        receiver.expect_nothing().await;
        receiver.disconnect().await;
        let mut receiver = server.connect(Version::V5, &id, testkit::persistent).await;
        receiver.expect_nothing().await;
    }
}

/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
/// The properties of a message arrive as they were sent, user properties in their order.
#[tokio::test]
async fn the_properties_of_a_message_arrive_unaltered() {
    let topic = name("pub");
    let mut receiver = subscriber(Version::V5, &topic, QoS::ExactlyOnce).await;
    let mut sender = client(Version::V5, "pub").await;
    let properties = PublishProperties::builder()
        .payload_format(1)
        .content_type("text/plain; charset=utf-8")
        .response_topic("answers/to/me")
        .correlation_data(&[0, 1, 0xFF, 0])
        .user_property("b", "1")
        .user_property("a", "2")
        .user_property("b", "1")
        .user_property("", "")
        .build()
        .expect("the test gives valid properties");
    for qos in LEVELS {
        let mut publish = sender.new_publish(&topic, qos, "héllo");
        publish.properties = properties.clone();
        sender.publish_with(publish).await;
        let received = receiver.expect_message("héllo").await.properties;
        assert_eq!(received.payload_format(), Some(1));
        assert_eq!(received.content_type(), Some("text/plain; charset=utf-8"));
        assert_eq!(received.response_topic(), Some("answers/to/me"));
        assert_eq!(received.correlation_data(), Some(&[0, 1, 0xFF, 0][..]));
        let user: Vec<_> = received.user_properties().collect();
        assert_eq!(user, [("b", "1"), ("a", "2"), ("b", "1"), ("", "")]);
    }
}

/// [MQTT-3.3.2-17] [MQTT-3.3.2-18] Wherever properties stand between those the server reads, none is
/// lost or moved.
#[tokio::test]
async fn properties_in_any_order_arrive_unaltered() {
    let topic = name("pub");
    let mut receiver = subscriber(Version::V5, &topic, QoS::AtMostOnce).await;
    let mut sender = client(Version::V5, "pub").await;
    let user = |k: &str, v: &str| [&[0x26][..], &wire::field(k), &wire::field(v)].concat();
    let expiry = [&[0x02][..], &600_u32.to_be_bytes()].concat();
    let content = [&[0x03][..], &wire::field("c")].concat();
    let alias = [0x23, 0, 1];
    let list: [&[u8]; 7] =
        [&user("1", "a"), &expiry, &user("2", "b"), &alias, &content, &user("3", "c"), &[0x01, 0]];
    let body = [&wire::field(&topic)[..], &wire::properties(&list), b"x"].concat();
    sender.send_bytes(&wire::frame(0x30, &body)).await;
    let publish = receiver.expect_message("x").await;
    let user: Vec<_> = publish.properties.user_properties().collect();
    assert_eq!(user, [("1", "a"), ("2", "b"), ("3", "c")]);
    assert_eq!(publish.properties.content_type(), Some("c"));
    assert_eq!(publish.properties.payload_format(), Some(0));
    assert!(publish.expiry_secs.is_some_and(|left| (590..=600).contains(&left)));
}

/// [MQTT-3.3.2-20] What MQTT 5.0 clients publish reaches MQTT 3.1.1 clients, and the other way.
#[tokio::test]
async fn messages_cross_between_versions() {
    let topic = name("pub");
    for (from, to) in [(Version::V5, Version::V3_1_1), (Version::V3_1, Version::V5)] {
        let mut receiver = subscriber(to, &topic, QoS::ExactlyOnce).await;
        let mut sender = client(from, "pub").await;
        for qos in LEVELS {
            let mut publish = sender.new_publish(&topic, qos, "over");
            let properties = PublishProperties::builder().content_type("x").build();
            publish.properties = properties.expect("the test gives valid properties");
            publish.expiry_secs = Some(100);
            sender.publish_with(publish).await;
            let received = receiver.expect_message("over").await;
            assert_eq!((received.qos, topic_of(&received)), (qos, topic.as_str()));
            assert!(received.properties.is_empty());
        }
    }
}

/// [MQTT-3.3.2-2] [MQTT-4.7.0-1] [MQTT311-3.3.2-2] [MQTT311-4.7.1-1] A topic name has no wildcards.
#[tokio::test]
async fn a_publish_to_a_topic_with_wildcards_ends_the_connection() {
    for version in BOTH {
        for topic in ["#", "a/#", "+", "a/+/b", "a+"] {
            let mut client = client(version, "pub").await;
            let body = [&wire::field(topic)[..], &[0, b'x']].concat();
            client.send_bytes(&wire::frame(0x30, &body)).await;
            client.expect_end(ReasonCode::TopicNameInvalid).await;
        }
    }
}

/// [MQTT-3.3.2-14] A response topic has no wildcards.
#[tokio::test]
async fn a_response_topic_with_wildcards_is_a_protocol_error() {
    for topic in ["a/#", "+", ""] {
        let mut client = client(Version::V5, "pub").await;
        let response = [&[0x08][..], &wire::field(topic)].concat();
        let body = [&wire::field("t")[..], &wire::properties(&[&response])].concat();
        client.send_bytes(&wire::frame(0x30, &body)).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.3.4-6] A client must not send a subscription identifier.
#[tokio::test]
async fn a_subscription_identifier_from_a_client_is_a_protocol_error() {
    let mut client = client(Version::V5, "pub").await;
    let body = [&wire::field("t")[..], &wire::properties(&[&[0x0B, 1]])].concat();
    client.send_bytes(&wire::frame(0x30, &body)).await;
    client.expect_end(ReasonCode::ProtocolError).await;
}

/// [MQTT-3.3.2-3] [MQTT311-3.3.2-3] A PUBLISH names the topic it was published to.
#[tokio::test]
async fn a_message_arrives_under_its_topic() {
    for version in BOTH {
        let base = name("pub");
        let mut receiver = subscriber(version, &format!("{base}/+/x/#"), QoS::AtMostOnce).await;
        let mut sender = client(version, "pub").await;
        for end in ["a/x", "b/x/y", "/x/", "c/x//z"] {
            let topic = format!("{base}/{end}");
            sender.publish(&topic, QoS::AtMostOnce, "m").await;
            assert_eq!(topic_of(&receiver.expect_message("m").await), topic);
        }
    }
}

/// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6] Messages arrive in the order they
/// were published, at every subscriber.
#[tokio::test]
async fn messages_of_one_publisher_arrive_in_order() {
    for version in BOTH {
        for qos in LEVELS {
            let topic = name("pub");
            let mut receivers = [
                subscriber(version, &topic, qos).await,
                subscriber(version, &format!("{topic}/#"), qos).await,
            ];
            let mut sender = client(version, "pub").await;
            for number in 0..100 {
                let publish = sender.new_publish(&topic, qos, number.to_string());
                sender.send(Packet::Publish(publish)).await;
            }
            for receiver in &mut receivers {
                for number in 0..100 {
                    receiver.expect_message(number.to_string()).await;
                }
            }
        }
    }
}

/// [MQTT-4.6.0-2] [MQTT-4.6.0-3] Acknowledgements come in the order of what they acknowledge.
#[tokio::test]
async fn acknowledgements_come_in_order() {
    for version in BOTH {
        let topic = name("pub");
        let mut sender = client(version, "pub").await;
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut ids = Vec::new();
            for _ in 0..20 {
                let publish = sender.new_publish(&topic, qos, "x");
                ids.extend(publish.packet_id);
                sender.send(Packet::Publish(publish)).await;
            }
            for id in ids {
                let answer = if qos == QoS::AtLeastOnce {
                    sender.expect_puback().await
                } else {
                    sender.expect_pubrec().await
                };
                assert_eq!(answer.packet_id, id);
            }
        }
    }
}

/// [MQTT-3.3.2-1] [MQTT311-3.3.2-1] An empty payload is a message, and so is one of almost the largest
/// packet.
#[tokio::test]
async fn payloads_of_every_size_arrive() {
    for version in BOTH {
        let topic = name("pub");
        let mut receiver = subscriber(version, &topic, QoS::AtMostOnce).await;
        let mut sender = client(version, "pub").await;
        for size in [0, 1, 100, 127, 128, 16_383, 16_384, 1_000_000] {
            let payload = vec![b'p'; size];
            sender.publish(&topic, QoS::AtLeastOnce, payload.clone()).await;
            receiver.expect_message(&payload).await;
        }
    }
}

/// [MQTT-3.4.2-1] [MQTT-3.5.2-1] With the check configured, a payload that is not the UTF-8 it claims
/// to be is refused, and delivered to nobody.
#[tokio::test]
async fn a_payload_of_another_format_is_refused_when_configured() {
    let broker = Broker::start(|config| config.mqtt.check_payload_format = true).await;
    let text = PublishProperties::builder().payload_format(1).build();
    let text = text.expect("the test gives valid properties");
    let mut receiver = broker.connect(Version::V5, "r", |_| {}).await;
    receiver.subscribe("t", QoS::ExactlyOnce).await;
    let mut sender = broker.connect(Version::V5, "s", |_| {}).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut publish = sender.new_publish("t", qos, vec![0xC0, 0xAF]);
        publish.properties = text.clone();
        assert_eq!(sender.publish_with(publish).await, ReasonCode::PayloadFormatInvalid);
        let mut publish = sender.new_publish("t", qos, "tëxt");
        publish.properties = text.clone();
        assert!(accepted(sender.publish_with(publish).await));
        receiver.expect_message("tëxt").await;
    }
    let mut publish = sender.new_publish("t", QoS::AtMostOnce, vec![0xFF]);
    publish.properties = text;
    sender.send(Packet::Publish(publish)).await;
    sender.expect_end(ReasonCode::PayloadFormatInvalid).await;
    receiver.expect_nothing().await;
}

/// [MQTT-4.3.3-9] A refused QoS 2 PUBLISH frees its packet identifier.
#[tokio::test]
async fn a_refused_qos_2_packet_identifier_starts_a_new_message() {
    let broker = Broker::start(|config| config.mqtt.check_payload_format = true).await;
    let text = PublishProperties::builder().payload_format(1).build();
    let mut receiver = broker.connect(Version::V5, "r", |_| {}).await;
    receiver.subscribe("t", QoS::ExactlyOnce).await;
    let mut sender = broker.connect(Version::V5, "s", |_| {}).await;
    let mut publish = sender.new_publish("t", QoS::ExactlyOnce, vec![0xFF]);
    publish.properties = text.expect("the test gives valid properties");
    let reason = sender.publish_with(publish.clone()).await;
    assert_eq!(reason, ReasonCode::PayloadFormatInvalid);
    publish.payload = "good".into();
    assert_eq!(sender.publish_with(publish).await, ReasonCode::Success);
    receiver.expect_message("good").await;
}

/// [MQTT-3.4.2-1] [MQTT-3.5.2-1] A foreign reason in an acknowledgement is a protocol error.
#[tokio::test]
async fn a_foreign_reason_in_an_acknowledgement_is_a_protocol_error() {
    for (first, reason) in [(0x40, 0x01), (0x50, 0x92), (0x62, 0x10), (0x70, 0x80), (0x40, 0xFF)] {
        let mut client = client(Version::V5, "pub").await;
        client.send_bytes(&[first, 3, 0, 1, reason]).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.3.2-1] A PUBLISH with neither topic nor alias is a protocol error.
#[tokio::test]
async fn a_publish_without_topic_and_alias_is_a_protocol_error() {
    for version in BOTH {
        let mut client = client(version, "pub").await;
        client.send_bytes(&wire::frame(0x30, &[0, 0, 0, b'x'])).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.3.2-3] The topic of a message is text of any script.
#[tokio::test]
async fn topics_in_any_script_arrive() {
    for version in BOTH {
        let topic = format!("{}/температура/室温/🌡", name("pub"));
        assert!(TopicName::new(topic.as_str()).is_ok());
        let mut receiver = subscriber(version, &topic, QoS::AtMostOnce).await;
        receiver.publish(&topic, QoS::AtMostOnce, "21").await;
        assert_eq!(topic_of(&receiver.expect_message("21").await), topic);
    }
}
