//! What goes on beside commits: syncing the journal each second, and having memory written out.
//!
//! Owns one thread. Invariant: once anything has failed, nothing that the store says afterwards is believed, for
//! pages that could not be written may be gone. Never takes part in a commit.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::Keyspace;

use crate::store::journal;

/// How long a loss of power reaches back.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// More than there are tables.
const REQUESTS: usize = 32;

/// What the store and its thread tell each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The last commit.
    pub(super) committed: AtomicU64,
    /// The last commit that was synced.
    pub(super) synced: AtomicU64,
    /// The first failure.
    pub(super) failure: OnceLock<String>,
}

impl Progress {
    pub(super) fn fail(&self, error: &dyn std::fmt::Display) {
        self.failure.get_or_init(|| error.to_string());
    }
}

/// The thread.
#[derive(Debug)]
pub(super) struct Keeper {
    requests: Option<SyncSender<Keyspace>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread for the journals in `folder`.
    pub(super) fn start(folder: PathBuf, progress: Arc<Progress>) -> io::Result<Self> {
        let (requests, received) = sync_channel(REQUESTS);
        let mut work = Work { folder, progress, journal: None };
        let thread = std::thread::Builder::new()
            .name("causeway-sync".into())
            .spawn(move || work.run(&received))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Has a table written out; not taken if there is too much to do.
    pub(super) fn write_out(&self, table: &Keyspace) -> Result<(), TrySendError<()>> {
        let requests = self.requests.as_ref().expect("taken when dropped only");
        requests.try_send(table.clone()).map_err(|error| match error {
            TrySendError::Full(_) => TrySendError::Full(()),
            TrySendError::Disconnected(_) => TrySendError::Disconnected(()),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed, and the store ends here anyway.
            thread.join().ok();
        }
    }
}

struct Work {
    folder: PathBuf,
    progress: Arc<Progress>,
    journal: Option<(PathBuf, File)>,
}

impl Work {
    fn run(&mut self, requests: &Receiver<Keyspace>) {
        let mut sync_at = Instant::now() + SYNC_EVERY;
        loop {
            match requests.recv_timeout(sync_at.saturating_duration_since(Instant::now())) {
                Ok(table) => {
                    if let Err(error) = table.rotate_memtable() {
                        self.progress.fail(&error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.sync() {
                        self.progress.fail(&error);
                    }
                    sync_at = Instant::now() + SYNC_EVERY;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Syncs the newest journal: older ones were synced when they were complete. By a handle of its own, for
    /// fjall would keep commits waiting meanwhile.
    fn sync(&mut self) -> io::Result<()> {
        // In this order: what was committed before is in this journal or an older one.
        let committed = self.progress.committed.load(Ordering::Acquire);
        let nothing_new = committed == self.progress.synced.load(Ordering::Acquire);
        // After a failure a sync may succeed and mean nothing.
        if nothing_new || self.progress.failure.get().is_some() {
            return Ok(());
        }
        let Some(newest) = journal::newest(&self.folder)? else {
            return Err(io::Error::other("the journal is gone"));
        };
        let file = match self.journal.take() {
            Some((path, file)) if path == newest => file,
            _ => File::open(&newest)?,
        };
        file.sync_data()?;
        self.journal = Some((newest, file));
        self.progress.synced.fetch_max(committed, Ordering::AcqRel);
        Ok(())
    }
}
