//! Keys of messages that were taken.
//!
//! Owns the rows of table `Once`. Invariant: a key is known from the commit that its message had an effect
//! in, for a day. They are looked up on disk, since there may be millions; only those of the commit being
//! put together are in memory. What is over is deleted bit by bit, in the order of keys, as fast as keys come.

use bytes::Bytes;
use hashbrown::HashSet;

use crate::id::{OnceKey, PartitionId, UnixMillis};
use crate::partition::Left;
use crate::row::{decode_number, encode_number, once_key, partition_key};
use crate::store::{Batch, Store, StoreError, Table};

/// How long a key is known.
const KNOWN_SECS: u32 = 24 * 60 * 60;
/// Rows looked at for each key that came.
const LOOKS_PER_KEY: usize = 3;
/// And at least so many, each time.
const FEWEST_LOOKS: usize = 16;
/// And not more.
const MOST_LOOKS: usize = 2048;

/// Of one partition.
#[derive(Debug)]
pub(crate) struct Once {
    partition: PartitionId,
    /// Of the commit being put together.
    fresh: HashSet<OnceKey, foldhash::fast::RandomState>,
    /// Where the next look for what is over begins.
    position: Vec<u8>,
    /// Keys for which nothing was looked at yet.
    came: usize,
}

impl Once {
    pub(crate) fn new(partition: PartitionId) -> Self {
        let position = partition_key(partition).to_vec();
        Self { partition, fresh: HashSet::default(), position, came: 0 }
    }

    /// Whether this key is new; then it is known from now on.
    pub(crate) fn take(
        &mut self,
        key: OnceKey,
        now: UnixMillis,
        store: &dyn Store,
        batch: &mut Batch,
    ) -> Result<bool, StoreError> {
        let row = once_key(self.partition, key);
        if self.fresh.contains(&key) {
            return Ok(false);
        }
        if let Some(value) = store.lookup(Table::Once, &row)?
            && decode_number(Table::Once, &value)? > now.0
        {
            return Ok(false);
        }
        self.fresh.insert(key);
        self.came += 1;
        let until = encode_number(now.after_secs(KNOWN_SECS).0);
        batch.put(Table::Once, Bytes::copy_from_slice(&row), until);
        Ok(true)
    }

    /// What was taken is in the store.
    pub(crate) fn commit(&mut self) {
        if !self.fresh.is_empty() {
            self.fresh.clear();
        }
    }

    /// Deletes some of what is over. Whether there is more to look at.
    pub(crate) fn expire_some(
        &mut self,
        now: UnixMillis,
        store: &dyn Store,
        batch: &mut Batch,
    ) -> Result<Left, StoreError> {
        let mut looks = (self.came * LOOKS_PER_KEY).clamp(FEWEST_LOOKS, MOST_LOOKS);
        self.came = self.came.saturating_sub(looks.div_ceil(LOOKS_PER_KEY));
        let (mut damaged, mut next) = (None, None);
        let prefix = partition_key(self.partition);
        store.scan(Table::Once, &prefix, &self.position, &mut |key, value| {
            if looks == 0 {
                next = Some(key.to_vec());
                return false;
            }
            looks -= 1;
            match decode_number(Table::Once, &Bytes::copy_from_slice(value)) {
                Ok(until) if until > now.0 => {}
                Ok(_) => batch.delete(Table::Once, Bytes::copy_from_slice(key)),
                Err(error) => damaged = Some(error),
            }
            damaged.is_none()
        })?;
        if next.is_none() {
            // All were looked at.
            self.came = 0;
        }
        self.position = next.unwrap_or_else(|| prefix.to_vec());
        let left = if self.came == 0 { Left::Nothing } else { Left::Something };
        damaged.map_or(Ok(left), Err)
    }
}
