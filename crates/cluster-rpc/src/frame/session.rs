//! The frames between a proxy and the intermediate that holds the store: sessions, their queues, retained messages.
//!
//! One stream per proxy, in order both ways. Calls with a `request` are answered once, by an answer
//! with the same number; after a broken stream the proxy asks again, and asking again changes nothing.

use std::sync::Arc;

use mqtt_codec::{
    ClientId, Message, PacketId, QoS, ReasonCode, SubscriptionId, SubscriptionIds,
    SubscriptionOptions, TopicFilter, TopicName, Will,
};

use super::{Member, weight_of};

/// A session, as the store numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNumber(pub u64);

/// Which attachment of a session to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionEpoch(pub u64);

/// A session held by a connection: what every call about it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// The session.
    pub session: SessionNumber,
    /// Which attachment.
    pub epoch: SessionEpoch,
}

/// The place of a message above QoS 0 in a session's own queue, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueuePlace(pub u64);

/// A message that a shared group gave to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupPlace {
    /// The group, as the store numbers it.
    pub group: u64,
    /// The place in its queue; 0 with QoS 0.
    pub place: u64,
}

/// Proxy to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionUp {
    /// The first frame.
    Open(Member),
    /// In order.
    Calls(Vec<SessionCall>),
}

/// Store to proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionDown {
    /// The first frame: which life of the store this is.
    Opened(Member),
    /// In order.
    Answers(Vec<SessionAnswer>),
    /// Messages for clients, in order.
    Deliveries(Vec<SessionDelivery>),
}

/// What a proxy asks of the store, or tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCall {
    /// A client connects. Answered by `Attached` or `Refused`.
    Attach {
        /// Comes back in the answer.
        request: u64,
        /// Who, and how.
        attach: Box<AttachCall>,
    },
    /// A connection goes on after a broken stream. Answered like `Attach`.
    Reattach {
        /// Comes back in the answer.
        request: u64,
        /// As it was attached.
        attach: Box<AttachCall>,
        /// What it was given.
        held: Held,
        /// The highest place of its own queue that has arrived; 0 for none.
        received_up_to: QueuePlace,
        /// Messages of groups that have arrived and are not acknowledged.
        group_deliveries: Vec<GroupPlace>,
        /// Shared subscriptions of a clean session; as many as make no more than 8 MiB, the others are
        /// told by `Subscribe`.
        groups: Vec<(TopicFilter, SubscriptionOptions, Option<SubscriptionId>)>,
    },
    /// A connection is over.
    Detach {
        /// Of this session.
        held: Held,
        /// How it ended.
        farewell: SessionFarewell,
        /// Session expiry as it is now, in seconds; `u32::MAX` for ever.
        expiry_secs: u32,
    },
    /// A connection is over that was attached, or may yet be, without having heard as what. A session that it does
    /// not hold, and was not to end, is left alone.
    Withdraw {
        /// Whose session.
        client: ClientId,
        /// The number of the connection in this life of the proxy.
        connection: u64,
        /// How it ended.
        farewell: SessionFarewell,
        /// Session expiry as it is now, in seconds; `None` for what it was before this connection.
        expiry_secs: Option<u32>,
        /// When it began, in milliseconds after the proxy heard that this stream is open, if its client was told
        /// that an earlier session ends: one that was attached before does. A time of the stream, not an age: an
        /// age would make the connection younger for as long as this is on its way.
        clean_start_ms: Option<i64>,
    },
    /// All subscriptions of persistent sessions, shared ones of clean sessions. Answered by
    /// `Subscribed` or `Refused`.
    Subscribe {
        /// Comes back in the answer.
        request: u64,
        /// By this session.
        held: Held,
        /// In the client's order.
        filters: Vec<(TopicFilter, SubscriptionOptions)>,
        /// Sent with every message that matches.
        subscription_id: Option<SubscriptionId>,
    },
    /// Answered by `Unsubscribed` or `Refused`.
    Unsubscribe {
        /// Comes back in the answer.
        request: u64,
        /// By this session.
        held: Held,
        /// In the client's order.
        filters: Vec<TopicFilter>,
    },
    /// Confirmations of a client for its session's own queue.
    Acknowledge {
        /// Of this session.
        held: Held,
        /// PUBACK, PUBCOMP or a refusing PUBREC.
        settled: Vec<QueuePlace>,
        /// PUBREC. Answered by `Received`.
        received: Vec<QueuePlace>,
    },
    /// Confirmations of a client for messages of a group: PUBACK or PUBREC.
    AcknowledgeGroup {
        /// Of this session.
        held: Held,
        /// Which.
        settled: Vec<GroupPlace>,
    },
    /// A QoS 2 PUBLISH of a persistent session. Answered by `Begun` or `Refused`.
    Begin {
        /// Comes back in the answer.
        request: u64,
        /// Of this session.
        held: Held,
        /// The client's.
        packet_id: PacketId,
        /// Becomes the message's key if none is committed.
        key: u128,
    },
    /// QoS 2 messages of a persistent session were published, and everyone has them who is to have them: they are not
    /// to be published again. Not answered.
    Taken {
        /// Of this session.
        held: Held,
        /// The client's.
        packet_ids: Vec<PacketId>,
    },
    /// A PUBREL of a persistent session. Answered by `Released` or `Refused`.
    Release {
        /// Comes back in the answer.
        request: u64,
        /// Of this session.
        held: Held,
        /// The client's.
        packet_id: PacketId,
    },
    /// Reads retained messages. Answered by `Retained`.
    ReadRetained {
        /// Comes back in the answer.
        request: u64,
        /// Which topics.
        filter: TopicFilter,
        /// Those after this one.
        after: Option<TopicName>,
        /// At most so many messages.
        limit: u32,
    },
}

impl SessionCall {
    /// What it counts against queues, in bytes: not less than it has in a frame.
    #[must_use]
    pub fn weight(&self) -> u64 {
        const FIXED: usize = 64;
        const PLACE: usize = 10;
        let filter = |filter: &TopicFilter| filter.as_str().len() + 24;
        let more = match self {
            Self::Attach { attach, .. } => attach.weight(),
            Self::Reattach { attach, group_deliveries, groups, .. } => {
                let groups: usize = groups.iter().map(|(group, ..)| filter(group)).sum();
                attach.weight() + group_deliveries.len() * 3 * PLACE + groups
            }
            Self::Detach { .. } | Self::Begin { .. } | Self::Release { .. } => 0,
            Self::Withdraw { client, .. } => client.as_str().len(),
            Self::Subscribe { filters, .. } => filters.iter().map(|(one, _)| filter(one)).sum(),
            Self::Unsubscribe { filters, .. } => filters.iter().map(filter).sum(),
            Self::Acknowledge { settled, received, .. } => (settled.len() + received.len()) * PLACE,
            Self::AcknowledgeGroup { settled, .. } => settled.len() * 3 * PLACE,
            Self::Taken { packet_ids, .. } => packet_ids.len() * 3,
            Self::ReadRetained { filter: one, after, .. } => {
                filter(one) + after.as_ref().map_or(0, |topic| topic.as_str().len() + 8)
            }
        };
        (FIXED + more) as u64
    }
}

impl SessionCall {
    /// Takes another one in that says more of the same: confirmations of one session. Else it comes back.
    pub(crate) fn merge(&mut self, mut next: Self) -> Result<(), Self> {
        const MOST: usize = 1_024;
        match (self, &mut next) {
            (
                Self::Acknowledge { held, settled, received },
                Self::Acknowledge { held: of, settled: more_settled, received: more_received },
            ) if held == of && settled.len() + received.len() < MOST => {
                settled.append(more_settled);
                received.append(more_received);
                Ok(())
            }
            (Self::Taken { held, packet_ids }, Self::Taken { held: of, packet_ids: more })
                if held == of && packet_ids.len() < MOST =>
            {
                packet_ids.append(more);
                Ok(())
            }
            _ => Err(next),
        }
    }
}

impl AttachCall {
    fn weight(&self) -> usize {
        const FIXED: usize = 64;
        let will = self.will.as_ref().map_or(0, |will| weight_of(&will.message) as usize + 32);
        FIXED + self.client.as_str().len() + will
    }
}

/// A CONNECT that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachCall {
    /// Whose session.
    pub client: ClientId,
    /// The number of the connection in this life of the proxy.
    pub connection: u64,
    /// Whether an earlier session ends.
    pub clean_start: bool,
    /// Seconds the session outlives the connection; `u32::MAX` for ever.
    pub expiry_secs: u32,
    /// Most unconfirmed messages above QoS 0 at a time.
    pub receive_maximum: u16,
    /// Committed before the answer.
    pub will: Option<Box<Will>>,
    /// When the connection began, in milliseconds after the proxy heard that the stream is open.
    pub began_ms: i64,
    /// The client is served already, or its connection has ended: it loses its identifier to one that has begun since.
    pub served: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFarewell {
    /// DISCONNECT with reason 0x00.
    Clean,
    /// Any other way.
    Abnormal,
    /// The proxy stops.
    ProxyStops,
}

/// What the store says to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionAnswer {
    /// A client has its session.
    Attached {
        /// The request.
        request: u64,
        /// The session and its epoch.
        held: Held,
        /// Whether it goes on with an earlier one.
        session_present: bool,
        /// Places whose PUBREC is committed and whose PUBCOMP is not, in order.
        received: Vec<QueuePlace>,
        /// QoS 2 messages of the client that are not released, with their keys; `None` if taken.
        incoming: Vec<(PacketId, Option<u128>)>,
    },
    /// A request changed nothing.
    Refused {
        /// The request.
        request: u64,
        /// Why.
        refusal: SessionRefusal,
    },
    /// Every intermediate that may carry a message knows the subscriptions.
    Subscribed {
        /// The request.
        request: u64,
        /// One for each filter.
        reasons: Vec<ReasonCode>,
    },
    /// The subscriptions are gone.
    Unsubscribed {
        /// The request.
        request: u64,
        /// One for each filter.
        reasons: Vec<ReasonCode>,
    },
    /// The message may be published, with this key.
    Begun {
        /// The request.
        request: u64,
        /// The key.
        key: u128,
    },
    /// PUBCOMP may go out.
    Released {
        /// The request.
        request: u64,
    },
    /// PUBRELs may go out.
    Received {
        /// The connection.
        connection: u64,
        /// For which messages.
        places: Vec<QueuePlace>,
    },
    /// The connection has lost its session: it is to end.
    Revoked {
        /// The connection.
        connection: u64,
        /// What it had.
        held: Held,
        /// Why.
        why: SessionRevocation,
    },
    /// A page of retained messages; not larger than a largest packet and 512 KiB.
    Retained {
        /// The request.
        request: u64,
        /// In the order of their topics; RETAIN is set, and the expiry is what is left.
        messages: Vec<Arc<Message>>,
        /// The topic after which the next page begins; `None` after the last.
        next: Option<TopicName>,
    },
}

/// Why a request changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRefusal {
    /// The session is held by another connection, or is over.
    Fenced,
    /// No room for another session.
    TooManySessions,
    /// The client identifier changes hands too often.
    Contested,
    /// The store is full.
    Full,
}

/// Why a connection has lost its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRevocation {
    /// Another connection has its client identifier.
    TakenOver,
    /// The session is over.
    Ended,
}

/// A message for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDelivery {
    /// The connection.
    pub connection: u64,
    /// The session, for checks.
    pub session: SessionNumber,
    /// Its place in the session's own queue; 0 for QoS 0 and for groups.
    pub place: QueuePlace,
    /// Where it comes from, if from a group.
    pub group: Option<GroupPlace>,
    /// Whether it may have been sent before.
    pub dup: bool,
    /// The lower of publication and subscription.
    pub qos: QoS,
    /// RETAIN as the client is to see it.
    pub retain: bool,
    /// Of all subscriptions of the session that match.
    pub subscription_ids: SubscriptionIds,
    /// The message; its expiry is what is left.
    pub message: Arc<Message>,
}
