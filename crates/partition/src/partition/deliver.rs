//! Messages out of the queues of sessions, and their confirmations.
//!
//! Invariant: a message is in flight only if it is committed, and not more of them than the client takes. One
//! that may have been sent before is sent again whatever its age `[MQTT-4.3.3-7]`.

use std::sync::Arc;

use mqtt_codec::{Message, QoS};
use smallvec::SmallVec;

use super::Partition;
use super::enqueue::{note_full, settle};
use super::flush::{Left, PageSize, chunks_from};
use crate::body::Bodies;
use crate::changes::{Changes, Internal};
use crate::command::Acknowledge;
use crate::effect::{Delivery, Effect};
use crate::id::{QueueSeq, SessionId, UnixMillis};
use crate::queue::Settled;
use crate::row::{Chunk, Content, EntryHead};
use crate::session::Session;
use crate::stats::DropReason;
use crate::store::{Store, StoreError, Table};
use crate::window::{Loaded, LoadedChunk};

/// Read at a time of one queue: what does not fit is read again.
const LOADED: PageSize = PageSize { rows: 256, bytes: 64 << 10 };

/// What was taken of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// All that may be sent now.
    All,
    /// There is more.
    Some,
}

impl Partition {
    /// Takes messages of one session, of about so many bytes.
    pub(crate) fn take(
        &mut self,
        id: SessionId,
        (budget, now): (&mut usize, UnixMillis),
        store: &dyn Store,
        changes: &mut Changes,
        into: &mut Vec<Delivery>,
    ) -> Result<Taken, StoreError> {
        let Some(session) = self.sessions.find_mut(id) else { return Ok(Taken::All) };
        take_qos0(session, budget, into);
        let taken = loop {
            if *budget == 0 && session.is_deliverable() {
                break Taken::Some;
            }
            match step(session, now, into) {
                Step::Sent(bytes) => *budget = budget.saturating_sub(bytes),
                Step::Skipped => {}
                Step::Expired(place) => {
                    settle(session, place, &mut self.totals);
                    note_full(session, self.config.limits.inbox, &mut self.full);
                    changes.drop(DropReason::Expired, 1);
                }
                Step::Load => load(session, &mut self.bodies, store)?,
                Step::Nothing => break Taken::All,
            }
        };
        if session.changed.cursor || session.is_owed() {
            Self::list(&mut self.changed, session);
        }
        if let Some(window) = &mut session.window {
            window.announced = taken == Taken::Some;
        }
        self.tell_drained(id, changes);
        Ok(taken)
    }

    /// Groups that have put something into a queue go on when it is short again.
    fn tell_drained(&mut self, id: SessionId, changes: &mut Changes) {
        let Some(session) = self.sessions.find_mut(id) else { return };
        if session.changed.fed && session.queue.len() <= u64::from(session.receive_maximum) / 2 {
            session.changed.fed = false;
            self.tell_groups(id, changes, |_, session| Internal::MemberDrained { session });
        }
    }

    /// The client confirms messages of its queue.
    pub(crate) fn acknowledge(&mut self, acknowledge: Acknowledge, changes: &mut Changes) {
        let Acknowledge { session: id, epoch, settled, received } = acknowledge;
        let Some(session) = self.sessions.find_mut(id) else { return };
        let Some(holder) = session.holder.filter(|_| session.epoch == epoch) else { return };
        for place in settled {
            if place.0 <= session.queue.sent() {
                settle(session, place.0, &mut self.totals);
            }
        }
        let mut messages = received;
        messages.retain(|place| place.0 <= session.queue.sent());
        for place in &messages {
            if session.queue.receive(place.0) == Settled::Now {
                session.changed.cursor = true;
            }
        }
        if !messages.is_empty() {
            changes.effects.push(Effect::Received { holder, session: id, messages });
        }
        note_full(session, self.config.limits.inbox, &mut self.full);
        Self::list(&mut self.changed, session);
        self.tell_drained(id, changes);
    }
}

/// What became of the next message.
enum Step {
    Sent(usize),
    /// The client has it.
    Skipped,
    Expired(u64),
    /// It is to be read first.
    Load,
    Nothing,
}

fn take_qos0(session: &mut Session, budget: &mut usize, into: &mut Vec<Delivery>) {
    let (Some(window), Some(holder)) = (&mut session.window, session.holder) else { return };
    while *budget > 0 {
        let Some((head, message)) = window.pop_qos0() else { return };
        *budget = budget.saturating_sub(crate::row::message_bytes(&message).max(1));
        let EntryHead { retain, subscription_ids, expires_at, .. } = head;
        into.push(Delivery {
            holder,
            session: session.id,
            seq: QueueSeq(0),
            group: None,
            dup: false,
            qos: QoS::AtMostOnce,
            retain,
            subscription_ids,
            message,
            expires_at,
        });
    }
}

fn step(session: &mut Session, now: UnixMillis, into: &mut Vec<Delivery>) -> Step {
    let (Some(window), Some(holder)) = (&session.window, session.holder) else {
        return Step::Nothing;
    };
    let Some(entry) = window.next() else {
        let load = window.loaded() < session.queue.committed()
            && window.may_send(session.receive_maximum, 0);
        return if load { Step::Load } else { Step::Nothing };
    };
    let place = entry.place;
    if place >= session.queue.committed() {
        return Step::Nothing;
    }
    let is_there = place <= window.arrived() || session.queue.is_received(place);
    if is_there {
        if let Some(window) = &mut session.window {
            window.send();
        }
        session.queue.send(place);
        return Step::Skipped;
    }
    if !session.may_send(window, entry) {
        return Step::Nothing;
    }
    let dup = place <= window.repeated();
    if !dup && entry.head.expires_at.is_some_and(|at| at <= now) {
        return Step::Expired(place);
    }
    if !session.queue.would_count_as_sent(place, session.receive_maximum) {
        // What is done in front of it is committed first.
        return Step::Nothing;
    }
    session.queue.send(place);
    let Some(entry) = session.window.as_mut().and_then(|window| window.send()) else {
        return Step::Nothing;
    };
    into.push(Delivery {
        holder,
        session: session.id,
        seq: QueueSeq(place),
        group: None,
        dup,
        qos: entry.head.qos,
        retain: entry.head.retain,
        subscription_ids: entry.head.subscription_ids.clone(),
        message: Arc::clone(&entry.message),
        expires_at: entry.head.expires_at,
    });
    Step::Sent(entry.weight as usize)
}

/// Reads some more of a queue, once all that was read is in flight or done.
fn load(session: &mut Session, bodies: &mut Bodies, store: &dyn Store) -> Result<(), StoreError> {
    let Some(window) = &mut session.window else { return Ok(()) };
    window.pass_done();
    // Rows that ended below the floor are deleted with the next commit.
    session.changed.cursor = true;
    let page = chunks_from(session.id, window.loaded(), LOADED, store)?;
    for (last, value) in page.rows {
        let mut of = SmallVec::new();
        for entry in Chunk::decode(&value)? {
            if let Content::Body(body) = &entry.content {
                of.push(*body);
            }
            if entry.place < window.loaded() || session.queue.is_done(entry.place) {
                continue;
            }
            if session.queue.is_waiting_between(window.loaded(), entry.place) {
                return Err(missing());
            }
            if !window.has_room(session.receive_maximum) {
                return Ok(());
            }
            let message = message_of(entry.content, bodies, store)?;
            window.push(Loaded::new(entry.place, entry.weight, entry.head, message));
        }
        window.skip_to(last + 1);
        window.push_chunk(LoadedChunk { last, bodies: of });
    }
    if page.left == Left::Nothing {
        if session.queue.is_waiting_between(window.loaded(), session.queue.committed()) {
            return Err(missing());
        }
        window.skip_to(session.queue.committed());
    }
    Ok(())
}

const fn missing() -> StoreError {
    StoreError::Damaged { table: Table::Inbox, what: "messages of a queue are missing" }
}

fn message_of(
    content: Content,
    bodies: &mut Bodies,
    store: &dyn Store,
) -> Result<Arc<Message>, StoreError> {
    match content {
        Content::Inline(message) => Ok(Arc::new(message)),
        Content::Body(body) => bodies.read(body, store),
    }
}
