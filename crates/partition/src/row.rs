//! How rows are written.
//!
//! Owns the keys and the values of every table but those of groups, retained messages and the outbox,
//! which have theirs beside them. Invariant: a value begins with the version of its form, and a value
//! that cannot be what was written is an error, never a panic. Does not: read or write a store.

use bytes::{Buf, BufMut, Bytes};
use bytestring::ByteString;
use mqtt_codec::{
    ClientId, Message, PublishProperties, QoS, RetainHandling, SubscriptionId, SubscriptionOptions,
    TopicFilter, TopicName, Will,
};

use crate::id::{Holder, Lsn, OnceKey, PartitionId, ProxyId, SessionId, UnixMillis};
use crate::store::{StoreError, Table};

mod queue;
pub(crate) use queue::{Chunk, Content, Cursor, Entry, EntryHead};

/// Of all values written here.
const VERSION: u8 = 1;

/// Key of a partition's own row, and the beginning of all its keys.
pub(crate) fn partition_key(partition: PartitionId) -> [u8; 2] {
    partition.0.to_be_bytes()
}

/// Key of something numbered within a partition; sessions and groups are numbered so.
pub(crate) fn number_key(partition: PartitionId, number: u64) -> [u8; 8] {
    SessionId::new(partition, number).0.to_be_bytes()
}

/// Key of a session's or a group's own row, and the beginning of all keys of what belongs to it.
pub(crate) fn owner_key(owner: u64) -> [u8; 8] {
    owner.to_be_bytes()
}

/// Key of a numbered thing of a session or a group.
pub(crate) fn place_key(owner: u64, place: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&owner.to_be_bytes());
    key[8..].copy_from_slice(&place.to_be_bytes());
    key
}

/// Key of a named thing of a session or a group.
pub(crate) fn text_key(owner: u64, text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + text.len());
    key.extend_from_slice(&owner.to_be_bytes());
    key.extend_from_slice(text.as_bytes());
    key
}

/// Key of a named thing of a partition.
pub(crate) fn partition_text_key(partition: PartitionId, text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + text.len());
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.extend_from_slice(text.as_bytes());
    key
}

/// Key of the last number taken of a lane.
pub(crate) fn lane_key(partition: PartitionId, origin: ProxyId, lane: u8) -> [u8; 11] {
    let mut key = [0; 11];
    key[..2].copy_from_slice(&partition.0.to_be_bytes());
    key[2..10].copy_from_slice(&origin.0.to_be_bytes());
    key[10] = lane;
    key
}

/// Key of a known message.
pub(crate) fn once_key(partition: PartitionId, key: OnceKey) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..2].copy_from_slice(&partition.0.to_be_bytes());
    bytes[2..].copy_from_slice(&key.0.to_be_bytes());
    bytes
}

/// Key of an unreleased QoS 2 message from a client.
pub(crate) fn incoming_key(session: SessionId, packet_id: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&session.0.to_be_bytes());
    key[8..].copy_from_slice(&packet_id.to_be_bytes());
    key
}

/// The number of which `key` begins: a session, a group or a numbered thing of a partition.
pub(crate) fn owner_of(table: Table, key: &[u8]) -> Result<u64, StoreError> {
    let number = key.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    number.ok_or(StoreError::Damaged { table, what: "its key is too short" })
}

/// The place in a key made by [`place_key`].
pub(crate) fn place_of(table: Table, key: &[u8]) -> Result<u64, StoreError> {
    let place = key.get(8..).and_then(|rest| <[u8; 8]>::try_from(rest).ok());
    place
        .map(u64::from_be_bytes)
        .ok_or(StoreError::Damaged { table, what: "its key is not as long as it should be" })
}

/// The text in a key made by [`text_key`].
pub(crate) fn text_of(table: Table, key: &[u8]) -> Result<&str, StoreError> {
    let text = key.get(8..).and_then(|rest| std::str::from_utf8(rest).ok());
    text.ok_or(StoreError::Damaged { table, what: "its key holds no text" })
}

/// Reads a value to its end. `None` from `read` means that it is damaged.
pub(crate) fn decode<T>(
    table: Table,
    value: &Bytes,
    read: impl FnOnce(&mut Bytes) -> Option<T>,
) -> Result<T, StoreError> {
    let mut rest = value.clone();
    if take_u8(&mut rest) != Some(VERSION) {
        return Err(StoreError::Damaged { table, what: "its version is not known" });
    }
    let decoded = read(&mut rest).filter(|_| rest.is_empty());
    decoded.ok_or(StoreError::Damaged { table, what: "its value cannot be read" })
}

/// Begins a value.
pub(crate) fn begin(capacity: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(capacity + 1);
    value.push(VERSION);
    value
}

pub(crate) fn take_u8(from: &mut Bytes) -> Option<u8> {
    from.try_get_u8().ok()
}

pub(crate) fn take_u64(from: &mut Bytes) -> Option<u64> {
    from.try_get_u64().ok()
}

pub(crate) fn take_u128(from: &mut Bytes) -> Option<u128> {
    from.try_get_u128().ok()
}

/// A number in seven bits per byte, the lowest first.
pub(crate) fn take_varint(from: &mut Bytes) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(from)?;
        value |= u64::from(byte & 0x7F).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub(crate) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

pub(crate) fn take_bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(take_varint(from)?).ok()?;
    (length <= from.len()).then(|| from.split_to(length))
}

pub(crate) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

pub(crate) fn take_text(from: &mut Bytes) -> Option<ByteString> {
    ByteString::try_from(take_bytes(from)?).ok()
}

pub(crate) fn take_filter(from: &mut Bytes) -> Option<TopicFilter> {
    TopicFilter::new(take_text(from)?).ok()
}

pub(crate) fn take_topic(from: &mut Bytes) -> Option<TopicName> {
    TopicName::new(take_text(from)?).ok()
}

/// A moment that may be missing.
pub(crate) fn put_moment(to: &mut Vec<u8>, moment: Option<UnixMillis>) {
    put_varint(to, moment.map_or(0, |moment| moment.0.saturating_add(1)));
}

pub(crate) fn take_moment(from: &mut Bytes) -> Option<Option<UnixMillis>> {
    Some(take_varint(from)?.checked_sub(1).map(UnixMillis))
}

pub(crate) fn put_options(
    to: &mut Vec<u8>,
    options: SubscriptionOptions,
    id: Option<SubscriptionId>,
) {
    let flags = options.qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4;
    to.push(flags);
    put_varint(to, id.map_or(0, |id| u64::from(id.value())));
}

pub(crate) fn take_options(
    from: &mut Bytes,
) -> Option<(SubscriptionOptions, Option<SubscriptionId>)> {
    let flags = take_u8(from)?;
    let retain_handling = match flags >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return None,
    };
    let options = SubscriptionOptions {
        qos: QoS::from_bits(flags & 0b11)?,
        no_local: flags & 0b100 != 0,
        retain_as_published: flags & 0b1000 != 0,
        retain_handling,
    };
    Some((options, take_subscription_id(from)?))
}

fn take_subscription_id(from: &mut Bytes) -> Option<Option<SubscriptionId>> {
    let id = u32::try_from(take_varint(from)?).ok()?;
    if id == 0 { Some(None) } else { SubscriptionId::new(id).map(Some) }
}

const RETAIN: u8 = 0b100;
const EXPIRES: u8 = 0b1000;

/// A message, so that [`take_message`] knows where it ends.
pub(crate) fn put_message(to: &mut Vec<u8>, message: &Message) {
    let mut flags = message.qos as u8;
    if message.retain {
        flags |= RETAIN;
    }
    if message.expiry_secs.is_some() {
        flags |= EXPIRES;
    }
    to.reserve(16 + message_bytes(message));
    to.push(flags);
    if let Some(seconds) = message.expiry_secs {
        to.put_u32(seconds);
    }
    put_bytes(to, message.topic.as_str().as_bytes());
    put_bytes(to, message.properties.as_bytes());
    put_bytes(to, &message.payload);
}

/// The message shares the memory of the row.
pub(crate) fn take_message(from: &mut Bytes) -> Option<Message> {
    let flags = take_u8(from)?;
    let expiry_secs = if flags & EXPIRES == 0 { None } else { Some(from.try_get_u32().ok()?) };
    Some(Message {
        qos: QoS::from_bits(flags & 0b11)?,
        retain: flags & RETAIN != 0,
        expiry_secs,
        topic: take_topic(from)?,
        properties: PublishProperties::decode(take_bytes(from)?).ok()?,
        payload: take_bytes(from)?,
    })
}

/// What a message counts for, in bytes, without what goes along with it.
pub(crate) fn message_bytes(message: &Message) -> usize {
    message.topic.as_str().len() + message.properties.as_bytes().len() + message.payload.len()
}

/// Numbers given out. What is reserved is never given out again after the store is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// How many partitions there are.
    pub(crate) partitions: u16,
    /// Numbers below this may have been given out.
    pub(crate) numbers: u64,
    /// So may log numbers below this.
    pub(crate) lsn: Lsn,
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = begin(18);
        value.put_u16(self.partitions);
        value.put_u64(self.numbers);
        value.put_u64(self.lsn.0);
        value
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        decode(Table::Meta, value, |from| {
            let partitions = from.try_get_u16().ok()?;
            Some(Self { partitions, numbers: take_u64(from)?, lsn: Lsn(take_u64(from)?) })
        })
    }
}

/// What kind of row of the session table it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionKind {
    /// Ends with its connection. It has a row only for its will.
    Clean = 0,
    /// Outlives its connection.
    Persistent = 1,
    /// Is over; its queue is being deleted.
    Dying = 2,
}

/// A will and when it is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingWill {
    pub(crate) will: Will,
    /// Set once the connection is over.
    pub(crate) due: Option<UnixMillis>,
    /// Whether any connection of the client calls it off, because the proxy stopped.
    pub(crate) grace: Grace,
}

/// Whether a new connection of the client calls a due will off even if it begins a new session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Grace {
    /// Only one that goes on with the session.
    #[default]
    No,
    /// Any.
    Yes,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionRow {
    pub(crate) kind: SessionKind,
    pub(crate) client: ClientId,
    pub(crate) epoch: u64,
    /// Whether the connection that has it began it.
    pub(crate) fresh: bool,
    pub(crate) holder: Option<Holder>,
    pub(crate) expiry_secs: u32,
    pub(crate) receive_maximum: u16,
    /// When its connection was attached; without a holder: when its last one ended.
    pub(crate) changed_at: UnixMillis,
    pub(crate) will: Option<PendingWill>,
}

const FRESH: u8 = 0b100;
const HELD: u8 = 0b1000;
const WILL: u8 = 0b1_0000;
const GRACE: u8 = 0b10_0000;

impl SessionRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = begin(64 + self.client.as_str().len());
        let mut flags = self.kind as u8;
        flags |= if self.fresh { FRESH } else { 0 };
        flags |= if self.holder.is_some() { HELD } else { 0 };
        flags |= if self.will.is_some() { WILL } else { 0 };
        if let Some(PendingWill { grace: Grace::Yes, .. }) = self.will {
            flags |= GRACE;
        }
        value.push(flags);
        put_bytes(&mut value, self.client.as_str().as_bytes());
        put_varint(&mut value, self.epoch);
        value.put_u32(self.expiry_secs);
        value.put_u16(self.receive_maximum);
        put_varint(&mut value, self.changed_at.0);
        if let Some(holder) = self.holder {
            value.put_u64(holder.proxy.0);
            put_varint(&mut value, holder.connection);
        }
        if let Some(pending) = &self.will {
            value.put_u32(pending.will.delay_secs);
            put_moment(&mut value, pending.due);
            put_message(&mut value, &pending.will.message);
        }
        value
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        decode(Table::Session, value, |from| {
            let flags = take_u8(from)?;
            let kind = match flags & 0b11 {
                0 => SessionKind::Clean,
                1 => SessionKind::Persistent,
                2 => SessionKind::Dying,
                _ => return None,
            };
            Some(Self {
                kind,
                client: ClientId::new(take_text(from)?)?,
                epoch: take_varint(from)?,
                fresh: flags & FRESH != 0,
                expiry_secs: from.try_get_u32().ok()?,
                receive_maximum: from.try_get_u16().ok()?,
                changed_at: UnixMillis(take_varint(from)?),
                holder: if flags & HELD == 0 { None } else { Some(take_holder(from)?) },
                will: if flags & WILL == 0 { None } else { Some(take_will(from, flags)?) },
            })
        })
    }
}

fn take_holder(from: &mut Bytes) -> Option<Holder> {
    Some(Holder { proxy: ProxyId(take_u64(from)?), connection: take_varint(from)? })
}

fn take_will(from: &mut Bytes, flags: u8) -> Option<PendingWill> {
    let delay_secs = from.try_get_u32().ok()?;
    let due = take_moment(from)?;
    let grace = if flags & GRACE == 0 { Grace::No } else { Grace::Yes };
    Some(PendingWill { will: Will { message: take_message(from)?, delay_secs }, due, grace })
}

/// The value of a subscription; its filter is in the key.
pub(crate) fn encode_subscription(
    options: SubscriptionOptions,
    id: Option<SubscriptionId>,
) -> Vec<u8> {
    let mut value = begin(6);
    put_options(&mut value, options, id);
    value
}

pub(crate) fn decode_subscription(
    value: &Bytes,
) -> Result<(SubscriptionOptions, Option<SubscriptionId>), StoreError> {
    decode(Table::Subscription, value, take_options)
}

/// The value of a row that is one number.
pub(crate) fn encode_number(number: u64) -> Vec<u8> {
    let mut value = begin(8);
    value.put_u64(number);
    value
}

pub(crate) fn decode_number(table: Table, value: &Bytes) -> Result<u64, StoreError> {
    decode(table, value, take_u64)
}

/// What is known of one lane of an origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LaneRow {
    /// The last number taken.
    pub(crate) last: u64,
    /// Numbers that were refused: first and last of each run, in the order in which they came.
    pub(crate) refused: Vec<(u64, u64)>,
}

impl LaneRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = begin(8 + 10 * self.refused.len());
        value.put_u64(self.last);
        for (first, last) in &self.refused {
            put_varint(&mut value, *first);
            put_varint(&mut value, last.saturating_sub(*first));
        }
        value
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        decode(Table::Lane, value, |from| {
            let (last, mut refused) = (take_u64(from)?, Vec::new());
            while !from.is_empty() {
                let first = take_varint(from)?;
                refused.push((first, first.checked_add(take_varint(from)?)?));
            }
            Some(Self { last, refused })
        })
    }
}

/// The value of an unreleased QoS 2 message from a client: without a key it was taken.
pub(crate) fn encode_incoming(key: Option<OnceKey>) -> Vec<u8> {
    let mut value = begin(16);
    if let Some(key) = key {
        value.put_u128(key.0);
    }
    value
}

pub(crate) fn decode_incoming(value: &Bytes) -> Result<Option<OnceKey>, StoreError> {
    let key = |from: &mut Bytes| {
        if from.is_empty() { Some(None) } else { take_u128(from).map(OnceKey).map(Some) }
    };
    decode(Table::Incoming, value, key)
}

/// The value of a message shared by several queues.
pub(crate) fn encode_body(message: &Message) -> Vec<u8> {
    let mut value = begin(16 + message_bytes(message));
    put_message(&mut value, message);
    value
}

pub(crate) fn decode_body(value: &Bytes) -> Result<Message, StoreError> {
    decode(Table::Body, value, take_message)
}

/// Retained messages that a subscription is still owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) filter: TopicFilter,
    /// Highest QoS of a delivery.
    pub(crate) qos: QoS,
    pub(crate) subscription_id: Option<SubscriptionId>,
    /// The last topic looked at.
    pub(crate) after: Option<TopicName>,
    /// What was retained later came as a message of its own.
    pub(crate) since: Lsn,
}

impl Scan {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let after = self.after.as_ref().map_or("", TopicName::as_str);
        let mut value = begin(24 + self.filter.as_str().len() + after.len());
        value.push(self.qos as u8);
        put_varint(&mut value, self.subscription_id.map_or(0, |id| u64::from(id.value())));
        put_varint(&mut value, self.since.0);
        put_bytes(&mut value, self.filter.as_str().as_bytes());
        put_bytes(&mut value, after.as_bytes());
        value
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        decode(Table::Scan, value, |from| {
            let qos = QoS::from_bits(take_u8(from)?)?;
            let subscription_id = take_subscription_id(from)?;
            let since = Lsn(take_varint(from)?);
            let filter = take_filter(from)?;
            let after = take_text(from)?;
            let after = if after.is_empty() { None } else { Some(TopicName::new(after).ok()?) };
            Some(Self { filter, qos, subscription_id, after, since })
        })
    }
}
