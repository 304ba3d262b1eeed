//! The recipients of one topic, computed once and used while the subscriptions do not change.
//!
//! A session with several matching subscriptions gets one delivery, with the highest QoS among
//! them `[MQTT-3.3.4-2]` and the identifiers of all `[MQTT-3.3.4-3]`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::{Message, QoS, SubscriptionId, SubscriptionIds, TopicName};
use mqtt_session::{Delivery, DeliverySource};

use crate::mailbox::{Mailbox, Pushed};
use crate::metrics::{DropReason, Tally};
use crate::subscriptions::{SessionKey, Subscriber, Subscription, Subscriptions};

/// Who gets a message of one topic from one publisher.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    recipients: Vec<Recipient>,
}

#[derive(Debug)]
struct Recipient {
    mailbox: Arc<Mailbox>,
    terms: Terms,
}

/// How a message is delivered to one recipient.
#[derive(Clone, Debug, Default)]
struct Terms {
    qos: QoS,
    retain_as_published: bool,
    subscription_ids: SubscriptionIds,
}

/// Memory for the recipients of one topic, in bytes, on the average of all that are remembered beside the newest.
const TOPIC_BYTES: usize = 64 * size_of::<Recipient>();

/// Matches by topic, for one publisher or for the whole cluster's messages.
///
/// The newest is kept however large it is, because a publisher often stays with its topic. The others are
/// bounded in number and in memory, because there is a cache for each connection.
#[derive(Debug)]
pub(crate) struct FanoutCache {
    generation: u64,
    capacity: usize,
    publisher: Option<SessionKey>,
    newest: Option<(TopicName, Arc<Fanout>)>,
    others: HashMap<TopicName, Arc<Fanout>, foldhash::fast::RandomState>,
    /// Weight of all `others`, in bytes.
    bytes: usize,
}

impl Fanout {
    fn new(
        subscriptions: &Subscriptions,
        topic: &TopicName,
        publisher: Option<SessionKey>,
    ) -> Self {
        let mut fanout = Self::default();
        let mut seen: HashMap<SessionKey, usize> = HashMap::new();
        subscriptions.matches(topic, |session, Subscriber { mailbox, subscription }| {
            // [MQTT-3.8.3-3]: a message must not go back to a client that asked for No Local.
            if subscription.options.no_local && Some(session) == publisher {
                return;
            }
            let recipients = &mut fanout.recipients;
            let at = *seen.entry(session).or_insert(recipients.len());
            if at == recipients.len() {
                let mailbox = Arc::clone(mailbox);
                recipients.push(Recipient { mailbox, terms: Terms::default() });
            }
            recipients[at].terms.add(subscription);
        });
        fanout
    }

    /// Memory it takes, in bytes, about.
    fn weight(&self) -> usize {
        let recipient = |recipient: &Recipient| {
            size_of::<Recipient>()
                + recipient.terms.subscription_ids.len() * size_of::<SubscriptionId>()
        };
        self.recipients.iter().map(recipient).sum()
    }

    /// Puts `message` into the queue of every recipient; `true` when one of these is getting full.
    pub(crate) fn deliver(
        &self,
        message: &Arc<Message>,
        expires_at: Option<Instant>,
        tally: &mut Tally,
    ) -> bool {
        let mut crowded = false;
        for Recipient { mailbox, terms } in &self.recipients {
            let pushed = mailbox.push(terms.delivery(message, expires_at));
            crowded |= count(pushed, tally);
        }
        crowded
    }
}

/// Counts what a push dropped; `true` when the pusher should let the reader run.
pub(crate) fn count(pushed: Pushed, tally: &mut Tally) -> bool {
    match pushed {
        Pushed::Queued | Pushed::Closed => false,
        Pushed::Crowded => true,
        Pushed::DroppedFull | Pushed::Overrun => {
            tally.dropped(DropReason::QueueFull);
            false
        }
        Pushed::Displaced(messages) => {
            (0..messages).for_each(|_| tally.dropped(DropReason::QueueFull));
            false
        }
    }
}

impl Terms {
    fn add(&mut self, subscription: &Subscription) {
        self.qos = self.qos.max(subscription.options.qos);
        self.retain_as_published |= subscription.options.retain_as_published;
        self.subscription_ids.extend(subscription.id);
    }

    fn delivery(&self, message: &Arc<Message>, expires_at: Option<Instant>) -> Delivery {
        Delivery {
            message: Arc::clone(message),
            qos: self.qos.min(message.qos),
            // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
            retain: message.retain && self.retain_as_published,
            subscription_ids: self.subscription_ids.clone(),
            expires_at,
            source: DeliverySource::Own,
        }
    }
}

impl FanoutCache {
    /// An empty cache for the messages of `publisher`, or of other proxies when `None`. It keeps at most
    /// `capacity` topics beside the newest, fewer when they have many recipients.
    #[must_use]
    pub(crate) fn new(publisher: Option<SessionKey>, capacity: usize) -> Self {
        Self {
            generation: 0,
            capacity,
            publisher,
            newest: None,
            others: HashMap::default(),
            bytes: 0,
        }
    }

    /// The recipients of `topic`.
    pub(crate) fn recipients(
        &mut self,
        subscriptions: &Subscriptions,
        topic: &TopicName,
    ) -> &Arc<Fanout> {
        let generation = subscriptions.generation();
        if self.generation != generation {
            self.generation = generation;
            self.newest = None;
            self.forget();
        }
        let hit = self.newest.as_ref().is_some_and(|(known, _)| known == topic);
        if !hit {
            self.newest = Some(self.remembered(subscriptions, topic));
        }
        &self.newest.as_ref().expect("filled above").1
    }

    fn remembered(
        &mut self,
        subscriptions: &Subscriptions,
        topic: &TopicName,
    ) -> (TopicName, Arc<Fanout>) {
        if let Some((topic, fanout)) = self.others.get_key_value(topic) {
            return (topic.clone(), Arc::clone(fanout));
        }
        let topic = topic.detached();
        let fanout = Arc::new(Fanout::new(subscriptions, &topic, self.publisher));
        let weight = fanout.weight();
        let budget = self.capacity * TOPIC_BYTES;
        if self.capacity > 0 && weight <= budget {
            if self.others.len() >= self.capacity || self.bytes + weight > budget {
                self.forget();
            }
            self.bytes += weight;
            self.others.insert(topic.clone(), Arc::clone(&fanout));
        }
        (topic, fanout)
    }

    fn forget(&mut self) {
        self.others.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
