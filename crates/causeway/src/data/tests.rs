//! The command on real directories.

use std::fs;

use clap::Parser as _;
use partition::{Batch, Durability, FjallConfig, FjallStore, Store, Table};
use tempfile::TempDir;

use super::*;
use crate::{Cli, Command};

fn run_line(words: &[&str]) -> anyhow::Result<ExitCode> {
    let cli = Cli::try_parse_from(["causeway", "data"].iter().chain(words)).unwrap();
    let Some(Command::Data(args)) = cli.command else { panic!("another command") };
    run(args)
}

/// A store with one row that fits and, if asked for, one that cannot be read.
fn store(directory: &Path, tables: &[Table]) {
    let config = FjallConfig { durability: Durability::Os, reserve_bytes: 0, partitions: 16 };
    let mut store = FjallStore::open(directory, config).unwrap();
    let mut batch = Batch::default();
    for table in tables {
        batch.put(*table, vec![0; 18], vec![1, 0, 0, 0, 0, 0, 0, 0, 9]);
    }
    store.commit(&batch).unwrap();
}

#[test]
fn a_store_is_checked_exported_and_imported() {
    let place = TempDir::new().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    store(place.path().join("old").as_path(), &[Table::Once]);
    assert_eq!(run_line(&["check", &path("old")]).unwrap(), ExitCode::SUCCESS);
    run_line(&["export", &path("old"), "--to", &path("lines")]).unwrap();
    let lines = fs::read_to_string(path("lines")).unwrap();
    assert_eq!(lines.lines().count(), 3, "{lines}");
    run_line(&["export", &path("old"), "--to", &path("lines")]).unwrap_err();
    run_line(&["import", &path("new"), "--from", &path("lines")]).unwrap();
    run_line(&["export", &path("new"), "--to", &path("again")]).unwrap();
    assert_eq!(fs::read_to_string(path("again")).unwrap(), lines);
    run_line(&["import", &path("new"), "--from", &path("lines")]).unwrap_err();
}

#[test]
fn damage_is_exit_code_1() {
    let place = TempDir::new().unwrap();
    store(place.path(), &[Table::Once, Table::Session]);
    let path = place.path().to_str().unwrap();
    assert_eq!(run_line(&["check", path]).unwrap(), ExitCode::FAILURE);
    fs::write(place.path().join("tail"), [0; 1024]).unwrap();
    assert_eq!(run_line(&["check", path]).unwrap(), ExitCode::FAILURE);
    run_line(&["check", place.path().join("none").to_str().unwrap()]).unwrap_err();
}

#[test]
fn a_report_names_tables_and_what_is_wrong() {
    let place = TempDir::new().unwrap();
    store(place.path(), &[Table::Session]);
    let mut text = Vec::new();
    print(&archive::check(place.path()).unwrap(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("Session                  1 rows\n"), "{text}");
    assert!(text.contains("damaged: table Session: the row 0000"), "{text}");
    assert!(text.ends_with("1 rows or queues do not fit\n"), "{text}");
}
