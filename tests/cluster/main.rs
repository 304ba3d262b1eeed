//! Whole clusters: what is promised across proxies, when nothing fails and when something does.
//!
//! - `delivery`, `faults`: servers in this process, over real gRPC
//! - `scenarios`: what `docs/scenarios.md` names and no other test shows
//! - `simulation`: everything in one thread and in virtual time
//! - `processes`: the real binary; `foreign`: clients of others, which must be installed
//! - `load`, `rumqtt`, `support`, `up`: what these are written with

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a packet that was not expected fails the test, whatever it is"
)]

mod delivery;
mod durable;
mod faults;
mod foreign;
mod load;
mod processes;
mod reattach;
mod rumqtt;
mod scenarios;
mod simulation;
mod support;
mod survival;
mod up;
