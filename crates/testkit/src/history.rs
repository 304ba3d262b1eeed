//! What publishers sent and subscribers received, and whether the promises were kept.
//!
//! QoS 0 arrives at most once. QoS 1 arrives at least once when it was acknowledged. QoS 2 arrives
//! at most once, and exactly once when it was acknowledged. What one publisher sent to one topic
//! with one QoS arrives in that order, where a repetition of an earlier QoS 1 message counts as its
//! first arrival. Knows nothing of connections: the test says what happened.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use mqtt_codec::QoS;

/// One publisher's messages to one topic with one QoS: within it, order is promised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Lane {
    publisher: String,
    topic: String,
    qos: QoS,
}

/// All that was sent and received in one test.
#[derive(Debug, Default)]
pub struct History {
    /// Sequence numbers sent, and whether each was acknowledged.
    sent: BTreeMap<Lane, BTreeMap<u64, bool>>,
    /// Per subscriber, in the order of arrival.
    received: BTreeMap<String, HashMap<Lane, Vec<u64>>>,
    /// Who must receive what.
    subscriptions: BTreeMap<String, BTreeSet<String>>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged, or subscribed to, and never received.
    Lost(String),
    /// Received more often than the QoS allows.
    Repeated(String),
    /// Received after a later one.
    Disordered(String),
    /// Received and never sent.
    Invented(String),
}

impl History {
    /// Nothing has happened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The payload that makes a message known to [`received`](Self::received).
    #[must_use]
    pub fn payload(publisher: &str, sequence: u64) -> Bytes {
        format!("{publisher} {sequence}").into()
    }

    /// From now on `subscriber` is owed what is sent to `topic`.
    pub fn subscribed(&mut self, subscriber: &str, topic: &str) {
        self.subscriptions.entry(subscriber.into()).or_default().insert(topic.into());
        self.received.entry(subscriber.into()).or_default();
    }

    /// `publisher` is about to send.
    pub fn sent(&mut self, publisher: &str, topic: &str, qos: QoS, sequence: u64) {
        self.sent.entry(lane(publisher, topic, qos)).or_default().insert(sequence, false);
    }

    /// `publisher` got the PUBACK, or the PUBREC.
    ///
    /// # Panics
    ///
    /// When nothing like it was sent.
    pub fn acknowledged(&mut self, publisher: &str, topic: &str, qos: QoS, sequence: u64) {
        let lane = self.sent.get_mut(&lane(publisher, topic, qos));
        *lane.and_then(|lane| lane.get_mut(&sequence)).expect("it was sent before") = true;
    }

    /// `subscriber` got a message whose payload [`payload`](Self::payload) made, published with
    /// `qos`. A QoS 2 message counts when its PUBLISH is new to the receiver, not when it repeats
    /// one the receiver holds the packet identifier of.
    ///
    /// # Panics
    ///
    /// When the payload is another.
    pub fn received(&mut self, subscriber: &str, topic: &str, qos: QoS, payload: &[u8]) {
        let text = std::str::from_utf8(payload).expect("payloads are made by this type");
        let (publisher, sequence) = text.split_once(' ').expect("payloads are made by this type");
        let sequence = sequence.parse().expect("payloads are made by this type");
        let lanes = self.received.entry(subscriber.into()).or_default();
        lanes.entry(lane(publisher, topic, qos)).or_default().push(sequence);
    }

    /// How many messages `subscriber` has received, repetitions included.
    #[must_use]
    pub fn count(&self, subscriber: &str) -> usize {
        self.received.get(subscriber).map_or(0, |lanes| lanes.values().map(Vec::len).sum())
    }

    /// Every broken promise.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (subscriber, lanes) in &self.received {
            for (lane, sequences) in lanes {
                self.check_received(subscriber, lane, sequences, &mut violations);
            }
            self.check_owed(subscriber, lanes, &mut violations);
        }
        violations
    }

    /// # Panics
    ///
    /// When a promise was broken.
    pub fn check(&self) {
        let violations = self.violations();
        let few: Vec<_> = violations.iter().take(20).collect();
        assert!(violations.is_empty(), "{} broken promises: {few:#?}", violations.len());
    }

    fn check_received(
        &self,
        subscriber: &str,
        lane: &Lane,
        sequences: &[u64],
        violations: &mut Vec<Violation>,
    ) {
        let known = self.sent.get(lane);
        let mut seen = BTreeSet::new();
        for &sequence in sequences {
            let name = describe(subscriber, lane, sequence);
            if known.is_none_or(|known| !known.contains_key(&sequence)) {
                violations.push(Violation::Invented(name));
            } else if seen.contains(&sequence) {
                if lane.qos != QoS::AtLeastOnce {
                    violations.push(Violation::Repeated(name));
                }
            } else {
                if seen.last().is_some_and(|&last| last > sequence) {
                    violations.push(Violation::Disordered(name));
                }
                seen.insert(sequence);
            }
        }
    }

    fn check_owed(
        &self,
        subscriber: &str,
        received: &HashMap<Lane, Vec<u64>>,
        violations: &mut Vec<Violation>,
    ) {
        let Some(topics) = self.subscriptions.get(subscriber) else { return };
        for (lane, sent) in &self.sent {
            if lane.qos == QoS::AtMostOnce || !topics.contains(&lane.topic) {
                continue;
            }
            let got: BTreeSet<u64> = received.get(lane).into_iter().flatten().copied().collect();
            let owed = sent.iter().filter(|(_, acknowledged)| **acknowledged).map(|(s, _)| s);
            let lost = owed.filter(|sequence| !got.contains(sequence));
            violations.extend(lost.map(|&s| Violation::Lost(describe(subscriber, lane, s))));
        }
    }
}

fn lane(publisher: &str, topic: &str, qos: QoS) -> Lane {
    Lane { publisher: publisher.into(), topic: topic.into(), qos }
}

fn describe(subscriber: &str, lane: &Lane, sequence: u64) -> String {
    let Lane { publisher, topic, qos } = lane;
    format!("{publisher} -> {topic} ({qos:?}) number {sequence} at {subscriber}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(qos: QoS, acknowledged: &[u64], received: &[u64]) -> Vec<Violation> {
        let mut history = History::new();
        history.subscribed("s", "t");
        for sequence in 0..4 {
            history.sent("p", "t", qos, sequence);
        }
        for &sequence in acknowledged {
            history.acknowledged("p", "t", qos, sequence);
        }
        for &sequence in received {
            history.received("s", "t", qos, &History::payload("p", sequence));
        }
        history.violations()
    }

    #[test]
    fn a_lost_qos_0_message_is_no_violation_and_a_repeated_one_is() {
        assert_eq!(history(QoS::AtMostOnce, &[], &[0, 3]), []);
        let violations = history(QoS::AtMostOnce, &[], &[0, 0]);
        assert!(matches!(violations.as_slice(), [Violation::Repeated(_)]), "{violations:?}");
    }

    #[test]
    fn a_qos_1_message_may_come_twice_and_must_come_once_acknowledged() {
        assert_eq!(history(QoS::AtLeastOnce, &[0, 1], &[0, 1, 0, 1, 2]), []);
        let violations = history(QoS::AtLeastOnce, &[0, 1], &[0]);
        assert!(matches!(violations.as_slice(), [Violation::Lost(_)]), "{violations:?}");
    }

    #[test]
    fn a_qos_2_message_comes_exactly_once() {
        assert_eq!(history(QoS::ExactlyOnce, &[0, 1], &[0, 1, 2]), []);
        let violations = history(QoS::ExactlyOnce, &[1], &[0, 0]);
        assert!(
            matches!(violations.as_slice(), [Violation::Repeated(_), Violation::Lost(_)]),
            "{violations:?}"
        );
    }

    #[test]
    fn the_first_arrivals_must_be_in_order() {
        let violations = history(QoS::AtLeastOnce, &[], &[0, 2, 1]);
        assert!(matches!(violations.as_slice(), [Violation::Disordered(_)]), "{violations:?}");
    }

    #[test]
    fn what_was_never_sent_must_not_arrive() {
        let violations = history(QoS::AtLeastOnce, &[], &[9]);
        assert!(matches!(violations.as_slice(), [Violation::Invented(_)]), "{violations:?}");
    }
}
