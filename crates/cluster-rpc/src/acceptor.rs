//! The accepting side: the gRPC server, which checks the token, and the queue that hands the streams out.
//!
//! It knows nothing of what is said on them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::convert::Wire;
use crate::frame::{
    DeliverDown, DeliverUp, PublishDown, PublishUp, RouteDown, RouteUp, SessionDown, SessionUp,
};
use crate::grpc::incoming;
use crate::network::{Broken, FramesIn, FramesOut, StreamKind};
use crate::proto::relay_server::{Relay, RelayServer};
use crate::proto::routes_server::{Routes, RoutesServer};
use crate::proto::sessions_server::{Sessions, SessionsServer};
use crate::stream::{self, Queued, Stream};
use crate::token::Token;
use crate::transport;

/// Accepted streams that may wait for [`Attachments::next`]; further calls wait in their task.
const WAITING_STREAMS: usize = 64;

/// How long streams have to end after the shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// How an intermediate accepts streams.
#[derive(Clone, Debug)]
pub struct AcceptorConfig {
    /// What peers must present; `None` admits everyone.
    pub token: Option<Token>,
    /// The largest MQTT packet of the cluster, in bytes: sets the largest frame that is taken.
    pub max_packet_bytes: usize,
}

impl Default for AcceptorConfig {
    fn default() -> Self {
        Self { token: None, max_packet_bytes: transport::DEFAULT_MAX_PACKET_BYTES }
    }
}

/// A stream a peer has opened.
#[derive(Debug)]
pub enum Attachment {
    /// An endpoint registers and tells its routes.
    Routes(Stream<RouteUp, RouteDown>),
    /// An origin publishes.
    Publish(Stream<PublishUp, PublishDown>),
    /// An endpoint takes deliveries.
    Deliver(Stream<DeliverUp, DeliverDown>),
    /// A proxy speaks of its sessions. Only one that was told of a store here opens it.
    Sessions(Stream<SessionUp, SessionDown>),
}

/// The streams peers open. Dropping it refuses further ones.
pub struct Attachments {
    accepted: mpsc::Receiver<Attachment>,
    /// After this nothing is taken, whoever still has the acceptor. A server takes its own down.
    shutdown: Option<CancellationToken>,
}

impl Attachments {
    /// Streams that whoever has the [`Acceptor`] hands in, without a listener. `shutdown` ends them all.
    #[must_use]
    pub fn by_hand(shutdown: CancellationToken) -> (Acceptor, Self) {
        let (sender, accepted) = mpsc::channel(WAITING_STREAMS);
        let acceptor = Acceptor { accepted: sender, shutdown: shutdown.clone() };
        (acceptor, Self { accepted, shutdown: Some(shutdown) })
    }

    /// The next stream; `None` when the server has ended.
    pub async fn next(&mut self) -> Option<Attachment> {
        if let Some(shutdown) = &self.shutdown {
            let next = shutdown.run_until_cancelled(self.accepted.recv()).await;
            return next.flatten();
        }
        self.accepted.recv().await
    }

    /// The next stream, if one waits.
    #[cfg(test)]
    pub(crate) fn try_next(&mut self) -> Option<Attachment> {
        self.accepted.try_recv().ok()
    }
}

impl fmt::Debug for Attachments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachments").finish_non_exhaustive()
    }
}

/// Serves all services on `listener` in a task of its own until `shutdown`, which also ends every
/// stream after the frames queued on it.
pub fn serve(
    listener: TcpListener,
    config: AcceptorConfig,
    shutdown: CancellationToken,
) -> Attachments {
    let (sender, accepted) = mpsc::channel(WAITING_STREAMS);
    let acceptor = Acceptor { accepted: sender, shutdown: shutdown.clone() };
    let limit = transport::decode_limit(config.max_packet_bytes);
    let service = Service { token: config.token, acceptor };
    let routes = RoutesServer::new(service.clone()).max_decoding_message_size(limit);
    let relay = RelayServer::new(service.clone()).max_decoding_message_size(limit);
    let sessions = SessionsServer::new(service).max_decoding_message_size(limit);
    let server = Server::builder()
        .initial_stream_window_size(transport::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(transport::CONNECTION_WINDOW_BYTES)
        .max_frame_size(transport::FRAME_BYTES)
        .http2_keepalive_interval(Some(transport::KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(transport::KEEP_ALIVE_TIMEOUT))
        .add_service(routes)
        .add_service(relay)
        .add_service(sessions)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.clone().cancelled_owned(),
        );
    tokio::spawn(async move {
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            biased;
            served = server => if let Err(error) = served {
                tracing::error!(%error, "the cluster listener failed");
            },
            () = late => {}
        }
    });
    Attachments { accepted, shutdown: None }
}

/// Takes the streams that peers open. Clones hand them to the same [`Attachments`].
#[derive(Clone)]
pub struct Acceptor {
    accepted: mpsc::Sender<Attachment>,
    shutdown: CancellationToken,
}

impl Acceptor {
    /// Takes a stream: what comes on it, from whom; gives what is sent on it. Waits while many wait to be served.
    ///
    /// # Errors
    /// Nobody serves streams any more.
    pub async fn accept(
        &self,
        kind: StreamKind,
        peer: SocketAddr,
        incoming: FramesIn,
    ) -> Result<FramesOut, Broken> {
        Ok(match kind {
            StreamKind::Routes => Box::pin(self.take(peer, incoming, Attachment::Routes).await?),
            StreamKind::Publish => Box::pin(self.take(peer, incoming, Attachment::Publish).await?),
            StreamKind::Deliver => Box::pin(self.take(peer, incoming, Attachment::Deliver).await?),
            StreamKind::Sessions => {
                Box::pin(self.take(peer, incoming, Attachment::Sessions).await?)
            }
        })
    }

    async fn take<Up: Wire, Down: Wire>(
        &self,
        peer: SocketAddr,
        incoming: FramesIn,
        attachment: impl FnOnce(Stream<Up, Down>) -> Attachment + Send,
    ) -> Result<Queued<Down>, Broken> {
        let (stream, queued) = stream::accept(peer, incoming, &self.shutdown);
        let ended = |_| Broken::Lost("going down".to_owned());
        self.accepted.send(attachment(stream)).await.map_err(ended)?;
        Ok(queued)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Service {
    token: Option<Token>,
    acceptor: Acceptor,
}

/// What tonic sends.
type Answers<Down> = tokio_stream::adapters::Map<Queued<Down>, fn(Bytes) -> Result<Bytes, Status>>;

impl Service {
    async fn accept<Up: Wire, Down: Wire>(
        &self,
        request: Request<Streaming<Bytes>>,
        attachment: impl FnOnce(Stream<Up, Down>) -> Attachment + Send,
    ) -> Result<Response<Answers<Down>>, Status> {
        if let Some(token) = &self.token {
            token.check(request.metadata())?;
        }
        let peer = request.remote_addr().ok_or_else(|| Status::internal("no peer address"))?;
        let incoming = incoming(request.into_inner());
        let queued = self.acceptor.take(peer, incoming, attachment).await;
        let queued = queued.map_err(|broken| Status::unavailable(broken.to_string()))?;
        Ok(Response::new(queued.map(Ok)))
    }
}

#[tonic::async_trait]
impl Routes for Service {
    type SyncStream = Answers<RouteDown>;

    async fn sync(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        self.accept(request, Attachment::Routes).await
    }
}

#[tonic::async_trait]
impl Relay for Service {
    type PublishStream = Answers<PublishDown>;
    type DeliverStream = Answers<DeliverDown>;

    async fn publish(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        self.accept(request, Attachment::Publish).await
    }

    async fn deliver(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        self.accept(request, Attachment::Deliver).await
    }
}

#[tonic::async_trait]
impl Sessions for Service {
    type AttendStream = Answers<SessionDown>;

    async fn attend(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        self.accept(request, Attachment::Sessions).await
    }
}
