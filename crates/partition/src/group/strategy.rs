//! Which member of a group gets a message.
//!
//! Members with credit stand in order: by what the strategy looks at first, then by when they were last
//! given something, so that turns come round whoever comes and goes.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64;

use super::member::Member;
use super::row::Queued;
use crate::config::GroupStrategy;
use crate::id::SessionId;

/// Members with credit, in order.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    order: BTreeSet<(u64, u64, SessionId)>,
}

impl Ranks {
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SessionId> {
        self.order.iter().map(|(_, _, session)| *session)
    }

    /// Gives a member its new place; `None` for one without credit.
    pub(crate) fn replace(
        &mut self,
        session: SessionId,
        old: &mut Option<(u64, u64)>,
        new: Option<(u64, u64)>,
    ) {
        if *old == new {
            return;
        }
        if let Some((first, served)) = *old {
            self.order.remove(&(first, served, session));
        }
        if let Some((first, served)) = new {
            self.order.insert((first, served, session));
        }
        *old = new;
    }

    /// Who is next.
    pub(crate) fn choose(&self, strategy: GroupStrategy, queued: &Queued) -> Option<SessionId> {
        let (_, _, session) = match strategy {
            GroupStrategy::LocalFirst => {
                let local = self.first_of(queued.proxy.0);
                local.or_else(|| self.longest_waiting())
            }
            GroupStrategy::RoundRobin
            | GroupStrategy::LeastInFlight
            | GroupStrategy::StickyClient
            | GroupStrategy::HashTopic => self.order.first().copied(),
        }?;
        Some(session)
    }

    fn first_of(&self, first: u64) -> Option<(u64, u64, SessionId)> {
        let from = (first, 0, SessionId(0));
        self.order.range(from..).next().copied().filter(|found| found.0 == first)
    }

    /// Looks at one member of each proxy.
    fn longest_waiting(&self) -> Option<(u64, u64, SessionId)> {
        let mut found = self.order.first().copied();
        let mut best = found;
        while let Some((first, served, session)) = found {
            best = best.filter(|best| best.1 <= served).or(Some((first, served, session)));
            found = first
                .checked_add(1)
                .and_then(|next| self.order.range((next, 0, SessionId(0))..).next().copied());
        }
        best
    }
}

/// Where a member stands among those with credit; `None` without.
pub(crate) fn rank(strategy: GroupStrategy, member: &Member) -> Option<(u64, u64)> {
    if !member.has_credit() {
        return None;
    }
    let first = match strategy {
        GroupStrategy::LeastInFlight => member.unconfirmed.len() as u64 + u64::from(member.moved),
        GroupStrategy::LocalFirst => member.connection.map_or(0, |there| there.holder.proxy.0),
        GroupStrategy::RoundRobin | GroupStrategy::StickyClient | GroupStrategy::HashTopic => 0,
    };
    Some((first, member.served))
}

/// Whether messages wait for one member though another has credit.
pub(crate) fn reserves(strategy: GroupStrategy) -> bool {
    matches!(strategy, GroupStrategy::StickyClient | GroupStrategy::HashTopic)
}

/// What all messages that are to go to one member have in common.
pub(crate) fn key(strategy: GroupStrategy, queued: &Queued) -> Option<u64> {
    match strategy {
        GroupStrategy::StickyClient => Some(queued.publisher.0),
        GroupStrategy::HashTopic => Some(xxh3_64(queued.message.topic.as_str().as_bytes())),
        GroupStrategy::RoundRobin | GroupStrategy::LeastInFlight | GroupStrategy::LocalFirst => {
            None
        }
    }
}

/// The member with the highest gets what has this key. When one comes or goes, only its own share moves.
pub(crate) fn score(key: u64, session: SessionId) -> (u64, SessionId) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.to_be_bytes());
    bytes[8..].copy_from_slice(&session.0.to_be_bytes());
    (xxh3_64(&bytes), session)
}
