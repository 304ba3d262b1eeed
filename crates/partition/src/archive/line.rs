//! The lines of an archive, as they are documented: one JSON object for each row.
//!
//! Owns the names of fields. They do not change within a version of the format.

use serde::{Deserialize, Serialize};

use crate::archive::text::{Hex, Key, MessageText, Name};

/// The format that is written, and the newest that is read.
pub(super) const FORMAT: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// The format.
    pub(super) causeway_archive: u32,
    /// Of the store it comes from.
    pub(super) partitions: u16,
}

/// The last line: without it, the archive was cut short.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Footer {
    /// Lines between the first and this one.
    pub(super) rows: u64,
}

/// What a subscription asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    pub(super) qos: u8,
    #[serde(default)]
    pub(super) no_local: bool,
    #[serde(default)]
    pub(super) retain_as_published: bool,
    #[serde(default)]
    pub(super) retain_handling: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subscription_id: Option<u32>,
}

/// A connection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HolderText {
    pub(super) proxy: Name,
    pub(super) connection: u64,
}

/// A will that was not published yet.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WillText {
    pub(super) delay_secs: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<u64>,
    /// Whether any new connection of the client calls it off.
    #[serde(default)]
    pub(super) grace: bool,
    pub(super) message: MessageText,
}

/// A message in a queue.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryText {
    pub(super) qos: u8,
    #[serde(default)]
    pub(super) retain: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) subscription_ids: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    /// What it counts for, in bytes.
    pub(super) weight: u64,
    /// The message, if it stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<MessageText>,
    /// The number of its body in the same partition, if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<u64>,
}

/// A row.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// Numbers given out in a partition.
    Numbers {
        partition: u16,
        partitions: u16,
        numbers: u64,
        lsn: u64,
    },
    /// Moments are milliseconds since 1970.
    Session {
        session: Name,
        kind: String,
        client: String,
        epoch: u64,
        fresh: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<HolderText>,
        expiry_secs: u32,
        receive_maximum: u16,
        /// Of one with a holder: when that was attached.
        detached_at: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        will: Option<WillText>,
    },
    Subscription {
        session: Name,
        filter: String,
        options: Options,
    },
    /// How far a session's queue is.
    Queue {
        session: Name,
        swept: u64,
        floor: u64,
        next: u64,
        bytes: u64,
        /// Up to here a connection may have been given them.
        sent: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        done: Vec<(u64, u64)>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        received: Vec<u64>,
    },
    /// Messages of a session's queue that follow each other.
    Messages {
        session: Name,
        first: u64,
        messages: Vec<EntryText>,
    },
    /// A message that lies in several queues.
    Body {
        partition: u16,
        number: u64,
        message: MessageText,
    },
    /// In how many.
    BodyUse {
        partition: u16,
        number: u64,
        queues: u64,
    },
    /// A QoS 2 message from a client that is not released.
    Incoming {
        session: Name,
        packet_id: u16,
        /// `None` if it was taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Key>,
    },
    /// The last number taken of an origin's lane, and runs of refused ones.
    Lane {
        partition: u16,
        origin: Name,
        lane: u8,
        last: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<(u64, u64)>,
    },
    /// A message that was taken.
    Once {
        partition: u16,
        key: Key,
        until: u64,
    },
    /// A will on its way to the relays.
    Outbox {
        partition: u16,
        number: u64,
        key: Key,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
        message: MessageText,
    },
    /// Retained messages that a subscription is still owed.
    Scan {
        session: Name,
        number: u64,
        filter: String,
        qos: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subscription_id: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        since: u64,
    },
    Retained {
        partition: u16,
        version: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
        message: MessageText,
    },
    /// The number of the next group of a partition.
    GroupNumbers {
        partition: u16,
        next: u64,
    },
    Group {
        group: Name,
        filter: String,
        qos: u8,
        dying: bool,
        floor: u64,
        next: u64,
        count: u64,
        bytes: u64,
    },
    /// Of a clean session if it names a proxy.
    Member {
        group: Name,
        session: Name,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proxy: Option<Name>,
        options: Options,
    },
    /// A message of a group's queue.
    GroupMessage {
        group: Name,
        place: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        only: Option<Name>,
        publisher: Name,
        proxy: Name,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
        message: MessageText,
    },
    /// A row that has no better form.
    Raw {
        table: String,
        key: Hex,
        value: Hex,
    },
}
