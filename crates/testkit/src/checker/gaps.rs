//! Rule `lost`, for every session however long it lived: what came shows that all came which was owed before it.
//!
//! What one connection publishes to one topic at one QoS comes in order. So a session that got a message, and was surely
//! subscribed since before an earlier one was published, had that one too. Sessions that live to the end are judged in `owed`,
//! by what was acknowledged.

use std::collections::HashMap;

use super::faults::Fault;
use super::order::is_late;
use super::owed::first_arrival;
use super::sessions::{Chain, Copy, Sessions};
use super::world::{Arrival, World};
use super::{Findings, Rule};

/// Publishing connection, topic, QoS.
type Lane = (usize, usize, u8);

pub(super) fn check(world: &World<'_>, sessions: &Sessions<'_>, findings: &mut Findings<'_>) {
    let mut lanes: HashMap<Lane, Vec<usize>> = HashMap::new();
    for (number, message) in world.messages.iter().enumerate() {
        if message.qos > 0 && !message.empty && message.will_of.is_none() {
            let lane = (message.first_conn, message.topic, message.qos);
            lanes.entry(lane).or_default().push(number);
        }
    }
    let mut lanes: Vec<_> = lanes.into_iter().collect();
    lanes.sort_unstable();
    for (lane, numbers) in lanes {
        let mut lives: Vec<usize> = Vec::new();
        for &number in &numbers {
            lives.extend(world.arrivals_of(number).iter().filter_map(|one| sessions.life_of(one)));
        }
        lives.sort_unstable();
        lives.dedup();
        for life in lives {
            if let Some(chains) = Held::new(world, sessions, lane, life) {
                chains.judge(&numbers, findings);
            }
        }
    }
}

/// The subscriptions of a life that get what is in a lane, all at the same QoS.
struct Held<'a> {
    world: &'a World<'a>,
    sessions: &'a Sessions<'a>,
    life: usize,
    chains: Vec<&'a Chain>,
    /// Whether the client is the publisher.
    own: bool,
}

impl<'a> Held<'a> {
    /// `None` if what is sent need not come in order.
    fn new(
        world: &'a World<'a>,
        sessions: &'a Sessions<'a>,
        (publisher, topic, _): Lane,
        life: usize,
    ) -> Option<Self> {
        if sessions.may_be_shared(life, topic) {
            return None;
        }
        let chains: Vec<_> = sessions.matching(life, topic).collect();
        let mut asked = chains.iter().flat_map(|chain| &chain.asked);
        let qos = asked.next()?.qos;
        let client = world.conns[sessions.lives[life].conns[0]].client;
        let own = client == world.conns[publisher].client;
        let in_order = qos > 0 && asked.all(|asked| asked.qos == qos);
        in_order.then_some(Self { world, sessions, life, chains, own })
    }

    /// Each message of the lane that did not come, though a later one did.
    fn judge(&self, numbers: &[usize], findings: &mut Findings<'_>) {
        let Self { world, sessions, life, .. } = *self;
        let mut later: Option<Arrival> = None;
        for &number in numbers.iter().rev() {
            if let Some(first) = first_arrival(world, sessions, number, life) {
                let sure = sessions.copy(world, &first) == Copy::Live
                    && !is_late(world, &sessions.lives[life].conns, &first);
                if sure && later.is_none_or(|later| first.event < later.event) {
                    later = Some(first);
                }
                continue;
            }
            let Some(later) = later else { continue };
            let message = &world.messages[number];
            let Some(acked) = message.acked.filter(|_| !message.refused) else { continue };
            let mut faults = world.faults.around(world.at(message.first), world.at(acked));
            if message.expiry_secs.is_some() || faults.any(Fault::fills_the_store) {
                continue;
            }
            let Some(chain) = self.chain(message.first, later.event) else { continue };
            let client = world.conns[later.conn].client_id;
            let newer = &world.messages[later.message];
            let filter = sessions.filters[chain.filter].text;
            let what = || format!("{newer} came to {client}, by {filter}, and never {message}");
            let mut shown = chain.shown(message.first);
            shown.extend([message.first, acked, newer.first, later.event]);
            findings.add(Rule::Lost, what, &shown);
        }
    }

    /// A subscription that surely was there from one place to another; none that is judged by itself.
    fn chain(&self, from: usize, until: usize) -> Option<&'a Chain> {
        let stays = self.sessions.lives[self.life].stays;
        let judged =
            |chain: &&Chain| stays && chain.leaving.is_none_or(|event| event > self.world.end);
        let held = |chain: &&&Chain| {
            let terms = chain.terms(from, until);
            terms.is_some_and(|terms| terms.qos > 0 && !(terms.no_local && self.own))
        };
        let mut held = self.chains.iter().filter(held).copied();
        let first = held.next().filter(|chain| !judged(chain))?;
        held.all(|chain| !judged(&chain)).then_some(first)
    }
}
