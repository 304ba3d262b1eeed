//! The disk of a simulated intermediate: it outlives the process.
//!
//! Owns the rows as they were written, and which of the commits were synced. Invariant: what a process finds is all that
//! was written before its end, or, after a loss of power, what was synced and some of what was written after.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use intermediate_server::Home;
use partition::{Batch, MemoryStore, OpenError, Room, Store, StoreError, Table};

use super::network::{Net, Site};

/// What has been done to a disk, and what is to happen to it.
#[derive(Debug, Default)]
struct State {
    /// The rows that a process finds.
    written: MemoryStore,
    /// The rows that a loss of power leaves.
    synced: MemoryStore,
    /// Commits that were written and not synced.
    unsynced: Vec<Batch>,
    /// Whether a commit is synced before it is acknowledged.
    syncs: bool,
    commits: u64,
    /// At this commit the process is to be killed, before or after it was written.
    kill_at: Option<(u64, CommitEnd)>,
    /// Why the process that committed last must not go on.
    killed: bool,
    /// From this commit on all fail, until the store is opened again.
    fail_at: Option<u64>,
    low: bool,
    /// Counts openings: an earlier one cannot write any more.
    opening: u64,
}

/// What of a commit is on the disk when its process is killed in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommitEnd {
    Nothing,
    Everything,
}

/// A disk. Clones are the same one.
#[derive(Clone)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
    net: Net,
    site: Site,
}

impl Disk {
    /// An empty one, on which each commit is synced, of the process at `site`.
    pub(super) fn new(net: Net, site: Site) -> Self {
        let state = State { syncs: true, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), net, site }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A run in which something panicked has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process is killed in the middle of the commit after `commits` more.
    pub(super) fn kill_after(&self, commits: u64, end: CommitEnd) {
        let mut state = self.lock();
        state.kill_at = Some((state.commits + commits, end));
    }

    /// The process is not killed in the middle of a commit any more.
    pub(super) fn spare(&self) {
        self.lock().kill_at = None;
    }

    /// Whether the process is to be killed now; said once.
    pub(super) fn has_killed(&self) -> bool {
        std::mem::take(&mut self.lock().killed)
    }

    /// Commits after `commits` more fail, until the store is opened again.
    pub(super) fn fail_after(&self, commits: u64) {
        let mut state = self.lock();
        state.fail_at = Some(state.commits + commits);
    }

    /// Whether what adds to the store is refused.
    pub(super) fn set_room(&self, room: Room) {
        self.lock().low = room == Room::Low;
    }

    /// It works, and there is room.
    pub(super) fn heal(&self) {
        let mut state = self.lock();
        state.fail_at = None;
        state.low = false;
    }

    /// Whether commits are synced from now on before they are acknowledged. A disk that does not loses
    /// acknowledged commits with the power.
    pub(super) fn set_syncs(&self, syncs: bool) {
        let mut state = self.lock();
        state.syncs = syncs;
        if !syncs {
            state.synced = state.written.reopen();
        }
    }

    /// The power is gone: of what was not synced only the first `kept` commits are left.
    pub(super) fn lose_power(&self, kept: usize) {
        let mut state = self.lock();
        if state.syncs {
            return;
        }
        let mut rows = state.synced.reopen();
        for batch in state.unsynced.drain(..).take(kept) {
            rows.commit(&batch).expect("nobody told it to fail");
        }
        state.synced = rows.reopen();
        state.written = rows;
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Home for Disk {
    type Store = Opened;

    fn open(&mut self) -> Result<Opened, OpenError> {
        let mut state = self.lock();
        state.opening += 1;
        state.fail_at = None;
        Ok(Opened { disk: self.clone(), opening: state.opening, rows: state.written.clone() })
    }

    fn disk_bytes(_store: &Opened) -> u64 {
        0
    }
}

/// A store that a process has open.
#[derive(Debug)]
pub(super) struct Opened {
    disk: Disk,
    opening: u64,
    rows: MemoryStore,
}

impl Store for Opened {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.disk.lock();
        if state.opening != self.opening || state.killed {
            return Err(failed("the process is gone"));
        }
        let number = state.commits;
        if state.fail_at.is_some_and(|at| number >= at) {
            return Err(failed("told to fail"));
        }
        let kill = state.kill_at.take_if(|(at, _)| number >= *at);
        if let Some((_, end)) = kill {
            state.killed = true;
            self.disk.net.lock().die(self.disk.site);
            if end == CommitEnd::Nothing {
                return Err(failed("killed"));
            }
        }
        self.rows.commit(batch)?;
        state.commits += 1;
        if !state.syncs {
            state.unsynced.push(batch.clone());
        }
        if kill.is_some() { Err(failed("killed")) } else { Ok(()) }
    }

    fn lookup(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.rows.lookup(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.rows.scan(table, prefix, from, visit)
    }

    fn room(&self) -> Room {
        if self.disk.lock().low { Room::Low } else { Room::Enough }
    }
}

fn failed(error: &str) -> StoreError {
    StoreError::Io { path: "simulated".to_owned(), error: error.to_owned() }
}
