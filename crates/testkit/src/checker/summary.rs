//! What happened in a run, in figures.
//!
//! Owns what each figure means. Judges nothing.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::SECOND;
use super::owed::Owed;
use super::sessions::{Copy, Sessions};
use super::world::{Arrival, World};
use crate::record::{End, What};

/// How long after a kill messages count as published during it.
const AFTER_KILL: u64 = 10 * SECOND;

/// How long before a message was published, and after it came, there was no fault if it counts as quiet.
const QUIET: u64 = 2 * SECOND;

/// What the identifiers of clients begin with that acknowledge late or stop reading: how long messages take to them is
/// their own doing.
const SLOW: &str = "slow";

/// How long before a fault a publisher must have published for its return to be waited for.
const BEFORE_FAULT: u64 = 10 * SECOND;

/// A run in figures. Times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// From the first event to the last.
    pub micros: u64,
    /// Events in the history.
    pub events: u64,
    /// Messages, resends not counted; without wills.
    pub published: Amounts,
    /// Of those, with a code that does not refuse.
    pub acknowledged: Amounts,
    /// Refused with a code.
    pub messages_refused: u64,
    /// PUBLISH packets that came to clients, by the QoS they came with.
    pub received: Amounts,
    /// CONNECTs that were answered with success.
    pub connects: u64,
    /// CONNECTs that were answered with another code.
    pub refused: u64,
    /// CONNECTs that were not answered.
    pub unknown: u64,
    /// Connects while an older connection of the client identifier lived, as far as the clients saw.
    pub takeovers: u64,
    /// Connects of a client identifier that had been connected before.
    pub reconnects: u64,
    /// Wills that clients connected with, and those that came to anybody.
    pub wills: u64,
    /// Wills that came to anybody.
    pub wills_received: u64,
    /// By kind.
    pub faults: BTreeMap<String, u64>,
    /// Live arrivals at QoS 1 of what the session had got before.
    pub duplicates: u64,
    /// The same, per thousand arrivals at QoS 1.
    pub duplicates_per_thousand: f64,
    /// From the first PUBLISH of a message to its first arrival at each session that was connected all the time and read
    /// what came.
    pub latency: Percentiles,
    /// The same, where no fault was near.
    pub latency_quiet: Percentiles,
    /// The same, of messages published within 10 s after a fault with `kill` in its kind.
    pub latency_after_kill: Percentiles,
    /// The same, of messages published during a fault with `rolling` in its kind.
    pub latency_in_rolling_restart: Percentiles,
    /// For each fault: from its beginning until every publisher above QoS 0 that had published in the 10 s before it and went on after
    /// it had a message, published after the fault, that was acknowledged and had come to everybody connected that it was
    /// owed to.
    pub recovery: Percentiles,
    /// The same, by kind of fault.
    pub recovery_by_kind: BTreeMap<String, Percentiles>,
}

/// Messages by QoS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// At most once.
    pub qos0: u64,
    /// At least once.
    pub qos1: u64,
    /// Exactly once.
    pub qos2: u64,
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many there are; with none, all others are 0.
    pub count: u64,
    /// Half of them are not longer.
    pub p50_micros: u64,
    /// Of a hundred, 99 are not longer.
    pub p99_micros: u64,
    /// The longest.
    pub max_micros: u64,
}

impl Amounts {
    fn add(&mut self, qos: u8) {
        *match qos {
            0 => &mut self.qos0,
            1 => &mut self.qos1,
            _ => &mut self.qos2,
        } += 1;
    }
}

impl Percentiles {
    /// Of all these times, exactly.
    #[must_use]
    pub fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() * share).div_ceil(100).max(1) - 1];
        match times.last() {
            None => Self::default(),
            Some(&max) => Self {
                count: times.len() as u64,
                p50_micros: at(50),
                p99_micros: at(99),
                max_micros: max,
            },
        }
    }
}

pub(super) fn of(world: &World<'_>, sessions: &Sessions<'_>, owed: &Owed) -> Summary {
    let mut summary = Summary {
        events: world.events.len() as u64,
        micros: world.at(world.events.len()).saturating_sub(world.at(0)),
        ..Summary::default()
    };
    for event in world.events {
        if let What::NotConnected { code, .. } = event.what {
            *if code.is_some() { &mut summary.refused } else { &mut summary.unknown } += 1;
        }
    }
    for fault in &world.faults.all {
        *summary.faults.entry(fault.kind.to_owned()).or_default() += 1;
    }
    connects(world, &mut summary);
    for (number, message) in world.messages.iter().enumerate() {
        if message.will_of.is_some() {
            summary.wills += 1;
            summary.wills_received += u64::from(!world.arrivals_of(number).is_empty());
            continue;
        }
        summary.published.add(message.qos);
        if message.refused {
            summary.messages_refused += 1;
        } else if message.acked.is_some() {
            summary.acknowledged.add(message.qos);
        }
    }
    arrivals(world, sessions, &mut summary);
    recovery(world, owed, &mut summary);
    summary
}

fn connects(world: &World<'_>, summary: &mut Summary) {
    for client in &world.clients {
        let mut before = false;
        // The ends of the connections so far: `None` lives to the end.
        let mut last_end = Some(0);
        for &conn in client {
            let conn = &world.conns[conn];
            let Some(connected) = conn.connected else { continue };
            summary.connects += 1;
            summary.reconnects += u64::from(before);
            let lives = last_end.is_none_or(|end| end > connected.event);
            summary.takeovers += u64::from(before && lives);
            let end = conn.ended.map(|(ended, _)| ended);
            last_end = last_end.zip(end).map(|(last, end)| last.max(end));
            before = true;
        }
    }
}

fn arrivals(world: &World<'_>, sessions: &Sessions<'_>, summary: &mut Summary) {
    let rolling: Vec<_> = world
        .faults
        .all
        .iter()
        .filter(|fault| fault.kind.contains("rolling"))
        .map(|fault| (fault.from, fault.until))
        .collect();
    let kills = world.faults.all.iter().filter(|fault| fault.kind.contains("kill"));
    let kills: Vec<_> =
        kills.map(|fault| (fault.from, fault.from.saturating_add(AFTER_KILL))).collect();
    let within = |times: &[(u64, u64)], at| times.iter().any(|&(a, b)| a <= at && at <= b);
    let faults = &world.faults.all;
    let is_quiet = |from: u64, until: u64| {
        let mut near = faults.iter().filter(|fault| {
            fault.from <= until + QUIET && from <= fault.until.saturating_add(QUIET)
        });
        near.next().is_none()
    };
    let (mut all, mut quiet) = (Vec::new(), Vec::new());
    let (mut after_kill, mut in_rolling) = (Vec::new(), Vec::new());
    let mut seen = Vec::new();
    for (number, message) in world.messages.iter().enumerate() {
        let published = world.at(message.first);
        seen.clear();
        for arrival in world.arrivals_of(number) {
            summary.received.add(arrival.qos);
            let Some(life) = sessions.life_of(arrival) else { continue };
            if sessions.copy(world, arrival) == Copy::Retained {
                continue;
            }
            if seen.contains(&life) {
                summary.duplicates += u64::from(arrival.qos == 1);
                continue;
            }
            seen.push(life);
            let is_slow = world.conns[arrival.conn].client_id.starts_with(SLOW);
            if message.will_of.is_some() || is_slow || !was_served(world, arrival, message.first) {
                continue;
            }
            let came = world.at(arrival.event);
            let latency = came.saturating_sub(published);
            all.push(latency);
            if is_quiet(published, came) {
                quiet.push(latency);
            }
            if within(&kills, published) {
                after_kill.push(latency);
            }
            if within(&rolling, published) {
                in_rolling.push(latency);
            }
        }
    }
    if summary.received.qos1 > 0 {
        summary.duplicates_per_thousand =
            summary.duplicates as f64 * 1000.0 / summary.received.qos1 as f64;
    }
    summary.latency = Percentiles::of(all);
    summary.latency_quiet = Percentiles::of(quiet);
    summary.latency_after_kill = Percentiles::of(after_kill);
    summary.latency_in_rolling_restart = Percentiles::of(in_rolling);
}

/// Whether whoever got this was connected at an event, or would have been if it had not been cut off: who leaves by
/// itself waits for nothing.
fn was_served(world: &World<'_>, arrival: &Arrival, at: usize) -> bool {
    if world.is_open_at(arrival.conn, at) {
        return true;
    }
    let conn = &world.conns[arrival.conn];
    if conn.expiry_secs == 0 {
        return false;
    }
    let of_client = &world.clients[conn.client];
    let before = of_client.partition_point(|&other| other < arrival.conn);
    let served = of_client[..before].iter().rev().map(|&other| &world.conns[other]);
    for other in served.filter(|other| other.connected.is_some()) {
        if !matches!(other.ended, Some((_, End::Broken | End::Sent(_)))) {
            return false;
        }
        if other.connected.is_some_and(|connected| connected.event < at) {
            return true;
        }
    }
    false
}

/// What one publisher published above QoS 0: when, and the earliest time at which any from there on was done.
type Flow = Vec<(u64, u64)>;

fn recovery(world: &World<'_>, owed: &Owed, summary: &mut Summary) {
    let mut flows: HashMap<&str, Flow> = HashMap::new();
    for (number, message) in world.messages.iter().enumerate() {
        if message.qos > 0 && message.will_of.is_none() && !message.empty {
            let done = owed.done[number].unwrap_or(u64::MAX);
            let flow = flows.entry(&message.id.publisher).or_default();
            flow.push((world.at(message.first), done));
        }
    }
    for flow in flows.values_mut() {
        flow.sort_unstable_by_key(|&(at, _)| at);
        for place in (1..flow.len()).rev() {
            flow[place - 1].1 = flow[place - 1].1.min(flow[place].1);
        }
    }
    let mut by_kind: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for fault in &world.faults.all {
        let again = |flow: &Flow| {
            let next = flow.partition_point(|&(at, _)| at <= fault.from);
            let (last, _) = flow[next.checked_sub(1)?];
            let (_, done) = *flow.get(next)?;
            (last.saturating_add(BEFORE_FAULT) >= fault.from && done < u64::MAX)
                .then(|| done - fault.from)
        };
        if let Some(time) = flows.values().filter_map(again).max() {
            by_kind.entry(fault.kind.to_owned()).or_default().push(time);
        }
    }
    summary.recovery = Percentiles::of(by_kind.values().flatten().copied().collect());
    let by_kind = by_kind.into_iter().map(|(kind, times)| (kind, Percentiles::of(times)));
    summary.recovery_by_kind = by_kind.collect();
}
