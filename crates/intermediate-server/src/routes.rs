//! Which endpoints a message goes to.
//!
//! Owns the rows of all endpoints, indexed by filter, and a cache of answers by topic. Invariant: an
//! answer is taken from the cache only if no change since could have altered it; a change to an exact
//! filter touches its own topic alone, a change to a wildcard filter the topics below its first level.
//! Does not know how an endpoint numbers its changes (`table`) or whether it lives (`membership`).

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use mqtt_codec::{QoS, TopicFilter, TopicName};
use smallvec::SmallVec;
use topic_index::TopicIndex;

/// The place of an endpoint in the relay's tables; given to another once its holder is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u32);

/// An endpoint a message goes to, and whether its acknowledgement is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) slot: Slot,
    pub(crate) holds: bool,
}

/// Topics longer than this are matched each time, so the cache's memory is bounded by its length.
const LONGEST_CACHED: usize = 256;
/// Above this many topics the cache starts anew.
const MOST_CACHED: usize = 65_536;
/// So it does when its answers name this many endpoints.
const MOST_CACHED_TARGETS: usize = 4 << 20;
/// First levels share this many generations.
const SHARDS: usize = 64;

/// All endpoints' rows.
#[derive(Debug)]
pub(crate) struct RouteIndex {
    index: TopicIndex<Slot, QoS>,
    wildcards: usize,
    cache: HashMap<Box<str>, Answer, RandomState>,
    /// Endpoints in all answers of the cache.
    cached_targets: usize,
    /// Changes to filters whose first level is a wildcard.
    everywhere: u64,
    /// Changes to other wildcard filters, by the hash of their first level.
    below: [u64; SHARDS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Answer {
    shard: u8,
    generation: u64,
    targets: SmallVec<[Target; 2]>,
}

impl RouteIndex {
    pub(crate) fn new() -> Self {
        Self {
            index: TopicIndex::new(),
            wildcards: 0,
            cache: HashMap::default(),
            cached_targets: 0,
            everywhere: 0,
            below: [0; SHARDS],
            hasher: RandomState::default(),
        }
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Sets a row of `slot`.
    pub(crate) fn insert(&mut self, filter: &TopicFilter, slot: Slot, qos: QoS) {
        let replaced = self.index.insert(filter, slot, qos);
        if replaced == Some(qos) {
            return;
        }
        if replaced.is_none() && filter.has_wildcards() {
            self.wildcards += 1;
        }
        self.changed(filter);
    }

    /// Takes out a row of `slot`.
    pub(crate) fn remove(&mut self, filter: &TopicFilter, slot: Slot) {
        if self.index.remove(filter, &slot).is_none() {
            return;
        }
        if filter.has_wildcards() {
            self.wildcards -= 1;
        }
        self.changed(filter);
    }

    /// Puts the endpoints that `topic` goes to into `targets`: each once, in no order.
    pub(crate) fn matches(&mut self, topic: &TopicName, targets: &mut Vec<Target>) {
        targets.clear();
        // Without wildcards the index is as quick as the cache.
        let cached = self.wildcards > 0 && topic.as_str().len() <= LONGEST_CACHED;
        if cached
            && let Some(answer) = self.cache.get(topic.as_str())
            && answer.generation == self.generation(answer.shard)
        {
            targets.extend_from_slice(&answer.targets);
            return;
        }
        self.look_up(topic, targets);
        if cached {
            self.remember(topic, targets);
        }
    }

    fn look_up(&self, topic: &TopicName, targets: &mut Vec<Target>) {
        self.index.matches(topic, |slot, &qos| {
            targets.push(Target { slot, holds: qos > QoS::AtMostOnce });
        });
        if targets.len() > 1 {
            targets.sort_unstable_by_key(|target| (target.slot, !target.holds));
            targets.dedup_by_key(|target| target.slot);
        }
    }

    fn remember(&mut self, topic: &TopicName, targets: &[Target]) {
        let targets_then = self.cached_targets + targets.len();
        if self.cache.len() >= MOST_CACHED || targets_then > MOST_CACHED_TARGETS {
            self.cache.clear();
            self.cached_targets = 0;
        }
        self.cached_targets += targets.len();
        let shard = self.shard(topic.as_str());
        let generation = self.generation(shard);
        let answer = Answer { shard, generation, targets: SmallVec::from_slice(targets) };
        if let Some(known) = self.cache.get_mut(topic.as_str()) {
            self.cached_targets -= known.targets.len();
            *known = answer;
        } else {
            self.cache.insert(topic.as_str().into(), answer);
        }
    }

    fn changed(&mut self, filter: &TopicFilter) {
        let text = filter.filter();
        if !filter.has_wildcards() {
            let outdated = self.cache.remove(text);
            self.cached_targets -= outdated.map_or(0, |answer| answer.targets.len());
        } else if text.starts_with(['+', '#']) {
            self.everywhere += 1;
        } else {
            let shard = self.shard(text);
            self.below[usize::from(shard)] += 1;
        }
    }

    /// Both parts only grow, so the sum changes whenever one of them does.
    fn generation(&self, shard: u8) -> u64 {
        self.everywhere + self.below[usize::from(shard)]
    }

    fn shard(&self, text: &str) -> u8 {
        let first = text.split('/').next().unwrap_or_default();
        (self.hasher.hash_one(first) % SHARDS as u64) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn targets(routes: &mut RouteIndex, topic: &str) -> Vec<(u32, bool)> {
        let mut found = Vec::new();
        routes.matches(&TopicName::new(topic).unwrap(), &mut found);
        found.iter().map(|target| (target.slot.0, target.holds)).collect()
    }

    #[test]
    fn an_endpoint_with_several_matching_rows_comes_once_and_holds_if_one_of_them_does() {
        let mut routes = RouteIndex::new();
        routes.insert(&filter("a/b"), Slot(1), QoS::AtMostOnce);
        routes.insert(&filter("a/+"), Slot(1), QoS::ExactlyOnce);
        routes.insert(&filter("#"), Slot(2), QoS::AtMostOnce);
        assert_eq!(targets(&mut routes, "a/b"), [(1, true), (2, false)]);
    }

    #[test]
    fn the_cache_is_bounded_by_the_endpoints_in_its_answers_too() {
        let mut routes = RouteIndex::new();
        for slot in 0..1_000 {
            routes.insert(&filter("#"), Slot(slot), QoS::AtMostOnce);
        }
        let mut most = 0;
        for topic in 0..4_300 {
            assert_eq!(targets(&mut routes, &format!("t/{topic}")).len(), 1_000);
            if topic % 100 == 0 {
                routes.insert(&filter(&format!("t/{topic}")), Slot(1), QoS::AtLeastOnce);
                assert_eq!(targets(&mut routes, &format!("t/{topic}")).len(), 1_000);
            }
            if topic % 100 == 99 {
                let answers = routes.cache.values();
                let cached: usize = answers.map(|answer| answer.targets.len()).sum();
                assert_eq!(cached, routes.cached_targets);
                most = most.max(cached);
            }
        }
        assert!((3_000_000..=MOST_CACHED_TARGETS).contains(&most), "{most}");
    }

    #[test]
    fn every_kind_of_change_is_seen_through_the_cache() {
        let mut routes = RouteIndex::new();
        routes.insert(&filter("other/#"), Slot(9), QoS::AtMostOnce);
        assert_eq!(targets(&mut routes, "a/b"), []);
        routes.insert(&filter("a/b"), Slot(1), QoS::AtLeastOnce);
        assert_eq!(targets(&mut routes, "a/b"), [(1, true)]);
        routes.insert(&filter("a/#"), Slot(2), QoS::AtMostOnce);
        assert_eq!(targets(&mut routes, "a/b"), [(1, true), (2, false)]);
        routes.insert(&filter("+/b"), Slot(3), QoS::AtMostOnce);
        assert_eq!(targets(&mut routes, "a/b"), [(1, true), (2, false), (3, false)]);
        routes.insert(&filter("+/b"), Slot(3), QoS::AtLeastOnce);
        assert_eq!(targets(&mut routes, "a/b"), [(1, true), (2, false), (3, true)]);
        routes.remove(&filter("a/#"), Slot(2));
        routes.remove(&filter("a/b"), Slot(1));
        routes.remove(&filter("+/b"), Slot(3));
        assert_eq!(targets(&mut routes, "a/b"), []);
    }
}
