//! A connection from CONNACK to its end: what the client does on it and when, and what it makes of what comes.
//!
//! Each turn does all that is due, then waits for bytes or for the next thing to do. An event is written down before
//! its bytes leave, or when they were read.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use mqtt_codec::{
    Packet, QoS, RetainHandling, Subscribe, SubscriptionOptions, TopicFilter, TopicName,
    Unsubscribe, UserProperties, Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::client::{Answer, Arrival, Asked, Content};
use super::driver::Driver;
use super::kinds::{Publishing, Way};
use super::line::Line;
use super::{Network, Phase};
use crate::record::{ConnId, End, Filter, MessageId, What};

/// Between two PINGREQs.
const PING: Duration = Duration::from_secs(2);
/// Without a byte for so long a connection is given up.
const SILENCE: Duration = Duration::from_secs(5);
/// How long the last words of a server that does not read are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// With more unwritten nothing is published.
const MOST_UNSENT: usize = 64 * 1024;
/// When a subscription is tried again that was refused.
const REFUSED: Duration = Duration::from_millis(300);
const FAR: Duration = Duration::from_secs(3600);

/// What is to be done on a connection, and when.
#[derive(Debug)]
struct Agenda {
    publish: Instant,
    /// Whether an acknowledgement is waited for before the next message.
    full: bool,
    ping: Instant,
    resubscribe: Instant,
    /// Nothing is subscribed to before: something was refused.
    refused: Instant,
    stall: Instant,
    leave: Instant,
    /// Nothing is read before.
    stalled: Option<Instant>,
    /// When the server is taken for gone.
    silence: Instant,
    /// What is to be confirmed, in the order in which it came.
    confirms: VecDeque<(Instant, u16, QoS)>,
    /// The server takes nothing more.
    deaf: bool,
    /// When the last turn was.
    turned: Instant,
}

impl<N: Network> Driver<N> {
    /// Uses a connection until it ends; how long to stay away then.
    pub(super) async fn serve(&mut self, mut line: Line<N::Stream>) -> Duration {
        let mut agenda = self.agenda();
        loop {
            if let Some(way) = self.turn(&mut line, &mut agenda) {
                self.leave(line, way).await;
                return self.habits.away;
            }
            let reading = agenda.stalled.is_none();
            line.unread.reserve(4096);
            let wake = agenda.next(self.phase());
            tokio::select! {
                biased;
                () = self.office.phase.changed() => {}
                written = line.write.write_buf(&mut line.unsent), if !line.unsent.is_empty() => {
                    if !written.is_ok_and(|written| written > 0) {
                        agenda.deafen();
                    }
                }
                read = line.read.read_buf(&mut line.unread), if reading => {
                    let how = match read {
                        Ok(1..) => self.take(&mut line, &mut agenda),
                        Ok(_) | Err(_) => Some(End::Broken),
                    };
                    if let Some(how) = how {
                        self.ended(&line, how);
                        return self.lost();
                    }
                }
                () = sleep_until(wake) => {}
            }
            if agenda.deaf {
                line.unsent.clear();
                if Instant::now() >= agenda.silence {
                    self.ended(&line, End::Broken);
                    return self.lost();
                }
            }
        }
    }

    /// The connection broke: how long it stays away.
    fn lost(&mut self) -> Duration {
        self.mourns = self.phase() == Phase::Run && self.habits.mourns.is_some() && self.rng.bool();
        self.habits.mourns.filter(|_| self.mourns).unwrap_or(Duration::from_millis(20))
    }

    fn agenda(&mut self) -> Agenda {
        let now = Instant::now();
        let resubscribe = now + self.some_time(self.habits.resubscribe);
        let stall = now + self.some_time(self.habits.stall);
        let stay = now + self.some_time(self.habits.stay);
        let leave = self.bout_until.unwrap_or(stay);
        Agenda {
            publish: now,
            full: false,
            ping: now + PING,
            resubscribe,
            refused: now,
            stall,
            leave,
            stalled: None,
            silence: now + SILENCE,
            confirms: VecDeque::new(),
            deaf: false,
            turned: now,
        }
    }

    fn some_time(&mut self, mean: Option<Duration>) -> Duration {
        mean.map_or(FAR, |mean| self.jitter(mean))
    }

    /// Does what is due. Says how to leave, if that is it.
    fn turn(&mut self, line: &mut Line<N::Stream>, agenda: &mut Agenda) -> Option<Way> {
        let (now, phase) = (Instant::now(), self.phase());
        agenda.turned = now;
        if phase == Phase::Over || phase != Phase::Run && self.habits.bouts.is_some() {
            return Some(Way::Leave);
        }
        agenda.stalled = agenda.stalled.filter(|&until| phase == Phase::Run && now < until);
        if agenda.deaf {
            return None;
        }
        if agenda.stalled.is_none() && now >= agenda.silence {
            return Some(Way::Drop);
        }
        if phase == Phase::Run {
            if now >= agenda.leave {
                return Some(self.habits.ways[self.rng.usize(0..self.habits.ways.len())]);
            }
            self.stall(agenda, now);
        }
        while agenda.confirms.front().is_some_and(|&(at, ..)| phase != Phase::Run || now >= at) {
            let confirmed = agenda.confirms.pop_front();
            self.confirm(line, confirmed.map(|(_, id, qos)| (id, qos)));
        }
        if !self.session.is_asking() && now >= agenda.refused {
            self.keep_subscribed(line, agenda, now);
        }
        if phase == Phase::Run && now >= agenda.publish && line.unsent.len() < MOST_UNSENT {
            self.publish(line, agenda, now);
        }
        if now >= agenda.ping {
            line.send(&self.session.ping());
            agenda.ping = now + PING;
        }
        if self.habits.bouts.is_none() {
            let looked = phase != Phase::Quiet || self.looked || !self.habits.looks;
            let whole = self.have.len() == self.habits.filters.len();
            let ready = looked && whole && self.session.is_idle() && agenda.confirms.is_empty();
            self.office.ledger().set_ready(self.number, ready);
        }
        None
    }

    fn stall(&mut self, agenda: &mut Agenda, now: Instant) {
        let Some(mean) = self.habits.stall.filter(|_| now >= agenda.stall) else { return };
        let until = now + Duration::from_millis(self.rng.u64(300..3000));
        agenda.stalled = Some(until);
        agenda.silence = until + SILENCE;
        agenda.stall = until + self.jitter(mean);
    }

    fn confirm(&mut self, line: &mut Line<N::Stream>, what: Option<(u16, QoS)>) {
        let Some((packet_id, qos)) = what else { return };
        if let Some(packet) = self.session.confirm(packet_id, qos) {
            self.office.recorder.record(What::Confirm { conn: line.conn, packet_id });
            line.send(&packet);
        }
    }

    /// Subscribes to what it wants and has not, or again, or gives something up for a moment.
    fn keep_subscribed(&mut self, line: &mut Line<N::Stream>, agenda: &mut Agenda, now: Instant) {
        let have = |wanted: &&Filter| !self.have.contains(wanted);
        let wanted: Vec<_> = self.habits.filters.iter().filter(have).cloned().collect();
        if !wanted.is_empty() {
            return self.subscribe(line, wanted);
        }
        let phase = self.phase();
        if phase == Phase::Quiet && self.habits.looks && !self.looked {
            self.looked = true;
            for filter in &self.habits.filters {
                let filter = TopicFilter::new(filter.filter.as_str()).expect("it was granted");
                self.office.ledger().look(self.habits.slot, &filter);
            }
            return self.subscribe(line, self.have.clone());
        }
        let Some(mean) = self.habits.resubscribe else { return };
        if phase != Phase::Run || now < agenda.resubscribe || self.have.is_empty() {
            return;
        }
        agenda.resubscribe = now + self.jitter(mean);
        let which = self.rng.usize(0..self.have.len());
        if self.rng.bool() {
            let again = vec![self.have[which].clone()];
            return self.subscribe(line, again);
        }
        let filter = self.have.remove(which).filter;
        self.unsubscribe(line, filter);
    }

    fn subscribe(&mut self, line: &mut Line<N::Stream>, filters: Vec<Filter>) {
        let packet_id = self.session.ask(Asked::Subscribe(filters.clone()));
        let entries = filters.iter().map(entry).collect();
        let (conn, id) = (line.conn, packet_id.value());
        self.office.recorder.record(What::Subscribe { conn, id, filters });
        line.send(&Packet::Subscribe(Box::new(Subscribe {
            packet_id,
            subscription_id: None,
            user_properties: UserProperties::new(),
            filters: entries,
        })));
    }

    fn unsubscribe(&mut self, line: &mut Line<N::Stream>, filter: String) {
        self.office.ledger().unsubscribed(self.habits.slot, &filter);
        let filters = vec![filter.clone()];
        let packet_id = self.session.ask(Asked::Unsubscribe(filters.clone()));
        let (conn, id) = (line.conn, packet_id.value());
        self.office.recorder.record(What::Unsubscribe { conn, id, filters });
        line.send(&Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id,
            user_properties: UserProperties::new(),
            filters: vec![TopicFilter::new(filter).expect("it was granted")],
        })));
    }

    fn publish(&mut self, line: &mut Line<N::Stream>, agenda: &mut Agenda, now: Instant) {
        let Some(publishing) = self.habits.publishing.clone() else {
            agenda.publish = now + FAR;
            return;
        };
        if !self.session.has_room(publishing.window) {
            // Tried again when an acknowledgement has come.
            agenda.full = true;
            agenda.publish = now + FAR;
            return;
        }
        agenda.publish = now + self.jitter(publishing.pause);
        let content = self.content(&publishing);
        self.office.ledger().published(&content);
        self.office.recorder.record(publish_event(line.conn, &content, false));
        line.send(&self.session.publish(content));
    }

    /// The next message.
    fn content(&mut self, publishing: &Publishing) -> Content {
        self.last_message += 1;
        let publisher = self.habits.client_id.clone();
        let message = MessageId { publisher, number: self.last_message };
        let rare = publishing.rare.as_ref().filter(|_| self.rng.u8(0..16) == 0);
        let usual = &publishing.topics[self.rng.usize(0..publishing.topics.len())];
        let topic = rare.unwrap_or(usual);
        let bytes = match self.rng.u8(0..10) {
            0..5 => 0,
            5..9 => self.rng.usize(0..256),
            _ => self.rng.usize(0..=publishing.max_bytes),
        };
        let deletes = publishing.retain && self.rng.u8(0..if rare.is_some() { 3 } else { 12 }) == 0;
        let payload = if deletes { Bytes::new() } else { message.payload(bytes).into() };
        let mortal = self.habits.version == Version::V5 && !publishing.retain;
        let expires = mortal && self.rng.u8(0..10) == 0;
        let qos = match self.rng.u8(0..10) {
            0 if !deletes => QoS::AtMostOnce,
            1 | 2 if !publishing.retain => QoS::AtMostOnce,
            3..7 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        Content {
            message,
            topic: TopicName::new(topic.as_str()).expect("publishers have valid topics"),
            qos,
            retain: publishing.retain,
            expiry_secs: expires.then(|| [1, 3, 60][self.rng.usize(0..3)]),
            payload,
        }
    }

    /// Handles all packets that have come. How the connection ended, if it did.
    fn take(&mut self, line: &mut Line<N::Stream>, agenda: &mut Agenda) -> Option<End> {
        let now = Instant::now();
        if !agenda.deaf {
            agenda.silence = now + SILENCE;
        }
        loop {
            let answer = match line.next() {
                Ok(None) => return None,
                Ok(Some(packet)) => self.session.handle(packet),
                Err(error) => Err(format!("cannot be decoded: {error}")),
            };
            match answer {
                Ok(Answer::Ended(code)) => return Some(End::Sent(code)),
                Ok(answer) => self.answered(line, agenda, now, answer),
                Err(text) => {
                    self.violated(line.conn, text);
                    return Some(End::Dropped);
                }
            }
        }
    }

    fn answered(
        &mut self,
        line: &mut Line<N::Stream>,
        agenda: &mut Agenda,
        now: Instant,
        answer: Answer,
    ) {
        let conn = line.conn;
        let recorder = self.office.recorder.clone();
        if agenda.full && matches!(answer, Answer::Acknowledged(..) | Answer::Completed(_)) {
            agenda.full = false;
            agenda.publish = now;
        }
        match answer {
            Answer::Publish(arrival) => self.received(conn, agenda, now, &arrival),
            Answer::Acknowledged(content, code, reply) => {
                let message = content.message.clone();
                recorder.record(What::Acknowledged { conn, message, code });
                self.office.ledger().acknowledged(&content, code);
                if let Some(pubrel) = reply {
                    line.send(&pubrel);
                }
            }
            Answer::Completed(content) => {
                recorder.record(What::Completed { conn, message: content.message });
            }
            Answer::Released(pubcomp) => line.send(&pubcomp),
            Answer::Subscribed(id, filters, codes) => {
                if codes.iter().any(|&code| code >= 0x80) {
                    agenda.refused = now + REFUSED;
                }
                self.subscribed(conn, id, filters, codes);
            }
            Answer::Unsubscribed(id) => recorder.record(What::Unsubscribed { conn, id }),
            Answer::Alive | Answer::Ended(_) => {}
        }
    }

    fn received(&mut self, conn: ConnId, agenda: &mut Agenda, now: Instant, arrival: &Arrival) {
        let Arrival { qos, retain, dup, packet_id, new, .. } = *arrival;
        let topic = arrival.topic.as_str().to_owned();
        self.office.recorder.record(match arrival.message.clone() {
            Some(message) => {
                let qos = qos as u8;
                What::Received { conn, message, topic, qos, retain, dup, packet_id, new }
            }
            None => What::ReceivedEmpty { conn, topic, retain },
        });
        self.office.ledger().received(self.habits.slot, self.habits.group_slot, arrival);
        if qos == QoS::AtMostOnce {
            return;
        }
        let longest = u64::try_from(self.habits.confirm.as_millis()).unwrap_or_default();
        let due = now + Duration::from_millis(self.rng.u64(0..=longest));
        let due = agenda.confirms.back().map_or(due, |&(last, ..)| last.max(due));
        agenda.confirms.push_back((due, packet_id, qos));
    }

    fn subscribed(&mut self, conn: ConnId, id: u16, filters: Vec<Filter>, codes: Vec<u8>) {
        let mut ledger = self.office.ledger();
        for (filter, &code) in filters.into_iter().zip(&codes) {
            if code >= 0x80 {
                continue;
            }
            let text = TopicFilter::new(filter.filter.as_str()).expect("it was sent");
            // Not every message is owed that matches a filter without what is local.
            if code > 0 && !filter.no_local && text.share_name().is_none() {
                ledger.subscribed(self.habits.slot, &text);
            } else if code > 0
                && let Some(group) = self.habits.group_slot.filter(|_| self.habits.anchor)
            {
                ledger.subscribed(group, &text);
            }
            if !self.have.contains(&filter) {
                self.have.push(filter);
            }
        }
        drop(ledger);
        self.office.recorder.record(What::Subscribed { conn, id, codes });
    }
}

impl Agenda {
    fn next(&self, phase: Phase) -> Instant {
        let always = [self.ping, self.stalled.unwrap_or(self.silence)];
        let running = [self.publish, self.resubscribe, self.stall, self.leave];
        let running = running.into_iter().filter(|_| phase == Phase::Run);
        // What was due and was not done waits for something to come, not for time.
        let running = running.chain([self.refused]).filter(|&at| at > self.turned);
        let confirm = self.confirms.front().map(|&(at, ..)| at);
        let all = always.into_iter().chain(running).chain(confirm);
        if self.deaf {
            return self.silence;
        }
        all.min().unwrap_or(self.silence)
    }

    fn deafen(&mut self) {
        self.deaf = true;
        self.stalled = None;
        self.silence = Instant::now() + LAST_WORDS;
    }
}

/// That `content` is about to be sent.
pub(super) fn publish_event(conn: ConnId, content: &Content, dup: bool) -> What {
    What::Publish {
        conn,
        message: content.message.clone(),
        topic: content.topic.as_str().to_owned(),
        qos: content.qos as u8,
        retain: content.retain,
        dup,
        expiry_secs: content.expiry_secs,
        empty: content.is_empty(),
    }
}

fn entry(filter: &Filter) -> (TopicFilter, SubscriptionOptions) {
    let options = SubscriptionOptions {
        qos: QoS::from_bits(filter.qos).unwrap_or_default(),
        no_local: filter.no_local,
        retain_as_published: filter.retain_as_published,
        retain_handling: match filter.retain_handling {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            _ => RetainHandling::DoNotSend,
        },
    };
    (TopicFilter::new(filter.filter.as_str()).expect("clients have valid filters"), options)
}
