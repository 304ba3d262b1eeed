//! From a new byte stream to a served client: CONNECT, admission, session, CONNACK.
//!
//! Nothing is kept for a client before its CONNECT is whole and admitted but a socket and the bytes it sent,
//! which are limited below what a client that is known may send. From the moment a session is opened, however
//! this ends, the client identifier is given back.
//!
//! Every session is asked for at the store, which knows whose client identifier it is in the whole cluster. What needs
//! it there waits for the answer: a session that stays, one that may have stayed, a will. Any other client is served
//! although the store is away, and its session is registered there later.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use cluster_rpc::Machine;
use cluster_rpc::frame::{AttachCall, SessionFarewell, SessionRefusal};
use cluster_rpc::machine::now;
use mqtt_codec::{
    ClientId, ConnAck, Connect, DecodeError, Decoder, Packet, ReasonCode, Version, Will,
};
use mqtt_session::{Connection, IdOrigin, Opened, Refusal, Resumed, Session, admit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use xxhash_rust::xxh3::xxh3_64;

use crate::broker::{Broker, Client, Publisher};
use crate::client_task::{ClientTask, Keeping};
use crate::metrics::Tally;
use crate::session_guard::SessionGuard;
use crate::store::{AttachAnswer, Attached, slot_of};
use crate::wire::Input;

/// Largest first packet, in bytes: 64 KiB each for user name, password, will topic and will payload, which
/// is more than a client needs.
const LARGEST_CONNECT: u32 = 256 * 1024;

/// How long a client waits for the store that could be served without.
const UNNEEDED: Duration = Duration::from_secs(1);

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

/// A connection from its first byte until its client is served.
pub(crate) async fn begin<S>(
    mut stream: S,
    broker: Arc<Broker>,
    patience: Patience,
) -> Result<(Box<ClientTask<S>>, Span), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let maximum = broker.profile.maximum_packet_size;
    let mut decoder = Decoder::new(maximum.min(LARGEST_CONNECT));
    let mut input = Input::default();
    let first = read_connect(&mut stream, &mut decoder, &mut input);
    let first = tokio::select! {
        biased;
        () = patience.stop.cancelled() => return Err(HandshakeError::Stopping),
        first = tokio::time::timeout(patience.connect_timeout, first) => first,
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
        return Err(refuse(&mut stream, connect.version, refusal).await);
    }
    let assigned = || assigned_id(broker.uplink.machine().as_ref());
    let (client_id, id_origin) = match &connect.client_id {
        // The copy must not keep the read buffer alive.
        Some(id) => {
            (ClientId::new(id.as_str().to_owned()).unwrap_or_else(assigned), IdOrigin::Given)
        }
        None => (assigned(), IdOrigin::Assigned),
    };
    let span = tracing::debug_span!("client", client_id = client_id.as_str());
    let decoder = Decoder::for_version(connect.version, maximum);
    let admitted = Admitted { stream, decoder, input, connect, client_id, id_origin };
    let task = admitted.open(broker).instrument(span.clone()).await?;
    Ok((task, span))
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

/// Why a client that was admitted gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum AttachError {
    #[error("the store refuses it: {0:?}")]
    Refused(SessionRefusal),
    #[error("the store did not answer in time")]
    TimedOut,
    #[error("told to end: {0:?}")]
    Ordered(ReasonCode),
    #[error("the client is gone")]
    GivenUp,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Admitted<S> {
    /// The client's session, here and in the store.
    async fn open(mut self, broker: Arc<Broker>) -> Result<Box<ClientTask<S>>, HandshakeError> {
        let version = self.connect.version;
        let handle = match broker.sessions.open(&self.client_id).await {
            Ok(handle) => handle,
            Err(error) => {
                tracing::debug!(%error, "no session");
                let refusal = Refusal::new(ReasonCode::ServerUnavailable);
                return Err(refuse(&mut self.stream, version, refusal).await);
            }
        };
        let call = self.attach_call(&broker, handle.key.0);
        let need = needs_store(&call, self.id_origin);
        let expiry_secs = call.expiry_secs;
        let (client, answer) = broker.attach(handle, call);
        let mut guard = SessionGuard::new(&broker, &client);
        let outcome = tokio::select! {
            biased;
            outcome = attached(&broker, &client, answer, need) => outcome,
            () = given_up(&mut self.stream, &mut self.input) => Err(AttachError::GivenUp),
        };
        match outcome {
            Ok(attached) => Ok(self.into_task((client, guard), attached, expiry_secs)),
            Err(error) => {
                tracing::debug!(%error, "no session");
                guard.disarm();
                // The client is not let in, so that its will is not kept [MQTT-3.1.2-7], and its session is as
                // it was.
                client.attachment.abandon();
                broker.end(&client, SessionFarewell::Clean, expiry_secs);
                let refusal = refusal_of(error, &broker);
                Err(refuse(&mut self.stream, version, refusal).await)
            }
        }
    }

    /// The will moves there: the store publishes it.
    fn attach_call(&mut self, broker: &Broker, connection: u64) -> AttachCall {
        let profile = &broker.profile;
        let Connect { clean_start, session_expiry_secs, receive_maximum, ref mut will, .. } =
            *self.connect;
        // It may be kept for long, so it shares no read buffer.
        let detached = |will: Will| Will { message: will.message.detached(), ..will };
        AttachCall {
            client: self.client_id.clone(),
            connection,
            clean_start,
            expiry_secs: session_expiry_secs.min(profile.maximum_session_expiry_secs),
            receive_maximum: receive_maximum.value().min(profile.inflight_maximum.max(1)),
            will: will.take().map(detached).map(Box::new),
            began_ms: 0,
            served: false,
        }
    }

    fn into_task(
        self,
        (client, guard): (Client, SessionGuard),
        attached: Attached,
        expiry_secs: u32,
    ) -> Box<ClientTask<S>> {
        let Self { stream, decoder, input, connect, client_id, id_origin } = self;
        let broker = guard.broker();
        let hash = xxh3_64(client_id.as_str().as_bytes());
        let (session, keeping) = session_of(attached, expiry_secs);
        let protocol = Opened { client_id, id_origin, session };
        let profile = Arc::clone(&broker.profile);
        let connection = Connection::new(&connect, protocol, profile, now());
        let publisher = Publisher {
            handle: Arc::clone(&client.handle),
            hash,
            life: broker.uplink.life(),
            cache: None,
            tally: Tally::default(),
            crowded: false,
        };
        let parts = (decoder, input);
        let connection = (connection, keeping);
        Box::new(ClientTask::new(stream, parts, connection, (client, guard), publisher))
    }
}

/// What a client needs of the store before it is served.
#[derive(Clone, Copy, Debug)]
enum Need {
    /// Its answer: for a session that stays or may have stayed, or for a will.
    Answer,
    /// Nothing, if the answer takes its time.
    Nothing(IdOrigin),
}

fn needs_store(call: &AttachCall, id_origin: IdOrigin) -> Need {
    match call.expiry_secs > 0 || !call.clean_start || call.will.is_some() {
        true => Need::Answer,
        false => Need::Nothing(id_origin),
    }
}

/// The session of a client that was given its identifier, as soon as the store has answered. One that
/// does not need the store is served without after a short while, at once if it is known to be away.
async fn attached(
    broker: &Broker,
    client: &Client,
    mut answer: AttachAnswer,
    need: Need,
) -> Result<Attached, AttachError> {
    let patience = match need {
        Need::Answer => broker.attach_timeout(),
        Need::Nothing(_) if broker.store.is_present() => UNNEEDED.min(broker.attach_timeout()),
        Need::Nothing(_) => Duration::ZERO,
    };
    let mailbox = &client.handle.mailbox;
    tokio::select! {
        biased;
        timely = tokio::time::timeout(patience, &mut answer) => match (timely, need) {
            (Ok(Ok(answer)), _) => answer.map_err(AttachError::Refused),
            (Err(_), Need::Nothing(id)) if client.attachment.serve_before_answer(id) => {
                Ok(Attached::default())
            }
            // It came this moment.
            (Err(_), Need::Nothing(_)) => match answer.try_recv() {
                Ok(answer) => answer.map_err(AttachError::Refused),
                Err(_) => Err(AttachError::TimedOut),
            },
            (Ok(Err(_)), _) | (Err(_), Need::Answer) => Err(AttachError::TimedOut),
        },
        order = poll_fn(|context| mailbox.poll_order(context)) => Err(AttachError::Ordered(order.0)),
    }
}

/// How the connection is to see the session, and who keeps it. A session that is there and would end with this
/// connection is kept in the store until then.
fn session_of(attached: Attached, expiry_secs: u32) -> (Session, Keeping) {
    let Attached { session_present, received, incoming } = attached;
    if session_present {
        let released = received.into_iter().map(slot_of).collect();
        let taken = incoming.iter().filter(|(_, key)| key.is_none());
        let taken = taken.map(|&(packet_id, _)| packet_id).collect();
        let begun = incoming.into_iter().filter_map(|(packet_id, key)| Some((packet_id, key?)));
        let begun: Vec<_> = begun.collect();
        let incoming = begun.iter().map(|&(packet_id, _)| packet_id).collect();
        let resumed = Resumed { released, incoming, taken };
        (Session::Resumed(resumed), Keeping::Kept(begun))
    } else if expiry_secs > 0 {
        (Session::New, Keeping::Kept(Vec::new()))
    } else {
        (Session::Clean, Keeping::Clean)
    }
}

fn refusal_of(error: AttachError, broker: &Broker) -> Refusal {
    broker.metrics.unattached.inc();
    Refusal::new(match error {
        AttachError::Refused(SessionRefusal::TooManySessions | SessionRefusal::Full) => {
            broker.metrics.refused.inc();
            ReasonCode::QuotaExceeded
        }
        AttachError::Refused(SessionRefusal::Fenced | SessionRefusal::Contested)
        | AttachError::TimedOut
        | AttachError::Ordered(_)
        | AttachError::GivenUp => ReasonCode::ServerUnavailable,
    })
}

/// Resolves when a client closes its connection before it is answered. One that has said more after its CONNECT is
/// served all the same: that may be all it wanted.
async fn given_up<S: AsyncRead + Unpin>(stream: &mut S, input: &mut Input) {
    if input.buffer.is_empty() {
        input.buffer.reserve(512);
        // A socket that failed is gone, too.
        if stream.read_buf(&mut input.buffer).await.unwrap_or(0) == 0 {
            return;
        }
    }
    pending().await
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
fn assigned_id(machine: &dyn Machine) -> ClientId {
    let id = format!("causeway-{:016x}{:016x}", machine.random(), machine.random());
    ClientId::new(id).expect("not empty, and short")
}

async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    version: Version,
    refusal: Refusal,
) -> HandshakeError {
    send_last(stream, version, refusal.connack()).await;
    HandshakeError::Refused(refusal)
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
pub(crate) mod tests {
    use cluster_rpc::UplinkConfig;

    use super::*;
    use crate::config::Config;
    use crate::mailbox::EndOrder;
    use crate::metrics::Metrics;
    use crate::store::Store;

    /// A broker whose store is away.
    pub(crate) fn broker() -> Arc<Broker> {
        let mut config = Config::default();
        config.session.attach_timeout = Duration::from_millis(1).into();
        let (uplink, _, link, _) =
            cluster_rpc::start_with_store(UplinkConfig::default(), CancellationToken::new());
        let ways = (uplink, Arc::new(Store::new(link)));
        let metrics = Metrics::default();
        Arc::new(Broker::new(config.profile(), config.broker_limits(), ways, metrics))
    }

    async fn opened(broker: &Arc<Broker>, clean_start: bool) -> (Client, AttachAnswer) {
        let handle = broker
            .sessions
            .open(&assigned_id(broker.uplink.machine().as_ref()))
            .await
            .expect("nobody has it");
        let call = AttachCall {
            client: handle.client_id.clone(),
            connection: handle.key.0,
            clean_start,
            expiry_secs: 0,
            receive_maximum: 10,
            will: None,
            began_ms: 0,
            served: false,
        };
        broker.attach(handle, call)
    }

    #[tokio::test]
    async fn a_panic_before_the_task_of_a_session_gives_its_identifier_back() {
        let broker = broker();
        let (client, _answer) = opened(&broker, true).await;
        let guard = SessionGuard::new(&broker, &client);
        let panicking = std::thread::spawn(move || {
            let _guard = guard;
            panic!("as a fault would");
        });
        assert!(panicking.join().is_err());
        assert_eq!(broker.sessions.len(), 0);
        assert_eq!(broker.store.attachments(), 0);
        assert_eq!(broker.metrics.panics.get(), 1);
    }

    #[tokio::test]
    async fn a_session_whose_task_has_begun_keeps_its_identifier() {
        let broker = broker();
        let (client, _answer) = opened(&broker, true).await;
        SessionGuard::new(&broker, &client).disarm();
        assert_eq!(broker.sessions.len(), 1);
        assert_eq!(broker.metrics.panics.get(), 0);
    }

    #[tokio::test]
    async fn without_the_store_a_clean_client_is_served_and_another_waits_in_vain() {
        let broker = broker();
        for clean_start in [true, false] {
            let (client, answer) = opened(&broker, clean_start).await;
            let need = if clean_start { Need::Nothing(IdOrigin::Given) } else { Need::Answer };
            let outcome = attached(&broker, &client, answer, need).await;
            let expected = if clean_start { Ok(()) } else { Err(AttachError::TimedOut) };
            assert_eq!(outcome.map(drop), expected);
        }
    }

    #[tokio::test]
    async fn a_client_that_waits_for_its_session_ends_when_a_newer_one_has_its_identifier() {
        let broker = broker();
        let (client, answer) = opened(&broker, false).await;
        let mailbox = Arc::clone(&client.handle.mailbox);
        let waiting = attached(&broker, &client, answer, Need::Answer);
        mailbox.order(EndOrder(ReasonCode::SessionTakenOver));
        let error = waiting.await.expect_err("it is told to end");
        assert_eq!(error, AttachError::Ordered(ReasonCode::SessionTakenOver));
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_ends_when_the_proxy_stops() {
        let stop = CancellationToken::new();
        let patience = Patience { connect_timeout: Duration::from_secs(3600), stop: stop.clone() };
        let (stream, _silent) = tokio::io::duplex(1);
        let beginning = begin(stream, broker(), patience);
        stop.cancel();
        assert!(matches!(beginning.await, Err(HandshakeError::Stopping)));
    }

    #[tokio::test]
    async fn a_client_that_goes_while_it_waits_for_the_store_is_noticed() {
        let (mut stream, mut client) = tokio::io::duplex(64);
        let mut input = Input::default();
        {
            let mut waiting = std::pin::pin!(given_up(&mut stream, &mut input));
            tokio::select! {
                biased;
                () = &mut waiting => panic!("it is there"),
                () = std::future::ready(()) => {}
            }
            client.write_all(b"more").await.expect("it is read");
            client.shutdown().await.expect("it is there");
            tokio::select! {
                biased;
                () = &mut waiting => panic!("what it has said is to be served"),
                () = std::future::ready(()) => {}
            }
        }
        assert_eq!(&input.buffer[..], b"more");
        given_up(&mut stream, &mut Input::default()).await;
    }
}
