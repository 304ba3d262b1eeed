//! The command line: a whole cluster on one machine, small clients, a load tool.
//!
//! This file knows the commands and nothing of what they do. A binary of its own is not needed for
//! the servers that `up` starts: they are this one, called with a hidden first argument.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod connect;
mod data;
mod format;
mod link;
mod publish;
mod subscribe;
mod up;

/// First argument that makes this binary an intermediate.
const INTERMEDIATE_SERVER: &str = "intermediate-server";
/// First argument that makes this binary a proxy.
const PROXY_SERVER: &str = "proxy-server";

/// An MQTT cluster in two tiers: try it, talk to it, measure it.
#[derive(Debug, Parser)]
#[command(
    name = "causeway",
    version,
    after_help = "\
Examples:
  causeway                                 start a whole cluster here: the same as `causeway up`
  causeway sub -p 1884 -t 'demo/#' -v      receive from the second proxy
  causeway pub -p 1883 -t demo/a -m hello  publish to the first

`causeway COMMAND --help` explains a command."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cluster on this machine: one intermediate, and proxies for clients
    Up(up::UpArgs),
    /// Publish messages, as mosquitto_pub does
    Pub(publish::PubArgs),
    /// Subscribe and print what comes, as mosquitto_sub does
    Sub(subscribe::SubArgs),
    /// Check, export and import what an intermediate remembers, while it does not run
    Data(data::DataArgs),
    /// Load a broker, check what it delivers and print what it cost
    Bench(Box<bench::BenchArgs>),
}

/// Runs the command that `args` name; they begin with the name of the program.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    // The servers have flags of their own, so clap must not see these.
    let server = args.get(1).and_then(|first| first.to_str());
    if server == Some(INTERMEDIATE_SERVER) {
        return intermediate_server::cli::run(args.into_iter().skip(1));
    }
    if server == Some(PROXY_SERVER) {
        return proxy_server::cli::run(args.into_iter().skip(1));
    }
    let command = match Cli::try_parse_from(args) {
        Ok(cli) => cli.command.unwrap_or_else(|| Command::Up(up::UpArgs::default())),
        Err(error) => {
            // With the terminal closed there is nobody to tell.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    daemon::block_on(None, async move {
        match command {
            Command::Up(args) => up::run(args).await,
            Command::Pub(args) => publish::run(args).await,
            Command::Sub(args) => subscribe::run(args).await,
            Command::Data(args) => data::run(args),
            Command::Bench(args) => bench::run(*args).await,
        }
    })
}
