//! The four packets of one shape that acknowledge a PUBLISH.

use mqtt_codec::{Ack, Packet, PacketId, PacketType, QoS, ReasonCode};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the names of the standard")]
pub(crate) enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    /// What answers a PUBLISH of this QoS `[MQTT-3.3.4-1]`.
    pub(crate) fn of_publish(qos: QoS) -> Self {
        if qos == QoS::ExactlyOnce {
            Self::PubRec // [MQTT-4.3.3-8]
        } else {
            Self::PubAck // [MQTT-4.3.2-4]
        }
    }

    pub(crate) fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }

    /// The packet, without reason string: it is not worth asking whether the client wants one
    /// `[MQTT-3.1.2-29]`.
    pub(crate) fn packet(self, packet_id: PacketId, reason: ReasonCode) -> Packet {
        let ack = Ack::new(packet_id, reason); // [MQTT-2.2.1-5]
        match self {
            Self::PubAck => Packet::PubAck(ack),
            Self::PubRec => Packet::PubRec(ack),
            Self::PubRel => Packet::PubRel(ack),
            Self::PubComp => Packet::PubComp(ack),
        }
    }
}
