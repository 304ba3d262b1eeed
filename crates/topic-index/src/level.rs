//! A level's place in the text of a topic name or topic filter.
//!
//! Invariant: a [`Span`] holds no slash and lies within the text it was made from. Does not know
//! what a level means.

/// A level's place in a text, which is at most 65,535 bytes long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    start: u16,
    end: u16,
}

impl Span {
    pub(crate) fn first(text: &[u8]) -> Self {
        Self::starting(0, text)
    }

    pub(crate) fn next(self, text: &[u8]) -> Option<Self> {
        let slash = usize::from(self.end);
        (slash < text.len()).then(|| Self::starting(slash + 1, text))
    }

    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        text.get(usize::from(self.start)..usize::from(self.end)).unwrap_or_default()
    }

    /// What follows the level: nothing, or a slash and more levels.
    pub(crate) fn rest(self, text: &[u8]) -> &[u8] {
        text.get(usize::from(self.end)..).unwrap_or_default()
    }

    fn starting(start: usize, text: &[u8]) -> Self {
        let length = text.get(start..).map_or(0, level_length);
        let short = |at: usize| u16::try_from(at).expect("a filter has at most 65,535 bytes");
        Self { start: short(start), end: short(start + length) }
    }
}

/// How many bytes stand before the next slash.
pub(crate) fn level_length(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'/').unwrap_or(text.len())
}
