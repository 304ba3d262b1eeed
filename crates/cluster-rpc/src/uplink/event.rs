//! What comes out of the cluster: messages for this proxy's clients, and completions.

use std::fmt;
use std::sync::Arc;

use mqtt_codec::{Message, QoS, ReasonCode};
use tokio::sync::mpsc;

use super::Shared;
use super::metrics::count;
use crate::frame::Incarnation;
use crate::link::AckCell;
use crate::machine::now;
use crate::receiver::{Incoming, Receiver};
use crate::refusals::{Place, Refusals};

/// Something the broker must act on.
#[derive(Debug)]
pub enum UplinkEvent<T> {
    /// Messages from other proxies.
    Deliver(Deliveries),
    /// Tickets of messages that are where they must be.
    Completed(Vec<T>),
    /// Tickets of messages that an endpoint has not taken, and why: 0x80 or above. They do not come in
    /// `Completed`.
    Refused(Vec<(T, ReasonCode)>),
    /// This life was declared dead: close every client now. A new life registers itself.
    Fenced {
        /// The new life.
        new: Incarnation,
        /// Tickets of messages that were not acknowledged and are sent no more.
        dropped: Vec<T>,
    },
}

/// A batch of messages in order; those that came before are already taken out.
///
/// Call [`accept`](Self::accept) once they are in the sessions' queues: only then are they acknowledged to the
/// intermediate, and through it to their publishers. Batches must be accepted in the order in which they
/// came. A batch that is dropped instead is lost.
#[must_use = "unless accepted, the messages are never acknowledged"]
pub struct Deliveries {
    messages: Vec<Incoming>,
    /// What was taken out: acknowledged with the rest, unless it was refused when it first came.
    repeated: Vec<Incoming>,
    refusals: Arc<Refusals>,
    cell: Arc<AckCell>,
    session: u64,
    up_to: u64,
}

impl Deliveries {
    /// The messages in order. Their expiry interval is what was left when they were sent.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &Arc<Message>> {
        self.messages.iter().map(|incoming| &incoming.message)
    }

    /// The messages in order, with what tells them apart and where they come from.
    #[must_use]
    pub fn routed(&self) -> &[Incoming] {
        &self.messages
    }

    /// They are where they must be.
    pub fn accept(self) {
        self.accept_but(Vec::new());
    }

    /// Those at these places of [`routed`](Self::routed) are not taken, each for a reason of 0x80 or above; all
    /// others are where they must be.
    ///
    /// The publishers of QoS >= 1 messages are told. A refused message that is sent again all the same,
    /// because a stream broke before its origin heard of it, is refused again without being delivered.
    pub fn accept_but(self, refused: Vec<(usize, ReasonCode)>) {
        let mut numbers = Vec::new();
        for (index, reason) in refused {
            let incoming = self.messages.get(index);
            // Nobody waits for an answer to QoS 0.
            if let Some(incoming) = incoming.filter(|one| one.message.qos > QoS::AtMostOnce) {
                self.refusals.insert(place(incoming), reason);
                numbers.push((incoming.number, reason));
            }
        }
        for incoming in &self.repeated {
            let reason = self.refusals.reason(place(incoming));
            numbers.extend(reason.map(|reason| (incoming.number, reason)));
        }
        self.cell.accept(self.session, self.up_to, numbers);
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").field("messages", &self.messages.len()).finish_non_exhaustive()
    }
}

fn place(incoming: &Incoming) -> Place {
    Place { origin: incoming.origin, lane: incoming.lane, seq: incoming.seq }
}

/// A batch as a link hands it over.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) messages: Vec<Incoming>,
    pub(crate) cell: Arc<AckCell>,
    pub(crate) session: u64,
    pub(crate) up_to: u64,
}

/// The events of an uplink, for the one task that acts on them.
///
/// It also is the one place where repetitions are dropped, so their order is that of the hand-over.
pub struct UplinkEvents<T> {
    shared: Arc<Shared<T>>,
    arrived: mpsc::Receiver<Arrived>,
    receiver: Receiver,
    refusals: Arc<Refusals>,
    /// The last event was none, so deliveries that wait come first.
    deliveries_next: bool,
}

impl<T: Send + 'static> UplinkEvents<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>, arrived: mpsc::Receiver<Arrived>) -> Self {
        Self {
            shared,
            arrived,
            receiver: Receiver::new(),
            refusals: Arc::default(),
            deliveries_next: false,
        }
    }

    /// The next event; `None` after the shutdown. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<UplinkEvent<T>> {
        loop {
            // Deliveries and the rest take turns: neither waits for a stream of the other to end.
            if !std::mem::take(&mut self.deliveries_next)
                && let Some(event) = self.take_event()
            {
                // Completions are taken all at once, so nothing is left; after a fence they may be.
                self.deliveries_next = matches!(event, UplinkEvent::Completed(_));
                return Some(event);
            }
            tokio::select! {
                biased;
                arrived = self.arrived.recv() => {
                    return Some(UplinkEvent::Deliver(self.deliveries(arrived?)));
                }
                () = self.shared.event_waiting() => {}
                () = self.shared.stopped() => return None,
            }
        }
    }

    fn take_event(&self) -> Option<UplinkEvent<T>> {
        if let Some((new, dropped)) = self.shared.take_fenced() {
            return Some(UplinkEvent::Fenced { new, dropped });
        }
        let refused = self.shared.take_refused();
        if !refused.is_empty() {
            return Some(UplinkEvent::Refused(refused));
        }
        let completed = self.shared.take_completed();
        (!completed.is_empty()).then_some(UplinkEvent::Completed(completed))
    }

    fn deliveries(&mut self, mut arrived: Arrived) -> Deliveries {
        let now = now();
        if let Some(present) = self.shared.take_present_origins() {
            self.receiver.forget(&present, now);
            self.refusals.forget(|origin| self.receiver.remembers(origin));
        }
        let repeated = self.receiver.admit(&mut arrived.messages, now);
        let metrics = self.shared.metrics();
        count(&metrics.delivered, arrived.messages.len());
        count(&metrics.duplicates, repeated.len());
        Deliveries {
            messages: arrived.messages,
            repeated,
            refusals: Arc::clone(&self.refusals),
            cell: arrived.cell,
            session: arrived.session,
            up_to: arrived.up_to,
        }
    }
}

impl<T> fmt::Debug for UplinkEvents<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UplinkEvents").finish_non_exhaustive()
    }
}
