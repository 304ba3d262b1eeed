//! Sections 3.8 and 3.9: SUBSCRIBE and SUBACK.

use mqtt_codec::{Packet, QoS, ReasonCode, SubscriptionOptions, Version};
use testkit::{Broker, persistent, wire};

use crate::support::{
    ALL, BOTH, LEVELS, at, client, name, retain, server, settle, subscriber, topic_of,
};

/// [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.2.1-6] [MQTT311-3.8.4-1] [MQTT311-3.8.4-2]
/// [MQTT311-2.3.1-7] A SUBSCRIBE is answered under its packet identifier, whatever that is.
#[tokio::test]
async fn a_subscribe_is_answered_under_its_packet_identifier() {
    for version in ALL {
        for id in [1_u16, 255, 256, 65_535] {
            let mut client = client(version, "sub").await;
            let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
            let body = [&id.to_be_bytes(), none, &wire::field("t"), &[1]].concat();
            client.send_bytes(&wire::frame(0x82, &body)).await;
            assert_eq!(client.expect_suback().await.packet_id.value(), id);
        }
    }
}

/// [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT311-3.8.4-4]
/// [MQTT311-3.8.4-5] [MQTT311-3.9.3-1] [MQTT311-3.9.3-2] Several filters get one SUBACK with one
/// reason each, in order.
#[tokio::test]
async fn each_filter_of_a_subscribe_gets_its_reason_in_order() {
    for version in ALL {
        let base = name("sub");
        let names = [2, 0, 1, 2, 0].map(|qos| (format!("{base}/{qos}"), LEVELS[qos]));
        let filters = names.each_ref().map(|(filter, qos)| (filter.as_str(), at(*qos)));
        let mut client = client(version, "sub").await;
        let suback = client.subscribe_with(&filters, None).await;
        let granted: Vec<_> = suback.reasons.iter().map(|&reason| reason as u8).collect();
        assert_eq!(granted, [2, 0, 1, 2, 0]);
        for (topic, _) in &names[..3] {
            client.publish(topic, QoS::AtMostOnce, "x").await;
            assert_eq!(topic_of(&client.expect_message("x").await), topic);
        }
    }
}

/// [MQTT-3.8.1-1] [MQTT311-3.8.1-1] [MQTT-2.1.3-1] [MQTT311-2.2.2-1] [MQTT311-2.2.2-2] The flags of a
/// SUBSCRIBE are 0010.
#[tokio::test]
async fn a_subscribe_with_other_flags_is_malformed() {
    for version in BOTH {
        for flags in [0, 1, 3, 10, 15] {
            let mut client = client(version, "sub").await;
            client.send_bytes(&wire::frame(0x80 | flags, &[0, 1, 0, 0, 1, b't', 0])).await;
            client.expect_end(ReasonCode::MalformedPacket).await;
        }
    }
}

/// [MQTT-3.8.3-2] [MQTT311-3.8.3-3] A SUBSCRIBE needs a filter.
#[tokio::test]
async fn a_subscribe_without_a_filter_is_a_protocol_error() {
    for version in BOTH {
        let mut client = client(version, "sub").await;
        let body: &[u8] = if version == Version::V5 { &[0, 1, 0] } else { &[0, 1] };
        client.send_bytes(&wire::frame(0x82, body)).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.8.3-5] [MQTT311-3.8.3-4] Reserved bits of the options must be zero, and QoS 3 is none.
#[tokio::test]
async fn reserved_subscription_options_end_the_connection() {
    let cases: [(Version, u8, ReasonCode); 9] = [
        (Version::V5, 0b0100_0000, ReasonCode::MalformedPacket),
        (Version::V5, 0b1000_0001, ReasonCode::MalformedPacket),
        (Version::V5, 0b0000_0011, ReasonCode::ProtocolError),
        (Version::V5, 0b0011_0000, ReasonCode::ProtocolError),
        (Version::V3_1_1, 0b0000_0011, ReasonCode::MalformedPacket),
        (Version::V3_1_1, 0b0000_0100, ReasonCode::MalformedPacket),
        (Version::V3_1_1, 0b0001_0001, ReasonCode::MalformedPacket),
        (Version::V3_1_1, 0b0100_0000, ReasonCode::MalformedPacket),
        (Version::V3_1_1, 0b1000_0000, ReasonCode::MalformedPacket),
    ];
    for (version, options, reason) in cases {
        let mut client = client(version, "sub").await;
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let body = [&[0, 1], none, &wire::field("t"), &[options]].concat();
        client.send_bytes(&wire::frame(0x82, &body)).await;
        client.expect_end(reason).await;
    }
}

/// [MQTT-2.2.1-3] [MQTT311-2.3.1-1] A SUBSCRIBE needs a packet identifier.
#[tokio::test]
async fn a_subscribe_with_packet_identifier_zero_is_a_protocol_error() {
    for version in BOTH {
        let mut client = client(version, "sub").await;
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let body = [&[0, 0], none, &wire::field("t"), &[0]].concat();
        client.send_bytes(&wire::frame(0x82, &body)).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.8.4-3] [MQTT311-3.8.4-3] The same filter again replaces the subscription: one copy, with
/// the new QoS.
#[tokio::test]
async fn subscribing_again_replaces_the_subscription() {
    for version in BOTH {
        let topic = name("sub");
        let mut client = subscriber(version, &topic, QoS::ExactlyOnce).await;
        client.subscribe(&topic, QoS::AtMostOnce).await;
        client.publish(&topic, QoS::ExactlyOnce, "once").await;
        assert_eq!(client.expect_message("once").await.qos, QoS::AtMostOnce);
        client.expect_nothing().await;
    }
}

/// [MQTT-3.8.4-3] [MQTT-3.8.4-4] [MQTT311-3.8.4-3] Replacing a subscription sends the retained
/// messages again and loses none that are published meanwhile.
#[tokio::test]
async fn replacing_a_subscription_loses_no_message() {
    for version in BOTH {
        let topic = name("sub");
        let mut publisher = client(version, "sub").await;
        retain(&mut publisher, &format!("{topic}/kept"), QoS::AtLeastOnce, "retained").await;
        let filter = format!("{topic}/#");
        let mut client = subscriber(version, &filter, QoS::AtLeastOnce).await;
        client.expect_message("retained").await;
        let live = format!("{topic}/live");
        let publishing = async {
            for number in 0..200 {
                publisher.publish(&live, QoS::AtLeastOnce, number.to_string()).await;
            }
        };
        let replacing = async {
            let (mut live, mut retained) = (0, 0);
            for _ in 0..20 {
                client.subscribe(&filter, QoS::AtLeastOnce).await;
            }
            while live < 200 || retained < 20 {
                let publish = client.expect_publish().await;
                client.accept(&publish).await;
                if publish.retain {
                    retained += 1;
                } else {
                    assert_eq!(publish.payload, live.to_string());
                    live += 1;
                }
            }
        };
        tokio::join!(publishing, replacing);
        client.expect_nothing().await;
    }
}

/// [MQTT-3.8.3-3] No Local keeps a client's own messages from it, and only those.
#[tokio::test]
async fn no_local_keeps_a_clients_own_messages_from_it() {
    let topic = name("sub");
    let options = SubscriptionOptions { no_local: true, ..at(QoS::AtLeastOnce) };
    let mut client = client(Version::V5, "sub").await;
    client.subscribe_with(&[(&topic, options)], None).await;
    let mut other = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    client.publish(&topic, QoS::AtLeastOnce, "mine").await;
    other.expect_message("mine").await;
    other.publish(&topic, QoS::AtLeastOnce, "theirs").await;
    other.expect_message("theirs").await;
    client.expect_message("theirs").await;
    client.expect_nothing().await;
}

/// [MQTT-3.8.3-3] No Local is about the client identifier, so it also holds for what was published
/// over an earlier connection.
#[tokio::test]
async fn no_local_holds_across_connections_of_one_client() {
    let (id, topic) = (name("sub"), name("sub"));
    let options = SubscriptionOptions { no_local: true, ..at(QoS::AtLeastOnce) };
    let mut client = server().connect(Version::V5, &id, persistent).await;
    client.subscribe_with(&[(&topic, options)], None).await;
    client.publish(&topic, QoS::AtLeastOnce, "mine").await;
    client.disconnect().await;
    let mut client = server().connect(Version::V5, &id, persistent).await;
    client.expect_nothing().await;
    client.publish(&topic, QoS::AtLeastOnce, "still mine").await;
    client.expect_nothing().await;
}

/// [MQTT-3.8.3-4] No Local on a shared subscription is a protocol error.
#[tokio::test]
async fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut client = client(Version::V5, "sub").await;
    let body = [&[0, 1, 0][..], &wire::field("$share/g/t"), &[0b101]].concat();
    client.send_bytes(&wire::frame(0x82, &body)).await;
    client.expect_end(ReasonCode::ProtocolError).await;
}

/// [MQTT-3.8.4-8] [MQTT311-3.8.4-6] [MQTT-3.3.4-1] A message comes with the lower of its QoS and that
/// of the subscription.
#[tokio::test]
async fn a_message_comes_with_the_lower_of_both_qos() {
    for version in ALL {
        for granted in LEVELS {
            let topic = name("sub");
            let mut client = subscriber(version, &topic, granted).await;
            let mut publisher = crate::support::client(version, "sub").await;
            for published in LEVELS {
                publisher.publish(&topic, published, "x").await;
                let publish = client.expect_message("x").await;
                assert_eq!(publish.qos, published.min(granted), "{published:?} to {granted:?}");
            }
        }
    }
}

/// [MQTT-4.5.0-1] [MQTT311-4.5.0-1] Every matching session gets the message, connected or not.
#[tokio::test]
async fn a_message_goes_to_every_matching_session() {
    for version in BOTH {
        let topic = name("sub");
        let away_id = name("sub");
        let mut away = server().connect(version, &away_id, persistent).await;
        away.subscribe(&topic, QoS::ExactlyOnce).await;
        away.disconnect().await;
        let mut exact = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let mut wild = subscriber(version, &format!("{topic}/#"), QoS::AtMostOnce).await;
        let mut other = subscriber(version, &format!("{topic}/other"), QoS::AtMostOnce).await;
        client(version, "sub").await.publish(&topic, QoS::ExactlyOnce, "all").await;
        exact.expect_message("all").await;
        wild.expect_message("all").await;
        other.expect_nothing().await;
        let mut away = server().connect(version, &away_id, persistent).await;
        assert_eq!(away.expect_message("all").await.qos, QoS::ExactlyOnce);
    }
}

/// [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5] [MQTT-3.3.4-2] [MQTT311-3.3.5-1] Overlapping
/// subscriptions: the highest QoS arrives, and every subscription identifier with it.
#[tokio::test]
async fn overlapping_subscriptions_deliver_the_highest_qos_and_all_identifiers() {
    for version in BOTH {
        let base = name("sub");
        let topic = format!("{base}/a/b");
        let filters = [
            (format!("{base}/a/b"), QoS::AtMostOnce, Some(1)),
            (format!("{base}/+/b"), QoS::ExactlyOnce, Some(268_435_455)),
            (format!("{base}/#"), QoS::AtLeastOnce, None),
            (format!("{base}/a/#"), QoS::AtLeastOnce, Some(7)),
        ];
        let mut client = client(version, "sub").await;
        for (filter, qos, id) in &filters {
            let id = id.filter(|_| version == Version::V5);
            client.subscribe_with(&[(filter, at(*qos))], id).await;
        }
        client.publish(&topic, QoS::ExactlyOnce, "x").await;
        let (mut highest, mut ids, mut copies) = (QoS::AtMostOnce, Vec::new(), 0);
        while ids.len() < 3 && version == Version::V5 || copies == 0 {
            let publish = client.expect_message("x").await;
            highest = highest.max(publish.qos);
            ids.extend(publish.subscription_ids.iter().map(|id| id.value()));
            copies += 1;
        }
        ids.sort_unstable();
        assert_eq!(highest, QoS::ExactlyOnce, "{version:?}");
        if version == Version::V5 {
            assert_eq!(ids, [1, 7, 268_435_455]);
        }
        client.expect_nothing().await;
    }
}

/// [MQTT-3.8.4-3] A subscription without an identifier replaces one with an identifier.
#[tokio::test]
async fn replacing_a_subscription_replaces_its_identifier() {
    let topic = name("sub");
    let mut client = client(Version::V5, "sub").await;
    for id in [Some(5), Some(6), None] {
        client.subscribe_with(&[(&topic, at(QoS::AtMostOnce))], id).await;
        client.publish(&topic, QoS::AtMostOnce, "x").await;
        let publish = client.expect_message("x").await;
        let ids: Vec<_> = publish.subscription_ids.iter().map(|id| id.value()).collect();
        assert_eq!(ids, Vec::from_iter(id));
    }
}

/// [MQTT-4.13.1-1] A subscription identifier is not zero and stands once.
#[tokio::test]
async fn a_wrong_subscription_identifier_is_a_protocol_error() {
    for properties in [&[0x0B, 0][..], &[0x0B, 1, 0x0B, 2]] {
        let mut client = client(Version::V5, "sub").await;
        let body =
            [&[0, 1][..], &wire::properties(&[properties]), &wire::field("t"), &[0]].concat();
        client.send_bytes(&wire::frame(0x82, &body)).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.8.3-1] User properties of a SUBSCRIBE are accepted and stay with the server.
#[tokio::test]
async fn user_properties_of_a_subscribe_are_accepted() {
    let topic = name("sub");
    let mut client = client(Version::V5, "sub").await;
    let user = [&[0x26][..], &wire::field("k"), &wire::field("v")].concat();
    let properties = wire::properties(&[&user, &user]);
    let body = [&[0, 1][..], &properties, &wire::field(&topic), &[0]].concat();
    client.send_bytes(&wire::frame(0x82, &body)).await;
    assert_eq!(client.expect_suback().await.reasons, [ReasonCode::Success]);
    client.publish(&topic, QoS::AtMostOnce, "x").await;
    assert_eq!(client.expect_message("x").await.properties.user_properties().count(), 0);
}

/// [MQTT-3.8.4-7] [MQTT311-3.8.3-2] [MQTT311-3.8.4-5] A server without wildcards or shared
/// subscriptions says so and refuses those filters, and only those.
#[tokio::test]
async fn what_is_configured_away_is_refused_filter_by_filter() {
    let broker = Broker::start(|config| {
        config.mqtt.wildcard_subscriptions = false;
        config.mqtt.shared_subscriptions = false;
    })
    .await;
    for version in BOTH {
        let mut client = broker.connect(version, "a", |_| {}).await;
        let connack = client.connack();
        if version == Version::V5 {
            assert_eq!(connack.wildcard_subscription_available, Some(false));
            assert_eq!(connack.shared_subscription_available, Some(false));
        }
        let filters = ["plain", "a/+", "#", "$share/g/t"].map(|f| (f, at(QoS::AtLeastOnce)));
        let suback = client.subscribe_with(&filters, None).await;
        let wildcards = ReasonCode::WildcardSubscriptionsNotSupported;
        let shared = ReasonCode::SharedSubscriptionsNotSupported;
        if version == Version::V5 {
            let expected = [ReasonCode::GrantedQoS1, wildcards, wildcards, shared];
            assert_eq!(suback.reasons, expected);
        } else {
            let refused: Vec<_> = suback.reasons.iter().map(|reason| reason.is_error()).collect();
            assert_eq!(refused, [false, true, true, true]);
        }
        client.publish("a/b", QoS::AtLeastOnce, "x").await;
        client.publish("t", QoS::AtLeastOnce, "x").await;
        client.expect_nothing().await;
        client.publish("plain", QoS::AtLeastOnce, "y").await;
        client.expect_message("y").await;
    }
}

/// [MQTT311-3.9.3-2] A refusal is 0x80 in MQTT 3.1.1, whatever the reason.
#[tokio::test]
async fn a_refused_filter_is_0x80_in_mqtt_3() {
    let broker = Broker::start(|config| config.mqtt.wildcard_subscriptions = false).await;
    let mut client = broker.connect(Version::V3_1_1, "a", |_| {}).await;
    client.send_bytes(&wire::frame(0x82, &[0, 1, 0, 1, b'#', 0])).await;
    assert_eq!(client.recv_bytes(5).await.as_ref(), [0x90, 3, 0, 1, 0x80]);
}

/// [MQTT-3.8.4-1] [MQTT311-3.8.4-1] From the SUBACK on no message is missed.
#[tokio::test]
async fn a_message_published_after_the_suback_is_never_missed() {
    for version in BOTH {
        let base = name("sub");
        let mut client = client(version, "sub").await;
        let mut publisher = crate::support::client(version, "sub").await;
        for number in 0..200 {
            let topic = format!("{base}/{number}");
            client.subscribe(&topic, QoS::AtMostOnce).await;
            publisher.publish(&topic, QoS::AtMostOnce, number.to_string()).await;
            client.expect_message(number.to_string()).await;
        }
        settle(&mut publisher).await;
    }
}

/// [MQTT-3.8.4-5] [MQTT311-3.8.4-4] The same filter twice in one SUBSCRIBE: the later one counts.
#[tokio::test]
async fn the_later_of_two_equal_filters_counts() {
    for version in BOTH {
        let topic = name("sub");
        let mut client = client(version, "sub").await;
        let filters = [(topic.as_str(), at(QoS::ExactlyOnce)), (&topic, at(QoS::AtMostOnce))];
        assert_eq!(client.subscribe_with(&filters, None).await.reasons.len(), 2);
        let publish = client.new_publish(&topic, QoS::AtLeastOnce, "x");
        client.send(Packet::Publish(publish)).await;
        client.expect_puback().await;
        assert_eq!(client.expect_message("x").await.qos, QoS::AtMostOnce);
        client.expect_nothing().await;
    }
}
