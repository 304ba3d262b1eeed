//! PUBACK, PUBREC, PUBREL and PUBCOMP, which share one shape.

use bytestring::ByteString;

use crate::wire::{Reader, Sink};
use crate::{DecodeError, EncodeError, PacketId, PacketType, ReasonCode, UserProperties, Version};

/// A PUBACK, PUBREC, PUBREL or PUBCOMP packet; which one is said by the
/// [`Packet`](crate::Packet) variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The PUBLISH this belongs to.
    pub packet_id: PacketId,
    /// [`ReasonCode::Success`], or why not.
    pub reason: ReasonCode,
    /// Reason string and user properties; rare, hence boxed.
    pub properties: Option<Box<ReasonProperties>>,
}

/// The properties that every acknowledgement of MQTT 5.0 may carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasonProperties {
    /// For people.
    pub reason_string: Option<ByteString>,
    /// For programs.
    pub user_properties: UserProperties,
}

impl Ack {
    /// An acknowledgement without properties.
    #[must_use]
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: None }
    }

    pub(crate) fn decode(
        reader: &mut Reader<'_>,
        packet: PacketType,
        version: Version,
    ) -> Result<Self, DecodeError> {
        let mut ack = Self::new(reader.packet_id()?, ReasonCode::Success);
        // The short forms of MQTT 5.0: neither reason nor properties, or no properties.
        if version == Version::V5 && !reader.is_empty() {
            ack.reason = ReasonCode::decode(reader, packet)?;
            if !reader.is_empty() {
                ack.properties = ReasonProperties::decode(reader)?;
            }
        }
        Ok(ack)
    }

    fn properties(&self) -> Option<&ReasonProperties> {
        self.properties.as_deref().filter(|properties| !properties.is_empty())
    }

    /// Whether the packet identifier is all that is written.
    pub(crate) fn is_short(&self, version: Version) -> bool {
        version < Version::V5 || self.reason == ReasonCode::Success && self.properties().is_none()
    }

    pub(crate) fn write(&self, packet: PacketType, version: Version, sink: &mut dyn Sink) {
        sink.u16(self.packet_id.value());
        if self.is_short(version) {
            return;
        }
        sink.reason(packet, self.reason);
        if let Some(properties) = self.properties() {
            sink.reason_properties(Some(properties));
        }
    }
}

impl dyn Sink + '_ {
    /// Writes the reason of a `packet` of MQTT 5.0.
    pub(crate) fn reason(&mut self, packet: PacketType, reason: ReasonCode) {
        if !reason.fits(packet) {
            self.refuse(EncodeError::ReasonNotAllowed(packet, reason));
        }
        self.u8(reason as u8);
    }
}
