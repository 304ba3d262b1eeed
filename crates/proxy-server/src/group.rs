//! A shared subscription: each message goes to one member `[MQTT-4.8.2-4]`.
//!
//! Groups are per proxy: members on different proxies are in different groups.

use std::sync::Arc;

use mqtt_session::Delivery;
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

    /// Gives a message, as `offer` makes it for a member, to one of them: the next in turn that is connected
    /// and has room, else the next that is away and has room. When nobody has room the next one in turn gets it under
    /// the policy of its queue, so that one message disconnects one client at most. `None` when nobody
    /// took it.
    pub(crate) fn deliver(&self, offer: impl Fn(&Member) -> Delivery) -> Option<Pushed> {
        let mut turn = self.turn.lock();
        let Turn { members, next } = &mut *turn;
        let count = members.len();
        let in_turn = |step: usize| (*next + step) % count;
        for choice in [Choice::Attached, Choice::Away, Choice::Full] {
            for at in (0..count).map(in_turn) {
                let delivery = offer(&members[at]);
                if !choice.allows(&members[at].mailbox, &delivery) {
                    continue;
                }
                let pushed = members[at].mailbox.push(delivery);
                if !matches!(pushed, Pushed::DroppedAway | Pushed::Closed) {
                    *next = (at + 1) % count;
                    return Some(pushed);
                }
            }
        }
        None
    }
}

/// Who may be chosen, from the best to the last.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// Who is connected and has room.
    Attached,
    /// Who is away and has room.
    Away,
    /// Anybody.
    Full,
}

impl Choice {
    fn allows(self, mailbox: &Mailbox, delivery: &Delivery) -> bool {
        match self {
            Self::Attached => mailbox.is_attached() && mailbox.has_room(delivery),
            Self::Away => mailbox.has_room(delivery),
            Self::Full => true,
        }
    }
}

#[cfg(test)]
mod tests;
