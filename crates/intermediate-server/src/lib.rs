//! The relay between proxies, and the store of what the cluster remembers.
//!
//! Proxies connect, tell their routes, and send what their clients publish; every message goes to each
//! proxy with a matching route, and is acknowledged when all of them have it. One intermediate of a cluster
//! holds the store: to the relays an endpoint as a proxy is, to the proxies the place of their sessions.
//!
//! # Layout
//!
//! - [`relay`]: the protocol as a value, frames in and frames out. Below it: `routes` (who gets a
//!   message), `table` (one proxy's rows), `outbox` (what is on its way to one), `pending` (what one
//!   waits for), `membership` (who may speak, and from when on), `endpoint` (all of one proxy)
//! - `host`: the store: a thread that owns the partitions, and the streams by which proxies speak with it
//! - `service`: the relay among real streams; [`node`]: a whole intermediate
//! - [`config`], [`cli`], `metrics`: the process

pub mod cli;
pub mod config;
mod endpoint;
mod host;
mod membership;
mod metrics;
pub mod node;
mod outbox;
mod pending;
pub mod relay;
mod routes;
mod service;
mod stats;
mod table;
mod violation;

pub use config::Config;
#[doc(hidden)]
pub use host::Home;
pub use node::{Addresses, Listeners, Node, Parts};
pub use outbox::OutboxLimits;
pub use pending::Amount;
pub use stats::{Counts, Stats};
