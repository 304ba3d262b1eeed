//! When wills are due and sessions end, and the wills on their way to the relays.
//!
//! Owns the order in which the two happen, the pace of wills, and the rows of table `Outbox`. Invariant: a will
//! comes before the end of its session, an earlier one before a later one, and a will stays in the outbox
//! until the relays have taken it, so it is sent at least once; its key makes it one message. Does
//! not: read a clock, know clients, decide whether a will is called off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use mqtt_codec::Message;

use crate::command::Farewell;
use crate::effect::Effect;
use crate::id::{Epoch, Lsn, OnceKey, OutboxId, PartitionId, SessionId, UnixMillis};
use crate::row;
use crate::store::{Batch, StoreError, Table};

/// How long a client may take to connect elsewhere when its proxy stops, before its will is due.
const STOP_GRACE_MILLIS: u64 = 10_000;

/// Wills of one partition on their way. No other is fired meanwhile: the relays are away or slow.
const OUTBOX_LIMIT: usize = 1024;

/// Tells the keys of wills from other keys of an attachment.
const WILL_SALT: u64 = u64::from_be_bytes(*b"the will");

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// Its will. Comes first, should both be due at once.
    Will,
    /// Its end.
    End,
}

/// When the will of a connection that ended at `ended` is due `[MQTT-3.1.2-8]`: after its delay, or when the
/// session ends, whichever comes first.
pub(crate) fn will_due(
    ended: UnixMillis,
    delay_secs: u32,
    expiry_secs: u32,
    farewell: Farewell,
) -> UnixMillis {
    let due = ended.after_secs(delay_secs.min(expiry_secs));
    match farewell {
        Farewell::ProxyStops => due.max(UnixMillis(ended.0.saturating_add(STOP_GRACE_MILLIS))),
        Farewell::Clean | Farewell::Abnormal => due,
    }
}

/// When a session ends that nobody holds since `detached`; `None` for never.
pub(crate) fn session_end(detached: UnixMillis, expiry_secs: u32) -> Option<UnixMillis> {
    (expiry_secs != u32::MAX).then(|| detached.after_secs(expiry_secs))
}

/// The key of the will of one attachment.
pub(crate) fn will_key(session: SessionId, epoch: Epoch) -> OnceKey {
    OnceKey::derive(session, epoch, WILL_SALT)
}

/// What is to happen to the sessions of one partition, and when.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    order: BTreeSet<(UnixMillis, Due, SessionId)>,
    /// Of each session that waits for something.
    sessions: HashMap<SessionId, Waiting, foldhash::fast::RandomState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    will: Option<UnixMillis>,
    end: Option<UnixMillis>,
}

impl Waiting {
    fn slot(&mut self, due: Due) -> &mut Option<UnixMillis> {
        match due {
            Due::Will => &mut self.will,
            Due::End => &mut self.end,
        }
    }
}

impl Timers {
    /// Has `due` happen to `session` at `at`, instead of at any time set before. A will set to come after
    /// the end comes with the end.
    pub(crate) fn set(&mut self, session: SessionId, due: Due, at: UnixMillis) {
        let waiting = self.sessions.entry(session).or_default();
        if let Some(before) = waiting.slot(due).replace(at) {
            self.order.remove(&(before, due, session));
        }
        self.order.insert((at, due, session));
    }

    /// The session is held again, or over: nothing happens to it.
    pub(crate) fn clear(&mut self, session: SessionId) {
        if let Some(waiting) = self.sessions.remove(&session) {
            self.forget(session, Due::Will, waiting.will);
            self.forget(session, Due::End, waiting.end);
        }
    }

    /// The will is called off; the session still ends.
    pub(crate) fn clear_will(&mut self, session: SessionId) {
        let Some(waiting) = self.sessions.get_mut(&session) else { return };
        let will = waiting.will.take();
        if waiting.end.is_none() {
            self.sessions.remove(&session);
        }
        self.forget(session, Due::Will, will);
    }

    fn forget(&mut self, session: SessionId, due: Due, at: Option<UnixMillis>) {
        if let Some(at) = at {
            self.order.remove(&(at, due, session));
        }
    }

    /// What happens next, and when.
    pub(crate) fn next(&self) -> Option<(UnixMillis, Due, SessionId)> {
        self.order.first().copied()
    }

    /// Takes out what happens next, if its time has come.
    pub(crate) fn pop(&mut self, now: UnixMillis) -> Option<(Due, SessionId)> {
        let (at, due, session) = self.order.first().copied()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        if let Some(waiting) = self.sessions.get_mut(&session) {
            *waiting.slot(due) = None;
            if waiting.will.is_none() && waiting.end.is_none() {
                self.sessions.remove(&session);
            }
        }
        Some((due, session))
    }
}

/// How many wills may be fired now, over all partitions: a dead proxy's clients leave thousands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WillPace {
    per_second: u32,
    /// In thousandths of a will.
    saved: u64,
    at: UnixMillis,
}

/// The price of one will.
const WILL: u64 = 1000;

impl WillPace {
    /// A tenth of a second's wills may come at once.
    pub(crate) fn new(per_second: u32) -> Self {
        let mut pace = Self { per_second: per_second.max(1), saved: 0, at: UnixMillis(0) };
        pace.saved = pace.most();
        pace
    }

    fn most(&self) -> u64 {
        (u64::from(self.per_second) * WILL / 10).max(WILL)
    }

    /// Counts one will, if there may be one now.
    pub(crate) fn take(&mut self, now: UnixMillis) -> bool {
        let passed = now.0.saturating_sub(self.at.0);
        let earned = passed.saturating_mul(u64::from(self.per_second) * WILL / 1000);
        self.saved = self.saved.saturating_add(earned).min(self.most());
        self.at = self.at.max(now);
        let enough = self.saved >= WILL;
        if enough {
            self.saved -= WILL;
        }
        enough
    }

    /// When the next one may come, asked when [`take`](Self::take) said no.
    pub(crate) fn next(&self) -> UnixMillis {
        let missing = WILL.saturating_sub(self.saved);
        UnixMillis(self.at.0 + missing.div_ceil(u64::from(self.per_second) * WILL / 1000))
    }
}

/// Wills of one partition that are on their way to the relays.
#[derive(Debug)]
pub(crate) struct Outbox {
    partition: PartitionId,
    /// What was found at the start is kept until it is sent again.
    waiting: BTreeMap<u64, Option<Outgoing>>,
    next: u64,
}

/// A message for the relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) message: Arc<Message>,
    pub(crate) expires_at: Option<UnixMillis>,
    pub(crate) once: OnceKey,
}

impl Outbox {
    pub(crate) fn new(partition: PartitionId) -> Self {
        Self { partition, waiting: BTreeMap::new(), next: 0 }
    }

    /// Takes in a row of table `Outbox`.
    pub(crate) fn load(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let number = SessionId(row::owner_of(Table::Outbox, key)?).number();
        self.waiting.insert(number, Some(Outgoing::decode(value)?));
        self.next = self.next.max(number + 1);
        Ok(())
    }

    /// Sends again what was on its way when the store was closed. Once, after the last row.
    pub(crate) fn resend(&mut self, effects: &mut Vec<Effect>) {
        let partition = self.partition;
        for (number, waiting) in &mut self.waiting {
            let outgoing = waiting.take();
            effects.extend(outgoing.map(|outgoing| outgoing.effect(partition, *number)));
        }
    }

    /// Sends a message, and keeps it until the relays have taken it. Numbers follow those of the log, so none is
    /// given out again when the store is opened anew.
    pub(crate) fn send(
        &mut self,
        outgoing: Outgoing,
        lsn: Lsn,
        batch: &mut Batch,
        effects: &mut Vec<Effect>,
    ) {
        let number = self.next.max(lsn.0);
        self.next = number + 1;
        batch.put(Table::Outbox, self.key(number), outgoing.encode());
        self.waiting.insert(number, None);
        effects.push(outgoing.effect(self.partition, number));
    }

    /// The relays have taken it. Repetitions change nothing.
    pub(crate) fn sent(&mut self, id: OutboxId, batch: &mut Batch) {
        if id.partition == self.partition && self.waiting.remove(&id.number).is_some() {
            batch.delete(Table::Outbox, self.key(id.number));
        }
    }

    /// Whether no will is to be fired for now.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= OUTBOX_LIMIT
    }

    /// Wills on their way.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn key(&self, number: u64) -> Vec<u8> {
        row::number_key(self.partition, number).to_vec()
    }
}

impl Outgoing {
    fn effect(self, partition: PartitionId, number: u64) -> Effect {
        let Self { message, expires_at, once } = self;
        Effect::Send { id: OutboxId { partition, number }, message, expires_at, once }
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = row::begin(40 + row::message_bytes(&self.message));
        value.extend_from_slice(&self.once.0.to_be_bytes());
        row::put_moment(&mut value, self.expires_at);
        row::put_message(&mut value, &self.message);
        value
    }

    /// The value of a row of table `Outbox`.
    pub(crate) fn decode(value: &Bytes) -> Result<Self, StoreError> {
        row::decode(Table::Outbox, value, |from| {
            let once = OnceKey(row::take_u128(from)?);
            let expires_at = row::take_moment(from)?;
            Some(Self { once, expires_at, message: Arc::new(row::take_message(from)?) })
        })
    }
}

#[cfg(test)]
mod tests;
