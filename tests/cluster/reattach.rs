//! What a connection keeps while the store is away and comes back: it goes on where it was, and what its client said
//! meanwhile is not lost. Servers in this process; the intermediate with the store is killed and started again.

use std::time::Duration;

use mqtt_codec::{Ack, Connect, Packet, Publish, QoS, ReasonCode, Version, Will};
use testkit::{Cluster, RawClient, persistent};

use crate::support::{BOTH, LEVELS, client, message, name, readiness};

fn ack(publish: &Publish) -> Ack {
    Ack::new(publish.packet_id.expect("above QoS 0"), ReasonCode::Success)
}

/// The next message, which is not acknowledged yet.
async fn unanswered(client: &mut RawClient, payload: &str) -> Publish {
    let publish = client.expect_publish().await;
    assert_eq!(publish.payload, payload);
    publish
}

async fn kept(cluster: &Cluster, version: Version, id: &str) -> RawClient {
    cluster.proxy(0).connect(version, id, persistent).await
}

async fn kill_store(cluster: &mut Cluster) {
    cluster.kill_intermediate(0).await;
    readiness(cluster.proxy(0), 503).await;
}

async fn restart_store(cluster: &mut Cluster) {
    cluster.restart_intermediate(0).await;
    readiness(cluster.proxy(0), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_acknowledges_while_the_store_is_away_does_not_come_again() {
    let mut cluster = Cluster::start(1, 1).await;
    for version in BOTH {
        let (id, topic) = (name("away"), name("away"));
        let mut receiver = kept(&cluster, version, &id).await;
        receiver.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut publisher = client(&cluster, 0, version).await;
        let mut sent = Vec::new();
        for (payload, qos) in
            [("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce), ("3", QoS::ExactlyOnce)]
        {
            publisher.publish(&topic, qos, payload).await;
            sent.push(unanswered(&mut receiver, payload).await);
        }
        // The third is received before, and released after.
        receiver.send(Packet::PubRec(ack(&sent[2]))).await;
        assert_eq!(receiver.expect_pubrel().await, ack(&sent[2]));
        kill_store(&mut cluster).await;
        receiver.send(Packet::PubAck(ack(&sent[0]))).await;
        receiver.send(Packet::PubRec(ack(&sent[1]))).await;
        receiver.send(Packet::PubComp(ack(&sent[2]))).await;
        receiver.expect_nothing().await;
        restart_store(&mut cluster).await;
        assert_eq!(receiver.expect_pubrel().await, ack(&sent[1]));
        receiver.send(Packet::PubComp(ack(&sent[1]))).await;
        publisher.publish(&topic, QoS::ExactlyOnce, "after").await;
        receiver.expect_message("after").await;
        receiver.expect_nothing().await;
        receiver.disconnect().await;
        let mut again = kept(&cluster, version, &id).await;
        assert!(again.connack().session_present);
        again.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_clients_wait_for_the_store_and_are_answered_when_it_is_back() {
    let mut cluster = Cluster::start(1, 1).await;
    for version in BOTH {
        let topics = [name("away"), name("away"), name("away")];
        let mut keeping = kept(&cluster, version, &name("away")).await;
        let mut member = client(&cluster, 0, version).await;
        let mut publisher = kept(&cluster, version, &name("away")).await;
        kill_store(&mut cluster).await;
        let share = format!("$share/group/{}", topics[1]);
        let publish = publisher.new_publish(&topics[2], QoS::ExactlyOnce, "begun");
        let asked = async {
            keeping.subscribe(&topics[0], QoS::ExactlyOnce).await;
            member.subscribe(&share, QoS::AtLeastOnce).await;
        };
        publisher.send(Packet::Publish(publish.clone())).await;
        publisher.expect_nothing().await;
        let ((), ()) = tokio::join!(asked, restart_store(&mut cluster));
        assert_eq!(publisher.expect_pubrec().await, ack(&publish));
        publisher.send(Packet::PubRel(ack(&publish))).await;
        assert_eq!(publisher.expect_pubcomp().await, ack(&publish));
        for qos in LEVELS {
            publisher.publish(&topics[0], qos, "for the one that keeps").await;
            keeping.expect_message("for the one that keeps").await;
            publisher.publish(&topics[1], qos, "for the member").await;
            member.expect_message("for the member").await;
        }
        keeping.unsubscribe(&[&topics[0]]).await;
        member.unsubscribe(&[&share]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_clean_session_is_one_again_when_the_store_is_back() {
    let mut cluster = Cluster::start(1, 1).await;
    for version in BOTH {
        let topic = name("away");
        let mut member = client(&cluster, 0, version).await;
        member.subscribe(&format!("$share/group/{topic}"), QoS::ExactlyOnce).await;
        let mut publisher = client(&cluster, 0, version).await;
        let mut sent = Vec::new();
        for (payload, qos) in [("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce)] {
            publisher.publish(&topic, qos, payload).await;
            sent.push(unanswered(&mut member, payload).await);
        }
        kill_store(&mut cluster).await;
        member.send(Packet::PubAck(ack(&sent[0]))).await;
        member.send(Packet::PubRec(ack(&sent[1]))).await;
        assert_eq!(member.expect_pubrel().await, ack(&sent[1]));
        member.send(Packet::PubComp(ack(&sent[1]))).await;
        restart_store(&mut cluster).await;
        publisher.publish(&topic, QoS::ExactlyOnce, "after").await;
        member.expect_message("after").await;
        member.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_connections_end_while_the_store_is_away_it_hears_when_it_is_back() {
    let mut cluster = Cluster::start(1, 1).await;
    for version in BOTH {
        let (topic, polite) = (name("away"), name("away"));
        let with_will = |payload: &'static str, topic: String| {
            move |connect: &mut Connect| {
                let mut message = message(&topic, payload);
                message.qos = QoS::AtLeastOnce;
                connect.will = Some(Will { message, delay_secs: 0 });
            }
        };
        let mut watcher = client(&cluster, 0, version).await;
        watcher.subscribe(&topic, QoS::AtLeastOnce).await;
        let proxy = cluster.proxy(0);
        let lost = proxy.connect(version, &name("away"), with_will("lost", topic.clone())).await;
        let leaving = proxy.connect(version, &polite, with_will("left", topic.clone())).await;
        kill_store(&mut cluster).await;
        drop(lost);
        leaving.disconnect().await;
        watcher.expect_nothing().await;
        restart_store(&mut cluster).await;
        watcher.expect_message("lost").await;
        watcher.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_served_without_the_store_is_known_to_it_later() {
    let mut cluster = Cluster::start(2, 1).await;
    for version in BOTH {
        let (id, topic) = (name("away"), name("away"));
        kill_store(&mut cluster).await;
        let mut early = cluster.proxy(0).connect(version, &id, |_| {}).await;
        restart_store(&mut cluster).await;
        readiness(cluster.proxy(1), 200).await;
        early.subscribe(&format!("$share/group/{topic}"), QoS::AtLeastOnce).await;
        let mut publisher = client(&cluster, 1, version).await;
        publisher.publish(&topic, QoS::AtLeastOnce, "for the member").await;
        early.expect_message("for the member").await;
        let _later = cluster.proxy(1).connect(version, &id, |_| {}).await;
        early.expect_end(ReasonCode::SessionTakenOver).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_start_that_was_served_without_the_store_ends_the_session_although_its_client_left()
{
    let mut cluster = Cluster::start(2, 1).await;
    for version in BOTH {
        let (id, leaver, topic) = (name("forgotten"), name("newer"), name("forgotten"));
        let mut before = kept(&cluster, version, &id).await;
        before.subscribe(&topic, QoS::AtLeastOnce).await;
        before.disconnect().await;
        // One that still has its connection, at the other proxy.
        let mut held = cluster.proxy(1).connect(version, &leaver, persistent).await;
        held.subscribe(&topic, QoS::AtLeastOnce).await;
        kill_store(&mut cluster).await;
        // Later by more than the word of the store that a stream is open takes: within that it is not known what was first.
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.proxy(0).connect(version, &id, |_| {}).await.disconnect().await;
        drop(cluster.proxy(0).connect(version, &leaver, |_| {}).await);
        // The next connection of the same client at the same proxy hears of the end of the session, too.
        let coming = cluster.proxy(0).connect(version, &id, persistent);
        let (again, ()) = tokio::join!(coming, restart_store(&mut cluster));
        assert!(!again.connack().session_present);
        again.disconnect().await;
        held.expect_end(ReasonCode::SessionTakenOver).await;
        for proxy in [0, 1] {
            let one = cluster.proxy(proxy).connect(version, &leaver, persistent).await;
            assert_eq!(one.connack().session_present, proxy == 1, "it begins at the first");
            one.disconnect().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_start_that_the_store_hears_of_late_does_not_end_what_its_client_has_begun_since() {
    let cluster = Cluster::plan(2, 1).linked().start().await;
    for version in BOTH {
        let (id, topic) = (name("late"), name("late"));
        kept(&cluster, version, &id).await.disconnect().await;
        cluster.link(0, 0).cut();
        readiness(cluster.proxy(0), 503).await;
        cluster.proxy(0).connect(version, &id, |_| {}).await.disconnect().await;
        let mut newer = cluster.proxy(1).connect(version, &id, persistent).await;
        newer.subscribe(&topic, QoS::AtLeastOnce).await;
        newer.disconnect().await;
        cluster.link(0, 0).heal();
        // The answer to this says that all before it was heard.
        kept(&cluster, version, &name("other")).await.disconnect().await;
        let mut publisher = client(&cluster, 0, version).await;
        publisher.publish(&topic, QoS::AtLeastOnce, "kept").await;
        let mut again = cluster.proxy(1).connect(version, &id, persistent).await;
        assert!(again.connack().session_present);
        again.expect_message("kept").await;
    }
}
