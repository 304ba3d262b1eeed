//! Who on this proxy wants what: the subscription index, the shared groups, and the routes that
//! sum them up for the intermediates.
//!
//! Invariant: a filter is announced, with its highest QoS, exactly while a local session holds it.
//! Locks: the index lock and, after it is released, the routes lock; never both at once. A group's turn is taken
//! under the index lock, so that a group without members cannot be joined while it is removed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster_rpc::RouteSeq;
use cluster_rpc::frame::Route;
use mqtt_codec::{QoS, SubscriptionId, SubscriptionOptions, TopicFilter, TopicName};
use parking_lot::{Mutex, RwLock};
use topic_index::TopicIndex;

use crate::group::{Group, Member};
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
pub(crate) enum Subscriber {
    /// This session.
    Session {
        /// Where to put it.
        mailbox: Arc<Mailbox>,
        /// How to deliver it.
        subscription: Subscription,
    },
    /// One member of this group.
    Group(Arc<Group>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Session(SessionKey),
    Group(u64),
}

/// The subscriptions of all sessions of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    index: RwLock<Index>,
    /// Changes with every change of the index, so that a cached match can be told from a stale one.
    generation: AtomicU64,
    routes: Mutex<HashMap<String, RouteCounts>>,
}

#[derive(Debug, Default)]
struct Index {
    filters: TopicIndex<Key, Subscriber>,
    groups: HashMap<String, Arc<Group>>,
    next_group: u64,
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
        let mut index = self.index.write();
        if filter.share_name().is_some() {
            let group = index.group(filter);
            group.join(Member { session, mailbox: Arc::clone(mailbox), subscription });
        } else {
            let subscriber = Subscriber::Session { mailbox: Arc::clone(mailbox), subscription };
            index.filters.insert(filter, Key::Session(session), subscriber);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes the subscription of `session` to `filter` away.
    pub(crate) fn remove(&self, filter: &TopicFilter, session: SessionKey) {
        let mut index = self.index.write();
        if filter.share_name().is_some() {
            index.leave_group(filter, session);
        } else {
            index.filters.remove(filter, &Key::Session(session));
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Visits every subscriber of `topic`; the key is `None` for a group.
    pub(crate) fn matches(
        &self,
        topic: &TopicName,
        mut visit: impl FnMut(Option<SessionKey>, &Subscriber),
    ) {
        self.index.read().filters.matches(topic, |key, subscriber| match key {
            Key::Session(session) => visit(Some(session), subscriber),
            Key::Group(_) => visit(None, subscriber),
        });
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
        let counts = routes.entry(filter.filter().to_owned()).or_default();
        let highest = counts.highest();
        if let Some(qos) = before {
            counts.by_qos[qos as usize] = counts.by_qos[qos as usize].saturating_sub(1);
        }
        if let Some(qos) = after {
            counts.by_qos[qos as usize] += 1;
        }
        let now = counts.highest();
        if now != highest {
            let filter =
                TopicFilter::new(filter.filter()).expect("a valid filter without its share");
            counts.announced = Some(announce(Route { filter, qos: now }));
        }
        let announced = counts.announced;
        if now.is_none() {
            routes.remove(filter.filter());
        }
        announced
    }

    /// Distinct filters of the index.
    #[must_use]
    pub(crate) fn filters(&self) -> usize {
        self.index.read().filters.filters()
    }
}

impl Index {
    fn group(&mut self, filter: &TopicFilter) -> Arc<Group> {
        if let Some(group) = self.groups.get(filter.as_str()) {
            return Arc::clone(group);
        }
        self.next_group += 1;
        let group = Arc::new(Group::new(self.next_group));
        self.groups.insert(filter.as_str().to_owned(), Arc::clone(&group));
        let subscriber = Subscriber::Group(Arc::clone(&group));
        self.filters.insert(filter, Key::Group(self.next_group), subscriber);
        group
    }

    fn leave_group(&mut self, filter: &TopicFilter, session: SessionKey) {
        let Some(group) = self.groups.get(filter.as_str()) else {
            return;
        };
        if group.leave(session) == crate::group::Members::None {
            self.filters.remove(filter, &Key::Group(group.number()));
            self.groups.remove(filter.as_str());
        }
    }
}
