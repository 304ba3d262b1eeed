//! How each table lies on disk and in memory.
//!
//! Owns numbers only, with the reason for each. They are written into the database when it is made.

use fjall::KeyspaceCreateOptions;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};

use crate::store::Table;

const KIB: u32 = 1024;
const MIB: u64 = 1024 * 1024;

/// Memory for blocks that were read.
pub(super) const CACHE: u64 = 32 * MIB;
/// Journals are kept until the tables have what is in them. The least fjall takes: it is what has to be
/// read at the next start.
pub(super) const JOURNALS: u64 = 64 * MIB;
/// With so much in a journal a start begins another one: reading takes about 30 ms for each MiB.
pub(super) const READ_ONCE: u64 = 4 * MIB;
/// A table with so much in memory is written out. Queues are short-lived: what is deleted before that never is.
pub(super) const MEMORY_OF_TABLE: u64 = 16 * MIB;
/// All tables together.
pub(super) const MEMORY: u64 = 32 * MIB;
/// At this, commits wait until something is written out.
pub(super) const MEMORY_LIMIT: u64 = 128 * MIB;
/// What a row takes in memory beside its bytes.
pub(super) const ROW_OVERHEAD: u64 = 96;

/// How rows of a table are looked for.
enum Access {
    /// One by one, and they are there.
    Point,
    /// In the order of their keys, page by page.
    Pages,
}

impl Table {
    /// Its name in the database. Never changed.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Session => "session",
            Self::Subscription => "subscription",
            Self::Cursor => "cursor",
            Self::Inbox => "inbox",
            Self::Body => "body",
            Self::BodyUse => "body_use",
            Self::Incoming => "incoming",
            Self::Lane => "lane",
            Self::Once => "once",
            Self::Outbox => "outbox",
            Self::Scan => "scan",
            Self::Retained => "retained",
            Self::Group => "group",
            Self::Member => "member",
            Self::GroupQueue => "group_queue",
        }
    }

    const fn access(self) -> Access {
        match self {
            Self::Inbox
            | Self::GroupQueue
            | Self::Subscription
            | Self::Member
            | Self::Scan
            | Self::Outbox => Access::Pages,
            Self::Meta
            | Self::Session
            | Self::Cursor
            | Self::Body
            | Self::BodyUse
            | Self::Incoming
            | Self::Lane
            | Self::Once
            | Self::Retained
            | Self::Group => Access::Point,
        }
    }
}

/// How `table` is made.
pub(super) fn options(table: Table) -> KeyspaceCreateOptions {
    // Small files: one worker does everything, and what it does at a time keeps it from writing memory out.
    let compaction = Leveled::default().with_table_target_size(16 * MIB);
    let options = KeyspaceCreateOptions::default()
        .compaction_strategy(std::sync::Arc::new(compaction))
        // Never by fjall itself: each commit would ask its worker for it again until that is done, and a worker that
        // finds its own queue full then waits for itself.
        .max_memtable_size(u64::MAX);
    match table.access() {
        // A filter does not help with ranges, and rows of queues are gone before they get deep.
        Access::Pages => options
            .filter_policy(FilterPolicy::disabled())
            .data_block_size_policy(BlockSizePolicy::all(16 * KIB)),
        Access::Point => options
            .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(
                BloomConstructionPolicy::BitsPerKey(10.0),
            )))
            .expect_point_read_hits(true)
            .data_block_size_policy(BlockSizePolicy::all(4 * KIB)),
    }
}
