//! Simulated clusters: a few dozen seeds, and that a run can be had again and notices what is wrong.
//!
//! Many more seeds are run by `cargo run --release -p testkit --bin simulation`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use testkit::simulation::{Options, Outcome, run};

/// Few enough for a run without optimization.
const STEPS: u64 = 1_000;

/// In some of these all processes are killed at once after something was written.
const LYING: [u64; 6] = [1, 2, 8, 15, 22, 23];

/// The outcomes of seeds, run on as many threads as there are processors.
fn outcomes(seeds: &[u64], options: Options) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return outcomes;
            };
            outcomes.push(run(seed, options));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let tasks: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        tasks.into_iter().flat_map(|task| task.join().expect("a panic is an outcome")).collect()
    })
}

#[test]
fn whatever_fails_in_a_few_dozen_simulated_clusters_breaks_no_promise() {
    let seeds: Vec<_> = (1..=24).collect();
    for outcome in outcomes(&seeds, Options { steps: STEPS, ..Options::default() }) {
        let Outcome { seed, violations, failure, .. } = &outcome;
        let told: Vec<_> = violations.iter().map(ToString::to_string).collect();
        let command = format!("simulation --seed {seed} --steps {STEPS}");
        assert!(outcome.is_sound(), "{command}: {failure:?}\n{}", told.join("\n"));
        assert!(outcome.steps >= STEPS, "{command}");
    }
}

#[test]
fn a_seed_is_the_same_run_again() {
    let options = Options { steps: STEPS, ..Options::default() };
    let [first, again, other] = [3, 3, 4].map(|seed| run(seed, options));
    assert!(first.faults > 0);
    assert_eq!((first.steps, first.hash), (again.steps, again.hash));
    assert_ne!(first.hash, other.hash);
}

#[test]
fn a_disk_that_loses_what_it_said_was_safe_is_noticed() {
    let options = Options { steps: 3 * STEPS / 2, lying_disk: true, ..Options::default() };
    let outcomes = outcomes(&LYING, options);
    assert!(outcomes.iter().any(|outcome| !outcome.is_sound()));
}
