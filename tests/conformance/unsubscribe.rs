//! Sections 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use mqtt_codec::{Ack, Packet, QoS, ReasonCode, Version};
use testkit::wire;

use crate::support::{ALL, BOTH, at, client, name, subscriber};

/// [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-2.2.1-6] [MQTT311-3.10.4-4] [MQTT311-2.3.1-7] An UNSUBSCRIBE
/// is answered under its packet identifier.
#[tokio::test]
async fn an_unsubscribe_is_answered_under_its_packet_identifier() {
    for version in ALL {
        for id in [1_u16, 256, 65_535] {
            let mut client = subscriber(version, "t", QoS::AtMostOnce).await;
            let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
            let body = [&id.to_be_bytes(), none, &wire::field("t")].concat();
            client.send_bytes(&wire::frame(0xA2, &body)).await;
            assert_eq!(client.expect_unsuback().await.packet_id.value(), id);
        }
    }
}

/// [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT311-3.10.4-1] [MQTT311-3.10.4-2] After the UNSUBACK nothing
/// new comes.
#[tokio::test]
async fn nothing_comes_after_the_unsuback() {
    for version in ALL {
        let topic = name("uns");
        let mut client = subscriber(version, &topic, QoS::AtLeastOnce).await;
        client.unsubscribe(&[&topic]).await;
        client.publish(&topic, QoS::AtLeastOnce, "x").await;
        client.expect_nothing().await;
    }
}

/// [MQTT-3.10.4-1] [MQTT311-3.10.4-1] Filters are compared character by character, not by what they
/// match.
#[tokio::test]
async fn only_the_very_same_filter_is_removed() {
    for version in BOTH {
        let base = name("uns");
        let (exact, wild) = (format!("{base}/a"), format!("{base}/+"));
        let mut client = client(version, "uns").await;
        let both = [(exact.as_str(), at(QoS::AtMostOnce)), (&wild, at(QoS::AtMostOnce))];
        client.subscribe_with(&both, None).await;
        let upper = exact.to_uppercase();
        let (all, slash) = (format!("{base}/#"), format!("{exact}/"));
        client.unsubscribe(&[&all, &upper, &slash, &base]).await;
        client.unsubscribe(&[&exact]).await;
        client.publish(&exact, QoS::AtMostOnce, "by wildcard").await;
        client.expect_message("by wildcard").await;
        client.unsubscribe(&[&wild]).await;
        client.publish(&exact, QoS::AtMostOnce, "to nobody").await;
        client.expect_nothing().await;
    }
}

/// [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] [MQTT311-3.10.4-5]
/// [MQTT311-3.10.4-6] Several filters get one UNSUBACK, with a reason each in MQTT 5.0, also for those
/// that were never subscribed to.
#[tokio::test]
async fn each_filter_of_an_unsubscribe_gets_its_reason_in_order() {
    for version in BOTH {
        let base = name("uns");
        let names = ["a", "b", "c"].map(|level| format!("{base}/{level}"));
        let [a, b, c] = names.each_ref().map(String::as_str);
        let mut client = client(version, "uns").await;
        client.subscribe_with(&[(a, at(QoS::AtMostOnce)), (c, at(QoS::AtMostOnce))], None).await;
        let unsuback = client.unsubscribe(&[a, b, c, a]).await;
        if version == Version::V5 {
            let none = ReasonCode::NoSubscriptionExisted;
            let expected = [ReasonCode::Success, none, ReasonCode::Success, none];
            assert_eq!(unsuback.reasons, expected);
        }
        client.publish(a, QoS::AtMostOnce, "x").await;
        client.publish(c, QoS::AtMostOnce, "x").await;
        client.expect_nothing().await;
    }
}

/// [MQTT-3.10.4-3] [MQTT311-3.10.4-3] A delivery that has begun is completed.
#[tokio::test]
async fn a_delivery_under_way_is_completed_after_unsubscribing() {
    for version in BOTH {
        let topic = name("uns");
        let mut client = subscriber(version, &topic, QoS::ExactlyOnce).await;
        client.publish(&topic, QoS::ExactlyOnce, "under way").await;
        let publish = client.expect_publish().await;
        client.unsubscribe(&[&topic]).await;
        let ack = Ack::new(publish.packet_id.expect("QoS 2 has one"), ReasonCode::Success);
        client.send(Packet::PubRec(ack.clone())).await;
        assert_eq!(client.expect_pubrel().await.packet_id, ack.packet_id);
        client.send(Packet::PubComp(ack)).await;
        client.expect_nothing().await;
    }
}

/// [MQTT-3.10.1-1] [MQTT311-3.10.1-1] [MQTT-2.1.3-1] [MQTT311-2.2.2-2] The flags of an UNSUBSCRIBE are
/// 0010.
#[tokio::test]
async fn an_unsubscribe_with_other_flags_is_malformed() {
    for version in BOTH {
        for flags in [0, 1, 3, 10, 15] {
            let mut client = client(version, "uns").await;
            client.send_bytes(&wire::frame(0xA0 | flags, &[0, 1, 0, 0, 1, b't'])).await;
            client.expect_end(ReasonCode::MalformedPacket).await;
        }
    }
}

/// [MQTT-3.10.3-2] [MQTT311-3.10.3-2] An UNSUBSCRIBE needs a filter.
#[tokio::test]
async fn an_unsubscribe_without_a_filter_is_a_protocol_error() {
    for version in BOTH {
        let mut client = client(version, "uns").await;
        let body: &[u8] = if version == Version::V5 { &[0, 1, 0] } else { &[0, 1] };
        client.send_bytes(&wire::frame(0xA2, body)).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-2.2.1-3] [MQTT311-2.3.1-1] An UNSUBSCRIBE needs a packet identifier.
#[tokio::test]
async fn an_unsubscribe_with_packet_identifier_zero_is_a_protocol_error() {
    for version in BOTH {
        let mut client = client(version, "uns").await;
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let body = [&[0, 0], none, &wire::field("t")].concat();
        client.send_bytes(&wire::frame(0xA2, &body)).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.10.4-1] A shared subscription is removed by its whole filter, and only by that.
#[tokio::test]
async fn a_shared_subscription_is_removed_by_its_whole_filter() {
    for version in BOTH {
        let topic = name("uns");
        let shared = format!("$share/g/{topic}");
        let other = format!("$share/h/{topic}");
        let mut client = subscriber(version, &shared, QoS::AtMostOnce).await;
        client.unsubscribe(&[&topic, &other]).await;
        client.publish(&topic, QoS::AtMostOnce, "shared").await;
        client.expect_message("shared").await;
        client.unsubscribe(&[&shared]).await;
        client.publish(&topic, QoS::AtMostOnce, "to nobody").await;
        client.expect_nothing().await;
    }
}
