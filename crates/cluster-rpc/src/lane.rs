//! Hashes that all processes must agree on: the lane of a topic, the intermediate a lane prefers, the
//! origin a member is.

use mqtt_codec::TopicName;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::frame::{Lane, Member, NodeId, OriginId};

/// The lane of a topic: everything published to it keeps its order.
#[must_use]
pub fn lane_of(topic: &TopicName) -> Lane {
    // 256 lanes: the lowest byte is the hash modulo the number of lanes.
    Lane(xxh3_64(topic.as_str().as_bytes()).to_le_bytes()[0])
}

/// What the messages of `member` are known by at their receivers. Its name is in it: two proxies may
/// have started in the same microsecond.
#[must_use]
pub fn origin_of(member: &Member) -> OriginId {
    let mut hash = Xxh3Default::new();
    hash.update(member.node.as_str().as_bytes());
    hash.update(&member.incarnation.0.to_le_bytes());
    OriginId(hash.digest())
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
    fn proxies_that_started_in_the_same_microsecond_are_different_origins() {
        let origin = |node, incarnation| {
            let incarnation = crate::frame::Incarnation(incarnation);
            origin_of(&Member { node: NodeId::new(node).unwrap(), incarnation })
        };
        assert_ne!(origin("p", 7), origin("q", 7));
        assert_ne!(origin("p", 7), origin("p", 8));
        // Both sides compute it: it is part of the protocol.
        assert_eq!(origin("p", 7), OriginId(0xB213_CE6F_7E73_F345));
    }

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
