//! What was taken of the deliveries of one intermediate, across streams.
//!
//! Invariant: what is acknowledged was accepted by the broker and came on the stream it is acknowledged on.
//! Numbers of an earlier stream mean nothing there. What was refused is told before the acknowledgement that
//! covers it; a link with a refusal is, when it is taken up again, claimed only up to before that, because nobody
//! knows whether the refusal arrived. The rest is sent again, and refused again where it was.

use std::task::{Poll, Waker};

use mqtt_codec::ReasonCode;
use parking_lot::Mutex;

use crate::frame::{DeliverUp, Incarnation, Member};

/// Refusals in one frame.
const REFUSALS_IN_FRAME: usize = 65_536;

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
    /// What is refused of it and not told.
    refused: Vec<(u64, ReasonCode)>,
    /// The lowest number refused of it.
    first_refused: Option<u64>,
    /// The present stream.
    session: u64,
    /// Whether the present stream's link is named: before that `link` is the last one's.
    open: bool,
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

    /// A new stream begins. Returns the last link and how much of it is surely acknowledged.
    pub(crate) fn begin(&self, session: u64) -> (u64, u64) {
        let mut state = self.state.lock();
        state.session = session;
        state.open = false;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        state.refused.clear();
        let sure = state.first_refused.map_or(u64::MAX, |first| first.saturating_sub(1));
        (state.link, state.accepted.min(sure))
    }

    /// The intermediate has named the link of the stream `session`.
    pub(crate) fn open(&self, session: u64, link: u64) {
        let mut state = self.state.lock();
        if state.session != session {
            return;
        }
        if state.link != link {
            state.link = link;
            state.accepted = 0;
            state.first_refused = None;
        }
        state.told = state.accepted;
        state.open = true;
    }

    /// The broker has taken everything up to a number that came on the stream `session`, but for what is
    /// `refused`.
    ///
    /// What came on an earlier stream is told to nobody: the intermediate sends it again on this one, where
    /// it may have another number.
    pub(crate) fn accept(&self, session: u64, up_to: u64, refused: Vec<(u64, ReasonCode)>) {
        let waker = {
            let mut state = self.state.lock();
            if state.session != session || !state.open {
                return;
            }
            state.accepted = state.accepted.max(up_to);
            let lowest = refused.iter().map(|&(number, _)| number).chain(state.first_refused).min();
            state.first_refused = lowest;
            state.refused.extend(refused);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What `session` has to say; `None` when another has taken its place.
    pub(crate) fn poll(&self, session: u64, waker: &Waker) -> Poll<Option<DeliverUp>> {
        let mut state = self.state.lock();
        if state.session != session {
            return Poll::Ready(None);
        }
        if !state.refused.is_empty() {
            let most = state.refused.len().min(REFUSALS_IN_FRAME);
            let rest = state.refused.split_off(most);
            let refused = std::mem::replace(&mut state.refused, rest);
            return Poll::Ready(Some(DeliverUp::Refused(refused)));
        }
        if state.open && state.accepted > state.told {
            state.told = state.accepted;
            return Poll::Ready(Some(DeliverUp::Acked(state.told)));
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
        cell.open(1, 7);
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Pending);
        cell.accept(1, 3, Vec::new());
        cell.accept(1, 5, Vec::new());
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Ready(Some(DeliverUp::Acked(5))));
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Pending);
    }

    #[test]
    fn a_link_taken_up_again_goes_on_where_it_ended() {
        let cell = cell();
        cell.begin(1);
        cell.open(1, 7);
        cell.accept(1, 5, Vec::new());
        assert_eq!(cell.begin(2), (7, 5));
        cell.open(2, 7);
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Ready(None));
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Pending);
        cell.accept(2, 6, Vec::new());
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Ready(Some(DeliverUp::Acked(6))));
    }

    #[test]
    fn what_is_accepted_late_is_not_acknowledged_on_another_link() {
        let cell = cell();
        cell.begin(1);
        cell.open(1, 7);
        cell.begin(2);
        cell.open(2, 8);
        cell.accept(1, 5, Vec::new());
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Pending);
    }

    #[test]
    fn what_is_accepted_while_a_stream_opens_is_not_told_on_it() {
        let cell = cell();
        cell.begin(1);
        cell.open(1, 7);
        cell.accept(1, 5, Vec::new());
        assert_eq!(cell.begin(2), (7, 5));
        // Batches of the broken stream were still on their way to the broker.
        cell.accept(1, 8, Vec::new());
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Pending);
        cell.open(2, 8);
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Pending);
        cell.accept(1, 9, Vec::new());
        cell.accept(2, 1, Vec::new());
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Ready(Some(DeliverUp::Acked(1))));
    }

    #[test]
    fn a_link_that_keeps_its_numbers_is_told_only_what_came_on_the_new_stream() {
        let cell = cell();
        cell.begin(1);
        cell.open(1, 7);
        assert_eq!(cell.begin(2), (7, 0));
        cell.open(2, 7);
        cell.accept(1, 8, Vec::new());
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Pending, "8 was not sent on it yet");
    }

    #[test]
    fn what_is_refused_is_told_before_it_is_acknowledged() {
        let cell = cell();
        cell.begin(1);
        cell.open(1, 7);
        let refused = vec![(2, ReasonCode::QuotaExceeded)];
        cell.accept(1, 3, refused.clone());
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Ready(Some(DeliverUp::Refused(refused))));
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Ready(Some(DeliverUp::Acked(3))));
        assert_eq!(cell.poll(1, Waker::noop()), Poll::Pending);
    }

    #[test]
    fn a_link_taken_up_again_is_not_claimed_beyond_what_was_refused() {
        let cell = cell();
        cell.begin(1);
        cell.open(1, 7);
        cell.accept(1, 3, vec![(2, ReasonCode::QuotaExceeded)]);
        assert_eq!(cell.begin(2), (7, 1), "the refusal of 2 is not sent yet");
        cell.open(2, 8);
        assert_eq!(cell.poll(2, Waker::noop()), Poll::Pending, "2 is not known on this link");
        cell.accept(2, 4, Vec::new());
        assert_eq!(cell.begin(3), (8, 4));
    }
}
