//! Attaches that wait because another connection has their client identifier.
//!
//! Owns who waits, for what and until when, and how often each identifier changed hands of late. Time
//! is an argument. Invariant: of one identifier at most one attach waits, the newest; the one it replaces
//! is given back, to be refused.
//!
//! ```text
//!            another holds it                 told that holder to end
//!  attach --------------------> (jailed) -------------------------------> revoking ---> attach
//!                only after too many    its time is over        the holder has ended, or 200 ms
//! ```

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use mqtt_codec::ClientId;
use partition::{Attach, Holder, SessionId, UnixMillis};

use super::lines::LineId;

/// How long a holder that was told to end may take for its last acknowledgements.
const REVOKE_WAIT: Duration = Duration::from_millis(200);

/// More takeovers of one identifier within [`RECENT`] make the next wait for [`JAIL`].
const FREE_TAKEOVERS: usize = 5;
const RECENT: Duration = Duration::from_secs(10);
const JAIL: Duration = Duration::from_secs(1);

/// Identifiers whose takeovers are remembered at most: beyond, new ones are not slowed.
const MOST_REMEMBERED: usize = 65_536;

/// An attach and who asked for it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) line: LineId,
    /// The proxy's number of the request.
    pub(super) request: u64,
    pub(super) attach: Attach,
    /// When the connection began, as far as it matters here: now, unless its client is served already.
    pub(super) since: UnixMillis,
}

impl Asked {
    /// Whether it began before another one, as far as can be told: of two that were served already and began in the
    /// same millisecond the one that was asked for first may be the newer.
    fn is_older_than(&self, other: &Self) -> bool {
        match self.attach.began {
            Some(began) => began <= other.since,
            None => self.since < other.since,
        }
    }

    /// Sessions from before this were to end: a client was told so, this one or an older one that it replaces.
    fn promised(&self) -> Option<UnixMillis> {
        self.attach.began.filter(|_| self.attach.clean_start).max(self.attach.promised)
    }

    /// The promise of an older one is kept with this: else it would go on with a session that was to end.
    fn inherit(&mut self, older: &Self) {
        self.attach.promised = self.attach.promised.max(older.promised());
    }
}

/// What to do with an attach.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Attach it.
    Go(Asked),
    /// Tell the holder to end; it waits.
    Revoke,
    /// It waits.
    Wait,
    /// A newer connection has the identifier, or is about to: refuse it.
    Late(Asked),
}

/// Who holds the identifier now, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    /// Nobody, or the connection that asks.
    Free,
    /// Another connection, and whether it can still answer.
    By(SessionId, Answers),
    /// Another connection, or nobody any more, which may have begun later than the one that asks.
    ByNewer,
}

/// Whether there is still somebody at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// Its proxy is there, or may come back.
    Maybe,
    /// Its proxy is gone.
    Never,
}

#[derive(Debug)]
struct Waiting {
    asked: Asked,
    until: Instant,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Jailed,
    /// The session that was revoked.
    Revoking(SessionId),
}

/// All attaches that wait.
#[derive(Debug, Default)]
pub(super) struct Attaches {
    waiting: HashMap<ClientId, Waiting, RandomState>,
    /// Who of those waits for the end of which session.
    revoked: HashMap<SessionId, ClientId, RandomState>,
    /// All of them, in the order of their times.
    due: BTreeSet<(Instant, ClientId)>,
    recent: HashMap<ClientId, VecDeque<Instant>, RandomState>,
    purged: Option<Instant>,
    pub(super) takeovers: u64,
    pub(super) contested: u64,
}

impl Attaches {
    /// An attach has come. Beside what to do with it: the one it has replaced.
    pub(super) fn handle(
        &mut self,
        asked: Asked,
        held: Held,
        now: Instant,
    ) -> (Verdict, Option<Asked>) {
        if let Some(waiting) = self.waiting.get_mut(&asked.attach.client) {
            if asked.is_older_than(&waiting.asked) {
                waiting.asked.inherit(&asked);
                return (Verdict::Late(asked), None);
            }
            let replaced = std::mem::replace(&mut waiting.asked, asked);
            waiting.asked.inherit(&replaced);
            return (Verdict::Wait, Some(replaced));
        }
        let (session, answers) = match held {
            Held::Free => return (Verdict::Go(asked), None),
            Held::ByNewer => return (Verdict::Late(asked), None),
            Held::By(session, answers) => (session, answers),
        };
        self.takeovers += 1;
        if self.is_contested(&asked.attach.client, now) {
            self.contested += 1;
            self.wait(asked, now + JAIL, Phase::Jailed);
            return (Verdict::Wait, None);
        }
        (self.revoke(asked, session, answers, now), None)
    }

    /// The jail of an attach that [`take_due`](Self::take_due) gave back is over.
    pub(super) fn released(&mut self, asked: Asked, held: Held, now: Instant) -> Verdict {
        match held {
            Held::Free => Verdict::Go(asked),
            Held::ByNewer => Verdict::Late(asked),
            Held::By(session, answers) => self.revoke(asked, session, answers, now),
        }
    }

    fn revoke(
        &mut self,
        asked: Asked,
        session: SessionId,
        answers: Answers,
        now: Instant,
    ) -> Verdict {
        match answers {
            Answers::Never => Verdict::Go(asked),
            Answers::Maybe => {
                self.wait(asked, now + REVOKE_WAIT, Phase::Revoking(session));
                Verdict::Revoke
            }
        }
    }

    fn wait(&mut self, asked: Asked, until: Instant, phase: Phase) {
        let client = asked.attach.client.clone();
        if let Phase::Revoking(session) = phase {
            self.revoked.insert(session, client.clone());
        }
        self.due.insert((until, client.clone()));
        self.waiting.insert(client, Waiting { asked, until, phase });
    }

    fn take(&mut self, client: &ClientId) -> Option<Waiting> {
        let (client, waiting) = self.waiting.remove_entry(client)?;
        if let Phase::Revoking(session) = waiting.phase {
            self.revoked.remove(&session);
        }
        self.due.remove(&(waiting.until, client));
        Some(waiting)
    }

    /// The connection that had this session has ended: whoever waited for that may attach.
    pub(super) fn handle_detached(&mut self, session: SessionId) -> Option<Asked> {
        let client = self.revoked.get(&session)?.clone();
        self.take(&client).map(|one| one.asked)
    }

    /// The connection that asked does not want it any more.
    pub(super) fn withdraw(&mut self, client: &ClientId, holder: Holder) -> Option<Asked> {
        self.waiting.get(client).filter(|one| one.asked.attach.holder == holder)?;
        self.take(client).map(|one| one.asked)
    }

    /// Proxies are gone: whoever waited for a connection that `is_held` does not find any more may attach.
    pub(super) fn take_freed(&mut self, is_held: impl Fn(&ClientId) -> bool) -> Vec<Asked> {
        let freed = self.revoked.values().filter(|client| !is_held(client));
        let freed: BTreeSet<_> = freed.cloned().collect();
        freed.iter().filter_map(|client| self.take(client)).map(|one| one.asked).collect()
    }

    /// A stream has ended: its proxy asks again on the next.
    pub(super) fn handle_closed(&mut self, line: LineId) {
        let of_line = self.waiting.iter().filter(|(_, one)| one.asked.line == line);
        let clients: Vec<_> = of_line.map(|(client, _)| client.clone()).collect();
        for client in clients {
            self.take(&client);
        }
    }

    /// When [`take_due`](Self::take_due) has something.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|&(until, _)| until)
    }

    /// An attach that has waited long enough.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        let (until, client) = self.due.first()?;
        if *until > now {
            return None;
        }
        let client = client.clone();
        let one = self.take(&client)?;
        Some(match one.phase {
            Phase::Jailed => Due::Released(one.asked),
            Phase::Revoking(_) => Due::Unanswered(one.asked),
        })
    }

    /// Whether this identifier has changed hands too often. Remembers that it does again.
    fn is_contested(&mut self, client: &ClientId, now: Instant) -> bool {
        if self.recent.len() >= MOST_REMEMBERED && !self.recent.contains_key(client) {
            self.purge(now);
            if self.recent.len() >= MOST_REMEMBERED {
                return false;
            }
        }
        let times = self.recent.entry(client.clone()).or_default();
        while times.front().is_some_and(|&at| now.saturating_duration_since(at) > RECENT) {
            times.pop_front();
        }
        let contested = times.len() >= FREE_TAKEOVERS;
        if contested {
            times.pop_front();
        }
        times.push_back(now);
        contested
    }

    /// Forgets what is long ago; at most once per second, because it looks at all.
    fn purge(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < Duration::from_secs(1);
        if !self.purged.is_some_and(lately) {
            self.purged = Some(now);
            let is_recent = |&at: &Instant| now.saturating_duration_since(at) <= RECENT;
            self.recent.retain(|_, times| times.back().is_some_and(is_recent));
        }
    }
}

/// An attach that has waited long enough.
#[derive(Debug)]
pub(super) enum Due {
    /// Its jail is over.
    Released(Asked),
    /// The holder has not answered: attach it all the same.
    Unanswered(Asked),
}

#[cfg(test)]
mod tests;
