//! The runtime of a process, and how its errors reach a person.

use std::io::Write as _;
use std::process::{ExitCode, Termination};
use std::time::Duration;

use tokio::runtime::Builder;

/// How long blocking work (a read of standard input) may hold up the end of the process.
const LAST_WORK: Duration = Duration::from_millis(500);

/// After so many turns of busy tasks sockets are looked at, so that busy clients do not hold up the others. A turn takes up
/// to some hundred microseconds.
const TURNS_BETWEEN_EVENTS: u32 = 8;

/// Runs `future` on a multi-threaded runtime with `workers` threads (default: one per processor).
///
/// An error is printed on standard error as the chain of its causes, and the exit code is 1.
pub fn block_on<T: Termination>(
    workers: Option<usize>,
    future: impl Future<Output = anyhow::Result<T>>,
) -> ExitCode {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().event_interval(TURNS_BETWEEN_EVENTS);
    if let Some(workers) = workers {
        builder.worker_threads(workers.max(1));
    }
    let result = match builder.build() {
        Ok(runtime) => {
            let result = runtime.block_on(future);
            runtime.shutdown_timeout(LAST_WORK);
            result
        }
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match result {
        Ok(value) => value.report(),
        Err(error) => {
            // With standard error closed there is nobody to tell.
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}
