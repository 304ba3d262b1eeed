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

/// Bytes of payload that are remembered at a time, but for the newest message.
const BYTES: usize = 256 * 1024;

/// The last messages with RETAIN, one for each topic.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Oldest first.
    entries: VecDeque<Entry>,
    bytes: usize,
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
    pub(crate) fn push(&mut self, delivery: &Delivery, now: Instant) {
        let message = Arc::clone(&delivery.message);
        self.retain(|topic| *topic != message.topic);
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

    /// A subscription has ended: from now on messages go by that nobody sees here.
    pub(crate) fn forget(&mut self, filter: &TopicFilter) {
        self.retain(|topic| !filter.matches(topic));
    }

    /// Whether all that came was long before `now`.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.entries.back().is_none_or(|newest| newest.at + MEMORY <= now)
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
            recent.push(&delivery(&format!("{}", number % 100), number), now);
        }
        assert_eq!(recent.entries.len(), TOPICS);
        assert_eq!(recent.bytes, (1000 - TOPICS..1000).sum::<usize>());
        recent.push(&delivery("large", 10 * BYTES), now);
        assert_eq!(recent.entries.len(), 1);
        let topic = TopicName::new("large").unwrap();
        assert!(recent.last(&topic, now).is_some() && !recent.is_over(now));
        assert!(recent.last(&topic, now + MEMORY).is_none() && recent.is_over(now + MEMORY));
    }

    #[test]
    fn with_a_subscription_goes_what_it_brought() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        recent.push(&delivery("a/b", 7), now);
        recent.push(&delivery("a/c", 7), now);
        recent.forget(&TopicFilter::new("+/b").unwrap());
        assert!(recent.last(&TopicName::new("a/b").unwrap(), now).is_none());
        assert!(recent.last(&TopicName::new("a/c").unwrap(), now).is_some());
        assert_eq!(recent.bytes, 7);
    }
}
