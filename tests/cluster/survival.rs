//! What `kill -9` cannot take: one test per promise, over the real binary. Every process may be the
//! victim: the proxy of a client, the intermediate with the store, all of them at once.

use mqtt_codec::{Ack, Connect, Packet, Publish, QoS, ReasonCode, Version, Will};
use tempfile::TempDir;
use testkit::{RawClient, http, kill, persistent};

use crate::load::Load;
use crate::support::{BOTH, RECOVERY, message, name, topic_of, value, within};
use crate::up::Up;

/// The end of a whole cluster, and another one with what it left on disk.
async fn all_killed(up: Up, folder: &TempDir) -> Up {
    let proxies = u16::try_from(up.servers.len() - 1).expect("few");
    up.kill_all().await;
    Up::start_in(folder.path(), proxies).await
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("there is room for a folder")
}

fn mortal(topic: &str) -> impl FnOnce(&mut Connect) + use<> {
    let mut message = message(topic, "gone");
    message.qos = QoS::AtLeastOnce;
    move |connect| {
        persistent(connect);
        connect.will = Some(Will { message, delay_secs: 0 });
    }
}

/// Waits until the store has published a will: after its own restart it gives proxies the lease to come back.
async fn will_is_out(up: &Up) {
    within(RECOVERY, "a will is published", async || {
        value(&http(up.intermediate().admin, "/metrics").await, "causeway_wills_total") > 0
    })
    .await;
}

/// Waits until a metric of the intermediate is `wanted`.
async fn store_says(up: &Up, metric: &str, wanted: u64) {
    within(RECOVERY, &format!("{metric} is {wanted}"), async || {
        value(&http(up.intermediate().admin, "/metrics").await, metric) == wanted
    })
    .await;
}

/// Sends `packet` with a packet identifier and wants the answer `wanted` to it.
async fn step(client: &mut RawClient, packet: Packet, wanted: fn(&Packet) -> Option<&Ack>) {
    client.send(packet).await;
    let answer = client.recv().await;
    assert!(wanted(&answer).is_some_and(|ack| !ack.reason.is_error()), "{answer:?}");
}

fn pubrec(packet: &Packet) -> Option<&Ack> {
    if let Packet::PubRec(ack) = packet { Some(ack) } else { None }
}

fn pubcomp(packet: &Packet) -> Option<&Ack> {
    if let Packet::PubComp(ack) = packet { Some(ack) } else { None }
}

fn pubrel(packet: &Packet) -> Option<&Ack> {
    if let Packet::PubRel(ack) = packet { Some(ack) } else { None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_resumed_at_another_proxy_after_its_own_was_killed() {
    let mut up = Up::start(2).await;
    let mut revived = Vec::new();
    for version in BOTH {
        let (id, topic) = (name("resumed"), name("resumed"));
        let mut first = up.proxy(1).client(version, &id, persistent).await;
        first.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut publisher = up.proxy(0).connect(version).await;
        let mut sent = Vec::new();
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publisher.publish(&topic, qos, "in flight").await;
            sent.push(first.expect_publish().await);
        }
        up.proxy(1).kill().await;
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publisher.publish(&topic, qos, "into the queue").await;
        }
        let mut second = up.proxy(0).client(version, &id, persistent).await;
        assert!(second.connack().session_present);
        for publish in sent {
            let again = second.expect_publish().await;
            assert_eq!(again, Publish { dup: true, ..publish });
            second.accept(&again).await;
        }
        second.expect_message("into the queue").await;
        second.expect_message("into the queue").await;
        second.expect_nothing().await;
        revived.push(up.proxy(1).start_again().await);
        // The one that was started by hand is the victim of the next round.
        up.follow(2, revived.last().expect("it was just started"));
    }
    up.kill_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_every_process_is_killed_at_once() {
    const COUNT: usize = 100;
    let folder = folder();
    let mut up = Up::start_in(folder.path(), 2).await;
    let topic = name("all");
    let (away, present, member) = (name("away"), name("present"), name("member"));
    let shared = format!("$share/group/{topic}/#");
    for (id, filter) in [(&away, format!("{topic}/#")), (&member, shared)] {
        let mut client = up.proxy(1).client(Version::V5, id, persistent).await;
        client.subscribe(&filter, QoS::ExactlyOnce).await;
        client.disconnect().await;
    }
    let mut connected = up.proxy(1).client(Version::V3_1_1, &present, persistent).await;
    connected.subscribe(&format!("{topic}/+"), QoS::ExactlyOnce).await;
    let mut publisher = up.proxy(0).connect(Version::V5).await;
    for number in 0..COUNT {
        let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let mut publish =
            publisher.new_publish(&format!("{topic}/{}", number % 7), qos, format!("{number}"));
        publish.retain = true;
        assert!(!publisher.publish_with(publish).await.is_error());
    }
    up = all_killed(up, &folder).await;
    for (id, proxy, version) in
        [(&away, 0, Version::V5), (&present, 1, Version::V3_1_1), (&member, 0, Version::V5)]
    {
        let mut client = up.proxy(proxy).client(version, id, persistent).await;
        assert!(client.connack().session_present, "{id}");
        let mut seen = Vec::new();
        while seen.len() < COUNT {
            let publish = client.expect_publish().await;
            client.accept(&publish).await;
            seen.push(String::from_utf8(publish.payload.to_vec()).expect("a number"));
        }
        client.expect_nothing().await;
        if id != &member {
            let expected: Vec<_> = (0..COUNT).map(|number| number.to_string()).collect();
            assert_eq!(seen, expected, "{id}: in order, each once");
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), COUNT, "{id}: each once");
    }
    let mut late = up.proxy(1).connect(Version::V5).await;
    late.subscribe(&format!("{topic}/#"), QoS::AtLeastOnce).await;
    let mut retained = Vec::new();
    for _ in 0..7 {
        let publish = late.expect_publish().await;
        late.accept(&publish).await;
        retained.push((topic_of(&publish).to_owned(), publish.payload.clone()));
    }
    retained.sort_unstable();
    let newest = |class: usize| (0..COUNT).rev().find(|number| number % 7 == class).expect("some");
    let expected: Vec<_> = (0..7)
        .map(|class| (format!("{topic}/{class}"), newest(class).to_string().into()))
        .collect();
    assert_eq!(retained, expected);
    late.expect_nothing().await;
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_2_message_to_a_client_is_delivered_once_whatever_is_killed_at_which_step() {
    let folder = folder();
    let mut up = Up::start_in(folder.path(), 2).await;
    for version in BOTH {
        for step_of_death in 0..3 {
            let (id, topic) = (name("outbound"), name("outbound"));
            let mut first = up.proxy(1).client(version, &id, persistent).await;
            first.subscribe(&topic, QoS::ExactlyOnce).await;
            let mut publisher = up.proxy(0).connect(version).await;
            publisher.publish(&topic, QoS::ExactlyOnce, "once").await;
            let publish = first.expect_publish().await;
            let packet_id = publish.packet_id.expect("it has QoS 2");
            let ack = || Ack::new(packet_id, ReasonCode::Success);
            if step_of_death > 0 {
                step(&mut first, Packet::PubRec(ack()), pubrel).await;
            }
            if step_of_death > 1 {
                first.send(Packet::PubComp(ack())).await;
                first.expect_nothing().await;
            }
            up = all_killed(up, &folder).await;
            let mut second = up.proxy(0).client(version, &id, persistent).await;
            assert!(second.connack().session_present);
            match step_of_death {
                0 => {
                    let again = second.expect_publish().await;
                    assert_eq!(again, Publish { dup: true, ..publish });
                    second.accept(&again).await;
                }
                1 => {
                    assert_eq!(
                        pubrel(&second.recv().await).map(|ack| ack.packet_id),
                        Some(packet_id)
                    );
                    second.send(Packet::PubComp(ack())).await;
                }
                // Whether the PUBCOMP was committed is not told to anyone: PUBREL may come again.
                _ => {
                    second.send(Packet::PingReq).await;
                    let mut next = second.recv().await;
                    if pubrel(&next).is_some_and(|ack| ack.packet_id == packet_id) {
                        second.send(Packet::PubComp(ack())).await;
                        next = second.recv().await;
                    }
                    assert_eq!(next, Packet::PingResp);
                }
            }
            second.expect_nothing().await;
        }
    }
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_2_message_from_a_client_is_one_message_whatever_is_killed_at_which_step() {
    let folder = folder();
    let mut up = Up::start_in(folder.path(), 2).await;
    for version in BOTH {
        for step_of_death in 0..3 {
            let (id, topic, stored) = (name("inbound"), name("inbound"), name("stored"));
            let mut subscriber = up.proxy(0).client(version, &stored, persistent).await;
            subscriber.subscribe(&topic, QoS::ExactlyOnce).await;
            subscriber.disconnect().await;
            let mut first = up.proxy(1).client(version, &id, persistent).await;
            let mut publish = first.new_publish(&topic, QoS::ExactlyOnce, "once");
            let packet_id = publish.packet_id.expect("it has QoS 2");
            let release = || Packet::PubRel(Ack::new(packet_id, ReasonCode::Success));
            if step_of_death == 0 {
                first.send(Packet::Publish(publish.clone())).await;
            } else {
                step(&mut first, Packet::Publish(publish.clone()), pubrec).await;
            }
            if step_of_death > 1 {
                step(&mut first, release(), pubcomp).await;
            }
            up = all_killed(up, &folder).await;
            let mut second = up.proxy(0).client(version, &id, persistent).await;
            assert!(second.connack().session_present);
            if step_of_death < 2 {
                // A client that does not know goes on where it knows it is.
                if step_of_death == 0 {
                    publish.dup = true;
                    step(&mut second, Packet::Publish(publish), pubrec).await;
                }
                step(&mut second, release(), pubcomp).await;
            }
            let mut subscriber = up.proxy(1).client(version, &stored, persistent).await;
            subscriber.expect_message("once").await;
            second.publish(&topic, QoS::ExactlyOnce, "after").await;
            subscriber.expect_message("after").await;
            subscriber.expect_nothing().await;
        }
    }
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_published_after_the_death_of_the_proxy_of_the_store_or_of_both() {
    let folder = folder();
    let mut up = Up::start_in(folder.path(), 2).await;
    for victims in ["proxy", "intermediate", "intermediate and proxy", "all"] {
        let (stored, topic) = (name("stored"), name("will"));
        let mut watcher = up.proxy(0).client(Version::V5, &stored, persistent).await;
        watcher.subscribe(&topic, QoS::AtLeastOnce).await;
        let doomed = up.proxy(1).client(Version::V5, &name("mortal"), mortal(&topic)).await;
        let polite = up.proxy(1).client(Version::V5, &name("polite"), mortal(&topic)).await;
        polite.disconnect().await;
        // The store has heard of it: until then it may have died as well.
        store_says(&up, "causeway_sessions_attached", 2).await;
        let mut revived = Vec::new();
        match victims {
            "proxy" => {
                up.proxy(1).kill().await;
                watcher.expect_message("gone").await;
                revived.push((2, up.proxy(1).start_again().await));
            }
            "intermediate" => {
                up.intermediate().kill().await;
                revived.push((0, up.intermediate().start_again().await));
                // Its client is connected all the time.
                up.proxy(0).ready().await;
                watcher.expect_nothing().await;
                drop(doomed);
                watcher.expect_message("gone").await;
            }
            "intermediate and proxy" => {
                up.proxy(1).kill().await;
                up.intermediate().kill().await;
                revived.push((0, up.intermediate().start_again().await));
                will_is_out(&up).await;
                watcher.expect_message("gone").await;
                revived.push((2, up.proxy(1).start_again().await));
            }
            _ => {
                up = all_killed(up, &folder).await;
                watcher = up.proxy(0).client(Version::V5, &stored, persistent).await;
                will_is_out(&up).await;
                watcher.expect_message("gone").await;
            }
        }
        up.proxy(0).connect(Version::V5).await.publish(&topic, QoS::AtLeastOnce, "after").await;
        watcher.expect_message("after").await;
        watcher.expect_nothing().await;
        watcher.disconnect().await;
        if !revived.is_empty() {
            // Those that were started by hand do not end with `up`.
            for (index, process) in &revived {
                up.follow(*index, process);
            }
            up.kill_all().await;
            drop(revived);
            up = Up::start_in(folder.path(), 2).await;
        }
    }
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_back_after_its_lease_leaves_no_session_attached_and_no_will_goes_out_twice()
 {
    const CLIENTS: usize = 300;
    let folder = folder();
    let up = Up::start_in(folder.path(), 2).await;
    let topic = name("will");
    let mut watcher = up.proxy(0).client(Version::V5, &name("watcher"), persistent).await;
    watcher.subscribe(&format!("{topic}/+"), QoS::AtLeastOnce).await;
    let mut doomed = Vec::new();
    for number in 0..CLIENTS {
        let with_will = mortal(&format!("{topic}/{number}"));
        doomed.push(up.proxy(1).client(Version::V5, &name("mortal"), with_will).await);
    }
    kill("STOP", up.proxy(1).process).await;
    store_says(&up, "causeway_sessions_attached", 1).await;
    kill("CONT", up.proxy(1).process).await;
    for mut client in doomed {
        client.expect_end(ReasonCode::ServerShuttingDown).await;
    }
    let mut topics = Vec::new();
    for _ in 0..CLIENTS {
        let publish = watcher.expect_publish().await;
        watcher.accept(&publish).await;
        topics.push(topic_of(&publish).to_owned());
    }
    topics.sort_unstable();
    topics.dedup();
    assert_eq!(topics.len(), CLIENTS, "one will each");
    watcher.expect_nothing().await;
    store_says(&up, "causeway_sessions_attached", 1).await;
    let mut back = up.proxy(1).client(Version::V5, &name("back"), persistent).await;
    back.subscribe(&topic, QoS::AtLeastOnce).await;
    store_says(&up, "causeway_sessions_attached", 2).await;
    store_says(&up, "causeway_wills_total", CLIENTS as u64).await;
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_move_between_proxies_lose_nothing_while_the_store_is_killed() {
    let up = Up::start(3).await;
    let proxies = [0, 1, 2].map(|number| up.proxy(number).address());
    let load = Load::start_moving(&proxies[..1], &proxies).await;
    let mut by_hand = None;
    for _ in 0..3 {
        load.progress(100).await;
        match &mut by_hand {
            None => up.intermediate().kill().await,
            Some(process) => {
                testkit::Process::kill(process).await;
                up.intermediate().gone().await;
            }
        }
        by_hand = Some(up.intermediate().start_again().await);
    }
    load.progress(100).await;
    load.finish().await;
    up.stop().await;
    drop(by_hand);
}
