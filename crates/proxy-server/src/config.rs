//! The configuration of a proxy: its table of options, and the typed values.

use std::net::SocketAddr;
use std::time::Duration;

use bytestring::ByteString;
use cluster_rpc::frame::NodeId;
use daemon::{ByteSize, LogConfig, Opt, OptKind, Period, Program, Refused, Secret, Validate};
use mqtt_codec::{QoS, ReceiveMaximum};
use mqtt_session::ServerProfile;
use serde::Deserialize;

use crate::broker::BrokerLimits;
use crate::mailbox::{QueueLimits, WhenFull};

/// Every option, in the order of the reference.
pub static PROGRAM: Program = Program {
    name: "proxy-server",
    about: "An MQTT node of a Causeway cluster: clients connect to it, it connects to the intermediates",
    env_prefix: "CAUSEWAY",
    options: OPTIONS,
    after_help: "Examples:\n  \
        proxy-server\n      \
        For clients at 127.0.0.1:1883, with an intermediate on the same machine\n  \
        proxy-server --mqtt-listen 0.0.0.0:1883 --cluster-intermediates relay.example:7420\n      \
        A node of a cluster\n  \
        proxy-server --config proxy.toml --check-config\n      Says whether a configuration is right\n\n\
        Signals: SIGTERM and SIGINT stop it cleanly.",
};

/// Highest rate of new connections that can be set. Without bound is 0.
const MAXIMUM_RATE: u32 = 1_000_000;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "node_id",
        "\"\"",
        "",
        "Name of this proxy, unique in the cluster; empty: the host name",
        OptKind::Text,
    ),
    Opt::new(
        "mqtt.listen",
        "[\"127.0.0.1:1883\"]",
        "",
        "Addresses to serve MQTT on over TCP",
        OptKind::List,
    ),
    Opt::new(
        "mqtt.connect_timeout",
        "\"10s\"",
        "",
        "Time a new connection has to send its CONNECT",
        OptKind::Duration,
    ),
    Opt::new(
        "mqtt.receive_maximum",
        "1024",
        "messages",
        "QoS 1 and 2 messages a client may send before they are acknowledged, 1 to 65535",
        OptKind::Integer,
    ),
    Opt::new(
        "mqtt.inflight_maximum",
        "1024",
        "messages",
        "QoS 1 and 2 messages sent to a client before it acknowledges them, 1 to 65535; an MQTT 5 client may ask for less",
        OptKind::Integer,
    ),
    Opt::new(
        "mqtt.maximum_packet_size",
        "\"1MiB\"",
        "",
        "Largest packet taken from a client, 1KiB to 256MiB",
        OptKind::Size,
    ),
    Opt::new(
        "mqtt.topic_alias_maximum",
        "16",
        "aliases",
        "Topic aliases a client may use, 0 to 65535",
        OptKind::Integer,
    ),
    Opt::new(
        "mqtt.outbound_topic_alias_maximum",
        "16",
        "aliases",
        "Topic aliases used towards a client that allows as many, 0 to 65535",
        OptKind::Integer,
    ),
    Opt::new(
        "mqtt.maximum_qos",
        "2",
        "",
        "Highest QoS clients may publish and subscribe with, 0 to 2",
        OptKind::Integer,
    ),
    Opt::new(
        "mqtt.retain_available",
        "true",
        "",
        "Whether messages are retained",
        OptKind::Boolean,
    ),
    Opt::new(
        "mqtt.wildcard_subscriptions",
        "true",
        "",
        "Whether filters may hold wildcards",
        OptKind::Boolean,
    ),
    Opt::new(
        "mqtt.subscription_ids",
        "true",
        "",
        "Whether subscription identifiers are supported",
        OptKind::Boolean,
    ),
    Opt::new(
        "mqtt.shared_subscriptions",
        "true",
        "",
        "Whether $share filters are supported",
        OptKind::Boolean,
    ),
    Opt::new(
        "mqtt.server_keep_alive",
        "0",
        "seconds",
        "Keep Alive that replaces the one of MQTT 5 clients, 0 to 65535; 0: theirs",
        OptKind::Integer,
    ),
    Opt::new(
        "mqtt.maximum_keep_alive",
        "0",
        "seconds",
        "Longest Keep Alive an MQTT 5 client may have, 0 to 65535; 0: any",
        OptKind::Integer,
    ),
    Opt::new(
        "mqtt.maximum_session_expiry",
        "\"2h\"",
        "",
        "Longest time a session outlives its connection",
        OptKind::Duration,
    ),
    Opt::new(
        "mqtt.response_information",
        "\"\"",
        "",
        "Response Information for clients that request it; empty: none",
        OptKind::Text,
    ),
    Opt::new(
        "mqtt.check_payload_format",
        "false",
        "",
        "Whether payloads that say they are UTF-8 are checked",
        OptKind::Boolean,
    ),
    Opt::new(
        "limits.connections",
        "100000",
        "connections",
        "Most open connections",
        OptKind::Integer,
    ),
    Opt::new(
        "limits.connect_rate",
        "0",
        "per second",
        "Most new connections in a second over all addresses, 1 to 1000000; 0: any",
        OptKind::Integer,
    ),
    Opt::new(
        "limits.subscriptions_per_client",
        "1000",
        "subscriptions",
        "Most subscriptions of one session",
        OptKind::Integer,
    ),
    Opt::new(
        "limits.topic_levels",
        "128",
        "levels",
        "Most levels of a topic or filter, 1 to 65535",
        OptKind::Integer,
    ),
    Opt::new(
        "session.attach_timeout",
        "\"10s\"",
        "",
        "Time a CONNECT waits for the store, if it has a will or a session that stays; then it is refused with 0x88",
        OptKind::Duration,
    ),
    Opt::new(
        "mailbox.messages",
        "1000",
        "messages",
        "Most messages waiting for a connected client",
        OptKind::Integer,
    ),
    Opt::new(
        "mailbox.bytes",
        "\"4MiB\"",
        "",
        "Most bytes waiting for a connected client",
        OptKind::Size,
    ),
    Opt::new(
        "mailbox.when_full",
        "\"disconnect\"",
        "",
        "What a QoS 1 or 2 message does that finds it full: disconnect (the client, with 0x97), drop-newest or drop-oldest. QoS 0 is dropped. Every drop is counted",
        OptKind::Text,
    ),
    Opt::new(
        "cluster.intermediates",
        "[\"127.0.0.1:7420\"]",
        "",
        "Intermediates as host:port, at least one; a name may stand for several addresses",
        OptKind::List,
    ),
    Opt::new(
        "cluster.token",
        "",
        "",
        "Secret shared by all processes of the cluster",
        OptKind::Secret,
    ),
    Opt::new(
        "cluster.window_messages",
        "16384",
        "messages",
        "Most QoS 1 and 2 messages on their way to the intermediates; then their publishers are not read",
        OptKind::Integer,
    ),
    Opt::new(
        "cluster.window_bytes",
        "\"32MiB\"",
        "",
        "Most bytes of those messages",
        OptKind::Size,
    ),
    Opt::new(
        "cluster.lease",
        "\"6s\"",
        "",
        "Time without a sign of life after which the intermediates take this proxy for dead; the same on all processes",
        OptKind::Duration,
    ),
    Opt::new(
        "admin_listen",
        "",
        "",
        "Address of the HTTP interface with /metrics, /livez and /readyz; unset: none",
        OptKind::Text,
    ),
    Opt::new("workers", "0", "threads", "Worker threads; 0: one per processor", OptKind::Integer),
    daemon::LOG_LEVEL,
    daemon::LOG_FORMAT,
    daemon::EXIT_WITH_PARENT,
];

/// The configuration of a proxy. [`Default`] is what the table says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name in the cluster; empty: the host name.
    pub node_id: String,
    /// What clients are offered.
    pub mqtt: MqttConfig,
    /// What clients may use up.
    pub limits: LimitsConfig,
    /// How sessions are got from the store.
    pub session: SessionConfig,
    /// Queue of a client.
    pub mailbox: QueueConfig,
    /// The way to the intermediates.
    pub cluster: ClusterConfig,
    /// The HTTP interface.
    pub admin_listen: Option<SocketAddr>,
    /// Worker threads; 0: one per processor.
    pub workers: usize,
    /// Logs.
    pub log: LogConfig,
    /// Stop when standard input ends.
    pub exit_with_parent: bool,
}

/// Section `mqtt`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table above says what each is")]
pub struct MqttConfig {
    pub listen: Vec<SocketAddr>,
    pub connect_timeout: Period,
    pub receive_maximum: u16,
    pub inflight_maximum: u16,
    pub maximum_packet_size: ByteSize,
    pub topic_alias_maximum: u16,
    pub outbound_topic_alias_maximum: u16,
    pub maximum_qos: u8,
    pub retain_available: bool,
    pub wildcard_subscriptions: bool,
    pub subscription_ids: bool,
    pub shared_subscriptions: bool,
    pub server_keep_alive: u16,
    pub maximum_keep_alive: u16,
    pub maximum_session_expiry: Period,
    pub response_information: String,
    pub check_payload_format: bool,
}

/// Section `limits`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table above says what each is")]
pub struct LimitsConfig {
    pub connections: usize,
    pub connect_rate: u32,
    pub subscriptions_per_client: usize,
    pub topic_levels: u16,
}

/// Section `session`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table above says what each is")]
pub struct SessionConfig {
    pub attach_timeout: Period,
}

/// Section `mailbox`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table above says what each is")]
pub struct QueueConfig {
    pub messages: usize,
    pub bytes: ByteSize,
    pub when_full: FullPolicy,
}

/// What a QoS 1 or 2 message does that finds its queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FullPolicy {
    /// Its client is disconnected with 0x97.
    Disconnect,
    /// It is dropped.
    DropNewest,
    /// It takes the place of the oldest.
    DropOldest,
}

/// Section `cluster`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table above says what each is")]
pub struct ClusterConfig {
    pub intermediates: Vec<String>,
    pub token: Option<Secret>,
    pub window_messages: usize,
    pub window_bytes: ByteSize,
    pub lease: Period,
}

impl Default for Config {
    fn default() -> Self {
        daemon::defaults(&PROGRAM).expect("the table's defaults are valid, which a test checks")
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Refused> {
        let mqtt = &self.mqtt;
        if mqtt.listen.is_empty() {
            return Err(Refused::new(
                "mqtt.listen",
                "[]",
                "at least one address, as 127.0.0.1:1883",
            ));
        }
        if !self.node_id.is_empty() && NodeId::new(&self.node_id).is_none() {
            let expected = "1 to 255 bytes without control characters";
            return Err(Refused::new("node_id", &self.node_id, expected));
        }
        nonzero("mqtt.receive_maximum", u64::from(mqtt.receive_maximum), "1 to 65535")?;
        nonzero("mqtt.inflight_maximum", u64::from(mqtt.inflight_maximum), "1 to 65535")?;
        nonzero("limits.connections", self.limits.connections as u64, "at least 1")?;
        nonzero("limits.topic_levels", u64::from(self.limits.topic_levels), "1 to 65535")?;
        nonzero("mailbox.messages", self.mailbox.messages as u64, "at least 1")?;
        nonzero("cluster.window_messages", self.cluster.window_messages as u64, "at least 1")?;
        if self.limits.connect_rate > MAXIMUM_RATE {
            let expected = "1 to 1000000, or 0";
            return Err(Refused::new("limits.connect_rate", self.limits.connect_rate, expected));
        }
        if QoS::from_bits(mqtt.maximum_qos).is_none() {
            return Err(Refused::new("mqtt.maximum_qos", mqtt.maximum_qos, "0, 1 or 2"));
        }
        let size = mqtt.maximum_packet_size.bytes();
        if !(1024..=256 << 20).contains(&size) {
            return Err(Refused::new("mqtt.maximum_packet_size", size, "1KiB to 256MiB"));
        }
        if self.cluster.window_bytes.bytes() < size {
            let expected = "at least mqtt.maximum_packet_size";
            return Err(Refused::new(
                "cluster.window_bytes",
                self.cluster.window_bytes.bytes(),
                expected,
            ));
        }
        if self.cluster.lease.duration() < Duration::from_secs(2) {
            let lease = format!("{:?}", self.cluster.lease.duration());
            return Err(Refused::new("cluster.lease", lease, "at least 2s"));
        }
        if self.cluster.intermediates.is_empty() {
            let expected =
                "at least one intermediate, as relay.example:7420: a proxy keeps nothing itself";
            return Err(Refused::new("cluster.intermediates", "[]", expected));
        }
        if self.session.attach_timeout.duration().is_zero() {
            return Err(Refused::new("session.attach_timeout", "\"0s\"", "more than 0s"));
        }
        for address in &self.cluster.intermediates {
            check_address(address)?;
        }
        self.log.validate()
    }
}

fn nonzero(key: &str, value: u64, expected: &str) -> Result<(), Refused> {
    if value == 0 { Err(Refused::new(key, value, expected)) } else { Ok(()) }
}

fn check_address(address: &str) -> Result<(), Refused> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let host = address.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty());
    match (host, port) {
        (true, Some(1..)) => Ok(()),
        (_, _) => {
            let expected = "host:port, as relay.example:7420 or 10.0.0.7:7420";
            Err(Refused::new("cluster.intermediates", format!("{address:?}"), expected))
        }
    }
}

impl QueueConfig {
    fn limits(&self) -> QueueLimits {
        let when_full = match self.when_full {
            FullPolicy::Disconnect => WhenFull::Disconnect,
            FullPolicy::DropNewest => WhenFull::DropNewest,
            FullPolicy::DropOldest => WhenFull::DropOldest,
        };
        QueueLimits { messages: self.messages, bytes: self.bytes.as_usize(), when_full }
    }
}

impl Config {
    /// What the protocol core is to offer.
    #[must_use]
    pub fn profile(&self) -> ServerProfile {
        let mqtt = &self.mqtt;
        let text = &mqtt.response_information;
        let expiry = mqtt.maximum_session_expiry.duration().as_secs();
        ServerProfile {
            receive_maximum: ReceiveMaximum::new(mqtt.receive_maximum).unwrap_or_default(),
            maximum_packet_size: u32::try_from(mqtt.maximum_packet_size.bytes())
                .unwrap_or(u32::MAX),
            topic_alias_maximum: mqtt.topic_alias_maximum,
            outbound_topic_alias_maximum: mqtt.outbound_topic_alias_maximum,
            inflight_maximum: mqtt.inflight_maximum,
            maximum_qos: QoS::from_bits(mqtt.maximum_qos).unwrap_or(QoS::ExactlyOnce),
            retain_available: mqtt.retain_available,
            wildcard_subscriptions: mqtt.wildcard_subscriptions,
            subscription_ids: mqtt.subscription_ids,
            shared_subscriptions: mqtt.shared_subscriptions,
            server_keep_alive_secs: Some(mqtt.server_keep_alive).filter(|&secs| secs > 0),
            maximum_keep_alive_secs: mqtt.maximum_keep_alive,
            maximum_session_expiry_secs: u32::try_from(expiry).unwrap_or(u32::MAX),
            response_information: (!text.is_empty()).then(|| ByteString::from(text.as_str())),
            check_payload_format: mqtt.check_payload_format,
            maximum_topic_levels: self.limits.topic_levels,
            ..ServerProfile::default()
        }
    }

    /// What the broker is to enforce.
    #[must_use]
    pub(crate) fn broker_limits(&self) -> BrokerLimits {
        BrokerLimits {
            mailbox: self.mailbox.limits(),
            subscriptions_per_client: self.limits.subscriptions_per_client,
            attach_timeout: self.session.attach_timeout.duration(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_option() {
        let readme = include_str!("../../../README.md");
        let reference = daemon::reference(&PROGRAM);
        assert!(readme.contains(&reference), "README.md must hold:\n{reference}");
    }

    #[test]
    fn the_defaults_of_the_table_are_a_valid_configuration() {
        let config = Config::default();
        assert!(config.validate().is_ok());
        assert_eq!(config.mqtt.receive_maximum, 1024);
    }

    #[test]
    fn a_proxy_without_an_intermediate_is_refused() {
        let mut config = Config::default();
        config.cluster.intermediates.clear();
        let refused = config.validate().expect_err("it could keep nothing");
        assert_eq!(refused.key, "cluster.intermediates");
    }

    #[test]
    fn a_rate_too_high_to_be_kept_is_refused_by_its_key() {
        let mut config = Config::default();
        config.limits.connect_rate = MAXIMUM_RATE;
        assert!(config.validate().is_ok());
        config.limits.connect_rate = u32::MAX;
        assert_eq!(config.validate().expect_err("too high").key, "limits.connect_rate");
    }

    #[test]
    fn an_address_without_a_port_is_refused_by_its_key() {
        let mut config = Config::default();
        config.cluster.intermediates = vec!["relay.example".to_owned()];
        let refused = config.validate().expect_err("no port");
        assert_eq!(refused.key, "cluster.intermediates");
    }
}
