//! What is refused when it is written, and how reasons become the return codes of MQTT 3.

use bytes::{Bytes, BytesMut};
use mqtt_codec::{
    Ack, AliasUse, Auth, ConnAck, Connect, EncodeError, Message, Packet, PacketId, PacketType,
    PublishHead, PublishProperties, QoS, ReasonCode, SubAck, Subscribe, SubscriptionOptions,
    TopicAlias, TopicFilter, TopicName, UserProperties, Version,
};

use crate::arbitrary::VERSIONS;

fn encode(packet: &Packet, version: Version) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = BytesMut::from(&b"before"[..]);
    let result = packet.encode(version, &mut bytes);
    let added = bytes.strip_prefix(b"before").unwrap().to_vec();
    assert!(result.is_ok() || added.is_empty(), "nothing is written of what is refused");
    result.map(|()| added)
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

fn message(payload: Bytes) -> Message {
    Message {
        topic: TopicName::new("a").unwrap(),
        payload,
        qos: QoS::AtMostOnce,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

fn connack(reason: ReasonCode) -> Packet {
    Packet::ConnAck(Box::new(ConnAck { reason, ..ConnAck::default() }))
}

#[test]
fn reasons_of_a_connack_become_return_codes() {
    for (reason, code) in [
        (ReasonCode::Success, 0),
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::ServerBusy, 3),
        (ReasonCode::QuotaExceeded, 3),
        (ReasonCode::UseAnotherServer, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::BadAuthenticationMethod, 4),
        (ReasonCode::NotAuthorized, 5),
        (ReasonCode::Banned, 5),
        (ReasonCode::QoSNotSupported, 5),
    ] {
        for version in [Version::V3_1, Version::V3_1_1] {
            let bytes = encode(&connack(reason), version);
            assert_eq!(bytes, Ok(vec![0x20, 2, 0, code]), "{reason:?}");
        }
    }
}

#[test]
fn every_failure_in_a_suback_becomes_0x80_in_mqtt_3() {
    let reasons = vec![ReasonCode::GrantedQoS2, ReasonCode::TopicFilterInvalid];
    let suback = Packet::SubAck(SubAck { packet_id: id(1), reasons, properties: None });
    for version in [Version::V3_1, Version::V3_1_1] {
        assert_eq!(encode(&suback, version), Ok(vec![0x90, 4, 0, 1, 2, 0x80]));
    }
}

#[test]
fn acknowledgements_that_say_nothing_take_four_bytes() {
    let ack = Packet::PubAck(Ack::new(id(0x0102), ReasonCode::Success));
    for version in VERSIONS {
        assert_eq!(encode(&ack, version), Ok(vec![0x40, 2, 1, 2]));
        assert_eq!(ack.encoded_len(version), 4);
    }
    let reason = Packet::PubAck(Ack::new(id(0x0102), ReasonCode::NoMatchingSubscribers));
    assert_eq!(encode(&reason, Version::V5), Ok(vec![0x40, 3, 1, 2, 0x10]));
    assert_eq!(encode(&reason, Version::V3_1_1), Ok(vec![0x40, 2, 1, 2]));
}

#[test]
fn reason_the_packet_does_not_know_is_not_sent() {
    let ack = Packet::PubRel(Ack::new(id(1), ReasonCode::QuotaExceeded));
    let error = EncodeError::ReasonNotAllowed(PacketType::PubRel, ReasonCode::QuotaExceeded);
    assert_eq!(encode(&ack, Version::V5), Err(error));
    let taken_over = connack(ReasonCode::SessionTakenOver);
    assert!(encode(&taken_over, Version::V5).is_err());
}

#[test]
fn auth_is_only_sent_in_5_and_with_a_method() {
    let auth = Packet::Auth(Box::default());
    for version in [Version::V3_1, Version::V3_1_1] {
        let error = EncodeError::NotInVersion(PacketType::Auth, version);
        assert_eq!(encode(&auth, version), Err(error));
    }
    let reason = ReasonCode::ContinueAuthentication;
    let auth = Packet::Auth(Box::new(Auth { reason, ..Auth::default() }));
    assert_eq!(encode(&auth, Version::V5), Err(EncodeError::AuthenticationMethodMissing));
}

#[test]
fn packet_identifier_must_fit_the_qos() {
    let message = message(Bytes::new());
    for head in [
        PublishHead { qos: QoS::AtLeastOnce, ..PublishHead::default() },
        PublishHead { packet_id: Some(id(1)), ..PublishHead::default() },
    ] {
        for version in VERSIONS {
            let mut bytes = BytesMut::new();
            assert_eq!(head.encode(&message, version, &mut bytes), Err(EncodeError::PacketId));
            assert!(bytes.is_empty());
        }
    }
    let head = PublishHead { dup: true, ..PublishHead::default() };
    let result = head.encode(&message, Version::V5, &mut BytesMut::new());
    assert_eq!(result, Err(EncodeError::DupAtQoS0));
}

#[test]
fn alias_stands_for_the_topic_in_5_and_is_not_used_in_3() {
    let message = message(Bytes::from_static(b"x"));
    let alias = AliasUse::Use(TopicAlias::new(7).unwrap());
    let head = PublishHead { alias, ..PublishHead::default() };
    let mut bytes = BytesMut::new();
    head.encode(&message, Version::V5, &mut bytes).unwrap();
    assert_eq!(bytes, b"\x30\x07\x00\x00\x03\x23\x00\x07x"[..]);
    bytes.clear();
    head.encode(&message, Version::V3_1_1, &mut bytes).unwrap();
    assert_eq!(bytes, b"\x30\x04\x00\x01ax"[..]);
}

#[test]
fn packet_above_the_largest_remaining_length_is_not_sent() {
    let message = message(vec![0; 268_435_455 - 3].into());
    let head = PublishHead::default();
    let mut bytes = BytesMut::new();
    assert_eq!(head.encoded_len(&message, Version::V3_1_1), 268_435_455 + 5);
    head.encode_before_payload(&message, Version::V3_1_1, &mut bytes).unwrap();
    assert_eq!(bytes, b"\x30\xFF\xFF\xFF\x7F\x00\x01a"[..]);
    // The property length of 5 is one byte too many.
    let error = EncodeError::PacketTooLarge(268_435_456);
    let result = head.encode_before_payload(&message, Version::V5, &mut bytes);
    assert_eq!(result, Err(error));
}

#[test]
fn fields_that_do_not_fit_are_not_sent() {
    let long = "x".repeat(65_536);
    let mut connect = Connect::new(Version::V5, None);
    connect.username = Some(long.into());
    let too_long = Packet::Connect(Box::new(connect.clone()));
    assert_eq!(encode(&too_long, Version::V5), Err(EncodeError::FieldTooLong));
    connect.username = Some("a\0b".into());
    let null = Packet::Connect(Box::new(connect));
    assert_eq!(encode(&null, Version::V5), Err(EncodeError::NullCharacter));
}

#[test]
fn user_properties_of_a_block_are_checked_too() {
    let user_properties: UserProperties = vec![("a\0".into(), "".into())];
    let connack = ConnAck { user_properties, ..ConnAck::default() };
    let packet = Packet::ConnAck(Box::new(connack));
    assert_eq!(encode(&packet, Version::V5), Err(EncodeError::NullCharacter));
    assert_eq!(encode(&packet, Version::V3_1_1), Ok(vec![0x20, 2, 0, 0]));
}

#[test]
fn connect_that_no_server_would_take_is_not_sent() {
    let mut connect = Connect::new(Version::V3_1_1, None);
    connect.password = Some(Bytes::new());
    let packet = Packet::Connect(Box::new(connect.clone()));
    assert_eq!(encode(&packet, Version::V3_1_1), Err(EncodeError::PasswordWithoutUsername));
    connect.version = Version::V5;
    connect.authentication_data = Some(Bytes::new());
    let packet = Packet::Connect(Box::new(connect.clone()));
    assert_eq!(encode(&packet, Version::V5), Err(EncodeError::AuthenticationDataWithoutMethod));
    connect.authentication_data = None;
    connect.maximum_packet_size = Some(0);
    let packet = Packet::Connect(Box::new(connect));
    assert_eq!(encode(&packet, Version::V5), Err(EncodeError::PropertyValue(0x27)));
}

#[test]
fn subscribe_that_no_server_would_take_is_not_sent() {
    let mut subscribe = Subscribe {
        packet_id: id(1),
        subscription_id: None,
        user_properties: UserProperties::new(),
        filters: Vec::new(),
    };
    let packet = Packet::Subscribe(Box::new(subscribe.clone()));
    assert_eq!(encode(&packet, Version::V5), Err(EncodeError::FilterMissing));
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    subscribe.filters.push((TopicFilter::new("$share/g/a").unwrap(), options));
    let packet = Packet::Subscribe(Box::new(subscribe));
    assert_eq!(encode(&packet, Version::V5), Err(EncodeError::NoLocalOnShared));
    assert!(encode(&packet, Version::V3_1_1).is_ok());
}

#[test]
fn refusing_connack_has_no_session() {
    let reason = ReasonCode::NotAuthorized;
    let connack = ConnAck { session_present: true, reason, ..ConnAck::default() };
    let packet = Packet::ConnAck(Box::new(connack));
    for version in VERSIONS {
        assert_eq!(encode(&packet, version), Err(EncodeError::SessionPresentOnRefusal));
    }
}
