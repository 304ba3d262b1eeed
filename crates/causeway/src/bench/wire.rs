//! The few MQTT frames a load tool writes and reads, on the fastest path that is still correct.
//!
//! Frames are read in place: nothing is copied and the topic is skipped. It is written apart from
//! `mqtt-codec` on purpose: a fault shared by the broker and its measure would stay unseen. It
//! reads what a broker sends; it does not judge whether the broker conforms.

use anyhow::{Context, anyhow, bail};
use mqtt_codec::{QoS, Version};

use super::open::Stay;

/// Largest Remaining Length the wire can carry, in bytes `[MQTT-1.5.5]`.
const LONGEST: usize = 268_435_455;

/// First bytes of the packets of this tool, packet type and flags together.
pub(super) mod first {
    pub(in crate::bench) const CONNECT: u8 = 0x10;
    pub(in crate::bench) const CONNACK: u8 = 0x20;
    pub(in crate::bench) const PUBLISH: u8 = 0x30;
    pub(in crate::bench) const PUBACK: u8 = 0x40;
    pub(in crate::bench) const PUBREC: u8 = 0x50;
    pub(in crate::bench) const PUBREL: u8 = 0x62;
    pub(in crate::bench) const PUBCOMP: u8 = 0x70;
    pub(in crate::bench) const SUBSCRIBE: u8 = 0x82;
    pub(in crate::bench) const SUBACK: u8 = 0x90;
    pub(in crate::bench) const PINGRESP: u8 = 0xD0;
    pub(in crate::bench) const DISCONNECT: u8 = 0xE0;
}

/// The property Session Expiry Interval.
const SESSION_EXPIRY: u8 = 0x11;
/// How long a kept session is to outlive its connection.
const KEPT_SECS: u32 = 3600;

/// A PINGREQ.
pub(super) const PINGREQ: [u8; 2] = [0xC0, 0];
/// A DISCONNECT with the reason code normal, of any version.
pub(super) const DISCONNECT: [u8; 2] = [first::DISCONNECT, 0];

/// One control packet in a read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Packet type and flags.
    pub(super) first: u8,
    /// All after the Remaining Length.
    pub(super) body: &'a [u8],
    /// Length of the whole packet in bytes.
    pub(super) len: usize,
}

impl<'a> Frame<'a> {
    /// Cuts the first packet off `buffer`; `None` when it is not complete yet.
    pub(super) fn cut(buffer: &'a [u8]) -> anyhow::Result<Option<Self>> {
        let Some((&first, rest)) = buffer.split_first() else { return Ok(None) };
        let Some((body_len, rest)) = length(rest)? else { return Ok(None) };
        let Some(body) = rest.get(..body_len) else { return Ok(None) };
        let len = buffer.len() - rest.len() + body_len;
        Ok(Some(Self { first, body, len }))
    }

    /// Packet type, as a first byte without flags.
    pub(super) const fn kind(&self) -> u8 {
        self.first & 0xF0
    }

    /// The packet id a PUBACK, PUBREC, PUBREL, PUBCOMP or SUBACK starts with.
    pub(super) fn packet_id(&self) -> anyhow::Result<u16> {
        let (id, _) = integer(self.body).context("an acknowledgement without a packet id")?;
        Ok(id)
    }

    /// The reason code after the packet id; success when left out.
    pub(super) fn reason(&self) -> u8 {
        self.body.get(2).copied().unwrap_or(0)
    }

    /// Reads this packet as a PUBLISH.
    pub(super) fn publish(&self, version: Version) -> anyhow::Result<Delivery<'a>> {
        let qos = QoS::from_bits((self.first >> 1) & 3).context("a PUBLISH with QoS 3")?;
        let cut_short = || anyhow!("a PUBLISH ends within its header");
        let (topic_len, rest) = integer(self.body).ok_or_else(cut_short)?;
        let mut rest = rest.get(usize::from(topic_len)..).ok_or_else(cut_short)?;
        let mut packet_id = 0;
        if qos != QoS::AtMostOnce {
            (packet_id, rest) = integer(rest).ok_or_else(cut_short)?;
        }
        if version == Version::V5 {
            let (properties, after) = length(rest)?.ok_or_else(cut_short)?;
            rest = after.get(properties..).ok_or_else(cut_short)?;
        }
        Ok(Delivery { qos, packet_id, payload: rest })
    }

    /// Reads this packet as a CONNACK; a refusal is an error.
    pub(super) fn connack(&self, version: Version) -> anyhow::Result<Granted> {
        let [_, code, properties @ ..] = self.body else { bail!("a CONNACK without a code") };
        if *code != 0 {
            bail!("the broker refused the connection with code {code:#04x}");
        }
        if version == Version::V5 { Granted::read(properties) } else { Ok(Granted::default()) }
    }

    /// Reads this packet as a SUBACK; a refused or lowered subscription is an error.
    pub(super) fn suback(&self, version: Version, qos: QoS) -> anyhow::Result<()> {
        let (_, mut codes) = integer(self.body).context("a SUBACK without a packet id")?;
        if version == Version::V5 {
            let (properties, after) = length(codes)?.context("a SUBACK without properties")?;
            codes = after.get(properties..).context("a SUBACK ends within its properties")?;
        }
        match codes.iter().find(|&&code| code != qos as u8) {
            None if codes.is_empty() => bail!("a SUBACK without a code"),
            None => Ok(()),
            Some(code) => bail!("the broker answered a subscription with code {code:#04x}"),
        }
    }
}

/// What a subscriber needs of a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery<'a> {
    pub(super) qos: QoS,
    /// 0 at QoS 0.
    pub(super) packet_id: u16,
    pub(super) payload: &'a [u8],
}

/// The limits of a CONNACK that a load tool must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// Most unacknowledged QoS 1 and 2 messages towards the broker `[MQTT-3.3.4-9]`.
    pub(super) receive_maximum: u16,
    /// Keep Alive in seconds that the broker asks for instead `[MQTT-3.2.2-21]`.
    pub(super) keep_alive_secs: Option<u16>,
}

impl Default for Granted {
    fn default() -> Self {
        Self { receive_maximum: u16::MAX, keep_alive_secs: None }
    }
}

impl Granted {
    /// Reads the properties of a CONNACK.
    fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let (len, rest) = length(bytes)?.context("a CONNACK without properties")?;
        let mut rest = rest.get(..len).context("a CONNACK ends within its properties")?;
        let mut granted = Self::default();
        while let Some((&id, value)) = rest.split_first() {
            let value_len = property_len(id, value).context("an unknown property in a CONNACK")?;
            match id {
                0x13 => granted.keep_alive_secs = integer(value).map(|(secs, _)| secs),
                0x21 => granted.receive_maximum = integer(value).map_or(u16::MAX, |(max, _)| max),
                _ => {}
            }
            rest = value.get(value_len..).context("a CONNACK ends within a property")?;
        }
        Ok(granted)
    }
}

/// Bytes the value of property `id` takes; `None` when it is cut short or no property of a CONNACK.
fn property_len(id: u8, value: &[u8]) -> Option<usize> {
    let text_len = |at: &[u8]| integer(at).map(|(len, _)| usize::from(len) + 2);
    match id {
        0x24 | 0x25 | 0x28 | 0x29 | 0x2A => Some(1),
        0x13 | 0x21 | 0x22 => Some(2),
        0x11 | 0x27 => Some(4),
        0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => text_len(value),
        0x26 => {
            let name_len = text_len(value)?;
            Some(name_len + text_len(value.get(name_len..)?)?)
        }
        _ => None,
    }
}

/// A CONNECT to be.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) version: Version,
    pub(super) keep_alive_secs: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

impl Login {
    /// Writes a CONNECT.
    pub(super) fn connect(&self, client_id: &str, stay: Stay) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        push_text(&mut body, "MQTT");
        body.push(self.version as u8);
        let username = u8::from(self.username.is_some()) << 7;
        let password = u8::from(self.password.is_some()) << 6;
        let clean = if stay == Stay::Clean { 0b10 } else { 0 };
        body.push(username | password | clean);
        body.extend(self.keep_alive_secs.to_be_bytes());
        match (self.version, stay) {
            (Version::V5, Stay::Clean) => body.push(0),
            (Version::V5, Stay::Kept) => {
                body.extend([5, SESSION_EXPIRY]);
                body.extend(KEPT_SECS.to_be_bytes());
            }
            (Version::V3_1 | Version::V3_1_1, _) => {}
        }
        push_text(&mut body, client_id);
        for text in [&self.username, &self.password].into_iter().flatten() {
            push_text(&mut body, text);
        }
        packet(first::CONNECT, &body)
    }
}

/// Writes a SUBSCRIBE for `filters` with packet id 1.
pub(super) fn subscribe(version: Version, filters: &[String], qos: QoS) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        push_text(&mut body, filter);
        body.push(qos as u8);
    }
    packet(first::SUBSCRIBE, &body)
}

/// A PUBLISH of which only packet id and payload change from message to message.
#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// Writes a PUBLISH to `topic` with `payload_len` zero bytes.
    pub(super) fn new(version: Version, topic: &str, qos: QoS, payload_len: usize) -> Self {
        let mut body = Vec::with_capacity(topic.len() + payload_len + 8);
        push_text(&mut body, topic);
        let mut packet_id_at = None;
        if qos != QoS::AtMostOnce {
            packet_id_at = Some(body.len());
            body.extend([0, 0]);
        }
        if version == Version::V5 {
            body.push(0);
        }
        let payload_at = body.len();
        body.resize(payload_at + payload_len, 0);
        let bytes = packet(first::PUBLISH | ((qos as u8) << 1), &body);
        let head = bytes.len() - body.len();
        Self {
            bytes,
            packet_id_at: packet_id_at.map(|at| at + head),
            payload_at: payload_at + head,
        }
    }

    /// Length of the packet in bytes.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the packet to `out` with this packet id (ignored at QoS 0) and payload start.
    pub(super) fn write(&self, out: &mut Vec<u8>, packet_id: u16, payload_start: &[u8]) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.packet_id_at {
            overwrite(out, start + at, &packet_id.to_be_bytes());
        }
        overwrite(out, start + self.payload_at, payload_start);
    }
}

/// Appends a PUBACK, PUBREC, PUBREL or PUBCOMP with the reason success to `out`.
pub(super) fn push_ack(out: &mut Vec<u8>, first: u8, packet_id: u16) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

fn overwrite(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Reads a variable byte integer: its value and what follows; `None` when more bytes are needed.
fn length(bytes: &[u8]) -> anyhow::Result<Option<(usize, &[u8])>> {
    let mut value = 0_usize;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(bytes.get(at + 1..).map(|rest| (value, rest)));
        }
    }
    if bytes.len() >= 4 {
        bail!("a length of more than four bytes");
    }
    Ok(None)
}

fn integer(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// Appends `text` with its length. Callers keep texts below 64 KiB: topics are checked, and the
/// rest comes from the command line.
fn push_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(len.to_be_bytes());
    out.extend(text.as_bytes().iter().take(usize::from(len)));
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= LONGEST, "the payload was checked against the longest packet");
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(first);
    let mut left = body.len();
    loop {
        let byte = (left & 0x7F) as u8;
        left >>= 7;
        out.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(version: Version, qos: QoS, payload_len: usize) {
        let template = Template::new(version, "bench/pairs/1/t", qos, payload_len);
        let mut out = Vec::new();
        template.write(&mut out, 0x1234, &[7; 16]);
        assert_eq!(out.len(), template.len());
        let frame = Frame::cut(&out).unwrap().unwrap();
        assert_eq!((frame.kind(), frame.len), (first::PUBLISH, out.len()));
        let delivery = frame.publish(version).unwrap();
        let id = if qos == QoS::AtMostOnce { 0 } else { 0x1234 };
        assert_eq!((delivery.qos, delivery.packet_id), (qos, id));
        assert_eq!(delivery.payload.len(), payload_len);
        assert_eq!(delivery.payload.get(..16).unwrap(), [7; 16]);
        for end in 0..out.len() {
            assert_eq!(Frame::cut(&out[..end]).unwrap(), None);
        }
    }

    #[test]
    fn a_publish_is_read_as_it_was_written() {
        for version in [Version::V3_1_1, Version::V5] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                for payload_len in [16, 100, 256, 20_000] {
                    round_trip(version, qos, payload_len);
                }
            }
        }
    }

    #[test]
    fn what_a_broken_broker_sends_is_an_error_and_no_panic() {
        assert!(Frame::cut(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]).is_err());
        let bodies: [&[u8]; 4] = [&[], &[0], &[0, 9, b'a'], &[0, 1, b'a', 0]];
        for body in bodies {
            let frame = Frame { first: 0x32, body, len: 2 + body.len() };
            assert!(frame.publish(Version::V5).is_err());
        }
        let qos3 = Frame { first: 0x36, body: &[0, 1, b'a', 0, 1], len: 7 };
        assert!(qos3.publish(Version::V3_1_1).is_err());
    }

    #[test]
    fn the_limits_of_a_connack_are_kept() {
        let body = [0, 0, 12, 0x21, 0, 20, 0x13, 0, 30, 0x26, 0, 0, 0, 1, b'x'];
        let frame = Frame { first: 0x20, body: &body, len: 17 };
        let granted = frame.connack(Version::V5).unwrap();
        assert_eq!(granted, Granted { receive_maximum: 20, keep_alive_secs: Some(30) });
        let refused = Frame { first: 0x20, body: &[0, 5], len: 4 };
        assert!(refused.connack(Version::V3_1_1).is_err());
    }

    #[test]
    fn a_subscription_that_was_refused_or_lowered_is_an_error() {
        let suback = |body: &[u8]| {
            Frame { first: 0x90, body, len: 5 }.suback(Version::V3_1_1, QoS::AtLeastOnce).is_ok()
        };
        assert!(suback(&[0, 1, 1, 1]));
        assert!(!suback(&[0, 1, 1, 0x80]));
        assert!(!suback(&[0, 1, 0]));
        assert!(!suback(&[0, 1]));
    }
}
