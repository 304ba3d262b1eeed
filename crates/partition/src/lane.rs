//! The last numbers taken from each origin.
//!
//! Invariant: the row of a lane is written in the batch that writes what its message changed, so a
//! message that comes again after a crash is known exactly if it had an effect.

use bytes::Bytes;
use hashbrown::HashMap;

use crate::command::Origin;
use crate::id::{PartitionId, ProxyId};
use crate::row::{encode_number, lane_key};
use crate::store::{Batch, Table};

/// Of one partition.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    origins: HashMap<ProxyId, Box<Lane>, foldhash::fast::RandomState>,
    /// What the next commit writes.
    changed: Vec<(ProxyId, u8)>,
}

#[derive(Debug)]
struct Lane {
    last: [u64; 256],
    /// One bit each.
    changed: [u64; 4],
}

impl Lanes {
    /// Takes a row in.
    pub(crate) fn load(&mut self, origin: ProxyId, lane: u8, last: u64) {
        self.origin(origin).last[usize::from(lane)] = last;
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
        let (word, bit) = (&mut lane.changed[at / 64], 1 << (at % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.changed.push((origin.proxy, origin.lane));
        }
        true
    }

    /// Whether this one was taken.
    pub(crate) fn has_taken(&self, origin: Origin) -> bool {
        let lane = self.origins.get(&origin.proxy);
        lane.is_some_and(|lane| lane.last[usize::from(origin.lane)] >= origin.seq)
    }

    /// Writes what has changed.
    pub(crate) fn flush(&mut self, partition: PartitionId, batch: &mut Batch) {
        for (origin, number) in self.changed.drain(..) {
            let Some(lane) = self.origins.get_mut(&origin) else { continue };
            lane.changed = [0; 4];
            let key = Bytes::copy_from_slice(&lane_key(partition, origin, number));
            batch.put(Table::Lane, key, encode_number(lane.last[usize::from(number)]));
        }
    }

    /// Nothing more will come from `origin`.
    pub(crate) fn forget(&mut self, partition: PartitionId, origin: ProxyId, batch: &mut Batch) {
        let Some(lane) = self.origins.remove(&origin) else { return };
        self.changed.retain(|(changed, _)| *changed != origin);
        for number in 0..=u8::MAX {
            if lane.last[usize::from(number)] > 0 {
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
