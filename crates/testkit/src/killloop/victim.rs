//! The intermediate that is killed, its store, and the proxies that see it come and go.
//!
//! Owns the processes, and what is noticed about them: how long openings took, and what must not be.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout_at};

use super::report::{Openings, Sample};
use crate::load::Load;
use crate::process::causeway;
use crate::torture::Cables;
use crate::torture::ledger::{NEVER, errors};
use crate::torture::nodes::{Node, Spec, address};

/// How many proxies there are.
const PROXIES: usize = 2;
/// How long a start may take until messages flow, and how long until all is ready.
const FLOW: Duration = Duration::from_secs(30);
/// So many acknowledgements show that messages flow.
const FLOWING: u64 = 20;
/// How often the intermediate is asked whether its store is open.
const ASK: Duration = Duration::from_millis(5);
/// How many openings a sample is of.
const RECENT: usize = 50;
/// What it answers then.
const OPEN: &str = "\"store\":{\"ok\":true";

/// When it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// So long after its start, whatever it does then.
    AnyTime,
    /// So long after messages flow.
    UnderLoad,
}

/// The processes.
#[derive(Debug)]
pub(super) struct Victim {
    intermediate: Node,
    proxies: Vec<Node>,
    mqtt: Vec<SocketAddr>,
    binary: &'static Path,
    store: PathBuf,
    born: Instant,
    /// From the start of the process until its store was open, or it was killed before, in the order of its lives.
    pub(super) openings: Vec<Duration>,
    /// Lives that were not long enough to see that.
    pub(super) unseen: u64,
    under_load: u64,
    /// What must not be.
    pub(super) troubles: Vec<String>,
}

impl Victim {
    /// Starts it with its files in `folder`, and waits until it is ready.
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let binary = causeway().await;
        let (grpc, admin) = (address()?, address()?);
        let store = folder.join("store");
        let (listen, admin_listen) = (grpc.to_string(), admin.to_string());
        let flags = [
            ("--listen", listen.as_str()),
            ("--admin-listen", &admin_listen),
            ("--data-directory", store.to_str().context("the folder has a name in UTF-8")?),
        ];
        let spec = Spec::new("intermediate-server", "intermediate-0", admin, &flags);
        let intermediate = Node::new(spec, binary, folder);
        let (mut proxies, mut mqtt) = (Vec::new(), Vec::new());
        for number in 0..PROXIES {
            let (here, admin) = (address()?, address()?);
            let (listen, admin_listen) = (here.to_string(), admin.to_string());
            let there = grpc.to_string();
            let flags = [
                ("--mqtt-listen", listen.as_str()),
                ("--admin-listen", &admin_listen),
                ("--cluster-intermediates", &there),
            ];
            let spec = Spec::new("proxy-server", &format!("proxy-{number}"), admin, &flags);
            proxies.push(Node::new(spec, binary, folder));
            mqtt.push(here);
        }
        intermediate.start()?;
        let born = Instant::now();
        for node in &proxies {
            node.start()?;
        }
        for node in proxies.iter().chain([&intermediate]) {
            let ready = node.ready(FLOW).await;
            ready.with_context(|| format!("{} is not ready within {FLOW:?}", node.name()))?;
        }
        Ok(Self {
            intermediate,
            proxies,
            mqtt,
            binary,
            store,
            born,
            openings: Vec::new(),
            unseen: 0,
            under_load: 0,
            troubles: Vec::new(),
        })
    }

    /// The way of the clients to the proxies.
    pub(super) fn network(&self) -> Cables {
        Cables(self.mqtt.as_slice().into())
    }

    /// How many of its lives have ended while messages flowed.
    pub(super) const fn under_load(&self) -> u64 {
        self.under_load
    }

    /// Lets it live until the moment of its death, and watches it.
    pub(super) async fn live(&mut self, moment: Moment, after: Duration, load: &Load) {
        let before = load.counts().acknowledged;
        let flows = || load.counts().acknowledged >= before + FLOWING;
        let mut end = match moment {
            Moment::AnyTime => Some(self.born + after),
            Moment::UnderLoad => None,
        };
        let mut open = None;
        loop {
            if end.is_none() && flows() {
                end = Some(Instant::now() + after);
            }
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                break;
            }
            if now > self.born + FLOW {
                self.troubles.push(format!("no messages flow within {FLOW:?} of a start"));
                break;
            }
            if open.is_none() {
                let until = end.unwrap_or(now + FLOW);
                let answer = timeout_at(until, self.intermediate.get("/readyz")).await;
                if answer.is_ok_and(|answer| answer.is_some_and(|text| text.contains(OPEN))) {
                    open = Some(self.born.elapsed());
                }
            }
            sleep(ASK.min(end.map_or(ASK, |end| end.saturating_duration_since(now)))).await;
        }
        self.unseen += u64::from(open.is_none());
        // It took at least as long as it lived.
        self.openings.push(open.unwrap_or_else(|| self.born.elapsed()));
        self.under_load += u64::from(flows());
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) {
        for node in self.proxies.iter().chain([&self.intermediate]) {
            if let Some(status) = node.ended_by_itself().await {
                self.troubles.push(format!("{} ended by itself: {status}", node.name()));
            }
        }
        // Its counters die with it.
        self.intermediate.observe().await;
        self.intermediate.kill().await;
    }

    /// Starts it again.
    pub(super) fn revive(&mut self) -> anyhow::Result<()> {
        self.intermediate.start()?;
        self.born = Instant::now();
        Ok(())
    }

    /// Has the store of the killed process looked through, from the first row to the last.
    pub(super) async fn check_store(&mut self) -> anyhow::Result<()> {
        let mut check = Command::new(self.binary);
        let check = check.args(["data", "check"]).arg(&self.store).kill_on_drop(true).output();
        let output = check.await.context("start the check")?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            self.troubles.push(format!("the store does not pass its check: {}", text.trim()));
        }
        Ok(())
    }

    /// The store now, and how long its last openings took.
    pub(super) fn sample(&self, kills: u64) -> anyhow::Result<Sample> {
        let store_bytes = bytes(&self.store).context("measure the store")?;
        let recent = &self.openings[self.openings.len().saturating_sub(RECENT)..];
        Ok(Sample { kills, store_bytes, opening_ms: Openings::of(recent).p50_ms })
    }

    /// Waits until everything is ready after the last kill.
    pub(super) async fn recovered(&mut self) {
        for node in self.proxies.iter().chain([&self.intermediate]) {
            if node.ready(FLOW).await.is_none() {
                let trouble = format!("{} is not ready {FLOW:?} after the last kill", node.name());
                self.troubles.push(trouble);
            }
        }
    }

    /// Stops everything in order, looks through the store once more, and through the logs.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for node in self.proxies.iter().chain([&self.intermediate]) {
            node.observe().await;
        }
        for node in self.proxies.iter().chain([&self.intermediate]) {
            self.troubles.extend(node.stop().await.err());
        }
        self.check_store().await?;
        for node in self.proxies.iter().chain([&self.intermediate]) {
            let logged = errors(node.log()).context("read a log")?;
            for (text, count) in logged {
                self.troubles.push(format!("{} logged {count} times: {text}", node.name()));
            }
            for (name, count) in node.ledger().totals() {
                if count > 0 && NEVER.iter().any(|never| name.contains(never)) {
                    self.troubles.push(format!("{name} of {} is {count}", node.name()));
                }
            }
        }
        Ok(())
    }
}

/// What a folder takes on its disk. Files may go meanwhile.
fn bytes(folder: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)?.flatten() {
        let Ok(data) = entry.metadata() else { continue };
        sum += if data.is_dir() { bytes(&entry.path())? } else { data.blocks() * 512 };
    }
    Ok(sum)
}
