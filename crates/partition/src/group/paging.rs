//! Reading the queues of groups, and deleting those of groups that are over, a little at a time.

use bytes::Bytes;

use super::row::{GroupState, Queued};
use super::state::Dirty;
use super::{Call, Groups};
use crate::id::GroupId;
use crate::row;
use crate::store::{Store, StoreError, Table};

/// Messages read at a time, and about how many bytes.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

/// Messages deleted at a time.
const SWEEP: usize = 256;

impl Groups {
    /// Whether [`page`](Self::page) has something to do.
    pub(crate) fn has_pages(&self) -> bool {
        !self.hungry.is_empty() || !self.dying.is_empty()
    }

    /// Reads on in one queue that runs low, and deletes some of one that is over. What it changes goes into the
    /// next commit.
    pub(crate) fn page(
        &mut self,
        store: &dyn Store,
        call: &mut Call<'_>,
    ) -> Result<(), StoreError> {
        if let Some(group) = self.hungry.pop_first() {
            self.read(group, store, call)?;
        }
        if let Some((group, from)) = self.dying.first_key_value().map(|(id, from)| (*id, *from)) {
            self.sweep(group, from, store, call)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        id: GroupId,
        store: &dyn Store,
        call: &mut Call<'_>,
    ) -> Result<(), StoreError> {
        let Some(group) = self.groups.get(&id) else { return Ok(()) };
        let (mut messages, mut last) = (Vec::new(), Last::No);
        if group.is_hungry(&self.limits) {
            let from = group.queue.loaded.max(group.queue.floor.saturating_sub(1)) + 1;
            let found = rows(id, from, PAGE, store)?;
            last = found.1;
            for (key, value) in found.0 {
                let place = row::place_of(Table::GroupQueue, &key)?;
                messages.push((place, Queued::decode(&value)?));
            }
        }
        self.with(id, call, |group, cx| {
            for (place, message) in messages {
                group.load(place, message, cx);
            }
            if last == Last::Yes {
                group.queue.end_reached();
            }
            group.pump(cx);
        });
        Ok(())
    }

    fn sweep(
        &mut self,
        id: GroupId,
        from: u64,
        store: &dyn Store,
        call: &mut Call<'_>,
    ) -> Result<(), StoreError> {
        let batch = &mut call.changes.batch;
        let (rows, last) = rows(id, from, SWEEP, store)?;
        let mut next = from;
        for (key, _) in rows {
            next = row::place_of(Table::GroupQueue, &key)? + 1;
            batch.delete(Table::GroupQueue, key);
        }
        if last == Last::Yes {
            self.dying.remove(&id);
            batch.delete(Table::Group, row::owner_key(id.0).to_vec());
        } else {
            self.dying.insert(id, next);
        }
        Ok(())
    }

    /// Writes the rows of groups that have changed. To be called before each commit.
    pub(crate) fn flush(&mut self, call: &mut Call<'_>) {
        for id in self.dirty.drain(..) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let value = group.row(GroupState::Live).encode();
            group.queue.stored = group.queue.next - 1;
            group.dirty = Dirty::No;
            call.changes.batch.put(Table::Group, row::owner_key(id.0).to_vec(), value);
        }
        self.dying.extend(self.doomed.drain(..));
    }
}

/// Whether there are no rows behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    No,
    Yes,
}

fn rows(
    group: GroupId,
    from: u64,
    most: usize,
    store: &dyn Store,
) -> Result<(Vec<(Bytes, Bytes)>, Last), StoreError> {
    let (mut rows, mut bytes, mut last) = (Vec::new(), 0, Last::Yes);
    let from = row::place_key(group.0, from);
    store.scan(Table::GroupQueue, &row::owner_key(group.0), &from, &mut |key, value| {
        if rows.len() >= most || bytes >= PAGE_BYTES {
            last = Last::No;
            return false;
        }
        bytes += value.len();
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        true
    })?;
    Ok((rows, last))
}
