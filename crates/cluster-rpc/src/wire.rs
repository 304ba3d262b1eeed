//! The frames that come with every message, written and read by hand.
//!
//! Every message of the cluster passes here twice, and the generated code costs several times as
//! much. What is written is exactly the protobuf of the proto files; tests hold both directions against
//! the generated code. What is read is not checked for sense here: that is `convert`'s work. A frame that
//! is laid out in another legal way is left to the generated code.

mod sessions;

use bytes::Bytes;
use mqtt_codec::Message;

pub(crate) use self::sessions::{calls, deliveries, read_calls, read_deliveries};
use crate::error::FrameError;
use crate::frame::{Delivery, Provenance};
use crate::origin::Outgoing;
use crate::proto;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// Tag of `PublishUp.batch` and `DeliverDown.batch`.
const BATCH: u64 = 2 << 3 | LENGTH;

/// What a message has beside its [`Message`].
#[derive(Clone, Copy)]
struct Place {
    lane: u8,
    seq: u64,
    expiry_secs: Option<u32>,
    provenance: Provenance,
}

/// `PublishUp` with a batch.
pub(crate) fn publish_batch(batch: &[Outgoing]) -> Bytes {
    let place = |out: &Outgoing| Place {
        lane: out.lane.0,
        seq: out.seq,
        expiry_secs: out.expiry_secs,
        provenance: out.provenance,
    };
    let lengths: Vec<_> = batch.iter().map(|out| routed_len(place(out), &out.message)).collect();
    let body = lengths.iter().map(|&length| part_len(length)).sum();
    let mut dst = Vec::with_capacity(part_len(body));
    put_length(&mut dst, 2, body);
    for (out, &length) in batch.iter().zip(&lengths) {
        put_length(&mut dst, 1, length);
        put_routed(&mut dst, place(out), &out.message);
    }
    dst.into()
}

/// `DeliverDown` with a batch.
pub(crate) fn deliver_batch(first_seq: u64, deliveries: &[Delivery]) -> Bytes {
    let place = |delivery: &Delivery| Place {
        lane: delivery.routed.lane.0,
        seq: delivery.routed.seq,
        expiry_secs: delivery.routed.message.expiry_secs,
        provenance: delivery.routed.provenance,
    };
    let lengths: Vec<_> = deliveries
        .iter()
        .map(|delivery| routed_len(place(delivery), &delivery.routed.message))
        .collect();
    // The origin with its tag, and the message.
    let with_origin = |length: usize| 9 + part_len(length);
    let body: usize = lengths.iter().map(|&length| part_len(with_origin(length))).sum();
    let body = body + 1 + varint_len(first_seq);
    let mut dst = Vec::with_capacity(part_len(body));
    put_length(&mut dst, 2, body);
    put_varint(&mut dst, 1 << 3 | VARINT);
    put_varint(&mut dst, first_seq);
    for (delivery, &length) in deliveries.iter().zip(&lengths) {
        put_length(&mut dst, 2, with_origin(length));
        put_varint(&mut dst, 1 << 3 | FIXED64);
        dst.extend_from_slice(&delivery.origin.0.to_le_bytes());
        put_length(&mut dst, 2, length);
        put_routed(&mut dst, place(delivery), &delivery.routed.message);
    }
    dst.into()
}

/// The messages of a `PublishUp` that is nothing but a batch; `None` if it is something else.
pub(crate) fn read_publish_batch<T>(
    frame: &Bytes,
    mut take: impl FnMut(proto::Routed) -> Result<T, FrameError>,
) -> Result<Option<Vec<T>>, FrameError> {
    let Some(mut batch) = Fields::of_part(frame, BATCH) else {
        return Ok(None);
    };
    let mut messages = Vec::new();
    while let Some(field) = batch.next()? {
        if let Field::Part(1, part) = field {
            messages.push(take(read_routed(part)?)?);
        }
    }
    Ok(Some(messages))
}

/// Numbers and deliveries of a `DeliverDown` that is nothing but a batch; `None` if it is something else.
pub(crate) fn read_deliver_batch<T>(
    frame: &Bytes,
    mut take: impl FnMut(u64, proto::Routed) -> Result<T, FrameError>,
) -> Result<Option<(u64, Vec<T>)>, FrameError> {
    let Some(mut batch) = Fields::of_part(frame, BATCH) else {
        return Ok(None);
    };
    let (mut first_seq, mut deliveries) = (0, Vec::new());
    while let Some(field) = batch.next()? {
        match field {
            Field::Number(1, seq) => first_seq = seq,
            Field::Part(2, mut part) => {
                let (mut origin, mut routed) = (0, None);
                while let Some(field) = part.next()? {
                    match field {
                        Field::Number(1, incarnation) => origin = incarnation,
                        Field::Part(2, message) => routed = Some(read_routed(message)?),
                        Field::Number(..) | Field::Part(..) => {}
                    }
                }
                deliveries.push(take(origin, routed.ok_or(FrameError::Missing("message"))?)?);
            }
            Field::Number(..) | Field::Part(..) => {}
        }
    }
    Ok(Some((first_seq, deliveries)))
}

fn read_routed(mut fields: Fields<'_>) -> Result<proto::Routed, FrameError> {
    let narrow = |value: u64| u32::try_from(value).map_err(|_| FrameError::Invalid("number"));
    let mut routed = proto::Routed::default();
    while let Some(field) = fields.next()? {
        match field {
            Field::Number(1, lane) => routed.lane = narrow(lane)?,
            Field::Number(2, seq) => routed.seq = seq,
            Field::Part(3, part) => routed.topic = part.shared(),
            Field::Number(4, flags) => routed.flags = narrow(flags)?,
            Field::Part(5, part) => routed.properties = part.shared(),
            Field::Part(6, part) => routed.payload = part.shared(),
            Field::Number(7, secs) => routed.expiry_secs = Some(narrow(secs)?),
            Field::Number(8, publisher) => routed.publisher = publisher,
            Field::Part(9, part) => routed.once = part.shared(),
            Field::Number(..) | Field::Part(..) => {}
        }
    }
    Ok(routed)
}

/// One field and its number.
enum Field<'a> {
    Number(u64, u64),
    Part(u64, Fields<'a>),
}

/// Reads the fields of one message within a frame.
struct Fields<'a> {
    frame: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// What is in the part with this tag, if the frame holds it and nothing else.
    fn of_part(frame: &'a Bytes, wanted: u64) -> Option<Self> {
        let mut fields = Fields { frame, rest: frame };
        let tag = fields.varint().ok()?;
        let length = fields.varint().ok()?;
        let whole = tag == wanted && usize::try_from(length) == Ok(fields.rest.len());
        whole.then_some(fields)
    }

    fn next(&mut self) -> Result<Option<Field<'a>>, FrameError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        Ok(Some(match tag & 7 {
            VARINT => Field::Number(number, self.varint()?),
            FIXED64 => Field::Number(number, u64::from_le_bytes(self.fixed()?)),
            FIXED32 => Field::Number(number, u32::from_le_bytes(self.fixed()?).into()),
            LENGTH => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let (part, rest) = self.rest.split_at_checked(length).ok_or(SHORT)?;
                self.rest = rest;
                Field::Part(number, Fields { frame: self.frame, rest: part })
            }
            _ => return Err(FrameError::Invalid("wire type")),
        }))
    }

    /// The bytes themselves, without a copy.
    fn shared(&self) -> Bytes {
        if self.rest.is_empty() { Bytes::new() } else { self.frame.slice_ref(self.rest) }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(SHORT)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(FrameError::Invalid("number"))
    }
}

const SHORT: FrameError = FrameError::Invalid("length");

fn routed_len(place: Place, message: &Message) -> usize {
    let part = |length: usize| if length == 0 { 0 } else { part_len(length) };
    let number = |value: u64| if value == 0 { 0 } else { 1 + varint_len(value) };
    number(place.lane.into())
        + number(place.seq)
        + part(message.topic.as_str().len())
        + number(flags(message))
        + part(message.properties.as_bytes().len())
        + part(message.payload.len())
        + place.expiry_secs.map_or(0, |secs| 1 + varint_len(secs.into()))
        + if place.provenance.publisher == 0 { 0 } else { 9 }
        + place.provenance.once.map_or(0, |_| part_len(16))
}

fn put_routed(dst: &mut Vec<u8>, place: Place, message: &Message) {
    put_number(dst, 1, place.lane.into());
    put_number(dst, 2, place.seq);
    put_part(dst, 3, message.topic.as_str().as_bytes());
    put_number(dst, 4, flags(message));
    put_part(dst, 5, message.properties.as_bytes());
    put_part(dst, 6, &message.payload);
    if let Some(secs) = place.expiry_secs {
        put_varint(dst, 7 << 3 | VARINT);
        put_varint(dst, secs.into());
    }
    if place.provenance.publisher != 0 {
        put_varint(dst, 8 << 3 | FIXED64);
        dst.extend_from_slice(&place.provenance.publisher.to_le_bytes());
    }
    if let Some(once) = place.provenance.once {
        put_part(dst, 9, &once.to_le_bytes());
    }
}

/// Bits 0 and 1: QoS. Bit 2: RETAIN.
pub(crate) fn flags(message: &Message) -> u64 {
    message.qos as u64 | u64::from(message.retain) << 2
}

/// A field that is absent when it is 0.
fn put_number(dst: &mut Vec<u8>, number: u64, value: u64) {
    if value != 0 {
        put_varint(dst, number << 3 | VARINT);
        put_varint(dst, value);
    }
}

/// A field that is absent when it is empty.
fn put_part(dst: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_length(dst, number, bytes.len());
        dst.extend_from_slice(bytes);
    }
}

/// Tag and length of a part.
fn put_length(dst: &mut Vec<u8>, number: u64, length: usize) {
    put_varint(dst, number << 3 | LENGTH);
    put_varint(dst, length as u64);
}

fn put_varint(dst: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        dst.push(value as u8 | 0x80);
        value >>= 7;
    }
    dst.push(value as u8);
}

/// Bytes of a part of `length` bytes with its tag and length.
fn part_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

fn varint_len(value: u64) -> usize {
    // Seven bits a byte, and one byte for zero.
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}
