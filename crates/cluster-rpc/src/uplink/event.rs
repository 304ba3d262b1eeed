//! What comes out of the cluster: messages for this proxy's clients, and completions.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::Message;
use tokio::sync::mpsc;

use super::Shared;
use super::metrics::count;
use crate::frame::Incarnation;
use crate::link::AckCell;
use crate::receiver::{Incoming, Receiver};

/// Something the broker must act on.
#[derive(Debug)]
pub enum UplinkEvent<T> {
    /// Messages from other proxies.
    Deliver(Deliveries),
    /// Tickets of messages that are where they must be.
    Completed(Vec<T>),
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
/// intermediate, and through it to their publishers. A batch that is dropped instead is lost.
#[must_use = "unless accepted, the messages are never acknowledged"]
pub struct Deliveries {
    messages: Vec<Incoming>,
    cell: Arc<AckCell>,
    session: u64,
    up_to: u64,
}

impl Deliveries {
    /// The messages in order. Their expiry interval is what was left when they were sent.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &Arc<Message>> {
        self.messages.iter().map(|incoming| &incoming.message)
    }

    /// They are where they must be.
    pub fn accept(self) {
        self.cell.accept(self.session, self.up_to);
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").field("messages", &self.messages.len()).finish_non_exhaustive()
    }
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
    /// The last event was none, so deliveries that wait come first.
    deliveries_next: bool,
}

impl<T: Send + 'static> UplinkEvents<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>, arrived: mpsc::Receiver<Arrived>) -> Self {
        Self { shared, arrived, receiver: Receiver::new(), deliveries_next: false }
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
        let completed = self.shared.take_completed();
        (!completed.is_empty()).then_some(UplinkEvent::Completed(completed))
    }

    fn deliveries(&mut self, mut arrived: Arrived) -> Deliveries {
        let now = Instant::now();
        if let Some(present) = self.shared.take_present_origins() {
            self.receiver.forget(&present, now);
        }
        let repeated = self.receiver.admit(&mut arrived.messages, now);
        let metrics = self.shared.metrics();
        count(&metrics.delivered, arrived.messages.len());
        count(&metrics.duplicates, repeated);
        Deliveries {
            messages: arrived.messages,
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
