//! Scenarios of clients that move, are taken over, say goodbye or die with their proxy.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use mqtt_codec::{Ack, Connect, Packet, PacketId, Publish, QoS, ReasonCode, Version, Will};
use testkit::{Cluster, RawClient, elapse, http, persistent};

use crate::support::{
    RECOVERY, client, complete, message, name, subscriber, topic_of, value, within,
};
use crate::up::Up;

fn mortal(topic: &str, delay_secs: u32) -> impl FnOnce(&mut Connect) + use<> {
    let mut message = message(topic, "gone");
    message.qos = QoS::AtLeastOnce;
    move |connect| {
        persistent(connect);
        connect.will = Some(Will { message, delay_secs });
    }
}

fn kept(cluster: &Cluster, proxy: usize, id: &str) -> impl Future<Output = RawClient> + use<> {
    cluster.proxy(proxy).connect(Version::V5, id, persistent)
}

fn id_of(publish: &Publish) -> PacketId {
    publish.packet_id.expect("above QoS 0")
}

fn success(id: PacketId) -> Ack {
    Ack::new(id, ReasonCode::Success)
}

/// Takes `count` messages that come on different topics, and gives these.
async fn topics(watcher: &mut RawClient, count: usize) -> BTreeSet<String> {
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let publish = watcher.expect_publish().await;
        watcher.accept(&publish).await;
        assert!(topics.insert(topic_of(&publish).to_owned()), "twice: {publish:?}");
    }
    topics
}

async fn wills(up: &Up) -> u64 {
    value(&http(up.intermediate().admin, "/metrics").await, "causeway_wills_total")
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_of_two_connections_with_one_identifier_at_the_same_moment_one_is_left() {
    const PAIRS: usize = 100;
    let cluster = Cluster::start(2, 1).await;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        let id = name("twin");
        let both = [0, 1].map(|proxy| kept(&cluster, proxy, &id));
        pairs.push(tokio::spawn(async move {
            let [one, other] = both;
            let (mut one, mut other) = tokio::join!(one, other);
            let (last, left) = tokio::select! {
                packet = one.recv() => (packet, &mut other),
                packet = other.recv() => (packet, &mut one),
            };
            let Packet::Disconnect(disconnect) = last else { panic!("{last:?}") };
            assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver);
            left.expect_nothing().await;
        }));
    }
    for pair in pairs {
        pair.await.expect("one is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_takeover_with_1000_qos2_messages_in_flight_delivers_each_once() {
    const COUNT: usize = 1000;
    let cluster = Cluster::start(2, 1).await;
    let (id, topic) = (name("flight"), name("flight"));
    let mut first = kept(&cluster, 0, &id).await;
    first.subscribe(&topic, QoS::ExactlyOnce).await;
    let mut publishers = Vec::new();
    for part in 0..4 {
        let (publisher, topic) = (client(&cluster, 1, Version::V5), topic.clone());
        publishers.push(tokio::spawn(async move {
            let mut publisher = publisher.await;
            for number in (part..COUNT).step_by(4) {
                publisher.publish(&topic, QoS::ExactlyOnce, number.to_string()).await;
            }
        }));
    }
    let mut sent = Vec::new();
    for _ in 0..COUNT {
        sent.push(first.expect_publish().await);
    }
    for publisher in publishers {
        publisher.await.expect("it is well");
    }
    // A quarter is completed, a quarter is received, and half of them nobody has heard of.
    let (completed, received, unheard) =
        (&sent[..COUNT / 4], &sent[COUNT / 4..COUNT / 2], &sent[COUNT / 2..]);
    for publish in completed {
        first.accept(publish).await;
    }
    for publish in received {
        first.send(Packet::PubRec(success(id_of(publish)))).await;
        assert_eq!(first.expect_pubrel().await, success(id_of(publish)));
    }
    first.expect_nothing().await;
    let mut second = kept(&cluster, 1, &id).await;
    assert!(second.connack().session_present);
    first.expect_end(ReasonCode::SessionTakenOver).await;
    let mut released: HashSet<_> = received.iter().map(id_of).collect();
    let mut again: Vec<_> = Vec::new();
    for _ in 0..COUNT / 4 + COUNT / 2 {
        match second.recv().await {
            Packet::PubRel(ack) => assert!(released.remove(&ack.packet_id), "{ack:?}"),
            Packet::Publish(publish) => again.push(publish),
            other => panic!("{other:?}"),
        }
    }
    assert!(released.is_empty(), "{} were not released again", released.len());
    let expected: Vec<_> =
        unheard.iter().map(|publish| Publish { dup: true, ..publish.clone() }).collect();
    assert!(again == expected, "under the same packet identifiers, in order");
    for publish in received {
        second.send(Packet::PubComp(success(id_of(publish)))).await;
    }
    for publish in &again {
        second.accept(publish).await;
    }
    second.expect_nothing().await;
    second.disconnect().await;
    kept(&cluster, 0, &id).await.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_takeover_does_not_wait_for_a_proxy_that_is_cut_off_and_its_late_words_do_not_count()
{
    let cluster = Cluster::plan(2, 1).linked().start().await;
    complete(&cluster, 2, 1).await;
    let (id, topic) = (name("cut"), name("cut"));
    let mut first = kept(&cluster, 0, &id).await;
    first.subscribe(&topic, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 1, Version::V5).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "one").await;
    let publish = first.expect_publish().await;
    cluster.link(0, 0).stall();
    let mut second = kept(&cluster, 1, &id).await;
    assert!(second.connack().session_present);
    let again = second.expect_publish().await;
    assert_eq!(again, Publish { dup: true, ..publish.clone() });
    // The older one still believes that it is there.
    first.accept(&publish).await;
    first.expect_nothing().await;
    cluster.link(0, 0).heal();
    first.expect_end(ReasonCode::SessionTakenOver).await;
    drop(second);
    let mut third = kept(&cluster, 0, &id).await;
    assert_eq!(third.expect_message("one").await.packet_id, publish.packet_id);
    publisher.publish(&topic, QoS::AtLeastOnce, "two").await;
    third.expect_message("two").await;
    third.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f34_of_the_clients_of_a_dead_proxy_those_that_do_not_come_back_leave_their_wills_once() {
    const CLIENTS: usize = 300;
    let up = Up::start(2).await;
    let base = name("wills");
    let mut watcher = up.proxy(0).client(Version::V5, &name("watcher"), persistent).await;
    watcher.subscribe(&format!("{base}/+"), QoS::AtLeastOnce).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (id, topic) = (name("mortal"), format!("{base}/{number}"));
        clients.push((id.clone(), up.proxy(1).client(Version::V5, &id, mortal(&topic, 2)).await));
    }
    up.proxy(1).kill().await;
    let mut back = Vec::new();
    for (number, (id, _)) in clients.iter().enumerate().filter(|(number, _)| number % 2 == 0) {
        let topic = format!("{base}/{number}");
        back.push(up.proxy(0).client(Version::V5, id, mortal(&topic, 2)).await);
    }
    within(RECOVERY, "wills are published", async || wills(&up).await >= CLIENTS as u64 / 2).await;
    let gone = topics(&mut watcher, CLIENTS / 2).await;
    let expected = (1..CLIENTS).step_by(2).map(|number| format!("{base}/{number}")).collect();
    assert_eq!(gone, expected);
    // Those that are back say goodbye, and leave none either.
    for client in back {
        client.disconnect().await;
    }
    watcher.expect_nothing().await;
    assert_eq!(wills(&up).await, CLIENTS as u64 / 2);
    up.kill_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f36_a_goodbye_in_the_moment_of_its_proxys_death_leaves_one_will_or_none() {
    const LEAVING: usize = 60;
    const STAYING: usize = 10;
    let up = Up::start(2).await;
    let base = name("goodbye");
    let mut watcher = up.proxy(0).client(Version::V5, &name("watcher"), persistent).await;
    watcher.subscribe(&format!("{base}/+"), QoS::AtLeastOnce).await;
    let mut clients = Vec::new();
    for number in 0..LEAVING + STAYING {
        let with_will = mortal(&format!("{base}/{number:02}"), 0);
        clients.push(up.proxy(1).client(Version::V5, &name("mortal"), with_will).await);
    }
    for client in &mut clients[..LEAVING] {
        client.send(Packet::Disconnect(Box::default())).await;
    }
    up.proxy(1).kill().await;
    within(RECOVERY, "nobody is attached but the watcher", async || {
        let text = http(up.intermediate().admin, "/metrics").await;
        value(&text, "causeway_sessions_attached") == 1
            && value(&text, "causeway_wills_total") >= STAYING as u64
    })
    .await;
    // The wills of one death are published together; what comes after them comes last.
    up.proxy(0)
        .connect(Version::V5)
        .await
        .publish(&format!("{base}/zz"), QoS::AtLeastOnce, "")
        .await;
    let count = usize::try_from(wills(&up).await).expect("few");
    let seen = topics(&mut watcher, count + 1).await;
    watcher.expect_nothing().await;
    for number in LEAVING..LEAVING + STAYING {
        assert!(seen.contains(&format!("{base}/{number}")), "no will of {number}");
    }
    up.kill_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_a_rolling_restart_of_everything_publishes_no_will_and_loses_nothing() {
    const PROXIES: usize = 3;
    let mut cluster = Cluster::start(PROXIES, 1).await;
    let (id, topic, wills) = (name("rolling"), name("rolling"), name("wills"));
    let watching = name("watcher");
    kept(&cluster, 0, &watching).await.subscribe(&wills, QoS::AtLeastOnce).await;
    let mut client = cluster.proxy(0).connect(Version::V5, &id, mortal(&wills, 1)).await;
    client.subscribe(&topic, QoS::ExactlyOnce).await;
    for proxy in 0..PROXIES {
        let next = (proxy + 1) % PROXIES;
        let mut publisher = subscriber(&cluster, next, Version::V5, "other", QoS::AtMostOnce).await;
        publisher.publish(&topic, QoS::ExactlyOnce, format!("before {proxy}")).await;
        cluster.stop_proxy(proxy).await;
        publisher.publish(&topic, QoS::ExactlyOnce, format!("after {proxy}")).await;
        client = cluster.proxy(next).connect(Version::V5, &id, mortal(&wills, 1)).await;
        assert!(client.connack().session_present);
        client.expect_message(format!("before {proxy}")).await;
        client.expect_message(format!("after {proxy}")).await;
        client.expect_nothing().await;
        cluster.restart_proxy(proxy).await;
    }
    cluster.stop_intermediate(0).await;
    cluster.restart_intermediate(0).await;
    let mut publisher = crate::support::client(&cluster, 1, Version::V5).await;
    publisher.publish(&topic, QoS::ExactlyOnce, "last").await;
    client.expect_message("last").await;
    // Longer than the delay of the will.
    elapse(Duration::from_millis(1500)).await;
    let mut watcher = kept(&cluster, 1, &watching).await;
    assert!(watcher.connack().session_present);
    watcher.expect_nothing().await;
}
