//! Rows of groups: where a queue stands, members, queued messages.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use mqtt_codec::{Message, QoS, SubscriptionId, SubscriptionOptions, TopicFilter};

use crate::id::{ClientHash, ProxyId, SessionId, UnixMillis};
use crate::row;
use crate::store::{StoreError, Table};

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupRow {
    /// `$share/{name}/{filter}`.
    pub(crate) filter: TopicFilter,
    /// The highest of all members, or of the last one.
    pub(crate) qos: QoS,
    /// The place of the next message.
    pub(crate) next: u64,
    /// No message has a place below.
    pub(crate) floor: u64,
    /// Messages in the queue.
    pub(crate) count: u64,
    /// What they count for, in bytes.
    pub(crate) bytes: u64,
    pub(crate) state: GroupState,
}

/// Whether a group takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupState {
    Live = 0,
    /// It is over; its queue is being deleted.
    Dying = 1,
}

impl GroupRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = row::begin(40 + self.filter.as_str().len());
        value.push(self.qos as u8 | (self.state as u8) << 2);
        for number in [self.floor, self.next - self.floor, self.count, self.bytes] {
            row::put_varint(&mut value, number);
        }
        row::put_bytes(&mut value, self.filter.as_str().as_bytes());
        value
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        row::decode(Table::Group, value, |from| {
            let flags = row::take_u8(from)?;
            let state = match flags >> 2 {
                0 => GroupState::Live,
                1 => GroupState::Dying,
                _ => return None,
            };
            let floor = row::take_varint(from)?;
            Some(Self {
                qos: QoS::from_bits(flags & 0b11)?,
                state,
                floor,
                next: floor.checked_add(row::take_varint(from)?)?,
                count: row::take_varint(from)?,
                bytes: row::take_varint(from)?,
                filter: row::take_filter(from)?,
            })
        })
    }
}

/// How long a member stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// Its session outlives its connections and has a queue of its own.
    Persistent,
    /// It ends with its connection at this proxy.
    Clean(ProxyId),
}

/// A member's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberRow {
    pub(crate) stay: Stay,
    pub(crate) options: SubscriptionOptions,
    pub(crate) subscription_id: Option<SubscriptionId>,
}

impl MemberRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = row::begin(16);
        match self.stay {
            Stay::Persistent => value.push(0),
            Stay::Clean(proxy) => {
                value.push(1);
                value.put_u64(proxy.0);
            }
        }
        row::put_options(&mut value, self.options, self.subscription_id);
        value
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        row::decode(Table::Member, value, |from| {
            let stay = match row::take_u8(from)? {
                0 => Stay::Persistent,
                1 => Stay::Clean(ProxyId(row::take_u64(from)?)),
                _ => return None,
            };
            let (options, subscription_id) = row::take_options(from)?;
            Some(Self { stay, options, subscription_id })
        })
    }
}

/// A message of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) message: Arc<Message>,
    pub(crate) expires_at: Option<UnixMillis>,
    /// Who published it.
    pub(crate) publisher: ClientHash,
    /// Where it was published.
    pub(crate) proxy: ProxyId,
}

/// What a message counts for beside its text and payload.
const OVERHEAD: usize = 64;

const ASSIGNED: u8 = 1;

impl Queued {
    /// What it counts for, in bytes.
    pub(crate) fn weight(&self) -> usize {
        OVERHEAD + row::message_bytes(&self.message)
    }

    pub(crate) fn is_over(&self, now: UnixMillis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The row of a message that nobody else may get than `only`, if there is one.
    pub(crate) fn encode(&self, only: Option<SessionId>) -> Vec<u8> {
        let mut value = row::begin(56 + row::message_bytes(&self.message));
        value.push(if only.is_some() { ASSIGNED } else { 0 });
        if let Some(session) = only {
            value.put_u64(session.0);
        }
        value.put_u64(self.publisher.0);
        value.put_u64(self.proxy.0);
        row::put_moment(&mut value, self.expires_at);
        row::put_message(&mut value, &self.message);
        value
    }

    pub(crate) fn decode(value: &Bytes) -> Result<(Self, Option<SessionId>), StoreError> {
        row::decode(Table::GroupQueue, value, |from| {
            let only = match row::take_u8(from)? {
                0 => None,
                ASSIGNED => Some(SessionId(row::take_u64(from)?)),
                _ => return None,
            };
            let publisher = ClientHash(row::take_u64(from)?);
            let proxy = ProxyId(row::take_u64(from)?);
            let expires_at = row::take_moment(from)?;
            let message = Arc::new(row::take_message(from)?);
            Some((Self { message, expires_at, publisher, proxy }, only))
        })
    }
}
