//! A simulated process: tasks with a clock of their own, which stands still unless the world lets it run.
//!
//! Invariant: what it does depends on nothing but what it was given. Dropping it ends everything in it at once.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster_rpc::Machine;
use tokio::runtime::{Builder, EnterGuard, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep_until};

use crate::random::Random;

/// 2026-01-01, when every simulated run begins.
const BEGIN: Duration = Duration::from_secs(1_767_225_600);

#[derive(Debug)]
pub(super) struct Process {
    runtime: Runtime,
    origin: Instant,
    /// When it began, by the clock of the world, in microseconds.
    began: u64,
}

impl Process {
    pub(super) fn new(now: u64) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("it takes nothing from the system");
        let origin = {
            let _inside = runtime.enter();
            Instant::now()
        };
        Self { runtime, origin, began: now }
    }

    /// Lets what is started come to it.
    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Lets it run until the world's `now`.
    pub(super) fn run_until(&self, now: u64) {
        let at = self.instant(now);
        self.runtime.block_on(async { sleep_until(at).await });
    }

    /// Lets it find that it was not run until the world's `now`.
    pub(super) fn wake_at(&self, now: u64) {
        let at = self.instant(now);
        self.runtime.block_on(async {
            advance(at.saturating_duration_since(Instant::now())).await;
        });
    }

    /// What a task has given that has ended; `None` if it panicked.
    pub(super) fn result<T>(&self, task: JoinHandle<T>) -> Option<T> {
        self.runtime.block_on(task).ok()
    }

    fn instant(&self, now: u64) -> Instant {
        self.origin + Duration::from_micros(now.saturating_sub(self.began))
    }

    /// The wall clock of this process, which is `ahead` of the right time by so many milliseconds.
    pub(super) fn clock(&self, seed: u64, ahead: Arc<AtomicI64>) -> Clock {
        let begin = BEGIN + Duration::from_micros(self.began);
        Clock { begin, ahead, origin: self.origin, random: Mutex::new(Random::new(seed)) }
    }
}

/// Wall clock and chance of a simulated process.
#[derive(Debug)]
pub(super) struct Clock {
    begin: Duration,
    ahead: Arc<AtomicI64>,
    origin: Instant,
    random: Mutex<Random>,
}

impl Machine for Clock {
    fn unix_time(&self) -> Duration {
        let right = self.begin + Instant::now().saturating_duration_since(self.origin);
        let ahead = self.ahead.load(Ordering::Relaxed);
        let wrong = Duration::from_millis(ahead.unsigned_abs());
        if ahead < 0 { right.saturating_sub(wrong) } else { right + wrong }
    }

    fn random(&self) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}
