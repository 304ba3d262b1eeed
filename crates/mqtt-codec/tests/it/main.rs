//! The codec seen from outside: bytes in, packets out, and back.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod arbitrary;
mod corpus;
mod decoder;
mod encoding;
mod hostile;
mod oracle;
mod peer;
mod properties;
mod round_trip;
mod vectors;
