//! An intermediate with its store and two uplinks, without sockets, threads and disk, in virtual time.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_rpc::frame::{NodeId, Provenance, Route};
use cluster_rpc::network::{Attempt, Broken, Connection, FramesIn, FramesOut, Network, StreamKind};
use cluster_rpc::{Acceptor, Machine, Uplink, UplinkConfig, UplinkEvent, UplinkEvents};
use intermediate_server::{Config, Home, Node, Parts};
use mqtt_codec::{Message, PublishProperties, QoS, TopicFilter, TopicName};
use parking_lot::Mutex;
use partition::{MemoryStore, OpenError};
use tokio::time::sleep;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

/// A network without delay, to the one intermediate there is.
#[derive(Clone, Debug, Default)]
struct Wire(Arc<Mutex<Option<Acceptor>>>);

impl Network for Wire {
    fn connect(&self, _from: &NodeId, _to: SocketAddr) -> Attempt<Arc<dyn Connection>> {
        let acceptor = self.0.lock().clone();
        let connection = acceptor.map(|acceptor| Arc::new(Ends(acceptor)) as Arc<dyn Connection>);
        Box::pin(async move { connection.ok_or(Broken::Refused) })
    }
}

#[derive(Debug)]
struct Ends(Acceptor);

impl Connection for Ends {
    fn open(&self, kind: StreamKind, outgoing: FramesOut) -> Attempt<FramesIn> {
        let acceptor = self.0.clone();
        Box::pin(async move {
            let answers = acceptor.accept(kind, address(), Box::pin(outgoing.map(Ok))).await?;
            Ok(Box::pin(answers.map(Ok)) as FramesIn)
        })
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7420))
}

/// A machine that counts instead of throwing dice.
#[derive(Debug)]
struct Counting {
    start: Instant,
    next: AtomicU64,
}

impl Counting {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: cluster_rpc::machine::now(), next: AtomicU64::new(1) })
    }
}

impl Machine for Counting {
    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_800_000_000) + (cluster_rpc::machine::now() - self.start)
    }

    fn random(&self) -> u64 {
        self.next.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
    }
}

struct Memory(MemoryStore);

impl Home for Memory {
    type Store = MemoryStore;

    fn open(&mut self) -> Result<MemoryStore, OpenError> {
        Ok(self.0.clone())
    }

    fn disk_bytes(_store: &MemoryStore) -> u64 {
        0
    }
}

fn intermediate(wire: &Wire) -> (Node, CancellationToken) {
    let config = Config { node_id: "relay".to_owned(), ..Config::default() };
    let parts = Parts {
        address: address(),
        home: Some(Memory(MemoryStore::new())),
        machine: Counting::new(),
        network: Arc::new(wire.clone()),
    };
    let stop = CancellationToken::new();
    let (node, acceptor) = Node::start_by_hand(config, parts, stop.clone()).unwrap();
    *wire.0.lock() = Some(acceptor);
    (node, stop)
}

fn proxy(name: &str, wire: &Wire, stop: &CancellationToken) -> (Uplink<u8>, UplinkEvents<u8>) {
    let config = UplinkConfig {
        node: NodeId::new(name).unwrap(),
        intermediates: vec![address().to_string()],
        machine: Counting::new(),
        network: Some(Arc::new(wire.clone())),
        ..UplinkConfig::default()
    };
    cluster_rpc::start(config, stop.clone())
}

fn message() -> Arc<Message> {
    Arc::new(Message {
        topic: TopicName::new("a/b").unwrap(),
        payload: Bytes::from_static(b"x"),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    })
}

/// A message goes to a subscriber; that one dies without a word, and nobody waits for it any more. What happened,
/// and when.
async fn lives() -> Vec<(Duration, String)> {
    let start = cluster_rpc::machine::now();
    let mut seen = Vec::new();
    let mut note = |what: &str| seen.push((cluster_rpc::machine::now() - start, what.to_owned()));
    let wire = Wire::default();
    let (end, far_end) = (CancellationToken::new(), CancellationToken::new());
    // Nobody listens yet: both are refused, and try again.
    let (publisher, mut answers) = proxy("near", &wire, &end);
    let (subscriber, mut messages) = proxy("far", &wire, &far_end);
    sleep(Duration::from_secs(5)).await;
    let (node, stop) = intermediate(&wire);
    let filter = TopicFilter::new("a/#").unwrap();
    let seq = subscriber.announce(Route { filter, qos: Some(QoS::AtLeastOnce) });
    publisher.serving().wait_for(|&serving| serving).await.unwrap();
    subscriber.applied(seq).await;
    note("served");

    publisher.publish(publisher.life(), &message(), None, Provenance::default(), Some(1)).unwrap();
    let Some(UplinkEvent::Deliver(deliveries)) = messages.next().await else { panic!("none") };
    assert_eq!(deliveries.messages().len(), 1);
    note("delivered");
    deliveries.accept();
    let Some(UplinkEvent::Completed(tickets)) = answers.next().await else { panic!("none") };
    assert_eq!(tickets, [1]);
    note("completed");

    far_end.cancel();
    publisher.publish(publisher.life(), &message(), None, Provenance::default(), Some(2)).unwrap();
    let Some(UplinkEvent::Completed(tickets)) = answers.next().await else { panic!("none") };
    assert_eq!(tickets, [2]);
    assert_eq!(node.stats().counts.declared_dead, 1);
    note("released");

    stop.cancel();
    node.join().await.unwrap();
    note("stopped");
    end.cancel();
    seen
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_sockets_lives_in_virtual_time() {
    let seen = lives().await;
    let what: Vec<_> = seen.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(what, ["served", "delivered", "completed", "released", "stopped"]);
    let lease = UplinkConfig::default().lease;
    assert!(seen[3].0 - seen[2].0 >= lease, "it was waited for: {seen:?}");
}

#[test]
fn a_cluster_without_sockets_lives_twice_alike() {
    let live = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(lives())
    };
    assert_eq!(live(), live());
}
