//! Archives: rows in, lines, the same rows out.

mod lived_in;

use std::io::Cursor as Reader;
use std::path::Path;

use bytestring::ByteString;
use mqtt_codec::{ClientId, Message, PublishProperties, QoS, SubscriptionIds, TopicName, Will};
use tempfile::TempDir;

use super::*;
use crate::archive::check::check_rows;
use crate::archive::text::Hex;
use crate::id::{Holder, Lsn, OnceKey, PartitionId, ProxyId, SessionId, UnixMillis};
use crate::row::{
    self, Chunk, Cursor, EntryHead, Grace, Meta, PendingWill, SessionKind, SessionRow,
};
use crate::store::MemoryStore;

fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        topic: TopicName::new(ByteString::from(topic)).unwrap(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_secs: Some(7),
        properties: PublishProperties::builder()
            .content_type("text/plain")
            .user_property("unit", "°C")
            .build()
            .unwrap(),
        payload: Bytes::copy_from_slice(payload),
    }
}

fn session(number: u64) -> SessionId {
    SessionId::new(PartitionId(3), number)
}

fn session_row(client: &str) -> SessionRow {
    SessionRow {
        kind: SessionKind::Persistent,
        client: ClientId::new(ByteString::from(client)).unwrap(),
        epoch: 5,
        fresh: true,
        holder: Some(Holder { proxy: ProxyId(u64::MAX - 1), connection: 9 }),
        expiry_secs: u32::MAX,
        receive_maximum: 100,
        changed_at: UnixMillis(1_700_000_000_000),
        will: Some(PendingWill {
            will: Will { message: message("will", b"\xff\x00 not text"), delay_secs: 30 },
            due: Some(UnixMillis(4)),
            grace: Grace::Yes,
        }),
    }
}

/// Two sessions with queues that share a body, and one of each kind of numbered row.
fn rows() -> Batch {
    let mut batch = Batch::default();
    let partition = PartitionId(3);
    let meta = Meta { partitions: 16, numbers: 10, lsn: Lsn(77) };
    batch.put(Table::Meta, row::partition_key(partition).to_vec(), meta.encode());
    let head = EntryHead {
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: SubscriptionIds::new(),
        expires_at: Some(UnixMillis(123)),
    };
    for number in [1, 2] {
        let id = session(number).0;
        let key = row::owner_key(id).to_vec();
        batch.put(Table::Session, key.clone(), session_row("café \"x\"").encode());
        let cursor = Cursor {
            next: 8,
            floor: 4,
            swept: 4,
            bytes: 300,
            sent: 6,
            done: vec![(6, 6)],
            received: vec![5],
        };
        batch.put(Table::Cursor, key, cursor.encode());
        let mut chunk = Chunk::starting(3);
        for _ in 3..7 {
            chunk.push_message(&head, 90, &message("a/b", "grüße\n".as_bytes()));
        }
        batch.put(Table::Inbox, row::place_key(id, 6).to_vec(), chunk.finish());
        let mut chunk = Chunk::starting(7);
        chunk.push_body(&head, 90, 4);
        batch.put(Table::Inbox, row::place_key(id, 7).to_vec(), chunk.finish());
        let incoming = row::incoming_key(session(number), 65_535);
        let key = Some(OnceKey(u128::MAX)).filter(|_| number == 1);
        batch.put(Table::Incoming, incoming.to_vec(), row::encode_incoming(key));
    }
    let body = row::number_key(partition, 4).to_vec();
    batch.put(Table::Body, body.clone(), row::encode_body(&message("big", &[b'x'; 1000])));
    batch.put(Table::BodyUse, body, row::encode_number(2));
    let lane = row::lane_key(partition, ProxyId(u64::MAX), 255);
    let row = row::LaneRow { last: 9, refused: vec![(3, 5), (7, 7)] };
    batch.put(Table::Lane, lane.to_vec(), row.encode());
    let once = row::once_key(partition, OnceKey(1));
    batch.put(Table::Once, once.to_vec(), row::encode_number(99));
    batch
}

fn store(batch: &Batch) -> MemoryStore {
    let mut store = MemoryStore::new();
    store.commit(batch).unwrap();
    store
}

fn archive(store: &MemoryStore) -> String {
    let mut text = Vec::new();
    write(store, 16, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn restore(text: &str) -> Result<MemoryStore, ArchiveError> {
    let mut lines = Lines { from: Reader::new(text), number: 0, text: String::new() };
    let _: Header = lines.read()?;
    let mut store = MemoryStore::new();
    load(&mut store, &mut lines)?;
    Ok(store)
}

#[test]
fn rows_come_back_as_they_were_and_none_of_them_raw() {
    let original = store(&rows());
    let text = archive(&original);
    assert!(!text.contains("\"raw\""), "{text}");
    assert_eq!(restore(&text).unwrap().rows(), original.rows());
}

#[test]
fn a_row_that_cannot_be_read_comes_back_as_it_was_too() {
    let mut batch = Batch::default();
    for table in Table::ALL {
        batch.put(table, b"\x00\x01what".to_vec(), b"\xff\xfe".to_vec());
        batch.put(table, b"\x00".to_vec(), b"".to_vec());
    }
    let original = store(&batch);
    let text = archive(&original);
    assert_eq!(text.matches("\"raw\"").count(), 32);
    assert_eq!(restore(&text).unwrap().rows(), original.rows());
    assert_eq!(check_rows(&original, 16).unwrap().found, 32 + 16);
}

#[test]
fn text_stays_text_and_other_bytes_are_hex() {
    let text = archive(&store(&rows()));
    assert!(text.contains("\"payload\":\"grüße\\n\""), "{text}");
    assert!(text.contains("\"payload_hex\":\"ff00206e6f742074657874\""), "{text}");
    assert!(text.contains("\"client\":\"café \\\"x\\\"\""), "{text}");
    assert_eq!(Hex(vec![0, 255]).to_string(), "00ff");
}

#[test]
fn an_archive_that_was_cut_short_is_refused() {
    let text = archive(&store(&rows()));
    let lines: Vec<_> = text.lines().collect();
    for kept in 0..lines.len() {
        let cut = lines[..kept].join("\n");
        assert!(matches!(restore(&cut), Err(ArchiveError::Line { .. })), "{kept} lines");
    }
    let missing = [&lines[..3], &lines[4..]].concat().join("\n");
    let Err(error) = restore(&missing) else { panic!("a line is missing") };
    assert!(error.to_string().contains("rows should come before it"), "{error}");
}

#[test]
fn a_line_that_is_none_is_named() {
    let text = archive(&store(&rows()));
    for (old, new) in [
        ("\"qos\":2", "\"qos\":3"),
        ("\"kind\":\"persistent\"", "\"kind\":\"other\""),
        ("\"floor\":4", "\"floor\":9"),
        ("\"topic\":\"big\"", "\"topic\":\"#\""),
        ("\"row\":\"lane\"", "\"row\":\"road\""),
        ("\"epoch\":5", "\"epoch\":5,\"age\":1"),
    ] {
        let text = text.replacen(old, new, 1);
        let Err(ArchiveError::Line { line, .. }) = restore(&text) else { panic!("{new}") };
        assert!(text.lines().nth(line as usize - 1).unwrap().contains(new), "{new}: line {line}");
    }
}

#[test]
fn a_sound_store_has_no_problems() {
    let report = check_rows(&store(&rows()), 16).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.rows[&Table::Inbox], 4);
}

/// What is found when one row is changed.
fn problem(table: Table, key: &[u8], value: Option<Vec<u8>>) -> String {
    let mut batch = rows();
    match value {
        Some(value) => batch.put(table, key.to_vec(), value),
        None => batch.delete(table, key.to_vec()),
    }
    let report = check_rows(&store(&batch), 16).unwrap();
    report.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn what_does_not_fit_is_found() {
    let key = row::owner_key(session(1).0);
    let body = row::number_key(PartitionId(3), 4);
    let chunk = row::place_key(session(1).0, 7);
    let meta = Meta { partitions: 16, numbers: 2, lsn: Lsn(77) }.encode();
    let meta_key = row::partition_key(PartitionId(3));
    for (found, expected) in [
        (problem(Table::Session, &key, None), "which is not there"),
        (problem(Table::Cursor, &key, None), "has messages and no queue"),
        (problem(Table::Inbox, &chunk, None), "should have 3 messages and has 2"),
        (problem(Table::Inbox, &chunk, None), "counts 2 queues, is named by 1"),
        (problem(Table::Body, &body, None), "is not there, counts 2"),
        (problem(Table::BodyUse, &body, None), "is named and not counted"),
        (problem(Table::BodyUse, &body, Some(row::encode_number(3))), "counts 3 queues"),
        (problem(Table::Meta, &meta_key, Some(meta)), "a number that was not given out"),
    ] {
        assert!(found.contains(expected), "{expected:?} in:\n{found}");
    }
}

fn on_disk(path: &Path) -> MemoryStore {
    let store = open(path).unwrap();
    let mut batch = Batch::default();
    for table in Table::ALL {
        store
            .scan(table, &[], &[], &mut |key, value| {
                batch.put(table, key.to_vec(), value.to_vec());
                true
            })
            .unwrap();
    }
    self::store(&batch)
}

#[test]
fn what_an_interrupted_import_leaves_is_no_store() {
    let place = TempDir::new().unwrap();
    let (first, second) = (place.path().join("first"), place.path().join("second"));
    FjallStore::open(&first, config(16)).unwrap().commit(&rows()).unwrap();
    let mut text = Vec::new();
    export(&first, Condition::Whole, &mut text).unwrap();
    let lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let cut = lines[..lines.len() - 2].concat();
    assert!(import(&second, &cut[..]).is_err());
    let none = check(&second);
    assert!(matches!(none, Err(ArchiveError::Open(OpenError::Format { .. }))), "{none:?}");
}

#[test]
fn a_store_on_disk_is_checked_exported_and_imported() {
    let place = TempDir::new().unwrap();
    let (first, second) = (place.path().join("first"), place.path().join("second"));
    FjallStore::open(&first, config(16)).unwrap().commit(&rows()).unwrap();
    assert_eq!(check(&first).unwrap().found, 0);
    let mut text = Vec::new();
    let exported = export(&first, Condition::Whole, &mut text).unwrap();
    assert_eq!(import(&second, &text[..]).unwrap(), exported);
    assert_eq!(on_disk(&second).rows(), on_disk(&first).rows());
    assert_eq!(on_disk(&second).rows(), store(&rows()).rows());
    let mut again = Vec::new();
    export(&second, Condition::Damaged, &mut again).unwrap();
    assert!(again == text, "the same archive again");
    let refused = import(&second, &text[..]);
    assert!(matches!(refused, Err(ArchiveError::NotEmpty { .. })), "{refused:?}");
    let none = export(place.path().join("none"), Condition::Whole, &mut Vec::new());
    assert!(matches!(none, Err(ArchiveError::Open(OpenError::Format { .. }))), "{none:?}");
    assert!(!place.path().join("none").exists());
}
