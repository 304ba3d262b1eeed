//! A client written from the standard alone, with its own account of every message.

use std::collections::{BTreeSet, VecDeque};

use mqtt_codec::{Ack, Packet, Publish, QoS, ReasonCode};

use crate::script::*;

/// A message from the client that it still owes.
#[derive(Clone, Copy, Debug)]
struct Owed {
    number: u32,
    qos: QoS,
    released: bool,
}

/// The client's side, from the standard.
pub(crate) struct Client {
    pub(crate) published: u32,
    next_id: u16,
    /// Not yet sent for the first time.
    waiting: VecDeque<(u32, QoS)>,
    /// In the order they were sent.
    owed: Vec<(u16, Owed)>,
    /// Messages whose acknowledgement this connection still owes, in the order it must come.
    unanswered: VecDeque<u16>,
    /// QoS 2 messages that were read and are not released.
    received: BTreeSet<u16>,
    /// Acknowledgements the client is late with.
    pub(crate) due: VecDeque<Packet>,
    pub(crate) accepted: Vec<(u32, QoS)>,
    pub(crate) refused: Vec<(u32, QoS)>,
    pub(crate) read: Vec<(u32, QoS)>,
}

pub(crate) fn number_of(publish: &Publish) -> u32 {
    u32::from_be_bytes(publish.payload.as_ref().try_into().unwrap())
}

impl Client {
    pub(crate) fn new() -> Self {
        Self {
            published: 0,
            next_id: u16::MAX - 3,
            waiting: VecDeque::new(),
            owed: Vec::new(),
            unanswered: VecDeque::new(),
            received: BTreeSet::new(),
            due: VecDeque::new(),
            accepted: Vec::new(),
            refused: Vec::new(),
            read: Vec::new(),
        }
    }

    /// It has a new message.
    pub(crate) fn publish(&mut self, qos: QoS) {
        self.waiting.push_back((self.published, qos));
        self.published += 1;
    }

    /// What it sends now, with at most `maximum` unacknowledged.
    pub(crate) fn sends(&mut self, maximum: u16) -> Option<Packet> {
        if self.owed.len() >= usize::from(maximum) {
            return None;
        }
        let (number, qos) = self.waiting.pop_front()?;
        let packet_id = self.vacant_id();
        self.owed.push((packet_id, Owed { number, qos, released: false }));
        self.unanswered.push_back(packet_id);
        Some(Packet::Publish(publish(number, qos, packet_id)))
    }

    /// It reads `packet`, and may answer at once.
    pub(crate) fn reads(&mut self, packet: Packet) -> Option<Packet> {
        match packet {
            Packet::Publish(publish) => self.handle_publish(&publish),
            Packet::PubRel(ack) => {
                self.received.remove(&ack.packet_id.value());
                self.due.push_back(pubcomp(ack.packet_id.value()));
            }
            Packet::PubAck(ack) => self.handle_puback(&ack),
            Packet::PubRec(ack) => return self.handle_pubrec(&ack),
            Packet::PubComp(ack) => self.handle_pubcomp(&ack),
            other => panic!("{other:?}"),
        }
        None
    }

    fn vacant_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.wrapping_add(1).max(1);
            if self.owed.iter().all(|(packet_id, _)| *packet_id != self.next_id) {
                return self.next_id;
            }
        }
    }

    fn handle_publish(&mut self, publish: &Publish) {
        let packet_id = publish.packet_id.unwrap().value();
        let read = (number_of(publish), publish.qos);
        if publish.qos == QoS::AtLeastOnce {
            self.read.push(read);
            self.due.push_back(puback(packet_id));
            return;
        }
        if self.received.insert(packet_id) {
            self.read.push(read);
        }
        self.due.push_back(pubrec(packet_id));
    }

    /// The owed message of an acknowledgement that is the next in order.
    fn answered(&mut self, ack: &Ack, qos: QoS) -> usize {
        let packet_id = ack.packet_id.value();
        assert_eq!(self.unanswered.pop_front(), Some(packet_id), "out of order");
        let at = self.owed.iter().position(|(owed, _)| *owed == packet_id).unwrap();
        assert_eq!(self.owed[at].1.qos, qos);
        at
    }

    fn done(&mut self, at: usize, reason: ReasonCode) {
        let (_, Owed { number, qos, .. }) = self.owed.remove(at);
        let list = if reason.is_error() { &mut self.refused } else { &mut self.accepted };
        list.push((number, qos));
    }

    fn handle_puback(&mut self, ack: &Ack) {
        let at = self.answered(ack, QoS::AtLeastOnce);
        self.done(at, ack.reason);
    }

    fn handle_pubrec(&mut self, ack: &Ack) -> Option<Packet> {
        let at = self.answered(ack, QoS::ExactlyOnce);
        if ack.reason.is_error() {
            self.done(at, ack.reason);
            return None;
        }
        self.owed[at].1.released = true;
        Some(pubrel(ack.packet_id.value()))
    }

    fn handle_pubcomp(&mut self, ack: &Ack) {
        // Not found if a PUBCOMP was lost with its connection.
        let packet_id = ack.packet_id.value();
        let at = self.owed.iter().position(|(owed, _)| *owed == packet_id).unwrap();
        assert!(self.owed[at].1.released);
        self.done(at, ReasonCode::Success);
    }

    /// The message it owes under this identifier.
    pub(crate) fn owed_as(&self, packet_id: u16) -> (u32, QoS) {
        let (_, owed) = self.owed.iter().find(|(owed, _)| *owed == packet_id).unwrap();
        (owed.number, owed.qos)
    }

    /// Whether it has nothing to send any more.
    pub(crate) fn is_done(&self) -> bool {
        self.owed.is_empty() && self.waiting.is_empty()
    }

    /// A new connection: what is sent again.
    pub(crate) fn resume(&mut self) -> VecDeque<Packet> {
        self.due.clear();
        self.unanswered.clear();
        let mut packets = VecDeque::new();
        for (packet_id, owed) in &self.owed {
            if owed.released {
                packets.push_back(pubrel(*packet_id));
                continue;
            }
            self.unanswered.push_back(*packet_id);
            let again = Publish { dup: true, ..publish(owed.number, owed.qos, *packet_id) };
            packets.push_back(Packet::Publish(again));
        }
        packets
    }
}
