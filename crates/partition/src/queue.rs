//! Where a session's queue stands.
//!
//! Owns the places: which are free, waiting, done. Invariant: the floor is the lowest place that is not
//! done, and a place is given to one message, ever. Does not hold messages: see `window`.

use crate::row::Cursor;

/// A queue, whether its session has a connection or not.
#[derive(Debug)]
pub(crate) struct Queue {
    cursor: Cursor,
    /// Places above the floor that are done.
    done: u64,
    /// Places below are in the store.
    committed: u64,
    /// Chunks of dropped messages that end below this place are deleted.
    dropped: u64,
}

/// Whether a place was waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is done now.
    Now,
    /// It was done before, or was never given.
    Before,
}

impl Default for Queue {
    fn default() -> Self {
        Self::load(Cursor::default(), None)
    }
}

impl Queue {
    /// As its row says. A connection may have been sent more since it was written, but not more than it takes.
    pub(crate) fn load(mut cursor: Cursor, receive_maximum: Option<u16>) -> Self {
        let done = cursor.done.iter().map(|(first, last)| last - first + 1).sum::<u64>();
        if let Some(most) = receive_maximum {
            let most = cursor.floor + done + u64::from(most);
            cursor.sent = cursor.sent.max(most.min(cursor.next) - 1);
        }
        let (committed, dropped) = (cursor.next, cursor.swept);
        Self { cursor, done, committed, dropped }
    }

    pub(crate) const fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Messages in it.
    pub(crate) const fn len(&self) -> u64 {
        self.cursor.next - self.cursor.floor - self.done
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.cursor.bytes
    }

    pub(crate) const fn floor(&self) -> u64 {
        self.cursor.floor
    }

    pub(crate) const fn next(&self) -> u64 {
        self.cursor.next
    }

    pub(crate) const fn committed(&self) -> u64 {
        self.committed
    }

    pub(crate) const fn sent(&self) -> u64 {
        self.cursor.sent
    }

    /// Gives a place to a message that counts for so many bytes.
    pub(crate) const fn push(&mut self, weight: u64) -> u64 {
        let place = self.cursor.next;
        self.cursor.next += 1;
        self.cursor.bytes += weight;
        place
    }

    /// All that has a place is in the store.
    pub(crate) const fn commit(&mut self) {
        self.committed = self.cursor.next;
    }

    /// A connection is given what has this place.
    pub(crate) fn send(&mut self, place: u64) {
        self.cursor.sent = self.cursor.sent.max(place);
    }

    /// Whether this place is over.
    pub(crate) fn is_done(&self, place: u64) -> bool {
        if place < self.cursor.floor {
            return true;
        }
        let runs = &self.cursor.done;
        let at = runs.partition_point(|(_, last)| *last < place);
        runs.get(at).is_some_and(|(first, _)| *first <= place)
    }

    /// Whether a place from `from` on and below `to` is not done.
    pub(crate) fn is_waiting_between(&self, from: u64, to: u64) -> bool {
        let mut place = from.max(self.cursor.floor);
        let at = self.cursor.done.partition_point(|run| run.1 < place);
        if let Some(run) = self.cursor.done.get(at).filter(|run| run.0 <= place) {
            place = run.1 + 1;
        }
        place < to
    }

    /// A message is over. `weight` is what it counts for, if that is known; else the average is taken.
    pub(crate) fn settle(&mut self, place: u64, weight: Option<u64>) -> Settled {
        if place >= self.cursor.next || self.is_done(place) {
            return Settled::Before;
        }
        let weight = weight.unwrap_or_else(|| self.cursor.bytes / self.len().max(1));
        if let Ok(at) = self.cursor.received.binary_search(&place) {
            self.cursor.received.remove(at);
        }
        self.mark(place, place);
        self.cursor.bytes =
            if self.len() == 0 { 0 } else { self.cursor.bytes.saturating_sub(weight) };
        Settled::Now
    }

    /// Adds a run of places, none of which is done.
    fn mark(&mut self, first: u64, last: u64) {
        let runs = &mut self.cursor.done;
        if first == self.cursor.floor {
            self.cursor.floor = last + 1;
            if let Some((_, end)) = runs.first().copied().filter(|run| run.0 == last + 1) {
                self.cursor.floor = end + 1;
                self.done -= end - last;
                runs.remove(0);
            }
            return;
        }
        self.done += last - first + 1;
        let at = runs.partition_point(|run| run.1 < first);
        let joins_before = at > 0 && runs[at - 1].1 + 1 == first;
        let joins_after = runs.get(at).is_some_and(|run| run.0 == last + 1);
        match (joins_before, joins_after) {
            (true, true) => {
                runs[at - 1].1 = runs[at].1;
                runs.remove(at);
            }
            (true, false) => runs[at - 1].1 = last,
            (false, true) => runs[at].0 = first,
            (false, false) => runs.insert(at, (first, last)),
        }
    }

    /// The client has a QoS 2 message. `Before` if it has no such message waiting.
    pub(crate) fn receive(&mut self, place: u64) -> Settled {
        if place >= self.cursor.next || self.is_done(place) {
            return Settled::Before;
        }
        match self.cursor.received.binary_search(&place) {
            Ok(_) => Settled::Before,
            Err(at) => {
                self.cursor.received.insert(at, place);
                Settled::Now
            }
        }
    }

    /// Whether the client has confirmed that it has it.
    pub(crate) fn is_received(&self, place: u64) -> bool {
        self.cursor.received.binary_search(&place).is_ok()
    }

    /// The oldest that no connection was given.
    pub(crate) fn oldest_unsent(&self) -> Option<u64> {
        let mut place = self.cursor.floor.max(self.cursor.sent + 1);
        let at = self.cursor.done.partition_point(|run| run.1 < place);
        if let Some(run) = self.cursor.done.get(at).filter(|run| run.0 <= place) {
            place = run.1 + 1;
        }
        (place < self.cursor.next).then_some(place)
    }

    /// Chunks that end below `place` are deleted.
    pub(crate) fn sweep(&mut self, place: u64) {
        self.cursor.swept = self.cursor.swept.max(place.min(self.cursor.floor));
        self.dropped = self.dropped.max(self.cursor.swept);
    }

    /// Chunks of dropped messages that end below `place` are deleted.
    pub(crate) fn sweep_dropped(&mut self, place: u64) {
        self.dropped = self.dropped.max(place);
    }

    /// From where on chunks of dropped messages may lie, and how many places those have at most.
    pub(crate) fn unswept(&self) -> (u64, u64) {
        let from = self.dropped.max(self.cursor.swept);
        let to = self.oldest_unsent().unwrap_or(self.cursor.next).min(self.committed);
        (from, to.saturating_sub(from))
    }

    /// All that is in it is over; its chunks are still to be deleted.
    pub(crate) fn end(&mut self) {
        self.cursor.floor = self.cursor.next;
        self.cursor.done.clear();
        self.cursor.received.clear();
        self.cursor.bytes = 0;
        self.done = 0;
    }
}
