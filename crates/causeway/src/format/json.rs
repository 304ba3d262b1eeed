//! A message as one JSON object, with the names that mosquitto_sub uses.

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::Value;

use super::clock::Clock;
use crate::link::Received;

/// The members in the order in which they are printed.
#[derive(Debug, Serialize)]
struct Object<'a> {
    tst: String,
    topic: &'a str,
    qos: u8,
    retain: u8,
    payloadlen: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    mid: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Properties<'a>>,
    payload: Payload<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payloadhex: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Text(&'a str),
    Json(Value),
    Bytes,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Properties<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format_indicator: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_alias: Option<u16>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    subscription_identifier: &'a [usize],
    #[serde(skip_serializing_if = "UserProperties::is_empty")]
    user_properties: UserProperties<'a>,
}

/// An object as mosquitto_sub prints it, although a name may come twice.
#[derive(Debug)]
struct UserProperties<'a>(&'a [(String, String)]);

impl UserProperties<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for UserProperties<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// With the payload as a string. A payload that is not UTF-8 is `null`, and its bytes stand in
/// `payloadhex`.
pub(super) fn quoted(message: &Received, clock: &Clock) -> String {
    let (payload, payloadhex) = match std::str::from_utf8(&message.payload) {
        Ok(text) => (Payload::Text(text), None),
        Err(_) => (Payload::Bytes, Some(hex(&message.payload))),
    };
    object(message, clock, payload, payloadhex)
}

/// With the payload as the JSON value that it is. A payload that is not JSON is shown as a string.
pub(super) fn raw(message: &Received, clock: &Clock) -> String {
    match serde_json::from_slice(&message.payload) {
        Ok(value) => object(message, clock, Payload::Json(value), None),
        Err(_) => quoted(message, clock),
    }
}

fn object(
    message: &Received,
    clock: &Clock,
    payload: Payload<'_>,
    payloadhex: Option<String>,
) -> String {
    let object = Object {
        tst: clock.iso_with_microseconds(),
        topic: &message.topic,
        qos: message.qos,
        retain: u8::from(message.retain),
        payloadlen: message.payload.len(),
        mid: (message.qos > 0).then_some(message.packet_id),
        properties: message.properties.as_ref().map(|known| Properties {
            payload_format_indicator: known.payload_format_indicator,
            message_expiry_interval: known.message_expiry_interval,
            content_type: known.content_type.as_deref(),
            response_topic: known.response_topic.as_deref(),
            correlation_data: known
                .correlation_data
                .as_ref()
                .map(|bytes| std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), str::to_owned)),
            topic_alias: known.topic_alias,
            subscription_identifier: &known.subscription_identifiers,
            user_properties: UserProperties(&known.user_properties),
        }),
        payload,
        payloadhex,
    };
    serde_json::to_string(&object).expect("strings, numbers and JSON values are JSON")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
