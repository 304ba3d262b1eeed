//! The relay as a value: frames in, frames out, no socket, no clock, no task.
//!
//! Owns every endpoint and every attached stream, and with them the one promise made here: a message
//! is acknowledged to its origin only when each endpoint that its routes name has taken it, has refused
//! it (which the origin is told) or is gone; the store never is. Time is an argument.
//!
//! A stream is attached, its frames are handled, and whatever is to be sent is polled. `take_wakes`
//! names the streams that have something new. Who is there is in `members`, what routes say in `sync`,
//! how messages pass in `forward`, what passing time does in `time`.
//!
//! ```text
//!            Hello                    last chunk                 stream ends
//!  unknown ---------> being told ------------------> member <----------------> stale member
//!                          \ lease                       \ lease                / lease, or 1 s if local
//!                           `-----------------------------`----> dead <--------'     (not the store)
//! ```

mod forward;
mod members;
mod sync;
mod time;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cluster_rpc::frame::{EndpointRole, Member, NodeId, RejectReason, RelayState, StoreHere};
use foldhash::fast::RandomState;

use crate::endpoint::{Endpoint, wake};
use crate::membership::{Gate, Retired};
use crate::outbox::OutboxLimits;
use crate::pending::{Amount, Hold, Wait};
use crate::routes::{RouteIndex, Slot, Target};
use crate::stats::{Counts, Stats};
pub use crate::violation::Violation;

/// What a relay is told at its start.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Who the relay is.
    pub member: Member,
    /// Whether its process holds the store.
    pub store_here: StoreHere,
    /// Silence after which an endpoint is dead.
    pub lease: Duration,
    /// An endpoint on this machine whose route stream ended is dead after this time.
    pub local_return: Duration,
    /// How long after the start to wait for endpoints nobody has named.
    pub start_grace: Duration,
    /// What an origin may send beyond what was taken from it.
    pub credit: Amount,
    /// Rows one endpoint may have.
    pub max_routes: usize,
    /// Bounds of each outbox.
    pub outbox: OutboxLimits,
}

impl RelayConfig {
    /// The defaults for a relay of this name and life.
    #[must_use]
    pub fn new(member: Member) -> Self {
        Self {
            member,
            store_here: StoreHere::No,
            lease: Duration::from_secs(6),
            local_return: Duration::from_secs(1),
            start_grace: Duration::from_secs(4),
            credit: Amount { messages: 8_192, bytes: 16 << 20 },
            max_routes: 10_000_000,
            outbox: OutboxLimits::default(),
        }
    }
}

/// An attached stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// Routes, and registration.
    Routes,
    /// Messages from an origin.
    Publish,
    /// Messages to an endpoint.
    Deliver,
}

/// Where the other end of a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// On this machine.
    Local,
    /// Elsewhere.
    Remote,
}

/// What a stream has to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled<F> {
    /// This frame, and perhaps more.
    Frame(F),
    /// Nothing now; `take_wakes` will name the stream.
    Pending,
    /// Nothing ever: the stream is to be ended.
    Closed,
}

/// A stream as the relay knows it.
#[derive(Debug)]
struct Attached {
    kind: StreamKind,
    peer: Peer,
    since: Instant,
    bound: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Its first frame is awaited.
    Nobody,
    To(Slot),
    /// To be told why, then closed.
    Rejected(RejectReason),
    Closed,
}

/// See the module.
#[derive(Debug)]
pub struct Relay {
    config: RelayConfig,
    streams: HashMap<StreamId, Attached, RandomState>,
    next_stream: u64,
    endpoints: Vec<Option<Endpoint>>,
    by_node: HashMap<NodeId, Slot>,
    /// Where the store is: from its first word on, for ever.
    store: Option<Slot>,
    /// The last other one that came.
    second_store: Option<Member>,
    second_store_is_news: bool,
    /// Lives that are over and were not taken.
    departed: Vec<Member>,
    retired: Retired,
    gate: Gate,
    draining: bool,
    routes: RouteIndex,
    links: u64,
    batches: u64,
    congested: usize,
    wakes: Vec<StreamId>,
    counts: Counts,
    last_time: Instant,
    /// Kept for their memory.
    targets: Vec<Target>,
    released: Vec<Hold>,
}

impl Relay {
    /// A relay that knows nobody.
    #[must_use]
    pub fn new(config: RelayConfig, now: Instant) -> Self {
        Self {
            gate: Gate::new(config.start_grace, config.lease),
            config,
            streams: HashMap::default(),
            next_stream: 1,
            endpoints: Vec::new(),
            by_node: HashMap::new(),
            store: None,
            second_store: None,
            second_store_is_news: false,
            departed: Vec::new(),
            retired: Retired::default(),
            draining: false,
            routes: RouteIndex::new(),
            links: 0,
            batches: 0,
            congested: 0,
            wakes: Vec::new(),
            counts: Counts::default(),
            last_time: now,
            targets: Vec::new(),
            released: Vec::new(),
        }
    }

    /// A stream was opened by `peer`; its first frame will say by whom.
    pub fn attach(&mut self, kind: StreamKind, peer: Peer, now: Instant) -> StreamId {
        self.notice_stall(now);
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        self.streams.insert(stream, Attached { kind, peer, since: now, bound: Bound::Nobody });
        stream
    }

    /// The stream has ended, from whichever side.
    pub fn detach(&mut self, stream: StreamId, now: Instant) {
        self.notice_stall(now);
        let Some(attached) = self.streams.remove(&stream) else {
            return;
        };
        let Bound::To(slot) = attached.bound else {
            return;
        };
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        match attached.kind {
            StreamKind::Routes => {
                endpoint.routes = None;
                endpoint.broken_at = Some(now);
                endpoint.table.abandon_incoming();
            }
            StreamKind::Publish => {
                endpoint.publish = None;
                endpoint.pending = crate::pending::Pending::new();
            }
            StreamKind::Deliver => endpoint.deliver = None,
        }
    }

    /// Names the streams that have something to send since they were last polled to the end.
    pub fn take_wakes(&mut self, into: &mut Vec<StreamId>) {
        into.append(&mut self.wakes);
    }

    /// No new lanes are wanted here; what comes is still relayed.
    pub fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.say_view_to_all();
        }
    }

    /// Whether nobody waits for anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.slots().all(|(_, endpoint)| endpoint.pending.len() + endpoint.outbox.len() == 0)
    }

    /// Whether messages are taken.
    #[must_use]
    pub fn state(&self) -> RelayState {
        match (self.draining, self.gate.is_open()) {
            (true, _) => RelayState::Draining,
            (false, true) => RelayState::Serving,
            (false, false) => RelayState::Joining,
        }
    }

    /// How much of everything there is and was.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::new(self.counts, self.state());
        stats.streams = self.streams.len() as u64;
        stats.routes = self.routes.len() as u64;
        stats.congested_outboxes = self.congested as u64;
        stats.waits_for_store = !self.gate.is_open() && !self.has_store_told();
        for (_, endpoint) in self.slots() {
            match endpoint.role {
                EndpointRole::Proxy => {
                    stats.endpoints += 1;
                    stats.members += u64::from(endpoint.table.is_complete());
                }
                EndpointRole::Store => {
                    stats.store_outbox_messages = endpoint.outbox.len() as u64;
                    stats.store_outbox_bytes = endpoint.outbox.bytes();
                }
            }
            stats.outbox_messages += endpoint.outbox.len() as u64;
            stats.outbox_bytes += endpoint.outbox.bytes();
            stats.pending += endpoint.pending.len() as u64;
        }
        stats
    }

    /// A stream was ended because of what came on it.
    pub(crate) fn count_violation(&mut self) {
        self.counts.violations += 1;
    }

    /// Loses one route of `node`, as a fault would, without telling anyone. `false` if it has none.
    ///
    /// For tests of the digest.
    #[doc(hidden)]
    pub fn corrupt_route(&mut self, node: &NodeId) -> bool {
        let Some(&slot) = self.by_node.get(node) else {
            return false;
        };
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return false;
        };
        endpoint.table.corrupt(slot, &mut self.routes)
    }

    fn slots(&self) -> impl Iterator<Item = (Slot, &Endpoint)> {
        let slots = (0..).map(Slot).zip(&self.endpoints);
        slots.filter_map(|(slot, endpoint)| Some((slot, endpoint.as_ref()?)))
    }

    /// The endpoint a stream speaks for, and a sign of life of it. `None`: the stream was closed.
    fn heard(&mut self, stream: StreamId, now: Instant) -> Result<Option<Slot>, Violation> {
        match self.streams.get(&stream).map(|attached| attached.bound) {
            None | Some(Bound::Closed | Bound::Rejected(_)) => Ok(None),
            Some(Bound::Nobody) => Err(Violation::NotOpened),
            Some(Bound::To(slot)) => {
                if let Some(endpoint) = at(&mut self.endpoints, slot) {
                    endpoint.last_heard = now;
                }
                Ok(Some(slot))
            }
        }
    }

    /// Tells everyone who waited for what has left an outbox, and lets origins go on if none is
    /// over its limit any more.
    fn after_release(&mut self, was_congested: bool, is_congested: bool) {
        let mut released = std::mem::take(&mut self.released);
        for hold in released.drain(..) {
            self.release(hold);
        }
        self.released = released;
        if was_congested && !is_congested {
            self.congested -= 1;
            if self.congested == 0 {
                self.wake_all_origins();
            }
        }
    }

    fn release(&mut self, hold: Hold) {
        let Some(origin) = at(&mut self.endpoints, hold.slot) else {
            return;
        };
        // The stream it belongs to has ended: nobody waits.
        if origin.publish.is_none_or(|line| line.stream.0 != hold.stream) {
            return;
        }
        match hold.wait {
            Wait::Message { lane, place } => origin.pending.release(lane, place, hold.refused),
            Wait::Barrier(number) => origin.pending.release_barrier(number),
        }
        if origin.pending.has_news() {
            wake(&mut origin.publish, &mut self.wakes);
        }
    }

    /// Whether origins may send further messages.
    fn grants(&self) -> bool {
        self.congested == 0 && self.gate.is_open()
    }

    fn wake_all_origins(&mut self) {
        for origin in self.endpoints.iter_mut().flatten() {
            wake(&mut origin.publish, &mut self.wakes);
        }
    }

    fn say_view_to_all(&mut self) {
        for endpoint in self.endpoints.iter_mut().flatten() {
            endpoint.say_view(&mut self.wakes);
        }
    }

    /// Whether the store's routes are here since the gate was last closed.
    fn has_store_told(&self) -> bool {
        let store = self.store.and_then(|slot| self.endpoints.get(slot.0 as usize)?.as_ref());
        store.is_some_and(|store| self.gate.has_told(&store.member.node))
    }

    fn try_open_gate(&mut self, now: Instant) {
        if self.has_store_told() && self.gate.try_open(now) {
            self.say_view_to_all();
            self.wake_all_origins();
        }
    }

    fn set_bound(&mut self, stream: StreamId, bound: Bound) {
        if let Some(attached) = self.streams.get_mut(&stream) {
            attached.bound = bound;
            self.wakes.push(stream);
        }
    }

    /// What a stream that speaks for nobody has to send; otherwise for whom it speaks.
    fn bound<F>(
        &mut self,
        stream: StreamId,
        reject: fn(RejectReason) -> Polled<F>,
    ) -> Result<Slot, Polled<F>> {
        let Some(attached) = self.streams.get_mut(&stream) else {
            return Err(Polled::Closed);
        };
        match attached.bound {
            Bound::To(slot) => Ok(slot),
            Bound::Nobody => Err(Polled::Pending),
            Bound::Closed => Err(Polled::Closed),
            Bound::Rejected(reason) => {
                attached.bound = Bound::Closed;
                Err(reject(reason))
            }
        }
    }
}

/// The endpoint in `slot`, if there is one.
fn at(endpoints: &mut [Option<Endpoint>], slot: Slot) -> Option<&mut Endpoint> {
    endpoints.get_mut(slot.0 as usize).and_then(Option::as_mut)
}

#[cfg(test)]
mod tests;
