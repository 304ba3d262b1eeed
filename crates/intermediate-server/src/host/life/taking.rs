//! What comes in: calls of proxies, messages of the relays, and what became of wills.
//!
//! Owns nothing; each input becomes commands, at once. Answers that need no command wait for the commit
//! all the same, because the streams are filled after it.

use std::time::Instant;

use cluster_rpc::frame::{AttachCall, Held, SessionAnswer, SessionCall};
use cluster_rpc::{Deliveries, origin_of};
use mqtt_codec::{TopicFilter, TopicName};
use partition::{
    Acknowledge, Begin, Command, Detach, Holder, OnceKey, ProxyId, PublishToken, Release,
    RequestId, SessionId, Store, Subscribe, Taken, UnixMillis, Unsubscribe, Withdraw,
};

use super::{About, Batch, Input, Life, Request};
use crate::host::attach::Asked;
use crate::host::calls;
use crate::host::lines::{FRAME_BYTES, LineId, Opening};

/// Most retained messages that are looked at for one page.
const PAGE_MESSAGES: usize = 256;

/// A call that was on its way for so long may be of a connection that has ended, and its client may be back elsewhere.
const LATE_MILLIS: u64 = 100;

/// A page of retained messages to read.
struct PageCall {
    request: u64,
    filter: TopicFilter,
    after: Option<TopicName>,
    limit: u32,
}

impl<S: Store> Life<S> {
    pub(super) fn take(&mut self, input: Input, now: Instant) {
        match input {
            Input::Opened(line, opening) => self.open(line, opening),
            Input::Calls(line, calls) => self.take_calls(line, calls, now),
            Input::Room(line) => {
                if let Some(open) = self.lines.line_mut(line) {
                    open.stalled = false;
                    self.lines.mark(line);
                }
            }
            Input::Closed(line) => {
                self.lines.close(line);
                self.attaches.handle_closed(line);
            }
            Input::Departed(members) => self.departed(&members, now),
            Input::Serving => self.presence.serving(now),
            Input::Deliver(deliveries) => self.take_messages(deliveries, now),
            Input::Sent(ids) => self.sent(ids),
            Input::Refused(refused) => {
                for (id, reason) in refused {
                    tracing::debug!(?id, ?reason, "a will was not taken by all who want it");
                    self.post.refused(id);
                    self.owner.handle(Command::Sent(id), self.around.clock.unix(now));
                }
            }
            Input::Unsent(ids) => self.post.send_again(ids),
            Input::WindowOpen => self.post.unblock(),
            Input::Applied => {
                self.waits.watched();
                self.release_applied();
            }
        }
    }

    /// A stream of a life that is over, or was never let in, is not served.
    fn open(&mut self, line: LineId, opening: Opening) {
        if !self.around.service.is_here(&opening.member) {
            tracing::debug!(proxy = %opening.member.node, "a stream of a proxy that is not here");
            return opening.close.cancel();
        }
        let proxy = ProxyId(origin_of(&opening.member).0);
        if let Some(former) = self.lines.open(line, proxy, opening) {
            self.attaches.handle_closed(former);
        }
    }

    fn take_messages(&mut self, deliveries: Deliveries, now: Instant) {
        let unix = self.around.clock.unix(now);
        let first_token = self.next_token;
        for incoming in deliveries.routed() {
            let token = PublishToken(self.next_token);
            self.next_token += 1;
            let publish = calls::publish(incoming, token, unix);
            self.owner.handle(Command::Publish(publish), unix);
        }
        self.batches.push_back(Batch { first_token, deliveries, refused: Vec::new() });
    }

    fn take_calls(&mut self, line: LineId, calls: Vec<SessionCall>, now: Instant) {
        let unix = self.around.clock.unix(now);
        let Some(proxy) = self.lines.line(line).map(|open| open.proxy) else { return };
        for call in calls {
            match call {
                SessionCall::Attach { request, attach } => {
                    let began = self.began(line, &attach, now);
                    let attach = calls::attach(RequestId(0), proxy, *attach, began);
                    let since = began.unwrap_or(unix);
                    self.attach(Asked { line, request, attach, since }, now);
                }
                SessionCall::Detach { held, farewell, expiry_secs } => {
                    let farewell = calls::farewell(farewell);
                    let (session, epoch) = (calls::session(held), calls::epoch(held));
                    let detach = Detach { session, epoch, farewell, expiry_secs };
                    let held = self.owner.is_held(session, epoch);
                    self.owner.handle(Command::Detach(detach), unix);
                    if let Some(open) = self.lines.line_mut(line) {
                        open.detach(session, epoch);
                    }
                    // The end of an earlier connection frees nothing.
                    if held {
                        self.after_detach(session, now);
                    }
                }
                SessionCall::Withdraw {
                    client,
                    connection,
                    farewell,
                    expiry_secs,
                    clean_start_ms,
                } => {
                    let clean_start = clean_start_ms.and_then(|ms| self.moment_of(line, ms, now));
                    let holder = Holder { proxy, connection };
                    let farewell = calls::farewell(farewell);
                    let withdraw = Withdraw { client, holder, farewell, expiry_secs, clean_start };
                    self.withdraw(line, withdraw, now);
                }
                SessionCall::ReadRetained { request, filter, after, limit } => {
                    self.read_page(line, PageCall { request, filter, after, limit }, unix);
                }
                call @ (SessionCall::Acknowledge { .. }
                | SessionCall::AcknowledgeGroup { .. }
                | SessionCall::Taken { .. }) => self.acknowledge(call, unix),
                call @ (SessionCall::Reattach { .. }
                | SessionCall::Subscribe { .. }
                | SessionCall::Unsubscribe { .. }
                | SessionCall::Begin { .. }
                | SessionCall::Release { .. }) => self.request((line, proxy), call, now),
            }
        }
    }

    fn acknowledge(&mut self, call: SessionCall, unix: UnixMillis) {
        match call {
            SessionCall::Acknowledge { held, settled, received } => {
                let acknowledge = Acknowledge {
                    session: calls::session(held),
                    epoch: calls::epoch(held),
                    settled: calls::places(settled),
                    received: calls::places(received),
                };
                self.owner.handle(Command::Acknowledge(acknowledge), unix);
            }
            SessionCall::AcknowledgeGroup { held, settled } => {
                for acknowledge in calls::acknowledge_groups(held, &settled) {
                    self.owner.handle(Command::AcknowledgeGroup(acknowledge), unix);
                }
            }
            SessionCall::Taken { held, packet_ids } => {
                let (session, epoch) = (calls::session(held), calls::epoch(held));
                self.owner.handle(Command::Taken(Taken { session, epoch, packet_ids }), unix);
            }
            SessionCall::Attach { .. }
            | SessionCall::Reattach { .. }
            | SessionCall::Detach { .. }
            | SessionCall::Withdraw { .. }
            | SessionCall::Subscribe { .. }
            | SessionCall::Unsubscribe { .. }
            | SessionCall::Begin { .. }
            | SessionCall::Release { .. }
            | SessionCall::ReadRetained { .. } => {}
        }
    }

    /// When a connection began whose client does not wait for the answer, or may not any more: it may have another one
    /// since.
    fn began(&self, line: LineId, attach: &AttachCall, now: Instant) -> Option<UnixMillis> {
        let began = self.moment_of(line, attach.began_ms, now)?;
        let unix = self.around.clock.unix(now);
        let is_late = unix.0 - began.0 >= LATE_MILLIS;
        (attach.served || is_late).then_some(began)
    }

    /// Calls that are answered when they are committed.
    fn request(&mut self, (line, proxy): (LineId, ProxyId), call: SessionCall, now: Instant) {
        let of = |held: Held| (calls::session(held), calls::epoch(held));
        let command = match call {
            SessionCall::Reattach {
                request: number,
                attach,
                held,
                received_up_to,
                group_deliveries,
                groups,
            } => {
                let about = About::Connection(attach.connection);
                let request = self.expect(Request { line, number, about });
                let began = self.began(line, &attach, now);
                let attach = calls::attach(request, proxy, *attach, began);
                let mut reattach = calls::reattach(attach, held, received_up_to, group_deliveries);
                reattach.groups = groups;
                Command::Reattach(Box::new(reattach))
            }
            SessionCall::Subscribe { request: number, held, filters, subscription_id } => {
                let (session, epoch) = of(held);
                let request = self.expect(Request { line, number, about: About::Session(session) });
                let subscribe = Subscribe { request, session, epoch, filters, subscription_id };
                Command::Subscribe(Box::new(subscribe))
            }
            SessionCall::Unsubscribe { request: number, held, filters } => {
                let (session, epoch) = of(held);
                let request = self.expect(Request { line, number, about: About::Session(session) });
                Command::Unsubscribe(Box::new(Unsubscribe { request, session, epoch, filters }))
            }
            SessionCall::Begin { request: number, held, packet_id, key } => {
                let (session, epoch) = of(held);
                let request = self.expect(Request { line, number, about: About::Session(session) });
                Command::Begin(Begin { request, session, epoch, packet_id, key: OnceKey(key) })
            }
            SessionCall::Release { request: number, held, packet_id } => {
                let (session, epoch) = of(held);
                let request = self.expect(Request { line, number, about: About::Session(session) });
                Command::Release(Release { request, session, epoch, packet_id })
            }
            SessionCall::Attach { .. }
            | SessionCall::Detach { .. }
            | SessionCall::Withdraw { .. }
            | SessionCall::Acknowledge { .. }
            | SessionCall::AcknowledgeGroup { .. }
            | SessionCall::Taken { .. }
            | SessionCall::ReadRetained { .. } => return,
        };
        self.owner.handle(command, self.around.clock.unix(now));
    }

    /// Remembers whom to answer.
    pub(super) fn expect(&mut self, request: Request) -> RequestId {
        let id = self.next_request;
        self.next_request += 1;
        self.requests.insert(id, request);
        RequestId(id)
    }

    fn read_page(&mut self, line: LineId, call: PageCall, unix: UnixMillis) {
        let limit = usize::try_from(call.limit).unwrap_or(usize::MAX).clamp(1, PAGE_MESSAGES);
        let page = self.owner.retained(&call.filter, call.after.as_ref(), limit, unix);
        let (mut messages, mut bytes, mut next) = (Vec::new(), 0, page.next);
        let mut found = page.messages.into_iter().peekable();
        while let Some((message, expires_at)) = found.next() {
            bytes += cluster_rpc::frame::weight_of(&message);
            let is_last = bytes >= FRAME_BYTES as u64 && found.peek().is_some();
            if is_last {
                next = Some(message.topic.clone());
            }
            messages.push(calls::with_expiry(message, expires_at, unix));
            if is_last {
                break;
            }
        }
        let answer = SessionAnswer::Retained { request: call.request, messages, next };
        self.lines.answer(line, answer);
    }

    /// The stream on which a connection was attached.
    pub(super) fn holder_line(&self, holder: Holder, session: SessionId) -> Option<LineId> {
        let line = self.lines.of_proxy(holder.proxy)?;
        self.lines.line(line)?.is_attached(session, holder.connection).then_some(line)
    }
}
