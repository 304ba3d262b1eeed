//! Wills on their way to the relays.
//!
//! Owns those that the relays have not confirmed. Invariant: each is published until it is confirmed or
//! refused; its row is deleted only then, so a new life of the store goes on with the rest. Bounded by
//! the rows: one for each session at most.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use cluster_rpc::Uplink;
use cluster_rpc::frame::Provenance;
use foldhash::fast::RandomState;
use mqtt_codec::{Message, QoS};
use partition::{OnceKey, OutboxId, UnixMillis};

use super::clock::Clock;

/// A will.
#[derive(Clone, Debug)]
pub(super) struct Will {
    pub(super) id: OutboxId,
    pub(super) message: Arc<Message>,
    pub(super) expires_at: Option<UnixMillis>,
    pub(super) once: OnceKey,
}

/// Those that are not confirmed.
#[derive(Debug, Default)]
pub(super) struct Post {
    unsent: VecDeque<Will>,
    sent: HashMap<OutboxId, Will, RandomState>,
    /// The window was full, and somebody waits until it is not.
    blocked: bool,
    pub(super) refused: u64,
}

/// What became of a call of [`Post::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Nothing is left.
    Done,
    /// The window is full: call again when it is not.
    WindowFull,
}

impl Post {
    pub(super) fn push(&mut self, will: Will) {
        self.unsent.push_back(will);
    }

    /// Publishes what the window takes. Those of QoS 0 are confirmed by that: they go to `done`.
    pub(super) fn send(
        &mut self,
        uplink: &Uplink<OutboxId>,
        clock: Clock,
        done: &mut Vec<OutboxId>,
    ) -> Sending {
        if self.blocked {
            return Sending::Done;
        }
        while let Some(will) = self.unsent.pop_front() {
            let expires_at = will.expires_at.and_then(|at| clock.instant(at));
            let provenance = Provenance { publisher: 0, once: Some(will.once.0) };
            let ticket = (will.message.qos != QoS::AtMostOnce).then_some(will.id);
            // It is the store's own: no life of the uplink is the wrong one.
            let life = uplink.life();
            if uplink.publish(life, &will.message, expires_at, provenance, ticket).is_err() {
                self.unsent.push_front(will);
                self.blocked = true;
                return Sending::WindowFull;
            }
            match ticket {
                Some(id) => drop(self.sent.insert(id, will)),
                None => done.push(will.id),
            }
        }
        Sending::Done
    }

    /// The window has room again.
    pub(super) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// The relays have taken it.
    pub(super) fn confirmed(&mut self, id: OutboxId) {
        self.sent.remove(&id);
    }

    /// Somebody did not take it: nothing is gained by asking again.
    pub(super) fn refused(&mut self, id: OutboxId) {
        self.refused += 1;
        self.sent.remove(&id);
    }

    /// The uplink has begun a new life and forgotten it.
    pub(super) fn send_again(&mut self, ids: Vec<OutboxId>) {
        let again = ids.into_iter().filter_map(|id| self.sent.remove(&id));
        self.unsent.extend(again);
    }
}
