//! Counters of one uplink.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start. Read them with any ordering.
#[derive(Debug, Default)]
pub struct UplinkMetrics {
    /// Messages handed to a link, repetitions included.
    pub sent: AtomicU64,
    /// Messages sent again after a link broke.
    pub resent: AtomicU64,
    /// QoS >= 1 messages acknowledged by an intermediate.
    pub acked: AtomicU64,
    /// QoS >= 1 messages that an endpoint has refused.
    pub refused: AtomicU64,
    /// Messages that arrived and were new.
    pub delivered: AtomicU64,
    /// Messages that arrived again and were dropped.
    pub duplicates: AtomicU64,
    /// QoS 0 messages dropped: no intermediate could carry them.
    pub dropped_no_intermediate: AtomicU64,
    /// QoS 0 messages dropped: too many were waiting for credit.
    pub dropped_backlog: AtomicU64,
    /// QoS >= 1 messages dropped, never acknowledged: this incarnation was declared dead.
    pub dropped_fenced: AtomicU64,
    /// Messages that expired while they waited to be sent.
    pub expired: AtomicU64,
    /// Connections to intermediates that broke or could not be made.
    pub reconnects: AtomicU64,
    /// Session streams to the store that broke or could not be opened.
    pub store_breaks: AtomicU64,
    /// Calls to the store that were dropped: no frame could hold them.
    pub dropped_calls: AtomicU64,
    /// Session streams that were broken because too many calls waited.
    pub overflowed_links: AtomicU64,
    /// Snapshots an intermediate asked for because its digest was another one.
    pub resyncs: AtomicU64,
    /// How often this process was declared dead and took a new incarnation.
    pub fenced: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, by: usize) {
    if by != 0 {
        counter.fetch_add(by as u64, Ordering::Relaxed);
    }
}
