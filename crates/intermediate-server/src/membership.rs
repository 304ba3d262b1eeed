//! Who may speak, and from when on messages are taken.
//!
//! Owns the memory of lives that are over ([`Retired`]) and the wait after a start ([`Gate`]).
//! Invariant: a life that was declared dead never becomes a member again, and the gate is open only
//! while nobody can be a member of the cluster without being known here. Does not hold the endpoints
//! themselves.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use cluster_rpc::frame::{EndpointRole, Hello, Incarnation, Member, NodeId, RejectReason};

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
/// Opens when some proxy has (the relay asks for the store), all that any of them named have too, and
/// since the first proxy came either `grace` is over, or a moment if one of them was a member before: then
/// the names are those of the cluster as it was. Who was named and has not told its routes a lease after
/// the first came is declared dead, so the wait ends whatever an endpoint does.
///
/// The store counts for none of that: it is in this process, comes first, and knows nobody.
#[derive(Debug)]
pub(crate) struct Gate {
    grace: Duration,
    lease: Duration,
    /// Of a proxy.
    first_hello: Option<Instant>,
    /// Named, and not known to have told all routes; with the newest life that was named.
    awaited: BTreeMap<NodeId, Incarnation>,
    synced: HashMap<NodeId, EndpointRole>,
    returning: bool,
    open: bool,
}

impl Gate {
    pub(crate) fn new(grace: Duration, lease: Duration) -> Self {
        Self {
            grace,
            lease,
            first_hello: None,
            awaited: BTreeMap::new(),
            synced: HashMap::new(),
            returning: false,
            open: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// What was told so far counts no longer: closes until each of `members`, and whoever is
    /// awaited already, has come anew.
    pub(crate) fn close<'a>(&mut self, members: impl Iterator<Item = &'a Member>) {
        let mut awaited = std::mem::take(&mut self.awaited);
        awaited.extend(members.map(|member| (member.node.clone(), member.incarnation)));
        *self = Self { awaited, ..Self::new(self.grace, self.lease) };
    }

    /// The relay did not run for this long, so nobody could be heard.
    pub(crate) fn pardon(&mut self, stood_still: Duration, now: Instant) {
        self.first_hello = self.first_hello.map(|at| now.min(at + stood_still));
    }

    /// An endpoint has come, and named those it knew.
    pub(crate) fn hello(&mut self, hello: &Hello, now: Instant) {
        let Hello { member, known, role, .. } = hello;
        if self.open {
            return;
        }
        if *role == EndpointRole::Proxy {
            self.first_hello.get_or_insert(now);
        }
        self.returning |= known.iter().any(|other| other.node == member.node);
        for named in known.iter().chain([member]) {
            if !self.synced.contains_key(&named.node) {
                let newest = self.awaited.entry(named.node.clone()).or_insert(named.incarnation);
                *newest = named.incarnation.max(*newest);
            }
        }
    }

    /// All routes of `node` are here.
    pub(crate) fn synced(&mut self, node: &NodeId, role: EndpointRole) {
        if !self.open {
            self.awaited.remove(node);
            self.synced.insert(node.clone(), role);
        }
    }

    /// Whether all routes of `node` are here, as far as is known while the gate is shut.
    pub(crate) fn has_told(&self, node: &NodeId) -> bool {
        self.synced.contains_key(node)
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
        if self.awaited.is_empty() && !self.has_proxy() {
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
        let all_told = self.has_proxy() && self.awaited.is_empty();
        if self.open || !all_told || !self.knows_the_cluster(now) {
            return false;
        }
        self.open = true;
        self.synced = HashMap::new();
        true
    }

    fn has_proxy(&self) -> bool {
        self.synced.values().any(|&role| role == EndpointRole::Proxy)
    }

    fn knows_the_cluster(&self, now: Instant) -> bool {
        let wait = if self.returning { STRANGERS.min(self.grace) } else { self.grace };
        self.first_hello.is_some_and(|at| now >= at + wait)
    }
}
