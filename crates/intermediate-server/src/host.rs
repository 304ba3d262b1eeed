//! The store inside an intermediate: all that the cluster remembers.
//!
//! Owns one thread, or a task in its place, which owns the partitions; an uplink to the relays, by which messages come as to any proxy;
//! and the streams by which proxies speak for their clients. Invariant: whatever this says to anyone was
//! committed before. Does not: decide anything about sessions, which is the partitions' business.
//!
//! # Layout
//!
//! - [`keeper`]: the thread: opens the store, and again after a failure; [`life`]: one opening, turn by turn
//! - [`streams`], [`lines`]: the streams of proxies, from both ends; [`uplink`]: the way to the relays
//! - [`calls`]: what is said, translated; [`attach`]: takeovers; [`routes`]: answers that wait for routes;
//!   [`post`]: wills on their way
//! - [`waiter`], [`clock`], [`metrics`]

mod attach;
mod calls;
mod clock;
mod keeper;
mod life;
mod lines;
mod metrics;
mod post;
mod routes;
mod streams;
#[cfg(test)]
mod tests;
mod uplink;
mod waiter;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use cluster_rpc::UplinkConfig;
use cluster_rpc::frame::{NodeId, RelayState};
use daemon::Condition;
use partition::{FjallConfig, FjallStore, OpenError, OwnerConfig, Store};
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::keeper::Keeper;
use self::life::Input;
use self::lines::LineId;
use self::metrics::HostMetrics;
use self::streams::Way;
use self::waiter::{Alarm, Parking, block_on};
use crate::service::{Service, SessionStream};

/// Streams that may wait to be served.
const WAITING_STREAMS: usize = 64;

/// Where a store is opened, again and again.
pub trait Home: Send + 'static {
    /// What is opened.
    type Store: Store + Send;

    /// Opens it.
    ///
    /// # Errors
    /// It cannot be opened now.
    fn open(&mut self) -> Result<Self::Store, OpenError>;

    /// What it takes on disk, in bytes.
    fn disk_bytes(store: &Self::Store) -> u64;
}

/// A folder.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) config: FjallConfig,
}

impl Home for Folder {
    type Store = FjallStore;

    fn open(&mut self) -> Result<FjallStore, OpenError> {
        FjallStore::open(&self.path, self.config)
    }

    fn disk_bytes(store: &FjallStore) -> u64 {
        store.disk_bytes().unwrap_or_default()
    }
}

/// Where a store runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Running {
    /// On threads of its own: a commit blocks one.
    Threads,
    /// As a task of the runtime, which has one thread, and with it the clock of the runtime.
    Task,
}

/// How a store takes part in the cluster.
#[derive(Debug)]
pub(crate) struct HostConfig {
    pub(crate) running: Running,
    pub(crate) node: NodeId,
    pub(crate) owner: OwnerConfig,
    pub(crate) uplink: UplinkConfig,
}

/// The running store.
#[derive(Debug)]
pub(crate) struct Host {
    stop: CancellationToken,
    ended: oneshot::Receiver<anyhow::Result<()>>,
    metrics: Arc<HostMetrics>,
}

impl Host {
    /// The queue by which session streams come to a host.
    pub(crate) fn sessions() -> (mpsc::Sender<SessionStream>, mpsc::Receiver<SessionStream>) {
        mpsc::channel(WAITING_STREAMS)
    }

    /// Starts it. `condition` says how the store is.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start<H: Home>(
        home: H,
        config: HostConfig,
        service: Service,
        sessions: mpsc::Receiver<SessionStream>,
        condition: Condition,
    ) -> anyhow::Result<Self> {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let metrics = Arc::new(HostMetrics::new());
        let (ends, ended) = oneshot::channel();
        let way = watch::Sender::new(None);
        tokio::spawn(tell(service.clone(), way.subscribe()));
        tokio::spawn(accept(sessions, way.subscribe(), gone.clone()));
        let keeper = Keeper {
            node: config.node,
            owner: config.owner,
            uplink: config.uplink,
            running: config.running,
            service,
            condition,
            metrics: Arc::clone(&metrics),
            way,
            runtime: Handle::current(),
            stop: stop.clone(),
            gone,
        };
        match config.running {
            Running::Threads => {
                let run = move || {
                    let parking = Parking::of_thread();
                    let alarm = Alarm::Thread(Arc::clone(&parking));
                    ends.send(block_on(parking, keeper.run(alarm, home))).ok()
                };
                std::thread::Builder::new()
                    .name("causeway-store".to_owned())
                    .spawn(run)
                    .context("start the store's thread")?;
            }
            Running::Task => drop(tokio::spawn(Box::pin(async move {
                ends.send(keeper.run(Alarm::of_runtime(), home).await).ok()
            }))),
        }
        Ok(Self { stop, ended, metrics })
    }

    /// Has it commit what has come, and end. [`ended`](Self::ended) says when.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves when it has ended; must not be called again then.
    ///
    /// # Errors
    /// The store could not be opened at first, or its thread panicked.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|_| anyhow::bail!("the store's thread has failed"))
    }

    /// Makes its numbers readable in `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }
}

/// Serves the streams of proxies. While the store is not open they are closed at once: proxies try again.
async fn accept(
    mut sessions: mpsc::Receiver<SessionStream>,
    way: watch::Receiver<Option<Way>>,
    gone: CancellationToken,
) {
    // If this task is dropped, the process that the thread is a part of is gone.
    let _gone = gone.drop_guard();
    let mut lines = (1..).map(LineId);
    while let Some(stream) = sessions.recv().await {
        let open = way.borrow().clone();
        match open.zip(lines.next()) {
            Some((way, id)) => drop(tokio::spawn(streams::serve(id, stream, way))),
            None => tracing::debug!(peer = %stream.peer(), "the store is not open"),
        }
    }
    std::future::pending::<()>().await;
}

/// Tells the store what the relay knows of its proxies.
async fn tell(service: Service, way: watch::Receiver<Option<Way>>) {
    let mut state = service.state();
    loop {
        let input = tokio::select! {
            biased;
            departed = service.departed() => Input::Departed(departed),
            changed = state.changed() => match changed {
                Ok(()) if *state.borrow_and_update() == RelayState::Serving => Input::Serving,
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        // A store that is opened later asks who is there.
        let open = way.borrow().clone();
        if let Some(way) = open {
            way.inputs.send(input).await.ok();
        }
    }
}
