//! An intermediate with real gRPC that only relays; the store and the proxies are nothing but uplinks.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_rpc::frame::{EndpointRole, NodeId, Provenance, RelayState, Route};
use cluster_rpc::{Token, Uplink, UplinkConfig, UplinkEvent, UplinkEvents};
use intermediate_server::{Config, Listeners, Node, Stats};
use mqtt_codec::{Message, PublishProperties, QoS, ReasonCode, TopicFilter, TopicName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);

struct Intermediate {
    node: Node,
    stop: CancellationToken,
    /// Wants nothing. Without one no relay serves.
    _store: Option<Proxy>,
}

impl Intermediate {
    /// Without a store.
    async fn alone(address: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            node_id: "relay".to_owned(),
            start_grace: Duration::ZERO.into(),
            drain: Duration::from_millis(500).into(),
            ..Config::default()
        };
        config.data.directory = None;
        change(&mut config);
        let grpc = TcpListener::bind(address).await.unwrap();
        let admin = Some(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let stop = CancellationToken::new();
        let node = Node::start(config, Listeners { grpc, admin }, stop.clone()).unwrap();
        Self { node, stop, _store: None }
    }

    async fn any() -> Self {
        let relay = Self::alone("127.0.0.1:0", |_| {}).await;
        let store = Proxy::store(relay.address());
        Self { _store: Some(store), ..relay }
    }

    fn address(&self) -> SocketAddr {
        self.node.addresses().grpc
    }

    /// The store goes on.
    async fn stop(self) -> Option<Proxy> {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.node.join()).await.unwrap().unwrap();
        self._store
    }

    async fn until(&self, what: &str, holds: impl Fn(&Stats) -> bool) {
        until(what, || holds(&self.node.stats())).await;
    }
}

/// An uplink; tickets are payload numbers.
struct Proxy {
    uplink: Uplink<u32>,
    events: UplinkEvents<u32>,
    stop: CancellationToken,
    received: Vec<u32>,
    completed: BTreeSet<u32>,
    refused: Vec<(u32, ReasonCode)>,
    /// What it does not take.
    refuses: Vec<u32>,
}

impl Proxy {
    fn start(name: &str, intermediate: SocketAddr) -> Self {
        Self::with(name, intermediate, |_| {})
    }

    fn store(intermediate: SocketAddr) -> Self {
        Self::with("relay/store", intermediate, |config| config.role = EndpointRole::Store)
    }

    fn with(name: &str, intermediate: SocketAddr, change: impl FnOnce(&mut UplinkConfig)) -> Self {
        let mut config = UplinkConfig {
            node: NodeId::new(name).unwrap(),
            intermediates: vec![intermediate.to_string()],
            ..UplinkConfig::default()
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let (uplink, events) = cluster_rpc::start(config, stop.clone());
        Self {
            uplink,
            events,
            stop,
            received: Vec::new(),
            completed: BTreeSet::new(),
            refused: Vec::new(),
            refuses: Vec::new(),
        }
    }

    async fn serving(&self) {
        let mut serving = self.uplink.serving();
        let wait = serving.wait_for(|&serving| serving);
        tokio::time::timeout(SOON, wait).await.expect("in time").expect("the uplink lives");
    }

    async fn subscribe(&self, filter: &str, qos: QoS) {
        let filter = TopicFilter::new(filter.to_owned()).unwrap();
        let seq = self.uplink.announce(Route { filter, qos: Some(qos) });
        tokio::time::timeout(SOON, self.uplink.applied(seq)).await.expect("applied in time");
    }

    fn publish(&self, topic: &str, number: u32, qos: QoS) {
        self.send((topic, false), number, qos);
    }

    fn send(&self, (topic, retain): (&str, bool), number: u32, qos: QoS) {
        let message = Arc::new(Message {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            payload: Bytes::from(number.to_be_bytes().to_vec()),
            qos,
            retain,
            expiry_secs: None,
            properties: PublishProperties::default(),
        });
        let ticket = (qos > QoS::AtMostOnce).then_some(number);
        let provenance = Provenance::default();
        let taken = self.uplink.publish(self.uplink.life(), &message, None, provenance, ticket);
        taken.expect("the window is not full");
    }

    /// Acts on events until `done`.
    async fn act(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + SOON;
        while !done(self) {
            let event = tokio::time::timeout_at(deadline, self.events.next()).await;
            let event = event.unwrap_or_else(|_| panic!("{what}: not in time"));
            self.take(event.expect("the uplink lives"));
        }
    }

    fn take(&mut self, event: UplinkEvent<u32>) {
        match event {
            UplinkEvent::Deliver(deliveries) => {
                let number = |message: &Arc<Message>| {
                    u32::from_be_bytes(message.payload.as_ref().try_into().unwrap())
                };
                let numbers: Vec<u32> = deliveries.messages().map(number).collect();
                let refuses = |number: &u32| self.refuses.contains(number);
                let refused = numbers.iter().enumerate().filter(|(_, number)| refuses(number));
                let refused =
                    refused.map(|(index, _)| (index, ReasonCode::QuotaExceeded)).collect();
                self.received.extend(numbers.iter().filter(|number| !refuses(number)));
                deliveries.accept_but(refused);
            }
            UplinkEvent::Completed(tickets) => self.completed.extend(tickets),
            UplinkEvent::Refused(refused) => self.refused.extend(refused),
            UplinkEvent::Fenced { new, .. } => panic!("fenced: {new:?}"),
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_from_one_proxy_to_another_in_order_and_are_acknowledged() {
    let relay = Intermediate::any().await;
    let mut publisher = Proxy::start("publisher", relay.address());
    let mut subscriber = Proxy::start("subscriber", relay.address());
    publisher.serving().await;
    subscriber.serving().await;
    subscriber.subscribe("a/+", QoS::AtLeastOnce).await;
    for number in 0..1_000 {
        publisher.publish("a/b", number, QoS::AtLeastOnce);
    }
    subscriber.act("deliveries", |one| one.received.len() == 1_000).await;
    publisher.act("completions", |one| one.completed.len() == 1_000).await;
    assert!(subscriber.received.iter().copied().eq(0..1_000));
    assert!(subscriber.completed.is_empty() && publisher.received.is_empty());
    relay.until("all is taken", |stats| stats.outbox_messages + stats.pending == 0).await;
    let counts = relay.node.stats().counts;
    assert_eq!((counts.received, counts.violations), ([0, 1_000, 0], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_completed_before_the_subscriber_has_accepted_it() {
    let relay = Intermediate::any().await;
    let mut publisher = Proxy::start("publisher", relay.address());
    let mut subscriber = Proxy::start("subscriber", relay.address());
    publisher.serving().await;
    subscriber.serving().await;
    subscriber.subscribe("a", QoS::AtLeastOnce).await;
    publisher.publish("a", 1, QoS::AtLeastOnce);
    let held = tokio::time::timeout(SOON, subscriber.events.next()).await.unwrap().unwrap();
    assert_eq!(relay.node.stats().pending, 1);
    subscriber.take(held);
    publisher.act("completion", |one| one.completed.contains(&1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_intermediate_under_load_loses_nothing_and_keeps_the_order() {
    let relay = Intermediate::any().await;
    let address = relay.address();
    let mut publisher = Proxy::start("publisher", address);
    let mut subscriber = Proxy::start("subscriber", address);
    publisher.serving().await;
    subscriber.serving().await;
    subscriber.subscribe("a/#", QoS::ExactlyOnce).await;
    for number in 0..500 {
        publisher.publish("a/b", number, QoS::ExactlyOnce);
    }
    let _store = relay.stop().await;
    for number in 500..1_000 {
        publisher.publish("a/b", number, QoS::ExactlyOnce);
    }
    let relay = Intermediate::alone(&address.to_string(), |_| {}).await;
    subscriber.act("deliveries", |one| one.received.len() >= 1_000).await;
    publisher.act("completions", |one| one.completed.len() == 1_000).await;
    assert!(subscriber.received.iter().copied().eq(0..1_000), "in order, each once");
    relay.until("both are members", |stats| stats.members == 2).await;
}

/// A proxy whose message another one has not taken, and that one.
async fn one_waits_for_the_other(relay: &Intermediate) -> (Proxy, Proxy) {
    let publisher = Proxy::start("publisher", relay.address());
    let subscriber = Proxy::start("subscriber", relay.address());
    publisher.serving().await;
    subscriber.serving().await;
    subscriber.subscribe("a", QoS::AtLeastOnce).await;
    publisher.publish("a", 1, QoS::AtLeastOnce);
    relay.until("it waits", |stats| stats.pending == 1).await;
    (publisher, subscriber)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_dies_stops_holding_acknowledgements_back() {
    let relay = Intermediate::any().await;
    let (mut publisher, subscriber) = one_waits_for_the_other(&relay).await;
    subscriber.stop.cancel();
    publisher.act("completion", |one| one.completed.contains(&1)).await;
    let stats = relay.node.stats();
    assert_eq!((stats.members, stats.routes, stats.counts.declared_dead), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_lost_is_noticed_by_the_digest_and_repaired() {
    let relay = Intermediate::any().await;
    let publisher = Proxy::start("publisher", relay.address());
    let mut subscriber = Proxy::with("subscriber", relay.address(), |config| {
        config.beat_interval = Duration::from_millis(50);
    });
    publisher.serving().await;
    subscriber.serving().await;
    subscriber.subscribe("a", QoS::AtMostOnce).await;
    assert!(relay.node.corrupt_route(&NodeId::new("subscriber").unwrap()));
    relay.until("the mismatch", |stats| stats.counts.digest_mismatches == 1).await;
    relay.until("the repair", |stats| stats.routes == 1).await;
    publisher.publish("a", 7, QoS::AtMostOnce);
    subscriber.act("delivery", |one| one.received == [7]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nobody_is_served() {
    let relay = Intermediate::alone("127.0.0.1:0", |config| {
        config.cluster.token = Some(daemon::Secret::new("secret"));
    })
    .await;
    let _store = Proxy::with("relay/store", relay.address(), |config| {
        config.role = EndpointRole::Store;
        config.token = Token::new("secret");
    });
    let stranger = Proxy::start("stranger", relay.address());
    let friend = Proxy::with("friend", relay.address(), |config| {
        config.token = Token::new("secret");
    });
    friend.serving().await;
    assert!(!*stranger.uplink.serving().borrow());
    assert_eq!(relay.node.stats().endpoints, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_before_the_store_is_there_and_nothing_retained_without_it() {
    let relay = Intermediate::alone("127.0.0.1:0", |_| {}).await;
    let mut publisher = Proxy::start("publisher", relay.address());
    relay.until("it is a member", |stats| stats.members == 1).await;
    let stats = relay.node.stats();
    assert_eq!((stats.state, stats.waits_for_store), (RelayState::Joining, true));
    let mut store = Proxy::store(relay.address());
    publisher.serving().await;
    assert!(!relay.node.stats().waits_for_store);
    publisher.send(("a", true), 1, QoS::AtLeastOnce);
    let held = tokio::time::timeout(SOON, store.events.next()).await.unwrap().unwrap();
    assert_eq!(relay.node.stats().pending, 1);
    store.take(held);
    publisher.act("completion", |one| one.completed.contains(&1)).await;
    assert_eq!(store.received, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_had_not_taken_when_it_died_is_given_to_its_next_life() {
    let relay = Intermediate::alone("127.0.0.1:0", |_| {}).await;
    let store = Proxy::store(relay.address());
    let mut publisher = Proxy::start("publisher", relay.address());
    publisher.serving().await;
    store.subscribe("a", QoS::AtLeastOnce).await;
    for number in 0..10 {
        publisher.publish("a", number, QoS::AtLeastOnce);
    }
    relay.until("it waits", |stats| stats.pending == 10).await;
    store.stop.cancel();
    drop(store);
    relay.until("its streams have ended", |stats| stats.streams == 3).await;
    publisher.publish("a", 10, QoS::AtLeastOnce);
    relay.until("it waits too", |stats| stats.store_outbox_messages == 11).await;
    let mut store = Proxy::store(relay.address());
    store.act("deliveries", |one| one.received.len() == 11).await;
    publisher.act("completions", |one| one.completed.len() == 11).await;
    assert!(store.received.iter().copied().eq(0..11));
    assert_eq!(relay.node.stats().counts.dropped_dead, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_hears_which_of_its_messages_were_refused() {
    let relay = Intermediate::any().await;
    let mut publisher = Proxy::start("publisher", relay.address());
    let mut subscriber = Proxy::start("subscriber", relay.address());
    publisher.serving().await;
    subscriber.serving().await;
    subscriber.subscribe("a", QoS::AtLeastOnce).await;
    subscriber.refuses = vec![3, 50, 51];
    for number in 0..100 {
        publisher.publish("a", number, QoS::AtLeastOnce);
    }
    subscriber.act("deliveries", |one| one.received.len() == 97).await;
    let all = |one: &Proxy| one.completed.len() + one.refused.len() == 100;
    publisher.act("completions and refusals", all).await;
    let refused: Vec<u32> = publisher.refused.iter().map(|(number, _)| *number).collect();
    assert_eq!(refused, subscriber.refuses);
    assert!(!publisher.completed.iter().any(|number| refused.contains(number)));
    assert_eq!(relay.node.stats().counts.refused_quota, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_leaves_is_waited_for_no_longer() {
    let relay = Intermediate::any().await;
    let (mut publisher, subscriber) = one_waits_for_the_other(&relay).await;
    subscriber.uplink.leave().await;
    publisher.act("completion", |one| one.completed.contains(&1)).await;
    let counts = relay.node.stats().counts;
    assert_eq!((counts.left, counts.declared_dead), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_readiness_are_served() {
    let relay = Intermediate::any().await;
    let proxy = Proxy::start("proxy", relay.address());
    proxy.serving().await;
    proxy.subscribe("a", QoS::AtMostOnce).await;
    let admin = relay.node.addresses().admin.unwrap();
    let deadline = tokio::time::Instant::now() + SOON;
    while !fetch(admin, "/readyz").await.starts_with("HTTP/1.1 200") {
        assert!(tokio::time::Instant::now() < deadline, "not ready in time");
    }
    let metrics = fetch(admin, "/metrics").await;
    for line in [
        "causeway_relay_messages_received_total{qos=\"1\"} 0",
        "causeway_relay_dropped_total{reason=\"outbox_full\"} 0",
        "causeway_route_digest_mismatch_total 0",
        "causeway_members 1",
        "causeway_routes 1",
        "causeway_relay_serving 1",
        "causeway_relay_waits_for_store 0",
        "causeway_relay_refused_total{reason=\"quota_exceeded\"} 0",
        "causeway_relay_store_outbox_bytes 0",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

async fn fetch(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
