//! Runs simulated clusters, seed by seed, and says what was found.

use std::process::ExitCode;

use clap::Parser;
use testkit::simulation::{Plan, report};

/// Simulates whole clusters with everything that can go wrong. Exit code 1: something was found.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds are run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Deliveries, actions and faults of a run, before what is owed at its end arrives.
    #[arg(long, default_value_t = 10_000)]
    steps: u64,
    /// Runs this seed only.
    #[arg(long, conflicts_with_all = ["seeds", "first_seed"])]
    seed: Option<u64>,
    /// Prints what happens, line by line: number of the step, virtual time, hash so far, what it is.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How many seeds are run at once, each in a thread of its own; 0: as many as there are processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let plan = Plan {
        first_seed: args.seed.unwrap_or(args.first_seed),
        seeds: if args.seed.is_some() { 1 } else { args.seeds },
        steps: args.steps,
        trace: args.trace,
        threads: args.threads,
    };
    if report::run(plan) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
