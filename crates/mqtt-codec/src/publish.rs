//! PUBLISH: a message on its way over one connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::properties::{Block, id, not_allowed};
use crate::wire::{
    Reader, VAR_INT_MAX, fixed_header_len, put_fixed_header, put_short_text, put_var_int,
    var_int_len,
};
use crate::{
    DecodeError, EncodeError, Message, Packet, PacketId, PacketType, PublishProperties, QoS,
    SubscriptionId, TopicAlias, TopicName, Version,
};

/// The subscription identifiers of one PUBLISH, mostly none or one.
pub type SubscriptionIds = SmallVec<[SubscriptionId; 2]>;

/// A PUBLISH packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Whether this may be a repetition.
    pub dup: bool,
    /// Quality of service of this delivery.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Present exactly when `qos` is above 0 `[MQTT-2.2.1-2]`.
    pub packet_id: Option<PacketId>,
    /// `None` when only the alias stands for it.
    pub topic: Option<TopicName>,
    /// Stands for the topic, or sets what it stands for when `topic` is given too.
    pub alias: Option<TopicAlias>,
    /// Message Expiry Interval in seconds.
    pub expiry_secs: Option<u32>,
    /// Only from server to client.
    pub subscription_ids: SubscriptionIds,
    /// What goes on unaltered.
    pub properties: PublishProperties,
    /// The application's bytes.
    pub payload: Bytes,
}

/// What a PUBLISH adds to the [`Message`] it carries. Encoding a fan-out means encoding one
/// message behind many heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishHead {
    /// Whether this may be a repetition.
    pub dup: bool,
    /// QoS of this delivery.
    pub qos: QoS,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// How the topic is written.
    pub alias: AliasUse,
    /// Message Expiry Interval left, in seconds.
    pub expiry_secs: Option<u32>,
    /// Of all the client's subscriptions that match.
    pub subscription_ids: SubscriptionIds,
}

/// How a PUBLISH names its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AliasUse {
    /// The name only.
    #[default]
    None,
    /// The name, and the alias that stands for it from now on.
    Set(TopicAlias),
    /// The alias only.
    Use(TopicAlias),
}

impl Message {
    /// The message of a PUBLISH whose topic is `topic` (its own, or what its alias stands for).
    #[must_use]
    pub fn from_publish(publish: Publish, topic: TopicName) -> Self {
        Self {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expiry_secs: publish.expiry_secs,
            properties: publish.properties,
        }
    }
}

const RETAIN: u8 = 0b0001;
const QOS_SHIFT: u8 = 1;
const QOS: u8 = 0b11;
const DUP: u8 = 0b1000;

/// What the property block of a PUBLISH says.
#[derive(Default)]
struct BlockFields {
    alias: Option<TopicAlias>,
    expiry_secs: Option<u32>,
    subscription_ids: SubscriptionIds,
    pass_on: PublishProperties,
}

impl BlockFields {
    #[inline]
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut block = Block::open(reader)?;
        if block.reader().is_empty() {
            return Ok(Self::default());
        }
        Self::decode_block(block)
    }

    fn decode_block(block: Block<'_>) -> Result<Self, DecodeError> {
        let mut fields = Self::default();
        fields.pass_on = PublishProperties::decode_from(block, |id, block| {
            match id {
                id::MESSAGE_EXPIRY => fields.expiry_secs = Some(block.reader().u32()?),
                id::TOPIC_ALIAS => {
                    let alias = TopicAlias::new(block.reader().u16()?);
                    fields.alias = Some(alias.ok_or(DecodeError::TopicAliasZero)?); // [MQTT-3.3.2-8]
                }
                id::SUBSCRIPTION_ID => {
                    let value = SubscriptionId::new(block.reader().var_int()?);
                    fields.subscription_ids.push(value.ok_or(DecodeError::PropertyValue(id))?);
                }
                other => return not_allowed(other),
            }
            Ok(())
        })?;
        Ok(fields)
    }
}

impl Publish {
    /// What the flags of the fixed header alone rule out.
    pub(crate) const fn check_flags(flags: u8) -> Result<(), DecodeError> {
        match flags >> QOS_SHIFT & QOS {
            0 if flags & DUP != 0 => Err(DecodeError::DupAtQoS0), // [MQTT-3.3.1-2]
            3 => Err(DecodeError::PublishQoS3),                   // [MQTT-3.3.1-4]
            _ => Ok(()),
        }
    }

    /// What [`Decoder::decode`](crate::Decoder::decode) returns, built in its place: moving a
    /// PUBLISH through three results took a seventh of the time to decode it (`benches/codec.rs`).
    pub(crate) fn decode_packet(
        mut frame: Bytes,
        flags: u8,
        version: Version,
    ) -> Result<Option<Packet>, DecodeError> {
        let qos = QoS::from_bits(flags >> QOS_SHIFT & QOS).ok_or(DecodeError::PublishQoS3)?;
        let mut reader = Reader::new(&frame);
        let topic = reader.binary_ref()?;
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
        };
        let fields = match version {
            Version::V3_1 | Version::V3_1_1 => BlockFields::default(),
            Version::V5 => BlockFields::decode(&mut reader)?,
        };
        let topic = if !topic.is_empty() || version < Version::V5 {
            Some(TopicName::decode(topic, &reader)?)
        } else if fields.alias.is_some() {
            None
        } else {
            return Err(DecodeError::TopicMissing);
        };
        let header = frame.len() - reader.len();
        frame.advance(header);
        Ok(Some(Packet::Publish(Self {
            dup: flags & DUP != 0,
            qos,
            retain: flags & RETAIN != 0,
            packet_id,
            topic,
            alias: fields.alias,
            expiry_secs: fields.expiry_secs,
            subscription_ids: fields.subscription_ids,
            properties: fields.pass_on,
            payload: frame,
        })))
    }

    pub(crate) fn encode(&self, version: Version, dst: &mut BytesMut) -> Result<(), EncodeError> {
        self.outline().encode(version, &self.payload, dst)
    }

    pub(crate) fn encoded_len(&self, version: Version) -> usize {
        self.outline().encoded_len(version, self.payload.len())
    }

    fn outline(&self) -> Outline<'_> {
        Outline {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            topic: self.topic.as_ref().map_or("", TopicName::as_str),
            alias: self.alias,
            expiry_secs: self.expiry_secs,
            subscription_ids: &self.subscription_ids,
            pass_on: self.properties.as_bytes(),
        }
    }
}

impl PublishHead {
    /// Adds the whole packet to `dst`, or nothing if it must not be sent.
    pub fn encode(
        &self,
        message: &Message,
        version: Version,
        dst: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        self.outline(message, version).encode(version, &message.payload, dst)
    }

    /// Adds the packet up to its payload, which the caller writes behind it.
    pub fn encode_before_payload(
        &self,
        message: &Message,
        version: Version,
        dst: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let outline = self.outline(message, version);
        let layout = outline.layout(version, message.payload.len())?;
        dst.reserve(layout.before_payload());
        outline.write(&layout, dst);
        Ok(())
    }

    /// How many bytes the whole packet has.
    #[must_use]
    pub fn encoded_len(&self, message: &Message, version: Version) -> usize {
        self.outline(message, version).encoded_len(version, message.payload.len())
    }

    fn outline<'a>(&'a self, message: &'a Message, version: Version) -> Outline<'a> {
        let (topic, alias) = match self.alias {
            AliasUse::Use(alias) if version == Version::V5 => ("", Some(alias)),
            // MQTT 3 has no aliases: the name is always written.
            AliasUse::Use(alias) | AliasUse::Set(alias) => (message.topic.as_str(), Some(alias)),
            AliasUse::None => (message.topic.as_str(), None),
        };
        Outline {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            topic,
            alias,
            expiry_secs: self.expiry_secs,
            subscription_ids: &self.subscription_ids,
            pass_on: message.properties.as_bytes(),
        }
    }
}

/// All of a PUBLISH but its payload: the one description of how it is written.
struct Outline<'a> {
    dup: bool,
    qos: QoS,
    retain: bool,
    packet_id: Option<PacketId>,
    /// Empty for none.
    topic: &'a str,
    alias: Option<TopicAlias>,
    expiry_secs: Option<u32>,
    subscription_ids: &'a [SubscriptionId],
    pass_on: &'a [u8],
}

/// The lengths of one PUBLISH.
struct Layout {
    /// From the topic to the end of the packet.
    remaining: usize,
    /// From the topic up to the payload.
    variable: usize,
    /// Of the property block without its prefix; `None` where there is no block.
    properties: Option<usize>,
}

impl Layout {
    fn before_payload(&self) -> usize {
        fixed_header_len(self.remaining) + self.variable
    }
}

impl Outline<'_> {
    fn encode(
        &self,
        version: Version,
        payload: &[u8],
        dst: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let layout = self.layout(version, payload.len())?;
        dst.reserve(layout.before_payload() + payload.len());
        self.write(&layout, dst);
        dst.put_slice(payload);
        Ok(())
    }

    fn encoded_len(&self, version: Version, payload: usize) -> usize {
        let remaining = self.variable_len(self.properties_len(version)) + payload;
        fixed_header_len(remaining) + remaining
    }

    /// Checks what the types leave open, and counts.
    fn layout(&self, version: Version, payload: usize) -> Result<Layout, EncodeError> {
        if self.packet_id.is_some() != (self.qos > QoS::AtMostOnce) {
            return Err(EncodeError::PacketId); // [MQTT-2.2.1-2]
        }
        if self.dup && self.qos == QoS::AtMostOnce {
            return Err(EncodeError::DupAtQoS0); // [MQTT-3.3.1-2]
        }
        if self.topic.is_empty() && (version < Version::V5 || self.alias.is_none()) {
            return Err(EncodeError::TopicMissing);
        }
        let properties = self.properties_len(version);
        let variable = self.variable_len(properties);
        let remaining = variable + payload;
        if remaining > VAR_INT_MAX {
            return Err(EncodeError::PacketTooLarge(remaining));
        }
        Ok(Layout { remaining, variable, properties })
    }

    fn first_byte(&self) -> u8 {
        let mut byte = (PacketType::Publish as u8) << 4 | (self.qos as u8) << QOS_SHIFT;
        if self.dup {
            byte |= DUP;
        }
        if self.retain {
            byte |= RETAIN;
        }
        byte
    }

    fn properties_len(&self, version: Version) -> Option<usize> {
        if version < Version::V5 {
            return None;
        }
        let mut length = self.pass_on.len();
        if self.expiry_secs.is_some() {
            length += 5;
        }
        if self.alias.is_some() {
            length += 3;
        }
        for id in self.subscription_ids {
            length += 1 + var_int_len(id.value() as usize);
        }
        Some(length)
    }

    fn variable_len(&self, properties: Option<usize>) -> usize {
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        let properties = properties.map_or(0, |length| var_int_len(length) + length);
        2 + self.topic.len() + packet_id + properties
    }

    fn write(&self, layout: &Layout, dst: &mut BytesMut) {
        put_fixed_header(self.first_byte(), layout.remaining, dst);
        put_short_text(self.topic, dst);
        if let Some(id) = self.packet_id {
            dst.put_u16(id.value());
        }
        if let Some(length) = layout.properties {
            put_var_int(length, |byte| dst.put_u8(byte));
            self.write_properties(dst);
        }
    }

    fn write_properties(&self, dst: &mut BytesMut) {
        if let Some(alias) = self.alias {
            dst.put_u8(id::TOPIC_ALIAS);
            dst.put_u16(alias.value());
        }
        if let Some(seconds) = self.expiry_secs {
            dst.put_u8(id::MESSAGE_EXPIRY);
            dst.put_u32(seconds);
        }
        for value in self.subscription_ids {
            dst.put_u8(id::SUBSCRIPTION_ID);
            put_var_int(value.value() as usize, |byte| dst.put_u8(byte));
        }
        // As they came, behind what belongs to this connection [MQTT-3.3.2-17].
        dst.put_slice(self.pass_on);
    }
}
