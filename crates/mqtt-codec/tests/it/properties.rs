//! The properties a server passes on: built, read, and taken from a peer that is not trusted.

use bytes::Bytes;
use mqtt_codec::PublishProperty::{
    ContentType, CorrelationData, PayloadFormatIndicator, ResponseTopic, UserProperty,
};
use mqtt_codec::{DecodeError, EncodeError, PublishProperties, TopicError};
use proptest::prelude::*;

use crate::arbitrary::publish_properties;

#[test]
fn what_was_built_is_read_back_in_order() {
    let properties = PublishProperties::builder()
        .user_property("k", "1")
        .correlation_data(&[0, 0xFF])
        .response_topic("r/t")
        .content_type("text/plain")
        .payload_format(1)
        .user_property("k", "2")
        .build()
        .unwrap();
    let read: Vec<_> = properties.iter().collect();
    let expected = [
        PayloadFormatIndicator(1),
        ContentType("text/plain"),
        ResponseTopic("r/t"),
        CorrelationData(&[0, 0xFF]),
        UserProperty("k", "1"),
        UserProperty("k", "2"),
    ];
    assert_eq!(read, expected);
    assert_eq!(properties.payload_format(), Some(1));
    assert_eq!(properties.content_type(), Some("text/plain"));
    assert_eq!(properties.response_topic(), Some("r/t"));
    assert_eq!(properties.correlation_data(), Some(&[0, 0xFF][..]));
    assert!(properties.user_properties().eq([("k", "1"), ("k", "2")]));
    assert_eq!(properties.detached(), properties);
}

#[test]
fn absent_properties_are_none() {
    let properties = PublishProperties::default();
    assert!(properties.is_empty());
    assert_eq!(properties.iter().next(), None);
    assert_eq!(properties.payload_format(), None);
    assert_eq!(properties.content_type(), None);
    assert_eq!(properties.response_topic(), None);
    assert_eq!(properties.correlation_data(), None);
    assert_eq!(properties.user_properties().next(), None);
    assert_eq!(PublishProperties::builder().build(), Ok(properties));
}

#[test]
fn builder_refuses_what_no_peer_would_take() {
    let long = "x".repeat(65_536);
    let builder = PublishProperties::builder;
    for (builder, error) in [
        (builder().payload_format(2), EncodeError::PropertyValue(0x01)),
        (builder().content_type("\0"), EncodeError::NullCharacter),
        (builder().content_type(&long), EncodeError::FieldTooLong),
        (builder().response_topic(""), EncodeError::ResponseTopic(TopicError::Empty)),
        (builder().response_topic("a/+"), EncodeError::ResponseTopic(TopicError::Wildcard)),
        (builder().correlation_data(long.as_bytes()), EncodeError::FieldTooLong),
        (builder().user_property("k", "a\0b"), EncodeError::NullCharacter),
    ] {
        assert_eq!(builder.build(), Err(error));
    }
}

#[test]
fn block_from_a_peer_is_checked() {
    for (block, error) in [
        (&b"\x02\x00\x00\x00\x01"[..], DecodeError::PropertyNotAllowed(0x02)),
        (b"\x23\x00\x01", DecodeError::PropertyNotAllowed(0x23)),
        (b"\x01\x02", DecodeError::PropertyValue(0x01)),
        (b"\x01\x01\x01\x01", DecodeError::PropertyRepeated(0x01)),
        (b"\x08\x00\x01#", DecodeError::ResponseTopic(TopicError::Wildcard)),
        (b"\x26\x00\x01k", DecodeError::Truncated),
        (b"\x03\x00\x01\xFF", DecodeError::Utf8),
        (b"\x03\x00\x01\x00", DecodeError::NullCharacter),
        (b"\x81\x00", DecodeError::Length),
    ] {
        let result = PublishProperties::decode(Bytes::copy_from_slice(block));
        assert_eq!(result, Err(error), "{block:02X?}");
    }
}

proptest! {
    #[test]
    fn encoded_block_is_decoded_to_the_same(properties in publish_properties()) {
        let decoded = PublishProperties::decode(properties.as_bytes().clone()).unwrap();
        prop_assert_eq!(decoded.as_bytes().as_ptr(), properties.as_bytes().as_ptr());
        prop_assert_eq!(decoded, properties);
    }

    #[test]
    fn arbitrary_block_never_panics(block in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(properties) = PublishProperties::decode(block.clone().into()) {
            prop_assert_eq!(properties.as_bytes(), &block[..]);
            prop_assert_eq!(properties.iter().next().is_none(), block.is_empty());
        }
    }
}
