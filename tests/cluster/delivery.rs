//! A cluster in which nothing goes wrong: what is published at one proxy arrives at the others, as it
//! was sent, in order, as often as promised.
//!
//! Each body runs over three proxies and two intermediates, so that messages take both ways.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use mqtt_codec::{Packet, PublishProperties, QoS, SubscriptionOptions, TopicAlias, Version};
use testkit::{Cluster, History, RawClient};

use crate::support::{BOTH, LEVELS, at, client, name, subscriber, topic_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_subscribers_at_every_proxy_with_the_lower_qos() {
    let cluster = Cluster::start(3, 2).await;
    for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 0)] {
        for granted in LEVELS {
            let topic = format!("{}/a", name("qos"));
            let wildcard = topic.replace("/a", "/+");
            let mut exact = subscriber(&cluster, to, Version::V3_1_1, &topic, granted).await;
            let mut matching = subscriber(&cluster, to, Version::V5, &wildcard, granted).await;
            for version in BOTH {
                let mut publisher = client(&cluster, from, version).await;
                for published in LEVELS {
                    let payload = format!("{version:?} {published:?}");
                    publisher.publish(&topic, published, payload.clone()).await;
                    for subscriber in [&mut exact, &mut matching] {
                        let publish = subscriber.expect_message(&payload).await;
                        assert_eq!(topic_of(&publish), topic);
                        // [MQTT-3.8.4-8]
                        assert_eq!(publish.qos, published.min(granted));
                        assert!(!publish.dup && !publish.retain, "{publish:?}");
                    }
                }
                publisher.disconnect().await;
            }
            exact.expect_nothing().await;
            matching.expect_nothing().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_do_not_match_stay_where_they_are() {
    let cluster = Cluster::start(3, 2).await;
    let base = name("other");
    let mut subscribers = Vec::new();
    for filter in [format!("{base}/a"), format!("{base}/+/b"), format!("{base}/c/#")] {
        subscribers.push(subscriber(&cluster, 1, Version::V5, &filter, QoS::ExactlyOnce).await);
    }
    // [MQTT-4.7.2-1]
    let mut all = subscriber(&cluster, 2, Version::V5, "#", QoS::ExactlyOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    publisher.publish(&format!("$private/{base}"), QoS::AtLeastOnce, "private").await;
    for topic in ["", "/a/b/c", "/a/a", "/d", "/A"] {
        publisher.publish(&format!("{base}{topic}"), QoS::AtLeastOnce, topic).await;
        all.expect_message(topic).await;
    }
    for (subscriber, end) in subscribers.iter_mut().zip(["/a", "/x/b", "/c"]) {
        publisher.publish(&format!("{base}{end}"), QoS::AtLeastOnce, end).await;
        subscriber.expect_message(end).await;
        subscriber.expect_nothing().await;
        all.expect_message(end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_cross_unaltered_and_the_expiry_counts_down() {
    let cluster = Cluster::start(3, 2).await;
    let topic = name("properties");
    let mut subscriber = client(&cluster, 1, Version::V5).await;
    subscriber.subscribe_with(&[(&topic, at(QoS::ExactlyOnce))], Some(77)).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    let properties = PublishProperties::builder()
        .payload_format(1)
        .content_type("text/plain")
        .response_topic("answers/here")
        .correlation_data(b"\0\x01\xFF")
        .user_property("z", "first")
        .user_property("a", "second")
        .user_property("z", "third")
        .build()
        .expect("the properties are valid");
    for qos in LEVELS {
        let mut publish = publisher.new_publish(&topic, qos, "text");
        publish.properties = properties.clone();
        publish.expiry_secs = Some(600);
        publish.alias = TopicAlias::new(1);
        assert!(!publisher.publish_with(publish.clone()).await.is_error());
        // The alias is the publisher's own matter: it stands for the topic from now on.
        publish.topic = None;
        publish.packet_id = (qos != QoS::AtMostOnce).then(|| publisher.new_id());
        assert!(!publisher.publish_with(publish).await.is_error());
        for _ in 0..2 {
            let got = subscriber.expect_message("text").await;
            assert_eq!(topic_of(&got), topic);
            assert_eq!(got.properties, properties);
            assert!(got.expiry_secs.is_some_and(|left| (580..=600).contains(&left)), "{got:?}");
            assert_eq!(got.subscription_ids.iter().map(|id| id.value()).collect::<Vec<_>>(), [77]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retain_flag_is_passed_on_only_to_those_who_want_it() {
    let cluster = Cluster::start(3, 2).await;
    let topic = name("retain");
    let mut plain = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut old = subscriber(&cluster, 1, Version::V3_1_1, &topic, QoS::AtLeastOnce).await;
    let mut curious = client(&cluster, 2, Version::V5).await;
    let as_published = SubscriptionOptions { retain_as_published: true, ..at(QoS::AtLeastOnce) };
    curious.subscribe_with(&[(&topic, as_published)], None).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    for (payload, retain) in [("kept", true), ("passing", false)] {
        let mut publish = publisher.new_publish(&topic, QoS::AtLeastOnce, payload);
        publish.retain = retain;
        publisher.publish_with(publish).await;
        // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        assert!(!plain.expect_message(payload).await.retain);
        assert!(!old.expect_message(payload).await.retain);
        assert_eq!(curious.expect_message(payload).await.retain, retain);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_subscribed_gets_exactly_one_copy() {
    let cluster = Cluster::start(3, 2).await;
    for version in BOTH {
        for qos in LEVELS {
            let topic = name("echo");
            let mut publisher = client(&cluster, 0, version).await;
            publisher.subscribe(&topic, QoS::ExactlyOnce).await;
            let mut neighbour = subscriber(&cluster, 0, version, &topic, QoS::ExactlyOnce).await;
            let mut distant = subscriber(&cluster, 1, version, &topic, QoS::ExactlyOnce).await;
            publisher.publish(&topic, qos, "once").await;
            distant.expect_message("once").await;
            // What comes from another proxy on the same topic comes behind anything that looped.
            distant.publish(&topic, QoS::ExactlyOnce, "last").await;
            for client in [&mut publisher, &mut neighbour] {
                client.expect_message("once").await;
                client.expect_message("last").await;
                client.expect_nothing().await;
            }
            distant.expect_message("last").await;
            distant.expect_nothing().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_local_spares_the_publisher_only() {
    let cluster = Cluster::start(3, 2).await;
    let topic = name("nolocal");
    let no_local = SubscriptionOptions { no_local: true, ..at(QoS::AtLeastOnce) };
    let mut publisher = client(&cluster, 0, Version::V5).await;
    let mut distant = client(&cluster, 1, Version::V5).await;
    publisher.subscribe_with(&[(&topic, no_local)], None).await;
    distant.subscribe_with(&[(&topic, no_local)], None).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "theirs").await;
    distant.expect_message("theirs").await;
    distant.publish(&topic, QoS::AtLeastOnce, "mine").await;
    publisher.expect_message("mine").await;
    // [MQTT-3.8.3-3]
    publisher.expect_nothing().await;
    distant.expect_nothing().await;
}

/// Sends `count` messages over several topics without waiting for answers.
async fn pour(client: &mut RawClient, base: &str, qos: QoS, count: u64) -> Vec<(String, Bytes)> {
    let (_, publisher) = base.rsplit_once('/').expect("the last level names the publisher");
    let mut sent = Vec::new();
    for sequence in 0..count {
        let topic = format!("{base}/{}", sequence % 7);
        let payload = History::payload(publisher, sequence);
        let publish = client.new_publish(&topic, qos, payload.clone());
        client.send(Packet::Publish(publish)).await;
        sent.push((topic, payload));
    }
    sent
}

/// Completes the handshakes of `count` messages sent with `qos`, in whatever way they interleave.
async fn answers(client: &mut RawClient, qos: QoS, count: u64) {
    let mut open = if qos == QoS::AtMostOnce { 0 } else { count };
    while open > 0 {
        match client.recv().await {
            Packet::PubRec(pubrec) => client.send(Packet::PubRel(pubrec)).await,
            Packet::PubAck(_) | Packet::PubComp(_) => open -= 1,
            other => panic!("expected an acknowledgement, got {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_messages_arrive_in_the_order_of_their_publisher() {
    const COUNT: u64 = 400;
    let cluster = Cluster::start(3, 2).await;
    for qos in LEVELS {
        let base = name("order");
        let filter = format!("{base}/#");
        let mut subscribers = Vec::new();
        for proxy in 0..3 {
            let connected = subscriber(&cluster, proxy, Version::V5, &filter, QoS::ExactlyOnce);
            subscribers.push(connected.await);
        }
        let mut first = client(&cluster, 0, Version::V5).await;
        let mut second = client(&cluster, 1, Version::V3_1_1).await;
        let (one, two) = (format!("{base}/one"), format!("{base}/two"));
        let mut history = History::new();
        let publishing = async {
            tokio::join!(
                async {
                    let sent = pour(&mut first, &one, qos, COUNT).await;
                    answers(&mut first, qos, COUNT).await;
                    sent
                },
                async {
                    let sent = pour(&mut second, &two, qos, COUNT).await;
                    answers(&mut second, qos, COUNT).await;
                    sent
                }
            )
        };
        let [a, b, c] = &mut subscribers[..] else { unreachable!("three were made") };
        let ((ones, twos), a, b, c) =
            tokio::join!(publishing, take(a, 2 * COUNT), take(b, 2 * COUNT), take(c, 2 * COUNT));
        for (publisher, sent) in [("one", ones), ("two", twos)] {
            for (sequence, (topic, _)) in (0..).zip(sent) {
                history.sent(publisher, &topic, qos, sequence);
                history.acknowledged(publisher, &topic, qos, sequence);
                (0..3).for_each(|who| history.subscribed(&who.to_string(), &topic));
            }
        }
        for (who, received) in [a, b, c].into_iter().enumerate() {
            for (topic, payload) in received {
                history.received(&who.to_string(), &topic, qos, &payload);
            }
            assert_eq!(history.count(&who.to_string()), 2 * 400, "{qos:?}");
        }
        history.check();
        for subscriber in &mut subscribers {
            subscriber.expect_nothing().await;
        }
    }
}

async fn take(subscriber: &mut RawClient, count: u64) -> Vec<(String, Bytes)> {
    let mut received = Vec::new();
    for _ in 0..count {
        let publish = subscriber.expect_publish().await;
        subscriber.accept(&publish).await;
        received.push((topic_of(&publish).to_owned(), publish.payload));
    }
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_after_the_suback_is_never_missed() {
    const REPETITIONS: usize = 400;
    let cluster = Cluster::start(3, 2).await;
    let mut subscriber = client(&cluster, 1, Version::V5).await;
    let mut others =
        [client(&cluster, 0, Version::V5).await, client(&cluster, 2, Version::V3_1_1).await];
    let base = name("suback");
    for repetition in 0..REPETITIONS {
        let topic = format!("{base}/{repetition}/x");
        let filter = match repetition % 3 {
            0 => topic.clone(),
            1 => format!("{base}/{repetition}/+"),
            _ => format!("+/{repetition}/#"),
        };
        let qos = LEVELS[repetition % LEVELS.len()];
        subscriber.subscribe(&filter, QoS::ExactlyOnce).await;
        let publisher = &mut others[repetition % 2];
        publisher.publish(&topic, qos, repetition.to_string()).await;
        subscriber.expect_message(repetition.to_string()).await;
        if repetition % 2 == 0 {
            subscriber.unsubscribe(&[&filter]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_after_the_suback_is_never_missed_while_many_subscribe_at_once() {
    let cluster = Cluster::start(3, 2).await;
    let base = name("crowd");
    let one = async |index: usize| {
        let mut subscriber = client(&cluster, index % 3, Version::V5).await;
        let mut publisher = client(&cluster, (index + 1) % 3, Version::V5).await;
        for repetition in 0..20 {
            let topic = format!("{base}/{index}/{repetition}");
            subscriber.subscribe(&topic, QoS::AtLeastOnce).await;
            publisher.publish(&topic, QoS::AtMostOnce, "soon").await;
            assert_eq!(topic_of(&subscriber.expect_message("soon").await), topic);
        }
    };
    tokio::join!(one(0), one(1), one(2), one(3), one(4), one(5), one(6), one(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_subscriptions_get_one_copy_per_session_and_all_identifiers() {
    let cluster = Cluster::start(3, 2).await;
    let base = name("overlap");
    let topic = format!("{base}/a/b");
    let filters = [topic.clone(), format!("{base}/+/b"), format!("{base}/#")];
    let mut subscriber = client(&cluster, 1, Version::V5).await;
    for ((filter, id), qos) in filters.iter().zip(1..).zip(LEVELS) {
        subscriber.subscribe_with(&[(filter, at(qos))], Some(id)).await;
    }
    let mut publisher = client(&cluster, 0, Version::V5).await;
    publisher.publish(&topic, QoS::ExactlyOnce, "all").await;
    let publish = subscriber.expect_message("all").await;
    // [MQTT-3.3.4-2] [MQTT-3.3.4-4]: the server may send one copy, at the highest QoS, with all ids.
    assert_eq!(publish.qos, QoS::ExactlyOnce);
    let ids: HashSet<_> = publish.subscription_ids.iter().map(|id| id.value()).collect();
    assert_eq!(ids, HashSet::from([1, 2, 3]));
    subscriber.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_at_one_proxy_is_sent_to_a_later_subscriber_of_another() {
    let cluster = Cluster::start(3, 2).await;
    for qos in LEVELS {
        let topic = name("kept");
        let mut witnesses = Vec::new();
        for proxy in 0..3 {
            let connected = subscriber(&cluster, proxy, Version::V3_1_1, &topic, QoS::AtMostOnce);
            witnesses.push(connected.await);
        }
        let mut publisher = client(&cluster, 0, Version::V5).await;
        let mut publish = publisher.new_publish(&topic, qos, "value");
        publish.retain = true;
        publish.properties =
            PublishProperties::builder().content_type("text").build().expect("it is valid");
        publisher.publish_with(publish).await;
        // QoS 0 has no acknowledgement that would say it has arrived.
        for witness in &mut witnesses {
            witness.expect_message("value").await;
        }
        for proxy in 0..3 {
            let mut late = subscriber(&cluster, proxy, Version::V5, &topic, QoS::ExactlyOnce).await;
            let publish = late.expect_message("value").await;
            assert_eq!(publish.properties.content_type(), Some("text"));
            // [MQTT-3.3.1-8]
            assert!(publish.retain);
            assert_eq!(publish.qos, qos);
        }
        let mut removal = publisher.new_publish(&topic, QoS::AtLeastOnce, "");
        removal.retain = true;
        publisher.publish_with(removal).await;
        for proxy in 0..3 {
            let mut late = subscriber(&cluster, proxy, Version::V5, &topic, QoS::AtLeastOnce).await;
            late.expect_nothing().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_group_of_one_proxy_gets_each_message_once() {
    const COUNT: usize = 60;
    let cluster = Cluster::start(3, 2).await;
    let base = name("group");
    let filter = format!("$share/{base}/{base}/#");
    let mut members = Vec::new();
    for version in [Version::V5, Version::V5, Version::V3_1_1] {
        members.push(subscriber(&cluster, 1, version, &filter, QoS::AtLeastOnce).await);
    }
    let mut plain =
        subscriber(&cluster, 1, Version::V5, &format!("{base}/#"), QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    for number in 0..COUNT {
        publisher.publish(&format!("{base}/{number}"), QoS::AtLeastOnce, number.to_string()).await;
        plain.expect_message(number.to_string()).await;
    }
    let mut seen = Vec::new();
    for member in &mut members {
        // What is acknowledged to the publisher is on its way to a member before this answer.
        member.send(Packet::PingReq).await;
        let before = seen.len();
        while let Packet::Publish(publish) = member.recv().await {
            member.accept(&publish).await;
            seen.push(publish.payload);
        }
        assert!(seen.len() > before, "a member got nothing");
    }
    let distinct: HashSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (COUNT, COUNT));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_after_the_unsuback_and_other_subscribers_go_on() {
    let cluster = Cluster::start(3, 2).await;
    let topic = name("unsubscribe");
    let mut leaving = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut staying = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "both").await;
    leaving.expect_message("both").await;
    staying.expect_message("both").await;
    leaving.unsubscribe(&[&topic]).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "one").await;
    staying.expect_message("one").await;
    leaving.expect_nothing().await;
    staying.unsubscribe(&[&topic]).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "none").await;
    staying.expect_nothing().await;
    // The route may have been withdrawn meanwhile: it must be there again.
    leaving.subscribe(&topic, QoS::AtLeastOnce).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "again").await;
    leaving.expect_message("again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_packet_crosses() {
    // The largest packet of the default configuration, less what stands before the payload.
    const SIZE: usize = (1 << 20) - 64;
    let cluster = Cluster::start(3, 2).await;
    let topic = name("large");
    let mut subscriber = subscriber(&cluster, 1, Version::V5, &topic, QoS::ExactlyOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    for (qos, fill) in LEVELS.into_iter().zip(1..) {
        let payload = Bytes::from(vec![fill; SIZE]);
        publisher.publish(&topic, qos, payload.clone()).await;
        let publish = subscriber.expect_publish().await;
        assert!(publish.payload == payload, "{} bytes arrived", publish.payload.len());
        subscriber.accept(&publish).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_expires_on_the_way_is_not_delivered() {
    let cluster = Cluster::start(3, 2).await;
    let topic = name("expiry");
    let mut subscriber = client(&cluster, 1, Version::V5).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    let mut publish = publisher.new_publish(&topic, QoS::AtLeastOnce, "short");
    publish.expiry_secs = Some(1);
    publish.retain = true;
    publisher.publish_with(publish).await;
    testkit::elapse(Duration::from_millis(1_200)).await;
    subscriber.subscribe(&topic, QoS::AtLeastOnce).await;
    // [MQTT-3.3.2-5]
    subscriber.expect_nothing().await;
    let mut later = publisher.new_publish(&topic, QoS::AtLeastOnce, "long");
    later.expiry_secs = Some(60);
    publisher.publish_with(later).await;
    assert!(subscriber.expect_message("long").await.expiry_secs.is_some_and(|left| left <= 60));
}
