//! Rule `will`: a will comes when its connection ended otherwise than by DISCONNECT 0x00, when its delay or its session is
//! over, and never before, nor twice `[MQTT-3.1.2-8]` `[MQTT-3.1.2-10]` `[MQTT-3.1.3-9]`.
//!
//! A connection that is taken over ends otherwise; its will is called off by a delay in which its session is gone on with. A
//! proxy that stops in order gives its clients some seconds to come back before their wills are due. Where a fault may have
//! ended a connection before its client did, either is right.

use super::owed::{first_arrival, judge_wait, kept};
use super::sessions::{Chain, Copy, Sessions};
use super::world::{Arrival, Message, World};
use super::{AROUND_FAULT, Findings, MARGIN, Rule, SECOND};
use crate::record::End;

/// "Server shutting down".
const SHUTTING_DOWN: u8 = 0x8B;

/// How long a will may take that is due when nothing is wrong: a lease, or until a server notices that its client is gone, and
/// the start of the store. Clients wait so long for one.
const WILL: u64 = 15 * SECOND;

/// What is to become of a will.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It comes, and is due at this time.
    Comes(u64),
    /// It never comes, and why.
    Never(&'static str),
    /// Either is right.
    Either,
}

pub(super) fn check(world: &World<'_>, sessions: &Sessions<'_>, findings: &mut Findings<'_>) {
    let kept = kept(world, sessions);
    for (number, message) in world.messages.iter().enumerate() {
        let Some(conn) = message.will_of else { continue };
        once(world, sessions, number, findings);
        match fate(world, sessions, (number, conn)) {
            Fate::Never(why) => never(world, (number, conn), why, findings),
            Fate::Comes(due) => comes(world, sessions, (number, conn), due, &kept, findings),
            Fate::Either => {}
        }
        early(world, (number, conn), findings);
    }
}

/// Its delay, or the time of its session if that is shorter; in microseconds.
fn delay(world: &World<'_>, conn: usize) -> u64 {
    let conn = &world.conns[conn];
    let secs = conn.will.map_or(0, |will| will.delay_secs).min(conn.expiry_secs);
    u64::from(secs) * SECOND
}

fn fate(world: &World<'_>, sessions: &Sessions<'_>, (will, number): (usize, usize)) -> Fate {
    let conn = &world.conns[number];
    if conn.connected.is_none() {
        return Fate::Either;
    }
    let Some((ended, how)) = conn.ended.filter(|(ended, _)| *ended < world.end) else {
        let came = world.arrivals_of(will).first().map_or(0, |arrival| world.at(arrival.event));
        let disturbed = world.told(number, came, came).is_none()
            || world.rivals(number, u64::MAX).next().is_some();
        let fate = Fate::Never("whose connection lived to the end");
        return if disturbed { Fate::Either } else { fate };
    };
    let over = world.at(ended);
    if *how == End::Left(0) {
        // Who is back before the store has heard of it takes over.
        let told = world.told(number, over, over);
        let disturbed = told.is_none_or(|told| world.rivals(number, told).next().is_some());
        let fate = Fate::Never("which had left with DISCONNECT");
        return if disturbed { Fate::Either } else { fate };
    }
    let delay = delay(world, number);
    let mut full = world.faults.around(over, over.saturating_add(delay));
    if full.any(super::faults::Fault::fills_the_store) {
        return Fate::Either;
    }
    let back = |within: u64| world.rivals(number, over.saturating_add(within)).next().is_some();
    if delay == 0 {
        // Its client may have seen the end much later, over a link that was held.
        let (from, until) = (world.at(conn.connect), over.saturating_add(AROUND_FAULT));
        let mut stops = world.faults.touching(conn.proxy, from, until);
        let graceful =
            *how == End::Sent(SHUTTING_DOWN) || stops.any(super::faults::Fault::is_graceful);
        let called_off = graceful && back(AROUND_FAULT);
        return if called_off { Fate::Either } else { Fate::Comes(over + graceful_wait(graceful)) };
    }
    if !back(delay.saturating_add(AROUND_FAULT)) {
        return Fate::Comes(over.saturating_add(delay));
    }
    if resumed_in_time(world, sessions, number, delay) {
        return Fate::Never("whose session was gone on with before its delay was over");
    }
    Fate::Either
}

fn graceful_wait(graceful: bool) -> u64 {
    if graceful { AROUND_FAULT } else { 0 }
}

/// Whether the session was surely gone on with before the will was due.
fn resumed_in_time(world: &World<'_>, sessions: &Sessions<'_>, conn: usize, delay: u64) -> bool {
    let Some(life) = sessions.of_conn[conn] else { return false };
    let conns = &sessions.lives[life].conns;
    let next = conns.iter().position(|&other| other == conn).and_then(|at| conns.get(at + 1));
    let Some(next) = next.map(|&next| &world.conns[next]) else { return false };
    let Some((this, back)) = world.conns[conn].connected.zip(next.connected) else { return false };
    let due = world.at(world.conns[conn].proof).saturating_add(delay);
    let (proof, again) = (world.at(world.conns[conn].proof), world.at(back.event));
    next.connect > this.event && again + MARGIN < due && !world.faults.clocks_jump(proof, again)
}

fn never(
    world: &World<'_>,
    (number, conn): (usize, usize),
    why: &'static str,
    findings: &mut Findings<'_>,
) {
    let Some(arrival) = world.arrivals_of(number).first() else { return };
    let conn = &world.conns[conn];
    let ended = conn.ended.map(|(ended, _)| ended);
    let shown: Vec<_> = [conn.connect, arrival.event].into_iter().chain(ended).collect();
    let (id, to) = (conn.client_id, world.conns[arrival.conn].client_id);
    findings.add(Rule::Will, || format!("the will of {id}, {why}, came to {to}"), &shown);
}

fn comes(
    world: &World<'_>,
    sessions: &Sessions<'_>,
    (number, of): (usize, usize),
    due: u64,
    kept: &[Vec<&Chain>],
    findings: &mut Findings<'_>,
) {
    let message: &Message<'_> = &world.messages[number];
    let conn = &world.conns[of];
    let Some((ended, _)) = conn.ended else { return };
    // Nobody can tell when it is over.
    if world.healed.is_none() && !world.faults.all.is_empty() {
        return;
    }
    let due = due.max(world.healed.unwrap_or(0));
    if message.qos == 0 || due.saturating_add(WILL) > world.end_at() {
        return;
    }
    let mut last = None;
    for chain in &kept[message.topic] {
        let Some(terms) = chain.terms(conn.proof, world.end) else { continue };
        if terms.qos == 0 || terms.no_local || last.replace(chain.life) == Some(chain.life) {
            continue;
        }
        let id = conn.client_id;
        let mut shown = chain.shown(conn.proof);
        shown.extend([conn.connect, ended]);
        match first_arrival(world, sessions, number, chain.life) {
            Some(first) => {
                let what = |secs| format!("the will of {id} came {secs} s after it was due");
                judge_wait(world, due, &first, &shown, what, findings);
            }
            None => {
                let to = sessions.lives[chain.life].conns[0];
                let to = world.conns[to].client_id;
                let what = || format!("the will of {id} was due and never came to {to}");
                findings.add(Rule::Will, what, &shown);
            }
        }
    }
}

/// New once at QoS 2, and once at QoS 0, to each session.
fn once(world: &World<'_>, sessions: &Sessions<'_>, number: usize, findings: &mut Findings<'_>) {
    let message = &world.messages[number];
    let counted = |arrival: &&Arrival| {
        let of_qos = arrival.qos == 2 && arrival.new || arrival.qos == 0 && message.qos != 1;
        of_qos && sessions.copy(world, arrival) == Copy::Live
    };
    let mut seen: Vec<(usize, usize)> = Vec::new();
    for arrival in world.arrivals_of(number).iter().filter(counted) {
        let Some(life) = sessions.life_of(arrival) else { continue };
        if sessions.may_be_shared(life, message.topic) {
            continue;
        }
        if let Some(&(_, first)) = seen.iter().find(|(known, _)| *known == life) {
            let to = world.conns[arrival.conn].client_id;
            let what = || format!("the will {message} came twice to {to}");
            findings.add(Rule::Will, what, &[message.first, first, arrival.event]);
            return;
        }
        seen.push((life, arrival.event));
    }
}

/// Not before its delay is over, counted from when its connection surely had not ended.
fn early(world: &World<'_>, (number, of): (usize, usize), findings: &mut Findings<'_>) {
    let conn = &world.conns[of];
    let Some(arrival) = world.arrivals_of(number).first() else { return };
    let came = world.at(arrival.event);
    let due = world.at(conn.proof).saturating_add(delay(world, of));
    let delayed = conn.will.is_some_and(|will| will.delay_secs > 0);
    if !delayed
        || came.saturating_add(MARGIN) >= due
        || conn.ended.is_none_or(|(ended, how)| ended > world.end || *how == End::Left(0))
        || world.faults.clocks_jump(world.at(conn.proof), came)
        || world.told(of, world.at(conn.proof), came).is_none()
        || world.rivals(of, came).next().is_some()
    {
        return;
    }
    let id = conn.client_id;
    let shown: Vec<_> = [conn.connect, arrival.event]
        .into_iter()
        .chain(conn.ended.map(|(ended, _)| ended))
        .collect();
    findings.add(Rule::Will, || format!("the will of {id} came before its delay was over"), &shown);
}
