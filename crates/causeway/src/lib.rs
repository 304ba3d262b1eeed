//! The command line: a whole cluster on one machine, small clients, a load tool.
//!
//! This file knows the commands and nothing of what they do. A binary of its own is not needed for
//! the servers that `up` starts: they are this one, called with a hidden first argument.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod connect;
mod format;
mod link;
mod publish;
mod subscribe;

/// An MQTT cluster in two tiers: try it, talk to it, measure it.
#[derive(Debug, Parser)]
#[command(
    name = "causeway",
    version,
    subcommand_required = true,
    after_help = "\
Examples:
  causeway sub -p 1884 -t 'demo/#' -v      receive from the second proxy
  causeway pub -p 1883 -t demo/a -m hello  publish to the first

`causeway COMMAND --help` explains a command."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish messages, as mosquitto_pub does
    Pub(publish::PubArgs),
    /// Subscribe and print what comes, as mosquitto_sub does
    Sub(subscribe::SubArgs),
}

/// Runs the command that `args` name; they begin with the name of the program.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let command = match Cli::try_parse_from(args) {
        Ok(cli) => cli.command,
        Err(error) => {
            // With the terminal closed there is nobody to tell.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    daemon::block_on(None, async move {
        match command {
            Command::Pub(args) => publish::run(args).await,
            Command::Sub(args) => subscribe::run(args).await,
        }
    })
}
