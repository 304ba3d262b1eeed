//! The queue of a group: its numbers, and the part of it that is in memory.
//!
//! Owns a window: the messages up to some place that nobody has been given. What comes behind is in
//! the store only, and is read when the window runs low. Invariant: every message up to that place is in the
//! window, with a member, or done.

use std::collections::BTreeMap;

use super::row::Queued;
use crate::config::QueueLimits;
use crate::id::SessionId;

/// Most messages in a window, and about how many bytes.
const WINDOW: usize = 1024;
const WINDOW_BYTES: usize = 4 << 20;

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The place of the next message.
    pub(crate) next: u64,
    /// No message has a place below. Not kept exact: it spares a reader what is long deleted.
    pub(crate) floor: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// The last place that was looked at.
    pub(crate) loaded: u64,
    /// Messages up to this place are in the store, or were; those behind come with the next commit.
    pub(crate) stored: u64,
    /// Messages that wait for a member, by place.
    pub(crate) window: BTreeMap<u64, Waiting>,
    window_bytes: usize,
    /// Messages behind the window that a member has had since before the store was opened, by place.
    pub(crate) claims: BTreeMap<u64, Claim>,
}

/// A message that waits for a member.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) queued: Queued,
    /// The only member that is to get it.
    pub(crate) reserved_for: Option<SessionId>,
}

/// A message that a member has had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) session: SessionId,
    pub(crate) state: ClaimState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimState {
    Unconfirmed,
    Confirmed,
}

impl Queue {
    /// One of which nothing is in memory.
    pub(crate) fn new(floor: u64, next: u64) -> Self {
        Self {
            next,
            floor,
            count: 0,
            bytes: 0,
            loaded: floor.saturating_sub(1),
            stored: next.saturating_sub(1),
            window: BTreeMap::new(),
            window_bytes: 0,
            claims: BTreeMap::new(),
        }
    }

    /// There is nothing more in the store.
    pub(crate) fn end_reached(&mut self) {
        self.loaded = self.loaded.max(self.stored);
        let loaded = self.loaded;
        self.claims.retain(|place, _| *place > loaded);
    }

    /// Whether nothing of it is in the store only.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded + 1 >= self.next
    }

    pub(crate) fn has_room(&self) -> bool {
        self.window.len() < WINDOW && self.window_bytes < WINDOW_BYTES
    }

    /// Whether it pays to read more.
    pub(crate) fn runs_low(&self) -> bool {
        self.window.len() <= WINDOW / 2 && self.window_bytes <= WINDOW_BYTES / 2
    }

    pub(crate) fn insert(&mut self, place: u64, waiting: Waiting) {
        self.window_bytes += waiting.queued.weight();
        self.window.insert(place, waiting);
    }

    pub(crate) fn take(&mut self, place: u64) -> Option<Waiting> {
        let waiting = self.window.remove(&place)?;
        self.window_bytes -= waiting.queued.weight();
        Some(waiting)
    }

    pub(crate) fn first(&self) -> Option<(u64, &Waiting)> {
        self.window.first_key_value().map(|(place, waiting)| (*place, waiting))
    }

    pub(crate) fn count_in(&mut self, queued: &Queued) {
        self.count += 1;
        self.bytes += queued.weight() as u64;
    }

    pub(crate) fn count_out(&mut self, queued: &Queued) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(queued.weight() as u64);
    }

    /// Whether there is no room for one more.
    pub(crate) fn is_full(&self, limits: &QueueLimits) -> bool {
        self.count >= limits.messages || self.bytes >= limits.bytes
    }
}
