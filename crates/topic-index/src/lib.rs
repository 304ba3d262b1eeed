//! Topic filters to subscribers, and topic names to retained values.
