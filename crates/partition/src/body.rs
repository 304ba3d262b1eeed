//! Messages that lie in several queues.
//!
//! Owns how many queues still need each body. Invariant: a body's row is deleted in the batch that
//! deletes the last chunk that names it. What is not in memory is read from the store when it changes.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use mqtt_codec::Message;

use crate::id::PartitionId;
use crate::row::{decode_body, decode_number, encode_body, encode_number, number_key};
use crate::store::{Batch, Store, StoreError, Table};

/// More than so many counts are not remembered, and are read again.
const MOST_COUNTS: usize = 16_384;
/// Nor are more than so many messages that were read.
const MOST_READ: usize = 256;
/// Nor do they hold more than so many bytes.
const MOST_READ_BYTES: usize = 4 << 20;

/// Of one partition.
#[derive(Debug)]
pub(crate) struct Bodies {
    partition: PartitionId,
    uses: HashMap<u64, u64, foldhash::fast::RandomState>,
    /// What the next commit writes.
    changed: Vec<u64>,
    read: HashMap<u64, Arc<Message>, foldhash::fast::RandomState>,
    read_bytes: usize,
}

impl Bodies {
    pub(crate) fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            uses: HashMap::default(),
            changed: Vec::new(),
            read: HashMap::default(),
            read_bytes: 0,
        }
    }

    /// Keeps a message for so many queues under a new number.
    pub(crate) fn insert(&mut self, number: u64, message: &Message, uses: u64, batch: &mut Batch) {
        batch.put(Table::Body, self.key(number), encode_body(message));
        self.uses.insert(number, uses);
        self.changed.push(number);
    }

    /// One queue needs it no more.
    pub(crate) fn release(&mut self, number: u64, store: &dyn Store) -> Result<(), StoreError> {
        let uses = match self.uses.get_mut(&number) {
            Some(uses) => uses,
            None => {
                let uses = self.read_uses(number, store)?;
                self.uses.entry(number).or_insert(uses)
            }
        };
        *uses = uses.saturating_sub(1);
        self.changed.push(number);
        Ok(())
    }

    fn read_uses(&self, number: u64, store: &dyn Store) -> Result<u64, StoreError> {
        match store.lookup(Table::BodyUse, &self.key(number))? {
            Some(value) => decode_number(Table::BodyUse, &value),
            None => Err(StoreError::Damaged { table: Table::BodyUse, what: "a row is missing" }),
        }
    }

    /// The message.
    pub(crate) fn read(
        &mut self,
        number: u64,
        store: &dyn Store,
    ) -> Result<Arc<Message>, StoreError> {
        if let Some(message) = self.read.get(&number) {
            return Ok(Arc::clone(message));
        }
        let value = store.lookup(Table::Body, &self.key(number))?;
        let value =
            value.ok_or(StoreError::Damaged { table: Table::Body, what: "a row is missing" })?;
        if self.read.len() >= MOST_READ || self.read_bytes > MOST_READ_BYTES {
            self.read.clear();
            self.read_bytes = 0;
        }
        let message = Arc::new(decode_body(&value)?);
        self.read_bytes += value.len();
        self.read.insert(number, Arc::clone(&message));
        Ok(message)
    }

    /// Writes the counts that have changed.
    pub(crate) fn flush(&mut self, batch: &mut Batch) {
        self.changed.sort_unstable();
        self.changed.dedup();
        for number in std::mem::take(&mut self.changed) {
            let key = self.key(number);
            match self.uses.get(&number) {
                Some(0) => {
                    self.uses.remove(&number);
                    self.read.remove(&number);
                    batch.delete(Table::BodyUse, key.clone());
                    batch.delete(Table::Body, key);
                }
                Some(uses) => batch.put(Table::BodyUse, key, encode_number(*uses)),
                None => {}
            }
        }
        if self.uses.len() > MOST_COUNTS {
            self.uses.clear();
        }
    }

    fn key(&self, number: u64) -> Bytes {
        Bytes::copy_from_slice(&number_key(self.partition, number))
    }
}
