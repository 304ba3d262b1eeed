//! Kills the intermediate of a cluster of real processes thousands of times, and judges what is left.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use testkit::killloop::{KillloopArgs, run};

/// Kill the store's process again and again, and see whether it always comes back with everything
#[derive(Debug, Parser)]
#[command(name = "killloop")]
struct Cli {
    #[command(flatten)]
    args: KillloopArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse().args).await.unwrap_or_else(|error| {
        // Nobody is left to tell when it cannot be written.
        writeln!(io::stderr(), "killloop: {error:#}").ok();
        ExitCode::from(2)
    })
}
