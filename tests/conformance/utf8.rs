//! Section 1.5.4 (1.5.3 in MQTT 3.1.1): strings.

use mqtt_codec::{QoS, ReasonCode, Version};
use testkit::wire;

use crate::support::{BOTH, client, name, server, subscriber, topic_of};

/// Overlong, surrogate, beyond U+10FFFF, a lone continuation, a cut sequence.
const ILL_FORMED: [&[u8]; 6] = [
    &[0xC0, 0xAF],
    &[0xED, 0xA0, 0x80],
    &[0xED, 0xBF, 0xBF],
    &[0xF4, 0x90, 0x80, 0x80],
    &[0x80],
    &[b'a', 0xE2, 0x82],
];

const fn none(version: Version) -> &'static [u8] {
    if matches!(version, Version::V5) { &[0] } else { &[] }
}

/// Sends `bytes` over a connection of its own and requires its end as malformed.
async fn expect_malformed(version: Version, bytes: &[u8]) {
    let mut client = client(version, "utf").await;
    client.send_bytes(bytes).await;
    client.expect_end(ReasonCode::MalformedPacket).await;
}

/// A CONNECT that no server may accept.
async fn expect_refused(version: Version, flags: u8, fields: &[&[u8]]) {
    let mut client = server().open(version).await;
    let rest = [none(version), &fields.concat()].concat();
    client.send_bytes(&wire::connect("MQTT", version as u8, flags, &rest)).await;
    let answer = client.recv_to_end().await;
    let refused = answer.get(3).is_none_or(|&reason| reason != 0);
    assert!(refused && (version == Version::V5 || answer.is_empty()), "{answer:02x?}");
}

/// [MQTT-1.5.4-1] [MQTT-3.3.2-1] [MQTT311-1.5.3-1] [MQTT311-3.3.2-1] Ill-formed UTF-8 in a topic name.
#[tokio::test]
async fn an_ill_formed_topic_name_ends_the_connection() {
    for version in BOTH {
        for text in ILL_FORMED {
            let body = [&wire::field(text), none(version), b"x"].concat();
            expect_malformed(version, &wire::frame(0x30, &body)).await;
        }
    }
}

/// [MQTT-1.5.4-1] [MQTT-3.8.3-1] [MQTT-3.10.3-1] [MQTT311-3.8.3-1] [MQTT311-3.10.3-1] Ill-formed UTF-8
/// in a topic filter.
#[tokio::test]
async fn an_ill_formed_topic_filter_ends_the_connection() {
    for version in BOTH {
        for text in ILL_FORMED {
            let filter = wire::field(text);
            let subscribe = [&[0, 1], none(version), &filter, &[0]].concat();
            expect_malformed(version, &wire::frame(0x82, &subscribe)).await;
            let unsubscribe = [&[0, 1], none(version), &filter].concat();
            expect_malformed(version, &wire::frame(0xA2, &unsubscribe)).await;
        }
    }
}

/// [MQTT-1.5.4-1] [MQTT-3.1.3-4] [MQTT-3.1.3-11] [MQTT-3.1.3-12] [MQTT311-3.1.3-4]
/// [MQTT311-3.1.3-10] [MQTT311-3.1.3-11] Ill-formed UTF-8 in a CONNECT: client identifier, will topic,
/// user name.
#[tokio::test]
async fn ill_formed_text_in_a_connect_is_refused() {
    for version in BOTH {
        let id = wire::field(name("utf"));
        for text in ILL_FORMED {
            let bad = wire::field(text);
            let payload = wire::field("x");
            expect_refused(version, 0b0000_0010, &[&bad]).await;
            expect_refused(version, 0b0000_0110, &[&id, none(version), &bad, &payload]).await;
            expect_refused(version, 0b1000_0010, &[&id, &bad]).await;
        }
    }
}

/// [MQTT-1.5.4-1] [MQTT-1.5.7-1] [MQTT-3.3.2-13] [MQTT-3.3.2-19] Ill-formed UTF-8 in properties: response
/// topic, content type, both halves of a user property.
#[tokio::test]
async fn ill_formed_text_in_a_property_ends_the_connection() {
    for text in ILL_FORMED {
        let bad = wire::field(text);
        let good = wire::field("k");
        let properties = [
            [&[0x08][..], &bad].concat(),
            [&[0x03][..], &bad].concat(),
            [&[0x26][..], &bad, &good].concat(),
            [&[0x26][..], &good, &bad].concat(),
        ];
        for property in properties {
            let body = [&wire::field("t")[..], &wire::properties(&[&property])].concat();
            expect_malformed(Version::V5, &wire::frame(0x30, &body)).await;
        }
    }
}

/// [MQTT-1.5.4-2] [MQTT-4.7.3-2] [MQTT311-1.5.3-2] [MQTT311-4.7.3-2] U+0000 anywhere.
#[tokio::test]
async fn u_0000_ends_the_connection() {
    for version in BOTH {
        let text = wire::field(b"a\0b");
        let publish = [&text, none(version), b"x"].concat();
        expect_malformed(version, &wire::frame(0x30, &publish)).await;
        let subscribe = [&[0, 1], none(version), &text, &[0]].concat();
        expect_malformed(version, &wire::frame(0x82, &subscribe)).await;
        let unsubscribe = [&[0, 1], none(version), &text].concat();
        expect_malformed(version, &wire::frame(0xA2, &unsubscribe)).await;
        expect_refused(version, 0b0000_0010, &[&text]).await;
        expect_refused(version, 0b1000_0010, &[&wire::field(name("utf")), &text]).await;
    }
    let user = [&[0x26][..], &wire::field("k"), &wire::field("\0")].concat();
    let body = [&wire::field("t")[..], &wire::properties(&[&user])].concat();
    expect_malformed(Version::V5, &wire::frame(0x30, &body)).await;
}

/// [MQTT-1.5.4-3] [MQTT311-1.5.3-3] [MQTT-4.7.3-4] [MQTT311-4.7.3-4] A byte order mark is a character
/// like any other, and is not stripped.
#[tokio::test]
async fn a_byte_order_mark_is_a_character() {
    for version in BOTH {
        let plain = name("utf");
        let marked = format!("\u{FEFF}{plain}");
        let mut without = subscriber(version, &plain, QoS::AtMostOnce).await;
        let mut with = subscriber(version, &marked, QoS::AtMostOnce).await;
        with.publish(&marked, QoS::AtMostOnce, "marked").await;
        assert_eq!(topic_of(&with.expect_message("marked").await), marked);
        without.expect_nothing().await;
        without.publish(&plain, QoS::AtMostOnce, "plain").await;
        without.expect_message("plain").await;
        with.expect_nothing().await;
    }
}
