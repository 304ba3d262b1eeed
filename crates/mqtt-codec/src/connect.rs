//! CONNECT: how a client introduces itself.

use bytes::Bytes;
use bytestring::ByteString;

use crate::{ClientId, Message, ReceiveMaximum, UserProperties, Version};

/// A CONNECT packet of any version, in the terms of MQTT 5.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The version the client speaks.
    pub version: Version,
    /// `None` when empty: the server assigns one, or refuses.
    pub client_id: Option<ClientId>,
    /// Start without the state of an earlier session (MQTT 3: Clean Session).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_secs: u16,
    /// Seconds the session outlives the connection; `u32::MAX` for ever. MQTT 3: 0 with Clean
    /// Session 1, `u32::MAX` with 0.
    pub session_expiry_secs: u32,
    /// Most unacknowledged QoS 1 and 2 messages the client takes at once.
    pub receive_maximum: ReceiveMaximum,
    /// Largest packet the client takes, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// Highest topic alias the server may use towards the client; 0 for none.
    pub topic_alias_maximum: u16,
    /// Whether the client asks for Response Information in the CONNACK.
    pub request_response_information: bool,
    /// Whether reason strings and user properties are welcome in packets other than PUBLISH,
    /// CONNACK and DISCONNECT.
    pub request_problem_information: bool,
    /// Sent on by nobody; for authentication and logs.
    pub user_properties: UserProperties,
    /// Method of enhanced authentication.
    pub authentication_method: Option<ByteString>,
    /// Its data; only with a method.
    pub authentication_data: Option<Bytes>,
    /// Published when the connection ends badly.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password.
    pub password: Option<Bytes>,
}

/// The message a server publishes for a client that went away without saying goodbye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// What to publish.
    pub message: Message,
    /// Seconds to wait before publishing it, unless the session ends earlier.
    pub delay_secs: u32,
}
