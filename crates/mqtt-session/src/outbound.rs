//! Packets to the client: the queue of what to send next, the window of what it may have
//! unacknowledged, and its acknowledgements.
//!
//! Every QoS 1 or 2 message that is queued is in the session's table before it can be sent, and
//! leaves it only by an acknowledgement. Nothing is sent again within one connection, except a
//! PUBREL that answers a repeated PUBREC `[MQTT-4.4.0-1]`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{
    Ack, AliasUse, Connect, Message, Packet, PacketId, PublishHead, QoS, ReasonCode, Version,
};

use crate::ack::AckKind;
use crate::alias::OutboundAliases;
use crate::session::{InFlight, InFlightTable, Stage};
use crate::{Delivery, DeliveryOutcome, Outgoing, ProtocolError, ServerProfile};

/// Bytes of a PUBLISH besides topic, properties passed on, payload and subscription identifiers:
/// fixed header 5, topic length 2, packet identifier 2, property length 4, expiry 5, alias 3.
const OVERHEAD: usize = 21;
/// Bytes of one subscription identifier at most.
const SUBSCRIPTION_ID: usize = 5;

/// From this many bytes in flight on, nothing more is sent until the client acknowledges: a client that reads and
/// does not acknowledge must not make the server keep its receive maximum of the largest messages.
const IN_FLIGHT_BYTES: usize = 4 << 20;

/// A packet to send, in the smallest form: the queue is written and read for every message.
#[derive(Debug)]
enum Queued {
    Publish { head: PublishHead, message: Arc<Message> },
    Ack(AckKind, PacketId, ReasonCode),
    Other(Box<Packet>),
}

#[derive(Debug)]
pub(crate) struct Outbound {
    version: Version,
    queue: VecDeque<Queued>,
    /// How many QoS 1 and 2 PUBLISH may still be sent `[MQTT-4.9.0-2]`.
    quota: u16,
    /// Most messages in flight that the server allows itself.
    inflight_maximum: u16,
    /// Messages of earlier connections that wait for quota to be sent again.
    unsent: usize,
    /// What the client takes; `u32::MAX` for anything.
    maximum_packet_size: u32,
    aliases: Option<Box<OutboundAliases>>,
    stray: u32,
}

impl Outbound {
    pub(crate) fn new(connect: &Connect, profile: &ServerProfile) -> Self {
        let aliases = connect
            .topic_alias_maximum // [MQTT-3.1.2-26] [MQTT-3.3.2-11]
            .min(profile.outbound_topic_alias_maximum);
        Self {
            version: connect.version,
            queue: VecDeque::new(),
            // [MQTT-4.9.0-1]
            quota: connect.receive_maximum.value().min(profile.inflight_maximum.max(1)),
            inflight_maximum: profile.inflight_maximum.max(1),
            unsent: 0,
            maximum_packet_size: connect.maximum_packet_size.unwrap_or(u32::MAX),
            aliases: OutboundAliases::new(aliases),
            stray: 0,
        }
    }

    /// Queues what an earlier connection left unacknowledged: each PUBLISH with DUP and its
    /// packet identifier, in its original order, as far as the client's receive maximum allows;
    /// each PUBREL at once `[MQTT-4.4.0-1]` `[MQTT-3.3.4-10]`.
    pub(crate) fn resume(&mut self, in_flight: &mut InFlightTable, now: Instant) {
        for entry in in_flight.iter_mut() {
            entry.counted = false;
            if entry.stage == Stage::Released {
                self.push_ack(AckKind::PubRel, entry.packet_id, ReasonCode::Success);
            } else {
                entry.stage = Stage::Unsent;
                self.unsent += 1;
            }
        }
        self.resend(in_flight, now);
    }

    /// How many QoS 1 and 2 deliveries may be handed in.
    pub(crate) fn window(&self, in_flight: &InFlightTable) -> usize {
        // Older messages that wait to be sent again come first: they take all quota there is
        // [MQTT-4.6.0-5].
        debug_assert!(self.unsent == 0 || self.quota == 0);
        if in_flight.bytes() >= IN_FLIGHT_BYTES {
            return 0;
        }
        let room = usize::from(self.inflight_maximum).saturating_sub(in_flight.len());
        room.min(usize::from(self.quota))
    }

    /// Queues a message, if it has not expired and is not too large.
    pub(crate) fn deliver(
        &mut self,
        delivery: Delivery,
        in_flight: &mut InFlightTable,
        now: Instant,
    ) -> DeliveryOutcome {
        if delivery.expires_at.is_some_and(|at| at <= now) {
            return DeliveryOutcome::Expired; // [MQTT-3.3.2-5]
        }
        let mut packet_id = None;
        if delivery.qos > QoS::AtMostOnce {
            if self.window(in_flight) == 0 {
                return DeliveryOutcome::Refused(delivery); // [MQTT-4.9.0-2] [MQTT-3.3.4-9]
            }
            packet_id = in_flight.vacant_id();
            if packet_id.is_none() {
                return DeliveryOutcome::Refused(delivery);
            }
        }
        let Delivery { message, qos, retain, subscription_ids, expires_at } = delivery;
        let mut head = PublishHead {
            dup: false, // [MQTT-3.3.1-3] [MQTT-4.3.1-1]
            qos,
            retain,
            packet_id,
            alias: AliasUse::None,
            expiry_secs: expires_at.map(|at| seconds_left(at, now)),
            subscription_ids,
        };
        if !self.name_topic(&mut head, &message) {
            return DeliveryOutcome::TooLarge;
        }
        if let Some(packet_id) = packet_id {
            self.quota -= 1;
            in_flight.push(InFlight {
                message: Some(Arc::clone(&message)),
                expires_at,
                subscription_ids: head.subscription_ids.clone(),
                packet_id,
                qos,
                retain,
                stage: Stage::Published,
                counted: true,
            });
        }
        self.queue.push_back(Queued::Publish { head, message });
        DeliveryOutcome::Queued
    }

    pub(crate) fn handle_puback(
        &mut self,
        ack: &Ack,
        in_flight: &mut InFlightTable,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let Some(entry) = in_flight.get_mut(ack.packet_id) else {
            self.stray = self.stray.saturating_add(1);
            return Ok(());
        };
        if entry.qos != QoS::AtLeastOnce {
            return Err(ProtocolError::misplaced());
        }
        // Whatever the reason, it is acknowledged [MQTT-4.4.0-2].
        self.settle(ack.packet_id, in_flight, now);
        Ok(())
    }

    pub(crate) fn handle_pubrec(
        &mut self,
        ack: &Ack,
        in_flight: &mut InFlightTable,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let Some(entry) = in_flight.get_mut(ack.packet_id) else {
            self.stray = self.stray.saturating_add(1);
            if !ack.reason.is_error() {
                let reason = ReasonCode::PacketIdentifierNotFound;
                self.push_ack(AckKind::PubRel, ack.packet_id, reason);
            }
            return Ok(());
        };
        if entry.qos != QoS::ExactlyOnce {
            return Err(ProtocolError::misplaced());
        }
        if ack.reason.is_error() {
            self.settle(ack.packet_id, in_flight, now); // [MQTT-4.4.0-2]
            return Ok(());
        }
        if entry.stage == Stage::Unsent {
            self.unsent -= 1;
        }
        in_flight.release(ack.packet_id); // [MQTT-4.3.3-6]
        self.push_ack(AckKind::PubRel, ack.packet_id, ReasonCode::Success); // [MQTT-4.3.3-4]
        Ok(())
    }

    pub(crate) fn handle_pubcomp(
        &mut self,
        ack: &Ack,
        in_flight: &mut InFlightTable,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let Some(entry) = in_flight.get_mut(ack.packet_id) else {
            self.stray = self.stray.saturating_add(1);
            return Ok(());
        };
        if entry.stage != Stage::Released {
            return Err(ProtocolError::misplaced());
        }
        self.settle(ack.packet_id, in_flight, now); // [MQTT-4.3.3-5]
        Ok(())
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
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// A message is done: its place in the window is free.
    fn settle(&mut self, packet_id: PacketId, in_flight: &mut InFlightTable, now: Instant) {
        let Some(entry) = in_flight.remove(packet_id) else {
            return;
        };
        if entry.counted {
            self.quota = self.quota.saturating_add(1);
        }
        if entry.stage == Stage::Unsent {
            self.unsent -= 1;
        }
        if self.unsent > 0 {
            self.resend(in_flight, now);
        }
    }

    /// Queues messages of earlier connections while there is quota.
    fn resend(&mut self, in_flight: &mut InFlightTable, now: Instant) {
        let mut too_large = Vec::new();
        for entry in in_flight.iter_mut() {
            if self.quota == 0 || self.unsent == 0 {
                break; // [MQTT-4.9.0-2]
            }
            let (Stage::Unsent, Some(message)) = (entry.stage, &entry.message) else {
                continue;
            };
            self.unsent -= 1;
            let mut head = PublishHead {
                dup: true, // [MQTT-3.3.1-1]
                qos: entry.qos,
                retain: entry.retain,
                packet_id: Some(entry.packet_id),
                alias: AliasUse::None,
                // Never dropped for its expiry once it was sent [MQTT-4.3.3-7].
                expiry_secs: entry.expires_at.map(|at| seconds_left(at, now)),
                subscription_ids: entry.subscription_ids.clone(),
            };
            entry.stage = Stage::Published;
            if !self.name_topic(&mut head, message) {
                too_large.push(entry.packet_id);
                continue;
            }
            self.quota -= 1;
            entry.counted = true;
            let message = Arc::clone(message);
            self.queue.push_back(Queued::Publish { head, message });
        }
        for packet_id in too_large {
            in_flight.remove(packet_id); // [MQTT-3.1.2-25]
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

/// What is left of a message's life, in seconds: the interval it came with minus the whole
/// seconds it waited `[MQTT-3.3.2-6]`.
fn seconds_left(expires_at: Instant, now: Instant) -> u32 {
    let left = expires_at.saturating_duration_since(now);
    let begun = u64::from(left.subsec_nanos() > 0);
    u32::try_from(left.as_secs() + begun).unwrap_or(u32::MAX)
}
