//! What a proxy counts. Every message that is dropped is counted under its reason.
//!
//! Handles are resolved once; tasks count in their own [`Tally`] and add it up once per wake-up, so that no
//! counter is shared per message.

use mqtt_codec::{QoS, ReasonCode};
use mqtt_session::CloseReason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a message was not put into, or not sent from, a client's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The client's queue was full.
    QueueFull,
    /// Its Message Expiry Interval had passed.
    Expired,
    /// Larger than the client's Maximum Packet Size.
    TooLarge,
    /// Not sent to the cluster: its publisher is gone and the uplink has no room, or had none until this proxy was
    /// declared dead. Local recipients got it.
    UplinkFull,
    /// The session ended with the message in its queue.
    SessionEnded,
}

impl DropReason {
    pub(crate) const ALL: [Self; 5] =
        [Self::QueueFull, Self::Expired, Self::TooLarge, Self::UplinkFull, Self::SessionEnded];

    const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::UplinkFull => "uplink_full",
            Self::SessionEnded => "session_ended",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QosLabel {
    qos: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The counters of one proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub received: [Counter; 3],
    sent: [Counter; 3],
    dropped: [Counter; DropReason::ALL.len()],
    closed: Family<ReasonLabel, Counter>,
    /// Open MQTT connections.
    pub connections: Gauge,
    /// Connections accepted, whether or not they became a session.
    pub accepted: Counter,
    /// Connections refused because there were as many connections or sessions as there may be.
    pub refused: Counter,
    /// Clients that were admitted and got no session from the store.
    pub unattached: Counter,
    /// Messages that an intermediate's store did not take, which their publishers were told.
    pub refused_publishes: Counter,
    /// Tasks that ended in a panic. Must read 0.
    pub panics: Counter,
}

/// What one task counted since it last added it to [`Metrics`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    received: [u32; 3],
    sent: [u32; 3],
    dropped: [u32; DropReason::ALL.len()],
}

impl Metrics {
    /// The counters, registered under their public names.
    #[must_use]
    pub(crate) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let received = Family::<QosLabel, Counter>::new_with_constructor(Counter::default);
        let sent = Family::<QosLabel, Counter>::new_with_constructor(Counter::default);
        let dropped = Family::<ReasonLabel, Counter>::new_with_constructor(Counter::default);
        let by_qos = |family: &Family<QosLabel, Counter>| {
            [0, 1, 2].map(|qos| family.get_or_create(&QosLabel { qos }).clone())
        };
        let metrics = Self {
            received: by_qos(&received),
            sent: by_qos(&sent),
            dropped: DropReason::ALL.map(|reason| {
                dropped.get_or_create(&ReasonLabel { reason: reason.label() }).clone()
            }),
            ..metrics
        };
        registry.register("mqtt_messages_received", "PUBLISH packets taken from clients", received);
        registry.register("mqtt_messages_sent", "PUBLISH packets sent to clients", sent);
        registry.register("mqtt_messages_dropped", "Messages not delivered, by reason", dropped);
        registry.register(
            "mqtt_connections_closed",
            "Connections that ended, by reason",
            metrics.closed.clone(),
        );
        registry.register("mqtt_connections", "Open MQTT connections", metrics.connections.clone());
        registry.register("mqtt_accepted", "Connections accepted", metrics.accepted.clone());
        registry.register(
            "mqtt_refused",
            "Connections refused because the limit of connections or of sessions was reached",
            metrics.refused.clone(),
        );
        registry.register(
            "session_attach_failures",
            "Clients that were admitted and got no session from the store",
            metrics.unattached.clone(),
        );
        registry.register(
            "mqtt_publishes_refused",
            "Messages that the store did not take, as their publishers were told",
            metrics.refused_publishes.clone(),
        );
        registry.register("mqtt_task_panics", "Client tasks that panicked", metrics.panics.clone());
        metrics
    }

    /// Counts the end of a connection.
    pub(crate) fn count_closed(&self, reason: &CloseReason) {
        let label = match reason {
            CloseReason::Client(ReasonCode::Success) => "client",
            CloseReason::Client(_) => "client_with_reason",
            CloseReason::ConnectionLost => "connection_lost",
            CloseReason::Protocol(_) => "protocol_error",
            CloseReason::Server(ReasonCode::KeepAliveTimeout) => "keep_alive_timeout",
            CloseReason::Server(ReasonCode::QuotaExceeded) => "queue_full",
            CloseReason::Server(ReasonCode::ServerShuttingDown) => "server_stopping",
            CloseReason::Server(ReasonCode::SessionTakenOver) => "taken_over",
            CloseReason::Server(_) => "server",
        };
        self.closed.get_or_create(&ReasonLabel { reason: label }).inc();
    }

    /// Counts one message not delivered.
    pub(crate) fn count_dropped(&self, reason: DropReason, messages: usize) {
        self.dropped[reason as usize].inc_by(messages as u64);
    }

    /// Messages not delivered so far, for `reason`.
    #[must_use]
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].get()
    }
}

impl Tally {
    /// A PUBLISH came from the client.
    pub(crate) fn received(&mut self, qos: QoS) {
        self.received[qos as usize] += 1;
    }

    /// A PUBLISH goes to the client.
    pub(crate) fn sent(&mut self, qos: QoS) {
        self.sent[qos as usize] += 1;
    }

    /// A message was not delivered.
    pub(crate) fn dropped(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    /// Adds everything to the shared counters and starts again at zero.
    pub(crate) fn flush(&mut self, metrics: &Metrics) {
        let columns = [
            (&mut self.received[..], &metrics.received[..]),
            (&mut self.sent[..], &metrics.sent[..]),
            (&mut self.dropped[..], &metrics.dropped[..]),
        ];
        for (counts, counters) in columns {
            for (count, counter) in counts.iter_mut().zip(counters) {
                if *count > 0 {
                    counter.inc_by(u64::from(std::mem::take(count)));
                }
            }
        }
    }
}
