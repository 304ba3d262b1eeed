//! How an endpoint reaches an intermediate: connections, and streams of encoded frames on them.
//!
//! By default that is gRPC. Anything else that keeps the order of each stream does as well: what is above it
//! cannot tell, so it can be run without sockets.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio_stream::Stream;

use crate::frame::NodeId;

/// Why there is no connection, or a stream no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Nothing listens at the address.
    #[error("connection refused")]
    Refused,
    /// Anything else, in words.
    #[error("{0}")]
    Lost(String),
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// An endpoint registers and tells its routes.
    Routes,
    /// An origin publishes.
    Publish,
    /// An endpoint takes deliveries.
    Deliver,
    /// A proxy speaks of its sessions.
    Sessions,
}

/// Encoded frames to send, one at a time. Its end is the end of what this side has to say; dropping it
/// says that nobody listens any more.
pub type FramesOut = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Encoded frames that come from the other side. Dropping it says that nobody listens any more, and ends the
/// stream both ways: the other side's [`FramesOut`] is dropped, and what this side sends on it too.
pub type FramesIn = Pin<Box<dyn Stream<Item = Result<Bytes, Broken>> + Send>>;

/// Something that takes time, and may fail.
pub type Attempt<T> = Pin<Box<dyn Future<Output = Result<T, Broken>> + Send>>;

/// A way to the intermediates.
pub trait Network: Debug + Send + Sync {
    /// Connects. `from` is who dials. It is given up after 2 s.
    fn connect(&self, from: &NodeId, to: SocketAddr) -> Attempt<Arc<dyn Connection>>;
}

/// A connection to one intermediate. It lasts until all its streams have ended and it is dropped.
pub trait Connection: Debug + Send + Sync {
    /// Opens a stream: resolves with what comes on it when the other side has accepted it.
    fn open(&self, kind: StreamKind, outgoing: FramesOut) -> Attempt<FramesIn>;
}
