//! A running intermediate: puts it together from its parts, and takes it apart in order.
//!
//! Order of the end: proxies are told that this relay is going down, so they move their lanes; what is
//! on its way arrives and is acknowledged, for a bounded time; the store commits what it has and is
//! closed; then every stream is ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cluster_rpc::frame::{Incarnation, Member, NodeId, RelayState, StoreHere};
use cluster_rpc::machine::{Machine, System, now};
use cluster_rpc::{Acceptor, AcceptorConfig, Attachments, Network};
use daemon::{Condition, Health};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::host::{Home, Host, Running};
use crate::metrics::RelayCollector;
use crate::relay::{Relay, RelayConfig};
use crate::service::Service;
use crate::stats::Stats;

/// How often the end of what is on its way is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// It has come when nothing was on its way at so many looks in a row: proxies need a moment to
/// hear that they should send elsewhere.
const QUIET_LOOKS: u32 = 5;

/// The sockets of an intermediate, bound by its starter: so a test can let the system choose ports.
#[derive(Debug)]
pub struct Listeners {
    /// For proxies.
    pub grpc: TcpListener,
    /// For the HTTP interface.
    pub admin: Option<TcpListener>,
}

/// What an intermediate works with that has no sockets and threads of its own.
#[derive(Debug)]
pub struct Parts<H> {
    /// Where it is reached, also by its own store.
    pub address: SocketAddr,
    /// Where its store is, if it has one.
    pub home: Option<H>,
    /// The wall clock and chance.
    pub machine: Arc<dyn Machine>,
    /// How its store reaches the relays.
    pub network: Arc<dyn Network>,
}

/// How an intermediate is in the world.
struct Surroundings {
    attachments: Attachments,
    closing: CancellationToken,
    addresses: Addresses,
    admin: Option<TcpListener>,
    machine: Arc<dyn Machine>,
    network: Option<Arc<dyn Network>>,
    running: Running,
}

/// Where an intermediate listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For proxies.
    pub grpc: SocketAddr,
    /// For the HTTP interface.
    pub admin: Option<SocketAddr>,
}

/// A running intermediate.
#[derive(Debug)]
pub struct Node {
    member: Member,
    addresses: Addresses,
    service: Service,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Node {
    /// Starts an intermediate that runs until `shutdown`.
    ///
    /// # Errors
    /// A value of the configuration that cannot work, or a listener that has no address. That the store
    /// cannot be opened is said by [`join`](Self::join).
    pub fn start(
        config: Config,
        listeners: Listeners,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let home = config.store_folder();
        Self::start_with(config, listeners, shutdown, home)
    }

    /// [`start`](Self::start), with the store in `home`, if it has one.
    pub(crate) fn start_with<H: Home>(
        config: Config,
        listeners: Listeners,
        shutdown: CancellationToken,
        home: Option<H>,
    ) -> anyhow::Result<Self> {
        let addresses = addresses(&listeners).context("read the address of a listener")?;
        let acceptor = AcceptorConfig {
            token: config.token()?,
            max_packet_bytes: config.maximum_packet_size.as_usize(),
        };
        let closing = CancellationToken::new();
        let around = Surroundings {
            attachments: cluster_rpc::serve(listeners.grpc, acceptor, closing.clone()),
            closing,
            addresses,
            admin: listeners.admin,
            machine: Arc::new(System),
            network: None,
            running: Running::Threads,
        };
        Self::start_among(config, around, shutdown, home)
    }

    /// Starts an intermediate without sockets and threads: all of it runs as tasks of the current runtime, which must
    /// have one thread, and by its clock. Streams come to it by the acceptor.
    ///
    /// # Errors
    /// A value of the configuration that cannot work.
    #[doc(hidden)]
    pub fn start_by_hand<H: Home>(
        config: Config,
        parts: Parts<H>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<(Self, Acceptor)> {
        let Parts { address, home, machine, network } = parts;
        let closing = CancellationToken::new();
        let (acceptor, attachments) = Attachments::by_hand(closing.clone());
        let around = Surroundings {
            attachments,
            closing,
            addresses: Addresses { grpc: address, admin: None },
            admin: None,
            machine,
            network: Some(network),
            running: Running::Task,
        };
        Ok((Self::start_among(config, around, shutdown, home)?, acceptor))
    }

    fn start_among<H: Home>(
        config: Config,
        around: Surroundings,
        shutdown: CancellationToken,
        home: Option<H>,
    ) -> anyhow::Result<Self> {
        let Surroundings { attachments, closing, addresses, admin, machine, network, running } =
            around;
        let incarnation = incarnation(machine.as_ref());
        let member = Member { node: config.node(addresses.grpc.port())?, incarnation };
        let relay = RelayConfig {
            store_here: if home.is_some() { StoreHere::Yes } else { StoreHere::No },
            lease: config.cluster.lease.duration(),
            start_grace: config.start_grace.duration(),
            credit: config.credit(),
            max_routes: config.maximum_routes,
            outbox: config.outbox_limits(),
            ..RelayConfig::new(member.clone())
        };
        let mut service = Service::new(Relay::new(relay, now()));
        let health = Health::new();
        let mut host = None;
        if let Some(home) = home {
            let (sessions, waiting) = Host::sessions();
            service = service.with_sessions(sessions);
            let (mut ours, condition) = (config.host(addresses.grpc)?, health.condition("store"));
            ours.running = running;
            (ours.uplink.machine, ours.uplink.network) = (machine, network);
            host = Some(Host::start(home, ours, service.clone(), waiting, condition)?);
        }
        let streams = tokio::spawn(service.clone().run(attachments));
        // Ready while it has no proxies too: they find it by its readiness.
        let accepting = health.condition("accepting");
        accepting.set(true, "proxies may connect");
        let routes = health.condition("routes_of_the_store");
        tokio::spawn(watch_store(service.clone(), routes, closing.clone()));
        let admin = admin.map(|listener| {
            let mut registry = Registry::with_prefix("causeway");
            registry.register_collector(Box::new(RelayCollector(service.clone())));
            if let Some(host) = &host {
                host.register(&mut registry);
            }
            daemon::serve_admin(listener, Arc::new(registry), health, closing.clone())
        });
        let drain = config.drain.duration();
        let rest = Rest { drain, accepting, closing, streams, host, admin };
        let running = tokio::spawn(rest.run(service.clone(), shutdown));
        Ok(Self { member, addresses, service, running })
    }

    /// Who it is in the cluster.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.service.stats()
    }

    /// Loses one route of the proxy `node`, as a fault would, without telling anyone. `false` if it
    /// has none. For tests of the digest.
    #[doc(hidden)]
    pub fn corrupt_route(&self, node: &NodeId) -> bool {
        self.service.corrupt_route(node)
    }

    /// Waits until it has stopped.
    ///
    /// # Errors
    /// The store cannot be opened, its thread failed, or the main task panicked.
    pub async fn join(self) -> anyhow::Result<()> {
        self.running.await.context("the intermediate's main task failed")?
    }
}

/// What must be waited for at the end.
struct Rest {
    drain: Duration,
    accepting: Condition,
    closing: CancellationToken,
    streams: JoinHandle<()>,
    host: Option<Host>,
    admin: Option<JoinHandle<()>>,
}

impl Rest {
    async fn run(mut self, service: Service, shutdown: CancellationToken) -> anyhow::Result<()> {
        let result = match &mut self.host {
            Some(host) => tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    self.accepting.set(false, "going down");
                    finish(&service, self.drain).await;
                    host.stop();
                    host.ended().await
                }
                ended = host.ended() => ended,
            },
            None => {
                shutdown.cancelled().await;
                self.accepting.set(false, "going down");
                finish(&service, self.drain).await;
                Ok(())
            }
        };
        self.closing.cancel();
        // A panic in them was reported where it happened.
        drop(self.streams.await);
        if let Some(admin) = self.admin {
            drop(admin.await);
        }
        result
    }
}

/// Lets what is on its way arrive, for a bounded time.
async fn finish(service: &Service, drain: Duration) {
    service.drain();
    let idle = async {
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            tokio::time::sleep(LOOK).await;
            quiet = if service.is_idle() { quiet + 1 } else { 0 };
        }
    };
    if tokio::time::timeout(drain, idle).await.is_err() {
        let Stats { pending, outbox_messages, .. } = service.stats();
        tracing::warn!(pending, outbox_messages, "stopping with messages on their way");
    }
}

/// Says whether the relay knows what the store wants: without that it takes no message.
async fn watch_store(service: Service, condition: Condition, closing: CancellationToken) {
    let mut state = service.state();
    loop {
        if service.stats().waits_for_store {
            condition.set(false, "the store has not told its routes yet");
        } else {
            condition.set(true, "the store has told its routes");
        }
        let joining = *state.borrow_and_update() == RelayState::Joining;
        let look = async {
            if joining {
                tokio::time::sleep(LOOK).await;
            } else {
                // An error: the service is gone, and this task with it.
                state.changed().await.ok();
            }
        };
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = look => {}
        }
    }
}

fn addresses(listeners: &Listeners) -> std::io::Result<Addresses> {
    let admin = listeners.admin.as_ref().map(TcpListener::local_addr).transpose()?;
    Ok(Addresses { grpc: listeners.grpc.local_addr()?, admin })
}

/// Microseconds since 1970: larger at every start, as long as the clock is not set back.
fn incarnation(machine: &dyn Machine) -> Incarnation {
    Incarnation(u64::try_from(machine.unix_time().as_micros()).unwrap_or(u64::MAX))
}
