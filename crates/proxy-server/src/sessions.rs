//! Which client identifiers are in use on this proxy, and by whom.
//!
//! Invariant: an identifier has at most one connection here; a new one waits until the old one's task has given it
//! back `[MQTT-3.1.4-3]`. Of several that wait, the last to come is the heir, and the others give up. That an
//! identifier has one connection in the whole cluster is the store's work. The guard of a map entry is never held
//! across an await.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use mqtt_codec::{ClientId, ReasonCode, TopicFilter};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use crate::mailbox::{EndOrder, Mailbox, QueueLimits};
use crate::subscriptions::{SessionKey, Subscription};

/// How long a new connection waits for the old one of its client identifier to end.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(10);

/// Takeovers of one client identifier within [`CONTEST`]; after them each one has to wait.
const TAKEOVERS: u32 = 5;

/// See [`TAKEOVERS`].
const CONTEST: Duration = Duration::from_secs(10);

/// How long a connection waits whose client identifier changes hands too often: two clients with the same one must
/// not keep the cluster busy.
const CONTEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection as the rest of the proxy sees it.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    /// Its number in this process, never given twice.
    pub key: SessionKey,
    /// Whose it is.
    pub client_id: ClientId,
    /// What is on its way to it.
    pub mailbox: Arc<Mailbox>,
    /// What it is subscribed to here: nothing if its session is in the store.
    pub subscriptions: Mutex<BTreeMap<TopicFilter, Subscription>>,
}

/// Why a new connection does not get its client identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The old connection did not end in time.
    #[error("the earlier connection of this client did not end in time")]
    TakeoverTimeout,
    /// While it waited for an older connection to end, a newer one came.
    #[error("a later connection of this client came")]
    Superseded,
}

/// The place of a connection in the order in which connections came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrival(u64);

#[derive(Debug)]
struct Slot {
    handle: Arc<SessionHandle>,
    /// Of its connection.
    since: Arrival,
    /// The newest connection that waits for this one to end.
    heir: Option<Arrival>,
    /// Tells those who wait that this connection has ended or that there is another heir; made for the first of them.
    changed: Option<Arc<Notify>>,
}

impl Slot {
    fn new(handle: Arc<SessionHandle>, since: Arrival) -> Self {
        Self { handle, since, heir: None, changed: None }
    }

    /// Becomes ready with the next change.
    fn next_change(&mut self) -> OwnedNotified {
        Arc::clone(self.changed.get_or_insert_default()).notified_owned()
    }

    fn tell_change(&self) {
        if let Some(changed) = &self.changed {
            changed.notify_waiters();
        }
    }

    /// Makes the connection that came at `arrival` the heir, unless a later one is there.
    fn inherit(&mut self, arrival: Arrival) -> Result<(), OpenError> {
        if arrival < self.since || self.heir.is_some_and(|heir| arrival < heir) {
            return Err(OpenError::Superseded);
        }
        if self.heir.replace(arrival).is_some_and(|heir| heir < arrival) {
            // The heir so far learns that it is none any more.
            self.tell_change();
        }
        Ok(())
    }
}

/// How often an identifier has changed hands lately.
#[derive(Clone, Copy, Debug)]
struct Contest {
    takeovers: u32,
    since: Instant,
}

/// All connections of one proxy, by client identifier.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: DashMap<ClientId, Slot, foldhash::quality::RandomState>,
    /// Of identifiers that were taken over within the last [`CONTEST`]; cleared when there are [`CONTESTS`].
    contests: Mutex<HashMap<ClientId, Contest>>,
    /// Takeovers that had to wait.
    contested: AtomicU64,
    next_key: AtomicU64,
    next_arrival: AtomicU64,
    limits: QueueLimits,
}

/// Client identifiers whose takeovers are counted at a time.
const CONTESTS: usize = 4096;

enum Attempt {
    Opened(Arc<SessionHandle>),
    Busy(Arc<Mailbox>, OwnedNotified),
}

impl Sessions {
    /// No connections. Their queues will be limited by `limits`.
    #[must_use]
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            slots: DashMap::default(),
            contests: Mutex::default(),
            contested: AtomicU64::new(0),
            next_key: AtomicU64::new(1),
            next_arrival: AtomicU64::new(1),
            limits,
        }
    }

    /// Gives `client_id` to a new connection. An older connection is told to end with 0x8E, and waited for.
    pub(crate) async fn open(&self, client_id: &ClientId) -> Result<Arc<SessionHandle>, OpenError> {
        let arrival = Arrival(self.next_arrival.fetch_add(1, Ordering::Relaxed));
        let deadline = Instant::now() + TAKEOVER_PATIENCE;
        let mut order_at = None;
        loop {
            let (older, changed) = match self.attempt(client_id, arrival)? {
                Attempt::Opened(handle) => return Ok(handle),
                Attempt::Busy(mailbox, changed) => (mailbox, changed),
            };
            let now = Instant::now();
            let order_at = *order_at.get_or_insert_with(|| now + self.pause(client_id, now));
            if now < order_at {
                // Who comes meanwhile is the heir, and this one gives up at its next attempt.
                drop(tokio::time::timeout_at(order_at, changed).await);
                continue;
            }
            older.order(EndOrder(ReasonCode::SessionTakenOver));
            let waited = tokio::time::timeout_at(deadline, changed).await;
            waited.map_err(|_| OpenError::TakeoverTimeout)?;
        }
    }

    fn attempt(&self, client_id: &ClientId, arrival: Arrival) -> Result<Attempt, OpenError> {
        match self.slots.entry(client_id.clone()) {
            Entry::Vacant(vacant) => {
                let handle = self.new_handle(client_id);
                vacant.insert(Slot::new(Arc::clone(&handle), arrival));
                Ok(Attempt::Opened(handle))
            }
            Entry::Occupied(mut occupied) => {
                let slot = occupied.get_mut();
                slot.inherit(arrival)?;
                Ok(Attempt::Busy(Arc::clone(&slot.handle.mailbox), slot.next_change()))
            }
        }
    }

    /// Counts a takeover, and says how long it has to wait.
    fn pause(&self, client_id: &ClientId, now: Instant) -> Duration {
        let mut contests = self.contests.lock();
        if contests.len() >= CONTESTS {
            contests.retain(|_, contest| now < contest.since + CONTEST);
        }
        if contests.len() >= CONTESTS {
            contests.clear();
        }
        let fresh = Contest { takeovers: 0, since: now };
        let contest = contests.entry(client_id.clone()).or_insert(fresh);
        if now >= contest.since + CONTEST {
            *contest = fresh;
        }
        contest.takeovers += 1;
        if contest.takeovers <= TAKEOVERS {
            return Duration::ZERO;
        }
        self.contested.fetch_add(1, Ordering::Relaxed);
        CONTEST_PAUSE
    }

    fn new_handle(&self, client_id: &ClientId) -> Arc<SessionHandle> {
        Arc::new(SessionHandle {
            key: SessionKey(self.next_key.fetch_add(1, Ordering::Relaxed)),
            client_id: client_id.clone(),
            mailbox: Arc::new(Mailbox::new(self.limits)),
            subscriptions: Mutex::default(),
        })
    }

    /// The connection of `handle` ended.
    pub(crate) fn remove(&self, handle: &SessionHandle) {
        let is_it = |_: &ClientId, slot: &Slot| slot.handle.key == handle.key;
        if let Some((_, slot)) = self.slots.remove_if(&handle.client_id, is_it) {
            slot.tell_change();
        }
    }

    /// Tells every connection to end, the oldest first.
    pub(crate) fn order_all(&self, order: EndOrder) {
        let mut all: Vec<_> = self.slots.iter().map(|slot| Arc::clone(&slot.handle)).collect();
        all.sort_unstable_by_key(|handle| handle.key);
        for handle in all {
            handle.mailbox.order(order);
        }
    }

    /// Takeovers that had to wait, because there were too many of one identifier.
    #[must_use]
    pub(crate) fn contested(&self) -> u64 {
        self.contested.load(Ordering::Relaxed)
    }

    /// Connections with a client identifier.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests;
