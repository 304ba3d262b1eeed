//! Everything on its way to one client's task: messages, completions, what the store says, and the order to end.
//!
//! A mailbox belongs to one connection. Pushing never waits; what does not fit is refused by a stated
//! policy and the caller counts it. Memory is bounded in messages and in bytes: by the limits here for what comes from
//! publishers, by the store for what comes from a durable queue, which gives no more than the client may have
//! unacknowledged. It does not know who pushes or why, and decides nothing about MQTT.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mqtt_codec::{QoS, ReasonCode, SubscriptionId};
use mqtt_session::{Delivery, DeliverySource, Ticket};
use parking_lot::Mutex;

use crate::store::News;

/// How long a queue may get, in messages and bytes, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    /// Most messages.
    pub messages: usize,
    /// Most bytes, as [`weight`] counts them.
    pub bytes: usize,
    /// What happens to a QoS 1 or 2 message that does not fit. QoS 0 is always dropped.
    pub when_full: WhenFull,
}

/// What happens to a QoS 1 or 2 message that finds its queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The client is disconnected with 0x97 Quota exceeded.
    Disconnect,
    /// The new message is dropped.
    DropNewest,
    /// The oldest messages are dropped until it fits.
    DropOldest,
}

/// What became of a pushed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is in the queue.
    Queued,
    /// It is in the queue, which is more than half full and whose reader has not had its turn: the pusher should
    /// let it run.
    Crowded,
    /// Dropped: the queue is full.
    DroppedFull,
    /// It is in the queue, and this many older ones were dropped for it.
    Displaced(usize),
    /// The client is being disconnected because its queue is full.
    Overrun,
    /// The connection is over.
    Closed,
}

/// Why a connection must end, told by somebody else than its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndOrder(pub ReasonCode);

/// A queue for one connection. Many push, one task polls.
#[derive(Debug)]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Delivery>,
    /// How many messages left the queue.
    gone: u64,
    bytes: usize,
    completions: Vec<(Ticket, ReasonCode)>,
    news: Vec<News>,
    order: Option<EndOrder>,
    waker: Option<Waker>,
    limits: QueueLimits,
    closed: bool,
    /// The reader has looked and can take nothing: its client is slow. New messages do not change that, so they neither
    /// wake it nor ask their pusher to wait for it.
    blocked: bool,
}

/// What a task takes out of its mailbox at once.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// Messages in order.
    pub deliveries: VecDeque<Delivery>,
    /// The number of the message that comes next, as [`Mailbox::next_number`] counts them.
    pub next: u64,
    /// Publishes of this client that are where they must be.
    pub completions: Vec<(Ticket, ReasonCode)>,
    /// What the store says, in order.
    pub news: Vec<News>,
    /// The connection must end.
    pub order: Option<EndOrder>,
}

/// Cost of a queue slot beside the bytes of its message.
const SLOT: usize = 96;

/// Messages closer together than this in memory are taken to share one read buffer.
const READ_BUFFER: usize = 64 * 1024;

/// What a message counts against a queue, in bytes.
#[must_use]
pub(crate) fn weight(delivery: &Delivery) -> usize {
    let message = &delivery.message;
    SLOT + message.topic.as_str().len()
        + message.payload.len()
        + message.properties.as_bytes().len()
        + delivery.subscription_ids.len() * size_of::<SubscriptionId>()
}

impl Mailbox {
    /// An empty mailbox.
    #[must_use]
    pub(crate) fn new(limits: QueueLimits) -> Self {
        let inner = Inner {
            queue: VecDeque::new(),
            gone: 0,
            bytes: 0,
            completions: Vec::new(),
            news: Vec::new(),
            order: None,
            waker: None,
            limits,
            closed: false,
            blocked: false,
        };
        Self { inner: Mutex::new(inner) }
    }

    /// Appends a message, or refuses it by policy.
    pub(crate) fn push(&self, delivery: Delivery) -> Pushed {
        let mut inner = self.inner.lock();
        let pushed = inner.push(delivery);
        let asleep = inner.blocked && inner.order.is_none();
        let waker = if asleep { None } else { inner.waker.take() };
        drop(inner);
        wake(waker);
        pushed
    }

    /// Tells the task that its client's publish is where it must be.
    ///
    /// Bounded by the tickets a connection may have open.
    pub(crate) fn complete(&self, tickets: impl Iterator<Item = Ticket>, reason: ReasonCode) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.completions.extend(tickets.map(|ticket| (ticket, reason)));
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// Tells the task what the store says. Bounded by what the task has asked for.
    pub(crate) fn tell(&self, news: News) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.news.push(news);
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// Tells the task to end its connection. The first order stands.
    pub(crate) fn order(&self, order: EndOrder) {
        let mut inner = self.inner.lock();
        inner.order.get_or_insert(order);
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// Moves what is there into `drained`: the order, all completions and news, and messages up to `quota` bytes of
    /// which at most `window` have QoS 1 or 2. Pending when this call moved nothing.
    pub(crate) fn poll_drain(
        &self,
        context: &Context<'_>,
        window: usize,
        quota: usize,
        drained: &mut Drained,
    ) -> Poll<()> {
        let mut inner = self.inner.lock();
        let before = drained.deliveries.len();
        let mut moved =
            !inner.completions.is_empty() || !inner.news.is_empty() || inner.order.is_some();
        drained.order = inner.order.take().or(drained.order);
        drained.completions.append(&mut inner.completions);
        drained.news.append(&mut inner.news);
        inner.move_messages(window, quota, &mut drained.deliveries);
        drained.next = inner.gone;
        moved |= drained.deliveries.len() > before;
        inner.blocked = !moved && !inner.queue.is_empty();
        if moved {
            return Poll::Ready(());
        }
        match &inner.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => inner.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits for the order to end, and takes nothing else: for a connection whose session is not there yet.
    pub(crate) fn poll_order(&self, context: &Context<'_>) -> Poll<EndOrder> {
        let mut inner = self.inner.lock();
        if let Some(order) = inner.order.take() {
            return Poll::Ready(order);
        }
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether no message waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.lock().queue.is_empty()
    }

    /// The number of the message that is pushed next. They are numbered in order, from 0.
    pub(crate) fn next_number(&self) -> u64 {
        let inner = self.inner.lock();
        inner.gone + inner.queue.len() as u64
    }

    /// The connection is over: frees what is queued; later pushes find it closed. Returns how many QoS 1 and 2
    /// messages of publishers were still there. What the store gave stays in the store.
    pub(crate) fn close(&self) -> usize {
        let mut inner = self.inner.lock();
        let lost = inner.queue.iter().filter(|delivery| is_lost(delivery)).count();
        inner.queue = VecDeque::new();
        inner.completions = Vec::new();
        inner.news = Vec::new();
        inner.bytes = 0;
        inner.closed = true;
        inner.waker = None;
        lost
    }
}

/// Whether a message that is not sent before its connection ends is lost with it.
#[must_use]
pub(crate) fn is_lost(delivery: &Delivery) -> bool {
    delivery.qos != QoS::AtMostOnce && matches!(delivery.source, DeliverySource::Own)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Inner {
    fn push(&mut self, mut delivery: Delivery) -> Pushed {
        if self.closed {
            return Pushed::Closed;
        }
        let weight = weight(&delivery);
        let mut displaced = 0;
        // What comes from a durable queue is bounded there, and must not be dropped here.
        let bounded = matches!(delivery.source, DeliverySource::Own);
        while bounded && self.is_full(weight) {
            match (delivery.qos, self.limits.when_full) {
                (QoS::AtMostOnce, _) | (_, WhenFull::DropNewest) => return Pushed::DroppedFull,
                (_, WhenFull::Disconnect) => {
                    self.order.get_or_insert(EndOrder(ReasonCode::QuotaExceeded));
                    return Pushed::Overrun;
                }
                (_, WhenFull::DropOldest) => {
                    if self.pop().is_none() {
                        return Pushed::DroppedFull;
                    }
                    displaced += 1;
                }
            }
        }
        self.detach_if_stranded(&mut delivery);
        self.bytes += weight;
        self.queue.push_back(delivery);
        let crowded = self.queue.len() * 2 > self.limits.messages
            || (self.queue.len() > 1 && self.bytes * 2 > self.limits.bytes);
        match displaced {
            0 if crowded && !self.blocked => Pushed::Crowded,
            0 => Pushed::Queued,
            displaced => Pushed::Displaced(displaced),
        }
    }

    /// An empty queue takes any message: the largest packet must reach a client that keeps up.
    fn is_full(&self, weight: usize) -> bool {
        self.queue.len() >= self.limits.messages
            || (!self.queue.is_empty() && self.bytes + weight > self.limits.bytes)
    }

    /// A small message that waits must not keep the whole buffer alive that it was read in. Runs of messages from one
    /// buffer, the common case under load, share it; one that stands alone in a queue gets memory of its own.
    fn detach_if_stranded(&self, delivery: &mut Delivery) {
        let Some(before) = self.queue.back() else {
            return;
        };
        if self.queue.len() < 16 || delivery.message.payload.len() >= READ_BUFFER / 4 {
            return;
        }
        let near = |a: &[u8], b: &[u8]| a.as_ptr().addr().abs_diff(b.as_ptr().addr()) < READ_BUFFER;
        if !near(
            before.message.topic.as_str().as_bytes(),
            delivery.message.topic.as_str().as_bytes(),
        ) {
            delivery.message = Arc::new(delivery.message.detached());
        }
    }

    fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.gone += 1;
        self.bytes -= weight(&delivery);
        Some(delivery)
    }

    fn move_messages(&mut self, mut window: usize, mut quota: usize, to: &mut VecDeque<Delivery>) {
        if to.is_empty() && self.queue.len() <= window && self.bytes <= quota {
            std::mem::swap(&mut self.queue, to);
            self.gone += to.len() as u64;
            self.bytes = 0;
            return;
        }
        while let Some(delivery) = self.queue.front() {
            let windowed = delivery.qos != QoS::AtMostOnce;
            if quota == 0 || (windowed && window == 0) {
                return;
            }
            window -= usize::from(windowed);
            quota = quota.saturating_sub(weight(delivery));
            to.extend(self.pop());
        }
    }
}

#[cfg(test)]
mod tests;
