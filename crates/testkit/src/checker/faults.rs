//! What was done to the cluster, and when.
//!
//! Owns the pairing of a fault with its end. Knows some words of their kinds and targets, nothing of what they do.

use crate::record::{Event, What};

/// Words of faults that stop a process in order.
const GRACEFUL: [&str; 4] = ["restart", "graceful", "rolling", "term"];

/// What targets of one proxy are called: the process, its link to the store, and the one to its clients.
const OF_A_PROXY: [&str; 3] = ["proxy ", "inner link ", "client link "];

/// What targets are called that are the store's.
const STORE: [&str; 2] = ["intermediate", "disk"];

/// A clock jumps at once; one that takes longer starts a process anew, which reads the clock then.
const AT_ONCE: u64 = super::SECOND / 20;

/// All faults of a history.
#[derive(Debug, Default)]
pub(super) struct Faults<'a> {
    pub(super) all: Vec<Fault<'a>>,
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
        Self { all }
    }

    /// Those that were there at any time from `from` to `until`, and shortly before or after.
    pub(super) fn around(&self, from: u64, until: u64) -> impl Iterator<Item = &Fault<'a>> {
        self.all.iter().filter(move |fault| {
            fault.from <= until.saturating_add(super::AROUND_FAULT)
                && from <= fault.until.saturating_add(super::AROUND_FAULT)
        })
    }

    /// Those at any time from `from` to `until` that a client of `proxy` may notice: of that proxy, of its links, and of
    /// the store.
    pub(super) fn touching(
        &self,
        proxy: usize,
        from: u64,
        until: u64,
    ) -> impl Iterator<Item = &Fault<'a>> {
        let there = move |fault: &&Fault<'_>| fault.from <= until && from <= fault.until;
        self.all.iter().filter(there).filter(move |fault| fault.touches(proxy))
    }

    /// When the store must have what `proxy` had to tell it at `until`: a store that is away is told later. `None` if a fault
    /// of the proxy itself or of its links was there at any time from `from` on until then: who dies tells nothing.
    pub(super) fn told(&self, proxy: usize, from: u64, until: u64) -> Option<u64> {
        let mut told = until.saturating_add(super::MARGIN);
        // In the order in which they began.
        for fault in self.all.iter().filter(|fault| fault.touches(proxy)) {
            if fault.from > told.max(until.saturating_add(super::SOON)) {
                break;
            }
            if fault.until < from {
                continue;
            }
            if fault.is_of_proxy(proxy) {
                return None;
            }
            told = told.max(fault.until.saturating_add(super::SOON));
        }
        Some(told)
    }

    /// Whether what is measured by clocks from `from` to `until` may seem shorter or longer than it is. A process that did
    /// not start anew in a jump may do so at any time later.
    pub(super) fn clocks_jump(&self, from: u64, until: u64) -> bool {
        let mut jumps = self.all.iter().filter(|fault| fault.kind.contains("clock"));
        jumps.any(|jump| {
            let lasts = jump.until > jump.from.saturating_add(AT_ONCE);
            jump.from <= until && (!lasts || from <= jump.until)
        })
    }

    /// Whether clocks may have gone back before `until`: then everything may last longer from then on.
    pub(super) fn clocks_jumped(&self, until: u64) -> bool {
        self.all.iter().any(|fault| fault.kind.contains("clock") && fault.from <= until)
    }
}

impl Fault<'_> {
    /// Whether a client of this proxy may notice it: only a target that is surely another one cannot be noticed.
    pub(super) fn touches(&self, proxy: usize) -> bool {
        self.target.split(", ").any(|part| {
            let number = OF_A_PROXY.iter().find_map(|name| part.strip_prefix(name));
            number.and_then(|number| number.parse().ok()).is_none_or(|other: usize| other == proxy)
        })
    }

    /// Whether it may have touched this proxy, and not the store alone.
    fn is_of_proxy(&self, proxy: usize) -> bool {
        let store = self.kind.contains("intermediate")
            || self.target.split(", ").all(|part| STORE.contains(&part));
        self.touches(proxy) && !store
    }

    /// Whether it stops a process that can still say that it stops.
    pub(super) fn is_graceful(&self) -> bool {
        GRACEFUL.iter().any(|word| self.kind.contains(word))
    }

    /// Whether the store may have had no room.
    pub(super) fn fills_the_store(&self) -> bool {
        self.kind.contains("disk") || self.kind.contains("full")
    }
}
