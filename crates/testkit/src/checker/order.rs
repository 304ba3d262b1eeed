//! Rule `order`: what one connection publishes to one topic at one QoS comes in that order to each session; and what a
//! client published after another message was acknowledged, on whichever connection, comes after that.
//!
//! Of each message its first live arrival counts. What may have come through a group is left out, and what was sent
//! again before it came, unless the session was there when it was sent first and its first copy cannot have been dropped.

use super::faults::Fault;
use super::sessions::{Copy, Sessions};
use super::world::{Arrival, World};
use super::{Findings, Rule};

/// Within which order is kept: life, publishing connection, topic, QoS as published and as received.
type Lane = (usize, usize, usize, u8, u8);

pub(super) fn check(world: &World<'_>, sessions: &Sessions<'_>, findings: &mut Findings<'_>) {
    let mut arrived: Vec<(Lane, usize, usize)> = Vec::new();
    let mut seen = Vec::new();
    for (number, message) in world.messages.iter().enumerate() {
        if message.will_of.is_some() || message.empty {
            continue;
        }
        seen.clear();
        for arrival in world.arrivals_of(number) {
            let Some(life) = sessions.life_of(arrival) else { continue };
            if seen.contains(&life) || sessions.copy(world, arrival) != Copy::Live {
                continue;
            }
            seen.push(life);
            if sessions.may_be_shared(life, message.topic)
                || is_late(world, &sessions.lives[life].conns, arrival)
            {
                continue;
            }
            // A proxy may have let it expire, which the store had not heard when that proxy died.
            if arrival.dup && message.expiry_secs.is_some() {
                continue;
            }
            if message.last != message.first {
                // Its first copy may have expired on the way, or been dropped at QoS 0, as for a session that was away, or
                // refused by a store without room, which its publisher did not hear: then it is the second one that came.
                let mut faults =
                    world.faults.around(world.at(message.first), world.at(message.last));
                let refused = faults.any(Fault::fills_the_store);
                if message.expiry_secs.is_some() || arrival.qos == 0 || refused {
                    continue;
                }
                // Who subscribed anew in between gets the second copy only.
                let from = message.first;
                let there = |chain: &super::sessions::Chain| {
                    chain.terms(from, from).is_some()
                        && chain.leaving.is_none_or(|leaving| leaving > arrival.event)
                };
                if !sessions.matching(life, message.topic).any(there) {
                    continue;
                }
            }
            let lane = (life, message.first_conn, message.topic, message.qos, arrival.qos);
            arrived.push((lane, arrival.event, number));
        }
    }
    arrived.sort_unstable();
    across(world, sessions, &arrived, findings);
    let mut newest: Option<(Lane, usize, usize)> = None;
    for (lane, event, number) in arrived {
        let before = newest.filter(|(of, _, _)| *of == lane);
        let message = &world.messages[number];
        match before {
            Some((_, earlier, newer)) if world.messages[newer].first > message.first => {
                let newer = &world.messages[newer];
                let client = world.conns[sessions.lives[lane.0].conns[0]].client_id;
                let topic = world.topics.names[message.topic];
                let what = || format!("{message} came after {newer} to {client} under {topic}");
                findings.add(Rule::Order, what, &[message.first, newer.first, earlier, event]);
            }
            _ => newest = Some((lane, event, number)),
        }
    }
}

/// Across the connections of a publisher: what was acknowledged before another was published comes first.
fn across(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    arrived: &[(Lane, usize, usize)],
    findings: &mut Findings<'_>,
) {
    let of_client = |&((life, conn, topic, qos, granted), event, number): &(Lane, _, _)| {
        ((life, world.conns[conn].client, topic, qos, granted), event, number)
    };
    let mut arrived: Vec<_> = arrived.iter().map(of_client).collect();
    arrived.retain(|&((_, _, _, qos, granted), ..)| qos.min(granted) > 0);
    arrived.sort_unstable();
    let mut newest: Option<(Lane, usize, usize)> = None;
    for (lane, event, number) in arrived {
        let message = &world.messages[number];
        let before = newest.filter(|(of, _, _)| *of == lane);
        let Some((_, earlier, newer)) = before else {
            newest = Some((lane, event, number));
            continue;
        };
        let newer = &world.messages[newer];
        if newer.first < message.first {
            newest = Some((lane, event, number));
        }
        let done = message.acked.is_some_and(|acked| acked < newer.first);
        if done && message.sends == 1 && message.first_conn != newer.first_conn {
            let client = world.conns[sessions.lives[lane.0].conns[0]].client_id;
            let topic = world.topics.names[message.topic];
            let what = || format!("{message} came after {newer} to {client} under {topic}");
            findings.add(Rule::Order, what, &[message.first, newer.first, earlier, event]);
        }
    }
}

/// Whether it came on a connection when one of its session was there already that may be newer: what is on its way on the
/// one says nothing of what comes on the other. An answer that came first need not be the answer to who was first: only who
/// connected after the other was answered surely is newer.
pub(super) fn is_late(world: &World<'_>, conns: &[usize], arrival: &Arrival) -> bool {
    let from = world.conns[arrival.conn].connect;
    let others = conns.iter().filter(|&&conn| conn != arrival.conn);
    let mut connected = others.filter_map(|&conn| world.conns[conn].connected);
    connected.any(|connected| from < connected.event && connected.event < arrival.event)
}
