//! Who gets a session, and when: takeovers tell the holder first.

use std::time::{Duration, Instant};

use cluster_rpc::frame::{
    Held as SessionOf, OriginId, SessionAnswer, SessionRefusal, SessionRevocation,
};
use mqtt_codec::ClientId;
use partition::{Command, Holder, SessionId, Store, UnixMillis, Withdraw};

use super::{About, Life, Request};
use crate::host::attach::{Answers, Asked, Due, Held, Verdict};
use crate::host::calls;
use crate::host::lines::LineId;

/// When a connection began whose client was served for `served_ms` when it was asked for `now`.
pub(super) fn began(served_ms: u64, now: Instant) -> Instant {
    now.checked_sub(Duration::from_millis(served_ms)).unwrap_or(now)
}

impl<S: Store> Life<S> {
    pub(super) fn attach(&mut self, asked: Asked, now: Instant) {
        let held = self.held(&asked);
        let client = asked.attach.client.clone();
        let (verdict, replaced) = self.attaches.handle(asked, held, now);
        if let Some(replaced) = replaced {
            self.contest(&replaced);
        }
        self.follow(verdict, &client, now);
    }

    /// Refuses an attach because another connection has its client identifier.
    fn contest(&mut self, asked: &Asked) {
        let refusal = SessionRefusal::Contested;
        let answer = SessionAnswer::Refused { request: asked.request, refusal };
        self.lines.answer(asked.line, answer);
    }

    /// A connection is over that may not know what it was given, or waits for it.
    pub(super) fn withdraw(&mut self, line: LineId, withdraw: Withdraw, now: Instant) {
        let Withdraw { client, holder, .. } = &withdraw;
        if let Some(asked) = self.attaches.withdraw(client, *holder) {
            self.contest(&asked);
        }
        let held = self.owner.holder_of(client);
        let is_own = held.is_some_and(|(by, ..)| by == *holder);
        let unix = self.around.clock.unix(now);
        self.owner.handle(Command::Withdraw(Box::new(withdraw)), unix);
        let Some((_, session, epoch)) = held else { return };
        if is_own && let Some(open) = self.lines.line_mut(line) {
            open.detach(session, epoch);
        }
        // That of another one may have ended, too: it was older, and to end.
        if is_own || !self.owner.is_held(session, epoch) {
            self.after_detach(session, now);
        }
    }

    /// The moment so many milliseconds after a proxy heard that its stream is open, by the clock of the store. Not
    /// later than it was: the word that it is open took its time, too.
    pub(super) fn moment_of(&self, line: LineId, millis: i64) -> Option<UnixMillis> {
        let opened = self.around.clock.unix(self.lines.line(line)?.opened_at());
        Some(UnixMillis(opened.0.saturating_add_signed(millis)))
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
                    let held = self.held(&asked);
                    let client = asked.attach.client.clone();
                    let verdict = self.attaches.released(asked, held, now);
                    self.follow(verdict, &client, now);
                }
            }
        }
    }

    fn held(&self, asked: &Asked) -> Held {
        let client = &asked.attach.client;
        let Some((holder, session, _)) = self.owner.holder_of(client) else {
            // A newer connection may have come and gone since: its session is not to end.
            let since = self.around.clock.unix(asked.since);
            let is_late = asked.served && self.owner.attached_at(client) > Some(since);
            return if is_late { Held::ByNewer } else { Held::Free };
        };
        if holder == asked.attach.holder {
            return Held::Free;
        }
        let line = self.lines.of_proxy(holder.proxy).and_then(|line| self.lines.line(line));
        let since = line.and_then(|line| line.since(session, holder.connection));
        if since.is_some_and(|since| since > asked.since) {
            return Held::ByNewer;
        }
        Held::By(session, self.answers(holder))
    }

    fn answers(&self, holder: Holder) -> Answers {
        let has_line = self.lines.of_proxy(holder.proxy).is_some();
        let is_here = || self.around.service.has_proxy(OriginId(holder.proxy.0));
        if has_line || is_here() { Answers::Maybe } else { Answers::Never }
    }

    fn follow(&mut self, verdict: Verdict, client: &ClientId, now: Instant) {
        match verdict {
            Verdict::Go(asked) => self.begin(asked, now),
            Verdict::Revoke => self.tell_holder(client),
            Verdict::Wait => {}
            Verdict::Late(asked) => self.contest(&asked),
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
        let Asked { line, request: number, mut attach, since, .. } = asked;
        let about = About::Connection(attach.holder.connection);
        attach.request = self.expect(Request { line, number, about });
        if let Some(open) = self.lines.line_mut(line) {
            open.attaching(attach.holder.connection, since);
        }
        self.owner.handle(Command::Attach(Box::new(attach)), self.around.clock.unix(now));
    }
}
