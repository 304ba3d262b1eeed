//! Messages from the client, until they are acknowledged.
//!
//! Owns the order in which PUBLISH packets are answered: an acknowledgement leaves when all
//! earlier ones have left, whatever the order in which the broker answers. Does not send: what
//! may leave is taken with [`Inbound::next_answer`].

mod received;

use std::collections::VecDeque;

use mqtt_codec::{PacketId, Publish, QoS, ReasonCode, TopicName, Version};

use crate::ack::AckKind;
use crate::alias::InboundAliases;
use crate::event::Request;
use crate::session::{Keeper, Session};
use crate::version::{self, PublishRefusal};
use crate::{Once, ProtocolError, ServerProfile, Ticket};

use self::received::{Progress, ReceivedIds};

/// The answer to one QoS 1 or 2 PUBLISH.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) packet_id: PacketId,
    pub(crate) qos: QoS,
    /// `None` until the broker has said it.
    outcome: Option<ReasonCode>,
}

/// The end of a request about a QoS 1 or 2 message.
#[derive(Debug)]
pub(crate) enum Settled {
    /// Its acknowledgement leaves when it is its turn.
    Answered,
    /// The same, and whoever keeps the session is to know that it was taken.
    Taken,
    /// Its identifier is to be given back first, for the client may use it anew after the answer.
    Release(Ticket),
    /// The answer cannot be told: the connection must end.
    Close(ReasonCode),
}

/// What a PUBREL leads to.
#[derive(Debug)]
pub(crate) enum Released {
    /// PUBCOMP.
    Answered(ReasonCode),
    /// A request first.
    Asked(Ticket),
    /// Nothing: it was asked before.
    Waiting,
}

#[derive(Debug)]
pub(crate) struct Inbound {
    version: Version,
    keeper: Keeper,
    received: ReceivedIds,
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
    pub(crate) fn new(version: Version, session: &Session, profile: &ServerProfile) -> Self {
        let received = match session {
            Session::Clean | Session::New => ReceivedIds::default(),
            Session::Resumed(resumed) => ReceivedIds::of_earlier(resumed),
        };
        Self {
            version,
            keeper: session.keeper(),
            received,
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

    /// Whether a PUBLISH to `topic` is for the broker: the ticket, and what makes it once, unless it is
    /// a repetition that the broker has, or refused.
    pub(crate) fn publish(
        &mut self,
        publish: &Publish,
        topic: &TopicName,
        profile: &ServerProfile,
    ) -> Result<Option<(Ticket, Option<Once>)>, ProtocolError> {
        check_capabilities(publish, profile)?;
        let objection = || profile.objection(topic, &publish.payload, &publish.properties);
        let Some(packet_id) = publish.packet_id else {
            return match objection() {
                Some(reason) => Err(ProtocolError::new(reason, "MQTT-4.13.1-1")),
                None => Ok(Some((self.ticket(Request::Unacknowledged), None))),
            };
        };
        let qos = publish.qos;
        let progress = self.received.lookup(packet_id).map(|receipt| receipt.progress);
        match progress.filter(|_| qos == QoS::ExactlyOnce) {
            Some(Progress::Earlier) => return self.again(packet_id, objection()).map(Some),
            Some(Progress::Open) => return Ok(None), // Its one PUBREC is still to come.
            Some(Progress::Accepted) => {
                // The broker has it: it goes nowhere [MQTT-4.3.3-10].
                let outcome = Some(ReasonCode::Success);
                self.answers.push_back(Answer { packet_id, qos, outcome });
                return Ok(None);
            }
            Some(Progress::Releasing) | None => {}
        }
        self.count()?;
        let objection = match progress {
            Some(_) => Some(ReasonCode::PacketIdentifierInUse),
            None => objection(),
        };
        if let Some(reason) = objection {
            return self.refuse(packet_id, qos, reason).map(|()| None);
        }
        let mut once = None;
        if qos == QoS::ExactlyOnce {
            self.received.open(packet_id);
            once = (self.keeper == Keeper::Elsewhere).then_some(Once::Begin(packet_id));
        }
        Ok(Some((self.open(packet_id, qos), once)))
    }

    /// The ticket of a request that is not acknowledged by quota.
    pub(crate) fn ticket(&mut self, request: Request) -> Ticket {
        self.unbounded += 1;
        Ticket { request }
    }

    /// Takes back a ticket for which the protocol keeps no account.
    pub(crate) fn close_ticket(&mut self) {
        self.unbounded = self.unbounded.saturating_sub(1);
    }

    /// The broker's answer to a QoS 1 or 2 message.
    pub(crate) fn settle(
        &mut self,
        serial: u32,
        (packet_id, qos): (PacketId, QoS),
        reason: ReasonCode,
    ) -> Settled {
        self.close_counted_ticket();
        let outcome = match self.outcome(qos, reason) {
            PublishRefusal::Acknowledge(outcome) => outcome,
            PublishRefusal::Close(reason) => return Settled::Close(reason),
        };
        if qos == QoS::ExactlyOnce
            && let Some(receipt) = self.received.lookup_mut(packet_id)
        {
            if !outcome.is_error() {
                receipt.progress = Progress::Accepted;
                self.answer(serial, outcome);
                return match self.keeper {
                    Keeper::Connection => Settled::Answered,
                    Keeper::Elsewhere => Settled::Taken,
                };
            } else if self.keeper == Keeper::Elsewhere {
                receipt.progress = Progress::Releasing;
                let request = Request::Refuse { serial, packet_id, outcome };
                return Settled::Release(self.counted_ticket(request));
            } else {
                self.received.remove(packet_id); // [MQTT-4.3.3-9]
            }
        }
        self.answer(serial, outcome);
        Settled::Answered
    }

    /// The identifier of a refused message is free where the session is kept.
    pub(crate) fn settle_refusal(&mut self, serial: u32, packet_id: PacketId, outcome: ReasonCode) {
        self.close_counted_ticket();
        self.received.remove(packet_id); // [MQTT-4.3.3-9]
        self.answer(serial, outcome);
    }

    /// The identifier of a message is free where the session is kept: PUBCOMP is due
    /// `[MQTT-4.3.3-12]`.
    pub(crate) fn settle_release(&mut self, packet_id: PacketId) {
        self.close_counted_ticket();
        if self.received.remove(packet_id).is_some_and(|receipt| receipt.counted) {
            self.uncount();
        }
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

    /// A PUBREL.
    pub(crate) fn release(&mut self, packet_id: PacketId) -> Result<Released, ProtocolError> {
        let Some(receipt) = self.received.lookup_mut(packet_id) else {
            return Ok(Released::Answered(ReasonCode::PacketIdentifierNotFound)); // [MQTT-4.3.3-11]
        };
        match receipt.progress {
            // It answers a PUBREC that was not sent [MQTT-4.3.3-4].
            Progress::Open => Err(ProtocolError::new(ReasonCode::ProtocolError, "MQTT-4.3.3-4")),
            Progress::Releasing => Ok(Released::Waiting),
            Progress::Earlier | Progress::Accepted => {
                if self.keeper == Keeper::Elsewhere {
                    receipt.progress = Progress::Releasing;
                    let request = Request::Release { packet_id };
                    return Ok(Released::Asked(self.counted_ticket(request)));
                }
                self.received.remove(packet_id); // [MQTT-4.3.3-12]
                self.uncount();
                Ok(Released::Answered(ReasonCode::Success))
            }
        }
    }

    /// Whether every message was acknowledged, and released.
    pub(crate) fn is_settled(&self) -> bool {
        self.answers.is_empty() && self.received.is_empty()
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        self.received.shrink();
        if self.answers.is_empty() {
            self.answers = VecDeque::new();
        }
    }

    /// A QoS 2 PUBLISH that an earlier connection began. The broker may not have it.
    fn again(
        &mut self,
        packet_id: PacketId,
        objection: Option<ReasonCode>,
    ) -> Result<(Ticket, Option<Once>), ProtocolError> {
        self.count()?;
        if let Some(reason) = objection {
            // What was begun was another message.
            return Err(ProtocolError::new(reason, "MQTT-4.13.1-1"));
        }
        if let Some(receipt) = self.received.lookup_mut(packet_id) {
            receipt.progress = Progress::Open;
            receipt.counted = true;
        }
        Ok((self.open(packet_id, QoS::ExactlyOnce), Some(Once::Again(packet_id))))
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
        self.counted_ticket(Request::Acknowledged { serial, packet_id, qos })
    }

    /// The ticket of a request that quota bounds, if the client was told one.
    fn counted_ticket(&mut self, request: Request) -> Ticket {
        if self.holds_back() {
            self.unbounded += 1;
        }
        Ticket { request }
    }

    fn close_counted_ticket(&mut self) {
        if self.holds_back() {
            self.close_ticket();
        }
    }

    fn answer(&mut self, serial: u32, outcome: ReasonCode) {
        let at = usize::try_from(serial.wrapping_sub(self.first)).ok();
        if let Some(answer) = at.and_then(|at| self.answers.get_mut(at)) {
            answer.outcome.get_or_insert(outcome);
        }
    }

    fn outcome(&self, qos: QoS, reason: ReasonCode) -> PublishRefusal {
        if reason.is_error() {
            return version::refuse_publish(self.version, qos, reason);
        }
        let packet = AckKind::of_publish(qos).packet_type();
        PublishRefusal::Acknowledge(version::fitting(reason, packet))
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
