//! From a new byte stream to a served client: CONNECT, admission, session, CONNACK.
//!
//! Nothing is kept for a client before its CONNECT is whole and admitted but a socket and the bytes it sent,
//! which are limited below what a client that is known may send. From the moment a session is opened, however
//! this ends, the client identifier is given back.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mqtt_codec::{ClientId, ConnAck, Connect, DecodeError, Decoder, Packet, ReasonCode, Version};
use mqtt_session::{Connection, IdOrigin, Opened, Refusal, Session, admit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::broker::{Broker, Publisher};
use crate::client_task::ClientTask;
use crate::fanout::FanoutCache;
use crate::metrics::Tally;
use crate::session_guard::SessionGuard;
use crate::sessions::{OpenError, OpenedSession, Start};
use crate::wire::Input;

/// Topics whose recipients a connection remembers beside the newest.
const REMEMBERED_TOPICS: usize = 16;

/// Largest first packet, in bytes: 64 KiB each for user name, password, will topic and will payload, which
/// is more than a client needs.
const LARGEST_CONNECT: u32 = 256 * 1024;

/// How long a connection is waited for that has not sent its CONNECT.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// Time it has.
    pub connect_timeout: Duration,
    /// Ends the wait at once: the proxy stops.
    pub stop: CancellationToken,
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The CONNECT did not come in time.
    #[error("no CONNECT in time")]
    TimedOut,
    /// The proxy stops.
    #[error("the proxy stops")]
    Stopping,
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
    patience: Patience,
) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let maximum = broker.profile.maximum_packet_size;
    let mut decoder = Decoder::new(maximum.min(LARGEST_CONNECT));
    let mut input = Input::default();
    let first = read_connect(&mut stream, &mut decoder, &mut input);
    let first = tokio::select! {
        first = tokio::time::timeout(patience.connect_timeout, first) => first,
        () = patience.stop.cancelled() => return Err(HandshakeError::Stopping),
    };
    drop(patience);
    let connect = match first {
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
    let span = tracing::debug_span!("client", client_id = client_id.as_str());
    let decoder = Decoder::for_version(connect.version, maximum);
    let admitted = Admitted { stream, decoder, input, connect, client_id, id_origin };
    admitted.serve(broker).instrument(span).await
}

/// A connection whose CONNECT may become a session.
struct Admitted<S> {
    stream: S,
    decoder: Decoder,
    input: Input,
    connect: Box<Connect>,
    client_id: ClientId,
    id_origin: IdOrigin,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Admitted<S> {
    async fn serve(mut self, broker: Arc<Broker>) -> Result<(), HandshakeError> {
        let start = if self.connect.clean_start { Start::Clean } else { Start::Resume };
        let opened = match broker.sessions.open(&self.client_id, start).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(%error, "no session");
                let refusal = refusal_of(error, &broker);
                return refuse(&mut self.stream, self.connect.version, refusal).await;
            }
        };
        self.into_task(opened, broker).run().await;
        Ok(())
    }

    fn into_task(self, opened: OpenedSession, broker: Arc<Broker>) -> ClientTask<S> {
        let Self { stream, decoder, input, connect, client_id, id_origin } = self;
        let guard = SessionGuard::new(&broker, &opened.handle);
        if let Some(ended) = opened.ended {
            broker.end_session(ended);
        }
        let new = if connect.session_expiry_secs > 0 { Session::New } else { Session::Clean };
        let session = opened.resumed.unwrap_or(new);
        let protocol = Opened { client_id, id_origin, session };
        let connection =
            Connection::new(&connect, protocol, Arc::clone(&broker.profile), Instant::now());
        let cache = FanoutCache::new(Some(opened.handle.key), REMEMBERED_TOPICS);
        let publisher =
            Publisher { handle: opened.handle, cache, tally: Tally::default(), crowded: false };
        ClientTask::new(stream, (decoder, input), connection, guard, publisher)
    }
}

fn refusal_of(error: OpenError, broker: &Broker) -> Refusal {
    Refusal::new(match error {
        OpenError::TakeoverTimeout | OpenError::Superseded => ReasonCode::ServerUnavailable,
        OpenError::Full => {
            broker.metrics.refused.inc();
            ReasonCode::QuotaExceeded
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::metrics::Metrics;

    /// Most bytes that serving a connection takes beside what it has to say.
    const TASK_BYTES: usize = 3 * 1024;

    fn broker() -> Arc<Broker> {
        let config = Config::default();
        let metrics = Metrics::default();
        Arc::new(Broker::new(config.profile(), config.broker_limits(), None, metrics))
    }

    #[tokio::test]
    async fn a_panic_before_the_task_of_a_session_gives_its_identifier_back() {
        let (broker, id) = (broker(), assigned_id());
        let opened = broker.sessions.open(&id, Start::Clean).await.expect("there is room");
        let guard = SessionGuard::new(&broker, &opened.handle);
        let panicking = std::thread::spawn(move || {
            let _guard = guard;
            panic!("as a fault would");
        });
        assert!(panicking.join().is_err());
        assert_eq!(broker.sessions.len(), 0);
        assert_eq!(broker.metrics.panics.get(), 1);
        assert!(!opened.handle.mailbox.is_attached());
    }

    #[tokio::test]
    async fn a_session_whose_task_has_begun_keeps_its_identifier() {
        let (broker, id) = (broker(), assigned_id());
        let opened = broker.sessions.open(&id, Start::Clean).await.expect("there is room");
        SessionGuard::new(&broker, &opened.handle).disarm();
        assert_eq!(broker.sessions.len(), 1);
        assert_eq!(broker.metrics.panics.get(), 0);
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_ends_when_the_proxy_stops() {
        let stop = CancellationToken::new();
        let patience = Patience { connect_timeout: Duration::from_secs(3600), stop: stop.clone() };
        let (stream, _silent) = tokio::io::duplex(1);
        let serving = serve(stream, broker(), patience);
        stop.cancel();
        assert!(matches!(serving.await, Err(HandshakeError::Stopping)));
    }

    #[test]
    fn the_task_of_a_connection_is_small() {
        let patience =
            Patience { connect_timeout: Duration::from_secs(1), stop: CancellationToken::new() };
        let (stream, _) = tokio::io::duplex(1);
        let bytes = size_of_val(&serve(stream, broker(), patience));
        assert!(bytes <= TASK_BYTES, "{bytes} bytes");
    }
}
