//! An intermediate with real gRPC, and proxies that are nothing but uplinks.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_rpc::frame::{NodeId, Provenance, Route};
use cluster_rpc::{Token, Uplink, UplinkConfig, UplinkEvent, UplinkEvents};
use intermediate_server::{Config, Listeners, Node, Stats};
use mqtt_codec::{Message, PublishProperties, QoS, TopicFilter, TopicName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);

struct Intermediate {
    node: Node,
    stop: CancellationToken,
}

impl Intermediate {
    async fn start(address: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            node_id: "relay".to_owned(),
            start_grace: Duration::ZERO.into(),
            drain: Duration::from_millis(500).into(),
            ..Config::default()
        };
        change(&mut config);
        let grpc = TcpListener::bind(address).await.unwrap();
        let admin = Some(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let stop = CancellationToken::new();
        let node = Node::start(config, Listeners { grpc, admin }, stop.clone()).unwrap();
        Self { node, stop }
    }

    async fn any() -> Self {
        Self::start("127.0.0.1:0", |_| {}).await
    }

    fn address(&self) -> SocketAddr {
        self.node.addresses().grpc
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.node.join()).await.unwrap().unwrap();
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
}

impl Proxy {
    fn start(name: &str, intermediate: SocketAddr) -> Self {
        Self::with(name, intermediate, |_| {})
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
        Self { uplink, events, stop, received: Vec::new(), completed: BTreeSet::new() }
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
        let message = Arc::new(Message {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            payload: Bytes::from(number.to_be_bytes().to_vec()),
            qos,
            retain: false,
            expiry_secs: None,
            properties: PublishProperties::default(),
        });
        let ticket = (qos > QoS::AtMostOnce).then_some(number);
        let provenance = Provenance::default();
        self.uplink.publish(&message, None, provenance, ticket).expect("the window is not full");
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
                self.received.extend(deliveries.messages().map(number));
                deliveries.accept();
            }
            UplinkEvent::Completed(tickets) => self.completed.extend(tickets),
            UplinkEvent::Refused(refused) => panic!("refused: {refused:?}"),
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
    relay.stop().await;
    for number in 500..1_000 {
        publisher.publish("a/b", number, QoS::ExactlyOnce);
    }
    let relay = Intermediate::start(&address.to_string(), |_| {}).await;
    subscriber.act("deliveries", |one| one.received.len() >= 1_000).await;
    publisher.act("completions", |one| one.completed.len() == 1_000).await;
    assert!(subscriber.received.iter().copied().eq(0..1_000), "in order, each once");
    relay.until("both are members", |stats| stats.members == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_dies_stops_holding_acknowledgements_back() {
    let relay = Intermediate::any().await;
    let mut publisher = Proxy::start("publisher", relay.address());
    let subscriber = Proxy::start("subscriber", relay.address());
    publisher.serving().await;
    subscriber.serving().await;
    subscriber.subscribe("a", QoS::AtLeastOnce).await;
    publisher.publish("a", 1, QoS::AtLeastOnce);
    relay.until("it waits", |stats| stats.pending == 1).await;
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
    let relay = Intermediate::start("127.0.0.1:0", |config| {
        config.cluster.token = Some(daemon::Secret::new("secret"));
    })
    .await;
    let stranger = Proxy::start("stranger", relay.address());
    let friend = Proxy::with("friend", relay.address(), |config| {
        config.token = Token::new("secret");
    });
    friend.serving().await;
    assert!(!*stranger.uplink.serving().borrow());
    assert_eq!(relay.node.stats().endpoints, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_readiness_are_served() {
    let relay = Intermediate::any().await;
    let proxy = Proxy::start("proxy", relay.address());
    proxy.serving().await;
    proxy.subscribe("a", QoS::AtMostOnce).await;
    let admin = relay.node.addresses().admin.unwrap();
    let ready = fetch(admin, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let metrics = fetch(admin, "/metrics").await;
    for line in [
        "causeway_relay_messages_received_total{qos=\"1\"} 0",
        "causeway_relay_dropped_total{reason=\"outbox_full\"} 0",
        "causeway_route_digest_mismatch_total 0",
        "causeway_members 1",
        "causeway_routes 1",
        "causeway_relay_serving 1",
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
