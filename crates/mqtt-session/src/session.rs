//! The session a connection serves: where its state is kept, and what a kept one goes on with.
//!
//! A clean session ends with its connection, which holds all of it. A kept session outlives its
//! connections: its state is elsewhere, the connection tells every step and waits where the standard
//! wants the step to be safe first.

use mqtt_codec::PacketId;

/// A session as its connection finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// Ends with the connection.
    #[default]
    Clean,
    /// Kept elsewhere, and new.
    New,
    /// Kept elsewhere, and gone on with.
    Resumed(Resumed),
}

/// What a kept session goes on with. Its unacknowledged messages are not here: they come as
/// deliveries with DUP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Messages whose PUBREC is safe and whose PUBCOMP is not, in the order of their PUBRECs: each
    /// PUBREL is sent again `[MQTT-4.4.0-1]`.
    pub released: Vec<QueueSlot>,
    /// QoS 2 messages of the client that are not released, and that the broker may not have.
    pub incoming: Vec<PacketId>,
    /// QoS 2 messages of the client that are not released, and that the broker has.
    pub taken: Vec<PacketId>,
}

/// A message's place in the queue of a kept session, and the packet identifier that it always has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueSlot {
    /// The place.
    pub place: u64,
    /// Unique among what is unacknowledged of the queue.
    pub packet_id: PacketId,
}

/// Who keeps the state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// The connection alone.
    Connection,
    /// Somebody who must have a step before it is acknowledged.
    Elsewhere,
}

impl Session {
    pub(crate) fn keeper(&self) -> Keeper {
        match self {
            Self::Clean => Keeper::Connection,
            Self::New | Self::Resumed(_) => Keeper::Elsewhere,
        }
    }

    /// Whether it is an earlier one `[MQTT-3.2.2-2]` `[MQTT-3.2.2-3]`.
    pub(crate) fn is_present(&self) -> bool {
        matches!(self, Self::Resumed(_))
    }
}
