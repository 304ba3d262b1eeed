//! Topic aliases of one connection, one table per direction. They never outlive it
//! `[MQTT-3.3.2-7]`.

use mqtt_codec::{AliasUse, ReasonCode, TopicAlias, TopicName};

use crate::ProtocolError;

/// What the client's aliases stand for.
#[derive(Debug, Default)]
pub(crate) struct InboundAliases {
    /// By alias minus one. Grows with the highest alias used.
    topics: Vec<Option<TopicName>>,
}

impl InboundAliases {
    /// The topic of a PUBLISH that has `alias`, which is remembered for `topic` if that is given.
    pub(crate) fn resolve(
        &mut self,
        topic: Option<TopicName>,
        alias: TopicAlias,
        maximum: u16,
    ) -> Result<TopicName, ProtocolError> {
        // [MQTT-3.3.2-9] [MQTT-3.2.2-18] And all up to the maximum are taken [MQTT-3.3.2-12].
        if alias.value() > maximum {
            return Err(ProtocolError::new(ReasonCode::TopicAliasInvalid, "MQTT-3.3.2-9"));
        }
        let at = usize::from(alias.value()) - 1;
        let known = self.topics.get(at).and_then(Option::as_ref);
        let Some(topic) = topic else {
            // An alias that stands for nothing is a protocol error, by the prose of 3.3.2.3.4.
            return known.cloned().ok_or_else(ProtocolError::misplaced);
        };
        if known != Some(&topic) {
            if self.topics.len() <= at {
                self.topics.resize(at + 1, None);
            }
            if let Some(slot) = self.topics.get_mut(at) {
                *slot = Some(topic.detached());
            }
        }
        Ok(topic)
    }
}

/// Shorter topics are not worth an alias: it takes three bytes itself.
const SHORTEST: usize = 8;
/// More aliases than this are not used: they are searched one by one.
const LARGEST: u16 = 64;
/// How many topics without alias pass before one of them may take the place of a topic that has
/// one. Keeps a stream of ever new topics from paying for aliases it does not use again.
const PATIENCE: u8 = 32;

/// The topics that have an alias towards the client.
#[derive(Debug)]
pub(crate) struct OutboundAliases {
    maximum: usize,
    /// The length and end of each topic, to find it without following pointers.
    marks: Vec<u64>,
    topics: Vec<AliasedTopic>,
    /// The next alias to be taken from its topic.
    hand: usize,
    misses: u8,
}

#[derive(Debug)]
struct AliasedTopic {
    text: String,
    /// Whether it was sent since the hand came by.
    used: bool,
}

impl OutboundAliases {
    /// A table of at most `maximum` aliases; `None` if that is none `[MQTT-3.1.2-27]`.
    pub(crate) fn new(maximum: u16) -> Option<Box<Self>> {
        (maximum > 0).then(|| {
            Box::new(Self {
                maximum: usize::from(maximum.min(LARGEST)),
                marks: Vec::new(),
                topics: Vec::new(),
                hand: 0,
                misses: 0,
            })
        })
    }

    /// The alias `topic` has.
    pub(crate) fn find(&mut self, topic: &TopicName) -> Option<TopicAlias> {
        let text = topic.as_str();
        let mark = mark(text)?;
        for (at, _) in self.marks.iter().enumerate().filter(|(_, known)| **known == mark) {
            if let Some(known) = self.topics.get_mut(at).filter(|known| known.text == text) {
                known.used = true;
                return alias(at);
            }
        }
        None
    }

    /// How to name `topic`, which has no alias: it may get one.
    pub(crate) fn assign(&mut self, topic: &TopicName) -> AliasUse {
        let text = topic.as_str();
        mark(text)
            .and_then(|mark| self.place(text, mark))
            .and_then(alias)
            .map_or(AliasUse::None, AliasUse::Set)
    }

    fn place(&mut self, text: &str, mark: u64) -> Option<usize> {
        if self.topics.len() < self.maximum {
            self.marks.push(mark);
            self.topics.push(AliasedTopic { text: text.to_owned(), used: true });
            return Some(self.topics.len() - 1);
        }
        self.misses += 1;
        if self.misses < PATIENCE {
            return None;
        }
        self.misses = 0;
        let at = self.hand;
        self.hand = (at + 1) % self.maximum;
        let known = self.topics.get_mut(at)?;
        if known.used {
            known.used = false;
            return None;
        }
        known.text.clear();
        known.text.push_str(text);
        known.used = true;
        *self.marks.get_mut(at)? = mark;
        Some(at)
    }
}

/// Length and last eight bytes of a topic that is worth an alias.
fn mark(topic: &str) -> Option<u64> {
    let end = topic.len().checked_sub(SHORTEST)?;
    let last = topic.as_bytes().get(end..)?.first_chunk()?;
    Some(u64::from_le_bytes(*last) ^ (topic.len() as u64).rotate_right(16))
}

fn alias(at: usize) -> Option<TopicAlias> {
    TopicAlias::new(u16::try_from(at + 1).ok()?)
}
