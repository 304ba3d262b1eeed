//! Gives the client identifier of an opened session back when what serves it panics.
//!
//! Made when a session is opened, disarmed when its connection ends in order. It publishes no will: nobody knows
//! any more how far the connection had come.

use std::sync::Arc;

use crate::broker::Broker;
use crate::sessions::{EndedSession, SessionHandle};

/// Ends the session and counts a panic when it is dropped without [`disarm`](Self::disarm).
#[derive(Debug)]
pub(crate) struct SessionGuard {
    broker: Arc<Broker>,
    handle: Option<Arc<SessionHandle>>,
}

impl SessionGuard {
    pub(crate) fn new(broker: &Arc<Broker>, handle: &Arc<SessionHandle>) -> Self {
        Self { broker: Arc::clone(broker), handle: Some(Arc::clone(handle)) }
    }

    /// The session ends in order.
    pub(crate) fn disarm(&mut self) {
        self.handle = None;
    }

    /// Whose session it is.
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.broker.metrics.panics.inc();
            self.broker.sessions.remove(&handle);
            self.broker.end_session(EndedSession { handle, will: None });
        }
    }
}
