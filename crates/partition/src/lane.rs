//! The last numbers taken from each origin, and those that were refused.
//!
//! Invariant: the row of a lane is written in the batch that writes what its message changed, so a
//! message that comes again after a crash is known exactly if it had an effect. One that was refused
//! before its publisher heard of it is refused again, although later ones of its lane were taken.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::command::Origin;
use crate::id::{PartitionId, ProxyId};
use crate::row::{LaneRow, lane_key};
use crate::store::{Batch, Table};

/// Runs of refused numbers that a lane remembers. What is forgotten counts as taken.
const MOST_REFUSED: usize = 64;
/// An origin repeats no number that lies further behind its last one: as many as its window has.
const REPEATED: u64 = 16_384;

/// Of one partition.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    origins: HashMap<ProxyId, Box<Lane>, foldhash::fast::RandomState>,
    /// What the next commit writes.
    changed: Vec<(ProxyId, u8)>,
    /// By origin and lane: first and last of each run. Most lanes have none.
    refused: BTreeMap<(ProxyId, u8), Vec<(u64, u64)>>,
}

#[derive(Debug)]
struct Lane {
    last: [u64; 256],
    /// One bit each.
    changed: [u64; 4],
}

impl Lanes {
    /// Takes a row in.
    pub(crate) fn load(&mut self, origin: ProxyId, lane: u8, row: LaneRow) {
        self.origin(origin).last[usize::from(lane)] = row.last;
        if !row.refused.is_empty() {
            self.refused.insert((origin, lane), row.refused);
        }
    }

    fn origin(&mut self, origin: ProxyId) -> &mut Lane {
        self.origins
            .entry(origin)
            .or_insert_with(|| Box::new(Lane { last: [0; 256], changed: [0; 4] }))
    }

    /// Whether this one was not taken before; then it is now.
    pub(crate) fn take(&mut self, origin: Origin) -> bool {
        let lane = self.origin(origin.proxy);
        let at = usize::from(origin.lane);
        if origin.seq <= lane.last[at] {
            return false;
        }
        lane.last[at] = origin.seq;
        self.change(origin);
        if !self.refused.is_empty() {
            self.accept(origin);
        }
        true
    }

    /// The next commit writes the row of this lane.
    fn change(&mut self, origin: Origin) {
        let at = usize::from(origin.lane);
        let lane = self.origin(origin.proxy);
        let (word, bit) = (&mut lane.changed[at / 64], 1 << (at % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.changed.push((origin.proxy, origin.lane));
        }
    }

    /// This one is not taken, and its publisher is to hear it.
    pub(crate) fn refuse(&mut self, origin: Origin) {
        if self.is_refused(origin) {
            return;
        }
        let (lane, seq) = ((origin.proxy, origin.lane), origin.seq);
        let runs = self.refused.entry(lane).or_default();
        runs.retain(|(_, last)| last.saturating_add(REPEATED) >= seq);
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(seq) => *last = seq,
            _ => runs.push((seq, seq)),
        }
        if runs.len() > MOST_REFUSED {
            runs.remove(0);
        }
        self.change(origin);
    }

    /// Whether this one was refused when it came before, and later ones were taken since.
    pub(crate) fn has_refused(&self, origin: Origin) -> bool {
        self.is_refused(origin) && self.has_passed(origin)
    }

    fn is_refused(&self, origin: Origin) -> bool {
        if self.refused.is_empty() {
            return false;
        }
        let runs = self.refused.get(&(origin.proxy, origin.lane));
        runs.is_some_and(|runs| {
            runs.iter().any(|(first, last)| (*first..=*last).contains(&origin.seq))
        })
    }

    /// What was refused is taken after all.
    fn accept(&mut self, origin: Origin) {
        let Some(runs) = self.refused.get_mut(&(origin.proxy, origin.lane)) else { return };
        let Some(at) = runs.iter().position(|(first, last)| (*first..=*last).contains(&origin.seq))
        else {
            return;
        };
        let (first, last) = runs.remove(at);
        let rest = [(first, origin.seq - 1), (origin.seq.saturating_add(1), last)];
        let rest = rest.into_iter().filter(|(first, last)| first <= last);
        runs.splice(at..at, rest);
    }

    fn has_passed(&self, origin: Origin) -> bool {
        let lane = self.origins.get(&origin.proxy);
        lane.is_some_and(|lane| lane.last[usize::from(origin.lane)] >= origin.seq)
    }

    /// Whether this one was taken.
    pub(crate) fn has_taken(&self, origin: Origin) -> bool {
        self.has_passed(origin) && !self.is_refused(origin)
    }

    /// Writes what has changed.
    pub(crate) fn flush(&mut self, partition: PartitionId, batch: &mut Batch) {
        let mut changed = std::mem::take(&mut self.changed);
        for (origin, number) in changed.drain(..) {
            let Some(lane) = self.origins.get_mut(&origin) else { continue };
            lane.changed = [0; 4];
            let last = lane.last[usize::from(number)];
            let key = Bytes::copy_from_slice(&lane_key(partition, origin, number));
            let refused = self.refused_of(origin, number, last);
            batch.put(Table::Lane, key, LaneRow { last, refused }.encode());
        }
        self.changed = changed;
    }

    /// What is still to be known of the refused numbers of a lane.
    fn refused_of(&mut self, origin: ProxyId, number: u8, taken: u64) -> Vec<(u64, u64)> {
        if self.refused.is_empty() {
            return Vec::new();
        }
        let Some(runs) = self.refused.get_mut(&(origin, number)) else { return Vec::new() };
        runs.retain(|(_, last)| last.saturating_add(REPEATED) >= taken);
        if runs.is_empty() {
            self.refused.remove(&(origin, number));
            return Vec::new();
        }
        runs.clone()
    }

    /// Nothing more will come from `origin`.
    pub(crate) fn forget(&mut self, partition: PartitionId, origin: ProxyId, batch: &mut Batch) {
        let Some(lane) = self.origins.remove(&origin) else { return };
        self.changed.retain(|(changed, _)| *changed != origin);
        for number in 0..=u8::MAX {
            let refused = self.refused.remove(&(origin, number)).is_some();
            if refused || lane.last[usize::from(number)] > 0 {
                let key = lane_key(partition, origin, number);
                batch.delete(Table::Lane, Bytes::copy_from_slice(&key));
            }
        }
    }

    /// Those that anything came from.
    pub(crate) fn origins(&self) -> impl Iterator<Item = ProxyId> {
        self.origins.keys().copied()
    }
}
