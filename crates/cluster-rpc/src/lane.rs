//! Which lane a topic belongs to, and which intermediate a lane prefers.

use mqtt_codec::TopicName;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::frame::{Lane, NodeId};

/// The lane of a topic: everything published to it keeps its order.
#[must_use]
pub fn lane_of(topic: &TopicName) -> Lane {
    // 256 lanes: the lowest byte is the hash modulo the number of lanes.
    Lane(xxh3_64(topic.as_str().as_bytes()).to_le_bytes()[0])
}

/// How much `lane` likes `node`: the highest carries it (rendezvous hashing), so that every origin
/// chooses alike and a change of nodes moves only the lanes it must.
#[must_use]
pub(crate) fn preference(lane: Lane, node: &NodeId) -> u64 {
    let mut hash = Xxh3Default::new();
    hash.update(&[lane.0]);
    hash.update(node.as_str().as_bytes());
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::LANES;

    #[test]
    fn topics_spread_over_all_lanes() {
        let mut seen = [false; LANES];
        for n in 0..10_000 {
            let lane = lane_of(&TopicName::new(format!("sensor/{n}")).unwrap());
            seen[usize::from(lane.0)] = true;
        }
        assert!(seen.iter().all(|&seen| seen));
    }

    #[test]
    fn nodes_share_the_lanes_about_evenly() {
        let nodes = ["a", "b", "c"].map(|id| NodeId::new(id).unwrap());
        let mut share = [0; 3];
        for lane in 0..=u8::MAX {
            let best = (0..3).max_by_key(|&n| preference(Lane(lane), &nodes[n])).unwrap();
            share[best] += 1;
        }
        assert!(share.iter().all(|&lanes| lanes > 50), "{share:?}");
    }
}
