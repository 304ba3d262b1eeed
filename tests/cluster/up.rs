//! A running `causeway up` and its servers, as a person would have them.
//!
//! Servers are ended by the id that `up` printed for them. Linux: looks into `/proc`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use mqtt_codec::{Connect, Version};
use testkit::{Process, RawClient, connect_packet, eventually, http, kill};
use tokio::net::TcpStream;

use crate::support::{RECOVERY, name, value, within};

/// How often a start is tried again when somebody took the ports in between.
const TRIES: usize = 5;

/// A running `causeway up`.
pub(crate) struct Up {
    pub(crate) process: Process,
    pub(crate) base_port: u16,
    pub(crate) servers: Vec<Server>,
    /// What it printed until it was ready.
    pub(crate) printed: Vec<String>,
}

/// A line of the table that `up` prints.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) process: u32,
    pub(crate) mqtt: Option<SocketAddr>,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    /// The arguments it was started with, but for those that tie it to `up`.
    pub(crate) command: Vec<String>,
}

impl Up {
    /// Starts a cluster and waits until it is ready.
    pub(crate) async fn start(proxies: u16) -> Self {
        Self::start_with(proxies, &[]).await
    }

    /// Starts a cluster that keeps what it knows in `folder`.
    pub(crate) async fn start_in(folder: &Path, proxies: u16) -> Self {
        let folder = folder.to_str().expect("a temporary folder has a plain name");
        Self::start_with(proxies, &["--data", folder]).await
    }

    async fn start_with(proxies: u16, more: &[&str]) -> Self {
        for _ in 0..TRIES {
            let base_port = consecutive_ports(proxies);
            let (count, port) = (proxies.to_string(), base_port.to_string());
            let arguments = ["up", "--proxies", &count, "--base-port", &port];
            let mut process = Process::start(&[&arguments, more].concat()).await;
            let mut printed = Vec::new();
            while let Some(line) = process.line().await {
                let is_last = line.contains("Ctrl-C");
                printed.push(line);
                if is_last {
                    let servers = printed.iter().filter_map(|line| Server::parse(line)).collect();
                    return Self { process, base_port, servers, printed };
                }
            }
        }
        panic!("`causeway up` did not start in {TRIES} tries");
    }

    pub(crate) fn proxy(&self, number: usize) -> &Server {
        &self.servers[number + 1]
    }

    /// The server at `index` of the table runs again as `process`, which was started by hand.
    pub(crate) fn follow(&mut self, index: usize, process: &Process) {
        self.servers[index].process = process.id();
    }

    pub(crate) fn intermediate(&self) -> &Server {
        &self.servers[0]
    }

    /// Waits until the intermediate knows so many filters.
    pub(crate) async fn routes(&self, count: u64) {
        eventually("the subscription is known", async || {
            value(&http(self.intermediate().admin, "/metrics").await, "causeway_routes") == count
        })
        .await;
    }

    /// Ends every process at once, without a chance to say goodbye.
    pub(crate) async fn kill_all(mut self) {
        for server in self.servers.iter().filter(|server| is_alive(server.process)) {
            kill("KILL", server.process).await;
        }
        self.process.kill().await;
        for server in &self.servers {
            server.gone().await;
        }
    }

    /// Ends it as a person would, and waits.
    pub(crate) async fn stop(mut self) {
        kill("TERM", self.process.id()).await;
        assert!(self.process.end().await, "`up` reports success");
        for server in &self.servers {
            assert!(!is_alive(server.process), "{server:?} was left behind");
        }
    }
}

impl Server {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, process, mqtt, grpc, admin] = words.as_slice() else { return None };
        Some(Self {
            name: (*name).to_owned(),
            command: arguments(process.parse().ok()?),
            process: process.parse().ok()?,
            mqtt: mqtt.parse().ok(),
            grpc: grpc.parse().ok(),
            admin: admin.strip_prefix("http://")?.parse().ok()?,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.mqtt.expect("it is a proxy")
    }

    pub(crate) fn port(&self) -> String {
        self.address().port().to_string()
    }

    pub(crate) async fn connect(&self, version: Version) -> RawClient {
        RawClient::connect(self.address(), connect_packet(version, &name("client"))).await
    }

    /// A client of this name, with what `change` makes of its CONNECT.
    pub(crate) async fn client(
        &self,
        version: Version,
        id: &str,
        change: impl FnOnce(&mut Connect),
    ) -> RawClient {
        let mut connect = connect_packet(version, id);
        change(&mut connect);
        RawClient::connect(self.address(), connect).await
    }

    /// Ends it without a chance to say goodbye, and waits until it is gone.
    pub(crate) async fn kill(&self) {
        kill("KILL", self.process).await;
        self.gone().await;
    }

    /// Waits until it is gone: its main thread may end before its sockets are closed.
    pub(crate) async fn gone(&self) {
        eventually("it has ended", async || {
            !is_alive(self.process) && TcpStream::connect(self.admin).await.is_err()
        })
        .await;
    }

    /// Starts it again as it was started, by hand: it does not end with `up` any more.
    pub(crate) async fn start_again(&self) -> Process {
        let arguments = self.command.clone();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let process = Process::start(&arguments).await;
        self.ready().await;
        process
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) {
        within(RECOVERY, "it is ready", async || {
            let listens = TcpStream::connect(self.admin).await.is_ok();
            listens && http(self.admin, "/readyz").await.starts_with("HTTP/1.1 200 ")
        })
        .await;
    }
}

/// The first of `count` ports in a row that nobody listens on.
fn consecutive_ports(count: u16) -> u16 {
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    loop {
        let first = free(0).expect("loopback has a free port");
        let port = first.local_addr().expect("a bound listener has an address").port();
        let rest: Option<Vec<_>> =
            (1..count).map(|offset| free(port.checked_add(offset)?).ok()).collect();
        if rest.is_some() {
            return port;
        }
    }
}

/// Whether a process runs. One that has ended and was not waited for does not.
pub(crate) fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The arguments a server was started with, but for those that tie it to `up`.
fn arguments(process: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).expect("it runs");
    let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word));
    let mut words: Vec<_> = words.skip(1).map(String::from).collect();
    let tie = words.iter().position(|word| word == "--exit-with-parent");
    words.drain(tie.map_or(0..0, |tie| tie..tie + 2));
    words.retain(|word| !word.is_empty());
    words
}
