//! What handling commands has changed and is not committed yet.
//!
//! Owns the rows, effects and commands between partitions that go together. Invariant: a command
//! between partitions is applied before the commit that its cause is part of, so both are committed
//! or neither. Does not: decide anything.

use std::sync::Arc;

use mqtt_codec::{Message, QoS, SubscriptionId, SubscriptionOptions, TopicFilter};

use crate::effect::Effect;
use crate::id::{
    ClientHash, Epoch, GroupId, Holder, Lsn, OnceKey, PartitionId, ProxyId, QueueSeq, SessionId,
    UnixMillis,
};
use crate::row::EntryHead;
use crate::stats::{DropReason, Dropped};
use crate::store::Batch;

/// When a command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// One more with each command of the owner, also after the store is opened again.
    pub(crate) lsn: Lsn,
    /// Comes with the command.
    pub(crate) now: UnixMillis,
}

/// What one commit collects.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The rows.
    pub(crate) batch: Batch,
    /// Come out after the commit.
    pub(crate) effects: Vec<Effect>,
    /// Applied before it.
    pub(crate) forwards: Vec<(PartitionId, Internal)>,
    /// Filters that somebody wants, or does not want any more.
    pub(crate) routes: Vec<RouteChange>,
    /// Wills that are due, for everyone here and for the relays.
    pub(crate) wills: Vec<DueWill>,
    /// Connections that may have something to take.
    pub(crate) ready: Vec<Ready>,
    /// Sessions whose scan of retained messages is to go on.
    pub(crate) scans: Vec<SessionId>,
    /// Rows of queues that are still being put together, in bytes.
    pub(crate) queued_bytes: usize,
    /// Messages that are not delivered, by reason.
    pub(crate) dropped: Dropped,
}

impl Changes {
    /// Counts messages that are not delivered.
    pub(crate) fn drop(&mut self, reason: DropReason, messages: u64) {
        self.dropped.add(reason, messages);
    }

    /// One more of a partition wants `filter` at this QoS.
    pub(crate) fn want(&mut self, partition: PartitionId, filter: &TopicFilter, qos: QoS) {
        let filter = filter.clone();
        self.routes.push(RouteChange { partition, filter, qos, count: 1 });
    }

    /// One of those that wanted `filter` at this QoS does not any more.
    pub(crate) fn unwant(&mut self, partition: PartitionId, filter: &TopicFilter, qos: QoS) {
        let filter = filter.clone();
        self.routes.push(RouteChange { partition, filter, qos, count: -1 });
    }
}

/// A filter is wanted by more or by fewer of a partition.
#[derive(Clone, Debug)]
pub(crate) struct RouteChange {
    pub(crate) partition: PartitionId,
    pub(crate) filter: TopicFilter,
    pub(crate) qos: QoS,
    pub(crate) count: i32,
}

/// Something of which a connection of this proxy may have a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ready {
    pub(crate) proxy: ProxyId,
    pub(crate) what: Source,
}

/// Where deliveries come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A session's own queue.
    Session(SessionId),
    /// What groups of a partition have given to members of the proxy.
    Groups(PartitionId),
}

/// A will whose time has come: its session's row has it no more.
#[derive(Clone, Debug)]
pub(crate) struct DueWill {
    pub(crate) session: SessionId,
    pub(crate) publisher: ClientHash,
    pub(crate) once: OnceKey,
    pub(crate) message: Arc<Message>,
    pub(crate) expires_at: Option<UnixMillis>,
}

/// A member of a group that has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) session: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) holder: Holder,
    /// Most unconfirmed messages of the group at a time.
    pub(crate) receive_maximum: u16,
}

/// Whether a member's session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// It does: its row is kept, and QoS 2 messages go into its own queue.
    Persistent,
    /// It does not.
    Clean,
}

/// Commands from one partition to another.
#[derive(Clone, Debug)]
pub(crate) enum Internal {
    /// A session subscribes to a shared filter, or changes its options.
    JoinGroup(Box<JoinGroup>),
    /// It does not any more.
    LeaveGroup { filter: TopicFilter, session: SessionId },
    /// A member has a connection again.
    MemberBack {
        filter: TopicFilter,
        member: Member,
        /// Deliveries that have arrived and are not acknowledged, if it is the connection it was.
        arrived: Vec<(GroupId, QueueSeq)>,
    },
    /// A member has no connection; its session goes on.
    MemberAway { filter: TopicFilter, session: SessionId },
    /// A member's own queue, into which QoS 2 messages of its groups go, has room for more.
    MemberDrained { session: SessionId },
    /// A message for a session's own queue.
    Deliver { session: SessionId, head: EntryHead, message: Arc<Message> },
}

/// A session's share in a group.
#[derive(Clone, Debug)]
pub(crate) struct JoinGroup {
    /// `$share/{name}/{filter}`.
    pub(crate) filter: TopicFilter,
    pub(crate) session: SessionId,
    pub(crate) kind: MemberKind,
    pub(crate) options: SubscriptionOptions,
    pub(crate) subscription_id: Option<SubscriptionId>,
    /// Its connection.
    pub(crate) member: Member,
}
