//! The processes of a cluster under torture: started, killed, frozen, restarted, watched.
//!
//! Owns the children: they die with it. Only they are ever signalled. Each listens on addresses of this run alone, which no
//! outgoing connection can take while a process is away. Ports stay the same over all lives of a node.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::ledger::{Ledger, peak_kib};
use crate::kill;

/// How long a process may take to stop in order: its drain and a little more.
const STOP: Duration = Duration::from_secs(20);
/// How long a process may take to answer on its admin interface.
const ANSWER: Duration = Duration::from_secs(1);
/// How long one that ended by itself stays away, as under a supervisor.
const AGAIN: Duration = Duration::from_secs(1);

/// What every life of a node is started with.
#[derive(Debug)]
pub(crate) struct Spec {
    /// `proxy-0`, `intermediate-0`.
    pub(crate) name: String,
    /// The hidden command of the binary and its flags.
    pub(crate) arguments: Vec<String>,
    /// Where it tells how it is.
    pub(crate) admin: SocketAddr,
}

/// A process, or the place of one that is away.
#[derive(Debug)]
pub(crate) struct Node {
    spec: Spec,
    binary: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
    /// Nobody is keeping it away.
    wanted: AtomicBool,
    /// By how many seconds its wall clock is wrong.
    clock_secs: AtomicI64,
    /// Flags of the next lives only.
    more: Mutex<Vec<String>>,
    ledger: Mutex<Ledger>,
}

impl Spec {
    /// A server of the binary, with `flags` beside those that each has.
    pub(crate) fn new(
        command: &str,
        name: &str,
        admin: SocketAddr,
        flags: &[(&str, &str)],
    ) -> Self {
        let common = [("--node-id", name), ("--exit-with-parent", "true"), ("--workers", "1")];
        let flags = common.iter().chain(flags).flat_map(|(flag, value)| [*flag, *value]);
        let arguments = [command].into_iter().chain(flags).map(str::to_owned).collect();
        Self { name: name.to_owned(), arguments, admin }
    }
}

/// An address of this run that nobody listens on, on which no connection of anybody can begin, and that was not given
/// to anybody before.
pub(crate) fn address() -> anyhow::Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | (high & 63), middle, low.max(1));
    loop {
        let listener = TcpListener::bind((ip, 0)).context("find a free port")?;
        let address = listener.local_addr().context("a bound listener has an address")?;
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.insert(address.port()) {
            return Ok(address);
        }
    }
}

impl Node {
    /// A node that was not started yet. What it prints goes to a file in `folder`.
    pub(crate) fn new(spec: Spec, binary: &Path, folder: &Path) -> Self {
        Self {
            log: folder.join(format!("{}.log", spec.name)),
            spec,
            binary: binary.to_owned(),
            child: Mutex::new(None),
            wanted: AtomicBool::new(false),
            clock_secs: AtomicI64::new(0),
            more: Mutex::new(Vec::new()),
            ledger: Mutex::new(Ledger::default()),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// The file of its logs.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// What is known of all its lives.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flags for the lives that begin from now on, beside the usual ones.
    pub(crate) fn set_flags(&self, flags: Vec<String>) {
        *self.more.lock().unwrap_or_else(PoisonError::into_inner) = flags;
    }

    /// Moves the wall clock of the lives that begin from now on.
    pub(crate) fn move_clock(&self, secs: i64) {
        self.clock_secs.fetch_add(secs, Ordering::Relaxed);
    }

    /// Starts it, if it does not run.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        self.wanted.store(true, Ordering::Relaxed);
        let mut child = self.child();
        if child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let mut command = Command::new(&self.binary);
        command
            .args(&self.spec.arguments)
            .args(&*self.more.lock().unwrap_or_else(PoisonError::into_inner));
        let clock_secs = self.clock_secs.load(Ordering::Relaxed);
        if let Some(library) = faketime().filter(|_| clock_secs != 0) {
            command.env("LD_PRELOAD", library).env("FAKETIME", format!("{clock_secs:+}s"));
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
        }
        let started = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            // A group of its own: Ctrl-C in the terminal is for the torture alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.spec.name))?;
        *child = Some(started);
        Ok(())
    }

    /// Ends it without a chance to say goodbye.
    pub(crate) async fn kill(&self) {
        if let Some(mut child) = self.take() {
            // It fails only when the process has just ended.
            child.kill().await.ok();
        }
    }

    /// Ends all of them at the same moment.
    pub(crate) async fn kill_all(nodes: &[&Self]) {
        let mut dying: Vec<_> = nodes.iter().filter_map(|node| node.take()).collect();
        for child in &mut dying {
            // It fails only when the process has just ended.
            child.start_kill().ok();
        }
        for mut child in dying {
            child.wait().await.ok();
        }
    }

    /// Ends it as an operator would. What went wrong with that is the error.
    pub(crate) async fn stop(&self) -> Result<(), String> {
        let Some(mut child) = self.take() else { return Ok(()) };
        // One that has just ended has been told.
        if let Some(process) = child.id() {
            kill("TERM", process).await;
        }
        let Ok(status) = timeout(STOP, child.wait()).await else {
            child.kill().await.ok();
            return Err(format!("{} did not stop within {STOP:?} of SIGTERM", self.name()));
        };
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} was stopped and ended with {status}", self.name())),
            Err(error) => Err(format!("{} was stopped: {error}", self.name())),
        }
    }

    /// Sends `STOP` or `CONT` to it, if it runs.
    pub(crate) async fn signal(&self, signal: &str) {
        if let Some(process) = self.id() {
            kill(signal, process).await;
        }
    }

    /// Waits until it says that it is ready: how long that took, `None` if longer than `within`.
    pub(crate) async fn ready(&self, within: Duration) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < within {
            if self.is_ready().await {
                return Some(began.elapsed());
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Whether it says now that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        self.get("/readyz").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    }

    /// Looks whether it still runs: how it ended, if it did so by itself. Then it is started again after a moment.
    pub(crate) async fn ended_by_itself(&self) -> Option<ExitStatus> {
        let status = {
            let mut child = self.child();
            let status = child.as_mut()?.try_wait().ok()??;
            *child = None;
            status
        };
        self.ledger().end_life();
        sleep(AGAIN).await;
        if self.wanted.load(Ordering::Relaxed) {
            // Its end is told anyway, and a start that fails is one more.
            self.start().ok();
        }
        Some(status)
    }

    /// Notes what its metrics say, and its memory.
    pub(crate) async fn observe(&self) {
        let process = self.id();
        let text = self.get("/metrics").await;
        let Some(process) = process.filter(|_| process == self.id()) else { return };
        let mut ledger = self.ledger();
        if let Some(text) = text {
            ledger.read(&text);
        }
        if let Some(kib) = peak_kib(process) {
            ledger.peak_kib = ledger.peak_kib.max(kib);
        }
    }

    /// Its process. A child that was not waited for still owns its number.
    fn id(&self) -> Option<u32> {
        self.child().as_ref().and_then(Child::id)
    }

    /// What it answers on its admin interface.
    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        let asked = async {
            let mut stream = TcpStream::connect(self.spec.admin).await.ok()?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: torture\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        timeout(ANSWER, asked).await.ok().flatten()
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Child> {
        self.wanted.store(false, Ordering::Relaxed);
        let child = self.child().take();
        if child.is_some() {
            self.ledger().end_life();
        }
        child
    }
}

/// The library that shifts the clock of a process, if this machine has it.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    libraries.find(|library| File::open(library).is_ok())
}
