//! The report of a kill loop: a table for people, and the same as JSON.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde::Serialize;

use super::victim::Victim;
use crate::checker::Verdict;
use crate::load::Counts;

/// By how much the last tenth of openings may be slower than the first, on a machine that does something else too. A start
/// reads a journal of up to some 4 MiB, and the first ones find less.
const SLOWER: f64 = 4.0;
const SLOWER_MS: f64 = 500.0;
/// By how much the store may be larger in the last third of the kills than in the first.
const LARGER_BYTES: u64 = 96 << 20;
/// What the store may take: its journals, and each table twice while files are merged.
const STORE_BYTES: u64 = 512 << 20;

/// All that is to be said of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    kills: u64,
    /// How many of the kills came while messages flowed.
    kills_under_load: u64,
    /// How many came before the process had said that its store is open.
    kills_before_open: u64,
    /// From the start of a process until its store is open, over the first and the last tenth of its lives.
    first_openings: Openings,
    last_openings: Openings,
    published: u64,
    acknowledged: u64,
    received: u64,
    /// In time, after the last kill.
    settled: bool,
    pub(super) samples: Vec<Sample>,
    troubles: Vec<String>,
    verdict: Option<Verdict>,
}

/// The store after so many kills.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) kills: u64,
    pub(super) store_bytes: u64,
    /// From the start of a process until its store was open: the middle of the last ones.
    pub(super) opening_ms: f64,
}

/// How long openings took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Openings {
    count: usize,
    pub(super) p50_ms: f64,
    max_ms: f64,
}

impl Openings {
    pub(super) fn of(times: &[Duration]) -> Self {
        let mut times: Vec<_> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        let p50_ms = times.get(times.len() / 2).copied().unwrap_or_default();
        Self { count: times.len(), p50_ms, max_ms: times.last().copied().unwrap_or_default() }
    }
}

impl Report {
    /// Of a run that begins.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            kills: 0,
            kills_under_load: 0,
            kills_before_open: 0,
            first_openings: Openings::default(),
            last_openings: Openings::default(),
            published: 0,
            acknowledged: 0,
            received: 0,
            settled: false,
            samples: Vec::new(),
            troubles: Vec::new(),
            verdict: None,
        }
    }

    /// Takes in what came out.
    pub(super) fn finish(
        &mut self,
        victim: &Victim,
        counts: Counts,
        settled: bool,
        verdict: Verdict,
    ) {
        let openings = &victim.openings;
        let tenth = openings.len().div_ceil(10);
        self.kills = self.samples.last().map_or(0, |sample| sample.kills);
        self.kills_under_load = victim.under_load();
        self.kills_before_open = victim.unseen;
        self.first_openings = Openings::of(&openings[..tenth]);
        self.last_openings = Openings::of(&openings[openings.len() - tenth..]);
        self.published = counts.published;
        self.acknowledged = counts.acknowledged;
        self.received = counts.received;
        self.settled = settled;
        self.troubles.clone_from(&victim.troubles);
        self.troubles.extend(self.growth());
        if !settled {
            self.troubles.push("what was acknowledged did not all come in time".to_owned());
        }
        self.verdict = Some(verdict);
    }

    /// What grows and must not.
    fn growth(&self) -> Vec<String> {
        let mut grown = Vec::new();
        let (first, last) = (self.first_openings.p50_ms, self.last_openings.p50_ms);
        if last > SLOWER * first + SLOWER_MS {
            grown.push(format!("opening took {first:.1} ms at first and {last:.1} ms at last"));
        }
        if let Some(sample) = self.samples.iter().find(|sample| sample.store_bytes > STORE_BYTES) {
            let mib = sample.store_bytes >> 20;
            grown.push(format!("the store takes {mib} MiB after {} kills", sample.kills));
        }
        let third = self.samples.len() / 3;
        let largest = |part: &[Sample]| part.iter().map(|sample| sample.store_bytes).max();
        let (early, late) = (largest(&self.samples[..third]), largest(&self.samples[2 * third..]));
        if let (Some(early), Some(late)) = (early, late)
            && late > early + LARGER_BYTES
        {
            grown.push(format!(
                "the store had {} MiB at first and {} MiB at last",
                early >> 20,
                late >> 20
            ));
        }
        grown
    }

    /// Whether a promise was broken.
    pub(super) fn is_violated(&self) -> bool {
        !self.troubles.is_empty() || !self.verdict.as_ref().is_some_and(Verdict::is_sound)
    }
}

impl Display for Openings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { count, p50_ms, max_ms } = self;
        write!(f, "p50 {p50_ms:.1} ms, max {max_ms:.1} ms of {count}")
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sizes = || self.samples.iter().map(|sample| sample.store_bytes >> 20);
        let most = sizes().max().unwrap_or_default();
        let (first, last) =
            (sizes().next().unwrap_or_default(), sizes().next_back().unwrap_or_default());
        let rows = [
            ("kills", format!("{}", self.kills)),
            ("  while messages flowed", format!("{}", self.kills_under_load)),
            ("  before the store was seen open", format!("{}", self.kills_before_open)),
            ("start until the store is open, first", self.first_openings.to_string()),
            ("start until the store is open, last", self.last_openings.to_string()),
            ("size of the store", format!("{first} MiB, at last {last} MiB, at most {most} MiB")),
            (
                "messages",
                format!(
                    "{} published, {} acknowledged, {} received",
                    self.published, self.acknowledged, self.received
                ),
            ),
        ];
        writeln!(f, "\nseed {}", self.seed)?;
        for (name, text) in rows {
            writeln!(f, "  {name:<40}{text}")?;
        }
        if !self.is_violated() {
            return write!(f, "no violation");
        }
        writeln!(f, "\nVIOLATIONS (seed {})", self.seed)?;
        for text in &self.troubles {
            writeln!(f, "process: {text}")?;
        }
        self.verdict.as_ref().map_or(Ok(()), |verdict| write!(f, "{verdict}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(first_ms: f64, last_ms: f64, sizes_mib: &[u64]) -> usize {
        let openings = |p50_ms| Openings { count: 10, p50_ms, max_ms: p50_ms };
        let sample = |(at, mib): (usize, &u64)| Sample {
            kills: 10 * at as u64,
            store_bytes: mib << 20,
            opening_ms: last_ms,
        };
        let report = Report {
            first_openings: openings(first_ms),
            last_openings: openings(last_ms),
            samples: sizes_mib.iter().enumerate().map(sample).collect(),
            ..Report::new(1)
        };
        report.growth().len()
    }

    #[test]
    fn openings_that_become_slower_and_a_store_that_grows_are_troubles() {
        assert_eq!(growth(20.0, 500.0, &[100, 100, 100]), 0);
        assert_eq!(growth(20.0, 2000.0, &[100, 100, 100]), 1);
        assert_eq!(growth(20.0, 20.0, &[4, 40, 90]), 0);
        assert_eq!(growth(20.0, 20.0, &[4, 40, 110]), 1);
        assert_eq!(growth(20.0, 20.0, &[513]), 1);
    }

    #[test]
    fn the_middle_and_the_longest_of_some_openings_are_told() {
        let times = [5, 1, 9, 3, 7].map(Duration::from_millis);
        assert_eq!(Openings::of(&times), Openings { count: 5, p50_ms: 5.0, max_ms: 9.0 });
        assert_eq!(Openings::of(&[]), Openings::default());
    }
}
