//! PUBACK, PUBREC, PUBREL and PUBCOMP, which share one shape.

use bytestring::ByteString;

use crate::{PacketId, ReasonCode, UserProperties};

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
}
