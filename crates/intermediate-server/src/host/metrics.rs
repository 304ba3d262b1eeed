//! What is scraped of the store.
//!
//! Owns the names, and the last copy of the numbers: the store's thread makes one a few times per second,
//! a scrape reads it. Counts nothing else, so a message pays nothing for it.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cluster_rpc::machine::now;
use parking_lot::Mutex;
use partition::{DropReason, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::{Row, counter, each, gauge, labelled};

/// How often the store's thread copies its numbers.
const PERIOD: Duration = Duration::from_millis(250);

/// What the host counts beside the partitions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostCounts {
    pub(super) lines: u64,
    pub(super) effects: u64,
    pub(super) deliveries: u64,
    /// QoS 0 for connections that were not attached on their stream.
    pub(super) dropped_unattached: u64,
    pub(super) takeovers: u64,
    pub(super) contested: u64,
    pub(super) refused_wills: u64,
    pub(super) waiting_for_routes: u64,
}

/// The numbers of the store, across its lives.
#[derive(Debug)]
pub(super) struct HostMetrics {
    published: Mutex<Published>,
    commit_seconds: Histogram,
    waited_micros: AtomicU64,
    began: Instant,
    lives: AtomicU64,
    disk_bytes: AtomicU64,
    room: AtomicU64,
}

#[derive(Debug, Default)]
struct Published {
    /// Of this life.
    stats: Stats,
    counts: HostCounts,
    at: Option<Instant>,
    /// A turn came so soon after `at` that it was not copied.
    behind: bool,
}

impl HostMetrics {
    pub(super) fn new() -> Self {
        Self {
            published: Mutex::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            waited_micros: AtomicU64::new(0),
            began: now(),
            lives: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
            room: AtomicU64::new(0),
        }
    }

    /// A life begins, and with it all counts.
    pub(super) fn begin(&self) {
        self.lives.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn waited(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.waited_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn busy(&self) -> Duration {
        let waited = Duration::from_micros(self.waited_micros.load(Ordering::Relaxed));
        now().saturating_duration_since(self.began).saturating_sub(waited)
    }

    pub(super) fn has_room(&self, room: bool) {
        self.room.store(u64::from(room), Ordering::Relaxed);
    }

    pub(super) fn set_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Copies what `read` gives, if the last copy is old enough.
    pub(super) fn publish(&self, now: Instant, read: impl FnOnce() -> (Stats, HostCounts)) {
        let mut published = self.published.lock();
        if published.at.is_some_and(|at| now.saturating_duration_since(at) < PERIOD) {
            published.behind = true;
            return;
        }
        let (stats, counts) = read();
        *published = Published { stats, counts, at: Some(now), behind: false };
    }

    /// When [`publish`](Self::publish) has something to do, if nothing else happens.
    pub(super) fn next_publication(&self) -> Option<Instant> {
        let published = self.published.lock();
        published.at.filter(|_| published.behind).map(|at| at + PERIOD)
    }

    /// Makes them readable in `registry`.
    pub(super) fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_with_unit(
            "store_commit_duration",
            "Time a commit took",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register_collector(Box::new(HostCollector(Arc::clone(self))));
    }
}

#[derive(Debug)]
struct HostCollector(Arc<HostMetrics>);

impl Collector for HostCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let (stats, counts) = {
            let published = self.0.published.lock();
            (published.stats, published.counts)
        };
        let encoder = &mut encoder;
        each(encoder, gauge, &gauges(&self.0, &stats, &counts))?;
        each(encoder, counter, &counters(&stats, &counts))?;
        let busy = ConstCounter::new(self.0.busy().as_secs_f64());
        busy.encode(encoder.encode_descriptor(
            "store_busy",
            "Time the store's thread did not wait",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?)?;
        let mut dropped =
            DropReason::ALL.map(|reason| (reason.label(), stats.dropped.of(reason))).to_vec();
        dropped.push(("unattached", counts.dropped_unattached));
        labelled(
            encoder,
            ("store_dropped_messages", "Messages not delivered to one who wanted them"),
            "reason",
            &dropped,
        )
    }
}

fn gauges(metrics: &HostMetrics, stats: &Stats, counts: &HostCounts) -> [Row; 15] {
    [
        ("store_room", "1 while there is room for more", read(&metrics.room)),
        ("store_disk_bytes", "Size of the store", read(&metrics.disk_bytes)),
        ("store_proxies", "Proxies with a stream to the store", counts.lines),
        (
            "sessions_persistent",
            "Sessions that outlive their connection",
            stats.persistent_sessions,
        ),
        ("sessions_attached", "Sessions with a connection", stats.attached),
        ("subscriptions_persistent", "Subscriptions of persistent sessions", stats.subscriptions),
        ("inbox_messages", "Messages in the queues of sessions", stats.queued_messages),
        ("inbox_bytes", "Bytes of those messages", stats.queued_bytes),
        ("groups", "Shared groups", stats.groups),
        ("group_messages", "Messages in the queues of shared groups", stats.group_messages),
        ("retained_messages", "Retained messages", stats.retained_messages),
        ("retained_bytes", "Bytes of those messages", stats.retained_bytes),
        ("wills_unsent", "Wills the relays have not taken yet", stats.outbox),
        (
            "store_answers_waiting",
            "Answers that wait until the intermediates know routes",
            counts.waiting_for_routes,
        ),
        ("store_lives", "Times the store was opened by this process", read(&metrics.lives)),
    ]
}

fn read(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

fn counters(stats: &Stats, counts: &HostCounts) -> [Row; 12] {
    [
        ("store_commits", "Batches written", stats.commits),
        ("store_rows", "Rows in those batches", stats.rows),
        ("store_row_bytes", "Bytes of those rows", stats.row_bytes),
        ("store_effects", "Effects of commits", counts.effects),
        ("store_deliveries", "Messages given to proxies for sessions", counts.deliveries),
        ("store_refused_messages", "Messages refused to their publishers", stats.refused_messages),
        (
            "store_repeated_messages",
            "Messages dropped because they had come before",
            stats.repeated_messages,
        ),
        (
            "session_takeovers",
            "Client identifiers taken over by another connection",
            counts.takeovers,
        ),
        (
            "session_takeovers_contested",
            "Takeovers that had to wait because there were too many",
            counts.contested,
        ),
        (
            "sessions_expired",
            "Sessions that ended because nobody came back",
            stats.expired_sessions,
        ),
        ("wills", "Wills published", stats.wills),
        ("wills_refused", "Wills that not all who want them have taken", counts.refused_wills),
    ]
}
