//! One life of the store: from its opening to its failure or the end.
//!
//! Owns the partitions and everything that waits for them, on one thread. Invariant: nothing is answered,
//! acknowledged or delivered before the commit of what it is about. A turn: take what has come, up to a batch; do what
//! is due; commit; let out what that caused; fill the streams that have room. Does not: open the store, touch a socket.

mod attaching;
mod presence;
mod saying;
mod taking;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_rpc::frame::{Member, SessionCall, SessionDown};
use cluster_rpc::machine::now;
use cluster_rpc::{Deliveries, FrameSender, RouteSeq, Uplink};
use foldhash::fast::RandomState;
use mqtt_codec::ReasonCode;
use partition::{Command, OutboxId, Owner, Room, SessionId, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::attach::Attaches;
use super::clock::Clock;
use super::lines::{LineId, Lines, Opening};
use super::metrics::{HostCounts, HostMetrics};
use super::post::{Post, Sending};
use super::routes::RouteWaits;
use super::waiter::{Waiter, Woken};
use crate::service::Service;
use presence::Presence;

/// Inputs before a commit, however little they change: those who wait for it are not to wait for long.
const INPUTS_IN_A_TURN: usize = 128;

/// How often a store is asked whether there is room, if nothing else happens: nobody tells.
const ROOM_LOOK: Duration = Duration::from_secs(1);

/// The same while there is none.
const NO_ROOM_LOOK: Duration = Duration::from_millis(200);

/// How often the size of the store is looked at.
const SIZE_LOOK: Duration = Duration::from_secs(5);

/// What comes to the store's thread.
#[derive(Debug)]
pub(super) enum Input {
    /// A stream has said whose it is.
    Opened(LineId, Opening),
    /// Calls of a stream.
    Calls(LineId, Vec<SessionCall>),
    /// The frame that waited for room is on its way.
    Room(LineId),
    /// A stream has ended.
    Closed(LineId),
    /// Lives of proxies that are over.
    Departed(Vec<Member>),
    /// The relay takes messages.
    Serving,
    /// Messages of the relays.
    Deliver(Deliveries),
    /// Wills that the relays have taken.
    Sent(Vec<OutboxId>),
    /// Wills that somebody did not take.
    Refused(Vec<(OutboxId, ReasonCode)>),
    /// Wills that the uplink has forgotten.
    Unsent(Vec<OutboxId>),
    /// The uplink takes wills again.
    WindowOpen,
    /// The routes that were waited for are known.
    Applied,
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In order: all that had come is committed.
    Stopped,
    /// The process it was a part of is gone.
    Gone,
}

/// Where a call came from, while it is not answered.
#[derive(Clone, Copy, Debug)]
struct Request {
    line: LineId,
    /// The proxy's number.
    number: u64,
    about: About,
}

/// What a request is about.
#[derive(Clone, Copy, Debug)]
enum About {
    /// A connection that is to have its session.
    Connection(u64),
    /// A session that has a connection.
    Session(SessionId),
}

/// Messages that wait for their commit.
#[derive(Debug)]
struct Batch {
    first_token: u64,
    deliveries: Deliveries,
    refused: Vec<(usize, ReasonCode)>,
}

/// What a life works with.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) clock: Clock,
    pub(super) service: Service,
    pub(super) uplink: Uplink<OutboxId>,
    pub(super) metrics: Arc<HostMetrics>,
    pub(super) tasks: Tasks,
    /// Silence after which a proxy is dead.
    pub(super) lease: Duration,
}

/// Where what the thread must not wait for is waited for.
#[derive(Debug)]
pub(super) struct Tasks {
    pub(super) runtime: Handle,
    pub(super) inputs: mpsc::Sender<Input>,
}

impl Tasks {
    /// Gives `input` to the thread when `wait` is over.
    fn after(&self, wait: impl Future<Output = ()> + Send + 'static, input: Input) {
        let inputs = self.inputs.clone();
        self.runtime.spawn(async move {
            wait.await;
            // When the life is over nobody waits for it.
            inputs.send(input).await.ok();
        });
    }

    /// Sends `frame` when the stream has room.
    fn send_later(&self, line: LineId, sender: FrameSender<SessionDown>, frame: SessionDown) {
        let sent = async move {
            // When the stream has ended, its own task says so.
            sender.send(frame).await.ok();
        };
        self.after(sent, Input::Room(line));
    }
}

/// The state of a life.
#[derive(Debug)]
pub(super) struct Life<S> {
    owner: Owner<S>,
    around: Surroundings,
    lines: Lines,
    requests: HashMap<u64, Request, RandomState>,
    next_request: u64,
    attaches: Attaches,
    batches: VecDeque<Batch>,
    next_token: u64,
    waits: RouteWaits,
    post: Post,
    presence: Presence,
    room: Room,
    counts: HostCounts,
    disk_bytes: fn(&S) -> u64,
    next_size: Instant,
}

impl<S: Store> Life<S> {
    /// With all routes announced, `last_route` the last.
    pub(super) fn new(
        owner: Owner<S>,
        around: Surroundings,
        last_route: Option<RouteSeq>,
        disk_bytes: fn(&S) -> u64,
    ) -> Self {
        let room = owner.room();
        let mut waits = RouteWaits::default();
        if let Some(last) = last_route {
            waits.announced(last);
        }
        let now = now();
        let presence = Presence::new(around.lease, now);
        Self {
            owner,
            around,
            lines: Lines::default(),
            requests: HashMap::default(),
            next_request: 1,
            attaches: Attaches::default(),
            batches: VecDeque::new(),
            next_token: 1,
            waits,
            post: Post::default(),
            presence,
            room,
            counts: HostCounts::default(),
            disk_bytes,
            next_size: now,
        }
    }

    /// Runs until the end, or until the store fails. `report` hears whether the store has room.
    pub(super) async fn run(
        &mut self,
        inputs: &mut mpsc::Receiver<Input>,
        waiter: &mut Waiter,
        mut report: impl FnMut(Room),
    ) -> Result<End, StoreError> {
        report(self.room);
        // What the last life left to be sent.
        self.turn(now(), None, inputs)?;
        loop {
            let deadline = if self.has_work() { Some(now()) } else { self.next_deadline() };
            let before = now();
            let woken = waiter.wait(inputs, deadline).await;
            let now = now();
            self.around.metrics.waited(now.saturating_duration_since(before));
            let first = match woken {
                Woken::Input(input) => Some(input),
                Woken::Deadline => None,
                Woken::Stop => return self.finish(now, inputs).map(|()| End::Stopped),
                Woken::Gone => return Ok(End::Gone),
            };
            self.turn(now, first, inputs)?;
            let room = self.owner.room();
            if room != std::mem::replace(&mut self.room, room) {
                report(room);
            }
        }
    }

    /// The last turn: all that has come is committed, and what can be said is said.
    fn finish(
        &mut self,
        now: Instant,
        inputs: &mut mpsc::Receiver<Input>,
    ) -> Result<(), StoreError> {
        self.turn(now, None, inputs)?;
        self.owner.commit()
    }

    fn turn(
        &mut self,
        now: Instant,
        first: Option<Input>,
        inputs: &mut mpsc::Receiver<Input>,
    ) -> Result<(), StoreError> {
        let mut next = first;
        for _ in 0..INPUTS_IN_A_TURN {
            let Some(input) = next.take().or_else(|| inputs.try_recv().ok()) else { break };
            self.take(input, now);
            if self.owner.is_full() {
                break;
            }
        }
        self.handle_time(now);
        self.commit()?;
        self.send_wills();
        self.fill_lines(now)?;
        self.publish_metrics(now);
        Ok(())
    }

    fn handle_time(&mut self, now: Instant) {
        let unix = self.around.clock.unix(now);
        let is_due = self.owner.next_deadline().is_some_and(|at| at <= unix);
        // With the next commit it takes note of the room.
        if is_due || self.owner.store().room() != self.owner.room() {
            self.owner.handle_time(unix);
        }
        self.attach_due(now);
        self.judge_absent(now);
        self.forget_origins(now);
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.owner.has_changes() {
            let before = Instant::now();
            self.owner.commit()?;
            self.around.metrics.committed(before.elapsed());
        } else {
            self.owner.commit()?;
        }
        while let Some(effect) = self.owner.poll_effect() {
            self.counts.effects += 1;
            self.release(effect);
        }
        for batch in self.batches.drain(..) {
            batch.deliveries.accept_but(batch.refused);
        }
        self.watch_routes();
        Ok(())
    }

    fn send_wills(&mut self) {
        let mut done = Vec::new();
        let Surroundings { uplink, clock, tasks, .. } = &self.around;
        if self.post.send(uplink, *clock, &mut done) == Sending::WindowFull {
            let uplink = uplink.clone();
            tasks.after(async move { uplink.window_open().await }, Input::WindowOpen);
        }
        self.sent(done);
    }

    fn sent(&mut self, ids: Vec<OutboxId>) {
        let unix = self.around.clock.unix(now());
        for id in ids {
            self.post.confirmed(id);
            self.owner.handle(Command::Sent(id), unix);
        }
    }

    /// Whether there is something to do without anything coming.
    fn has_work(&self) -> bool {
        self.owner.has_changes() || self.lines.has_dirty()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let owner = self.owner.next_deadline().and_then(|at| self.around.clock.instant(at));
        let ours = [self.attaches.next_deadline(), Some(self.presence.next_deadline())];
        let metrics = self.around.metrics.next_publication();
        let look = match self.room {
            Room::Enough => ROOM_LOOK,
            Room::Low => NO_ROOM_LOOK,
        };
        let room = Some(now() + look);
        ours.into_iter().chain([owner, metrics, room]).flatten().min()
    }

    fn publish_metrics(&mut self, now: Instant) {
        if now >= self.next_size {
            self.next_size = now + SIZE_LOOK;
            self.around.metrics.set_disk_bytes((self.disk_bytes)(self.owner.store()));
        }
        self.around.metrics.publish(now, || {
            let mut counts = self.counts;
            counts.lines = self.lines.len() as u64;
            counts.takeovers = self.attaches.takeovers;
            counts.contested = self.attaches.contested;
            counts.refused_wills = self.post.refused;
            counts.waiting_for_routes = self.waits.len() as u64;
            (self.owner.stats(), counts)
        });
    }
}
