//! One intermediate in this process, on a port of its own.
//!
//! It has a runtime of its own, so that it can end at any point without a last word, and keeps its port and its store,
//! if it has one, when it is started again. Ends when dropped.

use std::net::SocketAddr;
use std::time::Duration;

use intermediate_server::{Config, Listeners, Node};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::DEADLINE;

/// Where an intermediate is, and what it keeps, whether it runs or not.
#[derive(Debug)]
pub(crate) struct Intermediate {
    number: usize,
    address: SocketAddr,
    /// Of the store; `None`: a relay only.
    folder: Option<TempDir>,
    peers: Vec<SocketAddr>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    node: Node,
    admin: SocketAddr,
    stop: DropGuard,
    /// Taken when it ends: a runtime must not be dropped by a task.
    runtime: Option<Runtime>,
}

impl Intermediate {
    /// The one that keeps the store, in a folder that is removed at the end. `peers` are the relays beside it.
    pub(crate) fn with_store(number: usize, address: SocketAddr, peers: Vec<SocketAddr>) -> Self {
        let folder = Some(TempDir::new().expect("a temporary folder can be made"));
        Self { number, address, folder, peers, running: None }
    }

    /// One that relays only.
    pub(crate) fn without_store(number: usize, address: SocketAddr) -> Self {
        Self { number, address, folder: None, peers: Vec::new(), running: None }
    }

    /// Where proxies connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has been started and not stopped.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Its HTTP interface.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.running.as_ref().expect("it was not stopped").admin
    }

    /// The running server.
    pub(crate) fn node(&self) -> &Node {
        &self.running.as_ref().expect("it was not stopped").node
    }

    /// Its settings: the default ones, but for what makes tests wait: no grace at the start.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config {
            node_id: format!("intermediate-{}", self.number),
            start_grace: Duration::ZERO.into(),
            ..Config::default()
        };
        config.data.directory = self.folder.as_ref().map(|folder| folder.path().join("store"));
        config.cluster.peers = self.peers.iter().map(SocketAddr::to_string).collect();
        config
    }

    /// Starts it on `grpc`, which is bound to its address.
    pub(crate) async fn start(&mut self, grpc: TcpListener, config: Config) {
        // A socket belongs to the runtime it was made in.
        let grpc = grpc.into_std().expect("a bound listener can be handed over");
        let http = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let admin = http.local_addr().expect("a bound listener has an address");
        let http = http.into_std().expect("a bound listener can be handed over");
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone().drop_guard();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let started = runtime.spawn(async move {
            let grpc = TcpListener::from_std(grpc).expect("a bound listener can be taken over");
            let http = TcpListener::from_std(http).expect("a bound listener can be taken over");
            Node::start(config, Listeners { grpc, admin: Some(http) }, shutdown)
        });
        let node = started.await.expect("a start does not panic");
        let node = node.expect("an intermediate starts");
        self.running = Some(Running { node, admin, stop, runtime: Some(runtime) });
    }

    /// Stops it as SIGTERM would and waits for its end.
    pub(crate) async fn stop(&mut self) {
        let Running { node, stop, runtime, .. } = self.running.take().expect("it was not stopped");
        drop(stop);
        node.join().await.expect("it stops without a failure");
        runtime.into_iter().for_each(Runtime::shutdown_background);
    }

    /// Ends it in the middle of whatever it does: its sockets close and nothing else happens.
    pub(crate) async fn kill(&mut self) {
        let mut running = self.running.take().expect("it was not stopped");
        let runtime = running.runtime.take().expect("it has not ended");
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(DEADLINE));
        ended.await.expect("a runtime ends without a panic");
    }
}

impl Drop for Intermediate {
    fn drop(&mut self) {
        let runtime = self.running.take().and_then(|mut running| running.runtime.take());
        runtime.into_iter().for_each(Runtime::shutdown_background);
    }
}
