//! The figures of a report, from counts that are given.

use super::super::board::Totals;
use super::super::check::Verdicts;
use super::super::drive::Snapshot;
use super::super::worker::latencies;
use super::*;
use std::time::{Duration, Instant};

fn settings(qos: QoS, window: u64) -> Settings {
    Settings {
        load: "pairs",
        publishers: 1,
        subscribers: 1,
        qos: qos as u8,
        mqtt: "5",
        payload_bytes: 16,
        rate_per_sec: None,
        inflight: 100,
        window,
        filters: 0,
        wildcard: false,
        threads: 1,
    }
}

fn cost(cpu_secs: f64) -> Cost {
    Cost {
        pid: "7".to_owned(),
        name: "broker".to_owned(),
        cpu_secs,
        resident_kib_before: 10,
        resident_kib_after: 12,
    }
}

/// Two seconds in which 1,000 of 1,500 messages were delivered.
fn report(qos: QoS, window: u64, verdicts: Verdicts) -> TrafficReport {
    let at = Instant::now();
    let totals = |count| Totals { sent: count, acknowledged: count, received: count };
    let before = Snapshot { at, totals: totals(500), usages: Vec::new() };
    let after =
        Snapshot { at: at + Duration::from_secs(2), totals: totals(1_500), usages: Vec::new() };
    let outcome = Outcome { before, after, totals: totals(1_500), stalls: 0, copies: 1, qos };
    let costs = Costs { own: cost(0.001), brokers: vec![cost(0.003), cost(0.002)] };
    let mut nanos = latencies();
    (1..=1_000_u64).for_each(|micros| nanos.record(micros * 1_000).unwrap());
    let findings = Findings { verdicts, refused: 0, latencies: nanos };
    TrafficReport::new(settings(qos, window), outcome, costs, &findings)
}

fn all() -> Verdicts {
    Verdicts { unique: 1_500, ..Verdicts::default() }
}

#[test]
fn cost_and_rate_are_of_the_measured_part() {
    let report = report(QoS::AtLeastOnce, 1_000, all());
    assert_eq!((report.delivered, report.published), (1_000, 1_000));
    assert!((report.delivered_per_sec - 500.0).abs() < 1e-9);
    assert!((report.broker_cpu_us_per_delivered.unwrap() - 5.0).abs() < 1e-9);
    assert!((report.own_cpu_us_per_delivered - 1.0).abs() < 1e-9);
    assert!(report.passed());
}

#[test]
fn latencies_are_told_in_microseconds() {
    let latency = report(QoS::AtMostOnce, 0, all()).latency_us.unwrap();
    for (shown, expected) in [(latency.p50, 500.0), (latency.p99, 990.0), (latency.max, 1_000.0)] {
        assert!((shown - expected).abs() <= expected / 500.0, "{shown} is not {expected}");
    }
    assert_eq!(Latency::of(&latencies()), None);
}

#[test]
fn json_has_the_figures_programs_look_for() {
    let text = serde_json::to_string(&report(QoS::ExactlyOnce, 1_000, all())).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["settings"]["qos"], 2);
    assert_eq!(json["broker_cpu_us_per_delivered"], 5.0);
    assert_eq!(json["checks"]["lost"], 0);
    assert_eq!(json["passed"], true);
    assert!(json["latency_us"]["p99.9"].is_number());
}

#[test]
fn a_run_passes_only_when_the_checks_allow_what_happened() {
    let lost = Verdicts { unique: 1_499, ..all() };
    let repeated = Verdicts { duplicates: 1, ..all() };
    let reordered = Verdicts { out_of_order: 1, ..all() };
    let foreign = Verdicts { foreign: 1, ..all() };
    let cases = [
        (QoS::AtMostOnce, 0, lost, true),
        (QoS::AtMostOnce, 1_000, lost, false),
        (QoS::AtLeastOnce, 0, lost, false),
        (QoS::AtMostOnce, 0, repeated, false),
        (QoS::AtLeastOnce, 0, repeated, true),
        (QoS::ExactlyOnce, 0, repeated, false),
        (QoS::AtLeastOnce, 0, reordered, false),
        (QoS::AtMostOnce, 0, foreign, false),
    ];
    for (qos, window, verdicts, passes) in cases {
        assert_eq!(report(qos, window, verdicts).passed(), passes, "{qos:?} {verdicts:?}");
    }
}

#[test]
fn numbers_are_shown_in_groups_of_three() {
    let shown = [0, 999, 1_000, 123_456, 1_234_567].map(grouped);
    assert_eq!(shown, ["0", "999", "1,000", "123,456", "1,234,567"]);
}
