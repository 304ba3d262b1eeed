//! How long a worker lets arrivals gather before it reads them. A broker that writes one message
//! at a time would otherwise cost its load as many wake-ups and reads as itself, and the two share
//! a machine.

use std::time::Duration;

/// Packets per readable socket that make a read worth its cost.
const ENOUGH: u64 = 16;
/// The first step away from no waiting.
const STEP: Duration = Duration::from_micros(50);

/// Longest nap per message that may be on its way: with few of them, a broker would soon have
/// nothing left to do.
const PER_MESSAGE: Duration = Duration::from_micros(50);

/// The length of the next nap: it grows while reads bring few packets, and shrinks when they bring
/// enough.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    most: Duration,
    /// Packets per readable socket to aim at.
    enough: u64,
    nap: Duration,
}

impl Gather {
    /// Naps of at most `most`, with up to `on_the_way` messages per connection on their way: when
    /// these are few, waiting would only slow them down.
    pub(super) fn new(most: Duration, on_the_way: u64) -> Self {
        let bearable = PER_MESSAGE.saturating_mul(u32::try_from(on_the_way).unwrap_or(u32::MAX));
        Self { most: most.min(bearable), enough: ENOUGH.min(on_the_way / 4), nap: Duration::ZERO }
    }

    /// How long to wait after a round that brought `packets` on `sockets` sockets.
    pub(super) fn nap(&mut self, packets: usize, sockets: usize) -> Duration {
        if packets == 0 || sockets == 0 {
            return Duration::ZERO;
        }
        let few = (packets as u64) < self.enough * sockets as u64;
        self.nap = if few { (self.nap * 2).max(STEP) } else { self.nap / 2 };
        self.nap = self.nap.min(self.most);
        self.nap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_grow_while_reads_bring_little_and_shrink_again() {
        let most = Duration::from_micros(150);
        let mut gather = Gather::new(most, 1_000);
        let naps: Vec<u128> =
            [1, 1, 1, 100, 100].map(|packets| gather.nap(packets, 2).as_micros()).to_vec();
        assert_eq!(naps, [50, 100, 150, 75, 37]);
    }

    #[test]
    fn nobody_waits_for_messages_that_cannot_come() {
        let mut few = Gather::new(Duration::from_secs(1), 10);
        let longest = (0..20).map(|_| few.nap(1, 1)).max();
        assert_eq!(longest, Some(PER_MESSAGE * 10));
        let mut gather = Gather::new(Duration::from_millis(1), 1);
        assert_eq!(gather.nap(1, 1), Duration::ZERO);
        assert_eq!(Gather::new(Duration::from_millis(1), 1_000).nap(0, 0), Duration::ZERO);
    }
}
