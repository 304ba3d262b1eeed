//! What the tests of the whole product are written with.
//!
//! - [`RawClient`]: one MQTT connection under full control of the test, down to single bytes
//! - [`wire`]: packets by hand, also those no encoder would write
//! - [`Broker`]: one proxy with an intermediate; [`Cluster`]: many of both in this process
//! - [`LinkProxy`]: a cable that can be cut; [`Process`]: a real binary that can be killed
//! - [`History`]: what was sent and received, and whether that was right
//! - [`mutations`]: faults put into the product on purpose, and who catches them
//! - [`killloop`]: the process of the store killed again and again
//! - [`record`]: a history of a long run, event by event; [`load`]: the clients that write it; [`checker`]: what judges it
//!
//! Everything listens on loopback and on ports the system chose. Nothing here sleeps to wait for a
//! condition: it waits for the condition, at most [`DEADLINE`].

mod broker;
pub mod checker;
mod client;
mod cluster;
mod history;
mod intermediate;
pub mod killloop;
mod link;
pub mod load;
pub mod mutations;
mod process;
pub mod random;
pub mod record;
pub mod simulation;
pub mod torture;
pub mod wire;

use std::time::Duration;

pub use broker::{Broker, http};
pub use client::{RawClient, connect_packet, persistent};
pub use cluster::{Cluster, Plan};
pub use history::{History, Violation};
pub use link::{Flow, LinkProxy};
pub use process::{Process, kill, run};

/// How long anything that must happen may take.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Lets time go by, for tests whose subject is time.
pub async fn elapse(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Polls `condition` until it holds; panics with `what` after [`DEADLINE`].
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + DEADLINE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < until, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
