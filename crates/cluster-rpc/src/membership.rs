//! What this proxy knows of the intermediates: which are there, what they know, which may be used.

mod roster;
mod view;

pub(crate) use roster::{BeatDue, NewLink, Refused, Roster, RoutePoll, SessionStart, WaiterId};
