//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use crate::{
    PacketId, QoS, ReasonCode, ReasonProperties, SubscriptionId, TopicFilter, UserProperties,
};

/// A SUBSCRIBE packet: at least one filter `[MQTT-3.8.3-2]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Answered in the SUBACK.
    pub packet_id: PacketId,
    /// Sent with every message that matches one of the filters.
    pub subscription_id: Option<SubscriptionId>,
    /// For nobody else.
    pub user_properties: UserProperties,
    /// Filters and how to deliver what matches them, in the client's order.
    pub filters: Vec<(TopicFilter, SubscriptionOptions)>,
}

/// How a subscriber wants its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Highest QoS of a delivery.
    pub qos: QoS,
    /// Do not send the client its own messages.
    pub no_local: bool,
    /// Keep the RETAIN flag as the publisher set it.
    pub retain_as_published: bool,
    /// Whether to send retained messages now.
    pub retain_handling: RetainHandling,
}

/// When a SUBSCRIBE is answered with retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// Always.
    #[default]
    Send = 0,
    /// Only when the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// A SUBACK packet: one reason per filter, in order `[MQTT-3.8.4-6]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Granted QoS or failure, per filter.
    pub reasons: Vec<ReasonCode>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

/// An UNSUBSCRIBE packet: at least one filter `[MQTT-3.10.3-2]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Answered in the UNSUBACK.
    pub packet_id: PacketId,
    /// For nobody else.
    pub user_properties: UserProperties,
    /// In the client's order.
    pub filters: Vec<TopicFilter>,
}

/// An UNSUBACK packet. MQTT 3 carries no reasons; they are absent after decoding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Per filter, in order.
    pub reasons: Vec<ReasonCode>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}
