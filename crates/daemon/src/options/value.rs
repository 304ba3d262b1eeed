//! Values of options: from text to TOML, and checked against the kind of their row.

use toml::Value;

use super::OptKind;
use crate::units::{ByteSize, Period};

/// Stands for a secret in messages.
pub(super) const HIDDEN: &str = "(hidden)";

/// The TOML value that `texts` (occurrences of a flag, or one variable) spell. A text that does not
/// fit its kind stays a string, for [`check`] to refuse.
pub(super) fn from_texts(kind: OptKind, texts: &[&str]) -> Value {
    if kind == OptKind::List {
        let parts = texts.iter().flat_map(|text| text.split(','));
        let parts = parts.map(str::trim).filter(|part| !part.is_empty());
        return Value::Array(parts.map(|part| Value::String(part.to_owned())).collect());
    }
    let text = texts.last().copied().unwrap_or_default();
    let parsed = match kind {
        OptKind::Integer => text.trim().replace('_', "").parse().ok().map(Value::Integer),
        OptKind::Boolean => text.trim().parse().ok().map(Value::Boolean),
        OptKind::Text | OptKind::List | OptKind::Duration | OptKind::Size | OptKind::Secret => None,
    };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Whether `value` is of `kind`; else what would be right, to complete "must be ...".
pub(super) fn check(kind: OptKind, value: &Value) -> Result<(), String> {
    let fits = match kind {
        OptKind::Text | OptKind::Secret => value.is_str(),
        OptKind::Integer => value.as_integer().is_some_and(|number| number >= 0),
        OptKind::Boolean => value.is_bool(),
        OptKind::List => value.as_array().is_some_and(|items| items.iter().all(Value::is_str)),
        OptKind::Duration => value.as_str().is_some_and(|text| text.parse::<Period>().is_ok()),
        OptKind::Size => match value {
            Value::Integer(bytes) => *bytes >= 0,
            Value::String(text) => text.parse::<ByteSize>().is_ok(),
            Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_)
            | Value::Table(_) => false,
        },
    };
    if fits { Ok(()) } else { Err(expected(kind).to_owned()) }
}

/// `value` as its reader would write it in TOML; a secret is not shown.
pub(super) fn shown(kind: OptKind, value: &Value) -> String {
    if kind == OptKind::Secret {
        return HIDDEN.to_owned();
    }
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(time) => time.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown(kind, item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(_) => "{ a table }".to_owned(),
    }
}

fn expected(kind: OptKind) -> &'static str {
    match kind {
        OptKind::Text | OptKind::Secret => "a string",
        OptKind::Integer => "a whole number, not negative",
        OptKind::Boolean => "true or false",
        OptKind::List => "a list of strings",
        OptKind::Duration => "a duration with its unit, such as \"500ms\", \"6s\" or \"2m\"",
        OptKind::Size => "a size, such as \"64KiB\", \"1MiB\" or a number of bytes",
    }
}
