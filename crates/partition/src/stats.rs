//! Counts for metrics.

/// Why a message is not delivered to one who wanted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A session's queue was full.
    InboxFull,
    /// A group's queue was full.
    GroupFull,
    /// It expired before it was delivered.
    Expired,
    /// QoS 0, and nobody of a group was connected.
    NoMember,
    /// QoS 0, and the session did not take what it had.
    QoS0Full,
    /// A QoS 2 message of a group whose member is gone.
    MemberGone,
    /// There is no room for another retained message. It was delivered.
    RetainedFull,
    /// The session or the group was ended with messages in its queue.
    Ended,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::InboxFull,
        Self::GroupFull,
        Self::Expired,
        Self::NoMember,
        Self::QoS0Full,
        Self::MemberGone,
        Self::RetainedFull,
        Self::Ended,
    ];

    /// As a label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::InboxFull => "inbox_full",
            Self::GroupFull => "group_full",
            Self::Expired => "expired",
            Self::NoMember => "no_member",
            Self::QoS0Full => "qos0_full",
            Self::MemberGone => "member_gone",
            Self::RetainedFull => "retained_full",
            Self::Ended => "ended",
        }
    }
}

/// Messages not delivered since the owner was opened, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped([u64; DropReason::ALL.len()]);

impl Dropped {
    /// For this reason.
    #[must_use]
    pub const fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    pub(crate) const fn add(&mut self, reason: DropReason, messages: u64) {
        self.0[reason as usize] += messages;
    }
}

/// What an owner has and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions that outlive their connection.
    pub persistent_sessions: u64,
    /// Sessions with a connection, of either kind.
    pub attached: u64,
    /// Subscriptions of persistent sessions, without shared ones.
    pub subscriptions: u64,
    /// Messages above QoS 0 in the queues of sessions.
    pub queued_messages: u64,
    /// What they count for, in bytes.
    pub queued_bytes: u64,
    /// Shared groups.
    pub groups: u64,
    /// Messages in their queues.
    pub group_messages: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// What they count for, in bytes.
    pub retained_bytes: u64,
    /// Wills on their way to the relays.
    pub outbox: u64,
    /// Wills published.
    pub wills: u64,
    /// Sessions that ended because nobody came back.
    pub expired_sessions: u64,
    /// Messages not taken, for a reason that their publisher heard.
    pub refused_messages: u64,
    /// Messages dropped because they had come before.
    pub repeated_messages: u64,
    /// Messages dropped on the way to one who wanted them.
    pub dropped: Dropped,
    /// Batches written.
    pub commits: u64,
    /// Rows in them.
    pub rows: u64,
    /// Keys and values in them, in bytes.
    pub row_bytes: u64,
}
