//! Another codec, that of rumqttc, between our encoder and our decoder: what it reads from us and
//! writes again must still be the same packet.
//!
//! Packets it is known to get wrong are changed into ones that both sides agree on: see `agreed`.

use bytes::{Bytes, BytesMut};
use mqtt_codec::{Decoder, Packet, PublishProperties, SubscriptionIds, Version};
use proptest::prelude::*;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use crate::arbitrary::{lowered, packet};

const LARGEST: u32 = 1 << 20;

fn encode(packet: &Packet, version: Version) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.encode(version, &mut bytes).unwrap();
    bytes
}

fn decode(mut bytes: BytesMut, version: Version) -> Packet {
    let packet = Decoder::for_version(version, LARGEST).decode(&mut bytes).unwrap().unwrap();
    in_our_order(packet)
}

/// The nearest packet rumqttc 0.25 can read and write.
fn agreed(mut packet: Packet) -> Packet {
    if let Packet::Connect(connect) = &mut packet {
        // It takes passwords for text, and an empty user name for none.
        connect.password = connect.username.as_ref().map(|_| Bytes::from_static(b"secret"));
        connect.username = connect.username.as_ref().map(|_| "user".into());
    }
    if let Packet::Publish(publish) = &mut packet {
        // It reads beyond the properties after a subscription identifier.
        publish.subscription_ids = SubscriptionIds::new();
    }
    let unreadable =
        matches!(packet, Packet::Auth(_)) || packet == Packet::Disconnect(Box::default());
    if unreadable { Packet::PingReq } else { packet }
}

/// `packet` with the properties to pass on in the order of our builder: rumqttc has its own.
fn in_our_order(mut packet: Packet) -> Packet {
    if let Packet::Publish(publish) = &mut packet {
        publish.properties = rebuilt(&publish.properties);
    }
    if let Packet::Connect(connect) = &mut packet
        && let Some(will) = &mut connect.will
    {
        will.message.properties = rebuilt(&will.message.properties);
    }
    packet
}

fn rebuilt(properties: &PublishProperties) -> PublishProperties {
    let mut builder = PublishProperties::builder();
    if let Some(format) = properties.payload_format() {
        builder = builder.payload_format(format);
    }
    if let Some(content_type) = properties.content_type() {
        builder = builder.content_type(content_type);
    }
    if let Some(topic) = properties.response_topic() {
        builder = builder.response_topic(topic);
    }
    if let Some(correlation) = properties.correlation_data() {
        builder = builder.correlation_data(correlation);
    }
    for (name, value) in properties.user_properties() {
        builder = builder.user_property(name, value);
    }
    builder.build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn rumqttc_agrees_on_packets_of_3_1_1(packet in packet(Version::V3_1_1).prop_map(agreed)) {
        let version = Version::V3_1_1;
        let read = v4::Packet::read(&mut encode(&packet, version), LARGEST as usize).unwrap();
        let mut written = BytesMut::new();
        read.write(&mut written, LARGEST as usize).unwrap();
        prop_assert_eq!(decode(written, version), lowered(packet, version));
    }

    #[test]
    fn rumqttc_agrees_on_packets_of_5(packet in packet(Version::V5).prop_map(agreed)) {
        let version = Version::V5;
        let read = v5::Packet::read(&mut encode(&packet, version), Some(LARGEST)).unwrap();
        let mut written = BytesMut::new();
        read.write(&mut written, Some(LARGEST)).unwrap();
        prop_assert_eq!(decode(written, version), packet);
    }
}
