//! The sum of all control packets.

use crate::{
    Ack, Auth, ConnAck, Connect, Disconnect, Publish, SubAck, Subscribe, UnsubAck, Unsubscribe,
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
