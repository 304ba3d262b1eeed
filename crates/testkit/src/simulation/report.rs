//! Many seeds on all processors, and what is said about them.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use super::{Options, Outcome, run as run_seed};

/// Violations of one seed that are printed.
const SHOWN: usize = 3;

/// A seed that takes longer than this, and a millisecond for each step, goes round in a circle.
const LONGEST: Duration = Duration::from_secs(60);

/// How often it is looked for such a one.
const LOOK: Duration = Duration::from_secs(1);

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

/// What a thread that runs seeds says.
enum News {
    Begun(u64),
    Ended(Box<Outcome>),
}

/// Runs them, prints what was found, and says whether all was as it must be. The first that stands still ends it: how
/// long a seed may take is the one thing that is measured by a real clock.
#[must_use]
pub fn run(plan: Plan) -> bool {
    let started = Instant::now();
    let threads = match plan.threads {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    };
    let (sender, news) = mpsc::sync_channel(2 * threads);
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..threads {
        let (next, sender) = (Arc::clone(&next), sender.clone());
        thread::spawn(move || work(plan, &next, &sender));
    }
    drop(sender);
    let longest = LONGEST + Duration::from_millis(plan.steps);
    let (mut totals, mut running) = (Totals::default(), BTreeMap::new());
    loop {
        match news.recv_timeout(LOOK) {
            Ok(News::Begun(seed)) => {
                running.insert(seed, Instant::now());
            }
            Ok(News::Ended(outcome)) => {
                running.remove(&outcome.seed);
                totals.add(&outcome);
                if say(&describe(&outcome, plan)).is_err() {
                    // Nobody reads it any more.
                    return false;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some((&seed, _)) = running.iter().find(|(_, begun)| begun.elapsed() > longest) {
            let secs = longest.as_secs();
            let text = format!("seed {seed}: violation of progress: not at its end in {secs} s\n");
            if say(&text).is_err() {
                return false;
            }
            totals.wrong.push(seed);
            break;
        }
    }
    say(&totals.summary(started.elapsed())).is_ok() && totals.wrong.is_empty()
}

fn work(plan: Plan, next: &AtomicU64, news: &SyncSender<News>) {
    let options = Options { steps: plan.steps, trace: plan.trace, ..Options::default() };
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let seed = plan.first_seed + number;
        if number >= plan.seeds || news.send(News::Begun(seed)).is_err() {
            return;
        }
        if news.send(News::Ended(Box::new(run_seed(seed, options)))).is_err() {
            return;
        }
    }
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
