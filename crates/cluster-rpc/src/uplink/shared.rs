//! What the handle, the events, the keeper and the links share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use mqtt_codec::ReasonCode;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::NotTaken;
use super::config::UplinkConfig;
use super::event::Arrived;
use super::metrics::{UplinkMetrics, count};
use super::status::{IntermediateStatus, UplinkStatus};
use super::store::{StoreEvents, StoreLink, StoreShared};
use crate::frame::{Incarnation, Member, NodeId, OriginId, PublishDown, RejectReason, Route};
use crate::lane::origin_of;
use crate::machine::{Machine, now};
use crate::membership::{Roster, WaiterId};
use crate::origin::{LinkId, Origin, OriginFrame, Publication, WindowLimits};
use crate::route_log::RouteSeq;
use crate::transport;

/// How long intermediates have to answer a good-bye.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Shared<T> {
    pub(crate) config: UplinkConfig,
    pub(crate) shutdown: CancellationToken,
    pub(crate) arrived: mpsc::Sender<Arrived>,
    /// Wakes the keeper: a deadline may have changed.
    pub(crate) settled: Notify,
    /// Wakes the keeper: an address may have changed.
    pub(crate) resolve: Notify,
    /// Wakes the links that stand by.
    pub(crate) standby: Notify,
    /// The way to the store, if this endpoint wants one.
    pub(crate) store: Option<Arc<StoreShared>>,
    window: Mutex<Window<T>>,
    roster: Mutex<Roster>,
    metrics: Arc<UplinkMetrics>,
    /// Wakes whoever waits for the next event.
    events: Notify,
    window_free: Notify,
    serving: watch::Sender<bool>,
    /// The present life.
    life: AtomicU64,
    /// A new life was begun and not yet reported.
    fenced: AtomicBool,
    views_changed: AtomicBool,
    numbers: AtomicU64,
}

struct Window<T> {
    origin: Origin<T>,
    incarnation: Incarnation,
    /// The sender of each link that has nothing to send.
    parked: Vec<(LinkId, Waker)>,
    /// Links by intermediate, for the status.
    open: Vec<(LinkId, NodeId)>,
    /// Somebody waits for room.
    awaited: bool,
    /// Tickets dropped with earlier lives, until that is reported.
    dropped: Vec<T>,
}

/// What a publish stream is to send.
pub(crate) enum PublishPoll {
    Frame(OriginFrame),
    Idle,
    /// The link is down.
    Ended,
}

impl<T> Shared<T> {
    pub(crate) fn new(
        config: UplinkConfig,
        arrived: mpsc::Sender<Arrived>,
        shutdown: CancellationToken,
    ) -> Self {
        let now = now();
        let incarnation = Incarnation(unix_micros(config.machine.as_ref()));
        let member = Member { node: config.node.clone(), incarnation };
        let metrics = Arc::new(UplinkMetrics::default());
        let limits = WindowLimits {
            messages: config.window_messages,
            bytes: config.window_bytes,
            backlog_messages: config.backlog_messages,
            backlog_bytes: config.backlog_bytes,
        };
        let window = Window {
            origin: Origin::new(limits, Arc::clone(&metrics)),
            incarnation,
            parked: Vec::new(),
            open: Vec::new(),
            awaited: false,
            dropped: Vec::new(),
        };
        let (names, lease) = (&config.intermediates, config.lease);
        let roster = Roster::new(member, config.role, names, lease, now);
        Self {
            window: Mutex::new(window),
            roster: Mutex::new(roster),
            config,
            shutdown,
            arrived,
            metrics,
            settled: Notify::new(),
            resolve: Notify::new(),
            standby: Notify::new(),
            store: None,
            events: Notify::new(),
            window_free: Notify::new(),
            serving: watch::Sender::new(false),
            life: AtomicU64::new(incarnation.0),
            fenced: AtomicBool::new(false),
            views_changed: AtomicBool::new(false),
            numbers: AtomicU64::new(1),
        }
    }

    /// Adds a way to the store.
    pub(crate) fn with_store(&mut self) -> (StoreLink, StoreEvents) {
        let max_call_bytes = transport::max_call_bytes(self.config.max_packet_bytes);
        let (metrics, shutdown) = (Arc::clone(&self.metrics), self.shutdown.clone());
        let (store, events) = StoreShared::new(metrics, max_call_bytes, shutdown);
        let link = store.link();
        self.store = Some(store);
        (link, events)
    }

    // ---- routes and membership

    pub(crate) fn announce(&self, route: Route) -> RouteSeq {
        self.roster.lock().announce(route)
    }

    pub(crate) fn is_applied(&self, seq: RouteSeq) -> bool {
        self.roster.lock().is_applied(seq, now())
    }

    pub(crate) async fn applied(&self, seq: RouteSeq) {
        let wait = {
            let mut roster = self.roster.lock();
            if roster.is_applied(seq, now()) {
                return;
            }
            roster.wait(seq)
        };
        let _guard = WaitGuard { shared: self, id: wait.id };
        // The sender is dropped only with the roster, which `self` keeps.
        wait.released.await.ok();
    }

    /// Changes the roster and draws the conclusions.
    pub(crate) fn with_roster<R>(&self, change: impl FnOnce(&mut Roster, Instant) -> R) -> R {
        let now = now();
        let mut roster = self.roster.lock();
        let result = change(&mut roster, now);
        roster.settle(now);
        result
    }

    /// Looks at the roster; nothing follows from it.
    pub(crate) fn read_roster<R>(&self, look: impl FnOnce(&mut Roster) -> R) -> R {
        look(&mut self.roster.lock())
    }

    /// The views have changed: what follows may depend on time.
    pub(crate) fn membership_changed(&self) {
        self.views_changed.store(true, Ordering::Release);
        self.settled.notify_one();
        self.standby.notify_waiters();
    }

    /// All endpoints there are, if they may have changed since the last call.
    pub(crate) fn take_present_origins(&self) -> Option<Vec<OriginId>> {
        let changed = self.views_changed.swap(false, Ordering::Acquire);
        changed.then(|| self.roster.lock().present().iter().map(origin_of).collect())
    }

    pub(crate) fn note_time(&self) {
        self.views_changed.store(true, Ordering::Release);
    }

    /// Says good-bye everywhere, and waits until it was heard, but not for ever.
    pub(crate) async fn leave(&self) {
        self.with_roster(|roster, _| roster.leave());
        let gone = async {
            loop {
                let mut changed = std::pin::pin!(self.standby.notified());
                changed.as_mut().enable();
                if !self.roster.lock().has_sessions() {
                    return;
                }
                changed.await;
            }
        };
        // Whoever does not answer hears it by the lease.
        tokio::time::timeout(LEAVE_PATIENCE, gone).await.ok();
    }

    /// An intermediate has turned `rejected` away: everything begins anew under a new incarnation.
    pub(crate) fn fence(&self, rejected: Incarnation, reason: RejectReason) {
        let unix = unix_micros(self.config.machine.as_ref());
        let fenced = self.with_roster(|roster, now| roster.fence(rejected, reason, unix, now));
        let Some(new) = fenced else { return };
        let parked = {
            let mut window = self.window.lock();
            window.incarnation = new;
            self.life.store(new.0, Ordering::Release);
            let dropped = window.origin.fence();
            window.dropped.extend(dropped);
            window.open.clear();
            std::mem::take(&mut window.parked)
        };
        parked.into_iter().for_each(|(_, waker)| waker.wake());
        let hint = match reason {
            RejectReason::OldIncarnation => "is another process using this node_id?",
            RejectReason::DeclaredDead | RejectReason::Protocol | RejectReason::SecondStore => "",
        };
        let node = self.config.node.as_str();
        let (old, new) = (rejected.0, new.0);
        tracing::warn!(?reason, node, old, new, hint, "turned away; begins a new life");
        count(&self.metrics.fenced, 1);
        self.serving.send_replace(false);
        self.fenced.store(true, Ordering::Release);
        self.events.notify_one();
        self.window_free.notify_waiters();
    }

    pub(crate) fn life(&self) -> Incarnation {
        Incarnation(self.life.load(Ordering::Acquire))
    }

    // ---- messages

    pub(crate) fn publish(
        &self,
        life: Incarnation,
        publication: Publication<'_>,
        ticket: Option<T>,
    ) -> Result<(), NotTaken<T>> {
        let parked = {
            let mut window = self.window.lock();
            if window.incarnation != life {
                return Err(NotTaken::EarlierLife);
            }
            let idle = window.origin.publish(publication, ticket)?;
            idle.and_then(|link| window.unpark(link))
        };
        if let Some(waker) = parked {
            waker.wake();
        }
        Ok(())
    }

    pub(crate) async fn window_open(&self) {
        loop {
            let mut free = std::pin::pin!(self.window_free.notified());
            free.as_mut().enable();
            {
                let mut window = self.window.lock();
                if window.origin.has_room() {
                    return;
                }
                window.awaited = true;
            }
            free.await;
        }
    }

    /// A publish stream is open. False if it belongs to an earlier incarnation.
    pub(crate) fn link_up(&self, id: LinkId, node: &NodeId, own: Incarnation) -> bool {
        let parked = {
            let mut window = self.window.lock();
            if window.incarnation != own {
                return false;
            }
            window.origin.handle_link_up(id, node.clone());
            window.open.push((id, node.clone()));
            std::mem::take(&mut window.parked)
        };
        parked.into_iter().for_each(|(_, waker)| waker.wake());
        self.serving.send_replace(true);
        true
    }

    pub(crate) fn link_down(&self, id: LinkId) {
        let (parked, serving) = {
            let mut window = self.window.lock();
            window.origin.handle_link_down(id);
            window.open.retain(|(open, _)| *open != id);
            (std::mem::take(&mut window.parked), window.origin.links() != 0)
        };
        // Its lanes have moved to others, which may be parked.
        parked.into_iter().for_each(|(_, waker)| waker.wake());
        self.serving.send_replace(serving);
    }

    pub(crate) fn handle_publish_down(&self, id: LinkId, frame: PublishDown) {
        let (parked, results) = {
            let mut window = self.window.lock();
            let parked = match frame {
                PublishDown::Credit { messages, bytes } => {
                    window.origin.handle_credit(id, messages, bytes);
                    window.unpark(id).into_iter().collect()
                }
                PublishDown::Acked(acked) => {
                    window.origin.handle_acked(id, &acked);
                    Vec::new()
                }
                PublishDown::Refused(refused) => {
                    window.origin.handle_refused(id, &refused);
                    Vec::new()
                }
                PublishDown::BarrierDone(barrier) => {
                    window.origin.handle_barrier_done(id, barrier);
                    std::mem::take(&mut window.parked).into_iter().map(|(_, waker)| waker).collect()
                }
            };
            (parked, window.origin.has_results())
        };
        parked.into_iter().for_each(Waker::wake);
        if results {
            self.events.notify_one();
        }
        self.report_room();
    }

    pub(crate) fn poll_publish(&self, id: LinkId, waker: &Waker) -> PublishPoll {
        let mut window = self.window.lock();
        if !window.open.iter().any(|(open, _)| *open == id) {
            return PublishPoll::Ended;
        }
        let frame = window.origin.poll_frame(id, now());
        if window.origin.has_results() {
            self.events.notify_one();
        }
        match frame {
            Some(frame) => PublishPoll::Frame(frame),
            None => {
                window.park(id, waker);
                PublishPoll::Idle
            }
        }
    }

    // ---- events

    pub(crate) fn take_completed(&self) -> Vec<T> {
        let completed = self.window.lock().origin.take_completed();
        if !completed.is_empty() {
            self.report_room();
        }
        completed
    }

    pub(crate) fn take_refused(&self) -> Vec<(T, ReasonCode)> {
        let refused = self.window.lock().origin.take_refused();
        if !refused.is_empty() {
            self.report_room();
        }
        refused
    }

    /// The present life and the tickets dropped with earlier ones, once after each fence.
    pub(crate) fn take_fenced(&self) -> Option<(Incarnation, Vec<T>)> {
        if !self.fenced.load(Ordering::Acquire) || !self.fenced.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut window = self.window.lock();
        Some((window.incarnation, std::mem::take(&mut window.dropped)))
    }

    pub(crate) async fn event_waiting(&self) {
        self.events.notified().await;
    }

    pub(crate) async fn stopped(&self) {
        self.shutdown.cancelled().await;
    }

    // ---- reports

    pub(crate) fn status(&self) -> UplinkStatus {
        let (mut lanes, serving, window_messages, window_bytes) = {
            let window = self.window.lock();
            let lanes: Vec<_> = window
                .open
                .iter()
                .map(|(id, node)| (node.clone(), window.origin.lanes_of(*id)))
                .collect();
            let (messages, bytes) = window.origin.usage();
            (lanes, window.origin.links(), messages, bytes)
        };
        let roster = self.roster.lock();
        let intermediates = roster.intermediates(now());
        let intermediates = intermediates.map(|(address, name, member, state)| {
            let carries = lanes
                .iter()
                .position(|(node, _)| member.is_some_and(|member| member.node == *node));
            IntermediateStatus {
                name: name.to_owned(),
                address,
                member: member.cloned(),
                state,
                lanes: carries.map_or(0, |index| lanes.swap_remove(index).1),
            }
        });
        UplinkStatus {
            incarnation: roster.incarnation(),
            serving,
            intermediates: intermediates.collect(),
            window_messages,
            window_bytes,
        }
    }

    pub(crate) fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    pub(crate) fn metrics(&self) -> &UplinkMetrics {
        &self.metrics
    }

    /// A random number of no cryptographic worth.
    pub(crate) fn random(&self) -> u64 {
        self.config.machine.random()
    }

    /// A number not given before in this process.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn report_room(&self) {
        let free = {
            let mut window = self.window.lock();
            let free = window.awaited && window.origin.has_room();
            window.awaited &= !free;
            free
        };
        if free {
            self.window_free.notify_waiters();
        }
    }
}

impl<T> Window<T> {
    fn park(&mut self, id: LinkId, waker: &Waker) {
        match self.parked.iter_mut().find(|(parked, _)| *parked == id) {
            Some((_, parked)) => parked.clone_from(waker),
            None => self.parked.push((id, waker.clone())),
        }
    }

    fn unpark(&mut self, id: LinkId) -> Option<Waker> {
        let index = self.parked.iter().position(|(parked, _)| *parked == id)?;
        Some(self.parked.swap_remove(index).1)
    }
}

/// Takes the waiter back when its future is dropped.
struct WaitGuard<'a, T> {
    shared: &'a Shared<T>,
    id: WaiterId,
}

impl<T> Drop for WaitGuard<'_, T> {
    fn drop(&mut self) {
        self.shared.roster.lock().give_up(self.id);
    }
}

fn unix_micros(machine: &dyn Machine) -> u64 {
    u64::try_from(machine.unix_time().as_micros()).unwrap_or(u64::MAX)
}
