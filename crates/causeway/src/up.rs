//! `causeway up`: a whole cluster on one machine, for trying it out and for tests.
//!
//! The servers are children: this same binary with a hidden first argument. They die with this
//! process, however it ends, because each stops when its standard input does. A server that ends by
//! itself is reported and not started again: what a cluster does then is worth seeing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod console;
mod folder;
mod ports;
mod probe;
mod server;
#[cfg(test)]
mod tests;

use console::Console;
use folder::StoreFolder;
use server::{Server, Spec};

/// How long the servers may take until they are ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// What one `up` can start; more is another tool's work.
const MOST_PROXIES: u16 = 64;

/// Start a whole cluster on this machine: one intermediate, and proxies for clients.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  causeway up                              MQTT on 127.0.0.1:1883 and :1884
  causeway up --proxies 3 --base-port 2883
  causeway up --host 0.0.0.0               for clients on other machines
  CAUSEWAY_MQTT__RECEIVE_MAXIMUM=10 causeway up
                                           options of the servers, by environment or in the
                                           file that CAUSEWAY_CONFIG names

Ctrl-C stops all, clients' servers first. A second Ctrl-C ends at once.")]
pub(crate) struct UpArgs {
    /// How many proxies
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PROXIES))
    )]
    proxies: u16,
    /// MQTT port of the first proxy; the others follow it
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 1883,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    base_port: u16,
    /// Folder for what outlives the cluster: the store (sessions, queues, retained messages) and a log
    /// file per server [default: nothing is kept]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address to serve MQTT on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// What the servers log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Default for UpArgs {
    fn default() -> Self {
        Self {
            proxies: 2,
            base_port: 1883,
            data: None,
            host: IpAddr::from([127, 0, 0, 1]),
            log_level: None,
        }
    }
}

/// The cluster while it runs.
struct Cluster {
    console: Console,
    /// By name.
    running: HashMap<String, Server>,
    ended: JoinSet<(String, ExitStatus)>,
}

/// Runs the command.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let interrupted = daemon::on_signals();
    // Removed last: after the servers have ended.
    let store = StoreFolder::new(args.data.as_deref())?;
    let specs = plan(&args, store.path())?;
    if let Some(folder) = &args.data {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let console = Console::start()?;
    let mut cluster = Cluster { console, running: HashMap::new(), ended: JoinSet::new() };
    let result = cluster.serve(&specs, &args, &interrupted).await;
    cluster.stop(&specs).await;
    cluster.console.finish().await;
    result
}

/// The servers to start, the intermediate first.
fn plan(args: &UpArgs, store: &Path) -> anyhow::Result<Vec<Spec>> {
    let mqtt = ports::consecutive(args.host, args.base_port, args.proxies)?;
    let mut free = ports::free(usize::from(args.proxies) + 2)?.into_iter();
    let mut next = || free.next().context("too few free ports");
    let (grpc, admin) = (next()?, next()?);
    let store = store.to_str().context("the name of the store's folder is no text")?;
    let mut specs = vec![Spec::intermediate(grpc, admin, store)];
    for (number, address) in mqtt.into_iter().enumerate() {
        specs.push(Spec::proxy(number, address, next()?, grpc));
    }
    let workers = workers(specs.len()).to_string();
    for spec in &mut specs {
        spec.arguments.extend(["--workers".to_owned(), workers.clone()]);
        if let Some(level) = &args.log_level {
            spec.arguments.extend(["--log-level".to_owned(), level.clone()]);
        }
    }
    Ok(specs)
}

/// Worker threads of each of `servers` that share this machine: more than its processors in all would only make
/// them take turns.
fn workers(servers: usize) -> usize {
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    (processors / servers).max(1)
}

impl Cluster {
    async fn serve(
        &mut self,
        specs: &[Spec],
        args: &UpArgs,
        interrupted: &CancellationToken,
    ) -> anyhow::Result<ExitCode> {
        let program = std::env::current_exe().context("cannot find this program")?;
        tokio::select! {
            ready = self.start(&program, specs, args) => ready?,
            () = interrupted.cancelled() => return Ok(ExitCode::SUCCESS),
        }
        self.console.say(self.table(specs));
        self.console.say(hints(&invocation(&program), specs));
        self.console.release();
        tokio::select! {
            () = self.watch() => {
                self.console.say("every server has ended".to_owned());
                Ok(ExitCode::FAILURE)
            }
            () = interrupted.cancelled() => Ok(ExitCode::SUCCESS),
        }
    }

    /// Starts the intermediate, then the proxies, so that no proxy looks for it in vain.
    async fn start(&mut self, program: &Path, specs: &[Spec], args: &UpArgs) -> anyhow::Result<()> {
        let (first, rest) = specs.split_at(1.min(specs.len()));
        for together in [first, rest] {
            for spec in together {
                self.start_one(program, spec, args)?;
            }
            self.wait_until_ready(together).await?;
        }
        Ok(())
    }

    fn start_one(&mut self, program: &Path, spec: &Spec, args: &UpArgs) -> anyhow::Result<()> {
        let log = args.data.as_ref().map(|folder| folder.join(format!("{}.log", spec.name)));
        let lines = self.console.lines(&spec.name, self.running.len(), log.as_deref())?;
        let (server, end) = Server::start(program, spec, &lines)?;
        self.running.insert(spec.name.clone(), server);
        let name = spec.name.clone();
        self.ended.spawn(async move { (name, end.await) });
        Ok(())
    }

    async fn wait_until_ready(&mut self, specs: &[Spec]) -> anyhow::Result<()> {
        let all_ready = async {
            for spec in specs {
                probe::until_ready(spec.admin).await;
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(READY_TIMEOUT, all_ready) => {
                ready.context("the servers were not ready after 30 s; their log says why")
            }
            Some(Ok((name, status))) = self.ended.join_next() => {
                self.running.remove(&name);
                bail!("{name} did not start ({status}); its log says why")
            }
        }
    }

    /// Reports every server that ends, until none is left.
    async fn watch(&mut self) {
        while let Some(ended) = self.ended.join_next().await {
            let Ok((name, status)) = ended else { continue };
            if let Some(server) = self.running.remove(&name) {
                let process = server.process;
                self.console.say(format!("{name} (process {process}) has ended: {status}"));
            }
        }
    }

    /// Stops the proxies, then the intermediate.
    async fn stop(&mut self, specs: &[Spec]) {
        self.console.release();
        let Some((intermediate, proxies)) = specs.split_first() else { return };
        self.stop_these(proxies).await;
        self.stop_these(std::slice::from_ref(intermediate)).await;
    }

    async fn stop_these(&mut self, specs: &[Spec]) {
        for spec in specs {
            if let Some(server) = self.running.get(&spec.name) {
                server.stop();
            }
        }
        while specs.iter().any(|spec| self.running.contains_key(&spec.name)) {
            match self.ended.join_next().await {
                Some(Ok((name, status))) => {
                    self.running.remove(&name);
                    if !status.success() {
                        self.console.say(format!("{name} has ended: {status}"));
                    }
                }
                Some(Err(_)) => {}
                None => return,
            }
        }
    }

    fn table(&self, specs: &[Spec]) -> String {
        let mut text =
            format!("{:<16}{:<10}{:<24}{:<24}{}\n", "server", "process", "MQTT", "gRPC", "admin");
        for spec in specs {
            let process = self.running.get(&spec.name).map_or(0, |server| server.process);
            let shown = |address: Option<SocketAddr>| {
                address.map_or_else(|| "-".to_owned(), |address| address.to_string())
            };
            let line = writeln!(
                text,
                "{:<16}{process:<10}{:<24}{:<24}http://{}",
                spec.name,
                shown(spec.mqtt),
                shown(spec.grpc),
                spec.admin
            );
            line.expect("a String takes every write");
        }
        text
    }
}

/// Three lines to try, and how other clients say the same.
fn hints(program: &str, specs: &[Spec]) -> String {
    let mut clients = specs.iter().filter_map(|spec| spec.mqtt);
    let Some(first) = clients.next() else { return String::new() };
    let last = clients.next_back().unwrap_or(first);
    let (here, there) = (target(first), target(last));
    format!(
        "Try, in two other terminals:\n  \
         {program} sub {there} -t 'demo/#' -v\n  \
         {program} pub {here} -t demo/hello -m 'hello from the other side'\n  \
         {program} pub {here} -t demo/kept -m 'for those who come later' -r -q 1\n\
         Other clients will do as well:\n  \
         mosquitto_sub {there} -t 'demo/#' -v\n  \
         mosquitto_pub {here} -t demo/hello -m hello\n\
         Ctrl-C stops all.\n"
    )
}

/// The flags that lead a client to `address`.
fn target(address: SocketAddr) -> String {
    let ip = address.ip();
    if ip.is_unspecified() || ip == IpAddr::from([127, 0, 0, 1]) {
        format!("-p {}", address.port())
    } else {
        format!("-h {ip} -p {}", address.port())
    }
}

/// How a person in this folder calls this program.
fn invocation(program: &Path) -> String {
    let name = program.file_name().unwrap_or(program.as_os_str());
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&folders).any(|folder| folder.join(name) == program) {
        return name.to_string_lossy().into_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let relative = program.strip_prefix(&here).unwrap_or(program);
    relative.display().to_string()
}
