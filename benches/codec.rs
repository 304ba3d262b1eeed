//! What it costs to decode and to encode a PUBLISH.
//!
//! `cargo bench -p benches --bench codec`. Prints nanoseconds per packet, the best of some rounds.
//! Packets stand in a buffer as after one large read; taking them out and dropping them is what is
//! timed, filling the buffer is not. Does not measure sockets or sessions.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mqtt_codec::{
    Decoder, Message, PacketId, PublishHead, PublishProperties, QoS, TopicName, Version,
};

/// Packets in the buffer at a time.
const BATCH: usize = 64;

/// Batches per round.
const BATCHES: usize = 100;

/// A figure is the best of this many rounds.
const ROUNDS: usize = 100;

struct Case {
    name: &'static str,
    version: Version,
    qos: QoS,
    properties: PublishProperties,
}

fn main() {
    println!("nanoseconds per PUBLISH, topic of 24 bytes, best of {ROUNDS} rounds");
    println!("{:<28}{:>8}{:>10}{:>10}{:>14}", "", "payload", "decode", "encode", "encode head");
    for case in cases() {
        for payload in [16, 256, 8_192] {
            let message = message(&case, payload);
            let head = head(&case);
            println!(
                "{:<28}{:>8}{:>10.1}{:>10.1}{:>14.1}",
                case.name,
                payload,
                best(|| decode(&case, &head, &message)),
                best(|| encode(&case, &head, &message)),
                best(|| encode_head(&case, &head, &message)),
            );
        }
    }
}

fn cases() -> [Case; 5] {
    let properties = PublishProperties::builder()
        .content_type("application/json")
        .user_property("trace", "0af7651916cd43dd8448eb211c80319c")
        .build()
        .expect("these properties are valid");
    let none = PublishProperties::default;
    let (v3, v5) = (Version::V3_1_1, Version::V5);
    [
        Case { name: "3.1.1, QoS 0", version: v3, qos: QoS::AtMostOnce, properties: none() },
        Case { name: "3.1.1, QoS 1", version: v3, qos: QoS::AtLeastOnce, properties: none() },
        Case { name: "5, QoS 0", version: v5, qos: QoS::AtMostOnce, properties: none() },
        Case { name: "5, QoS 1", version: v5, qos: QoS::AtLeastOnce, properties: none() },
        Case { name: "5, QoS 1, two properties", version: v5, qos: QoS::AtLeastOnce, properties },
    ]
}

fn message(case: &Case, payload: usize) -> Message {
    Message {
        topic: TopicName::new("plant/7/line/12/pressure").expect("this topic is valid"),
        payload: Bytes::from(vec![0x55; payload]),
        qos: case.qos,
        retain: false,
        expiry_secs: None,
        properties: case.properties.clone(),
    }
}

fn head(case: &Case) -> PublishHead {
    let above = case.qos > QoS::AtMostOnce;
    let packet_id = PacketId::new(7).filter(|_| above);
    PublishHead { qos: case.qos, packet_id, ..PublishHead::default() }
}

/// Nanoseconds per packet of the fastest round.
fn best(mut round: impl FnMut() -> Duration) -> f64 {
    let fastest = (0..ROUNDS).map(|_| round()).min().unwrap_or_default();
    fastest.as_secs_f64() * 1e9 / (BATCH * BATCHES) as f64
}

fn decode(case: &Case, head: &PublishHead, message: &Message) -> Duration {
    let mut batch = BytesMut::new();
    for _ in 0..BATCH {
        head.encode(message, case.version, &mut batch).expect("this packet is valid");
    }
    let mut decoder = Decoder::for_version(case.version, u32::MAX);
    let mut source = BytesMut::with_capacity(batch.len());
    let mut spent = Duration::ZERO;
    for _ in 0..BATCHES {
        source.extend_from_slice(&batch);
        let start = Instant::now();
        while let Some(packet) = decoder.decode(&mut source).expect("this packet is valid") {
            black_box(packet);
        }
        spent += start.elapsed();
    }
    spent
}

fn encode(case: &Case, head: &PublishHead, message: &Message) -> Duration {
    timed(|target| {
        black_box(head).encode(black_box(message), case.version, target).expect("it is valid");
    })
}

fn encode_head(case: &Case, head: &PublishHead, message: &Message) -> Duration {
    timed(|target| {
        black_box(head)
            .encode_before_payload(black_box(message), case.version, target)
            .expect("it is valid");
    })
}

/// One buffer for a batch, used again for the next.
fn timed(mut encode: impl FnMut(&mut BytesMut)) -> Duration {
    let mut target = BytesMut::new();
    let start = Instant::now();
    for _ in 0..BATCHES {
        target.clear();
        for _ in 0..BATCH {
            encode(&mut target);
        }
        black_box(&target);
    }
    start.elapsed()
}
