//! What one recipient of a message costs: found in the index, and the message encoded for it.
//!
//! `cargo bench -p benches --bench fanout`. Prints nanoseconds per recipient for one message with 1 to 10,000
//! recipients, the best of some rounds. Queues, tasks and sockets are not in it: `causeway bench fanout` measures those.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mqtt_codec::{
    Message, PacketId, PublishHead, PublishProperties, QoS, TopicFilter, TopicName, Version,
};
use topic_index::TopicIndex;

/// A figure is the best of this many rounds.
const ROUNDS: usize = 50;

fn main() {
    println!("nanoseconds per recipient, topic of 24 bytes, best of {ROUNDS} rounds");
    println!(
        "{:>10}{:>10}{:>12}{:>12}{:>12}",
        "recipients", "payload", "find", "encode v4", "encode v5"
    );
    for recipients in [1, 100, 1_000, 10_000] {
        for payload in [16, 256] {
            let message = message(payload);
            let index = index(recipients);
            println!(
                "{recipients:>10}{payload:>10}{:>12.1}{:>12.1}{:>12.1}",
                best(recipients, || find(&index, &message)),
                best(recipients, || encode(recipients, &message, Version::V3_1_1)),
                best(recipients, || encode(recipients, &message, Version::V5)),
            );
        }
    }
}

fn message(payload: usize) -> Message {
    Message {
        topic: TopicName::new("site/12/device/345/state").expect("a topic name"),
        payload: Bytes::from(vec![7; payload]),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

/// Half of the recipients by the exact topic, half by a wildcard.
fn index(recipients: usize) -> TopicIndex<usize, QoS> {
    let filters = ["site/12/device/345/state", "site/+/device/#"]
        .map(|filter| TopicFilter::new(filter).expect("a topic filter"));
    let mut index = TopicIndex::new();
    for recipient in 0..recipients {
        let [exact, wildcard] = &filters;
        let filter = if recipient % 2 == 0 { exact } else { wildcard };
        index.insert(filter, recipient, QoS::AtLeastOnce);
    }
    index
}

fn find(index: &TopicIndex<usize, QoS>, message: &Message) {
    index.matches(&message.topic, |recipient, qos| {
        black_box((recipient, qos));
    });
}

fn encode(recipients: usize, message: &Message, version: Version) {
    let mut dst = BytesMut::with_capacity(512);
    for recipient in 0..recipients {
        let id = u16::try_from(recipient % 60_000).unwrap_or_default() + 1;
        let head = PublishHead {
            qos: QoS::AtLeastOnce,
            packet_id: PacketId::new(id),
            ..PublishHead::default()
        };
        dst.clear();
        head.encode(message, version, &mut dst).expect("a valid packet");
        black_box(&dst);
    }
}

fn best(recipients: usize, mut work: impl FnMut()) -> f64 {
    let repeat = (20_000 / recipients).max(1);
    let round = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..repeat).for_each(|_| work());
        start.elapsed().as_nanos() as f64 / (repeat * recipients) as f64
    };
    (0..ROUNDS).map(|_| round(&mut work)).fold(f64::INFINITY, f64::min)
}
