//! What a commit writes of a partition, and what is tidied up bit by bit.
//!
//! Invariant: after a flush the collected rows say all that is in memory. Deleting a long queue never makes
//! one large batch: a row marks the session until it is done.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Partition, delete, put};
use crate::body::Bodies;
use crate::changes::{Changes, Ready, Source};
use crate::group::Call;
use crate::id::{SessionId, UnixMillis};
use crate::row::{
    Chunk, Content, Entry, Meta, SessionKind, owner_key, partition_key, place_key, place_of,
};
use crate::session::Session;
use crate::store::{Store, StoreError, Table};
use crate::window::LoadedChunk;

/// Read and deleted at a time of one queue.
const DELETED: PageSize = PageSize { rows: 64, bytes: 256 << 10 };
/// Chunks of dropped messages are deleted when they may have so many messages.
const MOST_UNSWEPT: u64 = 1024;

/// Whether something is left to be tidied up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Something,
    Nothing,
}

impl Partition {
    /// Writes what has changed since the last time.
    pub(crate) fn flush(
        &mut self,
        store: &dyn Store,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let mut changed = std::mem::take(&mut self.changed);
        for id in changed.drain(..) {
            self.flush_session(id, store, changes)?;
        }
        self.changed = changed;
        self.groups.flush(&mut Call { now: UnixMillis(0), changes });
        self.bodies.flush(&mut changes.batch);
        self.lanes.flush(self.id, &mut changes.batch);
        self.once.commit();
        if let Some(numbers) = self.numbers.reserve() {
            let meta = Meta { numbers, ..Meta::default() };
            put(changes, Table::Meta, &partition_key(self.id), meta.encode());
        }
        Ok(())
    }

    fn flush_session(
        &mut self,
        id: SessionId,
        store: &dyn Store,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let Some(session) = self.sessions.find_mut(id) else { return Ok(()) };
        session.changed.listed = false;
        write_pending(session, changes);
        release_chunks(session, &mut self.bodies, store, changes)?;
        if session.queue.unswept().1 > MOST_UNSWEPT && !session.changed.sweeping {
            session.changed.sweeping = true;
            self.sweeping.push_back(id);
        }
        if std::mem::take(&mut session.changed.cursor) {
            session.changed.cursor_stored = true;
            session.queue.store();
            put(changes, Table::Cursor, &owner_key(id.0), session.queue.cursor().encode());
        }
        if std::mem::take(&mut session.changed.row) {
            write_row(session, changes);
        }
        announce(session, changes);
        Ok(())
    }

    /// Deletes some of the queues that nobody needs any more.
    pub(crate) fn tidy(
        &mut self,
        now: UnixMillis,
        store: &dyn Store,
        changes: &mut Changes,
    ) -> Result<Left, StoreError> {
        if let Some(id) = self.dying.pop_front()
            && self.delete_some(id, store, changes)? == Left::Something
        {
            self.dying.push_back(id);
        }
        if let Some(id) = self.sweeping.pop_front()
            && self.sweep_some(id, store, changes)? == Left::Something
        {
            self.sweeping.push_back(id);
        }
        self.retained.expire_some(now, &mut changes.batch);
        let left = !self.dying.is_empty() || !self.sweeping.is_empty();
        Ok(if left { Left::Something } else { Left::Nothing })
    }

    /// Whether [`tidy`](Self::tidy) would find a queue to delete.
    pub(crate) fn is_untidy(&self) -> bool {
        !self.dying.is_empty() || !self.sweeping.is_empty()
    }

    /// Deletes some keys that are not needed any more: to be called now and then, and again if there are more.
    pub(crate) fn expire_keys(
        &mut self,
        now: UnixMillis,
        store: &dyn Store,
        changes: &mut Changes,
    ) -> Result<Left, StoreError> {
        self.once.expire_some(now, store, &mut changes.batch)
    }

    /// Of the queue of a session that is over.
    fn delete_some(
        &mut self,
        id: SessionId,
        store: &dyn Store,
        changes: &mut Changes,
    ) -> Result<Left, StoreError> {
        let Some(session) = self.sessions.find_mut(id) else { return Ok(Left::Nothing) };
        let page = chunks_from(id, session.queue.swept(), DELETED, store)?;
        for (last, value) in page.rows {
            let bodies = bodies_of(&Chunk::decode(&value)?);
            delete_chunk(id, last, &bodies, &mut self.bodies, store, changes)?;
            session.queue.sweep(last + 1);
            session.changed.cursor = true;
        }
        Self::list(&mut self.changed, session);
        if page.left == Left::Something || session.pending.is_some() {
            return Ok(Left::Something);
        }
        let next = session.queue.next();
        session.queue.sweep(next);
        self.finish(id, changes);
        Ok(Left::Nothing)
    }

    /// Of what was dropped from a queue that goes on.
    fn sweep_some(
        &mut self,
        id: SessionId,
        store: &dyn Store,
        changes: &mut Changes,
    ) -> Result<Left, StoreError> {
        let Some(session) = self.sessions.find_mut(id) else { return Ok(Left::Nothing) };
        session.changed.sweeping = false;
        let (from, places) = session.queue.unswept();
        if session.kind == SessionKind::Dying || places == 0 {
            return Ok(Left::Nothing);
        }
        let end = from + places;
        // What is loaded is deleted when the floor passes it.
        let loaded = session.window.as_ref().map_or(0, |window| window.loaded());
        let page = chunks_from(id, from.max(loaded), DELETED, store)?;
        let mut left = page.left;
        for (last, value) in page.rows {
            if last >= end {
                left = Left::Nothing;
                break;
            }
            let entries = Chunk::decode(&value)?;
            if entries.iter().all(|entry| session.queue.is_done(entry.place)) {
                let bodies = bodies_of(&entries);
                delete_chunk(id, last, &bodies, &mut self.bodies, store, changes)?;
            }
            session.queue.sweep_dropped(last + 1);
        }
        session.changed.sweeping = left == Left::Something;
        Ok(left)
    }
}

/// Writes the chunk that was put together.
fn write_pending(session: &mut Session, changes: &mut Changes) {
    let Some(pending) = session.pending.take() else { return };
    let key = place_key(session.id.0, pending.last);
    put(changes, Table::Inbox, &key, pending.chunk.finish());
    session.queue.commit();
    if let Some(window) = &mut session.window
        && window.loaded() > pending.last
    {
        let bodies = SmallVec::from_vec(pending.bodies);
        window.push_chunk(LoadedChunk { last: pending.last, bodies });
    }
}

/// Deletes the rows that the floor has passed.
pub(super) fn release_chunks(
    session: &mut Session,
    bodies: &mut Bodies,
    store: &dyn Store,
    changes: &mut Changes,
) -> Result<(), StoreError> {
    let floor = session.queue.floor();
    let Some(window) = &mut session.window else { return Ok(()) };
    while let Some(chunk) = window.pop_chunk(floor) {
        delete_chunk(session.id, chunk.last, &chunk.bodies, bodies, store, changes)?;
        session.queue.sweep(chunk.last + 1);
        session.changed.cursor = true;
    }
    Ok(())
}

fn delete_chunk(
    id: SessionId,
    last: u64,
    of: &[u64],
    bodies: &mut Bodies,
    store: &dyn Store,
    changes: &mut Changes,
) -> Result<(), StoreError> {
    delete(changes, Table::Inbox, &place_key(id.0, last));
    of.iter().try_for_each(|body| bodies.release(*body, store))
}

fn bodies_of(entries: &[Entry]) -> SmallVec<[u64; 2]> {
    let body = |content: &Content| match content {
        Content::Body(body) => Some(*body),
        Content::Inline(_) => None,
    };
    entries.iter().filter_map(|entry| body(&entry.content)).collect()
}

/// Some chunks of a queue, with their last places.
pub(super) struct Page {
    pub(super) rows: Vec<(u64, Bytes)>,
    /// Whether there may be more.
    pub(super) left: Left,
}

/// About how much of a queue is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageSize {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// Chunks of a queue that end at `place` or behind.
pub(super) fn chunks_from(
    id: SessionId,
    place: u64,
    most: PageSize,
    store: &dyn Store,
) -> Result<Page, StoreError> {
    let (mut rows, mut bytes, mut damaged) = (Vec::new(), 0, None);
    let mut left = Left::Nothing;
    let (prefix, from) = (owner_key(id.0), place_key(id.0, place));
    store.scan(Table::Inbox, &prefix, &from, &mut |key, value| {
        match place_of(Table::Inbox, key) {
            Ok(last) => rows.push((last, Bytes::copy_from_slice(value))),
            Err(error) => damaged = Some(error),
        }
        bytes += value.len();
        if rows.len() >= most.rows || bytes >= most.bytes {
            left = Left::Something;
        }
        damaged.is_none() && left == Left::Nothing
    })?;
    damaged.map_or(Ok(Page { rows, left }), Err)
}

/// Writes the row of a session that needs one.
fn write_row(session: &mut Session, changes: &mut Changes) {
    let key = owner_key(session.id.0);
    let needed = session.kind != SessionKind::Clean || session.will().is_some();
    if needed {
        put(changes, Table::Session, &key, session.row().encode());
    } else if session.changed.stored {
        delete(changes, Table::Session, &key);
    }
    session.changed.stored = needed;
}

/// Tells of what there is to take.
pub(super) fn announce(session: &mut Session, changes: &mut Changes) {
    let (deliverable, owed) = (session.is_deliverable(), session.is_owed());
    let (Some(window), Some(holder)) = (&mut session.window, session.holder) else { return };
    if deliverable && !window.announced {
        window.announced = true;
        changes.ready.push(Ready { proxy: holder.proxy, what: Source::Session(session.id) });
    }
    if owed && !window.scanning {
        let short = session.queue.len() < u64::from(session.receive_maximum).min(128);
        if short && !session.changed.full && window.has_few_qos0() {
            window.scanning = true;
            changes.scans.push(session.id);
        }
    }
}
