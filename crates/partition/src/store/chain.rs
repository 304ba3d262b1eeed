//! The chain of commits: every commit carries a row that numbers it and seals it to the one before.
//!
//! Owns that row and its checksum. A hole anywhere shows as a number that is missing or as a
//! checksum that does not follow. Knows nothing of files.

use xxhash_rust::xxh3::Xxh3;

use crate::store::Write;

/// Where the row lies in [`Table::Meta`](crate::Table::Meta): no partition has this number.
pub(super) const KEY: &[u8] = b"\xff\xffcommit";

/// More partitions would get in the way of [`KEY`] and of the owner's own row, which is before it.
pub(super) const MOST_PARTITIONS: u16 = 0xfffe;

const ENCODED: usize = 40;

/// More numbers than fjall gives out between two commits.
const SLACK: u64 = 1 << 32;

/// One commit, as its row tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// How often the store had been opened.
    pub(super) epoch: u64,
    /// One more than the commit before; 0 is before the first.
    pub(super) number: u64,
    /// Of the commit before.
    pub(super) previous: u64,
    /// The number that fjall gave this commit is not less. fjall has no checksum over that, and takes a commit with
    /// too low a number for one that its tables have already.
    pub(super) floor: u64,
    /// Over the rows of this commit and all of the above.
    pub(super) checksum: u64,
}

impl Link {
    /// Whether this one comes right after `before`.
    pub(super) fn follows(&self, before: &Self) -> bool {
        self.number == before.number + 1 && self.previous == before.checksum
    }

    /// Whether fjall can have given it this number.
    pub(super) fn can_have(&self, seqno: u64) -> bool {
        (self.floor..self.floor.saturating_add(SLACK)).contains(&seqno)
    }

    pub(super) fn encode(&self) -> [u8; ENCODED] {
        let mut bytes = [0; ENCODED];
        let fields = [self.epoch, self.number, self.previous, self.floor, self.checksum];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ENCODED] = bytes.try_into().ok()?;
        let mut fields = bytes
            .chunks_exact(8)
            .map(|field| u64::from_be_bytes(field.try_into().expect("chunks of 8 bytes")));
        let mut field = || fields.next().expect("five chunks");
        Some(Self {
            epoch: field(),
            number: field(),
            previous: field(),
            floor: field(),
            checksum: field(),
        })
    }
}

/// Adds up the rows of one commit.
pub(super) struct Seal(Xxh3);

impl Seal {
    pub(super) fn new() -> Self {
        Self(Xxh3::new())
    }

    /// A row that was set, or taken out and then without value.
    pub(super) fn row(&mut self, key: &[u8], value: Option<&[u8]>) {
        let bytes = value.unwrap_or_default();
        let mut head = [0; 9];
        head[0] = u8::from(value.is_some());
        head[1..5].copy_from_slice(&(key.len() as u32).to_be_bytes());
        head[5..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.0.update(&head);
        self.0.update(key);
        self.0.update(bytes);
    }

    pub(super) fn write(&mut self, write: &Write) {
        match write {
            Write::Put { key, value, .. } => self.row(key, Some(value)),
            Write::Delete { key, .. } => self.row(key, None),
        }
    }

    /// `link` with the checksum for a commit of these rows.
    pub(super) fn close(mut self, link: Link) -> Link {
        for field in [link.epoch, link.number, link.previous, link.floor] {
            self.0.update(&field.to_be_bytes());
        }
        Link { checksum: self.0.digest(), ..link }
    }
}
