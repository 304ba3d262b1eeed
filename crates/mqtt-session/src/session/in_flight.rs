//! Messages on their way to the client, from PUBLISH to the last acknowledgement, in the order
//! they were sent.
//!
//! ```text
//!            QoS 1: PUBACK; QoS 2: a PUBREC that refuses
//!  Published ───────────────────────────────────────────► gone
//!     │ ▲                                                   ▲
//!     │ └── resent after a reconnect ── Unsent              │
//!     └── QoS 2: PUBREC ──► Released ── PUBCOMP ────────────┘
//! ```
//!
//! Packet identifiers are given out in ascending order, so the table is also sorted by their
//! distance from the first. Only when a client leaves one message unacknowledged for 65,534
//! others must an identifier be skipped; then the order is lost until the table is empty.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{Message, PacketId, QoS, SubscriptionIds};

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// PUBLISH was sent on an earlier connection only.
    Unsent,
    /// PUBLISH was sent on this connection.
    Published,
    /// PUBREL was sent.
    Released,
}

/// One unacknowledged message.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    /// `None` once it is released: it will not be sent again `[MQTT-4.3.3-6]`.
    pub(crate) message: Option<Arc<Message>>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) subscription_ids: SubscriptionIds,
    pub(crate) packet_id: PacketId,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) stage: Stage,
    /// Whether it takes one of the client's receive maximum on this connection.
    pub(crate) counted: bool,
}

/// All unacknowledged messages of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlightTable {
    entries: VecDeque<InFlight>,
    /// The identifier given out last; 0 before the first.
    last: u16,
    /// Whether the entries are no longer sorted.
    scattered: bool,
    /// Bytes of the messages that may have to be sent again.
    bytes: usize,
}

impl InFlight {
    fn weight(&self) -> usize {
        self.message.as_ref().map_or(0, |message| {
            message.topic.as_str().len()
                + message.payload.len()
                + message.properties.as_bytes().len()
        })
    }
}

impl InFlightTable {
    /// An identifier that is not in use `[MQTT-2.2.1-4]`. It is taken by [`push`](Self::push).
    /// `None` if all are in use.
    pub(crate) fn vacant_id(&mut self) -> Option<PacketId> {
        let mut id = successor(self.last)?;
        if self.entries.front().is_some_and(|front| front.packet_id == id) {
            self.scattered = true;
        }
        if !self.scattered {
            return Some(id);
        }
        for _ in 0..self.entries.len() {
            if self.find(id).is_none() {
                return Some(id);
            }
            id = successor(id.value())?;
        }
        self.find(id).is_none().then_some(id)
    }

    pub(crate) fn push(&mut self, entry: InFlight) {
        self.last = entry.packet_id.value();
        self.bytes += entry.weight();
        self.entries.push_back(entry);
    }

    pub(crate) fn get_mut(&mut self, packet_id: PacketId) -> Option<&mut InFlight> {
        let at = self.find(packet_id)?;
        self.entries.get_mut(at)
    }

    pub(crate) fn remove(&mut self, packet_id: PacketId) -> Option<InFlight> {
        let at = self.find(packet_id)?;
        let entry = self.entries.remove(at);
        self.bytes -= entry.as_ref().map_or(0, InFlight::weight);
        if self.entries.is_empty() {
            self.scattered = false;
        }
        entry
    }

    /// The receiver has it: it will not be sent again `[MQTT-4.3.3-6]`.
    pub(crate) fn release(&mut self, packet_id: PacketId) {
        let Some(at) = self.find(packet_id) else { return };
        let Some(entry) = self.entries.get_mut(at) else { return };
        self.bytes -= entry.weight();
        entry.stage = Stage::Released;
        entry.message = None;
    }

    /// Bytes of the messages that may have to be sent again.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &InFlight> {
        self.entries.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut InFlight> {
        self.entries.iter_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives memory back that an idle session does not need.
    pub(crate) fn shrink(&mut self) {
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    fn find(&self, packet_id: PacketId) -> Option<usize> {
        let first = self.entries.front()?.packet_id;
        // Clients acknowledge in order [MQTT-4.6.0-2], so it is the first as a rule.
        if first == packet_id {
            return Some(0);
        }
        if self.scattered {
            return self.entries.iter().position(|entry| entry.packet_id == packet_id);
        }
        let wanted = distance(first, packet_id);
        self.entries.binary_search_by_key(&wanted, |entry| distance(first, entry.packet_id)).ok()
    }
}

/// The identifier after `last`. Zero is none `[MQTT-2.2.1-4]`.
fn successor(last: u16) -> Option<PacketId> {
    PacketId::new(last.wrapping_add(1).max(1))
}

/// How far `other` was given out behind `first`.
fn distance(first: PacketId, other: PacketId) -> u16 {
    other.value().wrapping_sub(first.value())
}
