//! The composition root: puts a proxy together from its parts, and takes it apart in order.
//!
//! Order of the end: no new connections; clients are told to go; the store hears how each connection ended, and the
//! intermediates take what the clients published; then the proxy leaves the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cluster_rpc::frame::{EndpointRole, NodeId};
use cluster_rpc::machine::System;
use cluster_rpc::{Machine, Network, Token, Uplink, UplinkConfig, UplinkStatus};
use daemon::{Condition, Health};
use mqtt_codec::ReasonCode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, PublishTicket};
use crate::collector::BrokerCollector;
use crate::config::Config;
use crate::connections::Connections;
use crate::listener::{Admission, Pace, accept};
use crate::mailbox::EndOrder;
use crate::metrics::{DropReason, Metrics};
use crate::store::Store;

/// How long clients may take to go when the proxy stops.
const LAST_GOODBYES: Duration = Duration::from_secs(5);

/// The sockets of a proxy, bound by its starter: so a test can let the system choose ports.
#[derive(Debug)]
pub struct Listeners {
    /// For MQTT clients.
    pub mqtt: Vec<TcpListener>,
    /// For the HTTP interface.
    pub admin: Option<TcpListener>,
}

/// What a proxy works with that has no sockets of its own.
#[derive(Debug)]
pub struct Parts<C> {
    /// Its clients.
    pub clients: C,
    /// The wall clock and chance.
    pub machine: Arc<dyn Machine>,
    /// How it reaches the intermediates.
    pub network: Arc<dyn Network>,
}

/// How a proxy is in the world.
struct Surroundings<C> {
    clients: Vec<C>,
    addresses: Vec<SocketAddr>,
    admin: Option<TcpListener>,
    machine: Arc<dyn Machine>,
    network: Option<Arc<dyn Network>>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Node {
    broker: Arc<Broker>,
    addresses: Vec<SocketAddr>,
    running: JoinHandle<anyhow::Result<()>>,
}

/// What a running proxy counts, for tests and tools in the same process.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Clients with a session.
    pub sessions: usize,
    /// Distinct local filters.
    pub filters: usize,
    /// Messages dropped, by reason.
    pub dropped: Vec<(DropReason, u64)>,
    /// Client tasks that panicked.
    pub panics: u64,
    /// Whether the store is there.
    pub store: bool,
    /// The way to the intermediates.
    pub uplink: UplinkStatus,
}

impl Node {
    /// Starts a proxy that runs until `shutdown`.
    pub fn start(
        config: Config,
        listeners: Listeners,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let addresses = listeners
            .mqtt
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()
            .context("read the address of a listener")?;
        let around = Surroundings {
            clients: listeners.mqtt,
            addresses,
            admin: listeners.admin,
            machine: Arc::new(System),
            network: None,
        };
        Self::start_among(&config, around, shutdown)
    }

    /// Starts a proxy without sockets: all of it runs as tasks of the current runtime, and by its clock.
    #[doc(hidden)]
    pub fn start_by_hand<C: Connections>(
        config: &Config,
        parts: Parts<C>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let Parts { clients, machine, network } = parts;
        let around = Surroundings {
            clients: vec![clients],
            addresses: Vec::new(),
            admin: None,
            machine,
            network: Some(network),
        };
        Self::start_among(config, around, shutdown)
    }

    fn start_among<C: Connections>(
        config: &Config,
        around: Surroundings<C>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let Surroundings { clients: sources, addresses, admin, machine, network } = around;
        let uplink_stop = CancellationToken::new();
        let ours = UplinkConfig { network, ..uplink_config(config, machine)? };
        let (uplink, events, link, store_events) =
            cluster_rpc::start_with_store(ours, uplink_stop.clone());
        let mut registry = Registry::with_prefix("causeway");
        let metrics = Metrics::registered(&mut registry);
        let health = Health::new();
        let store = Arc::new(Store::new(link));
        let ways = (uplink, Arc::clone(&store));
        let limits = config.broker_limits();
        let broker = Arc::new(Broker::new(config.profile(), limits, ways, metrics.clone()));
        registry.register_collector(Box::new(BrokerCollector(Arc::clone(&broker))));
        health.condition("mqtt").set(true, "listening");
        let mut core = JoinSet::new();
        // The broker keeps the uplink, so its end must be told to those who watch it.
        let serving = (broker.uplink.serving(), ["serving", "no intermediate serves"]);
        let present = (store.present(), ["present", "no intermediate with the store is reached"]);
        for ((state, texts), name) in [(serving, "cluster"), (present, "store")] {
            let (end, condition) = (uplink_stop.clone(), health.condition(name));
            let watched = watch_state(state, condition, texts);
            core.spawn(async move {
                end.run_until_cancelled_owned(watched).await;
            });
        }
        let admin = admin.map(|listener| {
            daemon::serve_admin(listener, Arc::new(registry), health, uplink_stop.clone())
        });
        core.spawn(crate::cluster::pump(Arc::clone(&broker), events));
        core.spawn(crate::store::pump(store, metrics, store_events));
        let clients = TaskTracker::new();
        let admission = Admission {
            room: Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS))),
            pace: Some(config.limits.connect_rate)
                .filter(|&rate| rate > 0)
                .map(|rate| Arc::new(Pace::new(rate))),
            connect_timeout: config.mqtt.connect_timeout.duration(),
        };
        for source in sources {
            let (broker, clients_of) = (Arc::clone(&broker), clients.clone());
            let stop = shutdown.clone();
            core.spawn(accept(source, broker, admission.clone(), clients_of, stop));
        }
        let rest = Rest { core, clients, uplink_stop, admin };
        let running = tokio::spawn(rest.run(Arc::clone(&broker), shutdown));
        Ok(Self { broker, addresses, running })
    }

    /// Where MQTT is served.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until messages can go to and come from the cluster, and the store is there.
    pub async fn ready(&self) {
        // An error means that the uplink has ended, and with it the wait.
        drop(self.broker.uplink.serving().wait_for(|&serving| serving).await);
        drop(self.broker.store.present().wait_for(|&present| present).await);
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let broker = &self.broker;
        Stats {
            sessions: broker.sessions.len(),
            filters: broker.subscriptions.filters(),
            dropped: DropReason::ALL
                .map(|reason| (reason, broker.metrics.dropped(reason)))
                .to_vec(),
            panics: broker.metrics.panics.get(),
            store: broker.store.is_present(),
            uplink: broker.uplink.status(),
        }
    }

    /// Waits until it has stopped. An error if it stopped because a part that it cannot do without failed.
    pub async fn join(self) -> anyhow::Result<()> {
        self.running.await.context("the proxy's main task failed")?
    }
}

/// What must be watched while the proxy runs, and waited for at the end.
struct Rest {
    /// Tasks without which there is no proxy: accepting, and the way to the cluster.
    core: JoinSet<()>,
    clients: TaskTracker,
    uplink_stop: CancellationToken,
    admin: Option<JoinHandle<()>>,
}

impl Rest {
    async fn run(mut self, broker: Arc<Broker>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let watched = watch(&mut self.core, &shutdown).await;
        self.clients.close();
        let goodbyes = async {
            // A connection that was being accepted may come after the first order.
            let mut again = tokio::time::interval(Duration::from_millis(100));
            loop {
                broker.sessions.order_all(EndOrder(ReasonCode::ServerShuttingDown));
                tokio::select! {
                    biased;
                    () = self.clients.wait() => return,
                    _ = again.tick() => {}
                }
            }
        };
        if tokio::time::timeout(LAST_GOODBYES, goodbyes).await.is_err() {
            tracing::warn!(clients = self.clients.len(), "clients did not go in time");
        }
        tokio::join!(drain(&broker.uplink), broker.store.settle());
        broker.uplink.leave().await;
        self.uplink_stop.cancel();
        if let Some(admin) = self.admin
            && let Err(error) = admin.await
        {
            tracing::warn!(%error, "the HTTP interface failed while stopping");
        }
        watched.and(join_all(self.core).await)
    }
}

/// Waits for `shutdown`. When a core task ends before, half a proxy would go on: that orders the shutdown, and is
/// an error.
async fn watch(core: &mut JoinSet<()>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        Some(ended) = core.join_next() => ended,
    };
    let error = match ended {
        // It was told to stop, and was faster than this.
        Ok(()) if shutdown.is_cancelled() => return Ok(()),
        Ok(()) => anyhow::anyhow!("a task of the proxy ended too early"),
        Err(error) => failed(error),
    };
    tracing::error!(error = format!("{error:#}"), "stopping: the proxy cannot go on");
    shutdown.cancel();
    Err(error)
}

/// Waits for the rest of the core tasks. The first failure is the result.
async fn join_all(mut core: JoinSet<()>) -> anyhow::Result<()> {
    let mut result = Ok(());
    while let Some(ended) = core.join_next().await {
        if let Err(error) = ended {
            let error = failed(error);
            tracing::error!(
                error = format!("{error:#}"),
                "a task of the proxy failed while it stopped"
            );
            result = result.and(Err(error));
        }
    }
    result
}

fn failed(error: JoinError) -> anyhow::Error {
    anyhow::Error::new(error).context("a task of the proxy failed")
}

/// Waits, for a while, until the cluster has what the last clients published.
async fn drain(uplink: &Uplink<PublishTicket>) {
    let empty = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while uplink.status().window_messages > 0 {
            look.tick().await;
        }
    };
    if tokio::time::timeout(LAST_GOODBYES, empty).await.is_err() {
        let messages = uplink.status().window_messages;
        tracing::warn!(messages, "stopping with messages that no intermediate has acknowledged");
    }
}

fn uplink_config(config: &Config, machine: Arc<dyn Machine>) -> anyhow::Result<UplinkConfig> {
    let cluster = &config.cluster;
    Ok(UplinkConfig {
        role: EndpointRole::Proxy,
        intermediates: cluster.intermediates.clone(),
        token: token(config)?,
        window_messages: cluster.window_messages,
        window_bytes: cluster.window_bytes.bytes(),
        lease: cluster.lease.duration(),
        max_packet_bytes: config.mqtt.maximum_packet_size.as_usize(),
        node: node_id(config, machine.as_ref())?,
        machine,
        ..UplinkConfig::default()
    })
}

fn token(config: &Config) -> anyhow::Result<Option<Token>> {
    let Some(secret) = &config.cluster.token else {
        return Ok(None);
    };
    Token::new(secret.reveal()).map(Some).context("cluster.token is not valid")
}

/// The configured name, or the host's.
fn node_id(config: &Config, machine: &dyn Machine) -> anyhow::Result<NodeId> {
    if !config.node_id.is_empty() {
        return NodeId::new(&config.node_id).context("node_id is not valid");
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let started = machine.unix_time().as_micros();
    // Two proxies on one host must not share a name.
    NodeId::new(&format!("{}-{started:x}", host.trim()))
        .context("derive node_id from the host name")
}

/// Keeps a condition in step with a state, said by the first text when it holds and else by the second.
async fn watch_state(
    mut state: watch::Receiver<bool>,
    condition: Condition,
    [good, bad]: [&'static str; 2],
) {
    loop {
        let holds = *state.borrow_and_update();
        condition.set(holds, if holds { good } else { bad });
        if state.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster_rpc::network::{Attempt, Broken, Connection};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;

    const CHANCE: u64 = 0x0123_4567_89ab_cdef;

    /// A machine on which chance is always the same, in a network in which nobody listens.
    #[derive(Debug)]
    struct Alone;

    impl Machine for Alone {
        fn unix_time(&self) -> Duration {
            Duration::from_secs(1_800_000_000)
        }

        fn random(&self) -> u64 {
            CHANCE
        }
    }

    impl Network for Alone {
        fn connect(&self, _: &NodeId, _: SocketAddr) -> Attempt<Arc<dyn Connection>> {
            Box::pin(std::future::ready(Err(Broken::Refused)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_without_sockets_serves_a_client_in_virtual_time() {
        let mut config = Config::default();
        config.cluster.intermediates = vec!["10.0.0.1:7420".to_owned()];
        let (sender, clients) = mpsc::channel(1);
        let parts = Parts { clients, machine: Arc::new(Alone), network: Arc::new(Alone) };
        let stop = CancellationToken::new();
        let node = Node::start_by_hand(&config, parts, stop.clone()).expect("a valid one");
        let (mut client, stream) = tokio::io::duplex(1024);
        sender.send(stream).await.expect("it accepts");
        // MQTT 5, Clean Start, Keep Alive 60 s, no properties, no identifier.
        let connect = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00";
        client.write_all(connect).await.expect("it reads");
        let mut answer = vec![0; 256];
        let length = client.read(&mut answer).await.expect("it answers");
        answer.truncate(length);
        assert_eq!(answer[0], 0x20, "a CONNACK");
        let assigned = format!("causeway-{CHANCE:016x}{CHANCE:016x}");
        assert!(answer.windows(assigned.len()).any(|text| text == assigned.as_bytes()));
        assert_eq!(node.stats().sessions, 1);
        // The client says nothing, for longer than one and a half times its Keep Alive.
        let started = tokio::time::Instant::now();
        while client.read(&mut answer).await.is_ok_and(|read| read > 0) {}
        assert_eq!(started.elapsed().as_secs(), 90);
        stop.cancel();
        node.join().await.expect("it stops in order");
    }

    #[tokio::test]
    async fn a_core_task_that_panics_stops_the_proxy_with_an_error() {
        let (mut core, shutdown) = (JoinSet::new(), CancellationToken::new());
        core.spawn(std::future::pending());
        core.spawn(async { panic!("as a fault would") });
        assert!(watch(&mut core, &shutdown).await.is_err());
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn a_core_task_that_ends_too_early_stops_the_proxy_with_an_error() {
        let (mut core, shutdown) = (JoinSet::new(), CancellationToken::new());
        core.spawn(async {});
        assert!(watch(&mut core, &shutdown).await.is_err());
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn core_tasks_that_end_when_they_are_told_are_no_error() {
        let (mut core, shutdown) = (JoinSet::new(), CancellationToken::new());
        core.spawn(shutdown.clone().cancelled_owned());
        shutdown.cancel();
        assert!(watch(&mut core, &shutdown).await.is_ok());
        assert!(join_all(core).await.is_ok());
    }

    #[tokio::test]
    async fn a_core_task_that_panics_while_the_proxy_stops_is_an_error() {
        let mut core = JoinSet::new();
        core.spawn(async { panic!("as a fault would") });
        core.spawn(async {});
        assert!(join_all(core).await.is_err());
    }
}
