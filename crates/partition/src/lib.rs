//! What the cluster remembers: persistent sessions, their queues, retained messages, wills and
//! shared groups.
//!
//! Owns the rows and every decision about them. The core of it, `Partition`, is a deterministic
//! state machine: a command and the time of it change what is in memory, and add rows and effects to the changes
//! of the commit being put together. No clock, no randomness; it reads queues and keys from the store, and
//! writes nothing itself.
//! `Owner` holds all partitions of one process over one [`Store`]: it collects commands, commits what they
//! changed as one batch, and only then lets their effects out. Invariant: no effect is visible
//! before everything that caused it is committed. Does not: open sockets, start tasks, read a clock.
//!
//! # Layout
//!
//! - `id`, `command`, `effect`: what goes in and what comes out
//! - `store`: the rows behind a trait: `FjallStore`, `MemoryStore`
//! - `row`: how each table's keys and values are written
//! - `partition`: the state machine, put together from `session`, `queue`, `window`, `lane`, `once`, `body`,
//!   `retained`, `group` and `will`; `changes`: what one commit collects
//! - `owner`: commands to partitions, group commit, what is ready for which proxy, what time brings
//! - [`archive`]: verify a store, dump it to lines, load it from lines

#![warn(missing_docs)]

pub mod archive;

mod body;
mod changes;
mod command;
mod config;
mod effect;
mod group;
mod id;
mod lane;
mod numbers;
mod once;
mod owner;
mod partition;
mod queue;
mod retained;
mod row;
mod session;
mod stats;
mod store;
mod will;
mod window;

pub use command::{
    Acknowledge, AcknowledgeGroup, Attach, Begin, Command, Detach, Farewell, Origin, Publish,
    Reattach, Release, Subscribe, Taken, Unsubscribe, Withdraw,
};
pub use config::{
    GroupConfig, GroupStrategy, Limits, OwnerConfig, QueueLimits, WhenEmpty, WhenFull,
};
pub use effect::{Attached, Delivery, Effect, GroupDelivery, Refusal, Revocation};
pub use id::{
    ClientHash, Epoch, GroupId, Holder, Lsn, OnceKey, OutboxId, PartitionId, ProxyId, PublishToken,
    QueueSeq, RequestId, SessionId, UnixMillis,
};
pub use owner::{More, Owner, OwnerError, RetainedPage};
pub use stats::{DropReason, Dropped, Stats};
pub use store::{
    Batch, Durability, FjallConfig, FjallStore, MemoryStore, OpenError, Room, Store, StoreError,
    Table, Write,
};
