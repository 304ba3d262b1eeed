//! The network of a simulated run: connections, and on them streams that take time.
//!
//! Owns everything that is on its way. Each direction of each stream keeps its order and has a delay of its own, so
//! streams overtake each other. What is on its way is bounded: who sends more waits. Time does not pass here: the world
//! says what time it is, and when to [`deliver`](State::deliver).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::trace::Trace;
use crate::random::Random;

mod faults;
mod streams;

pub(super) use self::faults::Notice;
pub(super) use self::streams::{ByteStream, Dialer, address, arrivals, frames_of, send_all};

/// A process, by its number in the world.
pub(super) type Site = usize;

/// Index of a connection or of a stream.
type Index = usize;

/// A side of a connection, and the direction of what it sends: 0 dialled, 1 was dialled.
type Side = usize;

/// What flows on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// Frames of the cluster, of one kind.
    Frames(cluster_rpc::network::StreamKind),
    /// The bytes of an MQTT client.
    Bytes,
}

/// A stream that a process is to serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) stream: Index,
    pub(super) carries: Carries,
    pub(super) from: Site,
}

/// How a direction has ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    Broken,
}

/// One direction of a stream.
#[derive(Debug)]
struct Half {
    on_way: VecDeque<Bytes>,
    arrived: VecDeque<Bytes>,
    /// Bytes of both.
    used: usize,
    capacity: usize,
    last_due: u64,
    end: Option<End>,
    /// What is sent from now on goes nowhere, though its sender does not know it yet.
    cut: bool,
    /// The sender knows that it is of no use.
    closed: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Stream {
    connection: Index,
    carries: Carries,
    halves: [Half; 2],
    opening: Opening,
    opener: Option<Waker>,
}

/// How far the opening of a connection or a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Asked,
    Done,
    Refused,
    Broken,
}

#[derive(Debug)]
struct Connection {
    ends: [Site; 2],
    streams: Vec<Index>,
    opening: Opening,
    opener: Option<Waker>,
    /// Least time of a way, and how much more it may take.
    delay: [u64; 2],
    /// Which side knows that it is broken.
    broken: [bool; 2],
    /// What goes in this direction is held back.
    held: [bool; 2],
    /// Nobody can use it any more.
    over: bool,
}

#[derive(Debug, Default)]
struct Place {
    up: bool,
    arrivals: VecDeque<Arrival>,
    server: Option<Waker>,
    /// Connections that are not over, in the order in which they were dialled.
    connections: Vec<Index>,
    /// Added to each way from and to here.
    slow: u64,
    /// What goes from here to the hub, or comes from it, is held back.
    held: [bool; 2],
    /// Nothing that it does has an effect any more.
    dying: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Dialled(Index),
    Answered(Index),
    Refused(Index),
    Opened(Index),
    Accepted(Index),
    Chunk(Index, Side),
    Finished(Index, Side),
    Reset(Index, Side),
    /// The side hears that the connection is broken.
    Broken(Index, Side),
}

/// All of it.
#[derive(Debug)]
pub(super) struct State {
    now: u64,
    random: Random,
    pub(super) trace: Trace,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    connections: Vec<Connection>,
    streams: Vec<Stream>,
    places: Vec<Place>,
    held: Vec<Event>,
    capacity: usize,
    /// The place that links are between: all others are its peers.
    hub: Site,
}

/// Shared by the world and all processes, which are one thread.
#[derive(Clone, Debug)]
pub(super) struct Net(Arc<Mutex<State>>);

impl Net {
    pub(super) fn new(seed: u64, places: usize, hub: Site, trace: Trace) -> Self {
        let mut random = Random::part(seed, "network");
        let capacity = [2 << 10, 16 << 10, 64 << 10, 1 << 20][random.index(4)];
        Self(Arc::new(Mutex::new(State {
            now: 0,
            random,
            trace,
            queue: BinaryHeap::new(),
            number: 0,
            connections: Vec::new(),
            streams: Vec::new(),
            places: (0..places).map(|_| Place::default()).collect(),
            held: Vec::new(),
            capacity,
            hub,
        })))
    }

    /// Never held across a call of a process.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A run in which something panicked has failed already.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Half {
    fn new(capacity: usize) -> Self {
        Self {
            on_way: VecDeque::new(),
            arrived: VecDeque::new(),
            used: 0,
            capacity,
            last_due: 0,
            end: None,
            cut: false,
            closed: false,
            reader_gone: false,
            reader: None,
            writer: None,
        }
    }

    fn end(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.on_way.clear();
            wake(&mut self.reader);
        }
    }

    fn close(&mut self) {
        self.closed = true;
        wake(&mut self.writer);
    }

    fn drop_reader(&mut self) {
        self.reader_gone = true;
        self.reader = None;
        let unread: usize = self.arrived.drain(..).map(|chunk| chunk.len()).sum();
        self.used = self.used.saturating_sub(unread);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn remember(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(context.waker()) => {}
        _ => *place = Some(context.waker().clone()),
    }
}

impl State {
    /// When something arrives next.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((due, ..))| *due)
    }

    fn schedule(&mut self, due: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((due, self.number, event)));
    }

    /// When something arrives that leaves now.
    fn way(&mut self, connection: Index) -> u64 {
        let [a, b] = self.connections[connection].ends;
        if a == b {
            return self.now + self.random.between(20, 200);
        }
        let [least, more] = self.connections[connection].delay;
        let slow = self.places[a].slow + self.places[b].slow;
        let jitter = match self.random.between(0, 999) {
            0..5 => self.random.between(20_000, 400_000),
            5..100 => self.random.between(0, 20_000),
            _ => self.random.between(0, more),
        };
        self.now + least + jitter + if slow == 0 { 0 } else { self.random.between(0, slow) }
    }

    /// The same, and not before what left earlier in the same direction of the stream.
    fn way_in_order(&mut self, stream: Index, side: Side) -> u64 {
        let due = self.way(self.streams[stream].connection);
        let last = &mut self.streams[stream].halves[side].last_due;
        *last = due.max(*last);
        *last
    }

    fn ended_for(&self, connection: Index, side: Side) -> bool {
        let connection = &self.connections[connection];
        connection.over || self.places[connection.ends[side]].dying
    }

    // What processes do.

    fn dial(&mut self, from: Site, to: Site) -> Index {
        let index = self.connections.len();
        let delay = [self.random.between(50, 3_000), self.random.between(100, 2_000)];
        self.connections.push(Connection {
            ends: [from, to],
            streams: Vec::new(),
            opening: Opening::Asked,
            opener: None,
            delay,
            broken: [false; 2],
            held: [false; 2],
            over: false,
        });
        self.places[from].connections.push(index);
        if from != to {
            self.places[to].connections.push(index);
        }
        let due = self.way(index);
        self.schedule(due, Event::Dialled(index));
        index
    }

    fn poll_dialled(&mut self, index: Index, context: &Context<'_>) -> Poll<Opening> {
        let connection = &mut self.connections[index];
        if connection.opening == Opening::Asked {
            remember(&mut connection.opener, context);
            return Poll::Pending;
        }
        Poll::Ready(connection.opening)
    }

    fn open(&mut self, connection: Index, carries: Carries) -> Index {
        let index = self.streams.len();
        let mut halves = [Half::new(self.capacity), Half::new(self.capacity)];
        let side = usize::from(self.connections[connection].broken[0]);
        let mut opening = Opening::Asked;
        if side == 1 || self.connections[connection].over {
            halves.iter_mut().for_each(|half| {
                half.end(End::Broken);
                half.closed = true;
            });
            opening = Opening::Broken;
        }
        self.streams.push(Stream { connection, carries, halves, opening, opener: None });
        self.connections[connection].streams.push(index);
        if opening == Opening::Asked {
            let due = self.way_in_order(index, 0);
            self.schedule(due, Event::Opened(index));
        }
        index
    }

    fn poll_opened(&mut self, index: Index, context: &Context<'_>) -> Poll<Opening> {
        let stream = &mut self.streams[index];
        if stream.opening == Opening::Asked {
            remember(&mut stream.opener, context);
            return Poll::Pending;
        }
        Poll::Ready(stream.opening)
    }

    fn poll_arrival(&mut self, site: Site, context: &Context<'_>) -> Poll<Arrival> {
        let place = &mut self.places[site];
        match place.arrivals.pop_front() {
            Some(arrival) => Poll::Ready(arrival),
            None => {
                remember(&mut place.server, context);
                Poll::Pending
            }
        }
    }

    /// The answer to the dialler's opening of a stream.
    pub(super) fn accept(&mut self, stream: Index) {
        if !self.ended_for(self.streams[stream].connection, 1) {
            let due = self.way_in_order(stream, 1);
            self.schedule(due, Event::Accepted(stream));
        }
    }

    /// Nobody serves the stream.
    pub(super) fn refuse(&mut self, stream: Index) {
        self.reset(stream, 1);
    }

    /// How many bytes may be sent; `None` if nobody would ever read them. In any case hears of the end.
    fn poll_room(
        &mut self,
        index: Index,
        side: Side,
        context: &Context<'_>,
    ) -> Poll<Option<usize>> {
        let half = &mut self.streams[index].halves[side];
        if half.closed {
            return Poll::Ready(None);
        }
        remember(&mut half.writer, context);
        if half.used >= half.capacity {
            return Poll::Pending;
        }
        Poll::Ready(Some(half.capacity - half.used))
    }

    fn send(&mut self, index: Index, side: Side, chunk: Bytes) {
        let connection = self.streams[index].connection;
        if self.streams[index].halves[side].cut || self.ended_for(connection, side) {
            return;
        }
        self.streams[index].halves[side].used += chunk.len();
        if self.streams[index].carries == Carries::Bytes
            && chunk.len() > 1
            && self.random.between(0, 31) == 0
        {
            let at = 1 + self.random.index(chunk.len() - 1);
            self.put_on_way(index, side, chunk.slice(..at));
            self.put_on_way(index, side, chunk.slice(at..));
        } else {
            self.put_on_way(index, side, chunk);
        }
    }

    fn put_on_way(&mut self, index: Index, side: Side, chunk: Bytes) {
        self.streams[index].halves[side].on_way.push_back(chunk);
        let due = self.way_in_order(index, side);
        self.schedule(due, Event::Chunk(index, side));
    }

    /// Nothing more is sent in this direction.
    fn finish(&mut self, index: Index, side: Side) {
        let half = &mut self.streams[index].halves[side];
        let told = half.closed || half.cut;
        half.closed = true;
        half.writer = None;
        if !told && !self.ended_for(self.streams[index].connection, side) {
            let due = self.way_in_order(index, side);
            self.schedule(due, Event::Finished(index, side));
        }
    }

    /// What comes is not read any more, and the other side is told to stop.
    fn reset(&mut self, index: Index, side: Side) {
        let connection = self.streams[index].connection;
        let halves = &mut self.streams[index].halves;
        halves[1 - side].drop_reader();
        halves[side].close();
        let told = halves[side].cut || halves[1 - side].end.is_some();
        if !told && !self.ended_for(connection, side) {
            let due = self.way(connection);
            self.schedule(due, Event::Reset(index, side));
        }
    }

    /// What comes is not read any more, which the other side need not know.
    fn stop_reading(&mut self, index: Index, side: Side) {
        self.streams[index].halves[1 - side].drop_reader();
    }

    fn poll_chunk(
        &mut self,
        index: Index,
        side: Side,
        most: usize,
        context: &Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ()>> {
        let half = &mut self.streams[index].halves[1 - side];
        if let Some(front) = half.arrived.front_mut() {
            let chunk = if front.len() > most {
                front.split_to(most)
            } else {
                half.arrived.pop_front().expect("it is the front")
            };
            let was_full = half.used >= half.capacity;
            half.used = half.used.saturating_sub(chunk.len());
            if was_full && half.used < half.capacity {
                wake(&mut half.writer);
            }
            return Poll::Ready(Ok(Some(chunk)));
        }
        match half.end {
            Some(End::Finished) => Poll::Ready(Ok(None)),
            Some(End::Broken) => Poll::Ready(Err(())),
            None => {
                remember(&mut half.reader, context);
                Poll::Pending
            }
        }
    }

    // What the world does.

    /// Lets arrive what is due at `now`.
    pub(super) fn deliver(&mut self, now: u64) {
        self.now = now;
        while let Some(Reverse((due, _, event))) = self.queue.peek().copied()
            && due <= now
        {
            self.queue.pop();
            if self.is_held(event) {
                self.held.push(event);
            } else {
                self.happen(event);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Dialled(connection) => self.dialled(connection),
            Event::Answered(connection) => self.answered(connection, Opening::Done),
            Event::Refused(connection) => self.answered(connection, Opening::Refused),
            Event::Opened(stream) => self.opened(stream),
            Event::Accepted(stream) => self.accepted(stream),
            Event::Chunk(stream, side) => self.chunk(stream, side),
            Event::Finished(stream, side) => self.finished(stream, side),
            Event::Reset(stream, side) => self.was_reset(stream, side),
            Event::Broken(connection, side) => self.broke(connection, side),
        }
    }

    fn dialled(&mut self, index: Index) {
        if self.connections[index].over {
            return;
        }
        let [from, to] = self.connections[index].ends;
        let up = self.places[to].up;
        let parts = [1, index as u64, u64::from(up)];
        let heard = if up { "answers" } else { "is not there" };
        self.trace.step(
            self.now,
            parts,
            format_args!("{from} dials {to}, which {heard}: c{index}"),
        );
        let due = self.way(index);
        self.schedule(due, if up { Event::Answered(index) } else { Event::Refused(index) });
    }

    fn answered(&mut self, index: Index, opening: Opening) {
        let connection = &mut self.connections[index];
        if connection.over || connection.opening != Opening::Asked {
            return;
        }
        connection.opening = opening;
        wake(&mut connection.opener);
        if opening == Opening::Refused {
            self.close_connection(index);
        }
    }

    fn opened(&mut self, index: Index) {
        let Stream { connection, carries, .. } = self.streams[index];
        if self.connections[connection].over || self.connections[connection].broken[1] {
            return;
        }
        let [from, to] = self.connections[connection].ends;
        let parts = [2, index as u64, connection as u64];
        let text = format_args!("{from} opens s{index} {carries:?} on c{connection} at {to}");
        self.trace.step(self.now, parts, text);
        let place = &mut self.places[to];
        place.arrivals.push_back(Arrival { stream: index, carries, from });
        wake(&mut place.server);
    }

    fn accepted(&mut self, index: Index) {
        let stream = &mut self.streams[index];
        if stream.opening == Opening::Asked {
            stream.opening = Opening::Done;
            wake(&mut stream.opener);
        }
    }

    fn chunk(&mut self, index: Index, side: Side) {
        let half = &mut self.streams[index].halves[side];
        let Some(chunk) = half.on_way.pop_front() else {
            return;
        };
        let parts = [3 + side as u64, (index as u64) << 32 | chunk.len() as u64, xxh3_64(&chunk)];
        let way = ["<-", "->"][usize::from(side == 0)];
        self.trace.step(self.now, parts, format_args!("s{index} {way} {} bytes", chunk.len()));
        if half.reader_gone {
            half.used = half.used.saturating_sub(chunk.len());
            wake(&mut half.writer);
        } else {
            half.arrived.push_back(chunk);
            wake(&mut half.reader);
        }
    }

    fn finished(&mut self, index: Index, side: Side) {
        let Stream { carries, ref mut halves, .. } = self.streams[index];
        if halves[side].end.is_some() {
            return;
        }
        halves[side].end(End::Finished);
        // Who was dialled has the last word about a stream of frames; who closes a connection of bytes does not
        // read it any more either.
        let both = match carries {
            Carries::Frames(_) => side == 1,
            Carries::Bytes => halves[1 - side].reader_gone,
        };
        if both {
            halves[1 - side].close();
        }
        self.trace.note(self.now, [5, index as u64, side as u64], format_args!("s{index} ends"));
        self.settle(index);
    }

    fn was_reset(&mut self, index: Index, side: Side) {
        let stream = &mut self.streams[index];
        stream.halves[side].end(End::Broken);
        stream.halves[1 - side].close();
        if side == 1 && stream.opening == Opening::Asked {
            stream.opening = Opening::Broken;
            wake(&mut stream.opener);
        }
        self.trace.note(
            self.now,
            [6, index as u64, side as u64],
            format_args!("s{index} is reset"),
        );
        self.settle(index);
    }

    /// Closes the connection of a client with its only stream.
    fn settle(&mut self, index: Index) {
        let Stream { connection, carries, ref halves, .. } = self.streams[index];
        if carries == Carries::Bytes && halves.iter().all(|half| half.end.is_some()) {
            self.close_connection(connection);
        }
    }

    fn close_connection(&mut self, index: Index) {
        self.connections[index].over = true;
        for end in self.connections[index].ends {
            self.places[end].connections.retain(|&other| other != index);
        }
    }

    fn broke(&mut self, index: Index, side: Side) {
        if std::mem::replace(&mut self.connections[index].broken[side], true) {
            return;
        }
        let site = self.connections[index].ends[side];
        let parts = [7, index as u64, side as u64];
        self.trace.step(self.now, parts, format_args!("{site} hears that c{index} broke"));
        let connection = &mut self.connections[index];
        if side == 0 && connection.opening == Opening::Asked {
            connection.opening = Opening::Broken;
            wake(&mut connection.opener);
        }
        for place in 0..self.connections[index].streams.len() {
            let stream = self.connections[index].streams[place];
            self.break_stream(stream, side);
        }
        if self.connections[index].broken == [true; 2] {
            self.close_connection(index);
        }
    }

    fn break_stream(&mut self, index: Index, side: Side) {
        let part = self.random.between(0, 1) == 0;
        let Stream { carries, ref mut halves, ref mut opening, ref mut opener, .. } =
            self.streams[index];
        let half = &mut halves[1 - side];
        // Of bytes a part may have come.
        if part
            && carries == Carries::Bytes
            && !half.reader_gone
            && half.end.is_none()
            && let Some(mut chunk) = half.on_way.pop_front()
        {
            chunk.truncate(chunk.len() / 2);
            if !chunk.is_empty() {
                half.arrived.push_back(chunk);
            }
        }
        half.end(End::Broken);
        halves[side].close();
        if side == 0 && *opening == Opening::Asked {
            *opening = Opening::Broken;
            wake(opener);
        }
    }
}
