//! One proxy in this process, on a port of its own, with an intermediate of its own unless it is part of a cluster.
//!
//! Stops when dropped. A client task of it that panicked fails the test at the next connection, or
//! when it stops.

use std::net::SocketAddr;
use std::sync::OnceLock;

use mqtt_codec::{Connect, Version};
use proxy_server::{Config, Listeners, Node, Stats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::intermediate::Intermediate;
use crate::{DEADLINE, RawClient, connect_packet};

/// A running proxy.
#[derive(Debug)]
pub struct Broker {
    node: Node,
    address: SocketAddr,
    admin: SocketAddr,
    stop: DropGuard,
    /// The one that is its own; ends after it.
    intermediate: Option<Intermediate>,
}

impl Broker {
    /// The one with default settings that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (send, receive) = std::sync::mpsc::sync_channel(1);
            // Tests have a runtime each, which ends with them; this one stays.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
                runtime.block_on(async {
                    send.send(Self::start(|_| {}).await).expect("the first test waits for it");
                    std::future::pending::<()>().await;
                });
            });
            receive.recv().expect("the shared broker starts")
        })
    }

    /// A proxy and an intermediate with a store, ready to serve, with the defaults as `configure` changes those of the
    /// proxy.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start(configure: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(configure, |_| {}).await
    }

    /// [`start`](Self::start), where `keep` changes the settings of the intermediate.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start_with(
        configure: impl FnOnce(&mut Config),
        keep: impl FnOnce(&mut intermediate_server::Config),
    ) -> Self {
        let grpc = free_port().await;
        let address = grpc.local_addr().expect("a bound listener has an address");
        let mut intermediate = Intermediate::with_store(0, address, Vec::new());
        let mut store = intermediate.config();
        keep(&mut store);
        intermediate.start(grpc, store).await;
        let mut config = Config { node_id: "proxy".to_owned(), ..Config::default() };
        config.cluster.intermediates = vec![address.to_string()];
        configure(&mut config);
        let broker = Self::listening(config, free_port().await).await;
        let ready = tokio::time::timeout(2 * DEADLINE, broker.ready()).await;
        ready.expect("a proxy with its intermediate is ready soon");
        Self { intermediate: Some(intermediate), ..broker }
    }

    /// A proxy that serves on `listener`.
    pub(crate) async fn listening(config: Config, listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a bound listener has an address");
        let http = free_port().await;
        let admin = http.local_addr().expect("a bound listener has an address");
        let shutdown = CancellationToken::new();
        let listeners = Listeners { mqtt: vec![listener], admin: Some(http) };
        let node = Node::start(config, listeners, shutdown.clone()).expect("a proxy starts");
        Self { node, address, admin, stop: shutdown.drop_guard(), intermediate: None }
    }

    /// Where clients connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.node.stats()
    }

    /// What its HTTP interface answers to a GET of `path`: status line, headers and body.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub async fn http(&self, path: &str) -> String {
        http(self.admin, path).await
    }

    /// What the HTTP interface of its own intermediate answers to a GET of `path`.
    ///
    /// # Panics
    ///
    /// When it has none, or does not answer.
    pub async fn store_http(&self, path: &str) -> String {
        let intermediate = self.intermediate.as_ref().expect("it was started with an intermediate");
        http(intermediate.admin(), path).await
    }

    /// Waits until it serves as a node of a cluster, with the store.
    pub async fn ready(&self) {
        self.node.ready().await;
    }

    /// A TCP connection on which nothing was said yet.
    pub async fn open(&self, version: Version) -> RawClient {
        RawClient::open(self.address, version).await
    }

    /// A connected client: a clean session without keep alive, or what `configure` makes of it.
    ///
    /// # Panics
    ///
    /// When it is refused.
    #[track_caller]
    pub fn connect<F: FnOnce(&mut Connect)>(
        &self,
        version: Version,
        id: &str,
        configure: F,
    ) -> impl Future<Output = RawClient> + use<F> {
        self.assert_sound();
        let mut connect = connect_packet(version, id);
        configure(&mut connect);
        RawClient::connect(self.address, connect)
    }

    /// Stops it as SIGTERM would and waits for its end.
    ///
    /// # Panics
    ///
    /// When a part of it had panicked.
    pub async fn stop(self) {
        self.assert_sound();
        drop(self.stop);
        self.node.join().await.expect("it stops without a panic");
        if let Some(mut intermediate) = self.intermediate {
            intermediate.stop().await;
        }
    }

    fn assert_sound(&self) {
        assert_eq!(self.node.stats().panics, 0, "a client task of the proxy panicked");
    }
}

/// What the HTTP interface of a server answers to a GET: status line, headers and body.
///
/// # Panics
///
/// When it does not answer.
pub async fn http(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the interface listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the answer is text");
    answer
}

async fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port")
}
