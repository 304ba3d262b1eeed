//! Stores at their boundary: batches in, rows out, also after the process or the machine went down.

#![allow(clippy::unwrap_used, reason = "a failure to write or read is a failed test")]

mod behaviour;
mod crash;
mod damage;
mod directory;
mod disk;
mod kill;
mod strace;
mod support;
mod trace;
mod workload;
