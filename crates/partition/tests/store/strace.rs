//! A process that dies before any of its writes and syncs, or gets an error from one, and a machine that loses its power
//! there.
//!
//! `strace` kills it, or makes the call fail. For a loss of power, and for what other threads do at the same
//! time, one run is written down call by call and replayed up to each of them.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use partition::{Batch, Durability, FjallConfig, FjallStore, Store, Table};
use tempfile::TempDir;

use crate::disk::{Disk, Fate};
use crate::support::{CONFIG, directory, files, image, journal_bytes, open, restart_machine};
use crate::trace::{self, Call};
use crate::workload::{Dice, batch, opened, verified};

/// Where the writer finds its store.
const STORE: &str = "CAUSEWAY_TEST_STORE";
/// Where it tells what it has committed.
const ADDRESS: &str = "CAUSEWAY_TEST_ADDRESS";
/// How many commits it makes; with `sync` behind it each is synced.
const COMMITS: &str = "CAUSEWAY_TEST_COMMITS";
/// Set: all moments, not a sample of them.
const ALL: &str = "CAUSEWAY_TEST_ALL_CRASHES";

const SEED: u64 = 0x5EED_0004;
/// What the writer tells when a commit has failed.
const FAILED: u64 = u64::MAX;
/// The writer ends so after a failure that it was told of.
const TOLD: i32 = 17;

#[test]
#[ignore = "needs a test below that starts it as a process and kills it"]
fn writer() {
    let Ok(path) = env::var(STORE) else { return };
    let commits = env::var(COMMITS).unwrap();
    let sync = commits.ends_with("sync");
    let commits: u64 = commits.trim_end_matches("sync").parse().unwrap();
    let mut told = TcpStream::connect(env::var(ADDRESS).unwrap()).unwrap();
    let mut tell = |number: u64| told.write_all(&number.to_be_bytes()).unwrap();
    let durability = if sync { Durability::Fsync } else { Durability::Os };
    let Ok(mut store) = FjallStore::open(path, FjallConfig { durability, ..CONFIG }) else {
        tell(FAILED);
        std::process::exit(TOLD);
    };
    store.keep_in_memory(3_000);
    let found = verified(&store, SEED);
    for number in found + 1..=found + commits {
        if store.commit(&batch(SEED, number)).is_err() {
            tell(FAILED);
            // It stays failed, whatever becomes of the disk.
            assert!(store.commit(&batch(SEED, number)).is_err());
            drop(store);
            std::process::exit(TOLD);
        }
        tell(number);
    }
    drop(store);
}

/// What a writer came to.
struct Run {
    /// The last commit it told of.
    committed: u64,
    /// Whether it told of a failure, and of nothing after that.
    failed: bool,
    status: ExitStatus,
}

/// Lets a writer work on `store` under `strace` with `options`.
fn run(store: &Path, commits: &str, options: &[&str]) -> Run {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut writer = Command::new("strace");
    writer.args(["-f", "-qq"]).args(options).arg(env::current_exe().unwrap());
    writer.args(["--exact", "strace::writer", "--ignored", "--nocapture", "--test-threads=1"]);
    writer.env(STORE, store).env(COMMITS, commits);
    writer.env(ADDRESS, listener.local_addr().unwrap().to_string());
    writer.stdout(Stdio::null()).stderr(Stdio::null());
    let status = writer.status().expect("strace is installed");
    listener.set_nonblocking(true).unwrap();
    let mut told = Vec::new();
    // Nobody connected: it died before.
    if let Ok((mut connection, _)) = listener.accept() {
        connection.set_nonblocking(false).unwrap();
        connection.read_to_end(&mut told).ok();
    }
    let mut numbers = told.chunks_exact(8).map(|part| u64::from_be_bytes(part.try_into().unwrap()));
    let (mut committed, mut failed) = (0, false);
    for number in &mut numbers {
        assert!(!failed, "{number} was committed after a failure");
        if number == FAILED { failed = true } else { committed = number }
    }
    Run { committed, failed, status }
}

/// All numbers from 1 on, or a sample of them that is sparser the higher they are.
fn moments() -> Box<dyn Iterator<Item = usize>> {
    if env::var_os(ALL).is_some() {
        return Box::new(1..);
    }
    Box::new((1..).scan(0, |last, _| {
        *last += 1 + *last / 6;
        Some(*last)
    }))
}

/// Lets writers die, each at a later one of the calls `call`, until one comes to its end, and looks at what each left.
fn kill_at_each(call: &str, commits: &str, begin: impl Fn() -> TempDir) -> usize {
    for (runs, moment) in moments().enumerate() {
        let directory = begin();
        let store = directory.path().join("data");
        let inject = format!("inject={call}:signal=SIGKILL:when={moment}");
        let run = run(
            &store,
            commits,
            &["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject],
        );
        assert!(!run.failed, "{call} {moment}");
        let found = opened(&store, SEED).unwrap_or_else(|error| panic!("{call} {moment}: {error}"));
        assert!(found >= run.committed, "{call} {moment}: {} of {}", found, run.committed);
        if run.status.success() {
            return runs;
        }
    }
    unreachable!("numbers do not end")
}

#[test]
#[ignore = "needs strace"]
fn a_process_killed_before_any_write_or_sync_leaves_all_that_it_committed() {
    let mut kills = 0;
    for call in
        ["write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "mkdir"]
    {
        for commits in ["25", "25sync"] {
            kills += kill_at_each(call, commits, directory);
        }
    }
    assert!(kills > 60, "only {kills} of them were killed");
}

#[test]
#[ignore = "needs strace"]
fn a_process_killed_while_it_opens_what_killed_ones_have_left_leaves_all_commits() {
    let directory = directory();
    let store = directory.path().join("data");
    let mut committed = 0;
    for (round, call) in
        ["write", "fsync", "openat", "ftruncate"].iter().cycle().take(40).enumerate()
    {
        let inject = format!("inject={call}:signal=SIGKILL:when={}", 3 + round * 7 % 60);
        let run =
            run(&store, "30", &["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
        committed = committed.max(run.committed);
        // A copy, so that nothing here tidies up for the next.
        let found = opened(image(&store).path(), SEED);
        assert!(found.as_ref().is_ok_and(|found| *found >= committed), "{found:?}, {committed}");
    }
    assert!(committed > 0, "none of them came to commit");
}

#[test]
#[ignore = "needs strace"]
fn a_failing_write_or_sync_fails_the_store_and_loses_nothing() {
    let mut failures = 0;
    for (call, error) in
        [("write", "ENOSPC"), ("pwrite64", "ENOSPC"), ("fdatasync", "EIO"), ("fsync", "EIO")]
    {
        for moment in moments() {
            let directory = directory();
            let store = directory.path().join("data");
            drop(open(&store));
            // From then on: a full disk stays full.
            let inject = format!("inject={call}:error={error}:when={moment}+");
            let trace = format!("trace={call}");
            let run = run(&store, "25sync", &["-o", "/dev/null", "-e", &trace, "-e", &inject]);
            let found = opened(&store, SEED);
            let found = found.unwrap_or_else(|error| panic!("{call} {moment}: {error}"));
            assert!(found >= run.committed, "{call} {moment}: {found} of {}", run.committed);
            if run.status.success() {
                break;
            }
            if call == "fdatasync" {
                assert!(run.failed && run.status.code() == Some(TOLD), "{moment}: {}", run.status);
            }
            failures += usize::from(run.failed);
        }
    }
    assert!(failures > 20, "only {failures} of them failed");
}

#[test]
#[ignore = "needs strace"]
fn a_store_with_much_to_read_starts_although_no_further_journal_can_be_begun() {
    let directory = directory();
    let store = directory.path().join("data");
    let mut written = open(&store);
    let mut number = 0;
    while journal_bytes(&store).len() < 5 << 20 {
        for _ in 0..200 {
            number += 1;
            written.commit(&batch(SEED, number)).unwrap();
        }
    }
    let killed = image(&store);
    let before = files(&killed.path().join("rows"));
    let next = killed.path().join("rows/1.jnl");
    assert!(!next.exists() && before.contains(&next.with_file_name("0.jnl")), "{before:?}");
    let calls = directory.path().join("calls");
    let options = ["-o", calls.to_str().unwrap(), "-P", next.to_str().unwrap()];
    let inject = ["-e", "trace=openat", "-e", "inject=openat:error=ENOSPC:when=1"];
    let run = run(killed.path(), "25", &[&options[..], &inject].concat());
    assert!(fs::read_to_string(calls).unwrap().contains("(INJECTED)"));
    assert!(run.status.success() && run.committed == number + 25, "{}", run.status);
}

#[test]
#[ignore = "needs strace"]
fn a_failing_sync_beside_the_commits_fails_the_store() {
    let directory = directory();
    let store = directory.path().join("data");
    drop(open(&store));
    let inject = "inject=fdatasync:error=EIO:when=1+";
    let options = ["-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject];
    let run = run(&store, "1000000", &options);
    assert!(run.failed && run.status.code() == Some(TOLD), "{}", run.status);
    assert!(opened(&store, SEED).is_ok_and(|found| found >= run.committed));
}

/// One run, written down, from what is in `root` on.
fn recorded(root: &Path, commits: &str) -> Vec<Call> {
    let place = directory();
    let log = place.path().join("calls");
    let calls = format!("trace={}", trace::CALLS);
    let store = root.join("data");
    let run = run(
        &store,
        commits,
        &["-y", "-xx", "-s", "4000000", "-e", &calls, "-o", log.to_str().unwrap()],
    );
    assert!(run.status.success(), "{}", run.status);
    trace::read(&log)
}

/// The calls by which a writer told of a commit: from when on it was committed.
fn told(calls: &[Call]) -> Vec<usize> {
    calls.iter().filter(|call| call.name == "sendto").map(|call| call.begun).collect()
}

/// How many of some calls had begun before another.
fn before(calls: &[usize], call: usize) -> u64 {
    calls.iter().filter(|begun| **begun < call).count() as u64
}

/// Whether a call was replayed as it was done.
fn assert_same(root: &Path, replayed: &Path) {
    let names = |folder: &Path| -> Vec<PathBuf> {
        let own = |path: PathBuf| path.strip_prefix(folder).unwrap().to_path_buf();
        files(folder).into_iter().map(own).collect()
    };
    assert_eq!(names(root), names(replayed));
    for name in names(root) {
        assert!(
            fs::read(root.join(&name)).unwrap() == fs::read(replayed.join(&name)).unwrap(),
            "{name:?}"
        );
    }
}

/// Replays a run from what is in `root` on, and crashes at a sample of its calls.
fn crash_in_replay(root: &TempDir, commits: &str, already: u64, samples: usize) {
    let mut disk = Disk::load(root.path());
    let calls = recorded(root.path(), commits);
    let told = told(&calls);
    let sync = commits.ends_with("sync");
    let mut dice = Dice::new(SEED);
    // With what a store without syncs promises: what was committed when the last sync of a journal began.
    let mut synced = 0;
    let every = if env::var_os(ALL).is_some() { 1 } else { calls.len() / samples };
    for call in &calls {
        let changed = disk.replay(call);
        let at = disk.calls();
        if call.name.ends_with("sync") && call.arguments[0].contains(".jnl")
            || call.name == "fdatasync"
        {
            synced = before(&told, call.begun);
        }
        if !changed || dice.below(every as u64) != 0 {
            continue;
        }
        let committed = before(&told, at);
        let left = directory();
        disk.after_kill(left.path());
        let found = opened(&left.path().join("data"), SEED);
        let found =
            found.unwrap_or_else(|error| panic!("killed after call {at}, {call:?}: {error}"));
        assert!(found >= already + committed, "killed after call {at}: {found} of {committed}");

        for fate in [Fate::Nothing, Fate::Earlier, Fate::Sectors] {
            let left = directory();
            disk.after_power_loss(left.path(), fate, &mut dice);
            let store = left.path().join("data");
            restart_machine(&store);
            let found = opened(&store, SEED);
            let found =
                found.unwrap_or_else(|error| panic!("{fate:?} after call {at}, {call:?}: {error}"));
            let least = already + if sync { committed } else { synced };
            assert!(found >= least, "{fate:?} after call {at}: {found} of {least}");
        }
    }
    let replayed = directory();
    disk.after_kill(replayed.path());
    assert_same(root.path(), replayed.path());
}

#[test]
#[ignore = "needs strace"]
fn a_power_loss_at_any_call_of_a_store_that_syncs_takes_nothing_that_was_committed() {
    crash_in_replay(&directory(), "25sync", 0, 100);
}

#[test]
#[ignore = "needs strace"]
fn a_power_loss_at_any_call_takes_nothing_that_was_synced() {
    crash_in_replay(&directory(), "25", 0, 100);
}

/// A store whose journal is so full that the next table written out begins another one.
fn at_the_brim() -> TempDir {
    let directory = directory();
    let path = directory.path().join("data");
    let mut store = open(&path);
    for number in 1..=20 {
        store.commit(&batch(SEED, number)).unwrap();
    }
    store.keep_in_memory(10 << 20);
    let mut large = Batch::default();
    for _ in 0..63 {
        large.clear();
        large.put(Table::Body, b"large".to_vec(), vec![1; 1 << 20]);
        store.commit(&large).unwrap();
    }
    large.clear();
    large.delete(Table::Body, b"large".to_vec());
    store.commit(&large).unwrap();
    drop(store);
    // Another one was not begun before.
    assert!(journal_bytes(&path).len() > 64_000_000);
    directory
}

#[test]
#[ignore = "needs strace"]
fn a_crash_at_any_call_while_another_journal_is_begun_loses_nothing() {
    crash_in_replay(&at_the_brim(), "25sync", 20, 15);
}
