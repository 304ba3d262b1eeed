//! How a connection ends, and what it leaves behind.

use std::time::Duration;

use mqtt_codec::{ReasonCode, Will};

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
    /// `[MQTT-3.14.4-3]`.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        matches!(self, Self::Client(ReasonCode::Success))
    }
}

/// What is left when a connection is over.
#[derive(Debug)]
pub struct Ended {
    /// Seconds the session outlives the connection; `u32::MAX` for ever `[MQTT-3.1.2-23]`.
    pub session_expiry_secs: u32,
    /// To be published after [`will_delay`](Self::will_delay) `[MQTT-3.1.2-8]`.
    pub will: Option<Will>,
    /// Why it ended.
    pub reason: CloseReason,
}

impl Ended {
    /// How long the session is kept; `None` for ever.
    #[must_use]
    pub fn session_expiry(&self) -> Option<Duration> {
        (self.session_expiry_secs < u32::MAX)
            .then(|| Duration::from_secs(u64::from(self.session_expiry_secs)))
    }

    /// How long to wait before the will is published: its delay, or less if the session ends
    /// earlier `[MQTT-3.1.2-8]`.
    #[must_use]
    pub fn will_delay(&self) -> Duration {
        let delay = self.will.as_ref().map_or(0, |will| will.delay_secs);
        Duration::from_secs(u64::from(delay.min(self.session_expiry_secs)))
    }
}
