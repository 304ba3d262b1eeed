//! Where new connections come from: a listening socket, or whoever makes byte streams by hand.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A source of connections.
pub trait Connections: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancelling it loses none.
    ///
    /// # Errors
    /// One could not be accepted now; later ones may be.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Makes a connection ready that will be served.
    fn prepare(_stream: &Self::Stream) {}
}

impl Connections for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }

    fn prepare(stream: &TcpStream) {
        // Small packets must not wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    }
}

impl<S> Connections for mpsc::Receiver<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = S;

    async fn accept(&mut self) -> io::Result<S> {
        match self.recv().await {
            Some(stream) => Ok(stream),
            // Nobody can come any more.
            None => std::future::pending().await,
        }
    }
}
