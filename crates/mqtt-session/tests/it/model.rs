//! Random histories between a client and a server that lose their connection now and then.
//!
//! The client is written from the standard alone and keeps its own account of every message. The
//! two wires deliver in order, and lose all that is on them when the connection is lost. After
//! each history everything is let through, and then nothing may be missing: QoS 1 arrived at
//! least once, QoS 2 exactly once, both ways and in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use mqtt_codec::{Ack, Connect, Packet, Publish, QoS, ReasonCode, Version};
use mqtt_session::{Event, ServerProfile, Session, Ticket};
use proptest::prelude::*;

use crate::script::*;

const SERVER_MAXIMUM: u16 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// The client has a new message to send.
    Publish(QoS),
    /// The server has a new message for the client.
    Deliver(QoS),
    /// The server reads one packet.
    ServerReads,
    /// The client reads one packet.
    ClientReads,
    /// The client sends the acknowledgement that is due longest.
    Acknowledge,
    /// The broker answers one of the open tickets.
    Complete(usize, Outcome),
    /// The connection is lost; some tickets are answered before the client is back, with
    /// another receive maximum.
    Reconnect(usize, u16),
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Taken,
    Refused,
}

fn step() -> impl Strategy<Value = Step> {
    let qos = || prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)];
    let outcome = prop_oneof![5 => Just(Outcome::Taken), 1 => Just(Outcome::Refused)];
    prop_oneof![
        3 => qos().prop_map(Step::Publish),
        3 => qos().prop_map(Step::Deliver),
        6 => Just(Step::ServerReads),
        6 => Just(Step::ClientReads),
        4 => Just(Step::Acknowledge),
        3 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Complete(which, outcome)),
        1 => (0..3_usize, 1..6_u16).prop_map(|(parked, window)| Step::Reconnect(parked, window)),
    ]
}

/// A message from the client that it still owes.
#[derive(Clone, Copy, Debug)]
struct Owed {
    number: u32,
    qos: QoS,
    released: bool,
}

/// The client's side, from the standard.
#[derive(Default)]
struct Client {
    published: u32,
    next_id: u16,
    /// Not yet sent for the first time.
    waiting: VecDeque<(u32, QoS)>,
    /// In the order they were sent.
    owed: Vec<(u16, Owed)>,
    /// Messages whose acknowledgement this connection still owes, in the order it must come.
    unanswered: VecDeque<u16>,
    /// QoS 2 messages that were read and are not released.
    received: BTreeSet<u16>,
    /// Acknowledgements the client is late with.
    due: VecDeque<Packet>,
    accepted: Vec<(u32, QoS)>,
    refused: Vec<(u32, QoS)>,
    read: Vec<(u32, QoS)>,
}

struct World {
    version: Version,
    script: Script,
    client: Client,
    window: u16,
    up: VecDeque<Packet>,
    down: VecDeque<Packet>,
    tickets: Vec<(u32, QoS, Ticket)>,
    taken: Vec<(u32, QoS)>,
    delivered: u32,
    to_deliver: VecDeque<(u32, QoS)>,
    /// What the server has sent and the client has not acknowledged, over all connections.
    in_flight: BTreeMap<u16, u32>,
    /// Of it, what was sent on this connection.
    live: BTreeSet<u16>,
}

fn profile() -> ServerProfile {
    ServerProfile {
        receive_maximum: maximum(SERVER_MAXIMUM),
        inflight_maximum: 5,
        ..ServerProfile::default()
    }
}

fn number_of(publish: &Publish) -> u32 {
    u32::from_be_bytes(publish.payload.as_ref().try_into().unwrap())
}

impl World {
    fn new(version: Version) -> Self {
        let window = 3;
        let mut world = Self {
            version,
            script: Self::connection(version, window, None, Instant::now()),
            client: Client { next_id: u16::MAX - 3, ..Client::default() },
            window,
            up: VecDeque::new(),
            down: VecDeque::new(),
            tickets: Vec::new(),
            taken: Vec::new(),
            delivered: 0,
            to_deliver: VecDeque::new(),
            in_flight: BTreeMap::new(),
            live: BTreeSet::new(),
        };
        world.script.connack();
        world
    }

    fn connection(version: Version, window: u16, session: Option<Session>, now: Instant) -> Script {
        let receive_maximum =
            if version == Version::V5 { maximum(window) } else { maximum(u16::MAX) };
        let connect = Connect { receive_maximum, ..connect(version) };
        Script::open(&connect, profile(), session, now)
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Publish(qos) => {
                self.client.waiting.push_back((self.client.published, qos));
                self.client.published += 1;
            }
            Step::Deliver(qos) => {
                self.to_deliver.push_back((self.delivered, qos));
                self.delivered += 1;
            }
            Step::ServerReads => {
                self.server_reads();
            }
            Step::ClientReads => {
                self.client_reads();
            }
            Step::Acknowledge => self.up.extend(self.client.due.pop_front()),
            Step::Complete(which, outcome) => self.complete(which, outcome),
            Step::Reconnect(parked, window) => self.reconnect(parked, window),
        }
        self.settle();
    }

    /// What happens without anybody's doing.
    fn settle(&mut self) {
        self.client_sends();
        while self.script.connection.window() > 0 {
            let Some((number, qos)) = self.to_deliver.pop_front() else { break };
            self.script.deliver(delivery(number, qos));
        }
        while let Some(packet) = self.script.next() {
            self.check_sent(&packet);
            self.down.push_back(packet);
        }
        while let Some(event) = self.script.connection.poll_event() {
            let Event::Publish { message, ticket } = event else { panic!("{event:?}") };
            let number = u32::from_be_bytes(message.payload.as_ref().try_into().unwrap());
            self.tickets.push((number, message.qos, ticket));
        }
        assert_eq!(self.script.connection.closed(), None);
    }

    /// Identifiers are unique and the window is kept.
    fn check_sent(&mut self, packet: &Packet) {
        let Packet::Publish(publish) = packet else { return };
        let (packet_id, number) = (publish.packet_id.unwrap().value(), number_of(publish));
        let known = self.in_flight.insert(packet_id, number);
        assert_eq!(known, publish.dup.then_some(number));
        assert!(self.live.insert(packet_id), "{packet_id} sent twice on one connection");
        let allowed = if self.version == Version::V5 { self.window.min(5) } else { 5 };
        assert!(self.live.len() <= usize::from(allowed));
    }

    fn client_sends(&mut self) {
        while self.client.owed.len() < usize::from(SERVER_MAXIMUM) {
            let Some((number, qos)) = self.client.waiting.pop_front() else { return };
            let packet_id = self.client.vacant_id();
            self.client.owed.push((packet_id, Owed { number, qos, released: false }));
            self.client.unanswered.push_back(packet_id);
            self.up.push_back(Packet::Publish(publish(number, qos, packet_id)));
        }
    }

    fn server_reads(&mut self) -> bool {
        if !self.script.connection.accepts_input() {
            return false;
        }
        let Some(packet) = self.up.pop_front() else { return false };
        if let Packet::PubAck(ack) | Packet::PubComp(ack) = &packet {
            self.in_flight.remove(&ack.packet_id.value());
            self.live.remove(&ack.packet_id.value());
        }
        self.script.send(packet);
        true
    }

    fn client_reads(&mut self) -> bool {
        let Some(packet) = self.down.pop_front() else { return false };
        match packet {
            Packet::Publish(publish) => self.client.handle_publish(&publish),
            Packet::PubRel(ack) => {
                self.client.received.remove(&ack.packet_id.value());
                self.client.due.push_back(pubcomp(ack.packet_id.value()));
            }
            Packet::PubAck(ack) => self.client.handle_puback(&ack),
            Packet::PubRec(ack) => self.up.extend(self.client.handle_pubrec(&ack)),
            Packet::PubComp(ack) => self.client.handle_pubcomp(&ack),
            other => panic!("{other:?}"),
        }
        true
    }

    fn complete(&mut self, which: usize, outcome: Outcome) {
        if self.tickets.is_empty() {
            return;
        }
        let at = which % self.tickets.len();
        let (ticket, reason) = self.answer(at, outcome);
        self.script.connection.complete(ticket, reason);
    }

    fn answer(&mut self, at: usize, outcome: Outcome) -> (Ticket, ReasonCode) {
        let (number, qos, ticket) = self.tickets.remove(at);
        // MQTT 3 cannot be told, and the history would end here.
        if matches!(outcome, Outcome::Refused) && self.version == Version::V5 {
            return (ticket, ReasonCode::QuotaExceeded);
        }
        self.taken.push((number, qos));
        (ticket, ReasonCode::Success)
    }

    fn reconnect(&mut self, parked: usize, window: u16) {
        let now = self.script.now;
        let next = Self::connection(self.version, window, None, now);
        let mut session = std::mem::replace(&mut self.script, next).end().session;
        for _ in 0..parked.min(self.tickets.len()) {
            let (ticket, reason) = self.answer(0, Outcome::Taken);
            session.complete(ticket, reason);
        }
        self.window = window;
        self.script = Self::connection(self.version, window, Some(session), now);
        self.script.connack();
        self.up.clear();
        self.down.clear();
        self.live.clear();
        self.up = self.client.resume();
    }

    /// Lets everything through.
    fn drain(&mut self) {
        loop {
            self.settle();
            let mut moved = self.client_reads();
            moved |= self.server_reads();
            if let Some(packet) = self.client.due.pop_front() {
                self.up.push_back(packet);
                moved = true;
            }
            if !moved && self.tickets.is_empty() {
                break;
            }
            self.complete(0, Outcome::Taken);
        }
        assert!(self.script.connection.session().is_settled());
        assert_eq!(self.script.connection.stray_acknowledgements(), 0);
    }

    fn check(&self) {
        assert!(self.client.owed.is_empty() && self.client.waiting.is_empty());
        for message in &self.client.accepted {
            let times = self.taken.iter().filter(|taken| *taken == message).count();
            assert!(times == 1 || message.1 == QoS::AtLeastOnce && times > 1, "{message:?}");
        }
        for message in self.client.refused.iter().filter(|(_, qos)| *qos == QoS::ExactlyOnce) {
            assert!(!self.taken.contains(message), "{message:?}");
        }
        let answered = self.client.accepted.len() + self.client.refused.len();
        assert_eq!(answered, self.client.published as usize);

        let count = |qos| self.client.read.iter().filter(|read| read.1 == qos).count();
        let numbers: BTreeSet<_> = self.client.read.iter().map(|read| read.0).collect();
        assert_eq!(numbers.len(), self.delivered as usize);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut first = BTreeSet::new();
            let of_qos = self.client.read.iter().filter(|read| read.1 == qos);
            let order: Vec<_> =
                of_qos.map(|read| read.0).filter(|number| first.insert(*number)).collect();
            assert!(order.is_sorted(), "{order:?}");
            assert!(qos == QoS::AtLeastOnce || count(qos) == order.len());
        }
    }
}

impl Client {
    fn vacant_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.wrapping_add(1).max(1);
            if self.owed.iter().all(|(packet_id, _)| *packet_id != self.next_id) {
                return self.next_id;
            }
        }
    }

    fn handle_publish(&mut self, publish: &Publish) {
        let packet_id = publish.packet_id.unwrap().value();
        let read = (number_of(publish), publish.qos);
        if publish.qos == QoS::AtLeastOnce {
            self.read.push(read);
            self.due.push_back(puback(packet_id));
            return;
        }
        if self.received.insert(packet_id) {
            self.read.push(read);
        }
        self.due.push_back(pubrec(packet_id));
    }

    /// The owed message of an acknowledgement that is the next in order.
    fn answered(&mut self, ack: &Ack, qos: QoS) -> usize {
        let packet_id = ack.packet_id.value();
        assert_eq!(self.unanswered.pop_front(), Some(packet_id), "out of order");
        let at = self.owed.iter().position(|(owed, _)| *owed == packet_id).unwrap();
        assert_eq!(self.owed[at].1.qos, qos);
        at
    }

    fn done(&mut self, at: usize, reason: ReasonCode) {
        let (_, Owed { number, qos, .. }) = self.owed.remove(at);
        let list = if reason.is_error() { &mut self.refused } else { &mut self.accepted };
        list.push((number, qos));
    }

    fn handle_puback(&mut self, ack: &Ack) {
        let at = self.answered(ack, QoS::AtLeastOnce);
        self.done(at, ack.reason);
    }

    fn handle_pubrec(&mut self, ack: &Ack) -> Option<Packet> {
        let at = self.answered(ack, QoS::ExactlyOnce);
        if ack.reason.is_error() {
            self.done(at, ack.reason);
            return None;
        }
        self.owed[at].1.released = true;
        Some(pubrel(ack.packet_id.value()))
    }

    fn handle_pubcomp(&mut self, ack: &Ack) {
        // Not found if a PUBCOMP was lost with its connection.
        let packet_id = ack.packet_id.value();
        let at = self.owed.iter().position(|(owed, _)| *owed == packet_id).unwrap();
        assert!(self.owed[at].1.released);
        self.done(at, ReasonCode::Success);
    }

    /// A new connection: what is sent again.
    fn resume(&mut self) -> VecDeque<Packet> {
        self.due.clear();
        self.unanswered.clear();
        let mut packets = VecDeque::new();
        for (packet_id, owed) in &self.owed {
            if owed.released {
                packets.push_back(pubrel(*packet_id));
                continue;
            }
            self.unanswered.push_back(*packet_id);
            let again = Publish { dup: true, ..publish(owed.number, owed.qos, *packet_id) };
            packets.push_back(Packet::Publish(again));
        }
        packets
    }
}

fn run(version: Version, steps: Vec<Step>) {
    let mut world = World::new(version);
    for step in steps {
        world.play(step);
    }
    world.drain();
    world.check();
}

fn histories() -> ProptestConfig {
    ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn nothing_is_lost_or_doubled_in_mqtt5(steps in proptest::collection::vec(step(), 1..250)) {
        run(Version::V5, steps);
    }

    #[test]
    fn nothing_is_lost_or_doubled_in_mqtt3(steps in proptest::collection::vec(step(), 1..250)) {
        run(Version::V3_1_1, steps);
    }
}
