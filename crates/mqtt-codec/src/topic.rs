//! Topic names, topic filters and share names `[MQTT-4.7]`, valid by construction.

use bytestring::ByteString;

use crate::DecodeError;
use crate::wire::Reader;

/// Longest UTF-8 string the wire can carry, in bytes.
const LONGEST: usize = u16::MAX as usize;

/// The topic a message is published to: not empty, no wildcard, no U+0000.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(ByteString);

/// What a subscription asks for. `$share/{name}/` is split off into [`TopicFilter::share_name`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter {
    whole: ByteString,
    /// Where the filter proper starts in `whole`: 0, or after `$share/{name}/`.
    start: u16,
    wildcards: bool,
}

/// Why a text is no topic name or topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Zero characters `[MQTT-4.7.3-1]`.
    #[error("a topic must have at least one character")]
    Empty,
    /// More than 65,535 bytes `[MQTT-4.7.3-3]`.
    #[error("a topic must not be longer than 65,535 bytes")]
    TooLong,
    /// U+0000 `[MQTT-4.7.3-2]`.
    #[error("a topic must not contain U+0000")]
    Null,
    /// `+` or `#` in a topic name `[MQTT-3.3.2-2]`, or not alone in its level `[MQTT-4.7.1-1]` `[MQTT-4.7.1-2]`.
    #[error("a wildcard stands where none may")]
    Wildcard,
    /// `$share` without a name and a filter, or with a wildcard in the name `[MQTT-4.8.2-1]` `[MQTT-4.8.2-2]`.
    #[error("a shared subscription must be $share/{{name}}/{{filter}}")]
    Share,
}

fn check_text(text: &[u8]) -> Result<(), TopicError> {
    match text {
        [] => Err(TopicError::Empty),
        _ if text.len() > LONGEST => Err(TopicError::TooLong),
        _ if text.contains(&0) => Err(TopicError::Null),
        _ => Ok(()),
    }
}

/// Whether `text`, which should be UTF-8, is a topic name.
#[inline]
pub(crate) fn check_name(text: &[u8]) -> Result<(), TopicError> {
    // Without an early end, so that it is done for many bytes at once.
    let suspect = |found, &byte: &u8| found | matches!(byte, 0 | b'+' | b'#');
    if !text.iter().fold(text.is_empty(), suspect) && text.len() <= LONGEST {
        return Ok(());
    }
    check_text(text)?;
    Err(TopicError::Wildcard)
}

impl TopicName {
    /// Checks and takes `text`.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_name(text.as_bytes())?;
        Ok(Self(text))
    }

    /// The topic name that `part` of a frame is. Checked before it is taken, since moving a checked
    /// one about costs more.
    #[inline]
    pub(crate) fn decode<'a>(part: &'a [u8], frame: &Reader<'a>) -> Result<Self, DecodeError> {
        check_name(part).map_err(DecodeError::TopicName)?;
        match ByteString::try_from(frame.share(part)) {
            Ok(text) => Ok(Self(text)),
            Err(_) => Err(DecodeError::Utf8), // [MQTT-1.5.4-1]
        }
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels between the slashes; there is always at least one.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// A copy that shares no memory with a read buffer: use it for whatever is kept for long.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(ByteString::from(self.0.as_ref() as &str))
    }

    /// The name's text and the memory it shares.
    #[must_use]
    pub fn as_byte_string(&self) -> &ByteString {
        &self.0
    }
}

impl TopicFilter {
    /// Checks and takes `text`, of the form `filter` or `$share/{name}/{filter}`.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let whole = text.into();
        check_text(whole.as_bytes())?;
        let start = match whole.strip_prefix("$share/") {
            None if &*whole == "$share" => return Err(TopicError::Share),
            None => 0,
            Some(rest) => {
                let (name, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
                if name.is_empty() || filter.is_empty() || name.contains(['+', '#']) {
                    return Err(TopicError::Share);
                }
                whole.len() - filter.len()
            }
        };
        let mut wildcards = false;
        let mut levels = whole.get(start..).unwrap_or_default().split('/').peekable();
        while let Some(level) = levels.next() {
            match level {
                "+" => wildcards = true,
                "#" if levels.peek().is_none() => wildcards = true,
                _ if level.contains(['+', '#']) => return Err(TopicError::Wildcard),
                _ => {}
            }
        }
        let start = u16::try_from(start).map_err(|_| TopicError::TooLong)?;
        Ok(Self { whole, start, wildcards })
    }

    /// The filter as the client wrote it, `$share/{name}/` included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The part that is matched against topic names.
    #[must_use]
    pub fn filter(&self) -> &str {
        self.whole.get(usize::from(self.start)..).unwrap_or_default()
    }

    /// The group's name, if this is a shared subscription.
    #[must_use]
    pub fn share_name(&self) -> Option<&str> {
        self.whole.get("$share/".len()..usize::from(self.start).checked_sub(1)?)
    }

    /// Whether `+` or `#` stands in it.
    #[must_use]
    pub fn has_wildcards(&self) -> bool {
        self.wildcards
    }

    /// The levels of [`filter`](Self::filter).
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.filter().split('/')
    }

    /// Whether a message to `topic` is for this filter.
    ///
    /// The reference definition: an index must agree with it. A wildcard in the first level does
    /// not match a topic that begins with `$` `[MQTT-4.7.2-1]`.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        let mut names = topic.levels();
        for (depth, level) in self.levels().enumerate() {
            let hidden = depth == 0 && topic.as_str().starts_with('$');
            match (level, names.next()) {
                ("#" | "+", _) if hidden => return false,
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (_, Some(name)) if name == level => {}
                (_, _) => return false,
            }
        }
        names.next().is_none()
    }

    /// A copy that shares no memory with a read buffer: use it for whatever is kept for long.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { whole: ByteString::from(self.whole.as_ref() as &str), ..*self }
    }

    /// The filter's text and the memory it shares.
    #[must_use]
    pub fn as_byte_string(&self) -> &ByteString {
        &self.whole
    }
}

impl std::fmt::Display for TopicName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.whole)
    }
}
