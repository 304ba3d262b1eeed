//! The list of files that each table consists of.
//!
//! Checks that the lists are as they were written, before fjall reads them: it has a checksum of each and does not
//! look at it, and a file that is on no list it deletes. Changes nothing.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use crate::store::Table;

/// One directory for each table, and fjall's own.
const DIRECTORIES: usize = Table::ALL.len() + 1;
/// Number of the list, its checksum, and the kind of checksum.
const CURRENT: usize = 25;

/// What is wrong with the lists of the database in `rows`, if anything is.
pub(super) fn fault(rows: &Path) -> io::Result<Option<String>> {
    let folder = rows.join("keyspaces");
    let mut found = 0;
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Some(format!("{} is missing", folder.display())));
        }
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        found += 1;
        match is_whole(&path) {
            Ok(true) => {}
            Ok(false) => {
                return Ok(Some(format!("the list of files in {} is damaged", path.display())));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Some(format!("the list of files in {} is missing", path.display())));
            }
            Err(error) => return Err(error),
        }
    }
    if found < DIRECTORIES {
        return Ok(Some(format!("{} tables are missing", DIRECTORIES - found)));
    }
    Ok(None)
}

fn is_whole(path: &Path) -> io::Result<bool> {
    let current = fs::read(path.join("current"))?;
    let Ok(current) = <[u8; CURRENT]>::try_from(current) else { return Ok(false) };
    let (number, rest) = current.split_at(8);
    let number = u64::from_le_bytes(number.try_into().expect("split after 8 bytes"));
    let checksum = u128::from_le_bytes(rest[..16].try_into().expect("16 of 17 bytes"));
    let list = fs::read(path.join(format!("v{number}")))?;
    Ok(rest[16] == 0 && xxh3_128(&list) == checksum)
}
