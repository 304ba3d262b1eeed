//! The store behind real streams: an intermediate with real gRPC on loopback, and proxies that are only
//! what cluster-rpc makes of them.

mod failing;
mod peers;
mod rig;
mod sessions;
