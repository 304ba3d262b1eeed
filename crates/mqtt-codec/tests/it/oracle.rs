//! What must hold for any stream of bytes; shared by the tests and the fuzz target.

use bytes::BytesMut;
use mqtt_codec::{Decoder, Version};

const LARGEST: u32 = 1 << 20;

/// Checks a stream whose first byte chooses who decodes the rest: 1 to 3 a client of each version,
/// anything else a server.
pub(crate) fn check_chosen_stream(input: &[u8]) {
    let Some((&chosen, stream)) = input.split_first() else {
        return;
    };
    let decoder = match chosen {
        1 => Decoder::for_version(Version::V3_1, LARGEST),
        2 => Decoder::for_version(Version::V3_1_1, LARGEST),
        3 => Decoder::for_version(Version::V5, LARGEST),
        _ => Decoder::new(LARGEST),
    };
    check_stream(decoder, stream);
}

/// Decodes to the first error or to where more is needed: every packet takes bytes away, can be
/// encoded, and comes back the same.
pub(crate) fn check_stream(mut decoder: Decoder, stream: &[u8]) {
    let mut source = BytesMut::from(stream);
    loop {
        let before = source.len();
        let missing = decoder.missing(&source);
        let packet = match decoder.decode(&mut source) {
            Ok(Some(packet)) => packet,
            Ok(None) => return assert_ne!(missing, 0, "an incomplete packet lacks something"),
            Err(error) => return assert!(error.reason().is_error(), "{error}"),
        };
        assert_eq!(missing, 0, "a complete packet lacks nothing");
        assert!(source.len() < before, "a packet has bytes");
        let version = decoder.version().expect("known since the first packet");
        let mut encoded = BytesMut::new();
        packet.encode(version, &mut encoded).expect("what was decoded can be encoded");
        assert_eq!(packet.encoded_len(version), encoded.len());
        let again = decoder.clone().decode(&mut encoded).expect("it was decoded before");
        assert_eq!(again, Some(packet));
        assert!(encoded.is_empty(), "nothing is written behind a packet");
    }
}
