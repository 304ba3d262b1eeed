//! The intermediates this proxy is told to use, what each knows of its routes, and who waits for that.
//!
//! Owns the routing table, this proxy's incarnation, one entry for each address, and the waiters of
//! [`applied`](crate::Uplink::applied). Invariant: a waiter is released only when each intermediate that may
//! carry a message has the change, or must have declared this proxy dead. Does no I/O; time is an
//! argument. After each change [`settle`](Roster::settle) draws the conclusions.

mod news;
#[cfg(test)]
mod tests;
mod waiters;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use self::news::{BeatDue, NewLink, Refused, RoutePoll, SessionStart};
use self::waiters::Waiters;
pub(crate) use self::waiters::{Wait, WaiterId};
use super::view::{Verdict, Views};
use crate::frame::{
    EndpointRole, Hello, Incarnation, Member, NodeId, PROTOCOL, RejectReason, RelayState, Route,
    View,
};
use crate::route_feed::RouteFeed;
use crate::route_log::{RouteLog, RouteSeq, Urgency};
use crate::uplink::IntermediateState;

/// First leap of an incarnation that is behind a later one of the same name, in microseconds.
const FIRST_LEAP: u64 = 1_000_000;

/// What is added to the lease: by then the other proxies use no intermediate that misses this one.
const GRACE: Duration = Duration::from_secs(2);

/// A link that ended no longer ago than this may have ended because of the one that is welcomed now.
const JUST_ENDED: Duration = Duration::from_secs(1);

/// How long the first intermediate waits for the others before it is used.
const FIRST_ROUND: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Roster {
    member: Member,
    role: EndpointRole,
    lease: Duration,
    log: RouteLog,
    names: Vec<Name>,
    entries: BTreeMap<SocketAddr, Entry>,
    views: Views<SocketAddr>,
    /// Until when nobody may be used before everybody was tried once: the first to answer may lack what
    /// the others know. `None` when that is over.
    first_round: Option<Instant>,
    /// How far the next incarnation is from one that was too old: doubles until one is not.
    leap: u64,
    /// The endpoints last heard of, for the next Hello.
    known: Vec<Member>,
    /// Whether one that had heard of everybody had this endpoint. Only then does it name itself: whoever joins
    /// takes it from that that the others it names are all there were.
    belongs: bool,
    /// Whether any let this life in, or one who waited for a change was told that all who count have it when nobody did:
    /// somebody relies on being sent what he subscribed to.
    relied_on: bool,
    waiters: Waiters,
    /// This endpoint goes for good: no session begins any more.
    leaving: bool,
}

/// A configured `host:port`.
#[derive(Debug)]
struct Name {
    text: String,
    addresses: Vec<SocketAddr>,
    since: Instant,
    /// It was looked up, whatever came of it.
    tried: bool,
}

/// One address.
#[derive(Debug)]
struct Entry {
    name: String,
    phase: Phase,
    /// It has told its view, or could not be reached.
    tried: bool,
    /// Nothing listened there when it was last tried.
    refused: bool,
    member: Option<Member>,
    applied: Option<u64>,
    session: Option<RouteSession>,
    eligible: watch::Sender<bool>,
    stop: CancellationToken,
}

/// One attempt to keep a route stream.
#[derive(Debug)]
struct RouteSession {
    id: u64,
    feed: RouteFeed,
    waker: Option<Waker>,
    end: CancellationToken,
}

/// How a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Down {
        since: Instant,
    },
    /// Another address leads to this intermediate.
    Standby {
        node: NodeId,
    },
    Up,
}

impl Roster {
    pub(crate) fn new(
        member: Member,
        role: EndpointRole,
        names: &[String],
        lease: Duration,
        now: Instant,
    ) -> Self {
        let name = |text: &String| Name {
            text: text.clone(),
            addresses: Vec::new(),
            since: now,
            tried: false,
        };
        Self {
            member,
            role,
            lease,
            log: RouteLog::new(),
            names: names.iter().map(name).collect(),
            entries: BTreeMap::new(),
            views: Views::new(),
            first_round: Some(now + FIRST_ROUND),
            leap: FIRST_LEAP,
            known: Vec::new(),
            belongs: false,
            relied_on: false,
            waiters: Waiters::default(),
            leaving: false,
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.member.incarnation
    }

    /// Sets or withdraws a row.
    pub(crate) fn announce(&mut self, route: Route) -> RouteSeq {
        let (seq, urgency) = self.log.announce(route);
        if urgency == Urgency::AtOnce {
            for session in self.entries.values_mut().filter_map(|entry| entry.session.as_mut()) {
                session.wake();
            }
        }
        seq
    }

    pub(crate) fn is_applied(&mut self, seq: RouteSeq, now: Instant) -> bool {
        let is_applied = self.floor(now).is_some_and(|floor| seq.0 <= floor);
        self.relied_on |= is_applied;
        is_applied
    }

    /// Waits for a change; the waiter must be taken back if it is given up.
    pub(crate) fn wait(&mut self, seq: RouteSeq) -> Wait {
        self.waiters.push(seq)
    }

    pub(crate) fn give_up(&mut self, waiter: WaiterId) {
        self.waiters.remove(waiter);
    }

    /// A name resolved to these addresses: new ones get a link, vanished ones lose theirs once they
    /// are down for good. An empty list is taken for a failure of the resolver.
    pub(crate) fn handle_resolved(
        &mut self,
        name: &str,
        addresses: Vec<SocketAddr>,
        now: Instant,
    ) -> Vec<NewLink> {
        for known in self.names.iter_mut().filter(|known| known.text == name) {
            known.tried = true;
            if !addresses.is_empty() {
                known.addresses.clone_from(&addresses);
            }
        }
        if addresses.is_empty() {
            return Vec::new();
        }
        self.drop_vanished(now);
        let fresh: Vec<_> =
            addresses.into_iter().filter(|address| !self.entries.contains_key(address)).collect();
        fresh.into_iter().map(|address| self.add(name, address, now)).collect()
    }

    /// A link task begins a session: the next frame of its route stream is the Hello.
    pub(crate) fn begin(&mut self, address: SocketAddr, id: u64) -> Option<SessionStart> {
        let named = |other: &&Member| self.belongs || other.node != self.member.node;
        let hello = Hello {
            member: self.member.clone(),
            protocol: PROTOCOL,
            head_seq: self.log.head(),
            oldest_delta: self.log.oldest(),
            known: self.known.iter().filter(named).cloned().collect(),
            role: self.role,
            stray: self.role == EndpointRole::Proxy && self.relied_on && !self.views.any_complete(),
        };
        if self.leaving {
            return None;
        }
        let entry = self.entries.get_mut(&address)?;
        let end = entry.stop.child_token();
        let feed = RouteFeed::new(hello);
        entry.session = Some(RouteSession { id, feed, waker: None, end: end.clone() });
        entry.refused = false;
        Some(SessionStart {
            member: self.member.clone(),
            end,
            eligible: entry.eligible.subscribe(),
        })
    }

    /// An intermediate has let this proxy in. If another address led to it, that one stands by now.
    pub(crate) fn handle_welcome(
        &mut self,
        address: SocketAddr,
        member: Member,
        deltas_from: Option<u64>,
        now: Instant,
    ) {
        // A session that has meanwhile given way to another address takes nothing from it.
        if self.entries.get(&address).is_none_or(|entry| entry.session.is_none()) {
            return;
        }
        for (_, other) in self.entries.iter_mut().filter(|(other, _)| **other != address) {
            let same = other.member.as_ref().is_some_and(|known| known.node == member.node);
            // The intermediate ends the older link: that may be seen before this Welcome.
            let in_use = match other.phase {
                Phase::Up => true,
                Phase::Down { since } => now.saturating_duration_since(since) < JUST_ENDED,
                Phase::Standby { .. } => false,
            };
            if same && in_use {
                other.phase = Phase::Standby { node: member.node.clone() };
                other.end_session();
            }
        }
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        self.leap = FIRST_LEAP;
        self.relied_on = true;
        entry.phase = Phase::Up;
        entry.member = Some(member);
        entry.applied = deltas_from.and_then(|first| first.checked_sub(1));
        if let Some(session) = &mut entry.session {
            session.feed.handle_welcome(deltas_from, &self.log);
            session.wake();
        }
    }

    /// An intermediate has all changes up to `seq`. False if there are no such changes.
    pub(crate) fn handle_applied(&mut self, address: SocketAddr, seq: u64) -> bool {
        if seq > self.log.head() {
            return false;
        }
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.applied = entry.applied.max(Some(seq));
        }
        true
    }

    /// An intermediate's copy of the table is another one.
    pub(crate) fn handle_resync(&mut self, address: SocketAddr) {
        let session = self.entries.get_mut(&address).and_then(|entry| entry.session.as_mut());
        if let Some(session) = session {
            session.feed.handle_resync(&self.log);
            session.wake();
        }
    }

    pub(crate) fn handle_view(&mut self, address: SocketAddr, view: View, now: Instant) {
        self.views.handle_view(address, view, now);
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.tried = true;
        }
        let mut members = self.views.members();
        // One that joins has not heard of everybody: who is not there is learned only from others. A Hello
        // that left somebody out would let the next intermediate serve without them.
        if !self.views.any_complete() {
            let unheard = |old: &Member| members.iter().all(|member| member.node != old.node);
            let unheard: Vec<_> = self.known.drain(..).filter(unheard).collect();
            members.extend(unheard);
        } else {
            self.belongs |= members.iter().any(|member| member.node == self.member.node);
        }
        self.known = members;
    }

    /// A session has ended or could not begin.
    pub(crate) fn handle_down(&mut self, address: SocketAddr, refused: Refused, now: Instant) {
        self.views.handle_down(address);
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        entry.end_session();
        entry.tried = true;
        entry.refused = refused == Refused::Yes;
        let Phase::Up = entry.phase else { return };
        entry.phase = Phase::Down { since: now };
        // Whoever stood by for it may try.
        let Some(node) = entry.member.as_ref().map(|member| member.node.clone()) else {
            return;
        };
        for other in self.entries.values_mut() {
            if other.phase == (Phase::Standby { node: node.clone() }) {
                other.phase = Phase::Down { since: now };
            }
        }
    }

    /// Whether a link task must not connect now.
    pub(crate) fn is_standby(&self, address: SocketAddr) -> bool {
        let entry = self.entries.get(&address);
        self.leaving || entry.is_some_and(|entry| entry.phase.is_standby())
    }

    /// Whether this endpoint goes for good.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// This life was declared dead or is too old: begin a new one. `None` if that was done already.
    pub(crate) fn fence(
        &mut self,
        rejected: Incarnation,
        reason: RejectReason,
        unix_micros: u64,
        now: Instant,
    ) -> Option<Incarnation> {
        if self.member.incarnation != rejected {
            return None;
        }
        // A clock that was set back must not keep this proxy out: how far is not told, so it leaps.
        let step = match reason {
            RejectReason::OldIncarnation => {
                let leap = self.leap;
                self.leap = leap.saturating_mul(2);
                leap
            }
            RejectReason::DeclaredDead | RejectReason::Protocol | RejectReason::SecondStore => 1,
        };
        let new = Incarnation(unix_micros.max(rejected.0.saturating_add(step)));
        self.member.incarnation = new;
        self.known.retain(|member| member.node != self.member.node);
        (self.belongs, self.relied_on) = (false, false);
        for entry in self.entries.values_mut() {
            entry.applied = None;
            entry.end_session();
            // One of those that were away may be who turned the earlier life down, and so be back: each of them is
            // waited for as if it had gone only now.
            if let Phase::Down { since } = &mut entry.phase {
                *since = now;
            }
        }
        Some(new)
    }

    /// What the route stream of `session` sends next.
    pub(crate) fn poll_route(
        &mut self,
        address: SocketAddr,
        id: u64,
        beat: BeatDue,
        waker: &Waker,
    ) -> RoutePoll {
        let session = self.entries.get_mut(&address).and_then(|entry| entry.session.as_mut());
        let Some(session) = session.filter(|session| session.id == id) else {
            return RoutePoll::Ended;
        };
        if session.feed.has_left() {
            return RoutePoll::Ended;
        }
        let frame = session.feed.poll(&self.log);
        let due = beat == BeatDue::Yes;
        match frame.or_else(|| due.then(|| session.feed.beat(&self.log)).flatten()) {
            Some(frame) => RoutePoll::Frame(frame),
            None => {
                session.waker = Some(waker.clone());
                RoutePoll::Idle
            }
        }
    }

    /// Draws the conclusions of what happened: releases waiters, allows and forbids links. Returns when
    /// to be called again if nothing happens.
    pub(crate) fn settle(&mut self, now: Instant) -> Option<Instant> {
        if let Some(floor) = self.floor(now) {
            self.relied_on |= self.waiters.release(floor);
        }
        let all_tried = self.names.iter().all(|name| name.tried)
            && self.entries.values().all(|entry| entry.tried || entry.phase.is_standby());
        self.first_round.take_if(|end| all_tried || now >= *end);
        for (&address, entry) in &self.entries {
            let eligible = self.first_round.is_none()
                && entry.phase == Phase::Up
                && self.views.verdict(address, now) == Some(Verdict::Eligible);
            entry.eligible.send_if_modified(|current| {
                let changed = *current != eligible;
                *current = eligible;
                changed
            });
        }
        let down = self.entries.values().filter_map(|entry| self.counted_until(entry));
        let names = self.names.iter().filter(|name| name.addresses.is_empty());
        let names = names.map(|name| name.since + self.patience());
        let moments = down.chain(names).chain(self.views.deadline(now)).chain(self.first_round);
        moments.filter(|&at| at > now).min()
    }

    /// This life of this endpoint.
    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// All endpoints that are somewhere known.
    pub(crate) fn present(&self) -> &[Member] {
        &self.known
    }

    /// This endpoint goes for good: that is the last it says to anybody.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        for session in self.entries.values_mut().filter_map(|entry| entry.session.as_mut()) {
            session.feed.leave();
            session.wake();
        }
    }

    /// Whether any session is left.
    pub(crate) fn has_sessions(&self) -> bool {
        self.entries.values().any(|entry| entry.session.is_some())
    }

    /// Each address with its name, who is there, and how it is.
    pub(crate) fn intermediates(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (SocketAddr, &str, Option<&Member>, IntermediateState)> {
        self.entries.iter().map(move |(&address, entry)| {
            let state = self.state(address, entry, now);
            (address, entry.name.as_str(), entry.member.as_ref(), state)
        })
    }

    fn state(&self, address: SocketAddr, entry: &Entry, now: Instant) -> IntermediateState {
        match entry.phase {
            Phase::Down { .. } => return IntermediateState::Down,
            Phase::Standby { .. } => return IntermediateState::Standby,
            Phase::Up => {}
        }
        match self.views.verdict(address, now) {
            None | Some(Verdict::NotServing(RelayState::Joining | RelayState::Serving)) => {
                IntermediateState::Joining
            }
            Some(Verdict::NotServing(RelayState::Draining)) => IntermediateState::Draining,
            Some(Verdict::Lagging) => IntermediateState::Lagging,
            Some(Verdict::Eligible) => IntermediateState::Serving,
        }
    }

    /// The change up to which every intermediate that counts has the table; `None` if one that counts
    /// has nothing.
    fn floor(&self, now: Instant) -> Option<u64> {
        let unresolved =
            |name: &Name| name.addresses.is_empty() && now < name.since + self.patience();
        if self.names.iter().any(unresolved) {
            return None;
        }
        let counts = |entry: &&Entry| match entry.phase {
            Phase::Up => true,
            Phase::Standby { .. } => false,
            Phase::Down { .. } => self.counted_until(entry).is_some_and(|until| now < until),
        };
        let applied = self.entries.values().filter(counts).map(|entry| entry.applied);
        // `None` is less than any number.
        applied.min().unwrap_or(Some(u64::MAX))
    }

    /// Until when an address that is down must be taken for an intermediate that carries messages.
    fn counted_until(&self, entry: &Entry) -> Option<Instant> {
        let Phase::Down { since } = entry.phase else {
            return None;
        };
        // `localhost` has two addresses of which one listens: where there never was an intermediate and
        // none listens, none carries messages. One that starts later is joining until it has heard us.
        let vacant = entry.refused && entry.member.is_none();
        let sibling = |other: &Entry| other.name == entry.name && other.phase == Phase::Up;
        let ignored = vacant && self.entries.values().any(sibling);
        (!ignored).then(|| since + self.patience())
    }

    fn patience(&self) -> Duration {
        self.lease + GRACE
    }

    fn add(&mut self, name: &str, address: SocketAddr, now: Instant) -> NewLink {
        let stop = CancellationToken::new();
        let entry = Entry {
            name: name.to_owned(),
            phase: Phase::Down { since: now },
            tried: false,
            refused: false,
            member: None,
            applied: None,
            session: None,
            eligible: watch::Sender::new(false),
            stop: stop.clone(),
        };
        self.entries.insert(address, entry);
        NewLink { address, stop }
    }

    fn drop_vanished(&mut self, now: Instant) {
        let patience = self.patience();
        let names = &self.names;
        self.entries.retain(|address, entry| {
            let wanted = names.iter().any(|name| name.addresses.contains(address));
            let keep = wanted
                || match entry.phase {
                    Phase::Up => true,
                    Phase::Down { since } => now < since + patience,
                    Phase::Standby { .. } => false,
                };
            if !keep {
                entry.stop.cancel();
            }
            keep
        });
    }
}

impl Phase {
    fn is_standby(&self) -> bool {
        matches!(self, Self::Standby { .. })
    }
}

impl Entry {
    fn end_session(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.end.cancel();
            session.wake();
        }
    }
}

impl RouteSession {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
