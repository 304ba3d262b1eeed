//! Scenarios of groups, retained messages and sessions whose time is over, while the store or a proxy dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mqtt_codec::{Packet, QoS, Version};
use testkit::{Cluster, RawClient, elapse, persistent};

use super::begin;
use crate::support::{RECOVERY, client, name, subscriber, topic_of, within};
use crate::up::Up;

fn text(payload: &[u8]) -> String {
    String::from_utf8(payload.to_vec()).expect("it is text")
}

/// What clients have got so far.
type Got = Arc<Mutex<Vec<(String, String)>>>;

/// Takes everything that comes, until it is aborted.
fn taking(mut client: RawClient, got: &Got) -> tokio::task::JoinHandle<()> {
    let got = Arc::clone(got);
    tokio::spawn(async move {
        loop {
            let publish = client.expect_publish().await;
            let entry = (topic_of(&publish).to_owned(), text(&publish.payload));
            got.lock().expect("nobody panics with it").push(entry);
            client.accept(&publish).await;
        }
    })
}

fn count(got: &Got) -> usize {
    got.lock().expect("nobody panics with it").len()
}

async fn kill_and_restart(cluster: &mut Cluster) {
    cluster.kill_intermediate(0).await;
    cluster.restart_intermediate(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f37_what_500_messages_of_a_group_a_dead_proxy_had_goes_to_the_others() {
    const COUNT: usize = 500;
    let up = Up::start(3).await;
    let topic = name("group");
    let shared = format!("$share/group/{topic}");
    let mut doomed = up.proxy(1).client(Version::V5, &name("member"), persistent).await;
    doomed.subscribe(&shared, QoS::AtLeastOnce).await;
    let mut publisher = up.proxy(0).connect(Version::V5).await;
    for number in 0..COUNT {
        begin(&mut publisher, &topic, &number.to_string()).await;
    }
    for _ in 0..COUNT {
        publisher.expect_puback().await;
        doomed.expect_publish().await;
    }
    let mut other = up.proxy(2).client(Version::V5, &name("member"), persistent).await;
    other.subscribe(&shared, QoS::AtLeastOnce).await;
    up.proxy(1).kill().await;
    let mut seen = BTreeSet::new();
    for _ in 0..COUNT {
        let publish = other.expect_publish().await;
        other.accept(&publish).await;
        assert!(seen.insert(text(&publish.payload)), "twice: {publish:?}");
    }
    other.expect_nothing().await;
    up.kill_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f38_a_message_of_a_group_goes_to_one_member_at_qos2_while_the_store_is_killed() {
    const COUNT: usize = 300;
    let mut cluster = Cluster::start(2, 1).await;
    let topic = name("group");
    let got = Got::default();
    let mut members = Vec::new();
    for proxy in [0, 1, 0, 1] {
        let mut member =
            cluster.proxy(proxy).connect(Version::V5, &name("member"), persistent).await;
        member.subscribe(&format!("$share/group/{topic}"), QoS::ExactlyOnce).await;
        members.push(taking(member, &got));
    }
    let (publisher, to) = (client(&cluster, 0, Version::V5), topic.clone());
    let publisher = tokio::spawn(async move {
        let mut publisher = publisher.await;
        for number in 0..COUNT {
            publisher.publish(&to, QoS::ExactlyOnce, number.to_string()).await;
        }
    });
    for kill in 1..=2 {
        within(RECOVERY, "messages flow", async || count(&got) > kill * COUNT / 4).await;
        kill_and_restart(&mut cluster).await;
    }
    publisher.await.expect("everything is acknowledged");
    within(RECOVERY, "everything has come", async || count(&got) >= COUNT).await;
    assert!(members.iter().all(|member| !member.is_finished()), "a member has failed");
    members.iter().for_each(tokio::task::JoinHandle::abort);
    let got = got.lock().expect("nobody panics with it");
    let different: BTreeSet<_> = got.iter().collect();
    assert_eq!((got.len(), different.len()), (COUNT, COUNT), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn f39_publishers_to_a_group_whose_last_member_leaves_are_all_answered() {
    const ROUNDS: usize = 30;
    const COUNT: usize = 10;
    let cluster = Cluster::start(2, 1).await;
    let topic = name("last");
    let mut publisher = client(&cluster, 0, Version::V5).await;
    for round in 0..ROUNDS {
        let shared = format!("$share/group/{topic}");
        let mut member = subscriber(&cluster, 1, Version::V5, &shared, QoS::AtLeastOnce).await;
        for number in 0..COUNT {
            begin(&mut publisher, &topic, &number.to_string()).await;
            if number == round % COUNT {
                member.send(Packet::Disconnect(Box::default())).await;
            }
        }
        for _ in 0..COUNT {
            publisher.expect_puback().await;
        }
    }
    publisher.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f40_nothing_retained_is_older_than_what_came_before_while_the_store_dies_during_a_scan() {
    const TOPICS: usize = 60;
    const ROUNDS: usize = 5;
    let mut cluster = Cluster::start(2, 1).await;
    let base = name("scan");
    let mut publishers = Vec::new();
    for proxy in [0, 1] {
        let (publisher, base) = (client(&cluster, proxy, Version::V5), base.clone());
        publishers.push(tokio::spawn(async move {
            let mut publisher = publisher.await;
            for round in 0..ROUNDS {
                for topic in 0..TOPICS {
                    let (topic, payload) = (format!("{base}/{topic}"), format!("{proxy} {round}"));
                    let mut publish = publisher.new_publish(&topic, QoS::AtLeastOnce, payload);
                    publish.retain = true;
                    assert!(!publisher.publish_with(publish).await.is_error());
                }
            }
        }));
    }
    let mut taken = Vec::new();
    for change in [false, true] {
        let id = name("reader");
        let mut reader = if change {
            cluster.proxy(1).connect(Version::V5, &id, persistent).await
        } else {
            client(&cluster, 1, Version::V5).await
        };
        reader.subscribe(&format!("{base}/+"), QoS::AtLeastOnce).await;
        let got = Got::default();
        taken.push((taking(reader, &got), got));
        kill_and_restart(&mut cluster).await;
    }
    for publisher in publishers {
        publisher.await.expect("everything is acknowledged");
    }
    let mut late = client(&cluster, 0, Version::V5).await;
    late.subscribe(&format!("{base}/+"), QoS::AtLeastOnce).await;
    let mut newest = BTreeMap::new();
    for _ in 0..TOPICS {
        let publish = late.expect_publish().await;
        late.accept(&publish).await;
        newest.insert(topic_of(&publish).to_owned(), text(&publish.payload));
    }
    for (task, got) in taken {
        within(RECOVERY, "the reader has the newest of all", async || {
            let got: BTreeMap<_, _> = got.lock().expect("well").iter().cloned().collect();
            got == newest
        })
        .await;
        task.abort();
        let mut last: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (topic, payload) in got.lock().expect("well").iter() {
            let (publisher, round) = payload.split_once(' ').expect("publisher and round");
            let round = round.parse().expect("a number");
            let before = last.insert((topic.clone(), publisher.to_owned()), round);
            assert!(before.is_none_or(|before| before <= round), "{topic}: {before:?}, {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_what_was_deleted_while_the_store_died_is_gone_once_that_is_acknowledged() {
    const TOPICS: usize = 40;
    let mut cluster = Cluster::start(2, 1).await;
    for _ in 0..3 {
        let base = name("deleted");
        let mut publisher = client(&cluster, 0, Version::V5).await;
        for payload in ["kept", ""] {
            for topic in 0..TOPICS {
                let topic = format!("{base}/{topic}");
                let mut publish = publisher.new_publish(&topic, QoS::AtLeastOnce, payload);
                publish.retain = true;
                publisher.send(Packet::Publish(publish)).await;
            }
            if payload.is_empty() {
                kill_and_restart(&mut cluster).await;
            }
            for _ in 0..TOPICS {
                publisher.expect_puback().await;
            }
        }
        let filter = format!("{base}/+");
        let mut late = subscriber(&cluster, 1, Version::V5, &filter, QoS::AtLeastOnce).await;
        publisher.publish(&format!("{base}/new"), QoS::AtLeastOnce, "live").await;
        late.expect_message("live").await;
        late.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_a_broadcast_to_many_sessions_that_are_away_reaches_each_and_holds_up_nobody() {
    const SESSIONS: usize = 200;
    const COUNT: usize = 40;
    let cluster = Cluster::start(2, 1).await;
    let topic = name("broadcast");
    let ids: Vec<_> = (0..SESSIONS).map(|_| name("away")).collect();
    for id in &ids {
        let mut client = cluster.proxy(1).connect(Version::V5, id, persistent).await;
        client.subscribe(&topic, QoS::AtLeastOnce).await;
        client.disconnect().await;
    }
    let other = name("other");
    let mut witness = subscriber(&cluster, 1, Version::V5, &other, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    for number in 0..COUNT {
        publisher.publish(&topic, QoS::AtLeastOnce, number.to_string()).await;
        publisher.publish(&other, QoS::AtLeastOnce, number.to_string()).await;
        witness.expect_message(number.to_string()).await;
    }
    for id in ids.iter().step_by(20) {
        let mut client = cluster.proxy(0).connect(Version::V5, id, persistent).await;
        for number in 0..COUNT {
            client.expect_message(number.to_string()).await;
        }
        client.expect_nothing().await;
    }
    assert_eq!(cluster.intermediate(0).stats().counts.declared_dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f49_a_session_at_the_end_of_its_time_is_whole_or_new_while_the_store_dies() {
    const CLIENTS: usize = 9;
    let mut cluster = Cluster::start(2, 1).await;
    let lasting = |connect: &mut mqtt_codec::Connect| {
        persistent(connect);
        connect.session_expiry_secs = 1;
    };
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (id, topic) = (name("boundary"), name("boundary"));
        let mut before = cluster.proxy(0).connect(Version::V5, &id, lasting).await;
        before.subscribe(&topic, QoS::AtLeastOnce).await;
        let mut publisher = client(&cluster, 1, Version::V5).await;
        before.disconnect().await;
        publisher.publish(&topic, QoS::AtLeastOnce, "kept").await;
        let again = cluster.proxy(1).connect(Version::V5, &id, lasting);
        clients.push(tokio::spawn(async move {
            elapse(Duration::from_millis(800 + 50 * number as u64)).await;
            let mut after = again.await;
            let present = after.connack().session_present;
            if present {
                after.expect_message("kept").await;
            }
            publisher.publish(&topic, QoS::AtLeastOnce, "live").await;
            // A new session has no subscription, an old one has.
            if present {
                after.expect_message("live").await;
            }
            after.expect_nothing().await;
        }));
    }
    elapse(Duration::from_millis(600)).await;
    kill_and_restart(&mut cluster).await;
    for client in clients {
        client.await.expect("whole or new");
    }
}
