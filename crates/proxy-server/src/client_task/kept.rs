//! QoS 2 messages from the client of a kept session: each has a key that makes it once, whatever connections it comes
//! over, and the key must be in the store before the message is published.
//!
//! The order of what a client publishes stays: what comes behind a message that waits for its key waits too.

use std::collections::VecDeque;

use mqtt_codec::{Message, PacketId, QoS, ReasonCode};
use mqtt_session::Ticket;

use crate::broker::Publication;
use crate::store::AskNumber;

/// What a kept session has on its way in.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Keys of messages that an earlier connection began.
    incoming: Vec<(PacketId, u128)>,
    waiting: VecDeque<Waiting>,
    releases: VecDeque<(AskNumber, Ticket)>,
}

/// A message that waits for its key, or behind one that does.
#[derive(Debug)]
struct Waiting {
    message: Message,
    ticket: Ticket,
    key: Key,
}

/// The key of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    /// It needs none.
    None,
    /// The store was asked.
    Asked(AskNumber),
    /// It is safe.
    Safe(u128),
    /// There is none, for this reason.
    Refused(ReasonCode),
}

/// A message whose turn it is.
#[derive(Debug)]
pub(crate) enum Due {
    /// It is to be published.
    Publish(Publication),
    /// It is not.
    Refuse(Ticket, ReasonCode),
}

impl Kept {
    /// A session that goes on with these QoS 2 messages of its client.
    #[must_use]
    pub(crate) fn new(incoming: Vec<(PacketId, u128)>) -> Self {
        Self { incoming, ..Self::default() }
    }

    /// The key that an earlier connection has made safe.
    pub(crate) fn key_of(&self, packet_id: PacketId) -> Option<u128> {
        self.incoming.iter().find(|(known, _)| *known == packet_id).map(|&(_, key)| key)
    }

    /// Puts a message behind those that wait.
    pub(crate) fn push(&mut self, message: Message, ticket: Ticket, key: Key) {
        self.waiting.push_back(Waiting { message, ticket, key });
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The store has answered; `false` if no message has asked.
    pub(crate) fn answer(&mut self, number: AskNumber, key: Key) -> bool {
        let is_it =
            |waiting: &&mut Waiting| matches!(waiting.key, Key::Asked(asked) if asked == number);
        let waiting = self.waiting.iter_mut().find(is_it);
        waiting.map(|waiting| waiting.key = key).is_some()
    }

    /// The message whose turn it is.
    pub(crate) fn due(&mut self) -> Option<Due> {
        let once = match self.waiting.front()?.key {
            Key::Asked(_) => return None,
            Key::None => Ok(None),
            Key::Safe(key) => Ok(Some(key)),
            Key::Refused(reason) => Err(reason),
        };
        let Waiting { message, ticket, .. } = self.waiting.pop_front()?;
        Some(match once {
            Ok(once) => Due::Publish(Publication { message, once, ticket }),
            Err(reason) => Due::Refuse(ticket, reason),
        })
    }

    /// Ends the waiting: the messages of QoS 0, which their publisher will not send again.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = (Message, Ticket)> + use<> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let unrepeated = waiting.filter(|waiting| waiting.message.qos == QoS::AtMostOnce);
        unrepeated.map(|waiting| (waiting.message, waiting.ticket))
    }

    /// The client gives a packet identifier back, and the store was asked.
    pub(crate) fn releasing(&mut self, packet_id: PacketId, number: AskNumber, ticket: Ticket) {
        self.incoming.retain(|(known, _)| *known != packet_id);
        self.releases.push_back((number, ticket));
    }

    /// The ticket of a release that was answered.
    pub(crate) fn released(&mut self, number: AskNumber) -> Option<Ticket> {
        let at = self.releases.iter().position(|(asked, _)| *asked == number)?;
        self.releases.remove(at).map(|(_, ticket)| ticket)
    }
}
