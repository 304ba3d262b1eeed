//! One endpoint's rows as it numbers them.
//!
//! Owns the rows, the number of the newest change applied, and the digest over them. Invariant: the
//! index holds exactly the rows of every table; a snapshot changes both in one call, with its last
//! chunk, and touches only what differs, so a row that is in the old and in the new table is never
//! missing in between. Does not know streams.

use std::collections::HashMap;

use cluster_rpc::RouteDigest;
use cluster_rpc::frame::{Beat, Delta, Hello, Route, SnapshotChunk};
use foldhash::quality::RandomState;
use mqtt_codec::{QoS, TopicFilter};

use crate::relay::Violation;
use crate::routes::{RouteIndex, Slot};

type Rows = HashMap<TopicFilter, QoS, RandomState>;

/// The routing table of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Rows,
    digest: RouteDigest,
    /// The newest change applied; `None` until a snapshot of this incarnation is complete.
    applied: Option<u64>,
    incoming: Option<Incoming>,
    /// A snapshot was asked for because of a mismatch, and is not complete.
    resyncing: bool,
}

/// A snapshot of which the last chunk is not here.
#[derive(Debug)]
struct Incoming {
    at_seq: u64,
    rows: Rows,
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The table now reaches up to this change.
    Applied(u64),
    /// More is to come.
    Unfinished,
    /// Changes are missing before these: a snapshot is needed.
    Gap,
}

impl Table {
    /// Whether all rows of this incarnation have been here once.
    pub(crate) fn is_complete(&self) -> bool {
        self.applied.is_some()
    }

    pub(crate) fn applied(&self) -> Option<u64> {
        self.applied
    }

    /// A new incarnation has begun: the rows of the old one stay until its snapshot is complete.
    pub(crate) fn renew(&mut self) {
        self.applied = None;
        self.abandon_incoming();
    }

    /// The stream has ended: what it had begun to send will not be completed.
    pub(crate) fn abandon_incoming(&mut self) {
        self.incoming = None;
        self.resyncing = false;
    }

    /// The change from which the endpoint should go on; `None`: a snapshot is needed.
    pub(crate) fn deltas_from(&self, hello: &Hello) -> Option<u64> {
        let applied = self.applied.filter(|&applied| applied <= hello.head_seq)?;
        let next = applied.checked_add(1)?;
        (next >= hello.oldest_delta).then_some(next)
    }

    /// Takes a chunk; the last one replaces the table.
    pub(crate) fn take_snapshot(
        &mut self,
        chunk: SnapshotChunk,
        slot: Slot,
        index: &mut RouteIndex,
        most: usize,
    ) -> Result<Change, Violation> {
        let at_seq = chunk.at_seq;
        let incoming =
            self.incoming.get_or_insert_with(|| Incoming { at_seq, rows: Rows::default() });
        if incoming.at_seq != at_seq {
            return Err(Violation::SnapshotMixed);
        }
        for route in chunk.routes {
            let qos = route.qos.ok_or(Violation::SnapshotWithdraws)?;
            incoming.rows.insert(own(&route.filter)?, qos);
        }
        if incoming.rows.len() > most {
            return Err(Violation::TooManyRoutes(most));
        }
        if !chunk.last {
            return Ok(Change::Unfinished);
        }
        let rows = self.incoming.take().map(|incoming| incoming.rows).unwrap_or_default();
        self.replace(rows, slot, index);
        self.applied = Some(at_seq);
        self.resyncing = false;
        Ok(Change::Applied(at_seq))
    }

    /// Applies changes; those that are applied already are passed over.
    pub(crate) fn take_delta(
        &mut self,
        delta: &Delta,
        slot: Slot,
        index: &mut RouteIndex,
        most: usize,
    ) -> Result<Change, Violation> {
        if self.incoming.is_some() {
            return Err(Violation::DeltaInSnapshot);
        }
        let Some(applied) = self.applied else {
            return Err(Violation::DeltaBeforeSnapshot);
        };
        let next = applied.saturating_add(1);
        if delta.first_seq > next {
            self.resyncing = true;
            return Ok(Change::Gap);
        }
        let known = usize::try_from(next - delta.first_seq).unwrap_or(usize::MAX);
        let fresh = delta.routes.get(known..).unwrap_or_default();
        if self.rows.len() + fresh.len() > most && self.len_after(fresh) > most {
            return Err(Violation::TooManyRoutes(most));
        }
        for route in fresh {
            self.set(own(&route.filter)?, route.qos, slot, index);
        }
        let applied = applied.checked_add(fresh.len() as u64).ok_or(Violation::SeqOverflow)?;
        self.applied = Some(applied);
        Ok(Change::Applied(applied))
    }

    /// Whether `beat` says that the endpoint's table is another one than this. Says so once; then a
    /// snapshot is on its way.
    pub(crate) fn differs(&mut self, beat: &Beat) -> bool {
        if self.resyncing || self.incoming.is_some() || self.applied != Some(beat.seq) {
            return false;
        }
        let same = self.rows.len() as u64 == beat.count && self.digest.value() == beat.digest;
        self.resyncing = !same;
        !same
    }

    /// Takes every row out of the index.
    pub(crate) fn clear(&mut self, slot: Slot, index: &mut RouteIndex) {
        for filter in self.rows.keys() {
            index.remove(filter, slot);
        }
        *self = Self::default();
    }

    /// Loses one row, as a fault would. For tests of the digest.
    pub(crate) fn corrupt(&mut self, slot: Slot, index: &mut RouteIndex) -> bool {
        let Some(filter) = self.rows.keys().min().cloned() else {
            return false;
        };
        self.set(filter, None, slot, index);
        true
    }

    fn set(&mut self, filter: TopicFilter, qos: Option<QoS>, slot: Slot, index: &mut RouteIndex) {
        match qos {
            Some(qos) => index.insert(&filter, slot, qos),
            None => index.remove(&filter, slot),
        }
        let row = |qos| Route { filter: filter.clone(), qos: Some(qos) };
        if let Some(qos) = qos {
            self.digest.add(&row(qos));
        }
        let old = match qos {
            Some(qos) => self.rows.insert(filter.clone(), qos),
            None => self.rows.remove(&filter),
        };
        if let Some(old) = old {
            self.digest.remove(&row(old));
        }
    }

    /// How many rows there would be after `changes`.
    fn len_after(&self, changes: &[Route]) -> usize {
        let mut last = HashMap::with_capacity(changes.len());
        for route in changes {
            last.insert(&route.filter, route.qos.is_some());
        }
        last.into_iter().fold(self.rows.len(), |len, (filter, is_row)| {
            match (self.rows.contains_key(filter), is_row) {
                (false, true) => len + 1,
                (true, false) => len - 1,
                (true, true) | (false, false) => len,
            }
        })
    }

    fn replace(&mut self, rows: Rows, slot: Slot, index: &mut RouteIndex) {
        let mut digest = RouteDigest::default();
        for (filter, &qos) in &rows {
            index.insert(filter, slot, qos);
            digest.add(&Route { filter: filter.clone(), qos: Some(qos) });
        }
        for filter in self.rows.keys().filter(|filter| !rows.contains_key(*filter)) {
            index.remove(filter, slot);
        }
        self.rows = rows;
        self.digest = digest;
    }
}

/// The filter in memory of its own: what is kept must not pin the buffer it was read into.
fn own(filter: &TopicFilter) -> Result<TopicFilter, Violation> {
    match filter.share_name() {
        Some(_) => Err(Violation::SharedFilter),
        None => Ok(filter.detached()),
    }
}
