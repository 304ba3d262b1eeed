//! A short text that lies where it is used.
//!
//! Invariant: it was a `str` when it was kept. Does not change once made.

/// Up to `N` bytes inline, so that a comparison touches no further cache line; longer ones boxed.
#[derive(Clone, Debug)]
pub(crate) enum Text<const N: usize> {
    Short { len: u8, bytes: [u8; N] },
    Long(Box<[u8]>),
}

impl<const N: usize> Text<N> {
    /// Keeps `text`, the bytes of a `str`.
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut bytes = [0; N];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(text);
                Self::Short { len, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }

    /// Checks the text again: on a hot path, compare bytes instead.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("it was a str when it was kept")
    }
}
