//! Commits of every kind, the same each time, and what a store must have after so many of them.

use std::path::Path;

use bytes::Bytes;
use partition::{Batch, FjallStore, Store, Table, Write};

use crate::support::{CONFIG, Rows, rows};

/// Says in the store itself how many commits it has.
const COUNT: &[u8] = b"\x00\x00count";

/// A sequence of numbers that look random.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

/// The rows of commit `number`, counted from 1: new ones, changed ones and deleted ones in all tables, from a few bytes to
/// more than fjall writes at once.
pub(crate) fn batch(seed: u64, number: u64) -> Batch {
    let mut dice = Dice::new(seed ^ number.wrapping_mul(0x2545_F491_4F6C_DD1D));
    let mut batch = Batch::default();
    for _ in 0..1 + dice.below(6) {
        let table = Table::ALL[dice.below(Table::ALL.len() as u64) as usize];
        let key = dice.below(24).to_be_bytes().to_vec();
        if dice.below(4) == 0 {
            batch.delete(table, key);
            continue;
        }
        let length = match dice.below(12) {
            0 => 20_000,
            1 => 9_000,
            2 => 0,
            _ => dice.below(300),
        };
        batch.put(table, key, vec![dice.below(255) as u8 + 1; length as usize]);
    }
    batch.put(Table::Cursor, COUNT.to_vec(), number.to_be_bytes().to_vec());
    batch
}

/// What is there after the commits 1 to `number`.
pub(crate) fn expected(seed: u64, number: u64) -> Rows {
    let mut rows = Rows::new();
    for number in 1..=number {
        for write in batch(seed, number).writes() {
            match write.clone() {
                Write::Put { table, key, value } => drop(rows.insert((table, key), value)),
                Write::Delete { table, key } => drop(rows.remove(&(table, key))),
            }
        }
    }
    rows
}

/// How many commits a store has, after a look that it has exactly those.
pub(crate) fn verified(store: &impl Store, seed: u64) -> u64 {
    let count = store.lookup(Table::Cursor, COUNT).unwrap();
    let number = count.map_or(0, |count| u64::from_be_bytes(count[..].try_into().unwrap()));
    let found = rows(store).unwrap();
    assert!(found == expected(seed, number), "not the rows of {number} commits: {}", {
        let expected = expected(seed, number);
        let differs = |key: &&(Table, Bytes)| found.get(key) != expected.get(key);
        let keys: Vec<_> = found.keys().chain(expected.keys()).filter(differs).collect();
        format!("{keys:?}")
    });
    number
}

/// Opens what a crash has left, and gives how many commits it has. It must be in order so far that it goes on: one more
/// commit is found again.
pub(crate) fn opened(path: &Path, seed: u64) -> Result<u64, String> {
    let mut store = FjallStore::open(path, CONFIG).map_err(|error| error.to_string())?;
    let found = verified(&store, seed);
    store.commit(&batch(seed, found + 1)).unwrap();
    drop(store);
    let again = FjallStore::open(path, CONFIG).map_err(|error| error.to_string())?;
    assert_eq!(verified(&again, seed), found + 1, "what was committed after the crash");
    Ok(found)
}
