//! The messages of one lane: unacknowledged ones, then those not sent on the present link.
//!
//! Invariant: numbers grow from the front of `unacked` to the back of `unsent`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{Message, QoS};

use super::LinkId;
use super::Publication;
use crate::frame::{Lane, Provenance};

/// A message as a link sends it.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
    pub(crate) message: Arc<Message>,
    /// What is left of the message's expiry interval.
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) provenance: Provenance,
}

/// Who carries a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Nowhere,
    On(LinkId),
    /// Nothing more is sent until the barrier has passed through the link.
    Leaving {
        link: LinkId,
        barrier: u64,
    },
}

impl Carrier {
    pub(crate) fn link(self) -> Option<LinkId> {
        match self {
            Self::Nowhere => None,
            Self::On(link) | Self::Leaving { link, .. } => Some(link),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Slot<T> {
    seq: u64,
    message: Arc<Message>,
    provenance: Provenance,
    pub(crate) weight: u64,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) ticket: Option<T>,
    /// Whether it went out before, on a link that broke.
    pub(crate) sent: bool,
}

impl<T> Slot<T> {
    /// Whether it must be acknowledged.
    pub(crate) fn is_kept(&self) -> bool {
        self.message.qos != QoS::AtMostOnce
    }

    pub(crate) fn outgoing(&self, lane: Lane, now: Instant) -> Outgoing {
        Outgoing {
            lane,
            seq: self.seq,
            message: Arc::clone(&self.message),
            expiry_secs: match self.expires_at {
                Some(at) => Some(seconds_left(at, now)),
                None => self.message.expiry_secs,
            },
            provenance: self.provenance,
        }
    }
}

#[derive(Debug)]
pub(crate) struct LaneQueue<T> {
    last_seq: u64,
    unacked: VecDeque<Slot<T>>,
    unsent: VecDeque<Slot<T>>,
    pub(crate) carrier: Carrier,
    /// Whether the lane stands in its link's list of lanes with something to send.
    pub(crate) ready: bool,
    /// Whether anything was sent on the present link.
    pub(crate) used: bool,
}

impl<T> LaneQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            last_seq: 0,
            unacked: VecDeque::new(),
            unsent: VecDeque::new(),
            carrier: Carrier::Nowhere,
            ready: false,
            used: false,
        }
    }

    pub(crate) fn push(&mut self, publication: Publication<'_>, weight: u64, ticket: Option<T>) {
        self.last_seq += 1;
        self.unsent.push_back(Slot {
            seq: self.last_seq,
            message: Arc::clone(publication.message),
            provenance: publication.provenance,
            weight,
            expires_at: publication.expires_at,
            ticket,
            sent: false,
        });
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(crate) fn next_unsent(&self) -> Option<&Slot<T>> {
        self.unsent.front()
    }

    pub(crate) fn pop_unsent(&mut self) -> Option<Slot<T>> {
        self.unsent.pop_front()
    }

    /// A message was sent and waits for its acknowledgement.
    pub(crate) fn keep(&mut self, mut slot: Slot<T>) {
        self.used = true;
        slot.sent = true;
        self.unacked.push_back(slot);
    }

    /// Takes out what was sent with this number and waits for its acknowledgement.
    pub(crate) fn take_unacked(&mut self, seq: u64) -> Option<Slot<T>> {
        let index = self.unacked.binary_search_by_key(&seq, |slot| slot.seq).ok()?;
        self.unacked.remove(index)
    }

    pub(crate) fn pop_acked(&mut self, up_to: u64) -> Option<Slot<T>> {
        self.unacked.pop_front_if(|slot| slot.seq <= up_to)
    }

    /// What is unacknowledged is to be sent again, first.
    pub(crate) fn go_back(&mut self) {
        self.unacked.append(&mut self.unsent);
        std::mem::swap(&mut self.unacked, &mut self.unsent);
        self.used = false;
    }

    /// The tickets of everything in it, in order.
    pub(crate) fn into_tickets(self) -> impl Iterator<Item = T> {
        self.unacked.into_iter().chain(self.unsent).filter_map(|slot| slot.ticket)
    }

    /// Returns how many there were; `dropped` gets the weight of each.
    pub(crate) fn drop_unsent_qos0(&mut self, mut dropped: impl FnMut(u64)) -> usize {
        let before = self.unsent.len();
        self.unsent.retain(|slot| {
            if !slot.is_kept() {
                dropped(slot.weight);
            }
            slot.is_kept()
        });
        before - self.unsent.len()
    }
}

/// Rounded up: a receiver must not take a message for expired that is not.
fn seconds_left(at: Instant, now: Instant) -> u32 {
    let left = at.saturating_duration_since(now);
    let whole = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
    whole.saturating_add(u32::from(left.subsec_nanos() != 0))
}
