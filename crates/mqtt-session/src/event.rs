//! What goes in and out of a [`Connection`](crate::Connection) besides packets.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mqtt_codec::{
    EncodeError, Message, Packet, PacketId, PublishHead, QoS, ReasonCode, SubscriptionId,
    SubscriptionIds, SubscriptionOptions, TopicFilter, Version,
};

use crate::QueueSlot;

/// Something the client asks of the broker. Each is answered once, through its ticket.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message to publish. Answer with [`Connection::complete`](crate::Connection::complete)
    /// when it is where it must be; QoS 0 too, although nothing is sent for it.
    Publish {
        /// The message.
        message: Message,
        /// What is to make it once, if the connection alone cannot.
        once: Option<Once>,
        /// For the answer.
        ticket: Ticket,
    },
    /// The client of a kept session gives back the identifier of a QoS 2 message, or may do so after
    /// an answer that is being held back. Answer with [`Connection::complete`](crate::Connection::complete)
    /// when the message is forgotten where the session is kept `[MQTT-4.3.3-12]`; an error ends the connection.
    Release {
        /// Of the message.
        packet_id: PacketId,
        /// For the answer.
        ticket: Ticket,
    },
    /// Filters to subscribe to. Answer with
    /// [`Connection::complete_subscribe`](crate::Connection::complete_subscribe).
    Subscribe {
        /// To be sent with every message that matches one of the filters.
        subscription_id: Option<SubscriptionId>,
        /// The filters that may be granted, at least one, with the QoS lowered to the server's.
        filters: Vec<(TopicFilter, SubscriptionOptions)>,
        /// The filters that are refused already. The answer does not speak of them.
        refused: Vec<(TopicFilter, ReasonCode)>,
        /// For the answer.
        ticket: Ticket,
    },
    /// Filters to unsubscribe from. Answer with
    /// [`Connection::complete_unsubscribe`](crate::Connection::complete_unsubscribe).
    Unsubscribe {
        /// In the client's order.
        filters: Vec<TopicFilter>,
        /// For the answer.
        ticket: Ticket,
    },
}

/// What makes a QoS 2 message of a kept session once, whatever connections it comes over: a key that
/// is kept under its packet identifier until that is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once {
    /// A new message: its key must be safe before it is published.
    Begin(PacketId),
    /// An earlier connection began it: it is published again, with the key it has.
    Again(PacketId),
}

/// Ties an answer to its [`Event`].
///
/// It belongs to the connection that made it: no other may get it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that is never completed holds back its client"]
pub struct Ticket {
    pub(crate) request: Request,
}

/// What a ticket is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A QoS 0 PUBLISH.
    Unacknowledged,
    /// A QoS 1 or 2 PUBLISH, and its place in the order of all of its connection.
    Acknowledged {
        serial: u32,
        packet_id: PacketId,
        qos: QoS,
    },
    /// A PUBREL.
    Release {
        packet_id: PacketId,
    },
    /// A QoS 2 PUBLISH that is refused when its identifier is given back.
    Refuse {
        serial: u32,
        packet_id: PacketId,
        outcome: ReasonCode,
    },
    Subscribe(Box<PendingSubscribe>),
    Unsubscribe {
        packet_id: PacketId,
        filters: u32,
    },
}

/// A SUBSCRIBE on its way through the broker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PendingSubscribe {
    pub(crate) packet_id: PacketId,
    /// For each filter of the packet why it is refused, if it is.
    pub(crate) refusals: Vec<Option<ReasonCode>>,
}

/// A message for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message, shared with its other recipients.
    pub message: Arc<Message>,
    /// The lower of the QoS of publication and subscription `[MQTT-3.8.4-8]`.
    pub qos: QoS,
    /// RETAIN as the client is to see it.
    pub retain: bool,
    /// Of all the client's subscriptions that match `[MQTT-3.3.4-4]`.
    pub subscription_ids: SubscriptionIds,
    /// When the message expires, if it does.
    pub expires_at: Option<Instant>,
    /// Where it comes from.
    pub source: DeliverySource,
}

/// Where a [`Delivery`] comes from: whether somebody waits to hear what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliverySource {
    /// From nobody who waits. The connection chooses the packet identifier.
    #[default]
    Own,
    /// From the queue of the kept session, above QoS 0.
    Queue {
        /// The place and its packet identifier.
        slot: QueueSlot,
        /// Whether an earlier connection may have sent it `[MQTT-3.3.1-1]`.
        dup: bool,
    },
    /// From a shared group. The connection chooses the packet identifier, for a kept session among those
    /// above 49,151.
    Group {
        /// The group.
        group: u64,
        /// The place in its queue.
        place: u64,
    },
}

/// What the client has confirmed, for whoever keeps the message. It comes once for each message above
/// QoS 0 that is not [`DeliverySource::Own`]; also for one that was dropped instead of sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// A message of the session's queue is done `[MQTT-4.3.2-3]` `[MQTT-4.3.3-5]` `[MQTT-4.4.0-2]`.
    Settled {
        /// Its place.
        place: u64,
    },
    /// The client has a QoS 2 message of the session's queue. PUBREL waits for
    /// [`Connection::complete_received`](crate::Connection::complete_received); then comes
    /// [`Settled`](Self::Settled).
    Received {
        /// Its place.
        place: u64,
    },
    /// The client has a message of a group. What is left of the exchange is between it and the connection.
    Group {
        /// The group.
        group: u64,
        /// The place in its queue.
        place: u64,
    },
    /// A QoS 2 message from the client is where it must be: a repetition of it is not published again. The session may
    /// go on with it in [`Resumed::taken`](crate::Resumed::taken).
    Taken {
        /// Its packet identifier, until that is released.
        packet_id: PacketId,
    },
}

/// What became of a [`Delivery`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum DeliveryOutcome {
    /// It will be sent, and is in flight if it is to be acknowledged.
    Queued,
    /// It is in flight on this connection already: it is dropped `[MQTT-4.4.0-1]`.
    Repeated,
    /// Its time is over: it is dropped `[MQTT-3.3.2-5]`.
    Expired,
    /// It is larger than the client takes: it is dropped, as if it had been sent
    /// `[MQTT-3.1.2-24]` `[MQTT-3.1.2-25]`.
    TooLarge,
    /// The connection is closed; or the delivery is above QoS 0, and [`window`](crate::Connection::window) is 0 or
    /// its packet identifier in use. Nothing happened; here it is again.
    Refused(Delivery),
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A message of several recipients behind the head for this one.
    Publish {
        /// What is this recipient's own.
        head: PublishHead,
        /// What it shares.
        message: Arc<Message>,
    },
    /// Any other packet.
    Packet(Packet),
}

impl Outgoing {
    /// Adds the packet to `dst`.
    pub fn encode(&self, version: Version, dst: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Publish { head, message } => head.encode(message, version, dst),
            Self::Packet(packet) => packet.encode(version, dst),
        }
    }
}
