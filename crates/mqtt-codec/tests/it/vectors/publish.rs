//! PUBLISH.

use mqtt_codec::Version::{V3_1, V3_1_1, V5};
use mqtt_codec::{Packet, Publish, PublishProperties, QoS, TopicAlias};

use super::{Good, packet_id, publish, subscription_ids};

/// Decoded to the packet, and the packet is encoded to them.
pub(crate) const GOOD: &[Good] = &[
    Good {
        name: "QoS 0",
        version: V3_1,
        bytes: "30 07 0003 'a/b' 'hi'",
        packet: || Packet::Publish(publish(QoS::AtMostOnce, "a/b", b"hi")),
    },
    Good {
        name: "QoS 0, retained, empty payload",
        version: V3_1,
        bytes: "31 03 0001 'a'",
        packet: || Packet::Publish(Publish { retain: true, ..publish(QoS::AtMostOnce, "a", b"") }),
    },
    Good {
        name: "QoS 1",
        version: V3_1,
        bytes: "32 06 0001 'a' 0001 'x'",
        packet: || {
            Packet::Publish(Publish {
                packet_id: Some(packet_id(1)),
                ..publish(QoS::AtLeastOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "QoS 1 again",
        version: V3_1,
        bytes: "3A 06 0001 'a' FFFF 'x'",
        packet: || {
            Packet::Publish(Publish {
                dup: true,
                packet_id: Some(packet_id(65_535)),
                ..publish(QoS::AtLeastOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "QoS 2, retained",
        version: V3_1,
        bytes: "35 09 0004 '$x//' 0100 'x'",
        packet: || {
            Packet::Publish(Publish {
                retain: true,
                packet_id: Some(packet_id(256)),
                ..publish(QoS::ExactlyOnce, "$x//", b"x")
            })
        },
    },
    Good {
        name: "QoS 2 again",
        version: V3_1,
        bytes: "3C 05 0001 'a' 0007",
        packet: || {
            Packet::Publish(Publish {
                dup: true,
                packet_id: Some(packet_id(7)),
                ..publish(QoS::ExactlyOnce, "a", b"")
            })
        },
    },
    Good {
        name: "QoS 0",
        version: V3_1_1,
        bytes: "30 07 0003 'a/b' 'hi'",
        packet: || Packet::Publish(publish(QoS::AtMostOnce, "a/b", b"hi")),
    },
    Good {
        name: "QoS 0, retained, empty payload",
        version: V3_1_1,
        bytes: "31 03 0001 'a'",
        packet: || Packet::Publish(Publish { retain: true, ..publish(QoS::AtMostOnce, "a", b"") }),
    },
    Good {
        name: "QoS 1",
        version: V3_1_1,
        bytes: "32 06 0001 'a' 0001 'x'",
        packet: || {
            Packet::Publish(Publish {
                packet_id: Some(packet_id(1)),
                ..publish(QoS::AtLeastOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "QoS 1 again",
        version: V3_1_1,
        bytes: "3A 06 0001 'a' FFFF 'x'",
        packet: || {
            Packet::Publish(Publish {
                dup: true,
                packet_id: Some(packet_id(65_535)),
                ..publish(QoS::AtLeastOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "QoS 2, retained",
        version: V3_1_1,
        bytes: "35 09 0004 '$x//' 0100 'x'",
        packet: || {
            Packet::Publish(Publish {
                retain: true,
                packet_id: Some(packet_id(256)),
                ..publish(QoS::ExactlyOnce, "$x//", b"x")
            })
        },
    },
    Good {
        name: "QoS 2 again",
        version: V3_1_1,
        bytes: "3C 05 0001 'a' 0007",
        packet: || {
            Packet::Publish(Publish {
                dup: true,
                packet_id: Some(packet_id(7)),
                ..publish(QoS::ExactlyOnce, "a", b"")
            })
        },
    },
    Good {
        name: "QoS 0",
        version: V5,
        bytes: "30 08 0003 'a/b' 00 'hi'",
        packet: || Packet::Publish(publish(QoS::AtMostOnce, "a/b", b"hi")),
    },
    Good {
        name: "QoS 0, retained, empty payload",
        version: V5,
        bytes: "31 04 0001 'a' 00",
        packet: || Packet::Publish(Publish { retain: true, ..publish(QoS::AtMostOnce, "a", b"") }),
    },
    Good {
        name: "QoS 1",
        version: V5,
        bytes: "32 07 0001 'a' 0001 00 'x'",
        packet: || {
            Packet::Publish(Publish {
                packet_id: Some(packet_id(1)),
                ..publish(QoS::AtLeastOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "QoS 1 again",
        version: V5,
        bytes: "3A 07 0001 'a' FFFF 00 'x'",
        packet: || {
            Packet::Publish(Publish {
                dup: true,
                packet_id: Some(packet_id(65_535)),
                ..publish(QoS::AtLeastOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "QoS 2, retained",
        version: V5,
        bytes: "35 0A 0004 '$x//' 0100 00 'x'",
        packet: || {
            Packet::Publish(Publish {
                retain: true,
                packet_id: Some(packet_id(256)),
                ..publish(QoS::ExactlyOnce, "$x//", b"x")
            })
        },
    },
    Good {
        name: "QoS 2 again",
        version: V5,
        bytes: "3C 06 0001 'a' 0007 00",
        packet: || {
            Packet::Publish(Publish {
                dup: true,
                packet_id: Some(packet_id(7)),
                ..publish(QoS::ExactlyOnce, "a", b"")
            })
        },
    },
    Good {
        name: "every property that is passed on",
        version: V5,
        bytes: "30 29 0001 'a' 24 01 01 03 0004 'text' 08 0006 're/ply' 09 0002 00FF 26 0001 'k' 0001 'v' 26 0001 'k' 0000 'x'",
        packet: || {
            Packet::Publish(Publish {
                properties: PublishProperties::builder()
                    .payload_format(1)
                    .content_type("text")
                    .response_topic("re/ply")
                    .correlation_data(&[0, 0xFF])
                    .user_property("k", "v")
                    .user_property("k", "")
                    .build()
                    .unwrap(),
                ..publish(QoS::AtMostOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "topic and alias",
        version: V5,
        bytes: "30 08 0001 'a' 03 23 0001 'x'",
        packet: || {
            Packet::Publish(Publish {
                alias: TopicAlias::new(1),
                ..publish(QoS::AtMostOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "alias only",
        version: V5,
        bytes: "32 09 0000 0002 03 23 FFFF 'x'",
        packet: || {
            Packet::Publish(Publish {
                topic: None,
                alias: TopicAlias::new(65_535),
                packet_id: Some(packet_id(2)),
                ..publish(QoS::AtLeastOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "message expiry 0",
        version: V5,
        bytes: "30 09 0001 'a' 05 02 00000000",
        packet: || {
            Packet::Publish(Publish { expiry_secs: Some(0), ..publish(QoS::AtMostOnce, "a", b"") })
        },
    },
    Good {
        name: "several subscription identifiers",
        version: V5,
        bytes: "30 0E 0001 'a' 0A 0B 01 0B FFFFFF7F 0B 8001",
        packet: || {
            Packet::Publish(Publish {
                subscription_ids: subscription_ids(&[1, 268_435_455, 128]),
                ..publish(QoS::AtMostOnce, "a", b"")
            })
        },
    },
    Good {
        name: "everything",
        version: V5,
        bytes: "3B 13 0001 'a' 0003 0C 23 0009 02 0000000A 0B 07 01 00 'x'",
        packet: || {
            Packet::Publish(Publish {
                dup: true,
                retain: true,
                alias: TopicAlias::new(9),
                expiry_secs: Some(10),
                subscription_ids: subscription_ids(&[7]),
                properties: PublishProperties::builder().payload_format(0).build().unwrap(),
                packet_id: Some(packet_id(3)),
                ..publish(QoS::AtLeastOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "an empty content type and empty correlation data",
        version: V5,
        bytes: "30 0A 0001 'a' 06 03 0000 09 0000",
        packet: || {
            Packet::Publish(Publish {
                properties: PublishProperties::builder()
                    .content_type("")
                    .correlation_data(&[])
                    .build()
                    .unwrap(),
                ..publish(QoS::AtMostOnce, "a", b"")
            })
        },
    },
];

/// Decoded to the packet, which is encoded otherwise.
pub(crate) const LENIENT: &[Good] = &[
    Good {
        name: "the expiry between what is passed on",
        version: V5,
        bytes: "30 13 0001 'a' 0E 01 00 02 00000001 26 0001 'k' 0001 'v' 'x'",
        packet: || {
            Packet::Publish(Publish {
                expiry_secs: Some(1),
                properties: PublishProperties::builder()
                    .payload_format(0)
                    .user_property("k", "v")
                    .build()
                    .unwrap(),
                ..publish(QoS::AtMostOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "the alias behind what is passed on",
        version: V5,
        bytes: "30 0F 0001 'a' 0A 26 0001 'k' 0001 'v' 23 0004 'x'",
        packet: || {
            Packet::Publish(Publish {
                alias: TopicAlias::new(4),
                properties: PublishProperties::builder().user_property("k", "v").build().unwrap(),
                ..publish(QoS::AtMostOnce, "a", b"x")
            })
        },
    },
    Good {
        name: "three stretches of what is passed on",
        version: V5,
        bytes: "30 18 0001 'a' 14 01 01 0B 05 03 0001 't' 0B 06 26 0000 0000 02 00000002",
        packet: || {
            Packet::Publish(Publish {
                expiry_secs: Some(2),
                subscription_ids: subscription_ids(&[5, 6]),
                properties: PublishProperties::builder()
                    .payload_format(1)
                    .content_type("t")
                    .user_property("", "")
                    .build()
                    .unwrap(),
                ..publish(QoS::AtMostOnce, "a", b"")
            })
        },
    },
];
