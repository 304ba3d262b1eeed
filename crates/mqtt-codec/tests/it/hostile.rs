//! Bytes from someone who does not keep to the standard.

use bytes::BytesMut;
use mqtt_codec::Decoder;
use proptest::prelude::*;

use crate::arbitrary::{VERSIONS, versioned_packet};
use crate::oracle::check_stream;

fn decode_as_anyone(bytes: &[u8]) {
    check_stream(Decoder::new(1 << 20), bytes);
    for version in VERSIONS {
        check_stream(Decoder::for_version(version, 1 << 20), bytes);
    }
}

/// Any type and flags, a remaining length that is about right, and a body of bytes that matter.
fn nearly_a_packet() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => 0_u8..0x30,
        1 => any::<u8>(),
        1 => prop::sample::select(&b"MQTT+#/$"[..]),
    ];
    (any::<u8>(), prop::collection::vec(byte, 0..60), -1_i8..=1).prop_map(|(first, body, off)| {
        let length = u8::try_from(body.len()).unwrap().saturating_add_signed(off);
        [&[first, length], &body[..]].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_as_anyone(&bytes);
    }

    #[test]
    fn bytes_shaped_like_packets_never_panic(bytes in nearly_a_packet()) {
        decode_as_anyone(&bytes);
    }

    #[test]
    fn packets_with_a_changed_byte_never_panic(
        (version, packet) in versioned_packet(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = BytesMut::new();
        packet.encode(version, &mut bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        decode_as_anyone(&bytes);
    }
}

#[test]
fn every_cut_of_every_vector_is_decoded_without_panic() {
    for (_, version, bytes) in crate::vectors::all() {
        for end in 0..=bytes.len() {
            check_stream(Decoder::for_version(version, u32::MAX), &bytes[..end]);
            check_stream(Decoder::new(u32::MAX), &bytes[..end]);
        }
    }
}

#[test]
fn every_vector_is_decoded_in_every_version_without_panic() {
    for (_, _, bytes) in crate::vectors::all() {
        for version in VERSIONS {
            check_stream(Decoder::for_version(version, u32::MAX), &bytes);
        }
    }
}
