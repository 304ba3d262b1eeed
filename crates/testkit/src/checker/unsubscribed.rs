//! Rule `unsubscribed`: nothing comes that the session did not ask for, or that was published after it had stopped asking,
//! or acknowledged before it began.

use super::sessions::{Chain, Copy, Sessions};
use super::world::{Arrival, World};
use super::{Findings, Rule};
use crate::record::What;

pub(super) fn check(world: &World<'_>, sessions: &Sessions<'_>, findings: &mut Findings<'_>) {
    for arrival in world.arrivals() {
        let Some(life) = sessions.life_of(arrival) else { continue };
        let message = &world.messages[arrival.message];
        let asked = |chain: &&Chain| chain.begun() < arrival.event;
        let still = |chain: &Chain| chain.left.is_none_or(|left| left > message.first);
        let mut last = None;
        let mut of = Some(life);
        let mut found = false;
        while let Some(life) = of {
            // Only the life that it came to is looked up by topic.
            let topic = world.topics.names[message.topic];
            let own: Box<dyn Iterator<Item = &Chain>> = if Some(life) == sessions.life_of(arrival) {
                Box::new(sessions.matching(life, message.topic))
            } else {
                Box::new(sessions.chains_of(life).filter(|c| sessions.matches_text(c, topic)))
            };
            for chain in own.filter(asked) {
                found |= still(chain);
                last = last.max(chain.left);
            }
            of = if found { None } else { sessions.lives[life].earlier };
        }
        if found {
            too_late(world, sessions, (life, arrival), findings);
            continue;
        }
        let client = world.conns[arrival.conn].client_id;
        let topic = world.topics.names[message.topic];
        let shown: Vec<_> = last.into_iter().chain([message.first, arrival.event]).collect();
        let what = || match last {
            None => format!("{message} came to {client}, which never subscribed to {topic}"),
            Some(_) => format!("{message} came to {client}, which had unsubscribed from {topic}"),
        };
        findings.add(Rule::Unsubscribed, what, &shown);
    }
    deletions(world, sessions, findings);
}

/// What came live to a session was not done before the session asked for anything like it: it would be another one's. Only of
/// sessions in the store: on its way to a proxy where nobody had to have it, a message meets who subscribes there meanwhile.
fn too_late(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (life, arrival): (usize, &Arrival),
    findings: &mut Findings<'_>,
) {
    let message = &world.messages[arrival.message];
    let Some(acked) = message.acked.filter(|&acked| message.last < acked) else { return };
    // Of what was sent again a copy may still be on its way when the other is acknowledged.
    let stored = |&conn: &usize| world.conns[conn].expiry_secs > 0;
    if message.sends > 1
        || !sessions.lives[life].conns.iter().all(stored)
        || sessions.lives[life].earlier.is_some()
        || sessions.may_be_shared(life, message.topic)
        || sessions.copy(world, arrival) != Copy::Live
    {
        return;
    }
    let asked = sessions.matching(life, message.topic).map(Chain::begun).min();
    // One that no session had to have may still be on its way then.
    let long_after = |&asked: &usize| {
        let (acked, asked) = (world.at(acked), world.at(asked));
        let is_quiet = world.faults.around(acked, asked).next().is_none();
        acked + if is_quiet { super::SOON } else { super::AFTER_FAULT } < asked
    };
    let Some(asked) = asked.filter(long_after) else { return };
    let client = world.conns[arrival.conn].client_id;
    let topic = world.topics.names[message.topic];
    let what = || {
        format!("{message} came to {client}, whose session subscribed to {topic} when it was done")
    };
    findings.add(Rule::Unsubscribed, what, &[message.first, acked, asked, arrival.event]);
}

/// Deletions of retained messages, of which nothing is known but the topic.
fn deletions(world: &World<'_>, sessions: &Sessions<'_>, findings: &mut Findings<'_>) {
    for (place, event) in world.events.iter().enumerate() {
        let What::ReceivedEmpty { conn, topic, .. } = &event.what else { continue };
        let Some(&conn) = world.places.get(conn) else { continue };
        let mut of = sessions.of_conn[conn];
        let mut found = of.is_none();
        while let Some(life) = of.filter(|_| !found) {
            let mut chains = sessions.chains_of(life).filter(|chain| chain.begun() < place);
            found = chains.any(|chain| sessions.matches_text(chain, topic));
            of = sessions.lives[life].earlier;
        }
        if !found {
            let client = world.conns[conn].client_id;
            let what = || format!("a deletion came to {client}, which never subscribed to {topic}");
            findings.add(Rule::Unsubscribed, what, &[place]);
        }
    }
}
