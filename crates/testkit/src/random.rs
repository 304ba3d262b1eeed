//! Numbers that look random and come from a seed: the same ones in every run.
//!
//! SplitMix64. Not for secrets.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream that belongs to `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for a part of the run, so that what other parts draw does not matter to it.
    #[must_use]
    pub fn part(seed: u64, part: &str) -> Self {
        let mut state = Self(seed);
        for byte in part.bytes() {
            state = Self(state.next() ^ u64::from(byte));
        }
        Self(state.next())
    }

    /// The next number, of all there are.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to `most`, both included. With `most` below `least` it is `least`.
    pub const fn between(&mut self, least: u64, most: u64) -> u64 {
        let span = most.saturating_sub(least).wrapping_add(1);
        if span == 0 { self.next() } else { least + self.next() % span }
    }

    /// An index into something of `length`, which is not empty.
    ///
    /// # Panics
    /// When it is.
    pub fn index(&mut self, length: usize) -> usize {
        let last = u64::try_from(length).expect("a length fits").checked_sub(1);
        usize::try_from(self.between(0, last.expect("it is not empty"))).expect("below a length")
    }

    /// True `percent` times of a hundred.
    pub const fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_each_part_its_own() {
        let draw = |mut random: Random| [(); 8].map(|()| random.next());
        assert_eq!(draw(Random::new(7)), draw(Random::new(7)));
        assert_ne!(draw(Random::new(7)), draw(Random::new(8)));
        assert_eq!(draw(Random::part(7, "faults")), draw(Random::part(7, "faults")));
        assert_ne!(draw(Random::part(7, "faults")), draw(Random::part(7, "links")));
    }

    #[test]
    fn numbers_stay_within_their_bounds_and_reach_them() {
        let mut random = Random::new(1);
        let drawn: Vec<_> = (0..1000).map(|_| random.between(3, 7)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&7)));
        assert!((0..1000).all(|_| random.index(2) < 2));
        assert!((0..100).all(|_| random.chance(100) && !random.chance(0)));
        assert_eq!(random.between(5, 4), 5);
    }
}
