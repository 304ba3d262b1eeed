//! PUBLISH: a message on its way over one connection.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{Message, PacketId, PublishProperties, QoS, SubscriptionId, TopicAlias, TopicName};

/// The subscription identifiers of one PUBLISH, mostly none or one.
pub type SubscriptionIds = SmallVec<[SubscriptionId; 2]>;

/// A PUBLISH packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Whether this may be a repetition.
    pub dup: bool,
    /// Quality of service of this delivery.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Present exactly when `qos` is above 0 `[MQTT-2.2.1-2]`.
    pub packet_id: Option<PacketId>,
    /// `None` when only the alias stands for it.
    pub topic: Option<TopicName>,
    /// Stands for the topic, or sets what it stands for when `topic` is given too.
    pub alias: Option<TopicAlias>,
    /// Message Expiry Interval in seconds.
    pub expiry_secs: Option<u32>,
    /// Only from server to client.
    pub subscription_ids: SubscriptionIds,
    /// What goes on unaltered.
    pub properties: PublishProperties,
    /// The application's bytes.
    pub payload: Bytes,
}

/// What a PUBLISH adds to the [`Message`] it carries. Encoding a fan-out means encoding one
/// message behind many heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishHead {
    /// Whether this may be a repetition.
    pub dup: bool,
    /// QoS of this delivery.
    pub qos: QoS,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// How the topic is written.
    pub alias: AliasUse,
    /// Message Expiry Interval left, in seconds.
    pub expiry_secs: Option<u32>,
    /// Of all the client's subscriptions that match.
    pub subscription_ids: SubscriptionIds,
}

/// How a PUBLISH names its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AliasUse {
    /// The name only.
    #[default]
    None,
    /// The name, and the alias that stands for it from now on.
    Set(TopicAlias),
    /// The alias only.
    Use(TopicAlias),
}

impl Message {
    /// The message of a PUBLISH whose topic is `topic` (its own, or what its alias stands for).
    #[must_use]
    pub fn from_publish(publish: Publish, topic: TopicName) -> Self {
        Self {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expiry_secs: publish.expiry_secs,
            properties: publish.properties,
        }
    }
}
