//! Retained messages owed to the subscriptions of a clean session, read from the store page by page.
//!
//! Never an older value after a newer one `[MQTT-3.3.1-9]`: a page shows the store as it was when it was read, and what
//! was published since then may have overtaken it. So while anything is owed, the topics are remembered of messages
//! with RETAIN that reached this connection, and rows of these topics are left out that were asked for before.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_codec::{Message, TopicFilter, TopicName};
use mqtt_session::{Delivery, DeliverySource};

use crate::broker::RetainedRequest;
use crate::store::{Ask, AskNumber};

/// Most messages of a page.
const PAGE: usize = 64;

/// Messages of the first page, when nobody knows yet how large they are.
const FIRST_PAGE: usize = 16;

/// About what a page should hold, in bytes.
const PAGE_BYTES: usize = 256 * 1024;

/// Topics that are remembered. A subscription to which more messages with RETAIN come while its retained messages are
/// read may get an older value after a newer one.
const LIVE_TOPICS: usize = 65_536;

/// Subscriptions that wait for their retained messages.
#[derive(Debug)]
pub(crate) struct Scans {
    queue: VecDeque<Scan>,
    /// The page of the first that was asked for.
    asked: Option<AskNumber>,
    /// Hashes of topics of messages with RETAIN that came, and when.
    live: HashMap<u64, u64, foldhash::fast::RandomState>,
    /// One more with each subscription.
    clock: u64,
    page: usize,
}

#[derive(Debug)]
struct Scan {
    request: RetainedRequest,
    after: Option<TopicName>,
    /// What came live from then on is not older than what the store has.
    since: u64,
}

impl Scans {
    /// Nothing is owed.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            asked: None,
            live: HashMap::default(),
            clock: 0,
            page: FIRST_PAGE,
        }
    }

    /// How many subscriptions wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// A subscription is owed its retained messages.
    pub(crate) fn push(&mut self, request: RetainedRequest) {
        self.clock += 1;
        self.queue.push_back(Scan { request, after: None, since: self.clock });
    }

    /// A list of scans that was not begun is no longer than the subscriptions of the client, however often it asks for
    /// the same.
    pub(crate) fn forget_repetition(&mut self, filter: &TopicFilter) {
        let asked = self.asked.is_some();
        let mut first = true;
        self.queue.retain(|scan| {
            let begun = std::mem::take(&mut first) && asked || scan.after.is_some();
            begun || scan.request.filter != *filter
        });
    }

    /// No retained message is sent for a subscription that has ended `[MQTT-3.10.4-2]`.
    pub(crate) fn forget(&mut self, filter: &TopicFilter) {
        if self.queue.front().is_some_and(|scan| scan.request.filter == *filter) {
            self.asked = None;
        }
        self.queue.retain(|scan| scan.request.filter != *filter);
    }

    /// Remembers which of `deliveries` came with RETAIN, because they were published just now.
    pub(crate) fn note_live<'a>(&mut self, deliveries: impl Iterator<Item = &'a Delivery>) {
        for delivery in deliveries {
            if delivery.message.retain && self.live.len() < LIVE_TOPICS {
                let topic = self.live.hasher().hash_one(delivery.message.topic.as_str());
                self.live.insert(topic, self.clock);
            }
        }
    }

    /// What to ask the store now, if the client can take up to `window` messages.
    pub(crate) fn next_ask(&self, window: usize) -> Option<Ask> {
        if self.asked.is_some() || window == 0 {
            return None;
        }
        let Scan { request, after, .. } = self.queue.front()?;
        let limit = u32::try_from(window.min(self.page)).expect("a page is short");
        Some(Ask::ReadRetained { filter: request.filter.clone(), after: after.clone(), limit })
    }

    /// It was asked.
    pub(crate) fn asked(&mut self, number: AskNumber) {
        self.asked = Some(number);
    }

    /// A page has come: its messages, unless nobody waits for them any more.
    pub(crate) fn page(
        &mut self,
        number: AskNumber,
        (messages, next): (Vec<Arc<Message>>, Option<TopicName>),
        now: Instant,
        to: &mut VecDeque<Delivery>,
    ) {
        if self.asked != Some(number) {
            return;
        }
        self.asked = None;
        let Some(scan) = self.queue.front_mut() else {
            return;
        };
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        if let Some(average) = bytes.checked_div(messages.len()) {
            self.page = (PAGE_BYTES / average.max(1)).clamp(1, PAGE);
        }
        for message in messages {
            let topic = self.live.hasher().hash_one(message.topic.as_str());
            if self.live.get(&topic).is_none_or(|&at| at < scan.since) {
                to.push_back(delivery(message, &scan.request, now));
            }
        }
        scan.after = next;
        if scan.after.is_none() {
            self.queue.pop_front();
        }
    }

    /// The store does not answer: the subscription gets what it has got.
    pub(crate) fn refuse(&mut self, number: AskNumber) {
        if self.asked == Some(number) {
            self.asked = None;
            self.queue.pop_front();
        }
    }
}

fn delivery(message: Arc<Message>, request: &RetainedRequest, now: Instant) -> Delivery {
    let lifetime = message.expiry_secs.map(|secs| Duration::from_secs(u64::from(secs)));
    Delivery {
        qos: request.qos.min(message.qos),
        // [MQTT-3.3.1-8]
        retain: true,
        subscription_ids: request.subscription_id.into_iter().collect(),
        expires_at: lifetime.and_then(|lifetime| now.checked_add(lifetime)),
        message,
        source: DeliverySource::Own,
    }
}
