//! Section 4.7: topic names and topic filters.

use mqtt_codec::{QoS, ReasonCode, Version};
use testkit::{Broker, wire};

use crate::support::{ALL, BOTH, client, name, subscriber, topic_of};

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3] [MQTT311-4.7.3-1] A
/// wildcard that does not have a level for itself, or is not last where it must be, is no filter.
#[tokio::test]
async fn a_filter_with_misplaced_wildcards_ends_the_connection() {
    for version in BOTH {
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        for filter in ["a#", "a/#/b", "#/", "##", "+a", "a+/b", "a/b+", "++", "/+#", ""] {
            let filter = wire::field(filter);
            let mut subscribing = client(version, "top").await;
            let body = [&[0, 1], none, &filter, &[0]].concat();
            subscribing.send_bytes(&wire::frame(0x82, &body)).await;
            subscribing.expect_end(ReasonCode::TopicFilterInvalid).await;
            let mut unsubscribing = client(version, "top").await;
            let body = [&[0, 1], none, &filter].concat();
            unsubscribing.send_bytes(&wire::frame(0xA2, &body)).await;
            unsubscribing.expect_end(ReasonCode::TopicFilterInvalid).await;
        }
    }
}

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-3.3.2-3] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3] [MQTT311-3.3.2-3]
/// What each filter matches and what it does not.
#[tokio::test]
async fn filters_match_as_the_standard_says() {
    let topics = ["", "/", "/a", "/a/", "/a/b", "/a/b/c", "//b", "/A"];
    let cases: [(&str, &[&str]); 13] = [
        ("", &[""]),
        ("/", &["/"]),
        ("/#", &["", "/", "/a", "/a/", "/a/b", "/a/b/c", "//b", "/A"]),
        ("/+", &["/", "/a", "/A"]),
        ("/a", &["/a"]),
        ("/a/#", &["/a", "/a/", "/a/b", "/a/b/c"]),
        ("/a/+", &["/a/", "/a/b"]),
        ("/+/b", &["/a/b", "//b"]),
        ("/+/+", &["/a/", "/a/b", "//b"]),
        ("/+/+/+", &["/a/b/c"]),
        ("/+/#", &["/", "/a", "/a/", "/a/b", "/a/b/c", "//b", "/A"]),
        ("/a/b/c/d", &[]),
        ("//+", &["//b"]),
    ];
    for version in ALL {
        let base = name("top");
        let mut publisher = client(version, "top").await;
        for (filter, matching) in cases {
            let filter = format!("{base}{filter}");
            let mut receiver = subscriber(version, &filter, QoS::AtMostOnce).await;
            for topic in topics {
                publisher.publish(&format!("{base}{topic}"), QoS::AtLeastOnce, topic).await;
            }
            for topic in matching {
                let publish = receiver.expect_message(topic).await;
                assert_eq!(topic_of(&publish), format!("{base}{topic}"), "{filter}");
            }
            receiver.expect_nothing().await;
        }
    }
}

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3] Wildcards in the first level.
#[tokio::test]
async fn wildcards_may_stand_in_the_first_level() {
    let broker = Broker::start(|_| {}).await;
    for version in BOTH {
        for filter in ["+/level", "+/level/#", "+/+", "#", "+/#"] {
            let mut receiver = broker.connect(version, "r", |_| {}).await;
            receiver.subscribe(filter, QoS::AtMostOnce).await;
            let mut publisher = broker.connect(version, "p", |_| {}).await;
            publisher.publish("first/level", QoS::AtLeastOnce, "x").await;
            receiver.expect_message("x").await;
        }
    }
}

/// [MQTT-4.7.2-1] [MQTT311-4.7.2-1] A wildcard in the first level does not match a topic that begins
/// with $.
#[tokio::test]
async fn wildcards_in_the_first_level_do_not_match_dollar_topics() {
    let broker = Broker::start(|_| {}).await;
    for version in BOTH {
        let filters = ["+/x", "+/x/#", "#", "+/#", "$internal/x", "$internal/#", "$internal/+"];
        for (number, filter) in filters.into_iter().enumerate() {
            let mut receiver = broker.connect(version, "r", |_| {}).await;
            receiver.subscribe(filter, QoS::AtMostOnce).await;
            let mut publisher = broker.connect(version, "p", |_| {}).await;
            publisher.publish("$internal/x", QoS::AtLeastOnce, "hidden").await;
            publisher.publish("open/x", QoS::AtLeastOnce, "open").await;
            let expected = if number < 4 { "open" } else { "hidden" };
            receiver.expect_message(expected).await;
            receiver.expect_nothing().await;
        }
    }
}

/// [MQTT-4.7.2-1] [MQTT311-4.7.2-1] The same holds for retained messages.
#[tokio::test]
async fn wildcards_in_the_first_level_do_not_match_retained_dollar_topics() {
    for version in BOTH {
        let level = name("top");
        let topic = format!("$internal/{level}/kept");
        let mut publisher = client(version, "top").await;
        crate::support::retain(&mut publisher, &topic, QoS::AtLeastOnce, "hidden").await;
        let filter = format!("+/{level}/#");
        subscriber(version, &filter, QoS::AtMostOnce).await.expect_nothing().await;
        subscriber(version, &topic, QoS::AtMostOnce).await.expect_message("hidden").await;
        crate::support::retain(&mut publisher, &topic, QoS::AtLeastOnce, "").await;
    }
}

/// [MQTT-4.7.3-1] [MQTT311-4.7.3-1] A topic name has at least one character.
#[tokio::test]
async fn an_empty_topic_name_ends_the_connection() {
    for version in BOTH {
        let mut client = client(version, "top").await;
        client.send_bytes(&wire::frame(0x30, &[0, 0, 0, b'x'])).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-4.7.3-3] [MQTT311-4.7.3-3] A topic may have 65,535 bytes.
#[tokio::test]
async fn a_topic_may_be_as_long_as_a_string() {
    for version in BOTH {
        let start = name("top");
        let topic = format!("{start}{}", "x".repeat(65_535 - start.len()));
        let mut client = subscriber(version, &topic, QoS::AtMostOnce).await;
        client.publish(&topic, QoS::AtMostOnce, "x").await;
        assert_eq!(topic_of(&client.expect_message("x").await), topic);
    }
}

/// [MQTT-4.7.3-4] [MQTT311-4.7.3-4] Topics are compared as they are: case, spaces, and characters that
/// look the same count.
#[tokio::test]
async fn topics_are_not_normalised() {
    for version in BOTH {
        let base = name("top");
        let topics = ["/e\u{301}", "/\u{E9}", "/E\u{301}", "/ \u{E9}", "/\u{E9}/", "/%C3%A9"]
            .map(|end| format!("{base}{end}"));
        let mut publisher = client(version, "top").await;
        for subscribed in &topics {
            let mut receiver = subscriber(version, subscribed, QoS::AtMostOnce).await;
            for topic in &topics {
                publisher.publish(topic, QoS::AtLeastOnce, topic.clone()).await;
            }
            receiver.expect_message(subscribed).await;
            receiver.expect_nothing().await;
        }
    }
}
