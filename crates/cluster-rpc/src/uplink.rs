//! A proxy's way into the cluster: announces its routes, publishes, hands out what arrives.
//!
//! Three locks, never held together nor across an await: the *window* (the origin's core, taken for
//! every message), the *roster* (routes, links and views, taken for changes), and the queue of calls to the
//! store. Tasks: one keeper
//! that resolves names and watches deadlines, and one link per address of an intermediate.

mod config;
mod event;
mod keeper;
mod metrics;
mod shared;
mod status;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mqtt_codec::Message;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::config::UplinkConfig;
pub(crate) use self::event::Arrived;
pub use self::event::{Deliveries, UplinkEvent, UplinkEvents};
pub use self::metrics::UplinkMetrics;
pub(crate) use self::metrics::count;
pub(crate) use self::shared::{PublishPoll, Shared};
pub use self::status::{IntermediateState, IntermediateStatus, UplinkStatus};
pub(crate) use self::store::StoreShared;
pub use self::store::{LinkEpoch, StoreEvent, StoreEvents, StoreLink};
use crate::frame::{Incarnation, Member, OriginId, Provenance, Route};
use crate::lane::{lane_of, origin_of};
use crate::machine::Machine;
use crate::origin::Publication;
use crate::route_log::RouteSeq;

/// Batches of deliveries that may wait for the broker; then the links are not read.
const ARRIVED_BATCHES: usize = 16;

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken<T> {
    /// Wait for [`window_open`](Uplink::window_open).
    #[error("the window of unacknowledged messages is full")]
    WindowFull {
        /// Given back.
        ticket: Option<T>,
    },
    /// The life in which it was published is over, and what that had sent before it may be lost.
    #[error("this proxy was declared dead and has begun a new life")]
    EarlierLife,
}

/// Begins an uplink: its tasks run on the current tokio runtime until `shutdown`.
///
/// `T` is what the caller wants to have back when a message is acknowledged.
pub fn start<T: Send + 'static>(
    config: UplinkConfig,
    shutdown: CancellationToken,
) -> (Uplink<T>, UplinkEvents<T>) {
    let (sender, arrived) = mpsc::channel(ARRIVED_BATCHES);
    run(Shared::new(config, sender, shutdown), arrived)
}

/// The same, and a way to the store, wherever it is.
pub fn start_with_store<T: Send + 'static>(
    config: UplinkConfig,
    shutdown: CancellationToken,
) -> (Uplink<T>, UplinkEvents<T>, StoreLink, StoreEvents) {
    let (sender, arrived) = mpsc::channel(ARRIVED_BATCHES);
    let mut shared = Shared::new(config, sender, shutdown);
    let (store, store_events) = shared.with_store();
    let (uplink, events) = run(shared, arrived);
    (uplink, events, store, store_events)
}

fn run<T: Send + 'static>(
    shared: Shared<T>,
    arrived: mpsc::Receiver<Arrived>,
) -> (Uplink<T>, UplinkEvents<T>) {
    let shared = Arc::new(shared);
    tokio::spawn(keeper::run(Arc::clone(&shared)));
    (Uplink { shared: Arc::clone(&shared) }, UplinkEvents::new(shared, arrived))
}

/// The handle the broker publishes and announces through. Cheap to clone.
pub struct Uplink<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send + 'static> Uplink<T> {
    /// Sets or withdraws a row of this proxy's routing table; repeating one costs nothing.
    pub fn announce(&self, route: Route) -> RouteSeq {
        self.shared.announce(route)
    }

    /// This life of the proxy: a connection publishes in the one it came in.
    #[must_use]
    pub fn life(&self) -> Incarnation {
        self.shared.life()
    }

    /// Whether every intermediate that may carry a message knows the change.
    #[must_use]
    pub fn is_applied(&self, seq: RouteSeq) -> bool {
        self.shared.is_applied(seq)
    }

    /// Resolves when every intermediate that may carry a message knows the change. One that cannot be
    /// reached is waited for until it must have declared this proxy dead.
    pub async fn applied(&self, seq: RouteSeq) {
        self.shared.applied(seq).await;
    }

    /// Sends a message to every other endpoint with a matching route, if `life` is not over: what was published in an
    /// earlier one is dropped, and what came after it would overtake it when its client sends it again.
    ///
    /// With QoS >= 1 the ticket comes back in [`UplinkEvent::Completed`] or [`UplinkEvent::Refused`]. QoS 0 takes none, and is dropped and
    /// counted when nobody can carry it now.
    ///
    /// # Errors
    /// There is no room, or `life` is over.
    pub fn publish(
        &self,
        life: Incarnation,
        message: &Arc<Message>,
        expires_at: Option<Instant>,
        provenance: Provenance,
        ticket: Option<T>,
    ) -> Result<(), NotTaken<T>> {
        let lane = lane_of(&message.topic);
        self.shared.publish(life, Publication { lane, message, expires_at, provenance }, ticket)
    }

    /// Resolves when a QoS >= 1 message would be taken again.
    pub async fn window_open(&self) {
        self.shared.window_open().await;
    }

    /// This life of this endpoint.
    #[must_use]
    pub fn member(&self) -> Member {
        self.shared.read_roster(|roster| roster.member().clone())
    }

    /// All endpoints that any intermediate is known to have, this one included.
    #[must_use]
    pub fn present(&self) -> Vec<Member> {
        self.shared.read_roster(|roster| roster.present().to_vec())
    }

    /// The same, as the origins of their messages.
    #[must_use]
    pub fn present_origins(&self) -> Vec<OriginId> {
        self.shared.read_roster(|roster| roster.present().iter().map(origin_of).collect())
    }

    /// Says to all intermediates that this endpoint goes for good, and ends its links. Resolves when they
    /// have ended, or after a second. Nothing can be published or taken afterwards: the caller cancels the
    /// shutdown token next.
    pub async fn leave(&self) {
        self.shared.leave().await;
    }

    /// A picture of this moment.
    #[must_use]
    pub fn status(&self) -> UplinkStatus {
        self.shared.status()
    }

    /// Whether at least one intermediate can carry messages.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.shared.serving()
    }

    /// The wall clock and chance it was given.
    #[must_use]
    pub fn machine(&self) -> &Arc<dyn Machine> {
        &self.shared.config.machine
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &UplinkMetrics {
        self.shared.metrics()
    }
}

impl<T> Clone for Uplink<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Uplink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").finish_non_exhaustive()
    }
}
