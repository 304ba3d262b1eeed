//! CONNECT.

use mqtt_codec::Version::{V3_1, V3_1_1, V5};
use mqtt_codec::{Connect, Message, PublishProperties, QoS, Will};

use super::{Good, bytes, connect, pairs, plain, receive_maximum, will};

/// Decoded to the packet, and the packet is encoded to them.
pub(crate) const GOOD: &[Good] = &[
    Good {
        name: "only a client id",
        version: V3_1,
        bytes: "10 0F 0006 'MQIsdp' 03 02 0000 0001 'c'",
        packet: || connect(plain(V3_1, Some("c"))),
    },
    Good {
        name: "will, user name and password",
        version: V3_1,
        bytes: "10 1E 0006 'MQIsdp' 03 EE 003C 0001 'c' 0001 'w' 0004 'gone' 0001 'u' 0001 'p'",
        packet: || {
            connect(Connect {
                keep_alive_secs: 60,
                will: Some(will("w", b"gone", QoS::AtLeastOnce, true)),
                username: Some("u".into()),
                password: Some(bytes(b"p")),
                ..plain(V3_1, Some("c"))
            })
        },
    },
    Good {
        name: "session kept",
        version: V3_1,
        bytes: "10 0F 0006 'MQIsdp' 03 00 0000 0001 'c'",
        packet: || {
            connect(Connect {
                clean_start: false,
                session_expiry_secs: u32::MAX,
                ..plain(V3_1, Some("c"))
            })
        },
    },
    Good {
        name: "a user name and no password",
        version: V3_1,
        bytes: "10 12 0006 'MQIsdp' 03 82 0000 0001 'c' 0001 'u'",
        packet: || connect(Connect { username: Some("u".into()), ..plain(V3_1, Some("c")) }),
    },
    Good {
        name: "an empty client id, for the session to refuse",
        version: V3_1,
        bytes: "10 0E 0006 'MQIsdp' 03 02 0000 0000",
        packet: || connect(plain(V3_1, None)),
    },
    Good {
        name: "a client id longer than 23 characters",
        version: V3_1,
        bytes: "10 28 0006 'MQIsdp' 03 02 0000 001A 'abcdefghijklmnopqrstuvwxyz'",
        packet: || connect(plain(V3_1, Some("abcdefghijklmnopqrstuvwxyz"))),
    },
    Good {
        name: "only a client id",
        version: V3_1_1,
        bytes: "10 0D 0004 'MQTT' 04 02 000A 0001 'c'",
        packet: || connect(Connect { keep_alive_secs: 10, ..plain(V3_1_1, Some("c")) }),
    },
    Good {
        name: "session kept",
        version: V3_1_1,
        bytes: "10 0D 0004 'MQTT' 04 00 0000 0001 'c'",
        packet: || {
            connect(Connect {
                clean_start: false,
                session_expiry_secs: u32::MAX,
                ..plain(V3_1_1, Some("c"))
            })
        },
    },
    Good {
        name: "an empty client id",
        version: V3_1_1,
        bytes: "10 0C 0004 'MQTT' 04 02 0000 0000",
        packet: || connect(plain(V3_1_1, None)),
    },
    Good {
        name: "an empty client id and a session, for the session to refuse",
        version: V3_1_1,
        bytes: "10 0C 0004 'MQTT' 04 00 0000 0000",
        packet: || {
            connect(Connect {
                clean_start: false,
                session_expiry_secs: u32::MAX,
                ..plain(V3_1_1, None)
            })
        },
    },
    Good {
        name: "will, user name and password",
        version: V3_1_1,
        bytes: "10 24 0004 'MQTT' 04 D6 FFFF 0001 'c' 0003 'w/t' 0004 'gone' 0004 'user' 0004 'pass'",
        packet: || {
            connect(Connect {
                keep_alive_secs: 65_535,
                will: Some(will("w/t", b"gone", QoS::ExactlyOnce, false)),
                username: Some("user".into()),
                password: Some(bytes(b"pass")),
                ..plain(V3_1_1, Some("c"))
            })
        },
    },
    Good {
        name: "a will with an empty payload",
        version: V3_1_1,
        bytes: "10 12 0004 'MQTT' 04 06 0000 0001 'c' 0001 'w' 0000",
        packet: || {
            connect(Connect {
                will: Some(will("w", b"", QoS::AtMostOnce, false)),
                ..plain(V3_1_1, Some("c"))
            })
        },
    },
    Good {
        name: "empty user name and password",
        version: V3_1_1,
        bytes: "10 11 0004 'MQTT' 04 C2 0000 0001 'c' 0000 0000",
        packet: || {
            connect(Connect {
                username: Some("".into()),
                password: Some(bytes(b"")),
                ..plain(V3_1_1, Some("c"))
            })
        },
    },
    Good {
        name: "a password that is not text",
        version: V3_1_1,
        bytes: "10 15 0004 'MQTT' 04 C2 0000 0001 'c' 0001 'u' 0003 FF00FE",
        packet: || {
            connect(Connect {
                username: Some("u".into()),
                password: Some(bytes(&[0xFF, 0x00, 0xFE])),
                ..plain(V3_1_1, Some("c"))
            })
        },
    },
    Good {
        name: "only a client id",
        version: V5,
        bytes: "10 0E 0004 'MQTT' 05 02 0000 00 0001 'c'",
        packet: || connect(plain(V5, Some("c"))),
    },
    Good {
        name: "an empty client id",
        version: V5,
        bytes: "10 0D 0004 'MQTT' 05 02 0000 00 0000",
        packet: || connect(plain(V5, None)),
    },
    Good {
        name: "session continued and not kept",
        version: V5,
        bytes: "10 0E 0004 'MQTT' 05 00 0000 00 0001 'c'",
        packet: || connect(Connect { clean_start: false, ..plain(V5, Some("c")) }),
    },
    Good {
        name: "a password without a user name",
        version: V5,
        bytes: "10 11 0004 'MQTT' 05 42 0000 00 0001 'c' 0001 'p'",
        packet: || connect(Connect { password: Some(bytes(b"p")), ..plain(V5, Some("c")) }),
    },
    Good {
        name: "a client id beyond ASCII",
        version: V5,
        bytes: "10 15 0004 'MQTT' 05 02 0000 00 0008 E5AEA2E688B7C3A9",
        packet: || connect(plain(V5, Some("客户é"))),
    },
    Good {
        name: "CONNECT with every property",
        version: V5,
        bytes: "10 39 0004 'MQTT' 05 02 001E 2B 11 00000E10 21 0014 27 00010000 22 000A 19 01 17 00 26 0001 'k' 0001 'v' 26 0001 'k' 0001 'w' 15 0001 'm' 16 0002 0102 0001 'c'",
        packet: || {
            connect(Connect {
                keep_alive_secs: 30,
                session_expiry_secs: 3_600,
                receive_maximum: receive_maximum(20),
                maximum_packet_size: Some(65_536),
                topic_alias_maximum: 10,
                request_response_information: true,
                request_problem_information: false,
                user_properties: pairs(&[("k", "v"), ("k", "w")]),
                authentication_method: Some("m".into()),
                authentication_data: Some(bytes(&[1, 2])),
                ..plain(V5, Some("c"))
            })
        },
    },
    Good {
        name: "a will with every property",
        version: V5,
        bytes: "10 34 0004 'MQTT' 05 2E 0000 00 0001 'c' 1F 18 0000000A 02 0000003C 01 01 03 0001 't' 08 0001 'r' 09 0001 FF 26 0001 'a' 0001 'b' 0001 'w' 0001 'x'",
        packet: || {
            connect(Connect {
                will: Some(Will {
                    message: Message {
                        expiry_secs: Some(60),
                        properties: PublishProperties::builder()
                            .payload_format(1)
                            .content_type("t")
                            .response_topic("r")
                            .correlation_data(&[0xFF])
                            .user_property("a", "b")
                            .build()
                            .unwrap(),
                        ..will("w", b"x", QoS::AtLeastOnce, true).message
                    },
                    delay_secs: 10,
                }),
                ..plain(V5, Some("c"))
            })
        },
    },
];

/// Decoded to the packet, which is encoded otherwise.
pub(crate) const LENIENT: &[Good] = &[
    Good {
        name: "the flag of a user name that is missing",
        version: V3_1,
        bytes: "10 0F 0006 'MQIsdp' 03 82 0000 0001 'c'",
        packet: || connect(plain(V3_1, Some("c"))),
    },
    Good {
        name: "the flag of a password that is missing",
        version: V3_1,
        bytes: "10 12 0006 'MQIsdp' 03 C2 0000 0001 'c' 0001 'u'",
        packet: || connect(Connect { username: Some("u".into()), ..plain(V3_1, Some("c")) }),
    },
    Good {
        name: "defaults spelled out",
        version: V5,
        bytes: "10 1D 0004 'MQTT' 05 02 0000 0F 11 00000000 21 FFFF 22 0000 19 00 17 01 0001 'c'",
        packet: || connect(plain(V5, Some("c"))),
    },
    Good {
        name: "CONNECT with properties in another order",
        version: V5,
        bytes: "10 16 0004 'MQTT' 05 02 0000 08 22 0001 11 00000002 0001 'c'",
        packet: || {
            connect(Connect {
                session_expiry_secs: 2,
                topic_alias_maximum: 1,
                ..plain(V5, Some("c"))
            })
        },
    },
    Good {
        name: "a will whose own properties stand between those passed on",
        version: V5,
        bytes: "10 20 0004 'MQTT' 05 06 0000 00 0001 'c' 0C 01 00 18 00000001 26 0000 0000 0001 'w' 0000",
        packet: || {
            connect(Connect {
                will: Some(Will {
                    message: Message {
                        properties: PublishProperties::builder()
                            .payload_format(0)
                            .user_property("", "")
                            .build()
                            .unwrap(),
                        ..will("w", b"", QoS::AtMostOnce, false).message
                    },
                    delay_secs: 1,
                }),
                ..plain(V5, Some("c"))
            })
        },
    },
];
