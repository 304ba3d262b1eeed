//! The protocol of one client, played as scripts with virtual time.
//!
//! What the server sends is encoded and decoded again before it is compared, so a packet that
//! the version does not allow fails the test that caused it.

#![allow(clippy::unwrap_used, reason = "a test may fail by it")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a script expects one packet, whatever others there are"
)]

mod acknowledging;
mod aliases;
mod closing;
mod connecting;
mod delivering;
mod model;
mod publishing;
mod resuming;
mod script;
mod subscribing;
