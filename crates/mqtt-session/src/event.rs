//! What goes in and out of a [`Connection`](crate::Connection) besides packets.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mqtt_codec::{
    EncodeError, Message, Packet, PacketId, PublishHead, QoS, ReasonCode, SubscriptionId,
    SubscriptionIds, SubscriptionOptions, TopicFilter, Version,
};

/// Something the client asks of the broker. Each is answered once, through its ticket.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message to publish. Answer with [`Connection::complete`](crate::Connection::complete)
    /// when it is where it must be; QoS 0 too, although nothing is sent for it.
    Publish {
        /// The message.
        message: Message,
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

/// Ties an answer to its [`Event`].
///
/// It belongs to the connection that made it, and outlives it in one case: the answer to a QoS 2
/// PUBLISH is still needed when the connection ended before it came. Give it to the session's
/// next connection, or to [`Session::complete`](crate::Session::complete) while there is none;
/// until then the client's repetition of that message is not acknowledged, and goes nowhere. So
/// complete with an error what the broker has not taken and will not. Any other ticket of an
/// earlier connection is ignored.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that is never completed holds back its client"]
pub struct Ticket {
    /// Which of the session's connections made it.
    pub(crate) connection: u32,
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
}

/// What became of a [`Delivery`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum DeliveryOutcome {
    /// It is the next packet to send, and in the session if it is to be acknowledged.
    Queued,
    /// Its time is over: it is dropped `[MQTT-3.3.2-5]`.
    Expired,
    /// It is larger than the client takes: it is dropped, as if it had been sent
    /// `[MQTT-3.1.2-24]` `[MQTT-3.1.2-25]`.
    TooLarge,
    /// The connection is closed, or [`window`](crate::Connection::window) is 0 and the delivery
    /// above QoS 0. Nothing happened; here it is again.
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
