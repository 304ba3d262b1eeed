//! Whole clusters in one thread and in virtual time, with everything that can go wrong, from one seed.
//!
//! Proxies, intermediate and clients are the very code that runs in processes; network, disks, clocks and the order in
//! which things happen are simulated. A run with the same seed is the same run, so what it finds can be looked at again.
//!
//! - `world`: who runs when; `process`, `server`: what runs
//! - `network`, `disk`: what is between and below them
//! - `faults`: what goes wrong; `rest`: what must be so when nothing moves; `trace`: what happened; `panics`: what must not have happened
//! - [`report`]: many seeds

mod disk;
mod faults;
mod network;
mod panics;
mod process;
pub mod report;
mod rest;
mod server;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use self::faults::Faults;
use self::network::Notice;
pub use self::report::Plan;
use self::server::Fault;
use self::world::World;
use crate::checker::{Violation, check};
use crate::load::Load;
use crate::record::What;

/// What a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many steps faults go on for.
    pub steps: u64,
    /// Whether the trace is kept line by line.
    pub trace: bool,
    /// The disk says of a commit that it is safe before it is, and all that was not is lost when all processes are
    /// killed at once: to see that this is noticed.
    pub lying_disk: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 10_000, trace: false, lying_disk: false }
    }
}

/// What a run showed.
#[derive(Debug)]
pub struct Outcome {
    /// Which it was.
    pub seed: u64,
    /// Deliveries, actions of clients and faults.
    pub steps: u64,
    /// Stands for all of them, in their order.
    pub hash: u64,
    /// How many faults there were.
    pub faults: u64,
    /// Virtual time.
    pub time: Duration,
    /// What the clients saw that must not be.
    pub violations: Vec<Violation>,
    /// What else was wrong, and at which step it was seen.
    pub failure: Option<String>,
    /// The trace, if it was wanted.
    pub lines: Vec<String>,
}

impl Outcome {
    /// Whether everything was as it must be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.violations.is_empty() && self.failure.is_none()
    }
}

/// When the clients begin, in microseconds.
const CLIENTS_BEGIN: u64 = 500_000;

/// When the first fault may come.
const FAULTS_BEGIN: u64 = 900_000;

/// Faults end by then, however few steps there were.
const LONGEST: u64 = 600_000_000;

/// How long what is owed may take at the end.
const WITHIN: Duration = Duration::from_secs(30);

/// How long servers may take that stop in order when nothing else is wrong any more.
const STOPPING: u64 = 60_000_000;

/// How long the clients may take in all at the end: they are to say themselves what is missing.
const LAST: u64 = 120_000_000;

/// Runs one seed in this thread.
#[must_use]
pub fn run(seed: u64, options: Options) -> Outcome {
    let panics = panics::watch();
    let mut world = World::new(seed, options);
    let mut faults = Faults::new(seed, FAULTS_BEGIN);
    let lived = catch_unwind(AssertUnwindSafe(|| live(options, &mut world, &mut faults)));
    // What panicked is said below.
    let failure = lived
        .unwrap_or(Ok(()))
        .err()
        .map(|Fault(what)| format!("at step {}: {what}", world.steps()));
    let events = world.recorder.events();
    let (now, net) = (world.now, world.net.clone());
    drop(world);
    let failure = panics.first().or(failure);
    let violations = check(&events).violations;
    let trace = std::mem::take(&mut net.lock().trace);
    Outcome {
        seed,
        steps: trace.steps(),
        hash: trace.hash(),
        faults: faults.count,
        time: Duration::from_micros(now),
        violations,
        failure,
        lines: trace.into_lines(),
    }
}

fn live(options: Options, world: &mut World, faults: &mut Faults) -> Result<(), Fault> {
    let Options { steps, .. } = options;
    let seed = world.seed;
    let command = format!("simulation --seed {seed} --steps {steps}");
    world.record(What::Run { seed, command });
    for server in 0..world.servers.len() {
        world.start(server);
    }
    while world.now < CLIENTS_BEGIN {
        world.turn(CLIENTS_BEGIN)?;
    }
    let load = {
        let _inside = world.clients.enter();
        Load::start(world.load_plan(), world.client_network(), world.recorder.clone())
    };
    while world.steps() < steps && world.now < LONGEST {
        world.turn(faults.next_due())?;
        bury(world, faults);
        faults.run(world);
    }
    faults.heal(world);
    let latest = world.now + STOPPING;
    while !faults.are_over() {
        if world.now > latest {
            return Err(Fault(format!("{} does not come to its end", faults.unfinished())));
        }
        world.turn(faults.next_due())?;
        bury(world, faults);
        faults.heal(world);
    }
    rest::look(world)?;
    finish(world, load)
}

/// Ends a server that was killed in the middle of a commit.
fn bury(world: &mut World, faults: &mut Faults) {
    if world.disk.has_killed() {
        let hub = world.hub();
        world.servers[hub].kill(Notice::Closed);
        faults.died(world, hub);
    }
}

/// Lets everything that is owed arrive, and looks at what is left.
fn finish(world: &mut World, load: Load) -> Result<(), Fault> {
    let finished = {
        let _inside = world.clients.enter();
        load.all_healed();
        tokio::spawn(async move {
            let witness = load.witness();
            let in_time = load.finish(WITHIN).await;
            if in_time { Vec::new() } else { witness.missing() }
        })
    };
    let latest = world.now + LAST;
    while !finished.is_finished() {
        if world.now > latest {
            return Err(Fault("the clients do not come to their end".to_owned()));
        }
        world.turn(u64::MAX)?;
    }
    world.check()?;
    match world.clients.result(finished) {
        Some(missing) if missing.is_empty() => Ok(()),
        Some(missing) => Err(Fault(format!("clients still wait: {}", missing.join("; ")))),
        None => Err(Fault("the clients panicked".to_owned())),
    }
}
