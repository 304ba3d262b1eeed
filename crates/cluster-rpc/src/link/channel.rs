//! Connections to one address, and what can go wrong with them.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::error::FrameError;
use crate::frame::RejectReason;
use crate::proto::relay_client::RelayClient;
use crate::proto::routes_client::RoutesClient;
use crate::proto::sessions_client::SessionsClient;
use crate::token::Token;
use crate::transport;
use crate::uplink::UplinkConfig;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot connect: {}", root(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("stream broken: {:?}: {}", .0.code(), .0.message())]
    Broken(Box<tonic::Status>),
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

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Broken(Box::new(status))
    }
}

impl LinkError {
    /// Whether nothing listens at the address.
    pub(crate) fn is_refusal(&self) -> bool {
        let Self::Connect(error) = self else {
            return false;
        };
        let root = root(error).downcast_ref::<io::Error>();
        root.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

fn root(error: &tonic::transport::Error) -> &(dyn Error + 'static) {
    let mut root: &(dyn Error + 'static) = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

/// Connects to one address.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) address: SocketAddr,
    token: Option<Token>,
    decode_limit: usize,
}

impl Dialer {
    pub(crate) fn new(config: &UplinkConfig, address: SocketAddr) -> Self {
        Self {
            address,
            token: config.token.clone(),
            decode_limit: transport::decode_limit(config.max_packet_bytes),
        }
    }

    pub(crate) async fn routes(&self) -> Result<RoutesClient<Channel>, LinkError> {
        let channel = self.connect().await?;
        Ok(RoutesClient::new(channel).max_decoding_message_size(self.decode_limit))
    }

    /// The connection for messages and sessions.
    pub(crate) async fn data(&self) -> Result<Channel, LinkError> {
        self.connect().await
    }

    pub(crate) fn relay(&self, channel: Channel) -> RelayClient<Channel> {
        RelayClient::new(channel).max_decoding_message_size(self.decode_limit)
    }

    pub(crate) fn sessions(&self, channel: Channel) -> SessionsClient<Channel> {
        SessionsClient::new(channel).max_decoding_message_size(self.decode_limit)
    }

    /// A call with the token.
    pub(crate) fn request<S>(&self, outgoing: S) -> Request<S> {
        let mut request = Request::new(outgoing);
        if let Some(token) = &self.token {
            token.attach(request.metadata_mut());
        }
        request
    }

    async fn connect(&self) -> Result<Channel, LinkError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(transport::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(transport::CONNECTION_WINDOW_BYTES)
            .max_frame_size(transport::FRAME_BYTES)
            .http2_keep_alive_interval(transport::KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(transport::KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(endpoint.connect().await?)
    }
}
