//! The application message: what travels from a publisher to its subscribers.
//!
//! It is free of everything that belongs to one connection: no packet identifier, DUP flag, alias
//! or subscription identifier. Those are in [`Publish`](crate::Publish).

use bytes::Bytes;

use crate::{QoS, TopicName};

/// One application message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published to.
    pub topic: TopicName,
    /// What was published; shared, never copied on its way.
    pub payload: Bytes,
    /// The QoS it was published with; a subscriber gets at most this.
    pub qos: QoS,
    /// Whether the publisher set RETAIN.
    pub retain: bool,
    /// Message Expiry Interval in seconds, as received; the holder subtracts the time it waited.
    pub expiry_secs: Option<u32>,
    /// The properties that go on unaltered to every subscriber.
    pub properties: PublishProperties,
}

/// The properties of a PUBLISH that a server passes on unaltered: Payload Format Indicator
/// `[MQTT-3.3.2-4]`, Content Type `[MQTT-3.3.2-20]`, Response Topic `[MQTT-3.3.2-15]`, Correlation
/// Data `[MQTT-3.3.2-16]` and User Properties in their order `[MQTT-3.3.2-17]` `[MQTT-3.3.2-18]`.
///
/// Kept as their encoded and checked bytes, so that passing them on costs a reference count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PublishProperties {
    /// Encoded properties without their length prefix. Only this crate fills it.
    pub(crate) block: Bytes,
}

impl PublishProperties {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// The encoded block, without its length prefix.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.block
    }
}
