//! Gives the client identifier of an opened session back when what serves it panics.
//!
//! Made when a session is opened, disarmed when its connection ends in order. To the store a panic is an abnormal
//! end like any other.

use std::sync::Arc;

use cluster_rpc::frame::SessionFarewell;

use crate::broker::{Broker, Client};

/// Ends the session and counts a panic when it is dropped without [`disarm`](Self::disarm).
#[derive(Debug)]
pub(crate) struct SessionGuard {
    broker: Arc<Broker>,
    client: Option<Client>,
}

impl SessionGuard {
    pub(crate) fn new(broker: &Arc<Broker>, client: &Client) -> Self {
        Self { broker: Arc::clone(broker), client: Some(client.clone()) }
    }

    /// The session ends in order.
    pub(crate) fn disarm(&mut self) {
        self.client = None;
    }

    /// Whose session it is.
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            self.broker.metrics.panics.inc();
            let expiry_secs = client.attachment.expiry_secs();
            self.broker.end(&client, SessionFarewell::Abnormal, expiry_secs);
        }
    }
}
