//! The state of a session that its protocol needs, whether or not its client is connected.
//!
//! Owns two of the items of Session State `[MQTT5 4.1]`: what was sent and is not acknowledged,
//! and which QoS 2 messages were received and are not released. The broker holds the others:
//! subscriptions, what waits to be sent, the will, and when the session ends.

mod in_flight;
mod received;

use std::sync::Arc;

use mqtt_codec::{Message, QoS, ReasonCode};

use crate::Ticket;
use crate::event::Request;

pub(crate) use in_flight::{InFlight, InFlightTable, Stage};
pub(crate) use received::ReceivedIds;

/// A session between two packets. A new one is [`Session::default`].
#[derive(Clone, Debug, Default)]
pub struct Session {
    pub(crate) in_flight: InFlightTable,
    pub(crate) received: ReceivedIds,
    /// How many connections it had, to tell their tickets apart.
    pub(crate) connections: u32,
}

impl Session {
    /// The broker's answer to an event of an earlier connection, while there is no new one. Matters
    /// for QoS 2 only.
    pub fn complete(&mut self, ticket: Ticket, reason: ReasonCode) {
        if let Request::Acknowledged { packet_id, qos: QoS::ExactlyOnce, .. } = ticket.request {
            self.received.settle(packet_id, reason);
        }
    }

    /// Whether nothing is left to acknowledge or release, in either direction.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && self.received.is_empty()
    }

    /// How many messages to the client are not acknowledged.
    #[must_use]
    pub fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    /// The messages whose receipt the client has not confirmed, in the order they were sent, with
    /// the QoS of their delivery. A QoS 2 message leaves with its PUBREC.
    pub fn unconfirmed(&self) -> impl Iterator<Item = (&Arc<Message>, QoS)> {
        self.in_flight.iter().filter_map(|entry| Some((entry.message.as_ref()?, entry.qos)))
    }

    /// Gives memory back that an idle session does not need.
    pub(crate) fn shrink(&mut self) {
        self.in_flight.shrink();
        self.received.shrink();
    }
}
