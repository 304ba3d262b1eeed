//! One thread of load: an event loop over non-blocking sockets. Many messages per read, many per
//! write, and no allocation per message.
//!
//! It moves bytes between sockets and the publishers and subscribers, which decide everything.
//! Publishers that may have become able to send stand in `due`; nothing else is polled.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as Blocking;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use super::alarm::Alarm;
use super::board::{Board, Counters, Stage, idle_until};
use super::check::Verdicts;
use super::gather::Gather;
use super::publisher::{Pace, Publisher};
use super::subscriber::{Arrival, Subscriber};
use super::wire::{Frame, PINGREQ};

/// Bytes taken from a socket at a time, at most.
const READ_BYTES: usize = 256 * 1024;
/// The waker's token; sockets have their place in `peers`.
const WAKER: Token = Token(usize::MAX);
/// The alarm's token.
const ALARM: Token = Token(usize::MAX - 1);
/// Shortest time between two alarms; a higher rate sends several messages at each.
const SHORTEST_TURN: Duration = Duration::from_micros(50);
/// How long the loop waits for events before it looks around anyway.
const PATIENCE: Duration = Duration::from_millis(100);
/// Largest latency that is told from larger ones, in nanoseconds.
const SLOWEST_NS: u64 = 600_000_000_000;

/// Latencies in nanoseconds, exact to three digits, from a microsecond to ten minutes.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, SLOWEST_NS, 3).expect("the bounds are in order")
}

/// What a connection is for.
#[derive(Debug)]
pub(super) enum Role {
    Publisher(Publisher),
    Subscriber(Subscriber),
}

/// A connection with what is half read and half written on it.
#[derive(Debug)]
struct Peer {
    socket: TcpStream,
    role: Role,
    /// The start of a packet whose end has not come yet.
    rest: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Stands in the worker's `due`.
    due: bool,
}

/// What one worker has seen in the end.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) verdicts: Verdicts,
    pub(super) refused: u64,
    pub(super) latencies: Histogram<u64>,
}

/// What all workers of a run know.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) board: Arc<Board>,
    /// By worker.
    pub(super) wakers: Arc<[Waker]>,
    pub(super) gather: Gather,
    pub(super) pace: Option<Pace>,
    /// Time between two PINGREQ of a connection; zero for none.
    pub(super) ping_every: Duration,
}

/// A thread of load to be.
#[derive(Debug)]
pub(super) struct Worker {
    number: usize,
    around: Surroundings,
    poll: Poll,
    beat: Option<Beat>,
    /// Publishers first, in the order of their numbers.
    peers: Vec<Peer>,
    due: Vec<usize>,
    buffer: Vec<u8>,
    latencies: Histogram<u64>,
    pinged: Instant,
}

/// Makes the poll of a worker and the waker that interrupts it.
pub(super) fn poll_and_waker() -> anyhow::Result<(Poll, Waker)> {
    let poll = Poll::new().context("cannot make an event queue")?;
    let waker = Waker::new(poll.registry(), WAKER).context("cannot make a waker")?;
    Ok((poll, waker))
}

impl Worker {
    pub(super) fn new(number: usize, around: Surroundings, poll: Poll) -> anyhow::Result<Self> {
        let beat = match around.pace {
            Some(pace) => Some(Beat::new(pace, Alarm::new(&poll, ALARM)?)),
            None => None,
        };
        Ok(Self {
            number,
            around,
            poll,
            beat,
            peers: Vec::new(),
            due: Vec::new(),
            buffer: vec![0; READ_BYTES],
            latencies: latencies(),
            pinged: Instant::now(),
        })
    }

    /// Takes over a connection that is ready for its role.
    pub(super) fn adopt(&mut self, socket: Blocking, role: Role) -> anyhow::Result<()> {
        socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        let mut socket = TcpStream::from_std(socket);
        let token = Token(self.peers.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, token, interest).context("cannot register")?;
        let (rest, out) = (Vec::new(), Vec::new());
        self.peers.push(Peer { socket, role, rest, out, written: 0, due: false });
        Ok(())
    }

    /// Carries the load until the stage is [`Stage::Stop`].
    pub(super) fn run(mut self) -> anyhow::Result<Findings> {
        let board = Arc::clone(&self.around.board);
        let mut events = Events::with_capacity(1024);
        while board.stage() != Stage::Stop {
            let patience = self.keep_beat()?;
            match self.poll.poll(&mut events, Some(patience)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                polled => polled.context("cannot wait for events")?,
            }
            let round = Instant::now();
            let packets = self.take_events(&events)?;
            self.publish_due()?;
            self.ping(round)?;
            let nap = self.around.gather.nap(packets, events.iter().count());
            if !nap.is_zero() {
                idle_until(round + nap);
            }
        }
        Ok(self.into_findings())
    }

    /// Marks the publishers whose turn has come and sets the alarm for the next. Returns how long
    /// the loop may wait.
    fn keep_beat(&mut self) -> anyhow::Result<Duration> {
        let mut patience = PATIENCE;
        if let Some(mut beat) = self.beat.take() {
            let publishers = self.peers.iter().take_while(|peer| peer.is_publisher()).count();
            let board = Arc::clone(&self.around.board);
            if board.stage() == Stage::Run && publishers > 0 {
                let place = Place { worker: self.number, workers: self.around.wakers.len() };
                beat.begin(&board);
                while beat.next_ns(place) <= board.now_ns() {
                    self.mark_publisher(beat.advance(publishers));
                }
                patience = patience.min(beat.set_alarm(place, &board)?);
            }
            self.beat = Some(beat);
        }
        Ok(if self.due.is_empty() { patience } else { Duration::ZERO })
    }

    /// Returns how many packets it took.
    fn take_events(&mut self, events: &Events) -> anyhow::Result<usize> {
        // No event at all: look around, in case a wake-up was for a state that has changed since.
        if events.is_empty() && self.due.is_empty() {
            self.mark_all_publishers();
        }
        let mut packets = 0;
        for event in events {
            match event.token() {
                WAKER => self.mark_all_publishers(),
                ALARM => {} // the beat is kept in every round
                _ => packets += self.take_event(event)?,
            }
        }
        Ok(packets)
    }

    fn take_event(&mut self, event: &Event) -> anyhow::Result<usize> {
        let at = event.token().0;
        let readable = event.is_readable() || event.is_read_closed();
        let packets = if readable { self.read(at)? } else { 0 };
        if event.is_writable() && self.peers.get(at).is_some_and(|peer| !peer.out.is_empty()) {
            self.flush(at)?;
            self.mark_publisher(at);
        }
        Ok(packets)
    }

    fn mark_all_publishers(&mut self) {
        for at in 0..self.peers.len() {
            self.mark_publisher(at);
        }
    }

    fn mark_publisher(&mut self, at: usize) {
        let Some(peer) = self.peers.get_mut(at) else { return };
        if peer.is_publisher() && !peer.due {
            peer.due = true;
            self.due.push(at);
        }
    }

    /// Returns how many packets were there.
    fn read(&mut self, at: usize) -> anyhow::Result<usize> {
        let mut packets = 0;
        loop {
            let Some(peer) = self.peers.get_mut(at) else { return Ok(0) };
            let Some(filled) = peer.fill(&mut self.buffer)? else { break };
            let board = &self.around.board;
            let mut arrival = Arrival {
                now_ns: board.now_ns(),
                measured: board.measured(),
                latencies: &mut self.latencies,
            };
            let bytes = self.buffer.get(..filled).unwrap_or_default();
            packets += peer.handle(bytes, &mut arrival, board.counters(self.number))?;
            if filled < self.buffer.len() {
                break;
            }
            if self.peers.get(at).is_some_and(|peer| peer.rest.len() == self.buffer.len()) {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        self.flush(at)?;
        self.mark_publisher(at);
        self.wake_publishers(at);
        Ok(packets)
    }

    /// Wakes the publishers whose window the subscriber at `at` has opened.
    fn wake_publishers(&mut self, at: usize) {
        let Some(peer) = self.peers.get_mut(at) else { return };
        let Role::Subscriber(subscriber) = &mut peer.role else { return };
        let mut local = Vec::new();
        for lane in subscriber.take_moved().filter(|lane| lane.take_waiting()) {
            if lane.home.worker == self.number {
                local.push(lane.home.peer);
            } else if let Some(waker) = self.around.wakers.get(lane.home.worker) {
                // A worker that ended needs no waking.
                waker.wake().ok();
            }
        }
        for publisher in local {
            self.mark_publisher(publisher);
        }
    }

    fn publish_due(&mut self) -> anyhow::Result<()> {
        let due = std::mem::take(&mut self.due);
        let board = Arc::clone(&self.around.board);
        for &at in &due {
            let Some(peer) = self.peers.get_mut(at) else { continue };
            peer.due = false;
            let Role::Publisher(publisher) = &mut peer.role else { continue };
            if !peer.out.is_empty() {
                continue; // the socket is full; its event brings it back
            }
            let count = publisher.publish(&board, &mut peer.out);
            if count > 0 {
                add(&board.counters(self.number).sent, count);
                self.flush(at)?;
                self.mark_publisher(at);
            }
        }
        Ok(())
    }

    fn flush(&mut self, at: usize) -> anyhow::Result<()> {
        self.peers.get_mut(at).map_or(Ok(()), Peer::flush)
    }

    fn ping(&mut self, now: Instant) -> anyhow::Result<()> {
        let every = self.around.ping_every;
        if every.is_zero() || now.duration_since(self.pinged) < every {
            return Ok(());
        }
        self.pinged = now;
        for peer in &mut self.peers {
            peer.out.extend(PINGREQ);
            peer.flush()?;
        }
        Ok(())
    }

    fn into_findings(self) -> Findings {
        let mut findings =
            Findings { verdicts: Verdicts::default(), refused: 0, latencies: self.latencies };
        for peer in &self.peers {
            match &peer.role {
                Role::Publisher(publisher) => findings.refused += publisher.refused,
                Role::Subscriber(subscriber) => findings.verdicts.add(subscriber.verdicts()),
            }
        }
        findings
    }
}

impl Peer {
    const fn is_publisher(&self) -> bool {
        matches!(self.role, Role::Publisher(_))
    }

    /// Puts what is half read and what the socket has into `buffer`: the length of both, or
    /// `None` when the socket has nothing.
    fn fill(&mut self, buffer: &mut [u8]) -> anyhow::Result<Option<usize>> {
        let held = self.rest.len();
        let Some((start, free)) = buffer.split_at_mut_checked(held) else {
            bail!("a packet longer than the read buffer");
        };
        match self.socket.read(free) {
            Ok(0) => bail!("the broker closed a {} connection", self.role.name()),
            Ok(read) => {
                start.copy_from_slice(&self.rest);
                self.rest.clear();
                Ok(Some(held + read))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("a {} connection broke", self.role.name()))
            }
        }
    }

    /// Handles all whole packets in `bytes` and keeps the rest. Returns how many packets.
    fn handle(
        &mut self,
        mut bytes: &[u8],
        arrival: &mut Arrival<'_>,
        counters: &Counters,
    ) -> anyhow::Result<usize> {
        let mut packets = 0;
        let mut count = 0;
        while let Some(frame) = Frame::cut(bytes)? {
            count += match &mut self.role {
                Role::Publisher(publisher) => publisher.handle(&frame, &mut self.out)?,
                Role::Subscriber(subscriber) => {
                    subscriber.handle(&frame, arrival, &mut self.out)?
                }
            };
            packets += 1;
            bytes = bytes.get(frame.len..).unwrap_or_default();
        }
        self.rest.extend_from_slice(bytes);
        match self.role {
            Role::Publisher(_) => add(&counters.acknowledged, count),
            Role::Subscriber(_) => add(&counters.received, count),
        }
        Ok(packets)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        while let Some(left) = self.out.get(self.written..).filter(|left| !left.is_empty()) {
            match self.socket.write(left) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("a {} connection broke", self.role.name()));
                }
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

/// Which worker of how many.
#[derive(Clone, Copy, Debug)]
struct Place {
    worker: usize,
    workers: usize,
}

/// The beat of a fixed rate: whose turn comes next at a worker, and when.
#[derive(Debug)]
struct Beat {
    pace: Pace,
    alarm: Alarm,
    run: u64,
    run_from_ns: u64,
    /// Turns of each publisher that are over.
    round: u64,
    /// Place of the next publisher among those of this worker.
    next: usize,
}

impl Beat {
    const fn new(pace: Pace, alarm: Alarm) -> Self {
        Self { pace, alarm, run: 0, run_from_ns: 0, round: 0, next: 0 }
    }

    /// Starts anew when the run is a new one.
    fn begin(&mut self, board: &Board) {
        if self.run != board.run() {
            self.run = board.run();
            self.run_from_ns = board.run_from_ns();
            (self.round, self.next) = (0, 0);
        }
    }

    /// When the next turn comes. Publishers are dealt to the workers in turn.
    fn next_ns(&self, place: Place) -> u64 {
        let number = place.worker + self.next * place.workers;
        self.run_from_ns + self.pace.due_ns(number as u32, self.round)
    }

    /// Ends the turn; returns whose it was.
    const fn advance(&mut self, publishers: usize) -> usize {
        let turn = self.next;
        self.next += 1;
        if self.next >= publishers {
            self.next = 0;
            self.round += 1;
        }
        turn
    }

    fn set_alarm(&self, place: Place, board: &Board) -> anyhow::Result<Duration> {
        let left = Duration::from_nanos(self.next_ns(place).saturating_sub(board.now_ns()));
        let after = left.max(SHORTEST_TURN);
        self.alarm.set(after)?;
        Ok(after)
    }
}

impl Role {
    const fn name(&self) -> &'static str {
        match self {
            Self::Publisher(_) => "publisher's",
            Self::Subscriber(_) => "subscriber's",
        }
    }
}

/// Adds to a counter that only this thread writes.
fn add(counter: &std::sync::atomic::AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Release);
}
