//! The frames of the publish and deliver streams.
//!
//! On the proxy's side the messages do not pass through [`Routed`]: what leaves comes straight from the
//! window, what arrives goes straight into shared messages. That saves an allocation and a copy each.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{Message, PublishProperties, ReasonCode, TopicName};

use prost::Message as _;

use super::{Wire, from_key, key, qos, required, text};
use crate::error::FrameError;
use crate::frame::{
    DeliverDown, DeliverOpen, DeliverUp, Delivery, Lane, Member, OriginId, Provenance, PublishDown,
    PublishUp, Routed,
};
use crate::proto;
use crate::proto::{deliver_down, deliver_up, publish_down, publish_up};
use crate::receiver::{Incoming, IncomingFrame};
use crate::wire;

const QOS_BITS: u32 = 0b011;
const RETAIN_BIT: u32 = 0b100;

impl Wire for PublishUp {
    type Proto = proto::PublishUp;

    fn from_proto(message: proto::PublishUp) -> Result<Self, FrameError> {
        Ok(match required(message.frame, "frame")? {
            publish_up::Frame::Open(member) => Self::Open(Member::from_proto(member)?),
            publish_up::Frame::Batch(batch) => {
                Self::Batch(batch.messages.into_iter().map(routed).collect::<Result<_, _>>()?)
            }
            publish_up::Frame::Barrier(barrier) => {
                Self::Barrier { lane: lane(barrier.lane)?, id: barrier.id }
            }
        })
    }

    fn into_proto(self) -> proto::PublishUp {
        let frame = match self {
            Self::Open(member) => publish_up::Frame::Open(member.into_proto()),
            Self::Batch(messages) => publish_up::Frame::Batch(proto::PublishBatch {
                messages: messages.iter().map(from_routed).collect(),
            }),
            Self::Barrier { lane, id } => {
                publish_up::Frame::Barrier(proto::Barrier { lane: lane.0.into(), id })
            }
        };
        proto::PublishUp { frame: Some(frame) }
    }

    fn decode(frame: Bytes) -> Result<Self, FrameError> {
        match wire::read_publish_batch(&frame, routed)? {
            Some(messages) => Ok(Self::Batch(messages)),
            None => Self::decode_generated(frame),
        }
    }
}

impl Wire for PublishDown {
    type Proto = proto::PublishDown;

    fn from_proto(message: proto::PublishDown) -> Result<Self, FrameError> {
        Ok(match required(message.frame, "frame")? {
            publish_down::Frame::Credit(credit) => {
                Self::Credit { messages: credit.messages, bytes: credit.bytes }
            }
            publish_down::Frame::Acked(acked) => {
                if acked.lanes.len() != acked.up_to.len() {
                    return Err(FrameError::Invalid("acked: columns of different length"));
                }
                let pairs = acked.lanes.into_iter().zip(acked.up_to);
                Self::Acked(pairs.map(|(id, seq)| Ok((lane(id)?, seq))).collect::<Result<_, _>>()?)
            }
            publish_down::Frame::BarrierDone(done) => Self::BarrierDone(done.id),
            publish_down::Frame::Refused(refused) => {
                let proto::Refused { lanes, seqs, reasons } = refused;
                if lanes.len() != seqs.len() || lanes.len() != reasons.len() {
                    return Err(FrameError::Invalid("refused: columns of different length"));
                }
                let rows = lanes.into_iter().zip(seqs).zip(reasons);
                let row = |((id, seq), why)| Ok((lane(id)?, seq, refusal(why)?));
                Self::Refused(rows.map(row).collect::<Result<_, _>>()?)
            }
        })
    }

    fn into_proto(self) -> proto::PublishDown {
        let frame = match self {
            Self::Credit { messages, bytes } => {
                publish_down::Frame::Credit(proto::Credit { messages, bytes })
            }
            Self::Acked(lanes) => {
                let (lanes, up_to) =
                    lanes.into_iter().map(|(lane, seq)| (u32::from(lane.0), seq)).unzip();
                publish_down::Frame::Acked(proto::Acked { lanes, up_to })
            }
            Self::BarrierDone(id) => publish_down::Frame::BarrierDone(proto::BarrierDone { id }),
            Self::Refused(refused) => publish_down::Frame::Refused(proto::Refused {
                lanes: refused.iter().map(|(lane, ..)| lane.0.into()).collect(),
                seqs: refused.iter().map(|&(_, seq, _)| seq).collect(),
                reasons: refused.iter().map(|&(.., reason)| reason as u32).collect(),
            }),
        };
        proto::PublishDown { frame: Some(frame) }
    }
}

impl Wire for DeliverUp {
    type Proto = proto::DeliverUp;

    fn from_proto(message: proto::DeliverUp) -> Result<Self, FrameError> {
        Ok(match required(message.frame, "frame")? {
            deliver_up::Frame::Open(open) => Self::Open(DeliverOpen {
                member: Member::from_proto(required(open.member, "member")?)?,
                last_link: open.last_link,
                last_seq: open.last_seq,
            }),
            deliver_up::Frame::Acked(up_to) => Self::Acked(up_to),
            deliver_up::Frame::Refused(proto::DeliverRefused { seqs, reasons }) => {
                if seqs.len() != reasons.len() {
                    return Err(FrameError::Invalid("refused: columns of different length"));
                }
                let rows = seqs.into_iter().zip(reasons);
                Self::Refused(
                    rows.map(|(seq, why)| Ok((seq, refusal(why)?))).collect::<Result<_, _>>()?,
                )
            }
        })
    }

    fn into_proto(self) -> proto::DeliverUp {
        let frame = match self {
            Self::Open(open) => deliver_up::Frame::Open(proto::DeliverOpen {
                member: Some(open.member.into_proto()),
                last_link: open.last_link,
                last_seq: open.last_seq,
            }),
            Self::Acked(up_to) => deliver_up::Frame::Acked(up_to),
            Self::Refused(refused) => deliver_up::Frame::Refused(proto::DeliverRefused {
                seqs: refused.iter().map(|&(seq, _)| seq).collect(),
                reasons: refused.iter().map(|&(_, reason)| reason as u32).collect(),
            }),
        };
        proto::DeliverUp { frame: Some(frame) }
    }
}

impl Wire for DeliverDown {
    type Proto = proto::DeliverDown;

    fn from_proto(message: proto::DeliverDown) -> Result<Self, FrameError> {
        let delivery = |delivery: proto::Delivery| {
            let routed = Arc::new(routed(required(delivery.message, "message")?)?);
            Ok(Delivery { origin: OriginId(delivery.origin), routed })
        };
        Ok(match required(message.frame, "frame")? {
            deliver_down::Frame::Open(open) => Self::LinkOpen(open.link),
            deliver_down::Frame::Batch(batch) => {
                last_number(batch.first_seq, batch.deliveries.len())?;
                Self::Batch {
                    first_seq: batch.first_seq,
                    deliveries: batch
                        .deliveries
                        .into_iter()
                        .map(delivery)
                        .collect::<Result<_, _>>()?,
                }
            }
        })
    }

    fn into_proto(self) -> proto::DeliverDown {
        let frame = match self {
            Self::LinkOpen(link) => deliver_down::Frame::Open(proto::LinkOpen { link }),
            Self::Batch { first_seq, deliveries } => {
                let deliveries = deliveries.iter().map(|delivery| proto::Delivery {
                    origin: delivery.origin.0,
                    message: Some(from_routed(&delivery.routed)),
                });
                deliver_down::Frame::Batch(proto::DeliverBatch {
                    first_seq,
                    deliveries: deliveries.collect(),
                })
            }
        };
        proto::DeliverDown { frame: Some(frame) }
    }

    fn encode(self) -> Bytes {
        match self {
            Self::Batch { first_seq, deliveries } => wire::deliver_batch(first_seq, &deliveries),
            Self::LinkOpen(_) => self.into_proto().encode_to_vec().into(),
        }
    }
}

/// A deliver frame as the receiving proxy wants it.
pub(crate) fn incoming_frame(frame: Bytes) -> Result<IncomingFrame, FrameError> {
    let incoming = |origin, message| {
        let routed = routed(message)?;
        Ok(Incoming {
            origin: OriginId(origin),
            lane: routed.lane,
            seq: routed.seq,
            provenance: routed.provenance,
            message: Arc::new(routed.message),
            number: 0,
            new: true,
        })
    };
    if let Some((first_seq, messages)) = wire::read_deliver_batch(&frame, incoming)? {
        return numbered(first_seq, messages);
    }
    match DeliverDown::decode(frame)? {
        DeliverDown::LinkOpen(link) => Ok(IncomingFrame::LinkOpen(link)),
        DeliverDown::Batch { first_seq, deliveries } => {
            numbered(first_seq, deliveries.into_iter().map(Incoming::from).collect())
        }
    }
}

fn numbered(first_seq: u64, mut messages: Vec<Incoming>) -> Result<IncomingFrame, FrameError> {
    let up_to = last_number(first_seq, messages.len())?;
    for (number, incoming) in (first_seq..).zip(&mut messages) {
        incoming.number = number;
    }
    Ok(IncomingFrame::Batch { up_to, messages })
}

impl From<Delivery> for Incoming {
    fn from(delivery: Delivery) -> Self {
        let Routed { lane, seq, provenance, ref message } = *delivery.routed;
        let message = Arc::new(message.clone());
        Self { origin: delivery.origin, lane, seq, provenance, message, number: 0, new: true }
    }
}

/// The number of the last delivery of a batch.
fn last_number(first_seq: u64, count: usize) -> Result<u64, FrameError> {
    const INVALID: FrameError = FrameError::Invalid("numbers of a delivery batch");
    if count == 0 || first_seq == 0 {
        return Err(INVALID);
    }
    first_seq.checked_add(count as u64 - 1).ok_or(INVALID)
}

fn lane(id: u32) -> Result<Lane, FrameError> {
    u8::try_from(id).map(Lane).map_err(|_| FrameError::Invalid("lane"))
}

/// A reason for which a message is not taken.
fn refusal(reason: u32) -> Result<ReasonCode, FrameError> {
    let reason = u8::try_from(reason).ok().and_then(ReasonCode::from_byte);
    reason.filter(|reason| reason.is_error()).ok_or(FrameError::Invalid("reason of a refusal"))
}

fn routed(routed: proto::Routed) -> Result<Routed, FrameError> {
    if routed.seq == 0 {
        return Err(FrameError::Invalid("sequence number"));
    }
    let once = (!routed.once.is_empty()).then(|| key(&routed.once)).transpose()?;
    Ok(Routed {
        lane: lane(routed.lane)?,
        seq: routed.seq,
        provenance: Provenance { publisher: routed.publisher, once },
        message: message(routed)?,
    })
}

/// What is in it beside its place.
pub(super) fn message(routed: proto::Routed) -> Result<Message, FrameError> {
    if routed.flags & !(QOS_BITS | RETAIN_BIT) != 0 {
        return Err(FrameError::Invalid("flags"));
    }
    let topic =
        TopicName::new(text(routed.topic, "topic")?).map_err(|_| FrameError::Invalid("topic"))?;
    let properties = PublishProperties::decode(routed.properties)
        .map_err(|_| FrameError::Invalid("properties"))?;
    Ok(Message {
        topic,
        payload: routed.payload,
        qos: qos(routed.flags & QOS_BITS)?,
        retain: routed.flags & RETAIN_BIT != 0,
        expiry_secs: routed.expiry_secs,
        properties,
    })
}

fn from_routed(routed: &Routed) -> proto::Routed {
    let Routed { lane, seq, provenance, message } = routed;
    proto::Routed {
        lane: lane.0.into(),
        seq: *seq,
        publisher: provenance.publisher,
        once: provenance.once.map(from_key).unwrap_or_default(),
        ..from_message(message)
    }
}

/// A message without a place.
pub(super) fn from_message(message: &Message) -> proto::Routed {
    proto::Routed {
        topic: message.topic.as_byte_string().as_bytes().clone(),
        flags: wire::flags(message) as u32,
        properties: message.properties.as_bytes().clone(),
        payload: message.payload.clone(),
        expiry_secs: message.expiry_secs,
        ..proto::Routed::default()
    }
}
