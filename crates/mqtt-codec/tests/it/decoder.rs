//! What the decoder makes of the fixed header, of the first packet, and of its buffer.

use bytes::{BufMut, Bytes, BytesMut};
use mqtt_codec::{Connect, DecodeError, Decoder, Packet, PacketType, ReasonCode, Version};

fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Result<Option<Packet>, DecodeError> {
    decoder.decode(&mut BytesMut::from(bytes))
}

fn v5() -> Decoder {
    Decoder::for_version(Version::V5, 1_000)
}

#[test]
fn first_packet_that_is_no_connect_is_refused_from_its_first_byte() {
    for (bits, packet) in [
        (2, PacketType::ConnAck),
        (3, PacketType::Publish),
        (8, PacketType::Subscribe),
        (12, PacketType::PingReq),
        (14, PacketType::Disconnect),
        (15, PacketType::Auth),
    ] {
        let refused = decode(&mut Decoder::new(1_000), &[bits << 4]);
        assert_eq!(refused, Err(DecodeError::ConnectExpected(packet)));
    }
}

#[test]
fn version_is_learned_from_the_connect_and_not_changed_by_a_second_one() {
    let mut decoder = Decoder::new(1_000);
    assert_eq!(decoder.version(), None);
    let mut source = BytesMut::new();
    for version in [Version::V3_1, Version::V5] {
        let connect = Packet::Connect(Box::new(Connect::new(version, None)));
        connect.encode(version, &mut source).unwrap();
        assert_eq!(decoder.decode(&mut source), Ok(Some(connect)));
        assert_eq!(decoder.version(), Some(Version::V3_1));
    }
}

#[test]
fn refused_connect_leaves_the_version_unknown() {
    let mut decoder = Decoder::new(1_000);
    let refused = decode(&mut decoder, b"\x10\x0C\x00\x04MQTT\x09\x02\x00\x00\x00\x00");
    assert_eq!(refused, Err(DecodeError::UnsupportedProtocol { level: 9 }));
    assert_eq!(decoder.version(), None);
}

#[test]
fn too_large_packet_is_refused_from_its_header() {
    let mut decoder = Decoder::for_version(Version::V5, 100);
    let fits = [&[0x30, 98, 0, 1, b'a', 0][..], &[0; 94]].concat();
    assert!(matches!(decode(&mut decoder, &fits), Ok(Some(_))));
    let error = DecodeError::PacketTooLarge { size: 101, limit: 100 };
    assert_eq!(decode(&mut decoder, &[0x30, 99]), Err(error));
    assert_eq!(error.reason(), ReasonCode::PacketTooLarge);
    let largest = DecodeError::PacketTooLarge { size: 268_435_460, limit: 100 };
    assert_eq!(decode(&mut decoder, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]), Err(largest));
    assert_eq!(
        decode(&mut Decoder::new(10), &[0x10, 20]).map_err(|e| e.reason()),
        Err(ReasonCode::PacketTooLarge)
    );
}

#[test]
fn remaining_length_of_five_or_of_needless_bytes_is_refused() {
    for bytes in [
        &[0x30, 0x80, 0x80, 0x80, 0x80][..],
        &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        &[0x30, 0x80, 0x00],
        &[0x30, 0x83, 0x80, 0x00],
        &[0x30, 0xFF, 0x80, 0x80, 0x00],
    ] {
        assert_eq!(decode(&mut v5(), bytes), Err(DecodeError::Length), "{bytes:02X?}");
    }
    assert_eq!(DecodeError::Length.statement(), "MQTT-1.5.5-1");
}

#[test]
fn missing_says_how_much_to_read_for_a_large_packet() {
    let decoder = Decoder::for_version(Version::V5, 1 << 20);
    assert_eq!(decoder.missing(&[]), 2);
    assert_eq!(decoder.missing(&[0x30]), 1);
    assert_eq!(decoder.missing(&[0x30, 0x80]), 1);
    assert_eq!(decoder.missing(&[0x30, 0x80, 0x80, 0x04]), 65_536);
    assert_eq!(decoder.missing(&[0x30, 0x80, 0x80, 0x04, 1, 2, 3]), 65_533);
    assert_eq!(decoder.missing(&[0x30, 0x80, 0x80, 0x80, 0x80]), 0, "it is refused anyway");
}

#[test]
fn bytes_of_the_next_packet_stay_in_the_buffer() {
    let mut source = BytesMut::from(&[0xC0, 0, 0xD0, 0, 0xE0][..]);
    assert_eq!(v5().decode(&mut source), Ok(Some(Packet::PingReq)));
    assert_eq!(v5().decode(&mut source), Ok(Some(Packet::PingResp)));
    assert_eq!(v5().decode(&mut source), Ok(None));
    assert_eq!(source, [0xE0][..]);
}

#[test]
fn topic_properties_and_payload_share_the_memory_of_the_buffer() {
    let mut source = BytesMut::new();
    source.put_slice(b"\x30\x0F\x00\x03a/b\x02\x01\x01payload");
    let memory = source.as_ptr_range();
    let Ok(Some(Packet::Publish(publish))) = v5().decode(&mut source) else { panic!("no PUBLISH") };
    let topic = publish.topic.unwrap();
    let inside = |bytes: &Bytes| memory.contains(&bytes.as_ptr());
    assert!(inside(topic.as_byte_string().as_bytes()));
    assert!(inside(publish.properties.as_bytes()));
    assert!(inside(&publish.payload));
    assert!(!inside(topic.detached().as_byte_string().as_bytes()));
    assert!(!inside(publish.properties.detached().as_bytes()));
}

#[test]
fn what_is_passed_on_is_not_copied_behind_an_alias() {
    let mut source = BytesMut::from(&b"\x30\x0C\x00\x01a\x08\x23\x00\x01\x26\x00\x00\x00\x00"[..]);
    let memory = source.as_ptr_range();
    let Ok(Some(Packet::Publish(publish))) = v5().decode(&mut source) else { panic!("no PUBLISH") };
    assert_eq!(publish.properties.as_bytes(), &b"\x26\x00\x00\x00\x00"[..]);
    assert!(memory.contains(&publish.properties.as_bytes().as_ptr()));
}

#[test]
fn every_error_of_a_topic_has_its_reason_and_statement() {
    use mqtt_codec::TopicError::{Empty, Null, Share, Wildcard};
    for (error, reason, statement) in [
        (DecodeError::TopicName(Wildcard), ReasonCode::TopicNameInvalid, "MQTT-3.3.2-2"),
        (DecodeError::TopicName(Empty), ReasonCode::ProtocolError, "MQTT-4.7.3-1"),
        (DecodeError::TopicName(Null), ReasonCode::MalformedPacket, "MQTT-4.7.3-2"),
        (DecodeError::TopicFilter(Wildcard), ReasonCode::TopicFilterInvalid, "MQTT-4.7.1-1"),
        (DecodeError::TopicFilter(Share), ReasonCode::TopicFilterInvalid, "MQTT-4.8.2-1"),
        (DecodeError::ResponseTopic(Wildcard), ReasonCode::ProtocolError, "MQTT-3.3.2-14"),
        (DecodeError::TopicAliasZero, ReasonCode::TopicAliasInvalid, "MQTT-3.3.2-8"),
        (DecodeError::PublishQoS3, ReasonCode::MalformedPacket, "MQTT-3.3.1-4"),
    ] {
        assert_eq!((error.reason(), error.statement()), (reason, statement), "{error}");
    }
}
