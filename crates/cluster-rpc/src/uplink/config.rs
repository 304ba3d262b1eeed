//! What an uplink is told at its start.

use std::sync::Arc;
use std::time::Duration;

use crate::frame::{EndpointRole, NodeId};
use crate::machine::{Machine, System};
use crate::network::Network;
use crate::token::Token;
use crate::transport;

/// How an endpoint takes part in the cluster.
#[derive(Clone, Debug)]
pub struct UplinkConfig {
    /// The endpoint's own name, unique in the cluster.
    pub node: NodeId,
    /// What it is in the cluster.
    pub role: EndpointRole,
    /// Intermediates as `host:port`. A name that resolves to several addresses is several intermediates.
    pub intermediates: Vec<String>,
    /// What intermediates want to be presented.
    pub token: Option<Token>,
    /// QoS >= 1 messages that may be unacknowledged.
    pub window_messages: usize,
    /// The same in bytes. The last message may exceed it.
    pub window_bytes: u64,
    /// QoS 0 messages that may wait for credit.
    pub backlog_messages: usize,
    /// The same in bytes. The last message may exceed it.
    pub backlog_bytes: u64,
    /// After this long without a word an intermediate is taken for gone.
    pub lease: Duration,
    /// How often the intermediates hear a sign of life.
    pub beat_interval: Duration,
    /// How often names are resolved anew while all links are up; they also are at each reconnect.
    pub resolve_interval: Duration,
    /// The largest MQTT packet of the cluster, in bytes: sets the largest frame that is taken.
    pub max_packet_bytes: usize,
    /// The wall clock and chance.
    pub machine: Arc<dyn Machine>,
    /// How intermediates are reached; `None`: by gRPC.
    pub network: Option<Arc<dyn Network>>,
}

impl Default for UplinkConfig {
    fn default() -> Self {
        Self {
            node: NodeId::new("proxy").expect("a plain word is a node id"),
            role: EndpointRole::Proxy,
            intermediates: Vec::new(),
            token: None,
            window_messages: 16_384,
            window_bytes: 32 << 20,
            backlog_messages: 16_384,
            backlog_bytes: 8 << 20,
            lease: Duration::from_secs(6),
            beat_interval: Duration::from_secs(1),
            resolve_interval: Duration::from_secs(10),
            max_packet_bytes: transport::DEFAULT_MAX_PACKET_BYTES,
            machine: Arc::new(System),
            network: None,
        }
    }
}
