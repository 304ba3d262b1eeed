//! Messages this endpoint has refused, so that a repetition is refused again.
//!
//! An origin that did not hear of the refusal - a stream broke, or a relay died with it - sends the message
//! again, and the receiver drops it as a repetition. Acknowledging it then would tell its publisher that it was
//! taken. So each refusal is kept until its origin is forgotten, or [`MAX_PER_ORIGIN`] later ones of
//! the same origin have come: several times what an origin can have on its way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::HashMap;
use mqtt_codec::ReasonCode;
use parking_lot::Mutex;

use crate::frame::{Lane, OriginId};

/// Refusals remembered of one origin: four of its default windows.
const MAX_PER_ORIGIN: usize = 65_536;

/// A message by the place its origin gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) origin: OriginId,
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
}

/// What was refused, by origin.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Whether there is anything: mostly there is not.
    any: AtomicBool,
    origins: Mutex<HashMap<OriginId, Refused>>,
}

#[derive(Debug, Default)]
struct Refused {
    reasons: HashMap<(Lane, u64), ReasonCode>,
    order: VecDeque<(Lane, u64)>,
}

impl Refusals {
    pub(crate) fn insert(&self, place: Place, reason: ReasonCode) {
        let mut origins = self.origins.lock();
        let refused = origins.entry(place.origin).or_default();
        let key = (place.lane, place.seq);
        if refused.reasons.insert(key, reason).is_none() {
            refused.order.push_back(key);
        }
        if refused.order.len() > MAX_PER_ORIGIN
            && let Some(oldest) = refused.order.pop_front()
        {
            refused.reasons.remove(&oldest);
        }
        self.any.store(true, Ordering::Release);
    }

    /// Why a message was refused, if it was.
    pub(crate) fn reason(&self, place: Place) -> Option<ReasonCode> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let origins = self.origins.lock();
        origins.get(&place.origin)?.reasons.get(&(place.lane, place.seq)).copied()
    }

    /// Keeps those of the origins that are `known`.
    pub(crate) fn forget(&self, known: impl Fn(OriginId) -> bool) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut origins = self.origins.lock();
        origins.retain(|&origin, _| known(origin));
        self.any.store(!origins.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(origin: u64, seq: u64) -> Place {
        Place { origin: OriginId(origin), lane: Lane(1), seq }
    }

    const FULL: ReasonCode = ReasonCode::QuotaExceeded;

    #[test]
    fn a_refusal_is_known_until_its_origin_is_forgotten() {
        let refusals = Refusals::default();
        assert_eq!(refusals.reason(place(1, 5)), None);
        refusals.insert(place(1, 5), FULL);
        refusals.insert(place(2, 5), ReasonCode::UnspecifiedError);
        refusals.forget(|origin| origin == OriginId(1));
        assert_eq!(refusals.reason(place(1, 5)), Some(FULL));
        assert_eq!(refusals.reason(place(1, 6)), None);
        assert_eq!(refusals.reason(place(2, 5)), None);
        refusals.forget(|_| false);
        assert_eq!(refusals.reason(place(1, 5)), None);
    }

    #[test]
    fn the_oldest_of_too_many_give_way() {
        let refusals = Refusals::default();
        let last = MAX_PER_ORIGIN as u64 + 1;
        for seq in 1..=last {
            refusals.insert(place(1, seq), FULL);
        }
        assert_eq!(refusals.reason(place(1, 1)), None);
        assert_eq!(refusals.reason(place(1, 2)), Some(FULL));
        assert_eq!(refusals.reason(place(1, last)), Some(FULL));
    }
}
