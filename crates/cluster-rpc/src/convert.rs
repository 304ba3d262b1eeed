//! Between the generated messages and our frames.
//!
//! The only place where a received message is checked: topic, filter, QoS bits, properties, node ids,
//! digest length, equal columns. What passes is valid by construction from here on.

mod relay;
mod routes;
mod sessions;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::QoS;
use prost::Message as _;

pub(crate) use relay::incoming_frame;
pub(crate) use sessions::{MAX_ENTRIES, call, delivery, delivery_flags, from_call};

use crate::error::FrameError;
use crate::frame::{Incarnation, Member, NodeId};
use crate::proto;

/// A frame of ours and the message that carries it.
pub(crate) trait Wire: Sized + Send + 'static {
    /// The generated message.
    type Proto: prost::Message + Default;

    fn from_proto(message: Self::Proto) -> Result<Self, FrameError>;

    fn into_proto(self) -> Self::Proto;

    fn encode(self) -> Bytes {
        self.into_proto().encode_to_vec().into()
    }

    fn decode(frame: Bytes) -> Result<Self, FrameError> {
        Self::decode_generated(frame)
    }

    /// By the generated code, whatever the layout.
    fn decode_generated(frame: Bytes) -> Result<Self, FrameError> {
        let message = Self::Proto::decode(frame).map_err(|_| FrameError::Invalid("protobuf"))?;
        Self::from_proto(message)
    }
}

impl Wire for Member {
    type Proto = proto::Member;

    fn from_proto(member: proto::Member) -> Result<Self, FrameError> {
        Ok(Self {
            node: NodeId::new(&member.node_id).ok_or(FrameError::Invalid("node id"))?,
            incarnation: Incarnation(member.incarnation),
        })
    }

    fn into_proto(self) -> proto::Member {
        proto::Member { node_id: self.node.as_str().to_owned(), incarnation: self.incarnation.0 }
    }
}

fn members(members: Vec<proto::Member>) -> Result<Vec<Member>, FrameError> {
    members.into_iter().map(Member::from_proto).collect()
}

fn required<T>(part: Option<T>, name: &'static str) -> Result<T, FrameError> {
    part.ok_or(FrameError::Missing(name))
}

fn text(bytes: Bytes, name: &'static str) -> Result<ByteString, FrameError> {
    ByteString::try_from(bytes).map_err(|_| FrameError::Invalid(name))
}

fn qos(bits: u32) -> Result<QoS, FrameError> {
    u8::try_from(bits).ok().and_then(QoS::from_bits).ok_or(FrameError::Invalid("qos"))
}

/// What makes a message once: 16 bytes, little endian.
fn key(bytes: &[u8]) -> Result<u128, FrameError> {
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| FrameError::Invalid("key"))?;
    Ok(u128::from_le_bytes(bytes))
}

fn from_key(key: u128) -> Bytes {
    Bytes::copy_from_slice(&key.to_le_bytes())
}
