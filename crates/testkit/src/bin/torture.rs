//! Runs a cluster of real processes under load and random faults, and judges what its clients saw.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use testkit::torture::{TortureArgs, run};

/// Break a cluster of real processes in every way, and see whether it keeps its promises
#[derive(Debug, Parser)]
#[command(name = "torture")]
struct Cli {
    #[command(flatten)]
    args: TortureArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse().args).await.unwrap_or_else(|error| {
        // Nobody is left to tell when it cannot be written.
        writeln!(io::stderr(), "torture: {error:#}").ok();
        ExitCode::from(2)
    })
}
