//! One table per program is the single source of its flags, environment variables, TOML keys,
//! defaults, units, help and reference page.
//!
//! Layers, each over the one before: defaults, `--config FILE` (or `<PREFIX>_CONFIG`), environment,
//! flags. Every value is checked against its row of the table when its layer is read, so a refusal
//! names the key, the value, where it came from and what would be right.
//! The meaning of the values is not known here: that is [`Validate`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::de::DeserializeOwned;

mod layers;
mod nearest;
mod page;
#[cfg(test)]
mod tests;
mod value;

pub use page::reference;

use layers::{ConfigError, Settings, Source};

/// Exit code for a refused configuration.
const REFUSED: u8 = 2;

/// One option of a program: a row of its table.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// TOML path, `mqtt.receive_maximum`. The flag is `--mqtt-receive-maximum`, the environment
    /// variable `<PREFIX>_MQTT__RECEIVE_MAXIMUM`.
    pub key: &'static str,
    /// The default as TOML value text: `1024`, `"0.0.0.0:1883"` with its quotes, `[]`.
    /// Empty: no default, the field is an `Option`.
    pub default: &'static str,
    /// Unit of the number, or empty.
    pub unit: &'static str,
    /// What it does, in one or two sentences without a final full stop.
    pub help: &'static str,
    /// What values it takes.
    pub kind: OptKind,
}

impl Opt {
    /// A row, in the order of its columns.
    #[must_use]
    pub const fn new(
        key: &'static str,
        default: &'static str,
        unit: &'static str,
        help: &'static str,
        kind: OptKind,
    ) -> Self {
        Self { key, default, unit, help, kind }
    }
}

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptKind {
    /// Any string; decoded further by the configuration type.
    Text,
    /// A whole number, not negative.
    Integer,
    /// `true` or `false`; the flag alone means `true`.
    Boolean,
    /// Strings: an array in TOML, comma separated in the environment, a repeatable flag.
    List,
    /// [`Period`](crate::Period): `500ms`, `6s`, `2m`.
    Duration,
    /// [`ByteSize`](crate::ByteSize): `64KiB`, or a number of bytes.
    Size,
    /// [`Secret`](crate::Secret): never printed. The row also makes `<key>_file`, whose value is a
    /// path: the file's content, without a final line break, becomes the value of `<key>`.
    Secret,
}

/// A program's name, help and table of options.
#[derive(Debug)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    /// One line: what it is.
    pub about: &'static str,
    /// First part of the names of its environment variables, without the underscore.
    pub env_prefix: &'static str,
    /// The table.
    pub options: &'static [Opt],
    /// Examples, printed below the options by `--help`.
    pub after_help: &'static str,
}

/// What a program does after its configuration was read.
#[derive(Debug)]
pub enum Start<C> {
    /// Go on with this configuration.
    Run(C),
    /// Nothing is left to do (`--help`, `--check-config`), or the configuration was refused.
    /// What there is to say has been printed.
    Exit(ExitCode),
}

/// The rules between and about values that their types cannot state.
pub trait Validate {
    /// Refuses the first value that cannot work.
    ///
    /// # Errors
    /// The key, the value and what would be right.
    fn validate(&self) -> Result<(), Refused>;
}

/// A value that is refused: `key = value (from ...): must be expected`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: must be {expected}")]
pub struct Refused {
    /// TOML path.
    pub key: String,
    /// The value as the reader wrote it, or close to it.
    pub value: String,
    /// What would be right; completes the sentence "must be ...": `1 to 65535`.
    pub expected: String,
}

impl Refused {
    /// A refusal of `value` at `key`; `expected` completes the sentence "must be ...".
    pub fn new(key: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.to_string(), expected: expected.into() }
    }
}

/// Reads the configuration of `program` from all layers. `args` begins with the program's name, as
/// [`std::env::args_os`] does.
///
/// `--help`, `--version`, `--check-config` and refusals are answered here, on standard output or
/// standard error. A refused configuration ends with exit code 2.
pub fn configure<C>(program: &Program, args: impl Iterator<Item = OsString>) -> Start<C>
where
    C: DeserializeOwned + Validate,
{
    let matches = match command(program).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // A closed terminal cannot be told anything.
            error.print().ok();
            return Start::Exit(if error.use_stderr() {
                ExitCode::from(REFUSED)
            } else {
                ExitCode::SUCCESS
            });
        }
    };
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .collect();
    match load::<C>(program, &matches, &environment) {
        Ok(_) if matches.get_flag("check-config") => {
            writeln!(std::io::stdout(), "{}: the configuration is valid", program.name).ok();
            Start::Exit(ExitCode::SUCCESS)
        }
        Ok(config) => Start::Run(config),
        Err(error) => {
            writeln!(std::io::stderr(), "{}: {error}", program.name).ok();
            Start::Exit(ExitCode::from(REFUSED))
        }
    }
}

/// The configuration that the table's defaults alone make: for tests, and for programs that embed
/// a server.
///
/// # Errors
/// The first default that `C` does not take: a mistake in the table.
pub fn defaults<C>(program: &Program) -> Result<C, Refused>
where
    C: DeserializeOwned + Validate,
{
    let settings = Settings::from_defaults(program);
    let config: C = settings.decode().map_err(|(refused, _)| refused)?;
    config.validate()?;
    Ok(config)
}

impl Program {
    /// The environment variable of `key`.
    fn variable(&self, key: &str) -> String {
        format!("{}_{}", self.env_prefix, key.replace('.', "__").to_uppercase())
    }

    /// Every row, with the `_file` companions of the secrets written out.
    fn rows(&self) -> impl Iterator<Item = Row> {
        self.options.iter().flat_map(|opt| {
            let own = Row {
                key: opt.key.to_owned(),
                help: opt.help.to_owned(),
                kind: opt.kind,
                opt: *opt,
            };
            let file = (opt.kind == OptKind::Secret).then(|| Row {
                key: format!("{}_file", opt.key),
                help: format!("File that holds the value of `{}`", opt.key),
                kind: OptKind::Text,
                opt: Opt { default: "", ..*opt },
            });
            std::iter::once(own).chain(file)
        })
    }
}

/// A row of the table as it is offered: a secret makes two.
#[derive(Debug)]
struct Row {
    key: String,
    help: String,
    kind: OptKind,
    opt: Opt,
}

impl Row {
    fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The secret that this row's file fills, when it is the companion of one.
    fn fills(&self) -> Option<&'static str> {
        (self.key != self.opt.key).then_some(self.opt.key)
    }
}

fn load<C>(
    program: &Program,
    matches: &ArgMatches,
    environment: &BTreeMap<String, String>,
) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Validate,
{
    let mut settings = Settings::from_defaults(program);
    let variable = format!("{}_CONFIG", program.env_prefix);
    let mut files: Vec<String> =
        matches.get_many("config").into_iter().flatten().cloned().collect();
    if files.is_empty() {
        files.extend(environment.get(&variable).filter(|path| !path.is_empty()).cloned());
    }
    for path in files {
        settings.read_file(path.as_ref())?;
    }
    settings.read_environment(environment)?;
    for row in program.rows() {
        if let Some(values) = matches.get_many::<String>(&row.key) {
            let texts: Vec<&str> = values.map(String::as_str).collect();
            settings.set_text(&row, &texts, Source::Flag(row.flag()))?;
        }
    }
    let config: C =
        settings.decode().map_err(|(refused, from)| ConfigError::value(refused, from))?;
    config.validate().map_err(|refused| settings.refuse(refused))?;
    Ok(config)
}

/// The command line that the table describes.
fn command(program: &Program) -> Command {
    let mut command = Command::new(program.name)
        .about(program.about)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(program.after_help)
        .arg(Arg::new("config").long("config").value_name("FILE").action(ArgAction::Append).help(
            format!(
                "TOML file with options; may be repeated, later files win [env: {}_CONFIG]",
                program.env_prefix
            ),
        ))
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .action(ArgAction::SetTrue)
                .help("Check the configuration and exit: 0 when it is valid, 2 when it is refused"),
        );
    for row in program.rows() {
        command = command.arg(argument(program, &row));
    }
    command
}

fn argument(program: &Program, row: &Row) -> Arg {
    let mut help = row.help.clone();
    if !row.opt.unit.is_empty() {
        help.push_str(&format!(" [{}]", row.opt.unit));
    }
    if !matches!(row.opt.default, "" | "[]" | "\"\"") {
        help.push_str(&format!(" [default: {}]", row.opt.default.trim_matches('"')));
    }
    help.push_str(&format!(" [env: {}]", program.variable(&row.key)));
    let section = match row.key.split_once('.') {
        Some((section, _)) => format!("[{section}]"),
        None => "Process".to_owned(),
    };
    let arg = Arg::new(row.key.clone())
        .long(row.flag())
        .help(help)
        .help_heading(section)
        .value_name(page::value_name(row));
    match row.kind {
        OptKind::List => arg.action(ArgAction::Append),
        OptKind::Boolean => {
            arg.action(ArgAction::Set).num_args(0..=1).default_missing_value("true")
        }
        OptKind::Text | OptKind::Integer | OptKind::Duration | OptKind::Size | OptKind::Secret => {
            arg.action(ArgAction::Set)
        }
    }
}
