//! Logs: lines on standard error, as text for people or as JSON for machines.

use std::io::IsTerminal as _;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::options::{Opt, OptKind, Refused};

/// Row `log.level` for a program's table.
pub const LOG_LEVEL: Opt = Opt {
    key: "log.level",
    default: "\"info\"",
    unit: "",
    help: "What is logged: error, warn, info, debug or trace, also per module (info,proxy_server=debug)",
    kind: OptKind::Text,
};

/// Row `log.format` for a program's table.
pub const LOG_FORMAT: Opt = Opt {
    key: "log.format",
    default: "\"text\"",
    unit: "",
    help: "Form of the log lines on standard error: text or json",
    kind: OptKind::Text,
};

/// What is logged, and how it looks. Section `log` of a configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Directives as `tracing_subscriber::EnvFilter` reads them.
    pub level: String,
    /// Form of the lines.
    pub format: LogFormat,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogConfig {
    /// Refuses directives that cannot be read.
    ///
    /// # Errors
    /// `log.level` with its value.
    pub fn validate(&self) -> Result<(), Refused> {
        match EnvFilter::try_new(&self.level) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refused::new(
                "log.level",
                format!("{:?}", self.level),
                "error, warn, info, debug or trace, or directives such as info,proxy_server=debug",
            )),
        }
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogsRefused {
    /// The directives cannot be read.
    #[error("log level {level:?} cannot be read")]
    Level {
        /// The directives.
        level: String,
        /// What is wrong with them.
        source: tracing_subscriber::filter::ParseError,
    },
    /// This process already has logs.
    #[error("logs are already set up in this process")]
    AlreadySet,
}

/// Sends the process's logs to standard error. Colours only when that is a terminal and `NO_COLOR`
/// is not set.
///
/// # Errors
/// When the directives cannot be read, or the process already has logs.
pub fn init_logs(config: &LogConfig) -> Result<(), LogsRefused> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|source| LogsRefused::Level { level: config.level.clone(), source })?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would report a failed write on standard error, and panic where that is what failed.
        .log_internal_errors(false)
        .with_ansi(!no_color && std::io::stderr().is_terminal());
    let result = match config.format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    result.map_err(|_| LogsRefused::AlreadySet)
}
