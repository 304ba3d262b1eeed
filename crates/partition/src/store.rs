//! Rows on disk, behind the smallest trait that a partition needs.
//!
//! Everything durable goes through [`Store::commit`]: one batch, all or nothing. A replicated log
//! would take its place there: append first, then write the same rows here as a cache.

use bytes::Bytes;

mod chain;
mod fjall_store;
mod home;
mod journal;
mod keeper;
mod manifests;
mod memory;
mod tail;
mod tuning;

pub use fjall_store::{Durability, FjallConfig, FjallStore};
pub use memory::MemoryStore;

/// The tables. Keys are big-endian and begin with the partition (2 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// (partition): numbers given out and the log number reached.
    Meta,
    /// (partition, session): who it is, who holds it, will, expiry.
    Session,
    /// (partition, session, filter): options and subscription identifier.
    Subscription,
    /// (partition, session): how far the queue is; small and often rewritten.
    Cursor,
    /// (partition, session, last place of the chunk): messages that were queued by one commit.
    Inbox,
    /// (partition, number): a message shared by several queues.
    Body,
    /// (partition, number): how many queues still need the body.
    BodyUse,
    /// (partition, session, packet identifier): key of a QoS 2 message from the client.
    Incoming,
    /// (partition, origin, lane): the last number taken.
    Lane,
    /// (partition, key): until when it is known.
    Once,
    /// (partition, number): a will on its way.
    Outbox,
    /// (partition, session, number): retained messages that a subscription is still owed.
    Scan,
    /// (partition, topic): the retained message.
    Retained,
    /// (partition, group): its filter, numbers and position.
    Group,
    /// (partition, group, session): options of a member.
    Member,
    /// (partition, group, place): a message.
    GroupQueue,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Meta,
        Self::Session,
        Self::Subscription,
        Self::Cursor,
        Self::Inbox,
        Self::Body,
        Self::BodyUse,
        Self::Incoming,
        Self::Lane,
        Self::Once,
        Self::Outbox,
        Self::Scan,
        Self::Retained,
        Self::Group,
        Self::Member,
        Self::GroupQueue,
    ];
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets it.
    Put {
        /// Where.
        table: Table,
        /// Which.
        key: Bytes,
        /// To what.
        value: Bytes,
    },
    /// Takes it out; nothing if it is not there.
    Delete {
        /// Where.
        table: Table,
        /// Which.
        key: Bytes,
    },
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<Write>,
    bytes: usize,
}

impl Batch {
    /// Sets a row.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.writes.push(Write::Put { table, key, value });
    }

    /// Takes a row out.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        let key = key.into();
        self.bytes += key.len();
        self.writes.push(Write::Delete { table, key });
    }

    /// In order; of several for one row the last counts.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Keys and values, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Starts anew and keeps the memory.
    pub fn clear(&mut self) {
        self.writes.clear();
        self.bytes = 0;
    }
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Enough,
    /// Only for what frees room: what adds to the store is to be refused.
    Low,
}

/// Why a store failed. It is not to be used any more: what was committed is found by opening it again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("the store at {path} failed: {error}")]
    Io {
        /// Where.
        path: String,
        /// What the system says.
        error: String,
    },
    /// A row cannot be what was written.
    #[error("a row of table {table:?} is damaged: {what}")]
    Damaged {
        /// Where.
        table: Table,
        /// How.
        what: &'static str,
    },
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Only one process at a time.
    #[error("the store at {path} is in use by another process")]
    InUse {
        /// Where.
        path: String,
    },
    /// It is none, or not one for this version.
    #[error("the store at {path} cannot be used: {what}")]
    Format {
        /// Where.
        path: String,
        /// What it has.
        what: String,
    },
    /// The number of partitions is fixed when a store is made.
    #[error(
        "the store at {path} has {stored} partitions, and {wanted} are configured: their number is fixed when a store is \
         made; to change it, export the store and import it into a new one"
    )]
    Partitions {
        /// Where.
        path: String,
        /// As it was made.
        stored: u16,
        /// As is configured.
        wanted: u16,
    },
    /// Something that had been committed is not there.
    #[error(
        "the store at {path} is damaged: {what}. It was not changed. Put back a backup; or save what can be read with \
         `causeway data export --damaged`, and import it into a new store"
    )]
    Broken {
        /// Where.
        path: String,
        /// What is missing.
        what: String,
    },
    /// There is no space left on its disk. When there is, it can be opened.
    #[error("the disk of the store at {path} is full: {error}")]
    Full {
        /// Where.
        path: String,
        /// What the system says.
        error: String,
    },
    /// Reading or writing failed.
    #[error("the store at {path} cannot be opened: {error}")]
    Io {
        /// Where.
        path: String,
        /// What the system says.
        error: String,
    },
}

/// Rows of one process.
pub trait Store: Send {
    /// Makes all changes of `batch`, or none. When it returns they are committed: a `kill -9` of this process loses
    /// none of them, and, if the store was opened so, neither does a loss of power.
    ///
    /// # Errors
    /// The store has failed.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// The row with this key.
    ///
    /// # Errors
    /// The store has failed.
    fn lookup(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The rows from `from` on whose keys start with `prefix`, in the order of their keys, as long as
    /// `visit` returns true.
    ///
    /// # Errors
    /// The store has failed.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;

    /// Whether there is room.
    fn room(&self) -> Room;
}
