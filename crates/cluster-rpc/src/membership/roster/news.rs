//! What the roster is told, and what it gives to links and their streams.

use std::net::SocketAddr;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::frame::{Member, RouteUp};

/// What a new link task needs.
#[derive(Debug)]
pub(crate) struct NewLink {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
}

/// What a new session needs.
#[derive(Clone, Debug)]
pub(crate) struct SessionStart {
    /// This proxy, as it introduces itself in this session.
    pub(crate) member: Member,
    /// Ends when the session must.
    pub(crate) end: CancellationToken,
    /// Whether the intermediate may be used.
    pub(crate) eligible: watch::Receiver<bool>,
}

/// What a route stream is to send.
#[derive(Debug)]
pub(crate) enum RoutePoll {
    Frame(RouteUp),
    Idle,
    /// Another session has taken its place.
    Ended,
}

/// Whether a connection was refused: nothing listens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Yes,
    No,
}

/// Whether it is time for a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BeatDue {
    Yes,
    No,
}
