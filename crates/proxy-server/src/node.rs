//! The composition root: puts a proxy together from its parts, and takes it apart in order.
//!
//! Order of the end: no new connections; clients are told to go and their sessions are ended or parked; then the
//! uplink closes, so that what their ends publish still reaches the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use cluster_rpc::frame::NodeId;
use cluster_rpc::{Token, Uplink, UplinkConfig, UplinkEvents, UplinkStatus};
use daemon::{Condition, Health};
use mqtt_codec::ReasonCode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, PublishTicket};
use crate::collector::BrokerCollector;
use crate::config::Config;
use crate::listener::{Admission, Pace, accept};
use crate::mailbox::EndOrder;
use crate::metrics::{DropReason, Metrics};

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
    /// Sessions, with and without a connection.
    pub sessions: usize,
    /// Distinct local filters.
    pub filters: usize,
    /// Retained messages.
    pub retained: usize,
    /// Messages dropped, by reason.
    pub dropped: Vec<(DropReason, u64)>,
    /// Client tasks that panicked.
    pub panics: u64,
    /// The way to the intermediates; `None` in a proxy that stands alone.
    pub uplink: Option<UplinkStatus>,
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
        let uplink_stop = CancellationToken::new();
        let (uplink, events) = start_uplink(&config, &uplink_stop)?;
        let mut registry = Registry::with_prefix("causeway");
        let metrics = Metrics::registered(&mut registry);
        let health = Health::new();
        let broker =
            Arc::new(Broker::new(config.profile(), config.broker_limits(), uplink, metrics));
        registry.register_collector(Box::new(BrokerCollector(Arc::clone(&broker))));
        health.condition("mqtt").set(true, "listening");
        let mut core = JoinSet::new();
        if let Some(uplink) = &broker.uplink {
            // The broker keeps the uplink, so its end must be told.
            let uplink_end = uplink_stop.clone();
            let watched = watch_cluster(uplink.clone(), health.condition("cluster"));
            core.spawn(async move {
                uplink_end.run_until_cancelled_owned(watched).await;
            });
        }
        let admin = listeners.admin.map(|listener| {
            daemon::serve_admin(listener, Arc::new(registry), health, uplink_stop.clone())
        });
        if let Some(events) = events {
            core.spawn(crate::cluster::pump(Arc::clone(&broker), events));
        }
        let clients = TaskTracker::new();
        let admission = Admission {
            room: Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS))),
            pace: Some(config.limits.connect_rate)
                .filter(|&rate| rate > 0)
                .map(|rate| Arc::new(Pace::new(rate))),
            connect_timeout: config.mqtt.connect_timeout.duration(),
        };
        for listener in listeners.mqtt {
            let (broker, clients_of) = (Arc::clone(&broker), clients.clone());
            let stop = shutdown.clone();
            core.spawn(accept(listener, broker, admission.clone(), clients_of, stop));
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

    /// Waits until messages can go to and come from the cluster; a proxy that stands alone is ready at once.
    pub async fn ready(&self) {
        if let Some(uplink) = &self.broker.uplink {
            // An error means that the uplink has ended, and with it the wait.
            drop(uplink.serving().wait_for(|&serving| serving).await);
        }
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let broker = &self.broker;
        Stats {
            sessions: broker.sessions.len(),
            filters: broker.subscriptions.filters(),
            retained: broker.retained.len(),
            dropped: DropReason::ALL
                .map(|reason| (reason, broker.metrics.dropped(reason)))
                .to_vec(),
            panics: broker.metrics.panics.get(),
            uplink: broker.uplink.as_ref().map(Uplink::status),
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
                    () = self.clients.wait() => return,
                    _ = again.tick() => {}
                }
            }
        };
        if tokio::time::timeout(LAST_GOODBYES, goodbyes).await.is_err() {
            tracing::warn!(clients = self.clients.len(), "clients did not go in time");
        }
        if let Some(uplink) = &broker.uplink {
            drain(uplink).await;
        }
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

type UplinkParts = (Option<Uplink<PublishTicket>>, Option<UplinkEvents<PublishTicket>>);

fn start_uplink(config: &Config, stop: &CancellationToken) -> anyhow::Result<UplinkParts> {
    let cluster = &config.cluster;
    if cluster.intermediates.is_empty() {
        return Ok((None, None));
    }
    let uplink_config = UplinkConfig {
        intermediates: cluster.intermediates.clone(),
        token: token(config)?,
        window_messages: cluster.window_messages,
        window_bytes: cluster.window_bytes.bytes(),
        lease: cluster.lease.duration(),
        max_packet_bytes: config.mqtt.maximum_packet_size.as_usize(),
        node: node_id(config)?,
        ..UplinkConfig::default()
    };
    let (uplink, events) = cluster_rpc::start(uplink_config, stop.clone());
    Ok((Some(uplink), Some(events)))
}

fn token(config: &Config) -> anyhow::Result<Option<Token>> {
    let Some(secret) = &config.cluster.token else {
        return Ok(None);
    };
    Token::new(secret.reveal()).map(Some).context("cluster.token is not valid")
}

/// The configured name, or the host's.
fn node_id(config: &Config) -> anyhow::Result<NodeId> {
    if !config.node_id.is_empty() {
        return NodeId::new(&config.node_id).context("node_id is not valid");
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    // Two proxies on one host must not share a name.
    NodeId::new(&format!("{}-{started:x}", host.trim()))
        .context("derive node_id from the host name")
}

async fn watch_cluster(uplink: Uplink<PublishTicket>, condition: Condition) {
    let mut serving = uplink.serving();
    loop {
        let is_serving = *serving.borrow_and_update();
        condition.set(is_serving, if is_serving { "serving" } else { "no intermediate serves" });
        if serving.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
