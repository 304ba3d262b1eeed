//! Where a session's queue stands.
//!
//! Owns the places: which are free, waiting, done. Invariant: the floor is the lowest place that is not
//! done, and a place is given to one message, ever. Does not hold messages: see `window`.

use crate::row::Cursor;

/// A queue, whether its session has a connection or not.
#[derive(Debug)]
pub(crate) struct Queue {
    /// As in [`Cursor`].
    next: u64,
    floor: u64,
    swept: u64,
    bytes: u64,
    sent: u64,
    /// What most queues have none of, most of the time.
    apart: Option<Box<Apart>>,
    /// Places below are in the store.
    committed: u64,
    /// Chunks of dropped messages that end below this place are deleted.
    dropped: u64,
    /// The floor and what is done above it, as the row in the store says.
    stored: u64,
}

/// Places above the floor that are not simply waiting.
#[derive(Debug, Default)]
struct Apart {
    /// First and last of each run that is done, in order.
    done: Vec<(u64, u64)>,
    /// How many places those are.
    count: u64,
    /// PUBREC has come, in order.
    received: Vec<u64>,
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
        let count = cursor.done.iter().map(|(first, last)| last - first + 1).sum::<u64>();
        if let Some(most) = receive_maximum {
            let most = cursor.floor + count + u64::from(most);
            cursor.sent = cursor.sent.max(most.min(cursor.next) - 1);
        }
        let Cursor { next, floor, swept, bytes, sent, done, received } = cursor;
        let is_apart = !done.is_empty() || !received.is_empty();
        let apart = is_apart.then(|| Box::new(Apart { done, count, received }));
        let (committed, dropped, stored) = (next, swept, floor + count);
        Self { next, floor, swept, bytes, sent, apart, committed, dropped, stored }
    }

    /// As its row says it.
    pub(crate) fn cursor(&self) -> Cursor {
        let Self { next, floor, swept, bytes, sent, .. } = *self;
        let (done, received) = (self.runs().to_vec(), self.received().to_vec());
        Cursor { next, floor, swept, bytes, sent, done, received }
    }

    fn runs(&self) -> &[(u64, u64)] {
        self.apart.as_ref().map_or(&[], |apart| &apart.done)
    }

    /// Places whose PUBREC has come, in order.
    pub(crate) fn received(&self) -> &[u64] {
        self.apart.as_ref().map_or(&[], |apart| &apart.received)
    }

    /// Places above the floor that are done.
    fn done(&self) -> u64 {
        self.apart.as_ref().map_or(0, |apart| apart.count)
    }

    /// Gives memory back that nothing needs.
    pub(crate) fn tidy(&mut self) {
        if self.runs().is_empty() && self.received().is_empty() {
            self.apart = None;
        }
    }

    /// No chunk ends below this place.
    pub(crate) const fn swept(&self) -> u64 {
        self.swept
    }

    /// Messages in it.
    pub(crate) fn len(&self) -> u64 {
        self.next - self.floor - self.done()
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) const fn floor(&self) -> u64 {
        self.floor
    }

    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    pub(crate) const fn committed(&self) -> u64 {
        self.committed
    }

    pub(crate) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Gives a place to a message that counts for so many bytes.
    pub(crate) const fn push(&mut self, weight: u64) -> u64 {
        let place = self.next;
        self.next += 1;
        self.bytes += weight;
        place
    }

    /// All that has a place is in the store.
    pub(crate) const fn commit(&mut self) {
        self.committed = self.next;
    }

    /// Its row is in the store.
    pub(crate) fn store(&mut self) {
        self.stored = self.floor + self.done();
    }

    /// Whether one who opens the store again would take this place for sent: else it is not to be sent before
    /// the row is written.
    pub(crate) fn would_count_as_sent(&self, place: u64, receive_maximum: u16) -> bool {
        place < self.stored + u64::from(receive_maximum)
    }

    /// A connection is given what has this place.
    pub(crate) fn send(&mut self, place: u64) {
        self.sent = self.sent.max(place);
    }

    /// Whether this place is over.
    pub(crate) fn is_done(&self, place: u64) -> bool {
        if place < self.floor {
            return true;
        }
        let runs = self.runs();
        let at = runs.partition_point(|(_, last)| *last < place);
        runs.get(at).is_some_and(|(first, _)| *first <= place)
    }

    /// Whether a place from `from` on and below `to` is not done.
    pub(crate) fn is_waiting_between(&self, from: u64, to: u64) -> bool {
        let mut place = from.max(self.floor);
        let runs = self.runs();
        let at = runs.partition_point(|run| run.1 < place);
        if let Some(run) = runs.get(at).filter(|run| run.0 <= place) {
            place = run.1 + 1;
        }
        place < to
    }

    /// A message is over. `weight` is what it counts for, if that is known; else the average is taken.
    pub(crate) fn settle(&mut self, place: u64, weight: Option<u64>) -> Settled {
        if place >= self.next || self.is_done(place) {
            return Settled::Before;
        }
        let weight = weight.unwrap_or_else(|| self.bytes / self.len().max(1));
        if let Some(apart) = &mut self.apart
            && let Ok(at) = apart.received.binary_search(&place)
        {
            apart.received.remove(at);
        }
        self.mark(place, place);
        self.bytes = if self.len() == 0 { 0 } else { self.bytes.saturating_sub(weight) };
        Settled::Now
    }

    /// Adds a run of places, none of which is done.
    fn mark(&mut self, first: u64, last: u64) {
        if first == self.floor {
            self.floor = last + 1;
            if let Some(apart) = &mut self.apart
                && let Some((_, end)) = apart.done.first().copied().filter(|run| run.0 == last + 1)
            {
                self.floor = end + 1;
                apart.count -= end - last;
                apart.done.remove(0);
            }
            return;
        }
        let Apart { done: runs, count, .. } = &mut **self.apart.get_or_insert_default();
        *count += last - first + 1;
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
        if place >= self.next || self.is_done(place) {
            return Settled::Before;
        }
        let received = &mut self.apart.get_or_insert_default().received;
        match received.binary_search(&place) {
            Ok(_) => Settled::Before,
            Err(at) => {
                received.insert(at, place);
                Settled::Now
            }
        }
    }

    /// Whether the client has confirmed that it has it.
    pub(crate) fn is_received(&self, place: u64) -> bool {
        self.received().binary_search(&place).is_ok()
    }

    /// The oldest that no connection was given.
    pub(crate) fn oldest_unsent(&self) -> Option<u64> {
        let mut place = self.floor.max(self.sent + 1);
        let runs = self.runs();
        let at = runs.partition_point(|run| run.1 < place);
        if let Some(run) = runs.get(at).filter(|run| run.0 <= place) {
            place = run.1 + 1;
        }
        (place < self.next).then_some(place)
    }

    /// Chunks that end below `place` are deleted.
    pub(crate) fn sweep(&mut self, place: u64) {
        self.swept = self.swept.max(place.min(self.floor));
        self.dropped = self.dropped.max(self.swept);
    }

    /// Chunks of dropped messages that end below `place` are deleted.
    pub(crate) fn sweep_dropped(&mut self, place: u64) {
        self.dropped = self.dropped.max(place);
    }

    /// From where on chunks of dropped messages may lie, and how many places those have at most.
    pub(crate) fn unswept(&self) -> (u64, u64) {
        let from = self.dropped.max(self.swept);
        let to = self.oldest_unsent().unwrap_or(self.next).min(self.committed);
        (from, to.saturating_sub(from))
    }

    /// All that is in it is over; its chunks are still to be deleted.
    pub(crate) fn end(&mut self) {
        self.floor = self.next;
        self.apart = None;
        self.bytes = 0;
    }
}
