//! What all clients of a load know together: who is owed what, who is at rest, what was done.
//!
//! Knows less than the checker, and never believes that something is owed which is not: it only says when waiting is
//! over. Order matters nowhere here.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_codec::{QoS, TopicFilter, TopicName};
use tokio::time::{Duration, Instant};

use super::Counts;
use super::client::{Arrival, Content};
use crate::record::{ConnId, MessageId};

/// How long a will may take that is due, or was when a fault was healed: the lease of a proxy that died, and the restart of
/// the store. The checker judges what took longer.
const WILL: Duration = Duration::from_secs(16);
/// How long after it was due a will is waited for again when all faults are healed.
const STILL_DUE: Duration = Duration::from_secs(60);

/// How long nothing has come when nothing more is on its way: a client may take its time with what it confirms, and gets
/// the next then.
const SILENCE: Duration = Duration::from_secs(2);

/// Shared by all clients.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub counts: Counts,
    /// What was missing when the load ended.
    pub unsettled: Option<Vec<String>>,
    last_conn: u64,
    last_arrival: Option<Instant>,
    /// Whether a client has all it wants, by its number; absent if nobody waits for it.
    ready: BTreeMap<usize, bool>,
    slots: Vec<Slot>,
    /// Messages that are not acknowledged, or owed to somebody.
    open: BTreeMap<MessageId, Open>,
    /// The last message with RETAIN to each topic.
    newest: BTreeMap<String, Newest>,
    /// Wills that have come, and to whom: one may come before its client knows that it is due.
    heard: BTreeSet<(usize, MessageId)>,
    /// Topics with a deletion that may come late: its connection ended before it was acknowledged.
    doubtful: BTreeSet<String>,
    /// Topics of which a last SUBSCRIBE must bring what is retained. Whether it is the newest is for others to say: one
    /// that was sent on an earlier connection may come late.
    looks: BTreeSet<(usize, String)>,
}

/// One who is owed messages: a session, or a group.
#[derive(Debug, Default)]
struct Slot {
    name: String,
    /// One more whenever nothing is owed any longer that was before.
    epoch: u64,
    /// Filters that were granted with QoS 1 or 2.
    filters: Vec<TopicFilter>,
}

#[derive(Debug)]
struct Open {
    topic: TopicName,
    acknowledged: bool,
    /// Slots and their epochs when it was published.
    owed: Vec<(usize, u64)>,
    /// Nobody waits for it from then on.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Newest {
    message: MessageId,
    acknowledged: bool,
    empty: bool,
}

impl Ledger {
    pub(super) const fn new_conn(&mut self) -> ConnId {
        self.last_conn += 1;
        ConnId(self.last_conn)
    }

    pub(super) fn add_slot(&mut self, name: &str) -> usize {
        self.slots.push(Slot { name: name.to_owned(), ..Slot::default() });
        self.slots.len() - 1
    }

    /// Whether `client` is connected and has nothing left to do.
    pub(super) fn set_ready(&mut self, client: usize, ready: bool) {
        self.ready.insert(client, ready);
    }

    pub(super) fn all_ready(&self) -> bool {
        self.ready.values().all(|&ready| ready)
    }

    /// How many acknowledged messages have not come where they are owed.
    pub(super) fn owed(&self) -> usize {
        let open = self.open.values().filter(|open| self.is_owed(open)).count();
        open + self.looks.len()
    }

    /// Whether nothing is on its way any more that is not known here to be owed.
    pub(super) fn is_silent(&self) -> bool {
        self.last_arrival.is_none_or(|last| last.elapsed() >= SILENCE)
    }

    /// What is being waited for, in words.
    pub(super) fn missing(&self) -> Vec<String> {
        let busy = self.ready.iter().filter(|(_, ready)| !**ready);
        let mut missing: Vec<_> =
            busy.map(|(client, _)| format!("client {client} is not at rest")).collect();
        for (message, open) in self.open.iter().filter(|(_, open)| self.is_owed(open)) {
            let names = open.owed.iter().filter(|owed| self.is_current(**owed));
            let names: Vec<_> = names.map(|&(slot, _)| self.slots[slot].name.as_str()).collect();
            let MessageId { publisher, number } = message;
            missing.push(format!("{publisher} {number} to {} for {names:?}", open.topic));
        }
        for (slot, topic) in &self.looks {
            missing.push(format!("what {topic} retains for {:?}", self.slots[*slot].name));
        }
        missing
    }

    /// A message is about to be published for the first time.
    pub(super) fn published(&mut self, content: &Content) {
        self.counts.published += 1;
        if content.retain {
            let empty = content.is_empty();
            let newest = Newest { message: content.message.clone(), acknowledged: false, empty };
            self.newest.insert(content.topic.as_str().to_owned(), newest);
        }
        let tracked = content.expiry_secs.is_none() && !content.is_empty();
        if tracked && content.qos != QoS::AtMostOnce {
            self.owe(content.message.clone(), &content.topic, false);
        }
    }

    /// A last will is probably due after `delay`. A client cannot know: a proxy that stops in order lets it wait, and its
    /// client's return calls it off.
    pub(super) fn due(&mut self, message: MessageId, topic: &TopicName, delay: Duration) {
        let heard = std::mem::take(&mut self.heard);
        self.owe(message.clone(), topic, true);
        if let Some(open) = self.open.get_mut(&message) {
            open.until = Some(Instant::now() + delay + WILL);
            open.owed.retain(|&(slot, _)| !heard.contains(&(slot, message.clone())));
            self.tidy(&message);
        }
        self.heard = heard;
    }

    /// A client's session goes on: what was to come when its delay is over is not.
    pub(super) fn called_off(&mut self, message: &MessageId) {
        self.open.remove(message);
    }

    /// No fault is left: what held wills up is over.
    pub(super) fn all_healed(&mut self) {
        let now = Instant::now();
        for until in self.open.values_mut().filter_map(|open| open.until.as_mut()) {
            if *until + STILL_DUE > now {
                *until = (*until).max(now + WILL);
            }
        }
    }

    fn owe(&mut self, message: MessageId, topic: &TopicName, acknowledged: bool) {
        let wants = |slot: &Slot| slot.filters.iter().any(|filter| filter.matches(topic));
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| wants(slot));
        let owed: Vec<_> = slots.map(|(number, slot)| (number, slot.epoch)).collect();
        if !owed.is_empty() {
            self.open
                .insert(message, Open { topic: topic.clone(), acknowledged, owed, until: None });
        }
    }

    pub(super) fn acknowledged(&mut self, content: &Content, code: u8) {
        if code >= 0x80 {
            return self.given_up(content);
        }
        self.counts.acknowledged += 1;
        let newest = self.newest.get_mut(content.topic.as_str());
        if let Some(newest) = newest.filter(|newest| newest.message == content.message) {
            newest.acknowledged = true;
        }
        if let Some(open) = self.open.get_mut(&content.message) {
            open.acknowledged = true;
            self.tidy(&content.message);
        }
    }

    /// Whether it was published will never be known.
    pub(super) fn given_up(&mut self, content: &Content) {
        self.open.remove(&content.message);
        self.cut_off(content);
    }

    /// The connection ended on which it was published.
    pub(super) fn cut_off(&mut self, content: &Content) {
        if content.retain && content.is_empty() {
            self.doubtful.insert(content.topic.as_str().to_owned());
        }
    }

    /// A PUBLISH has come to `slot`, and perhaps so to a group.
    pub(super) fn received(&mut self, slot: usize, group: Option<usize>, arrival: &Arrival) {
        self.counts.received += 1;
        self.last_arrival = Some(Instant::now());
        let Some(message) = &arrival.message else { return };
        // What is on its way as it was published is not sent as retained beside that.
        let newest = self.newest.get(arrival.topic.as_str());
        if arrival.retain || newest.is_some_and(|newest| newest.message == *message) {
            self.looks.remove(&(slot, arrival.topic.as_str().to_owned()));
        }
        if message.publisher.starts_with("will/") {
            self.heard.insert((slot, message.clone()));
        }
        for slot in [Some(slot), group].into_iter().flatten() {
            self.settle(slot, message);
        }
    }

    fn settle(&mut self, slot: usize, message: &MessageId) {
        if let Some(open) = self.open.get_mut(message) {
            open.owed.retain(|&(owed, _)| owed != slot);
            self.tidy(message);
        }
    }

    fn tidy(&mut self, message: &MessageId) {
        if let Some(open) = self.open.get(message)
            && open.acknowledged
            && !open.owed.iter().any(|&owed| self.is_current(owed))
        {
            self.open.remove(message);
        }
    }

    /// `slot` has been granted `filter` with QoS 1 or 2.
    pub(super) fn subscribed(&mut self, slot: usize, filter: &TopicFilter) {
        let filters = &mut self.slots[slot].filters;
        if !filters.contains(filter) {
            filters.push(filter.clone());
        }
    }

    /// `slot` is about to give `filter` up: what waits for it may be dropped.
    pub(super) fn unsubscribed(&mut self, slot: usize, filter: &str) {
        self.slots[slot].filters.retain(|kept| kept.as_str() != filter);
        self.forget(slot);
    }

    /// The session of `slot` is over, with its subscriptions.
    pub(super) fn reset(&mut self, slot: usize) {
        self.slots[slot].filters.clear();
        self.forget(slot);
    }

    fn forget(&mut self, slot: usize) {
        self.slots[slot].epoch += 1;
        self.looks.retain(|(looking, _)| *looking != slot);
    }

    /// `slot` is about to subscribe to `filter` for the last time, and is owed what is retained.
    pub(super) fn look(&mut self, slot: usize, filter: &TopicFilter) {
        for (topic, newest) in &self.newest {
            let matches = TopicName::new(topic.as_str()).is_ok_and(|topic| filter.matches(&topic));
            let certain = newest.acknowledged && !self.doubtful.contains(topic);
            if matches && certain && !newest.empty {
                self.looks.insert((slot, topic.clone()));
            }
        }
    }

    fn is_owed(&self, open: &Open) -> bool {
        let waits = open.until.is_none_or(|until| Instant::now() < until);
        open.acknowledged && waits && open.owed.iter().any(|&owed| self.is_current(owed))
    }

    fn is_current(&self, (slot, epoch): (usize, u64)) -> bool {
        self.slots[slot].epoch == epoch
    }
}
