//! Section 3.3.2.3.4: topic aliases, both ways.

use mqtt_codec::{Packet, Publish, QoS, ReasonCode, TopicAlias, Version};
use testkit::{Broker, RawClient, wire};

use crate::support::{client, name, server, subscriber, topic_of};

/// A QoS 0 PUBLISH with an alias, and with its topic or without.
fn aliased(
    client: &mut RawClient,
    topic: Option<&str>,
    alias: u16,
    payload: &'static str,
) -> Packet {
    let mut publish = client.new_publish(topic.unwrap_or("unused"), QoS::AtMostOnce, payload);
    publish.alias = TopicAlias::new(alias);
    if topic.is_none() {
        publish.topic = None;
    }
    Packet::Publish(publish)
}

/// [MQTT-3.3.2-12] [MQTT-3.2.2-17] Every alias from 1 to the announced maximum is accepted, and can be
/// set anew.
#[tokio::test]
async fn aliases_up_to_the_maximum_are_accepted() {
    let base = name("ali");
    let mut receiver = subscriber(Version::V5, &format!("{base}/#"), QoS::AtMostOnce).await;
    let mut sender = client(Version::V5, "ali").await;
    let maximum = sender.connack().topic_alias_maximum.expect("the server takes aliases");
    for round in ["first", "second"] {
        for alias in [1, 2, maximum] {
            let topic = format!("{base}/{round}/{alias}");
            let set = aliased(&mut sender, Some(&topic), alias, "set");
            sender.send(set).await;
            let used = aliased(&mut sender, None, alias, "used");
            sender.send(used).await;
            for payload in ["set", "used"] {
                assert_eq!(topic_of(&receiver.expect_message(payload).await), topic);
            }
        }
    }
}

/// [MQTT-3.2.2-17] [MQTT-3.3.2-9] [MQTT-3.3.2-8] Alias 0, and one above the maximum, is invalid.
#[tokio::test]
async fn aliases_outside_the_range_end_the_connection() {
    let maximum = client(Version::V5, "ali").await.connack().topic_alias_maximum;
    for alias in [0, maximum.expect("the server takes aliases") + 1, 65_535] {
        let mut sender = client(Version::V5, "ali").await;
        let property = [&[0x23][..], &alias.to_be_bytes()].concat();
        let body = [wire::field("t"), wire::properties(&[&property])].concat();
        sender.send_bytes(&wire::frame(0x30, &body)).await;
        sender.expect_end(ReasonCode::TopicAliasInvalid).await;
    }
}

/// [MQTT-3.2.2-18] A server that takes no aliases announces none and ends who uses one.
#[tokio::test]
async fn a_server_without_aliases_takes_none() {
    let broker = Broker::start(|config| config.mqtt.topic_alias_maximum = 0).await;
    let mut sender = broker.connect(Version::V5, "a", |_| {}).await;
    assert_eq!(sender.connack().topic_alias_maximum.unwrap_or(0), 0);
    let packet = aliased(&mut sender, Some("t"), 1, "x");
    sender.send(packet).await;
    sender.expect_end(ReasonCode::TopicAliasInvalid).await;
}

/// [MQTT-3.3.2-7] [MQTT-4.13.1-1] An alias that stands for nothing is a protocol error, also when it
/// stood for something on an earlier connection of the session.
#[tokio::test]
async fn aliases_end_with_their_connection() {
    let (id, topic) = (name("ali"), name("ali"));
    let mut first = server().connect(Version::V5, &id, testkit::persistent).await;
    let packet = aliased(&mut first, Some(&topic), 1, "x");
    first.send(packet).await;
    first.disconnect().await;
    let mut second = server().connect(Version::V5, &id, testkit::persistent).await;
    let packet = aliased(&mut second, None, 1, "x");
    second.send(packet).await;
    second.expect_end(ReasonCode::ProtocolError).await;
}

/// [MQTT-3.1.2-27] [MQTT-3.3.2-11] A client that takes no aliases is sent none.
#[tokio::test]
async fn no_alias_is_sent_to_who_takes_none() {
    let topic = name("ali");
    let mut receiver = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut sender = client(Version::V5, "ali").await;
    for _ in 0..5 {
        sender.publish(&topic, QoS::AtLeastOnce, "x").await;
        let publish = receiver.expect_message("x").await;
        assert_eq!((publish.alias, topic_of(&publish)), (None, topic.as_str()));
    }
}

/// What `publish` is about, by a table of the aliases seen so far.
fn resolve(publish: &Publish, table: &mut Vec<(u16, String)>) -> String {
    let alias = publish.alias.map(TopicAlias::value);
    if let (Some(alias), Some(topic)) = (alias, &publish.topic) {
        table.retain(|(known, _)| *known != alias);
        table.push((alias, topic.to_string()));
    }
    if let Some(topic) = &publish.topic {
        return topic.to_string();
    }
    let known = table.iter().find(|(known, _)| Some(*known) == alias);
    known.expect("the alias stands for a topic").1.clone()
}

/// [MQTT-3.1.2-26] [MQTT-3.3.2-11] [MQTT-3.3.2-10] A client that takes aliases is sent them, none above
/// its maximum, and can always tell the topic.
#[tokio::test]
async fn aliases_are_sent_to_who_takes_them() {
    let base = name("ali");
    let with_aliases = server().connect(Version::V5, &name("ali"), |c| c.topic_alias_maximum = 2);
    let mut receiver = with_aliases.await;
    receiver.subscribe(&format!("{base}/#"), QoS::AtLeastOnce).await;
    let mut sender = client(Version::V5, "ali").await;
    let (mut table, mut without_topic) = (Vec::new(), 0);
    for round in 0..4 {
        for topic in 0..4 {
            let topic = format!("{base}/a/topic/worth/an/alias/{topic}");
            let qos = if round % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            sender.publish(&topic, qos, "x").await;
            let publish = receiver.expect_message("x").await;
            assert!(publish.alias.is_none_or(|alias| alias.value() <= 2), "{publish:?}");
            without_topic += u32::from(publish.topic.is_none());
            assert_eq!(resolve(&publish, &mut table), topic);
        }
    }
    assert!(without_topic > 0, "no alias ever replaced a topic");
}

/// [MQTT-3.3.2-7] [MQTT-4.4.0-1] A message that is sent again over a new connection names its topic
/// again.
#[tokio::test]
async fn a_message_sent_again_names_its_topic() {
    let (id, topic) = (name("ali"), format!("{}/worth/an/alias", name("ali")));
    let connect = |c: &mut mqtt_codec::Connect| {
        testkit::persistent(c);
        c.topic_alias_maximum = 5;
    };
    let mut first = server().connect(Version::V5, &id, connect).await;
    first.subscribe(&topic, QoS::AtLeastOnce).await;
    let mut sender = client(Version::V5, "ali").await;
    for _ in 0..2 {
        sender.publish(&topic, QoS::AtLeastOnce, "x").await;
        first.expect_publish().await;
    }
    drop(first);
    let mut second = server().connect(Version::V5, &id, connect).await;
    let mut table = Vec::new();
    for _ in 0..2 {
        let publish = second.expect_message("x").await;
        assert!(publish.dup);
        assert_eq!(resolve(&publish, &mut table), topic);
    }
}

/// [MQTT-3.3.4-1] An aliased PUBLISH with QoS 1 and 2 is acknowledged and delivered as any other.
#[tokio::test]
async fn aliases_work_with_every_qos() {
    let topic = name("ali");
    let mut receiver = subscriber(Version::V5, &topic, QoS::ExactlyOnce).await;
    let mut sender = client(Version::V5, "ali").await;
    for (qos, named) in [(QoS::AtLeastOnce, true), (QoS::ExactlyOnce, false)] {
        let mut publish = sender.new_publish(&topic, qos, "x");
        publish.alias = TopicAlias::new(1);
        if !named {
            publish.topic = None;
        }
        sender.publish_with(publish).await;
        let received = receiver.expect_message("x").await;
        assert_eq!((topic_of(&received), received.alias), (topic.as_str(), None));
    }
}
