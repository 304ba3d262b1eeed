//! What is scraped: the relay's own numbers, read as one copy each time.
//!
//! Owns the names. Nothing is counted here, so the message path pays nothing for it.

use std::fmt::Error;

use cluster_rpc::frame::RelayState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::service::Service;
use crate::stats::{Counts, Stats};

/// Reads the relay's numbers at each scrape.
#[derive(Debug)]
pub(crate) struct RelayCollector(pub(crate) Service);

impl Collector for RelayCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let stats = self.0.stats();
        messages(&mut encoder, &stats.counts)?;
        members(&mut encoder, &stats.counts)?;
        present(&mut encoder, &stats)
    }
}

fn messages(encoder: &mut DescriptorEncoder<'_>, counts: &Counts) -> Result<(), Error> {
    labelled(
        encoder,
        ("relay_messages_received", "Messages taken from proxies"),
        "qos",
        &[("0", counts.received[0]), ("1", counts.received[1]), ("2", counts.received[2])],
    )?;
    labelled(
        encoder,
        ("relay_dropped", "Deliveries dropped; none of them was waited for"),
        "reason",
        &[
            ("outbox_full", counts.dropped_full),
            ("link_lost", counts.dropped_link),
            ("proxy_dead", counts.dropped_dead),
        ],
    )?;
    labelled(
        encoder,
        ("relay_refused", "Messages that their proxy was told are refused"),
        "reason",
        &[("quota_exceeded", counts.refused_quota), ("other", counts.refused_other)],
    )?;
    counter(
        encoder,
        "relay_deliveries_sent",
        "Deliveries sent to proxies, repetitions too",
        counts.sent,
    )
}

fn members(encoder: &mut DescriptorEncoder<'_>, counts: &Counts) -> Result<(), Error> {
    let counters = [
        ("members_declared_dead", "Proxies declared dead", counts.declared_dead),
        ("members_left", "Proxies that said that they go, and went", counts.left),
        ("members_fenced", "Proxies replaced by a newer life of theirs", counts.fenced),
        (
            "route_digest_mismatch",
            "Routing tables that were not what their proxy said they are",
            counts.digest_mismatches,
        ),
        ("stream_violations", "Streams ended because of what came on them", counts.violations),
        ("relay_stalls", "Times the process stood still for a lease", counts.stalls),
    ];
    each(encoder, counter, &counters)
}

fn present(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> Result<(), Error> {
    let gauges = [
        (
            "relay_serving",
            "1 while messages are taken",
            u64::from(stats.state == RelayState::Serving),
        ),
        ("members", "Proxies whose routes are all here", stats.members),
        ("endpoints", "Proxies known, members or not", stats.endpoints),
        ("streams", "Streams attached", stats.streams),
        ("routes", "Routes of all proxies", stats.routes),
        ("outbox_messages", "Deliveries not acknowledged by their proxy", stats.outbox_messages),
        ("outbox_bytes", "Bytes of those deliveries", stats.outbox_bytes),
        (
            "relay_store_outbox_messages",
            "Deliveries that the store has not acknowledged",
            stats.store_outbox_messages,
        ),
        (
            "relay_store_outbox_bytes",
            "Bytes of the deliveries that the store has not acknowledged",
            stats.store_outbox_bytes,
        ),
        (
            "relay_waits_for_store",
            "1 while no message is taken because the store has not told its routes yet",
            u64::from(stats.waits_for_store),
        ),
        ("outbox_congested", "Proxies whose outbox withholds credit", stats.congested_outboxes),
        ("relay_pending", "Messages not acknowledged to the proxy they came from", stats.pending),
    ];
    each(encoder, gauge, &gauges)
}

/// A metric without labels: name, help and value.
pub(crate) type Row = (&'static str, &'static str, u64);

/// Encodes every row as [`counter`] or [`gauge`] does one.
pub(crate) fn each(
    encoder: &mut DescriptorEncoder<'_>,
    encode: fn(&mut DescriptorEncoder<'_>, &str, &str, u64) -> Result<(), Error>,
    rows: &[Row],
) -> Result<(), Error> {
    rows.iter().try_for_each(|&(name, help, value)| encode(encoder, name, help, value))
}

pub(crate) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), Error> {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

pub(crate) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), Error> {
    let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

pub(crate) fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    label: &'static str,
    values: &[(&'static str, u64)],
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        ConstCounter::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}
