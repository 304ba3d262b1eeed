//! What has been taken from each origin: drops messages that come a second time.
//!
//! Invariant: of one (origin, lane) only growing numbers pass. An origin that re-sends, by whichever
//! intermediate, therefore repeats nothing and reorders nothing. The table is bounded: origins that
//! nobody has heard of for long are forgotten, and the longest unheard gives way when it is full.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};
use mqtt_codec::Message;

use crate::frame::{LANES, Lane, OriginId, Provenance};

/// How long an origin is remembered after it has left every intermediate's view.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Origins remembered at most: 2 KiB each.
const MAX_ORIGINS: usize = 4_096;

/// A message as it arrives at the endpoint it is for.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The life of the proxy it was published at.
    pub origin: OriginId,
    /// Hash of its topic.
    pub lane: Lane,
    /// Its number within (origin, lane).
    pub seq: u64,
    /// Who published it.
    pub provenance: Provenance,
    /// The message; its expiry interval is what was left when it was sent.
    pub message: Arc<Message>,
    /// Its number on the link.
    pub(crate) number: u64,
    /// Whether it may pass; [`Receiver::admit`] says it.
    pub(crate) new: bool,
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

    /// Takes what came before out of a batch, and returns it.
    pub(crate) fn admit(&mut self, batch: &mut Vec<Incoming>, now: Instant) -> Vec<Incoming> {
        let mut repeated = 0_usize;
        // A batch is mostly of one origin: it is looked up once.
        for run in batch.chunk_by_mut(|one, next| one.origin == next.origin) {
            let Some(first) = run.first() else { continue };
            let origin = self.origin(first.origin, now);
            for incoming in run {
                incoming.new = origin.take(incoming.lane, incoming.seq);
                repeated += usize::from(!incoming.new);
            }
        }
        if repeated == 0 {
            return Vec::new();
        }
        batch.extract_if(.., |incoming| !incoming.new).collect()
    }

    /// Whether this origin is remembered.
    pub(crate) fn remembers(&self, origin: OriginId) -> bool {
        self.origins.contains_key(&origin)
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

    fn origin(&mut self, id: OriginId, now: Instant) -> &mut Origin {
        if self.origins.len() >= MAX_ORIGINS && !self.origins.contains_key(&id) {
            self.make_room();
        }
        let origin = self.origins.entry(id).or_insert_with(|| Origin {
            last: Box::new([0; LANES]),
            heard: now,
            present: false,
        });
        origin.heard = now;
        origin
    }

    fn make_room(&mut self) {
        let longest = self.origins.iter().min_by_key(|(id, origin)| (origin.heard, **id));
        if let Some(id) = longest.map(|(&id, _)| id) {
            self.origins.remove(&id);
        }
    }
}

impl Origin {
    /// Whether the number is new.
    fn take(&mut self, lane: Lane, seq: u64) -> bool {
        let last = &mut self.last[usize::from(lane.0)];
        let new = seq > *last;
        *last = seq.max(*last);
        new
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
        Incoming {
            origin: OriginId(origin),
            lane: Lane(lane),
            seq,
            provenance: Provenance::default(),
            message: Arc::new(message),
            number: seq,
            new: true,
        }
    }

    fn admit(receiver: &mut Receiver, message: (u64, u8, u64), now: Instant) -> bool {
        let mut batch = vec![incoming(message.0, message.1, message.2)];
        let repeated = receiver.admit(&mut batch, now);
        assert_eq!(repeated.len() + batch.len(), 1);
        repeated.is_empty()
    }

    #[test]
    fn what_is_new_of_a_batch_passes_in_order() {
        let mut receiver = Receiver::new();
        let numbers = [(1, 0, 2), (1, 0, 1), (2, 0, 1), (1, 0, 3), (1, 1, 1), (1, 1, 1)];
        let mut batch = numbers.map(|(origin, lane, seq)| incoming(origin, lane, seq)).to_vec();
        assert_eq!(receiver.admit(&mut batch, Instant::now()).len(), 2);
        let passed: Vec<_> = batch.iter().map(|one| (one.origin.0, one.lane.0, one.seq)).collect();
        assert_eq!(passed, [(1, 0, 2), (2, 0, 1), (1, 0, 3), (1, 1, 1)]);
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
            assert_eq!(admit(&mut receiver, (origin, lane, seq), now), new, "{origin} {seq}");
        }
    }

    #[test]
    fn an_origin_is_forgotten_ten_minutes_after_it_left_all_views() {
        let start = Instant::now();
        let mut receiver = Receiver::new();
        assert!(admit(&mut receiver, (1, 0, 5), start));
        assert!(admit(&mut receiver, (2, 0, 5), start));
        receiver.forget(&[OriginId(1)], start);
        receiver.forget(&[], start + Duration::from_secs(500));
        receiver.forget(&[], start + Duration::from_secs(601));
        assert!(!admit(&mut receiver, (1, 0, 5), start), "still remembered");
        assert!(admit(&mut receiver, (2, 0, 5), start), "forgotten");
    }

    #[test]
    fn the_table_does_not_grow_without_end() {
        let start = Instant::now();
        let mut receiver = Receiver::new();
        for origin in 0..MAX_ORIGINS as u64 + 10 {
            let now = start + Duration::from_millis(origin);
            assert!(admit(&mut receiver, (origin, 0, 1), now));
        }
        assert_eq!(receiver.origins.len(), MAX_ORIGINS);
        assert!(!receiver.origins.contains_key(&OriginId(0)), "the oldest gave way");
    }
}
