//! Numbers that are read when somebody asks for them: sizes of the broker's tables, and what the
//! uplink counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cluster_rpc::Uplink;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::broker::{Broker, PublishTicket};

/// Reads a broker's sizes and its uplink's counters at each scrape.
#[derive(Debug)]
pub(crate) struct BrokerCollector(pub Arc<Broker>);

impl Collector for BrokerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let broker = &self.0;
        let help = "Clients with a session";
        gauge(&mut encoder, "mqtt_sessions", help, broker.sessions.len())?;
        let filters = broker.subscriptions.filters();
        gauge(&mut encoder, "mqtt_filters", "Distinct topic filters subscribed to", filters)?;
        let store = &broker.store;
        let help = "Whether the store is there";
        gauge(&mut encoder, "store_present", help, usize::from(store.is_present()))?;
        let help = "Connections that have a session in the store, or have asked for one";
        gauge(&mut encoder, "store_attached", help, store.attachments())?;
        let help = "Requests that the store has not answered";
        gauge(&mut encoder, "store_pending_requests", help, store.pending())?;
        let (departures, forgotten) = store.departures();
        let help = "Ends of connections that the store may not have heard of";
        gauge(&mut encoder, "store_departures", help, departures)?;
        let help =
            "Ends of connections that were forgotten although the store may not have heard of them";
        counter(&mut encoder, "store_departures_forgotten", help, forgotten)?;
        let help = "Takeovers within this proxy that had to wait, because there were too many of one client";
        let contested = broker.sessions.contested();
        counter(&mut encoder, "mqtt_takeovers_contested", help, contested)?;
        encode_uplink(&mut encoder, &broker.uplink)
    }
}

fn encode_uplink(
    encoder: &mut DescriptorEncoder<'_>,
    uplink: &Uplink<PublishTicket>,
) -> Result<(), std::fmt::Error> {
    let status = uplink.status();
    gauge(encoder, "uplink_serving", "Intermediates that may carry messages", status.serving)?;
    let help = "QoS 1 and 2 messages not acknowledged by the intermediates";
    gauge(encoder, "uplink_window_messages", help, status.window_messages)?;
    let metrics = uplink.metrics();
    let counters = [
        ("uplink_sent", "Messages sent to intermediates", &metrics.sent),
        ("uplink_resent", "Messages sent again after a link broke", &metrics.resent),
        ("uplink_acked", "QoS 1 and 2 messages acknowledged", &metrics.acked),
        ("uplink_delivered", "Messages from other proxies", &metrics.delivered),
        ("uplink_duplicates", "Repetitions dropped", &metrics.duplicates),
        (
            "uplink_dropped_no_intermediate",
            "QoS 0 messages dropped: no intermediate could carry them",
            &metrics.dropped_no_intermediate,
        ),
        (
            "uplink_dropped_backlog",
            "QoS 0 messages dropped: too many waited for credit",
            &metrics.dropped_backlog,
        ),
        (
            "uplink_dropped_fenced",
            "QoS 1 and 2 messages dropped, never acknowledged: this proxy was declared dead",
            &metrics.dropped_fenced,
        ),
        ("uplink_expired", "Messages that expired before they were sent", &metrics.expired),
        ("uplink_reconnects", "Connections to intermediates that broke", &metrics.reconnects),
        ("uplink_resyncs", "Snapshots asked for because the tables differed", &metrics.resyncs),
        ("uplink_fenced", "How often this proxy was declared dead", &metrics.fenced),
    ];
    for (name, help, value) in counters {
        counter(encoder, name, help, value.load(Ordering::Relaxed))?;
    }
    Ok(())
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let counter = ConstCounter::new(value);
    let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
    counter.encode(metric)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: usize,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    gauge.encode(metric)
}
