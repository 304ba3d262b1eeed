//! Everything behind the connection: the broker, and whoever keeps a kept session and commits late.
//!
//! What it was told is pending until it is committed, in any order. When the connection is lost, pending
//! changes are committed or lost, and no answer arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt_codec::{PacketId, QoS, ReasonCode};
use mqtt_session::{
    Confirmation, Connection, Delivery, DeliverySource, Event, Once, QueueSlot, Resumed, Session,
    Ticket,
};

use crate::script::*;

/// The place of the first message: packet identifiers start anew soon after it.
const FIRST: u64 = 49_140;

/// Who keeps the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Clean,
    Kept,
}

/// A change that is not committed.
#[derive(Debug)]
enum Change {
    Settled(u64),
    Received(u64),
    Begin { packet_id: PacketId, publishing: Publishing },
    Release { packet_id: PacketId, ticket: Ticket },
}

/// A message on its way to everyone.
#[derive(Debug)]
struct Publishing {
    number: u32,
    qos: QoS,
    key: Option<u32>,
    ticket: Ticket,
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    number: u32,
    qos: QoS,
    received: bool,
    /// Whether it was handed to any connection.
    pushed: bool,
}

pub(crate) struct Host {
    kind: Kind,
    queue: BTreeMap<u64, Queued>,
    next: u64,
    /// Places whose PUBREC is committed, in that order.
    received: Vec<u64>,
    incoming: BTreeMap<PacketId, u32>,
    /// Which of those are known to be taken.
    known_taken: BTreeSet<PacketId>,
    keys: u32,
    once: BTreeSet<u32>,
    /// What this connection is still to be handed.
    to_push: VecDeque<u64>,
    pending: Vec<Change>,
    publishing: Vec<Publishing>,
    pub(crate) taken: Vec<(u32, QoS)>,
}

fn slot_of(place: u64) -> QueueSlot {
    let packet_id = u16::try_from(1 + place % 49_151).unwrap();
    QueueSlot { place, packet_id: id(packet_id) }
}

impl Host {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            queue: BTreeMap::new(),
            next: FIRST,
            received: Vec::new(),
            incoming: BTreeMap::new(),
            known_taken: BTreeSet::new(),
            keys: 0,
            once: BTreeSet::new(),
            to_push: VecDeque::new(),
            pending: Vec::new(),
            publishing: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// How many messages there were for the client.
    pub(crate) fn queued(&self) -> u64 {
        self.next - FIRST
    }

    /// A new message for the client.
    pub(crate) fn queue(&mut self, qos: QoS) {
        let number = u32::try_from(self.queued()).unwrap();
        self.queue.insert(self.next, Queued { number, qos, received: false, pushed: false });
        self.to_push.push_back(self.next);
        self.next += 1;
    }

    /// The next message for this connection.
    pub(crate) fn next_delivery(&mut self) -> Option<Delivery> {
        let place = self.to_push.pop_front()?;
        let queued = self.queue.get_mut(&place).unwrap();
        let dup = std::mem::replace(&mut queued.pushed, true);
        let source = match self.kind {
            Kind::Clean => DeliverySource::Own,
            Kind::Kept => DeliverySource::Queue { slot: slot_of(place), dup },
        };
        Some(Delivery { source, ..delivery(queued.number, queued.qos) })
    }

    /// Takes what the connection has to say.
    pub(crate) fn listen(&mut self, connection: &mut Connection) {
        while let Some(event) = connection.poll_event() {
            match event {
                Event::Publish { message, once, ticket } => {
                    let number = u32::from_be_bytes(message.payload.as_ref().try_into().unwrap());
                    let publishing = Publishing { number, qos: message.qos, key: None, ticket };
                    self.publish(publishing, once);
                }
                Event::Release { packet_id, ticket } => {
                    self.pending.push(Change::Release { packet_id, ticket });
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(confirmation) = connection.poll_confirmation() {
            match confirmation {
                Confirmation::Settled { place } => self.pending.push(Change::Settled(place)),
                Confirmation::Received { place } => self.pending.push(Change::Received(place)),
                Confirmation::Group { .. } => panic!("no group"),
                // Told before the client can release it.
                Confirmation::Taken { packet_id } => {
                    assert!(self.incoming.contains_key(&packet_id));
                    assert!(self.known_taken.insert(packet_id));
                }
            }
        }
    }

    fn publish(&mut self, mut publishing: Publishing, once: Option<Once>) {
        let is_kept_qos2 = self.kind == Kind::Kept && publishing.qos == QoS::ExactlyOnce;
        assert_eq!(once.is_some(), is_kept_qos2);
        match once {
            None => self.publishing.push(publishing),
            Some(Once::Begin(packet_id)) => {
                assert!(!self.incoming.contains_key(&packet_id));
                self.pending.push(Change::Begin { packet_id, publishing });
            }
            Some(Once::Again(packet_id)) => {
                publishing.key = Some(self.incoming[&packet_id]);
                self.publishing.push(publishing);
            }
        }
    }

    /// Commits one of the changes, and answers it.
    pub(crate) fn commit(&mut self, which: usize, connection: &mut Connection) {
        if self.pending.is_empty() {
            return;
        }
        let at = which % self.pending.len();
        match self.pending.remove(at) {
            Change::Settled(place) => self.settle(place),
            Change::Received(place) => {
                self.receive(place);
                connection.complete_received(slot_of(place));
            }
            Change::Begin { packet_id, mut publishing } => {
                publishing.key = Some(self.begin(packet_id));
                self.publishing.push(publishing);
            }
            Change::Release { packet_id, ticket } => {
                assert!(self.incoming.remove(&packet_id).is_some());
                self.known_taken.remove(&packet_id);
                connection.complete(ticket, ReasonCode::Success);
            }
        }
    }

    /// One of the messages has come everywhere, or is refused.
    pub(crate) fn answer(&mut self, which: usize, asked: ReasonCode, connection: &mut Connection) {
        if self.publishing.is_empty() {
            return;
        }
        let publishing = self.publishing.remove(which % self.publishing.len());
        let known = publishing.key.is_some_and(|key| self.once.contains(&key));
        // What came everywhere before is not refused.
        let reason = if known { ReasonCode::Success } else { asked };
        if !reason.is_error() {
            self.take(&publishing);
        }
        connection.complete(publishing.ticket, reason);
    }

    /// The connection is lost: of what is under way, so much happens all the same. What the next one
    /// finds.
    pub(crate) fn cut(&mut self, committed: usize, taken: usize) -> Session {
        for change in self.pending.drain(..).take(committed).collect::<Vec<_>>() {
            match change {
                Change::Settled(place) => self.settle(place),
                Change::Received(place) => self.receive(place),
                Change::Begin { packet_id, .. } => drop(self.begin(packet_id)),
                Change::Release { packet_id, .. } => {
                    self.incoming.remove(&packet_id);
                    self.known_taken.remove(&packet_id);
                }
            }
        }
        for publishing in self.publishing.drain(..).take(taken).collect::<Vec<_>>() {
            self.take(&publishing);
        }
        let unsent = self.queue.iter().filter(|(_, queued)| !queued.received);
        self.to_push = unsent.map(|(place, _)| *place).collect();
        Session::Resumed(Resumed {
            released: self.received.iter().map(|&place| slot_of(place)).collect(),
            incoming: self
                .incoming
                .keys()
                .copied()
                .filter(|id| !self.known_taken.contains(id))
                .collect(),
            taken: self.known_taken.iter().copied().collect(),
        })
    }

    /// Whether nothing is under way or owed.
    pub(crate) fn is_idle(&self) -> bool {
        let done = self.kind == Kind::Clean || self.queue.is_empty();
        self.to_push.is_empty() && self.pending.is_empty() && self.publishing.is_empty() && done
    }

    /// The identifier under which the message with this number is sent.
    pub(crate) fn packet_id_of(&self, number: u32) -> PacketId {
        slot_of(FIRST + u64::from(number)).packet_id
    }

    /// Whether the PUBREC of the message with this identifier is committed.
    pub(crate) fn has_received(&self, packet_id: PacketId) -> bool {
        self.received.iter().any(|&place| slot_of(place).packet_id == packet_id)
    }

    /// Whether the client's message with this identifier is not released.
    pub(crate) fn holds_incoming(&self, packet_id: PacketId) -> bool {
        self.incoming.contains_key(&packet_id)
    }

    fn settle(&mut self, place: u64) {
        let settled = self.queue.remove(&place).unwrap();
        assert!(settled.pushed);
        assert_eq!(settled.received, settled.qos == QoS::ExactlyOnce);
        self.received.retain(|received| *received != place);
    }

    fn receive(&mut self, place: u64) {
        let queued = self.queue.get_mut(&place).unwrap();
        assert!(!queued.received && queued.qos == QoS::ExactlyOnce);
        queued.received = true;
        self.received.push(place);
    }

    fn begin(&mut self, packet_id: PacketId) -> u32 {
        self.keys += 1;
        *self.incoming.entry(packet_id).or_insert(self.keys)
    }

    fn take(&mut self, publishing: &Publishing) {
        if publishing.key.is_none_or(|key| self.once.insert(key)) {
            self.taken.push((publishing.number, publishing.qos));
        }
    }
}
