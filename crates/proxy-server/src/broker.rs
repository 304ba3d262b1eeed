//! The policy centre of a proxy: what happens to a publish, a subscription and a session's end.
//!
//! Invariant: [`Broker::publish`] answers `Done` only when every local recipient has the message and no
//! intermediate needs to hear of it; otherwise the uplink answers later, through the publisher's mailbox. Nothing here waits.

use std::sync::Arc;
use std::time::Instant;

use cluster_rpc::frame::Provenance;
use cluster_rpc::{RouteSeq, Uplink, WindowFull};
use mqtt_codec::{Message, QoS, ReasonCode, SubscriptionId, SubscriptionOptions, TopicFilter};
use mqtt_session::{Ended, Resumed, ServerProfile, Session, Ticket};
use tokio::sync::Semaphore;

use crate::fanout::{FanoutCache, Handed};
use crate::mailbox::{Drained, Mailbox, QueueLimits};
use crate::metrics::{DropReason, Metrics, Tally};
use crate::retained::{RetainedLimits, RetainedStore};
use crate::sessions::{EndedSession, ParkedSession, SessionHandle, Sessions};
use crate::subscriptions::{SessionKey, Subscription, Subscriptions};
use crate::will;

/// Messages of clients that are gone that may wait for room in the uplink.
const LEFTOVERS: usize = 1024;

/// Limits that the broker itself enforces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokerLimits {
    /// Of the queue of a connected client.
    pub mailbox: QueueLimits,
    /// Of the queue of a persistent session without a connection.
    pub inbox: QueueLimits,
    /// Of retained messages.
    pub retained: RetainedLimits,
    /// Most sessions, with and without a connection.
    pub sessions: usize,
    /// Most subscriptions of one session.
    pub subscriptions_per_client: usize,
}

/// Where the answer to a publish goes.
#[derive(Debug)]
pub(crate) enum PublishTicket {
    /// To the connection that published it.
    Client {
        /// Its mailbox.
        mailbox: Arc<Mailbox>,
        /// Its ticket.
        ticket: Ticket,
    },
    /// To nobody: a will's publisher is gone.
    Will,
}

/// What became of a publish.
#[derive(Debug)]
pub(crate) enum Published {
    /// It is where it must be, or refused: the answer to give now.
    Done(Ticket, ReasonCode),
    /// The answer comes through the mailbox.
    Pending,
    /// The uplink has no room: offer it again, before anything else of this client.
    Stalled(Stalled),
}

/// A message as it came, with the moment it expires.
#[derive(Debug)]
pub(crate) struct Taken {
    message: Arc<Message>,
    expires_at: Option<Instant>,
}

/// A message that local recipients have and the uplink has not.
#[derive(Debug)]
pub(crate) struct Stalled {
    taken: Taken,
    ticket: PublishTicket,
}

impl Stalled {
    /// Gives up sending it: the ticket of its publisher, if there is one.
    pub(crate) fn into_ticket(self) -> Option<Ticket> {
        match self.ticket {
            PublishTicket::Client { ticket, .. } => Some(ticket),
            PublishTicket::Will => None,
        }
    }
}

impl Taken {
    fn new(message: Message, now: Instant) -> Self {
        let expires_at = expiry(&message, now);
        Self { message: Arc::new(message), expires_at }
    }

    /// A full store keeps the message from later subscribers, which is counted, and from nobody else.
    fn retain(&self, store: &RetainedStore, tally: &mut Tally) {
        if self.message.retain && store.retain(&self.message, self.expires_at).is_err() {
            tally.dropped(DropReason::RetainedFull);
        }
    }
}

/// One connection as a publisher: who it is, and what it matched last.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// The session.
    pub handle: Arc<SessionHandle>,
    /// Recipients of the topics it publishes to.
    pub cache: FanoutCache,
    /// What happened since the last wake-up.
    pub tally: Tally,
    /// Whether a recipient is close to its limit.
    pub crowded: bool,
}

/// The answer to a SUBSCRIBE, and what must happen before and after it is given.
#[derive(Debug, Default)]
pub(crate) struct Subscribed {
    /// One reason per filter, in order.
    pub reasons: Vec<ReasonCode>,
    /// The intermediates must have applied the routes up to this one.
    pub route: Option<RouteSeq>,
    /// Whose retained messages are owed.
    pub retained: Vec<RetainedRequest>,
}

/// A subscription that wants retained messages.
#[derive(Debug)]
pub(crate) struct RetainedRequest {
    /// Which topics.
    pub filter: TopicFilter,
    /// Highest QoS.
    pub qos: QoS,
    /// Sent along.
    pub subscription_id: Option<SubscriptionId>,
}

/// What all connections of one proxy share.
#[derive(Debug)]
pub(crate) struct Broker {
    /// Local subscriptions.
    pub subscriptions: Subscriptions,
    /// Sessions by client identifier.
    pub sessions: Sessions,
    /// Retained messages.
    pub retained: RetainedStore,
    /// The way to the intermediates; `None` in a proxy that stands alone.
    pub uplink: Option<Uplink<PublishTicket>>,
    /// One permit for each message of a client that is gone that waits for room in the uplink.
    pub leftovers: Arc<Semaphore>,
    /// Counters.
    pub metrics: Metrics,
    /// What this server offers to clients.
    pub profile: Arc<ServerProfile>,
    limits: BrokerLimits,
}

impl Broker {
    /// A broker without sessions.
    #[must_use]
    pub(crate) fn new(
        profile: ServerProfile,
        limits: BrokerLimits,
        uplink: Option<Uplink<PublishTicket>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            subscriptions: Subscriptions::default(),
            sessions: Sessions::new(limits.mailbox, limits.sessions),
            retained: RetainedStore::new(limits.retained),
            uplink,
            leftovers: Arc::new(Semaphore::new(LEFTOVERS)),
            metrics,
            profile: Arc::new(profile),
            limits,
        }
    }

    /// Limits of the queue of a session that outlives its connections.
    pub(crate) fn inbox_limits(&self) -> QueueLimits {
        self.limits.inbox
    }

    /// Takes a message from a client: retains it, hands it to local recipients, and to the uplink.
    pub(crate) fn publish(
        &self,
        publisher: &mut Publisher,
        message: Message,
        ticket: Ticket,
        now: Instant,
    ) -> Published {
        let Publisher { handle, cache, tally, crowded } = publisher;
        tally.received(message.qos);
        let taken = Taken::new(message, now);
        taken.retain(&self.retained, tally);
        let fanout = cache.recipients(&self.subscriptions, &taken.message.topic);
        let handed = fanout.deliver(&taken.message, taken.expires_at, tally);
        *crowded |= handed.crowded;
        match &self.uplink {
            None => Published::Done(ticket, verdict(handed)),
            Some(uplink) if taken.message.qos == QoS::AtMostOnce => {
                relay_once(uplink, &taken);
                Published::Done(ticket, ReasonCode::Success)
            }
            Some(_) => {
                let mailbox = Arc::clone(&handle.mailbox);
                let ticket = PublishTicket::Client { mailbox, ticket };
                match self.relay(Stalled { taken, ticket }) {
                    Ok(()) => Published::Pending,
                    Err(stalled) => Published::Stalled(stalled),
                }
            }
        }
    }

    /// Offers a message to the uplink, the first time or again. It comes back when there is no room.
    pub(crate) fn relay(&self, stalled: Stalled) -> Result<(), Stalled> {
        let Some(uplink) = &self.uplink else {
            return Ok(());
        };
        let Stalled { taken, ticket } = stalled;
        if taken.message.qos == QoS::AtMostOnce {
            relay_once(uplink, &taken);
            return Ok(());
        }
        match uplink.publish(&taken.message, taken.expires_at, Provenance::default(), Some(ticket)) {
            Err(WindowFull { ticket: Some(ticket) }) => Err(Stalled { taken, ticket }),
            Ok(()) | Err(WindowFull { ticket: None }) => Ok(()),
        }
    }

    /// Publishes the will of a client that is gone; `of` is its session, which may be subscribed
    /// with No Local. What comes back waits for room.
    pub(crate) fn publish_will(&self, message: Message, of: SessionKey) -> Result<(), Stalled> {
        let taken = Taken::new(message, Instant::now());
        let mut tally = Tally::default();
        taken.retain(&self.retained, &mut tally);
        let mut cache = FanoutCache::new(Some(of), 0);
        let fanout = cache.recipients(&self.subscriptions, &taken.message.topic);
        fanout.deliver(&taken.message, taken.expires_at, &mut tally);
        tally.flush(&self.metrics);
        self.relay(Stalled { taken, ticket: PublishTicket::Will })
    }

    /// Takes a message from the cluster to local recipients.
    pub(crate) fn deliver(
        &self,
        message: &Arc<Message>,
        now: Instant,
        cache: &mut FanoutCache,
        tally: &mut Tally,
    ) -> Handed {
        let expires_at = expiry(message, now);
        let taken = Taken { message: Arc::clone(message), expires_at };
        taken.retain(&self.retained, tally);
        let fanout = cache.recipients(&self.subscriptions, &message.topic);
        fanout.deliver(message, expires_at, tally)
    }

    /// Adds subscriptions to a session, one answer for each.
    pub(crate) fn subscribe(
        &self,
        handle: &SessionHandle,
        filters: Vec<(TopicFilter, SubscriptionOptions)>,
        id: Option<SubscriptionId>,
    ) -> Subscribed {
        let mut subscribed = Subscribed::default();
        for (filter, options) in filters {
            let reason =
                self.subscribe_one(handle, filter, Subscription { options, id }, &mut subscribed);
            subscribed.reasons.push(reason);
        }
        subscribed
    }

    fn subscribe_one(
        &self,
        handle: &SessionHandle,
        filter: TopicFilter,
        subscription: Subscription,
        subscribed: &mut Subscribed,
    ) -> ReasonCode {
        let options = subscription.options;
        let filter = filter.detached();
        let before = {
            let mut held = handle.subscriptions.lock();
            let is_new = !held.contains_key(&filter);
            if is_new && held.len() >= self.limits.subscriptions_per_client {
                return ReasonCode::QuotaExceeded;
            }
            held.insert(filter.clone(), subscription.clone()).map(|old| old.options.qos)
        };
        let wanted = match options.retain_handling {
            mqtt_codec::RetainHandling::Send => true,
            mqtt_codec::RetainHandling::SendIfNew => before.is_none(),
            mqtt_codec::RetainHandling::DoNotSend => false,
        };
        // [MQTT-3.8.4-4] [MQTT-3.3.1-9..11]; shared subscriptions get none when they are made.
        if wanted && filter.share_name().is_none() {
            let request = RetainedRequest {
                filter: filter.clone(),
                qos: options.qos,
                subscription_id: subscription.id,
            };
            subscribed.retained.push(request);
        }
        self.subscriptions.insert(&filter, handle.key, &handle.mailbox, subscription);
        let route = self.count_route(&filter, before, Some(options.qos));
        subscribed.route = subscribed.route.max(route);
        granted(options.qos)
    }

    /// Takes subscriptions away from a session, one answer for each.
    pub(crate) fn unsubscribe(
        &self,
        handle: &SessionHandle,
        filters: &[TopicFilter],
    ) -> Vec<ReasonCode> {
        let remove = |filter: &TopicFilter| {
            let removed = handle.subscriptions.lock().remove(filter);
            match removed {
                None => ReasonCode::NoSubscriptionExisted,
                Some(subscription) => {
                    self.subscriptions.remove(filter, handle.key);
                    self.count_route(filter, Some(subscription.options.qos), None);
                    ReasonCode::Success
                }
            }
        };
        filters.iter().map(remove).collect()
    }

    fn count_route(
        &self,
        filter: &TopicFilter,
        before: Option<QoS>,
        after: Option<QoS>,
    ) -> Option<RouteSeq> {
        let uplink = self.uplink.as_ref()?;
        let announce = |route| uplink.announce(route);
        self.subscriptions.count_route(filter, before, after, announce)
    }

    /// The connection of a session ended: ends the session too, or parks it; deals with the will.
    pub(crate) fn close(
        self: &Arc<Self>,
        handle: Arc<SessionHandle>,
        ended: Ended,
        unread: Drained,
    ) {
        if ended.session_expiry_secs == 0 {
            let lost = unread.deliveries.iter().filter(|unread| unread.qos != QoS::AtMostOnce);
            self.metrics.count_dropped(DropReason::SessionEnded, lost.count());
            self.sessions.remove(&handle);
            self.end_session(EndedSession { handle, will: ended.will.map(|will| will.message) });
            return;
        }
        let dropped = handle.mailbox.park(self.limits.inbox, unread.deliveries);
        self.metrics.count_dropped(DropReason::ClientAway, dropped);
        let (now_due, later) = match ended.will {
            Some(will) if will.delay_secs == 0 => (Some(will.message), None),
            Some(will) => (None, Some(will)),
            None => (None, None),
        };
        let will_delay = later.as_ref().map(|will| will.delay_secs);
        let timer = will::session_timer(self, &handle, will_delay, ended.session_expiry_secs);
        let will = later.map(|will| will.message);
        let key = handle.key;
        self.sessions.park(ParkedSession {
            handle,
            session: Session::Resumed(Resumed::default()),
            will,
            _timer: timer,
        });
        if let Some(message) = now_due {
            will::publish(self, message, key);
        }
    }

    /// A session is over: its subscriptions and its queue go, and its will is published.
    pub(crate) fn end_session(self: &Arc<Self>, ended: EndedSession) {
        let EndedSession { handle, will } = ended;
        let lost = handle.mailbox.close();
        self.metrics.count_dropped(DropReason::SessionEnded, lost);
        let held = std::mem::take(&mut *handle.subscriptions.lock());
        for (filter, subscription) in held {
            self.subscriptions.remove(&filter, handle.key);
            self.count_route(&filter, Some(subscription.options.qos), None);
        }
        if let Some(message) = will {
            will::publish(self, message, handle.key);
        }
    }
}

/// QoS 0 takes no ticket: the uplink may drop it, and counts that.
fn relay_once(uplink: &Uplink<PublishTicket>, taken: &Taken) {
    drop(uplink.publish(&taken.message, taken.expires_at, Provenance::default(), None));
}

fn expiry(message: &Message, now: Instant) -> Option<Instant> {
    let secs = message.expiry_secs?;
    now.checked_add(std::time::Duration::from_secs(u64::from(secs)))
}

fn verdict(handed: Handed) -> ReasonCode {
    if handed.matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers }
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}

#[cfg(test)]
mod tests;
