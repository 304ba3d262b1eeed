//! Sections 1.5, 2.1, 2.2.2 and 4.13: bytes that are no packet, and packets that must not come.

use mqtt_codec::{Packet, QoS, ReasonCode, Version};
use testkit::wire;

use crate::support::{BOTH, client, name, server, subscriber};

/// Sends `bytes` over a connection of its own and requires its end.
async fn expect_end(version: Version, bytes: &[u8], reason: ReasonCode) {
    let mut client = client(version, "mal").await;
    client.send_bytes(bytes).await;
    client.expect_end(reason).await;
}

/// Sends a CONNECT with `properties` and requires that it is refused for `reason`.
async fn expect_refused(properties: &[&[u8]], reason: ReasonCode) {
    let mut client = server().open(Version::V5).await;
    let rest = [wire::properties(properties), wire::field(name("mal"))].concat();
    client.send_bytes(&wire::connect("MQTT", 5, 2, &rest)).await;
    let connack = client.expect_connack().await;
    assert_eq!(connack.reason, reason, "{properties:02x?}");
    client.expect_closed().await;
}

/// [MQTT-1.5.5-1] [MQTT-4.13.1-1] [MQTT311-4.8.0-1] A length of more than four bytes is malformed.
#[tokio::test]
async fn a_length_of_five_bytes_is_malformed() {
    for version in BOTH {
        let bytes = [0x30, 0x80, 0x80, 0x80, 0x80, 0x01];
        expect_end(version, &bytes, ReasonCode::MalformedPacket).await;
        expect_end(version, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF], ReasonCode::MalformedPacket).await;
    }
}

/// [MQTT-1.5.5-1] A length with more bytes than it needs is malformed.
#[tokio::test]
async fn a_padded_length_is_malformed() {
    expect_end(Version::V5, &[0xC0, 0x80, 0x00], ReasonCode::MalformedPacket).await;
    let padded_properties = wire::frame(0x30, &[0, 1, b't', 0x80, 0x00]);
    expect_end(Version::V5, &padded_properties, ReasonCode::MalformedPacket).await;
    let padded_id = wire::frame(0x82, &[0, 1, 3, 0x0B, 0x81, 0x00, 0, 1, b't', 0]);
    expect_end(Version::V5, &padded_id, ReasonCode::MalformedPacket).await;
}

/// [MQTT-2.1.3-1] [MQTT311-2.2.2-1] [MQTT311-2.2.2-2] Each packet has its own flags.
#[tokio::test]
async fn reserved_flags_must_have_their_value() {
    for version in BOTH {
        for first in [0x41, 0x42, 0x4F, 0x51, 0x52, 0x71, 0x72, 0xC1, 0xC2, 0xC8] {
            let body: &[u8] = if first < 0xC0 { &[0, 1] } else { &[] };
            expect_end(version, &wire::frame(first, body), ReasonCode::MalformedPacket).await;
        }
    }
}

/// [MQTT-2.1.3-1] [MQTT-4.13.1-1] [MQTT311-4.8.0-1] There is no packet type 0.
#[tokio::test]
async fn packet_type_0_is_malformed() {
    for version in BOTH {
        expect_end(version, &[0x00, 0], ReasonCode::MalformedPacket).await;
    }
}

/// [MQTT-4.13.1-1] [MQTT311-4.8.0-1] What only a server may send must not come from a client.
#[tokio::test]
async fn packets_of_a_server_are_protocol_errors() {
    for version in BOTH {
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let packets = [
            wire::frame(0x20, &[&[0, 0], none].concat()),
            wire::frame(0x90, &[&[0, 1], none, &[0]].concat()),
            wire::frame(0xB0, &[&[0, 1], none, &[0][..none.len()]].concat()),
            wire::frame(0xD0, &[]),
        ];
        for packet in packets {
            expect_end(version, &packet, ReasonCode::ProtocolError).await;
        }
    }
}

/// [MQTT-4.13.1-1] [MQTT311-4.8.0-1] A field that reaches past the end of its packet is malformed.
#[tokio::test]
async fn truncated_packets_are_malformed() {
    for version in BOTH {
        let bodies: [(u8, &[u8]); 8] = [
            (0x30, &[0]),
            (0x30, &[0, 9, b't']),
            (0x32, &[0, 1, b't', 0]),
            (0x40, &[0]),
            (0x62, &[]),
            (0x82, &[0]),
            (0x82, &[0, 1, 0, 0, 9, b't']),
            (0xA2, &[0, 1, 0, 0, 9, b't']),
        ];
        for (first, body) in bodies {
            expect_end(version, &wire::frame(first, body), ReasonCode::MalformedPacket).await;
        }
    }
}

/// [MQTT-4.13.1-1] [MQTT311-4.8.0-1] Bytes behind the last field are malformed.
#[tokio::test]
async fn bytes_behind_the_last_field_are_malformed() {
    for version in BOTH {
        let packets = [wire::frame(0xC0, &[0]), wire::frame(0x40, &[0, 1, 0, 0, 0])];
        for packet in packets {
            expect_end(version, &packet, ReasonCode::MalformedPacket).await;
        }
    }
}

/// [MQTT-4.13.1-1] A property the packet does not have is malformed, and so is an unknown one.
#[tokio::test]
async fn foreign_properties_are_malformed() {
    for property in [&[0x21, 0, 1][..], &[0x11, 0, 0, 0, 1], &[0x7E, 0], &[0x00], &[0x80, 0x01]] {
        let body = [&wire::field("t")[..], &wire::properties(&[property])].concat();
        expect_end(Version::V5, &wire::frame(0x30, &body), ReasonCode::MalformedPacket).await;
    }
    expect_refused(&[&[0x23, 0, 1]], ReasonCode::MalformedPacket).await;
    expect_refused(&[&[0x24, 1]], ReasonCode::MalformedPacket).await;
}

/// [MQTT-4.13.1-1] A property that may stand once must not stand twice.
#[tokio::test]
async fn repeated_properties_are_protocol_errors() {
    let content = [&[0x03][..], &wire::field("c")].concat();
    let response = [&[0x08][..], &wire::field("r")].concat();
    let correlation = [&[0x09][..], &wire::field("x")].concat();
    let cases: [&[u8]; 6] =
        [&[0x01, 0], &[0x02, 0, 0, 0, 9], &[0x23, 0, 1], &content, &response, &correlation];
    for property in cases {
        let body = [&wire::field("t")[..], &wire::properties(&[property, property])].concat();
        expect_end(Version::V5, &wire::frame(0x30, &body), ReasonCode::ProtocolError).await;
    }
    let cases: [&[u8]; 6] = [
        &[0x11, 0, 0, 0, 9],
        &[0x21, 0, 9],
        &[0x27, 0, 0, 9, 0],
        &[0x22, 0, 9],
        &[0x19, 0],
        &[0x17, 0],
    ];
    for property in cases {
        expect_refused(&[property, property], ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-4.13.1-1] [MQTT-3.1.4-1] Values the standard excludes are protocol errors.
#[tokio::test]
async fn excluded_property_values_are_protocol_errors() {
    expect_refused(&[&[0x21, 0, 0]], ReasonCode::ProtocolError).await;
    expect_refused(&[&[0x27, 0, 0, 0, 0]], ReasonCode::ProtocolError).await;
    expect_refused(&[&[0x19, 2]], ReasonCode::ProtocolError).await;
    expect_refused(&[&[0x17, 2]], ReasonCode::ProtocolError).await;
    let body = [&wire::field("t")[..], &wire::properties(&[&[0x01, 2]])].concat();
    expect_end(Version::V5, &wire::frame(0x30, &body), ReasonCode::ProtocolError).await;
}

/// [MQTT-4.13.1-1] A property block ends within its packet, and a property within its block.
#[tokio::test]
async fn property_lengths_that_do_not_fit_are_malformed() {
    let bodies: [&[u8]; 4] = [
        &[0, 1, b't', 9],
        &[0, 1, b't', 1, 0x23, 0, 1],
        &[0, 1, b't', 2, 0x26, 0],
        &[0, 1, b't', 5, 0x03, 0, 9, b'x', b'x'],
    ];
    for body in bodies {
        expect_end(Version::V5, &wire::frame(0x30, body), ReasonCode::MalformedPacket).await;
    }
}

/// [MQTT-4.13.2-1] [MQTT-4.13.1-1] [MQTT311-4.8.0-1] The connection ends at the error: what came before
/// counts, what comes behind does not.
#[tokio::test]
async fn packets_before_an_error_count_and_those_behind_do_not() {
    for version in BOTH {
        let topic = name("mal");
        let mut watcher = subscriber(version, &topic, QoS::AtMostOnce).await;
        let mut wrong = client(version, "mal").await;
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let publish =
            |payload: &[u8]| wire::frame(0x30, &[&wire::field(&topic), none, payload].concat());
        let bytes = [publish(b"before"), vec![0x00, 0x00], publish(b"behind")].concat();
        wrong.send_bytes(&bytes).await;
        wrong.expect_end(ReasonCode::MalformedPacket).await;
        watcher.expect_message("before").await;
        client(version, "mal").await.publish(&topic, QoS::AtLeastOnce, "marker").await;
        watcher.expect_message("marker").await;
        watcher.expect_nothing().await;
    }
}

/// [MQTT-4.13.1-1] [MQTT311-4.8.0-1] Whatever bytes come, the connection ends and the server goes on.
#[tokio::test]
async fn arbitrary_bytes_never_harm_the_server() {
    // xorshift: the same bytes in every run.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut watcher = client(Version::V5, "mal").await;
    for round in 0..200 {
        let noise: Vec<u8> = std::iter::repeat_with(&mut next).take(20).flatten().collect();
        let mut stranger = server().open(Version::V5).await;
        if round % 2 == 0 {
            let connect = testkit::connect_packet(Version::V5, &name("mal"));
            stranger.send(Packet::Connect(Box::new(connect))).await;
        }
        stranger.send_bytes(&noise).await;
        drop(stranger);
        watcher.expect_nothing().await;
    }
    assert_eq!(server().stats().panics, 0);
}

/// [MQTT-4.13.1-1] [MQTT311-4.8.0-1] A packet may come byte by byte, and many may come at once.
#[tokio::test]
async fn packets_are_cut_from_the_stream_and_not_from_its_pieces() {
    for version in BOTH {
        let topic = name("mal");
        let mut client = subscriber(version, &topic, QoS::AtMostOnce).await;
        let none: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let publish = wire::frame(0x30, &[&wire::field(&topic), none, b"x"].concat());
        for byte in &publish {
            client.send_bytes(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        client.expect_message("x").await;
        client.send_bytes(&publish.repeat(50)).await;
        for _ in 0..50 {
            client.expect_message("x").await;
        }
        client.expect_nothing().await;
    }
}
