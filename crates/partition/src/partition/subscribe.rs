//! Subscriptions of sessions, and the state of their incoming messages.

use mqtt_codec::{
    QoS, ReasonCode, RetainHandling, SubscriptionId, SubscriptionOptions, TopicFilter,
};

use super::flush::Left;
use super::{Partition, Terms, attach, delete, put};
use crate::changes::{Changes, Internal, JoinGroup, MemberKind, Stamp};
use crate::command::{Begin, Release, Subscribe, Taken, Unsubscribe};
use crate::effect::{Effect, Refusal};
use crate::id::{Epoch, PartitionId, RequestId, SessionId};
use crate::row::{
    Scan, SessionKind, encode_incoming, encode_subscription, incoming_key, place_key, text_key,
};
use crate::session::{Session, Subscription};
use crate::store::Table;

impl Partition {
    /// The session, if it is held under this epoch; else the request is refused.
    fn held(
        &self,
        (id, epoch): (SessionId, Epoch),
        request: RequestId,
        changes: &mut Changes,
    ) -> Option<&Session> {
        let session = self.sessions.find(id);
        let held = session.filter(|session| session.epoch == epoch && session.holder.is_some());
        if held.is_none() {
            changes.effects.push(Effect::Refused { request, refusal: Refusal::Fenced });
        }
        held
    }

    /// A SUBSCRIBE. Every filter has an answer of its own.
    pub(crate) fn subscribe(&mut self, subscribe: Subscribe, stamp: Stamp, changes: &mut Changes) {
        let Subscribe { request, session, epoch, filters, subscription_id } = subscribe;
        if self.held((session, epoch), request, changes).is_none() {
            return;
        }
        let reasons = filters
            .into_iter()
            .map(|(filter, options)| {
                if filter.share_name().is_some() {
                    self.join(session, &filter, options, subscription_id, changes)
                } else {
                    let terms = (options, subscription_id);
                    self.subscribe_one(session, &filter, terms, stamp, changes)
                }
            })
            .collect();
        changes.effects.push(Effect::Subscribed { request, reasons });
    }

    fn subscribe_one(
        &mut self,
        id: SessionId,
        filter: &TopicFilter,
        (options, subscription_id): (SubscriptionOptions, Option<SubscriptionId>),
        stamp: Stamp,
        changes: &mut Changes,
    ) -> ReasonCode {
        let Some(session) = self.sessions.find_mut(id) else {
            return ReasonCode::UnspecifiedError;
        };
        if session.kind != SessionKind::Persistent {
            // Those of clean sessions are at their proxy.
            return ReasonCode::ImplementationSpecificError;
        }
        let most = self.config.limits.subscriptions_per_session;
        let Ok(before) = note(session, filter, options, subscription_id, most) else {
            return ReasonCode::QuotaExceeded;
        };
        put(
            changes,
            Table::Subscription,
            &text_key(id.0, filter.as_str()),
            encode_subscription(options, subscription_id),
        );
        let terms = Terms {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            id: subscription_id,
        };
        self.index.insert(filter, id.0, terms);
        if before != Some(options.qos) {
            changes.want(self.id, filter, options.qos);
            if let Some(before) = before {
                changes.unwant(self.id, filter, before);
            }
        }
        if before.is_none() {
            self.totals.subscriptions += 1;
        }
        // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
        match options.retain_handling {
            RetainHandling::DoNotSend => {}
            RetainHandling::SendIfNew if before.is_some() => {}
            RetainHandling::SendIfNew | RetainHandling::Send => {
                let qos = options.qos;
                let (filter, after, since) = (filter.detached(), None, stamp.lsn);
                self.begin_scan(id, Scan { filter, qos, subscription_id, after, since }, changes);
            }
        }
        granted(options.qos)
    }

    /// A shared subscription: the group is wherever its filter says.
    pub(super) fn join(
        &mut self,
        id: SessionId,
        filter: &TopicFilter,
        options: SubscriptionOptions,
        subscription_id: Option<SubscriptionId>,
        changes: &mut Changes,
    ) -> ReasonCode {
        let Some(session) = self.sessions.find_mut(id) else {
            return ReasonCode::UnspecifiedError;
        };
        let most = self.config.limits.subscriptions_per_session;
        let Ok(before) = note(session, filter, options, subscription_id, most) else {
            return ReasonCode::QuotaExceeded;
        };
        let kind = match session.kind {
            SessionKind::Persistent => MemberKind::Persistent,
            SessionKind::Clean | SessionKind::Dying => MemberKind::Clean,
        };
        if kind == MemberKind::Persistent {
            let key = text_key(id.0, filter.as_str());
            put(changes, Table::Subscription, &key, encode_subscription(options, subscription_id));
        }
        let Some(member) = attach::member(session) else { return ReasonCode::UnspecifiedError };
        if before.is_none() {
            self.totals.subscriptions += 1;
        }
        let there = PartitionId::of_group(filter.as_str(), self.config.partitions);
        let filter = filter.detached();
        let join = JoinGroup { filter, session: id, kind, options, subscription_id, member };
        changes.forwards.push((there, Internal::JoinGroup(Box::new(join))));
        granted(options.qos)
    }

    fn begin_scan(&mut self, id: SessionId, scan: Scan, changes: &mut Changes) {
        self.end_scan(id, scan.filter.as_str(), changes);
        let number = self.numbers.take();
        put(changes, Table::Scan, &place_key(id.0, number), scan.encode());
        if let Some(session) = self.touch(id) {
            session.more().scans.push((number, scan));
        }
    }

    fn end_scan(&mut self, id: SessionId, filter: &str, changes: &mut Changes) {
        let Some(session) = self.sessions.find_mut(id) else { return };
        let Some(more) = &mut session.more else { return };
        let Some(at) = more.scans.iter().position(|(_, scan)| scan.filter.as_str() == filter)
        else {
            return;
        };
        let (number, _) = more.scans.remove(at);
        delete(changes, Table::Scan, &place_key(id.0, number));
        session.tidy();
    }

    /// The scan of retained messages that a session is to go on with, if it still may.
    pub(crate) fn next_scan(&mut self, id: SessionId) -> Option<(u64, Scan)> {
        let session = self.sessions.find_mut(id)?;
        let window = session.window.as_mut()?;
        window.scanning = false;
        let next = session.more.as_ref()?.scans.first().cloned();
        // Looked at once more, for the scans behind this one.
        self.touch(id);
        next
    }

    /// A scan has come to another topic, or to its end.
    pub(crate) fn move_scan(
        &mut self,
        id: SessionId,
        (number, scan): (u64, Scan),
        left: Left,
        changes: &mut Changes,
    ) {
        if left == Left::Nothing {
            return self.end_scan(id, scan.filter.as_str(), changes);
        }
        put(changes, Table::Scan, &place_key(id.0, number), scan.encode());
        let more = self.sessions.find_mut(id).and_then(|session| session.more.as_mut());
        if let Some(known) = more.and_then(|more| more.scans.first_mut()) {
            known.1 = scan;
        }
    }

    /// An UNSUBSCRIBE.
    pub(crate) fn unsubscribe(&mut self, unsubscribe: Unsubscribe, changes: &mut Changes) {
        let Unsubscribe { request, session, epoch, filters } = unsubscribe;
        if self.held((session, epoch), request, changes).is_none() {
            return;
        }
        let reasons =
            filters.iter().map(|filter| self.unsubscribe_one(session, filter, changes)).collect();
        changes.effects.push(Effect::Unsubscribed { request, reasons });
    }

    fn unsubscribe_one(
        &mut self,
        id: SessionId,
        filter: &TopicFilter,
        changes: &mut Changes,
    ) -> ReasonCode {
        let Some(session) = self.sessions.find_mut(id) else {
            return ReasonCode::NoSubscriptionExisted;
        };
        let known = session.subscriptions.iter().position(|one| &*one.filter == filter.as_str());
        let Some(at) = known else { return ReasonCode::NoSubscriptionExisted };
        let gone = session.subscriptions.swap_remove(at);
        if session.kind == SessionKind::Persistent {
            delete(changes, Table::Subscription, &text_key(id.0, filter.as_str()));
        }
        self.totals.subscriptions -= 1;
        if gone.is_shared() {
            let there = PartitionId::of_group(filter.as_str(), self.config.partitions);
            let leave = Internal::LeaveGroup { filter: filter.clone(), session: id };
            changes.forwards.push((there, leave));
        } else {
            self.index.remove(filter, &id.0);
            changes.unwant(self.id, filter, gone.options.qos);
            self.end_scan(id, filter.as_str(), changes);
        }
        ReasonCode::Success
    }

    /// A client begins a QoS 2 message.
    pub(crate) fn begin_incoming(&mut self, begin: Begin, changes: &mut Changes) {
        let Begin { request, session: id, epoch, packet_id, key } = begin;
        if self.held((id, epoch), request, changes).is_none() {
            return;
        }
        let Some(session) = self.sessions.find_mut(id) else { return };
        let persistent = session.kind == SessionKind::Persistent;
        let incoming = &mut session.more().incoming;
        let known = incoming.iter().position(|(known, _)| *known == packet_id.value());
        let begun = known.and_then(|at| incoming[at].1);
        if begun.is_none() {
            // One that was taken is known to its connection: this is another message.
            match known {
                Some(at) => incoming[at].1 = Some(key),
                None => incoming.push((packet_id.value(), Some(key))),
            }
            if persistent {
                let row = incoming_key(id, packet_id.value());
                put(changes, Table::Incoming, &row, encode_incoming(Some(key)));
            }
        }
        changes.effects.push(Effect::Begun { request, key: begun.unwrap_or(key) });
    }

    /// QoS 2 messages of a client are where they must be: they need their keys no more, which others keep for a
    /// while only, and are not published again.
    pub(crate) fn take_incoming(&mut self, taken: &Taken, changes: &mut Changes) {
        let found = self.sessions.find_mut(taken.session);
        let found = found.filter(|one| one.epoch == taken.epoch && one.holder.is_some());
        let Some(session) = found.filter(|one| one.kind == SessionKind::Persistent) else { return };
        let Some(more) = &mut session.more else { return };
        for packet_id in &taken.packet_ids {
            let incoming = more.incoming.iter_mut().find(|(id, _)| *id == packet_id.value());
            if let Some((packet_id, key)) = incoming
                && key.take().is_some()
            {
                let row = incoming_key(taken.session, *packet_id);
                put(changes, Table::Incoming, &row, encode_incoming(None));
            }
        }
    }

    /// A client's PUBREL. Answered also when there is nothing to release `[MQTT-4.3.3-11]`.
    pub(crate) fn release_incoming(&mut self, release: Release, changes: &mut Changes) {
        let Release { request, session: id, epoch, packet_id } = release;
        if self.held((id, epoch), request, changes).is_none() {
            return;
        }
        if let Some(session) = self.sessions.find_mut(id)
            && let Some(more) = &mut session.more
            && let Some(at) =
                more.incoming.iter().position(|(known, _)| *known == packet_id.value())
        {
            more.incoming.remove(at);
            session.tidy();
            delete(changes, Table::Incoming, &incoming_key(id, packet_id.value()));
        }
        changes.effects.push(Effect::Released { request });
    }
}

/// Enters a subscription of a session. The QoS it had before, if it was there; an error if there is no room.
fn note(
    session: &mut Session,
    filter: &TopicFilter,
    options: SubscriptionOptions,
    id: Option<SubscriptionId>,
    most: u32,
) -> Result<Option<QoS>, TooMany> {
    let known = session.subscriptions.iter_mut().find(|one| &*one.filter == filter.as_str());
    if let Some(known) = known {
        let before = known.options.qos;
        (known.options, known.id) = (options, id);
        return Ok(Some(before));
    }
    if session.subscriptions.len() >= most as usize {
        return Err(TooMany);
    }
    if session.subscriptions.is_empty() {
        session.subscriptions.reserve_exact(1);
    }
    session.subscriptions.push(Subscription { filter: filter.as_str().into(), options, id });
    Ok(None)
}

/// A session has as many subscriptions as it may have.
struct TooMany;

const fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
