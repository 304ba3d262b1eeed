//! Rows in memory, for tests.
//!
//! Owns the rows of all stores that were made from one. Invariant: they are those of the last
//! commit that succeeded, so another store over them is what a process finds after a crash. Nothing is
//! durable.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::store::{Batch, Room, Store, StoreError, Table, Write};

/// Rows that end with the last store that has them. A clone is another view of the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    rows: BTreeMap<(Table, Bytes), Bytes>,
    commits: u64,
    /// Commits until all fail.
    left: Option<u64>,
    low: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What a process finds that opens the store again: the rows as they were committed. This store and the new
    /// one go separate ways from here.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let rows = self.lock().rows.clone();
        Self { shared: Arc::new(Mutex::new(Shared { rows, ..Shared::default() })) }
    }

    /// Lets `commits` more succeed; those after fail.
    pub fn fail_after(&self, commits: u64) {
        self.lock().left = Some(commits);
    }

    /// What [`Store::room`] says from now on.
    pub fn set_room(&self, room: Room) {
        self.lock().low = room == Room::Low;
    }

    /// Commits so far.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// All rows, to compare stores.
    #[must_use]
    pub fn rows(&self) -> Vec<(Table, Bytes, Bytes)> {
        let shared = self.lock();
        shared
            .rows
            .iter()
            .map(|((table, key), value)| (*table, key.clone(), value.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A test that panicked meanwhile has failed already.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut shared = self.lock();
        match &mut shared.left {
            Some(0) => {
                return Err(StoreError::Io { path: "memory".into(), error: "told to fail".into() });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        shared.commits += 1;
        for write in batch.writes() {
            match write {
                Write::Put { table, key, value } => {
                    shared.rows.insert((*table, key.clone()), value.clone());
                }
                Write::Delete { table, key } => {
                    shared.rows.remove(&(*table, key.clone()));
                }
            }
        }
        Ok(())
    }

    fn lookup(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.lock().rows.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut after = Bound::Included((table, Bytes::copy_from_slice(prefix.max(from))));
        // Row by row, for `visit` may use the store.
        loop {
            let shared = self.lock();
            let row = shared.rows.range((after, Bound::Unbounded)).next();
            let Some((place, value)) = row.map(|(place, value)| (place.clone(), value.clone()))
            else {
                return Ok(());
            };
            drop(shared);
            if place.0 != table || !place.1.starts_with(prefix) || !visit(&place.1, &value) {
                return Ok(());
            }
            after = Bound::Excluded(place);
        }
    }

    fn room(&self) -> Room {
        if self.lock().low { Room::Low } else { Room::Enough }
    }
}
