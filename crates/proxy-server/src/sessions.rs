//! Which client identifiers are in use, and by whom; the sessions of clients that are away.
//!
//! Invariant: an identifier has at most one connection; a new one waits until the old one's task has handed its
//! session back `[MQTT-3.1.4-3]`. Of several that wait, the last to come is the heir, and the others give up.
//! There are never more sessions than the limit. The guard of a map entry is never held across an await.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use mqtt_codec::{ClientId, Message, ReasonCode, TopicFilter};
use mqtt_session::Session;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::mailbox::{EndOrder, Mailbox, QueueLimits};
use crate::subscriptions::{SessionKey, Subscription};

/// How long a new connection waits for the old one of its client identifier to end.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(10);

/// A session as the rest of the proxy sees it.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    /// Its number in this process.
    pub key: SessionKey,
    /// Whose it is.
    pub client_id: ClientId,
    /// What is on its way to it.
    pub mailbox: Arc<Mailbox>,
    /// What it is subscribed to.
    pub subscriptions: Mutex<HashMap<TopicFilter, Subscription>>,
}

/// A session handed to a new connection.
#[derive(Debug)]
pub(crate) struct OpenedSession {
    /// The session.
    pub handle: Arc<SessionHandle>,
    /// Its protocol state, if it was there before.
    pub resumed: Option<Session>,
    /// A session that had to end for this one.
    pub ended: Option<EndedSession>,
}

/// A session that is over, with what is left to do for it.
#[derive(Debug)]
pub(crate) struct EndedSession {
    /// The session.
    pub handle: Arc<SessionHandle>,
    /// A will that still waited for its delay.
    pub will: Option<Message>,
}

/// A session whose client is away.
#[derive(Debug)]
pub(crate) struct ParkedSession {
    /// The session.
    pub handle: Arc<SessionHandle>,
    /// Its protocol state.
    pub session: Session,
    /// Published when its delay has passed or the session ends.
    pub will: Option<Message>,
    /// Fires the will, then ends the session. Dropping it stops it.
    pub(crate) _timer: Option<AbortOnDropHandle<()>>,
}

/// Why a new connection gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The old connection did not end in time.
    #[error("the earlier connection of this client did not end in time")]
    TakeoverTimeout,
    /// While it waited for an older connection to end, a newer one came.
    #[error("a later connection of this client came")]
    Superseded,
    /// There are as many sessions as there may be.
    #[error("no room for another session")]
    Full,
}

/// Whether a new connection may go on with an earlier session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It ends it.
    Clean,
    /// It resumes it.
    Resume,
}

/// The place of a connection in the order in which connections came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrival(u64);

#[derive(Debug)]
enum Slot {
    Attached {
        handle: Arc<SessionHandle>,
        /// Of its connection.
        since: Arrival,
        /// The newest connection that waits for this one to end.
        heir: Option<Arrival>,
    },
    Parked(Box<ParkedSession>),
}

/// All sessions of one proxy.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: DashMap<ClientId, Slot, foldhash::quality::RandomState>,
    /// How many slots there are: the map itself cannot be counted while an entry of it is held.
    count: AtomicUsize,
    maximum: usize,
    /// Told when something has changed for those who wait for a connection to end.
    changed: Notify,
    next_key: AtomicU64,
    next_arrival: AtomicU64,
    attached_limits: QueueLimits,
}

enum Attempt {
    Opened(Box<OpenedSession>),
    Busy(Arc<Mailbox>),
}

impl Sessions {
    /// No sessions. There may be `maximum`, and their queues are limited by `attached_limits`.
    #[must_use]
    pub(crate) fn new(attached_limits: QueueLimits, maximum: usize) -> Self {
        Self {
            slots: DashMap::default(),
            count: AtomicUsize::new(0),
            maximum,
            changed: Notify::new(),
            next_key: AtomicU64::new(1),
            next_arrival: AtomicU64::new(1),
            attached_limits,
        }
    }

    /// Gives `client_id` to a new connection. An older connection is told to end with 0x8E, and waited for.
    /// A client whose session is there gets it however many there are.
    pub(crate) async fn open(
        &self,
        client_id: &ClientId,
        start: Start,
    ) -> Result<OpenedSession, OpenError> {
        let arrival = Arrival(self.next_arrival.fetch_add(1, Ordering::Relaxed));
        let deadline = Instant::now() + TAKEOVER_PATIENCE;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.attempt(client_id, start, arrival)? {
                Attempt::Opened(opened) => return Ok(*opened),
                Attempt::Busy(mailbox) => mailbox.order(EndOrder(ReasonCode::SessionTakenOver)),
            }
            let waited = tokio::time::timeout_at(deadline, changed).await;
            waited.map_err(|_| OpenError::TakeoverTimeout)?;
        }
    }

    fn attempt(
        &self,
        client_id: &ClientId,
        start: Start,
        arrival: Arrival,
    ) -> Result<Attempt, OpenError> {
        let attached = |handle: &Arc<_>| Slot::Attached {
            handle: Arc::clone(handle),
            since: arrival,
            heir: None,
        };
        match self.slots.entry(client_id.clone()) {
            Entry::Vacant(vacant) => {
                self.count_one()?;
                let handle = self.new_handle(client_id);
                vacant.insert(attached(&handle));
                let opened = OpenedSession { handle, resumed: None, ended: None };
                Ok(Attempt::Opened(Box::new(opened)))
            }
            Entry::Occupied(mut occupied) => {
                let handle = match (occupied.get_mut(), start) {
                    (Slot::Attached { handle, since, heir }, _) => {
                        self.inherit(*since, heir, arrival)?;
                        return Ok(Attempt::Busy(Arc::clone(&handle.mailbox)));
                    }
                    (Slot::Parked(parked), Start::Resume) => Arc::clone(&parked.handle),
                    (Slot::Parked(_), Start::Clean) => self.new_handle(client_id),
                };
                let old = occupied.insert(attached(&handle));
                Ok(Attempt::Opened(Box::new(self.reuse(old, handle, start))))
            }
        }
    }

    /// Makes the connection that came at `arrival` the heir of a slot, unless a later one is there.
    fn inherit(
        &self,
        since: Arrival,
        heir: &mut Option<Arrival>,
        arrival: Arrival,
    ) -> Result<(), OpenError> {
        if arrival < since || heir.is_some_and(|heir| arrival < heir) {
            return Err(OpenError::Superseded);
        }
        if heir.replace(arrival).is_some_and(|heir| heir < arrival) {
            // The heir so far learns that it is none any more.
            self.changed.notify_waiters();
        }
        Ok(())
    }

    fn count_one(&self) -> Result<(), OpenError> {
        let more = |count: usize| (count < self.maximum).then_some(count + 1);
        let counted = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map(drop).map_err(|_| OpenError::Full)
    }

    fn reuse(&self, old: Slot, handle: Arc<SessionHandle>, start: Start) -> OpenedSession {
        let Slot::Parked(parked) = old else {
            return OpenedSession { handle, resumed: None, ended: None };
        };
        match start {
            Start::Resume => {
                handle.mailbox.attach();
                OpenedSession { handle, resumed: Some(parked.session), ended: None }
            }
            Start::Clean => {
                let ended = EndedSession { handle: parked.handle, will: parked.will };
                OpenedSession { handle, resumed: None, ended: Some(ended) }
            }
        }
    }

    fn new_handle(&self, client_id: &ClientId) -> Arc<SessionHandle> {
        Arc::new(SessionHandle {
            key: SessionKey(self.next_key.fetch_add(1, Ordering::Relaxed)),
            client_id: client_id.clone(),
            mailbox: Arc::new(Mailbox::new(self.attached_limits)),
            subscriptions: Mutex::default(),
        })
    }

    /// The connection of `handle` ended and the session with it.
    pub(crate) fn remove(&self, handle: &SessionHandle) {
        if self.slots.remove_if(&handle.client_id, |_, slot| slot.key() == handle.key).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        self.changed.notify_waiters();
    }

    /// The connection ended and the session waits for its client.
    pub(crate) fn park(&self, parked: ParkedSession) {
        let client_id = parked.handle.client_id.clone();
        let attached = self.slots.insert(client_id, Slot::Parked(Box::new(parked)));
        debug_assert!(attached.is_some(), "a session is parked in the slot of its connection");
        self.changed.notify_waiters();
    }

    /// Takes the will out of a parked session whose will delay has passed.
    pub(crate) fn take_will(&self, handle: &SessionHandle) -> Option<Message> {
        match &mut *self.slots.get_mut(&handle.client_id)? {
            Slot::Parked(parked) if parked.handle.key == handle.key => parked.will.take(),
            Slot::Parked(_) | Slot::Attached { .. } => None,
        }
    }

    /// Ends a parked session whose time is over; `None` if its client came back meanwhile.
    pub(crate) fn expire(&self, handle: &SessionHandle) -> Option<EndedSession> {
        let is_it = |slot: &Slot| matches!(slot, Slot::Parked(_)) && slot.key() == handle.key;
        let (_, slot) = self.slots.remove_if(&handle.client_id, |_, slot| is_it(slot))?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        match slot {
            Slot::Parked(parked) => Some(EndedSession { handle: parked.handle, will: parked.will }),
            Slot::Attached { .. } => None,
        }
    }

    /// Tells every connection to end.
    pub(crate) fn order_all(&self, order: EndOrder) {
        for slot in &self.slots {
            if let Slot::Attached { handle, .. } = slot.value() {
                handle.mailbox.order(order);
            }
        }
    }

    /// Sessions, with and without a connection.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Slot {
    fn key(&self) -> SessionKey {
        match self {
            Self::Attached { handle, .. } => handle.key,
            Self::Parked(parked) => parked.handle.key,
        }
    }
}

#[cfg(test)]
mod tests;
