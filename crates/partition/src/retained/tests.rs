//! What is kept, what is handed out, and what a start finds.

use std::collections::BTreeMap;

use mqtt_codec::{PublishProperties, QoS};

use super::*;
use crate::store::Write;

const PARTITION: PartitionId = PartitionId(0);
const MUCH: RetainedAmount = RetainedAmount { messages: 1_000_000, bytes: 1 << 30 };

const fn stamp(lsn: u64) -> Stamp {
    Stamp { lsn: Lsn(lsn), now: UnixMillis(0) }
}

fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: true,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

/// A store of retained messages beside the rows it has written.
struct Kept {
    retained: Retained,
    rows: BTreeMap<Bytes, Bytes>,
    lsn: u64,
}

impl Kept {
    fn new() -> Self {
        Self { retained: Retained::new(PARTITION), rows: BTreeMap::new(), lsn: 0 }
    }

    fn retain(&mut self, topic: &str, payload: &str) -> Retention {
        self.retain_until(topic, payload, None, MUCH)
    }

    fn retain_until(
        &mut self,
        topic: &str,
        payload: &str,
        expires_at: Option<u64>,
        room: RetainedAmount,
    ) -> Retention {
        let mut batch = Batch::default();
        self.lsn += 1;
        let expires_at = expires_at.map(UnixMillis);
        let message = message(topic, payload);
        let kept = self.retained.retain(&message, expires_at, stamp(self.lsn), room, &mut batch);
        self.write(&batch);
        kept
    }

    fn write(&mut self, batch: &Batch) {
        for write in batch.writes() {
            match write.clone() {
                Write::Put { key, value, .. } => drop(self.rows.insert(key, value)),
                Write::Delete { key, .. } => drop(self.rows.remove(&key)),
            }
        }
    }

    fn reopen(&self) -> Self {
        let mut retained = Retained::new(PARTITION);
        for value in self.rows.values() {
            retained.load(value).unwrap();
        }
        Self { retained, rows: self.rows.clone(), lsn: self.lsn }
    }

    /// All pages, with the payloads in order.
    fn read(&self, text: &str, limit: usize, now: u64) -> Vec<String> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let now = UnixMillis(now);
            let page = self.retained.page(&filter(text), after.as_ref(), limit, now);
            assert!(page.messages.len() <= limit);
            found.extend(page.messages.iter().map(text_of));
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    }
}

fn text_of(retained: &RetainedMessage) -> String {
    String::from_utf8(retained.message.payload.to_vec()).unwrap()
}

#[test]
fn the_last_message_of_a_topic_is_kept_and_a_start_finds_it() {
    let mut kept = Kept::new();
    assert_eq!(kept.retain("a/b", "old"), Retention::Kept);
    assert_eq!(kept.retain("a/b", "new"), Retention::Kept);
    assert_eq!(kept.retain("a/c", "other"), Retention::Kept);
    let again = kept.reopen();
    assert_eq!(again.read("a/+", 1, 0), ["new", "other"]);
    assert_eq!(again.retained.amount(), kept.retained.amount());
    let page = again.retained.page(&filter("a/b"), None, 1, UnixMillis(0));
    assert_eq!(page.messages[0].version, Lsn(2));
}

#[test]
fn an_empty_payload_deletes_and_leaves_nothing_behind() {
    let mut kept = Kept::new();
    kept.retain_until("a", "x", Some(5), MUCH);
    assert_eq!(kept.retain("a", ""), Retention::Deleted);
    assert_eq!(kept.retain("b", ""), Retention::Deleted);
    assert_eq!(kept.retained.amount(), RetainedAmount::default());
    assert_eq!(kept.retained.next_expiry(), None);
    assert!(kept.rows.is_empty());
}

#[test]
fn without_room_the_topic_has_no_message_rather_than_an_old_one() {
    let mut kept = Kept::new();
    kept.retain("a", "x");
    let none = RetainedAmount::default();
    let few_bytes = RetainedAmount { messages: 1, bytes: 10 };
    assert_eq!(kept.retain_until("b", "x", None, none), Retention::NoRoom);
    assert_eq!(kept.retain_until("b", "x", None, few_bytes), Retention::NoRoom);
    assert_eq!(kept.retain_until("a", "y", None, none), Retention::Kept, "in the place of its own");
    assert_eq!(kept.retain_until("a", "longer", None, none), Retention::NoRoom);
    assert!(kept.read("#", 8, 0).is_empty());
    assert!(kept.rows.is_empty());
}

#[test]
fn what_is_over_is_not_handed_out_and_is_taken_out_bit_by_bit() {
    let mut kept = Kept::new();
    for number in 0..300 {
        kept.retain_until(&format!("t/{number:03}"), "x", Some(10 + number / 200), MUCH);
    }
    kept.retain("t/stays", "y");
    assert_eq!(kept.read("t/#", 64, 10).len(), 101);
    assert_eq!(kept.read("t/#", 64, 11), ["y"]);
    assert_eq!(kept.retained.amount().messages, 301, "reading changes nothing");
    let mut again = kept.reopen();
    for left in [45, 1] {
        let mut batch = Batch::default();
        again.retained.expire_some(UnixMillis(11), &mut batch);
        again.write(&batch);
        assert_eq!(again.retained.amount().messages, left);
        assert_eq!(again.rows.len() as u64, left);
    }
    assert_eq!(again.retained.next_expiry(), None);
}

#[test]
fn a_message_that_replaces_one_that_expires_stays() {
    let mut kept = Kept::new();
    kept.retain_until("a", "x", Some(10), MUCH);
    kept.retain_until("a", "y", Some(20), MUCH);
    kept.retained.expire_some(UnixMillis(10), &mut Batch::default());
    assert_eq!(kept.read("a", 1, 10), ["y"]);
    assert_eq!(kept.retained.next_expiry(), Some(UnixMillis(20)));
}

#[test]
fn a_page_that_finds_nothing_says_where_to_go_on() {
    let mut kept = Kept::new();
    for number in 0..500 {
        kept.retain(&format!("{number}/y"), "no");
    }
    kept.retain("7/x", "yes");
    let page = kept.retained.page(&filter("+/x"), None, 1, UnixMillis(0));
    assert!(page.messages.is_empty() && page.next.is_some(), "the steps of one page are bounded");
    assert_eq!(kept.read("+/x", 1, 0), ["yes"]);
}

#[test]
fn topics_of_the_server_are_not_matched_by_wildcards_in_front() {
    let mut kept = Kept::new();
    kept.retain("$SYS/a", "system");
    kept.retain("b/a", "client");
    assert_eq!(kept.read("#", 8, 0), ["client"]);
    assert_eq!(kept.read("+/a", 8, 0), ["client"]);
    assert_eq!(kept.read("$SYS/#", 8, 0), ["system"]);
}

#[test]
fn pages_over_partitions_give_every_message_once_whatever_their_size() {
    let count = 5;
    let mut partitions: Vec<Retained> =
        (0..count).map(|id| Retained::new(PartitionId(id))).collect();
    let mut topics = Vec::new();
    for number in 0..100 {
        let text = format!("t/{number:02}");
        let place = PartitionId::of_topic(&TopicName::new(text.as_str()).unwrap(), count);
        let there = &mut partitions[usize::from(place.0)];
        let message = message(&text, &text);
        there.retain(&message, None, stamp(1), MUCH, &mut Batch::default());
        topics.push(text);
    }
    let all: Vec<&Retained> = partitions.iter().collect();
    for limit in [1, 2, 7, 20, 99, 100, 101] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = page_over(&all, &filter("t/+"), after.as_ref(), limit, UnixMillis(0));
            assert!(page.messages.len() <= limit);
            found.extend(page.messages.iter().map(text_of));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        found.sort();
        assert_eq!(found, topics, "pages of {limit}");
    }
    let page = page_over(&all, &filter("t/42"), None, 10, UnixMillis(0));
    assert_eq!(page.messages.iter().map(text_of).collect::<Vec<_>>(), ["t/42"]);
    assert_eq!(page.next, None);
}

#[test]
fn a_damaged_row_is_an_error() {
    let mut kept = Kept::new();
    kept.retain_until("a/b", "x", Some(77), MUCH);
    let value = kept.rows.values().next().unwrap();
    for length in 0..value.len() {
        RetainedMessage::decode(&value.slice(..length)).unwrap_err();
    }
}
