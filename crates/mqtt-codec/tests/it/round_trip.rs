//! Whatever may be sent arrives as it was, or as what the version can say of it.

use bytes::BytesMut;
use mqtt_codec::{AliasUse, Decoder, Message, Packet, PublishHead, Version};
use proptest::prelude::*;

use crate::arbitrary::{lowered, publish, topic_name, versioned_packet};

fn decode_all(version: Version, packets: &[Packet], bytes: &[u8], step: usize) {
    let mut decoder = Decoder::for_version(version, u32::MAX);
    let mut source = BytesMut::new();
    let mut expected = packets.iter();
    for chunk in bytes.chunks(step) {
        source.extend_from_slice(chunk);
        while let Some(packet) = decoder.decode(&mut source).unwrap() {
            assert_eq!(Some(&packet), expected.next());
        }
    }
    assert!(source.is_empty());
    assert_eq!(expected.next(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn an_encoded_packet_decodes_to_what_the_version_can_say_of_it(
        (version, packet) in versioned_packet()
    ) {
        let mut bytes = BytesMut::new();
        packet.encode(version, &mut bytes).unwrap();
        prop_assert_eq!(bytes.len(), packet.encoded_len(version));
        let decoded = Decoder::for_version(version, u32::MAX).decode(&mut bytes).unwrap();
        prop_assert_eq!(decoded, Some(lowered(packet, version)));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn packets_of_a_stream_are_the_same_however_it_is_cut(
        (version, packets) in prop::sample::select(&crate::arbitrary::VERSIONS[..])
            .prop_flat_map(|version| {
                (Just(version), prop::collection::vec(crate::arbitrary::packet(version), 1..6))
            }),
        step in 1_usize..50,
    ) {
        let mut bytes = BytesMut::new();
        for packet in &packets {
            packet.encode(version, &mut bytes).unwrap();
        }
        let packets: Vec<_> = packets.into_iter().map(|packet| lowered(packet, version)).collect();
        decode_all(version, &packets, &bytes, step);
        decode_all(version, &packets, &bytes, 1);
    }

    #[test]
    fn a_message_behind_a_head_is_encoded_as_the_publish_of_both(
        packet in publish(Version::V5),
        topic in topic_name(),
        version in prop::sample::select(&crate::arbitrary::VERSIONS[..]),
    ) {
        let head = PublishHead {
            dup: packet.dup,
            qos: packet.qos,
            retain: packet.retain,
            packet_id: packet.packet_id,
            alias: match (packet.alias, &packet.topic) {
                (Some(alias), Some(_)) => AliasUse::Set(alias),
                (Some(alias), None) => AliasUse::Use(alias),
                (None, _) => AliasUse::None,
            },
            expiry_secs: packet.expiry_secs,
            subscription_ids: packet.subscription_ids.clone(),
        };
        let mut packet = packet;
        let topic = packet.topic.clone().unwrap_or(topic);
        if version < Version::V5 {
            packet.topic = Some(topic.clone());
        }
        let message = Message::from_publish(packet.clone(), topic);

        let (mut whole, mut before, mut expected) =
            (BytesMut::new(), BytesMut::new(), BytesMut::new());
        head.encode(&message, version, &mut whole).unwrap();
        head.encode_before_payload(&message, version, &mut before).unwrap();
        Packet::Publish(packet).encode(version, &mut expected).unwrap();

        prop_assert_eq!(&whole, &expected);
        prop_assert_eq!(head.encoded_len(&message, version), expected.len());
        before.extend_from_slice(&message.payload);
        prop_assert_eq!(before, expected);
    }
}
