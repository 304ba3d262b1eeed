//! What a committed change has caused.

use std::sync::Arc;

use mqtt_codec::{Message, PacketId, QoS, ReasonCode, SubscriptionIds, TopicFilter};

use crate::id::{
    Epoch, GroupId, Holder, OnceKey, OutboxId, ProxyId, PublishToken, QueueSeq, RequestId,
    SessionId, UnixMillis,
};

/// Something to do after a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The answer to an attach.
    Attached(Box<Attached>),
    /// The answer to any request that changed nothing.
    Refused {
        /// Which.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The answer to a subscribe, one reason for each filter. The routes it needs came before it.
    Subscribed {
        /// Which.
        request: RequestId,
        /// In the client's order.
        reasons: Vec<ReasonCode>,
    },
    /// The answer to an unsubscribe.
    Unsubscribed {
        /// Which.
        request: RequestId,
        /// In the client's order.
        reasons: Vec<ReasonCode>,
    },
    /// The key of an inbound QoS 2 message is committed: it may be published.
    Begun {
        /// Which.
        request: RequestId,
        /// With this key.
        key: OnceKey,
    },
    /// A packet identifier is free again: PUBCOMP may go out.
    Released {
        /// Which.
        request: RequestId,
    },
    /// PUBRECs are committed: PUBREL may go out.
    Received {
        /// The connection.
        holder: Holder,
        /// Its session.
        session: SessionId,
        /// Which messages.
        messages: Vec<QueueSeq>,
    },
    /// The connection has lost its session: it is to end.
    Revoked {
        /// The connection.
        holder: Holder,
        /// Its session.
        session: SessionId,
        /// The epoch it had.
        epoch: Epoch,
        /// Why.
        why: Revocation,
    },
    /// A published message was not taken, for a reason its publisher is to hear.
    NotTaken {
        /// Which.
        token: PublishToken,
        /// Why.
        reason: ReasonCode,
    },
    /// Everyone here together wants this filter at this QoS now; `None`: nobody any more.
    Route {
        /// Without `$share/{name}/`.
        filter: TopicFilter,
        /// The highest.
        qos: Option<QoS>,
    },
    /// A will is to be sent to the relays. Everyone here has it already. Confirm with
    /// [`Command::Sent`](crate::Command::Sent).
    Send {
        /// By which it is confirmed.
        id: OutboxId,
        /// The message.
        message: Arc<Message>,
        /// When it expires.
        expires_at: Option<UnixMillis>,
        /// Makes it one message, however often it is sent.
        once: OnceKey,
    },
    /// There is something for sessions of this proxy: take it with `Owner::deliveries`.
    Ready(ProxyId),
}

/// A client has its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The request.
    pub request: RequestId,
    /// The session.
    pub session: SessionId,
    /// To be named in everything that follows.
    pub epoch: Epoch,
    /// Whether it goes on with an earlier one `[MQTT-3.2.2-2]`.
    pub session_present: bool,
    /// Messages whose PUBREC is committed and whose PUBCOMP is not, in order: PUBREL goes out again.
    pub received: Vec<QueueSeq>,
    /// QoS 2 messages from the client that are not released, with their keys; `None`: it was taken, and is not to be
    /// published again.
    pub incoming: Vec<(PacketId, Option<OnceKey>)>,
}

/// Why a request changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such session, or it has another epoch.
    #[error("the session is held by another connection, or is over")]
    Fenced,
    /// A connection that may be newer has the session, or had it last.
    #[error("the session may be newer")]
    Contested,
    /// There are as many sessions as there may be.
    #[error("no room for another session")]
    TooManySessions,
    /// The store has no room.
    #[error("the store is full")]
    Full,
}

/// Why a connection has lost its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// Another connection has its client identifier `[MQTT-3.1.4-3]`.
    TakenOver,
}

/// A message for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The connection.
    pub holder: Holder,
    /// Its session.
    pub session: SessionId,
    /// Its place in the session's own queue; 0 for what came with QoS 0 or from a group.
    pub seq: QueueSeq,
    /// Where it comes from, if from a group.
    pub group: Option<GroupDelivery>,
    /// Whether it may have been sent before.
    pub dup: bool,
    /// The lower of publication and subscription.
    pub qos: QoS,
    /// RETAIN as the client is to see it.
    pub retain: bool,
    /// Of all subscriptions of the session that match.
    pub subscription_ids: SubscriptionIds,
    /// The message.
    pub message: Arc<Message>,
    /// When it expires.
    pub expires_at: Option<UnixMillis>,
}

/// A message that a group gives to one of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupDelivery {
    /// The group.
    pub group: GroupId,
    /// Its place in the group's queue; 0 with QoS 0.
    pub seq: QueueSeq,
}
