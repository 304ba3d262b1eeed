//! What a process takes from the machine it runs on beside sockets and disk: time and chance.
//!
//! Invariant: nothing in the cluster's crates asks the system for these in another way, so a process can be run
//! again with the same ones, and in virtual time.

use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock and chance of one process.
pub trait Machine: Debug + Send + Sync {
    /// What the wall clock says: time since 1970.
    fn unix_time(&self) -> Duration;

    /// A random number of no cryptographic worth.
    fn random(&self) -> u64;
}

/// The machine this runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Machine for System {
    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn random(&self) -> u64 {
        RandomState::new().hash_one(0_u8)
    }
}

/// The monotonic clock, as the timers of the current runtime have it: where they stand still, it does too.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
