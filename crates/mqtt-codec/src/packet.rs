//! The sum of all control packets, and how one is written.
//!
//! Each packet describes once what it writes; the description runs twice, first to count and check,
//! then to store. PUBLISH and short acknowledgements, which are many, have ways of their own.

use bytes::{BufMut, BytesMut};

use crate::wire::{Count, Sink, fixed_header_len, put_fixed_header};
use crate::{
    Ack, Auth, ConnAck, Connect, Disconnect, EncodeError, Publish, SubAck, Subscribe, UnsubAck,
    Unsubscribe, Version,
};

/// An MQTT control packet, in the order of the standard's packet types. The large and rare ones
/// are boxed, so that a packet stays about as large as a PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client to server: the first packet.
    Connect(Box<Connect>),
    /// Server to client: the answer to it.
    ConnAck(Box<ConnAck>),
    /// A message, either way.
    Publish(Publish),
    /// Answer to a QoS 1 PUBLISH.
    PubAck(Ack),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(Ack),
    /// The publisher's release of a QoS 2 message.
    PubRel(Ack),
    /// Last answer of QoS 2.
    PubComp(Ack),
    /// Client to server.
    Subscribe(Box<Subscribe>),
    /// Server to client.
    SubAck(SubAck),
    /// Client to server.
    Unsubscribe(Box<Unsubscribe>),
    /// Server to client.
    UnsubAck(UnsubAck),
    /// Client to server.
    PingReq,
    /// Server to client.
    PingResp,
    /// Either way: the last packet.
    Disconnect(Box<Disconnect>),
    /// Either way, MQTT 5.0 only.
    Auth(Box<Auth>),
}

/// The packet types of the standard `[MQTT5 2.1.2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "they are documented at the packets")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type for its four bits on the wire; `None` for 0, which is reserved.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The flags every packet of this type has in its fixed header; a PUBLISH has its own.
    pub(crate) const fn flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            Self::Connect
            | Self::ConnAck
            | Self::Publish
            | Self::PubAck
            | Self::PubRec
            | Self::PubComp
            | Self::SubAck
            | Self::UnsubAck
            | Self::PingReq
            | Self::PingResp
            | Self::Disconnect
            | Self::Auth => 0,
        }
    }

    const fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.flags()
    }
}

impl Packet {
    /// The packet's type.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Adds the packet to `dst`, or nothing if it must not be sent.
    ///
    /// A CONNECT is written in its own version. MQTT 3 drops what it cannot say: properties,
    /// subscription options but QoS, reasons of acknowledgements.
    pub fn encode(&self, version: Version, dst: &mut BytesMut) -> Result<(), EncodeError> {
        if let Self::Publish(publish) = self {
            return publish.encode(version, dst);
        }
        let first = self.packet_type().first_byte();
        if let Some(id) = self.short_ack(version) {
            let [high, low] = id.to_be_bytes();
            dst.put_slice(&[first, 2, high, low]);
            return Ok(());
        }
        let mut count = Count::default();
        self.write(version, &mut count);
        let remaining = count.finish()?;
        dst.reserve(fixed_header_len(remaining) + remaining);
        put_fixed_header(first, remaining, dst);
        self.write(version, dst);
        Ok(())
    }

    /// How many bytes [`encode`](Self::encode) adds.
    #[must_use]
    pub fn encoded_len(&self, version: Version) -> usize {
        if let Self::Publish(publish) = self {
            return publish.encoded_len(version);
        }
        let mut count = Count::default();
        self.write(version, &mut count);
        fixed_header_len(count.bytes()) + count.bytes()
    }

    /// The identifier of an acknowledgement that says nothing else.
    fn short_ack(&self, version: Version) -> Option<u16> {
        if let Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) = self
        {
            return ack.is_short(version).then(|| ack.packet_id.value());
        }
        None
    }

    /// Variable header and payload of all but PUBLISH.
    fn write(&self, version: Version, sink: &mut dyn Sink) {
        let v5 = version == Version::V5;
        match self {
            Self::Connect(connect) => connect.write(sink),
            Self::ConnAck(connack) => connack.write(version, sink),
            Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) => {
                ack.write(self.packet_type(), version, sink);
            }
            Self::Subscribe(subscribe) => subscribe.write(version, sink),
            Self::SubAck(suback) => suback.write(version, sink),
            Self::Unsubscribe(unsubscribe) => unsubscribe.write(version, sink),
            Self::UnsubAck(unsuback) => unsuback.write(version, sink),
            Self::Disconnect(disconnect) if v5 => disconnect.write(sink),
            Self::Auth(auth) if v5 => auth.write(sink),
            Self::Auth(_) => sink.refuse(EncodeError::NotInVersion(PacketType::Auth, version)),
            Self::Publish(_) | Self::PingReq | Self::PingResp | Self::Disconnect(_) => {}
        }
    }
}
