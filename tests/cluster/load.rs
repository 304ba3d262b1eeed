//! Publishers and subscribers that go on while a test breaks things around them.
//!
//! Publishers keep a bounded number of messages unacknowledged and send at a steady pace, so that no
//! subscriber's queue can overflow: whatever is missing at the end was lost. Their connections must
//! survive; a test that ends one on purpose uses a client of its own.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use mqtt_codec::{
    Ack, Connect, Decoder, Packet, PacketId, Publish, PublishProperties, QoS, ReasonCode,
    Subscribe, SubscriptionIds, SubscriptionOptions, TopicFilter, TopicName, UserProperties,
    Version,
};
use testkit::{History, connect_packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::support::{RECOVERY, name, within};

/// Time between two messages of one publisher.
const PACE: Duration = Duration::from_millis(2);

/// Most unacknowledged messages of one publisher.
const WINDOW: usize = 50;

/// Messages a subscriber takes at one proxy before it moves to the next: few enough moves that it is not taken
/// for two clients that fight for one identifier.
const STAY: u64 = 100;

/// Topics each publisher writes to in turn, so that its messages spread over lanes.
const TOPICS: u64 = 16;

/// One running publisher.
struct Publisher {
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// Traffic between proxies, and what became of it.
pub(crate) struct Load {
    history: Arc<Mutex<History>>,
    publishers: Vec<Publisher>,
    subscribers: Vec<JoinHandle<()>>,
    /// No new messages.
    enough: CancellationToken,
    /// Subscribers may go.
    end: CancellationToken,
}

impl Load {
    /// Subscribers at each of `subscribed`, then one publisher at QoS 1 and one at QoS 2 at each of
    /// `published`.
    pub(crate) async fn start(published: &[SocketAddr], subscribed: &[SocketAddr]) -> Self {
        let homes: Vec<_> = subscribed.iter().map(|address| vec![*address]).collect();
        Self::start_at(published, &homes).await
    }

    /// As [`start`](Self::start), but each subscriber has a session that outlives its connections, and
    /// changes from one of `homes` to the next without a word, again and again.
    pub(crate) async fn start_moving(published: &[SocketAddr], homes: &[SocketAddr]) -> Self {
        let turned =
            |by: usize| (0..homes.len()).map(|at| homes[(at + by) % homes.len()]).collect();
        let homes: Vec<Vec<_>> = (0..homes.len()).map(turned).collect();
        Self::start_at(published, &homes).await
    }

    async fn start_at(published: &[SocketAddr], homes: &[Vec<SocketAddr>]) -> Self {
        let mut load = Self {
            history: Arc::default(),
            publishers: Vec::new(),
            subscribers: Vec::new(),
            enough: CancellationToken::new(),
            end: CancellationToken::new(),
        };
        let prefix = name("load");
        let levels = [(QoS::AtLeastOnce, "one"), (QoS::ExactlyOnce, "two")];
        let writers: Vec<_> = published.iter().flat_map(|at| levels.map(|of| (*at, of))).collect();
        let topics: Vec<_> = (writers.iter().enumerate())
            .map(|(index, (_, (_, level)))| format!("{prefix}/{index}/{level}"))
            .collect();
        for (index, homes) in homes.iter().enumerate() {
            load.subscribe(homes, &format!("subscriber{index}"), &prefix, &topics).await;
        }
        for ((address, (qos, _)), topic) in writers.into_iter().zip(topics) {
            load.publish(address, qos, topic).await;
        }
        load
    }

    /// Waits until every publisher has `count` more messages acknowledged.
    pub(crate) async fn progress(&self, count: u64) {
        let counters =
            || self.publishers.iter().map(|one| one.acknowledged.load(Ordering::Relaxed));
        let targets: Vec<_> = counters().map(|so_far| so_far + count).collect();
        within(RECOVERY, "every publisher goes on", async || {
            self.alive();
            counters().zip(&targets).all(|(now, target)| now >= *target)
        })
        .await;
    }

    /// How many messages all publishers have acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.publishers.iter().map(|one| one.acknowledged.load(Ordering::Relaxed)).sum()
    }

    /// How many messages wait when nothing is acknowledged any more.
    pub(crate) fn most_in_flight(&self) -> usize {
        WINDOW * self.publishers.len()
    }

    /// Lets everything arrive and checks that it did so in order and as often as promised.
    pub(crate) async fn finish(self) {
        self.enough.cancel();
        for publisher in self.publishers {
            let ended = tokio::time::timeout(RECOVERY, publisher.task).await;
            ended.expect("all messages are acknowledged in time").expect("the publisher is well");
        }
        let owed = |history: &History| history.violations().is_empty();
        // What is acknowledged is in the subscribers' queues: it is theirs in a moment, or lost.
        let until = tokio::time::Instant::now() + testkit::DEADLINE;
        let mut look = tokio::time::interval(Duration::from_millis(100));
        while !owed(&lock(&self.history)) && tokio::time::Instant::now() < until {
            look.tick().await;
        }
        self.end.cancel();
        for subscriber in self.subscribers {
            subscriber.await.expect("the subscriber is well");
        }
        lock(&self.history).check();
    }

    /// Fails the test here when a task has failed.
    fn alive(&self) {
        let publishers = self.publishers.iter().map(|publisher| &publisher.task);
        let all = publishers.chain(&self.subscribers);
        assert!(all.into_iter().all(|task| !task.is_finished()), "a client of the load has ended");
    }

    async fn publish(&mut self, address: SocketAddr, qos: QoS, topic: String) {
        let wire = Wire::connect(address, &name("publisher")).await;
        let acknowledged = Arc::<AtomicU64>::default();
        let work = Publishing {
            wire,
            qos,
            topic,
            history: Arc::clone(&self.history),
            acknowledged: Arc::clone(&acknowledged),
            next: 0,
            in_flight: 0,
        };
        let task = tokio::spawn(work.run(self.enough.clone()));
        self.publishers.push(Publisher { acknowledged, task });
    }

    async fn subscribe(
        &mut self,
        homes: &[SocketAddr],
        who: &str,
        prefix: &str,
        topics: &[String],
    ) {
        let home = Home { id: name("subscriber"), addresses: homes.to_vec(), taken: 0 };
        let mut wire = home.connect().await;
        wire.subscribe(&format!("{prefix}/#")).await;
        for topic in topics {
            for number in 0..TOPICS {
                lock(&self.history).subscribed(who, &format!("{topic}/{number}"));
            }
        }
        let history = Arc::clone(&self.history);
        let work = Subscribing { wire, home, who: who.into(), history, held: HashSet::new() };
        self.subscribers.push(tokio::spawn(work.run(self.end.clone())));
    }
}

struct Publishing {
    wire: Wire,
    qos: QoS,
    topic: String,
    history: Arc<Mutex<History>>,
    acknowledged: Arc<AtomicU64>,
    next: u64,
    in_flight: usize,
}

impl Publishing {
    /// Ends when all is acknowledged after `enough`.
    async fn run(mut self, enough: CancellationToken) {
        let mut pace = pace();
        while self.in_flight > 0 || !enough.is_cancelled() {
            let may_send = self.in_flight < WINDOW && !enough.is_cancelled();
            tokio::select! {
                packet = self.wire.receive() => self.handle(packet).await,
                _ = pace.tick(), if may_send => self.send_next().await,
                () = enough.cancelled(), if may_send => {}
            }
        }
        self.wire.send(Packet::Disconnect(Box::default())).await;
    }

    fn lane(&self, sequence: u64) -> (String, String) {
        (self.topic.replace('/', "-"), format!("{}/{}", self.topic, sequence % TOPICS))
    }

    async fn send_next(&mut self) {
        let sequence = self.next;
        self.next += 1;
        self.in_flight += 1;
        let (publisher, topic) = self.lane(sequence);
        lock(&self.history).sent(&publisher, &topic, self.qos, sequence);
        let publish = Publish {
            dup: false,
            qos: self.qos,
            retain: false,
            packet_id: Some(packet_id(sequence)),
            topic: Some(TopicName::new(topic.as_str()).expect("a topic of this file is valid")),
            alias: None,
            expiry_secs: None,
            subscription_ids: SubscriptionIds::new(),
            properties: PublishProperties::default(),
            payload: History::payload(&publisher, sequence),
        };
        self.wire.send(Packet::Publish(publish)).await;
    }

    async fn handle(&mut self, packet: Packet) {
        match packet {
            Packet::PubAck(ack) => {
                self.take(&ack);
                self.in_flight -= 1;
            }
            Packet::PubRec(ack) => {
                self.take(&ack);
                let pubrel = Ack::new(ack.packet_id, ReasonCode::Success);
                self.wire.send(Packet::PubRel(pubrel)).await;
            }
            Packet::PubComp(_) => self.in_flight -= 1,
            other => panic!("a publisher got {other:?}"),
        }
    }

    /// Acknowledgements come in the order of the messages, whichever way each one took.
    fn take(&self, ack: &Ack) {
        assert!(!ack.reason.is_error(), "{ack:?}");
        let sequence = self.acknowledged.load(Ordering::Relaxed);
        assert_eq!(ack.packet_id, packet_id(sequence), "acknowledged out of order");
        let (publisher, topic) = self.lane(sequence);
        lock(&self.history).acknowledged(&publisher, &topic, self.qos, sequence);
        self.acknowledged.store(sequence + 1, Ordering::Relaxed);
    }
}

/// Where a subscriber lives.
struct Home {
    id: String,
    /// The first is where it is now.
    addresses: Vec<SocketAddr>,
    /// Messages it got there.
    taken: u64,
}

impl Home {
    /// Whether it is time to move.
    fn is_over(&self) -> bool {
        self.addresses.len() > 1 && self.taken >= STAY
    }

    /// Connects, as often as it takes while the session is not to be had.
    async fn connect(&self) -> Wire {
        let mut connect = connect_packet(Version::V5, &self.id);
        if self.addresses.len() > 1 {
            testkit::persistent(&mut connect);
        }
        loop {
            if let Some(wire) = Wire::try_connect(self.addresses[0], connect.clone()).await {
                return wire;
            }
        }
    }

    async fn move_on(&mut self) -> Wire {
        self.addresses.rotate_left(1);
        self.taken = 0;
        self.connect().await
    }
}

struct Subscribing {
    wire: Wire,
    home: Home,
    who: String,
    history: Arc<Mutex<History>>,
    /// Packet identifiers of QoS 2 messages that are not released.
    held: HashSet<PacketId>,
}

impl Subscribing {
    async fn run(mut self, end: CancellationToken) {
        loop {
            tokio::select! {
                packet = self.wire.receive() => self.handle(packet).await,
                () = end.cancelled() => return,
            }
            if self.home.is_over() {
                self.wire = self.home.move_on().await;
            }
        }
    }

    async fn handle(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.take(publish).await,
            Packet::PubRel(ack) => {
                self.held.remove(&ack.packet_id);
                self.wire.send(Packet::PubComp(ack)).await;
            }
            other => panic!("{} got {other:?}", self.who),
        }
    }

    async fn take(&mut self, publish: Publish) {
        self.home.taken += 1;
        let is_new = publish.qos != QoS::ExactlyOnce
            || publish.packet_id.is_some_and(|id| self.held.insert(id));
        let topic = publish.topic.as_ref().expect("no aliases were allowed").as_str();
        if is_new {
            lock(&self.history).received(&self.who, topic, publish.qos, &publish.payload);
        }
        let Some(id) = publish.packet_id else { return };
        let ack = Ack::new(id, ReasonCode::Success);
        let answer = match publish.qos {
            QoS::ExactlyOnce => Packet::PubRec(ack),
            QoS::AtLeastOnce | QoS::AtMostOnce => Packet::PubAck(ack),
        };
        self.wire.send(answer).await;
    }
}

/// A socket and a codec that wait as long as it takes.
struct Wire {
    stream: TcpStream,
    decoder: Decoder,
    unread: BytesMut,
}

impl Wire {
    async fn connect(address: SocketAddr, id: &str) -> Self {
        let connected = Self::try_connect(address, connect_packet(Version::V5, id)).await;
        connected.expect("the proxy has a clean session for everyone")
    }

    /// `None` when the CONNECT is refused.
    async fn try_connect(address: SocketAddr, connect: Connect) -> Option<Self> {
        let stream = TcpStream::connect(address).await.expect("the proxy listens");
        stream.set_nodelay(true).expect("a connected socket takes the option");
        let decoder = Decoder::for_version(Version::V5, u32::MAX);
        let mut wire = Self { stream, decoder, unread: BytesMut::new() };
        wire.send(Packet::Connect(Box::new(connect))).await;
        match wire.receive().await {
            Packet::ConnAck(connack) => (!connack.reason.is_error()).then_some(wire),
            other => panic!("expected CONNACK, got {other:?}"),
        }
    }

    async fn subscribe(&mut self, filter: &str) {
        let filter = TopicFilter::new(filter).expect("a filter of this file is valid");
        let options =
            SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
        let subscribe = Subscribe {
            packet_id: packet_id(0),
            subscription_id: None,
            user_properties: UserProperties::new(),
            filters: vec![(filter, options)],
        };
        self.send(Packet::Subscribe(Box::new(subscribe))).await;
        let packet = self.receive().await;
        assert!(matches!(packet, Packet::SubAck(_)), "expected SUBACK, got {packet:?}");
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.encode(Version::V5, &mut bytes).expect("the load sends what can be encoded");
        self.stream.write_all(&bytes).await.expect("the proxy keeps its clients");
    }

    /// Loses nothing when it is dropped before it is done.
    async fn receive(&mut self) -> Packet {
        loop {
            let decoded = self.decoder.decode(&mut self.unread);
            if let Some(packet) = decoded.expect("the proxy sends packets") {
                return packet;
            }
            let read = self.stream.read_buf(&mut self.unread).await;
            assert!(read.is_ok_and(|count| count > 0), "the proxy keeps its clients");
        }
    }
}

fn pace() -> Interval {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

fn packet_id(sequence: u64) -> PacketId {
    let id = u16::try_from(sequence % 65_535).expect("below 65,535") + 1;
    PacketId::new(id).expect("above 0")
}

fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().expect("no holder of the history fails")
}
