//! The result of a traffic load: what was measured, what it cost, what the checks found; as a
//! table for people and as JSON for programs.

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;
use mqtt_codec::{QoS, Version};
use serde::Serialize;

use super::drive::Outcome;
use super::plan::Plan;
use super::process::{Process, Usage};
use super::worker::Findings;

/// What was run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Settings {
    load: &'static str,
    publishers: u32,
    subscribers: u32,
    qos: u8,
    mqtt: &'static str,
    payload_bytes: usize,
    /// Messages per second asked for; `null` for full speed.
    rate_per_sec: Option<f64>,
    inflight: u16,
    window: u64,
    filters: u32,
    wildcard: bool,
    threads: usize,
}

impl Settings {
    pub(super) fn of(plan: &Plan) -> Self {
        let traffic = &plan.traffic;
        Self {
            load: plan.name,
            publishers: plan.publishers(),
            subscribers: plan.subscribers(),
            qos: traffic.qos as u8,
            mqtt: if traffic.broker.mqtt == Version::V5 { "5" } else { "3.1.1" },
            payload_bytes: traffic.payload,
            rate_per_sec: traffic.rate,
            inflight: traffic.inflight,
            window: plan.window(),
            filters: traffic.filters,
            wildcard: traffic.wildcard,
            threads: plan.workers(),
        }
    }
}

/// A latency distribution in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

impl Latency {
    /// Summary of a histogram in nanoseconds; `None` when it is empty.
    pub(super) fn of(nanos: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| micros(nanos.value_at_quantile(quantile) as f64);
        (!nanos.is_empty()).then(|| Self {
            mean: micros(nanos.mean()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(nanos.max() as f64),
        })
    }
}

impl Display for Latency {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max, .. } = self;
        write!(out, "p50 {p50:.0}  p90 {p90:.0}  p99 {p99:.0}  p99.9 {p999:.0}  max {max:.0}")
    }
}

/// What one process has used while measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Cost {
    pid: String,
    name: String,
    pub(super) cpu_secs: f64,
    resident_kib_before: u64,
    resident_kib_after: u64,
}

impl Cost {
    /// Growth of resident memory in KiB.
    pub(super) fn growth_kib(&self) -> f64 {
        self.resident_kib_after as f64 - self.resident_kib_before as f64
    }
}

/// What this process and the brokers have used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Costs {
    pub(super) own: Cost,
    pub(super) brokers: Vec<Cost>,
}

impl Costs {
    /// The difference of two readings of the same processes, this one first.
    pub(super) fn between(watched: &[Process], before: &[Usage], after: &[Usage]) -> Self {
        let readings = watched.iter().zip(before.iter().zip(after));
        let mut costs = readings.map(|(process, (before, after))| Cost {
            pid: process.pid().to_owned(),
            name: process.name.clone(),
            cpu_secs: after.cpu.saturating_sub(before.cpu).as_secs_f64(),
            resident_kib_before: before.resident_bytes / 1024,
            resident_kib_after: after.resident_bytes / 1024,
        });
        let own = costs.next().expect("this process is always watched");
        Self { own, brokers: costs.collect() }
    }

    /// Processor seconds of all brokers; `None` when none is watched.
    pub(super) fn broker_cpu_secs(&self) -> Option<f64> {
        let sum = self.brokers.iter().map(|broker| broker.cpu_secs).sum();
        (!self.brokers.is_empty()).then_some(sum)
    }
}

/// What the checks found over the whole run, warm-up and drain included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Checks {
    sent: u64,
    expected: u64,
    received: u64,
    lost: u64,
    duplicates: u64,
    out_of_order: u64,
    /// Messages nobody in this run has sent.
    foreign: u64,
    /// Publishes the broker answered with an error.
    refused: u64,
    /// QoS 1 and 2 publishes the broker never completed.
    unacknowledged: u64,
    /// Times nothing arrived for a second although something was on its way.
    stalls: u64,
}

/// The result of a traffic load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct TrafficReport {
    settings: Settings,
    measured_secs: f64,
    published: u64,
    delivered: u64,
    published_per_sec: f64,
    delivered_per_sec: f64,
    payload_bytes_per_sec: f64,
    /// From publish to delivery, in microseconds.
    latency_us: Option<Latency>,
    /// All watched brokers together; `null` when no process id was given.
    broker_cpu_us_per_delivered: Option<f64>,
    own_cpu_us_per_delivered: f64,
    brokers: Vec<Cost>,
    own: Cost,
    checks: Checks,
    passed: bool,
}

impl TrafficReport {
    pub(super) fn new(
        settings: Settings,
        outcome: Outcome,
        costs: Costs,
        findings: &Findings,
    ) -> Self {
        let Outcome { before, after, totals, stalls, copies, qos } = outcome;
        let measured_secs = after.at.duration_since(before.at).as_secs_f64();
        let published = after.totals.sent - before.totals.sent;
        let delivered = after.totals.received - before.totals.received;
        let per_delivered = |secs: f64| secs * 1e6 / delivered.max(1) as f64;
        let delivered_per_sec = delivered as f64 / measured_secs;
        let verdicts = findings.verdicts;
        let expected = totals.sent * copies;
        let owed_answers = if qos == QoS::AtMostOnce { 0 } else { totals.sent };
        let checks = Checks {
            sent: totals.sent,
            expected,
            received: verdicts.unique,
            lost: expected.saturating_sub(verdicts.unique),
            duplicates: verdicts.duplicates,
            out_of_order: verdicts.out_of_order,
            foreign: verdicts.foreign,
            refused: findings.refused,
            unacknowledged: owed_answers.saturating_sub(totals.acknowledged),
            stalls,
        };
        Self {
            passed: checks.pass(qos, settings.window) && delivered > 0,
            measured_secs,
            published,
            delivered,
            published_per_sec: published as f64 / measured_secs,
            delivered_per_sec,
            payload_bytes_per_sec: delivered_per_sec * settings.payload_bytes as f64,
            latency_us: Latency::of(&findings.latencies),
            broker_cpu_us_per_delivered: costs.broker_cpu_secs().map(per_delivered),
            own_cpu_us_per_delivered: per_delivered(costs.own.cpu_secs),
            brokers: costs.brokers,
            own: costs.own,
            checks,
            settings,
        }
    }

    /// Whether the broker did what it must.
    pub(super) const fn passed(&self) -> bool {
        self.passed
    }
}

impl Checks {
    /// QoS 0 may lose what a bounded queue could not hold, which a window prevents; QoS 1 may
    /// repeat, though only after a broken connection, and none breaks here.
    const fn pass(&self, qos: QoS, window: u64) -> bool {
        let may_lose = matches!(qos, QoS::AtMostOnce) && window == 0;
        let may_repeat = matches!(qos, QoS::AtLeastOnce);
        (self.lost == 0 || may_lose)
            && (self.duplicates == 0 || may_repeat)
            && self.out_of_order + self.foreign + self.refused + self.unacknowledged == 0
    }
}

impl Display for TrafficReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Settings { load, publishers, subscribers, qos, mqtt, payload_bytes, .. } =
            &self.settings;
        let pace = match self.settings.rate_per_sec {
            Some(rate) => format!("{rate} msg/s"),
            None => "full speed".to_owned(),
        };
        writeln!(
            out,
            "{load}: {publishers} publishers, {subscribers} subscribers, QoS {qos}, \
             {payload_bytes} B, MQTT {mqtt}, {pace}"
        )?;
        let row = |out: &mut Formatter<'_>, name: &str, count: u64, per_sec: f64| {
            writeln!(out, "  {name:<12}{:>14}{:>14} msg/s", grouped(count), grouped(per_sec as u64))
        };
        writeln!(out, "  {:<12}{:>12.2} s", "measured", self.measured_secs)?;
        row(out, "published", self.published, self.published_per_sec)?;
        row(out, "delivered", self.delivered, self.delivered_per_sec)?;
        if let Some(latency) = &self.latency_us {
            writeln!(out, "  {:<12}{latency} us", "latency")?;
        }
        if let Some(cost) = self.broker_cpu_us_per_delivered {
            writeln!(out, "  {:<12}{cost:>12.2} us per delivered message", "broker CPU")?;
        }
        for broker in &self.brokers {
            self.write_process(out, broker)?;
        }
        let own = self.own_cpu_us_per_delivered;
        writeln!(out, "  {:<12}{own:>12.2} us per delivered message", "own CPU")?;
        self.write_checks(out)
    }
}

impl TrafficReport {
    fn write_process(&self, out: &mut Formatter<'_>, broker: &Cost) -> fmt::Result {
        let Cost { pid, name, cpu_secs, resident_kib_after, .. } = broker;
        let cost = cpu_secs * 1e6 / self.delivered.max(1) as f64;
        let percent = 100.0 * cpu_secs / self.measured_secs;
        writeln!(
            out,
            "  {:<12}{cost:>12.2} us  {percent:.0} % of a core, {resident_kib_after} KiB \
             resident: {name} ({pid})",
            ""
        )
    }

    fn write_checks(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Checks { lost, duplicates, out_of_order, foreign, refused, unacknowledged, .. } =
            self.checks;
        let result = if self.passed { "passed" } else { "FAILED" };
        write!(
            out,
            "  {:<12}{result}: lost {lost}, duplicates {duplicates}, out of order {out_of_order}",
            "checks"
        )?;
        let rare = [
            ("foreign", foreign),
            ("refused", refused),
            ("unacknowledged", unacknowledged),
            ("stalls", self.checks.stalls),
        ];
        for (name, count) in rare.iter().filter(|(_, count)| *count > 0) {
            write!(out, ", {name} {count}")?;
        }
        Ok(())
    }
}

fn micros(nanos: f64) -> f64 {
    (nanos / 100.0).round() / 10.0
}

/// A number with commas between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let head = digits.len() % 3;
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 3 == head {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests;
