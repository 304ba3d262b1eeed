//! One MQTT connection under full control of a test.
//!
//! Sends packets or bytes, receives packets, and fails with the conversation so far when something
//! else comes than was asked for. Does nothing by itself: no keep alive, no acknowledgement, no
//! reconnection, unless a method says so.

use std::collections::VecDeque;
use std::fmt::Display;
use std::net::SocketAddr;
use std::panic::Location;

use bytes::{Bytes, BytesMut};
use mqtt_codec::{
    Ack, Auth, ClientId, ConnAck, Connect, Decoder, Disconnect, Packet, PacketId, Publish,
    PublishProperties, QoS, ReasonCode, SubAck, Subscribe, SubscriptionId, SubscriptionIds,
    SubscriptionOptions, TopicFilter, TopicName, UnsubAck, Unsubscribe, UserProperties, Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::DEADLINE;

/// A client made of a socket and a codec.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    version: Version,
    decoder: Decoder,
    unread: BytesMut,
    /// PUBLISH packets that came while an acknowledgement was waited for: the standard does not
    /// say which comes first.
    early: VecDeque<Publish>,
    last_id: u16,
    connack: ConnAck,
    /// The conversation, for failure messages.
    log: VecDeque<String>,
}

/// A CONNECT of a clean session without keep alive; an empty `id` asks for an assigned one.
#[must_use]
pub fn connect_packet(version: Version, id: &str) -> Connect {
    Connect::new(version, ClientId::new(id))
}

/// Makes `connect` ask for a session that outlives the connection, and for the one there is.
pub const fn persistent(connect: &mut Connect) {
    connect.clean_start = false;
    connect.session_expiry_secs = u32::MAX;
}

impl RawClient {
    /// A TCP connection on which nothing was said yet.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    pub async fn open(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a connected socket takes the option");
        Self {
            stream,
            version,
            decoder: Decoder::for_version(version, u32::MAX),
            unread: BytesMut::new(),
            early: VecDeque::new(),
            last_id: 0,
            connack: ConnAck::default(),
            log: VecDeque::new(),
        }
    }

    /// A connection on which `connect` was accepted.
    ///
    /// # Panics
    ///
    /// When it is refused.
    #[track_caller]
    pub fn connect(address: SocketAddr, connect: Connect) -> impl Future<Output = Self> {
        let at = Location::caller();
        async move {
            let mut client = Self::open(address, connect.version).await;
            client.send(Packet::Connect(Box::new(connect))).await;
            let packet = client.next(at).await;
            let Packet::ConnAck(connack) = packet else {
                client.fail(at, format_args!("expected CONNACK, got {packet:?}"))
            };
            if connack.reason != ReasonCode::Success {
                client.fail(at, format_args!("refused: {connack:?}"));
            }
            client.connack = *connack;
            client
        }
    }

    /// What the server said when it accepted.
    #[must_use]
    pub const fn connack(&self) -> &ConnAck {
        &self.connack
    }

    /// The version it speaks.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Whether it speaks MQTT 5.0.
    #[must_use]
    pub fn is_v5(&self) -> bool {
        self.version == Version::V5
    }

    /// Sends one packet.
    ///
    /// # Panics
    ///
    /// When no encoder would write it. A broken connection is left to the next expectation.
    pub async fn send(&mut self, packet: Packet) {
        self.note(format_args!("> {packet:?}"));
        let mut bytes = BytesMut::new();
        packet.encode(self.version, &mut bytes).expect("the test sends what can be encoded");
        drop(self.stream.write_all(&bytes).await);
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.note(format_args!("> {bytes:02x?}"));
        drop(self.stream.write_all(bytes).await);
    }

    /// A packet identifier this client has not used.
    pub fn new_id(&mut self) -> PacketId {
        self.last_id += 1;
        PacketId::new(self.last_id).expect("no test sends 65,536 packets over one connection")
    }

    /// A PUBLISH with a new packet identifier if it needs one.
    ///
    /// # Panics
    ///
    /// When `topic` is no topic name.
    pub fn new_publish(&mut self, topic: &str, qos: QoS, payload: impl Into<Bytes>) -> Publish {
        Publish {
            dup: false,
            qos,
            retain: false,
            packet_id: (qos != QoS::AtMostOnce).then(|| self.new_id()),
            topic: Some(TopicName::new(topic).expect("the test names a topic")),
            alias: None,
            expiry_secs: None,
            subscription_ids: SubscriptionIds::new(),
            properties: PublishProperties::default(),
            payload: payload.into(),
        }
    }

    /// Publishes and completes the handshake of `qos`.
    ///
    /// # Panics
    ///
    /// When the server refuses.
    #[track_caller]
    pub fn publish(
        &mut self,
        topic: &str,
        qos: QoS,
        payload: impl Into<Bytes>,
    ) -> impl Future<Output = ()> {
        let publish = self.new_publish(topic, qos, payload);
        let at = Location::caller();
        async move {
            let reason = self.hand_over(publish, at).await;
            if reason.is_error() {
                self.fail(at, format_args!("refused: {reason:?}"));
            }
        }
    }

    /// Sends `publish` and completes the handshake of its QoS; the reason of the PUBACK or PUBREC.
    #[track_caller]
    pub fn publish_with(&mut self, publish: Publish) -> impl Future<Output = ReasonCode> {
        let at = Location::caller();
        self.hand_over(publish, at)
    }

    async fn hand_over(&mut self, publish: Publish, at: &Location<'_>) -> ReasonCode {
        let (qos, id) = (publish.qos, publish.packet_id);
        self.send(Packet::Publish(publish)).await;
        let reason = match qos {
            QoS::AtMostOnce => return ReasonCode::Success,
            QoS::AtLeastOnce => self.acknowledgement(at, "PUBACK", as_puback).await,
            QoS::ExactlyOnce => self.acknowledgement(at, "PUBREC", as_pubrec).await,
        };
        if Some(reason.packet_id) != id {
            self.fail(at, format_args!("acknowledged with another packet identifier"));
        }
        if qos == QoS::ExactlyOnce && !reason.reason.is_error() {
            self.send(Packet::PubRel(Ack::new(reason.packet_id, ReasonCode::Success))).await;
            let pubcomp = self.acknowledgement(at, "PUBCOMP", as_pubcomp).await;
            if Some(pubcomp.packet_id) != id {
                self.fail(at, format_args!("completed with another packet identifier"));
            }
        }
        reason.reason
    }

    /// Subscribes to one filter.
    ///
    /// # Panics
    ///
    /// When it is refused, or `filter` is none.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> impl Future<Output = ()> {
        let at = Location::caller();
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        let subscribe = self.new_subscribe(&[(filter, options)], None);
        async move {
            let suback = self.ask_for(subscribe, at).await;
            if suback.reasons.iter().any(|reason| reason.is_error()) {
                self.fail(at, format_args!("refused: {suback:?}"));
            }
        }
    }

    /// Subscribes with everything there is to say, and returns the answer.
    #[track_caller]
    pub fn subscribe_with(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        id: Option<u32>,
    ) -> impl Future<Output = SubAck> {
        let at = Location::caller();
        let subscribe = self.new_subscribe(filters, id);
        self.ask_for(subscribe, at)
    }

    fn new_subscribe(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        id: Option<u32>,
    ) -> Subscribe {
        let filters = filters.iter().map(|&(filter, options)| (topic_filter(filter), options));
        Subscribe {
            packet_id: self.new_id(),
            subscription_id: id.map(|id| SubscriptionId::new(id).expect("the test gives an id")),
            user_properties: UserProperties::new(),
            filters: filters.collect(),
        }
    }

    async fn ask_for(&mut self, subscribe: Subscribe, at: &Location<'_>) -> SubAck {
        let id = subscribe.packet_id;
        self.send(Packet::Subscribe(Box::new(subscribe))).await;
        let suback = self.acknowledgement(at, "SUBACK", as_suback).await;
        if suback.packet_id != id {
            self.fail(at, format_args!("SUBACK with another packet identifier"));
        }
        suback
    }

    /// Unsubscribes and returns the answer.
    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> impl Future<Output = UnsubAck> {
        let at = Location::caller();
        let id = self.new_id();
        let unsubscribe = Unsubscribe {
            packet_id: id,
            user_properties: UserProperties::new(),
            filters: filters.iter().map(|filter| topic_filter(filter)).collect(),
        };
        async move {
            self.send(Packet::Unsubscribe(Box::new(unsubscribe))).await;
            let unsuback = self.acknowledgement(at, "UNSUBACK", as_unsuback).await;
            if unsuback.packet_id != id {
                self.fail(at, format_args!("UNSUBACK with another packet identifier"));
            }
            unsuback
        }
    }

    /// The next packet.
    ///
    /// # Panics
    ///
    /// When none comes.
    #[track_caller]
    pub fn recv(&mut self) -> impl Future<Output = Packet> {
        let at = Location::caller();
        self.next(at)
    }

    /// The next PUBLISH, which must be the next packet, acknowledgements aside.
    #[track_caller]
    pub fn expect_publish(&mut self) -> impl Future<Output = Publish> {
        let at = Location::caller();
        self.next_publish(at)
    }

    /// The next PUBLISH, which must carry `payload`; completes the handshake of its QoS.
    #[track_caller]
    pub fn expect_message(&mut self, payload: impl AsRef<[u8]>) -> impl Future<Output = Publish> {
        let at = Location::caller();
        async move {
            let publish = self.next_publish(at).await;
            if publish.payload != payload.as_ref() {
                let payload = payload.as_ref().escape_ascii();
                self.fail(at, format_args!("expected {payload}, got {publish:?}"));
            }
            self.take_over(&publish, at).await;
            publish
        }
    }

    /// Completes the handshake of a PUBLISH that was received.
    #[track_caller]
    pub fn accept(&mut self, publish: &Publish) -> impl Future<Output = ()> {
        let at = Location::caller();
        self.take_over(publish, at)
    }

    async fn next_publish(&mut self, at: &Location<'_>) -> Publish {
        if let Some(publish) = self.early.pop_front() {
            return publish;
        }
        let packet = self.next(at).await;
        let Packet::Publish(publish) = packet else {
            self.fail(at, format_args!("expected PUBLISH, got {packet:?}"))
        };
        publish
    }

    async fn take_over(&mut self, publish: &Publish, at: &Location<'_>) {
        let Some(id) = publish.packet_id else { return };
        let ack = Ack::new(id, ReasonCode::Success);
        if publish.qos == QoS::AtLeastOnce {
            return self.send(Packet::PubAck(ack)).await;
        }
        self.send(Packet::PubRec(ack.clone())).await;
        let pubrel = self.acknowledgement(at, "PUBREL", as_pubrel).await;
        if pubrel.packet_id != id {
            self.fail(at, format_args!("PUBREL with another packet identifier"));
        }
        self.send(Packet::PubComp(ack)).await;
    }

    /// Requires that nothing was on its way to this client: a PINGREQ is answered first.
    #[track_caller]
    pub fn expect_nothing(&mut self) -> impl Future<Output = ()> {
        let at = Location::caller();
        async move {
            if let Some(publish) = self.early.pop_front() {
                self.fail(at, format_args!("expected nothing, got {publish:?}"));
            }
            self.send(Packet::PingReq).await;
            let packet = self.next(at).await;
            if packet != Packet::PingResp {
                self.fail(at, format_args!("expected nothing, got {packet:?}"));
            }
        }
    }

    /// Requires that the server closes the connection and says nothing more.
    #[track_caller]
    pub fn expect_closed(&mut self) -> impl Future<Output = ()> {
        let at = Location::caller();
        async move {
            match self.receive().await {
                Ok(None) => {}
                Ok(Some(packet)) => self.fail(at, format_args!("expected the end, got {packet:?}")),
                Err(problem) => self.fail(at, format_args!("expected the end: {problem}")),
            }
        }
    }

    /// Requires that the server ends the connection: MQTT 5.0 with a DISCONNECT for `reason`,
    /// MQTT 3 by closing.
    #[track_caller]
    pub fn expect_end(&mut self, reason: ReasonCode) -> impl Future<Output = ()> {
        let at = Location::caller();
        async move {
            if self.version == Version::V5 {
                let packet = self.next(at).await;
                let Packet::Disconnect(disconnect) = &packet else {
                    self.fail(at, format_args!("expected DISCONNECT, got {packet:?}"))
                };
                if disconnect.reason != reason {
                    self.fail(at, format_args!("expected {reason:?}, got {disconnect:?}"));
                }
            }
            match self.receive().await {
                Ok(None) => {}
                other => self.fail(at, format_args!("expected the end, got {other:?}")),
            }
        }
    }

    /// Says goodbye and waits until the server has closed.
    #[track_caller]
    pub fn disconnect(mut self) -> impl Future<Output = ()> {
        let at = Location::caller();
        async move {
            self.send(Packet::Disconnect(Box::default())).await;
            match self.receive().await {
                Ok(None) => {}
                other => self.fail(at, format_args!("expected the end, got {other:?}")),
            }
        }
    }

    /// The next `count` bytes as they are.
    ///
    /// # Panics
    ///
    /// When they do not come.
    pub async fn recv_bytes(&mut self, count: usize) -> Bytes {
        let until = Instant::now() + DEADLINE;
        while self.unread.len() < count {
            match tokio::time::timeout_at(until, self.stream.read_buf(&mut self.unread)).await {
                Ok(Ok(1..)) => {}
                end => panic!("expected {count} bytes, got {:02x?}, then {end:?}", self.unread),
            }
        }
        self.unread.split_to(count).freeze()
    }

    /// All bytes until the server closes.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn recv_to_end(&mut self) -> Bytes {
        let until = Instant::now() + DEADLINE;
        loop {
            match tokio::time::timeout_at(until, self.stream.read_buf(&mut self.unread)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return self.unread.split().freeze(),
                Err(_) => panic!("not closed after {:02x?}", self.unread),
            }
        }
    }

    async fn next(&mut self, at: &Location<'_>) -> Packet {
        match self.receive().await {
            Ok(Some(packet)) => packet,
            Ok(None) => self.fail(at, format_args!("the server closed the connection")),
            Err(problem) => self.fail(at, problem),
        }
    }

    /// `None` when the server closed.
    async fn receive(&mut self) -> Result<Option<Packet>, String> {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.decoder.decode(&mut self.unread) {
                Ok(Some(packet)) => {
                    self.note(format_args!("< {packet:?}"));
                    return Ok(Some(packet));
                }
                Ok(None) => {}
                Err(error) => return Err(format!("{error}: {:02x?}", self.unread)),
            }
            let read = tokio::time::timeout_at(until, self.stream.read_buf(&mut self.unread)).await;
            match read {
                Err(_) => return Err(format!("nothing within {DEADLINE:?}")),
                Ok(Ok(1..)) => {}
                Ok(_) if self.unread.is_empty() => {
                    self.note(format_args!("< closed"));
                    return Ok(None);
                }
                Ok(_) => return Err(format!("closed within a packet: {:02x?}", self.unread)),
            }
        }
    }

    /// The next packet `take` wants; PUBLISH packets that come before it are kept.
    async fn acknowledgement<T>(
        &mut self,
        at: &Location<'_>,
        what: &str,
        take: fn(Packet) -> Result<T, Box<Packet>>,
    ) -> T {
        loop {
            let other = match take(self.next(at).await) {
                Ok(wanted) => return wanted,
                Err(other) => *other,
            };
            let Packet::Publish(publish) = other else {
                self.fail(at, format_args!("expected {what}, got {other:?}"))
            };
            self.early.push_back(publish);
        }
    }

    fn note(&mut self, line: impl Display) {
        if self.log.len() == 30 {
            self.log.pop_front();
        }
        let mut line = line.to_string();
        if let Some((cut, _)) = line.char_indices().nth(400) {
            line.truncate(cut);
        }
        self.log.push_back(line);
    }

    fn fail(&self, at: &Location<'_>, problem: impl Display) -> ! {
        let log: Vec<_> = self.log.iter().map(String::as_str).collect();
        panic!("{at}: {:?}: {problem}\nuntil then:\n{}", self.version, log.join("\n"))
    }
}

fn topic_filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).expect("the test gives a topic filter")
}

/// Defines, for packets that answer something, a method that expects one and the function that
/// unwraps it. A PUBLISH that comes earlier is kept for later.
macro_rules! answers {
    ($($method:ident, $unwrap:ident: $variant:ident($type:ty), $name:literal;)*) => {
        impl RawClient {
            $(
                #[doc = concat!("The next packet, which must be ", $name, ", PUBLISH aside.")]
                #[track_caller]
                pub fn $method(&mut self) -> impl Future<Output = $type> {
                    let at = Location::caller();
                    self.acknowledgement(at, $name, $unwrap)
                }
            )*
        }
        $(
            fn $unwrap(packet: Packet) -> Result<$type, Box<Packet>> {
                if let Packet::$variant(inner) = packet { Ok(inner.into()) } else { Err(Box::new(packet)) }
            }
        )*
    };
}

answers! {
    expect_connack, as_connack: ConnAck(Box<ConnAck>), "CONNACK";
    expect_puback, as_puback: PubAck(Ack), "PUBACK";
    expect_pubrec, as_pubrec: PubRec(Ack), "PUBREC";
    expect_pubrel, as_pubrel: PubRel(Ack), "PUBREL";
    expect_pubcomp, as_pubcomp: PubComp(Ack), "PUBCOMP";
    expect_suback, as_suback: SubAck(SubAck), "SUBACK";
    expect_unsuback, as_unsuback: UnsubAck(UnsubAck), "UNSUBACK";
    expect_disconnect, as_disconnect: Disconnect(Box<Disconnect>), "DISCONNECT";
    expect_auth, as_auth: Auth(Box<Auth>), "AUTH";
}
