//! One endpoint: a proxy or the store, seen from here.
//!
//! Owns what belongs to a member: its streams, its table, its outbox, and what it waits for as an
//! origin. Does not decide when it is dead.

use std::time::{Duration, Instant};

use cluster_rpc::frame::{EndpointRole, Member, OriginId};
use cluster_rpc::origin_of;

use crate::outbox::Outbox;
use crate::pending::{Credit, Pending};
use crate::relay::{Peer, StreamId};
use crate::table::Table;

/// An endpoint and everything kept for it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) member: Member,
    /// A proxy until it says on its route stream what it is.
    pub(crate) role: EndpointRole,
    /// What its messages are known by.
    pub(crate) origin: OriginId,
    pub(crate) peer: Peer,
    pub(crate) last_heard: Instant,
    /// When its route stream ended, if it has none now.
    pub(crate) broken_at: Option<Instant>,
    pub(crate) routes: Option<Line>,
    pub(crate) publish: Option<Line>,
    pub(crate) deliver: Option<Line>,
    pub(crate) say: Say,
    pub(crate) table: Table,
    /// The newest change it had when it registered, until that one is applied.
    pub(crate) catching_up: Option<u64>,
    pub(crate) pending: Pending,
    pub(crate) credit: Credit,
    pub(crate) outbox: Outbox,
    /// The link id to be told next.
    pub(crate) link_opened: Option<u64>,
}

/// An attached stream, and whether its sender knows that there is something to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) stream: StreamId,
    pub(crate) woken: bool,
}

/// What the route stream has to say: the newest of each kind, so it needs no queue.
#[derive(Debug, Default)]
pub(crate) struct Say {
    /// The change deltas are wanted from; inner `None`: a snapshot.
    pub(crate) welcome: Option<Option<u64>>,
    pub(crate) resync: bool,
    pub(crate) applied: Option<u64>,
    pub(crate) view: bool,
    pub(crate) beat_ack: Option<u64>,
}

impl Endpoint {
    /// One that has said nothing yet but who it is.
    pub(crate) fn new(member: Member, now: Instant) -> Self {
        Self {
            origin: origin_of(&member),
            member,
            role: EndpointRole::Proxy,
            peer: Peer::Remote,
            last_heard: now,
            broken_at: None,
            routes: None,
            publish: None,
            deliver: None,
            say: Say::default(),
            table: Table::default(),
            catching_up: None,
            pending: Pending::new(),
            credit: Credit::default(),
            outbox: Outbox::default(),
            link_opened: None,
        }
    }

    /// When it is given up if nothing is heard of it until then.
    pub(crate) fn deadline(&self, lease: Duration, local_return: Duration) -> Instant {
        let lease_end = self.last_heard + lease;
        match (self.broken_at, self.peer) {
            // The kernel closes a dead process's sockets, so here the stream's end says enough.
            (Some(broken_at), Peer::Local) => lease_end.min(broken_at + local_return),
            (Some(_), Peer::Remote) | (None, _) => lease_end,
        }
    }

    /// The route stream's view has changed.
    pub(crate) fn say_view(&mut self, wakes: &mut Vec<StreamId>) {
        self.say.view = true;
        wake(&mut self.routes, wakes);
    }
}

impl Line {
    pub(crate) fn new(stream: StreamId) -> Self {
        Self { stream, woken: false }
    }
}

/// Tells the sender of `line`, once, that there is something to send.
pub(crate) fn wake(line: &mut Option<Line>, wakes: &mut Vec<StreamId>) {
    if let Some(line) = line
        && !line.woken
    {
        line.woken = true;
        wakes.push(line.stream);
    }
}
