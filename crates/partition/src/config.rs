//! Limits and policies of an owner.

/// What an owner is to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerConfig {
    /// How many partitions there are: fixed when a store is made.
    pub partitions: u16,
    /// How much there may be.
    pub limits: Limits,
    /// How groups work.
    pub group: GroupConfig,
    /// Most wills published per second; the others wait.
    pub wills_per_second: u32,
}

impl Default for OwnerConfig {
    fn default() -> Self {
        Self {
            partitions: 16,
            limits: Limits::default(),
            group: GroupConfig::default(),
            wills_per_second: 5_000,
        }
    }
}

/// How much there may be, in all partitions together or in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of each session's queue.
    pub inbox: QueueLimits,
    /// Of each group's queue.
    pub group: QueueLimits,
    /// Persistent sessions.
    pub sessions: u64,
    /// Subscriptions of one session.
    pub subscriptions_per_session: u32,
    /// Retained messages.
    pub retained_messages: u64,
    /// What they count for, in bytes.
    pub retained_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inbox: QueueLimits::default(),
            group: QueueLimits::default(),
            sessions: 1_000_000,
            subscriptions_per_session: 1_000,
            retained_messages: 1_000_000,
            retained_bytes: 256 << 20,
        }
    }
}

/// Of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most messages.
    pub messages: u64,
    /// Most bytes.
    pub bytes: u64,
    /// What happens to one more.
    pub when_full: WhenFull,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { messages: 100_000, bytes: 256 << 20, when_full: WhenFull::default() }
    }
}

/// What happens to a message when a queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Nobody gets it, and its publisher is told.
    RejectNew,
    /// It is dropped for this queue, and counted.
    #[default]
    DropNewest,
    /// The oldest that was not sent yet is dropped, and counted.
    DropOldest,
}

/// How groups work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupConfig {
    /// Who gets the next message.
    pub strategy: GroupStrategy,
    /// What happens to the queue when the last member leaves.
    pub when_empty: WhenEmpty,
}

/// Which member of a group gets a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupStrategy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest unconfirmed.
    LeastInFlight,
    /// Always the same for a publisher.
    StickyClient,
    /// Always the same for a topic.
    HashTopic,
    /// One after the other among those at the publisher's proxy; among all, if there are none.
    LocalFirst,
}

/// What happens to a group's queue when its last member leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenEmpty {
    /// It is deleted.
    #[default]
    Drop,
    /// It is kept, and goes on to grow.
    Keep,
}
