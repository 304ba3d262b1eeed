//! Sections 3.1.2.5 and 3.1.3.2: the will.

use std::time::{Duration, Instant};

use mqtt_codec::{
    Connect, Packet, PublishProperties, QoS, ReasonCode, SubscriptionOptions, Version, Will,
};
use testkit::{RawClient, connect_packet, elapse, persistent};

use crate::support::{ALL, BOTH, LEVELS, at, client, name, server, subscriber, together, will};

/// A client whose will goes to `topic`.
async fn mortal(version: Version, id: &str, will: Will) -> RawClient {
    server().connect(version, id, |c| c.will = Some(will)).await
}

/// A client with a session that stays, whose will is to wait.
async fn mortal_with_delay(id: &str, topic: &str, delay_secs: u32, expiry_secs: u32) -> RawClient {
    let will = Will { delay_secs, ..will(topic, QoS::AtLeastOnce, "gone") };
    let delayed = |c: &mut Connect| {
        persistent(c);
        c.session_expiry_secs = expiry_secs;
        c.will = Some(will);
    };
    server().connect(Version::V5, id, delayed).await
}

/// [MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT311-3.1.2-8] [MQTT-3.1.2-12] [MQTT311-3.1.2-14] A connection
/// that breaks publishes the will, with its QoS and payload.
#[tokio::test]
async fn a_broken_connection_publishes_the_will() {
    for version in ALL {
        for qos in LEVELS {
            let topic = name("will");
            let mut watcher = subscriber(version, &topic, QoS::ExactlyOnce).await;
            drop(mortal(version, &name("will"), will(&topic, qos, "gone")).await);
            let publish = watcher.expect_message("gone").await;
            assert_eq!(publish.qos, qos);
            assert!(!publish.retain);
            watcher.expect_nothing().await;
        }
    }
}

/// [MQTT-3.1.2-8] [MQTT311-3.1.2-8] [MQTT-4.13.1-1] A protocol error publishes the will.
#[tokio::test]
async fn a_protocol_error_publishes_the_will() {
    for version in BOTH {
        let topic = name("will");
        let mut watcher = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let mut mortal =
            mortal(version, &name("will"), will(&topic, QoS::AtLeastOnce, "error")).await;
        mortal.send_bytes(&[0x00, 0]).await;
        mortal.expect_end(ReasonCode::MalformedPacket).await;
        watcher.expect_message("error").await;
    }
}

/// [MQTT-3.1.2-8] [MQTT311-3.1.2-8] [MQTT311-3.1.4-2] [MQTT-3.1.4-3] A takeover publishes the will of
/// the older connection, once.
#[tokio::test]
async fn a_takeover_publishes_the_will_of_the_older_connection() {
    for version in BOTH {
        let (id, topic) = (name("will"), name("will"));
        let mut watcher = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let mut first = mortal(version, &id, will(&topic, QoS::AtLeastOnce, "first")).await;
        let second = mortal(version, &id, will(&topic, QoS::AtLeastOnce, "second")).await;
        first.expect_end(ReasonCode::SessionTakenOver).await;
        watcher.expect_message("first").await;
        watcher.expect_nothing().await;
        drop(second);
        watcher.expect_message("second").await;
        watcher.expect_nothing().await;
    }
}

/// [MQTT-3.1.2-10] [MQTT311-3.1.2-10] [MQTT311-3.1.2-12] A will belongs to one connection: the next one
/// without a will has none.
#[tokio::test]
async fn a_will_is_not_published_for_a_later_connection() {
    for version in BOTH {
        let (id, topic) = (name("will"), name("will"));
        let mut watcher = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let mut connect = connect_packet(version, &id);
        persistent(&mut connect);
        connect.will = Some(will(&topic, QoS::AtLeastOnce, "once"));
        let first = RawClient::connect(server().address(), connect).await;
        drop(first);
        watcher.expect_message("once").await;
        let second = server().connect(version, &id, persistent).await;
        drop(second);
        let third = server().connect(version, &id, persistent).await;
        third.disconnect().await;
        client(version, "will").await.publish(&topic, QoS::AtLeastOnce, "marker").await;
        watcher.expect_message("marker").await;
        watcher.expect_nothing().await;
    }
}

/// [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT311-3.1.2-16] [MQTT311-3.1.2-17] Will Retain decides whether
/// the will is retained.
#[tokio::test]
async fn a_will_is_retained_when_it_says_so() {
    for version in BOTH {
        for retain in [false, true] {
            let topic = name("will");
            let mut watcher = subscriber(version, &topic, QoS::AtLeastOnce).await;
            let mut last = will(&topic, QoS::AtLeastOnce, "gone");
            last.message.retain = retain;
            drop(mortal(version, &name("will"), last).await);
            watcher.expect_message("gone").await;
            let mut late = subscriber(version, &topic, QoS::AtLeastOnce).await;
            if retain {
                assert!(late.expect_message("gone").await.retain);
            }
            late.expect_nothing().await;
        }
    }
}

/// [MQTT-3.1.3-10] [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-20] [MQTT-3.3.2-6] The
/// properties of a will arrive as they were given.
#[tokio::test]
async fn the_properties_of_a_will_arrive_unaltered() {
    let topic = name("will");
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    let properties = PublishProperties::builder()
        .payload_format(1)
        .content_type("text/plain")
        .response_topic("condolences")
        .correlation_data(b"42")
        .user_property("z", "1")
        .user_property("a", "2")
        .user_property("z", "1");
    let mut last = will(&topic, QoS::AtLeastOnce, "gone");
    last.message.properties = properties.build().expect("the test gives valid properties");
    last.message.expiry_secs = Some(300);
    drop(mortal(Version::V5, &name("will"), last).await);
    let publish = watcher.expect_message("gone").await;
    let received = &publish.properties;
    assert_eq!(received.payload_format(), Some(1));
    assert_eq!(received.content_type(), Some("text/plain"));
    assert_eq!(received.response_topic(), Some("condolences"));
    assert_eq!(received.correlation_data(), Some(&b"42"[..]));
    let user: Vec<_> = received.user_properties().collect();
    assert_eq!(user, [("z", "1"), ("a", "2"), ("z", "1")]);
    assert!(publish.expiry_secs.is_some_and(|left| (290..=300).contains(&left)));
}

/// [MQTT-3.1.2-8] A will with a delay is published when that has passed, not before.
#[tokio::test]
async fn a_will_waits_for_its_delay() {
    let topic = name("will");
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    let mortal = mortal_with_delay(&name("will"), &topic, 1, 3600).await;
    let start = Instant::now();
    drop(mortal);
    watcher.expect_nothing().await;
    watcher.expect_message("gone").await;
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    assert!(waited < Duration::from_millis(2500), "{waited:?}");
}

/// [MQTT-3.1.2-8] A will does not wait longer than its session lasts.
#[tokio::test]
async fn a_will_is_published_when_the_session_ends_before_its_delay() {
    together([(3600, 0, 800), (3600, 1, 2500)], |(delay, expiry, latest)| async move {
        let topic = name("will");
        let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
        let mortal = mortal_with_delay(&name("will"), &topic, delay, expiry).await;
        let start = Instant::now();
        drop(mortal);
        watcher.expect_message("gone").await;
        assert!(start.elapsed() < Duration::from_millis(latest), "{:?}", start.elapsed());
    })
    .await;
}

/// [MQTT-3.1.2-8] A clean start ends the session, and with that the delay of its will.
#[tokio::test]
async fn a_will_is_published_when_a_clean_start_ends_its_session() {
    let (id, topic) = (name("will"), name("will"));
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    drop(mortal_with_delay(&id, &topic, 3600, 3600).await);
    watcher.expect_nothing().await;
    let _heir = server().connect(Version::V5, &id, |_| {}).await;
    watcher.expect_message("gone").await;
}

/// [MQTT-3.1.3-9] [MQTT-3.1.2-8] Who comes back to the session within the delay takes the will back.
#[tokio::test]
async fn a_client_that_returns_within_the_delay_takes_its_will_back() {
    let (id, topic) = (name("will"), name("will"));
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    drop(mortal_with_delay(&id, &topic, 1, 3600).await);
    let back = server().connect(Version::V5, &id, persistent).await;
    assert!(back.connack().session_present);
    elapse(Duration::from_millis(2100)).await;
    watcher.expect_nothing().await;
}

/// [MQTT-3.1.3-9] [MQTT-3.1.4-3] Also when it comes back by taking over its own connection.
#[tokio::test]
async fn a_takeover_within_the_delay_takes_the_will_back() {
    let (id, topic) = (name("will"), name("will"));
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut first = mortal_with_delay(&id, &topic, 1, 3600).await;
    let _second = server().connect(Version::V5, &id, persistent).await;
    first.expect_end(ReasonCode::SessionTakenOver).await;
    elapse(Duration::from_millis(2100)).await;
    watcher.expect_nothing().await;
}

/// [MQTT-3.1.2-10] A normal DISCONNECT also removes a will that would have waited.
#[tokio::test]
async fn a_normal_disconnect_removes_a_will_with_delay() {
    let topic = name("will");
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    mortal_with_delay(&name("will"), &topic, 1, 3600).await.disconnect().await;
    elapse(Duration::from_millis(2100)).await;
    watcher.expect_nothing().await;
}

/// [MQTT-3.1.2-7] [MQTT311-3.1.2-8] The will of a refused CONNECT is not kept.
#[tokio::test]
async fn the_will_of_a_refused_connect_is_never_published() {
    let topic = name("will");
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut refused = server().open(Version::V5).await;
    let mut connect = connect_packet(Version::V5, &name("will"));
    connect.authentication_method = Some("unknown".into());
    connect.will = Some(will(&topic, QoS::AtLeastOnce, "must not come"));
    refused.send(Packet::Connect(Box::new(connect))).await;
    assert!(refused.expect_connack().await.reason.is_error());
    refused.expect_closed().await;
    client(Version::V5, "will").await.publish(&topic, QoS::AtLeastOnce, "marker").await;
    watcher.expect_message("marker").await;
    watcher.expect_nothing().await;
}

/// [MQTT-3.3.2-2] [MQTT311-4.7.1-1] A will goes to a topic, not to a filter.
#[tokio::test]
async fn a_will_to_a_topic_with_wildcards_is_refused() {
    use testkit::wire;
    for version in BOTH {
        let mut mortal = server().open(version).await;
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let fields = [&wire::field(name("will")), none, &wire::field("a/#"), &wire::field("x")];
        let rest = [none, &fields.concat()].concat();
        mortal.send_bytes(&wire::connect("MQTT", version as u8, 0b110, &rest)).await;
        let answer = mortal.recv_to_end().await;
        assert!(answer.get(3).is_none_or(|&reason| reason != 0), "{answer:02x?}");
    }
}

/// [MQTT-3.8.4-8] [MQTT311-3.8.4-6] A will is a message like any other: it comes with the lower QoS.
#[tokio::test]
async fn a_will_comes_with_the_qos_of_the_subscription() {
    for version in BOTH {
        let topic = name("will");
        let mut watcher = subscriber(version, &topic, QoS::AtMostOnce).await;
        drop(mortal(version, &name("will"), will(&topic, QoS::ExactlyOnce, "gone")).await);
        assert_eq!(watcher.expect_message("gone").await.qos, QoS::AtMostOnce);
    }
}

/// [MQTT-3.8.3-3] The will of a client is its own message: with No Local it does not come back to it.
#[tokio::test]
async fn a_will_does_not_come_back_to_its_client_with_no_local() {
    let options = SubscriptionOptions { no_local: true, ..at(QoS::AtLeastOnce) };
    for delay_secs in [0, 1] {
        let (id, topic) = (name("will"), name("will"));
        let mut watcher = client(Version::V5, "will").await;
        watcher.subscribe_with(&[(&topic, options)], None).await;
        let mut mortal = mortal_with_delay(&id, &topic, delay_secs, 3600).await;
        mortal.subscribe_with(&[(&topic, options)], None).await;
        drop(mortal);
        watcher.expect_message("gone").await;
        let mut back = server().connect(Version::V5, &id, persistent).await;
        assert!(back.connack().session_present);
        back.expect_nothing().await;
    }
}
