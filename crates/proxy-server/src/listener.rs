//! Accepting connections, within the limits on their number and rate.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::handshake::serve;

/// How long accepting rests after an error such as too many open files.
const REST: Duration = Duration::from_millis(50);

/// The rules for new connections, shared by all listeners of a proxy.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// One permit per open connection.
    pub room: Arc<Semaphore>,
    /// Most new connections in a second; `None`: any.
    pub rate: Option<u32>,
    /// Time a connection has to send its CONNECT.
    pub connect_timeout: Duration,
}

/// Accepts on `listener` until `shutdown`; each connection is a task of `tasks`.
pub(crate) async fn accept(
    listener: TcpListener,
    broker: Arc<Broker>,
    admission: Admission,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let mut pace = admission.rate.map(pace);
    loop {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                broker.metrics.accepted.inc();
                let Ok(permit) = Arc::clone(&admission.room).try_acquire_owned() else {
                    // Closed at once: an answer would take the resources that are missing.
                    broker.metrics.refused.inc();
                    continue;
                };
                tasks.spawn(supervise(
                    stream,
                    Arc::clone(&broker),
                    admission.connect_timeout,
                    permit,
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Ticks `rate` times a second; ticks that were not used are lost.
fn pace(rate: u32) -> Interval {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
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

/// Serves one connection, whose panic would end this task only.
async fn supervise(
    stream: TcpStream,
    broker: Arc<Broker>,
    patience: Duration,
    permit: OwnedSemaphorePermit,
) {
    let _counted = Counted::new(&broker);
    // Small packets must not wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    if let Err(error) = serve(stream, broker, patience).await {
        tracing::debug!(%error, "connection refused");
    }
    drop(permit);
}
