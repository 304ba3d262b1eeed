//! Rules `lost` and `liveness`: who is owed an acknowledged message, and whether and when it came.
//!
//! Owed is it to each session that lives to the end and surely was subscribed from before the first PUBLISH to the
//! acknowledgement, above QoS 0, by a subscription that was not given up. Groups and wills are judged elsewhere.

use super::sessions::{Chain, Sessions};
use super::world::{Arrival, Message, World};
use super::{Findings, PATIENCE, Rule, SECOND};
use crate::record::What;

/// Message Expiry Intervals below are too short to say who was in time.
const SHORT_EXPIRY: u32 = 5;

/// What was found beside violations.
#[derive(Debug)]
pub(super) struct Owed {
    /// Of each message above QoS 0: when it was acknowledged and everybody connected that it was owed to had it.
    pub(super) done: Vec<Option<u64>>,
    /// First PUBLISHes of messages that somebody lacks; a few.
    pub(super) missing: Vec<usize>,
    /// How many are lacked.
    pub(super) lacking: u64,
}

/// A session that is owed a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Debt<'a> {
    pub(super) life: usize,
    pub(super) chain: &'a Chain,
}

pub(super) fn check(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    findings: &mut Findings<'_>,
) -> Owed {
    let mut owed = Owed { done: vec![None; world.messages.len()], missing: Vec::new(), lacking: 0 };
    let kept = kept(world, sessions);
    let mut debts = Vec::new();
    for (number, message) in world.messages.iter().enumerate() {
        let Some(acked) = message.acked.filter(|_| is_kept(message)) else { continue };
        debts.clear();
        find(world, sessions, &kept[message.topic], (message, acked), &mut debts);
        let mut done = world.at(acked);
        for debt in &debts {
            match first_arrival(world, sessions, number, debt.life) {
                None => lose(world, sessions, number, *debt, &mut owed, findings),
                Some(first) => {
                    judge_time(world, sessions, (message, acked), *debt, &first, findings);
                    if world.is_open_at(first.conn, message.first) {
                        done = done.max(world.at(first.event));
                    }
                }
            }
        }
        owed.done[number] = Some(done);
    }
    owed
}

/// Whether anybody could be owed it.
fn is_kept(message: &Message<'_>) -> bool {
    message.qos > 0 && !message.refused && !message.empty && message.will_of.is_none()
}

/// The subscriptions to each topic that were not given up, of sessions that live to the end; none of groups.
pub(super) fn kept<'a>(world: &World<'_>, sessions: &'a Sessions<'_>) -> Vec<Vec<&'a Chain>> {
    let of_topic = sessions.of_topic.iter().map(|filters| {
        let filters = filters.iter().map(|&filter| &sessions.filters[filter]);
        let chains = filters.filter(|filter| !filter.shared).flat_map(|filter| &filter.chains);
        let chains = chains.map(|&chain| &sessions.chains[chain]);
        let kept = chains.filter(|chain| {
            sessions.lives[chain.life].stays && chain.leaving.is_none_or(|event| event > world.end)
        });
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by_key(|chain| chain.life);
        kept
    });
    of_topic.collect()
}

/// The sessions that are owed a message.
fn find<'a>(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    kept: &[&'a Chain],
    (message, acked): (&Message<'_>, usize),
    debts: &mut Vec<Debt<'a>>,
) {
    let publisher = world.conns[message.first_conn].client;
    for chain in kept {
        if debts.last().is_some_and(|debt| debt.life == chain.life) {
            continue;
        }
        let Some(terms) = chain.terms(message.first, acked) else { continue };
        let client = world.conns[sessions.lives[chain.life].conns[0]].client;
        if terms.qos > 0 && !(terms.no_local && client == publisher) {
            debts.push(Debt { life: chain.life, chain });
        }
    }
}

/// What came first of a message to a session.
pub(super) fn first_arrival(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    message: usize,
    life: usize,
) -> Option<Arrival> {
    let mut arrivals = world.arrivals_of(message).iter();
    arrivals.find(|arrival| sessions.life_of(arrival) == Some(life)).copied()
}

fn lose(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    number: usize,
    debt: Debt<'_>,
    owed: &mut Owed,
    findings: &mut Findings<'_>,
) {
    let message = &world.messages[number];
    let Some(acked) = message.acked else { return };
    if message
        .expiry_secs
        .is_some_and(|secs| may_expire(world, sessions, (message, acked), secs, debt))
    {
        return;
    }
    owed.lacking += 1;
    if owed.missing.len() < 20 {
        owed.missing.push(message.first);
    }
    let life = &sessions.lives[debt.life];
    let last = life.conns.last().map(|&conn| &world.conns[conn]);
    let mut shown = debt.chain.shown(message.first);
    shown.extend([message.first, acked]);
    shown.extend(last.and_then(|conn| conn.connected).map(|connected| connected.event));
    let client = last.map_or("", |conn| conn.client_id);
    let filter = sessions.filters[debt.chain.filter].text;
    let what = || format!("{message} was acknowledged and never came to {client}, by {filter}");
    findings.add(Rule::Lost, what, &shown);
}

/// Whether a message may have expired before it could be sent. Not if its session was connected all the time, and got in time what
/// was published later.
fn may_expire(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (message, acked): (&Message<'_>, usize),
    secs: u32,
    debt: Debt<'_>,
) -> bool {
    let published = world.at(message.first);
    let expires = published.saturating_add(u64::from(secs) * SECOND);
    let mut conns = sessions.lives[debt.life].conns.iter().copied();
    let Some(conn) = conns.find(|&conn| world.is_open_at(conn, message.first)) else {
        return true;
    };
    if secs < SHORT_EXPIRY
        || !world.stays(conn)
        || world.at(acked) > published + SECOND
        || world.is_disturbed(conn, published, expires)
        || world.is_disturbed(message.first_conn, published, expires)
    {
        return true;
    }
    let mut later = world.events[acked..].iter().take_while(|event| event.at < expires);
    !later.any(|event| {
        let What::Received { conn: at, message: other, qos: 1.., retain: false, .. } = &event.what
        else {
            return false;
        };
        let other = world.message(other).map(|other| &world.messages[other]);
        world.places.get(at) == Some(&conn)
            && other.is_some_and(|other| other.first > acked && other.qos > 0)
    })
}

/// Whether what came came in time, once nothing was wrong.
fn judge_time(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (message, acked): (&Message<'_>, usize),
    debt: Debt<'_>,
    first: &Arrival,
    findings: &mut Findings<'_>,
) {
    let client = world.conns[first.conn].client_id;
    let filter = sessions.filters[debt.chain.filter].text;
    let what = |secs| format!("{message} came to {client}, by {filter}, after {secs} s");
    judge_wait(world, world.at(acked), first, &[message.first, acked], what, findings);
}

/// Whether what was due at a time came soon enough, counted from when nothing was wrong any more and its receiver was
/// connected.
pub(super) fn judge_wait(
    world: &World<'_>,
    due: u64,
    first: &Arrival,
    shown: &[usize],
    what: impl FnOnce(u64) -> String,
    findings: &mut Findings<'_>,
) {
    let Some(healed) = world.healed else { return };
    let connected =
        world.conns[first.conn].connected.map_or(0, |connected| world.at(connected.event));
    let from = due.max(healed).max(connected);
    let came = world.at(first.event);
    if came > from + PATIENCE {
        let shown: Vec<_> = shown.iter().copied().chain([first.event]).collect();
        findings.add(Rule::Liveness, || what((came - from) / SECOND), &shown);
    }
}
