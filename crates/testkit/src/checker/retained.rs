//! Rule `retained`: a subscription gets the newest retained message of each topic, and nothing older than what was received or
//! acknowledged before.
//!
//! Only topics whose retained messages come from one publisher are judged, and of their versions only those whose order
//! is certain: a message that was sent again at QoS 1 may come into effect twice.

use std::collections::HashMap;

use super::sessions::{Asked, Chain, Copy, Sessions};
use super::world::{Arrival, Message, World};
use super::{Findings, PATIENCE, Rule, SECOND};

/// How long a clean session remembers what came live.
const MEMORY: u64 = 5 * SECOND;

/// How long the answer to a SUBSCRIBE may take to be read from the store when nothing is wrong, and nobody reads slowly.
const READ: u64 = 10 * SECOND;

/// The retained messages of a topic.
#[derive(Debug, Default)]
struct Topic {
    /// In the order of their first PUBLISHes; deletions too.
    versions: Vec<usize>,
    /// When each was acknowledged, and the newest of those acknowledged up to then.
    acked: Vec<(usize, usize)>,
    /// Whether they come from several publishers.
    mixed: bool,
}

pub(super) fn check(world: &World<'_>, sessions: &Sessions<'_>, findings: &mut Findings<'_>) {
    let topics = topics(world);
    let mut arrivals: HashMap<(usize, usize), Vec<Arrival>> = HashMap::new();
    for topic in topics.iter().filter(|topic| !topic.mixed) {
        for &version in &topic.versions {
            for arrival in world.arrivals_of(version) {
                let Some(life) = sessions.life_of(arrival) else { continue };
                let of = (life, world.messages[version].topic);
                arrivals.entry(of).or_default().push(*arrival);
            }
        }
    }
    for arrivals in arrivals.values_mut() {
        arrivals.sort_unstable_by_key(|arrival| arrival.event);
    }
    let mut all: Vec<_> = arrivals.iter().collect();
    all.sort_unstable_by_key(|(of, _)| **of);
    for (&(life, number), arrivals) in all {
        if sessions.lives[life].earlier.is_none() && !sessions.may_be_shared(life, number) {
            ages(world, sessions, (&topics[number], life, number), arrivals, findings);
        }
    }
    missing(world, sessions, &topics, &arrivals, findings);
}

fn topics(world: &World<'_>) -> Vec<Topic> {
    let mut topics: Vec<Topic> = Vec::new();
    topics.resize_with(world.topics.names.len(), Topic::default);
    for (number, message) in world.messages.iter().enumerate().filter(|(_, one)| one.retain) {
        let topic = &mut topics[message.topic];
        let same = topic
            .versions
            .first()
            .is_none_or(|&first| world.messages[first].id.publisher == message.id.publisher);
        topic.mixed |= message.will_of.is_some() || !same;
        topic.versions.push(number);
    }
    for topic in &mut topics {
        topic.versions.sort_unstable_by_key(|&version| world.messages[version].first);
        let versions = topic.versions.iter().filter(|&&version| is_kept(world, version));
        let acked = versions.filter_map(|&version| Some((world.messages[version].acked?, version)));
        topic.acked = acked.collect();
        topic.acked.sort_unstable();
        for at in 1..topic.acked.len() {
            let (before, this) = (topic.acked[at - 1].1, topic.acked[at].1);
            if world.messages[before].first > world.messages[this].first {
                topic.acked[at].1 = before;
            }
        }
    }
    topics
}

/// Whether an acknowledgement says that it is retained.
fn is_kept(world: &World<'_>, version: usize) -> bool {
    let message = &world.messages[version];
    let Some(acked) = message.acked else { return false };
    let mut faults = world.faults.around(world.at(message.first), world.at(acked));
    !message.refused && !faults.any(super::faults::Fault::fills_the_store)
}

/// Whether one version surely took effect before another, and never again.
fn is_older(world: &World<'_>, sessions: &Sessions<'_>, older: usize, newer: usize) -> bool {
    let (a, b) = (&world.messages[older], &world.messages[newer]);
    let once = match a.qos {
        2 => !sessions.forgotten.contains(&older),
        _ => a.sends == 1,
    };
    let done = a.acked.is_some_and(|acked| acked < b.first);
    let in_order = a.last_conn == b.first_conn && a.qos == b.qos;
    once && a.last < b.first && (done || in_order)
}

impl Topic {
    /// The newest version that was acknowledged before a place.
    fn newest_before(&self, place: usize) -> Option<usize> {
        let count = self.acked.partition_point(|&(acked, _)| acked < place);
        Some(self.acked.get(count.checked_sub(1)?)?.1)
    }
}

/// Retained messages that came are none that a newer one had replaced.
fn ages(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (topic, life, number): (&Topic, usize, usize),
    arrivals: &[Arrival],
    findings: &mut Findings<'_>,
) {
    let name = world.topics.names[number];
    let mut newest: Option<&Arrival> = None;
    for arrival in arrivals {
        let message = &world.messages[arrival.message];
        let client = world.conns[arrival.conn].client_id;
        if sessions.copy(world, arrival) == Copy::Retained && !arrival.dup {
            let asked = first_request(world, sessions, (life, number), arrival);
            let acked = asked.and_then(|asked| topic.newest_before(asked));
            let acked = acked.filter(|&newer| is_older(world, sessions, arrival.message, newer));
            // Of two publishers the older message may take longer: then it is the last one that came.
            let came_later = |newer: &Arrival| {
                let same = |other: &&Arrival| other.message == arrival.message;
                let mut same = arrivals.iter().filter(same).map(|other| other.event);
                same.any(|event| newer.event < event && event < arrival.event)
            };
            let newer = newest.filter(|newer| !came_later(newer)).filter(|newer| {
                is_older(world, sessions, arrival.message, newer.message)
                    && lasts(
                        sessions,
                        (life, number),
                        world.messages[newer.message].first,
                        arrival.event,
                    )
                    && is_remembered(world, sessions, (life, number), (newer, arrival))
            });
            if let (Some(asked), Some(newer)) = (asked, acked) {
                let newer = &world.messages[newer];
                let shown = [message.first, newer.first, asked, arrival.event];
                let shown: Vec<_> = shown.into_iter().chain(newer.acked).collect();
                let deleted = if newer.empty { "deleted" } else { "replaced" };
                let what = || {
                    format!("{client} got {message} under {name}, {deleted} before it subscribed")
                };
                findings.add(Rule::Retained, what, &shown);
            } else if let Some(newer) = newer {
                let (event, newer) = (newer.event, &world.messages[newer.message]);
                let last = last_request(sessions, (life, number), arrival.event);
                let last = last.map(|last| last.event);
                let later = last.is_some_and(|last| last > event);
                let order = if later { "from a later subscription" } else { "in one answer" };
                let shown = [message.first, newer.first, event, arrival.event];
                let shown: Vec<_> = shown.into_iter().chain(last).collect();
                let what = || format!("{client} got {message} under {name} after {newer}, {order}");
                findings.add(Rule::Retained, what, &shown);
            }
        }
        if newest.is_none_or(|newest| world.messages[newest.message].first < message.first) {
            newest = Some(arrival);
        }
    }
}

/// The first SUBSCRIBE that something retained may have come for.
fn first_request(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (life, topic): (usize, usize),
    arrival: &Arrival,
) -> Option<usize> {
    let chains = sessions.matching(life, topic).filter(|chain| !sessions.is_shared(chain));
    let asked = chains.flat_map(|chain| &chain.asked);
    let asked = asked.filter(|asked| asked.retain_handling < 2 && asked.event < arrival.event);
    let mut asked: Vec<_> = asked.collect();
    asked.sort_unstable_by_key(|asked| asked.event);
    let late = |asked: &&&Asked| !is_over(world, asked, arrival);
    asked.iter().find(late).or_else(|| asked.last()).map(|asked| asked.event)
}

/// The last SUBSCRIBE that something retained may have come for.
fn last_request<'a>(
    sessions: &'a Sessions<'_>,
    (life, topic): (usize, usize),
    before: usize,
) -> Option<&'a Asked> {
    let chains = sessions.matching(life, topic).filter(|chain| !sessions.is_shared(chain));
    let asked = chains.flat_map(|chain| &chain.asked);
    asked.filter(|asked| asked.event < before).max_by_key(|asked| asked.event)
}

/// Whether what came because of the last SUBSCRIBE cannot be older than what came before it. A clean session gets what is
/// published before the store has it, and remembers that for some seconds only: a store that is away for longer answers
/// with an older one.
fn is_remembered(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (life, topic): (usize, usize),
    (newer, arrival): (&Arrival, &Arrival),
) -> bool {
    let Some(last) = last_request(sessions, (life, topic), arrival.event) else { return true };
    // Its server read it before this, and had the newer message not before that was published.
    let read = last.answer.map_or(arrival.event, |(answer, _)| answer.min(arrival.event));
    let published = world.messages[newer.message].first;
    let apart = world.at(read).saturating_sub(world.at(published));
    let from_store = world.conns[arrival.conn].expiry_secs > 0;
    from_store || apart < MEMORY
}

/// Whether all that a SUBSCRIBE brings has come long ago.
fn is_over(world: &World<'_>, asked: &Asked, arrival: &Arrival) -> bool {
    let (from, until) = (world.at(asked.event), world.at(arrival.event));
    asked.conn == arrival.conn
        && asked.answer.is_some_and(|(answer, _)| world.at(answer) + PATIENCE < until)
        && !world.is_disturbed(asked.conn, from, until)
}

/// Whether a subscription to the topic lasted from when one message was published until another came.
fn lasts(
    sessions: &Sessions<'_>,
    (life, topic): (usize, usize),
    from: usize,
    until: usize,
) -> bool {
    let held = |chain: &Chain| {
        !sessions.is_shared(chain)
            && chain.begun() < from
            && chain.leaving.is_none_or(|leaving| leaving > until)
    };
    sessions.matching(life, topic).any(held)
}

/// What was retained when a client subscribed came, or something newer.
fn missing(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    topics: &[Topic],
    arrivals: &HashMap<(usize, usize), Vec<Arrival>>,
    findings: &mut Findings<'_>,
) {
    let kept = super::owed::kept(world, sessions);
    for (number, topic) in topics.iter().enumerate().filter(|(_, topic)| !topic.mixed) {
        if topic.versions.is_empty() {
            continue;
        }
        for chain in &kept[number] {
            let none = Vec::new();
            let arrivals = arrivals.get(&(chain.life, number)).unwrap_or(&none);
            for asked in chain.asked.iter().filter(|asked| asked.retain_handling == 0) {
                let Some((answer, code)) = asked.answer.filter(|(_, code)| *code < 0x80) else {
                    continue;
                };
                let Some(version) = topic.newest_before(asked.event) else { continue };
                let read = (asked, answer);
                if code == 0 || !is_due(world, sessions, (topic, version), read) {
                    continue;
                }
                let message = &world.messages[version];
                let since = arrivals.partition_point(|arrival| arrival.event < asked.event);
                let newer_or_same =
                    |arrival: &Arrival| world.messages[arrival.message].first >= message.first;
                if !arrivals[since..].iter().any(newer_or_same) {
                    let conn = world.conns[asked.conn].client_id;
                    let name = world.topics.names[number];
                    let shown: Vec<_> = [message.first, asked.event, answer]
                        .into_iter()
                        .chain(message.acked)
                        .collect();
                    let what = || format!("{conn} subscribed to {name} and never got {message}");
                    findings.add(Rule::Retained, what, &shown);
                }
            }
        }
    }
}

/// Whether who asked after this version was acknowledged surely gets it, or a newer one.
fn is_due(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (topic, version): (&Topic, usize),
    (asked, answer): (&Asked, usize),
) -> bool {
    let message: &Message<'_> = &world.messages[version];
    let first = |version: usize| world.messages[version].first;
    let place = topic.versions.partition_point(|&other| first(other) < message.first);
    let (before, from_it) = topic.versions.split_at(place);
    let replaced = |&other: &usize| is_older(world, sessions, other, version);
    // Any of the newer ones may come in its place.
    let stays = |&other: &usize| {
        let other = &world.messages[other];
        !other.empty && other.expiry_secs.is_none() && other.qos > 0
    };
    // Whatever takes its place must not do so before it was read.
    let gone = from_it.iter().copied().find(|other| !stays(other)).map(first);
    let read = world.at(answer).saturating_add(READ);
    let in_time = |gone: usize| {
        world.at(gone) > read
            && world.is_open_at(asked.conn, gone)
            && !world.is_disturbed(asked.conn, world.at(asked.event), read)
    };
    before.iter().all(replaced) && gone.is_none_or(in_time)
}
