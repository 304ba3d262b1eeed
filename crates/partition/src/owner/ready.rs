//! What there is to take for each proxy, one after the other.
//!
//! Invariant: a proxy is told once that there is something, and not again before it has taken all.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::changes::{Ready, Source};
use crate::id::ProxyId;

/// A queue for each proxy.
#[derive(Debug, Default)]
pub(super) struct ReadyQueues {
    proxies: HashMap<ProxyId, VecDeque<Source>, foldhash::fast::RandomState>,
}

/// Whether the proxy is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    Yes,
    No,
}

impl ReadyQueues {
    pub(super) fn push(&mut self, ready: Ready) -> Tell {
        let queue = self.proxies.entry(ready.proxy).or_default();
        queue.push_back(ready.what);
        if queue.len() == 1 { Tell::Yes } else { Tell::No }
    }

    pub(super) fn pop(&mut self, proxy: ProxyId) -> Option<Source> {
        self.proxies.get_mut(&proxy)?.pop_front()
    }

    /// Puts back what was taken, but not wholly.
    pub(super) fn put_back(&mut self, proxy: ProxyId, what: Source) {
        self.proxies.entry(proxy).or_default().push_back(what);
    }

    pub(super) fn is_empty(&self, proxy: ProxyId) -> bool {
        self.proxies.get(&proxy).is_none_or(VecDeque::is_empty)
    }

    /// The proxy is gone.
    pub(super) fn forget(&mut self, proxy: ProxyId) {
        self.proxies.remove(&proxy);
    }
}
