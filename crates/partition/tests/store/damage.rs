//! Files that were cut, flipped or lost: all rows, or a refusal.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fjall::{Database, KeyspaceCreateOptions};
use partition::{Batch, FjallStore, Store, Table};
use tempfile::TempDir;

use crate::support::{
    CONFIG, Rows, commit_ends, commit_number, commits_found, directory, files, image, is_broken,
    journal, journal_bytes, open, refusal, rows, start_machine_anew,
};

/// A store of ten commits whose process ended without closing it.
fn ten_commits() -> TempDir {
    let directory = directory();
    let mut store = open(directory.path());
    for number in 1..=10 {
        commit_number(&mut store, number);
    }
    image(directory.path())
}

fn write_journal(path: &Path, bytes: &[u8]) {
    fs::write(journal(path), bytes).unwrap();
}

#[test]
fn a_write_that_was_cut_short_is_dropped_and_nothing_else() {
    let original = ten_commits();
    let whole = journal_bytes(original.path());
    let ends = commit_ends(&whole);
    let last = &whole[ends[ends.len() - 2]..];
    for kept in [1, 5, 20, 40, last.len() / 2, last.len() - 5, last.len() - 1] {
        let crashed = image(original.path());
        write_journal(crashed.path(), &[&whole, &last[..kept]].concat());
        let mut store = open(crashed.path());
        assert_eq!(commits_found(&store), 10, "with {kept} bytes of the next");
        commit_number(&mut store, 11);
        drop(store);
        assert_eq!(commits_found(&open(crashed.path())), 11);
    }
}

#[test]
fn a_missing_commit_is_refused_and_nothing_is_changed() {
    let original = ten_commits();
    let whole = journal_bytes(original.path());
    for cut in [1, 4, 100, 600, 3000] {
        let crashed = image(original.path());
        let bytes = &whole[..whole.len() - cut];
        write_journal(crashed.path(), bytes);
        let message = refusal(crashed.path());
        assert!(message.contains("are missing"), "{message}");
        assert!(message.contains("causeway data export"), "{message}");
        assert!(fs::read(journal(crashed.path())).unwrap() == bytes, "the journal was changed");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_journal_is_refused() {
    let original = ten_commits();
    let whole = journal_bytes(original.path());
    for at in (0..whole.len()).step_by(97) {
        let crashed = image(original.path());
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        write_journal(crashed.path(), &bytes);
        assert!(is_broken(crashed.path()), "byte {at} of {}", whole.len());
        let journal = fs::read(journal(crashed.path())).unwrap();
        let kept = files(crashed.path())
            .iter()
            .any(|file| file.extension().is_some_and(|extension| extension == "damaged"));
        assert!(journal == bytes || kept, "what could be read of byte {at} on is gone");
    }
}

#[test]
fn after_a_power_loss_unsynced_commits_may_be_missing_but_no_synced_one() {
    let original = ten_commits();
    let whole = journal_bytes(original.path());
    let ends = commit_ends(&whole);
    // The opening is the first commit. Seven of the ten are whole.
    let broken = [&whole[..ends[7] + 30], &[0; 300], &whole[ends[7] + 330..]].concat();
    for (synced, opens) in [(1, true), (8, true), (9, false), (11, false)] {
        let crashed = image(original.path());
        write_journal(crashed.path(), &broken);
        start_machine_anew(crashed.path(), synced);
        if opens {
            assert_eq!(commits_found(&open(crashed.path())), 7, "synced {synced}");
        } else {
            assert!(is_broken(crashed.path()), "synced {synced}");
        }
    }
}

#[test]
fn a_hole_between_two_journals_is_refused() {
    let original = ten_commits();
    let whole = journal_bytes(original.path());
    let ends = commit_ends(&whole);
    for (resume_at, opens) in [(ends[4], true), (ends[5], false)] {
        let crashed = image(original.path());
        let first = journal(crashed.path());
        fs::write(&first, &whole[..ends[4]]).unwrap();
        fs::write(first.with_file_name("1.jnl"), &whole[resume_at..]).unwrap();
        if opens {
            assert_eq!(commits_found(&open(crashed.path())), 10);
        } else {
            let message = refusal(crashed.path());
            assert!(message.contains("between 5 and 7"), "{message}");
        }
    }
}

#[test]
fn an_older_journal_must_be_whole() {
    let original = ten_commits();
    let whole = journal_bytes(original.path());
    let ends = commit_ends(&whole);
    let crashed = image(original.path());
    let first = journal(crashed.path());
    fs::write(&first, &whole[..ends[6] + 50]).unwrap();
    fs::write(first.with_file_name("1.jnl"), &whole[ends[6]..]).unwrap();
    assert!(is_broken(crashed.path()));
}

#[test]
fn one_place_of_the_tail_may_be_damaged_and_not_both() {
    let original = ten_commits();
    for (places, opens) in [(&[0][..], true), (&[512], true), (&[0, 512], false)] {
        let crashed = image(original.path());
        let tail = crashed.path().join("tail");
        let mut bytes = fs::read(&tail).unwrap();
        for place in places {
            bytes[place + 17] ^= 4;
        }
        fs::write(&tail, &bytes).unwrap();
        if opens {
            assert_eq!(commits_found(&open(crashed.path())), 10);
        } else {
            assert!(refusal(crashed.path()).contains("`tail`"));
        }
    }
}

#[test]
fn a_lost_database_is_refused() {
    let crashed = ten_commits();
    fs::remove_dir_all(crashed.path().join("rows")).unwrap();
    FjallStore::open(crashed.path(), CONFIG).unwrap_err();
    fs::create_dir(crashed.path().join("rows")).unwrap();
    assert!(is_broken(crashed.path()), "all commits are gone");
}

#[test]
fn what_is_left_of_a_damaged_store_can_be_read_and_not_written() {
    let original = ten_commits();
    let whole = journal_bytes(original.path());
    let mut bytes = whole.clone();
    bytes[commit_ends(&whole)[6] + 50] ^= 1;
    write_journal(original.path(), &bytes);
    assert!(is_broken(original.path()));
    let mut store = FjallStore::open_damaged(original.path()).unwrap();
    let left = rows(&store).unwrap();
    assert_eq!(left.len(), 6, "those before the damage");
    let mut batch = Batch::default();
    batch.put(Table::Body, b"more".to_vec(), b"".to_vec());
    store.commit(&batch).unwrap_err();
    drop(store);
    let kept = journal(original.path()).with_extension("jnl.damaged");
    assert!(fs::read(kept).unwrap() == bytes, "the damaged journal is kept");
}

/// A store whose rows are partly in tables, partly in the journal.
fn with_tables() -> (TempDir, Rows) {
    let directory = directory();
    let path = directory.path();
    let mut store = open(path);
    let mut batch = Batch::default();
    for number in 0..400u64 {
        batch.clear();
        for table in [Table::Inbox, Table::Cursor, Table::Body] {
            batch.put(table, number.to_be_bytes().to_vec(), vec![number as u8; 64]);
        }
        batch.delete(Table::Inbox, (number / 2).to_be_bytes().to_vec());
        store.commit(&batch).unwrap();
        if number == 300 {
            drop(store);
            write_tables(&path.join("rows"));
            store = open(path);
        }
    }
    let expected = rows(&store).unwrap();
    (image(path), expected)
}

fn write_tables(path: &Path) {
    let database = Database::builder(path).worker_threads(1).open().unwrap();
    for name in database.list_keyspace_names() {
        let keyspace = database.keyspace(&name, KeyspaceCreateOptions::default).unwrap();
        keyspace.rotate_memtable_and_wait().unwrap();
    }
}

#[test]
fn a_flipped_bit_in_any_file_is_never_silently_less() {
    let (original, expected) = with_tables();
    // Opened once more, the journal is no longer than what is in it.
    drop(open(original.path()));
    let mut refused = 0;
    for file in files(original.path()) {
        let name = file.strip_prefix(original.path()).unwrap();
        let length = fs::metadata(&file).unwrap().len() as usize;
        for part in 0..6 {
            let at = length * (2 * part + 1) / 12;
            if length == 0 || name == Path::new("lock") {
                continue;
            }
            let flipped = image(original.path());
            let mut bytes = fs::read(flipped.path().join(name)).unwrap();
            bytes[at] ^= 1 << (at % 8);
            fs::write(flipped.path().join(name), bytes).unwrap();
            let read = catch_unwind(AssertUnwindSafe(|| {
                FjallStore::open(flipped.path(), CONFIG).ok().and_then(|store| rows(&store).ok())
            }));
            let Ok(read) = read else { panic!("{}, byte {at} panics", name.display()) };
            match read {
                Some(read) => assert!(read == expected, "{}, byte {at}", name.display()),
                None => refused += 1,
            }
        }
    }
    assert!(refused > 20, "only {refused} were noticed");
}
