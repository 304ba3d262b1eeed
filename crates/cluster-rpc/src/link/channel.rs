//! Connections to one address, and what can go wrong with them.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::timeout;

use crate::error::FrameError;
use crate::frame::{NodeId, RejectReason};
use crate::grpc::Grpc;
use crate::network::{Broken, Connection, Network};
use crate::transport::CONNECT_TIMEOUT;
use crate::uplink::UplinkConfig;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot connect: {0}")]
    Connect(Broken),
    #[error("stream broken: {0}")]
    Broken(#[from] Broken),
    #[error("invalid frame: {0}")]
    Frame(#[from] FrameError),
    #[error("unexpected frame: {0}")]
    Unexpected(&'static str),
    #[error("the intermediate has ended the stream")]
    Ended,
    #[error("nothing was heard for the lease")]
    Silent,
    #[error("turned away: {0:?}")]
    Rejected(RejectReason),
    #[error("replaced by another address or a new incarnation")]
    Replaced,
}

impl LinkError {
    /// Whether nothing listens at the address.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect(Broken::Refused))
    }
}

/// Connects to one address.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) address: SocketAddr,
    node: NodeId,
    network: Arc<dyn Network>,
}

impl Dialer {
    pub(crate) fn new(config: &UplinkConfig, address: SocketAddr) -> Self {
        let grpc = || Arc::new(Grpc::new(config.token.clone(), config.max_packet_bytes)) as _;
        let network = config.network.clone().unwrap_or_else(grpc);
        Self { address, node: config.node.clone(), network }
    }

    pub(crate) async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError> {
        let connected = timeout(CONNECT_TIMEOUT, self.network.connect(&self.node, self.address));
        let late = |_| LinkError::Connect(Broken::Lost("no answer in time".to_owned()));
        connected.await.map_err(late)?.map_err(LinkError::Connect)
    }
}
