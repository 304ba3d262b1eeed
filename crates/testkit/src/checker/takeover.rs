//! Rule `takeover`: of one client identifier there is one connection, the newest, and only who was followed by another is
//! told so.

use super::world::{Conn, World};
use super::{Findings, Rule, SECOND};
use crate::record::End;

/// "Session taken over".
const TAKEN_OVER: u8 = 0x8E;

/// How long an older connection may still get what is published.
const GRACE: u64 = 10 * SECOND;

pub(super) fn check(world: &World<'_>, findings: &mut Findings<'_>) {
    for client in &world.clients {
        let mut live = client.iter().copied().filter(|&conn| world.stays(conn));
        if let (Some(older), Some(newer)) = (live.next(), live.next()) {
            let id = world.conns[older].client_id;
            let connected = |conn: usize| world.conns[conn].connected.map(|one| one.event);
            let shown: Vec<_> =
                [connected(older), connected(newer)].into_iter().flatten().collect();
            let what = || format!("two connections of {id} lived to the end");
            findings.add(Rule::Takeover, what, &shown);
        }
    }
    for conn in 0..world.conns.len() {
        told(world, conn, findings);
    }
    served(world, findings);
}

/// Who is told that it was followed was followed.
fn told(world: &World<'_>, number: usize, findings: &mut Findings<'_>) {
    let conn = &world.conns[number];
    let Some((ended, End::Sent(TAKEN_OVER))) = conn.ended else { return };
    if conn.version < 5 {
        return;
    }
    let mut rivals = world.rivals(number, world.at(ended));
    let mut others = world.clients[conn.client].iter();
    if !rivals.any(|other| world.conns[other].connect < ended)
        && !others.any(|&other| world.may_be_told_late(other, number))
    {
        let id = conn.client_id;
        let connected = conn.connected.map(|connected| connected.event);
        let shown: Vec<_> = [conn.connect, ended].into_iter().chain(connected).collect();
        let what = || format!("{id} was told that another connection took over, and none did");
        findings.add(Rule::Takeover, what, &shown);
    }
}

/// The connection that surely followed each one first.
fn followers(world: &World<'_>) -> Vec<Option<usize>> {
    let follower = |conn: &Conn<'_>| {
        let connected = conn.connected?;
        let of_client = &world.clients[conn.client];
        let next = of_client.partition_point(|&other| world.conns[other].connect < connected.event);
        of_client[next..].iter().copied().find(|&other| world.conns[other].connected.is_some())
    };
    world.conns.iter().map(follower).collect()
}

/// Who was followed gets nothing new.
fn served(world: &World<'_>, findings: &mut Findings<'_>) {
    let followers = followers(world);
    for arrival in world.arrivals() {
        let message = &world.messages[arrival.message];
        let Some(follower) = followers[arrival.conn].filter(|_| message.will_of.is_none()) else {
            continue;
        };
        let Some(newer) = world.conns[follower].connected else { continue };
        let (from, published) = (world.at(newer.event), world.at(message.first));
        let came = world.at(arrival.event);
        if published <= from.saturating_add(GRACE)
            || world.is_disturbed(arrival.conn, published, came)
            || world.is_disturbed(follower, published, came)
        {
            continue;
        }
        let id = world.conns[arrival.conn].client_id;
        let what = || format!("{message} came to a connection of {id} that another had followed");
        findings.add(Rule::Takeover, what, &[newer.event, message.first, arrival.event]);
    }
}
