//! The end of connections and of sessions.
//!
//! Invariant: a session that is over is found by no client; what is left of it is its will until that
//! is fired, and its queue until that is deleted.

use std::sync::Arc;

use super::{Partition, delete};
use crate::changes::{Changes, DueWill, Internal, Stamp};
use crate::command::{Detach, Farewell, Withdraw};
use crate::id::{PartitionId, ProxyId, SessionId, UnixMillis};
use crate::row::{Grace, SessionKind, incoming_key, owner_key, place_key, text_key};
use crate::stats::DropReason;
use crate::store::Table;
use crate::will::{Due, session_end, will_due, will_key};

impl Partition {
    /// A connection is over.
    pub(crate) fn detach(&mut self, detach: Detach, stamp: Stamp, changes: &mut Changes) {
        let Some(session) = self.sessions.find(detach.session) else { return };
        if session.epoch == detach.epoch && session.holder.is_some() {
            self.leave(detach.session, detach.farewell, detach.expiry_secs, stamp, changes);
        }
    }

    /// A connection is over that may not know what it was given. What it changed of a session that was there before it
    /// is as it was, if it says so. A session that is older than it, and that it was to end, ends.
    pub(crate) fn withdraw(&mut self, withdraw: &Withdraw, stamp: Stamp, changes: &mut Changes) {
        let Some(id) = self.sessions.of_client(&withdraw.client) else { return };
        let Some(session) = self.sessions.find(id) else { return };
        if session.holder != Some(withdraw.holder) {
            if withdraw.clean_start.is_some_and(|began| session.attached_at < began) {
                self.displace(id, stamp, changes);
                self.end_earlier(&withdraw.client, stamp, changes);
            }
            return;
        }
        let before = if session.fresh { 0 } else { session.earlier_expiry_secs() };
        let expiry_secs = withdraw.expiry_secs.unwrap_or(before);
        self.leave(id, withdraw.farewell, expiry_secs, stamp, changes);
    }

    /// Ends some connections of a proxy's life that is over. Returns how many there were.
    pub(crate) fn leave_some(
        &mut self,
        proxy: ProxyId,
        most: usize,
        stamp: Stamp,
        changes: &mut Changes,
    ) -> usize {
        let some = self.sessions.some_of_proxy(proxy, most);
        for id in &some {
            let Some(session) = self.sessions.find(*id) else { continue };
            let expiry_secs = session.expiry_secs;
            self.leave(*id, Farewell::Abnormal, expiry_secs, stamp, changes);
        }
        some.len()
    }

    /// The connection of a session is over.
    pub(super) fn leave(
        &mut self,
        id: SessionId,
        farewell: Farewell,
        expiry_secs: u32,
        stamp: Stamp,
        changes: &mut Changes,
    ) {
        self.sessions.hold(id, None);
        let Some(session) = self.touch(id) else { return };
        let expiry_secs = if session.kind == SessionKind::Clean { 0 } else { expiry_secs };
        session.detached_at = stamp.now;
        session.expiry_secs = expiry_secs;
        session.forget_earlier_expiry();
        session.changed.row = true;
        session.fresh = false;
        // Says what was sent.
        session.changed.cursor |= session.changed.cursor_stored;
        if farewell == Farewell::Clean {
            session.take_will(); // [MQTT-3.14.4-3]
        } else if let Some(pending) = session.more.as_mut().and_then(|more| more.will.as_mut()) {
            let due = will_due(stamp.now, pending.will.delay_secs, expiry_secs, farewell);
            pending.due = Some(due);
            pending.grace = if farewell == Farewell::ProxyStops { Grace::Yes } else { Grace::No };
            self.timers.set(id, Due::Will, due);
        }
        if expiry_secs == 0 {
            self.end(id, stamp, changes);
            return;
        }
        if let Some(end) = session_end(stamp.now, expiry_secs) {
            self.timers.set(id, Due::End, end);
        }
        self.tell_groups(id, changes, |filter, session| Internal::MemberAway { filter, session });
        if let Some(session) = self.sessions.find_mut(id) {
            session.window = None;
            session.queue.tidy();
        }
    }

    /// A session is over `[MQTT-4.1.0-2]`. Its will, if it has one, is due.
    pub(super) fn end(&mut self, id: SessionId, stamp: Stamp, changes: &mut Changes) {
        if self.sessions.find(id).is_none_or(|session| session.kind == SessionKind::Dying) {
            return;
        }
        self.tell_groups(id, changes, |filter, session| Internal::LeaveGroup { filter, session });
        self.forget_subscriptions(id, changes);
        if self.touch(id).is_some_and(|session| session.kind == SessionKind::Persistent) {
            self.sessions.persistent -= 1;
        }
        let Some(session) = self.sessions.find_mut(id) else { return };
        session.kind = SessionKind::Dying;
        session.changed.row = true;
        if let Some(more) = &mut session.more {
            for (packet_id, _) in more.incoming.drain(..) {
                delete(changes, Table::Incoming, &incoming_key(id, packet_id));
            }
            for (number, _) in more.scans.drain(..) {
                delete(changes, Table::Scan, &place_key(id.0, number));
            }
        }
        session.tidy();
        changes.drop(DropReason::Ended, session.queue.len());
        self.totals.messages -= session.queue.len();
        self.totals.bytes -= session.queue.bytes();
        if std::mem::take(&mut session.changed.full) {
            self.full -= 1;
        }
        session.queue.end();
        session.window = None;
        self.make_will_due(id, stamp.now);
        self.dispose(id, changes);
    }

    /// The will of a session that is over is not put off any longer, unless the proxy stopped.
    fn make_will_due(&mut self, id: SessionId, now: UnixMillis) {
        self.timers.clear(id);
        let Some(session) = self.sessions.find_mut(id) else { return };
        let Some(pending) = session.more.as_mut().and_then(|more| more.will.as_mut()) else {
            return;
        };
        let due = pending.due.unwrap_or(now);
        let due = if pending.grace == Grace::Yes { due } else { due.min(now) };
        pending.due = Some(due);
        self.timers.set(id, Due::Will, due);
    }

    /// Deletes what is left of a session that is over, at once if that is little.
    fn dispose(&mut self, id: SessionId, changes: &mut Changes) {
        let Some(session) = self.sessions.find(id) else { return };
        if session.has_chunks() {
            self.dying.push_back(id);
        } else {
            self.finish(id, changes);
        }
    }

    /// Its queue is deleted: forgets a session that is over, unless its will is still to come.
    pub(super) fn finish(&mut self, id: SessionId, changes: &mut Changes) {
        let Some(session) = self.sessions.find_mut(id) else { return };
        if session.kind != SessionKind::Dying || session.has_chunks() {
            return;
        }
        session.changed.cursor = false;
        if std::mem::take(&mut session.changed.cursor_stored) {
            delete(changes, Table::Cursor, &owner_key(id.0));
        }
        if session.will().is_some() {
            return;
        }
        if session.changed.stored {
            delete(changes, Table::Session, &owner_key(id.0));
        }
        self.timers.clear(id);
        self.sessions.remove(id);
    }

    fn forget_subscriptions(&mut self, id: SessionId, changes: &mut Changes) {
        let Some(session) = self.sessions.find_mut(id) else { return };
        let stored = session.kind == SessionKind::Persistent;
        for subscription in std::mem::take(&mut session.subscriptions) {
            self.totals.subscriptions -= 1;
            if stored {
                let key = text_key(id.0, &subscription.filter);
                delete(changes, Table::Subscription, &key);
            }
            if subscription.is_shared() {
                continue;
            }
            let filter = subscription.filter();
            self.index.remove(&filter, &id.0);
            changes.unwant(self.id, &filter, subscription.options.qos);
        }
    }

    /// Tells the groups of a session's shared subscriptions.
    pub(super) fn tell_groups(
        &self,
        id: SessionId,
        changes: &mut Changes,
        tell: impl Fn(mqtt_codec::TopicFilter, SessionId) -> Internal,
    ) {
        let Some(session) = self.sessions.find(id) else { return };
        for subscription in session.subscriptions.iter().filter(|one| one.is_shared()) {
            let there = PartitionId::of_group(&subscription.filter, self.config.partitions);
            changes.forwards.push((there, tell(subscription.filter(), id)));
        }
    }

    /// The time of a will has come.
    pub(crate) fn fire(&mut self, id: SessionId, now: UnixMillis, changes: &mut Changes) {
        let Some(session) = self.touch(id) else { return };
        let Some(pending) = session.take_will() else { return };
        session.changed.row = true;
        let message = Arc::new(pending.will.message);
        changes.wills.push(DueWill {
            session: id,
            publisher: session.client_hash(),
            once: will_key(id, session.epoch),
            expires_at: message.expiry_secs.map(|seconds| now.after_secs(seconds)),
            message,
        });
        self.finish(id, changes);
    }

    /// The time of a session has come.
    pub(crate) fn expire(&mut self, id: SessionId, stamp: Stamp, changes: &mut Changes) {
        if self.sessions.find(id).is_some_and(|session| session.is_expired(stamp.now)) {
            self.totals.expired_sessions += 1;
            self.end(id, stamp, changes);
        }
    }
}
