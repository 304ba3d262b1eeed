//! What has been taken from each origin: drops messages that come a second time.
//!
//! Invariant: of one (origin, lane) only growing numbers pass. An origin that re-sends, by whichever
//! intermediate, therefore repeats nothing and reorders nothing. The table is bounded: origins that
//! nobody has heard of for long are forgotten, and the longest unheard gives way when it is full.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};
use mqtt_codec::Message;

use crate::frame::{LANES, Lane, OriginId};

/// How long an origin is remembered after it has left every intermediate's view.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Origins remembered at most: 2 KiB each.
const MAX_ORIGINS: usize = 4_096;

/// A message as it arrives at the proxy it is for.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) origin: OriginId,
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
    pub(crate) message: Arc<Message>,
}

/// A frame of the deliver stream, decoded for the receiving proxy.
#[derive(Debug)]
pub(crate) enum IncomingFrame {
    LinkOpen(u64),
    Batch {
        /// Number of the last message on the link.
        up_to: u64,
        messages: Vec<Incoming>,
    },
}

/// The last number taken from each lane of each origin.
#[derive(Debug)]
pub(crate) struct Receiver {
    origins: HashMap<OriginId, Origin>,
}

#[derive(Debug)]
struct Origin {
    last: Box<[u64; LANES]>,
    heard: Instant,
    /// Whether it was in a view when [`Receiver::forget`] was last told.
    present: bool,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { origins: HashMap::new() }
    }

    /// Whether a message is new. `now` may be as old as the batch it came in.
    pub(crate) fn admit(&mut self, incoming: &Incoming, now: Instant) -> bool {
        if !self.origins.contains_key(&incoming.origin) {
            self.make_room();
        }
        let origin = self.origins.entry(incoming.origin).or_insert_with(|| Origin {
            last: Box::new([0; LANES]),
            heard: now,
            present: false,
        });
        origin.heard = now;
        let last = &mut origin.last[usize::from(incoming.lane.0)];
        let new = incoming.seq > *last;
        *last = incoming.seq.max(*last);
        new
    }

    /// Forgets the origins that are in no view and were not heard of for long.
    pub(crate) fn forget(&mut self, present: &[OriginId], now: Instant) {
        self.origins.retain(|id, origin| {
            let was_present = origin.present;
            origin.present = present.contains(id);
            if was_present || origin.present {
                origin.heard = now;
            }
            now.saturating_duration_since(origin.heard) <= REMEMBERED
        });
    }

    fn make_room(&mut self) {
        if self.origins.len() < MAX_ORIGINS {
            return;
        }
        let longest = self.origins.iter().min_by_key(|(_, origin)| origin.heard);
        if let Some(id) = longest.map(|(&id, _)| id) {
            self.origins.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use mqtt_codec::{PublishProperties, QoS, TopicName};

    use super::*;

    fn incoming(origin: u64, lane: u8, seq: u64) -> Incoming {
        let message = Message {
            topic: TopicName::new("t").unwrap(),
            payload: bytes::Bytes::new(),
            qos: QoS::AtLeastOnce,
            retain: false,
            expiry_secs: None,
            properties: PublishProperties::default(),
        };
        Incoming { origin: OriginId(origin), lane: Lane(lane), seq, message: Arc::new(message) }
    }

    #[test]
    fn a_number_passes_once_per_origin_and_lane() {
        let now = Instant::now();
        let mut receiver = Receiver::new();
        let script = [
            (1, 0, 1, true),
            (1, 0, 3, true),
            (1, 0, 2, false),
            (1, 0, 3, false),
            (1, 1, 2, true),
            (2, 0, 2, true),
            (1, 0, 4, true),
        ];
        for (origin, lane, seq, new) in script {
            assert_eq!(receiver.admit(&incoming(origin, lane, seq), now), new, "{origin} {seq}");
        }
    }

    #[test]
    fn an_origin_is_forgotten_ten_minutes_after_it_left_all_views() {
        let start = Instant::now();
        let mut receiver = Receiver::new();
        assert!(receiver.admit(&incoming(1, 0, 5), start));
        assert!(receiver.admit(&incoming(2, 0, 5), start));
        receiver.forget(&[OriginId(1)], start);
        receiver.forget(&[], start + Duration::from_secs(500));
        receiver.forget(&[], start + Duration::from_secs(601));
        assert!(!receiver.admit(&incoming(1, 0, 5), start), "still remembered");
        assert!(receiver.admit(&incoming(2, 0, 5), start), "forgotten");
    }

    #[test]
    fn the_table_does_not_grow_without_end() {
        let start = Instant::now();
        let mut receiver = Receiver::new();
        for origin in 0..MAX_ORIGINS as u64 + 10 {
            let now = start + Duration::from_millis(origin);
            assert!(receiver.admit(&incoming(origin, 0, 1), now));
        }
        assert_eq!(receiver.origins.len(), MAX_ORIGINS);
        assert!(!receiver.origins.contains_key(&OriginId(0)), "the oldest gave way");
    }
}
