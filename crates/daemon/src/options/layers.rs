//! The layers of a configuration, laid over each other key by key, each value with its source.
//!
//! Invariant: a value in [`Settings`] has passed the check of its row's kind, and every key is one
//! of the table. What the values mean is for the configuration type.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{OptKind, Program, Refused, Row, nearest, value};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File(PathBuf),
    Variable(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::Flag(name) => write!(f, "the flag --{name}"),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("cannot read the file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("the file {} is not TOML: {error}", path.display())]
    NotToml { path: PathBuf, error: Box<toml::de::Error> },
    #[error("{key} (from {from}): there is no such option{hint}")]
    Unknown { key: String, from: Source, hint: String },
    #[error("{} = {} (from {from}): must be {}", refused.key, refused.value, refused.expected)]
    Value { refused: Refused, from: Source },
}

impl ConfigError {
    pub(super) fn value(refused: Refused, from: Source) -> Self {
        Self::Value { refused, from }
    }
}

/// Checked values by key.
#[derive(Debug)]
pub(super) struct Settings<'p> {
    program: &'p Program,
    values: BTreeMap<String, (Value, Source)>,
}

impl<'p> Settings<'p> {
    /// The lowest layer.
    ///
    /// # Panics
    /// When a default of the table is not TOML: a mistake that any start of the program shows.
    pub(super) fn from_defaults(program: &'p Program) -> Self {
        let mut values = BTreeMap::new();
        for opt in program.options.iter().filter(|opt| !opt.default.is_empty()) {
            let text = format!("v = {}", opt.default);
            let value = text.parse::<Table>().ok().and_then(|mut table| table.remove("v"));
            let value = value.expect("a default in the table of options is written as TOML");
            values.insert(opt.key.to_owned(), (value, Source::Default));
        }
        Self { program, values }
    }

    /// Lays a TOML file over what is there.
    pub(super) fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        let table: Table = text.parse().map_err(|error| ConfigError::NotToml {
            path: path.to_owned(),
            error: Box::new(error),
        })?;
        let from = Source::File(path.to_owned());
        let rows: BTreeMap<String, Row> =
            self.program.rows().map(|row| (row.key.clone(), row)).collect();
        let mut found = Vec::new();
        flatten("", table, &rows, &mut found);
        for (key, value) in found {
            let Some(row) = rows.get(&key) else {
                let hint = hint(&key, rows.keys().map(String::as_str));
                return Err(ConfigError::Unknown { key, from, hint });
            };
            self.set(row, value, from.clone())?;
        }
        Ok(())
    }

    /// Lays the environment over what is there. An empty variable counts as not set.
    ///
    /// Variables with our prefix that are not ours are common (Kubernetes makes some for each
    /// service, and several programs share a prefix), so only a near miss is refused.
    pub(super) fn read_environment(
        &mut self,
        environment: &BTreeMap<String, String>,
    ) -> Result<(), ConfigError> {
        let prefix = format!("{}_", self.program.env_prefix);
        let rows: BTreeMap<String, Row> =
            self.program.rows().map(|row| (self.program.variable(&row.key), row)).collect();
        let ours =
            environment.iter().filter(|(name, text)| name.starts_with(&prefix) && !text.is_empty());
        for (name, text) in ours {
            let from = Source::Variable(name.clone());
            if let Some(row) = rows.get(name) {
                self.set_text(row, &[text], from)?;
            } else if let Some(near) = nearest::near_miss(name, rows.keys().map(String::as_str)) {
                let hint = format!("; did you mean {near}?");
                return Err(ConfigError::Unknown { key: name.clone(), from, hint });
            }
        }
        Ok(())
    }

    /// Lays one value over, given as texts: the occurrences of a flag, or one variable.
    pub(super) fn set_text(
        &mut self,
        row: &Row,
        texts: &[&str],
        from: Source,
    ) -> Result<(), ConfigError> {
        let value = value::from_texts(row.kind, texts);
        self.set(row, value, from)
    }

    /// The configuration, or the value that its type refused and where it came from.
    pub(super) fn decode<C: DeserializeOwned>(&self) -> Result<C, (Refused, Source)> {
        let mut table = Table::new();
        for (key, (value, _)) in &self.values {
            place(&mut table, key, value.clone());
        }
        Value::Table(table).try_into().map_err(|error| self.undecodable(&error))
    }

    /// A refusal by the configuration itself, with its source; a secret is not shown.
    pub(super) fn refuse(&self, mut refused: Refused) -> ConfigError {
        if self.is_secret(&refused.key) {
            refused.value = value::HIDDEN.to_owned();
        }
        let from = self.source(&refused.key);
        ConfigError::value(refused, from)
    }

    fn source(&self, key: &str) -> Source {
        self.values.get(key).map_or(Source::Default, |(_, from)| from.clone())
    }

    fn is_secret(&self, key: &str) -> bool {
        self.program.options.iter().any(|opt| opt.key == key && opt.kind == OptKind::Secret)
    }

    fn set(&mut self, row: &Row, value: Value, from: Source) -> Result<(), ConfigError> {
        if let Err(expected) = value::check(row.kind, &value) {
            let shown = value::shown(row.kind, &value);
            let refused = Refused::new(row.key.as_str(), shown, expected);
            return Err(ConfigError::value(refused, from));
        }
        let Some(secret) = row.fills() else {
            self.values.insert(row.key.clone(), (value, from));
            return Ok(());
        };
        let path = value.as_str().unwrap_or_default();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let refused = Refused::new(
                row.key.as_str(),
                value::shown(row.kind, &value),
                format!("a file that can be read ({error})"),
            );
            ConfigError::value(refused, from.clone())
        })?;
        let content = text.trim_end_matches(['\r', '\n']).to_owned();
        self.values.insert(secret.to_owned(), (Value::String(content), from));
        Ok(())
    }

    /// Finds the key of a decoding error: `toml` tells it only in the last line of its text.
    fn undecodable(&self, error: &toml::de::Error) -> (Refused, Source) {
        let text = error.to_string();
        let key = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'))
            .unwrap_or_default();
        let shown = self.values.get(key).map_or_else(String::new, |(value, _)| {
            let kind = if self.is_secret(key) { OptKind::Secret } else { OptKind::Text };
            value::shown(kind, value)
        });
        let expected = format!("a value that is understood ({})", error.message());
        (Refused::new(key, shown, expected), self.source(key))
    }
}

/// The leaves of `table`: known keys, and the first unknown part of a path that leads nowhere.
fn flatten(
    prefix: &str,
    table: Table,
    rows: &BTreeMap<String, Row>,
    found: &mut Vec<(String, Value)>,
) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        let section = format!("{key}.");
        let is_section = rows.keys().any(|row| row.starts_with(&section));
        match value {
            Value::Table(inner) if is_section => flatten(&key, inner, rows, found),
            leaf @ (Value::Table(_)
            | Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_)) => found.push((key, leaf)),
        }
    }
}

fn place(table: &mut Table, key: &str, value: Value) {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let entry = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = entry {
        place(inner, rest, value);
    }
}

fn hint<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest::nearest(key, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}
