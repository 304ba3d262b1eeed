//! The publishing side of a connection, without its socket: when a message may be sent, what its
//! bytes are, and what the acknowledgements mean.
//!
//! A message is sent only when schedule, budget, window and inflight limit all allow it. Its time
//! stamp is the moment it is written, or the moment it was due when something other than its
//! schedule held it back: a broker that stops reading cannot hide the wait.

use std::sync::Arc;

use anyhow::bail;
use mqtt_codec::QoS;

use super::board::{Board, Stage};
use super::flow::{Flow, Lane};
use super::stamp::{STAMP_LEN, Stamp};
use super::wire::{Frame, Template, first, push_ack};

/// Bytes a publisher writes at a time, at most (one message may be longer).
const BATCH_BYTES: usize = 64 * 1024;
const NANOS: f64 = 1e9;

/// Messages at a fixed rate: this publisher's turn among all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Messages per second of all publishers.
    pub(super) rate: f64,
    pub(super) publishers: u32,
}

impl Pace {
    /// When message `index` of publisher `number` is due, in nanoseconds after the start; never
    /// before [`Self::due`] counts it.
    pub(super) fn due_ns(&self, number: u32, index: u64) -> u64 {
        let turn = index as f64 * f64::from(self.publishers) + f64::from(number);
        (turn / self.rate * NANOS) as u64 + 1
    }

    /// How many messages of publisher `number` are due by `elapsed_ns`.
    fn due(&self, number: u32, elapsed_ns: u64) -> u64 {
        let turns = elapsed_ns as f64 / NANOS * self.rate - f64::from(number);
        if turns < 0.0 { 0 } else { (turns / f64::from(self.publishers)) as u64 + 1 }
    }
}

/// The packet ids of a publisher: few, used again as soon as they are free.
#[derive(Debug)]
struct PacketIds {
    free: Vec<u16>,
    /// By packet id.
    taken: Vec<bool>,
}

impl PacketIds {
    fn new(most: u16) -> Self {
        Self { free: (1..=most).rev().collect(), taken: vec![false; usize::from(most) + 1] }
    }

    fn take(&mut self) -> Option<u16> {
        let id = self.free.pop()?;
        if let Some(taken) = self.taken.get_mut(usize::from(id)) {
            *taken = true;
        }
        Some(id)
    }

    /// Frees `id`; false when it was not taken.
    fn give_back(&mut self, id: u16) -> bool {
        let taken = self.taken.get_mut(usize::from(id)).is_some_and(std::mem::take);
        if taken {
            self.free.push(id);
        }
        taken
    }
}

/// What a publisher is and may do.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) flow: Arc<Flow>,
    /// Place in the flow.
    pub(super) lane: usize,
    pub(super) template: Template,
    pub(super) qos: QoS,
    pub(super) inflight: u16,
    pub(super) pace: Option<Pace>,
}

/// One publisher.
#[derive(Debug)]
pub(super) struct Publisher {
    outline: Outline,
    number: u32,
    /// Messages sent so far: the number of the next.
    sequence: u64,
    ids: PacketIds,
    /// The run of the board this publisher is in, and its first number there.
    run: u64,
    run_base: u64,
    stalls: u64,
    /// Waits for the window.
    waiting: bool,
    /// Something other than the schedule kept messages back.
    held: bool,
    /// Publishes answered with an error.
    pub(super) refused: u64,
}

impl Publisher {
    pub(super) fn new(outline: Outline) -> Self {
        let most = if outline.qos == QoS::AtMostOnce { 0 } else { outline.inflight };
        Self {
            number: outline.flow.first_publisher + outline.lane as u32,
            outline,
            sequence: 0,
            ids: PacketIds::new(most),
            run: 0,
            run_base: 0,
            stalls: 0,
            waiting: false,
            held: false,
            refused: 0,
        }
    }

    fn lane(&self) -> &Lane {
        self.outline.flow.lanes.get(self.outline.lane).expect("made with the flow")
    }

    /// Appends the messages that may be sent now to `out`; returns how many.
    pub(super) fn publish(&mut self, board: &Board, out: &mut Vec<u8>) -> u64 {
        if board.stage() != Stage::Run {
            return 0;
        }
        if self.run != board.run() {
            self.run = board.run();
            self.run_base = self.sequence;
            self.held = false;
        }
        let now_ns = board.now_ns();
        let owed = self.owed(board, now_ns);
        let allowed = owed.min(self.allowed(board));
        let batch = (BATCH_BYTES / self.outline.template.len()).max(1) as u64;
        let count = allowed.min(batch);
        let start = self.sequence;
        // Before the bytes leave: a receiver judges by it what can exist.
        self.lane().advance(start + count);
        for _ in 0..count {
            self.write_one(board, now_ns, out);
        }
        self.held = owed > count;
        count
    }

    /// How many messages schedule and budget ask for.
    fn owed(&self, board: &Board, now_ns: u64) -> u64 {
        let done = self.sequence - self.run_base;
        let budget = board.budget().saturating_sub(done);
        let Some(pace) = &self.outline.pace else { return budget };
        let elapsed_ns = now_ns.saturating_sub(board.run_from_ns());
        pace.due(self.number, elapsed_ns).saturating_sub(done).min(budget)
    }

    /// How many messages window and inflight limit allow.
    fn allowed(&mut self, board: &Board) -> u64 {
        if self.stalls != board.stalls() {
            self.stalls = board.stalls();
            self.lane().forgive();
        }
        let open = self.lane().open();
        if self.waiting && open < self.lane().worth_waking() {
            return 0;
        }
        self.waiting = open == 0 && self.lane().wait();
        match self.outline.qos {
            QoS::AtMostOnce => open,
            QoS::AtLeastOnce | QoS::ExactlyOnce => open.min(self.ids.free.len() as u64),
        }
    }

    fn write_one(&mut self, board: &Board, now_ns: u64, out: &mut Vec<u8>) {
        let id = self.ids.take().unwrap_or(0);
        let stamp = Stamp {
            sent_ns: self.sent_ns(board, now_ns),
            publisher: self.number,
            sequence: self.sequence,
        };
        if let Some(seen) = &self.lane().seen {
            seen.advance(self.sequence);
        }
        let bytes: [u8; STAMP_LEN] = stamp.encode();
        self.outline.template.write(out, id, &bytes);
        self.sequence += 1;
    }

    fn sent_ns(&self, board: &Board, now_ns: u64) -> u64 {
        match &self.outline.pace {
            Some(pace) if self.held => {
                let index = self.sequence - self.run_base;
                board.run_from_ns() + pace.due_ns(self.number, index)
            }
            _ => now_ns,
        }
    }

    /// Takes an answer of the broker; appends a PUBREL to `out` where one is due. Returns how
    /// many publishes it completed.
    pub(super) fn handle(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> anyhow::Result<u64> {
        match frame.kind() {
            first::PUBREC if frame.reason() < 0x80 => {
                push_ack(out, first::PUBREL, frame.packet_id()?);
                return Ok(0);
            }
            first::PUBACK | first::PUBREC | first::PUBCOMP => {}
            first::PINGRESP => return Ok(0),
            first::DISCONNECT => bail!("the broker sent DISCONNECT {:02x?}", frame.body),
            other => bail!("a publisher received a packet of type {other:#04x}"),
        }
        let id = frame.packet_id()?;
        if !self.ids.give_back(id) {
            bail!("the broker acknowledged packet id {id}, which is not in use");
        }
        self.refused += u64::from(frame.reason() >= 0x80);
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::flow::{Home, Sharing};
    use super::*;
    use mqtt_codec::Version;

    fn publisher(qos: QoS, inflight: u16, window: u64) -> Publisher {
        let home = Home { worker: 0, peer: 0 };
        let lane = Lane::new(Sharing::Everyone, 1, window, home);
        let flow = Arc::new(Flow { first_publisher: 0, lanes: vec![lane] });
        let template = Template::new(Version::V3_1_1, "t", qos, STAMP_LEN);
        Publisher::new(Outline { flow, lane: 0, template, qos, inflight, pace: None })
    }

    #[test]
    fn a_schedule_gives_each_publisher_its_turn() {
        let pace = Pace { rate: 1_000.0, publishers: 2 };
        assert_eq!((pace.due(0, 0), pace.due(1, 0)), (1, 0));
        assert_eq!((pace.due(0, 1_500_000), pace.due(1, 1_500_000)), (1, 1));
        assert_eq!((pace.due(0, 2_500_000), pace.due(1, 2_500_000)), (2, 1));
        assert_eq!(pace.due_ns(1, 3), 7_000_001);
        assert_eq!(pace.due(0, 10_000_000_500) + pace.due(1, 10_000_000_500), 10_001);
    }

    #[test]
    fn a_publisher_stops_at_window_inflight_limit_and_budget() {
        let board = Board::new(1);
        let mut out = Vec::new();
        let mut at_most_once = publisher(QoS::AtMostOnce, 5, 7);
        assert_eq!(at_most_once.publish(&board, &mut out), 0);
        board.start_run(100);
        assert_eq!(at_most_once.publish(&board, &mut out), 7);
        assert_eq!(at_most_once.publish(&board, &mut out), 0);
        assert_eq!(publisher(QoS::AtLeastOnce, 5, 7).publish(&board, &mut out), 5);
        assert_eq!(publisher(QoS::AtMostOnce, 5, 0).publish(&board, &mut out), 100);
    }

    #[test]
    fn an_exactly_once_publish_ends_with_pubcomp() {
        let board = Board::new(1);
        board.start_run(10);
        let mut publisher = publisher(QoS::ExactlyOnce, 1, 0);
        let mut out = Vec::new();
        assert_eq!(publisher.publish(&board, &mut out), 1);
        let mut answers = Vec::new();
        let pubrec = Frame { first: first::PUBREC, body: &[0, 1], len: 4 };
        assert_eq!(publisher.handle(&pubrec, &mut answers).unwrap(), 0);
        assert_eq!(answers, [first::PUBREL, 2, 0, 1]);
        assert_eq!(publisher.publish(&board, &mut out), 0);
        let pubcomp = Frame { first: first::PUBCOMP, body: &[0, 1], len: 4 };
        assert_eq!(publisher.handle(&pubcomp, &mut answers).unwrap(), 1);
        assert!(publisher.handle(&pubcomp, &mut answers).is_err());
        assert_eq!(publisher.publish(&board, &mut out), 1);
    }

    #[test]
    fn a_refused_publish_is_counted_and_frees_its_packet_id() {
        let board = Board::new(1);
        board.start_run(10);
        let mut publisher = publisher(QoS::ExactlyOnce, 1, 0);
        let mut out = Vec::new();
        publisher.publish(&board, &mut out);
        let refusal = Frame { first: first::PUBREC, body: &[0, 1, 0x97], len: 5 };
        assert_eq!(publisher.handle(&refusal, &mut out).unwrap(), 1);
        assert_eq!(publisher.refused, 1);
    }
}
