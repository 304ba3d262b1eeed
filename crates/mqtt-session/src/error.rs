//! What a client did wrong, as the reason to tell it and the statement it broke.

use mqtt_codec::{DecodeError, ReasonCode};

/// A packet that is malformed or not allowed where it came. The connection must be closed:
/// [`Connection::fail`](crate::Connection::fail) does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason:?} ({statement})")]
pub struct ProtocolError {
    /// What MQTT 5.0 answers.
    pub reason: ReasonCode,
    /// The statement of the MQTT 5.0 standard that was broken, such as `MQTT-3.3.1-4`. What has
    /// none of its own is under `MQTT-4.13.1-1`.
    pub statement: &'static str,
}

impl ProtocolError {
    pub(crate) const fn new(reason: ReasonCode, statement: &'static str) -> Self {
        Self { reason, statement }
    }

    /// A packet that must not come here, for which the standard has no more than its prose.
    pub(crate) const fn misplaced() -> Self {
        Self::new(ReasonCode::ProtocolError, "MQTT-4.13.1-1")
    }
}

impl From<DecodeError> for ProtocolError {
    fn from(error: DecodeError) -> Self {
        Self::new(error.reason(), error.statement())
    }
}
