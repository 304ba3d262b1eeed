//! What a subscriber has received from one publisher: the judge of order, loss and repetition.
//!
//! A sequence number is judged once, when it arrives, against all that arrived before. Memory is
//! bounded: at most [`MOST_GAPS`] gaps are remembered, and what arrives late for a forgotten gap
//! counts as a duplicate. It knows nothing of sockets or of time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Gaps a track remembers.
const MOST_GAPS: usize = 65_536;
/// Sequence numbers of one publisher that a [`Seen`] tells apart at a time.
const SEEN_SPAN: u64 = 1 << 20;

/// How a message stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// New, and after all that came before it.
    InOrder,
    /// New, but a later one of its publisher came first.
    OutOfOrder,
    /// Received before.
    Duplicate,
    /// Nobody in this run can have sent it.
    Foreign,
}

/// Counts of verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    /// Messages received once or more.
    pub(super) unique: u64,
    pub(super) duplicates: u64,
    pub(super) out_of_order: u64,
    pub(super) foreign: u64,
}

impl Verdicts {
    /// Counts one more.
    pub(super) const fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::InOrder => self.unique += 1,
            Verdict::OutOfOrder => {
                self.unique += 1;
                self.out_of_order += 1;
            }
            Verdict::Duplicate => self.duplicates += 1,
            Verdict::Foreign => self.foreign += 1,
        }
    }

    /// Adds the counts of another subscriber.
    pub(super) const fn add(&mut self, other: Self) {
        self.unique += other.unique;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.foreign += other.foreign;
    }
}

/// The sequence numbers one subscriber has received from one publisher.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// One more than the highest received.
    next: u64,
    /// Ranges below `next` that have not been received: start to one past the end.
    gaps: BTreeMap<u64, u64>,
}

impl Track {
    /// Judges `sequence` of a publisher that has sent the numbers below `sent`, when this
    /// subscriber must receive all of them.
    pub(super) fn judge(&mut self, sequence: u64, sent: u64) -> Verdict {
        if sequence >= sent {
            return Verdict::Foreign;
        }
        if sequence >= self.next {
            if sequence > self.next {
                self.remember(self.next, sequence);
            }
            self.next = sequence + 1;
            return Verdict::InOrder;
        }
        if self.fill(sequence) { Verdict::OutOfOrder } else { Verdict::Duplicate }
    }

    /// Judges `sequence` when other members of a shared group may receive the rest; `seen` is
    /// the group's.
    pub(super) fn judge_shared(&mut self, sequence: u64, sent: u64, seen: &Seen) -> Verdict {
        if sequence >= sent {
            return Verdict::Foreign;
        }
        if !seen.insert(sequence) {
            return Verdict::Duplicate;
        }
        if sequence < self.next {
            return Verdict::OutOfOrder;
        }
        self.next = sequence + 1;
        Verdict::InOrder
    }

    /// One more than the highest sequence number received.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    fn remember(&mut self, start: u64, end: u64) {
        if self.gaps.len() >= MOST_GAPS {
            self.gaps.pop_first();
        }
        self.gaps.insert(start, end);
    }

    /// Takes `sequence` out of its gap; false when it lies in none.
    fn fill(&mut self, sequence: u64) -> bool {
        let Some((&start, &end)) = self.gaps.range(..=sequence).next_back() else { return false };
        if sequence >= end {
            return false;
        }
        self.gaps.remove(&start);
        if start < sequence {
            self.gaps.insert(start, sequence);
        }
        if sequence + 1 < end {
            self.gaps.insert(sequence + 1, end);
        }
        true
    }
}

/// The sequence numbers of one publisher that any member of a shared group has received: a ring
/// of bits, cleared by the publisher half a turn ahead. A repetition that comes more than half a
/// turn late is not recognised as one.
#[derive(Debug)]
pub(super) struct Seen(Vec<AtomicU64>);

impl Seen {
    pub(super) fn new() -> Self {
        Self((0..SEEN_SPAN / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// Makes room for the numbers half a turn ahead of `sequence`; the publisher calls it for
    /// every number it uses, before it sends it.
    pub(super) fn advance(&self, sequence: u64) {
        if sequence.is_multiple_of(64) {
            self.word(sequence + SEEN_SPAN / 2).store(0, Ordering::Relaxed);
        }
    }

    /// Notes `sequence`; false when it was noted before.
    fn insert(&self, sequence: u64) -> bool {
        let bit = 1_u64 << (sequence % 64);
        self.word(sequence).fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    fn word(&self, sequence: u64) -> &AtomicU64 {
        let at = usize::try_from(sequence % SEEN_SPAN / 64).expect("below the span");
        self.0.get(at).expect("the ring has a word for every number of its span")
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Duplicate, Foreign, InOrder, OutOfOrder};
    use super::*;

    fn verdicts(sequences: &[u64], sent: u64) -> Vec<Verdict> {
        let mut track = Track::default();
        sequences.iter().map(|&sequence| track.judge(sequence, sent)).collect()
    }

    #[test]
    fn messages_in_order_pass() {
        assert_eq!(verdicts(&[0, 1, 2, 3], 4), [InOrder; 4]);
    }

    #[test]
    fn two_messages_swapped_are_one_out_of_order_and_none_lost() {
        assert_eq!(verdicts(&[0, 2, 1, 3], 4), [InOrder, InOrder, OutOfOrder, InOrder]);
    }

    #[test]
    fn a_message_twice_is_a_duplicate_wherever_it_comes_again() {
        assert_eq!(
            verdicts(&[0, 0, 1, 2, 0, 2], 3),
            [InOrder, Duplicate, InOrder, InOrder, Duplicate, Duplicate]
        );
    }

    #[test]
    fn a_late_message_twice_is_out_of_order_once_and_a_duplicate_then() {
        assert_eq!(
            verdicts(&[9, 4, 4, 0, 8, 4], 10),
            [InOrder, OutOfOrder, Duplicate, OutOfOrder, OutOfOrder, Duplicate]
        );
    }

    #[test]
    fn a_number_never_sent_is_foreign_and_spoils_nothing() {
        assert_eq!(verdicts(&[0, 1_000_000, 2, 1], 3), [InOrder, Foreign, InOrder, OutOfOrder]);
    }

    #[test]
    fn a_skipped_message_is_missing_from_the_unique_ones() {
        let mut track = Track::default();
        let mut verdicts = Verdicts::default();
        for sequence in [0, 1, 3, 4, 3] {
            verdicts.count(track.judge(sequence, 6));
        }
        assert_eq!(verdicts, Verdicts { unique: 4, duplicates: 1, ..Verdicts::default() });
    }

    #[test]
    fn gaps_are_bounded() {
        let mut track = Track::default();
        for odd in 0..2 * MOST_GAPS as u64 {
            track.judge(2 * odd + 1, u64::MAX);
        }
        assert_eq!(track.gaps.len(), MOST_GAPS);
    }

    #[test]
    fn members_of_a_group_share_what_was_seen() {
        let seen = Seen::new();
        let (mut one, mut two) = (Track::default(), Track::default());
        assert_eq!(one.judge_shared(0, 9, &seen), InOrder);
        assert_eq!(two.judge_shared(1, 9, &seen), InOrder);
        assert_eq!(one.judge_shared(1, 9, &seen), Duplicate);
        assert_eq!(one.judge_shared(5, 9, &seen), InOrder);
        assert_eq!(one.judge_shared(4, 9, &seen), OutOfOrder);
        assert_eq!(two.judge_shared(9, 9, &seen), Foreign);
    }

    #[test]
    fn the_ring_of_a_group_turns() {
        let seen = Seen::new();
        let mut track = Track::default();
        for sequence in 0..3 * SEEN_SPAN {
            seen.advance(sequence);
            assert_eq!(track.judge_shared(sequence, u64::MAX, &seen), InOrder);
        }
    }
}
