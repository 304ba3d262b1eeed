//! Stores at their boundary: batches in, rows out, also after the process or the machine went down.

mod behaviour;
mod damage;
mod directory;
mod kill;
mod support;
