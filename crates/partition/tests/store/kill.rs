//! `kill -9` of the process that writes.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use partition::{Batch, Durability, FjallConfig, FjallStore, Store, Table};

use crate::support::{CONFIG, directory};

/// Where the writer finds its store.
const DIRECTORY: &str = "CAUSEWAY_TEST_STORE";
/// How it is to be opened.
const FSYNC: &str = "CAUSEWAY_TEST_FSYNC";
/// Rows that are kept; older ones are deleted.
const KEPT: u64 = 50;
const LAST: &[u8] = b"last";

fn last(store: &FjallStore) -> u64 {
    let row = store.lookup(Table::Cursor, LAST).unwrap();
    row.map_or(0, |row| u64::from_be_bytes(row[..].try_into().unwrap()))
}

/// Sizes from nothing to more than fjall writes at once.
fn value(number: u64) -> Vec<u8> {
    vec![number as u8; (number.wrapping_mul(0x9E37_79B9) % 9_000) as usize]
}

#[test]
#[ignore = "needs a test below that starts it as a process and kills it"]
fn writer() {
    let Ok(path) = env::var(DIRECTORY) else { return };
    let durability = if env::var(FSYNC).is_ok() { Durability::Fsync } else { Durability::Os };
    let mut store = FjallStore::open(path, FjallConfig { durability, ..CONFIG }).unwrap();
    let mut batch = Batch::default();
    let mut out = std::io::stdout();
    for number in last(&store) + 1.. {
        batch.clear();
        batch.put(Table::Inbox, number.to_be_bytes().to_vec(), value(number));
        batch.put(Table::Cursor, LAST.to_vec(), number.to_be_bytes().to_vec());
        batch.delete(Table::Inbox, number.saturating_sub(KEPT).to_be_bytes().to_vec());
        store.commit(&batch).unwrap();
        writeln!(out, "committed {number}").unwrap();
        out.flush().unwrap();
    }
}

/// Lets a writer commit so many times, kills it, and gives the last commit it reported.
fn write_and_kill(path: &Path, commits: u64, durability: Durability) -> u64 {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "kill::writer", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(DIRECTORY, path).stdout(Stdio::piped()).stderr(Stdio::inherit());
    if durability == Durability::Fsync {
        command.env(FSYNC, "1");
    }
    let mut writer = command.spawn().unwrap();
    let output = BufReader::new(writer.stdout.take().unwrap());
    let (mut seen, mut last) = (0, 0);
    for line in output.lines() {
        let line = line.unwrap();
        let Some((_, number)) = line.split_once("committed ") else { continue };
        last = number.parse().unwrap();
        seen += 1;
        if seen == commits {
            writer.kill().unwrap();
        }
    }
    writer.wait().unwrap();
    assert!(seen >= commits, "the writer ended by itself after {seen} commits");
    last
}

fn check(path: &Path, reported: u64) {
    let store = FjallStore::open(path, CONFIG).unwrap();
    let last = last(&store);
    // One more may have been committed than the writer came to say.
    assert!(last == reported || last == reported + 1, "{reported} reported, {last} found");
    let mut found = Vec::new();
    store
        .scan(Table::Inbox, &[], &[], &mut |key, row| {
            let number = u64::from_be_bytes(key.try_into().unwrap());
            assert!(row == value(number), "row {number} is another");
            found.push(number);
            true
        })
        .unwrap();
    let expected: Vec<u64> = (last.saturating_sub(KEPT) + 1..=last).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_commit_that_was_reported_is_there_after_kill_9() {
    let directory = directory();
    for round in 0..20u64 {
        let reported = write_and_kill(directory.path(), 1 + round * 37 % 150, Durability::Os);
        check(directory.path(), reported);
    }
}

#[test]
fn every_synced_commit_that_was_reported_is_there_after_kill_9() {
    let directory = directory();
    for round in 0..5u64 {
        let reported = write_and_kill(directory.path(), 1 + round * 7, Durability::Fsync);
        check(directory.path(), reported);
    }
}
