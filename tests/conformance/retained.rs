//! Section 3.3.1.3: retained messages.

use std::time::Duration;

use mqtt_codec::{PublishProperties, QoS, RetainHandling, SubscriptionOptions, Version};
use testkit::elapse;

use crate::support::{ALL, BOTH, LEVELS, at, client, handling, name, retain, subscriber, topic_of};

/// [MQTT-3.3.1-5] [MQTT-3.3.1-9] [MQTT311-3.3.1-5] [MQTT311-3.3.1-6] [MQTT311-3.3.1-8] A new subscriber
/// gets what is retained, with RETAIN and the lower QoS.
#[tokio::test]
async fn a_new_subscriber_gets_the_retained_message() {
    for version in ALL {
        for qos in LEVELS {
            let topic = name("ret");
            let mut publisher = client(version, "ret").await;
            retain(&mut publisher, &topic, qos, "kept").await;
            for granted in LEVELS {
                let mut late = subscriber(version, &topic, granted).await;
                let publish = late.expect_message("kept").await;
                assert!(publish.retain && !publish.dup);
                assert_eq!(publish.qos, qos.min(granted));
                late.expect_nothing().await;
            }
        }
    }
}

/// [MQTT-3.3.1-5] [MQTT311-3.3.1-7] [MQTT311-3.3.1-5] A later retained message replaces the earlier one,
/// with QoS 0 too.
#[tokio::test]
async fn a_later_retained_message_replaces_the_earlier_one() {
    for version in BOTH {
        for qos in LEVELS {
            let topic = name("ret");
            let mut publisher = client(version, "ret").await;
            retain(&mut publisher, &topic, QoS::AtLeastOnce, "old").await;
            retain(&mut publisher, &topic, qos, "new").await;
            crate::support::settle(&mut publisher).await;
            let mut late = subscriber(version, &topic, QoS::ExactlyOnce).await;
            assert_eq!(late.expect_message("new").await.qos, qos);
            late.expect_nothing().await;
        }
    }
}

/// [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT311-3.3.1-10] [MQTT311-3.3.1-11] An empty retained message
/// reaches who is subscribed, removes what was retained and is not retained itself.
#[tokio::test]
async fn an_empty_retained_message_removes_the_retained_message() {
    for version in BOTH {
        for qos in LEVELS {
            let topic = name("ret");
            let mut publisher = client(version, "ret").await;
            retain(&mut publisher, &topic, QoS::AtLeastOnce, "kept").await;
            let mut watcher = subscriber(version, &topic, QoS::AtMostOnce).await;
            watcher.expect_message("kept").await;
            retain(&mut publisher, &topic, qos, "").await;
            assert!(!watcher.expect_message("").await.retain);
            crate::support::settle(&mut publisher).await;
            subscriber(version, &topic, QoS::AtMostOnce).await.expect_nothing().await;
        }
    }
}

/// [MQTT-3.3.1-8] [MQTT311-3.3.1-12] Without RETAIN nothing retained changes.
#[tokio::test]
async fn a_message_without_retain_changes_nothing_retained() {
    for version in BOTH {
        let topic = name("ret");
        let mut publisher = client(version, "ret").await;
        publisher.publish(&topic, QoS::AtLeastOnce, "not kept").await;
        subscriber(version, &topic, QoS::AtMostOnce).await.expect_nothing().await;
        retain(&mut publisher, &topic, QoS::AtLeastOnce, "kept").await;
        publisher.publish(&topic, QoS::AtLeastOnce, "not kept").await;
        publisher.publish(&topic, QoS::AtLeastOnce, "").await;
        subscriber(version, &topic, QoS::AtMostOnce).await.expect_message("kept").await;
    }
}

/// [MQTT-3.3.1-12] [MQTT311-3.3.1-9] Who is subscribed already gets the message without RETAIN.
#[tokio::test]
async fn an_established_subscription_gets_the_message_without_retain() {
    for version in ALL {
        let topic = name("ret");
        let mut watcher = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let mut publisher = client(version, "ret").await;
        retain(&mut publisher, &topic, QoS::AtLeastOnce, "kept").await;
        assert!(!watcher.expect_message("kept").await.retain);
    }
}

/// [MQTT-3.3.1-13] With Retain As Published the flag stays as the publisher set it.
#[tokio::test]
async fn retain_as_published_keeps_the_flag() {
    let topic = name("ret");
    let options = SubscriptionOptions { retain_as_published: true, ..at(QoS::AtLeastOnce) };
    let mut watcher = client(Version::V5, "ret").await;
    watcher.subscribe_with(&[(&topic, options)], None).await;
    let mut publisher = client(Version::V5, "ret").await;
    retain(&mut publisher, &topic, QoS::AtLeastOnce, "kept").await;
    assert!(watcher.expect_message("kept").await.retain);
    publisher.publish(&topic, QoS::AtLeastOnce, "plain").await;
    assert!(!watcher.expect_message("plain").await.retain);
}

/// [MQTT-3.3.1-9] [MQTT-3.3.1-12] What comes because of the subscription has RETAIN, whatever Retain As
/// Published says.
#[tokio::test]
async fn retained_messages_have_retain_with_and_without_retain_as_published() {
    let topic = name("ret");
    let mut publisher = client(Version::V5, "ret").await;
    retain(&mut publisher, &topic, QoS::AtLeastOnce, "kept").await;
    for retain_as_published in [false, true] {
        let options = SubscriptionOptions { retain_as_published, ..at(QoS::AtLeastOnce) };
        let mut late = client(Version::V5, "ret").await;
        late.subscribe_with(&[(&topic, options)], None).await;
        assert!(late.expect_message("kept").await.retain);
    }
}

/// [MQTT-3.3.1-9] [MQTT-3.8.4-4] [MQTT311-3.8.4-3] Retain Handling 0, and MQTT 3: with every SUBSCRIBE.
#[tokio::test]
async fn retain_handling_0_sends_retained_messages_with_every_subscribe() {
    for version in BOTH {
        let topic = name("ret");
        retain(&mut client(version, "ret").await, &topic, QoS::AtLeastOnce, "kept").await;
        let mut late = client(version, "ret").await;
        for _ in 0..3 {
            late.subscribe_with(&[(&topic, handling(RetainHandling::Send))], None).await;
            late.expect_message("kept").await;
        }
        late.expect_nothing().await;
    }
}

/// [MQTT-3.3.1-10] Retain Handling 1: only if the subscription is new.
#[tokio::test]
async fn retain_handling_1_sends_retained_messages_to_new_subscriptions() {
    let topic = name("ret");
    retain(&mut client(Version::V5, "ret").await, &topic, QoS::AtLeastOnce, "kept").await;
    let mut late = client(Version::V5, "ret").await;
    let filters = [(topic.as_str(), handling(RetainHandling::SendIfNew))];
    late.subscribe_with(&filters, None).await;
    late.expect_message("kept").await;
    late.subscribe_with(&filters, None).await;
    late.expect_nothing().await;
    late.unsubscribe(&[&topic]).await;
    late.subscribe_with(&filters, None).await;
    late.expect_message("kept").await;
}

/// [MQTT-3.3.1-11] Retain Handling 2: never.
#[tokio::test]
async fn retain_handling_2_sends_no_retained_messages() {
    let topic = name("ret");
    let mut publisher = client(Version::V5, "ret").await;
    retain(&mut publisher, &topic, QoS::AtLeastOnce, "kept").await;
    let mut late = client(Version::V5, "ret").await;
    late.subscribe_with(&[(&topic, handling(RetainHandling::DoNotSend))], None).await;
    late.expect_nothing().await;
    publisher.publish(&topic, QoS::AtLeastOnce, "live").await;
    late.expect_message("live").await;
}

/// [MQTT-3.3.1-9] [MQTT311-3.3.1-6] A wildcard subscription gets what is retained under every topic it
/// matches, and nothing else.
#[tokio::test]
async fn a_wildcard_subscription_gets_all_matching_retained_messages() {
    for version in BOTH {
        let base = name("ret");
        let mut publisher = client(version, "ret").await;
        let topics = ["", "/a", "/b", "/a/x", "/b/x", "//x"].map(|end| format!("{base}{end}"));
        for topic in &topics {
            retain(&mut publisher, topic, QoS::AtLeastOnce, "kept").await;
        }
        let cases: [(&str, &[usize]); 4] =
            [("/#", &[0, 1, 2, 3, 4, 5]), ("/+", &[1, 2]), ("/+/x", &[3, 4, 5]), ("/+/+/+", &[])];
        for (filter, matching) in cases {
            let filter = format!("{base}{filter}");
            let mut late = subscriber(version, &filter, QoS::AtLeastOnce).await;
            let mut got = Vec::new();
            for _ in matching {
                got.push(topic_of(&late.expect_message("kept").await).to_owned());
            }
            late.expect_nothing().await;
            let mut expected: Vec<_> = matching.iter().map(|&i| topics[i].clone()).collect();
            expected.sort_unstable();
            got.sort_unstable();
            assert_eq!(got, expected, "{filter}");
        }
    }
}

/// [MQTT-3.3.1-9] [MQTT-3.3.4-3] Retained messages carry properties and the subscription's identifier.
#[tokio::test]
async fn a_retained_message_carries_its_properties_and_the_subscription_identifier() {
    let topic = name("ret");
    let mut publisher = client(Version::V5, "ret").await;
    let mut publish = publisher.new_publish(&topic, QoS::AtLeastOnce, "kept");
    let properties = PublishProperties::builder().content_type("a/b").user_property("k", "v");
    publish.properties = properties.build().expect("the test gives valid properties");
    publish.retain = true;
    publisher.publish_with(publish).await;
    let mut late = client(Version::V5, "ret").await;
    late.subscribe_with(&[(&topic, at(QoS::AtLeastOnce))], Some(12)).await;
    let publish = late.expect_message("kept").await;
    assert_eq!(publish.properties.content_type(), Some("a/b"));
    assert_eq!(publish.properties.user_properties().collect::<Vec<_>>(), [("k", "v")]);
    let ids: Vec<_> = publish.subscription_ids.iter().map(|id| id.value()).collect();
    assert_eq!(ids, [12]);
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6] A retained message expires, and comes with the time that is left.
#[tokio::test]
async fn a_retained_message_expires() {
    let topics = [name("ret"), name("ret")];
    let mut publisher = client(Version::V5, "ret").await;
    for (topic, expiry) in topics.iter().zip([1, 100]) {
        let mut publish = publisher.new_publish(topic, QoS::AtLeastOnce, "kept");
        publish.retain = true;
        publish.expiry_secs = Some(expiry);
        publisher.publish_with(publish).await;
    }
    elapse(Duration::from_millis(2100)).await;
    subscriber(Version::V5, &topics[0], QoS::AtLeastOnce).await.expect_nothing().await;
    let mut late = subscriber(Version::V5, &topics[1], QoS::AtLeastOnce).await;
    let left = late.expect_message("kept").await.expiry_secs.expect("it expires");
    assert!((90..=98).contains(&left), "{left} seconds left of 100 after 2");
}

/// [MQTT-3.3.1-9] More retained messages than fit into a page, or a window, all arrive.
#[tokio::test]
async fn many_retained_messages_all_arrive() {
    let base = name("ret");
    let mut publisher = client(Version::V5, "ret").await;
    for number in 0..500 {
        retain(&mut publisher, &format!("{base}/{number}"), QoS::AtLeastOnce, "kept").await;
    }
    let mut late = subscriber(Version::V5, &format!("{base}/+"), QoS::AtLeastOnce).await;
    let mut topics = std::collections::BTreeSet::new();
    for _ in 0..500 {
        topics.insert(topic_of(&late.expect_message("kept").await).to_owned());
    }
    assert_eq!(topics.len(), 500);
    late.expect_nothing().await;
}

/// [MQTT-3.3.1-9] [MQTT311-3.3.1-6] Who subscribes again while its topic is published to never gets an older
/// value than it has got.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_subscription_brings_nothing_older_than_what_came_live() {
    const COUNT: u32 = 300;
    for version in BOTH {
        let topic = name("ret");
        let mut watcher = subscriber(version, &topic, QoS::AtMostOnce).await;
        let mut publisher = client(version, "ret").await;
        let publishing = tokio::spawn({
            let topic = topic.clone();
            async move {
                for number in 1..=COUNT {
                    let payload = number.to_string().into_bytes();
                    let mut publish = publisher.new_publish(&topic, QoS::AtLeastOnce, payload);
                    publish.retain = true;
                    publisher.publish_with(publish).await;
                }
            }
        });
        let (mut newest, mut retained) = (0, 0);
        while newest < COUNT {
            let publish = watcher.expect_publish().await;
            let number = std::str::from_utf8(&publish.payload).map(str::parse);
            let number = number.expect("it is text").expect("it is a number");
            retained += u32::from(publish.retain);
            assert!(number >= newest, "{number} after {newest}, retain {}", publish.retain);
            newest = number;
            if !publish.retain {
                watcher.subscribe(&topic, QoS::AtMostOnce).await;
            }
        }
        publishing.await.expect("it publishes all");
        assert!(retained > 0, "retained messages come too");
    }
}
