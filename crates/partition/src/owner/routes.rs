//! Which partitions a message concerns, and what all of them together want.
//!
//! Invariant: a filter is here while somebody in some partition wants it, with how many want it at each QoS.

use mqtt_codec::{QoS, TopicFilter, TopicName};
use topic_index::TopicIndex;

use crate::changes::RouteChange;
use crate::effect::Effect;
use crate::id::PartitionId;

/// Filters, by partition.
#[derive(Debug, Default)]
pub(super) struct Routes {
    index: TopicIndex<u16, Wanted>,
}

/// How many want a filter at each QoS.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted([u32; 3]);

impl Wanted {
    fn qos(self) -> Option<QoS> {
        let levels = [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce];
        levels.into_iter().find(|qos| self.0[*qos as usize] > 0)
    }
}

impl Routes {
    /// One more of a partition wants this, when a store is opened.
    pub(super) fn load(&mut self, partition: PartitionId, filter: TopicFilter, qos: QoS) {
        self.apply(&RouteChange { partition, filter, qos, count: 1 });
    }

    /// Counts. The effect, if all together want something else now.
    pub(super) fn apply(&mut self, change: &RouteChange) -> Option<Effect> {
        let RouteChange { partition, filter, qos, count } = change;
        let before = self.qos(filter);
        let known = self.index.lookup(filter).find(|(key, _)| *key == partition.0);
        let mut wanted = known.map_or_else(Wanted::default, |(_, wanted)| *wanted);
        let counter = &mut wanted.0[*qos as usize];
        *counter = counter.saturating_add_signed(*count);
        if wanted.qos().is_some() {
            self.index.insert(filter, partition.0, wanted);
        } else {
            self.index.remove(filter, &partition.0);
        }
        let qos = self.qos(filter);
        (qos != before).then(|| Effect::Route { filter: filter.clone(), qos })
    }

    /// What all together want of a filter.
    fn qos(&self, filter: &TopicFilter) -> Option<QoS> {
        self.index.lookup(filter).filter_map(|(_, wanted)| wanted.qos()).max()
    }

    /// Every filter that somebody wants.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TopicFilter, QoS)> {
        let mut all: Vec<(&str, QoS)> =
            self.index.iter().filter_map(|(text, _, wanted)| Some((text, wanted.qos()?))).collect();
        all.sort_unstable_by(|left, right| left.0.cmp(right.0).then(right.1.cmp(&left.1)));
        all.dedup_by_key(|(text, _)| *text);
        all.into_iter().map(|(text, qos)| {
            (TopicFilter::new(text.to_owned()).expect("only filters are put in"), qos)
        })
    }

    /// The partitions in which somebody wants a topic, in order.
    pub(super) fn matches(&self, topic: &TopicName, partitions: &mut Vec<u16>) {
        partitions.clear();
        self.index.matches(topic, |partition, _| partitions.push(partition));
        if partitions.len() > 1 {
            partitions.sort_unstable();
            partitions.dedup();
        }
    }
}
