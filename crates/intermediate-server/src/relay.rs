//! The relay as a value: frames in, frames out, no socket, no clock, no task.
//!
//! Owns every endpoint and every attached stream, and with them the one promise made here: a message
//! is acknowledged to its origin only when each endpoint that its routes name has taken it or was
//! declared dead. Time is an argument.
//!
//! A stream is attached, its frames are handled, and whatever is to be sent is polled. `take_wakes`
//! names the streams that have something new. What routes say is in `sync`, how messages
//! pass in `forward`, what passing time does in `time`.
//!
//! ```text
//!            Hello                    last chunk                 stream ends
//!  unknown ---------> being told ------------------> member <----------------> stale member
//!                          \ lease                       \ lease                / lease, or 1 s if local
//!                           `-----------------------------`----> dead <--------'
//! ```

mod forward;
mod sync;
mod time;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cluster_rpc::frame::{Incarnation, Member, NodeId, RejectReason, RelayState};
use foldhash::fast::RandomState;

use crate::endpoint::{Endpoint, Line, wake};
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
            gate: Gate::new(now, config.start_grace, config.lease),
            config,
            streams: HashMap::default(),
            next_stream: 1,
            endpoints: Vec::new(),
            by_node: HashMap::new(),
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
        for (_, endpoint) in self.slots() {
            stats.endpoints += 1;
            stats.members += u64::from(endpoint.table.is_complete());
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

    /// The first frame of a stream: `member` opens it. `None`: it is turned away.
    fn bind(
        &mut self,
        stream: StreamId,
        kind: StreamKind,
        member: &Member,
        now: Instant,
    ) -> Result<Option<Slot>, Violation> {
        let Some(attached) = self.streams.get(&stream) else {
            return Ok(None);
        };
        let peer = attached.peer;
        match attached.bound {
            Bound::Closed | Bound::Rejected(_) => return Ok(None),
            Bound::To(_) => return Err(Violation::OpenedTwice),
            Bound::Nobody if attached.kind != kind => return Err(Violation::WrongStream),
            Bound::Nobody => {}
        }
        let slot = match self.admit(member, peer, now) {
            Ok(slot) => slot,
            Err(reason) => {
                self.set_bound(stream, Bound::Rejected(reason));
                return Ok(None);
            }
        };
        self.set_bound(stream, Bound::To(slot));
        let endpoint = at(&mut self.endpoints, slot).expect("it was admitted to this slot");
        endpoint.last_heard = now;
        let line = match kind {
            StreamKind::Routes => &mut endpoint.routes,
            StreamKind::Publish => &mut endpoint.publish,
            StreamKind::Deliver => &mut endpoint.deliver,
        };
        let former = line.replace(Line::new(stream));
        if let Some(former) = former {
            self.set_bound(former.stream, Bound::Closed);
        }
        Ok(Some(slot))
    }

    /// The slot of `member`: its own, its earlier life's (which ends), or a new one.
    fn admit(&mut self, member: &Member, peer: Peer, now: Instant) -> Result<Slot, RejectReason> {
        if let Some(&slot) = self.by_node.get(&member.node) {
            let known = at(&mut self.endpoints, slot).map(|endpoint| endpoint.member.incarnation);
            match known {
                Some(known) if known > member.incarnation => {
                    return Err(RejectReason::OldIncarnation);
                }
                Some(known) if known == member.incarnation => {}
                Some(_) | None => self.succeed(slot, member.incarnation, now),
            }
            return Ok(slot);
        }
        self.retired.check(member)?;
        let free = self.endpoints.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.endpoints.push(None);
            self.endpoints.len() - 1
        });
        self.endpoints[index] = Some(Endpoint::new(member.clone(), peer, now));
        let slot = Slot(u32::try_from(index).expect("endpoints are far fewer than 2^32"));
        self.by_node.insert(member.node.clone(), slot);
        Ok(slot)
    }

    /// A new life of the endpoint in `slot`: the old one is fenced, its rows stay for now.
    fn succeed(&mut self, slot: Slot, incarnation: Incarnation, now: Instant) {
        self.close_streams(slot);
        self.drop_outbox(slot);
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        let was_member = endpoint.table.is_complete();
        let mut table = std::mem::take(&mut endpoint.table);
        table.renew();
        let member = Member { node: endpoint.member.node.clone(), incarnation };
        self.gate.renewed(&member);
        let new = Endpoint { table, ..Endpoint::new(member, endpoint.peer, now) };
        let old = std::mem::replace(endpoint, new);
        self.retired.insert(old.member);
        self.counts.fenced += 1;
        if was_member {
            self.say_view_to_all();
        }
    }

    fn declare_dead(&mut self, slot: Slot) {
        self.close_streams(slot);
        self.drop_outbox(slot);
        let index = slot.0 as usize;
        let Some(mut endpoint) = self.endpoints.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.by_node.remove(&endpoint.member.node);
        let was_awaited = self.gate.gone(&endpoint.member.node);
        let was_member = endpoint.table.is_complete();
        endpoint.table.clear(slot, &mut self.routes);
        // Who was neither was promised nothing and may come again as it is. Whoever was awaited may
        // have subscribers here: from now on messages are acknowledged without them.
        if was_member || was_awaited {
            self.counts.declared_dead += 1;
            self.retired.insert(endpoint.member);
        }
        if was_member {
            self.say_view_to_all();
        }
    }

    fn close_streams(&mut self, slot: Slot) {
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        let lines = [endpoint.routes.take(), endpoint.publish.take(), endpoint.deliver.take()];
        for line in lines.into_iter().flatten() {
            self.set_bound(line.stream, Bound::Closed);
        }
    }

    fn drop_outbox(&mut self, slot: Slot) {
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        let was_congested = endpoint.outbox.is_congested();
        self.counts.dropped_dead += endpoint.outbox.clear(&mut self.released);
        self.after_release(was_congested, false);
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
            Wait::Message { lane, place } => origin.pending.release(lane, place),
            Wait::Barrier(number) => origin.pending.release_barrier(number),
        }
        if origin.pending.has_news() {
            wake(&mut origin.publish, &mut self.wakes);
        }
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

    fn try_open_gate(&mut self, now: Instant) {
        if self.gate.try_open(now) {
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
