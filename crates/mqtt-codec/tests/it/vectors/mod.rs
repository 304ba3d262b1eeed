//! The vector table: bytes as a person reads them, and the packet or error they are.
//!
//! Bytes are hexadecimal, with `'text'` for ASCII. What is a packet stands in one file for each packet
//! family, what is none in `refused.txt`.

mod ack;
mod connect;
mod control;
mod publish;
mod subscribe;

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use mqtt_codec::{
    Ack, Auth, ClientId, ConnAck, Connect, DecodeError, Decoder, Disconnect, Message, Packet,
    PacketId, Publish, PublishProperties, QoS, ReasonCode, ReasonProperties, ReceiveMaximum,
    SubAck, Subscribe, SubscriptionId, SubscriptionIds, SubscriptionOptions, TopicFilter,
    TopicName, UnsubAck, Unsubscribe, UserProperties, Version, Will,
};

/// Bytes that are a packet.
pub(crate) struct Good {
    pub(crate) name: &'static str,
    pub(crate) version: Version,
    pub(crate) bytes: &'static str,
    pub(crate) packet: fn() -> Packet,
}

/// Bytes that are none: a line of `refused.txt`.
struct Bad {
    name: &'static str,
    version: Version,
    bytes: Vec<u8>,
    /// Reason code and variant.
    error: &'static str,
}

const GOOD: &[&[Good]] = &[ack::GOOD, connect::GOOD, control::GOOD, publish::GOOD, subscribe::GOOD];
const LENIENT: &[&[Good]] =
    &[ack::LENIENT, connect::LENIENT, control::LENIENT, publish::LENIENT, subscribe::LENIENT];

/// Name, version and bytes of every vector.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Version, Vec<u8>)> {
    let good = readable().map(|vector| (vector.name, vector.version, vector.bytes));
    let good = good.map(|(name, version, bytes)| (name, version, parse(bytes)));
    good.chain(bad().map(|vector| (vector.name, vector.version, vector.bytes)))
}

/// Version and bytes of every vector that is a packet, CONNECT first.
pub(crate) fn good() -> impl Iterator<Item = (Version, Vec<u8>)> {
    readable().map(|vector| (vector.version, parse(vector.bytes)))
}

fn readable() -> impl Iterator<Item = &'static Good> {
    GOOD.iter().chain(LENIENT).copied().flatten()
}

fn bad() -> impl Iterator<Item = Bad> {
    let lines = include_str!("refused.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let [version, bytes, error, name] = columns[..] else { panic!("not four columns: {line}") };
        let version = match version {
            "3.1" => Version::V3_1,
            "3.1.1" => Version::V3_1_1,
            "5" => Version::V5,
            _ => panic!("no version: {line}"),
        };
        Bad { name, version, bytes: parse(bytes), error }
    })
}

fn described(error: DecodeError) -> String {
    format!("{:02X} {error:?}", error.reason() as u8)
}

/// A decoder for bytes of `version`: as a server's for a CONNECT, else as a client's.
pub(crate) fn decoder_for(bytes: &[u8], version: Version) -> Decoder {
    match bytes.first() {
        Some(first) if first >> 4 == 1 => Decoder::new(u32::MAX),
        _ => Decoder::for_version(version, u32::MAX),
    }
}

fn parse(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<_> = part.chars().filter_map(|digit| digit.to_digit(16)).collect();
        let pairs = digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap());
        bytes.extend(pairs);
    }
    bytes
}

enum Written {
    AsRead,
    Otherwise,
}

fn check(vector: &Good, written: &Written) {
    let (name, version) = (vector.name, vector.version);
    let bytes = parse(vector.bytes);
    let packet = (vector.packet)();

    let mut decoder = decoder_for(&bytes, version);
    let mut source = BytesMut::from(&bytes[..]);
    assert_eq!(decoder.decode(&mut source), Ok(Some(packet.clone())), "{name}");
    assert!(source.is_empty(), "{name}: bytes are left");
    assert_eq!(decoder.version(), Some(version), "{name}");

    let mut encoded = BytesMut::new();
    packet.encode(version, &mut encoded).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(packet.encoded_len(version), encoded.len(), "{name}");
    match written {
        Written::AsRead => assert_eq!(encoded, bytes, "{name}"),
        Written::Otherwise => assert_ne!(encoded, bytes, "{name}: belongs to GOOD"),
    }
    let again = decoder_for(&bytes, version).decode(&mut encoded);
    assert_eq!(again, Ok(Some(packet)), "{name}: read again");
}

fn check_refused(vector: &Bad) {
    let name = vector.name;
    let mut decoder = decoder_for(&vector.bytes, vector.version);
    let result = decoder.decode(&mut BytesMut::from(&vector.bytes[..]));
    assert_eq!(result.map_err(described), Err(vector.error.to_owned()), "{name}");
}

#[test]
fn good_bytes_become_their_packet_and_are_what_it_is_encoded_to() {
    GOOD.iter().copied().flatten().for_each(|vector| check(vector, &Written::AsRead));
}

#[test]
fn unusual_bytes_become_their_packet_too() {
    LENIENT.iter().copied().flatten().for_each(|vector| check(vector, &Written::Otherwise));
}

#[test]
fn bad_bytes_are_refused_for_the_right_reason() {
    bad().for_each(|vector| check_refused(&vector));
}

#[test]
fn a_good_packet_is_found_wherever_its_bytes_are_split() {
    for vector in readable() {
        let bytes = parse(vector.bytes);
        for split in 0..bytes.len() {
            let mut decoder = decoder_for(&bytes, vector.version);
            let mut source = BytesMut::from(&bytes[..split]);
            assert_eq!(decoder.decode(&mut source), Ok(None), "{} at {split}", vector.name);
            let missing = decoder.missing(&source);
            assert!((1..=bytes.len() - split).contains(&missing), "{} at {split}", vector.name);
            source.extend_from_slice(&bytes[split..]);
            assert_eq!(decoder.missing(&source), 0, "{}", vector.name);
            assert_eq!(decoder.decode(&mut source), Ok(Some((vector.packet)())), "{}", vector.name);
        }
    }
}

#[test]
fn a_bad_packet_is_refused_alike_wherever_its_bytes_are_split() {
    for vector in bad() {
        for split in 0..vector.bytes.len() {
            let mut decoder = decoder_for(&vector.bytes, vector.version);
            match decoder.decode(&mut BytesMut::from(&vector.bytes[..split])) {
                Ok(None) => {}
                Err(error) => assert_eq!(described(error), vector.error, "{}", vector.name),
                Ok(Some(packet)) => panic!("{} at {split}: {packet:?}", vector.name),
            }
        }
    }
}

#[test]
fn vectors_are_many_and_their_names_are_unique() {
    let mut names = HashSet::new();
    for (name, version, _) in all() {
        assert!(names.insert((name, version)), "{name} stands twice");
    }
    assert!(names.len() >= 400, "only {} vectors", names.len());
}

fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn client_id(id: &'static str) -> Option<ClientId> {
    Some(ClientId::new(id).unwrap())
}

fn plain(version: Version, id: Option<&'static str>) -> Connect {
    Connect::new(version, id.and_then(client_id))
}

fn connect(connect: Connect) -> Packet {
    Packet::Connect(Box::new(connect))
}

fn connack(connack: ConnAck) -> Packet {
    Packet::ConnAck(Box::new(connack))
}

fn disconnect(disconnect: Disconnect) -> Packet {
    Packet::Disconnect(Box::new(disconnect))
}

fn auth(auth: Auth) -> Packet {
    Packet::Auth(Box::new(auth))
}

fn subscribe(subscribe: Subscribe) -> Packet {
    Packet::Subscribe(Box::new(subscribe))
}

fn unsubscribe(unsubscribe: Unsubscribe) -> Packet {
    Packet::Unsubscribe(Box::new(unsubscribe))
}

fn will(topic: &'static str, payload: &'static [u8], qos: QoS, retain: bool) -> Will {
    let message = Message {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::from_static(payload),
        qos,
        retain,
        expiry_secs: None,
        properties: PublishProperties::default(),
    };
    Will { message, delay_secs: 0 }
}

fn publish(qos: QoS, topic: &'static str, payload: &'static [u8]) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: None,
        topic: Some(TopicName::new(topic).unwrap()),
        alias: None,
        expiry_secs: None,
        subscription_ids: SubscriptionIds::new(),
        properties: PublishProperties::default(),
        payload: Bytes::from_static(payload),
    }
}

fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

fn plain_subscribe(id: u16, filters: Vec<(TopicFilter, SubscriptionOptions)>) -> Subscribe {
    Subscribe {
        packet_id: packet_id(id),
        subscription_id: None,
        user_properties: UserProperties::new(),
        filters,
    }
}

fn plain_unsubscribe(id: u16, filters: Vec<TopicFilter>) -> Unsubscribe {
    Unsubscribe { packet_id: packet_id(id), user_properties: UserProperties::new(), filters }
}

fn suback(id: u16, reasons: &[ReasonCode], properties: Option<Box<ReasonProperties>>) -> Packet {
    Packet::SubAck(SubAck { packet_id: packet_id(id), reasons: reasons.to_vec(), properties })
}

fn unsuback(id: u16, reasons: &[ReasonCode], properties: Option<Box<ReasonProperties>>) -> Packet {
    Packet::UnsubAck(UnsubAck { packet_id: packet_id(id), reasons: reasons.to_vec(), properties })
}

fn ack(id: u16, reason: ReasonCode, properties: Option<Box<ReasonProperties>>) -> Ack {
    Ack { packet_id: packet_id(id), reason, properties }
}

fn reason_properties(
    reason: &'static str,
    user_properties: &[(&'static str, &'static str)],
) -> Option<Box<ReasonProperties>> {
    Some(Box::new(ReasonProperties {
        reason_string: Some(reason.into()),
        user_properties: pairs(user_properties),
    }))
}

fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

fn receive_maximum(maximum: u16) -> ReceiveMaximum {
    ReceiveMaximum::new(maximum).unwrap()
}

fn subscription_ids(ids: &[u32]) -> SubscriptionIds {
    ids.iter().map(|&id| SubscriptionId::new(id).unwrap()).collect()
}

fn filter(text: &'static str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

fn pairs(pairs: &[(&'static str, &'static str)]) -> UserProperties {
    pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect()
}
