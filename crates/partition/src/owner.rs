//! All partitions of one process over one store.
//!
//! Owns the store, what the next commit writes, and what waits to go out after it. Invariant: an
//! effect or a delivery comes out only when everything that caused it is committed. Does not: wait,
//! start a thread, read a clock.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt_codec::{ClientId, Message, QoS, TopicFilter, TopicName};

use self::ready::{ReadyQueues, Tell};
use self::routes::Routes;
use crate::changes::{self, Changes, Stamp};
use crate::command::Command;
use crate::config::OwnerConfig;
use crate::effect::{Delivery, Effect};
use crate::id::{Epoch, Holder, Lsn, PartitionId, ProxyId, SessionId, UnixMillis};
use crate::numbers::Numbers;
use crate::partition::{Partition, Taken};
use crate::row::{Meta, partition_key};
use crate::stats::{Dropped, Stats};
use crate::store::{Room, Store, StoreError, Table};
use crate::will::WillPace;

mod dispatch;
mod due;
mod ready;
mod routes;

/// A commit is due when so much is collected, in bytes.
const FULL_BYTES: usize = 256 << 10;
/// Most bytes of one session or partition before it is another's turn.
const TURN_BYTES: usize = 16 << 10;
/// The owner's own row stands where no partition's does.
const OWN_ROW: PartitionId = PartitionId(0xFFFE);

/// All partitions of one process.
#[derive(Debug)]
pub struct Owner<S> {
    store: S,
    config: OwnerConfig,
    partitions: Vec<Partition>,
    routes: Routes,
    changes: Changes,
    lsns: Numbers,
    /// The time of the last command.
    now: UnixMillis,
    room: Room,
    /// Whether something was handled since the last commit.
    uncommitted: bool,
    /// The store has failed.
    failed: Option<StoreError>,
    effects: VecDeque<Effect>,
    ready: ReadyQueues,
    /// Sessions that are owed retained messages and have room for some.
    scans: VecDeque<SessionId>,
    /// Proxies whose connections are being ended.
    dead: VecDeque<ProxyId>,
    pace: WillPace,
    paced_until: UnixMillis,
    keys_due: UnixMillis,
    /// Partitions in which keys are to be looked through now.
    keys_left: usize,
    dropped: Dropped,
    wills: u64,
    refused: u64,
    commits: u64,
    rows: u64,
    row_bytes: u64,
    /// Kept for its memory.
    targets: Vec<u16>,
}

/// Why a store cannot be owned.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The number of partitions is fixed when a store is made.
    #[error("the store was made with {stored} partitions, and {configured} are configured")]
    Partitions {
        /// What the store says.
        stored: u16,
        /// What was asked for.
        configured: u16,
    },
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether there is more to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Take again.
    Yes,
    /// Wait for [`Effect::Ready`].
    No,
}

/// Retained messages, in the order of partitions and topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainedPage {
    /// With the moment each expires at. Fewer than asked for, or none, says nothing about what is left.
    pub messages: Vec<(Arc<Message>, Option<UnixMillis>)>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<TopicName>,
}

impl<S: Store> Owner<S> {
    /// Reads what is not queued messages.
    ///
    /// # Errors
    /// The store has failed, or was made for another number of partitions.
    pub fn open(store: S, config: OwnerConfig, now: UnixMillis) -> Result<Self, OwnerError> {
        let config = OwnerConfig { partitions: config.partitions.clamp(1, 4096), ..config };
        let own = store.lookup(Table::Meta, &partition_key(OWN_ROW))?;
        let own = own.map(|value| Meta::decode(&value)).transpose()?;
        if let Some(Meta { partitions: stored, .. }) = own
            && stored != config.partitions
        {
            return Err(OwnerError::Partitions { stored, configured: config.partitions });
        }
        let (mut partitions, mut routes) = (Vec::new(), Routes::default());
        let mut effects = Vec::new();
        for number in 0..config.partitions {
            let id = PartitionId(number);
            let mut partition = Partition::load(id, config, &store)?;
            partition.wanted().for_each(|(filter, qos)| routes.load(id, filter, qos));
            partition.resend(&mut effects);
            partitions.push(partition);
        }
        let (room, pace) = (store.room(), WillPace::new(config.wills_per_second));
        Ok(Self {
            store,
            config,
            partitions,
            routes,
            changes: Changes::default(),
            lsns: Numbers::new(own.map_or(0, |meta| meta.lsn.0)),
            now,
            room,
            uncommitted: false,
            failed: None,
            effects: effects.into(),
            ready: ReadyQueues::default(),
            scans: VecDeque::new(),
            dead: VecDeque::new(),
            pace,
            paced_until: UnixMillis(0),
            keys_due: now,
            keys_left: 0,
            dropped: Dropped::default(),
            wills: 0,
            refused: 0,
            commits: 0,
            rows: 0,
            row_bytes: 0,
            targets: Vec::new(),
        })
    }

    /// The latest moment at which a session was attached or detached: a clock that says less was set back.
    #[must_use]
    pub fn last_change(&self) -> Option<UnixMillis> {
        self.partitions.iter().filter_map(|partition| partition.sessions().last_change()).max()
    }

    /// Every filter that somebody here wants, with its highest QoS. Later changes come as [`Effect::Route`].
    pub fn routes(&self) -> impl Iterator<Item = (TopicFilter, QoS)> {
        self.routes.iter()
    }

    /// Applies a command. Its effects come out after the next [`commit`](Self::commit).
    pub fn handle(&mut self, command: Command, now: UnixMillis) {
        let stamp = self.stamp(now);
        let first = self.changes.effects.len();
        self.finish_burial(&command, stamp);
        let result = self.apply(command, stamp).and_then(|()| self.settle(first, stamp));
        self.note(result);
    }

    /// Does what is due, and a little of what is to be tidied up.
    pub fn handle_time(&mut self, now: UnixMillis) {
        let stamp = self.stamp(now);
        let first = self.changes.effects.len();
        let result = self.advance(stamp).and_then(|()| self.settle(first, stamp));
        self.note(result);
    }

    /// When [`handle_time`](Self::handle_time) is to be called; a moment in the past if there is something left to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        self.deadline()
    }

    /// Whether so much is collected that it is to be committed now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.changes.batch.bytes() + self.changes.queued_bytes >= FULL_BYTES
    }

    /// Whether a commit would do anything.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.uncommitted
    }

    /// Writes all that was handled since the last time, as one batch, and lets its effects out.
    ///
    /// # Errors
    /// The store has failed: drop the owner, and open the store again.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.uncommitted {
            return Ok(());
        }
        let Self { partitions, store, changes, .. } = self;
        for partition in partitions.iter_mut() {
            partition.flush(store, changes)?;
        }
        if let Some(lsn) = self.lsns.reserve() {
            let partitions = self.config.partitions;
            let meta = Meta { partitions, lsn: Lsn(lsn), ..Meta::default() };
            let key = partition_key(OWN_ROW).to_vec();
            changes.batch.put(Table::Meta, key, meta.encode());
        }
        if !changes.batch.is_empty() {
            store.commit(&changes.batch)?;
            self.commits += 1;
            self.rows += changes.batch.writes().len() as u64;
            self.row_bytes += changes.batch.bytes() as u64;
            changes.batch.clear();
        }
        for partition in partitions.iter_mut() {
            partition.committed(changes);
        }
        self.uncommitted = false;
        self.room = self.store.room();
        self.let_out();
        self.page_groups()
    }

    /// What was caused by what is committed now.
    fn let_out(&mut self) {
        let changes = &mut self.changes;
        changes.queued_bytes = 0;
        self.effects.extend(changes.effects.drain(..));
        for ready in changes.ready.drain(..) {
            if self.ready.push(ready) == Tell::Yes {
                self.effects.push_back(Effect::Ready(ready.proxy));
            }
        }
        self.scans.extend(changes.scans.drain(..));
        self.dropped.add_all(&std::mem::take(&mut changes.dropped));
    }

    /// The next effect of what is committed.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Takes messages for clients of a proxy, of about so many bytes. It may leave changes to commit.
    ///
    /// # Errors
    /// The store has failed: drop the owner, and open the store again.
    pub fn deliveries(
        &mut self,
        proxy: ProxyId,
        bytes: usize,
        now: UnixMillis,
        into: &mut Vec<Delivery>,
    ) -> Result<More, StoreError> {
        self.now = self.now.max(now);
        let mut left = bytes;
        while left > 0 {
            let Some(what) = self.ready.pop(proxy) else { break };
            let mut turn = left.min(TURN_BYTES);
            let before = turn;
            if self.take(proxy, what, &mut turn, into)? == Taken::Some {
                self.ready.put_back(proxy, what);
            }
            left -= before - turn;
        }
        if !self.changes.forwards.is_empty() {
            let stamp = self.stamp(now);
            self.settle(0, stamp)?;
        }
        Ok(if self.ready.is_empty(proxy) { More::No } else { More::Yes })
    }

    fn take(
        &mut self,
        proxy: ProxyId,
        what: changes::Source,
        budget: &mut usize,
        into: &mut Vec<Delivery>,
    ) -> Result<Taken, StoreError> {
        let Self { partitions, store, changes, .. } = self;
        let number = match what {
            changes::Source::Session(session) => session.partition(),
            changes::Source::Groups(partition) => partition,
        };
        let Some(partition) = partitions.get_mut(usize::from(number.0)) else {
            return Ok(Taken::All);
        };
        let taken = match what {
            changes::Source::Session(session) => {
                let held = partition.sessions().find(session).and_then(|session| session.holder);
                if held.is_none_or(|holder| holder.proxy != proxy) {
                    return Ok(Taken::All);
                }
                partition.take(session, (budget, self.now), store, changes, into)?
            }
            changes::Source::Groups(_) => {
                *budget = partition.take_of_groups(proxy, *budget, into);
                if partition.groups().is_ready(proxy) { Taken::Some } else { Taken::All }
            }
        };
        self.uncommitted |= partition.has_changed();
        Ok(taken)
    }

    /// A page of the retained messages that `filter` matches, behind the topic `after`.
    #[must_use]
    pub fn retained(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        now: UnixMillis,
    ) -> RetainedPage {
        let part = self.page(filter, after, limit, now);
        let messages = part.messages.into_iter().map(|found| (found.message, found.expires_at));
        RetainedPage { messages: messages.collect(), next: part.next }
    }

    /// Who has the session of a client.
    #[must_use]
    pub fn holder_of(&self, client: &ClientId) -> Option<(Holder, SessionId, Epoch)> {
        let there = PartitionId::of_client(client, self.config.partitions);
        self.partitions.get(usize::from(there.0))?.holder_of(client)
    }

    /// When the newest connection was attached that the session of a client had; later after a restart, if that
    /// connection is over.
    #[must_use]
    pub fn attached_at(&self, client: &ClientId) -> Option<UnixMillis> {
        let there = PartitionId::of_client(client, self.config.partitions);
        self.partitions.get(usize::from(there.0))?.attached_at(client)
    }

    /// Whether a connection has a session by this epoch.
    #[must_use]
    pub fn is_held(&self, session: SessionId, epoch: Epoch) -> bool {
        let partition = self.partitions.get(usize::from(session.partition().0));
        let found = partition.and_then(|partition| partition.sessions().find(session));
        found.is_some_and(|session| session.holder.is_some() && session.epoch == epoch)
    }

    /// The proxies that hold sessions, or have members of groups.
    #[must_use]
    pub fn proxies(&self) -> Vec<ProxyId> {
        let mut proxies: Vec<ProxyId> = self
            .partitions
            .iter()
            .flat_map(|one| one.sessions().proxies().chain(one.groups().proxies()))
            .collect();
        proxies.sort_unstable();
        proxies.dedup();
        proxies
    }

    /// The proxies of whose messages the last numbers are known.
    #[must_use]
    pub fn origins(&self) -> Vec<ProxyId> {
        let lanes = self.partitions.iter().flat_map(|partition| partition.lanes().origins());
        let mut origins: Vec<ProxyId> = lanes.collect();
        origins.sort_unstable();
        origins.dedup();
        origins
    }

    /// Whether there was room in the store at the last commit.
    #[must_use]
    pub const fn room(&self) -> Room {
        self.room
    }

    /// The store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            wills: self.wills,
            refused_messages: self.refused,
            dropped: self.dropped,
            commits: self.commits,
            rows: self.rows,
            row_bytes: self.row_bytes,
            ..Stats::default()
        };
        for partition in &self.partitions {
            partition.count(&mut stats);
        }
        stats
    }

    fn stamp(&mut self, now: UnixMillis) -> Stamp {
        self.now = self.now.max(now);
        self.uncommitted = true;
        Stamp { lsn: Lsn(self.lsns.take()), now: self.now }
    }

    fn note(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }

    /// What is committed together is settled together: commands between partitions, wills, routes.
    fn settle(&mut self, first: usize, stamp: Stamp) -> Result<(), StoreError> {
        loop {
            let forwards = std::mem::take(&mut self.changes.forwards);
            let wills = std::mem::take(&mut self.changes.wills);
            if forwards.is_empty() && wills.is_empty() {
                break;
            }
            for (there, internal) in forwards {
                if let Some((partition, changes)) = self.at(there) {
                    partition.handle_internal(internal, stamp, changes);
                }
            }
            for will in wills {
                self.publish_will(will, stamp)?;
            }
        }
        let Self { routes, changes, .. } = self;
        let told: Vec<Effect> =
            changes.routes.drain(..).filter_map(|change| routes.apply(&change)).collect();
        // A SUBACK waits for the routes that are told before it.
        changes.effects.splice(first..first, told);
        Ok(())
    }
}
