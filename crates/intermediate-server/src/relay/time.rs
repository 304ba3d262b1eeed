//! What passing time does: leases end, the wait after a start ends, and the relay itself may have
//! stood still.
//!
//! Owns no state of its own. Invariant: nothing that came in before a stall was noticed is acted on
//! with what was known before it. A short stall is forgiven to everyone. After one as long as a lease
//! the proxies have given this relay up and told their subscribers so: what it knows is no longer
//! enough to acknowledge anything.

use std::time::{Duration, Instant};

use super::{Bound, Relay};
use crate::endpoint::Endpoint;
use crate::routes::Slot;

/// If time stood still for the relay for this long, nobody's silence meanwhile counts.
const STALL: Duration = Duration::from_secs(1);

impl Relay {
    /// Time has passed: declares the silent dead, and opens the gate when the wait is over. To be
    /// called a few times a second.
    pub fn handle_time(&mut self, now: Instant) {
        self.notice_stall(now);
        self.last_time = now;
        let (lease, local_return) = (self.config.lease, self.config.local_return);
        let silent: Vec<Slot> = self
            .slots()
            .filter(|(_, endpoint)| now >= endpoint.deadline(lease, local_return))
            .map(|(slot, _)| slot)
            .collect();
        for slot in silent {
            match self.store == Some(slot) {
                // What is left of it must not look alive, and hold up the end of this process.
                true => self.close_streams(slot),
                false => self.declare_dead(slot),
            }
        }
        self.give_up_overdue(now);
        self.close_silent_streams(now);
        self.try_open_gate(now);
    }

    /// To be called before anything is made of what has come: after a stall it may be old.
    pub(super) fn notice_stall(&mut self, now: Instant) {
        let stood_still = now.saturating_duration_since(self.last_time);
        if stood_still <= STALL {
            return;
        }
        self.last_time = now;
        self.pardon(stood_still, now);
        if stood_still >= self.config.lease {
            self.begin_anew(now);
        }
    }

    /// The relay itself was not running: its silence is not the endpoints'.
    fn pardon(&mut self, stood_still: Duration, now: Instant) {
        let later = |at: Instant| now.min(at + stood_still);
        for endpoint in self.endpoints.iter_mut().flatten() {
            endpoint.last_heard = later(endpoint.last_heard);
            endpoint.broken_at = endpoint.broken_at.map(later);
        }
        for attached in self.streams.values_mut() {
            attached.since = later(attached.since);
        }
        self.gate.pardon(stood_still, now);
    }

    /// Every endpoint has to come again, on new streams. Its rows and its outbox stay.
    fn begin_anew(&mut self, now: Instant) {
        let slots: Vec<Slot> = self.slots().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.close_streams(slot);
        }
        for endpoint in self.endpoints.iter_mut().flatten() {
            let Endpoint { last_heard, broken_at, catching_up, table, .. } = endpoint;
            // All have a lease, those on this machine too: they wait before they connect again.
            (*last_heard, *broken_at, *catching_up) = (now, None, None);
            table.abandon_incoming();
        }
        let members = self.endpoints.iter().flatten().map(|endpoint| &endpoint.member);
        self.gate.close(members);
        self.counts.stalls += 1;
    }

    /// Those who were awaited too long are dead, also if they come again and again without ever
    /// telling their routes. The store is awaited for as long as it takes.
    fn give_up_overdue(&mut self, now: Instant) {
        for member in self.gate.overdue(now) {
            let slot = self.by_node.get(&member.node).copied();
            if slot.is_some() && slot == self.store {
                continue;
            }
            if let Some(slot) = slot {
                self.declare_dead(slot);
            } else {
                self.gate.gone(&member.node);
                self.counts.declared_dead += 1;
                self.departed(&member);
            }
            self.retired.insert(member);
        }
    }

    fn close_silent_streams(&mut self, now: Instant) {
        let lease = self.config.lease;
        let before = self.wakes.len();
        for (&stream, attached) in &mut self.streams {
            if matches!(attached.bound, Bound::Nobody) && now >= attached.since + lease {
                attached.bound = Bound::Closed;
                self.wakes.push(stream);
            }
        }
        self.wakes[before..].sort_unstable();
    }
}
