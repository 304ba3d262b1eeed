//! The subscribers of one filter.
//!
//! Invariant: the pairs lie densely in one slice, a key stands in it once, and above [`FEW`] pairs
//! `positions` names the place of every key, so a change never costs the number of subscribers.
//! Does not keep an order.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::quality::RandomState;
use smallvec::SmallVec;

/// Up to here a scan of the slice is as fast as a hash map and takes no memory.
const FEW: usize = 16;

/// A filter's pairs. Most filters have one subscriber, whose pair lies inline.
#[derive(Debug)]
pub(crate) struct Subscribers<K, V> {
    pairs: SmallVec<[(K, V); 1]>,
    #[expect(clippy::box_collection, reason = "a map is five words, and few filters have one")]
    positions: Option<Box<HashMap<K, usize, RandomState>>>,
}

impl<K, V> Default for Subscribers<K, V> {
    fn default() -> Self {
        Self { pairs: SmallVec::new(), positions: None }
    }
}

impl<K, V> Subscribers<K, V> {
    pub(crate) fn as_slice(&self) -> &[(K, V)] {
        &self.pairs
    }
}

impl<K: Copy + Eq + Hash, V> Subscribers<K, V> {
    fn position(&self, key: &K) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(key).copied(),
            None => self.pairs.iter().position(|(other, _)| other == key),
        }
    }

    /// Sets the value of `key` and returns the one it had.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(at) = self.position(&key) {
            return Some(std::mem::replace(&mut self.pairs[at].1, value));
        }
        self.pairs.push((key, value));
        if let Some(positions) = &mut self.positions {
            positions.insert(key, self.pairs.len() - 1);
        } else if self.pairs.len() > FEW {
            let places = self.pairs.iter().enumerate().map(|(at, (key, _))| (*key, at));
            self.positions = Some(Box::new(places.collect()));
        }
        None
    }

    /// Takes out `key`; the last pair moves to its place.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.position(key)?;
        let (_, value) = self.pairs.swap_remove(at);
        if let Some(positions) = &mut self.positions {
            positions.remove(key);
            if let Some((moved, _)) = self.pairs.get(at) {
                positions.insert(*moved, at);
            }
        }
        self.give_back();
        Some(value)
    }

    /// Returns memory when three quarters are unused, so that shrinking costs O(1) per removal.
    fn give_back(&mut self) {
        if self.pairs.len() <= FEW / 2 {
            self.positions = None;
        }
        if !self.pairs.spilled() || self.pairs.len() > self.pairs.capacity() / 4 {
            return;
        }
        let wanted = self.pairs.len() * 2;
        let mut smaller = SmallVec::with_capacity(wanted);
        smaller.extend(self.pairs.drain(..));
        self.pairs = smaller;
        if let Some(positions) = &mut self.positions {
            positions.shrink_to(wanted);
        }
    }
}
