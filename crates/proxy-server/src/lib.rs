//! The MQTT node of a cluster: client connections, clean sessions, local subscriptions.
//!
//! # Layout, in the order a PUBLISH meets it
//!
//! - `listener`, `handshake`: a connection becomes a session
//! - `client_task` with `wire`: bytes in, bytes out, one task per connection
//! - `broker`: what happens to a publish, a subscription, a session's end
//! - `subscriptions`, `fanout`, `group`: who gets it
//! - `mailbox`: the queue of one session
//! - `cluster`: what comes from the intermediates
//! - `retained`, `sessions`, `will`: what outlives a connection
//! - `node`, `config`, `cli`, `metrics`: the process

mod broker;
pub mod cli;
mod client_task;
mod cluster;
mod collector;
pub mod config;
mod fanout;
mod group;
mod handshake;
mod listener;
mod mailbox;
mod metrics;
pub mod node;
mod retained;
mod retained_scan;
mod session_guard;
mod sessions;
mod subscriptions;
mod will;
mod wire;

pub use config::Config;
pub use metrics::DropReason;
pub use node::{Listeners, Node, Stats};
