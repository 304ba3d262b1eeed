//! Numbers that are given out once.
//!
//! Invariant: a number is reserved on disk, in blocks, before anything that names it can be seen; so none is
//! given twice, and giving one out mostly costs no row.

/// How many are reserved at a time.
const BLOCK: u64 = 1 << 16;

/// From 1 on.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: u64,
    /// Written, or about to be: see [`Numbers::reserve`].
    reserved: u64,
    written: u64,
}

impl Numbers {
    /// Goes on behind what was reserved.
    pub(crate) fn new(reserved: u64) -> Self {
        let reserved = reserved.max(1);
        Self { next: reserved, reserved, written: reserved }
    }

    /// A new one.
    pub(crate) const fn take(&mut self) -> u64 {
        let number = self.next;
        self.skip(number + 1);
        number
    }

    /// Gives out none below `next` any more.
    pub(crate) const fn skip(&mut self, next: u64) {
        if next > self.next {
            self.next = next;
        }
        if self.next > self.reserved {
            self.reserved = self.next + BLOCK;
        }
    }

    /// What is to be written before the numbers given out are seen, if anything.
    pub(crate) fn reserve(&mut self) -> Option<u64> {
        (self.reserved > self.written).then(|| {
            self.written = self.reserved;
            self.reserved
        })
    }
}
