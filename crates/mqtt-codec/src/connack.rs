//! CONNACK: the server's answer to a CONNECT.

use bytes::Bytes;
use bytestring::ByteString;

use crate::{ClientId, QoS, ReasonCode, ReceiveMaximum, UserProperties};

/// A CONNACK packet. Absent properties mean what the standard says they mean when absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server goes on with an earlier session's state.
    pub session_present: bool,
    /// [`ReasonCode::Success`], or why not.
    pub reason: ReasonCode,
    /// Seconds, if not what the client asked for.
    pub session_expiry_secs: Option<u32>,
    /// Most unacknowledged QoS 1 and 2 messages the server takes at once.
    pub receive_maximum: Option<ReceiveMaximum>,
    /// Highest QoS the server accepts, if below 2.
    pub maximum_qos: Option<QoS>,
    /// Whether retained messages are supported; absent: yes.
    pub retain_available: Option<bool>,
    /// Largest packet the server takes, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// The identifier the server chose for the client.
    pub assigned_client_id: Option<ClientId>,
    /// Highest topic alias the client may use.
    pub topic_alias_maximum: Option<u16>,
    /// For people who look for the cause of a refusal.
    pub reason_string: Option<ByteString>,
    /// For whatever the two sides agree on.
    pub user_properties: UserProperties,
    /// Whether wildcard subscriptions are supported; absent: yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether subscription identifiers are supported; absent: yes.
    pub subscription_ids_available: Option<bool>,
    /// Whether shared subscriptions are supported; absent: yes.
    pub shared_subscription_available: Option<bool>,
    /// Keep Alive in seconds the client must use instead of its own.
    pub server_keep_alive_secs: Option<u16>,
    /// From which the client builds response topics.
    pub response_information: Option<ByteString>,
    /// Where to go instead.
    pub server_reference: Option<ByteString>,
    /// Method of enhanced authentication.
    pub authentication_method: Option<ByteString>,
    /// Its data.
    pub authentication_data: Option<Bytes>,
}
