//! Who may use a directory, and for what.

use std::fs;
use std::io::Write;

use partition::{Batch, FjallConfig, FjallStore, OpenError, Room, Store, Table};

use crate::support::{
    CONFIG, commit_number, commits_found, directory, files, image, is_broken, journal, open,
    refusal, rows, until,
};

#[test]
fn a_store_is_opened_by_one_at_a_time() {
    let directory = directory();
    let first = open(directory.path());
    let second = FjallStore::open(directory.path(), CONFIG);
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    let damaged = FjallStore::open_damaged(directory.path());
    assert!(matches!(damaged, Err(OpenError::InUse { .. })), "{damaged:?}");
    drop(first);
    open(directory.path());
}

#[test]
fn the_number_of_partitions_cannot_be_changed() {
    let directory = directory();
    let path = directory.path();
    commit_number(&mut open(path), 1);
    let other = FjallStore::open(path, FjallConfig { partitions: 8, ..CONFIG });
    let Err(error @ OpenError::Partitions { stored: 16, wanted: 8, .. }) = other else {
        panic!("opened with another number of partitions");
    };
    assert!(error.to_string().contains("16 partitions, and 8 are configured"), "{error}");
    assert_eq!(commits_found(&open(path)), 1);
}

#[test]
fn there_cannot_be_no_partitions() {
    let directory = directory();
    let none = FjallStore::open(directory.path(), FjallConfig { partitions: 0, ..CONFIG });
    assert!(matches!(none, Err(OpenError::Format { .. })), "{none:?}");
}

#[test]
fn a_newer_format_is_refused_and_not_changed() {
    let directory = directory();
    let path = directory.path();
    drop(open(path));
    fs::write(path.join("FORMAT"), "causeway-store 2\npartitions 16\nsomething else\n").unwrap();
    let before = files(path);
    let message = refusal(path);
    assert!(message.contains("format 2, and this version reads 1"), "{message}");
    assert_eq!(files(path), before);
}

#[test]
fn a_format_that_cannot_be_read_is_refused() {
    for text in ["", "causeway-store\n", "causeway-store 1\n", "causeway-store 1\npartitions x\n"] {
        let directory = directory();
        let path = directory.path();
        drop(open(path));
        fs::write(path.join("FORMAT"), text).unwrap();
        assert!(refusal(path).contains("FORMAT"), "{text:?}");
    }
}

#[test]
fn a_directory_with_other_things_in_it_is_refused_and_not_changed() {
    let directory = directory();
    let path = directory.path();
    fs::write(path.join("photo.jpg"), "precious").unwrap();
    let message = refusal(path);
    assert!(message.contains("photo.jpg"), "{message}");
    assert_eq!(fs::read(path.join("photo.jpg")).unwrap(), b"precious");
}

#[test]
fn a_store_whose_format_is_missing_is_refused_and_not_changed() {
    let directory = directory();
    let path = directory.path();
    commit_number(&mut open(path), 1);
    let format = fs::read(path.join("FORMAT")).unwrap();
    fs::remove_file(path.join("FORMAT")).unwrap();
    assert!(refusal(path).contains("`FORMAT` is missing"));
    fs::write(path.join("FORMAT"), format).unwrap();
    assert_eq!(commits_found(&open(path)), 1);
}

#[test]
fn a_first_start_that_was_cut_short_begins_again() {
    let directory = directory();
    let path = directory.path();
    fs::create_dir_all(path.join("rows/keyspaces")).unwrap();
    fs::write(path.join("rows/0.jnl"), [0; 100]).unwrap();
    fs::write(path.join("tail"), "half").unwrap();
    fs::write(path.join("FORMAT.new"), "cause").unwrap();
    commit_number(&mut open(path), 1);
    assert_eq!(commits_found(&open(path)), 1);
}

#[test]
fn less_free_space_than_the_reserve_is_low_until_there_is_more() {
    let directory = directory();
    let reserve = FjallConfig { reserve_bytes: u64::MAX, ..CONFIG };
    let mut store = FjallStore::open(directory.path(), reserve).unwrap();
    assert_eq!(store.room(), Room::Low);
    store.reserve(1);
    assert_eq!(store.room(), Room::Enough);
}

#[test]
fn commits_and_bytes_on_disk_are_told() {
    let directory = directory();
    let mut store = open(directory.path());
    let (commits, bytes) = (store.commits(), store.disk_bytes().unwrap());
    commit_number(&mut store, 1);
    commit_number(&mut store, 2);
    assert_eq!(store.commits(), commits + 2);
    assert!(bytes > 0);
    assert_eq!(store.partitions(), 16);
}

#[test]
fn what_does_not_fit_in_memory_is_written_out_and_found_again() {
    let directory = directory();
    let mut store = open(directory.path());
    let mut batch = Batch::default();
    for number in 0..40u64 {
        batch.clear();
        batch.put(Table::Body, number.to_be_bytes().to_vec(), vec![number as u8; 1 << 20]);
        store.commit(&batch).unwrap();
    }
    until("tables are written", || {
        files(directory.path()).iter().any(|file| {
            file.parent().is_some_and(|folder| folder.ends_with("tables"))
                && fs::metadata(file).is_ok_and(|file| file.len() > 1 << 22)
        })
    });
    drop(store);
    let store = open(directory.path());
    for number in 0..40u64 {
        let row = store.lookup(Table::Body, &number.to_be_bytes()).unwrap().unwrap();
        assert!(row.len() == 1 << 20 && row.iter().all(|byte| *byte == number as u8));
    }
}

#[test]
fn a_power_loss_takes_nothing_from_a_store_that_syncs_each_commit() {
    let directory = directory();
    let config = FjallConfig { durability: partition::Durability::Fsync, ..CONFIG };
    let mut store = FjallStore::open(directory.path(), config).unwrap();
    for number in 1..=5 {
        commit_number(&mut store, number);
    }
    let found = image(directory.path());
    // With the last commit gone it is refused even after a start of the machine.
    let journal = journal(found.path());
    let bytes = crate::support::journal_bytes(found.path());
    let mut file = fs::File::create(journal).unwrap();
    file.write_all(&bytes[..bytes.len() - 1]).unwrap();
    let tail = fs::read(found.path().join("tail")).unwrap();
    let synced = [0, 512]
        .map(|place: usize| u64::from_be_bytes(tail[place + 24..place + 32].try_into().unwrap()));
    assert_eq!(synced.iter().max(), Some(&6), "the opening and five more");
    crate::support::start_machine_anew(found.path(), 6);
    assert!(is_broken(found.path()));
}

#[test]
fn a_start_that_has_much_to_read_leaves_little_of_it_to_the_next() {
    let directory = directory();
    let mut store = open(directory.path());
    let mut batch = Batch::default();
    for number in 0..5u8 {
        batch.clear();
        batch.put(Table::Body, vec![number], vec![number; 1 << 20]);
        store.commit(&batch).unwrap();
    }
    let before = rows(&store).unwrap();
    let killed = image(directory.path());
    let large = journal(killed.path());
    let again = open(killed.path());
    assert!(rows(&again).unwrap() == before);
    until("what was read is written out, and its journal removed", || !large.exists());
    assert!(fs::metadata(journal(killed.path())).unwrap().len() < 1 << 20);
    let next = image(killed.path());
    assert!(rows(&open(next.path())).unwrap() == before);
}

#[test]
fn a_damaged_journal_is_refused_also_behind_the_one_that_a_start_has_begun() {
    let directory = directory();
    let mut store = open(directory.path());
    let mut batch = Batch::default();
    for number in 0..5u8 {
        batch.put(Table::Body, vec![number], vec![number; 1 << 20]);
    }
    store.commit(&batch).unwrap();
    commit_number(&mut store, 1);
    let killed = image(directory.path());
    let journal = journal(killed.path());
    // The start was killed as soon as it had begun another one.
    fs::write(journal.with_file_name("1.jnl"), []).unwrap();
    let whole = image(killed.path());
    assert_eq!(rows(&open(whole.path())).unwrap().len(), 6);
    let mut bytes = fs::read(&journal).unwrap();
    bytes[1 << 20] ^= 1;
    fs::write(&journal, bytes).unwrap();
    assert!(is_broken(killed.path()));
}
