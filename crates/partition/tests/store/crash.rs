//! The store as a crash leaves it: after every commit, at every byte of one, and with what was not synced lost.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use partition::{FjallStore, Store};
use tempfile::TempDir;

use crate::support::{
    commit_ends, directory, files, image, is_broken, journal, journal_bytes, open, refusal,
    restart_machine, rows,
};
use crate::workload::{Dice, batch, expected, opened, verified};

const SEED: u64 = 0xCA05_E3A7;

/// Everything by which a change of a file is seen.
fn look(path: &Path) -> Vec<(PathBuf, u64, u64, i64, i64)> {
    let seen = |file: PathBuf| {
        let data = fs::metadata(&file).ok()?;
        Some((file, data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
    };
    files(path).into_iter().filter_map(seen).collect()
}

/// What is on disk at one moment: it is copied until nothing changed meanwhile, for a store writes out and merges
/// tables beside its commits.
fn frozen(path: &Path) -> TempDir {
    for _ in 0..1000 {
        let before = look(path);
        let copy = std::panic::catch_unwind(|| image(path));
        if let Ok(copy) = copy
            && look(path) == before
        {
            return copy;
        }
    }
    panic!("the store never stands still");
}

/// A store of so many commits that goes on, with so small a memory that tables are written out and merged.
fn busy(path: &Path, commits: u64) -> FjallStore {
    let mut store = open(path);
    store.keep_in_memory(3_000);
    for number in 1..=commits {
        store.commit(&batch(SEED, number)).unwrap();
    }
    store
}

/// A store whose journal is no longer than what is in it, with so many commits, whose process was killed; and its tail
/// as it was before the last of them.
fn killed(commits: u64) -> (TempDir, Vec<u8>) {
    let directory = directory();
    let path = directory.path();
    drop(busy(path, commits - 3));
    let mut store = open(path);
    let mut tail = Vec::new();
    for number in commits - 2..=commits {
        tail = fs::read(path.join("tail")).unwrap();
        store.commit(&batch(SEED, number)).unwrap();
    }
    let left = frozen(path);
    drop(store);
    (left, tail)
}

#[test]
fn a_process_killed_after_any_commit_leaves_all_commits() {
    let directory = directory();
    let path = directory.path();
    let mut store = busy(path, 0);
    let mut tables = 0;
    for number in 1..=40 {
        store.commit(&batch(SEED, number)).unwrap();
        let left = frozen(path);
        tables = tables.max(files(&left.path().join("rows/keyspaces")).len());
        assert_eq!(opened(left.path(), SEED), Ok(number));
    }
    assert!(tables > 45, "tables were written out meanwhile: {tables} files");
}

#[test]
fn a_process_killed_at_any_byte_of_a_commit_leaves_all_before_it() {
    let commits = 40;
    let (left, tail) = killed(commits);
    let whole = journal_bytes(left.path());
    let ends = commit_ends(&whole);
    let start = ends[ends.len() - 2];
    let size = whole.len() - start;
    // Every byte of heads, of the last rows and of the end; of long values some.
    let cuts = (0..size).filter(|at| *at < 40 || *at + 100 > size || at.is_multiple_of(3001));
    for at in cuts {
        let crashed = image(left.path());
        fs::write(journal(crashed.path()), &whole[..start + at]).unwrap();
        fs::write(crashed.path().join("tail"), &tail).unwrap();
        let found = verified(&open(crashed.path()), SEED);
        assert_eq!(found, commits - 1, "{at} of {size} bytes are written");
    }
    // All of it is written, and the process dies before it says so anywhere.
    fs::write(left.path().join("tail"), &tail).unwrap();
    assert_eq!(opened(left.path(), SEED), Ok(commits));
}

#[test]
fn a_flipped_bit_in_a_commit_that_was_cut_short_is_dropped_with_it() {
    let commits = 40;
    let (left, tail) = killed(commits);
    let whole = journal_bytes(left.path());
    let ends = commit_ends(&whole);
    let start = ends[ends.len() - 2];
    for at in [1, 9, 30, 60] {
        let crashed = image(left.path());
        let mut bytes = whole[..whole.len() - 3].to_vec();
        bytes[start + at] ^= 0x10;
        fs::write(journal(crashed.path()), &bytes).unwrap();
        fs::write(crashed.path().join("tail"), &tail).unwrap();
        assert_eq!(opened(crashed.path(), SEED), Ok(commits - 1), "byte {at}");
    }
}

#[test]
fn a_flipped_bit_in_the_middle_is_refused_with_the_file_the_byte_and_what_to_do() {
    let (left, _) = killed(40);
    let whole = journal_bytes(left.path());
    let ends = commit_ends(&whole);
    let at = ends[ends.len() / 2] + 40;
    let mut bytes = whole;
    bytes[at] ^= 1;
    fs::write(journal(left.path()), &bytes).unwrap();
    let message = refusal(left.path());
    let journal = journal(left.path());
    for part in [journal.to_str().unwrap(), "from byte", "backup", "causeway data export"] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(fs::read(&journal).unwrap() == bytes, "the journal was changed");
}

/// Cuts the journal of a store at `at`, with bytes from there on that never came to be written, as `what` says.
fn lose(path: &Path, whole: &[u8], at: usize, lost: Lost) {
    let mut file = File::create(journal(path)).unwrap();
    file.write_all(&whole[..at]).unwrap();
    match lost {
        Lost::End => {}
        Lost::Zeros => file.set_len(whole.len() as u64 + 512).unwrap(),
        Lost::Sectors(seed) => {
            let mut dice = Dice::new(seed);
            for sector in whole[at..].chunks(512) {
                let written = dice.below(2) == 0;
                file.write_all(if written { sector } else { &[0; 512][..sector.len()] }).unwrap();
            }
        }
    }
}

/// What stands where something was not written.
#[derive(Clone, Copy, Debug)]
enum Lost {
    /// Nothing: the file ends.
    End,
    /// Zeros.
    Zeros,
    /// In some sectors zeros; others were written.
    Sectors(u64),
}

/// A store of 30 commits, of which the first 20 are synced, and then more; where in its journal commits end.
fn partly_synced() -> (TempDir, Vec<u8>, Vec<usize>) {
    let directory = directory();
    let path = directory.path();
    // What is dropped is synced.
    drop(busy(path, 20));
    let mut store = open(path);
    for number in 21..=30 {
        store.commit(&batch(SEED, number)).unwrap();
    }
    let left = frozen(path);
    drop(store);
    let whole = journal_bytes(left.path());
    let ends = commit_ends(&whole);
    (left, whole, ends)
}

#[test]
fn a_loss_of_power_takes_commits_that_were_not_synced_and_never_one_in_between() {
    let (left, whole, ends) = partly_synced();
    // The last commit that was synced: after it come that of the opening and ten more.
    let synced = ends[ends.len() - 12];
    let mut dice = Dice::new(SEED);
    for round in 0..60 {
        let at = synced + dice.below((whole.len() - synced) as u64 + 1) as usize;
        let lost = [Lost::End, Lost::Zeros, Lost::Sectors(round)][(round % 3) as usize];
        let crashed = image(left.path());
        lose(crashed.path(), &whole, at, lost);
        restart_machine(crashed.path());
        let whole_commits = ends.iter().filter(|end| **end <= at).count();
        let least = (20 + whole_commits).saturating_sub(ends.len() - 10) as u64;
        let found = opened(crashed.path(), SEED);
        let found = found.unwrap_or_else(|error| panic!("{lost:?} from {at} on: {error}"));
        assert!((least.max(20)..=30).contains(&found), "{found} of 30, {lost:?} from {at} on");
    }
}

#[test]
fn a_loss_of_power_that_takes_what_was_synced_is_refused() {
    let (left, whole, ends) = partly_synced();
    for before in [12, 13, 15] {
        let crashed = image(left.path());
        // The commit of the opening is not synced, the one before it is.
        lose(crashed.path(), &whole, ends[ends.len() - before] - 1, Lost::Zeros);
        restart_machine(crashed.path());
        assert!(is_broken(crashed.path()), "{before} commits before the end");
    }
}

/// Remembers what was logged as a warning.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<String>>);

impl tracing::field::Visit for Warnings {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push_str(&format!("{field}={value:?} "));
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN && metadata.target().starts_with("partition")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn how_many_commits_a_loss_of_power_took_is_logged() {
    let (left, whole, ends) = partly_synced();
    lose(left.path(), &whole, ends[ends.len() - 5], Lost::End);
    restart_machine(left.path());
    let warnings = Warnings::default();
    let store = tracing::subscriber::with_default(warnings.clone(), || open(left.path()));
    assert_eq!(verified(&store, SEED), 26);
    let logged = warnings.0.lock().unwrap().clone();
    assert!(logged.contains("commits=4 ") && logged.contains("the machine went down"), "{logged}");
}

#[test]
fn a_process_killed_right_after_its_opening_again_and_again_leaves_all_commits() {
    let directory = directory();
    drop(busy(directory.path(), 20));
    let mut store = open(directory.path());
    store.commit(&batch(SEED, 21)).unwrap();
    let left = frozen(directory.path());
    drop(store);
    let mut crashed = left;
    for _ in 0..20 {
        let store = open(crashed.path());
        assert_eq!(rows(&store).unwrap(), expected(SEED, 21));
        crashed = frozen(crashed.path());
        drop(store);
    }
    assert_eq!(opened(crashed.path(), SEED), Ok(21));
}

#[test]
fn a_store_that_lost_all_of_its_commits_to_a_loss_of_power_goes_on() {
    let directory = directory();
    let path = directory.path();
    let mut store = open(path);
    for number in 1..=5 {
        store.commit(&batch(SEED, number)).unwrap();
    }
    let left = frozen(path);
    drop(store);
    for journal_is in [Lost::End, Lost::Zeros] {
        let crashed = image(left.path());
        let whole = journal_bytes(crashed.path());
        lose(crashed.path(), &whole, 0, journal_is);
        restart_machine(crashed.path());
        assert_eq!(opened(crashed.path(), SEED), Ok(0), "{journal_is:?}");
    }
}
