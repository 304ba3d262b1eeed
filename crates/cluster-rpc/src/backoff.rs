//! How long to wait before the next attempt to connect.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// Exponential back-off with full jitter, so that many proxies do not come back in step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next attempt; `random` is any number.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let limit = FIRST.saturating_mul(factor).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(random % (micros + 1))
    }

    /// The connection stood: begin with short pauses again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Machine as _, System};

    #[test]
    fn pauses_grow_to_a_second_and_begin_anew() {
        let mut backoff = Backoff::default();
        for longest in [50_000, 100_000, 200_000, 400_000, 800_000, 1_000_000, 1_000_000] {
            let mut same = backoff;
            assert_eq!(same.next(longest + 1), Duration::ZERO, "full jitter");
            assert_eq!(backoff.next(longest), Duration::from_micros(longest));
        }
        for _ in 0..100 {
            assert!(backoff.next(System.random()) <= LONGEST);
        }
        backoff.reset();
        assert!(backoff.next(u64::MAX) <= FIRST);
    }
}
