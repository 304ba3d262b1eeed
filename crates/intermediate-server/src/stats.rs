//! What the relay counts.
//!
//! Owns plain numbers, written by the relay alone and read as one consistent copy. The names under
//! which they are scraped are in `metrics`.

use cluster_rpc::frame::RelayState;

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages taken from origins, by QoS.
    pub received: [u64; 3],
    /// Deliveries put on links; a message counts once per endpoint, and again when sent again.
    pub sent: u64,
    /// Deliveries nobody waited for, not queued because the endpoint's outbox was full.
    pub dropped_full: u64,
    /// Deliveries nobody waited for, lost with a link.
    pub dropped_link: u64,
    /// Deliveries in the outbox of an endpoint that was declared dead or began a new life.
    pub dropped_dead: u64,
    /// Endpoints declared dead.
    pub declared_dead: u64,
    /// Endpoints that said that they go, and went.
    pub left: u64,
    /// Messages of which an origin was told that they were refused, as the store had no room.
    pub refused_quota: u64,
    /// Messages of which an origin was told that they were refused for another reason.
    pub refused_other: u64,
    /// Lives that ended because a newer one of the same node came.
    pub fenced: u64,
    /// Tables that were not what the endpoint said they are.
    pub digest_mismatches: u64,
    /// Streams ended because of a frame that must not have come.
    pub violations: u64,
    /// How often this relay stood still for a lease and had to join anew.
    pub stalls: u64,
}

/// Totals, and what there is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Totals since the start.
    pub counts: Counts,
    /// Whether messages are taken.
    pub state: RelayState,
    /// Streams attached.
    pub streams: u64,
    /// Proxies known, members or not.
    pub endpoints: u64,
    /// Proxies whose routes are all here.
    pub members: u64,
    /// Rows of all endpoints.
    pub routes: u64,
    /// Deliveries not yet acknowledged by their endpoint.
    pub outbox_messages: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// Those of them that are for the store.
    pub store_outbox_messages: u64,
    /// Their bytes.
    pub store_outbox_bytes: u64,
    /// Whether no message is taken because the store has not told its routes yet.
    pub waits_for_store: bool,
    /// Outboxes over their limit: while there is one, origins get no credit.
    pub congested_outboxes: u64,
    /// Messages and barriers not yet acknowledged to their origin.
    pub pending: u64,
}

impl Stats {
    pub(crate) fn new(counts: Counts, state: RelayState) -> Self {
        Self {
            counts,
            state,
            streams: 0,
            endpoints: 0,
            members: 0,
            routes: 0,
            outbox_messages: 0,
            outbox_bytes: 0,
            store_outbox_messages: 0,
            store_outbox_bytes: 0,
            waits_for_store: false,
            congested_outboxes: 0,
            pending: 0,
        }
    }
}
