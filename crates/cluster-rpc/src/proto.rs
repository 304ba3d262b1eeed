//! The generated protobuf messages and gRPC stubs. Nothing outside this crate sees them.

#![allow(
    missing_debug_implementations,
    unnameable_types,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::large_futures,
    clippy::too_many_lines,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    reason = "generated code is not ours to shape"
)]

tonic::include_proto!("causeway.v1");
tonic::include_proto!("causeway.v1.Relay");
tonic::include_proto!("causeway.v1.Routes");
tonic::include_proto!("causeway.v1.Sessions");
