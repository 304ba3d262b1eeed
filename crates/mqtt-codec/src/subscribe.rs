//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use crate::properties::{Block, id, not_allowed};
use crate::wire::{Reader, Sink};
use crate::{
    DecodeError, EncodeError, PacketId, PacketType, QoS, ReasonCode, ReasonProperties,
    SubscriptionId, TopicFilter, UserProperties, Version,
};

/// A SUBSCRIBE packet: at least one filter `[MQTT-3.8.3-2]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Answered in the SUBACK.
    pub packet_id: PacketId,
    /// Sent with every message that matches one of the filters.
    pub subscription_id: Option<SubscriptionId>,
    /// For nobody else.
    pub user_properties: UserProperties,
    /// Filters and how to deliver what matches them, in the client's order.
    pub filters: Vec<(TopicFilter, SubscriptionOptions)>,
}

/// How a subscriber wants its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Highest QoS of a delivery.
    pub qos: QoS,
    /// Do not send the client its own messages.
    pub no_local: bool,
    /// Keep the RETAIN flag as the publisher set it.
    pub retain_as_published: bool,
    /// Whether to send retained messages now.
    pub retain_handling: RetainHandling,
}

/// When a SUBSCRIBE is answered with retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// Always.
    #[default]
    Send = 0,
    /// Only when the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// A SUBACK packet: one reason per filter, in order `[MQTT-3.8.4-6]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Granted QoS or failure, per filter.
    pub reasons: Vec<ReasonCode>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

/// An UNSUBSCRIBE packet: at least one filter `[MQTT-3.10.3-2]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Answered in the UNSUBACK.
    pub packet_id: PacketId,
    /// For nobody else.
    pub user_properties: UserProperties,
    /// In the client's order.
    pub filters: Vec<TopicFilter>,
}

/// An UNSUBACK packet. MQTT 3 carries no reasons; they are absent after decoding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Per filter, in order.
    pub reasons: Vec<ReasonCode>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

impl Subscribe {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let mut subscribe = Self {
            packet_id: reader.packet_id()?,
            subscription_id: None,
            user_properties: UserProperties::new(),
            filters: Vec::new(),
        };
        if version == Version::V5 {
            subscribe.decode_properties(reader)?;
        }
        while !reader.is_empty() {
            let filter = decode_filter(reader)?;
            let options = SubscriptionOptions::decode(reader.u8()?, version)?;
            if options.no_local && filter.share_name().is_some() {
                return Err(DecodeError::NoLocalOnShared); // [MQTT-3.8.3-4]
            }
            subscribe.filters.push((filter, options));
        }
        if subscribe.filters.is_empty() {
            return Err(DecodeError::SubscribeWithoutFilter); // [MQTT-3.8.3-2]
        }
        Ok(subscribe)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let mut block = Block::open(reader)?;
        while let Some(id) = block.next()? {
            match id {
                id::SUBSCRIPTION_ID => {
                    let value = SubscriptionId::new(block.reader().var_int()?);
                    let value = value.ok_or(DecodeError::PropertyValue(id))?;
                    if self.subscription_id.replace(value).is_some() {
                        return Err(DecodeError::PropertyRepeated(id));
                    }
                }
                id::USER_PROPERTY => block.user_property(&mut self.user_properties)?,
                other => return not_allowed(other),
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, version: Version, sink: &mut dyn Sink) {
        if self.filters.is_empty() {
            sink.refuse(EncodeError::FilterMissing);
        }
        sink.u16(self.packet_id.value());
        if version == Version::V5 {
            sink.block(&|sink| {
                if let Some(value) = self.subscription_id {
                    sink.u8(id::SUBSCRIPTION_ID);
                    sink.var_int(value.value() as usize);
                }
                sink.user_properties(&self.user_properties);
            });
        }
        for (filter, options) in &self.filters {
            if options.no_local && filter.share_name().is_some() && version == Version::V5 {
                sink.refuse(EncodeError::NoLocalOnShared);
            }
            sink.text(filter.as_str());
            sink.u8(options.byte(version));
        }
    }
}

fn decode_filter(reader: &mut Reader<'_>) -> Result<TopicFilter, DecodeError> {
    TopicFilter::new(reader.unchecked_text()?).map_err(DecodeError::TopicFilter)
}

const QOS: u8 = 0b11;
const NO_LOCAL: u8 = 0b100;
const RETAIN_AS_PUBLISHED: u8 = 0b1000;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED: u8 = 0b1100_0000;

impl SubscriptionOptions {
    fn decode(byte: u8, version: Version) -> Result<Self, DecodeError> {
        // [MQTT-3.8.3-5]; MQTT 3 knows no more than the QoS.
        if byte & RESERVED != 0 || version < Version::V5 && byte & !QOS != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved);
        }
        Ok(Self {
            qos: QoS::from_bits(byte & QOS).ok_or(DecodeError::SubscriptionQoS3)?,
            no_local: byte & NO_LOCAL != 0,
            retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
            retain_handling: RetainHandling::from_bits(byte >> RETAIN_HANDLING_SHIFT)
                .ok_or(DecodeError::RetainHandling3)?,
        })
    }

    const fn byte(self, version: Version) -> u8 {
        let mut byte = self.qos as u8;
        if matches!(version, Version::V5) {
            byte |= (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
            if self.no_local {
                byte |= NO_LOCAL;
            }
            if self.retain_as_published {
                byte |= RETAIN_AS_PUBLISHED;
            }
        }
        byte
    }
}

impl RetainHandling {
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Send),
            1 => Some(Self::SendIfNew),
            2 => Some(Self::DoNotSend),
            _ => None,
        }
    }
}

impl SubAck {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let mut properties = None;
        if version == Version::V5 {
            properties = ReasonProperties::decode(reader)?;
        }
        let mut reasons = Vec::with_capacity(reader.len());
        while !reader.is_empty() {
            let reason = ReasonCode::decode(reader, PacketType::SubAck)?;
            let known = version == Version::V5
                || !reason.is_error()
                || reason == ReasonCode::UnspecifiedError;
            if !known {
                let (packet, code) = (PacketType::SubAck, reason as u8);
                return Err(DecodeError::ReasonNotAllowed { packet, code });
            }
            reasons.push(reason);
        }
        Ok(Self { packet_id, reasons, properties })
    }

    pub(crate) fn write(&self, version: Version, sink: &mut dyn Sink) {
        sink.u16(self.packet_id.value());
        if version == Version::V5 {
            sink.reason_properties(self.properties.as_deref());
        }
        for &reason in &self.reasons {
            let lowered = version < Version::V5 && reason.is_error();
            let reason = if lowered { ReasonCode::UnspecifiedError } else { reason };
            sink.reason(PacketType::SubAck, reason);
        }
    }
}

impl Unsubscribe {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let mut user_properties = UserProperties::new();
        if version == Version::V5 {
            let mut block = Block::open(reader)?;
            while let Some(id) = block.next()? {
                match id {
                    id::USER_PROPERTY => block.user_property(&mut user_properties)?,
                    other => return not_allowed(other),
                }
            }
        }
        let mut filters = Vec::new();
        while !reader.is_empty() {
            filters.push(decode_filter(reader)?);
        }
        if filters.is_empty() {
            return Err(DecodeError::UnsubscribeWithoutFilter); // [MQTT-3.10.3-2]
        }
        Ok(Self { packet_id, user_properties, filters })
    }

    pub(crate) fn write(&self, version: Version, sink: &mut dyn Sink) {
        if self.filters.is_empty() {
            sink.refuse(EncodeError::FilterMissing);
        }
        sink.u16(self.packet_id.value());
        if version == Version::V5 {
            sink.block(&|sink| sink.user_properties(&self.user_properties));
        }
        for filter in &self.filters {
            sink.text(filter.as_str());
        }
    }
}

impl UnsubAck {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let mut unsuback =
            Self { packet_id: reader.packet_id()?, reasons: Vec::new(), properties: None };
        if version == Version::V5 {
            unsuback.properties = ReasonProperties::decode(reader)?;
            unsuback.reasons.reserve_exact(reader.len());
            while !reader.is_empty() {
                unsuback.reasons.push(ReasonCode::decode(reader, PacketType::UnsubAck)?);
            }
        }
        Ok(unsuback)
    }

    pub(crate) fn write(&self, version: Version, sink: &mut dyn Sink) {
        sink.u16(self.packet_id.value());
        if version < Version::V5 {
            return;
        }
        sink.reason_properties(self.properties.as_deref());
        for &reason in &self.reasons {
            sink.reason(PacketType::UnsubAck, reason);
        }
    }
}
