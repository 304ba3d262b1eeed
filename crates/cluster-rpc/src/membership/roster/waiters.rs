//! Who waits for which change. Bounded by the callers: each has one future that waits.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::route_log::RouteSeq;

/// Names one waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId {
    seq: RouteSeq,
    nth: u64,
}

/// A waiter's end.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) id: WaiterId,
    pub(crate) released: oneshot::Receiver<()>,
}

#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: BTreeMap<WaiterId, oneshot::Sender<()>>,
    count: u64,
}

impl Waiters {
    pub(super) fn push(&mut self, seq: RouteSeq) -> Wait {
        self.count += 1;
        let id = WaiterId { seq, nth: self.count };
        let (sender, released) = oneshot::channel();
        self.waiting.insert(id, sender);
        Wait { id, released }
    }

    pub(super) fn remove(&mut self, id: WaiterId) {
        self.waiting.remove(&id);
    }

    /// Releases everyone who waits for a change up to `floor`; whether there was anybody.
    pub(super) fn release(&mut self, floor: u64) -> bool {
        let waited = self.waiting.len();
        while let Some(first) =
            self.waiting.first_entry().filter(|first| first.key().seq.0 <= floor)
        {
            // A receiver that is gone has given up.
            first.remove().send(()).ok();
        }
        self.waiting.len() < waited
    }
}
