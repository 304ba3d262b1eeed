//! Routes and messages between proxies and intermediates, over gRPC.
//!
//! The only crate that sees protobuf and tonic.

pub mod frame;
