//! Messages on their way to the client, from PUBLISH to the last acknowledgement.
//!
//! ```text
//!            QoS 1: PUBACK; QoS 2: a PUBREC that refuses
//!  Published ─────────────────────────────────────────────────────────────────► gone
//!     │ PUBREC, of a kept queue        it is safe           PUBREL    PUBCOMP     ▲
//!     ├───────────────────────► Received ──────► Confirmed ──────► Released ──────┘
//!     └── PUBREC, of anything else ─────────────────────────────────▲
//! ```
//!
//! Invariant: the entries are sorted by the distance of their identifiers from the first, once around.
//! Does not hold the messages: nothing is sent twice on one connection.

use std::collections::VecDeque;

use mqtt_codec::{PacketId, QoS};

use crate::session::Keeper;
use crate::{DeliverySource, QueueSlot};

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// PUBLISH was sent.
    Published,
    /// PUBREC came, and is not safe yet.
    Received,
    /// PUBREC is safe, and an earlier one is not.
    Confirmed,
    /// PUBREL was sent.
    Released,
}

/// One unacknowledged message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) packet_id: PacketId,
    pub(crate) qos: QoS,
    pub(crate) stage: Stage,
    /// Whether it takes one of the client's receive maximum on this connection.
    pub(crate) counted: bool,
    /// Bytes, as long as the client may not have it.
    pub(crate) weight: u32,
    pub(crate) source: DeliverySource,
}

impl InFlight {
    /// Whether it is the message with this place in the queue.
    pub(crate) fn is_of(&self, of: QueueSlot) -> bool {
        matches!(self.source, DeliverySource::Queue { slot, .. } if slot == of)
    }
}

/// The first identifier that a connection may choose itself for a kept session. Those below follow
/// from the place in the queue.
const CHOSEN: u16 = 49_152;

/// All unacknowledged messages of a connection.
#[derive(Debug)]
pub(crate) struct InFlightTable {
    entries: VecDeque<InFlight>,
    /// Bytes of the messages that the client may not have.
    bytes: usize,
    /// The lowest identifier to choose.
    lowest: u16,
    /// The identifier to try next.
    next: PacketId,
}

impl InFlightTable {
    pub(crate) fn new(keeper: Keeper) -> Self {
        let lowest = match keeper {
            Keeper::Connection => 1,
            Keeper::Elsewhere => CHOSEN,
        };
        Self { entries: VecDeque::new(), bytes: 0, lowest, next: at_least(lowest) }
    }

    /// An identifier that is not in use `[MQTT-2.2.1-4]`. It is taken by [`insert`](Self::insert).
    /// `None` if all are in use.
    pub(crate) fn vacant_id(&mut self) -> Option<PacketId> {
        for _ in 0..=self.entries.len() {
            if self.find(self.next).is_err() {
                return Some(self.next);
            }
            self.next = self.successor(self.next);
        }
        None
    }

    /// Adds a message, unless its identifier is in use.
    pub(crate) fn insert(&mut self, entry: InFlight) {
        let Err(at) = self.find(entry.packet_id) else { return };
        if entry.packet_id == self.next {
            self.next = self.successor(self.next);
        }
        self.bytes += bytes(&entry);
        self.entries.insert(at, entry);
    }

    pub(crate) fn lookup(&self, packet_id: PacketId) -> Option<&InFlight> {
        self.entries.get(self.find(packet_id).ok()?)
    }

    pub(crate) fn lookup_mut(&mut self, packet_id: PacketId) -> Option<&mut InFlight> {
        let at = self.find(packet_id).ok()?;
        self.entries.get_mut(at)
    }

    pub(crate) fn remove(&mut self, packet_id: PacketId) -> Option<InFlight> {
        let entry = self.entries.remove(self.find(packet_id).ok()?)?;
        self.bytes -= bytes(&entry);
        Some(entry)
    }

    /// The client has the message `[MQTT-4.3.3-6]`.
    pub(crate) fn advance(&mut self, packet_id: PacketId, stage: Stage) {
        let Ok(at) = self.find(packet_id) else { return };
        let Some(entry) = self.entries.get_mut(at) else { return };
        self.bytes -= bytes(entry);
        entry.weight = 0;
        entry.stage = stage;
    }

    /// Bytes of the messages that the client may not have.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    /// Where it is, or where it would be.
    fn find(&self, packet_id: PacketId) -> Result<usize, usize> {
        let (Some(first), Some(last)) = (self.entries.front(), self.entries.back()) else {
            return Err(0);
        };
        let first = first.packet_id;
        // Clients acknowledge in order [MQTT-4.6.0-2], so it is the first as a rule.
        if first == packet_id {
            return Ok(0);
        }
        let wanted = distance(first, packet_id);
        if distance(first, last.packet_id) < wanted {
            return Err(self.entries.len());
        }
        self.entries.binary_search_by_key(&wanted, |entry| distance(first, entry.packet_id))
    }

    /// The identifier to choose after `id`.
    fn successor(&self, id: PacketId) -> PacketId {
        at_least(id.value().checked_add(1).unwrap_or(self.lowest))
    }
}

/// Zero is none `[MQTT-2.2.1-4]`.
fn at_least(value: u16) -> PacketId {
    PacketId::new(value.max(1)).expect("one or more")
}

/// How far `other` is behind `first`, once around.
fn distance(first: PacketId, other: PacketId) -> u16 {
    other.value().wrapping_sub(first.value())
}

fn bytes(entry: &InFlight) -> usize {
    usize::try_from(entry.weight).unwrap_or(usize::MAX)
}
