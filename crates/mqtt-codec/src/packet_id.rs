//! Small numbers of the standard that can never be zero.

use std::num::NonZeroU16;

/// Identifies a packet that expects an answer, within one direction of one session.
///
/// Never zero `[MQTT-2.2.1-3]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

/// Stands for a topic name within one direction of one connection. Never zero `[MQTT-3.3.2-8]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicAlias(NonZeroU16);

/// How many QoS 1 and 2 messages a receiver takes before it has acknowledged earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiveMaximum(NonZeroU16);

/// Identifies a subscription to its client: 1 to 268,435,455.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(std::num::NonZeroU32);

macro_rules! nonzero_u16 {
    ($name:ident) => {
        impl $name {
            /// `None` for zero.
            #[must_use]
            pub const fn new(value: u16) -> Option<Self> {
                match NonZeroU16::new(value) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// The number on the wire.
            #[must_use]
            pub const fn value(self) -> u16 {
                self.0.get()
            }
        }
    };
}
nonzero_u16!(PacketId);
nonzero_u16!(TopicAlias);
nonzero_u16!(ReceiveMaximum);

impl Default for ReceiveMaximum {
    /// 65,535, what an absent property means.
    fn default() -> Self {
        Self(NonZeroU16::MAX)
    }
}

impl SubscriptionId {
    /// `None` for zero and above the largest variable byte integer.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        match std::num::NonZeroU32::new(value) {
            Some(id) if value <= 268_435_455 => Some(Self(id)),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0.get()
    }
}
