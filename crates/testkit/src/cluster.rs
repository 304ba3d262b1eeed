//! A whole cluster in this process: proxies and intermediates with real gRPC between them.
//!
//! Every node has a port the system chose and keeps it when it is restarted. Each intermediate has a
//! runtime of its own, so that it can end at any point without a last word. Ends when dropped.

use std::net::SocketAddr;
use std::time::Duration;

use intermediate_server::{Listeners, Node};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Broker, DEADLINE, LinkProxy};

/// How a cluster is to be built.
pub struct Plan {
    proxies: usize,
    intermediates: usize,
    linked: bool,
    configure_proxy: Box<dyn Fn(&mut proxy_server::Config) + Send>,
    configure_intermediate: Box<dyn Fn(&mut intermediate_server::Config) + Send>,
}

/// Proxies and the intermediates between them.
pub struct Cluster {
    plan: Plan,
    intermediates: Vec<Intermediate>,
    proxies: Vec<Proxy>,
}

struct Intermediate {
    address: SocketAddr,
    running: Option<Running>,
}

/// A running intermediate.
struct Running {
    node: Node,
    stop: DropGuard,
    /// Taken when it ends: a runtime must not be dropped by a task.
    runtime: Option<Runtime>,
}

struct Proxy {
    address: SocketAddr,
    /// One cable to each intermediate, or none.
    links: Vec<LinkProxy>,
    running: Option<Broker>,
}

impl Plan {
    /// Puts a cable that can be cut between each proxy and each intermediate.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// Changes the settings of every proxy.
    #[must_use]
    pub fn proxies_with(
        mut self,
        configure: impl Fn(&mut proxy_server::Config) + Send + 'static,
    ) -> Self {
        self.configure_proxy = Box::new(configure);
        self
    }

    /// Changes the settings of every intermediate.
    #[must_use]
    pub fn intermediates_with(
        mut self,
        configure: impl Fn(&mut intermediate_server::Config) + Send + 'static,
    ) -> Self {
        self.configure_intermediate = Box::new(configure);
        self
    }

    /// Starts all of it and waits until every proxy serves.
    pub async fn start(self) -> Cluster {
        let (proxies, intermediates) = (self.proxies, self.intermediates);
        let mut cluster = Cluster { plan: self, intermediates: Vec::new(), proxies: Vec::new() };
        for number in 0..intermediates {
            let listener = bind("127.0.0.1:0".parse().expect("an address")).await;
            let address = listener.local_addr().expect("a bound listener has an address");
            let running = Some(cluster.run_intermediate(number, listener).await);
            cluster.intermediates.push(Intermediate { address, running });
        }
        for _ in 0..proxies {
            cluster.add_proxy().await;
        }
        for proxy in &cluster.proxies {
            proxy.running.as_ref().expect("it has just been started").ready().await;
        }
        cluster
    }
}

impl Cluster {
    /// A cluster of `proxies` and `intermediates` with default settings, but for what makes tests
    /// wait: no grace at the start.
    #[must_use]
    pub fn plan(proxies: usize, intermediates: usize) -> Plan {
        Plan {
            proxies,
            intermediates,
            linked: false,
            configure_proxy: Box::new(|_| {}),
            configure_intermediate: Box::new(|_| {}),
        }
    }

    /// [`plan`](Self::plan), started.
    pub async fn start(proxies: usize, intermediates: usize) -> Self {
        Self::plan(proxies, intermediates).start().await
    }

    /// The proxy `number`.
    ///
    /// # Panics
    ///
    /// When it was stopped, or there are not as many.
    #[must_use]
    pub fn proxy(&self, number: usize) -> &Broker {
        self.proxies[number].running.as_ref().expect("it was not stopped")
    }

    /// The intermediate `number`.
    ///
    /// # Panics
    ///
    /// When it was stopped, or there are not as many.
    #[must_use]
    pub fn intermediate(&self, number: usize) -> &Node {
        &self.intermediates[number].running.as_ref().expect("it was not stopped").node
    }

    /// The cable between a proxy and an intermediate.
    ///
    /// # Panics
    ///
    /// When the cluster was not built [`linked`](Plan::linked).
    #[must_use]
    pub fn link(&self, proxy: usize, intermediate: usize) -> &LinkProxy {
        &self.proxies[proxy].links[intermediate]
    }

    /// Adds a proxy, which need not be ready yet, and returns its number.
    pub async fn add_proxy(&mut self) -> usize {
        let number = self.proxies.len();
        let mut links = Vec::new();
        if self.plan.linked {
            for intermediate in &self.intermediates {
                links.push(LinkProxy::start(intermediate.address).await);
            }
        }
        let listener = bind("127.0.0.1:0".parse().expect("an address")).await;
        let address = listener.local_addr().expect("a bound listener has an address");
        self.proxies.push(Proxy { address, links, running: None });
        let broker = self.run_proxy(number, listener).await;
        self.proxies[number].running = Some(broker);
        number
    }

    /// Stops a proxy as SIGTERM would and waits for its end.
    ///
    /// # Panics
    ///
    /// When it was stopped before.
    pub async fn stop_proxy(&mut self, number: usize) {
        self.proxies[number].running.take().expect("it was not stopped").stop().await;
    }

    /// Starts a proxy again under its name and on its port.
    ///
    /// # Panics
    ///
    /// When it runs.
    pub async fn restart_proxy(&mut self, number: usize) {
        assert!(self.proxies[number].running.is_none(), "it runs");
        let listener = bind(self.proxies[number].address).await;
        let broker = self.run_proxy(number, listener).await;
        self.proxies[number].running = Some(broker);
    }

    /// Stops an intermediate as SIGTERM would and waits for its end.
    ///
    /// # Panics
    ///
    /// When it was stopped before.
    pub async fn stop_intermediate(&mut self, number: usize) {
        let running = self.intermediates[number].running.take().expect("it was not stopped");
        running.stop().await;
    }

    /// Ends an intermediate in the middle of whatever it does, as SIGKILL would: its sockets close and
    /// nothing else happens.
    ///
    /// # Panics
    ///
    /// When it was stopped before.
    pub async fn kill_intermediate(&mut self, number: usize) {
        let mut running = self.intermediates[number].running.take().expect("it was not stopped");
        let runtime = running.runtime.take().expect("it has not ended");
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(DEADLINE));
        ended.await.expect("a runtime ends without a panic");
    }

    /// Starts an intermediate again, with empty memory, on its port.
    ///
    /// # Panics
    ///
    /// When it runs.
    pub async fn restart_intermediate(&mut self, number: usize) {
        assert!(self.intermediates[number].running.is_none(), "it runs");
        let listener = bind(self.intermediates[number].address).await;
        let running = self.run_intermediate(number, listener).await;
        self.intermediates[number].running = Some(running);
    }

    async fn run_proxy(&self, number: usize, listener: TcpListener) -> Broker {
        let node_id = format!("proxy-{number}");
        let mut config = proxy_server::Config { node_id, ..proxy_server::Config::default() };
        let links = self.proxies[number].links.iter().map(LinkProxy::address);
        let direct = self.intermediates.iter().map(|intermediate| intermediate.address);
        let addresses: Vec<_> = if self.plan.linked { links.collect() } else { direct.collect() };
        config.cluster.intermediates = addresses.iter().map(SocketAddr::to_string).collect();
        (self.plan.configure_proxy)(&mut config);
        Broker::listening(config, listener).await
    }

    async fn run_intermediate(&self, number: usize, grpc: TcpListener) -> Running {
        let mut config = intermediate_server::Config {
            node_id: format!("intermediate-{number}"),
            start_grace: Duration::ZERO.into(),
            ..intermediate_server::Config::default()
        };
        (self.plan.configure_intermediate)(&mut config);
        // A socket belongs to the runtime it was made in.
        let grpc = grpc.into_std().expect("a bound listener can be handed over");
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone().drop_guard();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let started = runtime.spawn(async move {
            let grpc = TcpListener::from_std(grpc).expect("a bound listener can be taken over");
            Node::start(config, Listeners { grpc, admin: None }, shutdown)
        });
        let node = started.await.expect("a start does not panic");
        Running { node: node.expect("an intermediate starts"), stop, runtime: Some(runtime) }
    }
}

impl Running {
    async fn stop(mut self) {
        let runtime = self.runtime.take();
        let Self { node, stop, .. } = self;
        drop(stop);
        node.join().await.expect("it stops without a panic");
        runtime.into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Drop for Intermediate {
    fn drop(&mut self) {
        let runtime = self.running.take().and_then(|mut running| running.runtime.take());
        runtime.into_iter().for_each(Runtime::shutdown_background);
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} proxies, {} intermediates)", self.proxies, self.intermediates)
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let proxies: Vec<_> = self.proxies.iter().map(|proxy| proxy.address).collect();
        write!(f, "Cluster(proxies at {proxies:?})")
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.expect("the port is free")
}
