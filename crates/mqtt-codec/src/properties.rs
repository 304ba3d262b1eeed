//! The property table of MQTT 5.0.

use bytestring::ByteString;

/// Name-value pairs in the order they were sent.
pub type UserProperties = Vec<(ByteString, ByteString)>;
