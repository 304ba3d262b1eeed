//! Who gets a session, and when: takeovers tell the holder first.

use std::time::Instant;

use cluster_rpc::frame::{
    Held as SessionOf, OriginId, SessionAnswer, SessionRefusal, SessionRevocation,
};
use mqtt_codec::ClientId;
use partition::{Command, Holder, SessionId, Store, UnixMillis, Withdraw};

use super::{About, Life, Request};
use crate::host::attach::{Answers, Asked, Due, Held, Verdict};
use crate::host::calls;
use crate::host::lines::LineId;

/// Of so many milliseconds the clocks of two machines may differ in one: each kernel slews its own by 1 in 2,000 at most.
const DRIFT: u64 = 1_024;

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
    /// later than it was: the word that it is open took its time, too, and the clocks of two machines may drift
    /// apart. Nor later than now, whatever a proxy says.
    pub(super) fn moment_of(&self, line: LineId, millis: i64, now: Instant) -> Option<UnixMillis> {
        let clock = self.around.clock;
        let opened = clock.unix(self.lines.line(line)?.opened_at());
        let drift = millis.unsigned_abs() / DRIFT;
        let moment = opened.0.saturating_add_signed(millis).saturating_sub(drift);
        Some(UnixMillis(moment).min(clock.unix(now)))
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
                // The partition looks once more whether it is the newer one.
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
        let holder = self.owner.holder_of(client);
        if holder.is_some_and(|(holder, ..)| holder == asked.attach.holder) {
            return Held::Free;
        }
        // It may be here still, or have come and gone. This is asked of the store, which knows it also when it was
        // started anew and the proxy of that connection has not come back yet.
        let attached_at = self.owner.attached_at(client);
        if asked.attach.began.is_some_and(|began| attached_at >= Some(began)) {
            return Held::ByNewer;
        }
        match holder {
            Some((holder, session, _)) => Held::By(session, self.answers(holder)),
            None => Held::Free,
        }
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
        let Asked { line, request: number, mut attach, .. } = asked;
        let about = About::Connection(attach.holder.connection);
        attach.request = self.expect(Request { line, number, about });
        self.owner.handle(Command::Attach(Box::new(attach)), self.around.clock.unix(now));
    }
}
