//! The endpoint's own routing table: rows, numbered changes, digest. Pure.
//!
//! Invariant: the table is the result of changes 1 to `head`, in order; the last
//! [`RING_CHANGES`] of them can be repeated.

use std::collections::{BTreeMap, VecDeque};

use mqtt_codec::{QoS, TopicFilter};

use crate::digest::RouteDigest;
use crate::frame::Route;

/// Changes that can be repeated; an intermediate that missed more gets a snapshot.
const RING_CHANGES: usize = 65_536;

/// The number of a change to the routing table. See [`Uplink::applied`](crate::Uplink::applied).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteSeq(pub(crate) u64);

/// Whether a change must go out at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// The row stands already.
    Unchanged,
    /// Nobody waits for a withdrawal.
    MayWait,
    AtOnce,
}

#[derive(Debug)]
pub(crate) struct RouteLog {
    /// In the order in which a snapshot tells them.
    rows: BTreeMap<TopicFilter, Row>,
    digest: RouteDigest,
    head: u64,
    ring: VecDeque<Route>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    qos: QoS,
    /// The change that made it what it is.
    seq: u64,
}

impl RouteLog {
    pub(crate) fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            digest: RouteDigest::default(),
            head: 0,
            ring: VecDeque::new(),
        }
    }

    /// Sets or withdraws a row. Returns the change an intermediate must have applied to know it.
    pub(crate) fn announce(&mut self, route: Route) -> (RouteSeq, Urgency) {
        let row = self.rows.get(&route.filter).copied();
        if row.map(|row| row.qos) == route.qos {
            let seq = row.map_or(self.head, |row| row.seq);
            return (RouteSeq(seq), Urgency::Unchanged);
        }
        // Kept for as long as the subscription: it must not keep a client's read buffer.
        let filter = route.filter.detached();
        let route = Route { filter: filter.clone(), ..route };
        self.head += 1;
        if let Some(row) = row {
            self.digest.remove(&Route { filter: filter.clone(), qos: Some(row.qos) });
        }
        self.digest.add(&route);
        let urgency = match route.qos {
            Some(qos) => {
                self.rows.insert(filter, Row { qos, seq: self.head });
                Urgency::AtOnce
            }
            None => {
                self.rows.remove(&filter);
                Urgency::MayWait
            }
        };
        if self.ring.len() == RING_CHANGES {
            self.ring.pop_front();
        }
        self.ring.push_back(route);
        (RouteSeq(self.head), urgency)
    }

    /// The newest change.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// The oldest change that can be repeated; `head + 1` if none.
    pub(crate) fn oldest(&self) -> u64 {
        self.head + 1 - self.ring.len() as u64
    }

    pub(crate) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    pub(crate) fn digest(&self) -> u128 {
        self.digest.value()
    }

    /// The changes from number `first` on; `None` if they can no longer, or not yet, be repeated.
    pub(crate) fn changes_from(&self, first: u64) -> Option<impl Iterator<Item = &Route>> {
        let skipped = first.checked_sub(self.oldest())?;
        let skipped =
            usize::try_from(skipped).ok().filter(|&skipped| skipped <= self.ring.len())?;
        Some(self.ring.range(skipped..))
    }

    /// All rows, as of [`head`](Self::head).
    pub(crate) fn snapshot(&self) -> Vec<Route> {
        let route = |(filter, row): (&TopicFilter, &Row)| Route {
            filter: filter.clone(),
            qos: Some(row.qos),
        };
        self.rows.iter().map(route).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(filter: &str, qos: Option<QoS>) -> Route {
        Route { filter: TopicFilter::new(filter.to_owned()).unwrap(), qos }
    }

    #[test]
    fn only_changes_are_numbered() {
        let mut log = RouteLog::new();
        let one = Some(QoS::AtLeastOnce);
        assert_eq!(log.announce(route("a", one)), (RouteSeq(1), Urgency::AtOnce));
        assert_eq!(log.announce(route("b", one)), (RouteSeq(2), Urgency::AtOnce));
        assert_eq!(log.announce(route("a", one)), (RouteSeq(1), Urgency::Unchanged));
        assert_eq!(log.announce(route("c", None)), (RouteSeq(2), Urgency::Unchanged));
        assert_eq!(log.announce(route("a", None)), (RouteSeq(3), Urgency::MayWait));
        assert_eq!(
            log.announce(route("b", Some(QoS::AtMostOnce))),
            (RouteSeq(4), Urgency::AtOnce),
            "a lower QoS is another row"
        );
        assert_eq!((log.head(), log.oldest(), log.count()), (4, 1, 1));
    }

    #[test]
    fn replaying_the_changes_gives_the_snapshot_and_its_digest() {
        let mut log = RouteLog::new();
        for n in 0..100_u32 {
            let qos = QoS::from_bits((n % 4) as u8);
            log.announce(route(&format!("t/{}", n % 7), qos));
        }
        let mut replayed = BTreeMap::new();
        for change in log.changes_from(1).unwrap() {
            match change.qos {
                Some(qos) => replayed.insert(change.filter.clone(), qos),
                None => replayed.remove(&change.filter),
            };
        }
        let mut digest = RouteDigest::default();
        for (filter, qos) in &replayed {
            digest.add(&Route { filter: filter.clone(), qos: Some(*qos) });
        }
        assert_eq!(digest.value(), log.digest());
        assert_eq!(replayed.len() as u64, log.count());
        assert_eq!(log.snapshot().len(), replayed.len());
    }

    #[test]
    fn changes_that_fell_out_of_the_ring_cannot_be_repeated() {
        let mut log = RouteLog::new();
        for n in 0..RING_CHANGES + 10 {
            let qos = if n % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            log.announce(route("a", Some(qos)));
        }
        assert_eq!(log.oldest(), 11);
        assert!(log.changes_from(10).is_none());
        assert_eq!(log.changes_from(11).unwrap().count(), RING_CHANGES);
        assert_eq!(log.changes_from(log.head() + 1).unwrap().count(), 0);
        assert!(log.changes_from(log.head() + 2).is_none());
        assert!(log.changes_from(0).is_none());
    }
}
