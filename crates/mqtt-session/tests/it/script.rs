//! A scripted client: what it sends, what it expects, and its clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mqtt_codec::{
    Ack, ClientId, ConnAck, Connect, Decoder, Disconnect, Message, Packet, PacketId, Publish,
    PublishProperties, QoS, ReasonCode, ReceiveMaximum, SubAck, Subscribe, SubscriptionId,
    SubscriptionIds, SubscriptionOptions, TopicAlias, TopicFilter, TopicName, UnsubAck,
    Unsubscribe, Version,
};
use mqtt_session::{
    CloseReason, Confirmation, Connection, Delivery, DeliveryOutcome, DeliverySource, Ended, Event,
    IdOrigin, Once, Opened, ProtocolError, QueueSlot, Resumed, ServerProfile, Session, Ticket,
};

pub(crate) const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// One connection under test.
pub(crate) struct Script {
    pub(crate) connection: Connection,
    pub(crate) now: Instant,
    received: VecDeque<Packet>,
}

impl Script {
    /// Connects with the defaults and takes the CONNACK.
    pub(crate) fn start(version: Version) -> Self {
        Self::with(&connect(version), ServerProfile::default())
    }

    /// Connects with a new kept session and takes the CONNACK.
    pub(crate) fn kept(version: Version) -> Self {
        Self::resume(&connect(version), Session::New)
    }

    /// Connects with `session` and takes the CONNACK.
    pub(crate) fn resume(connect: &Connect, session: Session) -> Self {
        let mut script = Self::open(connect, ServerProfile::default(), session, Instant::now());
        script.connack();
        script
    }

    /// Connects to a server of this profile and takes the CONNACK.
    pub(crate) fn with(connect: &Connect, profile: ServerProfile) -> Self {
        let mut script = Self::open(connect, profile, Session::Clean, Instant::now());
        script.connack();
        script
    }

    /// Connects with `session`.
    pub(crate) fn open(
        connect: &Connect,
        profile: ServerProfile,
        session: Session,
        now: Instant,
    ) -> Self {
        let given = connect.client_id.clone();
        let origin = if given.is_some() { IdOrigin::Given } else { IdOrigin::Assigned };
        let opened = Opened {
            client_id: given.unwrap_or_else(|| ClientId::new("assigned").unwrap()),
            id_origin: origin,
            session,
        };
        let connection = Connection::new(connect, opened, Arc::new(profile), now);
        Self { connection, now, received: VecDeque::new() }
    }

    pub(crate) fn end(self) -> Ended {
        self.connection.end()
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        if self.connection.poll_timeout().is_some_and(|at| at <= self.now) {
            self.connection.handle_timeout(self.now);
        }
    }

    /// The client sends `packet`, and it is allowed.
    #[track_caller]
    pub(crate) fn send(&mut self, packet: Packet) {
        let result = self.connection.handle_packet(packet, self.now);
        assert_eq!(result, Ok(()));
    }

    /// The client sends `packet`, which breaks the protocol: the connection is failed.
    #[track_caller]
    pub(crate) fn send_wrong(&mut self, packet: Packet) -> ProtocolError {
        let error = self.connection.handle_packet(packet, self.now).unwrap_err();
        self.connection.fail(error);
        assert_eq!(self.connection.closed(), Some(&CloseReason::Protocol(error)));
        error
    }

    /// The next packet for the client, as it reads it.
    pub(crate) fn next(&mut self) -> Option<Packet> {
        let version = self.connection.version();
        while let Some(outgoing) = self.connection.poll_packet() {
            let mut bytes = BytesMut::new();
            outgoing.encode(version, &mut bytes).unwrap();
            let mut decoder = Decoder::for_version(version, u32::MAX);
            self.received.push_back(decoder.decode(&mut bytes).unwrap().unwrap());
        }
        self.received.pop_front()
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, packet: Packet) {
        assert_eq!(self.next(), Some(packet));
    }

    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) {
        assert_eq!(self.next(), None);
    }

    #[track_caller]
    pub(crate) fn expect_publish(&mut self) -> Publish {
        match self.next() {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("a PUBLISH, not {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn connack(&mut self) -> ConnAck {
        match self.next() {
            Some(Packet::ConnAck(connack)) => *connack,
            other => panic!("a CONNACK, not {other:?}"),
        }
    }

    /// What the server says at the end: a DISCONNECT with `reason` in MQTT 5.0, nothing before.
    #[track_caller]
    pub(crate) fn expect_farewell(&mut self, reason: ReasonCode) {
        if self.connection.version() == Version::V5 {
            match self.next() {
                Some(Packet::Disconnect(disconnect)) => {
                    assert_eq!(disconnect.reason, reason);
                    assert_eq!(disconnect.session_expiry_secs, None);
                }
                other => panic!("a DISCONNECT, not {other:?}"),
            }
        }
        self.expect_nothing();
        assert!(self.connection.closed().is_some());
    }

    #[track_caller]
    pub(crate) fn publish_event(&mut self) -> (Message, Ticket) {
        let (message, once, ticket) = self.any_publish_event();
        assert_eq!(once, None);
        (message, ticket)
    }

    /// The next message, of QoS 2 and on a kept connection.
    #[track_caller]
    pub(crate) fn once_event(&mut self, expected: Once) -> Ticket {
        let (_, once, ticket) = self.any_publish_event();
        assert_eq!(once, Some(expected));
        ticket
    }

    #[track_caller]
    fn any_publish_event(&mut self) -> (Message, Option<Once>, Ticket) {
        match self.connection.poll_event() {
            Some(Event::Publish { message, once, ticket }) => (message, once, ticket),
            other => panic!("a publish event, not {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn release_event(&mut self, packet_id: u16) -> Ticket {
        match self.connection.poll_event() {
            Some(Event::Release { packet_id: released, ticket }) => {
                assert_eq!(released, id(packet_id));
                ticket
            }
            other => panic!("a release event, not {other:?}"),
        }
    }

    /// What the client has confirmed since the last call.
    pub(crate) fn confirmations(&mut self) -> Vec<Confirmation> {
        std::iter::from_fn(|| self.connection.poll_confirmation()).collect()
    }

    #[track_caller]
    pub(crate) fn expect_no_event(&mut self) {
        assert_eq!(self.connection.poll_event(), None);
    }

    /// The broker takes the next message.
    #[track_caller]
    pub(crate) fn accept(&mut self) -> Message {
        let (message, ticket) = self.publish_event();
        self.connection.complete(ticket, ReasonCode::Success);
        message
    }

    #[track_caller]
    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        let outcome = self.connection.handle_delivery(delivery, self.now);
        assert_eq!(outcome, DeliveryOutcome::Queued);
    }
}

pub(crate) fn connect(version: Version) -> Connect {
    Connect {
        clean_start: false,
        session_expiry_secs: u32::MAX,
        ..Connect::new(version, ClientId::new("client"))
    }
}

pub(crate) fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

pub(crate) fn alias(value: u16) -> TopicAlias {
    TopicAlias::new(value).unwrap()
}

pub(crate) fn maximum(value: u16) -> ReceiveMaximum {
    ReceiveMaximum::new(value).unwrap()
}

pub(crate) fn topic(text: &'static str) -> TopicName {
    TopicName::new(text).unwrap()
}

/// A message as its number.
pub(crate) fn message(number: u32) -> Message {
    Message {
        topic: topic("a/topic/of/some/length"),
        payload: Bytes::copy_from_slice(&number.to_be_bytes()),
        qos: QoS::ExactlyOnce,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

pub(crate) fn delivery(number: u32, qos: QoS) -> Delivery {
    Delivery {
        message: Arc::new(message(number)),
        qos,
        retain: false,
        subscription_ids: SubscriptionIds::new(),
        expires_at: None,
        source: DeliverySource::Own,
    }
}

/// The place of a kept session's queue whose packet identifier is the same number.
pub(crate) fn slot(place: u16) -> QueueSlot {
    QueueSlot { place: u64::from(place), packet_id: id(place) }
}

/// The message with this number from this place of the queue.
pub(crate) fn queued(place: u16, qos: QoS) -> Delivery {
    let source = DeliverySource::Queue { slot: slot(place), dup: false };
    Delivery { source, ..delivery(u32::from(place), qos) }
}

/// The same, that may have been sent before.
pub(crate) fn again(place: u16, qos: QoS) -> Delivery {
    let source = DeliverySource::Queue { slot: slot(place), dup: true };
    Delivery { source, ..delivery(u32::from(place), qos) }
}

/// The message with this number from a group.
pub(crate) fn grouped(place: u16, qos: QoS) -> Delivery {
    let source = DeliverySource::Group { group: 9, place: u64::from(place) };
    Delivery { source, ..delivery(u32::from(place), qos) }
}

pub(crate) fn settled(place: u64) -> Confirmation {
    Confirmation::Settled { place }
}

pub(crate) fn received(place: u64) -> Confirmation {
    Confirmation::Received { place }
}

pub(crate) fn of_group(place: u64) -> Confirmation {
    Confirmation::Group { group: 9, place }
}

/// A session that goes on, with this released and this incoming.
pub(crate) fn resumed(released: &[u16], incoming: &[u16]) -> Session {
    Session::Resumed(Resumed {
        released: released.iter().map(|&place| slot(place)).collect(),
        incoming: incoming.iter().map(|&packet_id| id(packet_id)).collect(),
        taken: Vec::new(),
    })
}

/// A PUBLISH of [`message`]; QoS 0 if `packet_id` is 0.
pub(crate) fn publish(number: u32, qos: QoS, packet_id: u16) -> Publish {
    let Message { topic, payload, properties, .. } = message(number);
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(packet_id),
        topic: Some(topic),
        alias: None,
        expiry_secs: None,
        subscription_ids: SubscriptionIds::new(),
        properties,
        payload,
    }
}

pub(crate) fn qos0(number: u32) -> Packet {
    Packet::Publish(publish(number, QoS::AtMostOnce, 0))
}

pub(crate) fn qos1(number: u32, packet_id: u16) -> Packet {
    Packet::Publish(publish(number, QoS::AtLeastOnce, packet_id))
}

pub(crate) fn qos2(number: u32, packet_id: u16) -> Packet {
    Packet::Publish(publish(number, QoS::ExactlyOnce, packet_id))
}

pub(crate) fn puback(packet_id: u16) -> Packet {
    Packet::PubAck(Ack::new(id(packet_id), ReasonCode::Success))
}

pub(crate) fn pubrec(packet_id: u16) -> Packet {
    Packet::PubRec(Ack::new(id(packet_id), ReasonCode::Success))
}

pub(crate) fn pubrel(packet_id: u16) -> Packet {
    Packet::PubRel(Ack::new(id(packet_id), ReasonCode::Success))
}

pub(crate) fn pubcomp(packet_id: u16) -> Packet {
    Packet::PubComp(Ack::new(id(packet_id), ReasonCode::Success))
}

/// An acknowledgement with `reason`, of which MQTT 3 reads none.
pub(crate) fn lowered(version: Version, reason: ReasonCode) -> ReasonCode {
    if version == Version::V5 { reason } else { ReasonCode::Success }
}

pub(crate) fn subscribe(packet_id: u16, filters: &[(&'static str, QoS)]) -> Subscribe {
    let filters = filters.iter().map(|&(filter, qos)| {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        (TopicFilter::new(filter).unwrap(), options)
    });
    Subscribe {
        packet_id: id(packet_id),
        subscription_id: None,
        user_properties: Vec::new(),
        filters: filters.collect(),
    }
}

pub(crate) fn unsubscribe(packet_id: u16, filters: &[&'static str]) -> Packet {
    Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: id(packet_id),
        user_properties: Vec::new(),
        filters: filters.iter().map(|&filter| TopicFilter::new(filter).unwrap()).collect(),
    }))
}

pub(crate) fn suback(packet_id: u16, reasons: &[ReasonCode]) -> Packet {
    let reasons = reasons.to_vec();
    Packet::SubAck(SubAck { packet_id: id(packet_id), reasons, properties: None })
}

pub(crate) fn unsuback(packet_id: u16, reasons: &[ReasonCode]) -> Packet {
    let reasons = reasons.to_vec();
    Packet::UnsubAck(UnsubAck { packet_id: id(packet_id), reasons, properties: None })
}

pub(crate) fn disconnect(reason: ReasonCode) -> Packet {
    Packet::Disconnect(Box::new(Disconnect { reason, ..Disconnect::default() }))
}

pub(crate) fn subscription_id(value: u32) -> SubscriptionId {
    SubscriptionId::new(value).unwrap()
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
