//! Who may speak, and from when on messages are taken.
//!
//! Owns the memory of lives that are over ([`Retired`]) and the wait after a start ([`Gate`]).
//! Invariant: a life that was declared dead never becomes a member again, and the gate is open only
//! while nobody can be a member of the cluster without being known here. Does not hold the endpoints
//! themselves.

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

/// With a returning endpoint's names the wait is no shorter than this, or than the grace: one that no
/// other names (it came while this relay was away) needs it to connect.
const STRANGERS: Duration = Duration::from_secs(1);

/// The wait after a start, and after the relay itself stood still: no message is taken before every
/// endpoint that may exist has told its routes.
///
/// Opens when some endpoint has (the relay asks for the store), all that any of them named have too, and either `grace` is over or
/// one of them was a member before (so the names are those of the cluster as it was) and a moment
/// has passed since the first came. Who was named and has not told its routes a lease after the first
/// came is declared dead, so the wait ends whatever an endpoint does.
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

    /// What was told before `now` counts no longer: closes until each of `members`, and whoever is
    /// awaited already, has come anew.
    pub(crate) fn close<'a>(&mut self, members: impl Iterator<Item = &'a Member>, now: Instant) {
        let mut awaited = std::mem::take(&mut self.awaited);
        awaited.extend(members.map(|member| (member.node.clone(), member.incarnation)));
        *self = Self { awaited, ..Self::new(now, self.grace, self.lease) };
    }

    /// The relay did not run for this long, so nobody could be heard.
    pub(crate) fn pardon(&mut self, stood_still: Duration, now: Instant) {
        self.started = now.min(self.started + stood_still);
        self.first_hello = self.first_hello.map(|at| now.min(at + stood_still));
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

    /// Whether all routes of `node` are here, as far as is known while the gate is shut.
    pub(crate) fn has_told(&self, node: &NodeId) -> bool {
        self.synced.contains(node)
    }

    /// `member` is a new life of its node: what the earlier one told is no longer enough.
    pub(crate) fn renewed(&mut self, member: &Member) {
        if !self.open {
            self.synced.remove(&member.node);
            self.awaited.insert(member.node.clone(), member.incarnation);
        }
    }

    /// `node` was declared dead. Returns whether it was awaited.
    pub(crate) fn gone(&mut self, node: &NodeId) -> bool {
        let was_awaited = self.awaited.remove(node).is_some();
        self.synced.remove(node);
        if self.awaited.is_empty() && self.synced.is_empty() {
            // Whoever comes next is the first again, and has all the time that the first has.
            self.first_hello = None;
        }
        was_awaited
    }

    /// Those who were named and have not told their routes in time.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<Member> {
        let over = self.first_hello.is_some_and(|at| now >= at + self.lease);
        let overdue = self.awaited.iter().filter(|_| over);
        let member =
            |(node, &incarnation): (&NodeId, _)| Member { node: node.clone(), incarnation };
        overdue.map(member).collect()
    }

    /// Opens the gate if it may. Returns whether it opened just now.
    pub(crate) fn try_open(&mut self, now: Instant) -> bool {
        let all_told = !self.synced.is_empty() && self.awaited.is_empty();
        if self.open || !all_told || !self.knows_the_cluster(now) {
            return false;
        }
        self.open = true;
        self.synced = HashSet::new();
        true
    }

    fn knows_the_cluster(&self, now: Instant) -> bool {
        let strangers = STRANGERS.min(self.grace);
        let named = self.returning && self.first_hello.is_some_and(|at| now >= at + strangers);
        named || now >= self.started + self.grace
    }
}
