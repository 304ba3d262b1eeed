//! Rows of a session's queue: where it stands, and its chunks.
//!
//! A chunk holds what one commit added to one queue: its key names its last place, so that a look
//! from any place on begins with the chunk that contains it.

use bytes::Bytes;
use mqtt_codec::{Message, QoS, SubscriptionIds};

use super::{
    begin, decode, put_message, put_moment, put_varint, take_message, take_moment,
    take_subscription_id, take_u8, take_varint,
};
use crate::id::UnixMillis;
use crate::store::{StoreError, Table};

/// Where a session's queue stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The place of the next message.
    pub(crate) next: u64,
    /// All places below are done.
    pub(crate) floor: u64,
    /// No chunk ends below this place.
    pub(crate) swept: u64,
    /// What is queued counts for, in bytes.
    pub(crate) bytes: u64,
    /// A connection may have been given what has a place up to here; more, if one had the session when this was
    /// written.
    pub(crate) sent: u64,
    /// Places above the floor that are done: first and last of each run, in order.
    pub(crate) done: Vec<(u64, u64)>,
    /// Places whose PUBREC has come, in order.
    pub(crate) received: Vec<u64>,
}

impl Default for Cursor {
    fn default() -> Self {
        let (done, received) = (Vec::new(), Vec::new());
        Self { next: 1, floor: 1, swept: 1, bytes: 0, sent: 0, done, received }
    }
}

impl Cursor {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = begin(24 + 4 * (self.done.len() + self.received.len()));
        let (floor, next) = (self.floor - self.swept, self.next - self.floor);
        for number in [self.swept, floor, next, self.bytes, self.next - self.sent] {
            put_varint(&mut value, number);
        }
        put_varint(&mut value, self.done.len() as u64);
        let mut last = self.floor;
        for (from, to) in &self.done {
            put_varint(&mut value, from - last);
            put_varint(&mut value, to - from);
            last = *to;
        }
        put_varint(&mut value, self.received.len() as u64);
        let mut last = self.floor;
        for place in &self.received {
            put_varint(&mut value, place - last);
            last = *place;
        }
        value
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        decode(Table::Cursor, value, |from| {
            let swept = take_varint(from)?;
            let floor = swept.checked_add(take_varint(from)?)?;
            let next = floor.checked_add(take_varint(from)?)?;
            let bytes = take_varint(from)?;
            let sent = next.checked_sub(take_varint(from)?.max(1))?;
            let (mut done, mut received) = (Vec::new(), Vec::new());
            let mut last = floor;
            for _ in 0..take_varint(from)? {
                let first = last.checked_add(take_varint(from)?)?;
                last = first.checked_add(take_varint(from)?)?;
                done.push((first, last));
            }
            let inside = last <= next;
            let mut last = floor;
            for _ in 0..take_varint(from)? {
                last = last.checked_add(take_varint(from)?)?;
                received.push(last);
            }
            (swept > 0 && inside && last <= next).then_some(Self {
                next,
                floor,
                swept,
                bytes,
                sent,
                done,
                received,
            })
        })
    }
}

/// What goes along with a message in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryHead {
    /// Of the delivery.
    pub(crate) qos: QoS,
    /// RETAIN as the client is to see it.
    pub(crate) retain: bool,
    pub(crate) subscription_ids: SubscriptionIds,
    pub(crate) expires_at: Option<UnixMillis>,
}

/// A message in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) place: u64,
    pub(crate) head: EntryHead,
    /// What it counts for, in bytes.
    pub(crate) weight: u64,
    pub(crate) content: Content,
}

/// The message, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Inline(Message),
    /// The number of a body.
    Body(u64),
}

const RETAIN: u8 = 0b100;
const EXPIRES: u8 = 0b1000;
const BODY: u8 = 0b1_0000;
/// How many subscription identifiers there are stands in the bits from here on; all ones: in a number of its own.
const IDS_SHIFT: u8 = 5;
const MANY_IDS: usize = 7;

/// What one commit adds to one queue, as it is written.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    value: Vec<u8>,
}

impl Chunk {
    /// One whose first entry has this place; the others follow one by one.
    pub(crate) fn starting(place: u64) -> Self {
        let mut value = begin(128);
        put_varint(&mut value, place);
        Self { value }
    }

    /// Adds an entry whose message stands here.
    pub(crate) fn push_message(&mut self, head: &EntryHead, weight: u64, message: &Message) {
        self.push_head(head, weight, 0);
        put_message(&mut self.value, message);
    }

    /// Adds an entry whose message is a body.
    pub(crate) fn push_body(&mut self, head: &EntryHead, weight: u64, body: u64) {
        self.push_head(head, weight, BODY);
        put_varint(&mut self.value, body);
    }

    fn push_head(&mut self, head: &EntryHead, weight: u64, kind: u8) {
        let ids = head.subscription_ids.len();
        let mut flags = head.qos as u8 | kind | (ids.min(MANY_IDS) as u8) << IDS_SHIFT;
        flags |= if head.retain { RETAIN } else { 0 };
        flags |= if head.expires_at.is_some() { EXPIRES } else { 0 };
        self.value.push(flags);
        if ids >= MANY_IDS {
            put_varint(&mut self.value, ids as u64);
        }
        for id in &head.subscription_ids {
            put_varint(&mut self.value, u64::from(id.value()));
        }
        if head.expires_at.is_some() {
            put_moment(&mut self.value, head.expires_at);
        }
        put_varint(&mut self.value, weight);
    }

    /// The value of the row.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.value
    }

    /// The entries of a row, in order.
    pub(crate) fn decode(value: &Bytes) -> Result<Vec<Entry>, StoreError> {
        decode(Table::Inbox, value, |from| {
            let mut place = take_varint(from)?;
            let mut entries = Vec::new();
            while !from.is_empty() {
                entries.push(take_entry(from, place)?);
                place = place.checked_add(1)?;
            }
            Some(entries)
        })
    }
}

fn take_entry(from: &mut Bytes, place: u64) -> Option<Entry> {
    let flags = take_u8(from)?;
    let ids = match usize::from(flags >> IDS_SHIFT) {
        MANY_IDS => take_varint(from)?,
        few => few as u64,
    };
    let mut subscription_ids = SubscriptionIds::new();
    for _ in 0..ids {
        subscription_ids.push(take_subscription_id(from)??);
    }
    let expires_at = if flags & EXPIRES == 0 { None } else { take_moment(from)? };
    let weight = take_varint(from)?;
    let content = if flags & BODY == 0 {
        Content::Inline(take_message(from)?)
    } else {
        Content::Body(take_varint(from)?)
    };
    let qos = QoS::from_bits(flags & 0b11)?;
    let head = EntryHead { qos, retain: flags & RETAIN != 0, subscription_ids, expires_at };
    Some(Entry { place, head, weight, content })
}
