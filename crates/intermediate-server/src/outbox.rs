//! What is on its way to one endpoint.
//!
//! Owns the deliveries that the endpoint has not acknowledged, in order, with their numbers on the
//! link: the first has the number `acked + 1`, each next one more. Invariant: whoever waits for a
//! delivery (its [`Hold`]) is told exactly once, when it is acknowledged or the outbox is dropped.
//! Does not decide who gets what, and sends nothing itself.
//!
//! ```text
//!        acked          acked + sent                      acked + entries
//!  taken ..|.. on the link ..|.. waits for room in the window ..|
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use cluster_rpc::frame::{Delivery, OriginId, Routed};
use mqtt_codec::ReasonCode;

use crate::pending::Hold;
use crate::relay::Violation;

/// Bounds of an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// From here on no origin gets further credit, until three quarters are left.
    pub bytes: u64,
    /// From here on QoS 0 is dropped: it alone must never stop anyone.
    pub qos0_bytes: u64,
    /// Sent and not acknowledged, in bytes.
    pub window_bytes: u64,
    /// Sent and not acknowledged, in messages.
    pub window_messages: usize,
    /// A batch is closed once it has this many bytes.
    pub batch_bytes: u64,
    /// A batch has no more messages than this.
    pub batch_messages: usize,
}

/// The batches that entries were read in may have this many times the window's bytes.
const READ_WINDOWS: u64 = 4;

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            qos0_bytes: 32 << 20,
            window_bytes: 4 << 20,
            window_messages: 8_192,
            batch_bytes: 64 << 10,
            batch_messages: 1_000,
        }
    }
}

/// A message in an outbox.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Gone for a message that was sent and nobody waits for: it is never sent again.
    pub(crate) routed: Option<Arc<Routed>>,
    pub(crate) origin: OriginId,
    pub(crate) hold: Option<Hold>,
    pub(crate) weight: u64,
    /// The batch it was read in, whose buffer it keeps.
    pub(crate) batch: Batch,
    pub(crate) since: Instant,
}

/// A batch of an origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Each has another.
    pub(crate) number: u64,
    /// Weight of all its messages.
    pub(crate) bytes: u64,
}

/// What an endpoint says of the link it had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastLink {
    pub(crate) link: u64,
    pub(crate) seq: u64,
}

/// Whether a message was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    Full,
}

/// The queue of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    entries: VecDeque<Entry>,
    /// The link's number of the last delivery that was taken.
    acked: u64,
    /// How many entries, from the front, are on the link.
    sent: usize,
    sent_bytes: u64,
    bytes: u64,
    /// The batch of the last entry, and the bytes of all batches that entries were read in: what is
    /// in memory for their sake.
    last_batch: u64,
    read_bytes: u64,
    /// The link these numbers belong to, a new one for each stream; 0 before the first.
    link: u64,
    /// How many entries have ever left; places in `barriers` count from there.
    left: u64,
    /// Who waits until all up to a place has left; places ascend.
    barriers: VecDeque<(u64, Hold)>,
    congested: bool,
}

impl Outbox {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.congested
    }

    /// Whether something waits to be put on the link.
    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.entries.len()
    }

    /// Whether messages lie here longer than it takes to send them, or keep far more in memory than
    /// they weigh: they must not keep what they were read in.
    pub(crate) fn is_backed_up(&self, limits: &OutboxLimits) -> bool {
        self.bytes > limits.window_bytes
            || self.read_bytes > READ_WINDOWS.saturating_mul(limits.window_bytes)
    }

    pub(crate) fn push(&mut self, mut entry: Entry, limits: &OutboxLimits) -> Pushed {
        if entry.is_at_most_once() && self.bytes >= limits.qos0_bytes {
            return Pushed::Full;
        }
        // Counted once, with the first of the batch that comes here.
        if std::mem::replace(&mut self.last_batch, entry.batch.number) == entry.batch.number {
            entry.batch.bytes = 0;
        }
        self.read_bytes += entry.batch.bytes;
        self.bytes += entry.weight;
        self.entries.push_back(entry);
        self.congested |= self.bytes >= limits.bytes;
        Pushed::Queued
    }

    /// `hold` is released once everything that is here now has left. `false` if nothing is here.
    pub(crate) fn push_barrier(&mut self, hold: Hold) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        self.barriers.push_back((self.left + self.entries.len() as u64, hold));
        true
    }

    /// The next batch for the link, as far as its window allows.
    pub(crate) fn next_batch(
        &mut self,
        limits: &OutboxLimits,
        now: Instant,
    ) -> Option<(u64, Vec<Delivery>)> {
        let first_seq = self.acked + self.sent as u64 + 1;
        let room = limits.window_messages.saturating_sub(self.sent).min(limits.batch_messages);
        let waiting = self.entries.len() - self.sent;
        let mut deliveries = Vec::with_capacity(room.min(waiting));
        let mut batch_bytes = 0;
        for entry in self.entries.iter_mut().skip(self.sent).take(room) {
            let over = batch_bytes + entry.weight > limits.batch_bytes && batch_bytes > 0;
            if over || self.sent_bytes >= limits.window_bytes {
                break;
            }
            let Some(routed) = take_for_link(entry, now) else {
                break;
            };
            deliveries.push(Delivery { origin: entry.origin, routed });
            batch_bytes += entry.weight;
            self.sent_bytes += entry.weight;
        }
        self.sent += deliveries.len();
        (!deliveries.is_empty()).then_some((first_seq, deliveries))
    }

    /// The endpoint took everything up to `up_to`; who waited for it goes to `released`.
    pub(crate) fn ack(
        &mut self,
        up_to: u64,
        limits: &OutboxLimits,
        released: &mut Vec<Hold>,
    ) -> Result<(), Violation> {
        let sent = self.acked + self.sent as u64;
        if up_to > sent {
            return Err(Violation::AckedUnsent { acked: up_to, sent });
        }
        while self.acked < up_to {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.acked += 1;
            self.left += 1;
            self.sent -= 1;
            self.sent_bytes -= entry.weight;
            self.bytes -= entry.weight;
            self.read_bytes -= entry.batch.bytes;
            released.extend(entry.hold);
        }
        self.settle(limits, released);
        Ok(())
    }

    /// The endpoint will not take the delivery with this number, and will acknowledge it all the same.
    pub(crate) fn refuse(&mut self, number: u64, reason: ReasonCode) -> Result<(), Violation> {
        let place =
            number.checked_sub(self.acked + 1).and_then(|place| usize::try_from(place).ok());
        let on_the_link = place.filter(|&place| place < self.sent);
        let entry = on_the_link.and_then(|place| self.entries.get_mut(place));
        let entry = entry.ok_or(Violation::RefusedUnsent(number))?;
        if let Some(hold) = &mut entry.hold {
            hold.refused.get_or_insert(reason);
        }
        Ok(())
    }

    /// A new stream of the endpoint, with the id `link`. Returns how many messages that nobody waits
    /// for were lost with the old stream.
    ///
    /// What the endpoint took from its last link counts as acknowledged; the rest is sent again, in
    /// order, with numbers from 1: a late acknowledgement of the old link cannot be taken for one of
    /// this. What nobody waits for is sent once only. What was refused stays so, though it is sent again:
    /// the endpoint may have taken later ones since, and then it drops this one as a repetition.
    pub(crate) fn open(
        &mut self,
        link: u64,
        last: LastLink,
        limits: &OutboxLimits,
        released: &mut Vec<Hold>,
    ) -> u64 {
        if self.link != 0 && last.link == self.link {
            // An endpoint that claims more than was sent confuses links: then nothing was taken.
            self.ack(last.seq, limits, released).ok();
        }
        self.link = link;
        self.acked = 0;
        self.forget_sent(limits, released)
    }

    /// The endpoint is gone: everyone who waits is released, and all is dropped. Returns how many
    /// messages that were.
    pub(crate) fn clear(&mut self, released: &mut Vec<Hold>) -> u64 {
        let dropped = self.entries.len() as u64;
        released.extend(self.entries.drain(..).filter_map(|entry| entry.hold));
        released.extend(self.barriers.drain(..).map(|(_, hold)| hold));
        *self = Self::default();
        dropped
    }

    fn forget_sent(&mut self, limits: &OutboxLimits, released: &mut Vec<Hold>) -> u64 {
        let before = self.entries.len();
        let mut places = std::mem::take(&mut self.barriers).into_iter().peekable();
        let mut moved = VecDeque::new();
        let old = std::mem::take(&mut self.entries);
        let start = self.left;
        for (place, entry) in (start + 1..).zip(old) {
            if entry.routed.is_some() {
                self.entries.push_back(entry);
            } else {
                self.bytes -= entry.weight;
                self.read_bytes -= entry.batch.bytes;
            }
            while let Some((_, hold)) = places.next_if(|(at, _)| *at <= place) {
                moved.push_back((start + self.entries.len() as u64, hold));
            }
        }
        self.barriers = moved;
        self.sent = 0;
        self.sent_bytes = 0;
        self.settle(limits, released);
        (before - self.entries.len()) as u64
    }

    /// After entries have left: barriers that were reached, and whether there is room again.
    fn settle(&mut self, limits: &OutboxLimits, released: &mut Vec<Hold>) {
        while let Some((_, hold)) = self.barriers.pop_front_if(|(place, _)| *place <= self.left) {
            released.push(hold);
        }
        if self.bytes <= limits.bytes / 4 * 3 {
            self.congested = false;
        }
    }
}

impl Entry {
    /// Nobody waits for it: for this endpoint it is a QoS 0 message, whatever it was published with.
    fn is_at_most_once(&self) -> bool {
        self.hold.is_none()
    }
}

/// What goes on the link for `entry`; the time it waited is taken off its expiry `[MQTT-3.3.2-6]`.
fn take_for_link(entry: &mut Entry, now: Instant) -> Option<Arc<Routed>> {
    let routed =
        if entry.is_at_most_once() { entry.routed.take()? } else { entry.routed.clone()? };
    let Some(expiry) = routed.message.expiry_secs else {
        return Some(routed);
    };
    let waited = now.saturating_duration_since(entry.since).as_secs();
    if waited == 0 {
        return Some(routed);
    }
    let mut late = Routed::clone(&routed);
    let waited = u32::try_from(waited).unwrap_or(u32::MAX);
    late.message.expiry_secs = Some(expiry.saturating_sub(waited));
    Some(Arc::new(late))
}
