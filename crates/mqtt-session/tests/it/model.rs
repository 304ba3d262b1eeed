//! Random histories between a client and a server that lose their connection now and then.
//!
//! The client is written from the standard alone. The two wires deliver in order, and lose all that is
//! on them when the connection is lost. The host behind the connection commits late, and loses what it
//! has not committed. After each history everything is let through, and then nothing may be missing:
//! QoS 1 arrived at least once, QoS 2 exactly once, both ways and in order. A clean session has one
//! connection.

mod client;
mod host;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use mqtt_codec::{Ack, Connect, Packet, QoS, ReasonCode, Version};
use mqtt_session::{ServerProfile, Session};
use proptest::prelude::*;

use self::client::{Client, number_of};
use self::host::{Host, Kind};
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
    /// The broker answers one of the open publishes.
    Answer(usize, ReasonCode),
    /// One of the pending changes of a kept session is committed.
    Commit(usize),
    /// The connection of a kept session is lost; some changes are committed and some publishes taken
    /// before the client is back, with another receive maximum.
    Reconnect { committed: usize, taken: usize, window: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let qos = || prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)];
    let reason = prop_oneof![5 => Just(ReasonCode::Success), 1 => Just(ReasonCode::QuotaExceeded)];
    prop_oneof![
        3 => qos().prop_map(Step::Publish),
        3 => qos().prop_map(Step::Deliver),
        6 => Just(Step::ServerReads),
        6 => Just(Step::ClientReads),
        4 => Just(Step::Acknowledge),
        3 => (any::<usize>(), reason).prop_map(|(which, reason)| Step::Answer(which, reason)),
        4 => any::<usize>().prop_map(Step::Commit),
        1 => (0..4_usize, 0..3_usize, 1..6_u16)
            .prop_map(|(committed, taken, window)| Step::Reconnect { committed, taken, window }),
    ]
}

struct World {
    version: Version,
    kind: Kind,
    script: Script,
    client: Client,
    host: Host,
    window: u16,
    up: VecDeque<Packet>,
    down: VecDeque<Packet>,
    /// Sent on this connection and not acknowledged.
    live: BTreeSet<u16>,
    /// Sent on earlier connections.
    sent: BTreeSet<u32>,
    /// Sent on this one.
    sending: BTreeSet<u32>,
    /// PUBRECs of this connection without PUBREL.
    unreleased: VecDeque<u16>,
    /// PUBRELs that this connection is to begin with.
    released: VecDeque<u16>,
}

fn profile() -> ServerProfile {
    ServerProfile {
        receive_maximum: maximum(SERVER_MAXIMUM),
        inflight_maximum: 5,
        ..ServerProfile::default()
    }
}

impl World {
    fn new(kind: Kind, version: Version) -> Self {
        let window = 3;
        let session = match kind {
            Kind::Clean => Session::Clean,
            Kind::Kept => Session::New,
        };
        let mut world = Self {
            version,
            kind,
            script: Self::connection(version, window, session, Instant::now()),
            client: Client::new(),
            host: Host::new(kind),
            window,
            up: VecDeque::new(),
            down: VecDeque::new(),
            live: BTreeSet::new(),
            sent: BTreeSet::new(),
            sending: BTreeSet::new(),
            unreleased: VecDeque::new(),
            released: VecDeque::new(),
        };
        world.script.connack();
        world
    }

    fn connection(version: Version, window: u16, session: Session, now: Instant) -> Script {
        let receive_maximum =
            if version == Version::V5 { maximum(window) } else { maximum(u16::MAX) };
        let connect = Connect { receive_maximum, ..connect(version) };
        Script::open(&connect, profile(), session, now)
    }

    fn play(&mut self, step: Step) {
        let connection = &mut self.script.connection;
        match step {
            Step::Publish(qos) => self.client.publish(qos),
            Step::Deliver(qos) => self.host.queue(qos),
            Step::ServerReads => drop(self.server_reads()),
            Step::ClientReads => drop(self.client_reads()),
            Step::Acknowledge => self.up.extend(self.client.due.pop_front()),
            // MQTT 3 cannot be told of a refusal, and the history would end here.
            Step::Answer(which, _) if self.version < Version::V5 => {
                self.host.answer(which, ReasonCode::Success, connection);
            }
            Step::Answer(which, reason) => self.host.answer(which, reason, connection),
            Step::Commit(which) => self.host.commit(which, connection),
            Step::Reconnect { committed, taken, window } => {
                if self.kind == Kind::Kept {
                    self.reconnect(committed, taken, window);
                }
            }
        }
        self.settle();
    }

    /// What happens without anybody's doing.
    fn settle(&mut self) {
        self.up.extend(std::iter::from_fn(|| self.client.sends(SERVER_MAXIMUM)));
        while self.script.connection.window() > 0 {
            let Some(delivery) = self.host.next_delivery() else { break };
            self.script.deliver(delivery);
        }
        while let Some(packet) = self.script.next() {
            self.check_sent(&packet);
            self.down.push_back(packet);
        }
        self.host.listen(&mut self.script.connection);
        assert_eq!(self.script.connection.closed(), None);
    }

    fn check_sent(&mut self, packet: &Packet) {
        match packet {
            Packet::Publish(publish) => {
                let (packet_id, number) = (publish.packet_id.unwrap(), number_of(publish));
                if self.kind == Kind::Kept {
                    assert_eq!(packet_id, self.host.packet_id_of(number));
                }
                assert_eq!(publish.dup, self.sent.contains(&number));
                self.sending.insert(number);
                assert!(self.live.insert(packet_id.value()), "{packet_id:?} is in use");
                let allowed = if self.version == Version::V5 { self.window.min(5) } else { 5 };
                assert!(self.live.len() <= usize::from(allowed));
            }
            Packet::PubRel(ack) => self.check_pubrel(ack),
            Packet::PubRec(ack) => {
                let message = self.client.owed_as(ack.packet_id.value());
                assert_eq!(self.host.taken.contains(&message), !ack.reason.is_error());
                assert!(!ack.reason.is_error() || !self.host.holds_incoming(ack.packet_id));
            }
            Packet::PubComp(ack) => assert!(!self.host.holds_incoming(ack.packet_id)),
            Packet::PubAck(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// PUBRELs are safe, and in the order of the PUBRECs.
    fn check_pubrel(&mut self, ack: &Ack) {
        let list = if self.released.is_empty() { &mut self.unreleased } else { &mut self.released };
        assert_eq!(list.pop_front(), Some(ack.packet_id.value()));
        assert!(self.kind == Kind::Clean || self.host.has_received(ack.packet_id));
    }

    fn server_reads(&mut self) -> bool {
        if !self.script.connection.accepts_input() {
            return false;
        }
        let Some(packet) = self.up.pop_front() else { return false };
        match &packet {
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                self.live.remove(&ack.packet_id.value());
            }
            Packet::PubRec(ack) => self.unreleased.push_back(ack.packet_id.value()),
            _ => {}
        }
        self.script.send(packet);
        true
    }

    fn client_reads(&mut self) -> bool {
        let Some(packet) = self.down.pop_front() else { return false };
        self.up.extend(self.client.reads(packet));
        true
    }

    fn reconnect(&mut self, committed: usize, taken: usize, window: u16) {
        let session = self.host.cut(committed, taken);
        self.released = match &session {
            Session::Resumed(resumed) => {
                resumed.released.iter().map(|slot| slot.packet_id.value()).collect()
            }
            Session::Clean | Session::New => VecDeque::new(),
        };
        self.window = window;
        self.script = Self::connection(self.version, window, session, self.script.now);
        assert!(self.script.connack().session_present);
        self.up.clear();
        self.down.clear();
        self.live.clear();
        self.unreleased.clear();
        self.sent.append(&mut self.sending);
        self.up = self.client.resume();
    }

    /// Lets everything through.
    fn drain(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "it comes to no end");
            self.settle();
            let mut moved = self.client_reads();
            moved |= self.server_reads();
            if let Some(packet) = self.client.due.pop_front() {
                self.up.push_back(packet);
                moved = true;
            }
            if !moved && self.host.is_idle() {
                break;
            }
            self.host.commit(0, &mut self.script.connection);
            self.host.answer(0, ReasonCode::Success, &mut self.script.connection);
        }
        assert!(self.script.connection.is_settled());
        assert_eq!(self.script.connection.stray_acknowledgements(), 0);
    }

    fn check(&self) {
        assert!(self.client.is_done());
        for message in &self.client.accepted {
            let times = self.host.taken.iter().filter(|taken| *taken == message).count();
            assert!(times == 1 || message.1 == QoS::AtLeastOnce && times > 1, "{message:?}");
        }
        for message in self.client.refused.iter().filter(|(_, qos)| *qos == QoS::ExactlyOnce) {
            assert!(!self.host.taken.contains(message), "{message:?}");
        }
        let answered = self.client.accepted.len() + self.client.refused.len();
        assert_eq!(answered, self.client.published as usize);

        let mut first = BTreeSet::new();
        let order: Vec<_> = self
            .client
            .read
            .iter()
            .filter(|read| first.insert(read.0))
            .map(|read| read.0)
            .collect();
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(order.len() as u64, self.host.queued());
        let twice = |qos| self.client.read.iter().filter(|read| read.1 == qos).count();
        let of_qos2: BTreeSet<_> =
            self.client.read.iter().filter(|read| read.1 == QoS::ExactlyOnce).collect();
        assert_eq!(twice(QoS::ExactlyOnce), of_qos2.len());
    }
}

fn run(kind: Kind, version: Version, steps: Vec<Step>) {
    let mut world = World::new(kind, version);
    for step in steps {
        world.play(step);
    }
    world.drain();
    world.check();
}

fn histories() -> ProptestConfig {
    ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..250)
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn nothing_is_lost_or_doubled_in_mqtt5(steps in steps()) {
        run(Kind::Clean, Version::V5, steps);
    }

    #[test]
    fn nothing_is_lost_or_doubled_in_mqtt3(steps in steps()) {
        run(Kind::Clean, Version::V3_1_1, steps);
    }

    #[test]
    fn nothing_of_a_kept_session_is_lost_or_doubled_in_mqtt5(steps in steps()) {
        run(Kind::Kept, Version::V5, steps);
    }

    #[test]
    fn nothing_of_a_kept_session_is_lost_or_doubled_in_mqtt3(steps in steps()) {
        run(Kind::Kept, Version::V3_1_1, steps);
    }
}
