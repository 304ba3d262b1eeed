//! The only place of this crate where the version decides: what MQTT 3 cannot express, and what
//! is done instead. Everything else is written in the terms of MQTT 5.0.

use bytestring::ByteString;
use mqtt_codec::{Disconnect, PacketType, QoS, ReasonCode, ReceiveMaximum, Version};

/// How a PUBLISH that is not taken is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PublishRefusal {
    /// Acknowledge it, with this reason.
    Acknowledge(ReasonCode),
    /// End the connection, for there is no other way to say it.
    Close(ReasonCode),
}

/// Whether a CONNECT may come without a client identifier.
///
/// MQTT 3.1 always wants one. MQTT 3.1.1 only lets a client without a lasting session do without
/// `[MQTT-3.1.3-7 and MQTT-3.1.3-8 of 3.1.1]`.
pub(crate) fn may_omit_client_id(version: Version, clean_start: bool) -> bool {
    match version {
        Version::V3_1 => false,
        Version::V3_1_1 => clean_start,
        Version::V5 => true,
    }
}

/// Whether the CONNACK can tell the client another keep alive than it asked for.
pub(crate) fn may_set_keep_alive(version: Version) -> bool {
    version == Version::V5
}

/// How many QoS 1 and 2 messages may be unanswered at once. A client of MQTT 3 cannot be told a
/// limit, so it cannot break one; its input is stopped instead.
pub(crate) fn receive_limit(version: Version, maximum: ReceiveMaximum) -> u32 {
    match version {
        Version::V3_1 | Version::V3_1_1 => u32::MAX,
        Version::V5 => u32::from(maximum.value()),
    }
}

/// How to refuse a PUBLISH for a `reason` that is an error.
///
/// MQTT 3.1.1 leaves two ways: a positive acknowledgement or the end of the connection
/// `[MQTT-3.3.5-2 of 3.1.1]`. A client that lacks the right will lack it next time too, so
/// its message is acknowledged and dropped; anything else may be taken after a reconnect.
pub(crate) fn refuse_publish(version: Version, qos: QoS, reason: ReasonCode) -> PublishRefusal {
    match (version, qos) {
        (Version::V5, QoS::AtMostOnce) => PublishRefusal::Close(reason),
        (Version::V5, QoS::AtLeastOnce) => {
            PublishRefusal::Acknowledge(fitting(reason, PacketType::PubAck))
        }
        (Version::V5, QoS::ExactlyOnce) => {
            PublishRefusal::Acknowledge(fitting(reason, PacketType::PubRec))
        }
        (Version::V3_1 | Version::V3_1_1, _) if reason == ReasonCode::NotAuthorized => {
            PublishRefusal::Acknowledge(ReasonCode::Success)
        }
        (Version::V3_1 | Version::V3_1_1, _) => PublishRefusal::Close(reason),
    }
}

/// How a SUBACK refuses one filter. MQTT 3 knows one way to fail.
pub(crate) fn refuse_subscribe(version: Version, reason: ReasonCode) -> ReasonCode {
    match version {
        Version::V3_1 | Version::V3_1_1 => ReasonCode::UnspecifiedError,
        Version::V5 => fitting(reason, PacketType::SubAck),
    }
}

/// The DISCONNECT with which the server ends a connection. In MQTT 3 only clients send one.
///
/// Never carries a session expiry `[MQTT-3.14.2-2]`.
pub(crate) fn farewell(
    version: Version,
    reason: ReasonCode,
    explanation: Option<&'static str>,
) -> Option<Disconnect> {
    match version {
        Version::V3_1 | Version::V3_1_1 => None,
        Version::V5 => Some(Disconnect {
            reason: fitting(reason, PacketType::Disconnect),
            reason_string: explanation.map(ByteString::from_static),
            ..Disconnect::default()
        }),
    }
}

/// `reason`, or the closest that `packet` may carry.
pub(crate) fn fitting(reason: ReasonCode, packet: PacketType) -> ReasonCode {
    if reason.fits(packet) {
        reason
    } else if reason.is_error() {
        ReasonCode::UnspecifiedError
    } else {
        ReasonCode::Success
    }
}
