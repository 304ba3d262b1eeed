//! What happened in a run, as a number to compare and, if wanted, as lines to read.
//!
//! Owns the hash over every delivery, action and fault, in order and with its time. Two runs of one seed have the same
//! hash, or something decides by what the seed does not know.

use std::fmt;

/// A trace in the making.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    steps: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// With the lines, if `lines`.
    pub(super) fn new(with_lines: bool) -> Self {
        Self { hash: 0, steps: 0, lines: with_lines.then(Vec::new) }
    }

    /// Something that the schedule did. `parts` stand for it; `text` says it.
    pub(super) fn step(&mut self, now: u64, parts: [u64; 3], text: fmt::Arguments<'_>) {
        self.steps += 1;
        self.note(now, parts, text);
    }

    /// Something that is no step of its own.
    pub(super) fn note(&mut self, now: u64, parts: [u64; 3], text: fmt::Arguments<'_>) {
        for part in [now, parts[0], parts[1], parts[2]] {
            let mixed = u128::from(self.hash ^ part ^ 0x9e37_79b9_7f4a_7c15)
                * u128::from(0xd6e8_feb8_6659_fd93_u64);
            #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
            let folded = mixed as u64 ^ (mixed >> 64) as u64;
            self.hash = folded.rotate_left(17);
        }
        if let Some(lines) = &mut self.lines {
            let hash = self.hash;
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            lines.push(format!("{:7} {seconds:4}.{micros:06} {hash:016x} {text}", self.steps));
        }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
