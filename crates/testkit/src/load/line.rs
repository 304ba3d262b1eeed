//! One connection of a client: bytes out, packets in.
//!
//! Owns the stream and its buffers. Decides nothing.

use std::io;

use bytes::BytesMut;
use mqtt_codec::{Connect, DecodeError, Decoder, Packet, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::record::ConnId;

/// Largest packet that is taken from the server.
const LARGEST: u32 = 1 << 20;

#[derive(Debug)]
pub(super) struct Line<S> {
    pub conn: ConnId,
    pub connect: Connect,
    pub read: ReadHalf<S>,
    pub write: WriteHalf<S>,
    pub unread: BytesMut,
    pub unsent: BytesMut,
    decoder: Decoder,
}

impl<S: AsyncRead + AsyncWrite> Line<S> {
    pub(super) fn new(conn: ConnId, stream: S, connect: Connect) -> Self {
        let (read, write) = tokio::io::split(stream);
        let decoder = Decoder::for_version(connect.version, LARGEST);
        let (unread, unsent) = (BytesMut::new(), BytesMut::new());
        Self { conn, connect, read, write, unread, unsent, decoder }
    }

    pub(super) const fn version(&self) -> Version {
        self.connect.version
    }

    /// Puts a packet behind what is to be written.
    pub(super) fn send(&mut self, packet: &Packet) {
        let encoded = packet.encode(self.connect.version, &mut self.unsent);
        encoded.expect("a client sends what can be encoded");
    }

    /// The next packet among the bytes that are there.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, DecodeError> {
        self.decoder.decode(&mut self.unread)
    }

    /// Writes everything, then waits for the next packet: `None` if none comes any more.
    pub(super) async fn exchange(&mut self) -> Option<Result<Packet, DecodeError>> {
        self.write.write_all(&self.unsent).await.ok()?;
        self.unsent.clear();
        loop {
            match self.next() {
                Ok(Some(packet)) => return Some(Ok(packet)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
            self.read.read_buf(&mut self.unread).await.ok().filter(|&read| read > 0)?;
        }
    }

    /// Writes everything, and waits until the other side has closed too: were it closed at once, what the server sent last
    /// would reset the connection, and it might not read what was written.
    pub(super) async fn close(mut self) -> io::Result<()> {
        self.write.write_all(&self.unsent).await?;
        self.write.shutdown().await?;
        loop {
            self.unread.clear();
            if self.read.read_buf(&mut self.unread).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Reads to the end without heeding what comes. The code of the DISCONNECT, if there is one.
    pub(super) async fn last_words(mut self) -> Option<u8> {
        loop {
            while let Ok(Some(packet)) = self.next() {
                if let Packet::Disconnect(disconnect) = packet {
                    return Some(disconnect.reason as u8);
                }
            }
            self.read.read_buf(&mut self.unread).await.ok().filter(|&read| read > 0)?;
        }
    }
}
