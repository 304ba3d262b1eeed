//! Names of things in partitions. Each is a number that says what it counts.

use mqtt_codec::{ClientId, PacketId, TopicName};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// One of the parts that all durable state is divided into. Their number is fixed when a store is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

impl PartitionId {
    /// Where the session of a client is, among `count` partitions.
    #[must_use]
    pub fn of_client(client: &ClientId, count: u16) -> Self {
        Self::of(client.as_str().as_bytes(), count)
    }

    /// Where the retained message of a topic is, among `count` partitions.
    #[must_use]
    pub fn of_topic(topic: &TopicName, count: u16) -> Self {
        Self::of(topic.as_str().as_bytes(), count)
    }

    /// Where a shared group is: by its whole filter, `$share/{name}/{filter}`.
    #[must_use]
    pub fn of_group(filter: &str, count: u16) -> Self {
        Self::of(filter.as_bytes(), count)
    }

    fn of(bytes: &[u8], count: u16) -> Self {
        let hash = xxh3_64(bytes) % u64::from(count.max(1));
        Self(u16::try_from(hash).expect("less than count"))
    }
}

/// A session: its partition in the upper 16 bits, a number never given twice in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// The session with this number.
    #[must_use]
    pub const fn new(partition: PartitionId, number: u64) -> Self {
        Self((partition.0 as u64) << 48 | number & ((1 << 48) - 1))
    }

    /// Where it is.
    #[must_use]
    pub const fn partition(self) -> PartitionId {
        PartitionId((self.0 >> 48) as u16)
    }

    /// Its number within the partition.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 & ((1 << 48) - 1)
    }
}

/// A shared group: its partition in the upper 16 bits, a number never given twice in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The group with this number.
    #[must_use]
    pub const fn new(partition: PartitionId, number: u64) -> Self {
        Self(SessionId::new(partition, number).0)
    }

    /// Where it is.
    #[must_use]
    pub const fn partition(self) -> PartitionId {
        SessionId(self.0).partition()
    }
}

/// Which attachment of a session to a connection: one more each time. Fences what comes late from
/// an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The number of a command in its partition's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// One life of one proxy. The same number as the origin of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyId(pub u64);

/// A connection: which proxy has it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The proxy.
    pub proxy: ProxyId,
    /// Never given twice by that life of the proxy.
    pub connection: u64,
}

/// The place of a message above QoS 0 in a session's queue or in a group's, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueSeq(pub u64);

/// Packet identifiers that follow from the place in the session's queue. Those above are for
/// deliveries of groups and are chosen by the proxy.
const QUEUE_PACKET_IDS: u64 = 49_151;

impl QueueSeq {
    /// The packet identifier under which this message of a session's own queue is delivered, always: a resend
    /// through another proxy has the same `[MQTT-4.4.0-1]`. Unique as long as less than 49,151 of the session's
    /// messages are in flight.
    #[must_use]
    pub fn packet_id(self) -> PacketId {
        let id = u16::try_from(1 + self.0 % QUEUE_PACKET_IDS).expect("at most 49,151");
        PacketId::new(id).expect("at least 1")
    }
}

/// What makes a message once: copies with the same key are dropped by whoever has had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnceKey(pub u128);

impl OnceKey {
    /// A key nobody else makes: of one session's attachment and a number within.
    #[must_use]
    pub fn derive(session: SessionId, epoch: Epoch, salt: u64) -> Self {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&session.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&epoch.0.to_be_bytes());
        bytes[16..].copy_from_slice(&salt.to_be_bytes());
        Self(xxh3_128(&bytes))
    }
}

/// XXH3-64 of a client identifier: for No Local and for sticky groups. 0 stands for no client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientHash(pub u64);

impl ClientHash {
    /// Of this client.
    #[must_use]
    pub fn of(client: &ClientId) -> Self {
        Self(xxh3_64(client.as_str().as_bytes()))
    }
}

/// A will on its way to the relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId {
    /// Where it is kept.
    pub partition: PartitionId,
    /// Never given twice there.
    pub number: u64,
}

/// By which the owner's caller knows a request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// By which the owner's caller knows a published message again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishToken(pub u64);

/// Milliseconds since 1970. It never goes backwards from one command to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// So many seconds later.
    #[must_use]
    pub const fn after_secs(self, secs: u32) -> Self {
        Self(self.0.saturating_add(secs as u64 * 1000))
    }
}
