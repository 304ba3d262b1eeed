//! The report of a run: a table for people, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use anyhow::Context as _;
use serde::Serialize;

use super::act::World;
use super::ledger::{NEVER, errors};
use crate::checker::{Amounts, Percentiles, Verdict, check};
use crate::record::{End, Event, What};

/// Reason code of a DISCONNECT to a client whose identifier another one uses now.
const TAKEN_OVER: u8 = 0x8E;

/// All that is to be said of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    seed: u64,
    /// DISCONNECT packets that said so.
    told_of_takeover: u64,
    /// By kind of process.
    peak_memory_mib: BTreeMap<String, u64>,
    /// From the start of a killed process until it was ready.
    starts_after_kills: Percentiles,
    /// Counters of all processes over all their lives, those that are not 0.
    counters: BTreeMap<String, u64>,
    /// Lines of the logs that say ERROR: a person should look at them.
    errors: BTreeMap<String, u64>,
    /// What this machine cannot do.
    unavailable: Vec<String>,
    /// What processes did that they must not.
    troubles: Vec<String>,
    verdict: Verdict,
}

impl Summary {
    /// Judges a history, of which nothing else is known.
    pub(super) fn of_history(seed: u64, events: &[Event]) -> Self {
        Self {
            seed,
            told_of_takeover: told_of_takeover(events),
            peak_memory_mib: BTreeMap::new(),
            starts_after_kills: Percentiles::default(),
            counters: BTreeMap::new(),
            errors: BTreeMap::new(),
            unavailable: Vec::new(),
            troubles: Vec::new(),
            verdict: check(events),
        }
    }

    /// Judges a history and what the processes told of themselves. `troubles` are violations too.
    pub(super) fn of_run(
        seed: u64,
        events: &[Event],
        world: &World,
        troubles: Vec<String>,
    ) -> anyhow::Result<Self> {
        let mut summary = Self::of_history(seed, events);
        let mut starts = Vec::new();
        for node in world.nodes() {
            let ledger = node.ledger().clone();
            let kind = node.name().split('-').next().unwrap_or_default();
            let peak = summary.peak_memory_mib.entry(kind.to_owned()).or_default();
            *peak = (*peak).max(ledger.peak_kib / 1024);
            starts.extend(
                ledger
                    .starts
                    .iter()
                    .map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            );
            for (name, count) in ledger.totals().into_iter().filter(|(_, count)| *count > 0) {
                *summary.counters.entry(name).or_default() += count;
            }
            let logged =
                errors(node.log()).with_context(|| format!("read the log of {}", node.name()))?;
            for (text, count) in logged {
                if text.contains("panicked at") {
                    summary.troubles.push(format!("{}: {text}", node.name()));
                }
                *summary.errors.entry(text).or_default() += count;
            }
        }
        summary.starts_after_kills = Percentiles::of(starts);
        summary.unavailable = world.unavailable();
        for name in NEVER {
            let counts = summary.counters.iter();
            let count: u64 =
                counts.filter(|(full, _)| full.contains(name)).map(|(_, count)| count).sum();
            if count > 0 {
                summary.troubles.push(format!("{name} is {count}"));
            }
        }
        summary.troubles.extend(troubles);
        Ok(summary)
    }

    /// Whether a promise was broken.
    pub(super) fn is_violated(&self) -> bool {
        !self.troubles.is_empty() || !self.verdict.is_sound()
    }

    fn rows(&self) -> Vec<(String, String)> {
        let of = &self.verdict.summary;
        let mut rows = Vec::new();
        let mut row = |name: &str, text: String| rows.push((name.to_owned(), text));
        row("messages at QoS 0, 1, 2", three(of.published));
        row("  of them acknowledged", three(of.acknowledged));
        row("  refused", of.messages_refused.to_string());
        row("received at QoS 0, 1, 2", three(of.received));
        let share = of.duplicates_per_thousand;
        row("duplicates at QoS 1", format!("{}, {share:.1} per thousand", of.duplicates));
        row("wills, and received ones", format!("{}, {}", of.wills, of.wills_received));
        row("connections", of.connects.to_string());
        row("  reconnects", of.reconnects.to_string());
        row("  refused, not answered", format!("{}, {}", of.refused, of.unknown));
        row("takeovers, and told ones", format!("{}, {}", of.takeovers, self.told_of_takeover));
        row("latency in quiet times", text(of.latency_quiet));
        row("  in 10 s after a kill", text(of.latency_after_kill));
        row("  in a rolling restart", text(of.latency_in_rolling_restart));
        row("  always", text(of.latency));
        row("recovery after a fault", text(of.recovery));
        for (kind, count) in &of.faults {
            let recovery = of.recovery_by_kind.get(kind).copied().unwrap_or_default();
            row(&format!("  {kind} x {count}"), text(recovery));
        }
        row("start after a kill until ready", text(self.starts_after_kills));
        for (kind, mib) in &self.peak_memory_mib {
            row(&format!("peak memory, {kind}"), format!("{mib} MiB"));
        }
        for (name, count) in self.counters.iter().filter(|(name, _)| name.contains("drop")) {
            row(name, count.to_string());
        }
        for text in &self.unavailable {
            row("not available here", text.clone());
        }
        for (text, count) in &self.errors {
            row(&format!("ERROR x {count}"), text.clone());
        }
        rows
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nseed {}, {} s", self.seed, self.verdict.summary.micros / 1_000_000)?;
        for (name, text) in self.rows() {
            writeln!(f, "  {name:<36}{text}")?;
        }
        if !self.is_violated() {
            return write!(f, "no violation");
        }
        writeln!(f, "\nVIOLATIONS (seed {})", self.seed)?;
        for text in &self.troubles {
            writeln!(f, "process: {text}")?;
        }
        write!(f, "{}", self.verdict)
    }
}

fn told_of_takeover(events: &[Event]) -> u64 {
    let told =
        |event: &&Event| matches!(event.what, What::Ended { how: End::Sent(TAKEN_OVER), .. });
    events.iter().filter(told).count() as u64
}

fn three(Amounts { qos0, qos1, qos2 }: Amounts) -> String {
    format!("{qos0}, {qos1}, {qos2}")
}

fn text(times: Percentiles) -> String {
    let Percentiles { count, p50_micros, p99_micros, max_micros } = times;
    let [p50, p99, max] = [p50_micros, p99_micros, max_micros].map(|micros| micros as f64 / 1000.0);
    format!("p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms of {count}")
}
