//! The last retained message of each topic of one partition.
//!
//! Owns the rows of table `Retained` and a copy of them in memory, in the order of topics. Invariant: the
//! message of a topic is that of the last command, whatever was read in between; nothing that is over is
//! handed out. Does not: read a clock, know who subscribes, decide how much may be retained in all.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{Message, TopicFilter, TopicName};
use topic_index::TopicTree;

use crate::changes::Stamp;
use crate::id::{Lsn, PartitionId, UnixMillis};
use crate::row;
use crate::store::{Batch, StoreError, Table};

/// What one counts for beside its text and payload: its rows in memory.
const OVERHEAD: u64 = 256;

/// Expired messages that are taken out at a time.
const EXPIRED_AT_A_TIME: usize = 256;

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetainedMessage {
    /// The message, with its RETAIN flag set.
    pub(crate) message: Arc<Message>,
    /// When it expires.
    pub(crate) expires_at: Option<UnixMillis>,
    /// Which command of its partition's log it comes from.
    pub(crate) version: Lsn,
}

/// A part of what matches a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetainedPart {
    /// The messages: fewer than asked for, or none, says nothing about what is left.
    pub(crate) messages: Vec<RetainedMessage>,
    /// Where the next page starts; `None` when this was the last.
    pub(crate) next: Option<TopicName>,
}

/// How many topics have a message, and what those count for. Also how much room there is for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetainedAmount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// What became of a message that was to be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// It is the topic's message.
    Kept,
    /// The topic has none now, as was asked for.
    Deleted,
    /// There was no room: the topic has none now, as that before is no longer the last.
    NoRoom,
}

/// The retained messages of one partition.
#[derive(Debug)]
pub(crate) struct Retained {
    partition: PartitionId,
    topics: TopicTree<RetainedMessage>,
    bytes: u64,
    /// Those that expire.
    expiries: BTreeSet<(UnixMillis, TopicName)>,
}

impl Retained {
    pub(crate) fn new(partition: PartitionId) -> Self {
        Self { partition, topics: TopicTree::new(), bytes: 0, expiries: BTreeSet::new() }
    }

    /// Takes in a row of table `Retained`.
    pub(crate) fn load(&mut self, value: &Bytes) -> Result<(), StoreError> {
        let mut retained = RetainedMessage::decode(value)?;
        retained.message = Arc::new(retained.message.detached());
        self.insert(retained);
        Ok(())
    }

    /// Keeps `message` for its topic `[MQTT-3.3.1-5]`, or forgets the topic when the payload is empty
    /// `[MQTT-3.3.1-6]` `[MQTT-3.3.1-7]`. `room` is what is left for all partitions together.
    pub(crate) fn retain(
        &mut self,
        message: &Message,
        expires_at: Option<UnixMillis>,
        stamp: Stamp,
        room: RetainedAmount,
        batch: &mut Batch,
    ) -> Retention {
        let old = self.remove(&message.topic);
        let (freed, new) = (old.map_or(0, |old| weight(&old)), weight(message));
        let fits = room.bytes.saturating_add(freed) >= new && (freed > 0 || room.messages > 0);
        if message.payload.is_empty() || !fits {
            if freed > 0 {
                batch.delete(Table::Retained, self.key(&message.topic));
            }
            return if message.payload.is_empty() { Retention::Deleted } else { Retention::NoRoom };
        }
        let message = Arc::new(Message { retain: true, ..message.detached() });
        let retained = RetainedMessage { message, expires_at, version: stamp.lsn };
        batch.put(Table::Retained, self.key(&retained.message.topic), retained.encode());
        self.insert(retained);
        Retention::Kept
    }

    /// The messages that match `filter`, behind the place `after` where the page before ended.
    pub(crate) fn page(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        now: UnixMillis,
    ) -> RetainedPart {
        let mut page = self.topics.matches_after(filter, after, limit);
        let fresh = |(_, retained): (&str, &RetainedMessage)| {
            (!is_over(retained.expires_at, now)).then(|| retained.clone())
        };
        let messages = page.by_ref().filter_map(fresh).collect();
        RetainedPart { messages, next: page.cursor() }
    }

    /// Takes out some of what is over.
    pub(crate) fn expire_some(&mut self, now: UnixMillis, batch: &mut Batch) {
        for _ in 0..EXPIRED_AT_A_TIME {
            let Some((at, topic)) = self.expiries.first().cloned() else { return };
            if at > now {
                return;
            }
            self.remove(&topic);
            batch.delete(Table::Retained, self.key(&topic));
        }
    }

    /// When the next one expires.
    pub(crate) fn next_expiry(&self) -> Option<UnixMillis> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// How much is retained.
    pub(crate) fn amount(&self) -> RetainedAmount {
        RetainedAmount { messages: self.topics.len() as u64, bytes: self.bytes }
    }

    fn insert(&mut self, retained: RetainedMessage) {
        let topic = retained.message.topic.clone();
        self.remove(&topic);
        self.bytes += weight(&retained.message);
        self.expiries.extend(retained.expires_at.map(|at| (at, topic.clone())));
        self.topics.insert(&topic, retained);
    }

    fn remove(&mut self, topic: &TopicName) -> Option<Arc<Message>> {
        let old = self.topics.remove(topic)?;
        self.bytes -= weight(&old.message);
        if let Some(at) = old.expires_at {
            self.expiries.remove(&(at, old.message.topic.clone()));
        }
        Some(old.message)
    }

    fn key(&self, topic: &TopicName) -> Vec<u8> {
        row::partition_text_key(self.partition, topic.as_str())
    }
}

/// The messages that match `filter`, over all partitions, given in their order: one after the other, each in
/// the order of its topics. An exact filter is looked up in one place.
pub(crate) fn page_over(
    partitions: &[&Retained],
    filter: &TopicFilter,
    after: Option<&TopicName>,
    limit: usize,
    now: UnixMillis,
) -> RetainedPart {
    let count = u16::try_from(partitions.len()).expect("partition numbers have 16 bits");
    let place = |topic: &TopicName| usize::from(PartitionId::of_topic(topic, count).0);
    if !filter.has_wildcards() {
        let topic = TopicName::new(filter.filter());
        let topic = topic.expect("a filter without wildcards is a topic");
        let found = partitions.get(place(&topic)).map(|there| there.page(filter, after, 1, now));
        return RetainedPart { next: None, ..found.unwrap_or_default() };
    }
    let limit = limit.max(1);
    let mut page = RetainedPart::default();
    let first = after.map_or(0, place);
    for (number, partition) in partitions.iter().enumerate().skip(first) {
        let after = if number == first { after } else { None };
        let left = limit - page.messages.len();
        let mut part = partition.page(filter, after, left, now);
        page.messages.append(&mut part.messages);
        if part.next.is_some() {
            page.next = part.next;
            return page;
        }
        if page.messages.len() >= limit {
            // The last message is the place to go on from, unless this was the last partition.
            let last = page.messages.last().map(|last| last.message.topic.clone());
            page.next = last.filter(|_| number + 1 < partitions.len());
            return page;
        }
    }
    page
}

fn is_over(expires_at: Option<UnixMillis>, now: UnixMillis) -> bool {
    expires_at.is_some_and(|at| at <= now)
}

fn weight(message: &Message) -> u64 {
    OVERHEAD + row::message_bytes(message) as u64
}

impl RetainedMessage {
    fn encode(&self) -> Vec<u8> {
        let mut value = row::begin(32 + row::message_bytes(&self.message));
        row::put_varint(&mut value, self.version.0);
        row::put_moment(&mut value, self.expires_at);
        row::put_message(&mut value, &self.message);
        value
    }

    /// The value of a row of table `Retained`.
    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        row::decode(Table::Retained, value, |from| {
            let version = Lsn(row::take_varint(from)?);
            let expires_at = row::take_moment(from)?;
            Some(Self { version, expires_at, message: Arc::new(row::take_message(from)?) })
        })
    }
}

#[cfg(test)]
mod tests;
