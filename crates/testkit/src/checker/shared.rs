//! Rule `shared`: a message goes to one member of each group, and to none only if nobody was surely there.

use super::owed::judge_wait;
use super::sessions::{Chain, Copy, FilterInfo, Sessions};
use super::world::{Arrival, Message, World};
use super::{Findings, MARGIN, Rule};

/// How much longer a connection must have lived than something that came elsewhere, for it to have been there then.
const SURELY: u64 = 10 * MARGIN;

pub(super) fn check(world: &World<'_>, sessions: &Sessions<'_>, findings: &mut Findings<'_>) {
    let groups: Vec<_> =
        sessions.filters.iter().map(|filter| Group::new(world, sessions, filter)).collect();
    for (number, message) in world.messages.iter().enumerate() {
        if message.qos == 0 || message.empty || message.will_of.is_some() {
            continue;
        }
        for &filter in &sessions.of_topic[message.topic] {
            let Some(group) = &groups[filter] else { continue };
            // Who has another subscription may have it by that one.
            let of_group = |arrival: &&Arrival| {
                let life = sessions.life_of(arrival);
                life.is_some_and(|life| {
                    sessions.matching(life, message.topic).any(|chain| chain.filter == filter)
                })
            };
            let arrivals: Vec<_> = world.arrivals_of(number).iter().filter(of_group).collect();
            match arrivals.first() {
                None => lost(message, group, findings),
                Some(first) => {
                    in_time(world, message, group, first, findings);
                    let alone: Vec<_> = arrivals
                        .into_iter()
                        .filter(|arrival| is_only(world, sessions, arrival, filter))
                        .collect();
                    twice(world, sessions, (number, group), &alone, findings);
                }
            }
        }
    }
}

/// A shared filter and who asked for it.
#[derive(Debug)]
struct Group<'a> {
    name: &'a str,
    chains: Vec<&'a Chain>,
    /// Persistent or not, members that were there to the end.
    stay: Vec<&'a Chain>,
    /// Whether any member wants QoS 0: who gets a message at QoS 0 may lose it.
    fleeting: bool,
    /// Whether a member may have a message and not be there at the end.
    away: bool,
    /// When sessions of members, or their memberships, ended.
    ends: Vec<usize>,
}

impl<'a> Group<'a> {
    fn new(world: &World<'_>, sessions: &'a Sessions<'_>, filter: &FilterInfo<'a>) -> Option<Self> {
        let chains: Vec<_> = filter.chains.iter().map(|&chain| &sessions.chains[chain]).collect();
        if !filter.shared || chains.is_empty() {
            return None;
        }
        let life = |chain: &Chain| &sessions.lives[chain.life];
        let kept = |chain: &&&Chain| {
            life(chain).stays && chain.leaving.is_none_or(|event| event > world.end)
        };
        let stay: Vec<_> = chains.iter().filter(kept).copied().collect();
        let mut ends = Vec::new();
        let mut away = false;
        for &chain in &chains {
            let conns = &life(chain).conns;
            let persistent = conns.iter().any(|&conn| world.conns[conn].expiry_secs > 0);
            let last = conns.last().and_then(|&conn| world.conns[conn].ended);
            match (life(chain).replaced, persistent) {
                (Some(replaced), _) => ends.push(replaced),
                (None, false) => ends.extend(last.map(|(event, _)| event)),
                (None, true) => away |= !life(chain).stays,
            }
            ends.extend(chain.leaving);
        }
        let fleeting = chains.iter().flat_map(|chain| &chain.asked).any(|asked| asked.qos == 0);
        Some(Self { name: filter.text, chains, stay, fleeting, away, ends })
    }

    /// Who shows that there was surely somebody from one place to another.
    fn member(&self, from: usize, until: usize) -> Option<&'a Chain> {
        self.stay.iter().copied().find(|chain| chain.terms(from, until).is_some())
    }
}

/// Whether what came can only have come through the group.
fn is_only(world: &World<'_>, sessions: &Sessions<'_>, arrival: &Arrival, filter: usize) -> bool {
    let Some(life) = sessions.life_of(arrival) else { return false };
    let topic = world.messages[arrival.message].topic;
    sessions.copy(world, arrival) != Copy::Retained
        && sessions.lives[life].earlier.is_none()
        && sessions.matching(life, topic).all(|chain| chain.filter == filter)
}

fn lost(message: &Message<'_>, group: &Group<'_>, findings: &mut Findings<'_>) {
    let Some(acked) = message.acked.filter(|_| !message.refused) else { return };
    if group.fleeting || group.away || message.expiry_secs.is_some() {
        return;
    }
    // Only with its session a message at QoS 2 goes, and nobody may know that the session had it.
    let exactly = |chain: &&Chain| chain.asked.iter().any(|asked| asked.qos == 2);
    let stuck = message.qos == 2 && group.chains.iter().any(exactly);
    if stuck && group.ends.iter().any(|&end| end > message.first) {
        return;
    }
    let Some(member) = group.member(message.first, acked) else { return };
    let shown: Vec<_> =
        member.shown(message.first).into_iter().chain([message.first, acked]).collect();
    let what = || format!("{message} was acknowledged and came to nobody of {}", group.name);
    findings.add(Rule::Shared, what, &shown);
}

fn in_time(
    world: &World<'_>,
    message: &Message<'_>,
    group: &Group<'_>,
    first: &Arrival,
    findings: &mut Findings<'_>,
) {
    let Some(acked) = message.acked.filter(|_| !message.refused) else { return };
    // Who leaves gives back what it had, and has it had for a while.
    let due = group.ends.iter().copied().filter(|&end| end < first.event).max();
    let due = world.at(acked).max(due.map_or(0, |end| world.at(end)));
    if !group.away && group.member(message.first, acked).is_some() {
        let what = |secs| format!("{message} came to a member of {} after {secs} s", group.name);
        judge_wait(world, due, first, &[message.first, acked], what, findings);
    }
}

fn twice(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (number, group): (usize, &Group<'_>),
    arrivals: &[&Arrival],
    findings: &mut Findings<'_>,
) {
    let message = &world.messages[number];
    if message.sends > 1 && (message.qos == 1 || sessions.forgotten.contains(&number)) {
        return;
    }
    for (at, second) in arrivals.iter().enumerate() {
        let life = sessions.life_of(second);
        let mut before = arrivals[..at].iter().filter(|first| sessions.life_of(first) != life);
        let both = before.find(|first| {
            // In a fault the store may have lost sight of a member that is still served, and what it confirmed last.
            let (from, until) = (world.at(message.first), world.at(second.event));
            let disturbed = |conn: usize| world.is_disturbed(conn, from, until);
            let mut conns = [first.conn, second.conn, message.first_conn].into_iter();
            match (first.qos, second.qos) {
                // Also if the session of the first is over [MQTT-4.8.2-5].
                (2, 2) => {
                    let both = first.new && second.new;
                    both && (lives_on(world, sessions, first, second) || !conns.any(disturbed))
                }
                (1, 1) => {
                    // What is on its way to one that leaves goes to another, and may reach both.
                    let mut ends = group.ends.iter();
                    !ends.any(|&end| message.first < end && end < second.event)
                        && stays_connected(world, first, second)
                        && !conns.any(disturbed)
                }
                _ => false,
            }
        });
        if let Some(first) = both {
            let shown = [message.first, first.event, second.event];
            let what = || format!("{message} came to two members of {}", group.name);
            findings.add(Rule::Shared, what, &shown);
            return;
        }
    }
}

/// Whether the session that had it first was there when another got it.
fn lives_on(world: &World<'_>, sessions: &Sessions<'_>, first: &Arrival, second: &Arrival) -> bool {
    let Some(life) = sessions.life_of(first) else { return false };
    let life = &sessions.lives[life];
    let later = life.conns.iter().copied();
    // A connection that was resumed later, or that was surely there.
    life.stays
        || later.filter(|&conn| world.conns[conn].proof > second.event).any(|conn| {
            world.conns[conn].connected.is_some_and(|one| one.event > first.event)
                || stays_connected(world, first, second)
        })
}

/// Whether the connection that had it first was surely there when another got it.
fn stays_connected(world: &World<'_>, first: &Arrival, second: &Arrival) -> bool {
    let later = world.at(second.event).saturating_add(SURELY);
    world.stays(first.conn) || world.at(world.conns[first.conn].proof) >= later
}
