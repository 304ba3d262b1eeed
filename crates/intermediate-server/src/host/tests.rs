//! The store behind real streams.
