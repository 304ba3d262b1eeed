//! Two intermediates of which one holds the store.

use std::time::Duration;

use cluster_rpc::frame::SessionFarewell;
use mqtt_codec::ReasonCode;
use partition::FjallStore;

use super::rig::{Intermediate, Proxy, client, within};

async fn until(mut holds: impl FnMut() -> bool) {
    let looks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(looks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_takes_no_message_before_a_store_has_told_it_its_routes() {
    let mut relay = Intermediate::bind("relay");
    relay.run(|_| {});
    let proxy = Proxy::start("p", &[relay.address]);
    let is_up = |status: cluster_rpc::UplinkStatus| {
        status.intermediates.iter().any(|one| one.member.is_some())
    };
    until(|| is_up(proxy.uplink.status())).await;
    assert!(relay.node().stats().waits_for_store && !*proxy.uplink.serving().borrow());

    let folder = tempfile::tempdir().unwrap();
    let mut holder = Intermediate::bind("holder");
    let peer = relay.address.to_string();
    holder.run(|config| {
        config.data.directory = Some(folder.path().to_owned());
        config.cluster.peers = vec![peer];
    });
    until(|| !relay.node().stats().waits_for_store).await;
    within(proxy.uplink.serving().wait_for(|serving| *serving)).await.unwrap();
    holder.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_its_messages_wait_at_the_other_relay() {
    let folder = tempfile::tempdir().unwrap();
    let (mut holder, mut relay) = (Intermediate::bind("holder"), Intermediate::bind("relay"));
    let peer = relay.address.to_string();
    let configure = |config: &mut crate::config::Config| {
        config.data.directory = Some(folder.path().to_owned());
        config.cluster.peers = vec![peer.clone()];
    };
    holder.run(configure);
    relay.run(|_| {});
    let mut p = Proxy::connect("p", &[holder.address, relay.address]).await;
    until(|| p.uplink.status().serving == 2).await;
    let held = p.attach(client("c", 1)).await.held;
    p.subscribe(held, "#").await;
    p.detach(held, SessionFarewell::Abnormal);
    // It is known to be handled when what came after it is answered.
    let other = p.attach(client("other", 2)).await.held;
    p.detach(other, SessionFarewell::Clean);
    holder.kill();
    // Its store takes nothing any more.
    let config = crate::config::Config::default().store_folder().unwrap().config;
    until(|| FjallStore::open(folder.path(), config).is_ok()).await;
    for number in 0..20 {
        p.send(&format!("a/{number}"), b"x");
    }
    until(|| relay.node().stats().store_outbox_messages == 20).await;
    assert_eq!(p.published_yet(), None);

    holder.run(configure);
    p.up().await;
    for _ in 0..20 {
        assert_eq!(p.published().await, ReasonCode::Success);
    }
    assert!(p.attach(client("c", 3)).await.session_present);
    for _ in 0..20 {
        p.delivery().await;
    }
    holder.stop().await;
}
