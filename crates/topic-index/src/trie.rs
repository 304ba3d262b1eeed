//! Filters with wildcards, by level.
//!
//! A filter that shares no further level with another one is a *leaf*: an entry that hangs below the
//! first level which is its own, whose remaining levels are compared as text. Only where filters
//! part again stands a *node*, so that most filters cost one entry and one edge. All literal
//! edges live in one hash table, keyed by (node, level); `+` and `#` are fields of the node.
//!
//! ```text
//! root --"site"--> node --+--> node --"dev"--> node --"17"--> leaf site/+/dev/17/#
//!                                                 \---"18"--> leaf site/+/dev/18/+
//! ```
//!
//! Invariant: except for the root, every node has an entry at or below it. Does not know what an
//! entry's value is, and does not join a node that has one leaf left back into that leaf.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::level::{Span, level_length};
use crate::slab::Slab;
use crate::text::Text;

const ROOT: u32 = 0;

/// From the text of wildcard filters to values.
#[derive(Debug)]
pub(crate) struct Trie<T> {
    nodes: Slab<Node>,
    entries: Slab<Entry<T>>,
    literals: HashTable<Edge>,
    /// Clients choose the levels, so each trie has its own seed: a set of levels that collide can
    /// not be prepared. The `quality` variant, because edges keep 32 of the 64 bits.
    state: RandomState,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    /// How many literal edges leave this node.
    literals: u32,
    plus: Option<Child>,
    /// The filter that ends at this node.
    here: Option<u32>,
    /// The filter that goes on with `#`.
    tail: Option<u32>,
    level: Text<22>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Node(u32),
    Leaf(u32),
}

#[derive(Debug)]
struct Edge {
    hash: u32,
    child: Child,
}

/// A filter and its value.
#[derive(Debug)]
struct Entry<T> {
    /// While a leaf: the node it hangs below, and the level of `text` that leads to it.
    parent: u32,
    level: Span,
    text: Text<38>,
    value: T,
}

impl<T> Trie<T> {
    pub(crate) fn new() -> Self {
        let mut trie = Self {
            nodes: Slab::new(),
            entries: Slab::new(),
            literals: HashTable::new(),
            state: RandomState::default(),
        };
        let root = trie.nodes.insert(Node::new(ROOT, b""));
        debug_assert_eq!(root, ROOT);
        trie
    }

    /// The number of filters.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Every filter's text and value, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|entry| (entry.text.as_str(), &entry.value))
    }

    pub(crate) fn find(&self, filter: &str) -> Option<&T> {
        Some(&self.entries[self.locate(filter.as_bytes())?.entry].value)
    }

    pub(crate) fn find_mut(&mut self, filter: &str) -> Option<&mut T> {
        let entry = self.locate(filter.as_bytes())?.entry;
        Some(&mut self.entries[entry].value)
    }

    /// Takes out `filter` and every node that leads to nothing else.
    pub(crate) fn remove(&mut self, filter: &str) -> Option<T> {
        let found = self.locate(filter.as_bytes())?;
        match found.site {
            Site::Here => self.nodes[found.node].here = None,
            Site::Tail => self.nodes[found.node].tail = None,
            Site::Leaf(level) => {
                self.unlink(
                    found.node,
                    self.edge_key(level.of(filter.as_bytes())),
                    Child::Leaf(found.entry),
                );
            }
        }
        self.prune(found.node);
        let removed = self.entries.remove(found.entry);
        if self.entries.len() == 0 {
            // Nothing is left to refer to a place, so all memory can go.
            *self = Self::new();
        }
        Some(removed.value)
    }

    /// Gives the value of every filter that matches `topic`, each once.
    ///
    /// Visits a node at most once and compares a leaf's text at most once; it allocates only when
    /// nodes stand more than 24 levels deep.
    pub(crate) fn matches<'a>(&'a self, topic: &str, mut visit: impl FnMut(&'a T)) {
        // A wildcard in the first level matches no topic that begins with `$` [MQTT-4.7.2-1].
        let hidden = topic.starts_with('$');
        let mut levels = Levels::new(topic.as_bytes(), &self.state);
        let mut pending: SmallVec<[(u32, usize); 16]> = SmallVec::new();
        pending.push((ROOT, 0));
        while let Some((id, depth)) = pending.pop() {
            let node = &self.nodes[id];
            let wild = depth > 0 || !hidden;
            if let Some(tail) = node.tail.filter(|_| wild) {
                visit(&self.entries[tail].value);
            }
            let Some(level) = levels.at(depth) else {
                if let Some(here) = node.here {
                    visit(&self.entries[here].value);
                }
                continue;
            };
            let plus = node.plus.filter(|_| wild);
            let literal =
                if node.literals > 0 { self.literal(id, level.text, level.hash) } else { None };
            for child in plus.into_iter().chain(literal) {
                match child {
                    Child::Node(below) => pending.push((below, depth + 1)),
                    Child::Leaf(entry) => {
                        let entry = &self.entries[entry];
                        if rest_matches(entry.rest(), level.rest) {
                            visit(&entry.value);
                        }
                    }
                }
            }
        }
    }

    /// The child of `node` that `level` leads to, `hash` being the level's.
    fn literal(&self, node: u32, level: &[u8], hash: u64) -> Option<Child> {
        let hash = edge_hash(node, hash);
        let edge = self.literals.find(spread(hash), |edge| {
            edge.hash == hash
                && match edge.child {
                    Child::Node(id) => {
                        let child = &self.nodes[id];
                        child.parent == node && child.level.as_bytes() == level
                    }
                    Child::Leaf(id) => {
                        let leaf = &self.entries[id];
                        leaf.parent == node && leaf.level.of(leaf.text.as_bytes()) == level
                    }
                }
        });
        edge.map(|edge| edge.child)
    }

    fn child(&self, node: u32, level: &[u8]) -> Option<Child> {
        match self.edge_key(level) {
            EdgeKey::Plus => self.nodes[node].plus,
            EdgeKey::Literal(hash) => self.literal(node, level, hash),
        }
    }

    fn edge_key(&self, level: &[u8]) -> EdgeKey {
        match level {
            b"+" => EdgeKey::Plus,
            _ => EdgeKey::Literal(level_hash(&self.state, level)),
        }
    }

    fn locate(&self, filter: &[u8]) -> Option<Found> {
        let (mut node, mut level) = (ROOT, Span::first(filter));
        loop {
            if level.of(filter) == b"#" {
                let entry = self.nodes[node].tail?;
                return Some(Found { entry, node, site: Site::Tail });
            }
            node = match self.child(node, level.of(filter))? {
                Child::Node(below) => below,
                Child::Leaf(entry) => {
                    let found = Found { entry, node, site: Site::Leaf(level) };
                    return (self.entries[entry].text.as_bytes() == filter).then_some(found);
                }
            };
            level = match level.next(filter) {
                Some(next) => next,
                None => {
                    let entry = self.nodes[node].here?;
                    return Some(Found { entry, node, site: Site::Here });
                }
            };
        }
    }

    fn link(&mut self, node: u32, key: EdgeKey, child: Child) {
        match key {
            EdgeKey::Plus => self.nodes[node].plus = Some(child),
            EdgeKey::Literal(hash) => {
                let hash = edge_hash(node, hash);
                let edge = Edge { hash, child };
                self.literals.insert_unique(spread(hash), edge, |edge| spread(edge.hash));
                self.nodes[node].literals += 1;
            }
        }
    }

    fn unlink(&mut self, node: u32, key: EdgeKey, child: Child) {
        match key {
            EdgeKey::Plus => self.nodes[node].plus = None,
            EdgeKey::Literal(hash) => {
                let hash = spread(edge_hash(node, hash));
                let edge = self.literals.find_entry(hash, |edge| edge.child == child);
                edge.expect("a child was linked under its level").remove();
                self.nodes[node].literals -= 1;
            }
        }
    }

    /// Removes `node`, and then its parents, as long as they lead to nothing.
    fn prune(&mut self, mut node: u32) {
        while node != ROOT && self.nodes[node].leads_nowhere() {
            let Node { parent, level, .. } = self.nodes.remove(node);
            self.unlink(parent, self.edge_key(level.as_bytes()), Child::Node(node));
            node = parent;
        }
    }
}

impl<T: Default> Trie<T> {
    /// The value of `filter`, which is added if it is not there.
    pub(crate) fn entry(&mut self, filter: &str) -> &mut T {
        let id = self.entry_id(filter.as_bytes());
        &mut self.entries[id].value
    }

    fn entry_id(&mut self, filter: &[u8]) -> u32 {
        let (mut node, mut level) = (ROOT, Span::first(filter));
        loop {
            let text = level.of(filter);
            if text == b"#" {
                let tail = self.nodes[node].tail;
                return tail.unwrap_or_else(|| {
                    let entry = self.entries.insert(Entry::new(filter, node, level));
                    self.nodes[node].tail = Some(entry);
                    entry
                });
            }
            node = match self.child(node, text) {
                None => {
                    let entry = self.entries.insert(Entry::new(filter, node, level));
                    self.link(node, self.edge_key(text), Child::Leaf(entry));
                    return entry;
                }
                Some(Child::Leaf(entry)) if self.entries[entry].text.as_bytes() == filter => {
                    return entry;
                }
                Some(Child::Leaf(entry)) => self.split(node, text, entry),
                Some(Child::Node(below)) => below,
            };
            let Some(next) = level.next(filter) else {
                let here = self.nodes[node].here;
                return here.unwrap_or_else(|| {
                    let entry = self.entries.insert(Entry::new(filter, node, level));
                    self.nodes[node].here = Some(entry);
                    entry
                });
            };
            level = next;
        }
    }

    /// Puts a node in the place of the leaf `entry`, and the leaf one level further down.
    fn split(&mut self, parent: u32, level: &[u8], entry: u32) -> u32 {
        let key = self.edge_key(level);
        self.unlink(parent, key, Child::Leaf(entry));
        let node = self.nodes.insert(Node::new(parent, level));
        self.link(parent, key, Child::Node(node));
        let leaf = &mut self.entries[entry];
        let text = leaf.text.as_bytes();
        match leaf.level.next(text) {
            None => self.nodes[node].here = Some(entry),
            Some(next) if next.of(text) == b"#" => self.nodes[node].tail = Some(entry),
            Some(next) => {
                (leaf.parent, leaf.level) = (node, next);
                let key = self.edge_key(next.of(self.entries[entry].text.as_bytes()));
                self.link(node, key, Child::Leaf(entry));
            }
        }
        node
    }
}

/// What leads from a node to a child: `+`, or a literal level of this hash.
#[derive(Clone, Copy)]
enum EdgeKey {
    Plus,
    Literal(u64),
}

/// Where a filter was found: the node it belongs to, and how.
struct Found {
    entry: u32,
    node: u32,
    site: Site,
}

enum Site {
    Here,
    Tail,
    Leaf(Span),
}

impl Node {
    fn new(parent: u32, level: &[u8]) -> Self {
        let level = Text::new(level);
        Self { parent, literals: 0, plus: None, here: None, tail: None, level }
    }

    fn leads_nowhere(&self) -> bool {
        self.literals == 0 && self.plus.is_none() && self.here.is_none() && self.tail.is_none()
    }
}

impl<T: Default> Entry<T> {
    fn new(filter: &[u8], parent: u32, level: Span) -> Self {
        Self { text: Text::new(filter), parent, level, value: T::default() }
    }
}

impl<T> Entry<T> {
    /// What follows the leaf's own level.
    fn rest(&self) -> &[u8] {
        self.level.rest(self.text.as_bytes())
    }
}

/// A topic's levels, each found and hashed once, when the walk first gets that deep.
///
/// Without it many nodes at one depth would each pay for the length of the topic's level.
struct Levels<'a> {
    state: &'a RandomState,
    found: SmallVec<[TopicLevel<'a>; 24]>,
    rest: Option<&'a [u8]>,
}

#[derive(Clone, Copy)]
struct TopicLevel<'a> {
    text: &'a [u8],
    /// What follows: nothing, or a slash and more levels.
    rest: &'a [u8],
    hash: u64,
}

impl<'a> Levels<'a> {
    fn new(topic: &'a [u8], state: &'a RandomState) -> Self {
        Self { state, found: SmallVec::new(), rest: Some(topic) }
    }

    /// The level at `depth`, which is at most one deeper than what was asked for before.
    fn at(&mut self, depth: usize) -> Option<TopicLevel<'a>> {
        if let Some(level) = self.found.get(depth) {
            return Some(*level);
        }
        let (text, rest) = self.rest?.split_at(level_length(self.rest?));
        self.rest = rest.get(1..);
        let level = TopicLevel { text, rest, hash: level_hash(self.state, text) };
        self.found.push(level);
        Some(level)
    }
}

fn level_hash(state: &RandomState, level: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write(level);
    hasher.finish()
}

/// The hash of an edge. The level's part is seeded and well spread, so the node only has to move it.
fn edge_hash(node: u32, level: u64) -> u32 {
    let mixed = (level ^ u64::from(node)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)) as u32
}

/// The table looks at the lowest and the highest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// Whether the rest of a filter matches the rest of a topic, both empty or starting at a slash.
fn rest_matches(mut filter: &[u8], mut topic: &[u8]) -> bool {
    loop {
        // `#` stands for the parent level too (4.7.1.2): `a/#` matches `a`.
        if filter == b"/#" {
            return true;
        }
        let (Some(wanted), Some(level)) = (filter.get(1..), topic.get(1..)) else {
            return filter.is_empty() && topic.is_empty();
        };
        let (wanted, wanted_rest) = wanted.split_at(level_length(wanted));
        let (level, level_rest) = level.split_at(level_length(level));
        if wanted != b"+" && wanted != level {
            return false;
        }
        (filter, topic) = (wanted_rest, level_rest);
    }
}

#[cfg(test)]
impl<T> Trie<T> {
    /// Nodes beside the root, and literal edges.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.nodes.len() - 1, self.literals.len())
    }
}
