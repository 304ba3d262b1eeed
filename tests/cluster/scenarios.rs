//! The failure scenarios of `docs/scenarios.md` that no other test shows: each named with its number.
//!
//! Here those of relays, links and membership; in [`sessions`] those of clients that move, and in [`stored`] those of groups,
//! retained messages and the store's end.

mod sessions;
mod stored;

use std::time::Duration;

use cluster_rpc::IntermediateState::Serving;
use mqtt_codec::{Packet, QoS, Version};
use testkit::{Cluster, Flow, RawClient, elapse, http, kill};

use crate::load::Load;
use crate::support::{RECOVERY, client, complete, metric, name, sees, subscriber, value, within};
use crate::up::Up;

/// So many topics lie on lanes of every intermediate.
const TOPICS: usize = 12;

/// Sends a message at QoS 1 and does not wait for the answer.
async fn begin(publisher: &mut RawClient, topic: &str, payload: &str) {
    let publish = publisher.new_publish(topic, QoS::AtLeastOnce, payload.to_owned());
    publisher.send(Packet::Publish(publish)).await;
}

/// Sends the numbers from `first` to `last` to each of the topics, and waits for no answer.
async fn begin_all(publisher: &mut RawClient, base: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        for topic in 0..TOPICS {
            begin(publisher, &format!("{base}/{topic}"), &format!("{topic} {number}")).await;
        }
    }
}

/// Takes `numbers` of each of the topics, in the order of each topic, and nothing twice.
async fn expect_all(subscriber: &mut RawClient, numbers: std::ops::Range<usize>) {
    let mut next = [numbers.start; TOPICS];
    for _ in 0..TOPICS * numbers.len() {
        let publish = subscriber.expect_publish().await;
        subscriber.accept(&publish).await;
        let payload = String::from_utf8(publish.payload.to_vec()).expect("it is text");
        let (topic, number) = payload.split_once(' ').expect("topic and number");
        let topic: usize = topic.parse().expect("a number");
        assert_eq!(number, next[topic].to_string(), "of topic {topic}");
        next[topic] += 1;
    }
    subscriber.expect_nothing().await;
}

fn assert_no_mismatch(cluster: &Cluster, intermediates: usize) {
    for number in 0..intermediates {
        let counts = cluster.intermediate(number).stats().counts;
        assert_eq!((counts.digest_mismatches, counts.violations), (0, 0), "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_a_relay_that_dies_between_two_receivers_repeats_for_the_second_one_only() {
    let mut cluster = Cluster::plan(3, 2).linked().start().await;
    complete(&cluster, 3, 2).await;
    let (base, qos) = (name("between"), QoS::AtLeastOnce);
    let filter = format!("{base}/+");
    let mut near = subscriber(&cluster, 1, Version::V5, &filter, qos).await;
    let mut far = subscriber(&cluster, 2, Version::V5, &filter, qos).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    for relay in [0, 1] {
        cluster.link(2, relay).stall();
    }
    begin_all(&mut publisher, &base, 0..3).await;
    expect_all(&mut near, 0..3).await;
    publisher.expect_nothing().await;
    cluster.kill_intermediate(1).await;
    cluster.link(2, 0).heal();
    for _ in 0..3 * TOPICS {
        publisher.expect_puback().await;
    }
    expect_all(&mut far, 0..3).await;
    near.expect_nothing().await;
    assert_no_mismatch(&cluster, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_what_a_slow_relay_delivers_late_is_dropped_and_turns_no_order_around() {
    let cluster = Cluster::plan(2, 2).linked().start().await;
    complete(&cluster, 2, 2).await;
    let (base, qos) = (name("slow"), QoS::AtLeastOnce);
    let mut receiver = subscriber(&cluster, 1, Version::V5, &format!("{base}/+"), qos).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    // What goes by the second relay stays in it, until its lanes have moved to the first.
    cluster.link(1, 1).set(Flow::Whole, Flow::Held);
    begin_all(&mut publisher, &base, 0..3).await;
    cluster.link(0, 1).cut();
    for _ in 0..3 * TOPICS {
        publisher.expect_puback().await;
    }
    begin_all(&mut publisher, &base, 3..5).await;
    expect_all(&mut receiver, 0..5).await;
    cluster.link(1, 1).heal();
    cluster.link(0, 1).heal();
    complete(&cluster, 2, 2).await;
    receiver.expect_nothing().await;
    begin_all(&mut publisher, &base, 5..6).await;
    expect_all(&mut receiver, 5..6).await;
    assert_no_mismatch(&cluster, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_a_publish_after_the_suback_is_not_missed_while_an_intermediate_comes_back() {
    const CLIENTS: usize = 12;
    let mut cluster = Cluster::start(2, 2).await;
    complete(&cluster, 2, 2).await;
    // Once the one with the store, once the other.
    for killed in [0, 1] {
        let mut storm = Vec::new();
        for _ in 0..CLIENTS {
            let connecting = (client(&cluster, 1, Version::V5), client(&cluster, 0, Version::V5));
            storm.push(tokio::spawn(async move {
                let (mut receiver, mut publisher) = tokio::join!(connecting.0, connecting.1);
                for round in 0..15 {
                    let topic = name("storm");
                    receiver.subscribe(&topic, QoS::AtLeastOnce).await;
                    publisher.publish(&topic, QoS::AtLeastOnce, format!("{round}")).await;
                    receiver.expect_message(format!("{round}")).await;
                }
            }));
        }
        cluster.kill_intermediate(killed).await;
        cluster.restart_intermediate(killed).await;
        for client in storm {
            client.await.expect("nothing was missed");
        }
        complete(&cluster, 2, 2).await;
    }
    assert_no_mismatch(&cluster, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_what_changed_while_a_route_stream_was_cut_comes_as_changes_and_the_rest_stays() {
    let cluster = Cluster::plan(2, 1).linked().start().await;
    complete(&cluster, 2, 1).await;
    let [stays, goes, comes] = ["stays", "goes", "comes"].map(name);
    let mut publisher = client(&cluster, 0, Version::V5).await;
    let mut old = subscriber(&cluster, 1, Version::V5, &stays, QoS::AtLeastOnce).await;
    old.subscribe(&goes, QoS::AtLeastOnce).await;
    for _ in 0..5 {
        cluster.link(1, 0).cut();
        old.unsubscribe(&[&goes]).await;
        // Its row is still there while the stream is not: the message waits for the proxy.
        begin(&mut publisher, &stays, "meanwhile").await;
        let mut new = client(&cluster, 1, Version::V5).await;
        let subscribed = new.subscribe(&comes, QoS::AtLeastOnce);
        let ((), ()) = tokio::join!(subscribed, async { cluster.link(1, 0).heal() });
        publisher.expect_puback().await;
        old.expect_message("meanwhile").await;
        publisher.publish(&comes, QoS::AtLeastOnce, "new").await;
        new.expect_message("new").await;
        publisher.publish(&goes, QoS::AtLeastOnce, "nobody").await;
        old.expect_nothing().await;
        old.subscribe(&goes, QoS::AtLeastOnce).await;
    }
    assert_no_mismatch(&cluster, 1);
    assert_eq!(cluster.intermediate(0).stats().counts.declared_dead, 0);
    assert_eq!(metric(cluster.proxy(1), "causeway_uplink_resyncs_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_an_intermediate_that_does_not_hear_a_proxy_is_used_by_nobody_and_nothing_is_lost() {
    let lease = Duration::from_secs(2);
    let plan = Cluster::plan(2, 2).linked();
    let plan = plan.proxies_with(move |config| config.cluster.lease = lease.into());
    let plan = plan.intermediates_with(move |config| config.cluster.lease = lease.into());
    let cluster = plan.start().await;
    complete(&cluster, 2, 2).await;
    let base = name("deaf");
    let filter = format!("{base}/+");
    let mut receiver = subscriber(&cluster, 0, Version::V5, &filter, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 1, Version::V5).await;
    cluster.link(0, 1).set(Flow::Held, Flow::Whole);
    begin_all(&mut publisher, &base, 0..2).await;
    sees(cluster.proxy(0), 1, Serving).await;
    sees(cluster.proxy(1), 1, Serving).await;
    let late = name("late");
    receiver.subscribe(&late, QoS::AtLeastOnce).await;
    let mut acknowledged = 0;
    while acknowledged < 2 * TOPICS {
        publisher.expect_puback().await;
        acknowledged += 1;
    }
    expect_all(&mut receiver, 0..2).await;
    publisher.publish(&late, QoS::AtLeastOnce, "not missed").await;
    receiver.expect_message("not missed").await;
    cluster.link(0, 1).heal();
    complete(&cluster, 2, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_an_intermediate_that_was_frozen_beyond_the_lease_joins_anew_and_nothing_is_lost() {
    let up = Up::start(2).await;
    let [near, far] = [0, 1].map(|number| up.proxy(number).address());
    let load = Load::start(&[near], &[far]).await;
    load.progress(50).await;
    kill("STOP", up.intermediate().process).await;
    elapse(Duration::from_secs(8)).await;
    kill("CONT", up.intermediate().process).await;
    within(RECOVERY, "it has noticed that it stood still", async || {
        let metrics = http(up.intermediate().admin, "/metrics").await;
        value(&metrics, "causeway_relay_stalls_total") == 1
    })
    .await;
    load.progress(100).await;
    load.finish().await;
    up.stop().await;
}
