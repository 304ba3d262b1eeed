//! What an uplink tells an operator.

use std::net::SocketAddr;

use crate::frame::{Incarnation, Member};

/// A picture of an uplink at one moment.
#[derive(Clone, Debug)]
pub struct UplinkStatus {
    /// This life of the proxy.
    pub incarnation: Incarnation,
    /// Intermediates that may carry messages.
    pub serving: usize,
    /// One entry for each address.
    pub intermediates: Vec<IntermediateStatus>,
    /// QoS >= 1 messages not acknowledged.
    pub window_messages: usize,
    /// The same in bytes.
    pub window_bytes: u64,
}

/// One intermediate as this proxy sees it.
#[derive(Clone, Debug)]
pub struct IntermediateStatus {
    /// The configured `host:port` it came from.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// Who it is, as far as it is or was connected.
    pub member: Option<Member>,
    /// How it is.
    pub state: IntermediateState,
    /// Lanes it carries.
    pub lanes: usize,
}

/// How an intermediate is, seen from this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntermediateState {
    /// Not connected; being tried.
    Down,
    /// Another address leads to the same intermediate.
    Standby,
    /// Connected; does not take messages yet.
    Joining,
    /// Connected and serving, but lacks endpoints that others know: not used.
    Lagging,
    /// Connected and used.
    Serving,
    /// Connected; going down.
    Draining,
}
