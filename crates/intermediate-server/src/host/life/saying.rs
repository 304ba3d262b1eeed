//! What goes out after a commit: effects become answers, streams with room get frames.

use std::time::Instant;

use cluster_rpc::TrySendError;
use cluster_rpc::frame::{QueuePlace, Route, SessionAnswer, SessionDown, SessionRevocation};
use mqtt_codec::{QoS, ReasonCode};
use partition::{Effect, More, PublishToken, RequestId, Store, StoreError};

use super::{About, Input, Life, Request};
use crate::host::calls;
use crate::host::lines::{FRAME_BYTES, LineId};
use crate::host::post::Will;
use crate::host::routes::Answer;

/// Frames for one stream before the others have their turn.
const FRAMES_IN_A_TURN: usize = 8;

impl<S: Store> Life<S> {
    pub(super) fn release(&mut self, effect: Effect) {
        match effect {
            Effect::Attached(attached) => {
                let Some(request) = self.asked(attached.request) else { return };
                let About::Connection(connection) = request.about else { return };
                let held = (attached.session, attached.epoch);
                self.lines.answer(request.line, calls::attached(request.number, *attached));
                // What the same commit has taken from it again must be told after that.
                if !self.owner.is_held(held.0, held.1) {
                    let held = calls::held(held.0, held.1);
                    let why = SessionRevocation::TakenOver;
                    let revoked = SessionAnswer::Revoked { connection, held, why };
                    self.lines.answer(request.line, revoked);
                } else if let Some(line) = self.lines.line_mut(request.line) {
                    line.attach(held.0, held.1, connection);
                }
            }
            Effect::Refused { request, refusal } => {
                let refusal = calls::refusal(refusal);
                self.answer(request, |request| SessionAnswer::Refused { request, refusal });
            }
            Effect::Subscribed { request, reasons } => self.subscribed(request, reasons),
            Effect::Unsubscribed { request, reasons } => {
                self.answer(request, |request| SessionAnswer::Unsubscribed { request, reasons });
            }
            Effect::Begun { request, key } => {
                self.answer(request, |request| SessionAnswer::Begun { request, key: key.0 });
            }
            Effect::Released { request } => {
                self.answer(request, |request| SessionAnswer::Released { request });
            }
            Effect::Received { holder, session, messages } => {
                // A connection that is not attached on its stream asks again.
                if let Some(line) = self.holder_line(holder, session) {
                    let places = messages.into_iter().map(|seq| QueuePlace(seq.0)).collect();
                    let connection = holder.connection;
                    self.lines.answer(line, SessionAnswer::Received { connection, places });
                }
            }
            Effect::Revoked { holder, session, epoch, why } => {
                self.revoke(holder, calls::held(session, epoch), calls::revocation(why));
            }
            Effect::NotTaken { token, reason } => self.refuse(token, reason),
            Effect::Route { filter, qos } => {
                let seq = self.around.uplink.announce(Route { filter, qos });
                self.waits.announced(seq);
            }
            Effect::Send { id, message, expires_at, once } => {
                self.post.push(Will { id, message, expires_at, once });
            }
            Effect::Ready(proxy) => {
                if let Some(id) = self.lines.of_proxy(proxy)
                    && let Some(line) = self.lines.line_mut(id)
                {
                    line.ready = true;
                    self.lines.mark(id);
                }
            }
        }
    }

    fn asked(&mut self, id: RequestId) -> Option<Request> {
        self.requests.remove(&id.0)
    }

    fn answer(&mut self, id: RequestId, answer: impl FnOnce(u64) -> SessionAnswer) {
        let Some(request) = self.asked(id) else { return };
        let (line, answer) = (request.line, answer(request.number));
        match request.about {
            About::Connection(_) => self.lines.answer(line, answer),
            About::Session(session) => {
                if let Some(Answer { line, answer, .. }) =
                    self.waits.pass(Answer { line, session, answer })
                {
                    self.lines.answer(line, answer);
                }
            }
        }
    }

    fn subscribed(&mut self, id: RequestId, reasons: Vec<ReasonCode>) {
        let Some(Request { line, number: request, about: About::Session(session) }) =
            self.asked(id)
        else {
            return;
        };
        let answer = SessionAnswer::Subscribed { request, reasons };
        let uplink = &self.around.uplink;
        let answer = Answer { line, session, answer };
        if let Some(Answer { line, answer, .. }) =
            self.waits.hold(answer, |seq| uplink.is_applied(seq))
        {
            self.lines.answer(line, answer);
        }
    }

    /// Sends the answers whose routes are known.
    pub(super) fn release_applied(&mut self) {
        let uplink = &self.around.uplink;
        while let Some(Answer { line, answer, .. }) = self.waits.take(|seq| uplink.is_applied(seq))
        {
            self.lines.answer(line, answer);
        }
    }

    /// Waits for the routes of the first answer that needs some.
    pub(super) fn watch_routes(&mut self) {
        if let Some(seq) = self.waits.watch() {
            let uplink = self.around.uplink.clone();
            let applied = async move { uplink.applied(seq).await };
            self.around.tasks.after(applied, Input::Applied);
        }
    }

    fn refuse(&mut self, token: PublishToken, reason: ReasonCode) {
        let batch = self.batches.iter_mut().rev().find(|batch| batch.first_token <= token.0);
        let Some(batch) = batch else { return };
        if let Ok(index) = usize::try_from(token.0 - batch.first_token) {
            batch.refused.push((index, calls::not_taken(reason)));
        }
    }

    /// Gives every stream that has something to send, and room, its frames.
    pub(super) fn fill_lines(&mut self, now: Instant) -> Result<(), StoreError> {
        // Each once: one that is not empty afterwards has its turn again after what has come meanwhile.
        for _ in 0..self.lines.count_dirty() {
            let Some(id) = self.lines.take_dirty() else { break };
            self.fill(id, now)?;
        }
        Ok(())
    }

    fn fill(&mut self, id: LineId, now: Instant) -> Result<(), StoreError> {
        for _ in 0..FRAMES_IN_A_TURN {
            let Some(frame) = self.next_frame(id, now)? else { return Ok(()) };
            let Some(line) = self.lines.line_mut(id) else { return Ok(()) };
            match line.sender().try_send(frame) {
                Ok(()) => {}
                Err(TrySendError::Full(frame)) => {
                    line.stalled = true;
                    let sender = line.sender().clone();
                    self.around.tasks.send_later(id, sender, frame);
                    return Ok(());
                }
                Err(TrySendError::Ended(_)) => {
                    self.lines.close(id);
                    self.attaches.handle_closed(id);
                    return Ok(());
                }
            }
        }
        self.lines.mark(id);
        Ok(())
    }

    fn next_frame(&mut self, id: LineId, now: Instant) -> Result<Option<SessionDown>, StoreError> {
        let Some(line) = self.lines.line_mut(id) else { return Ok(None) };
        // Before deliveries: an `Attached` among them is about what comes then.
        if line.has_answers() {
            return Ok(Some(SessionDown::Answers(line.take_answers())));
        }
        let unix = self.around.clock.unix(now);
        while std::mem::take(&mut line.ready) {
            let mut deliveries = Vec::new();
            let more = self.owner.deliveries(line.proxy, FRAME_BYTES, unix, &mut deliveries)?;
            line.ready = more == More::Yes;
            // Others come again when their connection has said what has arrived, but for QoS 0.
            let unattached = deliveries
                .extract_if(.., |one| !line.is_attached(one.session, one.holder.connection));
            let lost = unattached.filter(|one| one.qos == QoS::AtMostOnce).count();
            self.counts.dropped_unattached += lost as u64;
            if !deliveries.is_empty() {
                self.counts.deliveries += deliveries.len() as u64;
                let deliveries = deliveries.into_iter();
                let frame = deliveries.map(|one| calls::delivery(one, unix)).collect();
                return Ok(Some(SessionDown::Deliveries(frame)));
            }
        }
        Ok(None)
    }
}
