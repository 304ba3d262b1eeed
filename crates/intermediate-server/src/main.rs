//! The intermediate as a binary of its own.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: daemon::Allocator = daemon::Allocator;

fn main() -> ExitCode {
    intermediate_server::cli::run(std::env::args_os())
}
