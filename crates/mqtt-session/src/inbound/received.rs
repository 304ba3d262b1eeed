//! Identifiers of QoS 2 messages that came from the client and are not released yet: what makes
//! a repeated PUBLISH no second message `[MQTT-4.3.3-10]`.

use std::collections::VecDeque;

use mqtt_codec::PacketId;

use crate::session::Resumed;

/// How far one QoS 2 message from the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It came on an earlier connection only, and may have got its PUBREC there.
    Earlier,
    /// The broker is at it.
    Open,
    /// The broker has it: PUBREC is sent or next in its order.
    Accepted,
    /// Its identifier is being given back.
    Releasing,
}

/// One QoS 2 message from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    packet_id: PacketId,
    pub(crate) progress: Progress,
    /// Whether it came on this connection and takes one of the server's receive maximum.
    pub(crate) counted: bool,
}

/// The receipts of a connection, sorted by identifier. Clients use identifiers in ascending order,
/// so both ends are where things change.
#[derive(Debug, Default)]
pub(crate) struct ReceivedIds {
    receipts: VecDeque<Receipt>,
}

impl ReceivedIds {
    /// Those of earlier connections, of which nothing is counted yet `[MQTT-4.9.0-1]`.
    pub(crate) fn of_earlier(resumed: &Resumed) -> Self {
        let mut received = Self::default();
        for &packet_id in &resumed.taken {
            received.insert(Receipt { packet_id, progress: Progress::Accepted, counted: false });
        }
        for &packet_id in &resumed.incoming {
            received.insert(Receipt { packet_id, progress: Progress::Earlier, counted: false });
        }
        received
    }

    pub(crate) fn lookup(&self, packet_id: PacketId) -> Option<&Receipt> {
        self.receipts.get(self.find(packet_id).ok()?)
    }

    pub(crate) fn lookup_mut(&mut self, packet_id: PacketId) -> Option<&mut Receipt> {
        let at = self.find(packet_id).ok()?;
        self.receipts.get_mut(at)
    }

    /// Adds a message that the broker is about to get.
    pub(crate) fn open(&mut self, packet_id: PacketId) {
        self.insert(Receipt { packet_id, progress: Progress::Open, counted: true });
    }

    pub(crate) fn remove(&mut self, packet_id: PacketId) -> Option<Receipt> {
        self.receipts.remove(self.find(packet_id).ok()?)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receipts.is_empty()
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        if self.receipts.is_empty() {
            self.receipts = VecDeque::new();
        }
    }

    fn insert(&mut self, receipt: Receipt) {
        if let Err(at) = self.find(receipt.packet_id) {
            self.receipts.insert(at, receipt);
        }
    }

    fn find(&self, packet_id: PacketId) -> Result<usize, usize> {
        match self.receipts.back() {
            Some(last) if last.packet_id < packet_id => Err(self.receipts.len()),
            _ => self.receipts.binary_search_by_key(&packet_id, |receipt| receipt.packet_id),
        }
    }
}
