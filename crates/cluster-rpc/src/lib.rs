//! Routes and messages between proxies and intermediates, over gRPC.
//!
//! The only crate that sees protobuf and tonic. An endpoint [`start`]s an uplink; an intermediate [`serve`]s and
//! gets streams of [`frame`]s. What a frame carries is checked where it arrives and nowhere again.
//!
//! # Layout
//!
//! - [`frame`]: what is said, as our types; `proto`, `convert`: its form on the wire
//! - [`network`]: streams of encoded frames, which `grpc` carries; [`machine`]: time and chance
//! - [`acceptor`], [`stream`]: the accepting side, which knows nothing of what is said
//! - [`uplink`]: the side of an endpoint, a proxy or the store; `link`: one intermediate; both drive the
//!   sans-IO cores `origin` (what leaves), `receiver` and `refusals` (what arrives, and what of it was not
//!   taken), `route_log` and `route_feed` (its own routes) and `membership` (what it knows of the
//!   intermediates)
//! - [`StoreLink`] and [`StoreEvents`]: a proxy's way to the store, whichever intermediate holds it

pub mod acceptor;
mod backoff;
mod codec;
mod convert;
pub mod digest;
pub mod error;
pub mod frame;
mod grpc;
pub mod lane;
mod link;
pub mod machine;
mod membership;
pub mod network;
mod origin;
mod proto;
mod receiver;
mod refusals;
mod route_feed;
mod route_log;
pub mod stream;
mod token;
mod transport;
pub mod uplink;
mod wire;

pub use acceptor::{Acceptor, AcceptorConfig, Attachment, Attachments, serve};
pub use digest::RouteDigest;
pub use error::{Ended, FrameError, StreamError, TrySendError};
pub use lane::{lane_of, origin_of};
pub use machine::Machine;
pub use network::Network;
pub use receiver::Incoming;
pub use route_log::RouteSeq;
pub use stream::{FrameSender, Stream};
pub use token::Token;
pub use uplink::{
    Deliveries, IntermediateState, IntermediateStatus, LinkEpoch, NotTaken, StoreEvent,
    StoreEvents, StoreLink, Uplink, UplinkConfig, UplinkEvent, UplinkEvents, UplinkMetrics,
    UplinkStatus, start, start_with_store,
};
