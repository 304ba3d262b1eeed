//! SUBSCRIBE and UNSUBSCRIBE: which filters the broker is asked about, and their answers put
//! back together, one reason per filter in the client's order `[MQTT-3.9.3-1]` `[MQTT-3.11.3-1]`.

use mqtt_codec::{
    PacketId, PacketType, ReasonCode, SubAck, Subscribe, SubscriptionOptions, TopicFilter,
    UnsubAck, Version,
};

use crate::ServerProfile;
use crate::event::PendingSubscribe;
use crate::version;

/// A SUBSCRIBE, sorted.
pub(crate) struct Sorted {
    /// May be granted.
    pub(crate) filters: Vec<(TopicFilter, SubscriptionOptions)>,
    /// May not.
    pub(crate) refused: Vec<(TopicFilter, ReasonCode)>,
    pub(crate) pending: PendingSubscribe,
}

/// Sorts out what this server does not offer, and lowers each QoS to what it does
/// `[MQTT-3.2.2-10]`.
pub(crate) fn sort(subscribe: Subscribe, profile: &ServerProfile) -> Sorted {
    let with_id = subscribe.subscription_id.is_some();
    let mut sorted = Sorted {
        filters: Vec::new(),
        refused: Vec::new(),
        pending: PendingSubscribe {
            packet_id: subscribe.packet_id,
            refusals: Vec::with_capacity(subscribe.filters.len()),
        },
    };
    // As many SUBSCRIBE packets in a row [MQTT-3.8.4-5].
    for (filter, mut options) in subscribe.filters {
        let refusal = if with_id && !profile.subscription_ids {
            Some(ReasonCode::SubscriptionIdentifiersNotSupported)
        } else {
            objection(&filter, profile)
        };
        sorted.pending.refusals.push(refusal);
        if let Some(reason) = refusal {
            sorted.refused.push((filter, reason));
        } else {
            options.qos = options.qos.min(profile.maximum_qos);
            sorted.filters.push((filter, options));
        }
    }
    sorted
}

/// The SUBACK for the broker's `answers` to the filters it was asked about `[MQTT-3.8.4-6]`.
pub(crate) fn suback(
    pending: PendingSubscribe,
    answers: Vec<ReasonCode>,
    version: Version,
) -> SubAck {
    let mut answers = answers.into_iter();
    let reasons = pending.refusals.into_iter().map(|refusal| {
        let reason = refusal.or_else(|| answers.next()).unwrap_or(ReasonCode::UnspecifiedError);
        if reason.is_error() {
            version::refuse_subscribe(version, reason)
        } else {
            version::fitting(reason, PacketType::SubAck) // [MQTT-3.8.4-7]
        }
    });
    SubAck {
        packet_id: pending.packet_id, // [MQTT-3.8.4-2]
        reasons: reasons.collect(),
        properties: None,
    }
}

/// The UNSUBACK for the broker's `answers` to as many `filters`.
pub(crate) fn unsuback(packet_id: PacketId, filters: u32, answers: Vec<ReasonCode>) -> UnsubAck {
    let missing = std::iter::repeat(ReasonCode::UnspecifiedError);
    let reasons = answers
        .into_iter()
        .map(|reason| version::fitting(reason, PacketType::UnsubAck))
        .chain(missing)
        .take(usize::try_from(filters).unwrap_or(usize::MAX));
    UnsubAck {
        packet_id, // [MQTT-3.10.4-5]
        reasons: reasons.collect(),
        properties: None,
    }
}

fn objection(filter: &TopicFilter, profile: &ServerProfile) -> Option<ReasonCode> {
    if !profile.takes_levels(filter.filter()) {
        Some(ReasonCode::TopicFilterInvalid)
    } else if filter.share_name().is_some() && !profile.shared_subscriptions {
        Some(ReasonCode::SharedSubscriptionsNotSupported)
    } else if filter.has_wildcards() && !profile.wildcard_subscriptions {
        Some(ReasonCode::WildcardSubscriptionsNotSupported)
    } else {
        None
    }
}
