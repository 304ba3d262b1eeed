//! What the processes tell of themselves, summed over all their lives: counters, memory, errors in logs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Counters that must read 0 whatever is done to the cluster.
pub(crate) const NEVER: [&str; 2] = ["route_digest_mismatch_total", "mqtt_task_panics_total"];

/// The lives of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Of the lives that are over.
    past: BTreeMap<String, u64>,
    /// Of this one, as last read.
    now: BTreeMap<String, u64>,
    /// The most memory it had, in KiB.
    pub(crate) peak_kib: u64,
    /// How long it took from its start until it was ready, after kills.
    pub(crate) starts: Vec<Duration>,
}

impl Ledger {
    /// Takes the counters from what `/metrics` answered.
    pub(crate) fn read(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let is_counter = name.split('{').next().is_some_and(|name| name.ends_with("_total"));
            if let (true, Ok(value)) = (is_counter, value.parse()) {
                self.now.insert(name.to_owned(), value);
            }
        }
    }

    /// The process is gone; what it counted last stays.
    pub(crate) fn end_life(&mut self) {
        for (name, value) in std::mem::take(&mut self.now) {
            *self.past.entry(name).or_default() += value;
        }
    }

    /// Everything counted in all lives, by metric.
    pub(crate) fn totals(&self) -> BTreeMap<String, u64> {
        let mut totals = self.past.clone();
        for (name, value) in &self.now {
            *totals.entry(name.clone()).or_default() += value;
        }
        totals
    }
}

/// The most memory that `process` has had, in KiB.
pub(crate) fn peak_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// Lines of a log that say ERROR or tell of a panic, without their time, and how often each came.
pub(crate) fn errors(log: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut errors = BTreeMap::new();
    for line in String::from_utf8_lossy(&fs::read(log)?).lines() {
        let error = line.split_once(" ERROR ").map(|(_, text)| text);
        if let Some(text) = error.or_else(|| line.contains("panicked at").then_some(line)) {
            *errors.entry(text.trim().to_owned()).or_default() += 1;
        }
    }
    Ok(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_all_lives() {
        let mut ledger = Ledger::default();
        ledger.read("# TYPE a counter\na_total 3\nb_total{reason=\"x\"} 1\ngauge 9\n");
        ledger.read("a_total 4\n");
        ledger.end_life();
        ledger.read("a_total 2\n");
        let expected = [("a_total".to_owned(), 6), ("b_total{reason=\"x\"}".to_owned(), 1)];
        assert_eq!(ledger.totals(), BTreeMap::from(expected));
    }

    #[test]
    fn errors_and_panics_of_a_log_are_found_without_their_time() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(
            &log,
            "2026-11-23T09:00:00Z ERROR daemon: bad\n2026-11-23T09:00:01Z ERROR daemon: bad\n\
             2026-11-23T09:00:01Z  INFO daemon: good\nthread 'main' panicked at src/x.rs:1:2:\n",
        )
        .unwrap();
        let expected = [
            ("daemon: bad".to_owned(), 2),
            ("thread 'main' panicked at src/x.rs:1:2:".to_owned(), 1),
        ];
        assert_eq!(errors(&log).unwrap(), BTreeMap::from(expected));
    }
}
