//! A cluster in which something breaks: what was acknowledged arrives, nothing arrives twice at QoS 2,
//! order holds, and everything is as before when the fault is over.
//!
//! Intermediates end without a last word, cables are cut or carry nothing. Proxies that die are in
//! `processes`: here they share the process of the test.

use std::time::Duration;

use bytes::Bytes;
use cluster_rpc::IntermediateState::{Down, Serving};
use cluster_rpc::frame::NodeId;
use daemon::Secret;
use mqtt_codec::{Packet, QoS, ReasonCode, Version};
use testkit::{Cluster, RawClient, eventually};

use crate::load::Load;
use crate::support::{
    RECOVERY, client, complete, metric, name, readiness, sees, subscriber, uplink, within,
};

/// The shortest lease that a proxy takes.
const SHORT_LEASE: Duration = Duration::from_secs(2);

/// Publishers at the first proxy, subscribers at the second and the third.
async fn load(cluster: &Cluster) -> Load {
    let [a, b, c] = [0, 1, 2].map(|number| cluster.proxy(number).address());
    Load::start(&[a], &[b, c]).await
}

/// Every digest of every proxy was right, and every frame allowed.
fn assert_sound(cluster: &Cluster, intermediates: usize) {
    for number in 0..intermediates {
        let counts = cluster.intermediate(number).stats().counts;
        assert_eq!((counts.digest_mismatches, counts.violations), (0, 0), "{counts:?}");
    }
}

/// Sends a QoS 1 message without waiting for the answer.
async fn begin(publisher: &mut RawClient, topic: &str, payload: &'static str) {
    let publish = publisher.new_publish(topic, QoS::AtLeastOnce, payload);
    publisher.send(Packet::Publish(publish)).await;
}

/// Waits until a proxy has so many messages that no intermediate has acknowledged.
async fn waiting(cluster: &Cluster, proxy: usize, messages: usize) {
    within(RECOVERY, "messages wait in the window", async || {
        uplink(cluster.proxy(proxy)).window_messages == messages
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_that_is_killed_and_restarted_under_load_loses_nothing() {
    let mut cluster = Cluster::start(3, 1).await;
    let load = load(&cluster).await;
    for _ in 0..3 {
        load.progress(100).await;
        cluster.kill_intermediate(0).await;
        for proxy in 0..3 {
            sees(cluster.proxy(proxy), 1, Down).await;
        }
        cluster.restart_intermediate(0).await;
    }
    load.progress(100).await;
    load.finish().await;
    // Otherwise the fault came at quiet moments only.
    assert!(metric(cluster.proxy(0), "causeway_uplink_resent_total").await > 0);
    complete(&cluster, 3, 1).await;
    assert_sound(&cluster, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_that_is_back_before_anyone_missed_it_loses_nothing() {
    let mut cluster = Cluster::start(3, 1).await;
    let load = load(&cluster).await;
    for _ in 0..5 {
        load.progress(20).await;
        cluster.kill_intermediate(0).await;
        cluster.restart_intermediate(0).await;
    }
    load.progress(20).await;
    load.finish().await;
    assert_sound(&cluster, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_that_is_stopped_cleanly_under_load_loses_nothing() {
    let mut cluster = Cluster::start(3, 2).await;
    let load = load(&cluster).await;
    for number in [0, 1] {
        complete(&cluster, 3, 2).await;
        load.progress(100).await;
        cluster.stop_intermediate(number).await;
        load.progress(100).await;
        cluster.restart_intermediate(number).await;
    }
    complete(&cluster, 3, 2).await;
    load.finish().await;
    assert_sound(&cluster, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_move_to_the_other_intermediate_and_back_in_order() {
    let mut cluster = Cluster::start(3, 2).await;
    complete(&cluster, 3, 2).await;
    let load = load(&cluster).await;
    for number in [0, 1, 0] {
        load.progress(100).await;
        cluster.kill_intermediate(number).await;
        load.progress(100).await;
        assert_eq!(lanes(&cluster), [0, 256], "the one that is left carries everything");
        cluster.restart_intermediate(number).await;
        complete(&cluster, 3, 2).await;
        within(RECOVERY, "lanes are back", async || lanes(&cluster)[0] > 0).await;
    }
    load.progress(100).await;
    load.finish().await;
    assert_sound(&cluster, 2);
}

/// Lanes of the first proxy at each intermediate, fewest first.
fn lanes(cluster: &Cluster) -> Vec<usize> {
    let links = uplink(cluster.proxy(0)).intermediates;
    let mut lanes: Vec<_> = links.iter().map(|link| link.lanes).collect();
    lanes.sort_unstable();
    lanes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_that_is_cut_and_mended_at_once_loses_nothing() {
    let cluster = Cluster::plan(3, 1).linked().start().await;
    complete(&cluster, 3, 1).await;
    let load = load(&cluster).await;
    // The publisher's, then a subscriber's.
    for proxy in [0, 1, 0, 1] {
        load.progress(50).await;
        cluster.link(proxy, 0).cut();
        sees(cluster.proxy(proxy), 1, Down).await;
        cluster.link(proxy, 0).heal();
        sees(cluster.proxy(proxy), 1, Serving).await;
    }
    load.progress(50).await;
    load.finish().await;
    assert_sound(&cluster, 1);
    assert_eq!(cluster.intermediate(0).stats().counts.declared_dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_to_one_of_two_intermediates_is_cut_and_mended_under_load() {
    let cluster = Cluster::plan(3, 2).linked().start().await;
    complete(&cluster, 3, 2).await;
    let load = load(&cluster).await;
    for number in [0, 1] {
        load.progress(50).await;
        cluster.link(0, number).cut();
        load.progress(50).await;
        cluster.link(0, number).heal();
        sees(cluster.proxy(0), 2, Serving).await;
    }
    load.progress(50).await;
    load.finish().await;
    assert_sound(&cluster, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_cable_holds_publishers_back_and_loses_nothing() {
    let cluster = Cluster::plan(3, 1).linked().start().await;
    complete(&cluster, 3, 1).await;
    let load = load(&cluster).await;
    for proxy in [0, 1] {
        load.progress(50).await;
        cluster.link(proxy, 0).stall();
        // Both publishers have sent all they may.
        waiting(&cluster, 0, load.most_in_flight()).await;
        let before = load.acknowledged();
        let mut witness = client(&cluster, 0, Version::V5).await;
        witness.expect_nothing().await;
        assert_eq!(load.acknowledged(), before, "acknowledged what a subscriber's proxy lacks");
        cluster.link(proxy, 0).heal();
    }
    load.progress(50).await;
    load.finish().await;
    assert_sound(&cluster, 1);
    assert_eq!(cluster.intermediate(0).stats().counts.declared_dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_cut_off_is_declared_dead_and_begins_again() {
    let cluster = Cluster::plan(2, 1).linked().start().await;
    complete(&cluster, 2, 1).await;
    let topic = name("cut");
    let mut lost = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    cluster.link(1, 0).cut();
    // Answered when the proxy is declared dead, about a second after the cut.
    publisher.publish(&topic, QoS::AtLeastOnce, "too late").await;
    assert_eq!(cluster.intermediate(0).stats().counts.declared_dead, 1);
    lost.expect_nothing().await;
    cluster.link(1, 0).heal();
    // Whoever missed something is told so.
    lost.expect_end(ReasonCode::ServerShuttingDown).await;
    sees(cluster.proxy(1), 1, Serving).await;
    let mut back = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "again").await;
    back.expect_message("again").await;
    assert_sound(&cluster, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_declared_dead_is_told_so_although_the_intermediate_was_killed_meanwhile()
{
    let mut cluster = Cluster::plan(2, 1).linked().start().await;
    complete(&cluster, 2, 1).await;
    let topic = name("forgotten");
    let mut lost = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    cluster.link(1, 0).cut();
    publisher.publish(&topic, QoS::AtLeastOnce, "too late").await;
    sees(cluster.proxy(0), 1, Serving).await;
    // Nobody that is left remembers who was declared dead.
    cluster.kill_intermediate(0).await;
    cluster.restart_intermediate(0).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "too late as well").await;
    lost.expect_nothing().await;
    cluster.link(1, 0).heal();
    lost.expect_end(ReasonCode::ServerShuttingDown).await;
    complete(&cluster, 2, 1).await;
    let mut back = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "again").await;
    back.expect_message("again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_whose_cable_stalls_is_declared_dead_when_its_lease_ends() {
    let plan = Cluster::plan(2, 1).linked();
    let plan = plan.proxies_with(|config| config.cluster.lease = SHORT_LEASE.into());
    let cluster =
        plan.intermediates_with(|config| config.cluster.lease = SHORT_LEASE.into()).start().await;
    complete(&cluster, 2, 1).await;
    let topic = name("stall");
    let mut lost = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    cluster.link(1, 0).stall();
    begin(&mut publisher, &topic, "too late").await;
    waiting(&cluster, 0, 1).await;
    publisher.expect_nothing().await;
    publisher.expect_puback().await;
    assert_eq!(cluster.intermediate(0).stats().counts.declared_dead, 1);
    cluster.link(1, 0).heal();
    within(RECOVERY, "the proxy has heard of it", async || {
        metric(cluster.proxy(1), "causeway_uplink_fenced_total").await == 1
    })
    .await;
    lost.expect_end(ReasonCode::ServerShuttingDown).await;
    sees(cluster.proxy(1), 1, Serving).await;
    let mut back = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "again").await;
    back.expect_message("again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_intermediate_clients_stay_and_acknowledged_publishes_wait() {
    let mut cluster = Cluster::start(2, 2).await;
    complete(&cluster, 2, 2).await;
    let (near, far) = (name("near"), name("far"));
    let mut neighbour = subscriber(&cluster, 0, Version::V5, &near, QoS::AtLeastOnce).await;
    let mut distant = subscriber(&cluster, 1, Version::V3_1_1, &far, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    readiness(cluster.proxy(0), 200).await;
    for number in [0, 1] {
        cluster.kill_intermediate(number).await;
    }
    readiness(cluster.proxy(0), 503).await;
    publisher.publish(&near, QoS::AtMostOnce, "still here").await;
    neighbour.expect_message("still here").await;
    publisher.publish(&far, QoS::AtMostOnce, "dropped and counted").await;
    for payload in ["one", "two", "three"] {
        begin(&mut publisher, &far, payload).await;
    }
    waiting(&cluster, 0, 3).await;
    publisher.expect_nothing().await;
    let mut late = client(&cluster, 0, Version::V5).await;
    late.publish(&near, QoS::AtMostOnce, "new clients too").await;
    neighbour.expect_message("new clients too").await;
    assert!(metric(cluster.proxy(0), "causeway_uplink_dropped_no_intermediate_total").await > 0);
    for number in [0, 1] {
        cluster.restart_intermediate(number).await;
    }
    readiness(cluster.proxy(0), 200).await;
    for payload in ["one", "two", "three"] {
        publisher.expect_puback().await;
        distant.expect_message(payload).await;
    }
    distant.expect_nothing().await;
    publisher.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_stops_the_publisher_and_loses_nothing() {
    const COUNT: usize = 200;
    let plan = Cluster::plan(2, 1).proxies_with(|config| config.cluster.window_messages = 10);
    let mut cluster = plan.start().await;
    complete(&cluster, 2, 1).await;
    let topic = name("window");
    let mut distant = subscriber(&cluster, 1, Version::V5, &topic, QoS::ExactlyOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    cluster.kill_intermediate(0).await;
    sees(cluster.proxy(0), 1, Down).await;
    for number in 0..COUNT {
        let payload = Bytes::from(number.to_string());
        let publish = publisher.new_publish(&topic, QoS::AtLeastOnce, payload);
        publisher.send(Packet::Publish(publish)).await;
    }
    waiting(&cluster, 0, 10).await;
    // Others are not held back.
    client(&cluster, 0, Version::V5).await.expect_nothing().await;
    cluster.restart_intermediate(0).await;
    for number in 0..COUNT {
        assert_eq!(usize::from(publisher.expect_puback().await.packet_id.value()), number + 1);
        distant.expect_message(number.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_route_is_found_by_its_digest_and_repaired() {
    let cluster = Cluster::start(2, 1).await;
    complete(&cluster, 2, 1).await;
    let topic = name("digest");
    let mut distant = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    let node = NodeId::new("proxy-1").expect("the name of the second proxy");
    let mismatches = || cluster.intermediate(0).stats().counts.digest_mismatches;
    assert_eq!(mismatches(), 0);
    assert!(cluster.intermediate(0).corrupt_route(&node));
    eventually("the difference is found", async || mismatches() == 1).await;
    eventually("the route is back", async || cluster.intermediate(0).stats().routes == 1).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "found").await;
    distant.expect_message("found").await;
    assert_eq!(metric(cluster.proxy(1), "causeway_uplink_resyncs_total").await, 1);
    assert_eq!(mismatches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_with_a_wrong_token_never_becomes_ready() {
    let plan = Cluster::plan(1, 1).proxies_with(|config| {
        let token = if config.node_id == "proxy-0" { "right" } else { "wrong" };
        config.cluster.token = Some(Secret::new(token));
    });
    let plan = plan.intermediates_with(|config| config.cluster.token = Some(Secret::new("right")));
    let mut cluster = plan.start().await;
    let stranger = cluster.add_proxy().await;
    let stranger = cluster.proxy(stranger);
    within(RECOVERY, "it has tried more than once", async || {
        metric(stranger, "causeway_uplink_reconnects_total").await >= 3
    })
    .await;
    readiness(stranger, 503).await;
    readiness(cluster.proxy(0), 200).await;
    let stats = cluster.intermediate(0).stats();
    assert_eq!((stats.members, stats.endpoints), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_stands_for_several_addresses_is_dialled() {
    let plan = Cluster::plan(2, 1).proxies_with(|config| {
        let names = config.cluster.intermediates.iter();
        let names = names.map(|address| address.replace("127.0.0.1", "localhost"));
        config.cluster.intermediates = names.collect();
    });
    let mut cluster = plan.start().await;
    let topic = name("dns");
    let mut distant = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let mut publisher = client(&cluster, 0, Version::V5).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "by name").await;
    distant.expect_message("by name").await;
    cluster.kill_intermediate(0).await;
    readiness(cluster.proxy(0), 503).await;
    cluster.restart_intermediate(0).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "by name again").await;
    distant.expect_message("by name again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_leaves_holds_nobody_back_and_one_that_returns_is_served() {
    let mut cluster = Cluster::start(3, 2).await;
    complete(&cluster, 3, 2).await;
    let load = {
        let [a, b] = [0, 1].map(|number| cluster.proxy(number).address());
        Load::start(&[a], &[b]).await
    };
    let topic = name("leaving");
    for _ in 0..2 {
        let leaving = subscriber(&cluster, 2, Version::V5, "#", QoS::ExactlyOnce).await;
        load.progress(20).await;
        drop(leaving);
        cluster.stop_proxy(2).await;
        load.progress(20).await;
        cluster.restart_proxy(2).await;
        complete(&cluster, 3, 2).await;
        let mut back = subscriber(&cluster, 2, Version::V5, &topic, QoS::ExactlyOnce).await;
        let mut publisher = client(&cluster, 0, Version::V5).await;
        publisher.publish(&topic, QoS::ExactlyOnce, "again").await;
        back.expect_message("again").await;
    }
    load.finish().await;
    assert_sound(&cluster, 2);
}
