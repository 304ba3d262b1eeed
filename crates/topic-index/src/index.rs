//! Topic filters to subscribers.
//!
//! Owns the pairs (filter, subscriber) and their values. Exact filters lie in a hash map, those with
//! wildcards in a level trie. Invariant: a filter is stored while it has a subscriber, and no longer.
//! Does not look at share names: the caller chooses keys so that a group is a key of its own.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::quality::RandomState;
use mqtt_codec::{TopicFilter, TopicName};

use crate::subscribers::Subscribers;
use crate::trie::Trie;

/// Subscriptions: filter and subscriber `K` to the subscription's value `V`.
///
/// A filter's [`filter`](TopicFilter::filter) part alone counts, without `$share/{name}/`.
#[derive(Debug)]
pub struct TopicIndex<K, V> {
    /// Clients choose the texts, so the map has its own seed, as the trie has.
    exact: HashMap<Box<str>, Subscribers<K, V>, RandomState>,
    wildcards: Trie<Subscribers<K, V>>,
    len: usize,
}

impl<K, V> Default for TopicIndex<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> TopicIndex<K, V> {
    /// An index without subscriptions.
    #[must_use]
    pub fn new() -> Self {
        Self { exact: HashMap::default(), wildcards: Trie::new(), len: 0 }
    }

    /// The number of subscriptions, that is of (filter, subscriber) pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no subscription.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of distinct filters.
    #[must_use]
    pub fn filters(&self) -> usize {
        self.exact.len() + self.wildcards.len()
    }
}

impl<K: Copy + Eq + Hash, V> TopicIndex<K, V> {
    /// Subscribes `key` to `filter` and returns the value that this replaces `[MQTT-3.8.4-3]`.
    pub fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        let text = filter.filter();
        let replaced = if filter.has_wildcards() {
            self.wildcards.entry(text).insert(key, value)
        } else if let Some(subscribers) = self.exact.get_mut(text) {
            subscribers.insert(key, value)
        } else {
            self.exact.entry(text.into()).or_default().insert(key, value)
        };
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Ends the subscription of `key` to exactly this filter `[MQTT-3.10.4-1]`.
    pub fn remove(&mut self, filter: &TopicFilter, key: &K) -> Option<V> {
        let text = filter.filter();
        let subscribers = if filter.has_wildcards() {
            self.wildcards.find_mut(text)?
        } else {
            self.exact.get_mut(text)?
        };
        let removed = subscribers.remove(key)?;
        if subscribers.as_slice().is_empty() {
            if filter.has_wildcards() {
                self.wildcards.remove(text);
            } else {
                self.exact.remove(text);
            }
        }
        self.len -= 1;
        Some(removed)
    }

    /// Gives every subscription whose filter matches `topic`: a subscriber comes once per filter.
    ///
    /// The cost follows the filters that share levels with the topic, not the size of the index.
    pub fn matches<'a>(&'a self, topic: &TopicName, mut visit: impl FnMut(K, &'a V)) {
        let mut visit_all = |subscribers: &'a Subscribers<K, V>| {
            for (key, value) in subscribers.as_slice() {
                visit(*key, value);
            }
        };
        if let Some(subscribers) = self.exact.get(topic.as_str()) {
            visit_all(subscribers);
        }
        if self.wildcards.len() > 0 {
            self.wildcards.matches(topic.as_str(), visit_all);
        }
    }

    /// The subscriptions to exactly this filter.
    pub fn lookup(&self, filter: &TopicFilter) -> impl Iterator<Item = (K, &V)> {
        let subscribers = if filter.has_wildcards() {
            self.wildcards.find(filter.filter())
        } else {
            self.exact.get(filter.filter())
        };
        let pairs = subscribers.map(Subscribers::as_slice).unwrap_or_default();
        pairs.iter().map(|(key, value)| (*key, value))
    }

    /// Every subscription with the text of its filter, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, K, &V)> {
        let exact = self.exact.iter().map(|(text, subscribers)| (&**text, subscribers));
        exact.chain(self.wildcards.iter()).flat_map(|(text, subscribers)| {
            subscribers.as_slice().iter().map(move |(key, value)| (text, *key, value))
        })
    }
}

#[cfg(test)]
mod tests;
