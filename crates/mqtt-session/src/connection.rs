//! One client's protocol: packets in, packets and events out.
//!
//! Owns what holds for the connection as a whole and gives each packet to the part that knows it:
//! messages from the client to `inbound`, messages to it to `outbound`. Decides nothing about
//! other clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{
    Ack, ClientId, Connect, Disconnect, Message, Packet, Publish, ReasonCode, Subscribe,
    Unsubscribe, Version,
};

use crate::ack::AckKind;
use crate::event::Request;
use crate::inbound::{Inbound, Released, Settled};
use crate::opening::{self, Terms};
use crate::outbound::Outbound;
use crate::subscribing;
use crate::version;
use crate::{
    CloseReason, Confirmation, Delivery, DeliveryOutcome, Ended, Event, Opened, Outgoing,
    ProtocolError, QueueSlot, ServerProfile, Session, Ticket,
};

/// One client's MQTT protocol, from CONNECT to close, without a socket or a clock.
///
/// Four kinds of methods:
/// - `handle_*`: what happened outside: a packet, a message to deliver, a deadline that passed;
///   [`close`](Self::close) and [`fail`](Self::fail) end the connection from this side;
/// - `complete*`: the broker's answer to an event that carried a [`Ticket`], or to a confirmation;
/// - `poll_*`: what to do now: packets to send, events for the broker, confirmations for whoever keeps the
///   messages, the next deadline;
/// - getters.
///
/// After any of the first two kinds, poll packets, then the others, until all are empty. Read from
/// the client only while [`accepts_input`](Self::accepts_input). When [`closed`](Self::closed)
/// says so, or the socket has ended, send what is queued, take events and confirmations and call
/// [`end`](Self::end). `now` must never go backwards.
#[derive(Debug)]
pub struct Connection {
    client_id: ClientId,
    version: Version,
    terms: Terms,
    profile: Arc<ServerProfile>,
    inbound: Inbound,
    outbound: Outbound,
    events: VecDeque<Event>,
    /// When the client was heard last.
    heard_at: Instant,
    closed: Option<CloseReason>,
}

impl Connection {
    /// Starts the connection of a client that was let in: queues the CONNACK `[MQTT-3.2.0-1]`,
    /// then the PUBRELs that an earlier connection of the session left unanswered
    /// `[MQTT-4.4.0-1]`.
    #[must_use]
    pub fn new(
        connect: &Connect,
        opened: Opened,
        profile: Arc<ServerProfile>,
        now: Instant,
    ) -> Self {
        let connack = opening::connack(connect, &opened, &profile);
        let Opened { client_id, session, .. } = opened;
        let mut connection = Self {
            client_id,
            version: connect.version,
            terms: Terms::new(connect, &profile),
            inbound: Inbound::new(connect.version, &session, &profile),
            outbound: Outbound::new(connect, &session, &profile),
            profile,
            events: VecDeque::new(),
            heard_at: now,
            closed: None,
        };
        if connection.outbound.push(Packet::ConnAck(Box::new(connack))) {
            if let Session::Resumed(resumed) = session {
                connection.outbound.resume(&resumed.released);
            }
        } else {
            // Nobody can talk with a client that does not take the CONNACK [MQTT-3.1.2-24].
            connection.closed = Some(CloseReason::Server(ReasonCode::PacketTooLarge));
        }
        connection
    }

    /// A packet from the client. After an error, call [`fail`](Self::fail). What comes after the
    /// connection is closed is ignored.
    pub fn handle_packet(&mut self, packet: Packet, now: Instant) -> Result<(), ProtocolError> {
        if self.closed.is_some() {
            return Ok(());
        }
        self.heard_at = now;
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::PubAck(ack) => self.outbound.handle_puback(&ack),
            Packet::PubRec(ack) => self.outbound.handle_pubrec(&ack),
            Packet::PubRel(ack) => self.handle_pubrel(&ack),
            Packet::PubComp(ack) => self.outbound.handle_pubcomp(&ack),
            Packet::Subscribe(subscribe) => {
                self.handle_subscribe(*subscribe);
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.handle_unsubscribe(*unsubscribe);
                Ok(())
            }
            Packet::PingReq => {
                self.outbound.push(Packet::PingResp); // [MQTT-3.12.4-1]
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => {
                Err(ProtocolError::new(ReasonCode::ProtocolError, "MQTT-3.1.0-2"))
            }
            // No connection has an authentication method: such a CONNECT is not admitted.
            // [MQTT-4.12.0-7]
            Packet::Auth(_) => Err(ProtocolError::new(ReasonCode::ProtocolError, "MQTT-4.12.0-7")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(ProtocolError::misplaced())
            }
        }
    }

    /// A message for the client. Ask [`window`](Self::window) first if it is above QoS 0.
    pub fn handle_delivery(&mut self, delivery: Delivery, now: Instant) -> DeliveryOutcome {
        if self.closed.is_some() {
            return DeliveryOutcome::Refused(delivery);
        }
        self.outbound.deliver(delivery, now)
    }

    /// How many more deliveries above QoS 0 may be handed in: what the client's receive maximum
    /// and the server's own limit leave.
    #[must_use]
    pub fn window(&self) -> usize {
        if self.closed.is_some() {
            return 0;
        }
        self.outbound.window()
    }

    /// Whether to read from the client. `false` while too many requests are unanswered that the
    /// protocol itself does not bound, or too much waits to be sent.
    #[must_use]
    pub fn accepts_input(&self) -> bool {
        // QoS 1 and 2 messages of a client that was told a maximum do not count: its other packets
        // must be answered even when it has used it up [MQTT-4.9.0-3].
        let queue = usize::from(self.profile.receive_maximum.value()).max(LEAST_QUEUE);
        !self.inbound.is_full(&self.profile) && self.outbound.queued() < queue
    }

    /// The deadline of [`poll_timeout`](Self::poll_timeout) may have passed: closes the connection
    /// if the client was silent for one and a half keep alive `[MQTT-3.1.2-22]`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.accepts_input() {
            self.excuse_silence(now);
        }
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.close(ReasonCode::KeepAliveTimeout);
        }
    }

    /// The client's silence up to `now` says nothing, for nobody listened: call it when the task
    /// has not read, for reasons other than [`accepts_input`](Self::accepts_input).
    pub fn excuse_silence(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Ends the connection from this side, with a DISCONNECT if the version has one for it.
    pub fn close(&mut self, reason: ReasonCode) {
        self.finish(CloseReason::Server(reason), reason, None);
    }

    /// Ends the connection because of what the client sent `[MQTT-4.13.1-1]`.
    pub fn fail(&mut self, error: ProtocolError) {
        let explanation = Some(error.statement).filter(|_| self.terms.explain);
        self.finish(CloseReason::Protocol(error), error.reason, explanation);
    }

    /// The broker's answer to [`Event::Publish`] or [`Event::Release`]. The only place where a PUBACK, PUBREC or
    /// PUBCOMP for a message comes from; PUBACK and PUBREC leave in the order of the PUBLISH packets
    /// `[MQTT-4.6.0-2]` `[MQTT-4.6.0-3]`.
    ///
    /// With an error MQTT 5.0 acknowledges a QoS 1 or 2 message with it. MQTT 3 cannot, so the
    /// connection is closed, except for [`ReasonCode::NotAuthorized`]. Nothing can refuse a PUBREL.
    pub fn complete(&mut self, ticket: Ticket, reason: ReasonCode) {
        if self.closed.is_some() {
            return;
        }
        match ticket.request {
            Request::Unacknowledged => self.inbound.close_ticket(),
            Request::Acknowledged { serial, packet_id, qos } => {
                match self.inbound.settle(serial, (packet_id, qos), reason) {
                    Settled::Answered => self.acknowledge(),
                    Settled::Taken => {
                        self.outbound.confirm(Confirmation::Taken { packet_id });
                        self.acknowledge();
                    }
                    Settled::Release(ticket) => {
                        self.events.push_back(Event::Release { packet_id, ticket });
                    }
                    Settled::Close(reason) => self.close(reason),
                }
            }
            Request::Refuse { .. } | Request::Release { .. } if reason.is_error() => {
                self.close(reason);
            }
            Request::Refuse { serial, packet_id, outcome } => {
                self.inbound.settle_refusal(serial, packet_id, outcome);
                self.acknowledge();
            }
            Request::Release { packet_id } => {
                self.inbound.settle_release(packet_id);
                self.outbound.push_ack(AckKind::PubComp, packet_id, ReasonCode::Success);
            }
            Request::Subscribe(ref pending) => {
                let reasons = vec![reason; pending.refusals.len()];
                self.complete_subscribe(ticket, reasons);
            }
            Request::Unsubscribe { filters, .. } => {
                let reasons = vec![reason; usize::try_from(filters).unwrap_or_default()];
                self.complete_unsubscribe(ticket, reasons);
            }
        }
    }

    /// The answer to [`Confirmation::Received`]: it is safe that the client has the message. Queues the
    /// PUBREL, behind those of earlier PUBRECs `[MQTT-4.6.0-4]`. What is not in flight is ignored.
    pub fn complete_received(&mut self, slot: QueueSlot) {
        if self.closed.is_none() {
            self.outbound.confirm_received(slot);
        }
    }

    /// The broker's answer to [`Event::Subscribe`], one reason for each of its filters: queues the
    /// SUBACK `[MQTT-3.8.4-1]`.
    pub fn complete_subscribe(&mut self, ticket: Ticket, reasons: Vec<ReasonCode>) {
        let Request::Subscribe(pending) = ticket.request else {
            return self.complete(ticket, first_error(&reasons));
        };
        self.inbound.close_ticket();
        self.send(Packet::SubAck(subscribing::suback(*pending, reasons, self.version)));
    }

    /// The broker's answer to [`Event::Unsubscribe`], one reason for each of its filters: queues
    /// the UNSUBACK `[MQTT-3.10.4-4]`.
    pub fn complete_unsubscribe(&mut self, ticket: Ticket, reasons: Vec<ReasonCode>) {
        let Request::Unsubscribe { packet_id, filters } = ticket.request else {
            return self.complete(ticket, first_error(&reasons));
        };
        self.inbound.close_ticket();
        self.send(Packet::UnsubAck(subscribing::unsuback(packet_id, filters, reasons)));
    }

    /// The next packet to send.
    pub fn poll_packet(&mut self) -> Option<Outgoing> {
        self.outbound.pop()
    }

    /// The next request for the broker. There may be some after the connection is closed: what
    /// the client sent before is valid.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the client has confirmed next, for whoever keeps the message.
    pub fn poll_confirmation(&mut self) -> Option<Confirmation> {
        self.outbound.next_confirmation()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). It moves with every packet; calling
    /// early does no harm, so that a timer need not be set anew for each.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silence = self.terms.silence.filter(|_| self.closed.is_none())?;
        Some(self.heard_at + silence)
    }

    /// Why the connection is over, if it is: send what is queued, then close the socket.
    #[must_use]
    pub fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// What is left. If it was not [`closed`](Self::closed), the socket ended on its own.
    #[must_use]
    pub fn end(self) -> Ended {
        let reason = self.closed.unwrap_or(CloseReason::ConnectionLost);
        Ended { session_expiry_secs: self.terms.session_expiry_secs, reason }
    }

    /// Gives memory back that an idle connection does not need: for when nothing is to be read
    /// or written.
    pub fn shrink(&mut self) {
        self.inbound.shrink();
        self.outbound.shrink();
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
    }

    /// Of the client.
    #[must_use]
    pub fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    /// The version the client speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// How long the session outlives the connection, in seconds; `u32::MAX` for ever. A
    /// DISCONNECT can change it.
    #[must_use]
    pub fn session_expiry_secs(&self) -> u32 {
        self.terms.session_expiry_secs
    }

    /// How many messages to the client are not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.outbound.in_flight()
    }

    /// Whether nothing is left to acknowledge or release, in either direction.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.outbound.in_flight() == 0 && self.inbound.is_settled()
    }

    /// How many PUBACK, PUBREC and PUBCOMP the client sent for which nothing was in flight. They
    /// are taken as repetitions and ignored.
    #[must_use]
    pub fn stray_acknowledgements(&self) -> u32 {
        self.outbound.stray()
    }

    fn handle_publish(&mut self, mut publish: Publish) -> Result<(), ProtocolError> {
        let topic = self.inbound.topic(&mut publish, &self.profile)?;
        match self.inbound.publish(&publish, &topic, &self.profile)? {
            Some((ticket, once)) => {
                let message = Message::from_publish(publish, topic);
                self.events.push_back(Event::Publish { message, once, ticket });
            }
            None => self.acknowledge(),
        }
        Ok(())
    }

    fn handle_pubrel(&mut self, ack: &Ack) -> Result<(), ProtocolError> {
        let packet_id = ack.packet_id;
        match self.inbound.release(packet_id)? {
            Released::Answered(reason) => {
                self.outbound.push_ack(AckKind::PubComp, packet_id, reason); // [MQTT-4.3.3-11]
            }
            Released::Asked(ticket) => {
                self.events.push_back(Event::Release { packet_id, ticket });
            }
            Released::Waiting => {}
        }
        Ok(())
    }

    fn handle_subscribe(&mut self, subscribe: Subscribe) {
        let subscription_id = subscribe.subscription_id;
        let sorted = subscribing::sort(subscribe, &self.profile);
        if sorted.filters.is_empty() {
            let suback = subscribing::suback(sorted.pending, Vec::new(), self.version);
            return self.send(Packet::SubAck(suback));
        }
        let request = Request::Subscribe(Box::new(sorted.pending));
        let ticket = self.inbound.ticket(request);
        let (filters, refused) = (sorted.filters, sorted.refused);
        self.events.push_back(Event::Subscribe { subscription_id, filters, refused, ticket });
    }

    fn handle_unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let Unsubscribe { packet_id, filters, .. } = unsubscribe;
        let count = u32::try_from(filters.len()).unwrap_or(u32::MAX);
        let ticket = self.inbound.ticket(Request::Unsubscribe { packet_id, filters: count });
        self.events.push_back(Event::Unsubscribe { filters, ticket });
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect) -> Result<(), ProtocolError> {
        if let Some(expiry) = disconnect.session_expiry_secs {
            // By the prose of 3.14.2.2.2: a session that was to end cannot be kept after all.
            if self.terms.asked_no_expiry && expiry > 0 {
                return Err(ProtocolError::misplaced());
            }
            self.terms.session_expiry_secs = expiry.min(self.profile.maximum_session_expiry_secs);
        }
        self.closed = Some(CloseReason::Client(disconnect.reason));
        Ok(())
    }

    /// Queues the acknowledgements whose turn it is.
    fn acknowledge(&mut self) {
        while let Some((answer, outcome)) = self.inbound.next_answer() {
            if self.closed.is_none() {
                let kind = AckKind::of_publish(answer.qos);
                self.outbound.push_ack(kind, answer.packet_id, outcome);
            }
        }
    }

    fn send(&mut self, packet: Packet) {
        if self.closed.is_none() {
            self.outbound.push(packet);
        }
    }

    /// Nothing is queued after this `[MQTT-3.14.4-1]`. The CONNACK is, already
    /// `[MQTT-3.14.0-1]`.
    fn finish(&mut self, why: CloseReason, told: ReasonCode, explanation: Option<&'static str>) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(why);
        // The explanation is left out if it makes the packet too large [MQTT-3.14.2-3].
        for explanation in [explanation, None] {
            let Some(farewell) = version::farewell(self.version, told, explanation) else {
                return;
            };
            if self.outbound.push(Packet::Disconnect(Box::new(farewell))) {
                return;
            }
        }
    }
}

/// Packets that may wait to be sent before input rests, if the receive maximum is smaller.
const LEAST_QUEUE: usize = 64;

/// One answer for a ticket that was completed as another kind of request.
fn first_error(reasons: &[ReasonCode]) -> ReasonCode {
    let error = reasons.iter().copied().find(|reason| reason.is_error());
    error.unwrap_or(ReasonCode::Success)
}
