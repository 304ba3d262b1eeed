//! `causeway data`: looks into the store of an intermediate that does not run, and moves it as text.
//!
//! What a store is and how it looks as text is known to `partition`. Never touches a store that is in use.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use partition::archive::{self, ArchiveError, Condition, Report};
use partition::{OpenError, StoreError};

/// Check, export and import what an intermediate remembers, while it does not run
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The directory is `data.directory` of the intermediate, or `store` within `--data` of `causeway up`.

Examples:
  causeway data check /var/lib/causeway
  causeway data export /var/lib/causeway --to backup.jsonl
  causeway data export /var/lib/causeway | gzip > backup.jsonl.gz
  zcat backup.jsonl.gz | causeway data import /var/lib/causeway-new

Exit codes: 0 all well, 1 damaged or not done, 2 wrong usage.")]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    task: Task,
}

#[derive(Clone, Debug, Subcommand)]
enum Task {
    /// Read every row, and say how many there are and what does not fit
    Check {
        /// The store
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Write all rows as lines of JSON
    Export {
        /// The store
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Write to this file, which must not exist, and not to standard output
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Take what can be read of a damaged store. Journals that must be cut for it are copied first
        #[arg(long)]
        damaged: bool,
    },
    /// Make a new store from lines that `export` wrote
    Import {
        /// Where; empty, or not there yet
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Read from this file, and not from standard input
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
}

/// Does it. Blocks: nothing else goes on in this process.
pub(crate) fn run(args: DataArgs) -> anyhow::Result<ExitCode> {
    match args.task {
        Task::Check { directory } => check(&directory),
        Task::Export { directory, to, damaged } => {
            let condition = if damaged { Condition::Damaged } else { Condition::Whole };
            export(&directory, condition, to.as_deref())
        }
        Task::Import { directory, from } => import(&directory, from.as_deref()),
    }
}

fn check(directory: &Path) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let report = match archive::check(directory) {
        Ok(report) => report,
        // This is the answer, not a failure to find one.
        Err(
            error @ (ArchiveError::Open(OpenError::Broken { .. })
            | ArchiveError::Store(StoreError::Damaged { .. })),
        ) => {
            writeln!(out, "damaged: {error}")?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    print(&report, &mut out)?;
    Ok(if report.found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for (table, rows) in &report.rows {
        writeln!(out, "{:<13} {rows:>12} rows", format!("{table:?}"))?;
    }
    for problem in &report.problems {
        writeln!(out, "damaged: {problem}")?;
    }
    match report.found {
        0 => writeln!(out, "everything fits"),
        found => writeln!(out, "{found} rows or queues do not fit"),
    }
}

fn export(directory: &Path, condition: Condition, to: Option<&Path>) -> anyhow::Result<ExitCode> {
    let rows = match to {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            archive::export(directory, condition, &mut out)?
        }
        Some(path) => {
            let file = File::create_new(path)
                .with_context(|| format!("cannot make the file {}", path.display()))?;
            let mut out = BufWriter::new(file);
            let rows = archive::export(directory, condition, &mut out)?;
            // A backup that is reported is on disk.
            out.into_inner().context("cannot write the archive")?.sync_all()?;
            rows
        }
    };
    writeln!(io::stderr(), "{rows} rows exported")?;
    Ok(ExitCode::SUCCESS)
}

fn import(directory: &Path, from: Option<&Path>) -> anyhow::Result<ExitCode> {
    let lines: Box<dyn BufRead> = match from {
        None => Box::new(io::stdin().lock()),
        Some(path) => {
            let file =
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            Box::new(BufReader::with_capacity(1 << 16, file))
        }
    };
    let rows = archive::import(directory, lines)?;
    writeln!(io::stderr(), "{rows} rows imported")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
