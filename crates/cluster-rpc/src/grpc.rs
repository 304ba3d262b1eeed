//! The network of the product: gRPC over TCP.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::frame::NodeId;
use crate::network::{Attempt, Broken, Connection, FramesIn, FramesOut, Network, StreamKind};
use crate::proto::relay_client::RelayClient;
use crate::proto::routes_client::RoutesClient;
use crate::proto::sessions_client::SessionsClient;
use crate::token::Token;
use crate::transport;

/// How streams are opened: with which token, and how large a frame is taken.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    token: Option<Token>,
    decode_limit: usize,
}

impl Grpc {
    pub(crate) fn new(token: Option<Token>, max_packet_bytes: usize) -> Self {
        Self { token, decode_limit: transport::decode_limit(max_packet_bytes) }
    }
}

impl Network for Grpc {
    fn connect(&self, _from: &NodeId, to: SocketAddr) -> Attempt<Arc<dyn Connection>> {
        let grpc = self.clone();
        Box::pin(async move {
            let endpoint = Endpoint::from_shared(format!("http://{to}"))?
                .tcp_nodelay(true)
                // Whoever waits for the first connection has a limit, too; nobody waits for one that tonic makes anew.
                .connect_timeout(transport::CONNECT_TIMEOUT)
                .initial_stream_window_size(transport::STREAM_WINDOW_BYTES)
                .initial_connection_window_size(transport::CONNECTION_WINDOW_BYTES)
                .max_frame_size(transport::FRAME_BYTES)
                .http2_keep_alive_interval(transport::KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(transport::KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true);
            let channel = endpoint.connect().await?;
            Ok(Arc::new(Open { grpc, channel }) as Arc<dyn Connection>)
        })
    }
}

/// A connection.
struct Open {
    grpc: Grpc,
    channel: Channel,
}

impl Connection for Open {
    fn open(&self, kind: StreamKind, outgoing: FramesOut) -> Attempt<FramesIn> {
        let (channel, limit) = (self.channel.clone(), self.grpc.decode_limit);
        let mut request = Request::new(Sent(outgoing));
        if let Some(token) = &self.grpc.token {
            token.attach(request.metadata_mut());
        }
        Box::pin(async move {
            let mut relay = RelayClient::new(channel.clone()).max_decoding_message_size(limit);
            let answer = match kind {
                StreamKind::Routes => {
                    let client = RoutesClient::new(channel);
                    client.max_decoding_message_size(limit).sync(request).await
                }
                StreamKind::Publish => relay.publish(request).await,
                StreamKind::Deliver => relay.deliver(request).await,
                StreamKind::Sessions => {
                    let client = SessionsClient::new(channel);
                    client.max_decoding_message_size(limit).attend(request).await
                }
            };
            Ok(incoming(answer?.into_inner()))
        })
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

/// What goes out, as a type with a name: the compiler cannot see that a call with a `dyn` may be sent.
struct Sent(FramesOut);

impl Stream for Sent {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.0.as_mut().poll_next(context)
    }
}

/// What comes on a stream, whichever side has opened it.
pub(crate) fn incoming(frames: Streaming<Bytes>) -> FramesIn {
    Box::pin(frames.map(|frame| frame.map_err(Broken::from)))
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Lost(format!("{:?}: {}", status.code(), status.message()))
    }
}

impl From<tonic::transport::Error> for Broken {
    fn from(error: tonic::transport::Error) -> Self {
        let mut root: &(dyn Error + 'static) = &error;
        while let Some(source) = root.source() {
            root = source;
        }
        match root.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Lost(root.to_string()),
        }
    }
}
