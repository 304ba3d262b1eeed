//! One origin, three relays, one receiver, and a random schedule of everything that can happen.
//!
//! A relay may hold back, deliver long after its stream has broken, or lose its acknowledgements. The receiver
//! refuses some messages. Checked: what is acknowledged was received; what is received is in order and not
//! repeated; what is refused is not received, and never acknowledged; once a relay stays, everything of
//! QoS >= 1 arrives or is refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const RELAYS: usize = 3;
const SIM_LANES: u8 = 3;

#[derive(Clone, Debug)]
enum Step {
    Publish {
        lane: u8,
        qos: u8,
    },
    /// The relay's publish stream opens, or breaks and may open again later.
    Open(usize),
    Break(usize),
    /// The relay grants this many more messages.
    Credit(usize, u8),
    /// One frame goes from the origin to the relay.
    Send(usize),
    /// This many messages go from the relay to the receiver.
    Deliver(usize, u8),
    /// The relay reports what was delivered.
    Acknowledge(usize),
    /// The relay dies with all it holds.
    Die(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let relay = 0..RELAYS;
    prop_oneof![
        8 => (0..SIM_LANES, 0..3_u8).prop_map(|(lane, qos)| Step::Publish { lane, qos }),
        2 => relay.clone().prop_map(Step::Open),
        1 => relay.clone().prop_map(Step::Break),
        3 => (relay.clone(), 1..8_u8).prop_map(|(relay, more)| Step::Credit(relay, more)),
        6 => relay.clone().prop_map(Step::Send),
        4 => (relay.clone(), 1..6_u8).prop_map(|(relay, count)| Step::Deliver(relay, count)),
        4 => relay.clone().prop_map(Step::Acknowledge),
        1 => relay.prop_map(Step::Die),
    ]
}

/// What a relay holds for the receiver. It outlives the stream it came by.
enum Held {
    Message { stream: Option<LinkId>, sent: Outgoing },
    Barrier { stream: Option<LinkId>, id: u64 },
}

#[derive(Default)]
struct Relay {
    stream: Option<LinkId>,
    credit: u64,
    outbox: VecDeque<Held>,
    acked: BTreeMap<Lane, u64>,
    refused: Vec<(Lane, u64, ReasonCode)>,
    barriers: Vec<u64>,
}

struct Simulation {
    origin: Origin<u32>,
    relays: [Relay; RELAYS],
    streams: u64,
    published: u32,
    owed: BTreeSet<u32>,
    last: BTreeMap<Lane, u64>,
    received: BTreeMap<Lane, Vec<u32>>,
    completed: BTreeSet<u32>,
    refused: BTreeSet<u32>,
    now: Instant,
}

/// Whether the receiver has no room for a message.
fn is_refused(ticket: u32) -> bool {
    ticket.is_multiple_of(5)
}

impl Simulation {
    fn new() -> Self {
        Self {
            origin: Origin::new(LIMITS, Arc::default()),
            relays: Default::default(),
            streams: 0,
            published: 0,
            owed: BTreeSet::new(),
            last: BTreeMap::new(),
            received: BTreeMap::new(),
            completed: BTreeSet::new(),
            refused: BTreeSet::new(),
            now: Instant::now(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Publish { lane, qos } => self.publish(lane, QoS::from_bits(qos).unwrap()),
            Step::Open(relay) => self.open(relay),
            Step::Break(relay) => self.cut(relay),
            Step::Credit(relay, more) => {
                let Some(stream) = self.relays[relay].stream else { return };
                self.relays[relay].credit += u64::from(more);
                self.origin.handle_credit(stream, self.relays[relay].credit, u64::MAX);
            }
            Step::Send(relay) => self.send(relay),
            Step::Deliver(relay, count) => {
                (0..count).for_each(|_| self.deliver(relay));
            }
            Step::Acknowledge(relay) => self.acknowledge(relay),
            Step::Die(relay) => {
                self.cut(relay);
                self.relays[relay].outbox.clear();
            }
        }
        for ticket in self.origin.take_completed() {
            assert!(self.completed.insert(ticket), "{ticket} completed twice");
            let received = self.received.values().flatten().any(|&received| received == ticket);
            assert!(received, "{ticket} acknowledged and not received");
        }
        for (ticket, _) in self.origin.take_refused() {
            assert!(is_refused(ticket), "{ticket} refused by nobody");
            assert!(self.refused.insert(ticket), "{ticket} refused twice");
        }
    }

    fn publish(&mut self, lane: u8, qos: QoS) {
        self.published += 1;
        let ticket = (qos != Q0).then_some(self.published);
        let publication = Publication {
            lane: Lane(lane),
            message: &message(qos, &self.published.to_be_bytes()),
            expires_at: None,
            provenance: Provenance::default(),
        };
        if self.origin.publish(publication, ticket).is_ok() {
            self.owed.extend(ticket);
        }
    }

    fn open(&mut self, relay: usize) {
        if self.relays[relay].stream.is_some() {
            return;
        }
        self.streams += 1;
        let stream = LinkId(self.streams);
        self.relays[relay].stream = Some(stream);
        self.relays[relay].credit = 0;
        self.origin.handle_link_up(stream, node(["a", "b", "c"][relay]));
    }

    fn cut(&mut self, relay: usize) {
        let Some(stream) = self.relays[relay].stream.take() else { return };
        self.relays[relay].acked.clear();
        self.relays[relay].refused.clear();
        self.relays[relay].barriers.clear();
        self.origin.handle_link_down(stream);
    }

    fn send(&mut self, relay: usize) {
        let Some(stream) = self.relays[relay].stream else { return };
        match self.origin.poll_frame(stream, self.now) {
            None => {}
            Some(OriginFrame::Batch(batch)) => {
                let held = |sent| Held::Message { stream: Some(stream), sent };
                self.relays[relay].outbox.extend(batch.into_iter().map(held));
            }
            Some(OriginFrame::Barrier { id, .. }) => {
                self.relays[relay].outbox.push_back(Held::Barrier { stream: Some(stream), id });
            }
        }
    }

    /// The receiver's rule: what is not above the last number of the lane came before. What it refused when
    /// it came first it refuses again.
    fn deliver(&mut self, relay: usize) {
        let relay = &mut self.relays[relay];
        match relay.outbox.pop_front() {
            None => {}
            Some(Held::Barrier { stream, id }) if stream == relay.stream => relay.barriers.push(id),
            Some(Held::Barrier { .. }) => {}
            Some(Held::Message { stream, sent }) => {
                let last = self.last.entry(sent.lane).or_default();
                let ticket = u32::from_be_bytes(sent.message.payload[..].try_into().unwrap());
                let is_new = sent.seq > *last;
                *last = sent.seq.max(*last);
                if is_refused(ticket) {
                    if stream == relay.stream {
                        relay.refused.push((sent.lane, sent.seq, ReasonCode::QuotaExceeded));
                    }
                } else if is_new {
                    self.received.entry(sent.lane).or_default().push(ticket);
                }
                if stream == relay.stream {
                    relay.acked.insert(sent.lane, sent.seq);
                }
            }
        }
    }

    fn acknowledge(&mut self, relay: usize) {
        let relay = &mut self.relays[relay];
        let Some(stream) = relay.stream else { return };
        self.origin.handle_refused(stream, &std::mem::take(&mut relay.refused));
        let acked: Vec<_> = std::mem::take(&mut relay.acked).into_iter().collect();
        self.origin.handle_acked(stream, &acked);
        for id in std::mem::take(&mut relay.barriers) {
            self.origin.handle_barrier_done(stream, id);
        }
    }

    /// All relays work from now on, until nothing moves.
    fn settle(&mut self) {
        for relay in 0..RELAYS {
            self.take(&Step::Open(relay));
        }
        for _ in 0..2_000 {
            for relay in 0..RELAYS {
                self.take(&Step::Credit(relay, 50));
                self.take(&Step::Send(relay));
                self.take(&Step::Deliver(relay, 50));
                self.take(&Step::Acknowledge(relay));
            }
            if self.completed.len() + self.refused.len() == self.owed.len() {
                return;
            }
        }
        panic!("{} of {} completed", self.completed.len(), self.owed.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_repeated_or_reordered(steps in prop::collection::vec(step(), 0..300)) {
        let mut simulation = Simulation::new();
        for step in &steps {
            simulation.take(step);
        }
        simulation.settle();
        let (refused, taken): (BTreeSet<u32>, _) =
            simulation.owed.iter().copied().partition(|&ticket| is_refused(ticket));
        prop_assert_eq!(&simulation.completed, &taken);
        prop_assert_eq!(&simulation.refused, &refused);
        prop_assert_eq!(simulation.origin.usage(), (0, 0));
        for received in simulation.received.values() {
            prop_assert!(received.is_sorted_by(|left, right| left < right), "{:?}", received);
        }
    }
}
