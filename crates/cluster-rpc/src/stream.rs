//! The accepting side's end of one stream of frames.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::convert::Wire;
use crate::error::{Ended, StreamError, TrySendError};
use crate::network::FramesIn;

/// Frames that may wait to be sent: one is written while the next is there. Few, because what does not
/// become a frame yet becomes part of a larger one: under load batches grow instead of their number.
const QUEUE_FRAMES: usize = 2;

type Frames<Up> = Pin<Box<dyn tokio_stream::Stream<Item = Result<Up, StreamError>> + Send>>;

/// One accepted stream: frames of the peer in, frames for the peer out. Dropping it ends the stream
/// after the frames that were queued before.
pub struct Stream<Up, Down> {
    peer: SocketAddr,
    incoming: Frames<Up>,
    sender: FrameSender<Down>,
    ended: CancellationToken,
}

impl<Up, Down> Stream<Up, Down> {
    /// The address the peer dialled from.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The next frame; `None` when the peer has ended the stream. Cancelling it loses no frame.
    ///
    /// # Errors
    /// The connection broke, or the peer sent what is no frame. The stream is useless afterwards.
    pub async fn recv(&mut self) -> Result<Option<Up>, StreamError> {
        self.incoming.next().await.transpose()
    }

    /// Queues frames for the peer; may be cloned and outlive the stream, then it reports [`Ended`].
    #[must_use]
    pub fn sender(&self) -> FrameSender<Down> {
        self.sender.clone()
    }
}

impl<Up, Down> Drop for Stream<Up, Down> {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl<Up, Down> fmt::Debug for Stream<Up, Down> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A bounded queue of frames for the peer.
pub struct FrameSender<Down> {
    queue: mpsc::Sender<Down>,
}

impl<Down> FrameSender<Down> {
    /// Queues a frame, and waits while the queue is full.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn send(&self, frame: Down) -> Result<(), Ended> {
        self.queue.send(frame).await.map_err(|_| Ended)
    }

    /// Queues a frame at once or gives it back.
    ///
    /// # Errors
    /// The queue is full, or the stream has ended.
    pub fn try_send(&self, frame: Down) -> Result<(), TrySendError<Down>> {
        self.queue.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(frame) => TrySendError::Full(frame),
            mpsc::error::TrySendError::Closed(frame) => TrySendError::Ended(frame),
        })
    }

    /// Resolves when the stream has ended, whichever side ended it.
    pub async fn ended(&self) {
        self.queue.closed().await;
    }
}

impl<Down> Clone for FrameSender<Down> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<Down> fmt::Debug for FrameSender<Down> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSender").field("free", &self.queue.capacity()).finish()
    }
}

/// What is sent to the peer: the queued frames, until the stream has ended and the queue is empty.
pub(crate) struct Queued<Down> {
    queue: mpsc::Receiver<Down>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<Down: Wire> tokio_stream::Stream for Queued<Down> {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended.as_mut().poll(context).is_ready() {
            // Queued frames still come out; new ones are refused.
            this.queue.close();
        }
        this.queue.poll_recv(context).map(|frame| frame.map(Wire::encode))
    }
}

/// Makes both ends of a stream that was just accepted. `shutdown` ends it too.
pub(crate) fn accept<Up: Wire, Down: Wire>(
    peer: SocketAddr,
    incoming: FramesIn,
    shutdown: &CancellationToken,
) -> (Stream<Up, Down>, Queued<Down>) {
    let (sender, queue) = mpsc::channel(QUEUE_FRAMES);
    let ended = shutdown.child_token();
    let incoming = incoming.map(|message| Ok(Up::decode(message?)?));
    let stream = Stream {
        peer,
        incoming: Box::pin(incoming),
        sender: FrameSender { queue: sender },
        ended: ended.clone(),
    };
    (stream, Queued { queue, ended: Box::pin(ended.cancelled_owned()) })
}
