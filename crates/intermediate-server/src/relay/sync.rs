//! The route streams: registration, tables, beats, views.
//!
//! Owns no state of its own. Invariant: `Applied(n)` is said only when the index matches with every
//! change up to n.

use std::time::Instant;

use cluster_rpc::frame::{Beat, Hello, PROTOCOL, RejectReason, RouteDown, RouteUp, View};

use super::members::Opening;
use super::{Bound, Polled, Relay, StreamId, StreamKind, Violation, at};
use crate::endpoint::wake;
use crate::routes::Slot;
use crate::table::Change;

impl Relay {
    /// A frame of a route stream. An error ends the stream.
    pub fn handle_routes(
        &mut self,
        stream: StreamId,
        frame: RouteUp,
        now: Instant,
    ) -> Result<(), Violation> {
        self.notice_stall(now);
        if let RouteUp::Hello(hello) = frame {
            return self.hello(stream, &hello, now);
        }
        let Some(slot) = self.heard(stream, now)? else {
            return Ok(());
        };
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return Ok(());
        };
        let (table, index, most) = (&mut endpoint.table, &mut self.routes, self.config.max_routes);
        let was_complete = table.is_complete();
        let change = match frame {
            RouteUp::Snapshot(chunk) => table.take_snapshot(chunk, slot, index, most)?,
            RouteUp::Delta(delta) => table.take_delta(&delta, slot, index, most)?,
            RouteUp::Beat(beat) => {
                self.beat(slot, &beat);
                return Ok(());
            }
            RouteUp::Leave => {
                self.leave(slot, now);
                return Ok(());
            }
            RouteUp::Hello(_) => return Err(Violation::OpenedTwice),
        };
        match change {
            Change::Applied(seq) => endpoint.say.applied = Some(seq),
            Change::Gap => endpoint.say.resync = true,
            Change::Unfinished => {}
        }
        wake(&mut endpoint.routes, &mut self.wakes);
        if !was_complete && change != Change::Unfinished {
            self.say_view_to_all();
        }
        self.catch_up(slot, now);
        Ok(())
    }

    /// What a route stream has to send.
    pub fn poll_routes(&mut self, stream: StreamId) -> Polled<RouteDown> {
        let slot = match self.bound(stream, |why| Polled::Frame(RouteDown::Reject(why))) {
            Ok(slot) => slot,
            Err(polled) => return polled,
        };
        let wants_view = at(&mut self.endpoints, slot)
            .is_some_and(|endpoint| endpoint.say.welcome.is_none() && endpoint.say.view);
        let view = wants_view.then(|| self.view());
        let (me, store) = (&self.config.member, self.config.store_here);
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return Polled::Closed;
        };
        let say = &mut endpoint.say;
        let frame = if let Some(deltas_from) = say.welcome.take() {
            Some(RouteDown::Welcome { member: me.clone(), deltas_from, store })
        } else if std::mem::take(&mut say.resync) {
            Some(RouteDown::Resync)
        } else if let Some(seq) = say.applied.take() {
            Some(RouteDown::Applied(seq))
        } else if let Some(view) = view {
            say.view = false;
            Some(RouteDown::View(view))
        } else {
            say.beat_ack.take().map(RouteDown::BeatAck)
        };
        match (frame, &mut endpoint.routes) {
            (Some(frame), _) => Polled::Frame(frame),
            (None, line) => {
                line.iter_mut().for_each(|line| line.woken = false);
                Polled::Pending
            }
        }
    }

    fn hello(&mut self, stream: StreamId, hello: &Hello, now: Instant) -> Result<(), Violation> {
        if hello.protocol != PROTOCOL {
            self.set_bound(stream, Bound::Rejected(RejectReason::Protocol));
            return Ok(());
        }
        let (member, role) = (&hello.member, Some(hello.role));
        let opening = Opening { kind: StreamKind::Routes, member, role };
        let Some(slot) = self.bind(stream, opening, now)? else {
            return Ok(());
        };
        if hello.stray && self.served_without(slot) {
            self.turn_away(slot);
            self.set_bound(stream, Bound::Rejected(RejectReason::DeclaredDead));
            return Ok(());
        }
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return Ok(());
        };
        endpoint.broken_at = None;
        endpoint.table.abandon_incoming();
        let deltas_from = endpoint.table.deltas_from(hello);
        endpoint.say = crate::endpoint::Say {
            welcome: Some(deltas_from),
            applied: endpoint.table.applied().filter(|_| deltas_from.is_some()),
            view: true,
            ..crate::endpoint::Say::default()
        };
        wake(&mut endpoint.routes, &mut self.wakes);
        endpoint.catching_up = Some(hello.head_seq);
        self.gate.hello(hello, now);
        if deltas_from.is_some() {
            self.catch_up(slot, now);
        }
        Ok(())
    }

    /// Whether all rows that the endpoint had when it registered are here. What was here before is
    /// not enough: meanwhile it may have promised subscribers what this relay has not heard of.
    fn catch_up(&mut self, slot: Slot, now: Instant) {
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        let (head, applied) = (endpoint.catching_up, endpoint.table.applied());
        if head.is_some() && applied >= head {
            endpoint.catching_up = None;
            self.gate.synced(&endpoint.member.node, endpoint.role);
            self.try_open_gate(now);
        }
    }

    fn beat(&mut self, slot: Slot, beat: &Beat) {
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        endpoint.say.beat_ack = Some(beat.nonce);
        if endpoint.table.differs(beat) {
            self.counts.digest_mismatches += 1;
            endpoint.say.resync = true;
        }
        wake(&mut endpoint.routes, &mut self.wakes);
    }

    fn view(&self) -> View {
        let complete = self.slots().filter(|(_, endpoint)| endpoint.table.is_complete());
        let mut members: Vec<_> = complete.map(|(_, endpoint)| endpoint.member.clone()).collect();
        members.sort_unstable();
        View { state: self.state(), members }
    }
}
