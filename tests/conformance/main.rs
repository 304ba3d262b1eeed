//! Conformance of one proxy to the letter of MQTT 3.1.1 and MQTT 5.0, over raw sockets.
//!
//! The doc of each test starts with the statements it shows: `[MQTT-x.y.z-n]` is a statement of MQTT
//! 5.0 and `[MQTT311-x.y.z-n]` one of MQTT 3.1.1, because the same number means different things in
//! the two standards. `../statements-5.0.txt` and `../statements-3.1.1.txt` list all of them, and
//! `../tidy.rs` checks that each one that concerns a server is named in a test or excused there.
//!
//! A body runs for each version it holds for. Tests share one server with default settings, and so
//! use names of their own for clients and topics; a test of a setting starts a server of its own.

mod alias;
mod auth;
mod bounds;
mod connect;
mod disconnect;
mod flow;
mod keepalive;
mod limits;
mod malformed;
mod ping;
mod publish;
mod retained;
mod session;
mod shared;
mod subscribe;
mod support;
mod topics;
mod unsubscribe;
mod utf8;
mod will;
