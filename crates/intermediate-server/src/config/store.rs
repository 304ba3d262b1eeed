//! The sections about the store: where it is, what it takes, how it gives to groups.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use cluster_rpc::UplinkConfig;
use cluster_rpc::frame::EndpointRole;
use daemon::{ByteSize, Refused};
use partition::{FjallConfig, GroupStrategy, Limits, OwnerConfig, QueueLimits};
use serde::Deserialize;

use super::Config;
use crate::host::{Folder, HostConfig, Running};

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
    /// Where the store is, if it is here.
    pub(crate) fn store_folder(&self) -> Option<Folder> {
        let config = FjallConfig {
            durability: match self.data.durability {
                Durability::Os => partition::Durability::Os,
                Durability::Fsync => partition::Durability::Fsync,
            },
            reserve_bytes: self.data.reserve.bytes(),
            partitions: self.data.partitions,
        };
        let path = self.data.directory.clone()?;
        Some(Folder { path, config })
    }

    /// How the store of an intermediate that listens on `own` takes part.
    pub(crate) fn host(&self, own: SocketAddr) -> Result<HostConfig, Refused> {
        let node = self.store_node(own.port())?;
        let mut intermediates = vec![reachable(own).to_string()];
        intermediates.extend(self.cluster.peers.iter().cloned());
        let uplink = UplinkConfig {
            node: node.clone(),
            role: EndpointRole::Store,
            intermediates,
            token: self.token()?,
            lease: self.cluster.lease.duration(),
            max_packet_bytes: self.maximum_packet_size.as_usize(),
            ..UplinkConfig::default()
        };
        Ok(HostConfig { running: Running::Threads, node, owner: self.owner(), uplink })
    }

    fn owner(&self) -> OwnerConfig {
        let queue = QueueLimits {
            messages: self.inbox.messages,
            bytes: self.inbox.bytes.bytes(),
            when_full: match self.inbox.when_full {
                WhenFull::RejectNew => partition::WhenFull::RejectNew,
                WhenFull::DropNewest => partition::WhenFull::DropNewest,
                WhenFull::DropOldest => partition::WhenFull::DropOldest,
            },
        };
        let strategy = match self.group.strategy {
            Strategy::RoundRobin => GroupStrategy::RoundRobin,
            Strategy::LeastInFlight => GroupStrategy::LeastInFlight,
            Strategy::StickyClient => GroupStrategy::StickyClient,
            Strategy::HashTopic => GroupStrategy::HashTopic,
            Strategy::LocalFirst => GroupStrategy::LocalFirst,
        };
        let when_empty = match self.group.when_empty {
            WhenEmpty::Drop => partition::WhenEmpty::Drop,
            WhenEmpty::Keep => partition::WhenEmpty::Keep,
        };
        OwnerConfig {
            partitions: self.data.partitions,
            limits: Limits {
                inbox: queue,
                group: queue,
                sessions: self.limits.sessions,
                subscriptions_per_session: self.limits.subscriptions_per_session,
                retained_messages: self.limits.retained_messages,
                retained_bytes: self.limits.retained_bytes.bytes(),
            },
            group: partition::GroupConfig { strategy, when_empty },
            wills_per_second: self.will.rate,
        }
    }

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

/// An address of this machine at which a listener of `address` is reached.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_table_are_those_of_the_partitions() {
        assert_eq!(Config::default().owner(), OwnerConfig::default());
    }

    #[test]
    fn the_store_reaches_its_own_intermediate_whatever_that_listens_on() {
        let mut config = Config::default();
        config.cluster.peers = vec!["other:7420".into()];
        for (listens, own) in [
            ("0.0.0.0:7420", "127.0.0.1:7420"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.7:2", "10.0.0.7:2"),
        ] {
            let host = config.host(listens.parse().unwrap()).unwrap();
            assert_eq!(host.uplink.intermediates, [own, "other:7420"]);
        }
    }
}
