//! PUBACK, PUBREC, PUBREL and PUBCOMP.

use mqtt_codec::Version::{V3_1, V3_1_1, V5};
use mqtt_codec::{Packet, ReasonCode};

use super::{Good, ack, reason_properties};

/// Decoded to the packet, and the packet is encoded to them.
pub(crate) const GOOD: &[Good] = &[
    Good {
        name: "PUBACK",
        version: V3_1,
        bytes: "40 02 1234",
        packet: || Packet::PubAck(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBACK",
        version: V3_1_1,
        bytes: "40 02 1234",
        packet: || Packet::PubAck(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBACK",
        version: V5,
        bytes: "40 02 1234",
        packet: || Packet::PubAck(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBACK with a reason",
        version: V5,
        bytes: "40 03 0001 10",
        packet: || Packet::PubAck(ack(1, ReasonCode::NoMatchingSubscribers, None)),
    },
    Good {
        name: "PUBACK with properties",
        version: V5,
        bytes: "40 18 0001 10 14 1F 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0001 'v'",
        packet: || {
            Packet::PubAck(ack(
                1,
                ReasonCode::NoMatchingSubscribers,
                reason_properties("why", &[("k", "v"), ("k", "v")]),
            ))
        },
    },
    Good {
        name: "PUBACK, success with properties",
        version: V5,
        bytes: "40 07 0001 00 03 1F 0000",
        packet: || Packet::PubAck(ack(1, ReasonCode::Success, reason_properties("", &[]))),
    },
    Good {
        name: "PUBREC",
        version: V3_1,
        bytes: "50 02 1234",
        packet: || Packet::PubRec(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBREC",
        version: V3_1_1,
        bytes: "50 02 1234",
        packet: || Packet::PubRec(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBREC",
        version: V5,
        bytes: "50 02 1234",
        packet: || Packet::PubRec(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBREC with a reason",
        version: V5,
        bytes: "50 03 0001 97",
        packet: || Packet::PubRec(ack(1, ReasonCode::QuotaExceeded, None)),
    },
    Good {
        name: "PUBREC with properties",
        version: V5,
        bytes: "50 18 0001 97 14 1F 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0001 'v'",
        packet: || {
            Packet::PubRec(ack(
                1,
                ReasonCode::QuotaExceeded,
                reason_properties("why", &[("k", "v"), ("k", "v")]),
            ))
        },
    },
    Good {
        name: "PUBREC, success with properties",
        version: V5,
        bytes: "50 07 0001 00 03 1F 0000",
        packet: || Packet::PubRec(ack(1, ReasonCode::Success, reason_properties("", &[]))),
    },
    Good {
        name: "PUBREL",
        version: V3_1,
        bytes: "62 02 1234",
        packet: || Packet::PubRel(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBREL",
        version: V3_1_1,
        bytes: "62 02 1234",
        packet: || Packet::PubRel(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBREL",
        version: V5,
        bytes: "62 02 1234",
        packet: || Packet::PubRel(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBREL with a reason",
        version: V5,
        bytes: "62 03 0001 92",
        packet: || Packet::PubRel(ack(1, ReasonCode::PacketIdentifierNotFound, None)),
    },
    Good {
        name: "PUBREL with properties",
        version: V5,
        bytes: "62 18 0001 92 14 1F 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0001 'v'",
        packet: || {
            Packet::PubRel(ack(
                1,
                ReasonCode::PacketIdentifierNotFound,
                reason_properties("why", &[("k", "v"), ("k", "v")]),
            ))
        },
    },
    Good {
        name: "PUBREL, success with properties",
        version: V5,
        bytes: "62 07 0001 00 03 1F 0000",
        packet: || Packet::PubRel(ack(1, ReasonCode::Success, reason_properties("", &[]))),
    },
    Good {
        name: "PUBCOMP",
        version: V3_1,
        bytes: "70 02 1234",
        packet: || Packet::PubComp(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBCOMP",
        version: V3_1_1,
        bytes: "70 02 1234",
        packet: || Packet::PubComp(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBCOMP",
        version: V5,
        bytes: "70 02 1234",
        packet: || Packet::PubComp(ack(0x1234, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBCOMP with a reason",
        version: V5,
        bytes: "70 03 0001 92",
        packet: || Packet::PubComp(ack(1, ReasonCode::PacketIdentifierNotFound, None)),
    },
    Good {
        name: "PUBCOMP with properties",
        version: V5,
        bytes: "70 18 0001 92 14 1F 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0001 'v'",
        packet: || {
            Packet::PubComp(ack(
                1,
                ReasonCode::PacketIdentifierNotFound,
                reason_properties("why", &[("k", "v"), ("k", "v")]),
            ))
        },
    },
    Good {
        name: "PUBCOMP, success with properties",
        version: V5,
        bytes: "70 07 0001 00 03 1F 0000",
        packet: || Packet::PubComp(ack(1, ReasonCode::Success, reason_properties("", &[]))),
    },
];

/// Decoded to the packet, which is encoded otherwise.
pub(crate) const LENIENT: &[Good] = &[
    Good {
        name: "PUBACK, success spelled out",
        version: V5,
        bytes: "40 03 0001 00",
        packet: || Packet::PubAck(ack(1, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBACK with an empty property block",
        version: V5,
        bytes: "40 04 0001 10 00",
        packet: || Packet::PubAck(ack(1, ReasonCode::NoMatchingSubscribers, None)),
    },
    Good {
        name: "PUBREC, success spelled out",
        version: V5,
        bytes: "50 03 0001 00",
        packet: || Packet::PubRec(ack(1, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBREC with an empty property block",
        version: V5,
        bytes: "50 04 0001 97 00",
        packet: || Packet::PubRec(ack(1, ReasonCode::QuotaExceeded, None)),
    },
    Good {
        name: "PUBREL, success spelled out",
        version: V5,
        bytes: "62 03 0001 00",
        packet: || Packet::PubRel(ack(1, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBREL with an empty property block",
        version: V5,
        bytes: "62 04 0001 92 00",
        packet: || Packet::PubRel(ack(1, ReasonCode::PacketIdentifierNotFound, None)),
    },
    Good {
        name: "PUBCOMP, success spelled out",
        version: V5,
        bytes: "70 03 0001 00",
        packet: || Packet::PubComp(ack(1, ReasonCode::Success, None)),
    },
    Good {
        name: "PUBCOMP with an empty property block",
        version: V5,
        bytes: "70 04 0001 92 00",
        packet: || Packet::PubComp(ack(1, ReasonCode::PacketIdentifierNotFound, None)),
    },
    Good {
        name: "PUBREL again",
        version: V3_1,
        bytes: "6A 02 0001",
        packet: || Packet::PubRel(ack(1, ReasonCode::Success, None)),
    },
];
