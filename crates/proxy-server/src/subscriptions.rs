//! Who of the clean sessions on this proxy wants what: the subscription index, and the routes that sum it up for
//! the intermediates. Subscriptions of persistent sessions, and shared ones, are in the store.
//!
//! Invariant: a filter is announced, with its highest QoS, exactly while a local session holds it.
//! Locks: the index lock and, after it is released, the routes lock; never both at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster_rpc::RouteSeq;
use cluster_rpc::frame::Route;
use mqtt_codec::{QoS, SubscriptionId, SubscriptionOptions, TopicFilter, TopicName};
use parking_lot::{Mutex, RwLock};
use topic_index::TopicIndex;

use crate::mailbox::Mailbox;

/// Identifies a session within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionKey(pub u64);

/// What a session holds for one filter.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// As the client asked for it.
    pub options: SubscriptionOptions,
    /// Sent along with what matches.
    pub id: Option<SubscriptionId>,
}

/// Who gets a matching message.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    /// Where to put it.
    pub mailbox: Arc<Mailbox>,
    /// How to deliver it.
    pub subscription: Subscription,
}

/// The subscriptions of all sessions of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    index: RwLock<TopicIndex<SessionKey, Subscriber>>,
    /// Changes with every change of the index, so that a cached match can be told from a stale one.
    generation: AtomicU64,
    routes: Mutex<HashMap<String, RouteCounts>>,
}

/// How many local subscriptions of each QoS a filter has, and the number of its newest announcement.
#[derive(Debug, Default)]
struct RouteCounts {
    by_qos: [u32; 3],
    announced: Option<RouteSeq>,
}

impl RouteCounts {
    fn highest(&self) -> Option<QoS> {
        [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce]
            .into_iter()
            .find(|&qos| self.by_qos[qos as usize] > 0)
    }
}

impl Subscriptions {
    /// The generation of the index: a match made under it holds until it changes.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds or replaces the subscription of `session` to `filter`.
    pub(crate) fn insert(
        &self,
        filter: &TopicFilter,
        session: SessionKey,
        mailbox: &Arc<Mailbox>,
        subscription: Subscription,
    ) {
        let subscriber = Subscriber { mailbox: Arc::clone(mailbox), subscription };
        self.index.write().insert(filter, session, subscriber);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes the subscription of `session` to `filter` away.
    pub(crate) fn remove(&self, filter: &TopicFilter, session: SessionKey) {
        self.index.write().remove(filter, &session);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Visits every subscriber of `topic`.
    pub(crate) fn matches(&self, topic: &TopicName, visit: impl FnMut(SessionKey, &Subscriber)) {
        self.index.read().matches(topic, visit);
    }

    /// Counts a new, changed or ended subscription of `filter`, and announces what changed by it.
    ///
    /// `announce` sends a route and gives its number. Returns the number that the intermediates must have
    /// applied before the subscription may be acknowledged.
    pub(crate) fn count_route(
        &self,
        filter: &TopicFilter,
        before: Option<QoS>,
        after: Option<QoS>,
        announce: impl FnOnce(Route) -> RouteSeq,
    ) -> Option<RouteSeq> {
        let mut routes = self.routes.lock();
        let counts = routes.entry(filter.as_str().to_owned()).or_default();
        let highest = counts.highest();
        if let Some(qos) = before {
            counts.by_qos[qos as usize] = counts.by_qos[qos as usize].saturating_sub(1);
        }
        if let Some(qos) = after {
            counts.by_qos[qos as usize] += 1;
        }
        let now = counts.highest();
        if now != highest {
            counts.announced = Some(announce(Route { filter: filter.clone(), qos: now }));
        }
        let announced = counts.announced;
        if now.is_none() {
            routes.remove(filter.as_str());
        }
        announced
    }

    /// Distinct filters of the index.
    #[must_use]
    pub(crate) fn filters(&self) -> usize {
        self.index.read().filters()
    }
}
