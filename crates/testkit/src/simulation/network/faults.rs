//! What can go wrong on the network: processes end, links break, hold back, or are slow.

use super::{Event, Index, Opening, Site, State};

/// How the peers of a process that was killed hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::simulation) enum Notice {
    /// Its system closes the connections: soon.
    Closed,
    /// Nobody answers any more: when they ask for a sign of life.
    Silence,
}

/// Within which time a peer that asks for signs of life misses them, in microseconds.
const SILENCE: [u64; 2] = [2_000_000, 6_000_000];

/// Within which time a peer hears of a closed connection.
const CLOSED: [u64; 2] = [100, 30_000];

/// Within which time a peer sends something to a process that has started again.
const STALE: [u64; 2] = [100, 1_000_000];

impl State {
    /// The process takes connections from now on.
    pub(in crate::simulation) fn start(&mut self, site: Site) {
        self.places[site].up = true;
        self.places[site].dying = false;
        for index in self.places[site].connections.clone() {
            let side = usize::from(self.connections[index].ends[0] != site);
            if self.connections[index].broken[side] {
                // Whoever sends something on a connection of an earlier life is told that there is none.
                let due = self.now + self.random.between(STALE[0], STALE[1]);
                self.schedule(due, Event::Broken(index, 1 - side));
            }
        }
    }

    /// Nothing that the process does from now on has an effect. It is to be killed before it is run again.
    pub(in crate::simulation) fn die(&mut self, site: Site) {
        self.places[site].dying = true;
    }

    /// The end of a process in the middle of whatever it does. Of what it has sent some arrives, in order, and the
    /// rest is lost.
    pub(in crate::simulation) fn kill(&mut self, site: Site, notice: Notice) {
        let place = &mut self.places[site];
        place.up = false;
        place.dying = true;
        place.server = None;
        place.arrivals.clear();
        for index in place.connections.clone() {
            self.lose_end(index, site, notice);
        }
    }

    fn lose_end(&mut self, index: Index, site: Site, notice: Notice) {
        let ends = self.connections[index].ends;
        let side = usize::from(ends[0] != site);
        if ends[0] == ends[1] {
            self.connections[index].broken = [true; 2];
            self.close_connection(index);
            return;
        }
        self.connections[index].broken[side] = true;
        self.forget_wakers(index, side);
        if self.connections[index].broken[1 - side] {
            self.close_connection(index);
            return;
        }
        if side == 0 && self.connections[index].opening == Opening::Asked {
            // Nobody is there any more who dials.
            self.close_connection(index);
            return;
        }
        self.swallow(index, 1 - side);
        let due = self.notice(index, side, notice);
        self.schedule(due, Event::Broken(index, 1 - side));
    }

    /// When the other side hears of it: what arrives until then arrives.
    fn notice(&mut self, index: Index, side: usize, notice: Notice) -> u64 {
        let [least, most] = if notice == Notice::Silence { SILENCE } else { CLOSED };
        let due = self.now + self.random.between(least, most);
        if notice == Notice::Silence || self.random.between(0, 1) == 0 {
            return due;
        }
        // All of it arrives.
        let streams = self.connections[index].streams.iter();
        let last = streams.map(|&stream| self.streams[stream].halves[side].last_due).max();
        due.max(last.unwrap_or_default())
    }

    /// What the side sends from now on is lost.
    fn swallow(&mut self, index: Index, side: usize) {
        for place in 0..self.connections[index].streams.len() {
            let stream = self.connections[index].streams[place];
            self.streams[stream].halves[side].cut = true;
        }
    }

    fn forget_wakers(&mut self, index: Index, side: usize) {
        self.connections[index].opener.take_if(|_| side == 0);
        for place in 0..self.connections[index].streams.len() {
            let stream = self.connections[index].streams[place];
            let stream = &mut self.streams[stream];
            stream.opener.take_if(|_| side == 0);
            stream.halves[side].writer = None;
            stream.halves[1 - side].reader = None;
        }
    }

    /// Breaks a connection in the middle. Each side hears of it at its own time.
    pub(in crate::simulation) fn cut(&mut self, index: Index, notice: Notice) {
        if self.connections[index].over {
            return;
        }
        let at = (self.now, [8, index as u64, 0]);
        self.trace.note(at.0, at.1, format_args!("c{index} is cut"));
        for side in 0..2 {
            if !self.connections[index].broken[side] {
                self.swallow(index, side);
                let due = self.notice(index, 1 - side, notice);
                self.schedule(due, Event::Broken(index, side));
            }
        }
    }

    /// The connections between a proxy and the intermediate.
    pub(in crate::simulation) fn link(&self, site: Site) -> Vec<Index> {
        let hub = self.hub;
        let ours = self.places[site].connections.iter().copied();
        ours.filter(|&index| self.connections[index].ends == [site, hub]).collect()
    }

    /// The connections of a process with clients.
    pub(in crate::simulation) fn clients_of(&self, site: Site, clients: Site) -> Vec<Index> {
        let ours = self.places[site].connections.iter().copied();
        ours.filter(|&index| self.connections[index].ends == [clients, site]).collect()
    }

    /// Holds back what goes from the proxy to the intermediate (0), or the other way (1).
    pub(in crate::simulation) fn hold(&mut self, site: Site, direction: usize) {
        self.places[site].held[direction] = true;
    }

    /// Holds back what one connection carries in a direction.
    pub(in crate::simulation) fn hold_connection(&mut self, index: Index, direction: usize) {
        self.connections[index].held[direction] = true;
    }

    /// Nothing is held back at this process any more; what was arrives now.
    pub(in crate::simulation) fn release(&mut self, site: Site) {
        self.places[site].held = [false; 2];
        for index in self.places[site].connections.clone() {
            self.connections[index].held = [false; 2];
        }
        let held = std::mem::take(&mut self.held);
        for event in held {
            // Before anything that is sent from now on.
            self.schedule(self.now, event);
        }
    }

    /// Every way from and to the process takes up to `micros` more.
    pub(in crate::simulation) fn slow(&mut self, site: Site, micros: u64) {
        self.places[site].slow = micros;
    }

    pub(super) fn is_held(&self, event: Event) -> bool {
        let (index, direction) = match event {
            Event::Dialled(index) => (index, 0),
            Event::Answered(index) | Event::Refused(index) => (index, 1),
            Event::Opened(stream) => (self.streams[stream].connection, 0),
            Event::Accepted(stream) => (self.streams[stream].connection, 1),
            Event::Chunk(stream, side)
            | Event::Finished(stream, side)
            | Event::Reset(stream, side) => (self.streams[stream].connection, side),
            Event::Broken(..) => return false,
        };
        let connection = &self.connections[index];
        let [from, to] = connection.ends;
        connection.held[direction]
            || (to == self.hub && from != to && self.places[from].held[direction])
    }
}
