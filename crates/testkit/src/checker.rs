//! Judges the history of a run: which promises were broken, and the few events that show it.
//!
//! A pure function over the events of [`record`](crate::record), one rule a file. It knows only what clients did and saw, so
//! wherever a right server could have acted in more than one way, all of them are allowed: a violation is never a matter of
//! luck. Does not: run anything, read a clock.
//!
//! - `world`: the history by connection, message and arrival; `sessions`: lives of sessions and their subscriptions
//! - `faults`: what was done to the cluster, and when
//! - `owed`: who must receive what; the rules `lost`, `liveness`; `gaps`: what of it did not come before something else did
//! - the other files: the rule that they are named after
//! - `summary`: what happened, in figures

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a rule is about few kinds of events; `world` names them all"
)]

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::record::Event;

mod answered;
mod faults;
mod gaps;
mod invented;
mod order;
mod owed;
mod present;
mod protocol;
mod repeated;
mod retained;
mod sessions;
mod shared;
mod summary;
mod takeover;
#[cfg(test)]
mod tests;
mod unsubscribed;
mod will;
mod world;

pub use summary::{Amounts, Percentiles, Summary};

use self::sessions::Sessions;
use self::world::World;

/// Violations of one rule that are kept; further ones are counted.
const MOST: u64 = 20;

/// A second, in the unit of a history.
const SECOND: u64 = 1_000_000;

/// How long what is owed may take when nothing is wrong.
const PATIENCE: u64 = 30 * SECOND;

/// For the difference between what a client sees and when it happened, where both are certain to be close.
const MARGIN: u64 = SECOND;

/// How long servers may take to find each other again after a fault: a lease, and to connect.
const AFTER_FAULT: u64 = 10 * SECOND;

/// How long what was done may take to come where it matters when nothing is wrong but the machine is busy.
const SOON: u64 = 3 * SECOND;

/// How far around a fault a server may have taken a connection for dead, or for alive.
const AROUND_FAULT: u64 = 15 * SECOND;

/// What a history can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// An acknowledged message reaches every session that it is owed to.
    Lost,
    /// QoS 2 exactly once, QoS 0 at most once.
    Repeated,
    /// What one connection publishes to a topic arrives in that order.
    Order,
    /// Nothing arrives without a subscription.
    Unsubscribed,
    /// Session Present says whether there was a session.
    SessionPresent,
    /// A client identifier has one connection, the newest.
    Takeover,
    /// A subscription gets the newest retained message, and none that is older than what was received.
    Retained,
    /// Wills are published when they are due, and only then, once.
    Will,
    /// A message goes to one member of a group.
    Shared,
    /// When nothing is wrong any more, what is owed comes soon.
    Liveness,
    /// Nothing arrives that nobody published.
    Invented,
    /// Requests are answered soon when nothing is wrong any more.
    Unanswered,
    /// What comes on a connection is MQTT, as far as its client could tell.
    Protocol,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Repeated => "repeated",
            Self::Order => "order",
            Self::Unsubscribed => "unsubscribed",
            Self::SessionPresent => "session-present",
            Self::Takeover => "takeover",
            Self::Retained => "retained",
            Self::Will => "will",
            Self::Shared => "shared",
            Self::Liveness => "liveness",
            Self::Invented => "invented",
            Self::Unanswered => "unanswered",
            Self::Protocol => "protocol",
        })
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The promise.
    pub rule: Rule,
    /// What happened, in a sentence.
    pub what: String,
    /// The shortest part of the history that shows it: places of events.
    pub events: Vec<usize>,
    /// Those events.
    pub excerpt: Vec<Event>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "violation of {}: {}", self.rule, self.what)?;
        for (place, event) in self.events.iter().zip(&self.excerpt) {
            let (secs, micros) = (event.at / SECOND, event.at % SECOND);
            writeln!(f, "  #{place} {secs:>5}.{micros:06} s  {:?}", event.what)?;
        }
        Ok(())
    }
}

/// What there is to say about a history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Broken promises; of each rule the first twenty.
    pub violations: Vec<Violation>,
    /// How many there are, by rule.
    pub counts: BTreeMap<Rule, u64>,
    /// What happened.
    pub summary: Summary,
}

impl Verdict {
    /// Whether no promise was broken.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.counts.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            write!(f, "{violation}")?;
        }
        for (rule, count) in &self.counts {
            writeln!(f, "{rule}: {count} in all")?;
        }
        Ok(())
    }
}

/// Judges a history.
#[must_use]
pub fn check(events: &[Event]) -> Verdict {
    let world = World::new(events);
    let sessions = Sessions::new(&world);
    let mut findings = Findings { events, violations: Vec::new(), counts: BTreeMap::new() };
    let owed = owed::check(&world, &sessions, &mut findings);
    gaps::check(&world, &sessions, &mut findings);
    repeated::check(&world, &sessions, &mut findings);
    order::check(&world, &sessions, &mut findings);
    unsubscribed::check(&world, &sessions, &mut findings);
    present::check(&world, &mut findings);
    takeover::check(&world, &mut findings);
    retained::check(&world, &sessions, &mut findings);
    will::check(&world, &sessions, &mut findings);
    shared::check(&world, &sessions, &mut findings);
    invented::check(&world, &mut findings);
    protocol::check(&world, &mut findings);
    answered::check(&world, &owed, &mut findings);
    let summary = summary::of(&world, &sessions, &owed);
    let Findings { mut violations, counts, .. } = findings;
    violations.sort_by_key(|violation| violation.rule);
    Verdict { violations, counts, summary }
}

/// The violations found so far.
#[derive(Debug)]
struct Findings<'a> {
    events: &'a [Event],
    violations: Vec<Violation>,
    counts: BTreeMap<Rule, u64>,
}

impl Findings<'_> {
    /// Adds one. `shown` are the places of the events that show it.
    fn add(&mut self, rule: Rule, what: impl FnOnce() -> String, shown: &[usize]) {
        let count = self.counts.entry(rule).or_default();
        *count += 1;
        if *count > MOST {
            return;
        }
        let mut shown = shown.to_vec();
        shown.sort_unstable();
        shown.dedup();
        let excerpt = shown.iter().map(|&place| self.events[place].clone()).collect();
        self.violations.push(Violation { rule, what: what(), events: shown, excerpt });
    }
}
