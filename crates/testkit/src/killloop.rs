//! The kill loop over real processes: the intermediate gets SIGKILL thousands of times while clients make work for its
//! store.
//!
//! Owns the course of a run: start, load, kills, judgement. A new intermediate takes messages only when its
//! proxies have joined it, so half of the kills come 50 to 500 ms after a start, whatever it does then, and the others so
//! long after its first messages. The clients are [`crate::load`]'s, the judgement is [`crate::checker`]'s.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::checker::check;
use crate::load::{Load, Plan};
use crate::record::{Recorder, What, save};

mod report;
mod victim;

use report::Report;
use victim::{Moment, Victim};

use crate::random::Random;

/// What everything acknowledged may take to arrive after the last kill.
const SETTLE: Duration = Duration::from_secs(60);
/// How often the stopped store is measured.
const SAMPLE_EVERY: u64 = 10;
/// How often it is looked through.
const CHECK_EVERY: u64 = 100;
/// Mean time between two messages of one publisher: a history of thousands of kills must fit into memory.
const PAUSE: Duration = Duration::from_millis(15);

/// SIGKILL for the process that has the store, thousands of times: does it always come back with everything?
///
/// Exit code 0: no violation. 1: violations, and the history and the store are kept. 2: wrong usage
#[derive(Clone, Debug, Args)]
pub struct KillloopArgs {
    /// How many times it is killed
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    kills: u64,
    /// What all that is random comes from; without, another one in each run
    #[arg(long)]
    seed: Option<u64>,
    /// Where the store, the history and the logs go; they stay after a violation. Without: target/killloop/SEED
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also writes the report there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the kill loop as `args` say.
///
/// # Errors
/// The cluster cannot be started, or a file cannot be read or written.
pub async fn run(args: KillloopArgs) -> anyhow::Result<ExitCode> {
    let seed = args
        .seed
        .unwrap_or_else(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0));
    let folder =
        args.out.clone().unwrap_or_else(|| Path::new("target/killloop").join(seed.to_string()));
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("empty {}", folder.display()));
        }
        _ => fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?,
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let report = tokio::select! {
        report = kill_loop(args.kills, seed, &folder) => report?,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::from(143)),
    };
    say(&report.to_string())?;
    let json = serde_json::to_string_pretty(&report).context("write the report")?;
    for file in [Some(folder.join("report.json")), args.json].iter().flatten() {
        fs::write(file, &json).with_context(|| format!("write {}", file.display()))?;
    }
    if report.is_violated() {
        say(&format!("the store, the history and the logs are in {}", folder.display()))?;
        return Ok(ExitCode::FAILURE);
    }
    for entry in fs::read_dir(&folder)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else if entry.file_name() != "report.json" {
            fs::remove_file(path)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One run, judged.
async fn kill_loop(kills: u64, seed: u64, folder: &Path) -> anyhow::Result<Report> {
    say(&format!("seed {seed}: {kills} kills, in {}", folder.display()))?;
    let recorder = Recorder::new();
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    recorder.record(What::Run { seed, command });
    let mut victim = Victim::start(folder).await?;
    let plan = Plan { pause: PAUSE, ..Plan::store(seed) };
    let load = Load::start(plan, victim.network(), recorder.clone());
    let mut random = Random::new(seed);
    let mut report = Report::new(seed);
    for kill in 1..=kills {
        let moment = if random.chance(50) { Moment::AnyTime } else { Moment::UnderLoad };
        let after = Duration::from_millis(random.between(50, 500));
        victim.live(moment, after, &load).await;
        recorder.record(fault(kill));
        victim.kill().await;
        if kill.is_multiple_of(SAMPLE_EVERY) || kill == kills {
            report.samples.push(victim.sample(kill)?);
        }
        if let Some(sample) = report.samples.last()
            && (kill.is_multiple_of(CHECK_EVERY) || kill == kills)
        {
            victim.check_store().await?;
            let counts = load.counts();
            say(&format!(
                "{kill} of {kills} kills, {} under load: store {} MiB, open within {:.0} ms, {} acknowledged, \
                 {} received, {} violations of the protocol",
                victim.under_load(),
                sample.store_bytes >> 20,
                sample.opening_ms,
                counts.acknowledged,
                counts.received,
                counts.violations
            ))?;
        }
        victim.revive()?;
        recorder.record(healed(kill));
    }
    victim.recovered().await;
    load.all_healed();
    let witness = load.witness();
    let settled = load.finish(SETTLE).await;
    let counts = witness.counts();
    victim.stop().await?;
    let events = recorder.events();
    if !settled {
        victim.troubles.extend(witness.missing());
    }
    report.finish(&victim, counts, settled, check(&events));
    if report.is_violated() {
        save(&events, &folder.join("history.jsonl")).context("write the history")?;
    }
    Ok(report)
}

fn fault(kill: u64) -> What {
    What::Fault { kind: "kill-intermediate".to_owned(), target: kill.to_string() }
}

fn healed(kill: u64) -> What {
    What::Healed { kind: "kill-intermediate".to_owned(), target: kill.to_string() }
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("write to standard output")
}
