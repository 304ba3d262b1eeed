//! `causeway bench`: loads a broker end to end over MQTT, checks what it delivers, and tells what
//! a message costs it.
//!
//! The measure must be cheaper than what it measures: `worker` moves many messages per system
//! call and `wire` reads them in place. Nothing here depends on the broker being ours. It measures
//! one run; comparing brokers is `benches/compare.sh`'s.
//!
//! # Layout
//!
//! - [`args`]: the command line; `plan`: who publishes what to whom; `drive`: the run from start
//!   to end; `report`: its result; `connections`: loads without messages; `queue`: what waits for clients
//! - `worker`: the event loop; `publisher`, `subscriber`: the two ends, without sockets; `open`:
//!   how connections come to be
//! - `alarm`, `gather`: when the loop wakes, and when it rather waits
//! - `board`, `flow`: what threads share; `stamp`, `check`: how loss, order and repetition are
//!   seen; `wire`: MQTT frames; `process`: what the kernel says

mod alarm;
mod args;
mod board;
mod check;
mod connections;
mod drive;
mod flow;
mod gather;
mod open;
mod plan;
mod process;
mod publisher;
mod queue;
mod report;
mod stamp;
mod subscriber;
mod wire;
mod worker;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::task::spawn_blocking;

pub(crate) use args::BenchArgs;
use args::{Broker, Load};
use connections::Arrivals;
use plan::Plan;

/// What the process ends with when a check failed.
const CHECK_FAILED: u8 = 3;

/// Runs one load and prints its result.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    spawn_blocking(move || run_load(&args.load)).await.context("the load was broken off")?
}

fn run_load(load: &Load) -> anyhow::Result<ExitCode> {
    let bar = bar()?;
    match load {
        Load::Idle { connections, hold, broker } => {
            print(broker, &bar, &connections::idle(broker, *connections, *hold, &bar)?)?;
        }
        Load::Connect { count, rate, parallel, kept, broker } => {
            let kept_as = kept.clone();
            let (count, rate, parallel) = (*count, *rate, *parallel);
            let arrivals = Arrivals { count, rate, parallel, kept_as };
            print(broker, &bar, &connections::connect(broker, &arrivals, &bar)?)?;
        }
        Load::Queue(args) => print(&args.broker, &bar, &queue::run(args, &bar)?)?,
        Load::Pairs { .. } | Load::Fanout { .. } | Load::Fanin { .. } | Load::Shared { .. } => {
            let plan = Plan::new(load)?.context("a load with messages")?;
            let report = drive::drive(&plan, &bar)?;
            print(&plan.traffic.broker, &bar, &report)?;
            if !report.passed() {
                return Ok(ExitCode::from(CHECK_FAILED));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A progress bar; it shows itself on a terminal only.
fn bar() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} % {msg:40}")
        .context("the template of the progress bar")?;
    Ok(ProgressBar::new(0).with_style(style))
}

fn print(
    broker: &Broker,
    bar: &ProgressBar,
    report: &(impl Display + Serialize),
) -> anyhow::Result<()> {
    bar.finish_and_clear();
    let mut out = io::stdout().lock();
    if broker.json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(())
}
