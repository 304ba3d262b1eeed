//! Answers that wait until the intermediates know routes.
//!
//! Owns those answers. Invariant: what a session is told keeps its order, although a `Subscribed` may wait
//! and others need not.

use std::collections::{HashMap, VecDeque};

use cluster_rpc::RouteSeq;
use cluster_rpc::frame::SessionAnswer;
use foldhash::fast::RandomState;
use partition::SessionId;

use super::lines::LineId;

/// An answer and where it goes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) line: LineId,
    /// Whose order it keeps.
    pub(super) session: SessionId,
    pub(super) answer: SessionAnswer,
}

/// Answers that wait.
#[derive(Debug)]
pub(super) struct RouteWaits<Seq = RouteSeq> {
    /// The last change of a route.
    last: Option<Seq>,
    held: VecDeque<(Seq, Answer)>,
    held_of: HashMap<SessionId, u32, RandomState>,
    /// Somebody waits for the first.
    watched: bool,
}

impl<Seq> Default for RouteWaits<Seq> {
    fn default() -> Self {
        Self { last: None, held: VecDeque::new(), held_of: HashMap::default(), watched: false }
    }
}

impl<Seq: Copy> RouteWaits<Seq> {
    /// A route was changed.
    pub(super) fn announced(&mut self, seq: Seq) {
        self.last = Some(seq);
    }

    /// Holds a `Subscribed`; gives it back if all routes are known.
    pub(super) fn hold(
        &mut self,
        answer: Answer,
        is_applied: impl Fn(Seq) -> bool,
    ) -> Option<Answer> {
        match self.last {
            Some(last) if !is_applied(last) => {
                self.push(last, answer);
                None
            }
            Some(_) | None => self.pass(answer),
        }
    }

    /// Any other answer: held only if one of its session is.
    pub(super) fn pass(&mut self, answer: Answer) -> Option<Answer> {
        match self.last {
            Some(last) if self.held_of.contains_key(&answer.session) => {
                self.push(last, answer);
                None
            }
            Some(_) | None => Some(answer),
        }
    }

    fn push(&mut self, seq: Seq, answer: Answer) {
        *self.held_of.entry(answer.session).or_default() += 1;
        self.held.push_back((seq, answer));
    }

    /// The first of those that wait, if its routes are known.
    pub(super) fn take(&mut self, is_applied: impl Fn(Seq) -> bool) -> Option<Answer> {
        let (seq, _) = self.held.front()?;
        if !is_applied(*seq) {
            return None;
        }
        let (_, answer) = self.held.pop_front()?;
        if let Some(count) = self.held_of.get_mut(&answer.session) {
            *count -= 1;
            if *count == 0 {
                self.held_of.remove(&answer.session);
            }
        }
        Some(answer)
    }

    /// The change to wait for, if nobody does yet; then the caller does, and says when it is known.
    pub(super) fn watch(&mut self) -> Option<Seq> {
        let (seq, _) = self.held.front()?;
        (!std::mem::replace(&mut self.watched, true)).then_some(*seq)
    }

    /// The change that was waited for is known.
    pub(super) fn watched(&mut self) {
        self.watched = false;
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(session: u64, request: u64) -> Answer {
        let answer = SessionAnswer::Released { request };
        Answer { line: LineId(1), session: SessionId(session), answer }
    }

    fn request(answer: &Answer) -> u64 {
        let SessionAnswer::Released { request } = answer.answer else {
            panic!("no answer of this test")
        };
        request
    }

    #[test]
    fn a_session_hears_its_answers_in_order_and_others_do_not_wait_for_it() {
        let mut waits = RouteWaits::<u64>::default();
        assert!(waits.hold(answer(1, 0), |_| false).is_some(), "there are no routes");
        waits.announced(5);
        assert!(waits.hold(answer(1, 1), |_| false).is_none());
        assert!(waits.pass(answer(1, 2)).is_none());
        assert!(waits.pass(answer(2, 3)).is_some());
        assert_eq!(waits.watch(), Some(5));
        assert_eq!(waits.watch(), None, "one waits");

        assert!(waits.take(|_| false).is_none());
        let taken: Vec<_> = std::iter::from_fn(|| waits.take(|_| true)).collect();
        assert_eq!(taken.iter().map(request).collect::<Vec<_>>(), [1, 2]);
        assert!(waits.pass(answer(1, 4)).is_some());
        assert!(waits.hold(answer(1, 5), |_| true).is_some());
        waits.watched();
        assert_eq!(waits.watch(), None, "nothing waits");
    }
}
