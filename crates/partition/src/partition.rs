//! One part of everything durable: a deterministic state machine.
//!
//! Owns the sessions of some clients, the retained messages of some topics and some groups. Invariant: what
//! it holds in memory is what its rows say together with the changes of the commit being put together.
//! Does not: read a clock, commit, know the other partitions: what concerns them is forwarded.

use std::collections::VecDeque;

use bytes::Bytes;
use mqtt_codec::{QoS, SubscriptionId};
use topic_index::TopicIndex;

use crate::body::Bodies;
use crate::changes::{Changes, Stamp};
use crate::command::Publish;
use crate::config::OwnerConfig;
use crate::group::Groups;
use crate::id::{PartitionId, ProxyId, SessionId};
use crate::lane::Lanes;
use crate::numbers::Numbers;
use crate::once::Once;
use crate::retained::{Retained, RetainedAmount, Retention};
use crate::session::{Session, Sessions};
use crate::stats::{DropReason, Stats};
use crate::store::{Room, Store, StoreError, Table};
use crate::will::{Outbox, Timers};

mod attach;
mod deliver;
mod end;
mod enqueue;
mod flush;
mod load;
mod shared;
mod subscribe;

pub(crate) use deliver::Taken;
pub(crate) use flush::Left;

/// The state of a partition.
#[derive(Debug)]
pub(crate) struct Partition {
    id: PartitionId,
    config: OwnerConfig,
    numbers: Numbers,
    sessions: Sessions,
    index: TopicIndex<u64, Terms>,
    lanes: Lanes,
    once: Once,
    bodies: Bodies,
    timers: Timers,
    outbox: Outbox,
    retained: Retained,
    groups: Groups,
    /// Sessions that the next commit looks at.
    changed: Vec<SessionId>,
    /// Sessions whose queues are deleted bit by bit.
    dying: VecDeque<SessionId>,
    /// Sessions with chunks of dropped messages.
    sweeping: VecDeque<SessionId>,
    /// How many queues are full.
    full: u64,
    totals: Totals,
    /// Kept for its memory.
    matched: Vec<Recipient>,
}

/// How a subscription wants its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    id: Option<SubscriptionId>,
}

/// A session that a message is for.
#[derive(Debug)]
struct Recipient {
    session: u64,
    terms: Terms,
    /// Of further subscriptions that match.
    more_ids: Vec<SubscriptionId>,
}

/// What all queues hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) subscriptions: u64,
    pub(crate) repeated: u64,
    pub(crate) expired_sessions: u64,
}

/// A message that has come to this partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) publish: &'a Publish,
    pub(crate) source: Source,
    /// Whether this partition is the one of its topic.
    pub(crate) retains: Retains,
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The relays: it has a place in its origin's order.
    Relay,
    /// It is a will that is fired here.
    Here,
}

/// Whether a partition keeps a retained message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retains {
    Yes,
    No,
}

/// What a partition is told about the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    pub(crate) room: Room,
    /// Persistent sessions there may be beside those there are.
    pub(crate) sessions_left: u64,
    pub(crate) retained_left: RetainedAmount,
}

impl Whole {
    /// For what adds neither sessions nor retained messages.
    pub(crate) fn of(room: Room) -> Self {
        Self { room, sessions_left: 0, retained_left: RetainedAmount::default() }
    }
}

impl Partition {
    /// Without any rows.
    pub(crate) fn new(id: PartitionId, config: OwnerConfig) -> Self {
        Self {
            id,
            config,
            numbers: Numbers::new(0),
            sessions: Sessions::default(),
            index: TopicIndex::new(),
            lanes: Lanes::default(),
            once: Once::new(id),
            bodies: Bodies::new(id),
            timers: Timers::default(),
            outbox: Outbox::new(id),
            retained: Retained::new(id),
            groups: Groups::new(id, config),
            changed: Vec::new(),
            dying: VecDeque::new(),
            sweeping: VecDeque::new(),
            full: 0,
            totals: Totals::default(),
            matched: Vec::new(),
        }
    }

    pub(crate) const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) const fn retained(&self) -> &Retained {
        &self.retained
    }

    pub(crate) const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) const fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    pub(crate) const fn timers(&self) -> &Timers {
        &self.timers
    }

    pub(crate) const fn timers_mut(&mut self) -> &mut Timers {
        &mut self.timers
    }

    pub(crate) const fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub(crate) const fn lanes_mut(&mut self) -> &mut Lanes {
        &mut self.lanes
    }

    pub(crate) const fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Takes a message in: into queues, groups and the retained messages.
    pub(crate) fn publish(
        &mut self,
        arrival: Arrival<'_>,
        stamp: Stamp,
        whole: Whole,
        store: &dyn Store,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let publish = arrival.publish;
        if publish.message.qos > QoS::AtMostOnce
            && arrival.source == Source::Relay
            && !self.lanes.take(publish.origin)
        {
            self.totals.repeated += 1;
            return Ok(());
        }
        if let Some(key) = publish.once
            && !self.once.take(key, stamp.now, store, &mut changes.batch)?
        {
            self.totals.repeated += 1;
            return Ok(());
        }
        if arrival.retains == Retains::Yes {
            self.retain(publish, stamp, whole, changes);
        }
        self.enqueue_matches(publish, changes);
        self.publish_to_groups(publish, stamp, changes);
        Ok(())
    }

    fn retain(&mut self, publish: &Publish, stamp: Stamp, whole: Whole, changes: &mut Changes) {
        let left = match whole.room {
            Room::Enough => whole.retained_left,
            Room::Low => RetainedAmount::default(),
        };
        let Publish { message, expires_at, .. } = publish;
        let kept = self.retained.retain(message, *expires_at, stamp, left, &mut changes.batch);
        if kept == Retention::NoRoom {
            changes.drop(DropReason::RetainedFull, 1);
        }
    }

    /// Nothing more will come from this origin.
    pub(crate) fn forget_origin(&mut self, origin: ProxyId, changes: &mut Changes) {
        self.lanes.forget(self.id, origin, &mut changes.batch);
    }

    /// Whether the next commit has something to write of it.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty() || self.groups.has_pages()
    }

    /// Adds what there is here.
    pub(crate) fn count(&self, stats: &mut Stats) {
        let (group_messages, _) = self.groups.queued();
        let retained = self.retained.amount();
        stats.persistent_sessions += self.sessions.persistent;
        stats.attached += self.sessions.attached() as u64;
        stats.subscriptions += self.totals.subscriptions;
        stats.queued_messages += self.totals.messages;
        stats.queued_bytes += self.totals.bytes;
        stats.groups += self.groups.len() as u64;
        stats.group_messages += group_messages;
        stats.retained_messages += retained.messages;
        stats.retained_bytes += retained.bytes;
        stats.outbox += self.outbox.len() as u64;
        stats.expired_sessions += self.totals.expired_sessions;
        stats.repeated_messages += self.totals.repeated;
    }

    /// Puts a session on the list that the next commit looks at.
    fn list(changed: &mut Vec<SessionId>, session: &mut Session) {
        if !session.changed.listed {
            session.changed.listed = true;
            changed.push(session.id);
        }
    }

    fn touch(&mut self, id: SessionId) -> Option<&mut Session> {
        let session = self.sessions.find_mut(id)?;
        Self::list(&mut self.changed, session);
        Some(session)
    }
}

fn put(changes: &mut Changes, table: Table, key: &[u8], value: Vec<u8>) {
    changes.batch.put(table, Bytes::copy_from_slice(key), value);
}

fn delete(changes: &mut Changes, table: Table, key: &[u8]) {
    changes.batch.delete(table, Bytes::copy_from_slice(key));
}
