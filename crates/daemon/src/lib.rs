//! Process life: configuration, logs, metrics, signals, shutdown.
//!
//! What every server of the cluster does the same way before and after its own work. This crate
//! never knows what is served: there is no word of a protocol in it.
//!
//! A binary is a page:
//!
//! ```no_run
//! # use daemon::{LogConfig, Opt, OptKind, Program, Refused, Start, Validate};
//! # use std::process::ExitCode;
//! static PROGRAM: Program = Program {
//!     name: "example-server",
//!     about: "Serves examples",
//!     env_prefix: "CAUSEWAY",
//!     options: &[
//!         Opt {
//!             key: "listen",
//!             default: "\"127.0.0.1:8080\"",
//!             unit: "",
//!             help: "Address to listen on",
//!             kind: OptKind::Text,
//!         },
//!         daemon::LOG_LEVEL,
//!         daemon::LOG_FORMAT,
//!         daemon::EXIT_WITH_PARENT,
//!     ],
//!     after_help: "",
//! };
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     listen: std::net::SocketAddr,
//!     log: LogConfig,
//!     exit_with_parent: bool,
//! }
//!
//! impl Validate for Config {
//!     fn validate(&self) -> Result<(), Refused> {
//!         self.log.validate()
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     let config: Config = match daemon::configure(&PROGRAM, std::env::args_os()) {
//!         Start::Run(config) => config,
//!         Start::Exit(code) => return code,
//!     };
//!     daemon::block_on(None, async move {
//!         daemon::init_logs(&config.log)?;
//!         let shutdown = daemon::on_signals();
//!         if config.exit_with_parent {
//!             daemon::stop_with_parent(&shutdown)?;
//!         }
//!         shutdown.cancelled().await;
//!         Ok(())
//!     })
//! }
//! ```

mod admin;
mod limits;
mod options;
mod runtime;
mod secret;
mod shutdown;
mod telemetry;
mod units;

pub use admin::{Condition, Health, serve_admin};
pub use limits::{OpenFiles, raise_open_files};
pub use options::{
    Opt, OptKind, Program, Refused, Start, Validate, configure, defaults, reference,
};
pub use runtime::block_on;
pub use secret::Secret;
pub use shutdown::{EXIT_WITH_PARENT, on_signals, stop_with_parent};
pub use telemetry::{LOG_FORMAT, LOG_LEVEL, LogConfig, LogFormat, LogsRefused, init_logs};
pub use units::{ByteSize, Period, UnitError};

/// The allocator of every binary: `#[global_allocator] static A: daemon::Allocator = daemon::Allocator;`.
pub use mimalloc::MiMalloc as Allocator;
