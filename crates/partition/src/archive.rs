//! Verify a store, dump it to lines, load it from lines: while no intermediate has it.
//!
//! An archive is text: one JSON object in each line. The first names the format and the number of partitions,
//! the last the number of lines between, and each of those is a row, whose field `row` says what it is;
//! [`line`] has them all. Invariant: an imported store has the rows of the exported one, byte for byte. Does
//! not: run beside an intermediate, judge whether what rows say makes sense for MQTT.

use std::io::{self, BufRead, Write};
use std::path::Path;

use bytes::Bytes;

use crate::archive::line::{FORMAT, Footer, Header, Line};
use crate::archive::rows::Row;
use crate::store::{
    Batch, Durability, FjallConfig, FjallStore, OpenError, Store, StoreError, Table,
};

mod check;
mod line;
mod rows;
mod text;

pub use check::{Problem, Report, check};

/// An import commits so many bytes at a time.
const COMMIT_BYTES: usize = 1 << 20;

/// Why a store was not dumped or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive could not be written or read.
    #[error("the archive cannot be written or read: {0}")]
    Io(#[from] io::Error),
    /// There is something already.
    #[error("there is a store at {path} already: import into an empty or a new directory")]
    NotEmpty {
        /// Where.
        path: String,
    },
    /// It is no archive, or damaged.
    #[error("line {line} of the archive: {what}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Which stores are dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Those of which nothing is missing.
    Whole,
    /// Also damaged ones, as far as they can be read.
    Damaged,
}

/// Writes all rows of the store at `path`, and says how many.
///
/// # Errors
/// The store is in use, damaged or none, or `to` cannot be written.
pub fn export(
    path: impl AsRef<Path>,
    condition: Condition,
    to: &mut impl Write,
) -> Result<u64, ArchiveError> {
    let store = match condition {
        Condition::Whole => open(path.as_ref())?,
        Condition::Damaged => FjallStore::open_damaged(path)?,
    };
    write(&store, store.partitions(), to)
}

/// Makes a store at `path`, which must be empty or not exist, from an archive, and says how many rows it has.
///
/// # Errors
/// There is a store already, the archive is damaged, or the store cannot be written. What was imported until then is
/// no store.
pub fn import(path: impl AsRef<Path>, from: impl BufRead) -> Result<u64, ArchiveError> {
    let path = path.as_ref();
    if FjallStore::partitions_at(path).is_ok() {
        return Err(ArchiveError::NotEmpty { path: path.display().to_string() });
    }
    let mut lines = Lines { from, number: 0, text: String::new() };
    let header: Header = lines.read()?;
    if header.causeway_archive != FORMAT {
        let what = format!("format {}, and this version reads {FORMAT}", header.causeway_archive);
        return Err(lines.fault(what));
    }
    let mut store = FjallStore::begin(path, config(header.partitions))?;
    let count = load(&mut store, &mut lines)?;
    store.finish()?;
    Ok(count)
}

/// Opens an existing store as it was made.
fn open(path: &Path) -> Result<FjallStore, OpenError> {
    FjallStore::open(path, config(FjallStore::partitions_at(path)?))
}

fn config(partitions: u16) -> FjallConfig {
    FjallConfig { durability: Durability::Os, reserve_bytes: 0, partitions }
}

fn write(store: &impl Store, partitions: u16, to: &mut impl Write) -> Result<u64, ArchiveError> {
    put_line(to, &Header { causeway_archive: FORMAT, partitions })?;
    let mut count = 0;
    for table in Table::ALL {
        let mut written = Ok(());
        store.scan(table, &[], &[], &mut |key, value| {
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            written = put_line(to, &rows::line(&Row { table, key, value }));
            count += 1;
            written.is_ok()
        })?;
        written?;
    }
    put_line(to, &Footer { rows: count })?;
    to.flush()?;
    Ok(count)
}

fn put_line(to: &mut impl Write, line: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

fn load(store: &mut impl Store, lines: &mut Lines<impl BufRead>) -> Result<u64, ArchiveError> {
    let mut batch = Batch::default();
    let mut count = 0;
    loop {
        lines.next()?;
        if let Ok(footer) = serde_json::from_str::<Footer>(&lines.text) {
            if footer.rows != count {
                return Err(lines.fault(format!("{} rows should come before it", footer.rows)));
            }
            break;
        }
        let line: Line = lines.parse()?;
        let Some(row) = rows::row(line) else {
            return Err(lines.fault("a value in it cannot be".into()));
        };
        batch.put(row.table, row.key, row.value);
        count += 1;
        if batch.bytes() >= COMMIT_BYTES {
            store.commit(&batch)?;
            batch.clear();
        }
    }
    store.commit(&batch)?;
    Ok(count)
}

/// The lines of an archive.
struct Lines<R> {
    from: R,
    /// Of the last line read, from 1.
    number: u64,
    text: String,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<(), ArchiveError> {
        self.text.clear();
        self.number += 1;
        let read = self.from.read_line(&mut self.text)?;
        // The last line may lack its end, if somebody edited it.
        if read == 0 {
            return Err(self.fault("the archive ends before its last line".into()));
        }
        Ok(())
    }

    fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, ArchiveError> {
        serde_json::from_str(&self.text).map_err(|error| self.fault(error.to_string()))
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, ArchiveError> {
        self.next()?;
        self.parse()
    }

    fn fault(&self, what: String) -> ArchiveError {
        ArchiveError::Line { line: self.number, what }
    }
}

#[cfg(test)]
mod tests;
