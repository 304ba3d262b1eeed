//! Torture over real processes: a cluster under load and under random faults, and whether it kept its promises.
//!
//! Owns the course of a run: start, load, faults, healing, judgement, report. The clients are [`crate::load`]'s, the judgement is
//! [`crate::checker`]'s.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::load::{Counts, Load, Network, Plan};
use crate::process::causeway;
use crate::record::{Event, Recorder, What, load, save};

mod act;
mod disk;
mod faults;
pub(crate) mod ledger;
pub(crate) mod nodes;
mod summary;

use act::World;
use faults::Kind;
use summary::Summary;

/// What everything acknowledged may take to arrive after the faults are healed.
const SETTLE: Duration = Duration::from_secs(30);
/// How long the processes may take to be ready again after the last fault.
const HEAL: Duration = Duration::from_secs(60);
/// How often a line of progress comes.
const PROGRESS: Duration = Duration::from_secs(5);

/// A cluster of real processes under load and random faults: is anything lost, repeated or out of order?
///
/// Exit code 0: no violation. 1: violations, and the history is kept. 2: wrong usage
#[derive(Clone, Debug, Args)]
pub struct TortureArgs {
    /// How long faults happen
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What all that is random comes from; without, another one in each run
    #[arg(long)]
    seed: Option<u64>,
    /// How many proxies there are
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    proxies: u8,
    /// Which faults happen: all, none, or names with commas between them
    #[arg(long, default_value = "all", value_parser = Kinds::parse)]
    faults: Kinds,
    /// Where the history, the logs and the summary go, and stay; without: target/torture/SEED, where the history and the logs
    /// stay after a violation
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also writes the summary there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Runs nothing: judges the history in this file
    #[arg(long, value_name = "FILE")]
    replay_history: Option<PathBuf>,
}

/// Kinds of faults.
#[derive(Clone, Debug)]
struct Kinds(Vec<Kind>);

impl Kinds {
    fn parse(list: &str) -> Result<Self, String> {
        Kind::parse(list).map(Self)
    }
}

/// The way of the clients to the proxies.
#[derive(Clone)]
pub(crate) struct Cables(pub(crate) Arc<[SocketAddr]>);

impl Network for Cables {
    type Stream = TcpStream;

    fn proxies(&self) -> usize {
        self.0.len()
    }

    async fn connect(&self, proxy: usize) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.0[proxy]).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Runs the torture, or judges an earlier one, as `args` say.
///
/// # Errors
/// The cluster cannot be started, or a file cannot be read or written.
pub async fn run(args: TortureArgs) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.replay_history {
        let events = load(file).with_context(|| format!("read {}", file.display()))?;
        let summary = Summary::of_history(seed_of(&events), &events);
        return report(&summary, &args, None);
    }
    let seed = args
        .seed
        .unwrap_or_else(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0));
    let folder =
        args.out.clone().unwrap_or_else(|| Path::new("target/torture").join(seed.to_string()));
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("empty {}", folder.display()));
        }
        _ => fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?,
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        summary = torture(&args, seed, &folder) => report(&summary?, &args, Some(&folder)),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

/// One run, judged. What it wrote down is in `folder`.
async fn torture(args: &TortureArgs, seed: u64, folder: &Path) -> anyhow::Result<Summary> {
    say(&format!(
        "seed {seed}: {} proxies, {} s, in {}",
        args.proxies,
        args.seconds,
        folder.display()
    ))?;
    let recorder = Recorder::new();
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    recorder.record(What::Run { seed, command });
    let proxies = usize::from(args.proxies);
    let world = World::start(causeway().await, folder, proxies, recorder.clone()).await?;
    let world = Arc::new(world);
    let watcher = Arc::clone(&world);
    let watching = AbortOnDropHandle::new(tokio::spawn(async move { watcher.watch().await }));
    let cables = (0..proxies).map(|proxy| world.client_cable(proxy)).collect();
    let load = Load::start(Plan::torture(seed), Cables(cables), recorder.clone());
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let faults = faults::run(Arc::clone(&world), args.faults.0.clone(), seed, end);
    let mut faults = AbortOnDropHandle::new(tokio::spawn(faults));
    let mut progress = interval(PROGRESS);
    loop {
        tokio::select! {
            done = &mut faults => break done.context("the faults")?,
            _ = progress.tick() => say(&line(&load.counts(), &world, end))?,
        }
    }
    sleep_until(end).await;
    let mut troubles = Vec::new();
    troubles.extend(world.all_ready(HEAL).await.err());
    load.all_healed();
    say("all faults are healed")?;
    load.finish(SETTLE).await;
    drop(watching);
    for node in world.nodes() {
        node.observe().await;
    }
    let events = recorder.events();
    save(&events, &folder.join("history.jsonl")).context("write the history")?;
    troubles.extend(world.troubles());
    let summary = Summary::of_run(seed, &events, &world, troubles)?;
    if summary.is_violated() {
        world.disk().keep(&folder.join("store"))?;
    }
    Ok(summary)
}

/// Says what came out, and keeps what is worth it.
fn report(
    summary: &Summary,
    args: &TortureArgs,
    folder: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    say(&summary.to_string())?;
    let json = serde_json::to_string_pretty(summary).context("write the summary")?;
    let own = folder.map(|folder| folder.join("summary.json"));
    for file in own.iter().chain(&args.json) {
        fs::write(file, &json).with_context(|| format!("write {}", file.display()))?;
    }
    let Some(folder) = folder else { return Ok(code(summary)) };
    if summary.is_violated() {
        say(&format!("the history and the logs are in {}", folder.display()))?;
    } else if args.out.is_none() {
        for entry in fs::read_dir(folder)?.flatten() {
            if entry.file_name() != "summary.json" && entry.path().is_file() {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(code(summary))
}

fn code(summary: &Summary) -> ExitCode {
    if summary.is_violated() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn line(counts: &Counts, world: &World, end: Instant) -> String {
    let left = end.saturating_duration_since(Instant::now()).as_secs();
    let faults = world.under_way().join(", ");
    let Counts { published, acknowledged, received, connected, not_connected, violations } = counts;
    format!(
        "{left:>5} s left: {published} published, {acknowledged} acknowledged, {received} received, \
         {connected} connections, {not_connected} failed, {violations} violations; {faults}"
    )
}

fn seed_of(events: &[Event]) -> u64 {
    events
        .iter()
        .find_map(|event| if let What::Run { seed, .. } = event.what { Some(seed) } else { None })
        .unwrap_or_default()
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("write to standard output")
}
