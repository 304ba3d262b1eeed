//! What changes a partition.

use std::sync::Arc;

use mqtt_codec::{
    ClientId, Message, PacketId, SubscriptionId, SubscriptionOptions, TopicFilter, Will,
};

use crate::id::{
    ClientHash, Epoch, GroupId, Holder, OnceKey, OutboxId, ProxyId, PublishToken, QueueSeq,
    RequestId, SessionId, UnixMillis,
};

/// A change that somebody outside asks for. Time comes beside it.
#[derive(Clone, Debug)]
pub enum Command {
    /// A client connects. Answered by [`Effect::Attached`](crate::Effect::Attached) or
    /// [`Effect::Refused`](crate::Effect::Refused).
    Attach(Box<Attach>),
    /// A proxy holds a connection that was attached before, and its stream to here was broken. Answered like
    /// [`Attach`].
    Reattach(Box<Reattach>),
    /// A connection is over.
    Detach(Detach),
    /// A connection is over that may not know what it was given.
    Withdraw(Box<Withdraw>),
    /// A life of a proxy is over, and with it all its connections.
    ProxyDead(ProxyId),
    /// Answered by [`Effect::Subscribed`](crate::Effect::Subscribed).
    Subscribe(Box<Subscribe>),
    /// Answered by [`Effect::Unsubscribed`](crate::Effect::Unsubscribed).
    Unsubscribe(Box<Unsubscribe>),
    /// A message from the relays, for everyone here whom it concerns.
    Publish(Publish),
    /// The client has confirmed messages of its session's own queue.
    Acknowledge(Acknowledge),
    /// The client has confirmed messages of a group.
    AcknowledgeGroup(AcknowledgeGroup),
    /// A client begins a QoS 2 message. Answered by [`Effect::Begun`](crate::Effect::Begun).
    Begin(Begin),
    /// QoS 2 messages of a client are where they must be.
    Taken(Taken),
    /// A client's PUBREL. Answered by [`Effect::Released`](crate::Effect::Released).
    Release(Release),
    /// The relays have taken a will.
    Sent(OutboxId),
    /// Nothing more will come from this life of a proxy, nor again.
    ForgetOrigin(ProxyId),
}

/// A CONNECT that was let in.
#[derive(Clone, Debug)]
pub struct Attach {
    /// Comes back in the answer.
    pub request: RequestId,
    /// Whose session.
    pub client: ClientId,
    /// The connection. Repeating an attach of the same holder changes nothing and gives the same answer.
    pub holder: Holder,
    /// Whether an earlier session ends `[MQTT-3.1.2-4]`.
    pub clean_start: bool,
    /// When the connection began, if its client was served before it was asked for; else that is now. Such a connection
    /// takes its identifier from no session that was attached then or later. Not later than it was.
    pub began: Option<UnixMillis>,
    /// A session that was attached before this ends as with `clean_start`: the client of an earlier connection was told
    /// so. Not later than it was.
    pub promised: Option<UnixMillis>,
    /// Seconds the session outlives the connection: 0 makes a clean session, `u32::MAX` is for ever.
    pub expiry_secs: u32,
    /// Most messages above QoS 0 unconfirmed at a time, of the client and the server, whichever is less.
    pub receive_maximum: u16,
    /// Committed before the answer.
    pub will: Option<Will>,
}

/// A connection that goes on after the stream between its proxy and here was broken.
#[derive(Clone, Debug)]
pub struct Reattach {
    /// What the connection was attached with. `clean_start` is not looked at.
    pub attach: Attach,
    /// The session it was given. An unknown one is made anew if it is a clean session.
    pub session: SessionId,
    /// The epoch it was given.
    pub epoch: Epoch,
    /// Deliveries up to this place of the session's queue have arrived.
    pub received_up_to: QueueSeq,
    /// Deliveries of groups that have arrived and are not acknowledged here.
    pub group_deliveries: Vec<(GroupId, QueueSeq)>,
    /// The shared subscriptions of a clean session. Those of a persistent one are known here.
    pub groups: Vec<(TopicFilter, SubscriptionOptions, Option<SubscriptionId>)>,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detach {
    /// The session.
    pub session: SessionId,
    /// Which attachment; a late one changes nothing.
    pub epoch: Epoch,
    /// How it ended.
    pub farewell: Farewell,
    /// Session expiry as it is now: a DISCONNECT can change it.
    pub expiry_secs: u32,
}

/// The end of a connection that may not have heard what it was given. Changes nothing unless it holds the session, or
/// was to end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdraw {
    /// Whose session.
    pub client: ClientId,
    /// The connection.
    pub holder: Holder,
    /// How it ended.
    pub farewell: Farewell,
    /// Session expiry as it is now; `None` for what it was before this connection: a session that it began ends.
    pub expiry_secs: Option<u32>,
    /// When it began, if its client was told that an earlier session ends: one that was attached before ends now
    /// `[MQTT-3.1.2-4]`. Not later than it was, or a newer session might end. What earlier processes have said of the
    /// time is taken as it is: where their clock was behind by more than the process was away, it can be wrong.
    pub clean_start: Option<UnixMillis>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// DISCONNECT with reason 0x00: the will is dropped `[MQTT-3.14.4-3]`.
    Clean,
    /// Any other way: the will is due after its delay `[MQTT-3.1.2-8]`.
    Abnormal,
    /// The proxy stops: as [`Abnormal`](Self::Abnormal), but the client has a moment to connect elsewhere
    /// before the will is due.
    ProxyStops,
}

/// A SUBSCRIBE. Clean sessions have only their shared subscriptions here.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Comes back in the answer.
    pub request: RequestId,
    /// The session.
    pub session: SessionId,
    /// Which attachment.
    pub epoch: Epoch,
    /// In the client's order; `$share/{name}/{filter}` is a shared one.
    pub filters: Vec<(TopicFilter, SubscriptionOptions)>,
    /// Sent with every message that matches one of them.
    pub subscription_id: Option<SubscriptionId>,
}

/// An UNSUBSCRIBE.
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    /// Comes back in the answer.
    pub request: RequestId,
    /// The session.
    pub session: SessionId,
    /// Which attachment.
    pub epoch: Epoch,
    /// In the client's order.
    pub filters: Vec<TopicFilter>,
}

/// Where a message stands in its origin's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The proxy it was published at.
    pub proxy: ProxyId,
    /// Hash of the topic.
    pub lane: u8,
    /// Number within (proxy, lane). What is not above the last is dropped.
    pub seq: u64,
}

/// A message on its way to sessions, groups and the retained messages.
#[derive(Clone, Debug)]
pub struct Publish {
    /// By which its refusal is told.
    pub token: PublishToken,
    /// Its place in its origin's order.
    pub origin: Origin,
    /// Who published it.
    pub publisher: ClientHash,
    /// Set if the same message may come again from another origin.
    pub once: Option<OnceKey>,
    /// The message.
    pub message: Arc<Message>,
    /// When it expires.
    pub expires_at: Option<UnixMillis>,
}

/// Confirmations of a client. Repetitions change nothing.
#[derive(Clone, Debug)]
pub struct Acknowledge {
    /// The session.
    pub session: SessionId,
    /// Which attachment.
    pub epoch: Epoch,
    /// PUBACK, PUBCOMP, or a PUBREC that refuses: done.
    pub settled: Vec<QueueSeq>,
    /// PUBREC: never sent again as PUBLISH. Answered by [`Effect::Received`](crate::Effect::Received).
    pub received: Vec<QueueSeq>,
}

/// Confirmations of messages that a group gave to a client.
#[derive(Clone, Debug)]
pub struct AcknowledgeGroup {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub session: SessionId,
    /// Which attachment.
    pub epoch: Epoch,
    /// PUBACK, or PUBREC of either kind: done, for this and every other member.
    pub settled: Vec<QueueSeq>,
}

/// A QoS 2 PUBLISH of a persistent session.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// Comes back in the answer.
    pub request: RequestId,
    /// The session.
    pub session: SessionId,
    /// Which attachment.
    pub epoch: Epoch,
    /// The client's.
    pub packet_id: PacketId,
    /// Becomes the message's key unless one was committed for this packet identifier before.
    pub key: OnceKey,
}

/// QoS 2 messages of a persistent session that were published. A repetition is not to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The session.
    pub session: SessionId,
    /// Which attachment.
    pub epoch: Epoch,
    /// The client's.
    pub packet_ids: Vec<PacketId>,
}

/// A PUBREL of a persistent session.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Comes back in the answer.
    pub request: RequestId,
    /// The session.
    pub session: SessionId,
    /// Which attachment.
    pub epoch: Epoch,
    /// The client's.
    pub packet_id: PacketId,
}
