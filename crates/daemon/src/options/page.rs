//! The reference page of a table of options.

use std::fmt::Write as _;

use super::{OptKind, Program, Row};

/// The options of `program` as a Markdown table.
pub fn reference(program: &Program) -> String {
    let mut page = String::from(
        "| flag | environment | TOML key | default | unit | meaning |\n|---|---|---|---|---|---|\n",
    );
    for row in program.rows() {
        let default = match row.opt.default {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        let written = writeln!(
            page,
            "| `--{}` | `{}` | `{}` | {default} | {} | {} |",
            row.flag(),
            program.variable(&row.key),
            row.key,
            row.opt.unit,
            row.help.replace('|', "\\|").replace('\n', " "),
        );
        written.expect("a String takes every write");
    }
    page
}

/// What stands for the value in `--help`.
pub(super) fn value_name(row: &Row) -> &'static str {
    if row.fills().is_some() {
        return "FILE";
    }
    match row.kind {
        OptKind::Text => "TEXT",
        OptKind::Integer => "NUMBER",
        OptKind::Boolean => "BOOLEAN",
        OptKind::List => "LIST",
        OptKind::Duration => "DURATION",
        OptKind::Size => "SIZE",
        OptKind::Secret => "SECRET",
    }
}
