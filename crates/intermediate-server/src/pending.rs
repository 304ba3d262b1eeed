//! What one origin waits for.
//!
//! Owns, per lane, the QoS >= 1 messages that are not yet everywhere they must be, the barriers, and
//! the credit. Invariant: a number is acknowledged only when that message and all before it on the
//! lane's way through here have been released by every endpoint that holds them back; and what one of
//! them has refused is told as refused before it is told as acknowledged.
//! Lives as long as one publish stream: a new stream starts with nothing, and the origin sends again
//! what was not acknowledged.

use std::collections::{HashMap, VecDeque};

use cluster_rpc::frame::{LANES, Lane};
use mqtt_codec::ReasonCode;

use crate::relay::Violation;
use crate::routes::Slot;

/// Who waits for a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Where the origin is, and which of its publish streams this belongs to.
    pub(crate) slot: Slot,
    pub(crate) stream: u64,
    pub(crate) wait: Wait,
    /// Why the endpoint does not take the message, if it has said so.
    pub(crate) refused: Option<ReasonCode>,
}

impl Hold {
    pub(crate) fn new(slot: Slot, stream: u64, wait: Wait) -> Self {
        Self { slot, stream, wait, refused: None }
    }
}

/// For what it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// To acknowledge the message at this place of the lane; places count from the stream's start.
    Message { lane: Lane, place: u64 },
    /// To answer this barrier; they count from the stream's start.
    Barrier(u64),
}

/// At most this many barriers are unanswered at a time.
const MOST_BARRIERS: usize = 4 * LANES;

/// Refusals in one frame.
const MOST_REFUSED: usize = 1_000;

/// The first lane of each word of bits.
const FIRST_OF_WORD: [u8; LANES / 64] = [0, 64, 128, 192];

/// The pending acknowledgements of one publish stream.
#[derive(Debug)]
pub(crate) struct Pending {
    lanes: Box<[LaneQueue]>,
    /// A bit per lane with something new to acknowledge.
    dirty: [u64; LANES / 64],
    waiting: usize,
    barriers: HashMap<u64, Barrier>,
    next_barrier: u64,
    answered: VecDeque<u64>,
    /// Released and refused, not told yet: no more than the credit lets an origin send.
    refused: VecDeque<(Lane, u64, ReasonCode)>,
}

#[derive(Debug, Default)]
struct LaneQueue {
    /// Place of the first entry.
    first: u64,
    entries: VecDeque<Waiting>,
    acked: u64,
}

#[derive(Debug)]
struct Waiting {
    seq: u64,
    outstanding: u32,
    refused: Option<ReasonCode>,
}

#[derive(Debug)]
struct Barrier {
    id: u64,
    outstanding: u32,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self {
            lanes: (0..LANES).map(|_| LaneQueue::default()).collect(),
            dirty: [0; LANES / 64],
            waiting: 0,
            barriers: HashMap::new(),
            next_barrier: 0,
            answered: VecDeque::new(),
            refused: VecDeque::new(),
        }
    }

    /// Messages and barriers somebody holds back.
    pub(crate) fn len(&self) -> usize {
        self.waiting + self.barriers.len()
    }

    /// Whether there is something to tell the origin.
    pub(crate) fn has_news(&self) -> bool {
        !self.answered.is_empty() || self.dirty.iter().any(|&bits| bits != 0)
    }

    /// The place the next message of `lane` will have.
    pub(crate) fn next_place(&self, lane: Lane) -> u64 {
        let queue = &self.lanes[usize::from(lane.0)];
        queue.first + queue.entries.len() as u64
    }

    /// A message was put into the outboxes of `outstanding` endpoints that hold it back.
    pub(crate) fn push(&mut self, lane: Lane, seq: u64, outstanding: u32) {
        let queue = &mut self.lanes[usize::from(lane.0)];
        if outstanding == 0 && queue.entries.is_empty() {
            queue.acked = queue.acked.max(seq);
            self.mark(lane);
            return;
        }
        queue.entries.push_back(Waiting { seq, outstanding, refused: None });
        self.waiting += 1;
    }

    /// An endpoint no longer holds the message at `place` back: it has it, or it has `refused` it. Of
    /// several refusals the first counts.
    pub(crate) fn release(&mut self, lane: Lane, place: u64, refused: Option<ReasonCode>) {
        let queue = &mut self.lanes[usize::from(lane.0)];
        let at = place.checked_sub(queue.first).and_then(|at| usize::try_from(at).ok());
        let Some(waiting) = at.and_then(|at| queue.entries.get_mut(at)) else {
            return;
        };
        waiting.outstanding = waiting.outstanding.saturating_sub(1);
        waiting.refused = waiting.refused.or(refused);
        let mut news = false;
        while let Some(ready) = queue.entries.pop_front_if(|entry| entry.outstanding == 0) {
            queue.first += 1;
            queue.acked = queue.acked.max(ready.seq);
            self.refused.extend(ready.refused.map(|reason| (lane, ready.seq, reason)));
            self.waiting -= 1;
            news = true;
        }
        if news {
            self.mark(lane);
        }
    }

    /// The number the next barrier will have.
    pub(crate) fn next_barrier(&self) -> Result<u64, Violation> {
        match self.barriers.len() + self.answered.len() {
            open if open < MOST_BARRIERS => Ok(self.next_barrier),
            _ => Err(Violation::TooManyBarriers(MOST_BARRIERS)),
        }
    }

    /// A barrier waits for `outstanding` endpoints.
    pub(crate) fn push_barrier(&mut self, id: u64, outstanding: u32) {
        match outstanding {
            0 => self.answered.push_back(id),
            _ => {
                self.barriers.insert(self.next_barrier, Barrier { id, outstanding });
            }
        }
        self.next_barrier += 1;
    }

    /// An endpoint has passed the barrier with this number.
    pub(crate) fn release_barrier(&mut self, number: u64) {
        let Some(barrier) = self.barriers.get_mut(&number) else {
            return;
        };
        barrier.outstanding = barrier.outstanding.saturating_sub(1);
        if barrier.outstanding == 0 {
            let id = barrier.id;
            self.barriers.remove(&number);
            self.answered.push_back(id);
        }
    }

    /// Messages that were refused. To be told until none is left before what is acknowledged is: that
    /// covers them.
    pub(crate) fn take_refused(&mut self) -> Vec<(Lane, u64, ReasonCode)> {
        let count = self.refused.len().min(MOST_REFUSED);
        self.refused.drain(..count).collect()
    }

    /// Every lane with something new, and up to where it is acknowledged.
    pub(crate) fn take_acked(&mut self) -> Vec<(Lane, u64)> {
        let count: u32 = self.dirty.iter().map(|bits| bits.count_ones()).sum();
        let mut acked = Vec::with_capacity(count as usize);
        for (first, bits) in FIRST_OF_WORD.into_iter().zip(&mut self.dirty) {
            while *bits != 0 {
                let lane = Lane(first + bits.trailing_zeros() as u8);
                *bits &= *bits - 1;
                acked.push((lane, self.lanes[usize::from(lane.0)].acked));
            }
        }
        acked
    }

    /// The id of a barrier that was passed.
    pub(crate) fn take_barrier(&mut self) -> Option<u64> {
        self.answered.pop_front()
    }

    fn mark(&mut self, lane: Lane) {
        self.dirty[usize::from(lane.0) / 64] |= 1 << (lane.0 % 64);
    }
}

/// How much an origin may send, in totals since its stream was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    received: Amount,
    granted: Amount,
}

/// Messages and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// In messages.
    pub messages: u64,
    /// In bytes, as [`cluster_rpc::frame::Routed::weight`] counts them.
    pub bytes: u64,
}

impl Credit {
    /// A batch has come. It may exceed the credit, if it was begun within: an origin with a byte
    /// left may send a message of any size.
    pub(crate) fn receive(&mut self, batch: Amount) -> Result<(), Violation> {
        let used_up = self.received.messages >= self.granted.messages
            || self.received.bytes >= self.granted.bytes;
        if used_up && batch.messages > 0 {
            return Err(Violation::CreditExceeded);
        }
        self.received.messages = self.received.messages.saturating_add(batch.messages);
        self.received.bytes = self.received.bytes.saturating_add(batch.bytes);
        Ok(())
    }

    /// The new totals, if at least half of `window` can be granted anew.
    pub(crate) fn grant(&mut self, window: Amount) -> Option<Amount> {
        let next = Amount {
            messages: self.received.messages.saturating_add(window.messages),
            bytes: self.received.bytes.saturating_add(window.bytes),
        };
        let worth_a_frame = next.messages - self.granted.messages.min(next.messages)
            >= window.messages.div_ceil(2)
            || next.bytes - self.granted.bytes.min(next.bytes) >= window.bytes.div_ceil(2);
        if !worth_a_frame {
            return None;
        }
        // Never taken back, also where a batch went beyond.
        self.granted.messages = self.granted.messages.max(next.messages);
        self.granted.bytes = self.granted.bytes.max(next.bytes);
        Some(self.granted)
    }
}
