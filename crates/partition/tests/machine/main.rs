//! Partitions at their boundary: commands in, effects and deliveries out, and what is found when the
//! store is opened again.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod attach;
mod coming_back;
mod groups;
mod history;
mod limits;
mod on_disk;
mod publish;
mod queue;
mod reading;
mod retained;
mod rig;
mod wills;
