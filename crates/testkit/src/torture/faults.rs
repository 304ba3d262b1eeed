//! Which faults there are, and when which one comes: drawn from the seed.
//!
//! Decides only: what a fault does is in `act`. A part of the cluster has one fault at a time. A fault that takes all processes
//! waits for the others to be over, and none begins meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Duration, Instant, sleep_until};

use super::act::World;
use crate::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    KillProxy,
    KillProxies,
    KillIntermediate,
    KillAll,
    StopProxy,
    StopIntermediate,
    RestartProxy,
    RestartIntermediate,
    RollingRestart,
    CutInner,
    CutClient,
    HalfOpenInner,
    HalfOpenClient,
    DelayInner,
    DelayClient,
    ThrottleInner,
    ThrottleClient,
    DiskFull,
    ClockJump,
}

/// A part of the cluster that a fault needs for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A proxy, by number.
    Proxy(usize),
    /// The intermediate.
    Intermediate,
    /// The cable of a proxy to the intermediate.
    Inner(usize),
    /// The cable of clients to a proxy.
    Client(usize),
    /// The store's disk.
    Disk,
}

/// What is done to which part.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) parts: Vec<Part>,
    /// What it does in detail is drawn from this.
    pub(super) random: Random,
}

impl Kind {
    /// All, each with its name and how often it comes beside the others.
    const TABLE: [(Self, &str, u64); 19] = [
        (Self::KillProxy, "kill-proxy", 6),
        (Self::KillProxies, "kill-proxies", 2),
        (Self::KillIntermediate, "kill-intermediate", 5),
        (Self::KillAll, "kill-all", 2),
        (Self::StopProxy, "stop-proxy", 3),
        (Self::StopIntermediate, "stop-intermediate", 2),
        (Self::RestartProxy, "restart-proxy", 3),
        (Self::RestartIntermediate, "restart-intermediate", 2),
        (Self::RollingRestart, "rolling-restart", 1),
        (Self::CutInner, "cut-inner", 3),
        (Self::CutClient, "cut-client", 3),
        (Self::HalfOpenInner, "half-open-inner", 3),
        (Self::HalfOpenClient, "half-open-client", 3),
        (Self::DelayInner, "delay-inner", 2),
        (Self::DelayClient, "delay-client", 2),
        (Self::ThrottleInner, "throttle-inner", 2),
        (Self::ThrottleClient, "throttle-client", 2),
        (Self::DiskFull, "disk-full", 2),
        (Self::ClockJump, "clock-jump", 1),
    ];

    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        Self::TABLE.iter().map(|(kind, _, _)| *kind).collect()
    }

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        let row = Self::TABLE.iter().find(|(kind, _, _)| *kind == self);
        row.expect("the table has every kind").1
    }

    /// Reads a list of names; `all` and `none` are lists too.
    ///
    /// # Errors
    /// Names the first that is unknown, and all there are.
    pub(super) fn parse(list: &str) -> Result<Vec<Self>, String> {
        match list {
            "all" => return Ok(Self::all()),
            "none" => return Ok(Vec::new()),
            _ => {}
        }
        let kinds = list.split(',').map(|name| {
            let row = Self::TABLE.iter().find(|(_, known, _)| *known == name.trim());
            row.map(|(kind, _, _)| *kind).ok_or_else(|| {
                let names: Vec<_> = Self::TABLE.iter().map(|(_, name, _)| *name).collect();
                format!(
                    "no fault is called {name:?}; all, none, or a list of: {}",
                    names.join(", ")
                )
            })
        });
        kinds.collect()
    }

    /// Whether it is done to every process.
    const fn takes_all(self) -> bool {
        matches!(self, Self::KillAll | Self::RollingRestart)
    }

    fn draw(kinds: &[Self], random: &mut Random) -> Option<Self> {
        let weight =
            |kind| Self::TABLE.iter().find(|(known, ..)| *known == kind).map_or(0, |row| row.2);
        let total: u64 = kinds.iter().map(|&kind| weight(kind)).sum();
        let mut at = random.between(1, total);
        kinds.iter().copied().find(|&kind| {
            let is_it = at <= weight(kind);
            at = at.saturating_sub(weight(kind));
            is_it
        })
    }

    /// The parts it is done to.
    fn parts(self, world: &World, random: &mut Random) -> Vec<Part> {
        let proxies = world.proxies();
        let one = random.index(proxies);
        match self {
            Self::KillProxy | Self::StopProxy | Self::RestartProxy => vec![Part::Proxy(one)],
            Self::KillProxies => {
                let spared = (proxies > 2 && random.chance(50)).then_some(one);
                (0..proxies).filter(|&proxy| Some(proxy) != spared).map(Part::Proxy).collect()
            }
            Self::KillIntermediate
            | Self::StopIntermediate
            | Self::RestartIntermediate
            | Self::ClockJump => vec![Part::Intermediate],
            Self::KillAll | Self::RollingRestart => {
                (0..proxies).map(Part::Proxy).chain([Part::Intermediate]).collect()
            }
            Self::CutInner | Self::HalfOpenInner | Self::DelayInner | Self::ThrottleInner => {
                vec![Part::Inner(one)]
            }
            Self::CutClient | Self::HalfOpenClient | Self::DelayClient | Self::ThrottleClient => {
                vec![Part::Client(one)]
            }
            Self::DiskFull if world.has_small_disk() => vec![Part::Disk],
            // It takes restarts.
            Self::DiskFull => vec![Part::Disk, Part::Intermediate],
        }
    }
}

/// What was drawn, and what is under way.
struct Schedule {
    kinds: Vec<Kind>,
    random: Random,
    busy: BTreeSet<Part>,
    /// One that takes all processes, until the others are over.
    waiting: Option<Fault>,
}

impl Schedule {
    /// The faults that begin now: one, sometimes two, or none while one waits for all processes.
    fn next(&mut self, world: &World) -> Vec<Fault> {
        if let Some(fault) = self.waiting.take() {
            if !self.claim(&fault) {
                self.waiting = Some(fault);
                return Vec::new();
            }
            return vec![fault];
        }
        let count = if self.random.chance(20) { 2 } else { 1 };
        let mut faults = Vec::new();
        // What is drawn may need what is busy: then another one is drawn.
        for _ in 0..4 * count {
            let Some(kind) = Kind::draw(&self.kinds, &mut self.random) else { break };
            let parts = kind.parts(world, &mut self.random);
            let fault = Fault { kind, parts, random: Random::new(self.random.next()) };
            if self.claim(&fault) {
                faults.push(fault);
            } else if kind.takes_all() {
                self.waiting = Some(fault);
                break;
            }
            if faults.len() == count {
                break;
            }
        }
        faults
    }

    /// Marks the parts of `fault` as busy, unless one is.
    fn claim(&mut self, fault: &Fault) -> bool {
        let is_free = fault.parts.iter().all(|part| !self.busy.contains(part));
        if is_free {
            self.busy.extend(fault.parts.iter().copied());
        }
        is_free
    }

    fn free(&mut self, done: Result<Vec<Part>, JoinError>) {
        for part in done.expect("a fault does not panic") {
            self.busy.remove(&part);
        }
    }
}

/// Lets faults of `kinds` happen until `end`, and waits until all are over.
pub(super) async fn run(world: Arc<World>, kinds: Vec<Kind>, seed: u64, end: Instant) {
    let random = Random::part(seed, "faults");
    let mut schedule = Schedule { kinds, random, busy: BTreeSet::new(), waiting: None };
    let mut under_way: JoinSet<Vec<Part>> = JoinSet::new();
    loop {
        let next = Instant::now() + Duration::from_millis(schedule.random.between(1000, 6000));
        sleep_until(next.min(end)).await;
        if next >= end {
            break;
        }
        while let Some(done) = under_way.try_join_next() {
            schedule.free(done);
        }
        for fault in schedule.next(&world) {
            let (world, parts) = (Arc::clone(&world), fault.parts.clone());
            under_way.spawn(async move {
                world.act(fault).await;
                parts
            });
        }
    }
    while let Some(done) = under_way.join_next().await {
        schedule.free(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_an_unknown_one_is_told_with_all_there_are() {
        assert_eq!(Kind::parse("all").unwrap(), Kind::all());
        assert_eq!(Kind::parse("none").unwrap(), Vec::new());
        let some = Kind::parse("kill-all, cut-inner").unwrap();
        assert_eq!(some, [Kind::KillAll, Kind::CutInner]);
        let refused = Kind::parse("kill-proxy,earthquake").unwrap_err();
        assert!(refused.contains("\"earthquake\"") && refused.contains("clock-jump"), "{refused}");
    }

    #[test]
    fn every_kind_is_drawn() {
        let mut random = Random::new(1);
        let drawn: BTreeSet<_> =
            (0..2000).filter_map(|_| Kind::draw(&Kind::all(), &mut random)).collect();
        assert_eq!(drawn.len(), Kind::all().len());
        assert_eq!(Kind::draw(&[], &mut random), None);
    }
}
