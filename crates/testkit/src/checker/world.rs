//! A history by connection, message and arrival.
//!
//! Owns the indexes that all rules share. Places of events stand for their order; times are only read where a rule is about
//! time. Judges nothing.

use std::collections::HashMap;

use super::faults::Faults;
use super::{AFTER_FAULT, SECOND, SOON};
use crate::record::{ConnId, End, Event, MessageId, What, Will};

/// How long a CONNECT without an answer may still take effect after its client gave it up: a process that stood still reads
/// it when it goes on.
const LATE: u64 = 20 * SECOND;

/// The same, counted from the CONNECT, if nobody said that it was given up.
const LATEST: u64 = 60 * SECOND;

/// A history, indexed.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) events: &'a [Event],
    /// Where the part ends that is judged: the place of `Settled`, or behind the last event.
    pub(super) end: usize,
    /// `Settled { in_time: false }`.
    pub(super) unsettled: Option<usize>,
    /// When all was well again, at last.
    pub(super) healed: Option<u64>,
    pub(super) faults: Faults<'a>,
    /// In the order of their CONNECTs.
    pub(super) conns: Vec<Conn<'a>>,
    pub(super) places: HashMap<ConnId, usize>,
    /// The connections of each client identifier, in the order of their CONNECTs.
    pub(super) clients: Vec<Vec<usize>>,
    pub(super) topics: Topics<'a>,
    pub(super) messages: Vec<Message<'a>>,
    names: HashMap<(&'a str, u64), usize>,
    /// By message, then by event. Of messages that nobody published there are none.
    arrivals: Vec<Arrival>,
    /// Where those of each message begin.
    starts: Vec<usize>,
}

/// Topic names by number.
#[derive(Debug, Default)]
pub(super) struct Topics<'a> {
    pub(super) names: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn<'a> {
    pub(super) client: usize,
    pub(super) client_id: &'a str,
    pub(super) version: u8,
    pub(super) proxy: usize,
    pub(super) clean_start: bool,
    pub(super) expiry_secs: u32,
    pub(super) will: Option<&'a Will>,
    pub(super) connect: usize,
    pub(super) connected: Option<Connected>,
    pub(super) given_up: Option<usize>,
    pub(super) ended: Option<(usize, &'a End)>,
    /// The last event before which the server surely had not ended it: the last request that was answered, or the last publication
    /// of anything that came. What was read may have been sent long before.
    pub(super) proof: usize,
}

/// A CONNACK with success.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connected {
    pub(super) event: usize,
    pub(super) session_present: bool,
}

/// An application message, or a will.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) id: &'a MessageId,
    pub(super) topic: usize,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) expiry_secs: Option<u32>,
    pub(super) empty: bool,
    /// The connection whose will it is.
    pub(super) will_of: Option<usize>,
    /// The first PUBLISH; of a will the CONNECT.
    pub(super) first: usize,
    pub(super) first_conn: usize,
    pub(super) last: usize,
    pub(super) last_conn: usize,
    /// How often it was sent.
    pub(super) sends: u32,
    /// The first acknowledgement that does not refuse.
    pub(super) acked: Option<usize>,
    pub(super) refused: bool,
    pub(super) completed: bool,
}

/// A PUBLISH that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) event: usize,
    pub(super) conn: usize,
    pub(super) message: usize,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) new: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(events: &'a [Event]) -> Self {
        let mut world = Self {
            events,
            end: events.len(),
            unsettled: None,
            healed: None,
            faults: Faults::new(events),
            conns: Vec::new(),
            places: HashMap::new(),
            clients: Vec::new(),
            topics: Topics::default(),
            messages: Vec::new(),
            names: HashMap::new(),
            arrivals: Vec::new(),
            starts: Vec::new(),
        };
        let mut clients = HashMap::new();
        let mut requests = HashMap::new();
        for (place, event) in events.iter().enumerate() {
            match &event.what {
                What::Connect { client_id, .. } => {
                    let next = clients.len();
                    let client = *clients.entry(client_id.as_str()).or_insert(next);
                    world.connect(place, client);
                }
                What::Publish { .. } => world.publish(place),
                What::Received { .. } => world.receive(place),
                _ => world.note(place, &mut requests),
            }
        }
        world.sort_arrivals();
        world
    }

    fn connect(&mut self, place: usize, client: usize) {
        let What::Connect { conn, client_id, version, proxy, clean_start, expiry_secs, will } =
            &self.events[place].what
        else {
            return;
        };
        let number = self.conns.len();
        self.places.insert(*conn, number);
        if client == self.clients.len() {
            self.clients.push(Vec::new());
        }
        self.clients[client].push(number);
        self.conns.push(Conn {
            client,
            client_id,
            version: *version,
            proxy: *proxy,
            clean_start: *clean_start,
            expiry_secs: *expiry_secs,
            will: will.as_ref(),
            connect: place,
            connected: None,
            given_up: None,
            ended: None,
            proof: place,
        });
        if let Some(will) = will {
            let topic = self.topics.number(&will.topic);
            let name = (will.message.publisher.as_str(), will.message.number);
            self.names.insert(name, self.messages.len());
            let message = Message::new(&will.message, topic, place, number);
            self.messages.push(Message {
                qos: will.qos,
                retain: will.retain,
                will_of: Some(number),
                ..message
            });
        }
    }

    fn publish(&mut self, place: usize) {
        let What::Publish { conn, message, topic, qos, retain, expiry_secs, empty, .. } =
            &self.events[place].what
        else {
            return;
        };
        let Some(&conn) = self.places.get(conn) else { return };
        let name = (message.publisher.as_str(), message.number);
        if let Some(&known) = self.names.get(&name) {
            let known = &mut self.messages[known];
            (known.last, known.last_conn, known.sends) = (place, conn, known.sends + 1);
            return;
        }
        self.names.insert(name, self.messages.len());
        let topic = self.topics.number(topic);
        self.messages.push(Message {
            qos: *qos,
            retain: *retain,
            expiry_secs: *expiry_secs,
            empty: *empty,
            ..Message::new(message, topic, place, conn)
        });
    }

    fn receive(&mut self, place: usize) {
        let What::Received { conn, message, qos, retain, dup, new, .. } = &self.events[place].what
        else {
            return;
        };
        let Some(&conn) = self.places.get(conn) else { return };
        let Some(message) = self.message(message) else { return };
        let first = self.messages[message].first;
        self.prove(conn, first);
        let (qos, retain, dup, new) = (*qos, *retain, *dup, *new);
        self.arrivals.push(Arrival { event: place, conn, message, qos, retain, dup, new });
    }

    /// The other events.
    fn note(&mut self, place: usize, requests: &mut HashMap<(usize, u16), usize>) {
        match &self.events[place].what {
            What::Connected { conn, session_present } => {
                let connected = Connected { event: place, session_present: *session_present };
                if let Some(conn) = self.conn_mut(*conn) {
                    conn.connected = Some(connected);
                }
            }
            What::NotConnected { conn, .. } => {
                if let Some(conn) = self.conn_mut(*conn) {
                    conn.given_up = Some(place);
                }
            }
            What::Ended { conn, how } => {
                if let Some(conn) = self.conn_mut(*conn).filter(|conn| conn.ended.is_none()) {
                    conn.ended = Some((place, how));
                }
            }
            What::Acknowledged { conn, message, code } => {
                self.acknowledge(place, *conn, message, *code);
            }
            What::Completed { message, .. } => {
                if let Some(message) = self.message(message) {
                    self.messages[message].completed = true;
                }
            }
            What::Subscribe { conn, id, .. } | What::Unsubscribe { conn, id, .. } => {
                if let Some(&conn) = self.places.get(conn) {
                    requests.insert((conn, *id), place);
                }
            }
            What::Subscribed { conn, id, .. } | What::Unsubscribed { conn, id } => {
                if let Some(&conn) = self.places.get(conn)
                    && let Some(request) = requests.remove(&(conn, *id))
                {
                    self.prove(conn, request);
                }
            }
            What::AllHealed => self.healed = Some(self.events[place].at),
            What::Settled { in_time } => {
                self.end = self.end.min(place);
                self.unsettled = (!in_time).then_some(place);
            }
            What::Run { .. }
            | What::Connect { .. }
            | What::Publish { .. }
            | What::Received { .. }
            | What::ReceivedEmpty { .. }
            | What::Confirm { .. }
            | What::Violated { .. }
            | What::Fault { .. }
            | What::Healed { .. }
            | What::Quiet => {}
        }
    }

    fn acknowledge(&mut self, place: usize, conn: ConnId, message: &'a MessageId, code: u8) {
        let Some(message) = self.message(message) else { return };
        let message = &mut self.messages[message];
        if code >= 0x80 {
            message.refused = true;
        } else {
            message.acked = message.acked.or(Some(place));
        }
        let (sent_on, sent) = (message.last_conn, message.last);
        if self.places.get(&conn) == Some(&sent_on) {
            self.prove(sent_on, sent);
        }
    }

    fn conn_mut(&mut self, conn: ConnId) -> Option<&mut Conn<'a>> {
        self.conns.get_mut(*self.places.get(&conn)?)
    }

    fn prove(&mut self, conn: usize, place: usize) {
        let proof = &mut self.conns[conn].proof;
        *proof = (*proof).max(place);
    }

    fn sort_arrivals(&mut self) {
        self.arrivals.sort_unstable_by_key(|arrival| (arrival.message, arrival.event));
        let mut starts = vec![0; self.messages.len() + 1];
        for arrival in &self.arrivals {
            starts[arrival.message + 1] += 1;
        }
        for message in 1..starts.len() {
            starts[message] += starts[message - 1];
        }
        self.starts = starts;
    }

    /// What came of a message, in the order of events.
    pub(super) fn arrivals_of(&self, message: usize) -> &[Arrival] {
        &self.arrivals[self.starts[message]..self.starts[message + 1]]
    }

    /// All that came, by message.
    pub(super) fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    pub(super) fn message(&self, id: &MessageId) -> Option<usize> {
        self.names.get(&(id.publisher.as_str(), id.number)).copied()
    }

    /// When an event was written down.
    pub(super) fn at(&self, place: usize) -> u64 {
        self.events.get(place).or_else(|| self.events.last()).map_or(0, |event| event.at)
    }

    /// When the part ends that is judged.
    pub(super) fn end_at(&self) -> u64 {
        self.at(self.end)
    }

    /// Whether the connection lived at a place.
    pub(super) fn is_open_at(&self, conn: usize, place: usize) -> bool {
        let conn = &self.conns[conn];
        conn.connected.is_some_and(|connected| connected.event <= place)
            && conn.ended.is_none_or(|(ended, _)| ended >= place)
    }

    /// Whether the connection lived to the end.
    pub(super) fn stays(&self, conn: usize) -> bool {
        self.is_open_at(conn, self.end)
    }

    /// Until when the CONNECT may have taken effect.
    pub(super) fn latest_effect(&self, conn: usize) -> u64 {
        let conn = &self.conns[conn];
        match (conn.connected, conn.given_up) {
            (Some(connected), _) => self.at(connected.event),
            (None, Some(given_up)) => self.at(given_up).saturating_add(LATE),
            (None, None) => self.at(conn.connect).saturating_add(LATEST),
        }
    }

    /// Whether the store may have heard of one that was answered only when a later one of its client was: without a lasting
    /// session and a will a client is served while the store is away.
    pub(super) fn may_be_told_late(&self, conn: usize, later: usize) -> bool {
        let Conn { client, expiry_secs, will, connect, ended, .. } = self.conns[conn];
        let until = ended.map_or(u64::MAX, |(ended, _)| self.at(ended).saturating_add(LATE));
        let begun = self.at(self.conns[later].connect);
        client == self.conns[later].client
            && connect < self.conns[later].connect
            && (expiry_secs, will) == (0, None)
            && begun <= until
            && self.is_disturbed(conn, self.at(connect), self.at(connect))
    }

    /// Whether the store may not have heard of one that was answered: it was away from its proxy, and is still, or the proxy
    /// died before it came back.
    pub(super) fn may_be_untold(&self, conn: usize, until: u64) -> bool {
        let Conn { expiry_secs, will, connect, .. } = self.conns[conn];
        let connect = self.at(connect);
        (expiry_secs, will) == (0, None) && self.is_disturbed(conn, connect, connect.min(until))
    }

    /// Whether a fault that a connection may notice was there at any time from `from` to `until`, shortly after, or before
    /// so that servers may not have found each other again.
    pub(super) fn is_disturbed(&self, conn: usize, from: u64, until: u64) -> bool {
        let (from, until) = (from.saturating_sub(AFTER_FAULT), until.saturating_add(SOON));
        self.faults.touching(self.conns[conn].proxy, from, until).next().is_some()
    }

    /// When the store surely heard what the proxy of a connection knew of it from `from` to `until`; `None` if perhaps never.
    pub(super) fn told(&self, conn: usize, from: u64, until: u64) -> Option<u64> {
        let from = from.saturating_sub(AFTER_FAULT).max(self.at(self.conns[conn].connect));
        self.faults.told(self.conns[conn].proxy, from, until)
    }

    /// Other connections of the same client that may have taken effect after this one's CONNECT, and were begun up to `until`.
    pub(super) fn rivals(&self, conn: usize, until: u64) -> impl Iterator<Item = usize> {
        let Conn { client, connect, .. } = self.conns[conn];
        let of_client = &self.clients[client];
        let begun = of_client.partition_point(|&other| self.at(self.conns[other].connect) <= until);
        let from = self.at(connect);
        let near = of_client[..begun].iter().rev().copied().take_while(move |&other| {
            self.at(self.conns[other].connect).saturating_add(4 * LATEST) >= from
        });
        near.filter(move |&other| {
            let after = match self.conns[other].connected {
                Some(connected) => connected.event > connect,
                None => self.latest_effect(other) >= from,
            };
            other != conn && after
        })
    }
}

impl<'a> Topics<'a> {
    fn number(&mut self, name: &'a str) -> usize {
        let next = self.names.len();
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.names.push(name);
        }
        number
    }
}

impl<'a> Message<'a> {
    fn new(id: &'a MessageId, topic: usize, first: usize, conn: usize) -> Self {
        Self {
            id,
            topic,
            qos: 0,
            retain: false,
            expiry_secs: None,
            empty: false,
            will_of: None,
            first,
            first_conn: conn,
            last: first,
            last_conn: conn,
            sends: 1,
            acked: None,
            refused: false,
            completed: false,
        }
    }
}

impl std::fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} (QoS {})", self.id.publisher, self.id.number, self.qos)
    }
}

impl Conn<'_> {
    /// Whether nothing of an earlier session is left when it took effect, or nothing of its own when it ended.
    pub(super) fn is_destructive(&self) -> bool {
        self.clean_start || self.expiry_secs == 0
    }
}
