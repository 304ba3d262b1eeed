//! A session with an intermediate: the route stream, and under it the data streams.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_stream::StreamExt as _;

use super::ack::AckCell;
use super::channel::{Dialer, LinkError};
use super::data::Data;
use crate::convert::Wire as _;
use crate::frame::{Incarnation, Member, RejectReason, RouteDown, RouteUp, StoreHere};
use crate::membership::{BeatDue, RoutePoll, SessionStart};
use crate::network::{FramesIn, StreamKind};
use crate::uplink::{Shared, count};

/// One attempt to keep a link.
pub(super) struct Session<'a, T> {
    shared: &'a Arc<Shared<T>>,
    dialer: &'a Dialer,
    cell: &'a mut Option<Arc<AckCell>>,
    id: u64,
    welcomed: bool,
}

impl<'a, T: Send + 'static> Session<'a, T> {
    pub(super) fn new(
        shared: &'a Arc<Shared<T>>,
        dialer: &'a Dialer,
        cell: &'a mut Option<Arc<AckCell>>,
    ) -> Self {
        Self { shared, dialer, cell, id: shared.number(), welcomed: false }
    }

    /// Whether the intermediate has let this proxy in.
    pub(super) fn was_welcomed(&self) -> bool {
        self.welcomed
    }

    /// Runs until something ends it.
    pub(super) async fn run(&mut self) -> Result<Infallible, LinkError> {
        let connection = self.dialer.connect().await?;
        let address = self.dialer.address;
        let start = self.shared.with_roster(|roster, _| roster.begin(address, self.id));
        let start = start.ok_or(LinkError::Replaced)?;
        let outgoing = RouteOut::new(self, self.shared.config.beat_interval);
        let stream = connection.open(StreamKind::Routes, Box::pin(outgoing));
        let opened = timeout(self.shared.config.lease, stream).await;
        let mut incoming = opened.map_err(|_| LinkError::Silent)??;
        let own = start.member.incarnation;
        let (member, store) = self.welcome(&mut incoming, own).await?;
        self.welcomed = true;
        let SessionStart { member: own_member, end, eligible } = start;
        let cell = self.cell_for(&member, own);
        let data =
            Data { shared: self.shared, dialer: self.dialer, own: own_member, member, cell, store };
        tokio::select! {
            biased;
            () = end.cancelled() => Err(LinkError::Replaced),
            ended = self.hear(&mut incoming, own) => ended,
            ended = data.run(eligible) => ended,
        }
    }

    /// Waits for the first frame.
    async fn welcome(
        &self,
        incoming: &mut FramesIn,
        own: Incarnation,
    ) -> Result<(Member, StoreHere), LinkError> {
        match self.recv(incoming).await? {
            RouteDown::Welcome { member, deltas_from, store } => {
                tracing::info!(address = %self.dialer.address, member = %member.node, "link up");
                let address = self.dialer.address;
                let known = member.clone();
                self.shared.with_roster(|roster, now| {
                    roster.handle_welcome(address, known, deltas_from, now);
                });
                self.shared.membership_changed();
                Ok((member, store))
            }
            RouteDown::Reject(reason) => Err(self.rejected(reason, own)),
            RouteDown::Applied(_)
            | RouteDown::Resync
            | RouteDown::View(_)
            | RouteDown::BeatAck(_) => Err(LinkError::Unexpected("before the Welcome")),
        }
    }

    async fn hear(
        &self,
        incoming: &mut FramesIn,
        own: Incarnation,
    ) -> Result<Infallible, LinkError> {
        let address = self.dialer.address;
        loop {
            match self.recv(incoming).await? {
                RouteDown::Welcome { .. } => return Err(LinkError::Unexpected("second Welcome")),
                RouteDown::Applied(seq) => {
                    if !self.shared.with_roster(|roster, _| roster.handle_applied(address, seq)) {
                        return Err(LinkError::Unexpected("changes applied that never were"));
                    }
                }
                RouteDown::Resync => {
                    tracing::warn!(%address, "the intermediate has another table; sends it anew");
                    count(&self.shared.metrics().resyncs, 1);
                    self.shared.with_roster(|roster, _| roster.handle_resync(address));
                }
                RouteDown::View(view) => {
                    self.shared.with_roster(|roster, now| roster.handle_view(address, view, now));
                    self.shared.membership_changed();
                }
                RouteDown::BeatAck(_) => {}
                RouteDown::Reject(reason) => return Err(self.rejected(reason, own)),
            }
        }
    }

    fn rejected(&self, reason: RejectReason, own: Incarnation) -> LinkError {
        match reason {
            RejectReason::OldIncarnation | RejectReason::DeclaredDead => {
                self.shared.fence(own, reason);
            }
            RejectReason::Protocol | RejectReason::SecondStore => {}
        }
        LinkError::Rejected(reason)
    }

    /// The next frame. Beats are answered, so silence for the lease means that nobody is there.
    async fn recv(&self, incoming: &mut FramesIn) -> Result<RouteDown, LinkError> {
        let message = timeout(self.shared.config.lease, incoming.next()).await;
        let message = message.map_err(|_| LinkError::Silent)?.ok_or(LinkError::Ended)??;
        Ok(RouteDown::decode(message)?)
    }

    fn cell_for(&mut self, member: &Member, own: Incarnation) -> Arc<AckCell> {
        let old = self.cell.take().filter(|cell| cell.is_for(member, own));
        let cell = old.unwrap_or_else(|| Arc::new(AckCell::new(member.clone(), own)));
        *self.cell = Some(Arc::clone(&cell));
        cell
    }
}

/// What the route stream sends: the session's feed, and beats.
struct RouteOut<T> {
    shared: Arc<Shared<T>>,
    address: std::net::SocketAddr,
    session: u64,
    beats: Interval,
    due: BeatDue,
}

impl<T> RouteOut<T> {
    fn new(session: &Session<'_, T>, period: Duration) -> Self {
        let mut beats = interval_at(Instant::now() + period, period);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared: Arc::clone(session.shared),
            address: session.dialer.address,
            session: session.id,
            beats,
            due: BeatDue::No,
        }
    }
}

impl<T> tokio_stream::Stream for RouteOut<T> {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while this.beats.poll_tick(context).is_ready() {
            this.due = BeatDue::Yes;
        }
        let poll = this.shared.read_roster(|roster| {
            roster.poll_route(this.address, this.session, this.due, context.waker())
        });
        match poll {
            RoutePoll::Frame(frame) => {
                if matches!(frame, RouteUp::Beat(_)) {
                    this.due = BeatDue::No;
                }
                Poll::Ready(Some(frame.encode()))
            }
            RoutePoll::Idle => Poll::Pending,
            RoutePoll::Ended => Poll::Ready(None),
        }
    }
}
