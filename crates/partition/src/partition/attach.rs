//! Connections take their sessions.
//!
//! Invariant: a session has one connection, the newer one wins, and each attachment has an epoch of its
//! own. Asking again with the same connection changes nothing and gives the same answer.

use mqtt_codec::{ClientId, PacketId, Will};

use super::{Partition, Whole};
use crate::changes::{Changes, Internal, Member, Stamp};
use crate::command::{Attach, Farewell, Reattach};
use crate::effect::{Attached, Effect, Refusal, Revocation};
use crate::id::{Epoch, GroupId, Holder, QueueSeq, RequestId, SessionId, UnixMillis};
use crate::row::{Grace, PendingWill, SessionKind};
use crate::session::{Changed, More, Session};
use crate::store::Room;
use crate::window::Window;

impl Partition {
    /// A client connects.
    pub(crate) fn attach(
        &mut self,
        mut attach: Attach,
        stamp: Stamp,
        whole: Whole,
        changes: &mut Changes,
    ) {
        let found = self.sessions.of_client(&attach.client);
        if let Some(id) = found
            && self.sessions.find(id).is_some_and(|session| session.holder == Some(attach.holder))
        {
            self.resume(id, QueueSeq(0), Vec::new(), changes);
            return self.answer(id, attach.request, changes);
        }
        let attached_at = self.attached_at(&attach.client);
        // In doubt the session stays: what it has may be acknowledged to publishers.
        if attach.began.is_some_and(|began| attached_at >= Some(began)) {
            let (request, refusal) = (attach.request, Refusal::Contested);
            return changes.effects.push(Effect::Refused { request, refusal });
        }
        attach.clean_start |= attach.promised > attached_at;
        if let Err(refusal) = self.admit(found, &attach, stamp.now, whole) {
            return changes.effects.push(Effect::Refused { request: attach.request, refusal });
        }
        if let Some(id) = found {
            self.displace(id, stamp, changes);
        }
        let kept = found.filter(|id| !attach.clean_start && self.goes_on(*id, stamp.now));
        let id = match kept {
            Some(id) => self.go_on(id, &attach, stamp, changes),
            None => {
                self.end_earlier(&attach.client, stamp, changes);
                let number = self.numbers.take();
                let id = SessionId::new(self.id, number);
                self.begin(id, Epoch(1), &attach, stamp);
                id
            }
        };
        self.answer(id, attach.request, changes);
    }

    /// A connection goes on after its stream was broken.
    pub(crate) fn reattach(&mut self, reattach: Reattach, stamp: Stamp, changes: &mut Changes) {
        let attach = &reattach.attach;
        let (id, request) = (reattach.session, attach.request);
        let found = self.sessions.find(id).filter(|session| {
            session.client == attach.client && session.kind != SessionKind::Dying
        });
        let Some(session) = found else { return self.recreate(reattach, stamp, changes) };
        // A holder is never given twice: one that has it need not have heard by which epoch.
        if session.holder == Some(attach.holder) {
            // Those of a clean session have no rows here.
            if session.kind == SessionKind::Clean {
                for (filter, options, subscription_id) in &reattach.groups {
                    self.join(id, filter, *options, *subscription_id, changes);
                }
            }
            self.resume(id, reattach.received_up_to, reattach.group_deliveries, changes);
        } else if session.epoch == reattach.epoch && self.goes_on(id, stamp.now) {
            let attached_at = session.attached_at;
            self.go_on(id, attach, stamp, changes);
            // The connection is the one it was.
            if let Some(session) = self.sessions.find_mut(id) {
                session.attached_at = attached_at;
            }
            self.resume(id, reattach.received_up_to, reattach.group_deliveries, changes);
        } else {
            return changes.effects.push(Effect::Refused { request, refusal: Refusal::Fenced });
        }
        self.answer(id, request, changes);
    }

    /// A clean session that is not known is made anew under the number that it had.
    fn recreate(&mut self, reattach: Reattach, stamp: Stamp, changes: &mut Changes) {
        let Reattach { attach, session: id, epoch, .. } = reattach;
        let newer = self.sessions.of_client(&attach.client);
        let newer = newer.and_then(|newer| self.sessions.find(newer));
        let is_free = newer.is_none_or(|newer| newer.kind == SessionKind::Dying)
            && self.sessions.find(id).is_none();
        if attach.expiry_secs > 0 || !is_free || id.partition() != self.id {
            let refusal = Refusal::Fenced;
            return changes.effects.push(Effect::Refused { request: attach.request, refusal });
        }
        self.numbers.skip(id.number() + 1);
        self.end_earlier(&attach.client, stamp, changes);
        self.begin(id, epoch, &attach, stamp);
        for (filter, options, subscription_id) in reattach.groups {
            self.join(id, &filter, options, subscription_id, changes);
        }
        let arrived = reattach.group_deliveries;
        self.resume(id, reattach.received_up_to, arrived, changes);
        self.answer(id, attach.request, changes);
    }

    /// Whether there is room for what this connection needs.
    fn admit(
        &self,
        found: Option<SessionId>,
        attach: &Attach,
        now: UnixMillis,
        whole: Whole,
    ) -> Result<(), Refusal> {
        let replaced = found.and_then(|id| self.sessions.find(id));
        let replaced = replaced.filter(|session| session.kind == SessionKind::Persistent);
        let goes_on = replaced.is_some_and(|session| {
            !attach.clean_start && (session.holder.is_some() || !session.is_expired(now))
        });
        if goes_on {
            return Ok(());
        }
        let persistent = attach.expiry_secs > 0;
        if persistent && replaced.is_none() && whole.sessions_left == 0 {
            return Err(Refusal::TooManySessions);
        }
        if (persistent || attach.will.is_some()) && whole.room == Room::Low {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// Ends the connection that has a session, if there is one `[MQTT-3.1.4-3]`.
    pub(super) fn displace(&mut self, id: SessionId, stamp: Stamp, changes: &mut Changes) {
        let Some(session) = self.sessions.find(id) else { return };
        let (epoch, expiry_secs) = (session.epoch, session.expiry_secs);
        let Some(holder) = session.holder else { return };
        let why = Revocation::TakenOver;
        changes.effects.push(Effect::Revoked { holder, session: id, epoch, why });
        self.leave(id, Farewell::Abnormal, expiry_secs, stamp, changes);
    }

    /// Whether a session without a connection can be gone on with.
    fn goes_on(&self, id: SessionId, now: UnixMillis) -> bool {
        self.sessions.find(id).is_some_and(|session| {
            session.kind == SessionKind::Persistent
                && session.holder.is_none()
                && !session.is_expired(now)
        })
    }

    /// Goes on with a session.
    fn go_on(
        &mut self,
        id: SessionId,
        attach: &Attach,
        stamp: Stamp,
        changes: &mut Changes,
    ) -> SessionId {
        let due = self.sessions.find(id).and_then(|session| session.will()?.due);
        if due.is_some_and(|due| due <= stamp.now) {
            self.fire(id, stamp.now, changes);
        }
        self.timers.clear(id);
        self.sessions.hold(id, Some(attach.holder));
        let Some(session) = self.touch(id) else { return id };
        session.epoch = Epoch(session.epoch.0 + 1);
        session.fresh = false;
        session.change_expiry(attach.expiry_secs);
        session.receive_maximum = attach.receive_maximum.max(1);
        session.take_will();
        session.set_will(attach.will.clone());
        session.attached_at = stamp.now;
        session.changed.row = true;
        session.window = Some(session.new_window());
        self.come_back(id, Vec::new(), changes);
        id
    }

    /// What is left of the client's earlier session ends.
    pub(super) fn end_earlier(&mut self, client: &ClientId, stamp: Stamp, changes: &mut Changes) {
        let Some(id) = self.sessions.of_client(client) else { return };
        let Some(session) = self.touch(id) else { return };
        // The client is back: the will that waited for that is called off.
        if session.will().is_some_and(|pending| pending.grace == Grace::Yes) {
            session.take_will();
            session.changed.row = true;
            self.timers.clear_will(id);
        }
        self.end(id, stamp, changes);
        self.finish(id, changes);
        self.sessions.forget_client(id);
    }

    /// Begins a session.
    fn begin(&mut self, id: SessionId, epoch: Epoch, attach: &Attach, stamp: Stamp) {
        let persistent = attach.expiry_secs > 0;
        // Of clients that were served before, the one that began last is to have the identifier. None of them has a
        // session that lasts: that of any other is not older than its answer.
        let began = attach.began.filter(|_| !persistent);
        let mut session = Session {
            id,
            client: attach.client.detached(),
            epoch,
            holder: Some(attach.holder),
            detached_at: stamp.now,
            attached_at: began.unwrap_or(stamp.now).min(stamp.now),
            expiry_secs: attach.expiry_secs,
            receive_maximum: attach.receive_maximum.max(1),
            kind: if persistent { SessionKind::Persistent } else { SessionKind::Clean },
            fresh: true,
            subscriptions: Vec::new(),
            queue: crate::queue::Queue::default(),
            more: None,
            window: None,
            pending: None,
            changed: Changed { row: true, ..Changed::default() },
        };
        session.set_will(attach.will.clone());
        if persistent {
            session.window = Some(session.new_window());
        }
        self.sessions.insert(session);
        self.touch(id);
    }

    /// The connection is the one it was: what it did not get is sent again.
    fn resume(
        &mut self,
        id: SessionId,
        received_up_to: QueueSeq,
        group_deliveries: Vec<(GroupId, QueueSeq)>,
        changes: &mut Changes,
    ) {
        let Some(session) = self.touch(id) else { return };
        let persistent = session.kind == SessionKind::Persistent;
        if persistent && session.window.is_none() {
            session.window = Some(session.new_window());
        }
        let arrived = received_up_to.0.min(session.queue.next() - 1);
        session.queue.send(arrived);
        if let Some(window) = &mut session.window {
            window.resume(arrived);
        }
        self.come_back(id, group_deliveries, changes);
    }

    /// Tells the session's groups that it has a connection.
    fn come_back(&self, id: SessionId, arrived: Vec<(GroupId, QueueSeq)>, changes: &mut Changes) {
        let Some(member) = self.sessions.find(id).and_then(member) else { return };
        self.tell_groups(id, changes, |filter, _| Internal::MemberBack {
            filter,
            member,
            arrived: arrived.clone(),
        });
    }

    fn answer(&self, id: SessionId, request: RequestId, changes: &mut Changes) {
        let Some(session) = self.sessions.find(id) else { return };
        let incoming = session.more.iter().flat_map(|more| &more.incoming);
        let incoming = incoming
            .filter_map(|(packet_id, key)| Some((PacketId::new(*packet_id)?, *key)))
            .collect();
        changes.effects.push(Effect::Attached(Box::new(Attached {
            request,
            session: id,
            epoch: session.epoch,
            session_present: !session.fresh,
            received: session.queue.received().iter().copied().map(QueueSeq).collect(),
            incoming,
        })));
    }

    /// When the newest connection was attached that the session of a client had. `None` if it has none.
    pub(crate) fn attached_at(&self, client: &ClientId) -> Option<UnixMillis> {
        let session = self.sessions.find(self.sessions.of_client(client)?)?;
        (session.kind != SessionKind::Dying).then_some(session.attached_at)
    }

    /// Who has the session of a client.
    pub(crate) fn holder_of(&self, client: &ClientId) -> Option<(Holder, SessionId, Epoch)> {
        let id = self.sessions.of_client(client)?;
        let session = self.sessions.find(id)?;
        Some((session.holder?, id, session.epoch))
    }
}

/// A session with a connection, as groups know it.
pub(super) fn member(session: &Session) -> Option<Member> {
    Some(Member {
        session: session.id,
        epoch: session.epoch,
        holder: session.holder?,
        receive_maximum: session.receive_maximum,
    })
}

impl Session {
    fn new_window(&self) -> Box<Window> {
        Box::new(Window::new(self.queue.swept(), self.queue.sent()))
    }

    fn set_will(&mut self, will: Option<Will>) {
        let Some(Will { message, delay_secs }) = will else { return };
        let will = Will { message: message.detached(), delay_secs };
        let pending = PendingWill { will, due: None, grace: Grace::No };
        let more: &mut More = self.more();
        more.will = Some(pending);
    }
}
