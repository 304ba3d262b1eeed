//! Shared groups of one partition: `$share/{name}/{filter}`.
//!
//! Owns the tables `Group`, `Member` and `GroupQueue`, and who gets which message. Invariant: a message above
//! QoS 0 stays in its group's queue until one member has confirmed it or one session's own queue has it; it is
//! never with two members at once. Does not: know clients, or sessions that are no members; read a clock.
//!
//! Of a commit the owner calls [`Groups::flush`] before and [`Groups::committed`] after; only then
//! anything that was given out can be taken. Queues are read by [`Groups::page`], at any time but between those two.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use bytestring::ByteString;
use hashbrown::HashMap;
use mqtt_codec::{QoS, TopicFilter, TopicName};
use smallvec::SmallVec;
use topic_index::TopicIndex;

use self::ready::{Before, Turns};
pub(crate) use self::row::Queued;
use self::row::{GroupRow, GroupState, MemberRow, Stay};
use self::state::{Context, Dirty, Fill, Group};
use crate::changes::{self, Changes, JoinGroup, MemberKind, Ready, Source};
use crate::config::{GroupConfig, OwnerConfig, QueueLimits, WhenEmpty, WhenFull};
use crate::effect::Delivery;
use crate::id::{Epoch, GroupId, PartitionId, ProxyId, QueueSeq, SessionId, UnixMillis};
use crate::row as rows;
use crate::stats::DropReason;
use crate::store::{StoreError, Table};

mod member;
mod paging;
mod queue;
mod ready;
pub(crate) mod row;
mod state;
mod strategy;

/// Messages that one member may have taken before it is another's turn.
const TURN: usize = 64;

/// What a delivery counts for beside its text and payload.
const DELIVERY: usize = 64;

/// When something happens, and where its changes go.
pub(crate) struct Call<'a> {
    pub(crate) now: UnixMillis,
    pub(crate) changes: &'a mut Changes,
}

/// All groups of one partition.
#[derive(Debug)]
pub(crate) struct Groups {
    partition: PartitionId,
    config: GroupConfig,
    limits: QueueLimits,
    /// The number of the next group.
    next: u64,
    groups: HashMap<GroupId, Group, foldhash::fast::RandomState>,
    /// By whole filter. Clients choose the texts, so the map has its own seed.
    filters: HashMap<ByteString, GroupId, foldhash::quality::RandomState>,
    index: TopicIndex<GroupId, ()>,
    /// The groups of each member.
    sessions: HashMap<SessionId, SmallVec<[GroupId; 1]>, foldhash::fast::RandomState>,
    /// Groups whose row is to be written.
    dirty: Vec<GroupId>,
    /// Members with something for the next commit.
    touched: Vec<(GroupId, SessionId)>,
    turns: Turns,
    /// Groups whose queue is to be read.
    hungry: BTreeSet<GroupId>,
    /// Groups that are over, and from which place on their queue is to be deleted.
    dying: BTreeMap<GroupId, u64>,
    /// The same, of groups whose last messages the next commit writes.
    doomed: Vec<(GroupId, u64)>,
    /// How many queues are full.
    full: usize,
    /// Reused between messages.
    matched: Vec<GroupId>,
}

impl Groups {
    pub(crate) fn new(partition: PartitionId, config: OwnerConfig) -> Self {
        Self {
            partition,
            config: config.group,
            limits: config.limits.group,
            next: 1,
            groups: HashMap::default(),
            filters: HashMap::default(),
            index: TopicIndex::new(),
            sessions: HashMap::default(),
            dirty: Vec::new(),
            touched: Vec::new(),
            turns: Turns::default(),
            hungry: BTreeSet::new(),
            dying: BTreeMap::new(),
            doomed: Vec::new(),
            full: 0,
            matched: Vec::new(),
        }
    }

    /// Takes in a row of table `Group`. All of them come before the first member.
    pub(crate) fn load_group(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let id = GroupId(rows::owner_of(Table::Group, key)?);
        if id == self.numbers() {
            self.next = rows::decode_number(Table::Group, value)?;
            return Ok(());
        }
        let row = GroupRow::decode(value)?;
        if row.state == GroupState::Dying {
            self.dying.insert(id, row.floor);
        } else {
            self.insert(Group::restore(id, row, self.config.strategy));
        }
        Ok(())
    }

    /// Takes in a row of table `Member`. Nobody is connected yet.
    pub(crate) fn load_member(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let id = GroupId(rows::owner_of(Table::Member, key)?);
        let session = SessionId(rows::place_of(Table::Member, key)?);
        let row = MemberRow::decode(value)?;
        let group = self.groups.get_mut(&id);
        let group =
            group.ok_or(StoreError::Damaged { table: Table::Member, what: "no such group" })?;
        group.admit(session, row);
        self.sessions.entry(session).or_default().push(id);
        Ok(())
    }

    /// Every filter that a group wants, with its QoS.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (TopicFilter, QoS)> {
        self.groups.values().map(|group| (plain(&group.filter), group.qos))
    }

    /// Proxies with members that end with them.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = ProxyId> {
        let members = self.groups.values().flat_map(|group| group.members.values());
        members.filter_map(|member| match member.row.stay {
            Stay::Clean(proxy) => Some(proxy),
            Stay::Persistent => None,
        })
    }

    /// A session subscribes, or changes its options. It has a connection.
    pub(crate) fn join(&mut self, join: &JoinGroup, call: &mut Call<'_>) {
        let id = self.group_for(&join.filter, call.changes);
        let stay = match join.kind {
            MemberKind::Persistent => Stay::Persistent,
            MemberKind::Clean => Stay::Clean(join.member.holder.proxy),
        };
        let row = MemberRow { stay, options: join.options, subscription_id: join.subscription_id };
        let session = join.session;
        let Some(group) = self.groups.get(&id) else { return };
        let is_known = group.members.get(&session).map(|member| member.row);
        if is_known.is_none() {
            self.sessions.entry(session).or_default().push(id);
        }
        if is_known != Some(row) {
            let key = rows::place_key(id.0, session.0).to_vec();
            call.changes.batch.put(Table::Member, key, row.encode());
            let partition = self.partition;
            self.with(id, call, |group, cx| {
                let before = group.qos;
                group.admit(session, row);
                requalify(partition, group, before, cx.changes);
            });
        }
        self.connect(id, join.member, call);
        self.pump(id, call);
    }

    /// A session unsubscribes, or is over.
    pub(crate) fn leave(&mut self, filter: &TopicFilter, session: SessionId, call: &mut Call<'_>) {
        if let Some(id) = self.filters.get(filter.as_byte_string()).copied() {
            self.dismiss(id, session, call);
        }
    }

    /// A session is over.
    pub(crate) fn end(&mut self, session: SessionId, call: &mut Call<'_>) {
        for id in self.sessions.get(&session).cloned().unwrap_or_default() {
            self.dismiss(id, session, call);
        }
    }

    /// A member has a connection again, or still has the one it had, which has got `arrived` and not
    /// confirmed it.
    pub(crate) fn back(
        &mut self,
        filter: &TopicFilter,
        member: changes::Member,
        arrived: &[u64],
        call: &mut Call<'_>,
    ) {
        let Some(id) = self.filters.get(filter.as_byte_string()).copied() else { return };
        self.connect(id, member, call);
        self.with(id, call, |group, cx| {
            group.arrived(member.session, arrived, cx);
            group.pump(cx);
        });
    }

    /// Whether `group` is the one with this filter.
    pub(crate) fn is_group(&self, group: GroupId, filter: &TopicFilter) -> bool {
        self.filters.get(filter.as_byte_string()) == Some(&group)
    }

    /// A member has no connection; its session goes on.
    pub(crate) fn away(&mut self, filter: &TopicFilter, session: SessionId, call: &mut Call<'_>) {
        if let Some(id) = self.filters.get(filter.as_byte_string()).copied() {
            self.disconnect(id, session, call);
            self.pump(id, call);
        }
    }

    /// A proxy is gone, and with it all its connections.
    pub(crate) fn proxy_dead(&mut self, proxy: ProxyId, call: &mut Call<'_>) {
        let mut gone = Vec::new();
        for group in self.groups.values() {
            for (session, member) in &group.members {
                let is_there = member.connection.is_some_and(|there| there.holder.proxy == proxy);
                if is_there || member.row.stay == Stay::Clean(proxy) {
                    gone.push((group.id, *session, member.row.stay));
                }
            }
        }
        gone.sort_unstable_by_key(|(id, session, _)| (*id, *session));
        for (id, session, stay) in gone {
            match stay {
                Stay::Persistent => {
                    self.disconnect(id, session, call);
                    self.pump(id, call);
                }
                Stay::Clean(_) => self.dismiss(id, session, call),
            }
        }
    }

    /// The session's own queue, into which QoS 2 messages of its groups go, has room for more.
    pub(crate) fn drained(&mut self, session: SessionId, call: &mut Call<'_>) {
        for id in self.sessions.get(&session).cloned().unwrap_or_default() {
            self.with(id, call, |group, cx| group.drained(session, cx));
        }
    }

    /// A message for every group whose filter matches.
    pub(crate) fn publish(&mut self, queued: &Queued, call: &mut Call<'_>) {
        let mut matched = std::mem::take(&mut self.matched);
        self.index.matches(&queued.message.topic, |id, ()| matched.push(id));
        matched.sort_unstable();
        for id in matched.drain(..) {
            self.with(id, call, |group, cx| group.publish(queued.clone(), cx));
        }
        self.matched = matched;
    }

    /// Whether a message above QoS 0 for this topic is to be refused, because the queue of a group is full.
    pub(crate) fn would_refuse(&self, topic: &TopicName) -> bool {
        let mut refuses = false;
        if self.limits.when_full == WhenFull::RejectNew && self.full > 0 {
            self.index.matches(topic, |id, ()| {
                let group = self.groups.get(&id);
                refuses |= group
                    .is_some_and(|group| group.qos > QoS::AtMostOnce && group.fill == Fill::Full);
            });
        }
        refuses
    }

    /// What a member has confirmed: its connection's PUBACK or PUBREC.
    pub(crate) fn confirm(
        &mut self,
        (id, session, epoch): (GroupId, SessionId, Epoch),
        settled: &[QueueSeq],
        call: &mut Call<'_>,
    ) {
        let member = self.groups.get(&id).and_then(|group| group.members.get(&session));
        let connection = member.and_then(|member| member.connection);
        if connection.is_some_and(|connection| connection.epoch == epoch) {
            let places: SmallVec<[u64; 32]> = settled.iter().map(|place| place.0).collect();
            self.with(id, call, |group, cx| group.confirm(session, &places, cx));
        }
    }

    /// All changes so far are committed: what was given out may be taken.
    pub(crate) fn committed(&mut self, changes: &mut Changes) {
        for (id, session) in self.touched.drain(..) {
            let group = self.groups.get_mut(&id);
            let Some(member) = group.and_then(|group| group.members.get_mut(&session)) else {
                continue;
            };
            if member.commit() && self.turns.push(id, session, member) == Before::Nothing {
                let what = Source::Groups(self.partition);
                let proxy = member.connection.map(|there| there.holder.proxy);
                changes.ready.extend(proxy.map(|proxy| Ready { proxy, what }));
            }
        }
    }

    /// Whether there is something to take for a proxy.
    pub(crate) fn is_ready(&self, proxy: ProxyId) -> bool {
        self.turns.has(proxy)
    }

    /// Takes deliveries for a proxy until `bytes` are used up, and returns what is left of them.
    pub(crate) fn deliveries(
        &mut self,
        proxy: ProxyId,
        bytes: usize,
        into: &mut Vec<Delivery>,
    ) -> usize {
        let mut left = bytes;
        while left > 0 {
            let Some((id, session)) = self.turns.pop(proxy) else { break };
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let Some(member) = group.members.get_mut(&session) else { continue };
            member.turn = None;
            for _ in 0..TURN {
                let Some(delivery) = member.pop(id, session) else { break };
                left = left.saturating_sub(DELIVERY + rows::message_bytes(&delivery.message));
                into.push(delivery);
                if left == 0 {
                    break;
                }
            }
            if member.is_ready() {
                self.turns.push(id, session, member);
            }
            if member.rank.is_none() && member.has_credit() {
                group.rank(session);
                self.hungry.insert(id);
            }
        }
        left
    }

    /// Groups.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Messages in their queues, and what those count for, in bytes.
    pub(crate) fn queued(&self) -> (u64, u64) {
        let queues = self.groups.values().map(|group| (group.queue.count, group.queue.bytes));
        queues.fold((0, 0), |sum, queue| (sum.0 + queue.0, sum.1 + queue.1))
    }

    fn connect(&mut self, id: GroupId, connection: changes::Member, call: &mut Call<'_>) {
        self.forget_turn(id, connection.session, Some(connection));
        self.with(id, call, |group, cx| group.connect(connection, cx));
    }

    fn disconnect(&mut self, id: GroupId, session: SessionId, call: &mut Call<'_>) {
        self.forget_turn(id, session, None);
        self.with(id, call, |group, cx| group.disconnect(session, cx));
    }

    /// Takes a member out of the queue of its proxy, unless it is to stay there.
    fn forget_turn(&mut self, id: GroupId, session: SessionId, new: Option<changes::Member>) {
        let group = self.groups.get_mut(&id);
        let Some(member) = group.and_then(|group| group.members.get_mut(&session)) else { return };
        if member.connection != new {
            self.turns.remove(member);
        }
    }

    fn dismiss(&mut self, id: GroupId, session: SessionId, call: &mut Call<'_>) {
        let Some(group) = self.groups.get(&id) else { return };
        if !group.members.contains_key(&session) {
            return;
        }
        self.forget_turn(id, session, None);
        if let Some(groups) = self.sessions.get_mut(&session) {
            groups.retain(|group| *group != id);
            if groups.is_empty() {
                self.sessions.remove(&session);
            }
        }
        let key = rows::place_key(id.0, session.0).to_vec();
        call.changes.batch.delete(Table::Member, key);
        let partition = self.partition;
        self.with(id, call, |group, cx| {
            let before = group.qos;
            group.dismiss(session, cx);
            requalify(partition, group, before, cx.changes);
            group.pump(cx);
        });
        let is_empty = self.groups.get(&id).is_some_and(|group| group.members.is_empty());
        if is_empty && self.config.when_empty == WhenEmpty::Drop {
            self.remove(id, call.changes);
        }
    }

    fn remove(&mut self, id: GroupId, changes: &mut Changes) {
        let Some(mut group) = self.groups.remove(&id) else { return };
        self.filters.remove(group.filter.as_byte_string());
        self.index.remove(&group.filter, &id);
        self.hungry.remove(&id);
        self.full -= usize::from(group.fill == Fill::Full);
        changes.unwant(self.partition, &plain(&group.filter), group.qos);
        changes.drop(DropReason::Ended, group.queue.count);
        let key = rows::owner_key(id.0).to_vec();
        if group.queue.count == 0 {
            changes.batch.delete(Table::Group, key);
        } else {
            let row = group.row(GroupState::Dying);
            self.doomed.push((id, row.floor));
            changes.batch.put(Table::Group, key, row.encode());
        }
    }

    /// The group with this filter, which is made if there is none.
    fn group_for(&mut self, filter: &TopicFilter, changes: &mut Changes) -> GroupId {
        if let Some(id) = self.filters.get(filter.as_byte_string()) {
            return *id;
        }
        let id = GroupId::new(self.partition, self.next);
        self.next += 1;
        let key = rows::owner_key(self.numbers().0).to_vec();
        changes.batch.put(Table::Group, key, rows::encode_number(self.next));
        let group = Group::new(id, filter.detached(), self.config.strategy);
        changes.want(self.partition, &plain(&group.filter), group.qos);
        self.insert(group);
        self.dirty.push(id);
        id
    }

    fn insert(&mut self, mut group: Group) {
        note_full(&mut group, &self.limits, &mut self.full);
        self.filters.insert(group.filter.as_byte_string().clone(), group.id);
        self.index.insert(&group.filter, group.id, ());
        self.groups.insert(group.id, group);
    }

    /// Under the number that no group has stands that of the next group.
    fn numbers(&self) -> GroupId {
        GroupId::new(self.partition, 0)
    }

    fn pump(&mut self, id: GroupId, call: &mut Call<'_>) {
        self.with(id, call, |group, cx| group.pump(cx));
    }

    /// Changes one group, and notes what follows.
    fn with(
        &mut self,
        id: GroupId,
        call: &mut Call<'_>,
        change: impl FnOnce(&mut Group, &mut Context<'_>),
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let was_dirty = group.dirty;
        let (limits, now) = (self.limits, call.now);
        let touched = &mut self.touched;
        change(group, &mut Context { limits, now, changes: call.changes, touched });
        if group.dirty == Dirty::Yes && was_dirty == Dirty::No {
            self.dirty.push(id);
        }
        if group.is_hungry(&self.limits) {
            self.hungry.insert(id);
        }
        note_full(group, &self.limits, &mut self.full);
    }
}

/// Tells of another QoS.
fn requalify(partition: PartitionId, group: &mut Group, before: QoS, changes: &mut Changes) {
    if group.qos != before {
        let filter = plain(&group.filter);
        changes.want(partition, &filter, group.qos);
        changes.unwant(partition, &filter, before);
        group.dirty = Dirty::Yes;
    }
}

/// Counts queues that are full.
fn note_full(group: &mut Group, limits: &QueueLimits, full: &mut usize) {
    let now = if group.queue.is_full(limits) { Fill::Full } else { Fill::Room };
    match (std::mem::replace(&mut group.fill, now), now) {
        (Fill::Room, Fill::Full) => *full += 1,
        (Fill::Full, Fill::Room) => *full -= 1,
        (Fill::Room, Fill::Room) | (Fill::Full, Fill::Full) => {}
    }
}

/// Without `$share/{name}/`.
fn plain(filter: &TopicFilter) -> TopicFilter {
    TopicFilter::new(filter.filter()).expect("what is shared is a filter")
}

#[cfg(test)]
mod tests;
