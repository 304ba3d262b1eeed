//! Messages from the client, until they are acknowledged.
//!
//! Owns the order in which PUBLISH packets are answered: an acknowledgement leaves when all
//! earlier ones have left, whatever the order in which the broker answers. Does not send: what
//! may leave is taken with [`Inbound::next_answer`].

use std::collections::VecDeque;

use mqtt_codec::{PacketId, Publish, QoS, ReasonCode, TopicName, Version};

use crate::ack::AckKind;
use crate::alias::InboundAliases;
use crate::event::Request;
use crate::session::{ReceivedIds, Session};
use crate::version::{self, PublishRefusal};
use crate::{ProtocolError, ServerProfile, Ticket};

/// The answer to one QoS 1 or 2 PUBLISH.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) packet_id: PacketId,
    pub(crate) qos: QoS,
    /// `None` until the broker has said it.
    outcome: Option<ReasonCode>,
}

#[derive(Debug)]
pub(crate) struct Inbound {
    version: Version,
    connection: u32,
    /// What is not acknowledged yet, in the order it came `[MQTT-4.6.0-2]` `[MQTT-4.6.0-3]`.
    answers: VecDeque<Answer>,
    /// The serial of the first answer.
    first: u32,
    /// Most QoS 1 and 2 messages that may be counted at once.
    limit: u32,
    /// QoS 1 and 2 messages that are not answered with PUBACK, PUBCOMP or an error.
    counted: u32,
    /// Open tickets that no flow control of the protocol bounds.
    unbounded: u32,
    aliases: InboundAliases,
}

impl Inbound {
    pub(crate) fn new(version: Version, profile: &ServerProfile, session: &mut Session) -> Self {
        session.received.reopen();
        session.connections = session.connections.wrapping_add(1);
        Self {
            version,
            connection: session.connections,
            answers: VecDeque::new(),
            first: 0,
            limit: version::receive_limit(version, profile.receive_maximum),
            counted: 0,
            unbounded: 0,
            aliases: InboundAliases::default(),
        }
    }

    /// Whether more is open than a client that keeps to the protocol can cause, or as much as one
    /// may that the protocol does not bound.
    pub(crate) fn is_full(&self, profile: &ServerProfile) -> bool {
        let maximum = profile.receive_maximum.value();
        // Repetitions wait in line too; a client repeats only after a reconnect [MQTT-4.4.0-1].
        self.unbounded >= u32::from(maximum) || self.answers.len() > 2 * usize::from(maximum)
    }

    /// The topic a PUBLISH is for, by its name or its alias.
    pub(crate) fn topic(
        &mut self,
        publish: &mut Publish,
        profile: &ServerProfile,
    ) -> Result<TopicName, ProtocolError> {
        let topic = publish.topic.take();
        match publish.alias {
            Some(alias) => self.aliases.resolve(topic, alias, profile.topic_alias_maximum),
            None => topic.ok_or_else(ProtocolError::misplaced),
        }
    }

    /// Whether a PUBLISH to `topic` is for the broker: the ticket, unless it is a repetition or
    /// refused.
    pub(crate) fn publish(
        &mut self,
        publish: &Publish,
        topic: &TopicName,
        received: &mut ReceivedIds,
        profile: &ServerProfile,
    ) -> Result<Option<Ticket>, ProtocolError> {
        check_capabilities(publish, profile)?;
        let objection = || profile.objection(topic, &publish.payload, &publish.properties);
        let Some(packet_id) = publish.packet_id else {
            return match objection() {
                Some(reason) => Err(ProtocolError::new(reason, "MQTT-4.13.1-1")),
                None => Ok(Some(self.ticket(Request::Unacknowledged))),
            };
        };
        let qos = publish.qos;
        let known = received.contains(packet_id);
        if known && qos == QoS::ExactlyOnce {
            return self.repeat(packet_id, received).map(|()| None);
        }
        self.count()?;
        let objection = if known { Some(ReasonCode::PacketIdentifierInUse) } else { objection() };
        if let Some(reason) = objection {
            return self.refuse(packet_id, qos, reason).map(|()| None);
        }
        if qos == QoS::ExactlyOnce {
            received.insert(packet_id);
        }
        Ok(Some(self.open(packet_id, qos)))
    }

    /// The ticket of a request that is not acknowledged by quota.
    pub(crate) fn ticket(&mut self, request: Request) -> Ticket {
        self.unbounded += 1;
        Ticket { connection: self.connection, request }
    }

    /// Takes back a ticket for which the protocol keeps no account. Whether it is of this
    /// connection.
    pub(crate) fn close_ticket(&mut self, connection: u32) -> bool {
        let ours = connection == self.connection;
        if ours {
            self.unbounded = self.unbounded.saturating_sub(1);
        }
        ours
    }

    /// The broker's answer to a QoS 1 or 2 message. Returns why the connection must end, if the
    /// answer cannot be told.
    pub(crate) fn settle(
        &mut self,
        ticket: &Ticket,
        reason: ReasonCode,
        received: &mut ReceivedIds,
    ) -> Option<ReasonCode> {
        let Request::Acknowledged { serial, packet_id, qos } = ticket.request else {
            return None;
        };
        let ours = ticket.connection == self.connection;
        if ours && self.holds_back() {
            self.unbounded = self.unbounded.saturating_sub(1);
        }
        let (outcome, end) = self.outcome(qos, reason);
        if qos == QoS::ExactlyOnce {
            received.settle(packet_id, outcome);
        }
        let at = if ours {
            usize::try_from(serial.wrapping_sub(self.first)).ok()
        } else {
            self.repeated(packet_id, qos)
        };
        let answer = at.and_then(|at| self.answers.get_mut(at))?;
        answer.outcome.get_or_insert(outcome);
        end
    }

    /// The next PUBLISH to acknowledge, and how, if it is its turn.
    pub(crate) fn next_answer(&mut self) -> Option<(Answer, ReasonCode)> {
        let answer = *self.answers.front()?;
        let outcome = answer.outcome?;
        self.answers.pop_front();
        self.first = self.first.wrapping_add(1);
        if answer.qos == QoS::AtLeastOnce || outcome.is_error() {
            self.uncount();
        }
        Some((answer, outcome))
    }

    /// A PUBREL: what PUBCOMP says to it `[MQTT-4.3.3-11]`.
    pub(crate) fn release(
        &mut self,
        packet_id: PacketId,
        received: &mut ReceivedIds,
    ) -> Result<ReasonCode, ProtocolError> {
        let Some(receipt) = received.get_mut(packet_id) else {
            return Ok(ReasonCode::PacketIdentifierNotFound);
        };
        if !receipt.accepted {
            // It answers a PUBREC that was not sent [MQTT-4.3.3-4].
            return Err(ProtocolError::new(ReasonCode::ProtocolError, "MQTT-4.3.3-4"));
        }
        if receipt.counted {
            self.uncount();
        }
        received.remove(packet_id); // [MQTT-4.3.3-12]
        Ok(ReasonCode::Success)
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        if self.answers.is_empty() {
            self.answers = VecDeque::new();
        }
    }

    /// A QoS 2 PUBLISH whose message the broker has already: it is acknowledged again and goes
    /// nowhere `[MQTT-4.3.3-10]`.
    fn repeat(
        &mut self,
        packet_id: PacketId,
        received: &mut ReceivedIds,
    ) -> Result<(), ProtocolError> {
        let Some(receipt) = received.get_mut(packet_id) else {
            return Ok(());
        };
        if !receipt.counted {
            self.count()?;
            receipt.counted = true;
        } else if !receipt.accepted {
            return Ok(()); // Its one PUBREC is still to come.
        }
        let outcome = receipt.accepted.then_some(ReasonCode::Success);
        self.answers.push_back(Answer { packet_id, qos: QoS::ExactlyOnce, outcome });
        Ok(())
    }

    /// The place of a repeated QoS 2 PUBLISH whose first was on an earlier connection.
    fn repeated(&self, packet_id: PacketId, qos: QoS) -> Option<usize> {
        let same = |answer: &Answer| {
            qos == QoS::ExactlyOnce
                && answer.qos == qos
                && answer.packet_id == packet_id
                && answer.outcome.is_none()
        };
        self.answers.iter().position(same)
    }

    fn refuse(
        &mut self,
        packet_id: PacketId,
        qos: QoS,
        reason: ReasonCode,
    ) -> Result<(), ProtocolError> {
        match version::refuse_publish(self.version, qos, reason) {
            PublishRefusal::Acknowledge(reason) => {
                self.answers.push_back(Answer { packet_id, qos, outcome: Some(reason) });
                Ok(())
            }
            PublishRefusal::Close(reason) => Err(ProtocolError::new(reason, "MQTT-4.13.1-1")),
        }
    }

    fn open(&mut self, packet_id: PacketId, qos: QoS) -> Ticket {
        let place = u32::try_from(self.answers.len()).unwrap_or(u32::MAX);
        let serial = self.first.wrapping_add(place);
        self.answers.push_back(Answer { packet_id, qos, outcome: None });
        if self.holds_back() {
            self.unbounded += 1;
        }
        let request = Request::Acknowledged { serial, packet_id, qos };
        Ticket { connection: self.connection, request }
    }

    fn outcome(&self, qos: QoS, reason: ReasonCode) -> (ReasonCode, Option<ReasonCode>) {
        if !reason.is_error() {
            return (version::fitting(reason, AckKind::of_publish(qos).packet_type()), None);
        }
        match version::refuse_publish(self.version, qos, reason) {
            PublishRefusal::Acknowledge(reason) => (reason, None),
            PublishRefusal::Close(reason) => (reason, Some(reason)),
        }
    }

    /// Whether the only way to bound the client is not to read from it.
    fn holds_back(&self) -> bool {
        self.limit == u32::MAX
    }

    fn count(&mut self) -> Result<(), ProtocolError> {
        if self.counted >= self.limit {
            // [MQTT-3.3.4-7]
            return Err(ProtocolError::new(ReasonCode::ReceiveMaximumExceeded, "MQTT-3.3.4-7"));
        }
        self.counted += 1;
        Ok(())
    }

    fn uncount(&mut self) {
        self.counted = self.counted.saturating_sub(1);
    }
}

/// What the CONNACK has told the client not to do, and what no client may do.
fn check_capabilities(publish: &Publish, profile: &ServerProfile) -> Result<(), ProtocolError> {
    if !publish.subscription_ids.is_empty() {
        // [MQTT-3.3.4-6]
        return Err(ProtocolError::new(ReasonCode::ProtocolError, "MQTT-3.3.4-6"));
    }
    if publish.qos > profile.maximum_qos {
        // [MQTT-3.2.2-11]
        return Err(ProtocolError::new(ReasonCode::QoSNotSupported, "MQTT-3.2.2-11"));
    }
    if publish.retain && !profile.retain_available {
        // [MQTT-3.2.2-14]
        return Err(ProtocolError::new(ReasonCode::RetainNotSupported, "MQTT-3.2.2-14"));
    }
    Ok(())
}
