//! Topic filters to subscribers ([`TopicIndex`]), and topic names to retained values ([`TopicTree`]).
//!
//! Owns: which filters match a topic, and which kept topics match a filter, at a cost that follows
//! what matches and not what is stored. Invariant: both agree with
//! [`mqtt_codec::TopicFilter::matches`], and neither recurses, so a deep topic costs no stack.
//! Does not: read a clock, take a lock, log, or know share names, QoS or sessions.

mod index;
mod level;
mod slab;
mod subscribers;
mod text;
mod tree;
mod trie;

pub use index::TopicIndex;
pub use tree::{TopicPage, TopicTree};
