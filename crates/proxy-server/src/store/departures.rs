//! Ends of connections that the store may not have heard of.
//!
//! No answer says that it has, so each is said again on every new link, until it is old: a stream that has carried
//! other things for so long has carried it too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cluster_rpc::frame::{Held, SessionCall, SessionFarewell};
use mqtt_codec::ClientId;

/// How long an end is repeated after it was said last, while the link lasts.
const REPEATED_FOR: Duration = Duration::from_secs(60);

/// Most ends that are kept. The oldest is forgotten then: its session counts as held by this proxy until its client
/// comes back or this proxy ends, and one that was to end does not.
const KEPT: usize = 131_072;

/// Most bytes of client identifiers in them.
const KEPT_BYTES: usize = 32 << 20;

/// Most ends that say no more than that an earlier session is to end. They have a list of their own: while the store is
/// away any number of clients without a session there can come and go, and is not to push out the end of one that has
/// a session, on which a will may wait.
const PROMISES: usize = 65_536;

/// Most bytes of client identifiers in those.
const PROMISES_BYTES: usize = 8 << 20;

/// The end of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It had this session.
    Detached {
        /// What it had.
        held: Held,
        /// How it ended.
        farewell: SessionFarewell,
        /// Session expiry as it is now, in seconds.
        expiry_secs: u32,
    },
    /// It may have been given the session of this client.
    Withdrawn {
        /// Whose session.
        client: ClientId,
        /// Its number.
        connection: u64,
        /// How it ended.
        farewell: SessionFarewell,
        /// Session expiry as it is now, in seconds; `None` for what it was before.
        expiry_secs: Option<u32>,
        /// When it began, if its client was told that an earlier session ends, and the store has not said so.
        clean_start: Option<Instant>,
    },
    /// It was given nothing, or has lost it, but its client was told that an earlier session ends.
    Promised {
        /// Whose session.
        client: ClientId,
        /// Its number.
        connection: u64,
        /// When it began.
        clean_start: Instant,
    },
}

/// Ends that are kept.
#[derive(Debug)]
pub(crate) struct Departures {
    /// Said before the promises: the session that one of those ends was left in its own way.
    ends: Kept,
    promises: Kept,
}

/// Some of them, in the order they came.
#[derive(Debug)]
struct Kept {
    /// With the moment they were said last; `None` if there was no link.
    kept: VecDeque<(Departure, Option<Instant>)>,
    /// Of client identifiers.
    bytes: usize,
    forgotten: u64,
    most: usize,
    most_bytes: usize,
}

impl Departure {
    /// How it is said on a link that is there since `up`.
    #[must_use]
    pub(crate) fn call(&self, up: Instant) -> SessionCall {
        match self.clone() {
            Self::Detached { held, farewell, expiry_secs } => {
                SessionCall::Detach { held, farewell, expiry_secs }
            }
            Self::Withdrawn { client, connection, farewell, expiry_secs, clean_start } => {
                let clean_start_ms = clean_start.map(|began| millis_after(up, began));
                SessionCall::Withdraw { client, connection, farewell, expiry_secs, clean_start_ms }
            }
            // It is a clean session without a will, in case that the store has it after all.
            Self::Promised { client, connection, clean_start } => SessionCall::Withdraw {
                client,
                connection,
                farewell: SessionFarewell::Clean,
                expiry_secs: Some(0),
                clean_start_ms: Some(millis_after(up, clean_start)),
            },
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Detached { .. } => 0,
            Self::Withdrawn { client, .. } | Self::Promised { client, .. } => client.as_str().len(),
        }
    }
}

impl Default for Departures {
    fn default() -> Self {
        Self { ends: Kept::new(KEPT, KEPT_BYTES), promises: Kept::new(PROMISES, PROMISES_BYTES) }
    }
}

impl Departures {
    /// Keeps an end that was said at `said`, or could not be.
    pub(crate) fn push(&mut self, departure: Departure, said: Option<Instant>, now: Instant) {
        let kept = match departure {
            Departure::Detached { .. } | Departure::Withdrawn { .. } => &mut self.ends,
            Departure::Promised { .. } => &mut self.promises,
        };
        kept.push(departure, said, now);
    }

    /// Forgets those that have arrived for sure.
    pub(crate) fn prune(&mut self, now: Instant) {
        self.ends.prune(now);
        self.promises.prune(now);
    }

    /// How many are kept.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.ends.kept.len() + self.promises.kept.len()
    }

    /// How many were not kept for as long as they should have been.
    #[must_use]
    pub(crate) fn forgotten(&self) -> u64 {
        self.ends.forgotten + self.promises.forgotten
    }

    /// The link on which they were said is broken: what was said on it lately may not have arrived.
    pub(crate) fn unsay(&mut self, now: Instant) {
        self.ends.unsay(now);
        self.promises.unsay(now);
    }

    /// All that are kept, for a new link on which they are said `now`.
    pub(crate) fn repeat(&mut self, now: Instant) -> impl Iterator<Item = &Departure> {
        self.ends.repeat(now).chain(self.promises.repeat(now))
    }
}

impl Kept {
    fn new(most: usize, most_bytes: usize) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, forgotten: 0, most, most_bytes }
    }

    fn push(&mut self, departure: Departure, said: Option<Instant>, now: Instant) {
        self.prune(now);
        let bytes = departure.bytes();
        let is_full = |kept: &Self| {
            kept.kept.len() >= kept.most || (kept.bytes + bytes > kept.most_bytes && kept.bytes > 0)
        };
        while is_full(self) {
            self.pop();
            self.forgotten += 1;
        }
        self.bytes += bytes;
        self.kept.push_back((departure, said));
    }

    /// The times at which they were said are in order, too.
    fn prune(&mut self, now: Instant) {
        while self.kept.front().is_some_and(|&(_, said)| is_old(said, now)) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((departure, _)) = self.kept.pop_front() {
            self.bytes -= departure.bytes();
        }
    }

    fn unsay(&mut self, now: Instant) {
        self.kept.retain(|&(_, said)| !is_old(said, now));
        self.bytes = self.kept.iter().map(|(departure, _)| departure.bytes()).sum();
        for (_, said) in &mut self.kept {
            *said = None;
        }
    }

    fn repeat(&mut self, now: Instant) -> impl Iterator<Item = &Departure> {
        self.kept.iter_mut().map(move |(departure, said)| {
            *said = Some(now);
            &*departure
        })
    }
}

/// Rounded down: what comes of it is never later than it was.
pub(super) fn millis_after(from: Instant, to: Instant) -> i64 {
    match to.checked_duration_since(from) {
        Some(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        None => {
            i64::try_from((from - to).as_nanos().div_ceil(1_000_000)).map_or(i64::MIN, |ms| -ms)
        }
    }
}

/// Whether a link that is still there has carried it for sure.
fn is_old(said: Option<Instant>, now: Instant) -> bool {
    said.is_some_and(|at| now >= at + REPEATED_FOR)
}

#[cfg(test)]
mod tests {
    use cluster_rpc::frame::{SessionEpoch, SessionNumber};

    use super::*;

    fn departure(number: u64) -> Departure {
        let held = Held { session: SessionNumber(number), epoch: SessionEpoch(1) };
        Departure::Detached { held, farewell: SessionFarewell::Clean, expiry_secs: 0 }
    }

    fn repeated(departures: &mut Departures, now: Instant) -> Vec<u64> {
        let number = |departure: &Departure| match departure {
            Departure::Detached { held, .. } => held.session.0,
            Departure::Withdrawn { connection, .. } | Departure::Promised { connection, .. } => {
                *connection
            }
        };
        departures.repeat(now).map(number).collect()
    }

    #[test]
    fn an_end_is_repeated_until_it_was_said_long_ago() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        departures.push(departure(1), Some(now), now);
        let later = now + REPEATED_FOR;
        departures.push(departure(2), Some(later), later);
        assert_eq!(repeated(&mut departures, later), [2]);
        assert_eq!(repeated(&mut departures, later), [2]);
    }

    #[test]
    fn an_end_that_was_said_on_a_link_that_broke_is_kept_for_as_long_as_no_link_is_there() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        departures.push(departure(1), Some(now), now);
        departures.unsay(now);
        let later = now + 2 * REPEATED_FOR;
        departures.push(departure(2), None, later);
        assert_eq!(repeated(&mut departures, later), [1, 2]);
        departures.unsay(later);
        let last = later + 2 * REPEATED_FOR;
        assert_eq!(repeated(&mut departures, last), [1, 2]);
        departures.unsay(last + REPEATED_FOR);
        assert_eq!(repeated(&mut departures, last + REPEATED_FOR), [0; 0]);
    }

    #[test]
    fn an_end_that_could_not_be_said_is_kept_until_it_can() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        departures.push(departure(1), None, now);
        let later = now + 2 * REPEATED_FOR;
        departures.push(departure(2), None, later);
        assert_eq!(repeated(&mut departures, later), [1, 2]);
        let last = later + REPEATED_FOR;
        departures.push(departure(3), Some(last), last);
        assert_eq!(repeated(&mut departures, last), [3]);
    }

    #[test]
    fn however_many_connections_end_the_memory_is_bounded() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        for number in 0..=KEPT as u64 {
            departures.push(departure(number), None, now);
        }
        assert_eq!(departures.len(), KEPT);
        assert_eq!(departures.forgotten(), 1);
        assert_eq!(repeated(&mut departures, now)[0], 1);
    }

    fn withdrawn(connection: u64, client: &str, clean_start: Option<Instant>) -> Departure {
        Departure::Withdrawn {
            client: ClientId::new(client.to_owned()).unwrap(),
            connection,
            farewell: SessionFarewell::Clean,
            expiry_secs: Some(0),
            clean_start,
        }
    }

    #[test]
    fn however_long_the_names_of_clients_are_the_memory_is_bounded() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        let client = "x".repeat(KEPT_BYTES / 1_024);
        for number in 0..1_024 + 3 {
            departures.push(withdrawn(number, &client, None), None, now);
        }
        assert_eq!((departures.len(), departures.forgotten()), (1_024, 3));
        departures.unsay(now);
        departures.push(departure(2_000), None, now);
        assert_eq!((departures.len(), departures.forgotten()), (1_025, 3));
        departures.push(withdrawn(2_001, "a", None), None, now);
        assert_eq!((departures.len(), departures.forgotten()), (1_025, 4));
    }

    fn promised(connection: u64, client: &str) -> Departure {
        let client = ClientId::new(client.to_owned()).unwrap();
        Departure::Promised { client, connection, clean_start: Instant::now() }
    }

    #[test]
    fn however_many_clients_come_and_go_without_the_store_the_ends_of_sessions_are_kept() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        departures.push(promised(1, "x"), None, now);
        departures.push(departure(2), None, now);
        for number in 3..=PROMISES as u64 + 12 {
            departures.push(promised(number, "x"), None, now);
        }
        assert_eq!((departures.len(), departures.forgotten()), (PROMISES + 1, 11));
        let long = "x".repeat(PROMISES_BYTES / 256);
        for number in 0..300 {
            departures.push(promised(number, &long), None, now);
        }
        assert_eq!(departures.len(), 256 + 1);
        assert_eq!(repeated(&mut departures, now)[..2], [2, 44], "and are said first");
    }

    #[test]
    fn what_has_arrived_for_sure_is_not_counted() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        departures.push(departure(1), Some(now), now);
        departures.push(promised(2, "x"), Some(now), now);
        departures.prune(now + REPEATED_FOR - Duration::from_secs(1));
        assert_eq!(departures.len(), 2);
        departures.prune(now + REPEATED_FOR);
        assert_eq!((departures.len(), departures.forgotten()), (0, 0));
    }

    #[test]
    fn a_clean_start_is_told_by_when_it_was_on_each_link_and_never_later() {
        let began = Instant::now() + Duration::from_secs(10);
        let told = |up| {
            let call = withdrawn(1, "a", Some(began)).call(up);
            let SessionCall::Withdraw { clean_start_ms, .. } = call else { panic!("{call:?}") };
            clean_start_ms
        };
        assert_eq!(told(began), Some(0));
        assert_eq!(told(began - Duration::from_micros(5_900)), Some(5));
        assert_eq!(told(began + Duration::from_micros(5_100)), Some(-6));
    }
}
