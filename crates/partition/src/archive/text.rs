//! How values look in lines: numbers that name something as hex, bytes as text where they are text.
//!
//! JSON has no bytes, and tools that read it round large numbers. Both would not come back as they were.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{Message, PublishProperties, QoS, TopicName};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number that names something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) u64);

/// A key of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) u128);

/// Bytes in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hex(pub(super) Vec<u8>);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Text(|text: &str| u64::from_str_radix(text, 16).ok())).map(Self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Text(|text: &str| u128::from_str_radix(text, 16).ok())).map(Self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Text(bytes_of)).map(Self)
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks_exact(2).map(pair).collect()
}

/// Reads a text by a function.
struct Text<F>(F);

impl<T, F: FnOnce(&str) -> Option<T>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("hexadecimal digits")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).ok_or_else(|| E::custom(format_args!("{text:?} is no such number")))
    }
}

/// A message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageText {
    topic: String,
    qos: u8,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry_secs: Option<u32>,
    /// As a PUBLISH of MQTT 5 has them, without their length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    properties_hex: Option<Hex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_hex: Option<Hex>,
}

impl MessageText {
    pub(super) fn of(message: &Message) -> Self {
        let properties = message.properties.as_bytes();
        let payload = std::str::from_utf8(&message.payload).ok().map(str::to_owned);
        let payload_hex = payload.is_none().then(|| Hex(message.payload.to_vec()));
        Self {
            topic: message.topic.as_str().to_owned(),
            qos: message.qos as u8,
            retain: message.retain,
            expiry_secs: message.expiry_secs,
            properties_hex: (!properties.is_empty()).then(|| Hex(properties.to_vec())),
            payload,
            payload_hex,
        }
    }

    /// `None` if there is no such message.
    pub(super) fn message(self) -> Option<Arc<Message>> {
        let payload = match (self.payload, self.payload_hex) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(Hex(bytes))) => Bytes::from(bytes),
            (None, None) => Bytes::new(),
            (Some(_), Some(_)) => return None,
        };
        let properties = Bytes::from(self.properties_hex.unwrap_or_default().0);
        Some(Arc::new(Message {
            topic: TopicName::new(ByteString::from(self.topic)).ok()?,
            qos: QoS::from_bits(self.qos)?,
            retain: self.retain,
            expiry_secs: self.expiry_secs,
            properties: PublishProperties::decode(properties).ok()?,
            payload,
        }))
    }
}
