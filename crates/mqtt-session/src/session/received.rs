//! Identifiers of QoS 2 messages that came from the client and are not released yet: what makes
//! a repeated PUBLISH no second message `[MQTT-4.3.3-10]`.

use std::collections::VecDeque;

use mqtt_codec::{PacketId, ReasonCode};

/// How far one QoS 2 message from the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    packet_id: PacketId,
    /// Whether the broker has answered, so that PUBREC is sent or next in its order.
    pub(crate) accepted: bool,
    /// Whether it came on this connection and takes one of the server's receive maximum.
    pub(crate) counted: bool,
}

/// The receipts of a session, sorted by identifier. Clients use identifiers in ascending order,
/// so both ends are where things change.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReceivedIds {
    receipts: VecDeque<Receipt>,
}

impl ReceivedIds {
    pub(crate) fn get_mut(&mut self, packet_id: PacketId) -> Option<&mut Receipt> {
        let at = self.find(packet_id).ok()?;
        self.receipts.get_mut(at)
    }

    pub(crate) fn contains(&self, packet_id: PacketId) -> bool {
        self.find(packet_id).is_ok()
    }

    /// Adds a message that the broker is about to get.
    pub(crate) fn insert(&mut self, packet_id: PacketId) {
        if let Err(at) = self.find(packet_id) {
            self.receipts.insert(at, Receipt { packet_id, accepted: false, counted: true });
        }
    }

    pub(crate) fn remove(&mut self, packet_id: PacketId) {
        if let Ok(at) = self.find(packet_id) {
            self.receipts.remove(at);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receipts.is_empty()
    }

    /// Records the broker's answer to the message that is on its way to it: whether the client
    /// may release it, or may send its identifier with another message `[MQTT-4.3.3-9]`.
    pub(crate) fn settle(&mut self, packet_id: PacketId, outcome: ReasonCode) {
        let Some(receipt) = self.get_mut(packet_id).filter(|receipt| !receipt.accepted) else {
            return;
        };
        if outcome.is_error() {
            self.remove(packet_id);
        } else {
            receipt.accepted = true;
        }
    }

    /// Prepares for the next connection, on which nothing is counted yet `[MQTT-4.9.0-1]`.
    pub(crate) fn reopen(&mut self) {
        for receipt in &mut self.receipts {
            receipt.counted = false;
        }
    }

    /// Gives memory back that an idle session does not need.
    pub(crate) fn shrink(&mut self) {
        if self.receipts.is_empty() {
            self.receipts = VecDeque::new();
        }
    }

    fn find(&self, packet_id: PacketId) -> Result<usize, usize> {
        match self.receipts.back() {
            Some(last) if last.packet_id < packet_id => Err(self.receipts.len()),
            _ => self.receipts.binary_search_by_key(&packet_id, |receipt| receipt.packet_id),
        }
    }
}
