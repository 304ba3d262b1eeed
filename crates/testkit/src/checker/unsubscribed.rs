//! Rule `unsubscribed`: nothing comes that the session did not ask for, or that was published after it had stopped asking.

use super::sessions::{Chain, Sessions};
use super::world::World;
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
