//! Retained messages owed to the subscriptions of a clean session, read from the store page by page.
//!
//! Never an older value after a newer one `[MQTT-3.3.1-9]`: a page shows the store as it was when it was read, and what
//! is published reaches this connection before it is there. So from the SUBSCRIBE until its pages are read the topics are
//! remembered of messages with RETAIN that came, and their rows left out; for what came shortly before the
//! SUBSCRIBE the row is replaced by what [`Recent`] has.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_codec::{Message, TopicFilter, TopicName};
use mqtt_session::{Delivery, DeliverySource};

use super::recent::{Entry, Recent};
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
    /// SUBSCRIBE packets that are not answered yet.
    begun: usize,
    /// The page of the first that was asked for.
    asked: Option<AskNumber>,
    /// Hashes of topics of messages with RETAIN that came, and the number of the last of each.
    live: HashMap<u64, u64, foldhash::fast::RandomState>,
    page: usize,
}

#[derive(Debug)]
struct Scan {
    request: RetainedRequest,
    after: Option<TopicName>,
    since: Since,
}

/// When a subscription began: what was put into the mailbox from then on is not older than what the store has. What
/// waited there before may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    /// The number of the first message after it.
    mark: u64,
    at: Instant,
}

/// The retained messages of a SUBSCRIBE packet, owed after its answer.
#[derive(Debug)]
pub(crate) struct Owed {
    /// From [`Scans::begin`].
    pub since: Since,
    /// For its filters.
    pub requests: Vec<RetainedRequest>,
}

impl Scans {
    /// Nothing is owed.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            begun: 0,
            asked: None,
            live: HashMap::default(),
            page: FIRST_PAGE,
        }
    }

    /// How many subscriptions wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits, and none is about to.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.begun == 0
    }

    /// A SUBSCRIBE has come when the next message had the number `mark`. To be called before any message can come because
    /// of it, and ended by [`end`](Self::end).
    pub(crate) fn begin(&mut self, mark: u64, now: Instant) -> Since {
        self.begun += 1;
        Since { mark, at: now }
    }

    /// A SUBSCRIBE is answered.
    pub(crate) fn end(&mut self) {
        self.begun -= 1;
    }

    /// A subscription that began then is owed its retained messages.
    pub(crate) fn push(&mut self, request: RetainedRequest, since: Since) {
        self.queue.push_back(Scan { request, after: None, since });
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

    /// A message with RETAIN and this number came under `topic`, because it was published.
    pub(crate) fn note_live(&mut self, topic: &TopicName, number: u64) {
        if self.live.len() < LIVE_TOPICS {
            let topic = self.live.hasher().hash_one(topic.as_str());
            self.live.insert(topic, number);
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
        recent: Option<&Recent>,
        now: Instant,
    ) -> Vec<Delivery> {
        if self.asked != Some(number) {
            return Vec::new();
        }
        self.asked = None;
        let Some(mut scan) = self.queue.pop_front() else {
            return Vec::new();
        };
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        if let Some(average) = bytes.checked_div(messages.len()) {
            self.page = (PAGE_BYTES / average.max(1)).clamp(1, PAGE);
        }
        let row = |message| self.row(message, &scan, recent, now);
        let deliveries = messages.into_iter().filter_map(row).collect();
        scan.after = next;
        if scan.after.is_some() {
            self.queue.push_front(scan);
        }
        deliveries
    }

    /// What is sent for one message of a page.
    fn row(
        &self,
        message: Arc<Message>,
        scan: &Scan,
        recent: Option<&Recent>,
        now: Instant,
    ) -> Option<Delivery> {
        let Scan { request, since, .. } = scan;
        let topic = self.live.hasher().hash_one(message.topic.as_str());
        if self.live.get(&topic).is_some_and(|&last| last >= since.mark) {
            return None;
        }
        match recent.and_then(|recent| recent.last(&message.topic, since.at)) {
            Some(newer) => remembered(newer, request),
            None => Some(stored(message, request, now)),
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

/// As the store has it.
fn stored(message: Arc<Message>, request: &RetainedRequest, now: Instant) -> Delivery {
    let lifetime = message.expiry_secs.map(|secs| Duration::from_secs(u64::from(secs)));
    let expires_at = lifetime.and_then(|lifetime| now.checked_add(lifetime));
    delivery(message, request, expires_at)
}

/// In place of what the store has; nothing if the newest message removes it `[MQTT-3.3.1-6]`.
fn remembered(entry: &Entry, request: &RetainedRequest) -> Option<Delivery> {
    let message = Some(&entry.message).filter(|message| !message.payload.is_empty())?;
    Some(delivery(Arc::clone(message), request, entry.expires_at))
}

fn delivery(
    message: Arc<Message>,
    request: &RetainedRequest,
    expires_at: Option<Instant>,
) -> Delivery {
    Delivery {
        qos: request.qos.min(message.qos),
        // [MQTT-3.3.1-8]
        retain: true,
        subscription_ids: request.subscription_id.into_iter().collect(),
        expires_at,
        message,
        source: DeliverySource::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_codec::{PublishProperties, QoS};

    fn message(topic: &TopicName) -> Arc<Message> {
        Arc::new(Message {
            topic: topic.clone(),
            payload: "x".into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            expiry_secs: None,
            properties: PublishProperties::default(),
        })
    }

    #[test]
    fn what_came_live_between_a_subscribe_and_its_answer_is_not_followed_by_an_older_value() {
        let [old, live] = ["old", "live"].map(|topic| TopicName::new(topic).unwrap());
        let (mut scans, now) = (Scans::new(), Instant::now());
        let owed = |since| {
            let filter = TopicFilter::new("#").unwrap();
            let request = RetainedRequest { filter, qos: QoS::AtLeastOnce, subscription_id: None };
            Scan { request, after: None, since }
        };
        let first = owed(scans.begin(7, now));
        // It waited before the subscription began.
        scans.note_live(&old, 6);
        scans.note_live(&live, 7);
        scans.end();
        // A later subscription is owed what came before it.
        let second = owed(scans.begin(8, now));
        for (scan, topic, sent) in
            [(&first, &old, true), (&first, &live, false), (&second, &live, true)]
        {
            assert_eq!(scans.row(message(topic), scan, None, now).is_some(), sent);
        }
    }
}
