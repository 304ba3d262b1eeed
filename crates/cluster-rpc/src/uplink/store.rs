//! A proxy's way to the store: calls out, answers and deliveries in.
//!
//! One session stream at a time carries it; each is a link with its own [`LinkEpoch`]. Invariant: what is sent
//! for one link never goes out on another, and what came on one is never handed out after the next is
//! up. So whatever was asked on a link that broke is asked again after [`StoreEvent::Up`], by the
//! caller: nothing is kept here across links.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::metrics::{UplinkMetrics, count};
use crate::frame::{Incarnation, Member, NodeId, SessionAnswer, SessionCall, SessionDelivery};

/// Calls that may wait before [`StoreLink::is_congested`].
const CONGESTED_CALLS: usize = 65_536;

/// The same in bytes, as [`SessionCall::weight`] counts them.
const CONGESTED_BYTES: u64 = 32 << 20;

/// A caller that does not heed congestion loses the link at this multiple of it.
const OVERFLOW_FACTOR: usize = 8;

/// A frame holds about so many bytes of calls, unless a single one is larger.
const FRAME_BYTES: u64 = 64 << 10;

/// Frames that may wait for the caller; then the stream is not read.
const WAITING_FRAMES: usize = 16;

/// One session stream. A later one is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkEpoch(pub(crate) u64);

impl LinkEpoch {
    /// No link has it: what is sent for it is dropped.
    pub const NONE: Self = Self(0);

    /// The next after this one, for tests without a store.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What comes from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// There is a link. Everything that was asked before and not answered is to be asked again.
    Up {
        /// To be named with every call.
        link: LinkEpoch,
        /// Which life of the store.
        store: Member,
        /// Which life of this proxy: what an earlier one was given is lost.
        life: Incarnation,
    },
    /// The link has broken.
    Down,
    /// In order.
    Answers(Vec<SessionAnswer>),
    /// In order.
    Deliveries(Vec<SessionDelivery>),
}

/// Sends calls to the store. Cheap to clone.
#[derive(Clone)]
pub struct StoreLink {
    shared: Arc<StoreShared>,
}

impl StoreLink {
    /// Queues a call. It is dropped if `link` is not the present one, and if no frame could hold it: then
    /// it is counted.
    ///
    /// The caller holds back what can wait while [`is_congested`](Self::is_congested); with eight times as much the
    /// link is broken and opened again.
    pub fn send(&self, link: LinkEpoch, call: SessionCall) {
        self.shared.send(link, call);
    }

    /// Whether 65,536 calls or 32 MiB of them wait.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.shared.congested.load(Ordering::Acquire)
    }

    /// Resolves when it is not congested.
    pub async fn uncongested(&self) {
        loop {
            let mut room = std::pin::pin!(self.shared.room.notified());
            room.as_mut().enable();
            if !self.is_congested() {
                return;
            }
            room.await;
        }
    }
}

impl fmt::Debug for StoreLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreLink").finish_non_exhaustive()
    }
}

/// What comes from the store, for the one task that acts on it.
#[derive(Debug)]
pub struct StoreEvents {
    frames: mpsc::Receiver<(LinkEpoch, StoreEvent)>,
    present: watch::Receiver<LinkEpoch>,
    /// The link whose `Up` was handed out last, without its `Down`.
    up: LinkEpoch,
    /// What came before the end of its predecessors was told.
    held: Option<(LinkEpoch, StoreEvent)>,
    shutdown: CancellationToken,
}

impl StoreEvents {
    /// The next event; `None` after the shutdown. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<StoreEvent> {
        loop {
            let present = *self.present.borrow_and_update();
            if self.up != LinkEpoch::NONE && self.up != present {
                self.up = LinkEpoch::NONE;
                return Some(StoreEvent::Down);
            }
            let (link, event) = match self.held.take() {
                Some(held) => held,
                None => tokio::select! {
                    biased;
                    // It lives as long as the uplink, and without that nothing comes any more.
                    changed = self.present.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return None,
                    },
                    frame = self.frames.recv() => frame?,
                    () = self.shutdown.cancelled() => return None,
                },
            };
            let present = *self.present.borrow();
            if self.up != LinkEpoch::NONE && self.up != present {
                self.held = Some((link, event));
                continue;
            }
            if link != present {
                continue;
            }
            if matches!(event, StoreEvent::Up { .. }) {
                self.up = link;
            }
            return Some(event);
        }
    }
}

/// What the handle, the events and the session streams share.
pub(crate) struct StoreShared {
    calls: Mutex<Calls>,
    congested: AtomicBool,
    room: Notify,
    present: watch::Sender<LinkEpoch>,
    frames: mpsc::Sender<(LinkEpoch, StoreEvent)>,
    /// One intermediate at a time is spoken with.
    turn: Semaphore,
    metrics: Arc<UplinkMetrics>,
    max_call_bytes: u64,
}

#[derive(Debug, Default)]
struct Calls {
    /// The stream that is being opened or is open; 0 for none.
    stream: u64,
    /// The intermediate it goes to.
    node: Option<NodeId>,
    /// Whether calls are taken for it.
    open: bool,
    queue: VecDeque<SessionCall>,
    bytes: u64,
    waker: Option<Waker>,
}

impl StoreShared {
    /// Both ends of it. No call above `max_call_bytes` is sent.
    pub(crate) fn new(
        metrics: Arc<UplinkMetrics>,
        max_call_bytes: u64,
        shutdown: CancellationToken,
    ) -> (Arc<Self>, StoreEvents) {
        let (sender, frames) = mpsc::channel(WAITING_FRAMES);
        let present = watch::Sender::new(LinkEpoch::NONE);
        let events = StoreEvents {
            frames,
            present: present.subscribe(),
            up: LinkEpoch::NONE,
            held: None,
            shutdown,
        };
        let shared = Self {
            calls: Mutex::default(),
            congested: AtomicBool::new(false),
            room: Notify::new(),
            present,
            frames: sender,
            turn: Semaphore::new(1),
            metrics,
            max_call_bytes,
        };
        (Arc::new(shared), events)
    }

    pub(crate) fn link(self: &Arc<Self>) -> StoreLink {
        StoreLink { shared: Arc::clone(self) }
    }

    /// Waits until nobody else speaks with a store. Two that claim to have it are a mistake of the
    /// operator's: the first is used.
    pub(crate) async fn turn(&self, node: &NodeId) -> SemaphorePermit<'_> {
        if let Ok(turn) = self.turn.try_acquire() {
            self.calls.lock().node = Some(node.clone());
            return turn;
        }
        let other = self.calls.lock().node.clone();
        if let Some(other) = other.filter(|other| other != node) {
            tracing::warn!(%node, used = %other, "a second intermediate says that it has the store");
        }
        let turn = self.turn.acquire().await.expect("the semaphore is never closed");
        self.calls.lock().node = Some(node.clone());
        turn
    }

    /// A stream is about to be opened. It ends with the guard.
    pub(crate) fn begin(&self, stream: u64) -> StreamGuard<'_> {
        let mut calls = self.calls.lock();
        calls.stream = stream;
        calls.open = false;
        StreamGuard { shared: self, stream }
    }

    /// The store has answered: calls are taken.
    pub(crate) fn open(&self, stream: u64) {
        {
            let mut calls = self.calls.lock();
            if calls.stream != stream {
                return;
            }
            calls.open = true;
        }
        self.present.send_replace(LinkEpoch(stream));
    }

    /// Hands out what came on a stream; waits while the caller is behind. False when nobody takes it.
    pub(crate) async fn arrived(&self, stream: u64, event: StoreEvent) -> bool {
        self.frames.send((LinkEpoch(stream), event)).await.is_ok()
    }

    /// Resolves when a stream that was open is no longer.
    pub(crate) async fn ended(&self, stream: u64) {
        let mut present = self.present.subscribe();
        // It fails only without the sender, which `self` is.
        present.wait_for(|link| link.0 != stream).await.ok();
    }

    /// What a stream sends next; `None` when it has ended.
    pub(crate) fn poll(&self, stream: u64, waker: &Waker) -> Poll<Option<Vec<SessionCall>>> {
        let mut calls = self.calls.lock();
        if calls.stream != stream {
            return Poll::Ready(None);
        }
        let taken = calls.take_frame();
        if taken.is_empty() {
            calls.waker = Some(waker.clone());
            return Poll::Pending;
        }
        self.report_room(&calls);
        Poll::Ready(Some(taken))
    }

    fn send(&self, link: LinkEpoch, call: SessionCall) {
        let weight = call.weight();
        if weight > self.max_call_bytes {
            count(&self.metrics.dropped_calls, 1);
            return;
        }
        let waker = {
            let mut calls = self.calls.lock();
            if !calls.open || calls.stream != link.0 {
                return;
            }
            calls.push(call, weight);
            if calls.is_congested(1) {
                self.congested.store(true, Ordering::Release);
            }
            if calls.is_congested(OVERFLOW_FACTOR) {
                drop(calls);
                count(&self.metrics.overflowed_links, 1);
                return self.end(link.0);
            }
            calls.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn end(&self, stream: u64) {
        let waker = {
            let mut calls = self.calls.lock();
            if calls.stream != stream {
                return;
            }
            calls.stream = 0;
            calls.open = false;
            calls.queue.clear();
            calls.bytes = 0;
            self.report_room(&calls);
            calls.waker.take()
        };
        self.present.send_replace(LinkEpoch::NONE);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn report_room(&self, calls: &Calls) {
        if !calls.is_congested(1) && self.congested.swap(false, Ordering::AcqRel) {
            self.room.notify_waiters();
        }
    }
}

impl fmt::Debug for StoreShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreShared").finish_non_exhaustive()
    }
}

impl Calls {
    fn is_congested(&self, factor: usize) -> bool {
        self.queue.len() >= CONGESTED_CALLS * factor
            || self.bytes >= CONGESTED_BYTES * factor as u64
    }

    fn push(&mut self, call: SessionCall, weight: u64) {
        let Some(last) = self.queue.back_mut() else {
            self.bytes = weight;
            return self.queue.push_back(call);
        };
        let before = last.weight();
        match last.merge(call) {
            Ok(()) => self.bytes += last.weight() - before,
            Err(call) => {
                self.bytes += weight;
                self.queue.push_back(call);
            }
        }
    }

    fn take_frame(&mut self) -> Vec<SessionCall> {
        let mut bytes = 0;
        let fits = |call: &&SessionCall| {
            bytes += call.weight();
            bytes <= FRAME_BYTES
        };
        let count = self.queue.iter().take_while(fits).count();
        let count = count.max(1).min(self.queue.len());
        let taken: Vec<_> = self.queue.drain(..count).collect();
        let weight: u64 = taken.iter().map(SessionCall::weight).sum();
        self.bytes = self.bytes.saturating_sub(weight);
        taken
    }
}

/// A session stream that is being opened or is open.
pub(crate) struct StreamGuard<'a> {
    shared: &'a StoreShared,
    stream: u64,
}

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        self.shared.end(self.stream);
    }
}
