//! Everything MQTT 3.1, 3.1.1 and 5.0 decide for one client at a server, as a value: no socket,
//! clock, task, lock, log or randomness. Time and identifiers are arguments.
//!
//! Start at [`Connection`], whose documentation is the contract with the task around it. Before
//! it, [`admit`] checks the CONNECT and the caller finds its [`Session`]; after it, [`Ended`] says
//! what is left.
//!
//! Written in the terms of MQTT 5.0. Where MQTT 3 behaves differently, `version` decides.
//!
//! # Layout
//!
//! - `profile`, `admission`: what the server offers, and who is let in
//! - `connection`: the state machine; `opening`: its CONNACK; `closing`: its end
//! - `inbound`: messages from the client and the order of their acknowledgements
//! - `outbound`: messages to the client, its window and its acknowledgements
//! - `subscribing`: SUBSCRIBE and UNSUBSCRIBE; `alias`: topic aliases; `ack`: the four PUBxxx
//! - `session`: where its state is kept; `event`: what goes in and out besides packets
//! - `version`: what MQTT 3 cannot express; `error`: what a client did wrong

#![warn(missing_docs)]

mod ack;
mod admission;
mod alias;
mod closing;
mod connection;
mod error;
mod event;
mod inbound;
mod opening;
mod outbound;
mod profile;
mod session;
mod subscribing;
mod version;

pub use admission::{Refusal, admit};
pub use closing::{CloseReason, Ended};
pub use connection::Connection;
pub use error::ProtocolError;
pub use event::{
    Confirmation, Delivery, DeliveryOutcome, DeliverySource, Event, Once, Outgoing, Ticket,
};
pub use opening::{IdOrigin, Opened};
pub use profile::ServerProfile;
pub use session::{QueueSlot, Resumed, Session};
