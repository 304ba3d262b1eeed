//! Topic names to values, looked up by filter: retained messages.
//!
//! Owns one ordered map whose order is that of the levels, so the topics below a common beginning
//! stand together. A filter is answered by reading forward and, at each topic that does not match,
//! going on at the first place that still could: the next literal level, or past the subtree.
//!
//! Invariant: a look-up passes over a run of topics that cannot match in one seek. A map needs no
//! node per level, so depth costs no memory, no pruning and no stack. Does not expire values.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

use mqtt_codec::{TopicFilter, TopicName};

use crate::level::level_length;
use crate::text::Text;

/// A seek costs about as much as this many steps to the next topic.
const STEPS_BEFORE_SEEK: usize = 24;

/// A page ends after this many topics were looked at per match asked for.
const LOOKS_PER_MATCH: usize = 16;

/// One value per topic name.
#[derive(Clone, Debug)]
pub struct TopicTree<V> {
    values: BTreeMap<ByLevel, V>,
}

impl<V> Default for TopicTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> TopicTree<V> {
    /// A tree without topics.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: BTreeMap::new() }
    }

    /// The number of topics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Sets the value of `topic` and returns the one it had. Keeps a copy of a new name.
    pub fn insert(&mut self, topic: &TopicName, value: V) -> Option<V> {
        self.values.insert(ByLevel::new(topic), value)
    }

    /// Takes out the value of `topic`.
    pub fn remove(&mut self, topic: &TopicName) -> Option<V> {
        self.values.remove(&ByLevel::new(topic))
    }

    /// The value of `topic`.
    #[must_use]
    pub fn lookup(&self, topic: &TopicName) -> Option<&V> {
        self.values.get(&ByLevel::new(topic))
    }

    /// Every topic and value, in the order of the levels.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.values.iter().map(|(key, value)| (key.0.as_str(), value))
    }

    /// Gives every topic that `filter` matches, in the order of the levels.
    pub fn matches<'a>(&'a self, filter: &TopicFilter, mut visit: impl FnMut(&'a str, &'a V)) {
        for (topic, value) in self.matches_after(filter, None, usize::MAX) {
            visit(topic, value);
        }
    }

    /// At most `limit` (and at least one) of the topics that `filter` matches and that come
    /// behind `after`.
    ///
    /// The page also ends after a number of looks that grows with `limit`, so that a filter which
    /// matches little does not hold the tree for long: a short or empty page is not the last one.
    /// Ask [`TopicPage::cursor`] where to go on. Topics that come or go between two pages are seen
    /// or not; all others are seen once.
    #[must_use]
    pub fn matches_after<'a, 'f>(
        &'a self,
        filter: &'f TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
    ) -> TopicPage<'a, 'f, V> {
        let text = filter.filter().as_bytes();
        let start = match after {
            Some(after) => Bound::Excluded(ByLevel::new(after)),
            None => Bound::Included(ByLevel(Text::new(literal_run(text)))),
        };
        let (range, target) = (self.starting(start), Vec::new());
        let limit = limit.max(1);
        let looks = limit.saturating_mul(LOOKS_PER_MATCH);
        TopicPage { tree: self, filter: text, range, target, limit, looks, last: None }
    }

    fn starting(&self, start: Bound<ByLevel>) -> Range<'_, ByLevel, V> {
        self.values.range((start, Bound::Unbounded))
    }
}

/// The matching topics of one page, in the order of the levels.
#[derive(Debug)]
pub struct TopicPage<'a, 'f, V> {
    tree: &'a TopicTree<V>,
    filter: &'f [u8],
    range: Range<'a, ByLevel, V>,
    /// Where the next topic that can match would stand.
    target: Vec<u8>,
    limit: usize,
    looks: usize,
    /// The topic looked at last, unless nothing behind it can match.
    last: Option<&'a ByLevel>,
}

impl<'a, V> TopicPage<'a, '_, V> {
    /// Where the next page starts: hand it to [`TopicTree::matches_after`] once this page is read.
    /// `None` when no topic behind this page can match.
    #[must_use]
    pub fn cursor(&self) -> Option<TopicName> {
        let text = self.last?.0.as_str();
        Some(TopicName::new(text).expect("only topic names are inserted"))
    }

    fn end(&mut self) {
        self.last = None;
        self.limit = 0;
    }

    /// The first topic at or behind `target`.
    fn seek(&mut self) -> Option<(&'a ByLevel, &'a V)> {
        for _ in 0..STEPS_BEFORE_SEEK {
            let (key, value) = self.range.next()?;
            if compare(key.bytes(), &self.target).is_ge() {
                return Some((key, value));
            }
        }
        let target = ByLevel(Text::new(&self.target));
        self.range = self.tree.starting(Bound::Included(target));
        self.range.next()
    }
}

impl<'a, V> Iterator for TopicPage<'a, '_, V> {
    type Item = (&'a str, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let mut seek = false;
        while self.limit > 0 && self.looks > 0 {
            let found = if seek { self.seek() } else { self.range.next() };
            let Some((key, value)) = found else {
                self.end();
                return None;
            };
            self.looks -= 1;
            self.last = Some(key);
            match look(self.filter, key.bytes(), &mut self.target) {
                Look::Match => {
                    self.limit -= 1;
                    return Some((key.0.as_str(), value));
                }
                Look::Seek => seek = true,
                Look::End => self.end(),
            }
        }
        None
    }
}

/// What a topic says about the filter.
enum Look {
    Match,
    /// No topic before `target` matches.
    Seek,
    /// No topic behind this one matches.
    End,
}

/// Compares level by level; `target` is written for [`Look::Seek`] only.
fn look(filter: &[u8], topic: &[u8], target: &mut Vec<u8>) -> Look {
    // No wildcard in the first level for a `$` topic [MQTT-4.7.2-1]; these stand together.
    if topic.starts_with(b"$") && matches!(filter.first(), Some(b'+' | b'#')) {
        return seek_to(target, [b"%", b"", b""]);
    }
    // The end of the deepest level that `+` stood for: the next topic to match differs there.
    let mut free = None;
    let (mut wanted, mut start) = (filter, 0);
    loop {
        let (before, below) = topic.split_at(start);
        let (level, wanted_rest) = wanted.split_at(level_length(wanted));
        let (actual, rest) = below.split_at(level_length(below));
        let end = start + actual.len();
        match level {
            b"#" => return Look::Match,
            b"+" => free = Some(end),
            _ => match actual.cmp(level) {
                Ordering::Equal => {}
                Ordering::Less => return seek_to(target, [before, b"", literal_run(wanted)]),
                Ordering::Greater => return seek_past(target, topic, free),
            },
        }
        (wanted, start) = match (wanted_rest.get(1..), rest.is_empty()) {
            (Some(next), false) => (next, end + 1),
            (None, false) => return seek_past(target, topic, free),
            // `#` stands for the parent level too (4.7.1.2): `a/#` matches `a`.
            (None | Some(b"#"), true) => return Look::Match,
            (Some(next), true) => return seek_to(target, [topic, b"/", literal_run(next)]),
        };
    }
}

fn seek_to(target: &mut Vec<u8>, parts: [&[u8]; 3]) -> Look {
    target.clear();
    parts.iter().for_each(|part| target.extend_from_slice(part));
    Look::Seek
}

/// Leaves the subtree of the level that ends at `free`; without one nothing else can match.
fn seek_past(target: &mut Vec<u8>, topic: &[u8], free: Option<usize>) -> Look {
    match free.and_then(|end| topic.get(..end)) {
        // U+0001 comes behind the slash in the order of levels, and before all other characters.
        Some(subtree) => seek_to(target, [subtree, b"\x01", b""]),
        None => Look::End,
    }
}

/// The levels of `filter` before its first wildcard.
fn literal_run(filter: &[u8]) -> &[u8] {
    // A wildcard is alone in its level [MQTT-4.7.1-1] [MQTT-4.7.1-2], so a slash stands before it.
    let end =
        filter.iter().position(|byte| matches!(byte, b'+' | b'#')).unwrap_or(filter.len() + 1);
    filter.get(..end.saturating_sub(1)).unwrap_or_default()
}

/// A topic name or a place between two, ordered by levels. Making a short one allocates nothing.
#[derive(Clone, Debug)]
struct ByLevel(Text<46>);

impl ByLevel {
    fn new(topic: &TopicName) -> Self {
        Self(Text::new(topic.as_str().as_bytes()))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Ord for ByLevel {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.bytes(), other.bytes())
    }
}

impl PartialOrd for ByLevel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for ByLevel {}

impl PartialEq for ByLevel {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

/// The order of levels: that of bytes, but the slash comes first (no topic contains U+0000).
fn compare(left: &[u8], right: &[u8]) -> Ordering {
    // Neighbours share most of their text, which eight bytes at a time are enough to skip.
    let (left_chunks, right_chunks) = (left.as_chunks::<8>().0, right.as_chunks::<8>().0);
    let same = left_chunks.iter().zip(right_chunks).take_while(|(a, b)| a == b).count() * 8;
    let (left, right) = (left.split_at(same).1, right.split_at(same).1);
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    match left.iter().zip(right).find(|(a, b)| a != b) {
        Some((a, b)) => rank(*a).cmp(&rank(*b)),
        None => left.len().cmp(&right.len()),
    }
}

#[cfg(test)]
mod tests;
