//! The configuration of an intermediate: its table of options, and the typed values.

use std::net::SocketAddr;

use cluster_rpc::Token;
use cluster_rpc::frame::NodeId;
use daemon::{ByteSize, LogConfig, Opt, OptKind, Period, Program, Refused, Secret, Validate};
use serde::Deserialize;

pub use self::store::{
    DataConfig, Durability, GroupConfig, InboxConfig, LimitsConfig, Strategy, WhenEmpty, WhenFull,
    WillConfig,
};
use crate::outbox::OutboxLimits;
use crate::pending::Amount;

mod store;

/// Longest time that makes sense for a lease or a wait, in seconds.
const LONGEST_SECS: u64 = 600;
const MIB: u64 = 1 << 20;

/// Every option, in the order of the reference.
pub static PROGRAM: Program = Program {
    name: "intermediate-server",
    about: "The relay between the proxies of a Causeway cluster, and the store of what the cluster remembers",
    env_prefix: "CAUSEWAY",
    options: OPTIONS,
    after_help: "Examples:\n  intermediate-server\n      Serves proxies on port 7420 of all addresses\n  \
        intermediate-server --listen 10.0.0.7:7420 --cluster-token-file /etc/causeway/token\n      \
        Only for proxies that know the secret\n  \
        intermediate-server --data-directory /var/lib/causeway --data-durability fsync\n      \
        Keeps the store there, and loses nothing when the power fails\n  \
        intermediate-server --data-directory \"\"\n      \
        Relays only: the store is at another intermediate, whose cluster.peers names this one\n  \
        intermediate-server --config intermediate.toml --check-config\n      \
        Says whether a configuration is right\n\n\
        Signals: SIGTERM and SIGINT stop it cleanly.",
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "node_id",
        "\"\"",
        "",
        "Name of this intermediate, unique in the cluster; empty: the host name and the port of `listen`",
        OptKind::Text,
    ),
    Opt::new("listen", "\"0.0.0.0:7420\"", "", "Address on which proxies connect", OptKind::Text),
    Opt::new(
        "admin_listen",
        "\"127.0.0.1:9420\"",
        "",
        "Address of the HTTP interface with /metrics, /livez and /readyz; empty: none",
        OptKind::Text,
    ),
    Opt::new(
        "cluster.token",
        "",
        "",
        "Secret shared by all processes of the cluster",
        OptKind::Secret,
    ),
    Opt::new(
        "cluster.lease",
        "\"6s\"",
        "",
        "Time without a sign of life after which a proxy is taken for dead, 1s to 10m; the same on all processes",
        OptKind::Duration,
    ),
    Opt::new(
        "cluster.peers",
        "[]",
        "",
        "Other intermediates as host:port, which relay only: the store of this one connects to them",
        OptKind::List,
    ),
    Opt::new(
        "start_grace",
        "\"4s\"",
        "",
        "Time after the first proxy came in which those that nobody has named may still come, up to \
         10m; at most 1s if one of them was a member before",
        OptKind::Duration,
    ),
    Opt::new(
        "drain",
        "\"5s\"",
        "",
        "Time to finish what is on its way when it is stopped, up to 10m",
        OptKind::Duration,
    ),
    Opt::new(
        "maximum_packet_size",
        "\"1MiB\"",
        "",
        "Largest MQTT packet of the cluster, 1KiB to 256MiB; at least mqtt.maximum_packet_size of the proxies",
        OptKind::Size,
    ),
    Opt::new("maximum_routes", "10000000", "routes", "Most routes of one proxy", OptKind::Integer),
    Opt::new(
        "credit.messages",
        "8192",
        "messages",
        "Most messages a proxy may send ahead, at least 1",
        OptKind::Integer,
    ),
    Opt::new(
        "credit.bytes",
        "\"16MiB\"",
        "",
        "Most bytes a proxy may send ahead, at least 64KiB",
        OptKind::Size,
    ),
    Opt::new(
        "outbox.bytes",
        "\"64MiB\"",
        "",
        "When this much waits for one proxy, no proxy may send more until a quarter is gone; at least 1MiB",
        OptKind::Size,
    ),
    Opt::new(
        "outbox.qos0_bytes",
        "\"32MiB\"",
        "",
        "When this much waits for a proxy, QoS 0 messages for it are dropped and counted; at most outbox.bytes",
        OptKind::Size,
    ),
    Opt::new(
        "outbox.window_messages",
        "8192",
        "messages",
        "Most messages on the way to a proxy that it has not yet taken, at least 1",
        OptKind::Integer,
    ),
    Opt::new(
        "outbox.window_bytes",
        "\"4MiB\"",
        "",
        "Most bytes of those messages, at least 64KiB; one larger message goes alone",
        OptKind::Size,
    ),
    Opt::new(
        "data.directory",
        "\"causeway-data\"",
        "",
        "Folder of the store: sessions, queues, retained messages, wills, groups; empty: no store here, this one relays only. \
         A cluster has exactly one",
        OptKind::Text,
    ),
    Opt::new(
        "data.partitions",
        "16",
        "partitions",
        "Parts of the store, 1 to 1024; fixed when it is made",
        OptKind::Integer,
    ),
    Opt::new(
        "data.durability",
        "\"os\"",
        "",
        "What is committed survives: os (the end of any process; at a power failure up to 1s is lost) or fsync (a power failure too)",
        OptKind::Text,
    ),
    Opt::new(
        "data.reserve",
        "\"256MiB\"",
        "",
        "With less free space on the disk what adds to the store is refused: QoS 1 and 2 with 0x97",
        OptKind::Size,
    ),
    Opt::new(
        "inbox.messages",
        "100000",
        "messages",
        "Most messages waiting for a persistent session or a shared group",
        OptKind::Integer,
    ),
    Opt::new(
        "inbox.bytes",
        "\"256MiB\"",
        "",
        "Most bytes waiting for a persistent session or a shared group",
        OptKind::Size,
    ),
    Opt::new(
        "inbox.when_full",
        "\"drop-newest\"",
        "",
        "What a QoS 1 or 2 message does that finds it full: reject-new (its publisher gets 0x97, nobody's queue gets it), \
         drop-newest or drop-oldest. Every drop is counted",
        OptKind::Text,
    ),
    Opt::new(
        "limits.sessions",
        "1000000",
        "sessions",
        "Most persistent sessions; then new ones are refused with 0x97",
        OptKind::Integer,
    ),
    Opt::new(
        "limits.subscriptions_per_session",
        "1000",
        "subscriptions",
        "Most subscriptions of one persistent session",
        OptKind::Integer,
    ),
    Opt::new(
        "limits.retained_messages",
        "1000000",
        "messages",
        "Most retained messages",
        OptKind::Integer,
    ),
    Opt::new(
        "limits.retained_bytes",
        "\"256MiB\"",
        "",
        "Most memory for retained messages",
        OptKind::Size,
    ),
    Opt::new(
        "group.strategy",
        "\"round-robin\"",
        "",
        "Which member of a shared group gets a message: round-robin, least-in-flight, sticky-client, hash-topic or local-first",
        OptKind::Text,
    ),
    Opt::new(
        "group.when_empty",
        "\"drop\"",
        "",
        "What happens to a group's queue when its last member unsubscribes: drop or keep",
        OptKind::Text,
    ),
    Opt::new(
        "will.rate",
        "5000",
        "per second",
        "Most wills published in a second, at least 1; the others wait their turn",
        OptKind::Integer,
    ),
    Opt::new("workers", "0", "threads", "Worker threads; 0: one per processor", OptKind::Integer),
    daemon::LOG_LEVEL,
    daemon::LOG_FORMAT,
    daemon::EXIT_WITH_PARENT,
];

/// The configuration of an intermediate. [`Default`] is what the table says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name in the cluster; empty: the host name and the port.
    pub node_id: String,
    /// Where proxies connect.
    pub listen: SocketAddr,
    /// The HTTP interface.
    #[serde(deserialize_with = "address_or_none")]
    pub admin_listen: Option<SocketAddr>,
    /// What holds for all processes of the cluster.
    pub cluster: ClusterConfig,
    /// Wait after the first proxy came.
    pub start_grace: Period,
    /// Wait before the end.
    pub drain: Period,
    /// Largest MQTT packet of the cluster.
    pub maximum_packet_size: ByteSize,
    /// Most routes of one proxy.
    pub maximum_routes: usize,
    /// What a proxy may send ahead.
    pub credit: CreditConfig,
    /// What waits for a proxy.
    pub outbox: OutboxConfig,
    /// Where the store is.
    pub data: DataConfig,
    /// What waits for a session.
    pub inbox: InboxConfig,
    /// How much the store takes.
    pub limits: LimitsConfig,
    /// Shared groups.
    pub group: GroupConfig,
    /// Wills.
    pub will: WillConfig,
    /// Worker threads; 0: one per processor.
    pub workers: usize,
    /// Logs.
    pub log: LogConfig,
    /// Stop when standard input ends.
    pub exit_with_parent: bool,
}

/// Section `cluster`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// What proxies must present.
    #[serde(default)]
    pub token: Option<Secret>,
    /// Silence after which a proxy is dead.
    pub lease: Period,
    /// Intermediates without a store, as `host:port`.
    pub peers: Vec<String>,
}

/// Section `credit`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditConfig {
    /// In messages.
    pub messages: u64,
    /// In bytes.
    pub bytes: ByteSize,
}

/// Section `outbox`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxConfig {
    /// Beyond it no proxy gets credit.
    pub bytes: ByteSize,
    /// Beyond it QoS 0 is dropped.
    pub qos0_bytes: ByteSize,
    /// On the link, in messages.
    pub window_messages: usize,
    /// On the link, in bytes.
    pub window_bytes: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        daemon::defaults(&PROGRAM).expect("a test reads the table's defaults")
    }
}

impl Config {
    /// The name in the cluster of an intermediate that listens on `port`.
    ///
    /// # Errors
    /// `node_id`, if it is no name.
    pub fn node(&self, port: u16) -> Result<NodeId, Refused> {
        let name = match self.node_id.as_str() {
            "" => format!("{}:{port}", host_name()),
            name => name.to_owned(),
        };
        NodeId::new(&name).ok_or_else(|| {
            let expected = "1 to 255 bytes without control characters";
            Refused::new("node_id", format!("{name:?}"), expected)
        })
    }

    /// The name in the cluster of this intermediate's store.
    pub(crate) fn store_node(&self, port: u16) -> Result<NodeId, Refused> {
        let node = self.node(port)?;
        NodeId::new(&format!("{node}/store")).ok_or_else(|| {
            let expected = "at most 249 bytes";
            Refused::new("node_id", format!("{:?}", node.as_str()), expected)
        })
    }

    pub(crate) fn token(&self) -> Result<Option<Token>, Refused> {
        let Some(secret) = &self.cluster.token else {
            return Ok(None);
        };
        let token = Token::new(secret.reveal()).ok_or_else(|| {
            let expected = "visible ASCII characters, at least one";
            Refused::new("cluster.token", "(hidden)", expected)
        })?;
        Ok(Some(token))
    }

    pub(crate) fn credit(&self) -> Amount {
        Amount { messages: self.credit.messages, bytes: self.credit.bytes.bytes() }
    }

    pub(crate) fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits {
            bytes: self.outbox.bytes.bytes(),
            qos0_bytes: self.outbox.qos0_bytes.bytes(),
            window_bytes: self.outbox.window_bytes.bytes(),
            window_messages: self.outbox.window_messages,
            ..OutboxLimits::default()
        }
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Refused> {
        self.store_node(self.listen.port())?;
        self.token()?;
        self.log.validate()?;
        self.validate_store()?;
        let periods = [
            ("cluster.lease", self.cluster.lease, 1, "1s to 10m"),
            ("start_grace", self.start_grace, 0, "at most 10m"),
            ("drain", self.drain, 0, "at most 10m"),
        ];
        for (key, period, least, expected) in periods {
            let (secs, exact) =
                (period.duration().as_secs(), period.duration().subsec_nanos() == 0);
            if secs < least || secs > LONGEST_SECS || (secs == LONGEST_SECS && !exact) {
                return Err(Refused::new(key, format!("\"{period}\""), expected));
            }
        }
        let sizes = [
            ("maximum_packet_size", self.maximum_packet_size, 1 << 10, 256 * MIB, "1KiB to 256MiB"),
            ("credit.bytes", self.credit.bytes, 64 << 10, u64::MAX, "at least 64KiB"),
            ("outbox.bytes", self.outbox.bytes, MIB, u64::MAX, "at least 1MiB"),
            (
                "outbox.qos0_bytes",
                self.outbox.qos0_bytes,
                0,
                self.outbox.bytes.bytes(),
                "at most outbox.bytes",
            ),
            ("outbox.window_bytes", self.outbox.window_bytes, 64 << 10, u64::MAX, "at least 64KiB"),
        ];
        for (key, size, least, most, expected) in sizes {
            if !(least..=most).contains(&size.bytes()) {
                return Err(Refused::new(key, format!("\"{size}\""), expected));
            }
        }
        let numbers = [
            ("maximum_routes", self.maximum_routes as u64),
            ("credit.messages", self.credit.messages),
            ("outbox.window_messages", self.outbox.window_messages as u64),
        ];
        match numbers.into_iter().find(|&(_, number)| number == 0) {
            Some((key, number)) => Err(Refused::new(key, number, "at least 1")),
            None => Ok(()),
        }
    }
}

fn address_or_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            serde::de::Error::custom("an IP address and a port, such as 127.0.0.1:9420, or empty")
        }),
    }
}

/// The machine's name, or a word in its place.
fn host_name() -> String {
    let read = |path| std::fs::read_to_string(path).ok();
    let name = read("/proc/sys/kernel/hostname").or_else(|| read("/etc/hostname"));
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    match name.trim() {
        "" => "intermediate".to_owned(),
        name => name.to_owned(),
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
    fn the_defaults_of_the_table_are_a_valid_configuration_and_those_of_the_relay() {
        let config = Config::default();
        let relay = crate::relay::RelayConfig::new(cluster_rpc::frame::Member {
            node: config.node(7420).unwrap(),
            incarnation: cluster_rpc::frame::Incarnation(1),
        });
        assert_eq!(config.outbox_limits(), relay.outbox);
        assert_eq!(config.credit(), relay.credit);
        assert_eq!(config.cluster.lease.duration(), relay.lease);
        assert_eq!(config.start_grace.duration(), relay.start_grace);
        assert_eq!(config.maximum_routes, relay.max_routes);
    }

    #[test]
    fn a_refusal_names_the_key_the_value_and_what_would_be_right() {
        type Change = fn(&mut Config);
        let cases: [(Change, &str); 14] = [
            (|c| c.node_id = "a\nb".into(), "node_id"),
            (|c| c.cluster.token = Some(Secret::new("a b")), "cluster.token"),
            (
                |c| c.cluster.lease = std::time::Duration::from_millis(900).into(),
                "cluster.lease = \"900ms\"",
            ),
            (|c| c.start_grace = std::time::Duration::from_secs(601).into(), "start_grace"),
            (|c| c.maximum_packet_size = ByteSize::new(1), "maximum_packet_size = \"1B\""),
            (|c| c.outbox.qos0_bytes = ByteSize::new(65 * MIB), "outbox.qos0_bytes"),
            (|c| c.credit.messages = 0, "credit.messages = 0: must be at least 1"),
            (|c| c.log.level = "=".into(), "log.level"),
            (|c| c.node_id = "n".repeat(250), "node_id"),
            (|c| c.cluster.peers = vec!["relay.example".into()], "cluster.peers"),
            (|c| c.data.partitions = 0, "data.partitions = 0: must be 1 to 1024"),
            (|c| c.inbox.messages = 0, "inbox.messages = 0: must be at least 1"),
            (|c| c.limits.sessions = 0, "limits.sessions"),
            (|c| c.will.rate = 0, "will.rate = 0: must be at least 1"),
        ];
        for (change, start) in cases {
            let mut config = Config::default();
            change(&mut config);
            let refused = config.validate().unwrap_err().to_string();
            assert!(refused.starts_with(start), "{refused}");
        }
    }
}
