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
/// comes back or this proxy ends.
const KEPT: usize = 131_072;

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
    },
}

/// Ends in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    /// With the moment they were said last; `None` if there was no link.
    kept: VecDeque<(Departure, Option<Instant>)>,
}

impl Departure {
    /// How it is said.
    #[must_use]
    pub(crate) fn call(&self) -> SessionCall {
        match self.clone() {
            Self::Detached { held, farewell, expiry_secs } => {
                SessionCall::Detach { held, farewell, expiry_secs }
            }
            Self::Withdrawn { client, connection, farewell, expiry_secs } => {
                SessionCall::Withdraw { client, connection, farewell, expiry_secs }
            }
        }
    }
}

impl Departures {
    /// Keeps an end that was said at `said`, or could not be.
    pub(crate) fn push(&mut self, departure: Departure, said: Option<Instant>, now: Instant) {
        let is_old = |&(_, said): &(Departure, Option<Instant>)| is_old(said, now);
        while self.kept.front().is_some_and(is_old) || self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((departure, said));
    }

    /// The link on which they were said is broken: what was said on it lately may not have arrived.
    pub(crate) fn unsay(&mut self, now: Instant) {
        self.kept.retain(|&(_, said)| !is_old(said, now));
        for (_, said) in &mut self.kept {
            *said = None;
        }
    }

    /// All that are kept, for a new link on which they are said `now`.
    pub(crate) fn repeat(&mut self, now: Instant) -> impl Iterator<Item = &Departure> {
        self.kept.iter_mut().map(move |(departure, said)| {
            *said = Some(now);
            &*departure
        })
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
            Departure::Withdrawn { connection, .. } => *connection,
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
        assert_eq!(departures.kept.len(), KEPT);
        assert_eq!(repeated(&mut departures, now)[0], 1);
    }
}
