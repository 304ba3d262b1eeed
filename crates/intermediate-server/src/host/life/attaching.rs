//! Who gets a session, and when: takeovers tell the holder first.

use std::time::Instant;

use cluster_rpc::frame::{Held as SessionOf, SessionAnswer, SessionRefusal, SessionRevocation};
use mqtt_codec::ClientId;
use partition::{Attach, Command, Holder, SessionId, Store};

use super::{About, Life, Request};
use crate::host::attach::{Answers, Asked, Due, Held, Verdict};
use crate::host::calls;
use crate::host::lines::LineId;

impl<S: Store> Life<S> {
    pub(super) fn attach(&mut self, line: LineId, request: u64, attach: Attach, now: Instant) {
        let held = self.held(&attach.client, attach.holder);
        let client = attach.client.clone();
        let (verdict, replaced) = self.attaches.handle(Asked { line, request, attach }, held, now);
        if let Some(replaced) = replaced {
            let refusal = SessionRefusal::Contested;
            let answer = SessionAnswer::Refused { request: replaced.request, refusal };
            self.lines.answer(replaced.line, answer);
        }
        self.follow(verdict, &client, now);
    }

    /// A session has no connection any more: whoever waited for that gets it.
    pub(super) fn after_detach(&mut self, session: SessionId, now: Instant) {
        if let Some(asked) = self.attaches.handle_detached(session) {
            self.begin(asked, now);
        }
    }

    /// Proxies are gone: whoever waited for their connections need not any more.
    pub(super) fn attach_freed(&mut self, now: Instant) {
        let owner = &self.owner;
        for asked in self.attaches.take_freed(|client| owner.holder_of(client).is_some()) {
            self.begin(asked, now);
        }
    }

    /// Attaches that have waited long enough.
    pub(super) fn attach_due(&mut self, now: Instant) {
        while let Some(due) = self.attaches.take_due(now) {
            match due {
                Due::Unanswered(asked) => self.begin(asked, now),
                Due::Released(asked) => {
                    let held = self.held(&asked.attach.client, asked.attach.holder);
                    let client = asked.attach.client.clone();
                    let verdict = self.attaches.released(asked, held, now);
                    self.follow(verdict, &client, now);
                }
            }
        }
    }

    fn held(&self, client: &ClientId, by: Holder) -> Held {
        match self.owner.holder_of(client) {
            Some((holder, session, _)) if holder != by => Held::By(session, self.answers(holder)),
            Some(_) | None => Held::Free,
        }
    }

    fn answers(&self, holder: Holder) -> Answers {
        let has_line = self.lines.of_proxy(holder.proxy).is_some();
        if has_line || self.is_here(holder.proxy) { Answers::Maybe } else { Answers::Never }
    }

    fn follow(&mut self, verdict: Verdict, client: &ClientId, now: Instant) {
        match verdict {
            Verdict::Go(asked) => self.begin(asked, now),
            Verdict::Revoke => self.tell_holder(client),
            Verdict::Wait => {}
        }
    }

    fn tell_holder(&mut self, client: &ClientId) {
        if let Some((holder, session, epoch)) = self.owner.holder_of(client) {
            let held = calls::held(session, epoch);
            self.revoke(holder, held, SessionRevocation::TakenOver);
        }
    }

    /// Tells a connection, once, that it has lost its session, and gives it nothing more.
    pub(super) fn revoke(&mut self, holder: Holder, held: SessionOf, why: SessionRevocation) {
        let (session, epoch) = (calls::session(held), calls::epoch(held));
        let Some(line) = self.holder_line(holder, session) else { return };
        let connection = holder.connection;
        self.lines.answer(line, SessionAnswer::Revoked { connection, held, why });
        if let Some(open) = self.lines.line_mut(line) {
            open.detach(session, epoch);
        }
    }

    fn begin(&mut self, asked: Asked, now: Instant) {
        let Asked { line, request: number, mut attach } = asked;
        let about = About::Connection(attach.holder.connection);
        attach.request = self.expect(Request { line, number, about });
        self.owner.handle(Command::Attach(Box::new(attach)), self.around.clock.unix(now));
    }
}
