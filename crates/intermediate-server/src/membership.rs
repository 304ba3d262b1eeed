//! Who may speak, and from when on messages are taken.
//!
//! Owns the memory of lives that are over ([`Retired`]) and the wait after a start ([`Gate`]).
//! Invariant: a life that was declared dead never becomes a member again, and the gate, once open,
//! stays open. Does not hold the endpoints themselves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use cluster_rpc::frame::{Incarnation, Member, NodeId, RejectReason};

/// This many lives are remembered after their end.
const MOST_RETIRED: usize = 4_096;

/// The lives that are over: declared dead, or replaced by a newer one. By life and not by node, so
/// that a machine whose clock was set back is not locked out.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    members: HashSet<Member>,
    /// The oldest first: forgotten first.
    order: VecDeque<Member>,
}

impl Retired {
    pub(crate) fn insert(&mut self, member: Member) {
        if !self.members.insert(member.clone()) {
            return;
        }
        self.order.push_back(member);
        if self.order.len() > MOST_RETIRED
            && let Some(oldest) = self.order.pop_front()
        {
            self.members.remove(&oldest);
        }
    }

    /// Whether `member` may speak, as far as the dead are concerned.
    pub(crate) fn check(&self, member: &Member) -> Result<(), RejectReason> {
        match self.members.contains(member) {
            true => Err(RejectReason::DeclaredDead),
            false => Ok(()),
        }
    }
}

/// The wait after a start: no message is taken before every endpoint that may exist has told its
/// routes.
///
/// Opens when some endpoint has, all that any of them named have too, and either one of them was
/// a member before (so the names are those of the cluster as it was) or `grace` is over.
/// Who was named and is silent for a lease is declared dead.
#[derive(Debug)]
pub(crate) struct Gate {
    started: Instant,
    grace: Duration,
    lease: Duration,
    first_hello: Option<Instant>,
    /// Named, and not known to have told all routes; with the newest life that was named.
    awaited: HashMap<NodeId, Incarnation>,
    synced: HashSet<NodeId>,
    returning: bool,
    open: bool,
}

impl Gate {
    pub(crate) fn new(started: Instant, grace: Duration, lease: Duration) -> Self {
        Self {
            started,
            grace,
            lease,
            first_hello: None,
            awaited: HashMap::new(),
            synced: HashSet::new(),
            returning: false,
            open: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// `member` has come, and named those it knew.
    pub(crate) fn hello(&mut self, member: &Member, known: &[Member], now: Instant) {
        if self.open {
            return;
        }
        self.first_hello.get_or_insert(now);
        self.returning |= known.iter().any(|other| other.node == member.node);
        for named in known.iter().chain([member]) {
            if !self.synced.contains(&named.node) {
                let newest = self.awaited.entry(named.node.clone()).or_insert(named.incarnation);
                *newest = named.incarnation.max(*newest);
            }
        }
    }

    /// All routes of `node` are here.
    pub(crate) fn synced(&mut self, node: &NodeId) {
        if !self.open {
            self.awaited.remove(node);
            self.synced.insert(node.clone());
        }
    }

    /// `member` is a new life of its node: what the earlier one told is no longer enough.
    pub(crate) fn renewed(&mut self, member: &Member) {
        if !self.open {
            self.synced.remove(&member.node);
            self.awaited.insert(member.node.clone(), member.incarnation);
        }
    }

    /// `node` was declared dead.
    pub(crate) fn gone(&mut self, node: &NodeId) {
        self.awaited.remove(node);
        self.synced.remove(node);
    }

    /// Those who were named and stayed away too long. `is_here` says who has at least come.
    pub(crate) fn missing(
        &mut self,
        now: Instant,
        is_here: impl Fn(&NodeId) -> bool,
    ) -> Vec<Member> {
        let over = self.first_hello.is_some_and(|at| now >= at + self.lease);
        if self.open || !over {
            return Vec::new();
        }
        let missing = self.awaited.extract_if(|node, _| !is_here(node));
        missing.map(|(node, incarnation)| Member { node, incarnation }).collect()
    }

    /// Opens the gate if it may. Returns whether it opened just now.
    pub(crate) fn try_open(&mut self, now: Instant) -> bool {
        let all_told = !self.synced.is_empty() && self.awaited.is_empty();
        let known_cluster = self.returning || now >= self.started + self.grace;
        if self.open || !all_told || !known_cluster {
            return false;
        }
        self.open = true;
        self.synced = HashSet::new();
        true
    }
}
