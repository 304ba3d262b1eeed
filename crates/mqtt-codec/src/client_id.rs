//! The name of a client, unique in the cluster while it is connected.

use bytestring::ByteString;

/// A client identifier that is not empty and holds no U+0000.
///
/// An empty identifier in a CONNECT asks the server to assign one and is no `ClientId` yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(ByteString);

impl ClientId {
    /// `None` if empty, longer than 65,535 bytes, or with U+0000 `[MQTT-1.5.4-2]`.
    #[must_use]
    pub fn new(id: impl Into<ByteString>) -> Option<Self> {
        let id = id.into();
        let valid = !id.is_empty() && id.len() <= usize::from(u16::MAX) && !id.contains('\0');
        valid.then_some(Self(id))
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy that shares no memory with a read buffer: use it for whatever is kept for long.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(ByteString::from(self.as_str()))
    }

    /// The identifier's text and the memory it shares.
    #[must_use]
    pub fn as_byte_string(&self) -> &ByteString {
        &self.0
    }
}

impl std::fmt::Display for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
