//! Rule `unanswered`, and of rule `liveness` the end of a run: when nothing is wrong any more, every request is answered
//! soon, and nothing is owed for long.

use std::collections::HashMap;

use super::owed::Owed;
use super::world::World;
use super::{Findings, PATIENCE, Rule, SECOND};
use crate::record::What;

pub(super) fn check(world: &World<'_>, owed: &Owed, findings: &mut Findings<'_>) {
    if let Some(unsettled) = world.unsettled {
        let shown: Vec<_> = [unsettled].into_iter().chain(owed.missing.iter().copied()).collect();
        let what = || format!("something was still owed at the end; {} surely", owed.lacking);
        findings.add(Rule::Liveness, what, &shown);
    }
    let Some(healed) = world.healed else { return };
    publishes(world, healed, findings);
    subscriptions(world, healed, findings);
}

/// How long a request on a connection that lives to the end took, if that is too long.
fn wait(
    world: &World<'_>,
    healed: u64,
    (conn, asked): (usize, usize),
    answer: Option<usize>,
) -> Option<u64> {
    if !world.stays(conn) || asked > world.end {
        return None;
    }
    let from = world.at(asked).max(healed);
    let until = answer.map_or_else(|| world.end_at(), |answer| world.at(answer));
    (until > from.saturating_add(PATIENCE)).then(|| (until - from) / SECOND)
}

fn publishes(world: &World<'_>, healed: u64, findings: &mut Findings<'_>) {
    let completes = world.messages.iter().any(|message| message.completed);
    for message in &world.messages {
        if message.qos == 0 || message.will_of.is_some() || message.refused {
            continue;
        }
        let asked = (message.last_conn, message.last);
        let client = world.conns[message.last_conn].client_id;
        if let Some(secs) = wait(world, healed, asked, message.acked) {
            let shown: Vec<_> = [message.last].into_iter().chain(message.acked).collect();
            let what = || format!("{message} of {client} was not acknowledged within {secs} s");
            findings.add(Rule::Unanswered, what, &shown);
        } else if let Some(acked) = message.acked.filter(|_| completes && message.qos == 2)
            && !message.completed
            && let Some(secs) = wait(world, healed, (message.last_conn, acked), None)
        {
            let what = || format!("{message} of {client} was not completed within {secs} s");
            findings.add(Rule::Unanswered, what, &[message.last, acked]);
        }
    }
}

fn subscriptions(world: &World<'_>, healed: u64, findings: &mut Findings<'_>) {
    let mut open = HashMap::new();
    let mut judge = |asked: (usize, usize), answer: Option<usize>| {
        if let Some(secs) = wait(world, healed, asked, answer) {
            let client = world.conns[asked.0].client_id;
            let shown: Vec<_> = [asked.1].into_iter().chain(answer).collect();
            let what = || format!("a subscription of {client} was not answered within {secs} s");
            findings.add(Rule::Unanswered, what, &shown);
        }
    };
    for (place, event) in world.events.iter().enumerate() {
        match &event.what {
            What::Subscribe { conn, id, .. } | What::Unsubscribe { conn, id, .. } => {
                open.insert((*conn, *id), place);
            }
            What::Subscribed { conn, id, .. } | What::Unsubscribed { conn, id } => {
                if let (Some(asked), Some(&conn)) =
                    (open.remove(&(*conn, *id)), world.places.get(conn))
                {
                    judge((conn, asked), Some(place));
                }
            }
            _ => {}
        }
    }
    let mut open: Vec<_> = open.into_iter().collect();
    open.sort_unstable();
    for ((conn, _), asked) in open {
        if let Some(&conn) = world.places.get(&conn) {
            judge((conn, asked), None);
        }
    }
}
