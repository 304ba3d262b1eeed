//! Accepting connections, within the limits on their number and rate.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::broker::Broker;
use crate::connections::Connections;
use crate::handshake::{HandshakeError, Patience, begin};

/// How long accepting rests after an error such as too many open files.
const REST: Duration = Duration::from_millis(50);

/// How much earlier than its turn a connection may come: timers are no finer than a few milliseconds.
const EARLY: Duration = Duration::from_millis(10);

/// The rules for new connections, shared by all listeners of a proxy.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// One permit per open connection.
    pub room: Arc<Semaphore>,
    /// When they may come; `None`: at any time.
    pub pace: Option<Arc<Pace>>,
    /// Time a connection has to send its CONNECT.
    pub connect_timeout: Duration,
}

/// Gives every new connection its turn, so many in a second. Turns that nobody took are lost.
#[derive(Debug)]
pub(crate) struct Pace {
    period: Duration,
    next: Mutex<Option<Instant>>,
}

/// Accepts `connections` until `shutdown`; each one is a task of `tasks`.
pub(crate) async fn accept<C: Connections>(
    mut connections: C,
    broker: Arc<Broker>,
    admission: Admission,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = connections.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                broker.metrics.accepted.inc();
                let Ok(permit) = Arc::clone(&admission.room).try_acquire_owned() else {
                    // Closed at once: an answer would take the resources that are missing.
                    broker.metrics.refused.inc();
                    continue;
                };
                if let Some(pace) = &admission.pace {
                    let turn = pace.turn(Instant::now());
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep_until(turn) => {}
                    }
                }
                let patience =
                    Patience { connect_timeout: admission.connect_timeout, stop: shutdown.clone() };
                tasks.spawn(supervise::<C>(stream, Arc::clone(&broker), patience, permit));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

impl Pace {
    /// `rate` connections in a second; at least one.
    #[must_use]
    pub(crate) fn new(rate: u32) -> Self {
        Self { period: Duration::from_secs(1) / rate.max(1), next: Mutex::default() }
    }

    /// When a connection that came `now` may be served.
    fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.period);
        turn.checked_sub(EARLY).unwrap_or(now)
    }
}

/// Counts a connection for as long as it lives, however it ends.
struct Counted(Arc<Broker>);

impl Counted {
    fn new(broker: &Arc<Broker>) -> Self {
        broker.metrics.connections.inc();
        Self(Arc::clone(broker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

/// Serves one connection from its first byte to its last; a panic would end this task only.
///
/// An idle connection is to be small: what its beginning needs is given back, and an `async fn` would keep room for its
/// arguments.
fn supervise<C: Connections>(
    stream: C::Stream,
    broker: Arc<Broker>,
    patience: Patience,
    permit: OwnedSemaphorePermit,
) -> impl Future<Output = ()> {
    let counted = Counted::new(&broker);
    C::prepare(&stream);
    let beginning = Box::pin(begin(stream, broker, patience));
    async move {
        let log = |error: &HandshakeError| tracing::debug!(%error, "connection refused");
        let Ok((client, span)) = beginning.await.inspect_err(log) else { return };
        client.run().instrument(span).await;
        drop((counted, permit));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::client_task::ClientTask;
    use crate::handshake::tests::broker;
    use crate::wire::READ_CHUNK;

    /// Most bytes of the future that serves a connection.
    const TASK_BYTES: usize = 128;

    /// And of the client's state beside it.
    const CLIENT_BYTES: usize = 896;

    #[tokio::test]
    async fn the_task_of_a_connection_is_small() {
        let patience =
            Patience { connect_timeout: Duration::from_secs(1), stop: CancellationToken::new() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let stream = TcpStream::connect(address).await.expect("it listens");
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("it is free");
        let bytes = size_of_val(&supervise::<TcpListener>(stream, broker(), patience, permit));
        assert!(bytes <= TASK_BYTES, "{bytes} bytes");
        let bytes = size_of::<ClientTask<TcpStream>>();
        assert!(bytes <= CLIENT_BYTES, "{bytes} bytes");
    }

    /// Resolves when all others that can run had their turn.
    async fn turn() {
        let mut is_first = true;
        let others = std::future::poll_fn(|context| {
            if std::mem::take(&mut is_first) {
                context.waker().wake_by_ref();
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(())
        });
        others.await;
    }

    #[tokio::test(start_paused = true)]
    async fn others_have_their_turn_while_one_client_sends_without_end() {
        const MESSAGES: u64 = 4_000;
        let (stream, mut client) = tokio::io::duplex(8 << 20);
        let connect = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00";
        let publish = [b"\x30\x83\x08\x00\x01t".as_slice(), &[0; 1024]].concat();
        client.write_all(connect).await.expect("it has room");
        let broker = broker();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("it is free");
        let patience =
            Patience { connect_timeout: Duration::from_secs(60), stop: CancellationToken::new() };
        let serving = supervise::<mpsc::Receiver<DuplexStream>>(
            stream,
            Arc::clone(&broker),
            patience,
            permit,
        );
        let serving = tokio::spawn(serving);
        client.read_exact(&mut [0; 4]).await.expect("a CONNACK");
        client.write_all(&publish.repeat(MESSAGES as usize)).await.expect("it has room");
        // A task like that of the client, so that they take turns.
        let turns = tokio::spawn(async move {
            let received = || broker.metrics.received[0].get();
            let (mut turns, mut before) = (0, 0);
            while before < MESSAGES {
                turn().await;
                turns += u64::from(received() > before);
                before = received();
            }
            turns
        });
        let turns = turns.await.expect("it ends");
        serving.abort();
        assert!(turns * 4 * READ_CHUNK as u64 >= MESSAGES * 1024, "{turns} turns");
    }

    #[test]
    fn connections_that_come_together_are_served_at_the_rate() {
        let pace = Pace::new(100);
        let now = Instant::now();
        let last = (0..=500).map(|_| pace.turn(now)).last().expect("there are some");
        assert_eq!(last - now, Duration::from_secs(5) - EARLY);
    }

    #[test]
    fn turns_that_nobody_took_are_lost() {
        let pace = Pace::new(1);
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        assert!(pace.turn(now) <= now);
        assert!(pace.turn(later) <= later);
        assert_eq!(pace.turn(later), later + Duration::from_secs(1) - EARLY);
    }

    #[test]
    fn no_rate_is_too_high_or_too_low() {
        let now = Instant::now();
        for rate in [0, 1, u32::MAX] {
            assert!(Pace::new(rate).turn(now) <= now);
        }
    }
}
