//! The publish and deliver streams: messages in, messages out, acknowledgements back.
//!
//! Owns no state of its own. Invariant: a message is in the outboxes of all its endpoints before
//! its origin can be told anything about it.

use std::sync::Arc;
use std::time::Instant;

use cluster_rpc::frame::{DeliverDown, DeliverOpen, DeliverUp, PublishDown, PublishUp, Routed};
use mqtt_codec::{QoS, ReasonCode};

use super::members::Opening;
use super::{Polled, Relay, StreamId, StreamKind, Violation, at};
use crate::endpoint::wake;
use crate::outbox::{Batch, Entry, LastLink, Pushed};
use crate::pending::{Amount, Credit, Hold, Pending, Wait};
use crate::routes::{Slot, Target};

impl Relay {
    /// A frame of a publish stream. An error ends the stream.
    pub fn handle_publish(
        &mut self,
        stream: StreamId,
        frame: PublishUp,
        now: Instant,
    ) -> Result<(), Violation> {
        self.notice_stall(now);
        if let PublishUp::Open(member) = frame {
            let opening = Opening { kind: StreamKind::Publish, member: &member, role: None };
            if let Some(slot) = self.bind(stream, opening, now)?
                && let Some(origin) = at(&mut self.endpoints, slot)
            {
                origin.pending = Pending::new();
                origin.credit = Credit::default();
                wake(&mut origin.publish, &mut self.wakes);
            }
            return Ok(());
        }
        let Some(slot) = self.heard(stream, now)? else {
            return Ok(());
        };
        match frame {
            PublishUp::Batch(messages) => self.relay_batch((slot, stream), messages, now),
            PublishUp::Barrier { lane: _, id } => self.barrier((slot, stream), id),
            PublishUp::Open(_) => Err(Violation::OpenedTwice),
        }
    }

    /// What a publish stream has to send.
    pub fn poll_publish(&mut self, stream: StreamId) -> Polled<PublishDown> {
        let slot = match self.bound(stream, |_| Polled::Closed) {
            Ok(slot) => slot,
            Err(polled) => return polled,
        };
        let grants = self.grants();
        let Some(origin) = at(&mut self.endpoints, slot) else {
            return Polled::Closed;
        };
        let refused = origin.pending.take_refused();
        if !refused.is_empty() {
            let quota = refused.iter().filter(|(.., reason)| *reason == ReasonCode::QuotaExceeded);
            let quota = quota.count();
            self.counts.refused_quota += quota as u64;
            self.counts.refused_other += (refused.len() - quota) as u64;
            return Polled::Frame(PublishDown::Refused(refused));
        }
        let acked = origin.pending.take_acked();
        if !acked.is_empty() {
            return Polled::Frame(PublishDown::Acked(acked));
        }
        if let Some(id) = origin.pending.take_barrier() {
            return Polled::Frame(PublishDown::BarrierDone(id));
        }
        if grants && let Some(total) = origin.credit.grant(self.config.credit) {
            let Amount { messages, bytes } = total;
            return Polled::Frame(PublishDown::Credit { messages, bytes });
        }
        origin.publish.iter_mut().for_each(|line| line.woken = false);
        Polled::Pending
    }

    /// A frame of a deliver stream. An error ends the stream.
    pub fn handle_deliver(
        &mut self,
        stream: StreamId,
        frame: DeliverUp,
        now: Instant,
    ) -> Result<(), Violation> {
        self.notice_stall(now);
        match frame {
            DeliverUp::Open(open) => self.open_link(stream, &open, now),
            DeliverUp::Acked(up_to) => self.link_acked(stream, up_to, now),
            DeliverUp::Refused(refused) => self.link_refused(stream, refused, now),
        }
    }

    /// What a deliver stream has to send.
    pub fn poll_deliver(&mut self, stream: StreamId, now: Instant) -> Polled<DeliverDown> {
        let slot = match self.bound(stream, |_| Polled::Closed) {
            Ok(slot) => slot,
            Err(polled) => return polled,
        };
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return Polled::Closed;
        };
        if let Some(link) = endpoint.link_opened.take() {
            return Polled::Frame(DeliverDown::LinkOpen(link));
        }
        match endpoint.outbox.next_batch(&self.config.outbox, now) {
            Some((first_seq, deliveries)) => {
                self.counts.sent += deliveries.len() as u64;
                Polled::Frame(DeliverDown::Batch { first_seq, deliveries })
            }
            None => {
                endpoint.deliver.iter_mut().for_each(|line| line.woken = false);
                Polled::Pending
            }
        }
    }

    fn relay_batch(
        &mut self,
        from: (Slot, StreamId),
        messages: Vec<Routed>,
        now: Instant,
    ) -> Result<(), Violation> {
        let (slot, _) = from;
        let Some(origin) = at(&mut self.endpoints, slot) else {
            return Ok(());
        };
        let bytes = messages.iter().map(Routed::weight).fold(0, u64::saturating_add);
        origin.credit.receive(Amount { messages: messages.len() as u64, bytes })?;
        self.batches += 1;
        let batch = Batch { number: self.batches, bytes };
        let mut targets = std::mem::take(&mut self.targets);
        for routed in messages {
            self.counts.received[routed.message.qos as usize] += 1;
            self.routes.matches(&routed.message.topic, &mut targets);
            if routed.message.retain {
                self.add_store(&mut targets);
            }
            self.forward(from, routed, batch, (&targets, now));
        }
        self.targets = targets;
        if let Some(origin) = at(&mut self.endpoints, slot) {
            wake(&mut origin.publish, &mut self.wakes);
        }
        Ok(())
    }

    /// The store keeps what is retained, whether somebody there is subscribed or not.
    fn add_store(&self, targets: &mut Vec<Target>) {
        let Some(store) = self.store else { return };
        match targets.iter_mut().find(|target| target.slot == store) {
            Some(target) => target.holds = true,
            None => targets.push(Target { slot: store, holds: true }),
        }
    }

    fn forward(
        &mut self,
        (from, stream): (Slot, StreamId),
        routed: Routed,
        batch: Batch,
        (targets, now): (&[Target], Instant),
    ) {
        let Some(origin) = at(&mut self.endpoints, from) else {
            return;
        };
        let (lane, seq) = (routed.lane, routed.seq);
        let acknowledged = routed.message.qos > QoS::AtMostOnce;
        let place = origin.pending.next_place(lane);
        let hold = Hold::new(from, stream.0, Wait::Message { lane, place });
        let id = origin.origin;
        let weight = routed.weight();
        let mut copies = Copies { read: Arc::new(routed), own: None };
        let mut outstanding = 0;
        for target in targets.iter().filter(|target| target.slot != from) {
            let Some(endpoint) = at(&mut self.endpoints, target.slot) else {
                continue;
            };
            let outbox = &mut endpoint.outbox;
            let hold = (acknowledged && target.holds).then_some(hold);
            let (routed, batch) = match outbox.is_backed_up(&self.config.outbox) {
                true => (copies.own(), Batch::default()),
                false => (Arc::clone(&copies.read), batch),
            };
            let was_congested = outbox.is_congested();
            let entry = Entry { routed: Some(routed), origin: id, hold, weight, batch, since: now };
            if outbox.push(entry, &self.config.outbox) == Pushed::Full {
                self.counts.dropped_full += 1;
                continue;
            }
            outstanding += u32::from(hold.is_some());
            self.congested += usize::from(outbox.is_congested() && !was_congested);
            wake(&mut endpoint.deliver, &mut self.wakes);
        }
        if acknowledged && let Some(origin) = at(&mut self.endpoints, from) {
            origin.pending.push(lane, seq, outstanding);
        }
    }

    /// Everything of the origin's lane is in some outbox now, so it has arrived once each outbox has
    /// moved past what it holds.
    fn barrier(&mut self, (from, stream): (Slot, StreamId), id: u64) -> Result<(), Violation> {
        let Some(origin) = at(&mut self.endpoints, from) else {
            return Ok(());
        };
        let number = origin.pending.next_barrier()?;
        let hold = Hold::new(from, stream.0, Wait::Barrier(number));
        let mut outstanding = 0;
        for endpoint in self.endpoints.iter_mut().flatten() {
            outstanding += u32::from(endpoint.outbox.push_barrier(hold));
        }
        if let Some(origin) = at(&mut self.endpoints, from) {
            origin.pending.push_barrier(id, outstanding);
            wake(&mut origin.publish, &mut self.wakes);
        }
        Ok(())
    }

    fn open_link(
        &mut self,
        stream: StreamId,
        open: &DeliverOpen,
        now: Instant,
    ) -> Result<(), Violation> {
        let opening = Opening { kind: StreamKind::Deliver, member: &open.member, role: None };
        let Some(slot) = self.bind(stream, opening, now)? else {
            return Ok(());
        };
        self.links += 1;
        // Unique across this relay's lives, so that a link of an earlier one is not taken for it.
        let link = self.config.member.incarnation.0.wrapping_add(self.links);
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return Ok(());
        };
        let outbox = &mut endpoint.outbox;
        let was_congested = outbox.is_congested();
        let last = LastLink { link: open.last_link, seq: open.last_seq };
        let lost = outbox.open(link, last, &self.config.outbox, &mut self.released);
        let is_congested = outbox.is_congested();
        endpoint.link_opened = Some(link);
        wake(&mut endpoint.deliver, &mut self.wakes);
        self.counts.dropped_link += lost;
        self.after_release(was_congested, is_congested);
        Ok(())
    }

    fn link_acked(&mut self, stream: StreamId, up_to: u64, now: Instant) -> Result<(), Violation> {
        let Some(slot) = self.heard(stream, now)? else {
            return Ok(());
        };
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return Ok(());
        };
        let outbox = &mut endpoint.outbox;
        let was_congested = outbox.is_congested();
        outbox.ack(up_to, &self.config.outbox, &mut self.released)?;
        let is_congested = outbox.is_congested();
        if outbox.has_unsent() {
            wake(&mut endpoint.deliver, &mut self.wakes);
        }
        self.after_release(was_congested, is_congested);
        Ok(())
    }

    /// The acknowledgement follows; with it the origins are told.
    fn link_refused(
        &mut self,
        stream: StreamId,
        refused: Vec<(u64, ReasonCode)>,
        now: Instant,
    ) -> Result<(), Violation> {
        let Some(slot) = self.heard(stream, now)? else {
            return Ok(());
        };
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return Ok(());
        };
        refused.into_iter().try_for_each(|(number, why)| endpoint.outbox.refuse(number, why))
    }
}

/// One message for all outboxes: as it was read, and in memory of its own for those where it
/// stays, because what was read pins the buffer of its whole batch.
struct Copies {
    read: Arc<Routed>,
    own: Option<Arc<Routed>>,
}

impl Copies {
    fn own(&mut self) -> Arc<Routed> {
        let own = self.own.get_or_insert_with(|| {
            let Routed { lane, seq, provenance, ref message } = *self.read;
            Arc::new(Routed { lane, seq, provenance, message: message.detached() })
        });
        Arc::clone(own)
    }
}
