//! Why bytes are no packet, and why a packet cannot become bytes.
//!
//! Owns the answer to "which reason code and which statement of the standard": each variant is one
//! fact, and both follow from it. Does not decide whether a server says it to the client.

use crate::{PacketType, ReasonCode, TopicError, Version};

/// Why bytes are no packet of the version in use. The connection must be closed
/// `[MQTT-4.13.1-1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A field reaches past the end of its packet or of its property block.
    #[error("a field reaches past the end of its packet")]
    Truncated,
    /// Bytes are left behind the last field.
    #[error("bytes are left behind the last field")]
    TrailingBytes,
    /// A Variable Byte Integer is longer than four bytes or than it needs to be.
    #[error("a variable byte integer is longer than it may be")]
    Length,
    /// The whole packet would be larger than the receiver takes.
    #[error("a packet of {size} bytes, where {limit} is the maximum")]
    PacketTooLarge {
        /// Bytes of the whole packet.
        size: u32,
        /// Most bytes the receiver takes.
        limit: u32,
    },
    /// A packet type the version does not define.
    #[error("packet type {0} is reserved")]
    ReservedPacketType(u8),
    /// The first packet is no CONNECT.
    #[error("the first packet must be CONNECT, not {0:?}")]
    ConnectExpected(PacketType),
    /// Flags of the fixed header differ from what is prescribed for the packet type.
    #[error("the fixed header of {0:?} has wrong flags")]
    FixedHeaderFlags(PacketType),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A string contains U+0000.
    #[error("a string contains U+0000")]
    NullCharacter,
    /// Packet identifier 0.
    #[error("packet identifier 0")]
    PacketIdZero,
    /// A reason or return code that the packet type does not know.
    #[error("{packet:?} cannot carry reason code {code:#04x}")]
    ReasonNotAllowed {
        /// The packet that carries it.
        packet: PacketType,
        /// The byte on the wire.
        code: u8,
    },

    /// The protocol name and level of a CONNECT are no version of MQTT known here.
    #[error("protocol level {level} is not supported")]
    UnsupportedProtocol {
        /// The level asked for.
        level: u8,
    },
    /// The reserved bit of the connect flags is set.
    #[error("the reserved connect flag is set")]
    ConnectFlagReserved,
    /// A will with QoS 3.
    #[error("a will with QoS 3")]
    WillQoS3,
    /// A will QoS where there is no will.
    #[error("will QoS without a will")]
    WillQoSWithoutWill,
    /// Will Retain where there is no will.
    #[error("will retain without a will")]
    WillRetainWithoutWill,
    /// MQTT 3: a password and no user name.
    #[error("a password without a user name")]
    PasswordWithoutUsername,
    /// Authentication Data and no Authentication Method.
    #[error("authentication data without a method")]
    AuthenticationDataWithoutMethod,
    /// An AUTH without Authentication Method.
    #[error("AUTH without an authentication method")]
    AuthenticationMethodMissing,
    /// Reserved bits of the CONNACK flags are set.
    #[error("reserved CONNACK flags are set")]
    ConnAckFlags,
    /// A refusing CONNACK says that a session is present.
    #[error("session present in a CONNACK that refuses")]
    SessionPresentOnRefusal,

    /// A PUBLISH with QoS 3.
    #[error("a PUBLISH with QoS 3")]
    PublishQoS3,
    /// DUP on QoS 0.
    #[error("DUP on a PUBLISH with QoS 0")]
    DupAtQoS0,
    /// A topic name that is none.
    #[error("invalid topic name: {0}")]
    TopicName(TopicError),
    /// A PUBLISH with neither topic name nor alias.
    #[error("a PUBLISH with neither topic name nor topic alias")]
    TopicMissing,
    /// Topic alias 0.
    #[error("topic alias 0")]
    TopicAliasZero,
    /// A response topic that is no topic name.
    #[error("invalid response topic: {0}")]
    ResponseTopic(TopicError),

    /// A topic filter that is none.
    #[error("invalid topic filter: {0}")]
    TopicFilter(TopicError),
    /// A SUBSCRIBE without topic filter.
    #[error("SUBSCRIBE without a topic filter")]
    SubscribeWithoutFilter,
    /// An UNSUBSCRIBE without topic filter.
    #[error("UNSUBSCRIBE without a topic filter")]
    UnsubscribeWithoutFilter,
    /// Reserved bits of the subscription options are set.
    #[error("reserved subscription options are set")]
    SubscriptionOptionsReserved,
    /// A subscription with QoS 3.
    #[error("a subscription with QoS 3")]
    SubscriptionQoS3,
    /// Retain Handling 3.
    #[error("retain handling 3")]
    RetainHandling3,
    /// No Local on a shared subscription.
    #[error("no local on a shared subscription")]
    NoLocalOnShared,

    /// A property identifier the standard does not define, or not for this packet.
    #[error("property {0:#04x} is not allowed here")]
    PropertyNotAllowed(u32),
    /// A property that may stand once stands twice.
    #[error("property {0:#04x} stands twice")]
    PropertyRepeated(u8),
    /// A property has a value the standard excludes.
    #[error("property {0:#04x} has a value that is not allowed")]
    PropertyValue(u8),
}

impl DecodeError {
    /// What MQTT 5.0 answers to it.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedProtocol { .. } => ReasonCode::UnsupportedProtocolVersion,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
            Self::TopicFilter(TopicError::Null) | Self::TopicName(TopicError::Null) => {
                ReasonCode::MalformedPacket
            }
            Self::TopicFilter(_) => ReasonCode::TopicFilterInvalid,
            Self::TopicName(TopicError::Empty) => ReasonCode::ProtocolError,
            Self::TopicName(_) => ReasonCode::TopicNameInvalid,
            Self::ConnectExpected(_)
            | Self::PacketIdZero
            | Self::ReasonNotAllowed { .. }
            | Self::AuthenticationDataWithoutMethod
            | Self::AuthenticationMethodMissing
            | Self::SessionPresentOnRefusal
            | Self::TopicMissing
            | Self::ResponseTopic(_)
            | Self::SubscribeWithoutFilter
            | Self::UnsubscribeWithoutFilter
            | Self::SubscriptionQoS3
            | Self::RetainHandling3
            | Self::NoLocalOnShared
            | Self::PropertyRepeated(_)
            | Self::PropertyValue(_) => ReasonCode::ProtocolError,
            Self::Truncated
            | Self::TrailingBytes
            | Self::Length
            | Self::ReservedPacketType(_)
            | Self::FixedHeaderFlags(_)
            | Self::Utf8
            | Self::NullCharacter
            | Self::ConnectFlagReserved
            | Self::WillQoS3
            | Self::WillQoSWithoutWill
            | Self::WillRetainWithoutWill
            | Self::PasswordWithoutUsername
            | Self::ConnAckFlags
            | Self::PublishQoS3
            | Self::DupAtQoS0
            | Self::SubscriptionOptionsReserved
            | Self::PropertyNotAllowed(_) => ReasonCode::MalformedPacket,
        }
    }

    /// The statement of the MQTT 5.0 standard that was broken. What has no statement of its own is
    /// under MQTT-4.13.1-1, which is about malformed packets and protocol errors as such.
    #[must_use]
    pub const fn statement(&self) -> &'static str {
        match self {
            Self::Length => "MQTT-1.5.5-1",
            Self::PacketTooLarge { .. } => "MQTT-3.2.2-15",
            Self::ConnectExpected(_) => "MQTT-3.1.0-1",
            Self::FixedHeaderFlags(packet) => flags_statement(*packet),
            Self::Utf8 => "MQTT-1.5.4-1",
            Self::NullCharacter => "MQTT-1.5.4-2",
            Self::PacketIdZero => "MQTT-2.2.1-3",
            Self::ReasonNotAllowed { packet, .. } => reason_statement(*packet),
            Self::UnsupportedProtocol { .. } => "MQTT-3.1.2-2",
            Self::ConnectFlagReserved => "MQTT-3.1.2-3",
            Self::WillQoS3 => "MQTT-3.1.2-12",
            Self::WillQoSWithoutWill => "MQTT-3.1.2-11",
            Self::WillRetainWithoutWill => "MQTT-3.1.2-13",
            // Of MQTT 3.1.1; MQTT 5.0 allows it.
            Self::PasswordWithoutUsername => "MQTT-3.1.2-22",
            Self::ConnAckFlags => "MQTT-3.2.2-1",
            Self::SessionPresentOnRefusal => "MQTT-3.2.2-6",
            Self::PublishQoS3 => "MQTT-3.3.1-4",
            Self::DupAtQoS0 => "MQTT-3.3.1-2",
            Self::TopicName(TopicError::Wildcard) => "MQTT-3.3.2-2",
            Self::TopicName(error) | Self::TopicFilter(error) => topic_statement(*error),
            Self::TopicAliasZero => "MQTT-3.3.2-8",
            Self::ResponseTopic(TopicError::Wildcard) => "MQTT-3.3.2-14",
            Self::ResponseTopic(error) => topic_statement(*error),
            Self::SubscribeWithoutFilter => "MQTT-3.8.3-2",
            Self::UnsubscribeWithoutFilter => "MQTT-3.10.3-2",
            Self::SubscriptionOptionsReserved => "MQTT-3.8.3-5",
            Self::NoLocalOnShared => "MQTT-3.8.3-4",
            Self::Truncated
            | Self::TrailingBytes
            | Self::ReservedPacketType(_)
            | Self::AuthenticationDataWithoutMethod
            | Self::AuthenticationMethodMissing
            | Self::TopicMissing
            | Self::SubscriptionQoS3
            | Self::RetainHandling3
            | Self::PropertyNotAllowed(_)
            | Self::PropertyRepeated(_)
            | Self::PropertyValue(_) => "MQTT-4.13.1-1",
        }
    }
}

const fn flags_statement(packet: PacketType) -> &'static str {
    match packet {
        PacketType::PubRel => "MQTT-3.6.1-1",
        PacketType::Subscribe => "MQTT-3.8.1-1",
        PacketType::Unsubscribe => "MQTT-3.10.1-1",
        PacketType::Disconnect => "MQTT-3.14.1-1",
        PacketType::Auth => "MQTT-3.15.1-1",
        PacketType::Connect
        | PacketType::ConnAck
        | PacketType::Publish
        | PacketType::PubAck
        | PacketType::PubRec
        | PacketType::PubComp
        | PacketType::SubAck
        | PacketType::UnsubAck
        | PacketType::PingReq
        | PacketType::PingResp => "MQTT-2.1.3-1",
    }
}

const fn reason_statement(packet: PacketType) -> &'static str {
    match packet {
        PacketType::ConnAck => "MQTT-3.2.2-8",
        PacketType::PubAck => "MQTT-3.4.2-1",
        PacketType::PubRec => "MQTT-3.5.2-1",
        PacketType::PubRel => "MQTT-3.6.2-1",
        PacketType::PubComp => "MQTT-3.7.2-1",
        PacketType::SubAck => "MQTT-3.9.3-2",
        PacketType::UnsubAck => "MQTT-3.11.3-2",
        PacketType::Disconnect => "MQTT-3.14.2-1",
        PacketType::Auth => "MQTT-3.15.2-1",
        PacketType::Connect
        | PacketType::Publish
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::PingReq
        | PacketType::PingResp => "MQTT-4.13.1-1",
    }
}

const fn topic_statement(error: TopicError) -> &'static str {
    match error {
        TopicError::Empty => "MQTT-4.7.3-1",
        TopicError::TooLong => "MQTT-4.7.3-3",
        TopicError::Null => "MQTT-4.7.3-2",
        TopicError::Wildcard => "MQTT-4.7.1-1",
        TopicError::Share => "MQTT-4.8.2-1",
    }
}

/// Why a packet cannot be written. Nothing has been written when it is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field is longer than 65,535 bytes.
    #[error("a field is longer than 65,535 bytes")]
    FieldTooLong,
    /// A string contains U+0000 `[MQTT-1.5.4-2]`.
    #[error("a string contains U+0000")]
    NullCharacter,
    /// More bytes than a packet can hold.
    #[error("a packet cannot hold {0} bytes")]
    PacketTooLarge(usize),
    /// The version has no such packet.
    #[error("there is no {0:?} in {1:?}")]
    NotInVersion(PacketType, Version),
    /// QoS 0 with a packet identifier, or a higher QoS without `[MQTT-2.2.1-2]`.
    #[error("a packet identifier belongs to QoS 1 and 2, and to them only")]
    PacketId,
    /// DUP on QoS 0 `[MQTT-3.3.1-2]`.
    #[error("DUP on a PUBLISH with QoS 0")]
    DupAtQoS0,
    /// A PUBLISH with neither topic name nor alias, or only an alias in MQTT 3.
    #[error("a PUBLISH without a topic")]
    TopicMissing,
    /// A response topic that is no topic name `[MQTT-3.3.2-14]`.
    #[error("invalid response topic: {0}")]
    ResponseTopic(TopicError),
    /// A SUBSCRIBE or UNSUBSCRIBE without topic filter.
    #[error("no topic filter")]
    FilterMissing,
    /// No Local on a shared subscription `[MQTT-3.8.3-4]`.
    #[error("no local on a shared subscription")]
    NoLocalOnShared,
    /// A reason code that the packet type does not know.
    #[error("{0:?} cannot carry reason {1:?}")]
    ReasonNotAllowed(PacketType, ReasonCode),
    /// A property has a value the standard excludes.
    #[error("property {0:#04x} has a value that is not allowed")]
    PropertyValue(u8),
    /// MQTT 3: a password and no user name.
    #[error("a password without a user name")]
    PasswordWithoutUsername,
    /// Authentication Data and no Authentication Method.
    #[error("authentication data without a method")]
    AuthenticationDataWithoutMethod,
    /// An AUTH that says more than Success must name its method.
    #[error("AUTH without an authentication method")]
    AuthenticationMethodMissing,
    /// A refusing CONNACK must not say that a session is present `[MQTT-3.2.2-6]`.
    #[error("session present in a CONNACK that refuses")]
    SessionPresentOnRefusal,
}
