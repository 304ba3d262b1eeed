//! Messages that may come to this proxy by several ways and are delivered once: their keys, and the new ones it makes.
//!
//! Only QoS 2 messages of persistent sessions, and wills, carry a key. Keys are remembered for a while, and as many
//! as [`MOST`]; the store remembers them for longer for the sessions that it keeps.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Most keys that are remembered: those of 20 s at least with 20,000 messages per second. Each generation just fills
/// a table of 2^19 places, so that they take 18 MiB at most.
const MOST: usize = 7 << 17;

/// How long a key is remembered at least, unless there are too many.
const MEMORY: Duration = Duration::from_secs(600);

/// Keys of two generations: the younger is filled, then the older forgotten.
#[derive(Debug, Default)]
pub(crate) struct OnceKeys {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<u128, foldhash::fast::RandomState>,
    old: HashSet<u128, foldhash::fast::RandomState>,
    since: Option<Instant>,
}

impl OnceKeys {
    /// Whether a message with this key has not been here before. From now on it has.
    pub(crate) fn is_first(&self, key: u128, now: Instant) -> bool {
        let mut generations = self.generations.lock();
        let since = *generations.since.get_or_insert(now);
        if generations.young.len() >= MOST / 2 || now >= since + MEMORY {
            generations.old = std::mem::take(&mut generations.young);
            generations.since = Some(now);
        }
        !generations.old.contains(&key) && generations.young.insert(key)
    }
}

/// Keys that nobody else makes, in this process or another.
#[derive(Debug)]
pub(crate) struct NewKeys {
    life: u64,
    next: AtomicU64,
}

impl NewKeys {
    /// Keys of the process whose random number is `life`.
    #[must_use]
    pub(crate) fn new(life: u64) -> Self {
        Self { life, next: AtomicU64::new(0) }
    }

    /// The next one.
    pub(crate) fn next(&self) -> u128 {
        u128::from(self.life) << 64 | u128::from(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_first_once_while_it_is_remembered() {
        let (keys, now) = (OnceKeys::default(), Instant::now());
        assert!(keys.is_first(1, now));
        assert!(!keys.is_first(1, now + MEMORY));
        assert!(keys.is_first(2, now + MEMORY));
        assert!(keys.is_first(1, now + 2 * MEMORY));
    }

    #[test]
    fn however_many_keys_come_the_memory_is_bounded() {
        let (keys, now) = (OnceKeys::default(), Instant::now());
        for key in 0..3 * MOST as u128 / 2 {
            assert!(keys.is_first(key, now));
        }
        assert!(!keys.is_first(3 * MOST as u128 / 2 - 400_000, now));
        let generations = keys.generations.lock();
        assert!(generations.young.len() + generations.old.len() <= MOST);
    }
}
