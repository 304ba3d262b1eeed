//! How far a message stream has come: what a publisher has sent and what each of its subscribers
//! has received, shared between the threads that carry them.
//!
//! Each counter has one writer. From them follows the window: how many more messages may be sent
//! before the slowest subscriber (of a shared group: the group) has caught up, so that no bounded
//! queue of the broker has to drop. It decides nothing about order; that is `check`'s.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use super::check::Seen;

/// Whether every subscriber receives everything, or one of a group each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    Everyone,
    Group,
}

/// Where a publisher lives: its thread, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) worker: usize,
    pub(super) peer: usize,
}

/// The publishers and subscribers of one topic.
#[derive(Debug)]
pub(super) struct Flow {
    /// Number of the first publisher; the others follow.
    pub(super) first_publisher: u32,
    pub(super) lanes: Vec<Lane>,
}

impl Flow {
    /// The lane of the publisher with this number; `None` when it is not of this flow.
    pub(super) fn lane_of(&self, publisher: u32) -> Option<usize> {
        let lane = publisher.checked_sub(self.first_publisher)? as usize;
        (lane < self.lanes.len()).then_some(lane)
    }
}

/// One publisher's messages on their way to its subscribers.
#[derive(Debug)]
pub(super) struct Lane {
    /// Most messages on the way; 0 for no limit.
    window: u64,
    pub(super) home: Home,
    /// Messages sent; written by the publisher before it sends them.
    sent: AtomicU64,
    /// Per subscriber: everyone, one past the highest number received; group, the count.
    reached: Vec<AtomicU64>,
    /// Set by the publisher when it waits for the window.
    waiting: AtomicBool,
    /// Everyone: numbers below count as received; group: messages that count as received.
    forgiven: AtomicU64,
    /// What any member of a group has received.
    pub(super) seen: Option<Seen>,
}

impl Lane {
    pub(super) fn new(sharing: Sharing, subscribers: usize, window: u64, home: Home) -> Self {
        Self {
            window,
            home,
            sent: AtomicU64::new(0),
            reached: (0..subscribers).map(|_| AtomicU64::new(0)).collect(),
            waiting: AtomicBool::new(false),
            forgiven: AtomicU64::new(0),
            seen: (sharing == Sharing::Group).then(Seen::new),
        }
    }

    /// Messages sent by now.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Notes what is about to be sent; for the publisher alone.
    pub(super) fn advance(&self, sent: u64) {
        self.sent.store(sent, Ordering::Release);
    }

    /// Notes how far `subscriber` has come; for that subscriber alone.
    pub(super) fn reach(&self, subscriber: usize, reached: u64) {
        if let Some(cell) = self.reached.get(subscriber) {
            cell.store(reached, Ordering::Release);
        }
    }

    /// Messages received once or more times each, as the window sees it.
    fn progress(&self) -> u64 {
        let cells = self.reached.iter().map(|cell| cell.load(Ordering::Acquire));
        let forgiven = self.forgiven.load(Ordering::Relaxed);
        match self.seen {
            None => cells.min().unwrap_or(0).max(forgiven),
            Some(_) => cells.fold(forgiven, u64::wrapping_add),
        }
    }

    /// How many more messages may be sent now.
    pub(super) fn open(&self) -> u64 {
        if self.window == 0 {
            return u64::MAX;
        }
        self.window.saturating_sub(self.sent().saturating_sub(self.progress()))
    }

    /// Messages that must be allowed before a waiting publisher is worth waking.
    pub(super) fn worth_waking(&self) -> u64 {
        (self.window / 2).max(1)
    }

    /// The publisher declares that it waits; false when the window has opened meanwhile.
    pub(super) fn wait(&self) -> bool {
        self.waiting.store(true, Ordering::SeqCst);
        // Pairs with the fence in `settle`: either the publisher sees the progress, or the
        // subscriber sees the publisher waiting.
        fence(Ordering::SeqCst);
        self.open() < self.worth_waking()
    }

    /// True when a subscriber must wake the publisher; it then counts as woken. To be asked
    /// after [`settle`].
    pub(super) fn take_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
            && self.open() >= self.worth_waking()
            && self.waiting.swap(false, Ordering::SeqCst)
    }

    /// Counts all that is on the way as received, so that messages lost for good do not hold the
    /// publisher for ever.
    pub(super) fn forgive(&self) {
        match self.seen {
            None => self.forgiven.store(self.sent(), Ordering::Relaxed),
            Some(_) => {
                let missing = self.sent().saturating_sub(self.progress());
                self.forgiven.fetch_add(missing, Ordering::Relaxed);
            }
        }
    }
}

/// Makes what a subscriber has noted seen before it asks which publishers wait.
pub(super) fn settle() {
    fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Home = Home { worker: 0, peer: 0 };

    #[test]
    fn the_slowest_subscriber_bounds_what_may_be_sent() {
        let lane = Lane::new(Sharing::Everyone, 2, 10, HOME);
        lane.advance(10);
        assert_eq!(lane.open(), 0);
        lane.reach(0, 10);
        assert_eq!(lane.open(), 0);
        lane.reach(1, 4);
        assert_eq!(lane.open(), 4);
    }

    #[test]
    fn the_members_of_a_group_together_bound_what_may_be_sent() {
        let lane = Lane::new(Sharing::Group, 2, 10, HOME);
        lane.advance(10);
        lane.reach(0, 3);
        lane.reach(1, 4);
        assert_eq!(lane.open(), 7);
    }

    #[test]
    fn a_publisher_is_woken_once_and_only_when_half_the_window_is_open() {
        let lane = Lane::new(Sharing::Everyone, 1, 10, HOME);
        lane.advance(10);
        assert!(lane.wait());
        lane.reach(0, 4);
        assert!(!lane.take_waiting());
        lane.reach(0, 5);
        assert!(lane.take_waiting());
        assert!(!lane.take_waiting());
        assert!(!lane.wait());
    }

    #[test]
    fn messages_lost_for_good_can_be_forgiven() {
        for sharing in [Sharing::Everyone, Sharing::Group] {
            let lane = Lane::new(sharing, 1, 10, HOME);
            lane.advance(10);
            lane.forgive();
            assert_eq!(lane.open(), 10);
        }
    }
}
