//! The last messages with RETAIN that came live to a clean session.
//!
//! They reach a subscriber here before they are in the store. If it subscribes again meanwhile, what the store has is
//! older than what its client has got already `[MQTT-3.3.1-9]`: then it is sent what is remembered here. That is the
//! newest as long as the subscription lasts that brought it, so it is forgotten with that one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_codec::{Message, TopicFilter, TopicName};
use mqtt_session::Delivery;

/// How long one is remembered: longer than a message is on its way to a store that keeps up.
pub(crate) const MEMORY: Duration = Duration::from_secs(5);

/// Topics that are remembered at a time.
const TOPICS: usize = 32;

/// Ended subscriptions that are remembered at a time.
const ENDED: usize = 32;

/// Bytes of payload that are remembered at a time, but for the newest message.
const BYTES: usize = 256 * 1024;

/// The last messages with RETAIN, one for each topic.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Oldest first.
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Subscriptions that have ended, with the number of the first message after that: what they brought before still
    /// waits.
    ended: Vec<(TopicFilter, u64)>,
    /// What is before this number is not remembered: there were too many of those.
    blind_until: u64,
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The message.
    pub message: Arc<Message>,
    /// When it is not to be delivered any more.
    pub expires_at: Option<Instant>,
    at: Instant,
}

impl Recent {
    /// Remembers a message that came at `now`.
    pub(crate) fn push(&mut self, delivery: &Delivery, number: u64, now: Instant) {
        let message = Arc::clone(&delivery.message);
        self.retain(|topic| *topic != message.topic);
        self.ended.retain(|(_, until)| *until > number);
        let is_of_ended = |(filter, _): &(TopicFilter, u64)| filter.matches(&message.topic);
        if number < self.blind_until || self.ended.iter().any(is_of_ended) {
            return;
        }
        self.bytes += message.payload.len();
        self.entries.push_back(Entry { message, expires_at: delivery.expires_at, at: now });
        while self.entries.len() > TOPICS || self.bytes > BYTES && self.entries.len() > 1 {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.message.payload.len();
            }
        }
    }

    /// The message that came last under `topic`, unless that was long before `now`.
    pub(crate) fn last(&self, topic: &TopicName, now: Instant) -> Option<&Entry> {
        let entry = self.entries.iter().find(|entry| entry.message.topic == *topic)?;
        Some(entry).filter(|entry| now < entry.at + MEMORY)
    }

    /// A subscription has ended when the next message had the number `next`: messages go by then that nobody sees here.
    pub(crate) fn forget(&mut self, filter: &TopicFilter, next: u64) {
        self.retain(|topic| !filter.matches(topic));
        self.ended.retain(|(ended, _)| ended != filter);
        if self.ended.len() < ENDED {
            self.ended.push((filter.clone(), next));
        } else {
            self.blind_until = next;
        }
    }

    /// Whether all that came was long before `now`, and what comes with the number `next` is to be remembered.
    pub(crate) fn is_over(&self, next: u64, now: Instant) -> bool {
        next >= self.blind_until
            && self.ended.iter().all(|(_, until)| *until <= next)
            && self.entries.back().is_none_or(|newest| newest.at + MEMORY <= now)
    }

    fn retain(&mut self, stays: impl Fn(&TopicName) -> bool) {
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let stays = stays(&entry.message.topic);
            *bytes -= if stays { 0 } else { entry.message.payload.len() };
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_codec::{PublishProperties, QoS, SubscriptionIds};
    use mqtt_session::DeliverySource;

    fn delivery(topic: &str, bytes: usize) -> Delivery {
        let message = Message {
            topic: TopicName::new(topic).unwrap(),
            payload: vec![0; bytes].into(),
            qos: QoS::AtMostOnce,
            retain: true,
            expiry_secs: None,
            properties: PublishProperties::default(),
        };
        Delivery {
            message: Arc::new(message),
            qos: QoS::AtMostOnce,
            retain: false,
            subscription_ids: SubscriptionIds::default(),
            expires_at: None,
            source: DeliverySource::Own,
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_in_topics_bytes_and_time() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for number in 0..1000 {
            recent.push(&delivery(&format!("{}", number % 100), number), 0, now);
        }
        assert_eq!(recent.entries.len(), TOPICS);
        assert_eq!(recent.bytes, (1000 - TOPICS..1000).sum::<usize>());
        recent.push(&delivery("large", 10 * BYTES), 0, now);
        assert_eq!(recent.entries.len(), 1);
        let topic = TopicName::new("large").unwrap();
        assert!(recent.last(&topic, now).is_some() && !recent.is_over(0, now));
        assert!(recent.last(&topic, now + MEMORY).is_none() && recent.is_over(0, now + MEMORY));
    }

    #[test]
    fn with_a_subscription_goes_what_it_brought() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        recent.push(&delivery("a/b", 7), 0, now);
        recent.push(&delivery("a/c", 7), 1, now);
        recent.forget(&TopicFilter::new("+/b").unwrap(), 3);
        let knows =
            |recent: &Recent, topic| recent.last(&TopicName::new(topic).unwrap(), now).is_some();
        assert!(!knows(&recent, "a/b") && knows(&recent, "a/c"));
        assert_eq!(recent.bytes, 7);
        // What it brought had waited.
        recent.push(&delivery("a/b", 7), 2, now);
        assert!(!knows(&recent, "a/b") && !recent.is_over(2, now + MEMORY));
        recent.push(&delivery("a/b", 7), 3, now);
        assert!(knows(&recent, "a/b") && recent.is_over(3, now + MEMORY));
    }

    #[test]
    fn however_many_subscriptions_end_nothing_is_remembered_that_they_brought() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for number in 0..1000 {
            recent.forget(&TopicFilter::new(format!("{number}")).unwrap(), 3);
        }
        assert_eq!(recent.ended.len(), ENDED);
        let topic = TopicName::new("999").unwrap();
        for (number, is_known) in [(2, false), (3, true)] {
            recent.push(&delivery("999", 7), number, now);
            assert_eq!(recent.last(&topic, now).is_some(), is_known);
        }
    }
}
