//! The last retained message of each topic, as far as this proxy has heard of it.
//!
//! Filled by its own clients and, through the intermediates, by those of other connected proxies. A read
//! goes page by page, so that neither a lock nor memory is held for a large match.

use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{Message, TopicFilter, TopicName};
use parking_lot::Mutex;
use topic_index::TopicTree;

/// How much may be retained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedLimits {
    /// Most topics.
    pub messages: usize,
    /// Most bytes of topics, payloads and properties.
    pub bytes: usize,
}

/// A retained message and when it expires.
#[derive(Clone, Debug)]
pub(crate) struct Retained {
    /// The message, with its RETAIN flag set.
    pub message: Arc<Message>,
    /// When it must no longer be sent.
    pub expires_at: Option<Instant>,
}

/// A part of what matches a filter.
#[derive(Debug)]
pub(crate) struct Page {
    /// The messages.
    pub retained: Vec<Retained>,
    /// Where the next page starts; `None` when this was the last.
    pub next: Option<TopicName>,
}

/// The store is full; the message was not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another retained message")]
pub(crate) struct RetainedFull;

/// All retained messages of one proxy.
#[derive(Debug)]
pub(crate) struct RetainedStore {
    limits: RetainedLimits,
    tree: Mutex<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    topics: TopicTree<Retained>,
    bytes: usize,
}

fn weight(message: &Message) -> usize {
    const ROW: usize = 256;
    ROW + message.topic.as_str().len() + message.payload.len() + message.properties.as_bytes().len()
}

impl RetainedStore {
    /// An empty store.
    #[must_use]
    pub(crate) fn new(limits: RetainedLimits) -> Self {
        Self { limits, tree: Mutex::default() }
    }

    /// Keeps `message` for its topic `[MQTT-3.3.1-5]`, or forgets the topic when the payload is
    /// empty `[MQTT-3.3.1-6]` `[MQTT-3.3.1-7]`.
    pub(crate) fn retain(
        &self,
        message: &Message,
        expires_at: Option<Instant>,
    ) -> Result<(), RetainedFull> {
        let mut tree = self.tree.lock();
        if message.payload.is_empty() {
            tree.remove(&message.topic);
            return Ok(());
        }
        let old = tree.topics.lookup(&message.topic).map_or(0, |old| weight(&old.message));
        let new = weight(message);
        let full = tree.bytes - old + new > self.limits.bytes
            || (old == 0 && tree.topics.len() >= self.limits.messages);
        if full {
            // The value before is no longer the last one.
            tree.remove(&message.topic);
            return Err(RetainedFull);
        }
        tree.bytes = tree.bytes - old + new;
        let message = Arc::new(message.detached());
        tree.topics.insert(&message.topic, Retained { message: Arc::clone(&message), expires_at });
        Ok(())
    }

    /// The next messages that match `filter`, after the place `after` where the page before ended.
    /// Expired ones are forgotten on the way.
    pub(crate) fn page(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        now: Instant,
    ) -> Page {
        let mut tree = self.tree.lock();
        let mut page = tree.topics.matches_after(filter, after, limit);
        let all: Vec<Retained> = page.by_ref().map(|(_, retained)| retained.clone()).collect();
        let next = page.cursor();
        let is_over = |retained: &Retained| retained.expires_at.is_some_and(|at| at <= now);
        let (expired, retained): (Vec<_>, Vec<_>) = all.into_iter().partition(is_over);
        for expired in expired {
            tree.remove(&expired.message.topic);
        }
        Page { retained, next }
    }

    /// Topics with a retained message.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.tree.lock().topics.len()
    }
}

impl Tree {
    fn remove(&mut self, topic: &TopicName) {
        if let Some(old) = self.topics.remove(topic) {
            self.bytes -= weight(&old.message);
        }
    }
}
