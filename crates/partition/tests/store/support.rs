//! Stores in temporary directories, and what to do to their files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use partition::{Batch, Durability, FjallConfig, FjallStore, OpenError, Store, StoreError, Table};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) const CONFIG: FjallConfig =
    FjallConfig { durability: Durability::Os, reserve_bytes: 0, partitions: 16 };

/// Rows as a store has them.
pub(crate) type Rows = BTreeMap<(Table, Bytes), Bytes>;

pub(crate) fn open(path: &Path) -> FjallStore {
    FjallStore::open(path, CONFIG).expect("the store opens")
}

/// An empty directory, in memory if there is such a place: `kill -9` does not tell it from a disk, and tests of many
/// stores do not wait for one.
pub(crate) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a directory")
}

/// Everything in a store.
pub(crate) fn rows(store: &impl Store) -> Result<Rows, StoreError> {
    let mut rows = Rows::new();
    for table in Table::ALL {
        store.scan(table, &[], &[], &mut |key, value| {
            rows.insert((table, Bytes::copy_from_slice(key)), Bytes::copy_from_slice(value));
            true
        })?;
    }
    Ok(rows)
}

/// One commit with one row, and many bytes to be damaged.
pub(crate) fn commit_number(store: &mut impl Store, number: u64) {
    let mut batch = Batch::default();
    batch.put(Table::Body, number.to_be_bytes().to_vec(), vec![number as u8; 500]);
    store.commit(&batch).unwrap();
}

/// How many of the commits by [`commit_number`] from 1 on a store has. No later one may be there without all before.
pub(crate) fn commits_found(store: &impl Store) -> u64 {
    let rows = rows(store).unwrap();
    let numbers: Vec<u64> = rows
        .keys()
        .map(|(_, key)| u64::from_be_bytes(key[..].try_into().expect("keys are numbers")))
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "a hole");
    numbers.len() as u64
}

/// What is on disk now: what another process would find if this one ended here.
pub(crate) fn image(path: &Path) -> TempDir {
    let copy = directory();
    copy_all(path, copy.path());
    copy
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// All files below a directory, in order.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// All directories below a directory, each before those in it.
pub(crate) fn folders(path: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let inner = paths.filter(|path| path.is_dir());
    inner.flat_map(|path| [vec![path.clone()], folders(&path)].concat()).collect()
}

pub(crate) fn journal(path: &Path) -> PathBuf {
    let journals: Vec<_> = files(&path.join("rows"))
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "jnl"))
        .collect();
    assert_eq!(journals.len(), 1, "one journal");
    journals.into_iter().next().unwrap()
}

/// The bytes of a journal without the zeros behind them.
pub(crate) fn journal_bytes(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(journal(path)).unwrap();
    // By pages first: it is 64 MiB of zeros, and a test is not optimized.
    while bytes.ends_with(&[0; 4096]) {
        bytes.truncate(bytes.len() - 4096);
    }
    // Each commit ends with this.
    let end = bytes.windows(4).rposition(|bytes| bytes == b"FJL\x03").expect("a commit") + 4;
    bytes.truncate(end);
    bytes
}

/// Where in a journal's bytes commits end.
pub(crate) fn commit_ends(bytes: &[u8]) -> Vec<usize> {
    let ends = bytes.windows(4).enumerate().filter(|(_, bytes)| *bytes == b"FJL\x03");
    ends.map(|(at, _)| at + 4).collect()
}

/// Makes the store believe that the machine was started anew after the commit `synced` was synced.
pub(crate) fn start_machine_anew(path: &Path, synced: u64) {
    let tail = path.join("tail");
    let mut bytes = fs::read(&tail).unwrap();
    for place in [0, 512] {
        bytes[place + 24..place + 32].copy_from_slice(&synced.to_be_bytes());
        bytes[place + 32..place + 40].copy_from_slice(&7u64.to_be_bytes());
        let checksum = xxh3_64(&bytes[place..place + 40]);
        bytes[place + 40..place + 48].copy_from_slice(&checksum.to_be_bytes());
    }
    fs::write(tail, bytes).unwrap();
}

/// Makes the store believe that the machine was started anew since; what it knows to be synced is left as it is.
pub(crate) fn restart_machine(path: &Path) {
    let tail = path.join("tail");
    let Ok(mut bytes) = fs::read(&tail) else { return };
    for place in [0, 512] {
        // A place that was not written whole stays so.
        if bytes.get(place..place + 8) != Some(b"CWTAIL01") || bytes.len() < place + 48 {
            continue;
        }
        let checksum = |bytes: &[u8]| xxh3_64(&bytes[place..place + 40]).to_be_bytes();
        if bytes[place + 40..place + 48] == checksum(&bytes) {
            bytes[place + 32..place + 40].copy_from_slice(&7u64.to_be_bytes());
            let checksum = checksum(&bytes);
            bytes[place + 40..place + 48].copy_from_slice(&checksum);
        }
    }
    fs::write(tail, bytes).unwrap();
}

/// The message of a refusal.
pub(crate) fn refusal(path: &Path) -> String {
    match FjallStore::open(path, CONFIG) {
        Ok(_) => panic!("the store opens"),
        Err(error) => error.to_string(),
    }
}

pub(crate) fn is_broken(path: &Path) -> bool {
    matches!(FjallStore::open(path, CONFIG), Err(OpenError::Broken { .. }))
}

/// Waits for `condition`.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
