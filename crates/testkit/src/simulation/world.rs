//! A simulated cluster with its clients, and the time that passes in it.
//!
//! Owns who runs when: in a turn what is due arrives, what is to go wrong does, and then each process runs for as long,
//! one after the other. Invariant: one thread, and nothing but the seed decides.

use std::io;
use std::time::Duration;

use daemon::ByteSize;

use crate::record::{Recorder, What};

use super::Options;
use super::disk::Disk;
use super::network::{ByteStream, Dialer, Net, Site, address};
use super::process::Process;
use super::rest::proxy_name;
use super::server::{Fault, Role, Server};
use super::trace::Trace;
use crate::load;
use crate::random::Random;

/// The longest turn, in microseconds: when nothing is on its way.
const LONGEST_TURN: u64 = 10_000;

/// A turn is a multiple of this, as timers are.
const SHORTEST_TURN: u64 = 1_000;

/// Turns between two looks at what servers count.
const LOOK_TURNS: u64 = 50;

#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: u64,
    pub(super) net: Net,
    pub(super) disk: Disk,
    /// Proxies, and the intermediate last.
    pub(super) servers: Vec<Server>,
    pub(super) clients: Process,
    pub(super) recorder: Recorder,
    /// The clients stand still.
    pub(super) still: bool,
    /// When a link to the intermediate was last cut or held, or no longer.
    pub(super) link_failed: u64,
    told: usize,
    turns: u64,
    traced: bool,
}

/// How clients reach the proxies.
#[derive(Clone, Debug)]
pub(super) struct ClientNetwork {
    dialer: Dialer,
    proxies: usize,
}

impl load::Network for ClientNetwork {
    type Stream = ByteStream;

    fn proxies(&self) -> usize {
        self.proxies
    }

    async fn connect(&self, proxy: usize) -> io::Result<ByteStream> {
        self.dialer.client(proxy).await
    }
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        let mut random = Random::part(seed, "world");
        let proxies = 2 + random.index(2);
        let hub = proxies;
        let net = Net::new(seed, proxies + 2, hub, Trace::new(options.trace));
        let disk = Disk::new(net.clone(), hub);
        disk.set_syncs(!options.lying_disk);
        let mut servers = Vec::new();
        let narrow = random.index(3) == 0;
        let mut limits = narrow.then(|| Random::part(seed, "limits"));
        for site in 0..proxies {
            let role = Role::Proxy(Box::new(proxy_config(site, hub, limits.as_mut())));
            servers.push(Server::new(seed, site, role, net.clone()));
        }
        let role = Role::Intermediate(Box::new(intermediate_config(limits.as_mut())), disk.clone());
        servers.push(Server::new(seed, hub, role, net.clone()));
        let clients = Process::new(0);
        let recorder = {
            let _inside = clients.enter();
            Recorder::new()
        };
        let traced = options.trace;
        Self {
            seed,
            now: 0,
            net,
            disk,
            servers,
            clients,
            recorder,
            still: false,
            link_failed: 0,
            told: 0,
            turns: 0,
            traced,
        }
    }

    pub(super) fn proxies(&self) -> usize {
        self.servers.len() - 1
    }

    pub(super) fn hub(&self) -> usize {
        self.servers.len() - 1
    }

    pub(super) fn clients_site(&self) -> Site {
        self.servers.len()
    }

    pub(super) fn client_network(&self) -> ClientNetwork {
        let dialer = Dialer { net: self.net.clone(), site: self.clients_site() };
        ClientNetwork { dialer, proxies: self.proxies() }
    }

    /// A few clients of most kinds: which, and how busy they are, is drawn from the seed.
    pub(super) fn load_plan(&self) -> load::Plan {
        let mut random = Random::part(self.seed, "load");
        // Now and then there are more of them.
        let many = random.index(16) == 0;
        let mut up_to = |most: usize| {
            let most = if many { 2 * most } else { most };
            random.index(most + 1)
        };
        load::Plan {
            publishers: 1 + up_to(3),
            topics: 1 + up_to(2),
            pause: Duration::from_millis([4, 10, 25][up_to(2).min(2)]),
            max_bytes: [100, 1_000, 8_000][up_to(2).min(2)],
            clean: up_to(2),
            persistent: 1 + up_to(2),
            slow: up_to(1),
            wanderers: up_to(2),
            groups: up_to(1),
            retained: up_to(1),
            wills: up_to(2),
            rivals: up_to(1),
            ..load::Plan::small(self.seed)
        }
    }

    /// What a server is called in a history.
    pub(super) fn name(&self, server: usize) -> String {
        if server == self.hub() { "intermediate".to_owned() } else { format!("proxy {server}") }
    }

    pub(super) fn start(&mut self, server: usize) {
        self.servers[server].start(self.now);
    }

    pub(super) fn tell_fault(&mut self, kind: &str, target: &str) {
        self.net.lock().trace.step(
            self.now,
            [9, kind.len() as u64, target.len() as u64],
            format_args!("FAULT {kind}: {target}"),
        );
        self.note_link(kind);
        self.record(What::Fault { kind: kind.to_owned(), target: target.to_owned() });
    }

    pub(super) fn tell_healed(&mut self, kind: &str, target: &str) {
        self.net.lock().trace.step(
            self.now,
            [10, kind.len() as u64, target.len() as u64],
            format_args!("HEALED {kind}: {target}"),
        );
        self.note_link(kind);
        self.record(What::Healed { kind: kind.to_owned(), target: target.to_owned() });
    }

    fn note_link(&mut self, kind: &str) {
        if kind.contains("link") {
            self.link_failed = self.now;
        }
    }

    /// Writes down what the world does, by the clock of the clients.
    pub(super) fn record(&self, what: What) {
        let _inside = self.clients.enter();
        self.recorder.record(what);
    }

    pub(super) fn steps(&self) -> u64 {
        self.net.lock().trace.steps()
    }

    /// Lets the shortest time pass in which something may happen, but not more than until `until`.
    ///
    /// # Errors
    /// Something is not as it must be at any time.
    pub(super) fn turn(&mut self, until: u64) -> Result<(), Fault> {
        let due = self.net.lock().next_due().unwrap_or(u64::MAX).min(until);
        let time = due.saturating_sub(self.now).clamp(SHORTEST_TURN, LONGEST_TURN);
        self.now += time.next_multiple_of(SHORTEST_TURN);
        self.net.lock().deliver(self.now);
        for server in &mut self.servers {
            server.run(self.now);
        }
        if !self.still {
            self.clients.run_until(self.now);
            self.follow_clients();
        }
        self.turns += 1;
        if self.turns.is_multiple_of(LOOK_TURNS) {
            self.check()?;
        }
        Ok(())
    }

    /// # Errors
    /// Something is not as it must be at any time.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.servers.iter().try_for_each(Server::check)
    }

    /// What the clients did meanwhile are steps too.
    fn follow_clients(&mut self) {
        let events = self.recorder.count();
        let mut net = self.net.lock();
        if self.traced {
            for event in self.recorder.since(self.told) {
                self.told += 1;
                let parts = [11, self.told as u64, 0];
                net.trace.step(self.now, parts, format_args!("{:?}", event.what));
            }
        } else {
            for _ in self.told..events {
                self.told += 1;
                net.trace.step(self.now, [11, self.told as u64, 0], format_args!(""));
            }
        }
    }
}

/// What a client may send, with its topic, is smaller.
const PACKET: u64 = 16 << 10;

/// `narrow` draws limits that a few clients reach: who sends has to wait, and nothing of it may be lost.
fn proxy_config(site: Site, hub: Site, narrow: Option<&mut Random>) -> proxy_server::Config {
    let mut config =
        proxy_server::Config { node_id: proxy_name(site), ..proxy_server::Config::default() };
    config.cluster.intermediates = vec![address(hub).to_string()];
    if let Some(random) = narrow {
        config.mqtt.inflight_maximum = 2 + random.index(7) as u16;
        config.mqtt.maximum_packet_size = ByteSize::new(PACKET);
        config.cluster.window_messages = 1 + random.index(16);
        config.cluster.window_bytes = ByteSize::new(PACKET << random.index(3));
    }
    config
}

fn intermediate_config(narrow: Option<&mut Random>) -> intermediate_server::Config {
    let mut config = intermediate_server::Config {
        node_id: "intermediate".to_owned(),
        ..intermediate_server::Config::default()
    };
    if let Some(random) = narrow {
        config.maximum_packet_size = ByteSize::new(PACKET);
        config.credit.messages = 1 + random.index(16) as u64;
        config.credit.bytes = ByteSize::new(64 << 10);
        config.outbox.bytes = ByteSize::new(1 << 20);
        config.outbox.qos0_bytes = ByteSize::new(1 << 10);
        config.outbox.window_messages = 1 + random.index(8);
        config.outbox.window_bytes = ByteSize::new(64 << 10);
    }
    config
}
