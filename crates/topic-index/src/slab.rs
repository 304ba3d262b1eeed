//! Values under small numbers that stay the same until the value is removed.
//!
//! Invariant: a number is reused only after its value was removed. Space is reused but not given
//! back. Does not detect a number that is kept past its removal and was given out again.

use std::ops::{Index, IndexMut};

/// The values, and the chain of free places.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Option<u32>,
    len: usize,
}

#[derive(Debug)]
enum Place<T> {
    Full(T),
    Free { next: Option<u32> },
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: None, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(id) = self.free {
            let place = std::mem::replace(&mut self.places[id as usize], Place::Full(value));
            self.free = match place {
                Place::Free { next } => next,
                Place::Full(_) => unreachable!("the chain holds free places only"),
            };
            return id;
        }
        let id = u32::try_from(self.places.len()).expect("2^32 values do not fit in memory");
        self.places.push(Place::Full(value));
        id
    }

    /// Takes out the value at `id`, which must be there.
    pub(crate) fn remove(&mut self, id: u32) -> T {
        let free = Place::Free { next: self.free };
        let place = std::mem::replace(&mut self.places[id as usize], free);
        self.free = Some(id);
        self.len -= 1;
        match place {
            Place::Full(value) => value,
            Place::Free { .. } => unreachable!("a number is dropped with its value"),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| match place {
            Place::Full(value) => Some(value),
            Place::Free { .. } => None,
        })
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        match &self.places[id as usize] {
            Place::Full(value) => value,
            Place::Free { .. } => unreachable!("a number is dropped with its value"),
        }
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        match &mut self.places[id as usize] {
            Place::Full(value) => value,
            Place::Free { .. } => unreachable!("a number is dropped with its value"),
        }
    }
}
