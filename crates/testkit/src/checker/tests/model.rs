//! Histories of a perfect broker, made at random: each is sound, and without any one arrival that was owed it is not.

use std::collections::{BTreeMap, VecDeque};

use super::script::{CLEAN, Item, Script, filter, item};
use super::{Rule, check, sound};
use crate::record::End;

const SESSIONS: [&str; 4] = ["s0", "s1", "s2", "s3"];
const TOPICS: [&str; 4] = ["a/x", "a/y", "b/x", "c"];
const PUBLISHER: u64 = 1;

/// Numbers that look random (xorshift), the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap()
    }
}

/// A session in the broker.
#[derive(Default)]
struct Session {
    conn: Option<u64>,
    known: bool,
    filters: BTreeMap<&'static str, u8>,
    queue: VecDeque<Item>,
    /// The last that was sent, if it is not confirmed.
    in_flight: Option<Item>,
}

/// One broker, in order and perfect, and what its clients write down.
struct Model {
    script: Script,
    chance: Chance,
    sessions: Vec<Session>,
    conns: u64,
    numbers: u64,
    /// Arrivals of what was owed, by session and message.
    owed: BTreeMap<(usize, u64), Vec<usize>>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut script = Script::default();
        script.clean(PUBLISHER, "p");
        Self {
            script,
            chance: Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            sessions: SESSIONS.iter().map(|_| Session::default()).collect(),
            conns: PUBLISHER,
            numbers: 0,
            owed: BTreeMap::new(),
        }
    }

    fn connect(&mut self, at: usize) {
        self.conns += 1;
        let session = &mut self.sessions[at];
        if let Some(older) = session.conn.replace(self.conns) {
            self.script.persistent(self.conns, SESSIONS[at], session.known);
            self.script.end(older, End::Sent(0x8E));
        } else {
            self.script.persistent(self.conns, SESSIONS[at], session.known);
        }
        session.known = true;
        if let Some(item) = session.in_flight.take() {
            let new = item.qos < 2;
            session.queue.push_front(Item { dup: true, new, ..item });
        }
    }

    fn subscribe(&mut self, at: usize) {
        let filters = ["a/+", "a/x", "#", "+/x", "c"];
        let text = filters[self.chance.below(filters.len())];
        let qos = u8::try_from(self.chance.below(2)).unwrap() + 1;
        let session = &mut self.sessions[at];
        let Some(conn) = session.conn else { return };
        // Kept as it was first asked for.
        let qos = *session.filters.entry(text).or_insert(qos);
        self.script.subscribe(conn, filter(text, qos));
    }

    fn publish(&mut self) {
        self.numbers += 1;
        let (topic, qos) = (TOPICS[self.chance.below(TOPICS.len())], self.chance.below(3));
        let sent = item(self.numbers, topic, u8::try_from(qos).unwrap());
        self.script.publish(PUBLISHER, sent.clone());
        for session in &mut self.sessions {
            let matching = session.filters.iter().filter(|(text, _)| {
                let filter = mqtt_codec::TopicFilter::new(**text).unwrap();
                filter.matches(&mqtt_codec::TopicName::new(topic).unwrap())
            });
            let most = matching.map(|(_, qos)| *qos).max();
            if let Some(granted) = most.filter(|_| sent.qos > 0 || session.conn.is_some()) {
                session.queue.push_back(Item { qos: sent.qos.min(granted), ..sent.clone() });
            }
        }
    }

    fn deliver(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        let Some(conn) = session.conn else { return };
        session.in_flight = None;
        let Some(item) = session.queue.pop_front() else { return };
        let place = self.script.receive(conn, item.clone());
        if item.qos > 0 {
            self.owed.entry((at, item.number)).or_default().push(place);
            session.in_flight = Some(item);
        }
    }

    fn step(&mut self) {
        let at = self.chance.below(SESSIONS.len());
        match self.chance.below(20) {
            0 => self.connect(at),
            1 => {
                if let Some(conn) = self.sessions[at].conn.take() {
                    self.script.end(conn, End::Broken);
                }
            }
            2 | 3 => self.subscribe(at),
            4..=8 => self.publish(),
            _ => self.deliver(at),
        }
    }

    fn finish(&mut self) {
        for at in 0..SESSIONS.len() {
            if self.sessions[at].conn.is_none() {
                self.connect(at);
            }
            while !self.sessions[at].queue.is_empty() {
                self.deliver(at);
            }
        }
        self.script.settle();
    }
}

#[test]
fn a_perfect_history_is_sound_and_without_one_arrival_that_is_owed_it_is_not() {
    let mut taken = 0;
    for seed in 1..=200 {
        let mut model = Model::new(seed);
        for _ in 0..300 {
            model.step();
        }
        model.finish();
        sound(&model.script);
        let once: Vec<_> = model.owed.values().filter(|places| places.len() == 1).collect();
        if once.is_empty() {
            continue;
        }
        let place = once[model.chance.below(once.len())][0];
        model.script.events.remove(place);
        let verdict = check(&model.script.events);
        let rules: Vec<_> = verdict.counts.iter().map(|(rule, count)| (*rule, *count)).collect();
        assert_eq!(rules, [(Rule::Lost, 1)], "seed {seed}, without #{place}: {verdict}");
        taken += 1;
    }
    assert!(taken > 150, "only {taken} histories had anything to lose");
}

#[test]
fn two_arrivals_in_the_wrong_order_are_found_in_a_perfect_history() {
    let mut found = 0;
    for seed in 1..=50 {
        let mut model = Model::new(seed);
        model.connect(0);
        for _ in 0..100 {
            model.step();
        }
        // Two at the end that nothing can come between.
        model.finish();
        let conn = model.sessions[0].conn.unwrap();
        let last = model.script.events.pop().unwrap();
        model.script.subscribe(conn, filter("order", 1));
        for number in [1, 2] {
            model.script.publish(PUBLISHER, item(model.numbers + number, "order", 1));
        }
        for number in [2, 1] {
            model.script.got(conn, "p", model.numbers + number, "order", 1);
        }
        let all = model.sessions.iter().enumerate().skip(1);
        for (_, session) in all.filter(|(_, session)| session.filters.contains_key("#")) {
            for number in [1, 2] {
                let qos = session.filters["#"].min(1);
                let conn = session.conn.unwrap();
                model.script.got(conn, "p", model.numbers + number, "order", qos);
            }
        }
        model.script.put(last.what);
        let verdict = check(&model.script.events);
        found += verdict.counts.get(&Rule::Order).copied().unwrap_or(0);
        assert_eq!(verdict.counts.len(), 1, "seed {seed}: {verdict}");
    }
    assert_eq!(found, 50);
}

/// A broker that serves clean clients only, for its figures.
#[test]
fn a_large_history_is_judged_with_every_message_counted() {
    let mut script = Script::default();
    script.clean(1, "p");
    for conn in 2..10 {
        script.connect(conn, &format!("s{conn}"), CLEAN);
        script.connected(conn, false);
        script.subscribe(conn, filter("a/+", 1));
    }
    for number in 1..=5_000 {
        script.publish(1, item(number, TOPICS[0], 1));
        for conn in 2..10 {
            script.got(conn, "p", number, TOPICS[0], 1);
        }
    }
    script.settle();
    let summary = sound(&script).summary;
    assert_eq!((summary.acknowledged.qos1, summary.received.qos1), (5_000, 40_000));
    assert_eq!((summary.latency.count, summary.duplicates), (40_000, 0));
}
