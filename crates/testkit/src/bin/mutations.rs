//! Shows that the simulation and the torture run catch faults: puts known ones into a copy of the product.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use testkit::mutations::{Effort, run};

/// Which of the faults in tests/mutations.toml are caught, and by what
///
/// Exit code 0: all of them. 1: some are not. 2: that cannot be said
#[derive(Parser)]
struct Arguments {
    /// Only these; all without
    names: Vec<String>,
    /// Seeds of the simulation for each
    #[arg(long, default_value_t = 1000)]
    seeds: u32,
    /// Steps of each seed
    #[arg(long, default_value_t = 10_000)]
    steps: u32,
    /// Seconds of torture for what the simulation does not catch
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

fn main() -> ExitCode {
    let Arguments { names, seeds, steps, seconds } = Arguments::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap_or(root);
    match run(&root, &names, Effort { seeds, steps, seconds }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell when it cannot be written.
            writeln!(io::stderr(), "mutations: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}
