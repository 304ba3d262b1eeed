//! Which intermediates may carry messages, judged by what they say of the cluster. Pure.
//!
//! An intermediate that does not know an endpoint would acknowledge messages that the endpoint never
//! gets. So one that lacks a member another one has is not used - but only once that lasts, because
//! at every arrival and departure some hear of it before others. What an intermediate knows when it is
//! connected is no arrival: that counts at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};

use crate::frame::{Incarnation, Member, NodeId, RelayState, View};

/// How long intermediates may differ.
const HYSTERESIS: Duration = Duration::from_secs(2);

/// The latest views of the connected intermediates; `K` names an intermediate.
#[derive(Debug)]
pub(crate) struct Views<K> {
    seen: BTreeMap<K, Seen>,
}

#[derive(Debug)]
struct Seen {
    state: RelayState,
    members: HashMap<NodeId, Presence>,
    /// Members this connection had and no longer has, until when that may be because it heard first.
    lost: HashMap<NodeId, Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Presence {
    incarnation: Incarnation,
    /// From when on others must have it too.
    counts_at: Instant,
}

/// What is to be made of an intermediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    NotServing(RelayState),
    /// It lacks a member.
    Lagging,
    Eligible,
}

impl<K: Copy + Ord> Views<K> {
    pub(crate) fn new() -> Self {
        Self { seen: BTreeMap::new() }
    }

    /// A connected intermediate tells its view.
    pub(crate) fn handle_view(&mut self, key: K, view: View, now: Instant) {
        let old = self.seen.remove(&key);
        let new_counts_at = if old.is_some() { settled_at(now) } else { now };
        let (old_members, mut lost) = old.map(|seen| (seen.members, seen.lost)).unwrap_or_default();
        let mut members = HashMap::with_capacity(view.members.len());
        for Member { node, incarnation } in view.members {
            let counts_at = old_members
                .get(&node)
                .filter(|presence| presence.incarnation == incarnation)
                .map_or(new_counts_at, |presence| presence.counts_at);
            lost.remove(&node);
            members.insert(node, Presence { incarnation, counts_at });
        }
        lost.retain(|_, &mut at| now < at);
        for node in old_members.into_keys() {
            if !members.contains_key(&node) {
                lost.insert(node, settled_at(now));
            }
        }
        self.seen.insert(key, Seen { state: view.state, members, lost });
    }

    /// The connection to an intermediate is gone: what it knew no longer counts.
    pub(crate) fn handle_down(&mut self, key: K) {
        self.seen.remove(&key);
    }

    /// `None` if the intermediate has told no view.
    pub(crate) fn verdict(&self, key: K, now: Instant) -> Option<Verdict> {
        let seen = self.seen.get(&key)?;
        Some(match seen.state {
            RelayState::Serving if self.lags(key, seen, now) => Verdict::Lagging,
            RelayState::Serving => Verdict::Eligible,
            state @ (RelayState::Joining | RelayState::Draining) => Verdict::NotServing(state),
        })
    }

    /// When a verdict may change without any further view.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let moments = self.seen.values().flat_map(|seen| {
            let gained = seen.members.values().map(|presence| presence.counts_at);
            gained.chain(seen.lost.values().copied())
        });
        moments.filter(|&at| at > now).min()
    }

    /// All endpoints any connected intermediate knows, in order.
    pub(crate) fn members(&self) -> Vec<Member> {
        let mut all = BTreeMap::new();
        for (node, presence) in self.seen.values().flat_map(|seen| &seen.members) {
            let newest = all.entry(node).or_insert(presence.incarnation);
            *newest = presence.incarnation.max(*newest);
        }
        let member = |(node, incarnation): (&NodeId, Incarnation)| Member {
            node: node.clone(),
            incarnation,
        };
        all.into_iter().map(member).collect()
    }

    /// Whether some connected intermediate has heard of every endpoint.
    pub(crate) fn any_complete(&self) -> bool {
        self.seen.values().any(|seen| seen.state != RelayState::Joining)
    }

    fn lags(&self, key: K, seen: &Seen, now: Instant) -> bool {
        let past = |at: Instant| now >= at;
        let others = self
            .seen
            .iter()
            .filter(|(other, seen)| **other != key && seen.state == RelayState::Serving);
        others.flat_map(|(_, other)| &other.members).any(|(node, presence)| {
            let has =
                seen.members.get(node).is_some_and(|own| own.incarnation >= presence.incarnation);
            !has && past(presence.counts_at) && seen.lost.get(node).copied().is_none_or(past)
        })
    }
}

/// When a difference that began `at` is no longer one of who heard first.
fn settled_at(at: Instant) -> Instant {
    at + HYSTERESIS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(state: RelayState, members: &[(&str, u64)]) -> View {
        let member = |&(node, incarnation): &(&str, u64)| Member {
            node: NodeId::new(node).unwrap(),
            incarnation: Incarnation(incarnation),
        };
        View { state, members: members.iter().map(member).collect() }
    }

    const SERVING: RelayState = RelayState::Serving;

    fn seconds(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn only_a_serving_intermediate_is_eligible() {
        let now = Instant::now();
        let mut views = Views::new();
        assert_eq!(views.verdict(1, now), None);
        for (state, verdict) in [
            (RelayState::Joining, Verdict::NotServing(RelayState::Joining)),
            (SERVING, Verdict::Eligible),
            (RelayState::Draining, Verdict::NotServing(RelayState::Draining)),
        ] {
            views.handle_view(1, view(state, &[]), now);
            assert_eq!(views.verdict(1, now), Some(verdict));
        }
        views.handle_down(1);
        assert_eq!(views.verdict(1, now), None);
    }

    #[test]
    fn one_that_lacks_a_member_is_not_used_after_two_seconds() {
        let start = Instant::now();
        let mut views = Views::new();
        views.handle_view(1, view(SERVING, &[("a", 1)]), start);
        views.handle_view(2, view(SERVING, &[("a", 1)]), start);
        views.handle_view(2, view(SERVING, &[("a", 1), ("b", 1)]), start);
        assert_eq!(views.verdict(1, start + seconds(1.9)), Some(Verdict::Eligible));
        let deadline = views.deadline(start + seconds(1.0)).unwrap();
        assert_eq!(views.verdict(1, deadline), Some(Verdict::Lagging));
        assert_eq!(views.verdict(2, deadline), Some(Verdict::Eligible));
        views.handle_view(1, view(SERVING, &[("a", 1), ("b", 1)]), deadline);
        assert_eq!(views.verdict(1, deadline), Some(Verdict::Eligible));
    }

    #[test]
    fn one_that_hears_of_a_death_first_stays_in_use() {
        let start = Instant::now();
        let mut views = Views::new();
        let both = [("a", 1), ("b", 1)];
        views.handle_view(1, view(SERVING, &both), start);
        views.handle_view(2, view(SERVING, &both), start);
        let death = start + seconds(60.0);
        views.handle_view(1, view(SERVING, &both[..1]), death);
        assert_eq!(views.verdict(1, death + seconds(1.0)), Some(Verdict::Eligible));
        let late = death + seconds(2.1);
        assert_eq!(views.verdict(1, late), Some(Verdict::Lagging), "the other one keeps it");
        views.handle_view(2, view(SERVING, &both[..1]), late);
        assert_eq!(views.verdict(1, late), Some(Verdict::Eligible));
    }

    #[test]
    fn one_that_comes_back_empty_is_not_used_for_a_moment() {
        let start = Instant::now();
        let mut views = Views::new();
        views.handle_view(1, view(SERVING, &[("a", 1), ("b", 1)]), start);
        views.handle_view(2, view(SERVING, &[("a", 1), ("b", 1)]), start);
        let later = start + seconds(60.0);
        views.handle_down(2);
        views.handle_view(2, view(SERVING, &[("a", 1)]), later);
        assert_eq!(views.verdict(2, later), Some(Verdict::Lagging));
    }

    #[test]
    fn one_that_lacks_what_another_knew_when_it_was_connected_is_not_used_for_a_moment() {
        let start = Instant::now();
        let mut views = Views::new();
        views.handle_view(1, view(SERVING, &[("a", 1)]), start);
        assert_eq!(views.verdict(1, start), Some(Verdict::Eligible));
        views.handle_view(2, view(SERVING, &[("a", 1), ("b", 1)]), start);
        assert_eq!(views.verdict(1, start), Some(Verdict::Lagging));
        assert_eq!(views.verdict(2, start), Some(Verdict::Eligible));
        views.handle_view(1, view(SERVING, &[("a", 1), ("b", 1)]), start);
        assert_eq!(views.verdict(1, start), Some(Verdict::Eligible));
    }

    #[test]
    fn a_newer_incarnation_stands_for_the_older() {
        let start = Instant::now();
        let late = start + seconds(60.0);
        let mut views = Views::new();
        views.handle_view(1, view(SERVING, &[("a", 2)]), start);
        views.handle_view(2, view(SERVING, &[("a", 1)]), start);
        assert_eq!(views.verdict(1, late), Some(Verdict::Eligible));
        assert_eq!(views.verdict(2, late), Some(Verdict::Lagging));
        assert_eq!(views.members(), view(SERVING, &[("a", 2)]).members);
    }

    #[test]
    fn what_one_that_does_not_serve_knows_does_not_count() {
        let start = Instant::now();
        let mut views = Views::new();
        views.handle_view(1, view(SERVING, &[]), start);
        views.handle_view(2, view(RelayState::Joining, &[("a", 1)]), start);
        assert_eq!(views.verdict(1, start + seconds(60.0)), Some(Verdict::Eligible));
    }
}
