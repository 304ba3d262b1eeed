//! What is in memory of the queue of a session that has a connection.
//!
//! Owns the messages on their way to the client and some behind them. Invariant: all messages of the queue
//! below `loaded` that are not done are here, in order, and those in front are in flight. Bounded whatever the
//! length of the queue. Does not decide what is done: see `queue`.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt_codec::Message;
use smallvec::SmallVec;

use crate::row::EntryHead;

/// More bytes are not in flight to one client at a time, unless it is a single message.
pub(crate) const MOST_IN_FLIGHT_BYTES: u64 = 4 << 20;
/// The places in flight to one client lie less than this apart.
pub(crate) const MOST_SPAN: u64 = 16_384;
/// More bytes are not kept in memory of one queue beside those in flight, unless it is a single message.
const MOST_BYTES: u64 = 1 << 20;
/// QoS 0 messages that wait for one client.
const MOST_QOS0: usize = 1_000;
/// Once they have so many bytes no more are taken.
const MOST_QOS0_BYTES: u64 = 1 << 20;
/// Retained messages follow when there are fewer.
const FEW_QOS0: usize = 128;

/// The loaded part of one queue.
#[derive(Debug)]
pub(crate) struct Window {
    entries: VecDeque<Loaded>,
    /// How many in front are in flight.
    flying: usize,
    /// Those of them that are not done, and their bytes.
    in_flight: usize,
    in_flight_bytes: u64,
    bytes: u64,
    /// What has a lower place was loaded.
    loaded: u64,
    /// What has a place up to here may have been sent by an earlier connection.
    repeated: u64,
    /// What has a place up to here has arrived by this connection, although it was not sent from here.
    arrived: u64,
    chunks: VecDeque<LoadedChunk>,
    /// With what each counts for, in bytes.
    qos0: VecDeque<(EntryHead, u64, Arc<Message>)>,
    qos0_bytes: u64,
    /// Whether the proxy was told that there is something.
    pub(crate) announced: bool,
    /// Whether a scan of retained messages is to go on.
    pub(crate) scanning: bool,
}

/// A message of the queue.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) place: u64,
    pub(crate) weight: u64,
    pub(crate) head: EntryHead,
    pub(crate) message: Arc<Message>,
    done: bool,
}

impl Loaded {
    pub(crate) const fn new(
        place: u64,
        weight: u64,
        head: EntryHead,
        message: Arc<Message>,
    ) -> Self {
        Self { place, weight, head, message, done: false }
    }
}

/// A row that was loaded, so that it is not read again to be deleted.
#[derive(Debug)]
pub(crate) struct LoadedChunk {
    pub(crate) last: u64,
    pub(crate) bodies: SmallVec<[u64; 2]>,
}

impl Window {
    /// Nothing is loaded. `swept`: the lowest place a chunk may end at; `repeated`: what earlier connections may have
    /// been given.
    pub(crate) const fn new(swept: u64, repeated: u64) -> Self {
        Self {
            entries: VecDeque::new(),
            flying: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            bytes: 0,
            loaded: swept,
            repeated,
            arrived: 0,
            chunks: VecDeque::new(),
            qos0: VecDeque::new(),
            qos0_bytes: 0,
            announced: false,
            scanning: false,
        }
    }

    pub(crate) const fn loaded(&self) -> u64 {
        self.loaded
    }

    pub(crate) const fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(crate) const fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Whether more is to be kept in memory behind what is in flight.
    pub(crate) fn has_room(&self, receive_maximum: u16) -> bool {
        let most = usize::from(receive_maximum).clamp(32, 1024) * 2;
        self.entries.len() - self.flying < most && self.bytes - self.in_flight_bytes < MOST_BYTES
    }

    /// All that is here is in flight or done: counts it so.
    pub(crate) fn pass_done(&mut self) {
        if self.next().is_none() {
            self.flying = self.entries.len();
        }
    }

    /// Takes what has the next place.
    pub(crate) fn push(&mut self, entry: Loaded) {
        self.loaded = entry.place + 1;
        self.bytes += entry.weight;
        self.entries.push_back(entry);
    }

    /// All below `place` is loaded.
    pub(crate) fn skip_to(&mut self, place: u64) {
        self.loaded = self.loaded.max(place);
    }

    /// Remembers a row whose entries were all loaded, or done.
    pub(crate) fn push_chunk(&mut self, chunk: LoadedChunk) {
        self.chunks.push_back(chunk);
    }

    /// Takes out a row that ends below the floor.
    pub(crate) fn pop_chunk(&mut self, floor: u64) -> Option<LoadedChunk> {
        self.chunks.pop_front_if(|chunk| chunk.last < floor)
    }

    /// Takes a QoS 0 message. False if there is no room.
    pub(crate) fn push_qos0(
        &mut self,
        head: EntryHead,
        weight: u64,
        message: Arc<Message>,
    ) -> bool {
        if !self.has_room_for_qos0() {
            return false;
        }
        self.qos0_bytes += weight;
        self.qos0.push_back((head, weight, message));
        true
    }

    pub(crate) fn has_room_for_qos0(&self) -> bool {
        self.qos0.len() < MOST_QOS0 && self.qos0_bytes < MOST_QOS0_BYTES
    }

    /// Whether so few QoS 0 messages wait that retained ones may follow.
    pub(crate) fn has_few_qos0(&self) -> bool {
        self.qos0.len() < FEW_QOS0 && self.qos0_bytes < MOST_QOS0_BYTES / 2
    }

    pub(crate) fn pop_qos0(&mut self) -> Option<(EntryHead, Arc<Message>)> {
        let (head, weight, message) = self.qos0.pop_front()?;
        self.qos0_bytes -= weight;
        Some((head, message))
    }

    pub(crate) fn qos0_len(&self) -> usize {
        self.qos0.len()
    }

    /// The next to be sent.
    pub(crate) fn next(&self) -> Option<&Loaded> {
        self.entries.iter().skip(self.flying).find(|entry| !entry.done)
    }

    /// Whether one more may be in flight.
    pub(crate) fn may_send(&self, receive_maximum: u16, weight: u64) -> bool {
        let bytes = self.in_flight_bytes.saturating_add(weight);
        self.in_flight < usize::from(receive_maximum)
            && (self.in_flight == 0 || bytes <= MOST_IN_FLIGHT_BYTES)
    }

    /// The next one is in flight.
    pub(crate) fn send(&mut self) -> Option<&Loaded> {
        while self.entries.get(self.flying).is_some_and(|entry| entry.done) {
            self.flying += 1;
        }
        let entry = self.entries.get(self.flying)?;
        self.flying += 1;
        self.in_flight += 1;
        self.in_flight_bytes += entry.weight;
        Some(entry)
    }

    /// A message is over. What it counted for, if it is here.
    pub(crate) fn settle(&mut self, place: u64) -> Option<u64> {
        let at = self.entries.binary_search_by_key(&place, |entry| entry.place).ok()?;
        let entry = &mut self.entries[at];
        if entry.done {
            return None;
        }
        entry.done = true;
        let weight = entry.weight;
        if at < self.flying {
            self.in_flight -= 1;
            self.in_flight_bytes -= weight;
        }
        while self.entries.pop_front_if(|entry| entry.done).is_some() {
            self.flying = self.flying.saturating_sub(1);
        }
        self.bytes = if self.entries.is_empty() { 0 } else { self.bytes - weight };
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries = VecDeque::new();
        }
        Some(weight)
    }

    /// A connection goes on after its stream was broken: what came up to `arrived` is in flight, all else is
    /// to be sent again.
    pub(crate) fn resume(&mut self, arrived: u64) {
        self.arrived = arrived;
        self.flying = self.entries.partition_point(|entry| entry.place <= arrived);
        let flying = self.entries.iter().take(self.flying).filter(|entry| !entry.done);
        (self.in_flight, self.in_flight_bytes) =
            flying.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.weight));
        self.announced = false;
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
