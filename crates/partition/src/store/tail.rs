//! A small file that says how far the store had come, beside the journal that should say the same.
//!
//! Owns the file `tail`: two places that are overwritten in turn, right after each commit, so a write that is
//! cut short leaves the other. Invariant: what it names had been committed before. It is never synced by itself:
//! after a loss of power it may be old, which makes the check weaker and never wrong.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"CWTAIL01";
const ENCODED: usize = 48;
/// Each place within a sector of its own, which disks write whole.
const PLACES: [u64; 2] = [0, 512];

/// How far the store had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// How often the store had been opened.
    pub(super) epoch: u64,
    /// The last commit.
    pub(super) number: u64,
    /// The last commit that no loss of power takes.
    pub(super) synced: u64,
    /// Which start of the machine.
    pub(super) boot: u64,
}

impl Mark {
    fn encode(&self) -> [u8; ENCODED] {
        let mut bytes = [0; ENCODED];
        bytes[..8].copy_from_slice(MAGIC);
        let fields = [self.epoch, self.number, self.synced, self.boot];
        for (place, field) in bytes[8..40].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        let checksum = xxh3_64(&bytes[..40]);
        bytes[40..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENCODED]) -> Option<Self> {
        let field = |at: usize| {
            u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes within 48"))
        };
        if bytes[..8] != MAGIC[..] || field(40) != xxh3_64(&bytes[..40]) {
            return None;
        }
        Some(Self { epoch: field(8), number: field(16), synced: field(24), boot: field(32) })
    }

    /// The least commit that must be found again: all of them as long as the machine has not
    /// been started anew, and then those that were synced.
    pub(super) fn required(&self, boot: u64) -> u64 {
        // 0: this system does not tell its boots apart.
        if self.boot == boot && boot != 0 { self.number } else { self.synced }
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    next: usize,
}

impl Tail {
    /// A new file that says: nothing yet.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let mut tail = Self { file, next: 0 };
        tail.write(&Mark::default())?;
        tail.write(&Mark::default())?;
        tail.file.sync_all()?;
        Ok(tail)
    }

    /// The file and the newest mark in it, if one can be read.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Mark>)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let marks = Self::marks(&fs::read(path)?);
        let newest =
            usize::from(marks[1].map(|mark| mark.number) > marks[0].map(|mark| mark.number));
        Ok((Self { file, next: 1 - newest }, marks[newest]))
    }

    /// The newest mark of the file, read only.
    pub(super) fn read(path: &Path) -> io::Result<Option<Mark>> {
        Ok(Self::marks(&fs::read(path)?).into_iter().flatten().max_by_key(|mark| mark.number))
    }

    fn marks(bytes: &[u8]) -> [Option<Mark>; 2] {
        PLACES.map(|place| {
            let at = place as usize;
            let bytes = bytes.get(at..at + ENCODED)?;
            Mark::decode(bytes.try_into().expect("sliced to this length"))
        })
    }

    pub(super) fn write(&mut self, mark: &Mark) -> io::Result<()> {
        self.file.write_all_at(&mark.encode(), PLACES[self.next])?;
        self.next = 1 - self.next;
        Ok(())
    }
}

/// A number for this start of the machine; 0 if the system does not tell.
pub(super) fn boot() -> u64 {
    fs::read("/proc/sys/kernel/random/boot_id").map_or(0, |id| xxh3_64(&id))
}
