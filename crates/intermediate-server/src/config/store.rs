//! The sections about the store: where it is, what it takes, how it gives to groups.

use std::path::PathBuf;

use daemon::{ByteSize, Refused};
use serde::Deserialize;

use super::Config;

/// Most partitions: their number is in 16 bits of every key, and each costs memory.
const MOST_PARTITIONS: u16 = 1024;

/// Section `data`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where the store is; `None`: not here.
    #[serde(deserialize_with = "folder_or_none")]
    pub directory: Option<PathBuf>,
    /// Into how many parts it is divided.
    pub partitions: u16,
    /// What a commit survives.
    pub durability: Durability,
    /// Free space below which nothing is added.
    pub reserve: ByteSize,
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// The end of any process.
    Os,
    /// A loss of power too.
    Fsync,
}

/// Section `inbox`: for sessions and groups.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboxConfig {
    /// Most messages.
    pub messages: u64,
    /// Most bytes.
    pub bytes: ByteSize,
    /// What a QoS 1 or 2 message does that finds it full.
    pub when_full: WhenFull,
}

/// What a QoS 1 or 2 message does that finds a queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// Its publisher is told.
    RejectNew,
    /// It is dropped.
    DropNewest,
    /// It takes the place of the oldest.
    DropOldest,
}

/// Section `limits`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Most persistent sessions.
    pub sessions: u64,
    /// Most subscriptions of each.
    pub subscriptions_per_session: u32,
    /// Most retained messages.
    pub retained_messages: u64,
    /// Most bytes of those.
    pub retained_bytes: ByteSize,
}

/// Section `group`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Which member gets a message.
    pub strategy: Strategy,
    /// What happens to the queue with the last member.
    pub when_empty: WhenEmpty,
}

/// Which member of a group gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Each in turn.
    RoundRobin,
    /// The one with the fewest unconfirmed.
    LeastInFlight,
    /// The same for each publisher.
    StickyClient,
    /// The same for each topic.
    HashTopic,
    /// One on the publisher's proxy, if there is one.
    LocalFirst,
}

/// What happens to a group's queue when its last member unsubscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenEmpty {
    /// It is deleted.
    Drop,
    /// It goes on for the next member.
    Keep,
}

/// Section `will`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WillConfig {
    /// Most in a second.
    pub rate: u32,
}

impl Config {
    pub(super) fn validate_store(&self) -> Result<(), Refused> {
        let partitions = self.data.partitions;
        if !(1..=MOST_PARTITIONS).contains(&partitions) {
            return Err(Refused::new("data.partitions", partitions, "1 to 1024"));
        }
        let numbers = [
            ("inbox.messages", self.inbox.messages),
            ("inbox.bytes", self.inbox.bytes.bytes()),
            ("limits.sessions", self.limits.sessions),
            ("limits.subscriptions_per_session", u64::from(self.limits.subscriptions_per_session)),
            ("will.rate", u64::from(self.will.rate)),
        ];
        if let Some((key, number)) = numbers.into_iter().find(|&(_, number)| number == 0) {
            return Err(Refused::new(key, number, "at least 1"));
        }
        self.cluster.peers.iter().try_for_each(|address| check_address(address))
    }
}

fn check_address(address: &str) -> Result<(), Refused> {
    let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if valid {
        return Ok(());
    }
    let expected = "host:port, as relay.example:7420 or 10.0.0.7:7420";
    Err(Refused::new("cluster.peers", format!("{address:?}"), expected))
}

fn folder_or_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
}
