//! What a publisher remembers of its recipients.

use super::*;
use crate::mailbox::{QueueLimits, WhenFull};
use mqtt_codec::{SubscriptionOptions, TopicFilter};

fn subscribe(subscriptions: &Subscriptions, filter: &str, sessions: u64) {
    let limits = QueueLimits { messages: 1, bytes: 1, when_full: WhenFull::DropNewest };
    let filter = TopicFilter::new(filter).expect("a filter");
    for session in 0..sessions {
        let subscription = Subscription { options: SubscriptionOptions::default(), id: None };
        let mailbox = Arc::new(Mailbox::new(limits));
        subscriptions.insert(&filter, SessionKey(session), &mailbox, subscription);
    }
}

fn topic(number: usize) -> TopicName {
    TopicName::new(format!("t/{number}")).expect("a topic")
}

#[test]
fn topics_with_few_recipients_are_remembered_up_to_the_capacity() {
    let subscriptions = Subscriptions::default();
    subscribe(&subscriptions, "t/+", 3);
    let mut cache = FanoutCache::new(None, 8);
    for number in 0..8 {
        cache.recipients(&subscriptions, &topic(number));
    }
    assert_eq!(cache.others.len(), 8);
    assert_eq!(cache.bytes, 8 * 3 * size_of::<Recipient>());
}

#[test]
fn topics_with_many_recipients_take_no_more_memory_than_as_many_with_few() {
    let subscriptions = Subscriptions::default();
    subscribe(&subscriptions, "t/+", 100);
    let mut cache = FanoutCache::new(None, 8);
    for number in 0..50 {
        let fanout = cache.recipients(&subscriptions, &topic(number));
        assert_eq!(fanout.recipients.len(), 100);
        assert!(cache.bytes <= 8 * TOPIC_BYTES, "{} bytes", cache.bytes);
        let weighed: usize = cache.others.values().map(|fanout| fanout.weight()).sum();
        assert_eq!(weighed, cache.bytes);
    }
}

#[test]
fn a_topic_with_more_recipients_than_fit_is_kept_only_as_the_newest() {
    let subscriptions = Subscriptions::default();
    subscribe(&subscriptions, "t/0", 1000);
    subscribe(&subscriptions, "t/1", 1);
    let mut cache = FanoutCache::new(None, 8);
    cache.recipients(&subscriptions, &topic(1));
    let first = Arc::clone(cache.recipients(&subscriptions, &topic(0)));
    assert!(Arc::ptr_eq(&first, cache.recipients(&subscriptions, &topic(0))));
    assert_eq!(cache.others.keys().collect::<Vec<_>>(), [&topic(1)]);
}
