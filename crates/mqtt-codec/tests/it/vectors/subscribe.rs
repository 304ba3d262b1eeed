//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use mqtt_codec::Version::{V3_1, V3_1_1, V5};
use mqtt_codec::{
    QoS, ReasonCode, RetainHandling, Subscribe, SubscriptionId, SubscriptionOptions, Unsubscribe,
};

use super::{
    Good, at, filter, pairs, plain_subscribe, plain_unsubscribe, reason_properties, suback,
    subscribe, unsuback, unsubscribe,
};

/// Decoded to the packet, and the packet is encoded to them.
pub(crate) const GOOD: &[Good] = &[
    Good {
        name: "SUBSCRIBE to one filter",
        version: V3_1,
        bytes: "82 0A 0001 0005 'a/+/#' 01",
        packet: || subscribe(plain_subscribe(1, vec![(filter("a/+/#"), at(QoS::AtLeastOnce))])),
    },
    Good {
        name: "SUBSCRIBE to three filters",
        version: V3_1,
        bytes: "82 0E FFFF 0001 '#' 00 0001 '+' 01 0001 '/' 02",
        packet: || {
            subscribe(plain_subscribe(
                65_535,
                vec![
                    (filter("#"), at(QoS::AtMostOnce)),
                    (filter("+"), at(QoS::AtLeastOnce)),
                    (filter("/"), at(QoS::ExactlyOnce)),
                ],
            ))
        },
    },
    Good {
        name: "SUBSCRIBE to a shared filter",
        version: V3_1,
        bytes: "82 11 0001 000C '$share/g/a/#' 02",
        packet: || {
            subscribe(plain_subscribe(1, vec![(filter("$share/g/a/#"), at(QoS::ExactlyOnce))]))
        },
    },
    Good {
        name: "UNSUBSCRIBE",
        version: V3_1,
        bytes: "A2 0A 0009 0001 'a' 0003 'b/#'",
        packet: || unsubscribe(plain_unsubscribe(9, vec![filter("a"), filter("b/#")])),
    },
    Good {
        name: "SUBACK",
        version: V3_1,
        bytes: "90 06 0001 00 01 02 80",
        packet: || {
            suback(
                1,
                &[
                    ReasonCode::Success,
                    ReasonCode::GrantedQoS1,
                    ReasonCode::GrantedQoS2,
                    ReasonCode::UnspecifiedError,
                ],
                None,
            )
        },
    },
    Good {
        name: "SUBSCRIBE to one filter",
        version: V3_1_1,
        bytes: "82 0A 0001 0005 'a/+/#' 01",
        packet: || subscribe(plain_subscribe(1, vec![(filter("a/+/#"), at(QoS::AtLeastOnce))])),
    },
    Good {
        name: "SUBSCRIBE to three filters",
        version: V3_1_1,
        bytes: "82 0E FFFF 0001 '#' 00 0001 '+' 01 0001 '/' 02",
        packet: || {
            subscribe(plain_subscribe(
                65_535,
                vec![
                    (filter("#"), at(QoS::AtMostOnce)),
                    (filter("+"), at(QoS::AtLeastOnce)),
                    (filter("/"), at(QoS::ExactlyOnce)),
                ],
            ))
        },
    },
    Good {
        name: "SUBSCRIBE to a shared filter",
        version: V3_1_1,
        bytes: "82 11 0001 000C '$share/g/a/#' 02",
        packet: || {
            subscribe(plain_subscribe(1, vec![(filter("$share/g/a/#"), at(QoS::ExactlyOnce))]))
        },
    },
    Good {
        name: "UNSUBSCRIBE",
        version: V3_1_1,
        bytes: "A2 0A 0009 0001 'a' 0003 'b/#'",
        packet: || unsubscribe(plain_unsubscribe(9, vec![filter("a"), filter("b/#")])),
    },
    Good {
        name: "SUBACK",
        version: V3_1_1,
        bytes: "90 06 0001 00 01 02 80",
        packet: || {
            suback(
                1,
                &[
                    ReasonCode::Success,
                    ReasonCode::GrantedQoS1,
                    ReasonCode::GrantedQoS2,
                    ReasonCode::UnspecifiedError,
                ],
                None,
            )
        },
    },
    Good {
        name: "SUBSCRIBE to one filter",
        version: V5,
        bytes: "82 0B 0001 00 0005 'a/+/#' 01",
        packet: || subscribe(plain_subscribe(1, vec![(filter("a/+/#"), at(QoS::AtLeastOnce))])),
    },
    Good {
        name: "SUBSCRIBE to three filters",
        version: V5,
        bytes: "82 0F FFFF 00 0001 '#' 00 0001 '+' 01 0001 '/' 02",
        packet: || {
            subscribe(plain_subscribe(
                65_535,
                vec![
                    (filter("#"), at(QoS::AtMostOnce)),
                    (filter("+"), at(QoS::AtLeastOnce)),
                    (filter("/"), at(QoS::ExactlyOnce)),
                ],
            ))
        },
    },
    Good {
        name: "SUBSCRIBE to a shared filter",
        version: V5,
        bytes: "82 12 0001 00 000C '$share/g/a/#' 02",
        packet: || {
            subscribe(plain_subscribe(1, vec![(filter("$share/g/a/#"), at(QoS::ExactlyOnce))]))
        },
    },
    Good {
        name: "UNSUBSCRIBE",
        version: V5,
        bytes: "A2 0B 0009 00 0001 'a' 0003 'b/#'",
        packet: || unsubscribe(plain_unsubscribe(9, vec![filter("a"), filter("b/#")])),
    },
    Good {
        name: "SUBACK",
        version: V5,
        bytes: "90 07 0001 00 00 01 02 80",
        packet: || {
            suback(
                1,
                &[
                    ReasonCode::Success,
                    ReasonCode::GrantedQoS1,
                    ReasonCode::GrantedQoS2,
                    ReasonCode::UnspecifiedError,
                ],
                None,
            )
        },
    },
    Good {
        name: "UNSUBACK",
        version: V3_1,
        bytes: "B0 02 0001",
        packet: || unsuback(1, &[], None),
    },
    Good {
        name: "UNSUBACK",
        version: V3_1_1,
        bytes: "B0 02 0001",
        packet: || unsuback(1, &[], None),
    },
    Good {
        name: "UNSUBACK",
        version: V5,
        bytes: "B0 06 0001 00 00 11 87",
        packet: || {
            unsuback(
                1,
                &[
                    ReasonCode::Success,
                    ReasonCode::NoSubscriptionExisted,
                    ReasonCode::NotAuthorized,
                ],
                None,
            )
        },
    },
    Good {
        name: "UNSUBACK with properties",
        version: V5,
        bytes: "B0 0F 0001 0B 1F 0001 'r' 26 0001 'k' 0001 'v' 00",
        packet: || unsuback(1, &[ReasonCode::Success], reason_properties("r", &[("k", "v")])),
    },
    Good {
        name: "SUBACK with properties and failures",
        version: V5,
        bytes: "90 0F 0001 04 1F 0001 'r' 87 8F 91 97 9E A1 A2 83",
        packet: || {
            suback(
                1,
                &[
                    ReasonCode::NotAuthorized,
                    ReasonCode::TopicFilterInvalid,
                    ReasonCode::PacketIdentifierInUse,
                    ReasonCode::QuotaExceeded,
                    ReasonCode::SharedSubscriptionsNotSupported,
                    ReasonCode::SubscriptionIdentifiersNotSupported,
                    ReasonCode::WildcardSubscriptionsNotSupported,
                    ReasonCode::ImplementationSpecificError,
                ],
                reason_properties("r", &[]),
            )
        },
    },
    Good {
        name: "SUBSCRIBE with every option",
        version: V5,
        bytes: "82 07 0001 00 0001 'a' 2D",
        packet: || {
            subscribe(plain_subscribe(
                1,
                vec![(
                    filter("a"),
                    SubscriptionOptions {
                        qos: QoS::AtLeastOnce,
                        no_local: true,
                        retain_as_published: true,
                        retain_handling: RetainHandling::DoNotSend,
                    },
                )],
            ))
        },
    },
    Good {
        name: "SUBSCRIBE with retain handling 1",
        version: V5,
        bytes: "82 07 0001 00 0001 'a' 10",
        packet: || {
            subscribe(plain_subscribe(
                1,
                vec![(
                    filter("a"),
                    SubscriptionOptions {
                        qos: QoS::AtMostOnce,
                        retain_handling: RetainHandling::SendIfNew,
                        ..SubscriptionOptions::default()
                    },
                )],
            ))
        },
    },
    Good {
        name: "SUBSCRIBE with properties",
        version: V5,
        bytes: "82 13 0001 0C 0B FFFFFF7F 26 0001 'k' 0001 'v' 0001 'a' 00",
        packet: || {
            subscribe(Subscribe {
                subscription_id: SubscriptionId::new(268_435_455),
                user_properties: pairs(&[("k", "v")]),
                ..plain_subscribe(1, vec![(filter("a"), at(QoS::AtMostOnce))])
            })
        },
    },
    Good {
        name: "UNSUBSCRIBE with properties",
        version: V5,
        bytes: "A2 16 0001 07 26 0001 'k' 0001 'v' 000A '$share/g/a'",
        packet: || {
            unsubscribe(Unsubscribe {
                user_properties: pairs(&[("k", "v")]),
                ..plain_unsubscribe(1, vec![filter("$share/g/a")])
            })
        },
    },
];

/// Decoded to the packet, which is encoded otherwise.
pub(crate) const LENIENT: &[Good] = &[
    Good {
        name: "SUBSCRIBE again",
        version: V3_1,
        bytes: "8A 06 0001 0001 'a' 01",
        packet: || subscribe(plain_subscribe(1, vec![(filter("a"), at(QoS::AtLeastOnce))])),
    },
    Good {
        name: "UNSUBSCRIBE again",
        version: V3_1,
        bytes: "AA 05 0001 0001 'a'",
        packet: || unsubscribe(plain_unsubscribe(1, vec![filter("a")])),
    },
];
