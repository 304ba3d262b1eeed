//! From a new byte stream to a served client: CONNECT, admission, session, CONNACK.
//!
//! Nothing is kept for a client before its CONNECT is whole and admitted but a socket and the bytes it sent.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mqtt_codec::{ClientId, ConnAck, Connect, DecodeError, Decoder, Packet, ReasonCode, Version};
use mqtt_session::{Connection, IdOrigin, Opened, Refusal, admit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Duration;

use crate::broker::{Broker, Publisher};
use crate::client_task::ClientTask;
use crate::fanout::FanoutCache;
use crate::metrics::Tally;
use crate::sessions::Start;
use crate::wire::Input;

/// Topics whose recipients a connection remembers beside the newest.
const REMEMBERED_TOPICS: usize = 16;

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The CONNECT did not come in time.
    #[error("no CONNECT in time")]
    TimedOut,
    /// The other side closed the connection.
    #[error("closed before a CONNECT was complete")]
    Closed,
    /// The bytes are no CONNECT.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The CONNECT was refused.
    #[error(transparent)]
    Refused(Refusal),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve<S>(
    mut stream: S,
    broker: Arc<Broker>,
    patience: Duration,
) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut decoder = Decoder::new(broker.profile.maximum_packet_size);
    let mut input = Input::default();
    let first = tokio::time::timeout(patience, read_connect(&mut stream, &mut decoder, &mut input));
    let connect = match first.await {
        Err(_) => return Err(HandshakeError::TimedOut),
        Ok(Ok(connect)) => connect,
        Ok(Err(error)) => {
            refuse_undecodable(&mut stream, &decoder, &error).await;
            return Err(error);
        }
    };
    if let Err(refusal) = admit(&connect, &broker.profile) {
        return refuse(&mut stream, connect.version, refusal).await;
    }
    let (client_id, id_origin) = match &connect.client_id {
        // The copy must not keep the read buffer alive.
        Some(id) => {
            (ClientId::new(id.as_str().to_owned()).unwrap_or_else(assigned_id), IdOrigin::Given)
        }
        None => (assigned_id(), IdOrigin::Assigned),
    };
    let start = if connect.clean_start { Start::Clean } else { Start::Resume };
    let Ok(opened) = broker.sessions.open(&client_id, start).await else {
        let refusal = Refusal::new(ReasonCode::ServerUnavailable);
        return refuse(&mut stream, connect.version, refusal).await;
    };
    if let Some(ended) = opened.ended {
        broker.end_session(ended);
    }
    let session_present = opened.resumed.is_some();
    let session = opened.resumed.unwrap_or_default();
    let protocol = Opened { client_id, id_origin, session, session_present };
    let connection =
        Connection::new(&connect, protocol, Arc::clone(&broker.profile), Instant::now());
    drop(connect);
    let cache = FanoutCache::new(Some(opened.handle.key), REMEMBERED_TOPICS);
    let publisher =
        Publisher { handle: opened.handle, cache, tally: Tally::default(), crowded: false };
    ClientTask::new(stream, (decoder, input), connection, broker, publisher).run().await;
    Ok(())
}

async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    decoder: &mut Decoder,
    input: &mut Input,
) -> Result<Box<Connect>, HandshakeError> {
    loop {
        match decoder.decode(&mut input.buffer)? {
            Some(Packet::Connect(connect)) => return Ok(connect),
            // The decoder takes nothing else as the first packet [MQTT-3.1.0-1].
            Some(_) => return Err(HandshakeError::Closed),
            None => {}
        }
        input.buffer.reserve(512);
        if stream.read_buf(&mut input.buffer).await? == 0 {
            return Err(HandshakeError::Closed);
        }
    }
}

/// An identifier that no client can have guessed and no other one has.
fn assigned_id() -> ClientId {
    let random = || RandomState::new().build_hasher().finish();
    let id = format!("causeway-{:016x}{:016x}", random(), random());
    ClientId::new(id).expect("not empty, and short")
}

async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    version: Version,
    refusal: Refusal,
) -> Result<(), HandshakeError> {
    send_last(stream, version, refusal.connack()).await;
    Err(HandshakeError::Refused(refusal))
}

/// Answers a CONNECT that could not be decoded, in the version it was meant to have
/// `[MQTT-3.1.2-2]` `[MQTT-3.1.4-1]`. What is no CONNECT gets no answer.
async fn refuse_undecodable<S>(stream: &mut S, decoder: &Decoder, error: &HandshakeError)
where
    S: AsyncWrite + Unpin,
{
    let HandshakeError::Malformed(error) = error else {
        return;
    };
    let version = match (error, decoder.version()) {
        (_, Some(Version::V5)) => Version::V5,
        // MQTT 3.1.1 wants no CONNACK for what is not a valid CONNECT.
        (_, Some(Version::V3_1 | Version::V3_1_1)) => return,
        (DecodeError::UnsupportedProtocol { level: 6.., .. }, None) => Version::V5,
        (DecodeError::UnsupportedProtocol { .. }, None) => Version::V3_1_1,
        (_, None) => return,
    };
    send_last(stream, version, ConnAck { reason: error.reason(), ..ConnAck::default() }).await;
}

/// Sends a last packet. The client may be gone, which changes nothing.
async fn send_last<S: AsyncWrite + Unpin>(stream: &mut S, version: Version, connack: ConnAck) {
    let mut bytes = BytesMut::new();
    if Packet::ConnAck(Box::new(connack)).encode(version, &mut bytes).is_ok() {
        let last = async {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        };
        drop(tokio::time::timeout(Duration::from_secs(2), last).await);
    }
}
