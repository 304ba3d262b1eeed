//! A shared subscription: each message goes to one member `[MQTT-4.8.2-4]`.
//!
//! Groups are per proxy: members on different proxies are in different groups.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::mailbox::{Mailbox, Pushed};
use crate::subscriptions::{SessionKey, Subscription};

/// A session in a group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Which session.
    pub session: SessionKey,
    /// Where its messages go.
    pub mailbox: Arc<Mailbox>,
    /// How to deliver them.
    pub subscription: Subscription,
}

/// Whether anybody is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Members {
    /// The group is empty.
    None,
    /// Somebody is there.
    Some,
}

/// The members of one `$share/{name}/{filter}`, served in turn.
#[derive(Debug)]
pub(crate) struct Group {
    number: u64,
    turn: Mutex<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    members: Vec<Member>,
    next: usize,
}

impl Group {
    /// An empty group with its number in the index.
    #[must_use]
    pub(crate) fn new(number: u64) -> Self {
        Self { number, turn: Mutex::default() }
    }

    /// Its number in the index.
    #[must_use]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Adds a member, or changes its subscription.
    pub(crate) fn join(&self, member: Member) {
        let mut turn = self.turn.lock();
        match turn.members.iter_mut().find(|known| known.session == member.session) {
            Some(known) => *known = member,
            None => turn.members.push(member),
        }
    }

    /// Takes a member away and says whether others are left.
    pub(crate) fn leave(&self, session: SessionKey) -> Members {
        let mut turn = self.turn.lock();
        turn.members.retain(|member| member.session != session);
        if turn.members.is_empty() { Members::None } else { Members::Some }
    }

    /// Offers a message to the members in turn: first to those with a connection, then, if none of
    /// them takes it, to those without. `None` when nobody took it.
    pub(crate) fn deliver(&self, mut push: impl FnMut(&Member) -> Pushed) -> Option<Pushed> {
        let mut turn = self.turn.lock();
        let Turn { members, next } = &mut *turn;
        let count = members.len();
        for attached in [true, false] {
            for step in 0..count {
                let at = (*next + step) % count;
                let member = &members[at];
                if member.mailbox.is_attached() != attached {
                    continue;
                }
                let pushed = push(member);
                if matches!(pushed, Pushed::Queued | Pushed::Crowded | Pushed::Displaced(_)) {
                    *next = (at + 1) % count;
                    return Some(pushed);
                }
            }
        }
        None
    }
}
