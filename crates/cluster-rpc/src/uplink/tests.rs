//! An uplink against a scripted intermediate, over the loopback.

mod by_hand;
mod fake;
mod store;

use bytes::Bytes;
use mqtt_codec::{PublishProperties, QoS, ReasonCode, TopicFilter, TopicName};

use self::fake::{Fake, soon};
use super::*;
use crate::RouteDigest;
use crate::frame::{
    DeliverDown, DeliverUp, Delivery, Lane, OriginId, PublishDown, PublishUp, RejectReason,
    RelayState, RouteDown, RouteUp, Routed, StoreHere,
};
use crate::token::Token;

struct Proxy {
    uplink: Uplink<u32>,
    events: UplinkEvents<u32>,
    _stop: tokio_util::sync::DropGuard,
}

impl Proxy {
    fn start(intermediates: &[String]) -> Self {
        Self::with(UplinkConfig {
            intermediates: intermediates.to_vec(),
            beat_interval: std::time::Duration::from_millis(50),
            ..UplinkConfig::default()
        })
    }

    fn with(config: UplinkConfig) -> Self {
        let shutdown = CancellationToken::new();
        let (uplink, events) = start(config, shutdown.clone());
        Self { uplink, events, _stop: shutdown.drop_guard() }
    }

    fn of(fake: &Fake) -> Self {
        Self::start(&[fake.address.to_string()])
    }

    fn announce(&self, filter: &str, qos: Option<QoS>) -> RouteSeq {
        self.uplink.announce(route(filter, qos))
    }

    fn publish(&self, topic: &str, qos: QoS, ticket: u32) {
        let kept = (qos != QoS::AtMostOnce).then_some(ticket);
        let message = Arc::new(message(topic, qos));
        let life = self.uplink.life();
        self.uplink.publish(life, &message, None, Provenance::default(), kept).unwrap();
    }

    async fn serving(&self) {
        soon(self.uplink.serving().wait_for(|&serving| serving)).await.unwrap();
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        soon(async {
            while !holds(self) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn completed(&mut self) -> Vec<u32> {
        match soon(self.events.next()).await {
            Some(UplinkEvent::Completed(tickets)) => tickets,
            other => panic!("{other:?}"),
        }
    }

    async fn delivered(&mut self) -> Deliveries {
        match soon(self.events.next()).await {
            Some(UplinkEvent::Deliver(deliveries)) => deliveries,
            other => panic!("{other:?}"),
        }
    }
}

fn route(filter: &str, qos: Option<QoS>) -> Route {
    Route { filter: TopicFilter::new(filter.to_owned()).unwrap(), qos }
}

fn message(topic: &str, qos: QoS) -> Message {
    Message {
        topic: TopicName::new(topic.to_owned()).unwrap(),
        payload: Bytes::from_static(b"payload"),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

fn delivery(seq: u64) -> Delivery {
    let message = message(&format!("n/{seq}"), Q1);
    let provenance = Provenance { publisher: seq, once: None };
    let routed = Routed { lane: Lane(3), seq, provenance, message };
    Delivery { origin: OriginId(5), routed: Arc::new(routed) }
}

fn topics(deliveries: &Deliveries) -> Vec<String> {
    deliveries.messages().map(|message| message.topic.as_str().to_owned()).collect()
}

const Q1: QoS = QoS::AtLeastOnce;

#[tokio::test]
async fn routes_go_as_snapshot_then_as_deltas_and_release_waiters_once_applied() {
    let mut fake = Fake::start("i").await;
    let proxy = Proxy::of(&fake);
    let first = proxy.announce("a/+", Some(Q1));
    let (mut routes, hello) = fake.registered().await;
    assert!(hello.known.is_empty());
    let RouteUp::Snapshot(chunk) = routes.recv().await else { panic!("no snapshot") };
    assert!(chunk.last);
    assert_eq!(chunk.routes, [route("a/+", Some(Q1))]);
    assert!(!proxy.uplink.is_applied(first));
    routes.send(RouteDown::Applied(chunk.at_seq)).await;
    soon(proxy.uplink.applied(first)).await;

    let second = proxy.announce("b", Some(QoS::AtMostOnce));
    let RouteUp::Delta(delta) = routes.recv().await else { panic!("no delta") };
    assert_eq!(delta.first_seq, chunk.at_seq + 1);
    assert_eq!(delta.routes, [route("b", Some(QoS::AtMostOnce))]);
    let mut applied = std::pin::pin!(proxy.uplink.applied(second));
    tokio::select! {
        biased;
        () = &mut applied => panic!("not applied yet"),
        () = routes.send(RouteDown::Applied(delta.first_seq)) => {}
    }
    soon(applied).await;
    proxy.announce("b", None);
    let RouteUp::Delta(delta) = routes.recv().await else { panic!("no delta") };
    assert_eq!(delta.routes, [route("b", None)], "a withdrawal waits for the beat at most");
}

#[tokio::test]
async fn beats_carry_the_sum_of_what_was_sent_and_a_resync_brings_a_snapshot() {
    let mut fake = Fake::start("i").await;
    let proxy = Proxy::of(&fake);
    proxy.announce("a", Some(Q1));
    let (mut routes, _) = fake.registered().await;
    assert!(matches!(routes.recv().await, RouteUp::Snapshot(_)));
    let RouteUp::Beat(beat) = routes.recv_any().await else { panic!("no beat") };
    let mut digest = RouteDigest::default();
    digest.add(&route("a", Some(Q1)));
    assert_eq!((beat.seq, beat.count, beat.digest), (1, 1, digest.value()));
    routes.send(RouteDown::Resync).await;
    let RouteUp::Snapshot(chunk) = routes.recv().await else { panic!("no snapshot") };
    assert_eq!((chunk.last, chunk.routes.len()), (true, 1));
    let resyncs = &proxy.uplink.metrics().resyncs;
    assert_eq!(resyncs.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_published_message_is_completed_when_it_is_acknowledged() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::of(&fake);
    let (_routes, _) = fake.registered().await;
    let mut publisher = fake.publisher().await;
    proxy.serving().await;
    proxy.publish("t", Q1, 1);
    proxy.publish("t", QoS::AtMostOnce, 0);
    proxy.publish("t", QoS::ExactlyOnce, 2);
    let messages = publisher.messages(3).await;
    let lane = lane_of(&TopicName::new("t").unwrap());
    let numbers: Vec<_> = messages.iter().map(|routed| (routed.lane, routed.seq)).collect();
    assert_eq!(numbers, [(lane, 1), (lane, 2), (lane, 3)]);
    assert_eq!(messages[2].message, message("t", QoS::ExactlyOnce));
    assert_eq!(proxy.uplink.status().window_messages, 2);
    publisher.send(PublishDown::Acked(vec![(lane, 1)])).await;
    assert_eq!(proxy.completed().await, [1]);
    publisher.send(PublishDown::Acked(vec![(lane, 3)])).await;
    assert_eq!(proxy.completed().await, [2]);
    let status = proxy.uplink.status();
    assert_eq!((status.window_messages, status.window_bytes, status.serving), (0, 0, 1));
    assert_eq!(status.intermediates[0].state, IntermediateState::Serving);
    assert_eq!(status.intermediates[0].lanes, crate::frame::LANES);
    assert_eq!(status.intermediates[0].member, Some(fake.member()));
}

#[tokio::test]
async fn a_full_window_opens_when_completions_are_fetched() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::with(UplinkConfig {
        intermediates: vec![fake.address.to_string()],
        window_messages: 1,
        ..UplinkConfig::default()
    });
    soon(proxy.uplink.window_open()).await;
    proxy.publish("t", Q1, 1);
    let (life, second) = (proxy.uplink.life(), Arc::new(message("t", Q1)));
    let refused = proxy.uplink.publish(life, &second, None, Provenance::default(), Some(2));
    assert!(matches!(refused, Err(NotTaken::WindowFull { ticket: Some(2) })), "{refused:?}");
    let uplink = proxy.uplink.clone();
    let open = tokio::spawn(async move { uplink.window_open().await });
    let (_routes, _) = fake.registered().await;
    let mut publisher = fake.publisher().await;
    let sent = publisher.messages(1).await;
    publisher.send(PublishDown::Acked(vec![(sent[0].lane, 1)])).await;
    assert_eq!(proxy.completed().await, [1]);
    soon(open).await.unwrap();
    proxy.publish("t", Q1, 2);
}

#[tokio::test]
async fn deliveries_are_acknowledged_once_accepted_and_repetitions_are_dropped() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::of(&fake);
    let (_routes, _) = fake.registered().await;
    let (mut deliverer, open) = fake.deliverer().await;
    assert_eq!((open.last_link, open.last_seq), (0, 0));
    deliverer.send(DeliverDown::LinkOpen(7)).await;
    let deliveries = vec![delivery(1), delivery(2)];
    deliverer.send(DeliverDown::Batch { first_seq: 1, deliveries }).await;
    let deliveries = vec![delivery(2), delivery(3)];
    deliverer.send(DeliverDown::Batch { first_seq: 3, deliveries }).await;
    let first = proxy.delivered().await;
    assert_eq!(topics(&first), ["n/1", "n/2"]);
    let second = proxy.delivered().await;
    assert_eq!(topics(&second), ["n/3"]);
    first.accept();
    assert_eq!(deliverer.recv().await, DeliverUp::Acked(2));
    second.accept();
    assert_eq!(deliverer.recv().await, DeliverUp::Acked(4));
    let metrics = proxy.uplink.metrics();
    assert_eq!(metrics.duplicates.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(metrics.delivered.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test]
async fn after_a_cut_the_link_is_taken_up_and_what_is_unacknowledged_is_sent_again() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::of(&fake);
    let (routes, first_hello) = fake.registered().await;
    let (deliverer, _) = fake.deliverer().await;
    let mut publisher = fake.publisher().await;
    proxy.serving().await;
    proxy.publish("t", Q1, 1);
    proxy.publish("t", Q1, 2);
    let sent = publisher.messages(2).await;
    publisher.send(PublishDown::Acked(vec![(sent[0].lane, 1)])).await;
    assert_eq!(proxy.completed().await, [1]);
    deliverer.send(DeliverDown::LinkOpen(7)).await;
    let deliveries = vec![delivery(1), delivery(2)];
    deliverer.send(DeliverDown::Batch { first_seq: 1, deliveries }).await;
    proxy.delivered().await.accept();
    drop((routes, deliverer, publisher));
    proxy.publish("t", Q1, 3);

    let (_routes, hello) = fake.registered().await;
    assert_eq!(hello.member, first_hello.member, "the same life");
    let (mut deliverer, open) = fake.deliverer().await;
    assert_eq!((open.last_link, open.last_seq), (7, 2));
    let mut publisher = fake.publisher().await;
    let again = publisher.messages(2).await;
    assert_eq!([again[0].seq, again[1].seq], [2, 3]);
    deliverer.send(DeliverDown::LinkOpen(7)).await;
    deliverer.send(DeliverDown::Batch { first_seq: 3, deliveries: vec![delivery(3)] }).await;
    proxy.delivered().await.accept();
    assert_eq!(deliverer.recv().await, DeliverUp::Acked(3));
    publisher.send(PublishDown::Acked(vec![(again[0].lane, 3)])).await;
    assert_eq!(proxy.completed().await, [2, 3]);
}

#[tokio::test]
async fn an_intermediate_that_restarts_at_its_port_is_found_again() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::of(&fake);
    drop(fake.registered().await);
    let address = fake.address;
    fake.stop().await;
    proxy.publish("t", Q1, 1);
    let mut fake = Fake::start_at("i", address, None).await;
    let (_routes, _) = fake.registered().await;
    let mut publisher = fake.publisher().await;
    let sent = publisher.messages(1).await;
    publisher.send(PublishDown::Acked(vec![(sent[0].lane, 1)])).await;
    assert_eq!(proxy.completed().await, [1]);
}

#[tokio::test]
async fn lanes_move_to_the_other_intermediate_and_come_back_through_a_barrier() {
    let (mut one, mut other) = (Fake::start("i").await, Fake::start("j").await);
    let mut proxy = Proxy::start(&[one.address.to_string(), other.address.to_string()]);
    let (_one_routes, _) = one.registered().await;
    let (other_routes, _) = other.registered().await;
    let mut one_publisher = one.publisher().await;
    let other_publisher = other.publisher().await;
    // Both are up: each has its lanes, and the proxy a topic for the other one.
    let status = proxy.uplink.status();
    assert_eq!(status.intermediates.iter().map(|each| each.lanes).sum::<usize>(), 256);
    let node = other.member().node;
    let prefers_other = |topic: &String| {
        let lane = lane_of(&TopicName::new(topic.clone()).unwrap());
        crate::lane::preference(lane, &node) > crate::lane::preference(lane, &one.member().node)
    };
    let topic = (0..).map(|n| format!("t/{n}")).find(prefers_other).unwrap();
    other_routes.view(RelayState::Draining, &[]).await;
    other_publisher.ended().await;
    proxy.publish(&topic, Q1, 1);
    let sent = one_publisher.messages(1).await;
    let lane = sent[0].lane;

    other_routes.view(RelayState::Serving, &[]).await;
    let mut other_publisher = other.publisher().await;
    let PublishUp::Barrier { lane: moving, id } = one_publisher.recv().await else {
        panic!("no barrier")
    };
    assert_eq!(moving, lane);
    proxy.publish(&topic, Q1, 2);
    one_publisher.send(PublishDown::BarrierDone(id)).await;
    assert_eq!(proxy.completed().await, [1]);
    let sent = other_publisher.messages(1).await;
    assert_eq!(sent[0].seq, 2);
    other_publisher.send(PublishDown::Acked(vec![(lane, 2)])).await;
    assert_eq!(proxy.completed().await, [2]);
}

#[tokio::test]
async fn deliveries_and_completions_take_turns() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::of(&fake);
    let (_routes, _) = fake.registered().await;
    let (deliverer, _) = fake.deliverer().await;
    let mut publisher = fake.publisher().await;
    proxy.serving().await;
    proxy.publish("t", Q1, 1);
    proxy.publish("t", Q1, 2);
    let lane = publisher.messages(2).await[0].lane;
    deliverer.send(DeliverDown::LinkOpen(7)).await;
    deliverer.send(DeliverDown::Batch { first_seq: 1, deliveries: vec![delivery(1)] }).await;
    proxy.until(|proxy| proxy.uplink.shared.arrived.capacity() < ARRIVED_BATCHES).await;
    publisher.send(PublishDown::Acked(vec![(lane, 1)])).await;
    proxy.until(|proxy| proxy.uplink.status().window_messages == 1).await;
    assert_eq!(proxy.completed().await, [1]);
    publisher.send(PublishDown::Acked(vec![(lane, 2)])).await;
    proxy.until(|proxy| proxy.uplink.status().window_messages == 0).await;
    proxy.delivered().await.accept();
    assert_eq!(proxy.completed().await, [2]);
}

#[tokio::test]
async fn a_refused_message_comes_back_with_its_reason_and_not_as_completed() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::of(&fake);
    let (_routes, _) = fake.registered().await;
    let mut publisher = fake.publisher().await;
    proxy.publish("t", Q1, 1);
    proxy.publish("t", Q1, 2);
    let lane = publisher.messages(2).await[0].lane;
    let full = ReasonCode::QuotaExceeded;
    publisher.send(PublishDown::Refused(vec![(lane, 1, full)])).await;
    publisher.send(PublishDown::Acked(vec![(lane, 2)])).await;
    let Some(UplinkEvent::Refused(refused)) = soon(proxy.events.next()).await else {
        panic!("not refused")
    };
    assert_eq!(refused, [(1, full)]);
    assert_eq!(proxy.completed().await, [2]);
    assert_eq!(proxy.uplink.status().window_messages, 0);
}

#[tokio::test]
async fn a_refused_message_that_comes_again_is_refused_again() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::of(&fake);
    let (routes, _) = fake.registered().await;
    let (mut deliverer, _) = fake.deliverer().await;
    deliverer.send(DeliverDown::LinkOpen(7)).await;
    let deliveries = vec![delivery(1), delivery(2), delivery(3)];
    deliverer.send(DeliverDown::Batch { first_seq: 1, deliveries }).await;
    let full = ReasonCode::QuotaExceeded;
    let delivered = proxy.delivered().await;
    let places = delivered.routed().iter().map(|one| (one.lane, one.seq, one.provenance.publisher));
    assert!(places.eq([(Lane(3), 1, 1), (Lane(3), 2, 2), (Lane(3), 3, 3)]));
    delivered.accept_but(vec![(1, full)]);
    assert_eq!(deliverer.recv().await, DeliverUp::Refused(vec![(2, full)]));
    assert_eq!(deliverer.recv().await, DeliverUp::Acked(3));
    drop((routes, deliverer));

    let (_routes, _) = fake.registered().await;
    let (mut deliverer, open) = fake.deliverer().await;
    assert_eq!((open.last_link, open.last_seq), (7, 1), "nobody knows whether the refusal arrived");
    deliverer.send(DeliverDown::LinkOpen(8)).await;
    let deliveries = vec![delivery(2), delivery(3), delivery(4)];
    deliverer.send(DeliverDown::Batch { first_seq: 1, deliveries }).await;
    let delivered = proxy.delivered().await;
    assert_eq!(topics(&delivered), ["n/4"]);
    delivered.accept();
    assert_eq!(deliverer.recv().await, DeliverUp::Refused(vec![(1, full)]));
    assert_eq!(deliverer.recv().await, DeliverUp::Acked(3));
}

#[tokio::test]
async fn who_leaves_says_so_and_does_not_come_back() {
    let mut fake = Fake::start("i").await;
    let proxy = Proxy::of(&fake);
    proxy.announce("a", Some(Q1));
    let (mut routes, _) = fake.registered().await;
    assert!(matches!(routes.recv().await, RouteUp::Snapshot(_)));
    let answer = async {
        assert_eq!(routes.recv().await, RouteUp::Leave);
        routes.ended().await;
    };
    soon(async { tokio::join!(proxy.uplink.leave(), answer) }).await;
    assert_eq!(proxy.uplink.status().intermediates[0].state, IntermediateState::Down);
    assert!(!*proxy.uplink.serving().borrow());
}

#[tokio::test]
async fn a_proxy_declared_dead_begins_a_new_life() {
    let mut fake = Fake::start("i").await;
    let mut proxy = Proxy::of(&fake);
    let (routes, hello) = fake.registered().await;
    proxy.publish("t", Q1, 1);
    proxy.publish("u", QoS::ExactlyOnce, 3);
    let old = proxy.uplink.life();
    drop(routes);
    let mut routes = fake.routes().await;
    let again = routes.hello().await;
    assert_eq!(again.member, hello.member);
    routes.send(RouteDown::Reject(RejectReason::DeclaredDead)).await;
    drop(routes);
    let Some(UplinkEvent::Fenced { new, mut dropped }) = soon(proxy.events.next()).await else {
        panic!("not fenced")
    };
    dropped.sort_unstable();
    assert_eq!(dropped, [1, 3], "whoever waits for them is told");
    assert!(new > hello.member.incarnation);
    assert_eq!(proxy.uplink.status().incarnation, new);
    assert_eq!(proxy.uplink.status().window_messages, 0);
    let (_routes, hello) = fake.registered().await;
    assert_eq!(hello.member.incarnation, new);
    let mut publisher = fake.publisher().await;
    for (qos, ticket) in [(QoS::AtMostOnce, None), (Q1, Some(9))] {
        let message = Arc::new(message("t", qos));
        let taken = proxy.uplink.publish(old, &message, None, Provenance::default(), ticket);
        assert!(matches!(taken, Err(NotTaken::EarlierLife)), "it would overtake what was lost");
    }
    proxy.publish("t", Q1, 2);
    assert_eq!(publisher.messages(1).await[0].seq, 1, "numbers begin anew");
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_the_right_one_admitted() {
    let token = |text| Token::new(text).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut fake = Fake::start_at("i", any, Some(token("right"))).await;
    let config = |token| UplinkConfig {
        intermediates: vec![fake.address.to_string()],
        token,
        ..UplinkConfig::default()
    };
    let node = |id| crate::frame::NodeId::new(id).unwrap();
    let strangers = [Proxy::with(config(None)), Proxy::with(config(Some(token("wrong"))))];
    for stranger in &strangers {
        let reconnects = &stranger.uplink.metrics().reconnects;
        soon(async {
            while reconnects.load(std::sync::atomic::Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(stranger.uplink.status().intermediates[0].state, IntermediateState::Down);
    }
    let _friend =
        Proxy::with(UplinkConfig { node: node("friend"), ..config(Some(token("right"))) });
    let (_routes, hello) = fake.registered().await;
    assert_eq!(hello.member.node, node("friend"), "nobody else came in");
}

#[tokio::test]
async fn a_name_is_resolved_and_its_vacant_addresses_hold_nothing_up() {
    let mut fake = Fake::start("i").await;
    let proxy = Proxy::start(&[format!("localhost:{}", fake.address.port())]);
    let seq = proxy.announce("a", Some(Q1));
    let (mut routes, _) = fake.registered().await;
    let RouteUp::Snapshot(chunk) = routes.recv().await else { panic!("no snapshot") };
    routes.send(RouteDown::Applied(chunk.at_seq)).await;
    let started = Instant::now();
    soon(proxy.uplink.applied(seq)).await;
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

#[tokio::test]
async fn of_two_addresses_of_one_intermediate_one_is_used() {
    let (mut one, mut other) = (Fake::start("same").await, Fake::start("same").await);
    let proxy = Proxy::start(&[one.address.to_string(), other.address.to_string()]);
    let mut first = one.routes().await;
    let mut second = other.routes().await;
    first.hello().await;
    second.hello().await;
    first
        .send(RouteDown::Welcome { member: one.member(), deltas_from: None, store: StoreHere::No })
        .await;
    assert!(matches!(first.recv().await, RouteUp::Snapshot(_)));
    second
        .send(RouteDown::Welcome {
            member: other.member(),
            deltas_from: None,
            store: StoreHere::No,
        })
        .await;
    assert!(matches!(second.recv().await, RouteUp::Snapshot(_)));
    first.ended().await;
    let states = proxy.uplink.status().intermediates;
    let state =
        |fake: &Fake| states.iter().find(|each| each.address == fake.address).unwrap().state;
    assert_eq!(state(&one), IntermediateState::Standby);
    assert_eq!(state(&other), IntermediateState::Joining);
    drop(second);
    // Whichever comes first takes its place.
    tokio::select! {
        _ = one.routes() => {}
        _ = other.routes() => {}
    }
}

#[tokio::test]
async fn without_intermediates_nothing_waits() {
    let mut proxy = Proxy::start(&[]);
    let seq = proxy.announce("a", Some(Q1));
    soon(proxy.uplink.applied(seq)).await;
    assert!(!*proxy.uplink.serving().borrow());
    drop(proxy._stop);
    assert!(soon(proxy.events.next()).await.is_none());
}
