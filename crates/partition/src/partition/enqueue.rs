//! Messages into the queues of sessions.
//!
//! Invariant: a session gets a message once, however many of its subscriptions match; a full queue has a
//! policy, and every message that is dropped is counted.

use std::sync::Arc;

use mqtt_codec::{Message, QoS, SubscriptionIds};

use super::{Partition, Recipient, Terms};
use crate::changes::Changes;
use crate::command::Publish;
use crate::config::{QueueLimits, WhenFull};
use crate::id::SessionId;
use crate::queue::Settled;
use crate::row::{Chunk, EntryHead, SessionKind, message_bytes};
use crate::session::{Pending, Session};
use crate::stats::DropReason;
use crate::window::Loaded;

/// Smaller messages are copied into each queue: a row for one costs more.
const LEAST_SHARED_BYTES: usize = 256;
/// What a message counts for beside its bytes.
pub(super) const OVERHEAD: u64 = 64;
/// Behind so many, a message in memory is copied out of the buffer it was read into.
const FEW_LOADED: usize = 64;

/// A message on its way into queues.
#[derive(Clone, Copy)]
struct Content<'a> {
    message: &'a Arc<Message>,
    weight: u64,
    /// Where it lies, if several queues get it.
    body: Option<u64>,
}

impl Partition {
    /// Puts a message into the queues of all sessions that want it.
    pub(super) fn enqueue_matches(&mut self, publish: &Publish, changes: &mut Changes) {
        if self.index.is_empty() {
            return;
        }
        self.match_sessions(publish);
        if self.matched.is_empty() {
            return;
        }
        let mut matched = std::mem::take(&mut self.matched);
        let message = &publish.message;
        let bytes = message_bytes(message);
        let mut content = Content { message, weight: bytes as u64 + OVERHEAD, body: None };
        let queued =
            |recipient: &&Recipient| recipient.terms.qos.min(message.qos) > QoS::AtMostOnce;
        if matched.len() > 1 && bytes >= LEAST_SHARED_BYTES {
            let queues = matched.iter().filter(queued).count() as u64;
            if queues > 1 {
                content.body = Some(self.numbers.take());
            }
        }
        let mut uses = 0;
        for recipient in matched.drain(..) {
            let head = head_for(&recipient, publish);
            let session = SessionId(recipient.session);
            if self.enqueue(session, head, content, changes) == Enqueued::Stored {
                uses += 1;
            }
        }
        if let Some(body) = content.body.filter(|_| uses > 0) {
            self.bodies.insert(body, message, uses, &mut changes.batch);
        }
        self.matched = matched;
    }

    /// Whether a retained message would not be dropped for want of room.
    pub(crate) fn has_room_for(&self, id: SessionId, qos: QoS) -> bool {
        let Some(session) = self.sessions.find(id) else { return false };
        if qos == QoS::AtMostOnce {
            return session.window.as_ref().is_some_and(|window| window.has_room_for_qos0());
        }
        !is_full(session, self.config.limits.inbox)
    }

    /// A message for one session: of a group, or a retained one.
    pub(crate) fn deliver(
        &mut self,
        session: SessionId,
        head: EntryHead,
        message: &Arc<Message>,
        changes: &mut Changes,
    ) {
        let weight = message_bytes(message) as u64 + OVERHEAD;
        self.enqueue(session, head, Content { message, weight, body: None }, changes);
    }

    /// Whether a queue that this message is for is full, and full queues refuse.
    pub(crate) fn would_refuse(&mut self, publish: &Publish) -> bool {
        if publish.message.qos == QoS::AtMostOnce {
            return false;
        }
        if self.full > 0 && self.config.limits.inbox.when_full == WhenFull::RejectNew {
            self.match_sessions(publish);
            let matched = std::mem::take(&mut self.matched);
            let full = matched.iter().any(|recipient| {
                let session = self.sessions.find(SessionId(recipient.session));
                recipient.terms.qos > QoS::AtMostOnce
                    && session.is_some_and(|session| session.changed.full)
            });
            self.matched = matched;
            if full {
                return true;
            }
        }
        self.groups.would_refuse(&publish.message.topic)
    }

    /// Fills `matched`: each session once.
    fn match_sessions(&mut self, publish: &Publish) {
        self.matched.clear();
        let (matched, sessions) = (&mut self.matched, &self.sessions);
        self.index.matches(&publish.message.topic, |session, terms| {
            // [MQTT-3.8.3-3]
            let own = terms.no_local
                && sessions
                    .find(SessionId(session))
                    .is_some_and(|session| session.client_hash() == publish.publisher);
            if !own {
                matched.push(Recipient { session, terms: *terms, more_ids: Vec::new() });
            }
        });
        if matched.len() > 1 {
            merge(matched);
        }
    }

    fn enqueue(
        &mut self,
        id: SessionId,
        head: EntryHead,
        content: Content<'_>,
        changes: &mut Changes,
    ) -> Enqueued {
        let Some(session) = self.sessions.find_mut(id) else { return Enqueued::Not };
        if session.kind != SessionKind::Persistent {
            return Enqueued::Not;
        }
        if head.qos == QoS::AtMostOnce {
            let Some(window) = &mut session.window else { return Enqueued::Not };
            if window.push_qos0(head, content.weight, Arc::clone(content.message)) {
                Self::list(&mut self.changed, session);
            } else {
                changes.drop(DropReason::QoS0Full, 1);
            }
            return Enqueued::Not;
        }
        let limits = self.config.limits.inbox;
        if is_full(session, limits) {
            let dropped = make_room(session, limits, &mut self.totals);
            changes.drop(DropReason::InboxFull, dropped);
            note_full(session, limits, &mut self.full);
            if dropped > 0 {
                Self::list(&mut self.changed, session);
            }
        }
        if is_full(session, limits) {
            changes.drop(DropReason::InboxFull, 1);
            return Enqueued::Not;
        }
        push(session, head, content);
        session.changed.cursor = true;
        self.totals.messages += 1;
        self.totals.bytes += content.weight;
        // Of a shared body a queue has but the number.
        let written = if content.body.is_some() { OVERHEAD } else { content.weight };
        changes.queued_bytes += written as usize;
        Self::list(&mut self.changed, session);
        note_full(session, self.config.limits.inbox, &mut self.full);
        Enqueued::Stored
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enqueued {
    /// It has a place in the queue.
    Stored,
    Not,
}

fn head_for(recipient: &Recipient, publish: &Publish) -> EntryHead {
    let Terms { qos, retain_as_published, id, .. } = recipient.terms;
    let mut subscription_ids: SubscriptionIds = id.into_iter().collect();
    subscription_ids.extend(recipient.more_ids.iter().copied());
    EntryHead {
        qos: qos.min(publish.message.qos), // [MQTT-3.8.4-8]
        retain: publish.message.retain && retain_as_published, // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        subscription_ids,
        expires_at: publish.expires_at,
    }
}

/// Makes one of all that are for the same session: with the highest QoS `[MQTT-3.3.4-2]` and the identifiers
/// of all `[MQTT-3.3.4-3]`.
fn merge(matched: &mut Vec<Recipient>) {
    matched.sort_by_key(|recipient| recipient.session);
    matched.dedup_by(|later, first| {
        let same = later.session == first.session;
        if same {
            first.terms.qos = first.terms.qos.max(later.terms.qos);
            first.terms.retain_as_published |= later.terms.retain_as_published;
            match first.terms.id {
                None => first.terms.id = later.terms.id,
                Some(_) => first.more_ids.extend(later.terms.id),
            }
        }
        same
    });
}

fn push(session: &mut Session, head: EntryHead, content: Content<'_>) {
    let Content { message, weight, body } = content;
    let place = session.queue.push(weight);
    let pending = session.pending.get_or_insert_with(|| {
        Box::new(Pending { chunk: Chunk::starting(place), last: place, bodies: Vec::new() })
    });
    pending.last = place;
    match body {
        None => pending.chunk.push_message(&head, weight, message),
        Some(body) => {
            pending.chunk.push_body(&head, weight, body);
            pending.bodies.push(body);
        }
    }
    let Some(window) = &mut session.window else { return };
    if window.loaded() == place && window.has_room(session.receive_maximum) {
        let message = if window.len() < FEW_LOADED {
            Arc::clone(message)
        } else {
            Arc::new(message.detached())
        };
        window.push(Loaded::new(place, weight, head, message));
    }
}

fn is_full(session: &Session, limits: QueueLimits) -> bool {
    session.queue.len() >= limits.messages || session.queue.bytes() >= limits.bytes
}

/// Keeps count of full queues.
pub(super) fn note_full(session: &mut Session, limits: QueueLimits, count: &mut u64) {
    let full = is_full(session, limits);
    if full != session.changed.full {
        session.changed.full = full;
        *count = if full { *count + 1 } else { *count - 1 };
    }
}

/// Drops the oldest messages that were not sent until there is room, if that is the policy. How many.
fn make_room(session: &mut Session, limits: QueueLimits, totals: &mut super::Totals) -> u64 {
    match limits.when_full {
        WhenFull::RejectNew | WhenFull::DropNewest => return 0,
        WhenFull::DropOldest => {}
    }
    let mut dropped = 0;
    while is_full(session, limits)
        && let Some(oldest) = session.queue.oldest_unsent()
        && settle(session, oldest, totals) == Settled::Now
    {
        dropped += 1;
    }
    dropped
}

/// A message of a queue is over.
pub(super) fn settle(session: &mut Session, place: u64, totals: &mut super::Totals) -> Settled {
    let weight = session.window.as_mut().and_then(|window| window.settle(place));
    let before = session.queue.bytes();
    let settled = session.queue.settle(place, weight);
    if settled == Settled::Now {
        totals.messages -= 1;
        totals.bytes -= before - session.queue.bytes();
        session.changed.cursor = true;
    }
    settled
}
