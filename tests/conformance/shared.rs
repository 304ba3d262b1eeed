//! Section 4.8.2: shared subscriptions, which MQTT 3.1.1 clients may use too.

use std::collections::BTreeSet;

use bytes::Bytes;
use mqtt_codec::{Ack, Packet, QoS, ReasonCode, Version};
use testkit::{RawClient, eventually, persistent, wire};

use crate::support::{ALL, BOTH, LEVELS, client, name, retain, server, settle, subscriber};

/// What has arrived at `client` by now, with every handshake completed.
async fn drain(client: &mut RawClient) -> Vec<Bytes> {
    let mut payloads = Vec::new();
    client.send(Packet::PingReq).await;
    let (mut pinged, mut unreleased) = (false, 0);
    while !pinged || unreleased > 0 {
        let packet = client.recv().await;
        if let Packet::PubRel(ack) = packet {
            unreleased -= 1;
            client.send(Packet::PubComp(ack)).await;
        } else if let Packet::Publish(publish) = packet {
            payloads.push(publish.payload);
            let Some(id) = publish.packet_id else { continue };
            let exactly_once = publish.qos == QoS::ExactlyOnce;
            unreleased += usize::from(exactly_once);
            let answer = if exactly_once { Packet::PubRec } else { Packet::PubAck };
            client.send(answer(Ack::new(id, ReasonCode::Success))).await;
        } else {
            assert_eq!(packet, Packet::PingResp);
            pinged = true;
        }
    }
    payloads
}

/// [MQTT-4.8.2-3] [MQTT-4.8.2-1] Each message goes to one member of the group, and every member gets
/// some.
#[tokio::test]
async fn each_message_goes_to_one_member() {
    for version in ALL {
        for qos in LEVELS {
            let topic = name("sha");
            let filter = format!("$share/group/{topic}");
            let mut members = [
                subscriber(version, &filter, qos).await,
                subscriber(version, &filter, qos).await,
                subscriber(version, &filter, qos).await,
            ];
            let mut publisher = client(version, "sha").await;
            for number in 0..60 {
                publisher.publish(&topic, qos, number.to_string()).await;
            }
            settle(&mut publisher).await;
            let mut all = Vec::new();
            let mut shares = [0; 3];
            eventually("all messages have arrived", async || {
                for (member, share) in members.iter_mut().zip(&mut shares) {
                    let got = drain(member).await;
                    *share += got.len();
                    all.extend(got);
                }
                all.len() >= 60
            })
            .await;
            assert!(!shares.contains(&0), "a member got nothing: {shares:?}");
            assert_eq!(all.len(), 60);
            assert_eq!(BTreeSet::from_iter(all).len(), 60);
        }
    }
}

/// [MQTT-4.8.2-3] The granted QoS of the chosen member counts.
#[tokio::test]
async fn a_shared_message_comes_with_the_qos_granted_to_the_member() {
    for version in BOTH {
        for granted in LEVELS {
            let topic = name("sha");
            let mut member = subscriber(version, &format!("$share/g/{topic}"), granted).await;
            let mut publisher = client(version, "sha").await;
            for qos in LEVELS {
                publisher.publish(&topic, qos, "x").await;
                assert_eq!(member.expect_message("x").await.qos, qos.min(granted));
            }
        }
    }
}

/// [MQTT-4.8.2-1] Groups and plain subscriptions each get their own copy.
#[tokio::test]
async fn groups_and_plain_subscriptions_are_independent() {
    for version in BOTH {
        let topic = name("sha");
        let mut plain = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let mut one = subscriber(version, &format!("$share/one/{topic}"), QoS::AtLeastOnce).await;
        let mut two = subscriber(version, &format!("$share/two/{topic}"), QoS::AtLeastOnce).await;
        let mut wild =
            subscriber(version, &format!("$share/one/{topic}/#"), QoS::AtLeastOnce).await;
        client(version, "sha").await.publish(&topic, QoS::AtLeastOnce, "x").await;
        for client in [&mut plain, &mut one, &mut two, &mut wild] {
            client.expect_message("x").await;
            client.expect_nothing().await;
        }
    }
}

/// [MQTT-4.8.2-1] A client may have a plain and a shared subscription to the same filter, and gets a
/// copy by each.
#[tokio::test]
async fn one_client_may_subscribe_plainly_and_shared() {
    for version in BOTH {
        let topic = name("sha");
        let mut both = subscriber(version, &topic, QoS::AtLeastOnce).await;
        both.subscribe(&format!("$share/g/{topic}"), QoS::AtLeastOnce).await;
        client(version, "sha").await.publish(&topic, QoS::AtLeastOnce, "x").await;
        both.expect_message("x").await;
        both.expect_message("x").await;
        both.expect_nothing().await;
    }
}

/// [MQTT-4.8.2-1] [MQTT-4.8.2-2] A filter that begins with $share must have a name and a filter behind
/// it.
#[tokio::test]
async fn an_incomplete_shared_filter_ends_the_connection() {
    for version in BOTH {
        for filter in ["$share//t", "$share/g", "$share/g/", "$share/", "$share/a+/t", "$share/#/t"]
        {
            let mut client = client(version, "sha").await;
            let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
            let body = [&[0, 1], none, &wire::field(filter), &[0]].concat();
            client.send_bytes(&wire::frame(0x82, &body)).await;
            client.expect_end(ReasonCode::TopicFilterInvalid).await;
        }
    }
}

/// [MQTT-4.8.2-2] Behind the name stands a filter with all its wildcards.
#[tokio::test]
async fn a_shared_filter_may_have_wildcards() {
    for version in BOTH {
        let base = name("sha");
        let filter = format!("$share/g/{base}/+/x/#");
        let mut member = subscriber(version, &filter, QoS::AtLeastOnce).await;
        let mut publisher = client(version, "sha").await;
        for topic in ["a/x", "b/x/y/z", "a/y"] {
            publisher.publish(&format!("{base}/{topic}"), QoS::AtLeastOnce, topic).await;
        }
        member.expect_message("a/x").await;
        member.expect_message("b/x/y/z").await;
        member.expect_nothing().await;
    }
}

/// [MQTT-4.8.2-4] A QoS 2 delivery that began is completed with the same member when it comes back.
#[tokio::test]
async fn a_qos_2_delivery_is_completed_with_the_member_that_returns() {
    for version in BOTH {
        let (id, topic) = (name("sha"), name("sha"));
        let filter = format!("$share/g/{topic}");
        let mut first = server().connect(version, &id, persistent).await;
        first.subscribe(&filter, QoS::ExactlyOnce).await;
        client(version, "sha").await.publish(&topic, QoS::ExactlyOnce, "mine").await;
        let mut publish = first.expect_publish().await;
        let mut other = subscriber(version, &filter, QoS::ExactlyOnce).await;
        drop(first);
        other.expect_nothing().await;
        let mut back = server().connect(version, &id, persistent).await;
        publish.dup = true;
        assert_eq!(back.expect_publish().await, publish);
        back.accept(&publish).await;
        back.expect_nothing().await;
        other.expect_nothing().await;
    }
}

/// [MQTT-4.8.2-5] When the session of that member ends, the QoS 2 message goes to nobody else.
#[tokio::test]
async fn a_qos_2_delivery_is_not_given_to_another_member() {
    for version in BOTH {
        let (id, topic) = (name("sha"), name("sha"));
        let filter = format!("$share/g/{topic}");
        let mut first = server().connect(version, &id, |_| {}).await;
        first.subscribe(&filter, QoS::ExactlyOnce).await;
        let mut publisher = client(version, "sha").await;
        publisher.publish(&topic, QoS::ExactlyOnce, "mine").await;
        first.expect_publish().await;
        let mut other = subscriber(version, &filter, QoS::ExactlyOnce).await;
        first.unsubscribe(&[&filter]).await;
        first.disconnect().await;
        publisher.publish(&topic, QoS::ExactlyOnce, "marker").await;
        other.expect_message("marker").await;
        other.expect_nothing().await;
    }
}

/// [MQTT-4.8.2-6] What a member refuses goes to nobody else.
#[tokio::test]
async fn what_a_member_refuses_is_given_to_nobody() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let topic = name("sha");
        let filter = format!("$share/g/{topic}");
        let mut refuser = subscriber(Version::V5, &filter, qos).await;
        let mut publisher = client(Version::V5, "sha").await;
        publisher.publish(&topic, qos, "unwelcome").await;
        let id = refuser.expect_publish().await.packet_id.expect("QoS above 0 has one");
        let mut other = subscriber(Version::V5, &filter, qos).await;
        let refusal = Ack::new(id, ReasonCode::UnspecifiedError);
        let refuse = if qos == QoS::ExactlyOnce { Packet::PubRec } else { Packet::PubAck };
        refuser.send(refuse(refusal)).await;
        refuser.expect_nothing().await;
        refuser.unsubscribe(&[&filter]).await;
        refuser.disconnect().await;
        publisher.publish(&topic, qos, "marker").await;
        other.expect_message("marker").await;
        other.expect_nothing().await;
    }
}

/// [MQTT-4.8.2-3] After a member has left, the others get everything.
#[tokio::test]
async fn the_messages_of_a_member_that_left_go_to_the_others() {
    for version in BOTH {
        let topic = name("sha");
        let filter = format!("$share/g/{topic}");
        let leaver = subscriber(version, &filter, QoS::AtLeastOnce).await;
        let mut stayer = subscriber(version, &filter, QoS::AtLeastOnce).await;
        let mut publisher = client(version, "sha").await;
        leaver.disconnect().await;
        // Its session ends a moment after its connection.
        // What it was given until then comes too.
        let (mut sent, mut received) = (0, 0);
        eventually("the member has left", async || {
            for _ in 0..2 {
                publisher.publish(&topic, QoS::AtLeastOnce, "who is there").await;
                sent += 1;
            }
            received += drain(&mut stayer).await.len();
            received == sent
        })
        .await;
        for number in 0..10 {
            publisher.publish(&topic, QoS::AtLeastOnce, number.to_string()).await;
        }
        for number in 0..10 {
            stayer.expect_message(number.to_string()).await;
        }
    }
}

/// [MQTT-3.3.1-9] A shared subscription gets no retained messages when it is made (4.8.2).
#[tokio::test]
async fn a_shared_subscription_gets_no_retained_messages() {
    for version in BOTH {
        let topic = name("sha");
        retain(&mut client(version, "sha").await, &topic, QoS::AtLeastOnce, "kept").await;
        let filter = format!("$share/g/{topic}");
        subscriber(version, &filter, QoS::AtLeastOnce).await.expect_nothing().await;
    }
}
