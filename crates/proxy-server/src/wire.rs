//! Bytes to and from one socket, without a buffer while nothing is on its way.
//!
//! Reads go through one buffer per worker thread and are copied out in the size they have, so an
//! idle connection holds none. Writes collect in one buffer; a large payload is not copied into it
//! but sent from where it lies.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use mqtt_codec::Version;
use mqtt_session::Outgoing;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What one read takes at most, unless a larger packet is on its way.
pub(crate) const READ_CHUNK: usize = 64 * 1024;

/// Payloads from this size on are written from where they lie.
const VECTORED: usize = 4096;

/// Most slices of one vectored write.
const SLICES: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_CHUNK].into_boxed_slice());
}

/// What came in and is not decoded yet.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// Undecoded bytes.
    pub buffer: BytesMut,
}

/// What goes out and is not written yet.
#[derive(Debug, Default)]
pub(crate) struct Output {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Input {
    /// Reads once. `missing` is what the packet at the start of the buffer still lacks, 0 if unknown.
    /// Ready with the number of bytes; 0 is the end of the stream.
    pub(crate) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut S,
        missing: usize,
    ) -> Poll<io::Result<usize>> {
        if missing > READ_CHUNK {
            self.buffer.reserve(missing);
        }
        if !self.buffer.is_empty()
            && self.buffer.capacity() - self.buffer.len() >= missing.max(1)
            && missing > 0
        {
            let read = stream.read_buf(&mut self.buffer);
            tokio::pin!(read);
            return read.poll(context);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut filled = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(context, &mut filled))?;
            let read = filled.filled();
            if self.buffer.is_empty() {
                self.buffer = BytesMut::from(read);
            } else {
                self.buffer.extend_from_slice(read);
            }
            Poll::Ready(Ok(read.len()))
        })
    }

    /// Gives the buffer back when nothing is left in it.
    pub(crate) fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

impl Output {
    /// Bytes waiting.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a packet.
    pub(crate) fn push(
        &mut self,
        packet: &Outgoing,
        version: Version,
    ) -> Result<(), mqtt_codec::EncodeError> {
        let before = self.tail.len();
        match packet {
            Outgoing::Publish { head, message } if message.payload.len() >= VECTORED => {
                head.encode_before_payload(message, version, &mut self.tail)?;
                self.len += self.tail.len() - before + message.payload.len();
                self.chunks.push_back(self.tail.split().freeze());
                self.chunks.push_back(message.payload.clone());
                return Ok(());
            }
            Outgoing::Publish { .. } | Outgoing::Packet(_) => {
                packet.encode(version, &mut self.tail)?;
            }
        }
        self.len += self.tail.len() - before;
        Ok(())
    }

    /// Writes once. Ready when something was written.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        let written = if self.chunks.is_empty() {
            ready!(Pin::new(stream).poll_write(context, &self.tail))?
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let whole = self.chunks.iter().map(Bytes::as_ref).chain([self.tail.as_ref()]);
            let mut count = 0;
            for (slice, bytes) in slices.iter_mut().zip(whole) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            ready!(Pin::new(stream).poll_write_vectored(context, &slices[..count]))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(chunk) = self.chunks.front_mut() {
            if written < chunk.len() {
                chunk.advance(written);
                return;
            }
            written -= chunk.len();
            self.chunks.pop_front();
        }
        self.tail.advance(written);
        if self.len == 0 {
            // An idle connection holds no write buffer.
            *self = Self::default();
        }
    }
}
