//! Rule `session-present`: CONNACK says whether there was a session, wherever that is certain.
//!
//! Of each connection those before it are looked at whose effect no other surely followed; one without an answer
//! may have taken effect or not, also later.

use super::world::{Conn, Connected, World};
use super::{Findings, MARGIN, PATIENCE, Rule, SECOND};

pub(super) fn check(world: &World<'_>, findings: &mut Findings<'_>) {
    for client in &world.clients {
        for &conn in client {
            if let Some(connected) = world.conns[conn].connected {
                judge(world, conn, connected, findings);
            }
        }
    }
}

/// Connections whose session may be the one that a later one finds.
#[derive(Debug, Default)]
struct Before {
    /// One that surely took effect, the last.
    surely: Option<usize>,
    others: Vec<usize>,
}

fn judge(world: &World<'_>, number: usize, connected: Connected, findings: &mut Findings<'_>) {
    let conn = &world.conns[number];
    let id = conn.client_id;
    if conn.clean_start {
        if connected.session_present {
            let what = || format!("{id} asked for a clean start and was told of a session");
            findings.add(Rule::SessionPresent, what, &[conn.connect, connected.event]);
        }
        return;
    }
    let before = before(world, number, connected);
    let surely = before.surely.map(|surely| &world.conns[surely]);
    let mut shown = vec![conn.connect, connected.event];
    if let Some(surely) = surely {
        shown.extend(surely.connected.map(|connected| connected.event));
        shown.extend(surely.ended.map(|(event, _)| event));
    }
    if connected.session_present {
        let mut all = before.surely.iter().chain(&before.others);
        if !all.any(|&other| may_last(world, &world.conns[other], conn)) {
            let what = || format!("{id} was told of a session, and there was none");
            findings.add(Rule::SessionPresent, what, &shown);
        }
        return;
    }
    let may_be_gone = |other: &usize| may_be_gone(world, &world.conns[*other], connected);
    let gone = surely.is_none_or(|surely| {
        surely.expiry_secs == 0
            || may_have_expired(world, surely, connected)
            || may_be_taken_for_older(world, (conn.client, surely), connected)
    });
    if !gone && !before.others.iter().any(may_be_gone) {
        let what = || format!("{id} was not told of its session");
        findings.add(Rule::SessionPresent, what, &shown);
    }
}

fn before(world: &World<'_>, number: usize, connected: Connected) -> Before {
    let conn = &world.conns[number];
    let until = world.at(connected.event);
    let ended_before = |other: &usize| {
        let answered = world.conns[*other].connected;
        answered.is_some_and(|connected| connected.event < conn.connect)
            && !world.may_be_untold(*other, until)
    };
    let of_client = &world.clients[conn.client];
    let place = of_client.partition_point(|&other| other < number);
    // The last that surely came before this one; whatever it surely followed does not matter.
    let surely = of_client[..place].iter().rev().copied().find(ended_before);
    let others = match surely {
        Some(surely) => {
            let rivals = world.rivals(surely, until).filter(|&other| other != number);
            rivals.filter(|&other| world.conns[other].connect < connected.event).collect()
        }
        None => {
            let others = of_client.iter().copied().filter(|&other| other != number);
            others.filter(|&other| world.conns[other].connect < connected.event).collect()
        }
    };
    Before { surely, others }
}

/// Whether the session of `other` may be there for `conn`.
fn may_last(world: &World<'_>, other: &Conn<'_>, conn: &Conn<'_>) -> bool {
    let jumped = world.faults.clocks_jumped(world.at(conn.connect));
    if other.expiry_secs == 0 || other.expiry_secs == u32::MAX || jumped {
        return other.expiry_secs > 0;
    }
    // A server may notice the end later than the client.
    let Some((ended, _)) = other.ended else { return true };
    let lasts = u64::from(other.expiry_secs) * SECOND + PATIENCE;
    world.at(conn.connect) <= world.at(ended).saturating_add(lasts)
}

/// Whether `other` may have taken effect, and left nothing for who is `connected`.
fn may_be_gone(world: &World<'_>, other: &Conn<'_>, connected: Connected) -> bool {
    // One that was given up may be undone, with the session that it began.
    let undone = other.connected.is_none() && other.clean_start;
    other.expiry_secs == 0 || undone || may_have_expired(world, other, connected)
}

/// Whether a clean start from before `other`, of which the store is told again after it was away, may have ended the session
/// of `other`: which of them was first it sees by a clock that was set meanwhile.
fn may_be_taken_for_older(
    world: &World<'_>,
    (client, other): (usize, &Conn<'_>),
    connected: Connected,
) -> bool {
    let of_client = world.clients[client].iter().map(|&earlier| &world.conns[earlier]);
    let mut earlier = of_client.filter(|earlier| earlier.connect < other.connect);
    earlier.any(|earlier| earlier.clean_start && earlier.expiry_secs == 0)
        && world.faults.clocks_jump(world.at(other.connect), world.at(connected.event))
}

/// Whether the session that the client had with `other` may have expired when it was `connected` again.
pub(super) fn may_have_expired(world: &World<'_>, other: &Conn<'_>, connected: Connected) -> bool {
    if other.expiry_secs == u32::MAX {
        return false;
    }
    let lasts = (u64::from(other.expiry_secs) * SECOND).saturating_sub(MARGIN);
    let (alive, again) = (world.at(other.proof), world.at(connected.event));
    world.faults.clocks_jump(alive, again) || again >= alive.saturating_add(lasts)
}
