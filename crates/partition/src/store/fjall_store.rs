//! Rows in a database of fjall, in one directory.
//!
//! Owns the directory. Invariant: a commit that was reported is found again after a `kill -9`, or opening
//! refuses; never is there silently less. Beside fjall's own checksums that is kept by two things: each
//! commit carries a row that [chains](super::chain) it to the one before, and the file [tail](super::tail) says how far the
//! chain had come. Does not retry what failed: the store is to be opened again.

use std::cell::Cell;
use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{AbstractTree, Database, Keyspace, OwnedWriteBatch, PersistMode};

use crate::store::chain::{self, Link, Seal};
use crate::store::home::{self, Found, Home, Recovered, failed};
use crate::store::keeper::{Keeper, Progress};
use crate::store::tail::{self, Mark, Tail};
use crate::store::{Batch, OpenError, Room, Store, StoreError, Table, Write, tuning};

/// How long an answer about room is good for.
const ROOM_FOR: Duration = Duration::from_millis(100);
/// How long commits wait for memory to be written out before the store has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory of one table that waits to be written out; above, it grows in place.
const WAITING_MEMTABLES: usize = 2;

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process. A loss of power takes up to a second.
    #[default]
    Os,
    /// A loss of power.
    Fsync,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct FjallConfig {
    /// What a commit survives.
    pub durability: Durability,
    /// With less free space than this many bytes there is [`Room::Low`]. Writing memory out and merging files take
    /// up to about 200 MiB for a while, so with much less the store may fail before it says so; then it
    /// can be opened again as soon as there is room.
    pub reserve_bytes: u64,
    /// Fixed when the store is made.
    pub partitions: u16,
}

/// A store on disk.
pub struct FjallStore {
    // In this order when dropped: the thread, the database, then the lock.
    keeper: Keeper,
    database: Database,
    tables: [Keyspace; Table::ALL.len()],
    home: Home,
    tail: Tail,
    config: FjallConfig,
    /// A table with so many bytes in memory is written out.
    memory_of_table: u64,
    progress: Arc<Progress>,
    link: Link,
    epoch: u64,
    boot: u64,
    commits: u64,
    /// Bytes in memory, by table.
    unwritten: [u64; Table::ALL.len()],
    room: Cell<Option<(Instant, Room)>>,
}

impl FjallStore {
    /// Opens the store in the directory `path`, or makes a new one there.
    ///
    /// # Errors
    /// Another process has it, it has another format or number of partitions, or something is missing of what had been
    /// committed. In all these cases nothing of it was changed.
    pub fn open(path: impl AsRef<Path>, config: FjallConfig) -> Result<Self, OpenError> {
        let path = path.as_ref();
        match Self::open_now(path, config) {
            Err(OpenError::Io { path: shown, error }) if home::is_full(path) => {
                Err(OpenError::Full { path: shown, error })
            }
            opened => opened,
        }
    }

    fn open_now(path: &Path, config: FjallConfig) -> Result<Self, OpenError> {
        let (home, found) = Home::enter(path, Some(config.partitions))?;
        let (tail, known) = match found {
            Found::Store => {
                let (tail, known) = home.recover(config.reserve_bytes)?;
                (tail, Some(known))
            }
            Found::Nothing => (home.create_tail()?, None),
        };
        let mut store = Self::with(home, tail, config)?;
        match known {
            Some(known) => store.resume(&known)?,
            None => store.home.finish()?,
        }
        // Shows that it can be written, and makes the tail speak of this start of the machine.
        let path = store.home.path().to_path_buf();
        store.commit_rows(&Batch::default()).map_err(|error| failed(&path, &error))?;
        Ok(store)
    }

    /// Begins a new store that is none before [`finish`](Self::finish): should this process end before, nothing takes
    /// what is there for a store.
    pub(crate) fn begin(path: &Path, config: FjallConfig) -> Result<Self, OpenError> {
        let (home, found) = Home::enter(path, Some(config.partitions))?;
        if found == Found::Store {
            let what = "there is a store already".into();
            return Err(OpenError::Format { path: home::shown(path), what });
        }
        let tail = home.create_tail()?;
        Self::with(home, tail, config)
    }

    /// Everything that a new store is to have from its start is committed.
    pub(crate) fn finish(&self) -> Result<(), OpenError> {
        self.home.finish()
    }

    /// Opens an existing store to read what is left of it, whatever is missing. It must not be committed to: parts
    /// of commits may be gone. Journals that have to be cut for it are copied first, as `*.jnl.damaged`.
    ///
    /// # Errors
    /// There is no store, another process has it, it has another format, or fjall cannot open it either.
    pub fn open_damaged(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let partitions = Self::partitions_at(path)?;
        let (home, _) = Home::enter(path, Some(partitions))?;
        home.cut_anyway()?;
        let tail = Tail::open(&path.join("tail")).map_err(|error| failed(path, &error))?.0;
        let config = FjallConfig { durability: Durability::Os, reserve_bytes: 0, partitions };
        let store = Self::with(home, tail, config)?;
        store.progress.fail(&"it was opened to be read only");
        Ok(store)
    }

    fn with(home: Home, tail: Tail, config: FjallConfig) -> Result<Self, OpenError> {
        let rows = home.rows();
        let database = open_database(&rows).map_err(|error| cannot_open(&home, &error))?;
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            let keyspace = database.keyspace(table.name(), || tuning::options(table));
            tables.push(keyspace.map_err(|error| cannot_open(&home, &error))?);
        }
        let tables: [Keyspace; Table::ALL.len()] =
            tables.try_into().ok().expect("one for each table");
        let progress = Arc::new(Progress::default());
        let keeper = Keeper::start(rows, Arc::clone(&progress))
            .map_err(|error| failed(home.path(), &error))?;
        Ok(Self {
            keeper,
            unwritten: std::array::from_fn(|at| tables[at].tree.active_memtable().size()),
            database,
            tables,
            home,
            tail,
            config,
            memory_of_table: tuning::MEMORY_OF_TABLE,
            progress,
            link: Link::default(),
            epoch: 1,
            boot: tail::boot(),
            commits: 0,
            room: Cell::new(None),
        })
    }

    /// Goes on where the store had come to.
    fn resume(&mut self, known: &Recovered) -> Result<(), OpenError> {
        let path = self.home.path();
        let row = self.lookup(Table::Meta, chain::KEY).map_err(|error| failed(path, &error))?;
        self.link = known.check(path, row.and_then(|row| Link::decode(&row)))?;
        self.epoch = self.link.epoch.max(known.mark.epoch) + 1;
        // fjall synced the journal before it read it.
        self.progress.synced.store(self.link.number, Ordering::Release);
        let lost = known.mark.number.saturating_sub(self.link.number);
        if lost > 0 {
            tracing::warn!(
                path = %path.display(),
                commits = lost,
                "the machine went down before the last commits were on disk: they are lost, as `durability = \"os\"` allows"
            );
        }
        Ok(())
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// The store has failed.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.database.disk_space().map_err(|error| self.failure(&error))
    }

    /// Commits since it was opened.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// How many partitions the store in the directory `path` was made with.
    ///
    /// # Errors
    /// There is no store, or it has another format.
    pub fn partitions_at(path: impl AsRef<Path>) -> Result<u16, OpenError> {
        let path = path.as_ref();
        home::stored_partitions(path)?.ok_or_else(|| OpenError::Format {
            path: home::shown(path),
            what: "there is no store".into(),
        })
    }

    /// How many partitions it was made with.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.home.partitions()
    }

    /// Changes the free space below which there is [`Room::Low`].
    pub fn reserve(&mut self, bytes: u64) {
        self.config.reserve_bytes = bytes;
        self.room.set(None);
    }

    /// Changes with how many bytes of one table in memory the table is written out; by default 16 MiB.
    pub fn keep_in_memory(&mut self, bytes: u64) {
        self.memory_of_table = bytes;
    }

    fn commit_rows(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mode = match self.config.durability {
            Durability::Os => PersistMode::Buffer,
            Durability::Fsync => PersistMode::SyncData,
        };
        // Without a mode it would stay in this process.
        let mut rows =
            OwnedWriteBatch::with_capacity(self.database.clone(), batch.writes().len() + 1)
                .durability(Some(mode));
        let mut seal = Seal::new();
        for write in batch.writes() {
            seal.write(write);
            match write {
                Write::Put { table, key, value } => {
                    self.count(*table, key.len() + value.len());
                    rows.insert(self.keyspace(*table), &key[..], &value[..]);
                }
                Write::Delete { table, key } => {
                    self.count(*table, key.len());
                    rows.remove(self.keyspace(*table), &key[..]);
                }
            }
        }
        let link = seal.close(Link {
            epoch: self.epoch,
            number: self.link.number + 1,
            previous: self.link.checksum,
            floor: self.database.visible_seqno(),
            checksum: 0,
        });
        rows.insert(self.keyspace(Table::Meta), chain::KEY, link.encode());
        rows.commit().map_err(|error| self.commit_failure(&error))?;
        self.committed(link)
    }

    /// Writes down how far the store has come.
    fn committed(&mut self, link: Link) -> Result<(), StoreError> {
        self.link = link;
        self.commits += 1;
        self.progress.committed.store(link.number, Ordering::Release);
        if self.config.durability == Durability::Fsync {
            self.progress.synced.store(link.number, Ordering::Release);
        }
        self.write_tail()
    }

    fn write_tail(&mut self) -> Result<(), StoreError> {
        let mark = Mark {
            epoch: self.epoch,
            number: self.link.number,
            synced: self.progress.synced.load(Ordering::Acquire),
            boot: self.boot,
        };
        self.tail.write(&mark).map_err(|error| self.failure(&error))
    }

    fn count(&mut self, table: Table, bytes: usize) {
        self.unwritten[table as usize] += bytes as u64 + tuning::ROW_OVERHEAD;
    }

    /// Has the largest table written out if there is too much in memory.
    fn write_out(&mut self) -> Result<(), StoreError> {
        let total: u64 = self.unwritten.iter().sum();
        let (largest, bytes) =
            (0..).zip(self.unwritten).max_by_key(|(_, bytes)| *bytes).unwrap_or((0, 0));
        if total < tuning::MEMORY && bytes < self.memory_of_table {
            return Ok(());
        }
        let table: &Keyspace = &self.tables[largest];
        let since = Instant::now();
        while table.sealed_memtable_count() >= WAITING_MEMTABLES {
            if total < tuning::MEMORY_LIMIT {
                return Ok(());
            }
            self.check()?;
            // This is how fjall tells that its worker has failed.
            let alive = self.database.persist(PersistMode::Buffer);
            alive.map_err(|error| self.commit_failure(&error))?;
            if since.elapsed() > PATIENCE {
                return Err(self.failure(&"memory is not written out any more"));
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if self.keeper.write_out(table).is_ok() {
            self.unwritten[largest] = 0;
        }
        Ok(())
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        &self.tables[table as usize]
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.progress.failure.get() {
            None => Ok(()),
            Some(error) => Err(self.io(error.clone())),
        }
    }

    /// Nothing is done any more after this.
    fn failure(&self, error: &dyn fmt::Display) -> StoreError {
        self.progress.fail(error);
        self.io(error.to_string())
    }

    fn commit_failure(&self, error: &fjall::Error) -> StoreError {
        if let fjall::Error::Poisoned = error {
            // fjall tells only that something has failed before.
            return self.failure(&"writing tables failed: the disk is full, or failing");
        }
        self.failure(error)
    }

    fn io(&self, error: String) -> StoreError {
        StoreError::Io { path: home::shown(self.home.path()), error }
    }

    /// A row or block that cannot be read.
    fn unreadable(&self, table: Table, error: &fjall::Error) -> StoreError {
        self.progress.fail(error);
        if let fjall::Error::Storage(fjall::LsmError::ChecksumMismatch { .. }) = error {
            return StoreError::Damaged { table, what: "its block has another checksum" };
        }
        self.io(error.to_string())
    }
}

impl Store for FjallStore {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.write_out()?;
        self.commit_rows(batch)
    }

    fn lookup(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.keyspace(table).get(key) {
            // A copy: the row may be a part of a larger block.
            Ok(row) => Ok(row.map(|row| Bytes::copy_from_slice(&row))),
            Err(error) => Err(self.unreadable(table, &error)),
        }
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let start = prefix.max(from);
        if !start.starts_with(prefix) && start > prefix {
            return Ok(());
        }
        let end = after_prefix(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.keyspace(table).range::<&[u8], _>((Bound::Included(start), end));
        for row in rows {
            let (key, value) = row.into_inner().map_err(|error| self.unreadable(table, &error))?;
            let own = table == Table::Meta && *key == *chain::KEY;
            if !own && !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn room(&self) -> Room {
        if let Some((at, room)) = self.room.get()
            && at.elapsed() < ROOM_FOR
        {
            return room;
        }
        let room = self.home.room(self.config.reserve_bytes);
        self.room.set(Some((Instant::now(), room)));
        room
    }
}

impl Drop for FjallStore {
    fn drop(&mut self) {
        if self.check().is_err() || self.database.persist(PersistMode::SyncData).is_err() {
            return;
        }
        self.progress.synced.store(self.link.number, Ordering::Release);
        // Without it the next start checks less.
        self.write_tail().ok();
    }
}

impl fmt::Debug for FjallStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FjallStore")
            .field("path", &self.home.path())
            .field("config", &self.config)
            .field("commit", &self.link.number)
            .finish_non_exhaustive()
    }
}

/// The least key above all that start with `prefix`.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn open_database(rows: &Path) -> fjall::Result<Database> {
    Database::builder(rows)
        .worker_threads(1)
        .cache_size(tuning::CACHE)
        .max_journaling_size(tuning::JOURNALS)
        .open()
}

fn cannot_open(home: &Home, error: &fjall::Error) -> OpenError {
    if let fjall::Error::Io(error) = error {
        return failed(home.path(), error);
    }
    home::broken(home.path(), format!("its database cannot be opened: {error}"))
}
