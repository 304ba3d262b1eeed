//! One packet cut from a buffer.
//!
//! Owns the fixed header: what can be refused from it is refused before the rest is waited for. Learns
//! the version from the CONNECT. Does not know who is server and who is client, so it decodes what
//! either may send; nor in which order packets may come, but for the first one.

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::{self, Reader};
use crate::{
    Ack, Auth, ConnAck, Connect, DecodeError, Disconnect, Packet, PacketType, Publish, SubAck,
    Subscribe, UnsubAck, Unsubscribe, Version,
};

/// Cuts packets from what one side of a connection has read.
#[derive(Clone, Debug)]
pub struct Decoder {
    version: Option<Version>,
    max_packet_size: u32,
}

/// What the first two to five bytes of a packet say.
struct FixedHeader {
    packet: PacketType,
    flags: u8,
    /// Bytes of the header itself.
    length: usize,
    /// Bytes of the whole packet.
    total: usize,
}

impl Decoder {
    /// For a server: the first packet must be a CONNECT `[MQTT-3.1.0-1]`, whose version is then
    /// that of all packets. No packet may have more than `max_packet_size` bytes.
    #[must_use]
    pub const fn new(max_packet_size: u32) -> Self {
        Self { version: None, max_packet_size }
    }

    /// For a client, which chose the version.
    #[must_use]
    pub const fn for_version(version: Version, max_packet_size: u32) -> Self {
        Self { version: Some(version), max_packet_size }
    }

    /// The version in use; `None` before the CONNECT.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes one packet off the front of `src`; `None` if it is not complete yet.
    ///
    /// Topic, payload and properties share the memory of `src`: what is kept for long should be
    /// detached from it. After an error the connection has no meaning left and must be closed.
    pub fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(header) = self.fixed_header(src)? else {
            return Ok(None);
        };
        if src.len() < header.total {
            return Ok(None);
        }
        let mut frame = src.split_to(header.total).freeze();
        frame.advance(header.length);
        match self.version {
            Some(version) => decode_body(&header, frame, version),
            None => self.decode_first(&frame).map(Some),
        }
    }

    /// How many bytes the packet `src` begins with still lacks, as far as can be told yet: never
    /// 0 for an incomplete packet, 0 for a complete one and for one that will be refused.
    #[must_use]
    pub fn missing(&self, src: &[u8]) -> usize {
        match self.fixed_header(src) {
            Ok(Some(header)) => header.total.saturating_sub(src.len()),
            // Two bytes are the shortest packet.
            Ok(None) => 2_usize.saturating_sub(src.len()).max(1),
            Err(_) => 0,
        }
    }

    fn fixed_header(&self, src: &[u8]) -> Result<Option<FixedHeader>, DecodeError> {
        let Some((&first, rest)) = src.split_first() else {
            return Ok(None);
        };
        let packet = PacketType::from_bits(first >> 4)
            .filter(|&packet| packet != PacketType::Auth || !self.is_mqtt3())
            .ok_or(DecodeError::ReservedPacketType(first >> 4))?;
        if self.version.is_none() && packet != PacketType::Connect {
            return Err(DecodeError::ConnectExpected(packet)); // [MQTT-3.1.0-1]
        }
        let flags = first & 0x0F;
        self.check_flags(packet, flags)?;
        let Some((remaining, width)) = wire::var_int(rest)? else {
            return Ok(None);
        };
        let length = 1 + width;
        // At most 268,435,460: fits into both types.
        let total = length + remaining as usize;
        let size = remaining + length as u32;
        if size > self.max_packet_size {
            return Err(DecodeError::PacketTooLarge { size, limit: self.max_packet_size });
        }
        Ok(Some(FixedHeader { packet, flags, length, total }))
    }

    fn is_mqtt3(&self) -> bool {
        self.version.is_some_and(|version| version < Version::V5)
    }

    fn check_flags(&self, packet: PacketType, flags: u8) -> Result<(), DecodeError> {
        const DUP: u8 = 0b1000;
        if packet == PacketType::Publish {
            return Publish::check_flags(flags);
        }
        let expected = packet.flags();
        // MQTT 3.1 repeats SUBSCRIBE, UNSUBSCRIBE and PUBREL with DUP set.
        let may_be_dup = self.version == Some(Version::V3_1) && expected != 0;
        match flags == expected || may_be_dup && flags == expected | DUP {
            true => Ok(()),
            false => Err(DecodeError::FixedHeaderFlags(packet)), // [MQTT-2.1.3-1]
        }
    }

    /// The body of the first packet, which is known to be a CONNECT.
    fn decode_first(&mut self, frame: &Bytes) -> Result<Packet, DecodeError> {
        let mut reader = Reader::new(frame);
        // Known before the rest is read, so that the rest can be refused in the client's version.
        self.version = Some(Connect::decode_version(&mut reader.clone())?);
        let connect = Connect::decode(&mut reader)?;
        reader.finish()?;
        Ok(Packet::Connect(Box::new(connect)))
    }
}

fn decode_body(
    header: &FixedHeader,
    frame: Bytes,
    version: Version,
) -> Result<Option<Packet>, DecodeError> {
    let mut reader = Reader::new(&frame);
    let r = &mut reader;
    let packet = match header.packet {
        // Its payload is what its header leaves, hence no `finish`.
        PacketType::Publish => {
            return Publish::decode_packet(frame, header.flags, version);
        }
        // A second one, which is for others to refuse [MQTT-3.1.0-2].
        PacketType::Connect => Packet::Connect(Box::new(Connect::decode(r)?)),
        PacketType::ConnAck => Packet::ConnAck(Box::new(ConnAck::decode(r, version)?)),
        PacketType::PubAck => Packet::PubAck(Ack::decode(r, header.packet, version)?),
        PacketType::PubRec => Packet::PubRec(Ack::decode(r, header.packet, version)?),
        PacketType::PubRel => Packet::PubRel(Ack::decode(r, header.packet, version)?),
        PacketType::PubComp => Packet::PubComp(Ack::decode(r, header.packet, version)?),
        PacketType::Subscribe => Packet::Subscribe(Box::new(Subscribe::decode(r, version)?)),
        PacketType::SubAck => Packet::SubAck(SubAck::decode(r, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Box::new(Unsubscribe::decode(r, version)?)),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(r, version)?),
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => Packet::Disconnect(Box::new(Disconnect::decode(r, version)?)),
        PacketType::Auth => Packet::Auth(Box::new(Auth::decode(r)?)),
    };
    reader.finish()?;
    Ok(Some(packet))
}
