//! What a client confirms between two wake-ups of its task, and what of it the store may not have heard.

use std::collections::VecDeque;

use cluster_rpc::frame::{GroupPlace, QueuePlace};
use mqtt_codec::PacketId;
use mqtt_session::Confirmation;

/// What a client has confirmed since the store was told last.
#[derive(Debug, Default)]
pub(crate) struct Confirmations {
    /// Done with: PUBACK, PUBCOMP, a refusing PUBREC; or never sent, because it cannot be.
    pub settled: Vec<QueuePlace>,
    /// PUBREC.
    pub received: Vec<QueuePlace>,
    /// Done with, of groups.
    pub group: Vec<GroupPlace>,
    /// QoS 2 messages from the client that were published.
    pub taken: Vec<PacketId>,
}

impl Confirmations {
    /// Adds one.
    pub(crate) fn push(&mut self, confirmation: Confirmation) {
        match confirmation {
            Confirmation::Settled { place } => self.settled.push(QueuePlace(place)),
            Confirmation::Received { place } => self.received.push(QueuePlace(place)),
            Confirmation::Group { group, place } => self.group.push(GroupPlace { group, place }),
            Confirmation::Taken { packet_id } => self.taken.push(packet_id),
        }
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        let own = self.settled.is_empty() && self.received.is_empty();
        own && self.group.is_empty() && self.taken.is_empty()
    }
}

/// The last places that were told to the store, as many as it can have missed.
///
/// It never has more than `capacity` unconfirmed messages with the client, and hears confirmations in order; so what it
/// has not heard is among the last so many.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Runs of places in the order they were told, first and last place.
    runs: VecDeque<(u64, u64)>,
    places: usize,
    capacity: usize,
}

impl Recent {
    /// Nothing told.
    #[must_use]
    pub(crate) fn new(capacity: usize) -> Self {
        Self { runs: VecDeque::new(), places: 0, capacity }
    }

    /// The store can have missed so many.
    pub(crate) fn widen(&mut self, capacity: usize) {
        self.capacity = self.capacity.max(capacity);
    }

    /// `place` is told.
    pub(crate) fn push(&mut self, QueuePlace(place): QueuePlace) {
        match self.runs.back_mut() {
            Some((_, last)) if last.checked_add(1) == Some(place) => *last = place,
            _ => self.runs.push_back((place, place)),
        }
        self.places += 1;
        while self.places > self.capacity
            && let Some((first, last)) = self.runs.front_mut()
        {
            self.places -= 1;
            if first == last {
                self.runs.pop_front();
            } else {
                *first += 1;
            }
        }
    }

    /// Most places.
    #[must_use]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// What to tell again.
    pub(crate) fn places(&self) -> impl Iterator<Item = QueuePlace> {
        self.runs.iter().flat_map(|&(first, last)| (first..=last).map(QueuePlace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_are_remembered_in_the_order_they_were_told() {
        let mut recent = Recent::new(4);
        for place in [7, 1, 2, 3, 9, 4] {
            recent.push(QueuePlace(place));
        }
        let places: Vec<u64> = recent.places().map(|place| place.0).collect();
        assert_eq!(places, [2, 3, 9, 4]);
    }

    #[test]
    fn a_long_run_of_places_takes_the_memory_of_one() {
        let mut recent = Recent::new(1000);
        (1..=100_000).for_each(|place| recent.push(QueuePlace(place)));
        assert_eq!(recent.runs.len(), 1);
        assert_eq!(recent.places().count(), 1000);
        assert_eq!(recent.places().last(), Some(QueuePlace(100_000)));
    }
}
