//! Sections 3.1.2.4, 3.1.2.11.2, 4.1, 4.4: sessions that stay, end, and are resumed.

use std::time::Duration;

use mqtt_codec::{Ack, Packet, QoS, ReasonCode, Version};
use testkit::{Broker, elapse, persistent};

use crate::support::{ALL, BOTH, client, name, retain, server, subscriber, together};

/// [MQTT-3.1.2-4] [MQTT-3.1.4-4] [MQTT-3.2.2-2] [MQTT311-3.1.2-6] [MQTT311-3.1.4-3]
/// [MQTT311-3.2.2-1] A clean start discards what there was.
#[tokio::test]
async fn a_clean_start_discards_the_session() {
    for version in ALL {
        let (id, topic) = (name("ses"), name("ses"));
        let mut first = server().connect(version, &id, persistent).await;
        first.subscribe(&topic, QoS::AtLeastOnce).await;
        first.disconnect().await;
        let mut publisher = client(version, "ses").await;
        publisher.publish(&topic, QoS::AtLeastOnce, "for the old one").await;
        let mut second = server().connect(version, &id, |_| {}).await;
        assert!(!second.connack().session_present);
        publisher.publish(&topic, QoS::AtLeastOnce, "for nobody").await;
        second.expect_nothing().await;
        second.disconnect().await;
        let mut third = server().connect(version, &id, persistent).await;
        assert!(!third.connack().session_present);
        third.expect_nothing().await;
    }
}

/// [MQTT-3.1.2-5] [MQTT-3.2.2-3] [MQTT-3.1.2-23] [MQTT311-3.1.2-4] [MQTT311-3.1.2-5]
/// [MQTT311-3.2.2-2] [MQTT311-4.1.0-1] A session is resumed with its subscriptions and with the QoS 1
/// and 2 messages that came meanwhile.
#[tokio::test]
async fn a_session_is_resumed_with_what_came_meanwhile() {
    for version in BOTH {
        let (id, topic) = (name("ses"), name("ses"));
        let mut first = server().connect(version, &id, persistent).await;
        first.subscribe(&topic, QoS::ExactlyOnce).await;
        first.disconnect().await;
        let mut publisher = client(version, "ses").await;
        publisher.publish(&topic, QoS::AtLeastOnce, "one").await;
        publisher.publish(&topic, QoS::ExactlyOnce, "two").await;
        let mut second = server().connect(version, &id, persistent).await;
        assert!(second.connack().session_present || version == Version::V3_1);
        assert_eq!(second.expect_message("one").await.qos, QoS::AtLeastOnce);
        assert_eq!(second.expect_message("two").await.qos, QoS::ExactlyOnce);
        publisher.publish(&topic, QoS::AtMostOnce, "three").await;
        second.expect_message("three").await;
        second.expect_nothing().await;
    }
}

/// [MQTT-3.1.2-6] [MQTT-3.2.2-3] [MQTT311-3.1.2-4] [MQTT311-3.2.2-3] Without a session there is none
/// to resume, and a new one is made.
#[tokio::test]
async fn a_session_that_does_not_exist_is_created() {
    for version in BOTH {
        let id = name("ses");
        let first = server().connect(version, &id, persistent).await;
        assert!(!first.connack().session_present);
        first.disconnect().await;
        let second = server().connect(version, &id, persistent).await;
        assert!(second.connack().session_present);
    }
}

/// [MQTT-4.1.0-2] [MQTT311-3.1.2-6] A session with expiry 0, or a clean one, ends with its connection,
/// however that ends.
#[tokio::test]
async fn a_clean_session_ends_with_its_connection() {
    for version in BOTH {
        let (id, topic) = (name("ses"), name("ses"));
        let mut first = server().connect(version, &id, |_| {}).await;
        first.subscribe(&topic, QoS::AtLeastOnce).await;
        drop(first);
        let second = server().connect(version, &id, persistent).await;
        assert!(!second.connack().session_present);
        client(version, "ses").await.publish(&topic, QoS::AtLeastOnce, "for nobody").await;
        let mut second = second;
        second.expect_nothing().await;
    }
}

/// [MQTT-4.1.0-2] [MQTT-3.1.2-23] A session ends when its expiry has passed, not before.
#[tokio::test]
async fn a_session_ends_when_its_expiry_has_passed() {
    together([(1, false), (60, true)], |(expiry, present)| async move {
        let id = name("ses");
        let lasting = |c: &mut mqtt_codec::Connect| {
            persistent(c);
            c.session_expiry_secs = expiry;
        };
        server().connect(Version::V5, &id, lasting).await.disconnect().await;
        elapse(Duration::from_millis(2100)).await;
        let second = server().connect(Version::V5, &id, lasting).await;
        assert_eq!(second.connack().session_present, present, "expiry {expiry}");
    })
    .await;
}

/// [MQTT-4.1.0-2] [MQTT-3.1.2-23] A server with a longest session expiry says what it is.
#[tokio::test]
async fn a_session_expiry_above_the_servers_is_lowered_and_said() {
    let broker = Broker::start(|config| {
        config.mqtt.maximum_session_expiry = Duration::from_secs(1).into();
    })
    .await;
    let client = broker.connect(Version::V5, "a", persistent).await;
    assert_eq!(client.connack().session_expiry_secs, Some(1));
    client.disconnect().await;
    elapse(Duration::from_millis(2100)).await;
    let client = broker.connect(Version::V5, "a", persistent).await;
    assert!(!client.connack().session_present);
}

/// [MQTT-4.1.0-1] [MQTT311-4.1.0-2] The expiry does not run while the client is connected.
#[tokio::test]
async fn a_session_does_not_expire_while_its_client_is_connected() {
    let (id, topic) = (name("ses"), name("ses"));
    let short = |c: &mut mqtt_codec::Connect| {
        persistent(c);
        c.session_expiry_secs = 1;
    };
    let mut client = server().connect(Version::V5, &id, short).await;
    client.subscribe(&topic, QoS::AtLeastOnce).await;
    elapse(Duration::from_millis(2100)).await;
    client.publish(&topic, QoS::AtLeastOnce, "still there").await;
    client.expect_message("still there").await;
    drop(client);
    let client = server().connect(Version::V5, &id, short).await;
    assert!(client.connack().session_present);
}

/// [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.3.2-3] [MQTT-4.3.3-3] [MQTT311-4.4.0-1] [MQTT311-3.3.1-1]
/// [MQTT311-2.3.1-3] [MQTT311-4.6.0-1] What was not acknowledged comes again on resume, in order, with
/// DUP and under the same packet identifiers.
#[tokio::test]
async fn unacknowledged_messages_are_sent_again_on_resume() {
    for version in ALL {
        let (id, topic) = (name("ses"), name("ses"));
        let mut first = server().connect(version, &id, persistent).await;
        first.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut publisher = client(version, "ses").await;
        let mut sent = Vec::new();
        for (payload, qos) in
            [("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce), ("3", QoS::AtLeastOnce)]
        {
            publisher.publish(&topic, qos, payload).await;
            let publish = first.expect_publish().await;
            assert!(!publish.dup);
            sent.push(publish);
        }
        drop(first);
        let mut second = server().connect(version, &id, persistent).await;
        for mut publish in sent {
            publish.dup = true;
            let again = second.expect_publish().await;
            assert_eq!(again, publish);
            second.accept(&again).await;
        }
        second.expect_nothing().await;
        second.disconnect().await;
        server().connect(version, &id, persistent).await.expect_nothing().await;
    }
}

/// [MQTT-4.4.0-1] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT311-4.4.0-1] [MQTT311-4.3.3-1] After a PUBREC it is
/// the PUBREL that comes again on resume, not the PUBLISH.
#[tokio::test]
async fn an_unacknowledged_pubrel_is_sent_again_on_resume() {
    for version in ALL {
        let (id, topic) = (name("ses"), name("ses"));
        let mut first = server().connect(version, &id, persistent).await;
        first.subscribe(&topic, QoS::ExactlyOnce).await;
        client(version, "ses").await.publish(&topic, QoS::ExactlyOnce, "x").await;
        let publish = first.expect_publish().await;
        let ack = Ack::new(publish.packet_id.expect("QoS 2 has one"), ReasonCode::Success);
        first.send(Packet::PubRec(ack.clone())).await;
        assert_eq!(first.expect_pubrel().await, ack);
        drop(first);
        let mut second = server().connect(version, &id, persistent).await;
        assert_eq!(second.expect_pubrel().await, ack);
        second.send(Packet::PubComp(ack)).await;
        second.expect_nothing().await;
        drop(second);
        server().connect(version, &id, persistent).await.expect_nothing().await;
    }
}

/// [MQTT-4.4.0-1] [MQTT311-4.4.0-1] Nothing is sent again while the connection lasts.
#[tokio::test]
async fn nothing_is_sent_again_while_the_connection_lasts() {
    together(BOTH, |version| async move {
        let topic = name("ses");
        let mut lazy = subscriber(version, &topic, QoS::ExactlyOnce).await;
        let mut publisher = client(version, "ses").await;
        publisher.publish(&topic, QoS::AtLeastOnce, "1").await;
        publisher.publish(&topic, QoS::ExactlyOnce, "2").await;
        lazy.expect_publish().await;
        lazy.expect_publish().await;
        elapse(Duration::from_millis(1200)).await;
        lazy.expect_nothing().await;
    })
    .await;
}

/// [MQTT-4.4.0-1] [MQTT-4.3.3-10] [MQTT311-4.3.3-2] [MQTT311-2.3.1-3] The server remembers, across
/// connections, the QoS 2 messages it has received and not released.
#[tokio::test]
async fn a_qos_2_publish_repeated_over_a_new_connection_is_delivered_once() {
    for version in ALL {
        let (id, topic) = (name("ses"), name("ses"));
        let mut receiver = subscriber(version, &topic, QoS::ExactlyOnce).await;
        let mut first = server().connect(version, &id, persistent).await;
        let mut publish = first.new_publish(&topic, QoS::ExactlyOnce, "once");
        first.send(Packet::Publish(publish.clone())).await;
        first.expect_pubrec().await;
        drop(first);
        let mut second = server().connect(version, &id, persistent).await;
        publish.dup = true;
        second.publish_with(publish.clone()).await;
        receiver.expect_message("once").await;
        receiver.expect_nothing().await;
        publish.dup = false;
        second.publish_with(publish).await;
        receiver.expect_message("once").await;
    }
}

/// [MQTT-4.4.0-1] [MQTT-4.3.3-11] [MQTT311-4.4.0-1] A PUBREL repeated over a new connection completes.
#[tokio::test]
async fn a_pubrel_repeated_over_a_new_connection_is_completed() {
    for version in BOTH {
        let (id, topic) = (name("ses"), name("ses"));
        let mut first = server().connect(version, &id, persistent).await;
        let publish = first.new_publish(&topic, QoS::ExactlyOnce, "x");
        let ack = Ack::new(publish.packet_id.expect("QoS 2 has one"), ReasonCode::Success);
        first.send(Packet::Publish(publish)).await;
        first.expect_pubrec().await;
        drop(first);
        let mut second = server().connect(version, &id, persistent).await;
        second.send(Packet::PubRel(ack.clone())).await;
        assert_eq!(second.expect_pubcomp().await, ack);
    }
}

/// [MQTT-3.1.4-3] [MQTT-4.1.0-1] [MQTT311-3.1.4-2] [MQTT-4.4.0-1] A takeover hands over the session
/// with what is in flight.
#[tokio::test]
async fn a_takeover_hands_over_what_is_in_flight() {
    for version in BOTH {
        let (id, topic) = (name("ses"), name("ses"));
        let mut first = server().connect(version, &id, persistent).await;
        first.subscribe(&topic, QoS::AtLeastOnce).await;
        client(version, "ses").await.publish(&topic, QoS::AtLeastOnce, "x").await;
        let mut publish = first.expect_publish().await;
        let mut second = server().connect(version, &id, persistent).await;
        assert!(second.connack().session_present);
        first.expect_end(ReasonCode::SessionTakenOver).await;
        publish.dup = true;
        assert_eq!(second.expect_publish().await, publish);
    }
}

/// [MQTT-3.1.2-5] [MQTT311-3.1.2-4] A session of one version can be resumed by another.
#[tokio::test]
async fn a_session_can_be_resumed_by_another_version() {
    for (old, new) in [(Version::V3_1_1, Version::V5), (Version::V5, Version::V3_1_1)] {
        let (id, topic) = (name("ses"), name("ses"));
        let mut first = server().connect(old, &id, persistent).await;
        first.subscribe(&topic, QoS::AtLeastOnce).await;
        first.disconnect().await;
        client(old, "ses").await.publish(&topic, QoS::AtLeastOnce, "x").await;
        let mut second = server().connect(new, &id, persistent).await;
        assert!(second.connack().session_present);
        second.expect_message("x").await;
    }
}

/// [MQTT311-3.1.2-7] Retained messages stay when the session of their publisher ends.
#[tokio::test]
async fn retained_messages_outlive_the_session_of_their_publisher() {
    for version in BOTH {
        let topic = name("ses");
        let mut publisher = client(version, "ses").await;
        retain(&mut publisher, &topic, QoS::AtLeastOnce, "stays").await;
        publisher.disconnect().await;
        subscriber(version, &topic, QoS::AtLeastOnce).await.expect_message("stays").await;
    }
}

/// [MQTT-3.1.2-23] Subscriptions and unsubscriptions of a resumed session go on from where it was.
#[tokio::test]
async fn an_unsubscribed_filter_stays_unsubscribed_on_resume() {
    for version in BOTH {
        let (id, kept, gone) = (name("ses"), name("ses"), name("ses"));
        let mut first = server().connect(version, &id, persistent).await;
        first.subscribe(&kept, QoS::AtLeastOnce).await;
        first.subscribe(&gone, QoS::AtLeastOnce).await;
        first.unsubscribe(&[&gone]).await;
        first.disconnect().await;
        let mut publisher = client(version, "ses").await;
        publisher.publish(&gone, QoS::AtLeastOnce, "gone").await;
        publisher.publish(&kept, QoS::AtLeastOnce, "kept").await;
        let mut second = server().connect(version, &id, persistent).await;
        second.expect_message("kept").await;
        second.expect_nothing().await;
    }
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6] [MQTT-4.3.3-7] A message that expired while it waited does not come;
/// one that did not comes with the time that is left.
#[tokio::test]
async fn messages_expire_while_they_wait_and_keep_the_rest_of_their_time() {
    let (id, topic) = (name("ses"), name("ses"));
    let mut first = server().connect(Version::V5, &id, persistent).await;
    first.subscribe(&topic, QoS::ExactlyOnce).await;
    first.disconnect().await;
    let mut publisher = client(Version::V5, "ses").await;
    for (payload, expiry) in [("short", Some(1)), ("long", Some(100)), ("for ever", None)] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut publish = publisher.new_publish(&topic, qos, payload);
            publish.expiry_secs = expiry;
            publisher.publish_with(publish).await;
        }
    }
    elapse(Duration::from_millis(2100)).await;
    let mut second = server().connect(Version::V5, &id, persistent).await;
    for _ in 0..2 {
        let left = second.expect_message("long").await.expiry_secs.expect("it expires");
        assert!((90..=98).contains(&left), "{left} seconds left of 100 after 2");
    }
    for _ in 0..2 {
        assert_eq!(second.expect_message("for ever").await.expiry_secs, None);
    }
    second.expect_nothing().await;
}

/// [MQTT-4.3.3-7] [MQTT-4.3.3-13] [MQTT-4.3.3-6] A QoS 2 message that was sent once is completed,
/// expired or not.
#[tokio::test]
async fn a_qos_2_delivery_that_began_is_completed_after_its_expiry() {
    let (id, topic) = (name("ses"), name("ses"));
    let mut first = server().connect(Version::V5, &id, persistent).await;
    first.subscribe(&topic, QoS::ExactlyOnce).await;
    let mut publisher = client(Version::V5, "ses").await;
    let mut publish = publisher.new_publish(&topic, QoS::ExactlyOnce, "x");
    publish.expiry_secs = Some(1);
    publisher.publish_with(publish).await;
    let begun = first.expect_publish().await;
    drop(first);
    elapse(Duration::from_millis(2100)).await;
    let mut second = server().connect(Version::V5, &id, persistent).await;
    let again = second.expect_publish().await;
    assert!(again.dup);
    assert_eq!(again.packet_id, begun.packet_id);
    second.accept(&again).await;
    second.expect_nothing().await;
}
