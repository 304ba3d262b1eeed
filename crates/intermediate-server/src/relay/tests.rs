//! Scripts at the relay's boundary: frames in, frames out, time by hand.

mod joining;
mod model;
mod script;
mod store;

use mqtt_codec::{Message, PublishProperties, TopicFilter, TopicName};

use super::*;
use cluster_rpc::RouteDigest;
use cluster_rpc::frame::*;

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(super) fn member(name: &str, incarnation: u64) -> Member {
    Member { node: node(name), incarnation: Incarnation(incarnation) }
}

pub(super) fn route(filter: &str, qos: u8) -> Route {
    let qos = mqtt_codec::QoS::from_bits(qos);
    Route { filter: TopicFilter::new(filter.to_owned()).unwrap(), qos }
}

/// A message on lane 7.
pub(super) fn message(seq: u64, topic: &str, qos: u8) -> Routed {
    let message = Message {
        topic: TopicName::new(topic.to_owned()).unwrap(),
        payload: bytes::Bytes::from(format!("payload {seq}")),
        qos: mqtt_codec::QoS::from_bits(qos).unwrap(),
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    };
    Routed { lane: Lane(7), seq, provenance: Provenance::default(), message }
}

/// The same, with RETAIN.
pub(super) fn retained(seq: u64, topic: &str, qos: u8) -> Routed {
    let mut routed = message(seq, topic, qos);
    routed.message.retain = true;
    routed
}

/// A relay, and the time it is told.
pub(super) struct Net {
    pub(super) relay: Relay,
    pub(super) now: Instant,
}

/// The name of the store: sorts behind those of the proxies.
pub(super) const STORE: &str = "relay/store";

/// A proxy with its three streams.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) member: Member,
    pub(super) routes: StreamId,
    pub(super) publish: StreamId,
    pub(super) deliver: StreamId,
}

impl Net {
    /// With a store that wants nothing, and no grace: takes messages at once.
    pub(super) fn new() -> Self {
        Self::with(|config| config.start_grace = Duration::ZERO)
    }

    pub(super) fn with(change: impl FnOnce(&mut RelayConfig)) -> Self {
        let mut net = Self::without_store(change);
        net.join_store(1, &[]);
        net
    }

    pub(super) fn without_store(change: impl FnOnce(&mut RelayConfig)) -> Self {
        let mut config = RelayConfig::new(member("relay", 1_000));
        config.store_here = StoreHere::Yes;
        change(&mut config);
        let now = Instant::now();
        Self { relay: Relay::new(config, now), now }
    }

    /// The store comes, in its life `incarnation`, and has told `routes`.
    pub(super) fn join_store(&mut self, incarnation: u64, routes: &[Route]) -> Proxy {
        let member = member(STORE, incarnation);
        let stream = self.hello_of(hello_frame(&member, EndpointRole::Store, &[]));
        self.snapshot(stream, 0, routes);
        self.open_all(member, stream)
    }

    /// Lets time pass in small steps, in which `alive` send beats with empty digests of no seq.
    pub(super) fn pass(&mut self, time: Duration, alive: &[&Proxy]) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(100);
            for proxy in alive {
                let beat = Beat { nonce: 1, seq: u64::MAX, count: 0, digest: 0 };
                self.up(proxy.routes, RouteUp::Beat(beat));
            }
            self.relay.handle_time(self.now);
        }
    }

    pub(super) fn up(&mut self, stream: StreamId, frame: RouteUp) {
        self.relay.handle_routes(stream, frame, self.now).unwrap();
    }

    pub(super) fn hello(&mut self, member: &Member, known: &[Member]) -> StreamId {
        self.hello_at(member, known, 0, 1)
    }

    pub(super) fn hello_at(
        &mut self,
        member: &Member,
        known: &[Member],
        head_seq: u64,
        oldest_delta: u64,
    ) -> StreamId {
        let hello = hello_frame(member, EndpointRole::Proxy, known);
        self.hello_of(Hello { head_seq, oldest_delta, ..hello })
    }

    pub(super) fn hello_of(&mut self, hello: Hello) -> StreamId {
        let stream = self.relay.attach(StreamKind::Routes, Peer::Remote, self.now);
        self.up(stream, RouteUp::Hello(hello));
        stream
    }

    pub(super) fn snapshot(&mut self, stream: StreamId, at_seq: u64, routes: &[Route]) {
        let routes = routes.to_vec();
        self.up(stream, RouteUp::Snapshot(SnapshotChunk { at_seq, last: true, routes }));
    }

    pub(super) fn delta(&mut self, stream: StreamId, first_seq: u64, routes: &[Route]) {
        self.up(stream, RouteUp::Delta(Delta { first_seq, routes: routes.to_vec() }));
    }

    pub(super) fn open_publish(&mut self, member: &Member) -> StreamId {
        let stream = self.relay.attach(StreamKind::Publish, Peer::Remote, self.now);
        let open = PublishUp::Open(member.clone());
        self.relay.handle_publish(stream, open, self.now).unwrap();
        stream
    }

    pub(super) fn open_deliver(&mut self, member: &Member, last: (u64, u64)) -> StreamId {
        let stream = self.relay.attach(StreamKind::Deliver, Peer::Remote, self.now);
        let (last_link, last_seq) = last;
        let open = DeliverOpen { member: member.clone(), last_link, last_seq };
        self.relay.handle_deliver(stream, DeliverUp::Open(open), self.now).unwrap();
        stream
    }

    /// A proxy that has told `routes` and has opened everything.
    pub(super) fn join(&mut self, name: &str, routes: &[Route]) -> Proxy {
        self.join_as(member(name, 1), routes)
    }

    pub(super) fn join_as(&mut self, member: Member, routes: &[Route]) -> Proxy {
        let stream = self.hello(&member, &[]);
        self.snapshot(stream, 0, routes);
        self.open_all(member, stream)
    }

    fn open_all(&mut self, member: Member, routes: StreamId) -> Proxy {
        let publish = self.open_publish(&member);
        let deliver = self.open_deliver(&member, (0, 0));
        self.relay.handle_time(self.now);
        Proxy { member, routes, publish, deliver }
    }

    pub(super) fn publish(&mut self, from: &Proxy, messages: Vec<Routed>) {
        self.credit(from);
        let batch = PublishUp::Batch(messages);
        self.relay.handle_publish(from.publish, batch, self.now).unwrap();
    }

    /// Reads the publish stream until the credit is told; what else is there stays.
    pub(super) fn credit(&mut self, of: &Proxy) {
        let slot = self.relay.by_node[&of.member.node];
        let window = self.relay.config.credit;
        if self.relay.grants() {
            at(&mut self.relay.endpoints, slot).unwrap().credit.grant(window);
        }
    }

    pub(super) fn take(&mut self, by: &Proxy, up_to: u64) {
        self.relay.handle_deliver(by.deliver, DeliverUp::Acked(up_to), self.now).unwrap();
    }

    pub(super) fn said_on_routes(&mut self, stream: StreamId) -> Vec<RouteDown> {
        let mut said = Vec::new();
        while let Polled::Frame(frame) = self.relay.poll_routes(stream) {
            said.push(frame);
        }
        said
    }

    pub(super) fn said_on_publish(&mut self, stream: StreamId) -> Vec<PublishDown> {
        let mut said = Vec::new();
        while let Polled::Frame(frame) = self.relay.poll_publish(stream) {
            said.push(frame);
        }
        said
    }

    pub(super) fn said_on_deliver(&mut self, stream: StreamId) -> Vec<DeliverDown> {
        let mut said = Vec::new();
        while let Polled::Frame(frame) = self.relay.poll_deliver(stream, self.now) {
            said.push(frame);
        }
        said
    }

    /// The acknowledgement of lane 7, if one was said.
    pub(super) fn acked(&mut self, origin: &Proxy) -> Option<u64> {
        let said = self.said_on_publish(origin.publish);
        said.iter().rev().find_map(|frame| match frame {
            PublishDown::Acked(lanes) => Some(lanes[0].1),
            PublishDown::Credit { .. } | PublishDown::BarrierDone(_) | PublishDown::Refused(_) => {
                None
            }
        })
    }

    /// Link number and message number of everything that came.
    pub(super) fn delivered(&mut self, to: &Proxy) -> Vec<(u64, u64)> {
        self.said_on_deliver(to.deliver).into_iter().flat_map(numbers).collect()
    }

    pub(super) fn is_closed(&mut self, stream: StreamId) -> bool {
        matches!(self.relay.poll_publish(stream), Polled::Closed)
    }
}

/// The first frame of an endpoint that has nothing to tell.
pub(super) fn hello_frame(member: &Member, role: EndpointRole, known: &[Member]) -> Hello {
    let (member, known) = (member.clone(), known.to_vec());
    Hello { member, protocol: PROTOCOL, head_seq: 0, oldest_delta: 1, known, role, stray: false }
}

/// Link number and message number of a batch.
pub(super) fn numbers(frame: DeliverDown) -> Vec<(u64, u64)> {
    match frame {
        DeliverDown::LinkOpen(_) => Vec::new(),
        DeliverDown::Batch { first_seq, deliveries } => {
            let seqs = deliveries.iter().map(|delivery| delivery.routed.seq);
            (first_seq..).zip(seqs).collect()
        }
    }
}
