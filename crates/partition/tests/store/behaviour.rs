//! What every store does.

use bytes::Bytes;
use partition::{Batch, FjallStore, MemoryStore, Room, Store, Table};
use tempfile::TempDir;

use crate::support::{CONFIG, directory, open, rows};

/// A store, and the same store after its process ended.
trait Subject {
    type Store: Store;
    fn store(&mut self) -> &mut Self::Store;
    fn reopen(&mut self);
}

struct OnDisk {
    directory: TempDir,
    store: Option<FjallStore>,
}

impl OnDisk {
    fn new() -> Self {
        let directory = directory();
        let store = Some(open(directory.path()));
        Self { directory, store }
    }
}

impl Subject for OnDisk {
    type Store = FjallStore;

    fn store(&mut self) -> &mut FjallStore {
        self.store.as_mut().expect("always but while it is opened again")
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(FjallStore::open(self.directory.path(), CONFIG).unwrap());
    }
}

struct InMemory(MemoryStore);

impl Subject for InMemory {
    type Store = MemoryStore;

    fn store(&mut self) -> &mut MemoryStore {
        &mut self.0
    }

    fn reopen(&mut self) {
        self.0 = self.0.reopen();
    }
}

/// Runs each test with both stores.
macro_rules! both {
    ($($test:ident),* $(,)?) => {
        mod on_disk {
            $(#[test] fn $test() { super::$test(&mut super::OnDisk::new()); })*
        }
        mod in_memory {
            $(#[test] fn $test() { super::$test(&mut super::InMemory(super::MemoryStore::new())); })*
        }
    };
}

both!(
    a_row_is_found_after_its_commit_and_after_opening_again,
    a_row_of_one_table_is_not_in_another,
    of_several_changes_of_a_row_in_one_batch_the_last_counts,
    a_deleted_row_is_gone_and_deleting_it_again_does_nothing,
    rows_come_in_the_order_of_their_keys_from_where_they_are_asked_for,
    a_scan_ends_when_it_is_told_to,
    a_prefix_of_the_highest_bytes_is_scanned_to_the_end,
    large_rows_and_empty_values_come_back_as_they_were,
    a_batch_of_ten_thousand_rows_is_committed_as_one,
    there_is_room_at_first,
);

fn put(store: &mut impl Store, table: Table, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(table, key.to_vec(), value.to_vec());
    store.commit(&batch).unwrap();
}

fn keys(store: &impl Store, prefix: &[u8], from: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    store
        .scan(Table::Inbox, prefix, from, &mut |key, _| {
            keys.push(key.to_vec());
            true
        })
        .unwrap();
    keys
}

fn a_row_is_found_after_its_commit_and_after_opening_again(subject: &mut impl Subject) {
    put(subject.store(), Table::Session, b"key", b"value");
    for _ in 0..3 {
        let found = subject.store().lookup(Table::Session, b"key").unwrap();
        assert_eq!(found.as_deref(), Some(&b"value"[..]));
        assert_eq!(subject.store().lookup(Table::Session, b"ke").unwrap(), None);
        assert_eq!(rows(subject.store()).unwrap().len(), 1);
        subject.reopen();
    }
}

fn a_row_of_one_table_is_not_in_another(subject: &mut impl Subject) {
    let mut batch = Batch::default();
    for (number, table) in (0u8..).zip(Table::ALL) {
        batch.put(table, b"same".to_vec(), vec![number]);
    }
    subject.store().commit(&batch).unwrap();
    subject.reopen();
    for (number, table) in (0u8..).zip(Table::ALL) {
        let found = subject.store().lookup(table, b"same").unwrap();
        assert_eq!(found, Some(Bytes::from(vec![number])), "{table:?}");
    }
}

fn of_several_changes_of_a_row_in_one_batch_the_last_counts(subject: &mut impl Subject) {
    put(subject.store(), Table::Cursor, b"c", b"old");
    let mut batch = Batch::default();
    for round in 0..50u8 {
        batch.put(Table::Cursor, b"a".to_vec(), vec![round]);
        batch.delete(Table::Cursor, b"a".to_vec());
        batch.put(Table::Cursor, b"b".to_vec(), vec![round]);
        batch.delete(Table::Cursor, b"c".to_vec());
        batch.put(Table::Cursor, b"c".to_vec(), vec![round]);
    }
    subject.store().commit(&batch).unwrap();
    for _ in 0..2 {
        let store = subject.store();
        assert_eq!(store.lookup(Table::Cursor, b"a").unwrap(), None);
        assert_eq!(store.lookup(Table::Cursor, b"b").unwrap().as_deref(), Some(&[49][..]));
        assert_eq!(store.lookup(Table::Cursor, b"c").unwrap().as_deref(), Some(&[49][..]));
        assert_eq!(rows(store).unwrap().len(), 2);
        subject.reopen();
    }
}

fn a_deleted_row_is_gone_and_deleting_it_again_does_nothing(subject: &mut impl Subject) {
    put(subject.store(), Table::Once, b"key", b"value");
    for _ in 0..2 {
        let mut batch = Batch::default();
        batch.delete(Table::Once, b"key".to_vec());
        subject.store().commit(&batch).unwrap();
        assert_eq!(subject.store().lookup(Table::Once, b"key").unwrap(), None);
        assert!(rows(subject.store()).unwrap().is_empty());
        subject.reopen();
    }
}

fn rows_come_in_the_order_of_their_keys_from_where_they_are_asked_for(subject: &mut impl Subject) {
    for key in [&b"b2"[..], b"a1", b"b1", b"c", b"b", b"b3", b"b\xff"] {
        put(subject.store(), Table::Inbox, key, b"");
    }
    for _ in 0..2 {
        let store = subject.store();
        let all: [&[u8]; 5] = [b"b", b"b1", b"b2", b"b3", b"b\xff"];
        assert_eq!(keys(store, b"b", b""), all);
        assert_eq!(keys(store, b"b", b"a1"), all, "from before the prefix");
        assert_eq!(keys(store, b"b", b"b2"), all[2..]);
        assert_eq!(keys(store, b"b", b"b21"), all[3..], "from between two rows");
        assert!(keys(store, b"b", b"c").is_empty(), "from after the prefix");
        assert!(keys(store, b"d", b"").is_empty());
        assert_eq!(keys(store, b"", b"").len(), 7);
        subject.reopen();
    }
}

fn a_scan_ends_when_it_is_told_to(subject: &mut impl Subject) {
    for key in 0..10u8 {
        put(subject.store(), Table::Inbox, &[key], b"");
    }
    let mut seen = 0;
    subject
        .store()
        .scan(Table::Inbox, &[], &[4], &mut |key, _| {
            seen += 1;
            key != [6]
        })
        .unwrap();
    assert_eq!(seen, 3);
}

fn a_prefix_of_the_highest_bytes_is_scanned_to_the_end(subject: &mut impl Subject) {
    for key in [&b"\xff\xfe"[..], b"\xff\xff", b"\xff\xff\x01", b"\xff\xff\xff\xff"] {
        put(subject.store(), Table::Inbox, key, b"");
    }
    assert_eq!(keys(subject.store(), b"\xff\xff", b"").len(), 3);
}

fn large_rows_and_empty_values_come_back_as_they_were(subject: &mut impl Subject) {
    let large: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    put(subject.store(), Table::Body, b"large", &large);
    put(subject.store(), Table::Body, b"none", b"");
    for _ in 0..2 {
        let store = subject.store();
        assert!(store.lookup(Table::Body, b"large").unwrap().unwrap() == large);
        assert_eq!(store.lookup(Table::Body, b"none").unwrap(), Some(Bytes::new()));
        subject.reopen();
    }
}

fn a_batch_of_ten_thousand_rows_is_committed_as_one(subject: &mut impl Subject) {
    let mut batch = Batch::default();
    for number in 0..10_000u32 {
        batch.put(Table::Inbox, number.to_be_bytes().to_vec(), vec![1; 60]);
    }
    subject.store().commit(&batch).unwrap();
    subject.reopen();
    assert_eq!(keys(subject.store(), &[], &[]).len(), 10_000);
}

fn there_is_room_at_first(subject: &mut impl Subject) {
    assert_eq!(subject.store().room(), Room::Enough);
}

#[test]
fn a_store_in_memory_fails_when_it_was_told_to_and_keeps_what_was_committed() {
    let mut store = MemoryStore::new();
    store.fail_after(2);
    put(&mut store, Table::Body, b"1", b"");
    put(&mut store, Table::Body, b"2", b"");
    let mut batch = Batch::default();
    batch.put(Table::Body, b"3".to_vec(), b"".to_vec());
    batch.delete(Table::Body, b"1".to_vec());
    assert!(store.commit(&batch).is_err());
    assert!(store.commit(&batch).is_err());
    let mut again = store.reopen();
    assert_eq!(again.rows().len(), 2);
    again.commit(&batch).unwrap();
    assert_eq!(again.lookup(Table::Body, b"1").unwrap(), None);
    assert_eq!(store.rows().len(), 2, "the old one is not changed by the new one");
}

#[test]
fn a_store_in_memory_is_as_full_as_it_was_told_to_be() {
    let store = MemoryStore::new();
    let view = store.clone();
    view.set_room(Room::Low);
    assert_eq!(store.room(), Room::Low);
    view.set_room(Room::Enough);
    assert_eq!(store.room(), Room::Enough);
}
