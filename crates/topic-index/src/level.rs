//! A level's place in the text of a topic name or topic filter, and a level kept by itself.
//!
//! Invariant: a [`Span`] holds no slash and lies within the text it was made from. Does not know
//! what a level means.

/// A level's place in a text, which is at most 65,535 bytes long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    start: u16,
    end: u16,
}

/// The text of a level. Inline when short: a comparison then touches no further cache line.
#[derive(Debug)]
pub(crate) enum Level {
    Short { len: u8, bytes: [u8; 22] },
    Long(Box<[u8]>),
}

impl Span {
    pub(crate) fn first(text: &str) -> Self {
        Self::starting(0, text)
    }

    pub(crate) fn next(self, text: &str) -> Option<Self> {
        let slash = usize::from(self.end);
        (slash < text.len()).then(|| Self::starting(slash + 1, text))
    }

    pub(crate) fn of(self, text: &str) -> &str {
        text.get(usize::from(self.start)..usize::from(self.end))
            .unwrap_or_default()
    }

    /// What follows the level: nothing, or a slash and more levels.
    pub(crate) fn rest(self, text: &str) -> &str {
        text.get(usize::from(self.end)..).unwrap_or_default()
    }

    fn starting(start: usize, text: &str) -> Self {
        let length = text.get(start..).map_or(0, level_length);
        let short = |at: usize| u16::try_from(at).expect("a filter has at most 65,535 bytes");
        Self {
            start: short(start),
            end: short(start + length),
        }
    }
}

impl Level {
    pub(crate) fn new(level: &[u8]) -> Self {
        let mut bytes = [0; 22];
        match (bytes.get_mut(..level.len()), u8::try_from(level.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(level);
                Self::Short { len, bytes }
            }
            _ => Self::Long(level.into()),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// How many bytes stand before the next slash.
pub(crate) fn level_length(text: &str) -> usize {
    text.bytes()
        .position(|byte| byte == b'/')
        .unwrap_or(text.len())
}
