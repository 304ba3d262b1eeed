//! Rule `repeated`: at QoS 2 a message is new once, at QoS 0 it comes once, in each life of a session.
//!
//! Overlapping subscriptions make one delivery; each shared one may make its own; each SUBSCRIBE may bring the
//! retained message once more. Wills are judged by the rule `will`.

use std::collections::HashMap;

use super::faults::Fault;
use super::sessions::{Copy, Sessions};
use super::world::{Arrival, World};
use super::{Findings, Rule};

/// What one session got of one message.
#[derive(Debug, Default)]
struct Got {
    /// By QoS, as far as they are counted.
    live: [Vec<usize>; 3],
    retained: [Vec<usize>; 3],
    either: [Vec<usize>; 3],
}

pub(super) fn check(world: &World<'_>, sessions: &Sessions<'_>, findings: &mut Findings<'_>) {
    let mut lives: HashMap<usize, Got> = HashMap::new();
    for (number, message) in world.messages.iter().enumerate() {
        let arrivals = world.arrivals_of(number);
        if message.will_of.is_some() || !arrivals.iter().any(is_counted) {
            continue;
        }
        lives.clear();
        for arrival in arrivals.iter().filter(|arrival| is_counted(arrival)) {
            let Some(life) = sessions.life_of(arrival) else { continue };
            let got = lives.entry(life).or_default();
            let copies = match sessions.copy(world, arrival) {
                Copy::Live => &mut got.live,
                Copy::Retained => &mut got.retained,
                Copy::Either => &mut got.either,
            };
            copies[usize::from(arrival.qos.min(2))].push(arrival.event);
        }
        for (&life, got) in &lives {
            judge(world, sessions, number, (life, got), findings);
        }
    }
}

/// At QoS 1 anything may come again, and at QoS 2 what is not new.
pub(super) fn is_counted(arrival: &Arrival) -> bool {
    arrival.qos == 0 || arrival.qos == 2 && arrival.new
}

fn judge(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    number: usize,
    (life, got): (usize, &Got),
    findings: &mut Findings<'_>,
) {
    let message = &world.messages[number];
    let chains = || sessions.matching(life, message.topic);
    let shared = chains().filter(|chain| sessions.is_shared(chain));
    let mut groups: Vec<_> = shared.map(|chain| chain.filter).collect();
    groups.sort_unstable();
    groups.dedup();
    let own = usize::from(chains().any(|chain| !sessions.is_shared(chain)));
    for qos in [0, 2] {
        // Sent again at QoS 1 it is another message to the server, and so it is at QoS 2 if the server has forgotten it: with
        // its session, or because a full store refused it, which its publisher did not hear.
        let mut faults = world.faults.around(world.at(message.first), world.at(message.last));
        let sends = match message.qos {
            1 => message.sends as usize,
            2 if sessions.forgotten.contains(&number) => message.sends as usize,
            2 if faults.any(Fault::fills_the_store) => message.sends as usize,
            _ => 1,
        };
        let live = (own + groups.len()).max(1) * sends;
        let last = |events: &[usize]| events.last().copied().unwrap_or(0);
        let asked = |before: usize| {
            let asked = chains().filter(|chain| !sessions.is_shared(chain));
            let asked = asked.flat_map(|chain| &chain.asked);
            asked.filter(|asked| asked.event < before && asked.retain_handling < 2).count()
        };
        let (copies, scans, either) = (&got.live[qos], &got.retained[qos], &got.either[qos]);
        let client = world.conns[sessions.lives[life].conns[0]].client_id;
        let mut report = |events: &[usize], why: &str| {
            let times = events.len();
            let shown: Vec<_> = events.iter().copied().chain([message.first]).collect();
            let what = || format!("{message} came {times} times at QoS {qos} to {client}{why}");
            findings.add(Rule::Repeated, what, &shown);
        };
        if copies.len() > live {
            report(copies, "");
        }
        if !scans.is_empty() && scans.len() > asked(last(scans)) {
            report(scans, " as retained message, more often than that subscribed");
        }
        if !either.is_empty() {
            let all: Vec<_> = copies.iter().chain(scans).chain(either).copied().collect();
            if all.len() > live + asked(all.iter().copied().max().unwrap_or(0)) {
                report(&all, ", more often than published and subscribed to");
            }
        }
    }
}
