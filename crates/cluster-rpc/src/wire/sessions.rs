//! Session frames: calls one by one, so that acknowledgements and deliveries are written and read by hand and
//! all else by the generated code.
//!
//! What is written is exactly the protobuf of `sessions.proto`. A delivery that has the same message as
//! the one before it does not repeat it, and is read as sharing it.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{Message, SubscriptionId};
use prost::Message as _;

use super::{
    FIXED64, Field, Fields, LENGTH, Place, part_len, put_length, put_number, put_routed,
    put_varint, read_routed, routed_len, varint_len,
};
use crate::convert::{MAX_ENTRIES, call, delivery, delivery_flags, from_call};
use crate::error::FrameError;
use crate::frame::{
    GroupPlace, Held, Provenance, QueuePlace, SessionCall, SessionDelivery, SessionEpoch,
    SessionNumber, weight_of,
};
use crate::proto;

/// Tag of `SessionUp.calls`.
const CALLS: u64 = 2 << 3 | LENGTH;

/// Tag of `SessionDown.deliveries`.
const DELIVERIES: u64 = 3 << 3 | LENGTH;

/// `SessionCall.acknowledge`.
const ACKNOWLEDGE: u64 = 6;

/// What a delivery mostly has beside its message, at most.
const HEAD_BYTES: usize = 32;

const TOO_MANY: FrameError = FrameError::Invalid("length of a list");

/// `SessionUp` with calls.
pub(crate) fn calls(calls: Vec<SessionCall>) -> Bytes {
    let mut frame = Framed::new(calls.iter().map(|call| call.weight() as usize).sum());
    let mut scratch = Vec::new();
    for call in calls {
        if let SessionCall::Acknowledge { held, settled, received } = &call {
            scratch.clear();
            put_fixed(&mut scratch, 1, held.session.0);
            put_number(&mut scratch, 2, held.epoch.0);
            put_places(&mut scratch, 3, settled);
            put_places(&mut scratch, 4, received);
            put_length(&mut frame.bytes, 1, part_len(scratch.len()));
            put_length(&mut frame.bytes, ACKNOWLEDGE, scratch.len());
            frame.bytes.extend_from_slice(&scratch);
        } else {
            let call = from_call(call);
            put_length(&mut frame.bytes, 1, call.encoded_len());
            call.encode_raw(&mut frame.bytes);
        }
    }
    frame.finish(CALLS)
}

/// The calls of a `SessionUp`; `None` if it holds none.
pub(crate) fn read_calls(frame: &Bytes) -> Result<Option<Vec<SessionCall>>, FrameError> {
    let Some(mut fields) = Fields::of_part(frame, CALLS) else {
        return Ok(None);
    };
    let mut calls = Vec::new();
    while let Some(field) = fields.next()? {
        if let Field::Part(1, part) = field {
            if calls.len() == MAX_ENTRIES {
                return Err(TOO_MANY);
            }
            calls.push(read_call(part)?);
        }
    }
    Ok(Some(calls))
}

fn read_call(part: Fields<'_>) -> Result<SessionCall, FrameError> {
    let mut fields = Fields { frame: part.frame, rest: part.rest };
    match fields.next()? {
        Some(Field::Part(ACKNOWLEDGE, inner)) if fields.rest.is_empty() => read_acknowledge(inner),
        Some(Field::Part(..) | Field::Number(..)) | None => {
            let generated = proto::SessionCall::decode(part.shared());
            call(generated.map_err(|_| FrameError::Invalid("protobuf"))?)
        }
    }
}

fn read_acknowledge(mut fields: Fields<'_>) -> Result<SessionCall, FrameError> {
    let (mut session, mut epoch) = (0, 0);
    let (mut settled, mut received) = (Vec::new(), Vec::new());
    while let Some(field) = fields.next()? {
        match field {
            Field::Number(1, number) => session = number,
            Field::Number(2, number) => epoch = number,
            Field::Number(3, place) => push(&mut settled, place)?,
            Field::Number(4, place) => push(&mut received, place)?,
            Field::Part(3, places) => read_places(places, &mut settled)?,
            Field::Part(4, places) => read_places(places, &mut received)?,
            Field::Number(..) | Field::Part(..) => {}
        }
    }
    let held = Held { session: SessionNumber(session), epoch: SessionEpoch(epoch) };
    Ok(SessionCall::Acknowledge { held, settled, received })
}

fn read_places(mut fields: Fields<'_>, into: &mut Vec<QueuePlace>) -> Result<(), FrameError> {
    while !fields.rest.is_empty() {
        push(into, fields.varint()?)?;
    }
    Ok(())
}

fn push(places: &mut Vec<QueuePlace>, place: u64) -> Result<(), FrameError> {
    if places.len() == MAX_ENTRIES {
        return Err(TOO_MANY);
    }
    places.push(QueuePlace(place));
    Ok(())
}

/// `SessionDown` with deliveries.
pub(crate) fn deliveries(deliveries: &[SessionDelivery]) -> Bytes {
    let weight = |delivery: &SessionDelivery| weight_of(&delivery.message) as usize + HEAD_BYTES;
    let mut frame = Framed::new(deliveries.iter().map(weight).sum());
    let mut head = Vec::new();
    let mut last = None;
    for delivery in deliveries {
        head.clear();
        put_head(&mut head, delivery);
        let message = &*delivery.message;
        let this = Arc::as_ptr(&delivery.message);
        let same = last.replace(this) == Some(this);
        if same {
            put_length(&mut frame.bytes, 1, head.len());
            frame.bytes.extend_from_slice(&head);
            continue;
        }
        let place = Place {
            lane: 0,
            seq: 0,
            expiry_secs: message.expiry_secs,
            provenance: Provenance::default(),
        };
        let length = routed_len(place, message);
        put_length(&mut frame.bytes, 1, head.len() + part_len(length));
        frame.bytes.extend_from_slice(&head);
        put_length(&mut frame.bytes, 7, length);
        put_routed(&mut frame.bytes, place, message);
    }
    frame.finish(DELIVERIES)
}

/// What a delivery has beside its message.
fn put_head(dst: &mut Vec<u8>, delivery: &SessionDelivery) {
    put_number(dst, 1, delivery.connection);
    put_fixed(dst, 2, delivery.session.0);
    put_number(dst, 3, delivery.place.0);
    if let Some(GroupPlace { group, place }) = delivery.group {
        let fixed = if group == 0 { 0 } else { 9 };
        let number = if place == 0 { 0 } else { 1 + varint_len(place) };
        put_length(dst, 4, fixed + number);
        put_fixed(dst, 1, group);
        put_number(dst, 2, place);
    }
    put_number(dst, 5, delivery_flags(delivery).into());
    let ids = delivery.subscription_ids.iter().map(|id| SubscriptionId::value(*id).into());
    put_packed(dst, 6, ids);
}

/// The deliveries of a `SessionDown`; `None` if it holds none.
pub(crate) fn read_deliveries(frame: &Bytes) -> Result<Option<Vec<SessionDelivery>>, FrameError> {
    let Some(mut fields) = Fields::of_part(frame, DELIVERIES) else {
        return Ok(None);
    };
    let mut last: Option<Arc<Message>> = None;
    let mut deliveries = Vec::new();
    while let Some(field) = fields.next()? {
        if let Field::Part(1, part) = field {
            if deliveries.len() == MAX_ENTRIES {
                return Err(TOO_MANY);
            }
            deliveries.push(delivery(read_delivery(part)?, &mut last)?);
        }
    }
    Ok(Some(deliveries))
}

fn read_delivery(mut fields: Fields<'_>) -> Result<proto::SessionDelivery, FrameError> {
    let narrow = |value: u64| u32::try_from(value).map_err(|_| FrameError::Invalid("number"));
    let mut delivery = proto::SessionDelivery::default();
    while let Some(field) = fields.next()? {
        match field {
            Field::Number(1, connection) => delivery.connection = connection,
            Field::Number(2, session) => delivery.session = session,
            Field::Number(3, place) => delivery.place = place,
            Field::Part(4, group) => delivery.group = Some(read_group_place(group)?),
            Field::Number(5, flags) => delivery.flags = narrow(flags)?,
            Field::Number(6, id) => delivery.subscription_ids.push(narrow(id)?),
            Field::Part(6, mut ids) => {
                while !ids.rest.is_empty() {
                    delivery.subscription_ids.push(narrow(ids.varint()?)?);
                }
            }
            Field::Part(7, message) => delivery.message = Some(read_routed(message)?),
            Field::Number(..) | Field::Part(..) => {}
        }
    }
    Ok(delivery)
}

fn read_group_place(mut fields: Fields<'_>) -> Result<proto::GroupPlace, FrameError> {
    let mut group = proto::GroupPlace::default();
    while let Some(field) = fields.next()? {
        match field {
            Field::Number(1, number) => group.group = number,
            Field::Number(2, place) => group.place = place,
            Field::Number(..) | Field::Part(..) => {}
        }
    }
    Ok(group)
}

/// A frame that is one part, whose length is known when it is written.
struct Framed {
    bytes: Vec<u8>,
}

impl Framed {
    /// Room for tag and length before the part.
    const HEAD: usize = 11;

    /// For about so many bytes.
    fn new(expected: usize) -> Self {
        let mut bytes = Vec::with_capacity(Self::HEAD + expected);
        bytes.resize(Self::HEAD, 0);
        Self { bytes }
    }

    fn finish(mut self, tag: u64) -> Bytes {
        let mut head = Vec::with_capacity(Self::HEAD);
        put_varint(&mut head, tag);
        put_varint(&mut head, (self.bytes.len() - Self::HEAD) as u64);
        let start = Self::HEAD - head.len();
        self.bytes[start..Self::HEAD].copy_from_slice(&head);
        Bytes::from(self.bytes).slice(start..)
    }
}

/// A fixed field that is absent when it is 0.
fn put_fixed(dst: &mut Vec<u8>, number: u64, value: u64) {
    if value != 0 {
        put_varint(dst, number << 3 | FIXED64);
        dst.extend_from_slice(&value.to_le_bytes());
    }
}

fn put_places(dst: &mut Vec<u8>, number: u64, places: &[QueuePlace]) {
    put_packed(dst, number, places.iter().map(|place| place.0));
}

/// A packed list that is absent when it is empty.
fn put_packed(dst: &mut Vec<u8>, number: u64, values: impl Iterator<Item = u64> + Clone) {
    let length = values.clone().map(varint_len).sum();
    if length != 0 {
        put_length(dst, number, length);
        values.for_each(|value| put_varint(dst, value));
    }
}
