//! A proxy or the intermediate of a simulated cluster: started, stopped, killed, frozen, and started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cluster_rpc::frame::{NodeId, RelayState};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::network::{
    ByteStream, Carries, Dialer, Net, Notice, Site, address, arrivals, frames_of, send_all,
};
use super::process::Process;
use crate::random::Random;

/// What it is, with its configuration.
#[derive(Clone, Debug)]
pub(super) enum Role {
    Proxy(Box<proxy_server::Config>),
    Intermediate(Box<intermediate_server::Config>, Disk),
}

/// One of both, running.
#[derive(Debug)]
enum Node {
    Proxy(proxy_server::Node),
    Intermediate(intermediate_server::Node),
}

#[derive(Debug)]
struct Running {
    process: Process,
    stop: CancellationToken,
    node: Option<Node>,
    /// Set while it stops in order.
    stopping: Option<JoinHandle<()>>,
}

/// A server, whether it runs or not.
#[derive(Debug)]
pub(super) struct Server {
    site: Site,
    role: Role,
    net: Net,
    random: Random,
    running: Option<Running>,
    /// Until when it stands still.
    frozen: Option<u64>,
    /// How far its wall clock is ahead, in milliseconds.
    ahead: Arc<AtomicI64>,
    /// Digests that must differ: of tables that were altered.
    altered: u64,
}

/// What is wrong with a server.
#[derive(Debug)]
pub(super) struct Fault(pub(super) String);

impl Server {
    pub(super) fn new(seed: u64, site: Site, role: Role, net: Net) -> Self {
        let random = Random::part(seed, &format!("server {site}"));
        Self {
            site,
            role,
            net,
            random,
            running: None,
            frozen: None,
            ahead: Arc::default(),
            altered: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether nothing is being done to it.
    pub(super) fn is_sound(&self) -> bool {
        self.frozen.is_none() && self.running.as_ref().is_some_and(|it| it.stopping.is_none())
    }

    /// Its wall clock goes forward, or back, by so many milliseconds.
    pub(super) fn jump(&self, millis: i64) {
        self.ahead.fetch_add(millis, Ordering::Relaxed);
    }

    /// Its wall clock is set: so many milliseconds ahead of the right time.
    pub(super) fn set_clock(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    /// Starts it with nothing but what is on its disk.
    pub(super) fn start(&mut self, now: u64) {
        assert!(self.running.is_none(), "it runs");
        self.altered = 0;
        let process = Process::new(now);
        let machine = Arc::new(process.clock(self.random.next(), self.ahead.clone()));
        let dialer = Dialer { net: self.net.clone(), site: self.site };
        let stop = CancellationToken::new();
        let inside = process.enter();
        let node = match &self.role {
            Role::Proxy(config) => {
                let clients = Door { net: self.net.clone(), site: self.site };
                let parts = proxy_server::Parts { clients, machine, network: Arc::new(dialer) };
                let node = proxy_server::Node::start_by_hand(config, parts, stop.clone());
                Node::Proxy(node.expect("its configuration is right"))
            }
            Role::Intermediate(config, disk) => {
                let parts = intermediate_server::Parts {
                    address: address(self.site),
                    home: Some(disk.clone()),
                    machine,
                    network: Arc::new(dialer),
                };
                let started = intermediate_server::Node::start_by_hand(
                    (**config).clone(),
                    parts,
                    stop.clone(),
                );
                let (node, acceptor) = started.expect("its configuration is right");
                tokio::spawn(accept(self.net.clone(), self.site, acceptor));
                Node::Intermediate(node)
            }
        };
        drop(inside);
        self.net.lock().start(self.site);
        self.running = Some(Running { process, stop, node: Some(node), stopping: None });
    }

    /// Ends it in the middle of whatever it does.
    pub(super) fn kill(&mut self, notice: Notice) {
        self.frozen = None;
        if let Some(running) = self.running.take() {
            self.net.lock().kill(self.site, notice);
            drop(running);
        }
    }

    /// Begins to stop it in order.
    pub(super) fn stop(&mut self) {
        if let Some(running) = &mut self.running
            && let Some(node) = running.node.take()
        {
            running.stop.cancel();
            let _inside = running.process.enter();
            running.stopping = Some(tokio::spawn(async move {
                // How it ended is not of interest: what it promised is.
                match node {
                    Node::Proxy(node) => drop(node.join().await),
                    Node::Intermediate(node) => drop(node.join().await),
                }
            }));
        }
    }

    /// Lets it stand still until the world's `until`.
    pub(super) fn freeze(&mut self, until: u64) {
        self.frozen = Some(until);
    }

    /// Lets it go on, if it stands still.
    pub(super) fn thaw(&mut self, now: u64) {
        self.frozen = self.frozen.map(|until| until.min(now));
    }

    /// Lets it run until `now`.
    pub(super) fn run(&mut self, now: u64) {
        let Some(running) = &self.running else { return };
        match self.frozen {
            Some(until) if now < until => return,
            Some(_) => {
                self.frozen = None;
                running.process.wake_at(now);
            }
            None => running.process.run_until(now),
        }
        if running.stopping.as_ref().is_some_and(JoinHandle::is_finished) {
            self.kill(Notice::Closed);
        }
    }

    /// Looks at what it counts.
    ///
    /// # Errors
    /// Something is not as it must be at any time.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let node = self.running.as_ref().and_then(|running| running.node.as_ref());
        match (node, &self.role) {
            (Some(Node::Proxy(node)), Role::Proxy(config)) => check_proxy(node, config),
            (Some(Node::Intermediate(node)), Role::Intermediate(config, _)) => {
                check_intermediate(node, config, self.altered)
            }
            _ => Ok(()),
        }
    }

    /// Whether it is an intermediate that takes messages, with so many proxies as members.
    pub(super) fn serves(&self, proxies: usize) -> bool {
        match self.running.as_ref().and_then(|running| running.node.as_ref()) {
            Some(Node::Intermediate(node)) => {
                let stats = node.stats();
                let all = stats.members == stats.endpoints && stats.members >= proxies as u64;
                stats.state == RelayState::Serving && !stats.waits_for_store && all
            }
            _ => false,
        }
    }

    /// Whether it is a proxy that an intermediate serves in this life of it: one whose clock was set back waits until the
    /// earlier one is dead.
    pub(super) fn is_served(&self) -> bool {
        match self.running.as_ref().and_then(|running| running.node.as_ref()) {
            Some(Node::Proxy(node)) => node.stats().uplink.serving > 0,
            _ => false,
        }
    }

    /// Looks at what it counts when nobody has sent anything for a while.
    ///
    /// # Errors
    /// Something is not as it must be then.
    pub(super) fn check_at_rest(&self) -> Result<(), Fault> {
        self.check()?;
        match self.running.as_ref().and_then(|running| running.node.as_ref()) {
            Some(Node::Proxy(node)) => rests_proxy(node),
            Some(Node::Intermediate(node)) => rests_intermediate(node, self.altered),
            None => Err(Fault("it does not run".to_owned())),
        }
    }

    /// Makes an intermediate lose a route of the proxy with this name, if it has one.
    pub(super) fn lose_route(&mut self, of: &str) -> bool {
        let node = self.running.as_ref().and_then(|running| running.node.as_ref());
        let Some(Node::Intermediate(node)) = node else { return false };
        let lost = NodeId::new(of).is_some_and(|of| node.corrupt_route(&of));
        self.altered += u64::from(lost);
        lost
    }
}

fn check_proxy(node: &proxy_server::Node, config: &proxy_server::Config) -> Result<(), Fault> {
    let stats = node.stats();
    let most = config.cluster.window_messages as u64;
    if stats.panics > 0 {
        return Err(Fault(format!("{} tasks of clients panicked", stats.panics)));
    }
    let window = stats.uplink.window_messages as u64;
    if window > most {
        return Err(Fault(format!("{window} messages in a window for {most}")));
    }
    // The last one fits if there is any room.
    let (window, most) = (stats.uplink.window_bytes, config.cluster.window_bytes.bytes());
    if window > most + config.mqtt.maximum_packet_size.bytes() {
        return Err(Fault(format!("{window} bytes in a window for {most}")));
    }
    Ok(())
}

fn check_intermediate(
    node: &intermediate_server::Node,
    config: &intermediate_server::Config,
    altered: u64,
) -> Result<(), Fault> {
    let stats = node.stats();
    let differed = stats.counts.digest_mismatches;
    if differed > altered {
        return Err(Fault(format!("{differed} digests differed, of {altered} altered tables")));
    }
    if stats.counts.violations > 0 {
        return Err(Fault(format!("{} frames must not have come", stats.counts.violations)));
    }
    // Credit that was given out before may still come, from each endpoint.
    let endpoints = stats.endpoints + 1;
    let most = endpoints * (config.outbox.bytes.bytes() + endpoints * config.credit.bytes.bytes());
    if stats.outbox_bytes > most {
        return Err(Fault(format!("{} bytes in outboxes for {most}", stats.outbox_bytes)));
    }
    Ok(())
}

fn rests_proxy(node: &proxy_server::Node) -> Result<(), Fault> {
    let uplink = node.stats().uplink;
    if uplink.window_messages > 0 {
        return Err(Fault(format!("{} messages stay in a window", uplink.window_messages)));
    }
    Ok(())
}

fn rests_intermediate(node: &intermediate_server::Node, altered: u64) -> Result<(), Fault> {
    let stats = node.stats();
    if stats.counts.digest_mismatches != altered {
        let seen = stats.counts.digest_mismatches;
        return Err(Fault(format!("of {altered} altered tables {seen} were noticed")));
    }
    if stats.state != RelayState::Serving || stats.members != stats.endpoints {
        let (members, endpoints) = (stats.members, stats.endpoints);
        return Err(Fault(format!("{members} of {endpoints} are members: {:?}", stats.state)));
    }
    if stats.outbox_messages + stats.pending + stats.congested_outboxes > 0 {
        let (unsent, unsaid) = (stats.outbox_messages, stats.pending);
        return Err(Fault(format!("{unsent} messages stay in outboxes, {unsaid} unacknowledged")));
    }
    Ok(())
}

/// Where clients come in.
struct Door {
    net: Net,
    site: Site,
}

impl proxy_server::Connections for Door {
    type Stream = ByteStream;

    async fn accept(&mut self) -> std::io::Result<ByteStream> {
        Ok(ByteStream::accepted(&self.net, arrivals(&self.net, self.site).await))
    }
}

/// Hands the streams that are opened at an intermediate to it.
async fn accept(net: Net, site: Site, acceptor: cluster_rpc::Acceptor) {
    loop {
        let arrival = arrivals(&net, site).await;
        let Carries::Frames(kind) = arrival.carries else {
            continue;
        };
        let (net, acceptor) = (net.clone(), acceptor.clone());
        tokio::spawn(async move {
            let incoming = frames_of(&net, arrival);
            if let Ok(outgoing) = acceptor.accept(kind, address(arrival.from), incoming).await {
                net.lock().accept(arrival.stream);
                send_all(net, arrival.stream, 1, outgoing).await;
            } else {
                net.lock().refuse(arrival.stream);
            }
        });
    }
}
