//! Sessions in memory.
//!
//! Owns what a session is, and how it is found by number, client and proxy. Invariant: a client has one
//! session; a session with a connection is found through its proxy. Small, because there may be a
//! million of them: what few have lies behind a pointer.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use hashbrown::{HashMap, HashTable};
use mqtt_codec::{ClientId, SubscriptionId, SubscriptionOptions, TopicFilter};

use crate::id::{ClientHash, Epoch, Holder, OnceKey, ProxyId, SessionId, UnixMillis};
use crate::queue::Queue;
use crate::row::{Chunk, PendingWill, Scan, SessionKind, SessionRow};
use crate::window::{Loaded, MOST_SPAN, Window};

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) client: ClientId,
    pub(crate) epoch: Epoch,
    pub(crate) holder: Option<Holder>,
    pub(crate) detached_at: UnixMillis,
    /// When its newest connection was attached. One that had none when the store was opened counts as attached when
    /// that one ended, which its row says.
    pub(crate) attached_at: UnixMillis,
    pub(crate) expiry_secs: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) kind: SessionKind,
    /// Whether its connection began it.
    pub(crate) fresh: bool,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) queue: Queue,
    pub(crate) more: Option<Box<More>>,
    /// While it has a connection.
    pub(crate) window: Option<Box<Window>>,
    /// What this commit adds to the queue.
    pub(crate) pending: Option<Box<Pending>>,
    pub(crate) changed: Changed,
}

// There may be a million of them.
const _: () = assert!(size_of::<Session>() <= 256);

/// What few sessions have.
#[derive(Debug, Default)]
pub(crate) struct More {
    pub(crate) will: Option<PendingWill>,
    /// QoS 2 messages of the client that are not released, by packet identifier; `None` if taken.
    pub(crate) incoming: Vec<(u16, Option<OnceKey>)>,
    /// Retained messages it is owed, by number.
    pub(crate) scans: Vec<(u64, Scan)>,
    /// Session expiry before the present connection, in seconds, if that has changed it.
    pub(crate) earlier_expiry_secs: Option<u32>,
}

/// One of a session's subscriptions.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// As the client wrote it.
    pub(crate) filter: Box<str>,
    pub(crate) options: SubscriptionOptions,
    pub(crate) id: Option<SubscriptionId>,
}

impl Subscription {
    pub(crate) fn is_shared(&self) -> bool {
        self.filter.starts_with("$share/")
    }

    pub(crate) fn filter(&self) -> TopicFilter {
        TopicFilter::new(&*self.filter).expect("it was one when it was taken in")
    }
}

/// A chunk that is being put together.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) chunk: Chunk,
    pub(crate) last: u64,
    pub(crate) bodies: Vec<u64>,
}

/// What the next commit has to look at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changed {
    /// It is in the list of changed sessions.
    pub(crate) listed: bool,
    pub(crate) row: bool,
    pub(crate) cursor: bool,
    /// Whether there is a row in the store, or will be.
    pub(crate) stored: bool,
    /// Whether there is a cursor in the store, or will be.
    pub(crate) cursor_stored: bool,
    /// Whether its queue counts as full.
    pub(crate) full: bool,
    /// Whether a group has put something into its queue, and is to hear when it is short again.
    pub(crate) fed: bool,
    /// Whether it is in the list of sessions with chunks of dropped messages.
    pub(crate) sweeping: bool,
}

impl Session {
    pub(crate) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    pub(crate) fn will(&self) -> Option<&PendingWill> {
        self.more.as_ref()?.will.as_ref()
    }

    /// Gives memory back that nothing needs.
    pub(crate) fn tidy(&mut self) {
        if self.more.as_ref().is_some_and(|more| {
            more.will.is_none()
                && more.incoming.is_empty()
                && more.scans.is_empty()
                && more.earlier_expiry_secs.is_none()
        }) {
            self.more = None;
        }
    }

    pub(crate) fn take_will(&mut self) -> Option<PendingWill> {
        let will = self.more.as_mut()?.will.take();
        self.tidy();
        will
    }

    /// Its expiry before the present connection, in seconds. After a restart of the store the present one.
    pub(crate) fn earlier_expiry_secs(&self) -> u32 {
        let changed = self.more.as_ref().and_then(|more| more.earlier_expiry_secs);
        changed.unwrap_or(self.expiry_secs)
    }

    /// A connection changes its expiry.
    pub(crate) fn change_expiry(&mut self, expiry_secs: u32) {
        let before = std::mem::replace(&mut self.expiry_secs, expiry_secs);
        if before != expiry_secs {
            self.more().earlier_expiry_secs = Some(before);
        }
    }

    /// The connection that has changed its expiry is over.
    pub(crate) fn forget_earlier_expiry(&mut self) {
        if let Some(more) = &mut self.more {
            more.earlier_expiry_secs = None;
            self.tidy();
        }
    }

    /// Whether there may be rows of its queue.
    pub(crate) fn has_chunks(&self) -> bool {
        self.pending.is_some() || self.queue.swept() < self.queue.committed()
    }

    /// Whether it is owed retained messages.
    pub(crate) fn is_owed(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.scans.is_empty())
    }

    /// Whether there is something that its connection may be given.
    pub(crate) fn is_deliverable(&self) -> bool {
        let Some(window) = self.window.as_ref().filter(|_| self.holder.is_some()) else {
            return false;
        };
        if window.qos0_len() > 0 {
            return true;
        }
        match window.next() {
            Some(entry) => entry.place < self.queue.committed() && self.may_send(window, entry),
            None => {
                window.loaded() < self.queue.committed() && window.may_send(self.receive_maximum, 0)
            }
        }
    }

    /// Whether this message may be in flight, too.
    pub(crate) fn may_send(&self, window: &Window, entry: &Loaded) -> bool {
        window.may_send(self.receive_maximum, entry.weight)
            && entry.place - self.queue.floor() < MOST_SPAN
    }

    pub(crate) fn client_hash(&self) -> ClientHash {
        ClientHash::of(&self.client)
    }

    /// Whether its connection is over for longer than it was to be kept.
    pub(crate) fn is_expired(&self, now: UnixMillis) -> bool {
        self.holder.is_none()
            && (self.kind == SessionKind::Dying
                || crate::will::session_end(self.detached_at, self.expiry_secs)
                    .is_some_and(|end| end <= now))
    }

    pub(crate) fn row(&self) -> SessionRow {
        SessionRow {
            kind: self.kind,
            client: self.client.clone(),
            epoch: self.epoch.0,
            fresh: self.fresh,
            holder: self.holder,
            expiry_secs: self.expiry_secs,
            receive_maximum: self.receive_maximum,
            changed_at: if self.holder.is_some() { self.attached_at } else { self.detached_at },
            will: self.will().cloned(),
        }
    }

    /// As its row says; subscriptions, cursor and the rest come after.
    pub(crate) fn load(id: SessionId, row: SessionRow) -> Self {
        let will = row.will;
        Self {
            id,
            client: row.client.detached(),
            epoch: Epoch(row.epoch),
            holder: row.holder,
            detached_at: row.changed_at,
            attached_at: row.changed_at,
            expiry_secs: row.expiry_secs,
            receive_maximum: row.receive_maximum,
            kind: row.kind,
            fresh: row.fresh,
            subscriptions: Vec::new(),
            queue: Queue::default(),
            more: will.map(|will| Box::new(More { will: Some(will), ..More::default() })),
            window: None,
            pending: None,
            changed: Changed { stored: true, ..Changed::default() },
        }
    }
}

/// The numbers of the sessions that a proxy has.
type Held = BTreeSet<u64>;

/// The sessions of one partition.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_number: HashMap<u64, Box<Session>, foldhash::fast::RandomState>,
    /// Numbers, by the hash of the client. Clients choose their names, so the hash has a seed.
    by_client: HashTable<u64>,
    seed: foldhash::quality::RandomState,
    by_proxy: HashMap<ProxyId, Held, foldhash::fast::RandomState>,
    /// Those that outlive their connection.
    pub(crate) persistent: u64,
}

impl Sessions {
    /// The latest moment at which one of them was attached or detached.
    pub(crate) fn last_change(&self) -> Option<UnixMillis> {
        let changes = self.by_number.values().map(|one| one.attached_at.max(one.detached_at));
        changes.max()
    }

    pub(crate) fn find(&self, id: SessionId) -> Option<&Session> {
        self.by_number.get(&id.0).map(|session| &**session)
    }

    pub(crate) fn find_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.by_number.get_mut(&id.0).map(|session| &mut **session)
    }

    /// The session of a client.
    pub(crate) fn of_client(&self, client: &ClientId) -> Option<SessionId> {
        let hash = self.seed.hash_one(client.as_str());
        let number = self.by_client.find(hash, |number| self.is_of(*number, client))?;
        Some(SessionId(*number))
    }

    fn is_of(&self, number: u64, client: &ClientId) -> bool {
        self.by_number.get(&number).is_some_and(|session| session.client == *client)
    }

    /// Takes in a session whose client has no other.
    pub(crate) fn insert(&mut self, session: Session) {
        let (number, hash) = (session.id.0, self.seed.hash_one(session.client.as_str()));
        if session.kind == SessionKind::Persistent {
            self.persistent += 1;
        }
        if let Some(holder) = session.holder {
            self.by_proxy.entry(holder.proxy).or_default().insert(number);
        }
        self.by_number.insert(number, Box::new(session));
        let (sessions, seed) = (&self.by_number, &self.seed);
        self.by_client.insert_unique(hash, number, |number| {
            sessions.get(number).map_or(0, |session| seed.hash_one(session.client.as_str()))
        });
    }

    /// Takes in a session that its row told of. One that is over does not stand in the way of a newer one.
    pub(crate) fn load(&mut self, session: Session) {
        let (id, dying) = (session.id, session.kind == SessionKind::Dying);
        let other = self.of_client(&session.client);
        match other {
            Some(_) if dying => {
                self.by_number.insert(id.0, Box::new(session));
            }
            Some(other) => {
                self.forget_client(other);
                self.insert(session);
            }
            None => self.insert(session),
        }
    }

    /// The client is free for another session; this one is found by its number alone.
    pub(crate) fn forget_client(&mut self, id: SessionId) {
        let Some(session) = self.by_number.get(&id.0) else { return };
        let hash = self.seed.hash_one(session.client.as_str());
        if let Ok(entry) = self.by_client.find_entry(hash, |number| *number == id.0) {
            entry.remove();
        }
    }

    /// Takes out a session without a connection.
    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        self.forget_client(id);
        self.by_number.remove(&id.0)
    }

    /// Notes who has a session.
    pub(crate) fn hold(&mut self, id: SessionId, holder: Option<Holder>) {
        let Some(session) = self.by_number.get_mut(&id.0) else { return };
        let before = std::mem::replace(&mut session.holder, holder);
        if let Some(before) = before
            && let Some(held) = self.by_proxy.get_mut(&before.proxy)
        {
            held.remove(&id.0);
            if held.is_empty() {
                self.by_proxy.remove(&before.proxy);
            }
        }
        if let Some(holder) = holder {
            self.by_proxy.entry(holder.proxy).or_default().insert(id.0);
        }
    }

    /// Some of the sessions that a proxy has.
    pub(crate) fn some_of_proxy(&self, proxy: ProxyId, most: usize) -> Vec<SessionId> {
        let held = self.by_proxy.get(&proxy);
        held.into_iter().flatten().take(most).map(|number| SessionId(*number)).collect()
    }

    pub(crate) fn proxies(&self) -> impl Iterator<Item = ProxyId> {
        self.by_proxy.keys().copied()
    }

    pub(crate) fn attached(&self) -> usize {
        self.by_proxy.values().map(BTreeSet::len).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_number.values().map(|session| &**session)
    }
}
