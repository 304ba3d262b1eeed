//! Many seeds on all processors, and what is said about them.

use std::io::{self, Write as _};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Options, Outcome, run as run_seed};

/// Violations of one seed that are printed.
const SHOWN: usize = 3;

/// Which seeds are run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first.
    pub first_seed: u64,
    /// How many.
    pub seeds: u64,
    /// Of each.
    pub steps: u64,
    /// Whether everything that happens is printed.
    pub trace: bool,
    /// How many seeds are run at once; 0: as many as there are processors.
    pub threads: usize,
}

#[derive(Debug, Default)]
struct Totals {
    seeds: u64,
    steps: u64,
    faults: u64,
    time: Duration,
    wrong: Vec<u64>,
}

/// Runs them, prints what was found, and says whether all was as it must be.
#[must_use]
pub fn run(plan: Plan) -> bool {
    let started = Instant::now();
    let (next, totals) = (AtomicU64::new(0), Mutex::new(Totals::default()));
    let options = Options { steps: plan.steps, trace: plan.trace, ..Options::default() };
    let threads = match plan.threads {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    };
    let silent = AtomicBool::new(false);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= plan.seeds || silent.load(Ordering::Relaxed) {
                return;
            }
            let outcome = run_seed(plan.first_seed + number, options);
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.add(&outcome);
            if say(&describe(&outcome, plan)).is_err() {
                // Nobody reads it any more.
                silent.store(true, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    say(&totals.summary(started.elapsed())).is_ok() && totals.wrong.is_empty()
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.faults += outcome.faults;
        self.time += outcome.time;
        if !outcome.is_sound() {
            self.wrong.push(outcome.seed);
        }
    }

    fn summary(&self, elapsed: Duration) -> String {
        let Self { seeds, steps, faults, time, wrong } = self;
        let secs = elapsed.as_secs_f64();
        let mut text = format!(
            "{seeds} seeds, {steps} steps, {faults} faults, {:.1} h of virtual time in {secs:.1} s\n",
            time.as_secs_f64() / 3600.0,
        );
        text.push_str(&match wrong.as_slice() {
            [] => "no violation\n".to_owned(),
            wrong => format!("violations in {} seeds: {wrong:?}\n", wrong.len()),
        });
        text
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn describe(outcome: &Outcome, plan: Plan) -> String {
    let Outcome { seed, steps, hash, faults, time, .. } = outcome;
    let mut lines = outcome.lines.clone();
    if plan.seeds == 1 {
        let secs = time.as_secs_f64();
        lines.push(format!(
            "seed {seed}: {steps} steps, {faults} faults, {secs:.1} s of virtual time, trace {hash:016x}"
        ));
    }
    if !outcome.is_sound() {
        lines.push(format!("seed {seed}: WRONG (--seed {seed} --steps {})", plan.steps));
    }
    lines.extend(outcome.failure.iter().map(|failure| format!("seed {seed}: {failure}")));
    let shown = outcome.violations.iter().take(SHOWN);
    lines.extend(shown.map(|violation| format!("seed {seed}: {violation}")));
    if outcome.violations.len() > SHOWN {
        lines.push(format!("seed {seed}: and {} more", outcome.violations.len() - SHOWN));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}
