//! The frames of the session stream from the store to a proxy.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{Message, ReasonCode, SubscriptionId};
use prost::Message as _;

use super::{
    from_group_place, from_held, from_topic, group_place, held, list, packet_id, places, topic,
};
use crate::convert::relay::{from_message, message};
use crate::convert::{Wire, from_key, key, qos, required};
use crate::error::FrameError;
use crate::frame::{
    Member, QueuePlace, SessionAnswer, SessionDelivery, SessionDown, SessionNumber, SessionRefusal,
    SessionRevocation,
};
use crate::proto;
use crate::proto::{session_answer, session_down};
use crate::wire;

const QOS_BITS: u32 = 0b11;
const RETAIN_BIT: u32 = 0b100;
const DUP_BIT: u32 = 0b1000;

impl Wire for SessionDown {
    type Proto = proto::SessionDown;

    fn from_proto(message: proto::SessionDown) -> Result<Self, FrameError> {
        Ok(match required(message.frame, "frame")? {
            session_down::Frame::Opened(member) => Self::Opened(Member::from_proto(member)?),
            session_down::Frame::Answers(answers) => Self::Answers(list(answers.answers, answer)?),
            session_down::Frame::Deliveries(deliveries) => {
                let mut last = None;
                let delivery = |one| delivery(one, &mut last);
                Self::Deliveries(list(deliveries.deliveries, delivery)?)
            }
        })
    }

    fn into_proto(self) -> proto::SessionDown {
        let frame = match self {
            Self::Opened(member) => session_down::Frame::Opened(member.into_proto()),
            Self::Answers(answers) => session_down::Frame::Answers(proto::SessionAnswers {
                answers: answers.into_iter().map(from_answer).collect(),
            }),
            Self::Deliveries(deliveries) => {
                session_down::Frame::Deliveries(from_deliveries(&deliveries))
            }
        };
        proto::SessionDown { frame: Some(frame) }
    }

    fn encode(self) -> Bytes {
        match self {
            Self::Deliveries(deliveries) => wire::deliveries(&deliveries),
            Self::Opened(_) | Self::Answers(_) => self.into_proto().encode_to_vec().into(),
        }
    }

    fn decode(frame: Bytes) -> Result<Self, FrameError> {
        match wire::read_deliveries(&frame)? {
            Some(deliveries) => Ok(Self::Deliveries(deliveries)),
            None => Self::decode_generated(frame),
        }
    }
}

fn answer(answer: proto::SessionAnswer) -> Result<SessionAnswer, FrameError> {
    use session_answer::Answer;
    Ok(match required(answer.answer, "answer")? {
        Answer::Attached(answer) => SessionAnswer::Attached {
            request: answer.request,
            held: held(answer.held)?,
            session_present: answer.session_present,
            received: places(answer.received)?,
            incoming: list(answer.incoming, |one| {
                let key = (!one.key.is_empty()).then(|| key(&one.key)).transpose()?;
                Ok((packet_id(one.packet_id)?, key))
            })?,
        },
        Answer::Refused(answer) => {
            SessionAnswer::Refused { request: answer.request, refusal: refusal(answer.why)? }
        }
        Answer::Subscribed(answer) => SessionAnswer::Subscribed {
            request: answer.request,
            reasons: reasons(&answer.reasons)?,
        },
        Answer::Unsubscribed(answer) => SessionAnswer::Unsubscribed {
            request: answer.request,
            reasons: reasons(&answer.reasons)?,
        },
        Answer::Begun(answer) => {
            SessionAnswer::Begun { request: answer.request, key: key(&answer.key)? }
        }
        Answer::Released(answer) => SessionAnswer::Released { request: answer.request },
        Answer::Received(answer) => SessionAnswer::Received {
            connection: answer.connection,
            places: places(answer.places)?,
        },
        Answer::Revoked(answer) => SessionAnswer::Revoked {
            connection: answer.connection,
            held: held(answer.held)?,
            why: revocation(answer.why)?,
        },
        Answer::Retained(answer) => SessionAnswer::Retained {
            request: answer.request,
            messages: list(answer.messages, |one| Ok(Arc::new(message(one)?)))?,
            next: topic(answer.next)?,
        },
    })
}

fn from_answer(answer: SessionAnswer) -> proto::SessionAnswer {
    use session_answer::Answer;
    let answer = match answer {
        SessionAnswer::Attached { request, held, session_present, received, incoming } => {
            let incoming =
                incoming.into_iter().map(|(id, key)| proto::session_attached::Incoming {
                    packet_id: id.value().into(),
                    key: key.map(from_key).unwrap_or_default(),
                });
            Answer::Attached(proto::SessionAttached {
                request,
                held: Some(from_held(held)),
                session_present,
                received: received.into_iter().map(|place| place.0).collect(),
                incoming: incoming.collect(),
            })
        }
        SessionAnswer::Refused { request, refusal } => {
            Answer::Refused(proto::SessionRefused { request, why: from_refusal(refusal).into() })
        }
        SessionAnswer::Subscribed { request, reasons } => {
            Answer::Subscribed(from_reasons(request, reasons))
        }
        SessionAnswer::Unsubscribed { request, reasons } => {
            Answer::Unsubscribed(from_reasons(request, reasons))
        }
        SessionAnswer::Begun { request, key } => {
            Answer::Begun(proto::SessionBegun { request, key: from_key(key) })
        }
        SessionAnswer::Released { request } => Answer::Released(proto::SessionReleased { request }),
        SessionAnswer::Received { connection, places } => {
            Answer::Received(proto::SessionReceived {
                connection,
                places: places.into_iter().map(|place| place.0).collect(),
            })
        }
        SessionAnswer::Revoked { connection, held, why } => {
            Answer::Revoked(proto::SessionRevoked {
                connection,
                held: Some(from_held(held)),
                why: match why {
                    SessionRevocation::TakenOver => proto::session_revoked::Why::TakenOver,
                    SessionRevocation::Ended => proto::session_revoked::Why::Ended,
                }
                .into(),
            })
        }
        SessionAnswer::Retained { request, messages, next } => {
            Answer::Retained(proto::SessionRetained {
                request,
                messages: messages.iter().map(|message| from_message(message)).collect(),
                next: from_topic(next),
            })
        }
    };
    proto::SessionAnswer { answer: Some(answer) }
}

/// `last` is the message of the delivery before it.
pub(crate) fn delivery(
    delivery: proto::SessionDelivery,
    last: &mut Option<Arc<Message>>,
) -> Result<SessionDelivery, FrameError> {
    if delivery.flags & !(QOS_BITS | RETAIN_BIT | DUP_BIT) != 0 {
        return Err(FrameError::Invalid("flags"));
    }
    if let Some(own) = delivery.message {
        *last = Some(Arc::new(message(own)?));
    }
    let id = |id| SubscriptionId::new(id).ok_or(FrameError::Invalid("subscription id"));
    Ok(SessionDelivery {
        connection: delivery.connection,
        session: SessionNumber(delivery.session),
        place: QueuePlace(delivery.place),
        group: delivery.group.map(group_place),
        dup: delivery.flags & DUP_BIT != 0,
        qos: qos(delivery.flags & QOS_BITS)?,
        retain: delivery.flags & RETAIN_BIT != 0,
        subscription_ids: delivery
            .subscription_ids
            .into_iter()
            .map(id)
            .collect::<Result<_, _>>()?,
        message: required(last.clone(), "message")?,
    })
}

/// QoS, RETAIN and DUP of a delivery.
pub(crate) fn flags(delivery: &SessionDelivery) -> u32 {
    let flag = |is_set, bit| if is_set { bit } else { 0 };
    delivery.qos as u32 | flag(delivery.retain, RETAIN_BIT) | flag(delivery.dup, DUP_BIT)
}

fn from_deliveries(deliveries: &[SessionDelivery]) -> proto::SessionDeliveries {
    let mut last = None;
    let delivery = |delivery: &SessionDelivery| {
        let this = Arc::as_ptr(&delivery.message);
        let same = last.replace(this) == Some(this);
        proto::SessionDelivery {
            connection: delivery.connection,
            session: delivery.session.0,
            place: delivery.place.0,
            group: delivery.group.map(from_group_place),
            flags: flags(delivery),
            subscription_ids: delivery.subscription_ids.iter().map(|id| id.value()).collect(),
            message: (!same).then(|| from_message(&delivery.message)),
        }
    };
    proto::SessionDeliveries { deliveries: deliveries.iter().map(delivery).collect() }
}

fn reasons(bytes: &Bytes) -> Result<Vec<ReasonCode>, FrameError> {
    let reason = |&byte| ReasonCode::from_byte(byte).ok_or(FrameError::Invalid("reason code"));
    bytes.iter().map(reason).collect()
}

fn from_reasons(request: u64, reasons: Vec<ReasonCode>) -> proto::SessionReasons {
    let reasons: Vec<_> = reasons.into_iter().map(|reason| reason as u8).collect();
    proto::SessionReasons { request, reasons: reasons.into() }
}

fn refusal(why: i32) -> Result<SessionRefusal, FrameError> {
    use proto::session_refused::Why;
    match Why::try_from(why) {
        Ok(Why::Fenced) => Ok(SessionRefusal::Fenced),
        Ok(Why::TooManySessions) => Ok(SessionRefusal::TooManySessions),
        Ok(Why::Contested) => Ok(SessionRefusal::Contested),
        Ok(Why::Full) => Ok(SessionRefusal::Full),
        Ok(Why::Unspecified) | Err(_) => Err(FrameError::Invalid("refusal")),
    }
}

fn from_refusal(refusal: SessionRefusal) -> proto::session_refused::Why {
    use proto::session_refused::Why;
    match refusal {
        SessionRefusal::Fenced => Why::Fenced,
        SessionRefusal::TooManySessions => Why::TooManySessions,
        SessionRefusal::Contested => Why::Contested,
        SessionRefusal::Full => Why::Full,
    }
}

fn revocation(why: i32) -> Result<SessionRevocation, FrameError> {
    use proto::session_revoked::Why;
    match Why::try_from(why) {
        Ok(Why::TakenOver) => Ok(SessionRevocation::TakenOver),
        Ok(Why::Ended) => Ok(SessionRevocation::Ended),
        Ok(Why::Unspecified) | Err(_) => Err(FrameError::Invalid("revocation")),
    }
}
