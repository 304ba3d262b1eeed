//! How a connection ends, and what it leaves behind.

use mqtt_codec::ReasonCode;

use crate::ProtocolError;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client said goodbye with this reason: [`ReasonCode::Success`] if all is well.
    Client(ReasonCode),
    /// The socket ended without a word.
    ConnectionLost,
    /// The client broke the protocol.
    Protocol(ProtocolError),
    /// The server ended it, for this reason.
    Server(ReasonCode),
}

impl CloseReason {
    /// Whether the client left in order, so that its will is not published
    /// `[MQTT-3.14.4-3]` `[MQTT-3.1.2-10]`. After any other end it is `[MQTT-3.1.2-8]`.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        matches!(self, Self::Client(ReasonCode::Success))
    }
}

/// What is left when a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Seconds the session outlives the connection; `u32::MAX` for ever `[MQTT-3.1.2-23]`.
    pub session_expiry_secs: u32,
    /// Why it ended.
    pub reason: CloseReason,
}
