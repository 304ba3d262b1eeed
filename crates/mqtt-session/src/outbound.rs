//! Packets to the client: the queue of what to send next, the window of what it may have
//! unacknowledged, and its acknowledgements.
//!
//! Every QoS 1 or 2 message that is queued is in the table of what is in flight before it can be sent, and
//! leaves it only by an acknowledgement. Nothing is sent twice on one connection, except a PUBREL that
//! answers a repeated PUBREC `[MQTT-4.4.0-1]`. Does not keep messages: what an earlier connection left
//! unacknowledged is handed in again.

mod in_flight;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{
    Ack, AliasUse, Connect, Message, Packet, PacketId, PublishHead, QoS, ReasonCode, Version,
};

use crate::ack::AckKind;
use crate::alias::OutboundAliases;
use crate::session::{Keeper, Session};
use crate::{
    Confirmation, Delivery, DeliveryOutcome, DeliverySource, Outgoing, ProtocolError, QueueSlot,
    ServerProfile,
};

use self::in_flight::{InFlight, InFlightTable, Stage};

/// Bytes of a PUBLISH besides topic, properties passed on, payload and subscription identifiers:
/// fixed header 5, topic length 2, packet identifier 2, property length 4, expiry 5, alias 3.
const OVERHEAD: usize = 21;
/// Bytes of one subscription identifier at most.
const SUBSCRIPTION_ID: usize = 5;

/// From this many bytes in flight on, nothing more is sent until the client acknowledges: whoever keeps the messages
/// must not have to keep a receive maximum of the largest, and what is late waits where a limit holds for it.
const IN_FLIGHT_BYTES: usize = 4 << 20;

/// A packet to send, in the smallest form: the queue is written and read for every message.
#[derive(Debug)]
enum Queued {
    Publish { head: PublishHead, message: Arc<Message> },
    Ack(AckKind, PacketId, ReasonCode),
    Other(Box<Packet>),
}

/// What a message above QoS 0 finds.
enum Place {
    /// This identifier.
    Vacant(PacketId),
    /// Itself: it is in flight already.
    Taken,
    /// None as yet.
    None,
}

#[derive(Debug)]
pub(crate) struct Outbound {
    version: Version,
    keeper: Keeper,
    queue: VecDeque<Queued>,
    in_flight: InFlightTable,
    /// How many QoS 1 and 2 PUBLISH may still be sent `[MQTT-4.9.0-2]`.
    quota: u16,
    /// Most messages in flight that the server allows itself.
    inflight_maximum: u16,
    /// What the client takes; `u32::MAX` for anything.
    maximum_packet_size: u32,
    aliases: Option<Box<OutboundAliases>>,
    /// Messages with PUBREC and without PUBREL, in the order of their PUBRECs `[MQTT-4.6.0-4]`.
    unreleased: VecDeque<QueueSlot>,
    confirmations: VecDeque<Confirmation>,
    stray: u32,
}

impl Outbound {
    pub(crate) fn new(connect: &Connect, session: &Session, profile: &ServerProfile) -> Self {
        let aliases = connect
            .topic_alias_maximum // [MQTT-3.1.2-26] [MQTT-3.3.2-11]
            .min(profile.outbound_topic_alias_maximum);
        let keeper = session.keeper();
        Self {
            version: connect.version,
            keeper,
            queue: VecDeque::new(),
            in_flight: InFlightTable::new(keeper),
            // [MQTT-4.9.0-1]
            quota: connect.receive_maximum.value().min(profile.inflight_maximum.max(1)),
            inflight_maximum: profile.inflight_maximum.max(1),
            maximum_packet_size: connect.maximum_packet_size.unwrap_or(u32::MAX),
            aliases: OutboundAliases::new(aliases),
            unreleased: VecDeque::new(),
            confirmations: VecDeque::new(),
            stray: 0,
        }
    }

    /// Queues the PUBRELs that an earlier connection left unanswered, at once `[MQTT-4.4.0-1]`
    /// `[MQTT-3.3.4-10]`.
    pub(crate) fn resume(&mut self, released: &[QueueSlot]) {
        for &slot in released {
            self.in_flight.insert(InFlight {
                packet_id: slot.packet_id,
                qos: QoS::ExactlyOnce,
                stage: Stage::Released,
                counted: false,
                weight: 0,
                source: DeliverySource::Queue { slot, dup: true },
            });
            self.push_ack(AckKind::PubRel, slot.packet_id, ReasonCode::Success);
        }
    }

    /// How many QoS 1 and 2 deliveries may be handed in.
    pub(crate) fn window(&self) -> usize {
        if self.in_flight.bytes() >= IN_FLIGHT_BYTES {
            return 0;
        }
        let room = usize::from(self.inflight_maximum).saturating_sub(self.in_flight.len());
        room.min(usize::from(self.quota))
    }

    /// Queues a message, if it has not expired and is not too large.
    pub(crate) fn deliver(&mut self, delivery: Delivery, now: Instant) -> DeliveryOutcome {
        let dup = matches!(delivery.source, DeliverySource::Queue { dup: true, .. });
        // Never dropped for its expiry once it was sent [MQTT-4.3.3-7].
        if !dup && delivery.expires_at.is_some_and(|at| at <= now) {
            self.confirm_dropped(delivery.qos, delivery.source);
            return DeliveryOutcome::Expired; // [MQTT-3.3.2-5]
        }
        let mut packet_id = None;
        if delivery.qos > QoS::AtMostOnce {
            packet_id = match self.place(delivery.source) {
                Place::Vacant(vacant) => Some(vacant),
                Place::Taken => return DeliveryOutcome::Repeated,
                Place::None => return DeliveryOutcome::Refused(delivery),
            };
        }
        let Delivery { message, qos, retain, subscription_ids, expires_at, source } = delivery;
        let mut head = PublishHead {
            dup: dup && packet_id.is_some(), // [MQTT-3.3.1-1] [MQTT-3.3.1-3] [MQTT-4.3.1-1]
            qos,
            retain,
            packet_id,
            alias: AliasUse::None,
            expiry_secs: expires_at.map(|at| seconds_left(at, now)),
            subscription_ids,
        };
        if !self.name_topic(&mut head, &message) {
            self.confirm_dropped(qos, source); // [MQTT-3.1.2-25]
            return DeliveryOutcome::TooLarge;
        }
        if let Some(packet_id) = packet_id {
            self.quota -= 1;
            let stage = Stage::Published;
            let weight = weight(&message);
            let entry = InFlight { packet_id, qos, stage, counted: true, weight, source };
            self.in_flight.insert(entry);
        }
        self.queue.push_back(Queued::Publish { head, message });
        DeliveryOutcome::Queued
    }

    pub(crate) fn handle_puback(&mut self, ack: &Ack) -> Result<(), ProtocolError> {
        let Some(entry) = self.in_flight.lookup(ack.packet_id) else {
            self.stray = self.stray.saturating_add(1);
            return Ok(());
        };
        if entry.qos != QoS::AtLeastOnce {
            return Err(ProtocolError::misplaced());
        }
        // Whatever the reason, it is acknowledged [MQTT-4.4.0-2].
        self.settle(ack.packet_id);
        Ok(())
    }

    pub(crate) fn handle_pubrec(&mut self, ack: &Ack) -> Result<(), ProtocolError> {
        let packet_id = ack.packet_id;
        let Some(&entry) = self.in_flight.lookup(packet_id) else {
            self.handle_stray_pubrec(ack);
            return Ok(());
        };
        if entry.qos != QoS::ExactlyOnce {
            return Err(ProtocolError::misplaced());
        }
        if ack.reason.is_error() {
            self.settle(packet_id); // [MQTT-4.4.0-2]
            self.release_confirmed();
            return Ok(());
        }
        match (entry.stage, entry.source) {
            (Stage::Published, DeliverySource::Queue { slot, .. }) => {
                self.in_flight.advance(packet_id, Stage::Received);
                self.unreleased.push_back(slot);
                self.confirmations.push_back(Confirmation::Received { place: slot.place });
            }
            (Stage::Published, source) => {
                self.confirmations.extend(confirmation(source));
                self.release(packet_id);
            }
            (Stage::Received | Stage::Confirmed, _) => {} // Its one PUBREL is still to come.
            (Stage::Released, _) => self.release(packet_id),
        }
        Ok(())
    }

    /// It is safe that the client has a message: its PUBREL may leave, in its order
    /// `[MQTT-4.6.0-4]`.
    pub(crate) fn confirm_received(&mut self, slot: QueueSlot) {
        match self.in_flight.lookup_mut(slot.packet_id) {
            Some(entry) if entry.stage == Stage::Received && entry.is_of(slot) => {
                entry.stage = Stage::Confirmed;
            }
            Some(_) | None => return,
        }
        self.release_confirmed();
    }

    pub(crate) fn handle_pubcomp(&mut self, ack: &Ack) -> Result<(), ProtocolError> {
        let Some(entry) = self.in_flight.lookup(ack.packet_id) else {
            self.stray = self.stray.saturating_add(1);
            return Ok(());
        };
        if entry.stage != Stage::Released {
            return Err(ProtocolError::misplaced());
        }
        self.settle(ack.packet_id); // [MQTT-4.3.3-5]
        Ok(())
    }

    pub(crate) fn confirm(&mut self, confirmation: Confirmation) {
        self.confirmations.push_back(confirmation);
    }

    pub(crate) fn next_confirmation(&mut self) -> Option<Confirmation> {
        self.confirmations.pop_front()
    }

    /// How many messages are not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn push_ack(&mut self, kind: AckKind, id: PacketId, reason: ReasonCode) {
        self.queue.push_back(Queued::Ack(kind, id, reason));
    }

    /// Queues any packet that is neither a PUBLISH nor its acknowledgement, unless it is larger
    /// than the client takes. Whether it was queued.
    pub(crate) fn push(&mut self, packet: Packet) -> bool {
        // [MQTT-3.1.2-24]
        let fits =
            self.maximum_packet_size == u32::MAX || self.fits(packet.encoded_len(self.version));
        if fits {
            self.queue.push_back(Queued::Other(Box::new(packet)));
        }
        fits
    }

    pub(crate) fn pop(&mut self) -> Option<Outgoing> {
        Some(match self.queue.pop_front()? {
            Queued::Publish { head, message } => Outgoing::Publish { head, message },
            // No longer than the CONNACK, which the client took [MQTT-3.1.2-24].
            Queued::Ack(kind, id, reason) => Outgoing::Packet(kind.packet(id, reason)),
            Queued::Other(packet) => Outgoing::Packet(*packet),
        })
    }

    /// How many packets wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Acknowledgements for which nothing was in flight.
    pub(crate) fn stray(&self) -> u32 {
        self.stray
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        self.in_flight.shrink();
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        if self.unreleased.is_empty() {
            self.unreleased = VecDeque::new();
        }
        if self.confirmations.is_empty() {
            self.confirmations = VecDeque::new();
        }
    }

    /// The identifier for a message above QoS 0.
    fn place(&mut self, source: DeliverySource) -> Place {
        if self.window() == 0 {
            return Place::None; // [MQTT-4.9.0-2] [MQTT-3.3.4-9]
        }
        let DeliverySource::Queue { slot, .. } = source else {
            return self.in_flight.vacant_id().map_or(Place::None, Place::Vacant);
        };
        match self.in_flight.lookup(slot.packet_id) {
            None => Place::Vacant(slot.packet_id),
            Some(entry) if entry.is_of(slot) => Place::Taken,
            Some(_) => Place::None, // [MQTT-2.2.1-4]
        }
    }

    /// A message is done: its place in the window is free.
    fn settle(&mut self, packet_id: PacketId) {
        let Some(entry) = self.in_flight.remove(packet_id) else {
            return;
        };
        if entry.counted {
            self.quota = self.quota.saturating_add(1);
        }
        let told =
            entry.stage != Stage::Published && matches!(entry.source, DeliverySource::Group { .. });
        if !told {
            self.confirmations.extend(confirmation(entry.source));
        }
    }

    /// A message will not be sent: nobody is to wait for it.
    fn confirm_dropped(&mut self, qos: QoS, source: DeliverySource) {
        if qos > QoS::AtMostOnce {
            self.confirmations.extend(confirmation(source));
        }
    }

    /// The client has it, and may forget that it had `[MQTT-4.3.3-4]` `[MQTT-4.3.3-6]`.
    fn release(&mut self, packet_id: PacketId) {
        self.in_flight.advance(packet_id, Stage::Released);
        self.push_ack(AckKind::PubRel, packet_id, ReasonCode::Success);
    }

    /// Queues the PUBRELs whose turn it is.
    fn release_confirmed(&mut self) {
        while let Some(&first) = self.unreleased.front() {
            match self.in_flight.lookup(first.packet_id).filter(|entry| entry.is_of(first)) {
                Some(entry) if entry.stage == Stage::Received => return,
                Some(entry) if entry.stage == Stage::Confirmed => self.release(first.packet_id),
                // It was refused after all.
                Some(_) | None => {}
            }
            self.unreleased.pop_front();
        }
    }

    /// A PUBREC of nothing that is in flight.
    fn handle_stray_pubrec(&mut self, ack: &Ack) {
        self.stray = self.stray.saturating_add(1);
        // A kept message may yet be handed in again. A PUBREL before it would make the client take it twice.
        if self.keeper == Keeper::Connection && !ack.reason.is_error() {
            self.push_ack(AckKind::PubRel, ack.packet_id, ReasonCode::PacketIdentifierNotFound);
        }
    }

    /// Chooses between topic and alias; `false` if the client does not take a packet that large.
    fn name_topic(&mut self, head: &mut PublishHead, message: &Message) -> bool {
        if self.aliases.is_none() && self.maximum_packet_size == u32::MAX {
            return true;
        }
        let aliases = self.aliases.as_deref_mut();
        let known = aliases.and_then(|aliases| aliases.find(&message.topic));
        head.alias = known.map_or(AliasUse::None, AliasUse::Use);
        let at_most = OVERHEAD
            + SUBSCRIPTION_ID * head.subscription_ids.len()
            + message.topic.as_str().len()
            + message.properties.as_bytes().len()
            + message.payload.len();
        if !self.fits(at_most) {
            // A new alias would only make it larger.
            return self.fits(head.encoded_len(message, self.version));
        }
        if let (None, Some(aliases)) = (known, &mut self.aliases) {
            head.alias = aliases.assign(&message.topic);
        }
        true
    }

    fn fits(&self, bytes: usize) -> bool {
        u32::try_from(bytes).is_ok_and(|bytes| bytes <= self.maximum_packet_size)
    }
}

/// What to tell whoever keeps the message when it is done.
fn confirmation(source: DeliverySource) -> Option<Confirmation> {
    match source {
        DeliverySource::Own => None,
        DeliverySource::Queue { slot, .. } => Some(Confirmation::Settled { place: slot.place }),
        DeliverySource::Group { group, place } => Some(Confirmation::Group { group, place }),
    }
}

/// The bytes of a message that count.
fn weight(message: &Message) -> u32 {
    let bytes =
        message.topic.as_str().len() + message.payload.len() + message.properties.as_bytes().len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What is left of a message's life, in seconds: the interval it came with minus the whole
/// seconds it waited `[MQTT-3.3.2-6]`.
fn seconds_left(expires_at: Instant, now: Instant) -> u32 {
    let left = expires_at.saturating_duration_since(now);
    let begun = u64::from(left.subsec_nanos() > 0);
    u32::try_from(left.as_secs() + begun).unwrap_or(u32::MAX)
}
