//! A whole cluster in this process: proxies and intermediates with real gRPC between them.
//!
//! Every node has a port the system chose and keeps it when it is restarted. The first intermediate has the store, and
//! keeps it too; the others relay only. Ends when dropped.

use std::net::SocketAddr;

use intermediate_server::Node;
use tokio::net::TcpListener;

use crate::intermediate::Intermediate;
use crate::{Broker, LinkProxy};

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
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..intermediates {
            let listener = bind("127.0.0.1:0".parse().expect("an address")).await;
            addresses.push(listener.local_addr().expect("a bound listener has an address"));
            listeners.push(listener);
        }
        for (number, listener) in listeners.into_iter().enumerate() {
            let mut intermediate = match number {
                0 => Intermediate::with_store(0, addresses[0], addresses[1..].to_vec()),
                number => Intermediate::without_store(number, addresses[number]),
            };
            let mut config = intermediate.config();
            (cluster.plan.configure_intermediate)(&mut config);
            intermediate.start(listener, config).await;
            cluster.intermediates.push(intermediate);
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
        self.intermediates[number].node()
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
                links.push(LinkProxy::start(intermediate.address()).await);
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
        self.intermediates[number].stop().await;
    }

    /// Ends an intermediate in the middle of whatever it does, as SIGKILL would: its sockets close and
    /// nothing else happens.
    ///
    /// # Panics
    ///
    /// When it was stopped before.
    pub async fn kill_intermediate(&mut self, number: usize) {
        self.intermediates[number].kill().await;
    }

    /// Starts an intermediate again, with empty memory and what is in its store, on its port.
    ///
    /// # Panics
    ///
    /// When it runs.
    pub async fn restart_intermediate(&mut self, number: usize) {
        let intermediate = &mut self.intermediates[number];
        assert!(!intermediate.is_running(), "it runs");
        let listener = bind(intermediate.address()).await;
        let mut config = intermediate.config();
        (self.plan.configure_intermediate)(&mut config);
        intermediate.start(listener, config).await;
    }

    async fn run_proxy(&self, number: usize, listener: TcpListener) -> Broker {
        let node_id = format!("proxy-{number}");
        let mut config = proxy_server::Config { node_id, ..proxy_server::Config::default() };
        let links = self.proxies[number].links.iter().map(LinkProxy::address);
        let direct = self.intermediates.iter().map(Intermediate::address);
        let addresses: Vec<_> = if self.plan.linked { links.collect() } else { direct.collect() };
        config.cluster.intermediates = addresses.iter().map(SocketAddr::to_string).collect();
        (self.plan.configure_proxy)(&mut config);
        Broker::listening(config, listener).await
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
