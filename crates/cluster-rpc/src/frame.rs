//! The frames of the services as our own types: what the proto files say, checked.
//!
//! Everything above this crate speaks in these; protobuf and tonic stay inside it.

mod session;

use std::sync::Arc;

use mqtt_codec::{Message, QoS, ReasonCode, TopicFilter};

pub use self::session::{
    AttachCall, GroupPlace, Held, QueuePlace, SessionAnswer, SessionCall, SessionDelivery,
    SessionDown, SessionEpoch, SessionFarewell, SessionNumber, SessionRefusal, SessionRevocation,
    SessionUp,
};

/// Version of the protocol spoken here.
pub const PROTOCOL: u32 = 1;

/// How many lanes a proxy's messages are divided into.
pub const LANES: usize = 256;

/// The name of a process in the cluster: 1 to 255 bytes, no control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// `None` if empty, longer than 255 bytes, or with control characters.
    #[must_use]
    pub fn new(id: &str) -> Option<Self> {
        let valid = !id.is_empty() && id.len() <= 255 && !id.chars().any(char::is_control);
        valid.then(|| Self(id.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a process: new at every start, larger than the ones before. Fences the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A process and which of its lives this is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
}

/// One life of one proxy as the origin of messages: what receivers tell repetitions apart by.
/// Made by [`origin_of`](crate::origin_of).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginId(pub u64);

/// A part of a proxy's messages that keeps its order: hash of the topic modulo [`LANES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u8);

/// One row of an endpoint's routing table, or its withdrawal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What the endpoint's clients subscribed to; `$share/{name}/` is already taken off.
    pub filter: TopicFilter,
    /// Highest QoS any of them asked for; `None` withdraws the route.
    pub qos: Option<QoS>,
}

/// Endpoint to intermediate, on the route stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteUp {
    /// The first frame.
    Hello(Hello),
    /// A part of the whole table.
    Snapshot(SnapshotChunk),
    /// Changes, in order.
    Delta(Delta),
    /// I live, and my table looks like this.
    Beat(Beat),
    /// I go for good: forget me at once. The last frame.
    Leave,
}

/// What an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointRole {
    /// It has clients.
    #[default]
    Proxy,
    /// It has the durable state. There is one in a cluster, and its routes never go.
    Store,
}

/// Whether the process that answers holds the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreHere {
    /// It takes session streams.
    Yes,
    /// It is a relay only.
    No,
}

/// Who an endpoint is and how far its numbered changes reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The endpoint.
    pub member: Member,
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// Newest change; they count from 1.
    pub head_seq: u64,
    /// Oldest change it can still repeat; `head_seq + 1` if none.
    pub oldest_delta: u64,
    /// Endpoints it last heard of from any intermediate.
    pub known: Vec<Member>,
    /// What it is.
    pub role: EndpointRole,
    /// In this life it was let in before, or told a client that a subscription is known because it reached nobody for so
    /// long; and nobody who serves has it now. Whoever serves without it has acknowledged messages without it.
    pub stray: bool,
}

/// A part of a snapshot; the table changes with the last one, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The change up to which the whole snapshot reaches.
    pub at_seq: u64,
    /// Whether this is the last chunk.
    pub last: bool,
    /// Rows; none withdraws.
    pub routes: Vec<Route>,
}

/// Numbered changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Number of the first; each next has one more.
    pub first_seq: u64,
    /// The changes.
    pub routes: Vec<Route>,
}

/// A sign of life with a summary of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Comes back in the answer.
    pub nonce: u64,
    /// The newest change the summary covers.
    pub seq: u64,
    /// Rows in the table.
    pub count: u64,
    /// Order-free sum of the hashes of all rows.
    pub digest: u128,
}

/// Intermediate to endpoint, on the route stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteDown {
    /// The answer to Hello.
    Welcome {
        /// The intermediate.
        member: Member,
        /// Send changes from this number on; `None`: send a snapshot.
        deltas_from: Option<u64>,
        /// Whether this is where sessions are.
        store: StoreHere,
    },
    /// All changes up to this number are in the intermediate's table.
    Applied(u64),
    /// The tables differ: send a snapshot.
    Resync,
    /// Who is there, and whether messages are taken.
    View(View),
    /// Answer to the beat with this nonce.
    BeatAck(u64),
    /// You are not welcome; the stream ends.
    Reject(RejectReason),
}

/// An intermediate's view of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whether it takes messages.
    pub state: RelayState,
    /// The endpoints whose routes it holds, sorted.
    pub members: Vec<Member>,
}

/// Whether an intermediate takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayState {
    /// Not yet: endpoints that may exist have not told their routes.
    Joining,
    /// Yes.
    Serving,
    /// Not for long.
    Draining,
}

/// Why an endpoint is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// A newer life of the same node is known.
    OldIncarnation,
    /// This life was declared dead: begin a new one.
    DeclaredDead,
    /// The protocol version is not spoken here.
    Protocol,
    /// Another store is known.
    SecondStore,
}

/// What a message says of where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// XXH3-64 of the publisher's client identifier; 0 for none.
    pub publisher: u64,
    /// Makes it one message, whichever ways it comes; `None` if it comes one way.
    pub once: Option<u128>,
}

/// A message with its place in its origin's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Hash of the topic.
    pub lane: Lane,
    /// Number within (origin, lane), from 1.
    pub seq: u64,
    /// Who published it.
    pub provenance: Provenance,
    /// The message; `expiry_secs` is what was left when it was sent.
    pub message: Message,
}

/// Origin to intermediate, on the publish stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishUp {
    /// The first frame.
    Open(Member),
    /// Messages in order.
    Batch(Vec<Routed>),
    /// Answer when everything before this on the lane has arrived.
    Barrier {
        /// The lane about to move.
        lane: Lane,
        /// Comes back in the answer.
        id: u64,
    },
}

/// Intermediate to origin, on the publish stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishDown {
    /// Totals that may have been sent since the stream was opened.
    Credit {
        /// In messages.
        messages: u64,
        /// In bytes, as [`Routed::weight`] counts them.
        bytes: u64,
    },
    /// Per lane, everything up to this number is where it must be.
    Acked(Vec<(Lane, u64)>),
    /// Answer to the barrier with this id.
    BarrierDone(u64),
    /// These numbers of these lanes were not taken by an endpoint, and why: 0x80 or above. Always before
    /// the `Acked` that covers them.
    Refused(Vec<(Lane, u64, ReasonCode)>),
}

/// Endpoint to intermediate, on the deliver stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliverUp {
    /// The first frame.
    Open(DeliverOpen),
    /// Everything up to this number of the link has been taken or refused.
    Acked(u64),
    /// These numbers of the link are not taken, and why: 0x80 or above. Always before the `Acked` that
    /// covers them.
    Refused(Vec<(u64, ReasonCode)>),
}

/// Who opens a deliver stream, and where its last one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverOpen {
    /// The endpoint.
    pub member: Member,
    /// Its last link to this intermediate; 0 if none.
    pub last_link: u64,
    /// What it took from that link.
    pub last_seq: u64,
}

/// Intermediate to endpoint, on the deliver stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliverDown {
    /// The first frame: the link's id. A new id: its numbers start at 1 again.
    LinkOpen(u64),
    /// Messages in order.
    Batch {
        /// Number of the first on the link; each next has one more.
        first_seq: u64,
        /// The messages.
        deliveries: Vec<Delivery>,
    },
}

/// A message as an endpoint gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The proxy it was published at.
    pub origin: OriginId,
    /// The message; shared between the endpoints it goes to.
    pub routed: Arc<Routed>,
}

impl Routed {
    /// What it counts against windows, credits and queues, in bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        weight_of(&self.message)
    }
}

/// What a message counts against windows, credits and queues, in bytes.
#[must_use]
pub fn weight_of(message: &Message) -> u64 {
    const OVERHEAD: usize = 32;
    let bytes = message.topic.as_str().len()
        + message.payload.len()
        + message.properties.as_bytes().len()
        + OVERHEAD;
    bytes as u64
}
