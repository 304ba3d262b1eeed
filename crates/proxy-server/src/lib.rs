//! The MQTT node of a cluster: client connections, clean sessions, local subscriptions.
//!
//! # Layout, in the order a PUBLISH meets it
//!
//! - `connections`, `listener`, `handshake`: a connection becomes a session
//! - `client_task` with `wire`: bytes in, bytes out, one task per connection
//! - `broker`: what happens to a publish, a subscription, a connection's end
//! - `subscriptions`, `fanout`, `once`: who gets it, of the clean sessions here
//! - `mailbox`: the queue of one connection
//! - `cluster`: what comes from the intermediates; `leftovers`: what goes there late
//! - `store`: sessions, shared subscriptions and retained messages, which an intermediate keeps
//! - `sessions`, `session_guard`: one connection for each client identifier
//! - `node`, `config`, `cli`, `metrics`, `collector`: the process

mod broker;
pub mod cli;
mod client_task;
mod cluster;
mod collector;
pub mod config;
mod connections;
mod fanout;
mod handshake;
mod leftovers;
mod listener;
mod mailbox;
mod metrics;
pub mod node;
mod once;
mod session_guard;
mod sessions;
mod store;
mod subscriptions;
mod wire;

pub use config::Config;
#[doc(hidden)]
pub use connections::Connections;
pub use metrics::DropReason;
pub use node::{Listeners, Node, Parts, Stats};
