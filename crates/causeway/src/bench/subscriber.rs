//! The receiving side of a connection, without its socket: acknowledges what arrives and has every
//! message judged. A message counts as received when it first arrives, as its acknowledgement
//! leaves with the same write.

use std::sync::Arc;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use mqtt_codec::{QoS, Version};

use super::check::{Track, Verdict, Verdicts};
use super::flow::{Flow, Lane, settle};
use super::stamp::Stamp;
use super::wire::{Delivery, Frame, first, push_ack};

/// The moment of a read and the latencies that count.
#[derive(Debug)]
pub(super) struct Arrival<'a> {
    pub(super) now_ns: u64,
    /// Start and end of the send times whose latencies count.
    pub(super) measured: (u64, u64),
    /// In nanoseconds.
    pub(super) latencies: &'a mut Histogram<u64>,
}

/// One publisher as this subscriber sees it.
#[derive(Debug, Default)]
struct Source {
    track: Track,
    verdicts: Verdicts,
}

/// One subscriber.
#[derive(Debug)]
pub(super) struct Subscriber {
    flow: Arc<Flow>,
    /// Place in the flow.
    number: usize,
    version: Version,
    /// By lane.
    sources: Vec<Source>,
    /// Messages of publishers that are not of this flow.
    foreign: u64,
    /// Lanes that have moved since they were last asked for, with repetitions.
    moved: Vec<usize>,
}

impl Subscriber {
    pub(super) fn new(flow: Arc<Flow>, number: usize, version: Version) -> Self {
        let sources = flow.lanes.iter().map(|_| Source::default()).collect();
        Self { flow, number, version, sources, foreign: 0, moved: Vec::new() }
    }

    /// Takes a packet of the broker and appends the answer to `out`. Returns how many messages it
    /// brought for the first time.
    pub(super) fn handle(
        &mut self,
        frame: &Frame<'_>,
        arrival: &mut Arrival<'_>,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<u64> {
        match frame.kind() {
            first::PUBLISH => {
                let delivery = frame.publish(self.version)?;
                match delivery.qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => push_ack(out, first::PUBACK, delivery.packet_id),
                    QoS::ExactlyOnce => push_ack(out, first::PUBREC, delivery.packet_id),
                }
                self.receive(&delivery, arrival)
            }
            kind if kind == first::PUBREL & 0xF0 => {
                push_ack(out, first::PUBCOMP, frame.packet_id()?);
                Ok(0)
            }
            first::PINGRESP => Ok(0),
            first::DISCONNECT => bail!("the broker sent DISCONNECT {:02x?}", frame.body),
            other => bail!("a subscriber received a packet of type {other:#04x}"),
        }
    }

    fn receive(
        &mut self,
        delivery: &Delivery<'_>,
        arrival: &mut Arrival<'_>,
    ) -> anyhow::Result<u64> {
        let stamp = Stamp::decode(delivery.payload)
            .context("a message too short to be of this run: is the topic used elsewhere?")?;
        let Some(lane_at) = self.flow.lane_of(stamp.publisher) else {
            self.foreign += 1;
            return Ok(0);
        };
        let lane = self.flow.lanes.get(lane_at);
        let (Some(lane), Some(source)) = (lane, self.sources.get_mut(lane_at)) else {
            bail!("a flow without the lane it has just named");
        };
        let verdict = source.judge(&stamp, lane);
        source.verdicts.count(verdict);
        if !matches!(verdict, Verdict::InOrder | Verdict::OutOfOrder) {
            return Ok(0);
        }
        lane.reach(self.number, source.reached(lane));
        if self.moved.last() != Some(&lane_at) {
            self.moved.push(lane_at);
        }
        let (from, to) = arrival.measured;
        if (from..to).contains(&stamp.sent_ns) {
            arrival.latencies.saturating_record(arrival.now_ns.saturating_sub(stamp.sent_ns));
        }
        Ok(1)
    }

    /// Takes the lanes that have moved since the last call, with repetitions.
    pub(super) fn take_moved(&mut self) -> impl Iterator<Item = &Lane> {
        settle();
        let flow = &self.flow;
        self.moved.drain(..).filter_map(|lane| flow.lanes.get(lane))
    }

    /// The verdicts on all that arrived.
    pub(super) fn verdicts(&self) -> Verdicts {
        let mut sum = Verdicts { foreign: self.foreign, ..Verdicts::default() };
        for source in &self.sources {
            sum.add(source.verdicts);
        }
        sum
    }
}

impl Source {
    fn judge(&mut self, stamp: &Stamp, lane: &Lane) -> Verdict {
        match &lane.seen {
            None => self.track.judge(stamp.sequence, lane.sent()),
            Some(seen) => self.track.judge_shared(stamp.sequence, lane.sent(), seen),
        }
    }

    /// What the window is to know.
    const fn reached(&self, lane: &Lane) -> u64 {
        if lane.seen.is_some() { self.verdicts.unique } else { self.track.next() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::flow::{Home, Sharing};
    use super::super::stamp::STAMP_LEN;
    use super::super::wire::Template;
    use super::*;

    fn subscriber(sent: u64) -> Subscriber {
        let lane = Lane::new(Sharing::Everyone, 1, 0, Home { worker: 0, peer: 0 });
        lane.advance(sent);
        let flow = Arc::new(Flow { first_publisher: 3, lanes: vec![lane] });
        Subscriber::new(flow, 0, Version::V5)
    }

    fn deliver(subscriber: &mut Subscriber, publisher: u32, sequence: u64) -> Vec<u8> {
        let template = Template::new(Version::V5, "t", QoS::ExactlyOnce, STAMP_LEN);
        let mut packet = Vec::new();
        let stamp = Stamp { sent_ns: 100, publisher, sequence };
        template.write(&mut packet, 9, &stamp.encode());
        let mut latencies = Histogram::new(3).unwrap();
        let mut arrival =
            Arrival { now_ns: 150, measured: (0, u64::MAX), latencies: &mut latencies };
        let mut out = Vec::new();
        let frame = Frame::cut(&packet).unwrap().unwrap();
        subscriber.handle(&frame, &mut arrival, &mut out).unwrap();
        out
    }

    #[test]
    fn a_message_is_acknowledged_and_then_released() {
        let mut subscriber = subscriber(1);
        assert_eq!(deliver(&mut subscriber, 3, 0), [first::PUBREC, 2, 0, 9]);
        let pubrel = Frame { first: first::PUBREL, body: &[0, 9], len: 4 };
        let mut latencies = Histogram::new(3).unwrap();
        let mut arrival = Arrival { now_ns: 0, measured: (0, 0), latencies: &mut latencies };
        let mut out = Vec::new();
        subscriber.handle(&pubrel, &mut arrival, &mut out).unwrap();
        assert_eq!(out, [first::PUBCOMP, 2, 0, 9]);
    }

    #[test]
    fn forged_messages_are_told_from_true_ones() {
        let mut subscriber = subscriber(10);
        let messages = [(3, 0), (3, 2), (3, 1), (3, 1), (3, 10), (2, 0), (4, 3), (3, 3)];
        for (publisher, sequence) in messages {
            deliver(&mut subscriber, publisher, sequence);
        }
        let expected = Verdicts { unique: 4, duplicates: 1, out_of_order: 1, foreign: 3 };
        assert_eq!(subscriber.verdicts(), expected);
        assert_eq!(subscriber.take_moved().count(), 1);
    }
}
