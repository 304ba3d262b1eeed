//! What was taken of the deliveries of one intermediate, across streams.
//!
//! Invariant: what is acknowledged was accepted by the broker, on the link it is acknowledged on.

use std::task::{Poll, Waker};

use parking_lot::Mutex;

use crate::frame::{Incarnation, Member};

/// Acknowledgements on their way to one life of an intermediate.
#[derive(Debug)]
pub(crate) struct AckCell {
    intermediate: Member,
    own: Incarnation,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The intermediate's link; 0 before the first.
    link: u64,
    /// What was accepted of it.
    accepted: u64,
    /// What the present stream has told.
    told: u64,
    /// The present stream.
    session: u64,
    waker: Option<Waker>,
}

impl AckCell {
    pub(crate) fn new(intermediate: Member, own: Incarnation) -> Self {
        Self { intermediate, own, state: Mutex::default() }
    }

    /// Whether links of this cell can be taken up again.
    pub(crate) fn is_for(&self, intermediate: &Member, own: Incarnation) -> bool {
        self.intermediate == *intermediate && self.own == own
    }

    /// A new stream begins. Returns the last link and what was accepted of it.
    pub(crate) fn begin(&self, session: u64) -> (u64, u64) {
        let mut state = self.state.lock();
        state.session = session;
        state.told = state.accepted;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        (state.link, state.accepted)
    }

    /// The intermediate has named the stream's link.
    pub(crate) fn open(&self, link: u64) {
        let mut state = self.state.lock();
        if state.link != link {
            state.link = link;
            state.accepted = 0;
            state.told = 0;
        }
    }

    /// The broker has taken everything up to a number of a link.
    pub(crate) fn accept(&self, link: u64, up_to: u64) {
        let waker = {
            let mut state = self.state.lock();
            if state.link != link {
                // Of an earlier link: the intermediate has sent it again on this one.
                return;
            }
            state.accepted = state.accepted.max(up_to);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What `session` has to acknowledge; `None` when another has taken its place.
    pub(crate) fn poll(&self, session: u64, waker: &Waker) -> Poll<Option<u64>> {
        let mut state = self.state.lock();
        if state.session != session {
            return Poll::Ready(None);
        }
        if state.accepted > state.told {
            state.told = state.accepted;
            return Poll::Ready(Some(state.told));
        }
        state.waker = Some(waker.clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::NodeId;

    fn cell() -> AckCell {
        let node = NodeId::new("i").unwrap();
        AckCell::new(Member { node, incarnation: Incarnation(1) }, Incarnation(2))
    }

    #[test]
    fn what_was_accepted_is_told_once_and_in_total() {
        let cell = cell();
        assert_eq!(cell.begin(1), (0, 0));
        cell.open(7);
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Pending);
        cell.accept(7, 3);
        cell.accept(7, 5);
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Ready(Some(5)));
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Pending);
    }

    #[test]
    fn a_link_taken_up_again_goes_on_where_it_ended() {
        let cell = cell();
        cell.begin(1);
        cell.open(7);
        cell.accept(7, 5);
        assert_eq!(cell.begin(2), (7, 5));
        cell.open(7);
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Ready(None));
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Pending);
        cell.accept(7, 6);
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Ready(Some(6)));
    }

    #[test]
    fn what_is_accepted_late_is_not_acknowledged_on_another_link() {
        let cell = cell();
        cell.begin(1);
        cell.open(7);
        cell.begin(2);
        cell.open(8);
        cell.accept(7, 5);
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Pending);
    }
}
