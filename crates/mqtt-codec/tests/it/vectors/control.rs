//! CONNACK, DISCONNECT, AUTH and the pings.

use mqtt_codec::Version::{V3_1, V3_1_1, V5};
use mqtt_codec::{Auth, ConnAck, Disconnect, Packet, QoS, ReasonCode};

use super::{Good, auth, bytes, client_id, connack, disconnect, pairs, receive_maximum};

/// Decoded to the packet, and the packet is encoded to them.
pub(crate) const GOOD: &[Good] = &[
    Good {
        name: "CONNACK, accepted",
        version: V3_1,
        bytes: "20 02 00 00",
        packet: || connack(ConnAck::default()),
    },
    Good {
        name: "CONNACK, accepted with a session",
        version: V3_1_1,
        bytes: "20 02 01 00",
        packet: || connack(ConnAck { session_present: true, ..ConnAck::default() }),
    },
    Good {
        name: "CONNACK, return code 1",
        version: V3_1_1,
        bytes: "20 02 00 01",
        packet: || {
            connack(ConnAck {
                reason: ReasonCode::UnsupportedProtocolVersion,
                ..ConnAck::default()
            })
        },
    },
    Good {
        name: "CONNACK, return code 2",
        version: V3_1_1,
        bytes: "20 02 00 02",
        packet: || {
            connack(ConnAck { reason: ReasonCode::ClientIdentifierNotValid, ..ConnAck::default() })
        },
    },
    Good {
        name: "CONNACK, return code 3",
        version: V3_1_1,
        bytes: "20 02 00 03",
        packet: || connack(ConnAck { reason: ReasonCode::ServerUnavailable, ..ConnAck::default() }),
    },
    Good {
        name: "CONNACK, return code 4",
        version: V3_1_1,
        bytes: "20 02 00 04",
        packet: || {
            connack(ConnAck { reason: ReasonCode::BadUserNameOrPassword, ..ConnAck::default() })
        },
    },
    Good {
        name: "CONNACK, return code 5",
        version: V3_1_1,
        bytes: "20 02 00 05",
        packet: || connack(ConnAck { reason: ReasonCode::NotAuthorized, ..ConnAck::default() }),
    },
    Good {
        name: "CONNACK, accepted",
        version: V5,
        bytes: "20 03 00 00 00",
        packet: || connack(ConnAck::default()),
    },
    Good {
        name: "CONNACK, session present",
        version: V5,
        bytes: "20 03 01 00 00",
        packet: || connack(ConnAck { session_present: true, ..ConnAck::default() }),
    },
    Good {
        name: "CONNACK, banned",
        version: V5,
        bytes: "20 03 00 8A 00",
        packet: || connack(ConnAck { reason: ReasonCode::Banned, ..ConnAck::default() }),
    },
    Good {
        name: "CONNACK, every property",
        version: V5,
        bytes: "20 45 00 00 42 11 00000001 21 0002 24 01 25 00 27 00000003 22 0004 28 01 29 00 2A 01 13 0005 12 0002 'id' 1F 0003 'why' 26 0001 'k' 0001 'v' 1A 0002 'ri' 1C 0003 'ref' 15 0001 'm' 16 0001 07",
        packet: || {
            connack(ConnAck {
                session_expiry_secs: Some(1),
                receive_maximum: Some(receive_maximum(2)),
                maximum_qos: Some(QoS::AtLeastOnce),
                retain_available: Some(false),
                maximum_packet_size: Some(3),
                topic_alias_maximum: Some(4),
                wildcard_subscription_available: Some(true),
                subscription_ids_available: Some(false),
                shared_subscription_available: Some(true),
                server_keep_alive_secs: Some(5),
                assigned_client_id: client_id("id"),
                reason_string: Some("why".into()),
                user_properties: pairs(&[("k", "v")]),
                response_information: Some("ri".into()),
                server_reference: Some("ref".into()),
                authentication_method: Some("m".into()),
                authentication_data: Some(bytes(&[7])),
                ..ConnAck::default()
            })
        },
    },
    Good {
        name: "CONNACK, maximum QoS 0",
        version: V5,
        bytes: "20 05 00 00 02 24 00",
        packet: || connack(ConnAck { maximum_qos: Some(QoS::AtMostOnce), ..ConnAck::default() }),
    },
    Good { name: "PINGREQ", version: V3_1, bytes: "C0 00", packet: || Packet::PingReq },
    Good { name: "PINGRESP", version: V3_1, bytes: "D0 00", packet: || Packet::PingResp },
    Good {
        name: "DISCONNECT",
        version: V3_1,
        bytes: "E0 00",
        packet: || disconnect(Disconnect::default()),
    },
    Good { name: "PINGREQ", version: V3_1_1, bytes: "C0 00", packet: || Packet::PingReq },
    Good { name: "PINGRESP", version: V3_1_1, bytes: "D0 00", packet: || Packet::PingResp },
    Good {
        name: "DISCONNECT",
        version: V3_1_1,
        bytes: "E0 00",
        packet: || disconnect(Disconnect::default()),
    },
    Good { name: "PINGREQ", version: V5, bytes: "C0 00", packet: || Packet::PingReq },
    Good { name: "PINGRESP", version: V5, bytes: "D0 00", packet: || Packet::PingResp },
    Good {
        name: "DISCONNECT",
        version: V5,
        bytes: "E0 00",
        packet: || disconnect(Disconnect::default()),
    },
    Good {
        name: "DISCONNECT with will",
        version: V5,
        bytes: "E0 02 04 00",
        packet: || {
            disconnect(Disconnect {
                reason: ReasonCode::DisconnectWithWillMessage,
                ..Disconnect::default()
            })
        },
    },
    Good {
        name: "DISCONNECT, session taken over",
        version: V5,
        bytes: "E0 02 8E 00",
        packet: || {
            disconnect(Disconnect { reason: ReasonCode::SessionTakenOver, ..Disconnect::default() })
        },
    },
    Good {
        name: "DISCONNECT with every property",
        version: V5,
        bytes: "E0 19 00 17 11 00000009 1F 0003 'bye' 26 0000 0000 1C 0004 'else'",
        packet: || {
            disconnect(Disconnect {
                session_expiry_secs: Some(9),
                reason_string: Some("bye".into()),
                user_properties: pairs(&[("", "")]),
                server_reference: Some("else".into()),
                ..Disconnect::default()
            })
        },
    },
    Good {
        name: "AUTH, success and no more",
        version: V5,
        bytes: "F0 00",
        packet: || auth(Auth::default()),
    },
    Good {
        name: "AUTH with every property",
        version: V5,
        bytes: "F0 16 18 14 15 0001 'm' 16 0002 00FF 1F 0001 'r' 26 0001 'k' 0001 'v'",
        packet: || {
            auth(Auth {
                reason: ReasonCode::ContinueAuthentication,
                method: Some("m".into()),
                data: Some(bytes(&[0, 0xFF])),
                reason_string: Some("r".into()),
                user_properties: pairs(&[("k", "v")]),
            })
        },
    },
    Good {
        name: "AUTH, authenticate again",
        version: V5,
        bytes: "F0 06 19 04 15 0001 'm'",
        packet: || {
            auth(Auth {
                reason: ReasonCode::ReAuthenticate,
                method: Some("m".into()),
                ..Auth::default()
            })
        },
    },
];

/// Decoded to the packet, which is encoded otherwise.
pub(crate) const LENIENT: &[Good] = &[
    Good {
        name: "DISCONNECT with a reason and no property length",
        version: V5,
        bytes: "E0 01 8B",
        packet: || {
            disconnect(Disconnect {
                reason: ReasonCode::ServerShuttingDown,
                ..Disconnect::default()
            })
        },
    },
    Good {
        name: "DISCONNECT, its reason spelled out",
        version: V5,
        bytes: "E0 01 00",
        packet: || disconnect(Disconnect::default()),
    },
    Good {
        name: "DISCONNECT with an empty property block",
        version: V5,
        bytes: "E0 02 00 00",
        packet: || disconnect(Disconnect::default()),
    },
    Good {
        name: "CONNACK with properties in another order",
        version: V5,
        bytes: "20 0B 00 00 08 22 0001 11 00000000",
        packet: || {
            connack(ConnAck {
                session_expiry_secs: Some(0),
                topic_alias_maximum: Some(1),
                ..ConnAck::default()
            })
        },
    },
];
