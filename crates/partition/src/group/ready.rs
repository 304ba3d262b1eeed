//! Whose turn it is to have messages taken by their proxy.
//!
//! One queue of members for each proxy. Invariant: a member stands in it once, or not at all.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::member::Member;
use crate::id::{GroupId, ProxyId, SessionId};

/// The members of all groups of a partition with something to take.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    proxies: HashMap<ProxyId, BTreeMap<u64, (GroupId, SessionId)>, foldhash::fast::RandomState>,
    next: u64,
}

/// Whether a proxy already had something to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    Something,
}

impl Turns {
    /// Puts a connected member at the end, unless it stands there already.
    pub(crate) fn push(
        &mut self,
        group: GroupId,
        session: SessionId,
        member: &mut Member,
    ) -> Before {
        let Some(connection) = &member.connection else { return Before::Something };
        if member.turn.is_some() {
            return Before::Something;
        }
        self.next += 1;
        member.turn = Some(self.next);
        let turns = self.proxies.entry(connection.holder.proxy).or_default();
        turns.insert(self.next, (group, session));
        if turns.len() == 1 { Before::Nothing } else { Before::Something }
    }

    /// The first of a proxy.
    pub(crate) fn pop(&mut self, proxy: ProxyId) -> Option<(GroupId, SessionId)> {
        let turns = self.proxies.get_mut(&proxy)?;
        let first = turns.pop_first();
        if turns.is_empty() {
            self.proxies.remove(&proxy);
        }
        first.map(|(_, member)| member)
    }

    /// Takes out a member whose connection is over or another one.
    pub(crate) fn remove(&mut self, member: &mut Member) {
        let (Some(turn), Some(connection)) = (member.turn.take(), &member.connection) else {
            return;
        };
        let proxy = connection.holder.proxy;
        let Some(turns) = self.proxies.get_mut(&proxy) else { return };
        turns.remove(&turn);
        if turns.is_empty() {
            self.proxies.remove(&proxy);
        }
    }

    pub(crate) fn has(&self, proxy: ProxyId) -> bool {
        self.proxies.contains_key(&proxy)
    }
}
