//! The wall clock of the store: read once, then carried on by the monotonic clock.
//!
//! Invariant: it never goes back, whatever happens to the system's clock, also not behind what the sessions remember of
//! an earlier life: which of two connections is the newer one is decided by it.

use std::time::{Duration, Instant};

use cluster_rpc::Machine;
use cluster_rpc::machine::now;
use partition::UnixMillis;

/// When it was read, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
    unix_millis: u64,
}

impl Clock {
    pub(super) fn start(machine: &dyn Machine) -> Self {
        Self { start: now(), unix_millis: millis(machine.unix_time()) }
    }

    /// The same clock, set forward if it says less than `known` at `now`.
    pub(super) fn not_before(self, known: UnixMillis, now: Instant) -> Self {
        let missing = known.0.saturating_sub(self.unix(now).0);
        Self { unix_millis: self.unix_millis.saturating_add(missing), ..self }
    }

    /// What the wall clock says at `now`.
    pub(super) fn unix(self, now: Instant) -> UnixMillis {
        let passed = millis(now.saturating_duration_since(self.start));
        UnixMillis(self.unix_millis.saturating_add(passed))
    }

    /// When the wall clock will say `at`; the start, if it is earlier. `None`: never.
    pub(super) fn instant(self, at: UnixMillis) -> Option<Instant> {
        let after = at.0.saturating_sub(self.unix_millis);
        self.start.checked_add(Duration::from_millis(after))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole seconds from `now` to `at`, rounded up: what is left is never cut to nothing.
pub(super) fn secs_left(now: UnixMillis, at: UnixMillis) -> u32 {
    let left = at.0.saturating_sub(now.0).div_ceil(1000);
    u32::try_from(left).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use cluster_rpc::machine::System;

    use super::*;

    #[test]
    fn both_clocks_are_carried_on_together() {
        let clock = Clock::start(&System);
        let later = clock.start + Duration::from_millis(1_500);
        assert_eq!(clock.unix(later).0, clock.unix_millis + 1_500);
        assert_eq!(clock.instant(clock.unix(later)), Some(later));
        assert_eq!(clock.instant(UnixMillis(0)), Some(clock.start));
    }

    #[test]
    fn a_clock_that_was_set_back_is_set_forward_again_and_no_other() {
        let clock = Clock::start(&System);
        let now = clock.start + Duration::from_millis(500);
        let (past, future) = (UnixMillis(clock.unix_millis), UnixMillis(clock.unix_millis + 9_000));
        assert_eq!(clock.not_before(past, now).unix(now), clock.unix(now));
        let later = now + Duration::from_millis(7);
        assert_eq!(clock.not_before(future, now).unix(later).0, future.0 + 7);
    }

    #[test]
    fn what_is_left_is_rounded_up() {
        let left = |now, at| secs_left(UnixMillis(now), UnixMillis(at));
        assert_eq!(left(1_000, 3_001), 3);
        assert_eq!(left(1_000, 3_000), 2);
        assert_eq!(left(3_000, 1_000), 0);
    }
}
