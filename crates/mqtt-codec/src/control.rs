//! DISCONNECT and AUTH. PINGREQ and PINGRESP carry nothing.

use bytes::Bytes;
use bytestring::ByteString;

use crate::{ReasonCode, UserProperties};

/// A DISCONNECT packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// [`ReasonCode::Success`] is a normal disconnection.
    pub reason: ReasonCode,
    /// A new session expiry in seconds, from the client only.
    pub session_expiry_secs: Option<u32>,
    /// For people.
    pub reason_string: Option<ByteString>,
    /// For programs.
    pub user_properties: UserProperties,
    /// Where to go instead, from the server only.
    pub server_reference: Option<ByteString>,
}

/// An AUTH packet of MQTT 5.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// Success, continue, or re-authenticate.
    pub reason: ReasonCode,
    /// Method of enhanced authentication.
    pub method: Option<ByteString>,
    /// Its data.
    pub data: Option<Bytes>,
    /// For people.
    pub reason_string: Option<ByteString>,
    /// For programs.
    pub user_properties: UserProperties,
}
