//! The origin's half of the relay protocol: lanes, window, choice of link, repetition. Sans-IO.
//!
//! It owns every message of this proxy that is on its way into the cluster. Invariants:
//! - a lane is sent on one link at a time, in the order of its numbers;
//! - a QoS >= 1 message leaves the window only acknowledged, refused, expired, or fenced with its origin;
//! - after a break everything unacknowledged of a lane is sent again, in order, before anything new
//!   (go-back-N: receivers drop what is not above the last number, so retrying one message after
//!   later ones were taken would lose it).
//!
//! ```text
//!            link up                    better link up                barrier done
//! Nowhere ------------> On(best link) -----------------> Leaving ---------------------> On(best)
//!    ^                     |    ^                           |
//!    |     link down, none |    | link down, another        | link down
//!    +---------------------+----+---------------------------+
//! ```
//!
//! A link here is one publish stream: a stream that is opened anew is another link, so an
//! acknowledgement can never be for an earlier stream. Time is an argument; nothing is awaited.

mod lane_queue;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{Message, QoS, ReasonCode};

pub(crate) use self::lane_queue::Outgoing;
use self::lane_queue::{Carrier, LaneQueue};
use crate::frame::{LANES, Lane, NodeId, Provenance, weight_of};
use crate::lane::preference;
use crate::uplink::{NotTaken, UplinkMetrics, count};

/// A batch holds at most this many bytes, unless a single message is larger.
const BATCH_BYTES: u64 = 64 << 10;

/// A batch holds at most this many messages.
const BATCH_MESSAGES: usize = 1_000;

/// One publish stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// How much may be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowLimits {
    /// QoS >= 1, unsent and unacknowledged.
    pub(crate) messages: usize,
    pub(crate) bytes: u64,
    /// QoS 0, unsent.
    pub(crate) backlog_messages: usize,
    pub(crate) backlog_bytes: u64,
}

/// What a link has to send next.
#[derive(Debug)]
pub(crate) enum OriginFrame {
    Batch(Vec<Outgoing>),
    Barrier { lane: Lane, id: u64 },
}

/// The window of one proxy; `T` is what comes back when a message is acknowledged.
#[derive(Debug)]
pub(crate) struct Origin<T> {
    limits: WindowLimits,
    lanes: Box<[LaneQueue<T>]>,
    links: Vec<Link>,
    barriers: u64,
    kept: Usage,
    backlog: Usage,
    completed: Vec<T>,
    refused: Vec<(T, ReasonCode)>,
    metrics: Arc<UplinkMetrics>,
}

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) lane: Lane,
    pub(crate) message: &'a Arc<Message>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) provenance: Provenance,
}

#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    messages: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    node: NodeId,
    /// Totals since the stream opened.
    credit_messages: u64,
    credit_bytes: u64,
    sent_messages: u64,
    sent_bytes: u64,
    /// Lanes with something to send, each once.
    ready: VecDeque<Lane>,
    barriers: VecDeque<(Lane, u64)>,
}

impl<T> Origin<T> {
    pub(crate) fn new(limits: WindowLimits, metrics: Arc<UplinkMetrics>) -> Self {
        Self {
            limits,
            lanes: empty_lanes(),
            links: Vec::new(),
            barriers: 0,
            kept: Usage::default(),
            backlog: Usage::default(),
            completed: Vec::new(),
            refused: Vec::new(),
            metrics,
        }
    }

    /// Takes a message. Returns the link that has something to send now and had nothing before.
    pub(crate) fn publish(
        &mut self,
        publication: Publication<'_>,
        ticket: Option<T>,
    ) -> Result<Option<LinkId>, NotTaken<T>> {
        let Publication { lane, message, .. } = publication;
        let weight = weight_of(message);
        let queue = &mut self.lanes[usize::from(lane.0)];
        if message.qos == QoS::AtMostOnce {
            if queue.carrier == Carrier::Nowhere {
                count(&self.metrics.dropped_no_intermediate, 1);
                return Ok(None);
            }
            if !self.backlog.below(self.limits.backlog_messages, self.limits.backlog_bytes) {
                count(&self.metrics.dropped_backlog, 1);
                return Ok(None);
            }
            self.backlog.add(weight);
        } else {
            if !self.has_room() {
                return Err(NotTaken::WindowFull { ticket });
            }
            self.kept.add(weight);
        }
        let queue = &mut self.lanes[usize::from(lane.0)];
        queue.push(publication, weight, ticket);
        Ok(self.make_ready(lane))
    }

    /// Whether a QoS >= 1 message would be taken. What is completed or refused but not yet fetched counts, so
    /// that a slow consumer of completions holds the publishers back too.
    pub(crate) fn has_room(&self) -> bool {
        let used = Usage {
            messages: self.kept.messages + self.completed.len() + self.refused.len(),
            bytes: self.kept.bytes,
        };
        used.below(self.limits.messages, self.limits.bytes)
    }

    /// Messages and bytes in the window.
    pub(crate) fn usage(&self) -> (usize, u64) {
        (self.kept.messages, self.kept.bytes)
    }

    /// Lanes `link` carries.
    pub(crate) fn lanes_of(&self, link: LinkId) -> usize {
        self.lanes.iter().filter(|queue| queue.carrier.link() == Some(link)).count()
    }

    /// Links that are up.
    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    /// A publish stream is open: it takes the lanes nobody carries, and those that prefer it once a
    /// barrier has passed through the link that carries them.
    pub(crate) fn handle_link_up(&mut self, id: LinkId, node: NodeId) {
        self.links.push(Link::new(id, node));
        for lane in lanes() {
            let Some(best) = self.best(lane) else {
                continue;
            };
            let queue = &mut self.lanes[usize::from(lane.0)];
            match queue.carrier {
                Carrier::Nowhere => self.assign(lane, best),
                Carrier::On(current) if current != best => self.leave(lane, current, best),
                // A lane that leaves its link chooses when the barrier has passed.
                Carrier::On(_) | Carrier::Leaving { .. } => {}
            }
        }
    }

    /// A publish stream has ended: its lanes go to the next best and begin with what is
    /// unacknowledged.
    pub(crate) fn handle_link_down(&mut self, id: LinkId) {
        self.links.retain(|link| link.id != id);
        for lane in lanes() {
            if self.lanes[usize::from(lane.0)].carrier.link() != Some(id) {
                continue;
            }
            self.lanes[usize::from(lane.0)].go_back();
            match self.best(lane) {
                Some(best) => self.assign(lane, best),
                None => self.strand(lane),
            }
        }
    }

    /// The intermediate grants more. Totals never shrink.
    pub(crate) fn handle_credit(&mut self, id: LinkId, messages: u64, bytes: u64) {
        if let Some(link) = self.link(id) {
            link.credit_messages = link.credit_messages.max(messages);
            link.credit_bytes = link.credit_bytes.max(bytes);
        }
    }

    /// Everything up to these numbers is where it must be.
    pub(crate) fn handle_acked(&mut self, id: LinkId, acked: &[(Lane, u64)]) {
        let mut messages = 0;
        for &(lane, up_to) in acked {
            let queue = &mut self.lanes[usize::from(lane.0)];
            if queue.carrier.link() != Some(id) {
                continue;
            }
            while let Some(slot) = queue.pop_acked(up_to) {
                messages += 1;
                self.kept.subtract(slot.weight);
                self.completed.extend(slot.ticket);
            }
        }
        count(&self.metrics.acked, messages);
    }

    /// An endpoint has not taken these, and nobody gets them again: they are done, so none of them is sent
    /// once more. The numbers around them are acknowledged as ever.
    pub(crate) fn handle_refused(&mut self, id: LinkId, refused: &[(Lane, u64, ReasonCode)]) {
        let mut messages = 0;
        for &(lane, seq, reason) in refused {
            let queue = &mut self.lanes[usize::from(lane.0)];
            if queue.carrier.link() != Some(id) {
                continue;
            }
            // A second endpoint that refuses the same message finds nothing.
            if let Some(slot) = queue.take_unacked(seq) {
                messages += 1;
                self.kept.subtract(slot.weight);
                self.refused.extend(slot.ticket.map(|ticket| (ticket, reason)));
            }
        }
        count(&self.metrics.refused, messages);
    }

    /// Everything sent on the lane before the barrier has arrived: the lane moves.
    pub(crate) fn handle_barrier_done(&mut self, id: LinkId, barrier: u64) {
        let lane = barrier_lane(barrier);
        let leaving = Carrier::Leaving { link: id, barrier };
        if self.lanes[usize::from(lane.0)].carrier != leaving {
            return;
        }
        self.handle_acked(id, &[(lane, u64::MAX)]);
        match self.best(lane) {
            Some(best) => self.assign(lane, best),
            None => self.strand(lane),
        }
    }

    /// What `id` sends next; `None`: nothing until something is published, granted or moved.
    pub(crate) fn poll_frame(&mut self, id: LinkId, now: Instant) -> Option<OriginFrame> {
        let index = self.links.iter().position(|link| link.id == id)?;
        if let Some((lane, id)) = self.links[index].barriers.pop_front() {
            return Some(OriginFrame::Barrier { lane, id });
        }
        let mut batch = Batch::default();
        while let Some(&lane) = self.links[index].ready.front() {
            match self.fill(&mut batch, index, lane, now) {
                Filled::LaneEmpty => {
                    self.links[index].ready.pop_front();
                    self.lanes[usize::from(lane.0)].ready = false;
                }
                Filled::BatchFull => {
                    // The next batch begins with another lane: none waits for one that never ends.
                    self.links[index].ready.rotate_left(1);
                    break;
                }
                Filled::NoCredit => break,
            }
        }
        count(&self.metrics.sent, batch.messages.len());
        (!batch.messages.is_empty()).then_some(OriginFrame::Batch(batch.messages))
    }

    /// Tickets of messages that are acknowledged or expired.
    pub(crate) fn take_completed(&mut self) -> Vec<T> {
        std::mem::take(&mut self.completed)
    }

    /// Tickets of messages that were refused, and why.
    pub(crate) fn take_refused(&mut self) -> Vec<(T, ReasonCode)> {
        std::mem::take(&mut self.refused)
    }

    /// Whether [`take_completed`](Self::take_completed) or [`take_refused`](Self::take_refused) has any.
    pub(crate) fn has_results(&self) -> bool {
        !self.completed.is_empty() || !self.refused.is_empty()
    }

    /// This incarnation was declared dead: everything is dropped unacknowledged, numbers begin anew,
    /// and links must be opened again under the new incarnation.
    /// Returns the tickets of what was dropped, lane by lane in order.
    pub(crate) fn fence(&mut self) -> Vec<T> {
        count(&self.metrics.dropped_fenced, self.kept.messages);
        self.links.clear();
        let lanes = std::mem::replace(&mut self.lanes, empty_lanes());
        let dropped = lanes.into_iter().flat_map(LaneQueue::into_tickets).collect();
        self.kept = Usage::default();
        self.backlog = Usage::default();
        dropped
    }

    fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    fn best(&self, lane: Lane) -> Option<LinkId> {
        let score = |link: &&Link| (preference(lane, &link.node), link.id);
        self.links.iter().max_by_key(score).map(|link| link.id)
    }

    fn assign(&mut self, lane: Lane, id: LinkId) {
        let queue = &mut self.lanes[usize::from(lane.0)];
        queue.carrier = Carrier::On(id);
        queue.used = false;
        queue.ready = false;
        self.make_ready(lane);
    }

    /// Nobody carries the lane: QoS 0 does not wait.
    fn strand(&mut self, lane: Lane) {
        let queue = &mut self.lanes[usize::from(lane.0)];
        queue.carrier = Carrier::Nowhere;
        queue.ready = false;
        let dropped = queue.drop_unsent_qos0(|weight| self.backlog.subtract(weight));
        count(&self.metrics.dropped_no_intermediate, dropped);
    }

    fn leave(&mut self, lane: Lane, current: LinkId, best: LinkId) {
        if let Some(link) = self.link(current) {
            link.ready.retain(|&ready| ready != lane);
        }
        let queue = &mut self.lanes[usize::from(lane.0)];
        queue.ready = false;
        if !queue.used {
            self.assign(lane, best);
            return;
        }
        self.barriers += 1;
        let barrier = barrier_id(self.barriers, lane);
        queue.carrier = Carrier::Leaving { link: current, barrier };
        if let Some(link) = self.link(current) {
            link.barriers.push_back((lane, barrier));
        }
    }

    /// Queues the lane at its link if it has something to send. Returns the link if it was idle.
    fn make_ready(&mut self, lane: Lane) -> Option<LinkId> {
        let queue = &mut self.lanes[usize::from(lane.0)];
        let Carrier::On(id) = queue.carrier else {
            return None;
        };
        if queue.ready || !queue.has_unsent() {
            return None;
        }
        queue.ready = true;
        let link = self.links.iter_mut().find(|link| link.id == id)?;
        link.ready.push_back(lane);
        (link.ready.len() == 1).then_some(id)
    }

    fn fill(&mut self, batch: &mut Batch, link: usize, lane: Lane, now: Instant) -> Filled {
        let link = &mut self.links[link];
        let queue = &mut self.lanes[usize::from(lane.0)];
        loop {
            let Some(next) = queue.next_unsent() else {
                return Filled::LaneEmpty;
            };
            let (weight, expires_at, kept) = (next.weight, next.expires_at, next.is_kept());
            if expires_at.is_some_and(|at| at <= now) {
                let usage = if kept { &mut self.kept } else { &mut self.backlog };
                usage.subtract(weight);
                self.completed.extend(queue.pop_unsent().and_then(|slot| slot.ticket));
                count(&self.metrics.expired, 1);
                continue;
            }
            if !link.has_credit() {
                return Filled::NoCredit;
            }
            if !batch.has_room(weight) {
                return Filled::BatchFull;
            }
            let Some(slot) = queue.pop_unsent() else {
                return Filled::LaneEmpty;
            };
            link.sent_messages += 1;
            link.sent_bytes = link.sent_bytes.saturating_add(weight);
            batch.push(slot.outgoing(lane, now), weight);
            if kept {
                count(&self.metrics.resent, usize::from(slot.sent));
                queue.keep(slot);
            } else {
                queue.used = true;
                self.backlog.subtract(weight);
            }
        }
    }
}

enum Filled {
    LaneEmpty,
    BatchFull,
    NoCredit,
}

#[derive(Default)]
struct Batch {
    messages: Vec<Outgoing>,
    bytes: u64,
}

impl Batch {
    fn has_room(&self, weight: u64) -> bool {
        self.messages.is_empty()
            || (self.messages.len() < BATCH_MESSAGES
                && self.bytes.saturating_add(weight) <= BATCH_BYTES)
    }

    fn push(&mut self, message: Outgoing, weight: u64) {
        self.bytes = self.bytes.saturating_add(weight);
        self.messages.push(message);
    }
}

impl Link {
    fn new(id: LinkId, node: NodeId) -> Self {
        Self {
            id,
            node,
            credit_messages: 0,
            credit_bytes: 0,
            sent_messages: 0,
            sent_bytes: 0,
            ready: VecDeque::new(),
            barriers: VecDeque::new(),
        }
    }

    /// The last message may exceed the bytes granted, or one larger than a grant could never go.
    fn has_credit(&self) -> bool {
        self.sent_messages < self.credit_messages && self.sent_bytes < self.credit_bytes
    }
}

impl Usage {
    fn add(&mut self, weight: u64) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(weight);
    }

    fn subtract(&mut self, weight: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(weight);
    }

    fn below(&self, messages: usize, bytes: u64) -> bool {
        self.messages < messages && self.bytes < bytes
    }
}

fn empty_lanes<T>() -> Box<[LaneQueue<T>]> {
    (0..LANES).map(|_| LaneQueue::new()).collect()
}

fn lanes() -> impl Iterator<Item = Lane> {
    (0..=u8::MAX).map(Lane)
}

/// A barrier's number carries its lane in the lowest byte.
fn barrier_id(count: u64, lane: Lane) -> u64 {
    (count << 8) | u64::from(lane.0)
}

fn barrier_lane(id: u64) -> Lane {
    Lane(id.to_le_bytes()[0])
}
