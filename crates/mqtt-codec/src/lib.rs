//! MQTT 3.1, 3.1.1 and 5.0 on the wire: bytes to values and back.
//!
//! There is one packet model, shaped like MQTT 5.0. The older versions are lifted into it when
//! decoded (Clean Session becomes [`Connect::clean_start`] plus a session expiry, absent properties are
//! their defaults) and lowered when encoded (properties are dropped, reason codes become return
//! codes). [`Version`] is therefore an argument of [`Decoder`] and of `encode`, and of nothing else.
//!
//! What a value can express is valid by construction: [`TopicName`], [`TopicFilter`], [`ClientId`],
//! [`PacketId`] and [`PublishProperties`] are checked where they are built and nowhere again.
//!
//! This crate never reads a clock, opens a socket, takes a lock or logs.
//!
//! # Layout
//!
//! - [`packet`]: the sum of all packets; `decoder`: one packet cut from a buffer; `error`: why not
//! - `connect`, `connack`, `publish`, `ack`, `subscribe`, `control`: one packet family each
//! - `properties`: the property table of MQTT 5.0; [`message`]: what travels between clients
//! - `topic`, `client_id`, `packet_id`, `qos`, `reason`: the nouns; `wire`: integers and strings

#![warn(missing_docs)]

mod ack;
mod client_id;
mod connack;
mod connect;
mod control;
mod decoder;
mod error;
pub mod message;
pub mod packet;
mod packet_id;
mod properties;
mod publish;
mod qos;
mod reason;
mod subscribe;
mod topic;
mod wire;

pub use ack::{Ack, ReasonProperties};
pub use client_id::ClientId;
pub use connack::ConnAck;
pub use connect::{Connect, Will};
pub use control::{Auth, Disconnect};
pub use decoder::Decoder;
pub use error::{DecodeError, EncodeError};
pub use message::{Message, PublishProperties, PublishPropertiesBuilder, PublishProperty};
pub use packet::{Packet, PacketType};
pub use packet_id::{PacketId, ReceiveMaximum, SubscriptionId, TopicAlias};
pub use properties::UserProperties;
pub use publish::{AliasUse, Publish, PublishHead, SubscriptionIds};
pub use qos::{QoS, Version};
pub use reason::ReasonCode;
pub use subscribe::{
    RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe,
};
pub use topic::{TopicError, TopicFilter, TopicName};
