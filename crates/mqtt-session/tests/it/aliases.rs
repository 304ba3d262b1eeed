//! Topic aliases, both ways.

use std::sync::Arc;

use mqtt_codec::{Connect, Message, Packet, Publish, QoS, ReasonCode, TopicName, Version};
use mqtt_session::{Delivery, ServerProfile};

use crate::script::*;

fn aliased(name: Option<&'static str>, number: u16) -> Packet {
    Packet::Publish(Publish {
        topic: name.map(topic),
        alias: Some(alias(number)),
        ..publish(1, QoS::AtMostOnce, 0)
    })
}

fn to(name: String) -> Delivery {
    let topic = TopicName::new(name).unwrap();
    Delivery { message: Arc::new(Message { topic, ..message(1) }), ..delivery(1, QoS::AtMostOnce) }
}

/// [MQTT-3.3.2-12]
#[test]
fn an_alias_stands_for_the_topic_it_was_last_set_to() {
    let mut script = Script::start(Version::V5);
    for (name, number, meant) in [
        (Some("one"), 1, "one"),
        (Some("sixteen"), 16, "sixteen"),
        (None, 1, "one"),
        (Some("other"), 1, "other"),
        (None, 16, "sixteen"),
        (None, 1, "other"),
    ] {
        script.send(aliased(name, number));
        assert_eq!(script.accept().topic.as_str(), meant);
    }
}

/// [MQTT-3.3.2-9] [MQTT-3.2.2-17]
#[test]
fn an_alias_above_the_maximum_ends_the_connection() {
    let mut script = Script::start(Version::V5);
    let error = script.send_wrong(aliased(Some("a"), 17));
    assert_eq!(error.statement, "MQTT-3.3.2-9");
    script.expect_farewell(ReasonCode::TopicAliasInvalid);
}

/// [MQTT-3.2.2-18]
#[test]
fn no_alias_is_allowed_where_the_maximum_is_none() {
    let profile = ServerProfile { topic_alias_maximum: 0, ..ServerProfile::default() };
    let mut script = Script::with(&connect(Version::V5), profile);
    script.send_wrong(aliased(Some("a"), 1));
    script.expect_farewell(ReasonCode::TopicAliasInvalid);
}

#[test]
fn an_alias_that_stands_for_nothing_is_a_protocol_error() {
    let mut script = Script::start(Version::V5);
    script.send_wrong(aliased(None, 3));
    script.expect_farewell(ReasonCode::ProtocolError);
    // Neither was it kept by the connection before [MQTT-3.3.2-7].
    let mut script = Script::start(Version::V5);
    script.send(aliased(Some("a"), 3));
    script.accept();
    let mut script = Script::resume(&connect(Version::V5), resumed(&[], &[]));
    script.send_wrong(aliased(None, 3));
}

/// [MQTT-3.1.2-27]
#[test]
fn a_client_that_allows_no_alias_gets_none() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        for _ in 0..3 {
            script.deliver(delivery(1, QoS::AtMostOnce));
            let publish = script.expect_publish();
            assert!(publish.topic.is_some() && publish.alias.is_none());
        }
    }
}

/// [MQTT-3.1.2-26] [MQTT-3.3.2-11] [MQTT-3.3.2-8] Whatever is sent can be read by a client that
/// knows its own maximum only.
#[test]
fn aliases_are_used_within_what_client_and_server_allow() {
    for (client, server, expected) in [(3, 16, 3), (16, 2, 2), (1000, 1000, 64)] {
        let profile =
            ServerProfile { outbound_topic_alias_maximum: server, ..ServerProfile::default() };
        let connect = Connect { topic_alias_maximum: client, ..connect(Version::V5) };
        let mut script = Script::with(&connect, profile);
        let mut known: Vec<Option<TopicName>> = vec![None; usize::from(client)];
        let mut bare = 0;
        for round in 0..2000_u32 {
            // A few topics again and again, and a stream of new ones.
            let name = match round % 3 {
                0 => format!("often/{:04}", round % 5),
                _ => format!("rarely/{round:04}"),
            };
            let delivery = to(name);
            script.deliver(delivery.clone());
            let publish = script.expect_publish();
            let read = match (publish.topic, publish.alias) {
                (Some(name), None) => name,
                (Some(name), Some(alias)) => {
                    known[usize::from(alias.value()) - 1] = Some(name.clone());
                    name
                }
                (None, alias) => {
                    bare += 1;
                    known[usize::from(alias.unwrap().value()) - 1].clone().unwrap()
                }
            };
            assert_eq!(read, delivery.message.topic);
        }
        assert_eq!(known.iter().flatten().count(), expected);
        assert!(bare > 200, "{bare} of 2000 without their topic");
    }
}

#[test]
fn a_topic_shorter_than_its_alias_gets_none() {
    let connect = Connect { topic_alias_maximum: 10, ..connect(Version::V5) };
    let mut script = Script::with(&connect, ServerProfile::default());
    for _ in 0..3 {
        script.deliver(to("a/b".to_owned()));
        assert_eq!(script.expect_publish().alias, None);
    }
}
