//! The ends of streams, as the product and its clients have them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use cluster_rpc::frame::NodeId;
use cluster_rpc::network::{Attempt, Broken, Connection, FramesIn, FramesOut, Network, StreamKind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;

use super::{Arrival, Carries, Index, Net, Opening, Side, Site};

/// How a process reaches others.
#[derive(Clone, Debug)]
pub(in crate::simulation) struct Dialer {
    pub(in crate::simulation) net: Net,
    pub(in crate::simulation) site: Site,
}

impl Dialer {
    async fn dial(self, to: Site) -> Result<Index, Broken> {
        let index = self.net.lock().dial(self.site, to);
        let opened = std::future::poll_fn(|context| self.net.lock().poll_dialled(index, context));
        match opened.await {
            Opening::Done => Ok(index),
            Opening::Refused => Err(Broken::Refused),
            Opening::Broken | Opening::Asked => Err(lost()),
        }
    }

    /// Connects a client to a proxy.
    pub(in crate::simulation) async fn client(&self, to: Site) -> io::Result<ByteStream> {
        let connection = self.clone().dial(to).await;
        let connection = connection.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        let stream = self.net.lock().open(connection, Carries::Bytes);
        Ok(ByteStream { end: Ending { net: self.net.clone(), stream, side: 0 } })
    }
}

/// The address of a process: its number.
pub(in crate::simulation) fn address(site: Site) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(site).unwrap_or(u8::MAX)], 1))
}

fn site(address: SocketAddr) -> Site {
    match address {
        SocketAddr::V4(address) => address.ip().octets()[3].into(),
        SocketAddr::V6(_) => Site::MAX,
    }
}

impl Network for Dialer {
    fn connect(&self, _from: &NodeId, to: SocketAddr) -> Attempt<Arc<dyn Connection>> {
        let this = self.clone();
        Box::pin(async move {
            let net = this.net.clone();
            let index = this.dial(site(to)).await?;
            Ok(Arc::new(Dialled { net, index }) as Arc<dyn Connection>)
        })
    }
}

#[derive(Debug)]
struct Dialled {
    net: Net,
    index: Index,
}

impl Connection for Dialled {
    fn open(&self, kind: StreamKind, outgoing: FramesOut) -> Attempt<FramesIn> {
        let (net, connection) = (self.net.clone(), self.index);
        Box::pin(async move {
            let stream = net.lock().open(connection, Carries::Frames(kind));
            // If nobody waits any longer it is dropped, and with it the stream.
            let frames = Frames { end: Ending { net: net.clone(), stream, side: 0 } };
            tokio::spawn(send_all(net.clone(), stream, 0, outgoing));
            let opened = std::future::poll_fn(|context| net.lock().poll_opened(stream, context));
            match opened.await {
                Opening::Done => Ok(Box::pin(frames) as FramesIn),
                Opening::Refused | Opening::Broken | Opening::Asked => Err(lost()),
            }
        })
    }
}

fn lost() -> Broken {
    Broken::Lost("the connection broke".to_owned())
}

/// The next stream that a process is to serve.
pub(in crate::simulation) async fn arrivals(net: &Net, site: Site) -> Arrival {
    std::future::poll_fn(|context| net.lock().poll_arrival(site, context)).await
}

/// What comes on a stream that was accepted.
pub(in crate::simulation) fn frames_of(net: &Net, arrival: Arrival) -> FramesIn {
    Box::pin(Frames { end: Ending { net: net.clone(), stream: arrival.stream, side: 1 } })
}

/// Sends what there is, as long as somebody listens.
pub(in crate::simulation) async fn send_all(
    net: Net,
    stream: Index,
    side: Side,
    mut outgoing: FramesOut,
) {
    let send = |context: &mut Context<'_>| {
        loop {
            let room = net.lock().poll_room(stream, side, context);
            match room {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
            match outgoing.as_mut().poll_next(context) {
                Poll::Ready(Some(frame)) => net.lock().send(stream, side, frame),
                Poll::Ready(None) => {
                    net.lock().finish(stream, side);
                    return Poll::Ready(());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    };
    std::future::poll_fn(send).await;
}

/// An end of a stream. Dropping it ends what it stands for.
struct Ending {
    net: Net,
    stream: Index,
    side: Side,
}

struct Frames {
    end: Ending,
}

impl Stream for Frames {
    type Item = Result<Bytes, Broken>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Ending { net, stream, side } = &self.end;
        let polled = net.lock().poll_chunk(*stream, *side, usize::MAX, context);
        polled.map(|read| read.map_err(|()| lost()).transpose())
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let Ending { net, stream, side } = &self.end;
        match side {
            0 => net.lock().reset(*stream, 0),
            // What was queued before is still sent, and its end is the end of the stream.
            _ => net.lock().stop_reading(*stream, *side),
        }
    }
}

/// An end of a connection of a client.
pub(in crate::simulation) struct ByteStream {
    end: Ending,
}

impl ByteStream {
    /// The end of the proxy.
    pub(in crate::simulation) fn accepted(net: &Net, arrival: Arrival) -> Self {
        net.lock().accept(arrival.stream);
        Self { end: Ending { net: net.clone(), stream: arrival.stream, side: 1 } }
    }

    fn write(&self, parts: &[io::IoSlice<'_>], context: &Context<'_>) -> Poll<io::Result<usize>> {
        let Ending { net, stream, side } = &self.end;
        let mut state = net.lock();
        match state.poll_room(*stream, *side, context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Ready(Some(room)) => {
                let chunk = join(parts, room);
                let written = chunk.len();
                if written > 0 {
                    state.send(*stream, *side, chunk);
                }
                Poll::Ready(Ok(written))
            }
        }
    }
}

fn join(parts: &[io::IoSlice<'_>], most: usize) -> Bytes {
    let mut chunk = BytesMut::with_capacity(most.min(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        let length = part.len().min(most - chunk.len());
        chunk.extend_from_slice(&part[..length]);
    }
    chunk.freeze()
}

impl AsyncRead for ByteStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Ending { net, stream, side } = &self.end;
        let polled = net.lock().poll_chunk(*stream, *side, into.remaining(), context);
        polled.map(|read| match read {
            Ok(chunk) => {
                into.put_slice(&chunk.unwrap_or_default());
                Ok(())
            }
            Err(()) => Err(io::ErrorKind::ConnectionReset.into()),
        })
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(&[io::IoSlice::new(bytes)], context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(parts, context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Ending { net, stream, side } = &self.end;
        net.lock().finish(*stream, *side);
        Poll::Ready(Ok(()))
    }
}

impl Drop for ByteStream {
    fn drop(&mut self) {
        let Ending { net, stream, side } = &self.end;
        let mut state = net.lock();
        state.stop_reading(*stream, *side);
        state.finish(*stream, *side);
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").field("stream", &self.end.stream).finish_non_exhaustive()
    }
}
