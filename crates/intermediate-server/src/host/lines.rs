//! The streams of proxies, seen from the store.
//!
//! Owns, for each, what is to be said to it and whether it can be said now. Invariant: deliveries are taken from
//! the store only when the stream has room, so what waits for a slow proxy waits in the store; answers wait
//! here, and a proxy that lets many of them wait is not read. Does not know what a frame means.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cluster_rpc::FrameSender;
use cluster_rpc::frame::{Member, SessionAnswer, SessionCall, SessionDown, weight_of};
use foldhash::fast::RandomState;
use partition::{Epoch, ProxyId, SessionId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A frame is not made larger than this, but for one large message.
pub(super) const FRAME_BYTES: usize = 64 << 10;

/// What may be owed to one proxy, in bytes, before its calls are not read.
const MOST_OWED_BYTES: usize = 16 << 20;

/// What a call counts until it is answered.
const CALL_BYTES: usize = 256;

/// A stream of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LineId(pub(super) u64);

/// What is owed to a proxy: shared by its stream, which adds calls and waits, and the store, which
/// answers them.
#[derive(Debug, Default)]
pub(super) struct Debt {
    bytes: AtomicUsize,
    paid: Notify,
}

impl Debt {
    /// Counts calls that were read.
    pub(super) fn add_calls(&self, calls: &[SessionCall]) {
        let asked = calls.iter().filter(|call| is_request(call)).count();
        self.add(asked * CALL_BYTES);
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn pay(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before >= MOST_OWED_BYTES && before - bytes < MOST_OWED_BYTES {
            self.paid.notify_one();
        }
    }

    /// Resolves when more may be read.
    pub(super) async fn bearable(&self) {
        while self.bytes.load(Ordering::Relaxed) >= MOST_OWED_BYTES {
            self.paid.notified().await;
        }
    }
}

/// A stream that has said whose it is.
#[derive(Debug)]
pub(super) struct Opening {
    /// Whose.
    pub(super) member: Member,
    pub(super) sender: FrameSender<SessionDown>,
    pub(super) debt: Arc<Debt>,
    /// Ends the stream.
    pub(super) close: CancellationToken,
    /// When its proxy was told that it is open, or shortly before.
    pub(super) at: Instant,
}

/// A connection that was attached.
#[derive(Clone, Copy, Debug)]
struct Attached {
    epoch: Epoch,
    connection: u64,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) proxy: ProxyId,
    opening: Opening,
    answers: VecDeque<SessionAnswer>,
    /// The connections that were attached on this stream, by their sessions. Others have not said what of
    /// theirs has arrived, so nothing is delivered to them.
    attached: HashMap<SessionId, Attached, RandomState>,
    /// Whether the store may have deliveries.
    pub(super) ready: bool,
    /// A frame waits for room; until it is gone none may follow.
    pub(super) stalled: bool,
    dirty: bool,
}

impl Line {
    /// Notes that a connection was attached on this stream.
    pub(super) fn attach(&mut self, session: SessionId, epoch: Epoch, connection: u64) {
        self.attached.insert(session, Attached { epoch, connection });
    }

    /// Notes that it is not any more.
    pub(super) fn detach(&mut self, session: SessionId, epoch: Epoch) {
        if self.attached.get(&session).is_some_and(|one| one.epoch == epoch) {
            self.attached.remove(&session);
        }
    }

    pub(super) fn is_attached(&self, session: SessionId, connection: u64) -> bool {
        self.attached.get(&session).is_some_and(|one| one.connection == connection)
    }

    /// The answers of the next frame; empty if there are none.
    pub(super) fn take_answers(&mut self) -> Vec<SessionAnswer> {
        let (mut taken, mut bytes, mut paid) = (Vec::new(), 0, 0);
        while let Some(answer) = self.answers.pop_front() {
            let weight = weight(&answer);
            bytes += weight;
            paid += weight + if is_answer(&answer) { CALL_BYTES } else { 0 };
            taken.push(answer);
            if bytes >= FRAME_BYTES {
                break;
            }
        }
        self.opening.debt.pay(paid);
        taken
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    pub(super) fn sender(&self) -> &FrameSender<SessionDown> {
        &self.opening.sender
    }

    /// When its proxy was told that it is open, or shortly before.
    pub(super) fn opened_at(&self) -> Instant {
        self.opening.at
    }

    fn close(&self) {
        self.opening.close.cancel();
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: HashMap<LineId, Line, RandomState>,
    of_proxy: HashMap<ProxyId, LineId, RandomState>,
    /// Those that may have something to send.
    dirty: VecDeque<LineId>,
}

impl Lines {
    /// A stream of `proxy`; it replaces an earlier one, which is closed and given back.
    pub(super) fn open(&mut self, id: LineId, proxy: ProxyId, opening: Opening) -> Option<LineId> {
        let line = Line {
            proxy,
            opening,
            answers: VecDeque::new(),
            attached: HashMap::default(),
            ready: true,
            stalled: false,
            dirty: false,
        };
        self.lines.insert(id, line);
        let former = self.of_proxy.insert(proxy, id).filter(|former| *former != id);
        former.filter(|former| self.close(*former))
    }

    /// Ends a stream. False if it is not here any more.
    pub(super) fn close(&mut self, id: LineId) -> bool {
        let Some(line) = self.lines.remove(&id) else { return false };
        line.close();
        if self.of_proxy.get(&line.proxy) == Some(&id) {
            self.of_proxy.remove(&line.proxy);
        }
        true
    }

    /// The stream of a proxy.
    pub(super) fn of_proxy(&self, proxy: ProxyId) -> Option<LineId> {
        self.of_proxy.get(&proxy).copied()
    }

    pub(super) fn line(&self, id: LineId) -> Option<&Line> {
        self.lines.get(&id)
    }

    pub(super) fn line_mut(&mut self, id: LineId) -> Option<&mut Line> {
        self.lines.get_mut(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Queues an answer. The stream may be gone: its proxy asks again.
    pub(super) fn answer(&mut self, id: LineId, answer: SessionAnswer) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.opening.debt.add(weight(&answer));
            line.answers.push_back(answer);
            self.mark(id);
        }
    }

    /// Notes that a stream may have something to send.
    pub(super) fn mark(&mut self, id: LineId) {
        if let Some(line) = self.lines.get_mut(&id)
            && !std::mem::replace(&mut line.dirty, true)
        {
            self.dirty.push_back(id);
        }
    }

    /// The next stream that may have something to send, and can.
    pub(super) fn take_dirty(&mut self) -> Option<LineId> {
        while let Some(id) = self.dirty.pop_front() {
            if let Some(line) = self.lines.get_mut(&id) {
                line.dirty = false;
                if !line.stalled {
                    return Some(id);
                }
            }
        }
        None
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// How many may have something to send.
    pub(super) fn count_dirty(&self) -> usize {
        self.dirty.len()
    }
}

/// Whether a call is answered by an answer that names it.
fn is_request(call: &SessionCall) -> bool {
    match call {
        SessionCall::Attach { .. }
        | SessionCall::Reattach { .. }
        | SessionCall::Subscribe { .. }
        | SessionCall::Unsubscribe { .. }
        | SessionCall::Begin { .. }
        | SessionCall::Release { .. }
        | SessionCall::ReadRetained { .. } => true,
        SessionCall::Detach { .. }
        | SessionCall::Withdraw { .. }
        | SessionCall::Acknowledge { .. }
        | SessionCall::AcknowledgeGroup { .. }
        | SessionCall::Taken { .. } => false,
    }
}

/// Whether an answer names a call.
fn is_answer(answer: &SessionAnswer) -> bool {
    match answer {
        SessionAnswer::Attached { .. }
        | SessionAnswer::Refused { .. }
        | SessionAnswer::Subscribed { .. }
        | SessionAnswer::Unsubscribed { .. }
        | SessionAnswer::Begun { .. }
        | SessionAnswer::Released { .. }
        | SessionAnswer::Retained { .. } => true,
        SessionAnswer::Received { .. } | SessionAnswer::Revoked { .. } => false,
    }
}

/// About what an answer takes in memory and on the wire, in bytes.
fn weight(answer: &SessionAnswer) -> usize {
    const HEAD: usize = 64;
    let more = match answer {
        SessionAnswer::Attached { received, incoming, .. } => {
            received.len() * 8 + incoming.len() * 24
        }
        SessionAnswer::Subscribed { reasons, .. } | SessionAnswer::Unsubscribed { reasons, .. } => {
            reasons.len()
        }
        SessionAnswer::Received { places, .. } => places.len() * 8,
        SessionAnswer::Retained { messages, .. } => {
            let bytes: u64 = messages.iter().map(|message| weight_of(message)).sum();
            usize::try_from(bytes).unwrap_or(usize::MAX / 2)
        }
        SessionAnswer::Refused { .. }
        | SessionAnswer::Begun { .. }
        | SessionAnswer::Released { .. }
        | SessionAnswer::Revoked { .. } => 0,
    };
    HEAD + more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_that_is_owed_too_much_is_not_read_until_some_is_paid() {
        let debt = Arc::new(Debt::default());
        debt.bearable().await;
        debt.add(MOST_OWED_BYTES);
        let waiting = Arc::clone(&debt);
        let waits = tokio::spawn(async move { waiting.bearable().await });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        debt.pay(1);
        waits.await.unwrap();
    }
}
