//! What all threads of a run see: the clock, the stage, and the counters that the progress bar and
//! the end of the run depend on. The driver writes the stage, each worker its own counters.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What the workers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// Receive, send nothing new.
    Rest,
    /// Send and receive.
    Run,
    /// End the thread.
    Stop,
}

/// Counters of one worker.
#[derive(Debug, Default)]
#[repr(align(128))] // one pair of cache lines each, as each is written by another thread
pub(super) struct Counters {
    /// Messages published.
    pub(super) sent: AtomicU64,
    /// QoS 1 and 2 publishes completed.
    pub(super) acknowledged: AtomicU64,
    /// Messages received, repetitions left out.
    pub(super) received: AtomicU64,
}

/// The sum of all workers' counters at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    pub(super) received: u64,
}

/// The shared state of a run.
#[derive(Debug)]
pub(super) struct Board {
    started: Instant,
    stage: AtomicU8,
    /// Goes up with each run, so that publishers begin their budget and schedule anew.
    run: AtomicU64,
    run_from_ns: AtomicU64,
    /// Messages each publisher may send in this run.
    budget: AtomicU64,
    measure_from_ns: AtomicU64,
    measure_to_ns: AtomicU64,
    /// Goes up when nothing has arrived for long; publishers then forgive what is on the way.
    stalls: AtomicU64,
    workers: Vec<Counters>,
}

impl Board {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            started: Instant::now(),
            stage: AtomicU8::new(Stage::Rest as u8),
            run: AtomicU64::new(0),
            run_from_ns: AtomicU64::new(0),
            budget: AtomicU64::new(0),
            measure_from_ns: AtomicU64::new(u64::MAX),
            measure_to_ns: AtomicU64::new(u64::MAX),
            stalls: AtomicU64::new(0),
            workers: (0..workers).map(|_| Counters::default()).collect(),
        }
    }

    /// Nanoseconds since the clock of this run started.
    pub(super) fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Rest,
            1 => Stage::Run,
            _ => Stage::Stop,
        }
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    /// Lets every publisher send up to `budget` messages, on a schedule that starts now.
    pub(super) fn start_run(&self, budget: u64) {
        self.run_from_ns.store(self.now_ns(), Ordering::Relaxed);
        self.budget.store(budget, Ordering::Relaxed);
        self.run.fetch_add(1, Ordering::Release);
        self.set_stage(Stage::Run);
    }

    /// Number of the run.
    pub(super) fn run(&self) -> u64 {
        self.run.load(Ordering::Acquire)
    }

    /// When the run started.
    pub(super) fn run_from_ns(&self) -> u64 {
        self.run_from_ns.load(Ordering::Relaxed)
    }

    /// Messages each publisher may send in this run.
    pub(super) fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    /// From now on, latencies count.
    pub(super) fn start_measuring(&self) {
        self.measure_from_ns.store(self.now_ns(), Ordering::Relaxed);
    }

    /// Latencies of messages sent from now on no longer count.
    pub(super) fn stop_measuring(&self) {
        self.measure_to_ns.store(self.now_ns(), Ordering::Relaxed);
    }

    /// Start and end of the send times whose latencies count.
    pub(super) fn measured(&self) -> (u64, u64) {
        let from = self.measure_from_ns.load(Ordering::Relaxed);
        (from, self.measure_to_ns.load(Ordering::Relaxed))
    }

    /// Notes that nothing arrives any more.
    pub(super) fn note_stall(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }

    /// How often nothing arrived any more.
    pub(super) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    /// The counters of a worker.
    pub(super) fn counters(&self, worker: usize) -> &Counters {
        self.workers.get(worker).expect("made for all workers")
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in &self.workers {
            totals.sent += worker.sent.load(Ordering::Acquire);
            totals.acknowledged += worker.acknowledged.load(Ordering::Acquire);
            totals.received += worker.received.load(Ordering::Acquire);
        }
        totals
    }
}

/// Keeps this thread idle until `deadline`.
pub(super) fn idle_until(deadline: Instant) {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// Keeps this thread idle for `span`.
pub(super) fn idle_for(span: Duration) {
    idle_until(Instant::now() + span);
}
