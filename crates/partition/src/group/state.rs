//! One group: who gets which message.
//!
//! Owns members and queue. Invariant: a message waits only while no member that may have it has credit; one
//! at QoS 2 that a clean session may have had goes to nobody else `[MQTT-4.8.2-5]`; one at QoS 1 that a member did
//! not confirm goes back to its place when the member leaves. Decides by its state and what comes in.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_codec::{QoS, TopicFilter};

use super::member::{Given, Member, Noted, Taken};
use super::queue::{Claim, ClaimState, Queue, Waiting};
use super::row::{GroupRow, GroupState, MemberRow, Queued};
use super::strategy::{self, Ranks};
use crate::changes::{self, Changes, Internal};
use crate::config::{GroupStrategy, QueueLimits, WhenFull};
use crate::id::{GroupId, SessionId, UnixMillis};
use crate::row::{self, EntryHead};
use crate::stats::DropReason;
use crate::store::Table;

/// Deleted messages after which the floor is looked for again.
const FLOOR_AFTER: u32 = 1024;

/// What comes along with each call.
pub(crate) struct Context<'a> {
    pub(crate) limits: QueueLimits,
    pub(crate) now: UnixMillis,
    pub(crate) changes: &'a mut Changes,
    /// Members with something for the next commit.
    pub(crate) touched: &'a mut Vec<(GroupId, SessionId)>,
}

/// Whether a message has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    No,
    Yes,
}

/// Whether the row of a group is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dirty {
    No,
    Yes,
}

/// Whether a queue has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Room,
    Full,
}

/// A shared group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) filter: TopicFilter,
    strategy: GroupStrategy,
    /// The highest of all members; of the last one when there is none.
    pub(crate) qos: QoS,
    /// Members by QoS.
    by_qos: [usize; 3],
    pub(crate) members: BTreeMap<SessionId, Member>,
    /// Members with credit.
    ranks: Ranks,
    /// Messages given out.
    served: u64,
    pub(crate) queue: Queue,
    pub(crate) dirty: Dirty,
    /// As it was counted last.
    pub(crate) fill: Fill,
    /// Messages deleted since the floor was looked for.
    deleted: u32,
}

impl Group {
    pub(crate) fn new(id: GroupId, filter: TopicFilter, strategy: GroupStrategy) -> Self {
        Self {
            id,
            filter,
            strategy,
            qos: QoS::AtMostOnce,
            by_qos: [0; 3],
            members: BTreeMap::new(),
            ranks: Ranks::default(),
            served: 0,
            queue: Queue::new(1, 1),
            dirty: Dirty::Yes,
            fill: Fill::Room,
            deleted: 0,
        }
    }

    /// One as its row says, without members.
    pub(crate) fn restore(id: GroupId, row: GroupRow, strategy: GroupStrategy) -> Self {
        let mut queue = Queue::new(row.floor, row.next);
        (queue.count, queue.bytes) = (row.count, row.bytes);
        let new = Self::new(id, row.filter, strategy);
        Self { qos: row.qos, queue, dirty: Dirty::No, ..new }
    }

    /// Takes in a member, or changes its options.
    pub(crate) fn admit(&mut self, session: SessionId, row: MemberRow) {
        self.by_qos[row.options.qos as usize] += 1;
        if let Some(member) = self.members.get_mut(&session) {
            let before = std::mem::replace(&mut member.row, row);
            self.by_qos[before.options.qos as usize] -= 1;
        } else {
            self.members.insert(session, Member::new(row));
        }
        self.update_qos();
    }

    fn update_qos(&mut self) {
        let levels = [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce];
        if let Some(qos) = levels.into_iter().find(|qos| self.by_qos[*qos as usize] > 0) {
            self.qos = qos;
        }
    }

    /// A message for one of the members.
    pub(crate) fn publish(&mut self, queued: Queued, cx: &mut Context<'_>) {
        if queued.message.qos.min(self.qos) == QoS::AtMostOnce {
            return self.give_fleeting(queued, cx);
        }
        if self.queue.is_full(&cx.limits) && !self.make_room(cx) {
            return cx.changes.drop(DropReason::GroupFull, 1);
        }
        let loaded = self.queue.is_loaded();
        let place = self.queue.next;
        self.queue.next += 1;
        let target = self.target(&queued);
        if loaded && let Some(session) = self.choose(&queued, target) {
            self.queue.loaded = place;
            return self.give((place, queued), session, Stored::No, cx);
        }
        self.store(place, &queued, None, Stored::No, cx);
        if loaded && self.queue.has_room() {
            self.queue.loaded = place;
            self.wait(place, queued, target);
        }
    }

    /// Gives what nobody keeps to somebody who is there.
    fn give_fleeting(&mut self, queued: Queued, cx: &mut Context<'_>) {
        let has_room =
            |session: &SessionId| self.members.get(session).is_some_and(Member::has_room);
        let target = self.target(&queued).filter(has_room);
        let chosen = target.or_else(|| self.ranks.choose(self.strategy, &queued)).or_else(|| {
            let rooms = self.members.iter().filter(|(_, member)| member.has_room());
            rooms.min_by_key(|(_, member)| member.served).map(|(session, _)| *session)
        });
        let Some(session) = chosen else {
            let is_there = self.members.values().any(|member| member.connection.is_some());
            let reason = if is_there { DropReason::QoS0Full } else { DropReason::NoMember };
            return cx.changes.drop(reason, 1);
        };
        self.served += 1;
        if let Some(member) = self.members.get_mut(&session) {
            member.served = self.served;
            member.push_fleeting(queued);
            note(self.id, session, member, cx);
        }
        self.rank(session);
    }

    /// Drops the oldest messages that nobody was given, if that is the policy.
    fn make_room(&mut self, cx: &mut Context<'_>) -> bool {
        match cx.limits.when_full {
            WhenFull::RejectNew | WhenFull::DropNewest => return false,
            WhenFull::DropOldest => {}
        }
        while self.queue.is_full(&cx.limits) {
            let Some((place, _)) = self.queue.first() else { return false };
            let Some(queued) = self.take_waiting(place) else { return false };
            self.delete(place, &queued, Stored::Yes, cx);
            cx.changes.drop(DropReason::GroupFull, 1);
        }
        true
    }

    /// The only member that is to get a message, by a strategy that says so.
    fn target(&self, queued: &Queued) -> Option<SessionId> {
        let key = strategy::key(self.strategy, queued)?;
        let there = self.members.iter().filter(|(_, member)| member.connection.is_some());
        there.map(|(session, _)| *session).max_by_key(|session| strategy::score(key, *session))
    }

    /// Who gets a message now.
    fn choose(&self, queued: &Queued, target: Option<SessionId>) -> Option<SessionId> {
        let Some(session) = target else {
            return self.ranks.choose(self.strategy, queued);
        };
        let member = self.members.get(&session)?;
        (member.has_credit() && member.reserved.is_empty()).then_some(session)
    }

    fn wait(&mut self, place: u64, queued: Queued, target: Option<SessionId>) {
        if let Some(member) = target.and_then(|session| self.members.get_mut(&session)) {
            member.reserved.insert(place);
        }
        self.queue.insert(place, Waiting { queued, reserved_for: target });
    }

    fn take_waiting(&mut self, place: u64) -> Option<Queued> {
        let Waiting { queued, reserved_for } = self.queue.take(place)?;
        if let Some(member) = reserved_for.and_then(|session| self.members.get_mut(&session)) {
            member.reserved.remove(&place);
        }
        Some(queued)
    }

    fn give(
        &mut self,
        (place, queued): (u64, Queued),
        session: SessionId,
        stored: Stored,
        cx: &mut Context<'_>,
    ) {
        let Some(member) = self.members.get(&session) else { return };
        let qos = queued.message.qos.min(member.row.options.qos);
        let moves = qos == QoS::ExactlyOnce && member.is_persistent();
        match qos {
            QoS::AtMostOnce => self.delete(place, &queued, stored, cx),
            QoS::ExactlyOnce if moves => self.delete(place, &queued, stored, cx),
            // Only this session may have it from now on, also after a restart.
            QoS::ExactlyOnce => self.store(place, &queued, Some(session), stored, cx),
            QoS::AtLeastOnce if stored == Stored::No => {
                self.store(place, &queued, None, stored, cx);
            }
            QoS::AtLeastOnce => {}
        }
        self.served += 1;
        let Some(member) = self.members.get_mut(&session) else { return };
        member.served = self.served;
        if moves {
            move_to(session, member, queued, cx.changes);
        } else {
            match qos {
                QoS::AtMostOnce => member.push_fleeting(queued),
                QoS::AtLeastOnce | QoS::ExactlyOnce => {
                    member.push(place, Given { queued, qos, taken: Taken::No });
                }
            }
            note(self.id, session, member, cx);
        }
        self.rank(session);
    }

    /// The member's own confirmations. Late ones and repetitions change nothing.
    pub(crate) fn confirm(&mut self, session: SessionId, places: &[u64], cx: &mut Context<'_>) {
        for place in places {
            let confirmed =
                self.members.get_mut(&session).and_then(|member| member.confirm(*place));
            if let Some(given) = confirmed {
                self.delete(*place, &given.queued, Stored::Yes, cx);
            } else if let Some(claim) = self.queue.claims.get_mut(place)
                && claim.session == session
            {
                claim.state = ClaimState::Confirmed;
            }
        }
        self.rank(session);
        self.pump_for(session, cx);
    }

    /// Gives messages to whoever may have some.
    pub(crate) fn pump(&mut self, cx: &mut Context<'_>) {
        if !strategy::reserves(self.strategy) {
            return self.pump_in_order(cx);
        }
        let sessions: Vec<SessionId> = self.ranks.iter().collect();
        for session in sessions {
            self.pump_reserved(session, cx);
        }
    }

    /// As [`pump`](Self::pump), when only this member has got credit.
    pub(crate) fn pump_for(&mut self, session: SessionId, cx: &mut Context<'_>) {
        if strategy::reserves(self.strategy) {
            self.pump_reserved(session, cx);
        } else {
            self.pump_in_order(cx);
        }
    }

    fn pump_in_order(&mut self, cx: &mut Context<'_>) {
        while let Some((place, waiting)) = self.queue.first() {
            let Some(session) = self.ranks.choose(self.strategy, &waiting.queued) else { return };
            self.give_waiting(place, session, cx);
        }
    }

    fn pump_reserved(&mut self, session: SessionId, cx: &mut Context<'_>) {
        while let Some(member) = self.members.get(&session).filter(|member| member.has_credit()) {
            // When all that is in memory waits for others, the queue must go on nevertheless.
            let other = || self.queue.first().filter(|_| !self.queue.has_room());
            let own = member.reserved.first().copied();
            let Some(place) = own.or_else(|| other().map(|(place, _)| place)) else { return };
            self.give_waiting(place, session, cx);
        }
    }

    fn give_waiting(&mut self, place: u64, session: SessionId, cx: &mut Context<'_>) {
        let Some(queued) = self.take_waiting(place) else { return };
        if queued.is_over(cx.now) {
            self.delete(place, &queued, Stored::Yes, cx);
            return cx.changes.drop(DropReason::Expired, 1);
        }
        self.give((place, queued), session, Stored::Yes, cx);
    }

    /// A member has a connection. One that goes on says by [`arrived`](Self::arrived) what it has.
    pub(crate) fn connect(&mut self, connection: changes::Member, cx: &mut Context<'_>) {
        let session = connection.session;
        let Some(member) = self.members.get(&session) else { return };
        let goes_on = member.connection.as_ref().is_some_and(|old| old.epoch == connection.epoch);
        if !goes_on && member.connection.is_some() {
            self.disconnect(session, cx);
        }
        let Some(member) = self.members.get_mut(&session) else { return };
        member.connection = Some(connection);
        if !goes_on {
            member.moved = 0;
            member.send_again(&BTreeSet::new());
            note(self.id, session, member, cx);
            self.reserve_for(session);
        }
        self.rank(session);
    }

    /// What a connection has that went on while the stream to its proxy was broken. All else is sent again.
    pub(crate) fn arrived(&mut self, session: SessionId, arrived: &[u64], cx: &mut Context<'_>) {
        for place in arrived {
            self.claim(*place, session, cx);
        }
        let Some(member) = self.members.get_mut(&session) else { return };
        member.send_again(&arrived.iter().copied().collect());
        note(self.id, session, member, cx);
        self.rank(session);
    }

    fn claim(&mut self, place: u64, session: SessionId, cx: &mut Context<'_>) {
        if self.queue.loaded < place && place < self.queue.next {
            let claim = Claim { session, state: ClaimState::Unconfirmed };
            self.queue.claims.entry(place).or_insert(claim);
        } else if let Some(queued) = self.take_waiting(place) {
            self.keep_for(place, queued, session, cx);
        }
    }

    /// Holds a message for a member that has it already.
    fn keep_for(&mut self, place: u64, queued: Queued, session: SessionId, cx: &mut Context<'_>) {
        let Some(qos) = self.members.get(&session).map(|member| member.row.options.qos) else {
            return self.requeue(place, queued);
        };
        let qos = qos.min(queued.message.qos).max(QoS::AtLeastOnce);
        if qos == QoS::ExactlyOnce {
            self.store(place, &queued, Some(session), Stored::Yes, cx);
        }
        if let Some(member) = self.members.get_mut(&session) {
            member.push(place, Given { queued, qos, taken: Taken::Yes });
        }
        self.rank(session);
    }

    /// A member has no connection. What it did not confirm goes to others, but for QoS 2.
    pub(crate) fn disconnect(&mut self, session: SessionId, cx: &mut Context<'_>) {
        let Some(member) = self.members.get_mut(&session) else { return };
        member.connection = None;
        cx.changes.drop(DropReason::NoMember, member.clear_ready());
        let back = member.take_back(|given| given.qos == QoS::ExactlyOnce);
        let reserved = std::mem::take(&mut member.reserved);
        self.rank(session);
        let is_free =
            |claim: &Claim| claim.session == session && claim.state == ClaimState::Unconfirmed;
        self.queue.claims.retain(|_, claim| !is_free(claim));
        for place in reserved {
            if let Some(Waiting { queued, .. }) = self.queue.take(place) {
                self.requeue(place, queued);
            }
        }
        for (place, given) in back {
            self.requeue(place, given.queued);
        }
    }

    fn requeue(&mut self, place: u64, queued: Queued) {
        let target = self.target(&queued);
        self.wait(place, queued, target);
    }

    /// A member is gone for good `[MQTT-4.8.2-5]`.
    pub(crate) fn dismiss(&mut self, session: SessionId, cx: &mut Context<'_>) {
        self.disconnect(session, cx);
        let Some(mut member) = self.members.remove(&session) else { return };
        self.by_qos[member.row.options.qos as usize] -= 1;
        self.update_qos();
        for (place, given) in member.take_back(|_| false) {
            if given.taken == Taken::No {
                self.store(place, &given.queued, None, Stored::Yes, cx);
                self.requeue(place, given.queued);
            } else {
                self.delete(place, &given.queued, Stored::Yes, cx);
                cx.changes.drop(DropReason::MemberGone, 1);
            }
        }
    }

    /// Has messages that wait for others wait for a new member, where it ranks higher.
    fn reserve_for(&mut self, session: SessionId) {
        let Some(member) = self.members.get_mut(&session) else { return };
        let mut moves = Vec::new();
        for (place, waiting) in &mut self.queue.window {
            let Some(key) = strategy::key(self.strategy, &waiting.queued) else { return };
            let other = waiting.reserved_for.map(|other| strategy::score(key, other));
            if other < Some(strategy::score(key, session)) {
                member.reserved.insert(*place);
                moves.push((*place, waiting.reserved_for.replace(session)));
            }
        }
        for (place, other) in moves {
            if let Some(member) = other.and_then(|other| self.members.get_mut(&other)) {
                member.reserved.remove(&place);
            }
        }
    }

    /// A member's own queue is short again.
    pub(crate) fn drained(&mut self, session: SessionId, cx: &mut Context<'_>) {
        if let Some(member) = self.members.get_mut(&session) {
            member.moved = 0;
        }
        self.rank(session);
        self.pump_for(session, cx);
    }

    /// Takes in a message from the store, in the order of places.
    pub(crate) fn load(
        &mut self,
        place: u64,
        (queued, only): (Queued, Option<SessionId>),
        cx: &mut Context<'_>,
    ) {
        self.queue.loaded = place;
        let claim = self.queue.claims.remove(&place);
        if claim.is_some_and(|claim| claim.state == ClaimState::Confirmed) {
            return self.delete(place, &queued, Stored::Yes, cx);
        }
        match (only, claim) {
            (Some(session), claim) => self.load_assigned(place, queued, (session, claim), cx),
            (None, _) if queued.is_over(cx.now) => {
                self.delete(place, &queued, Stored::Yes, cx);
                cx.changes.drop(DropReason::Expired, 1);
            }
            (None, Some(claim)) => self.keep_for(place, queued, claim.session, cx),
            (None, None) => self.requeue(place, queued),
        }
    }

    /// A QoS 2 message that one session may have had.
    fn load_assigned(
        &mut self,
        place: u64,
        queued: Queued,
        (session, claim): (SessionId, Option<Claim>),
        cx: &mut Context<'_>,
    ) {
        let persistent = self.members.get(&session).map(Member::is_persistent);
        if persistent != Some(false) {
            self.delete(place, &queued, Stored::Yes, cx);
        }
        let Some(member) = self.members.get_mut(&session) else {
            return cx.changes.drop(DropReason::MemberGone, 1);
        };
        if member.is_persistent() {
            return move_to(session, member, queued, cx.changes);
        }
        let has_it = claim.is_some_and(|claim| claim.session == session);
        let taken = if has_it { Taken::Yes } else { Taken::Again };
        member.push(place, Given { queued, qos: QoS::ExactlyOnce, taken });
        note(self.id, session, member, cx);
        self.rank(session);
    }

    /// Whether more is to be read from the store: for members with credit, or to make room for what is new.
    pub(crate) fn is_hungry(&self, limits: &QueueLimits) -> bool {
        let drops = limits.when_full == WhenFull::DropOldest && self.queue.is_full(limits);
        let wanted = drops || !self.ranks.is_empty() || !self.queue.claims.is_empty();
        wanted && !self.queue.is_loaded() && self.queue.runs_low()
    }

    /// Keeps the order of those with credit.
    pub(crate) fn rank(&mut self, session: SessionId) {
        if let Some(member) = self.members.get_mut(&session) {
            let rank = strategy::rank(self.strategy, member);
            self.ranks.replace(session, &mut member.rank, rank);
        }
    }

    fn store(
        &mut self,
        place: u64,
        queued: &Queued,
        only: Option<SessionId>,
        stored: Stored,
        cx: &mut Context<'_>,
    ) {
        if stored == Stored::No {
            self.queue.count_in(queued);
            self.dirty = Dirty::Yes;
        }
        let key = row::place_key(self.id.0, place).to_vec();
        cx.changes.batch.put(Table::GroupQueue, key, queued.encode(only));
    }

    fn delete(&mut self, place: u64, queued: &Queued, stored: Stored, cx: &mut Context<'_>) {
        if stored == Stored::Yes {
            self.queue.count_out(queued);
            self.dirty = Dirty::Yes;
            self.deleted += 1;
            let key = row::place_key(self.id.0, place).to_vec();
            cx.changes.batch.delete(Table::GroupQueue, key);
        }
    }

    /// What is to be written of the group itself.
    pub(crate) fn row(&mut self, state: GroupState) -> GroupRow {
        if self.queue.count == 0 {
            self.queue.floor = self.queue.next;
            self.deleted = 0;
        } else if self.deleted >= FLOOR_AFTER {
            self.queue.floor = self.lowest();
            self.deleted = 0;
        }
        let Queue { next, floor, count, bytes, .. } = self.queue;
        GroupRow { filter: self.filter.clone(), qos: self.qos, next, floor, count, bytes, state }
    }

    fn lowest(&self) -> u64 {
        let firsts = self.members.values().filter_map(|member| member.unconfirmed.keys().next());
        let first = firsts.chain(self.queue.window.keys().next()).min();
        first.copied().unwrap_or(self.queue.next).min(self.queue.loaded + 1)
    }
}

/// Hands a QoS 2 message to the queue of a member's session, which keeps it until it is done.
fn move_to(session: SessionId, member: &mut Member, queued: Queued, changes: &mut Changes) {
    member.moved = member.moved.saturating_add(1);
    let head = EntryHead {
        qos: QoS::ExactlyOnce,
        retain: member.retain_of(&queued),
        subscription_ids: member.subscription_ids(),
        expires_at: queued.expires_at,
    };
    let deliver = Internal::Deliver { session, head, message: queued.message };
    changes.forwards.push((session.partition(), deliver));
}

fn note(group: GroupId, session: SessionId, member: &mut Member, cx: &mut Context<'_>) {
    if member.noted == Noted::No {
        member.noted = Noted::Yes;
        cx.touched.push((group, session));
    }
}
