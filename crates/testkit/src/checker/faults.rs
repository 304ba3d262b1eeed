//! What was done to the cluster, and when.
//!
//! Owns the pairing of a fault with its end. Knows some words of their kinds, nothing of what they do.

use crate::record::{Event, What};

/// Words of faults that stop a process in order.
const GRACEFUL: [&str; 4] = ["restart", "graceful", "rolling", "term"];

/// All faults of a history.
#[derive(Debug, Default)]
pub(super) struct Faults<'a> {
    pub(super) all: Vec<Fault<'a>>,
    /// Whether no time that a server measures is certain.
    pub(super) clocks_jump: bool,
}

/// Something that was done.
#[derive(Debug)]
pub(super) struct Fault<'a> {
    pub(super) kind: &'a str,
    target: &'a str,
    pub(super) from: u64,
    /// `u64::MAX` if nobody said that it was over.
    pub(super) until: u64,
}

impl<'a> Faults<'a> {
    pub(super) fn new(events: &'a [Event]) -> Self {
        let mut all: Vec<Fault<'a>> = Vec::new();
        for event in events {
            match &event.what {
                What::Fault { kind, target } => {
                    all.push(Fault { kind, target, from: event.at, until: u64::MAX });
                }
                What::Healed { kind, target } => {
                    let open = all.iter_mut().rev().filter(|fault| fault.until == u64::MAX);
                    let mut same =
                        open.filter(|fault| fault.kind == kind && fault.target == target);
                    if let Some(fault) = same.next() {
                        fault.until = event.at;
                    }
                }
                What::AllHealed => {
                    for fault in all.iter_mut().filter(|fault| fault.until == u64::MAX) {
                        fault.until = event.at;
                    }
                }
                _ => {}
            }
        }
        let clocks_jump = all.iter().any(|fault| fault.kind.contains("clock"));
        Self { all, clocks_jump }
    }

    /// Those that were there at any time from `from` to `until`, and shortly before or after.
    pub(super) fn around(&self, from: u64, until: u64) -> impl Iterator<Item = &Fault<'a>> {
        self.all.iter().filter(move |fault| {
            fault.from <= until.saturating_add(super::AROUND_FAULT)
                && from <= fault.until.saturating_add(super::AROUND_FAULT)
        })
    }

    /// Whether there was any.
    pub(super) fn any_around(&self, from: u64, until: u64) -> bool {
        self.around(from, until).next().is_some()
    }
}

impl Fault<'_> {
    /// Whether it stops a process that can still say that it stops.
    pub(super) fn is_graceful(&self) -> bool {
        GRACEFUL.iter().any(|word| self.kind.contains(word))
    }

    /// Whether the store may have had no room.
    pub(super) fn fills_the_store(&self) -> bool {
        self.kind.contains("disk") || self.kind.contains("full")
    }
}
