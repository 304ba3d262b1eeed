//! The policy centre of a proxy: what happens to a publish, a subscription and a connection's end.
//!
//! Invariant: a publish above QoS 0 is answered by the uplink alone, when every session in the cluster that it is for
//! has it; local clean sessions have it before the uplink gets it. Nothing here waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_rpc::frame::{AttachCall, Incarnation, Provenance, SessionFarewell};
use cluster_rpc::{NotTaken, RouteSeq, Uplink};
use mqtt_codec::{Message, QoS, ReasonCode, SubscriptionId, SubscriptionOptions, TopicFilter};
use mqtt_session::{CloseReason, Ended, ServerProfile, Ticket};
use tokio::sync::Semaphore;

use crate::fanout::FanoutCache;
use crate::mailbox::{Drained, Mailbox, QueueLimits, is_lost};
use crate::metrics::{DropReason, Metrics, Tally};
use crate::once::{NewKeys, OnceKeys};
use crate::sessions::{SessionHandle, Sessions};
use crate::store::{AttachAnswer, Attachment, Store};
use crate::subscriptions::{Subscription, Subscriptions};

/// Messages of clients that are gone that may wait for room in the uplink.
const LEFTOVERS: usize = 1024;

/// Topics whose recipients a connection remembers beside the newest.
const REMEMBERED_TOPICS: usize = 16;

/// Limits that the broker itself enforces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokerLimits {
    /// Of the queue of a client.
    pub mailbox: QueueLimits,
    /// Most subscriptions of one clean session, beside shared ones.
    pub subscriptions_per_client: usize,
    /// How long a CONNECT waits for the store.
    pub attach_timeout: Duration,
}

/// Where the answer to a publish goes.
#[derive(Debug)]
pub(crate) struct PublishTicket {
    /// The mailbox of the connection that published it.
    pub mailbox: Arc<Mailbox>,
    /// Its ticket.
    pub ticket: Ticket,
}

/// What became of a publish.
#[derive(Debug)]
pub(crate) enum Published {
    /// It is where it must be: the answer to give now.
    Done(Ticket, ReasonCode),
    /// The answer comes through the mailbox.
    Pending,
    /// The uplink has no room: offer it again, before anything else of this client.
    Stalled(Stalled),
    /// This proxy was declared dead since the client connected, and what it had sent before may be lost. Its connection
    /// must end, so that it sends that again before anything newer.
    EarlierLife,
}

/// A message as a client gave it.
#[derive(Debug)]
pub(crate) struct Publication {
    /// The message.
    pub message: Message,
    /// Makes it one message, whatever connections it comes over.
    pub once: Option<u128>,
    /// For the answer.
    pub ticket: Ticket,
}

/// A message that local recipients have and the uplink has not.
#[derive(Debug)]
pub(crate) struct Stalled {
    life: Incarnation,
    message: Arc<Message>,
    expires_at: Option<Instant>,
    provenance: Provenance,
    ticket: PublishTicket,
}

impl Stalled {
    /// Gives up sending it: the ticket of its publisher.
    pub(crate) fn into_ticket(self) -> Ticket {
        self.ticket.ticket
    }
}

/// One connection as a publisher: who it is, and what it matched last.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// Its place in this proxy.
    pub handle: Arc<SessionHandle>,
    /// XXH3-64 of its client identifier.
    pub hash: u64,
    /// The life of this proxy in which it connected.
    pub life: Incarnation,
    /// Recipients of the topics it publishes to; most connections never do.
    pub cache: Option<Box<FanoutCache>>,
    /// What happened since the last wake-up.
    pub tally: Tally,
    /// Whether a recipient is close to its limit.
    pub crowded: bool,
}

/// A connection with its place in this proxy and in the store.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Here.
    pub handle: Arc<SessionHandle>,
    /// In the store.
    pub attachment: Arc<Attachment>,
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
    /// Connections by client identifier.
    pub sessions: Sessions,
    /// Sessions, groups, retained messages and wills.
    pub store: Arc<Store>,
    /// The way to the intermediates.
    pub uplink: Uplink<PublishTicket>,
    /// Messages that may come by several ways.
    pub once: OnceKeys,
    /// One permit for each message of a client that is gone that waits for room in the uplink.
    pub leftovers: Arc<Semaphore>,
    /// Counters.
    pub metrics: Metrics,
    /// Keys for messages of kept sessions.
    pub keys: NewKeys,
    /// What this server offers to clients.
    pub profile: Arc<ServerProfile>,
    limits: BrokerLimits,
}

impl Broker {
    /// A broker without connections.
    #[must_use]
    pub(crate) fn new(
        profile: ServerProfile,
        limits: BrokerLimits,
        (uplink, store): (Uplink<PublishTicket>, Arc<Store>),
        metrics: Metrics,
    ) -> Self {
        Self {
            keys: NewKeys::new(uplink.machine().random()),
            subscriptions: Subscriptions::default(),
            sessions: Sessions::new(limits.mailbox),
            store,
            uplink,
            once: OnceKeys::default(),
            leftovers: Arc::new(Semaphore::new(LEFTOVERS)),
            metrics,
            profile: Arc::new(profile),
            limits,
        }
    }

    /// How long a CONNECT waits for the store.
    pub(crate) fn attach_timeout(&self) -> Duration {
        self.limits.attach_timeout
    }

    /// Asks the store for the session of a connection.
    pub(crate) fn attach(
        &self,
        handle: Arc<SessionHandle>,
        call: AttachCall,
    ) -> (Client, AttachAnswer) {
        let (attachment, answer) = self.store.attach(call, &handle.mailbox);
        (Client { handle, attachment }, answer)
    }

    /// Takes a message from a client: hands it to local recipients and to the uplink.
    pub(crate) fn publish(
        &self,
        publisher: &mut Publisher,
        publication: Publication,
        now: Instant,
    ) -> Published {
        let Publication { message, once, ticket } = publication;
        let Publisher { handle, hash, life, cache, tally, crowded } = publisher;
        if *life != self.uplink.life() {
            return Published::EarlierLife;
        }
        tally.received(message.qos);
        let expires_at = expiry(&message, now);
        let message = Arc::new(message);
        if once.is_none_or(|key| self.once.is_first(key, now)) {
            let make_cache = || Box::new(FanoutCache::new(Some(handle.key), REMEMBERED_TOPICS));
            let cache = cache.get_or_insert_with(make_cache);
            let fanout = cache.recipients(&self.subscriptions, &message.topic);
            *crowded |= fanout.deliver(&message, expires_at, tally);
        }
        let provenance = Provenance { publisher: *hash, once };
        if message.qos == QoS::AtMostOnce {
            // It takes no ticket: the uplink may drop it, and counts that.
            return match self.uplink.publish(*life, &message, expires_at, provenance, None) {
                Ok(()) | Err(NotTaken::WindowFull { .. }) => {
                    Published::Done(ticket, ReasonCode::Success)
                }
                Err(NotTaken::EarlierLife) => self.dropped_with_its_life(),
            };
        }
        let ticket = PublishTicket { mailbox: Arc::clone(&handle.mailbox), ticket };
        self.relay(Stalled { life: *life, message, expires_at, provenance, ticket })
    }

    /// Offers a message of QoS >= 1 to the uplink, the first time or again.
    pub(crate) fn relay(&self, stalled: Stalled) -> Published {
        let Stalled { life, message, expires_at, provenance, ticket } = stalled;
        match self.uplink.publish(life, &message, expires_at, provenance, Some(ticket)) {
            Err(NotTaken::WindowFull { ticket: Some(ticket) }) => {
                Published::Stalled(Stalled { life, message, expires_at, provenance, ticket })
            }
            Ok(()) | Err(NotTaken::WindowFull { ticket: None }) => Published::Pending,
            Err(NotTaken::EarlierLife) => self.dropped_with_its_life(),
        }
    }

    /// A message that local recipients have and the cluster does not get.
    fn dropped_with_its_life(&self) -> Published {
        self.metrics.count_dropped(DropReason::UplinkFull, 1);
        Published::EarlierLife
    }

    /// Takes a message from the cluster to local recipients; `true` when one of these is getting full.
    pub(crate) fn deliver(
        &self,
        (message, once): (&Arc<Message>, Option<u128>),
        now: Instant,
        cache: &mut FanoutCache,
        tally: &mut Tally,
    ) -> bool {
        if once.is_some_and(|key| !self.once.is_first(key, now)) {
            return false;
        }
        let fanout = cache.recipients(&self.subscriptions, &message.topic);
        fanout.deliver(message, expiry(message, now), tally)
    }

    /// Adds subscriptions to a clean session, one answer for each.
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
        // [MQTT-3.8.4-4] [MQTT-3.3.1-9..11]
        let wanted = match options.retain_handling {
            mqtt_codec::RetainHandling::Send => true,
            mqtt_codec::RetainHandling::SendIfNew => before.is_none(),
            mqtt_codec::RetainHandling::DoNotSend => false,
        };
        if wanted && self.profile.retain_available {
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

    /// Takes subscriptions away from a clean session, one answer for each.
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
        let announce = |route| self.uplink.announce(route);
        self.subscriptions.count_route(filter, before, after, announce)
    }

    /// A connection ended, as `ended` says: counts what was not sent, and ends its session here.
    pub(crate) fn close(&self, client: &Client, ended: &Ended, unread: &Drained) {
        let lost = unread.deliveries.iter().filter(|delivery| is_lost(delivery));
        self.metrics.count_dropped(DropReason::SessionEnded, lost.count());
        let farewell = if ended.reason.is_clean() {
            SessionFarewell::Clean
        } else if ended.reason == CloseReason::Server(ReasonCode::ServerShuttingDown) {
            SessionFarewell::ProxyStops
        } else {
            SessionFarewell::Abnormal
        };
        self.end(client, farewell, ended.session_expiry_secs);
    }

    /// Ends a connection here, tells the store, and gives the client identifier back.
    pub(crate) fn end(&self, client: &Client, farewell: SessionFarewell, expiry_secs: u32) {
        let Client { handle, attachment } = client;
        let lost = handle.mailbox.close();
        self.metrics.count_dropped(DropReason::SessionEnded, lost);
        let held = std::mem::take(&mut *handle.subscriptions.lock());
        for (filter, subscription) in held {
            self.subscriptions.remove(&filter, handle.key);
            self.count_route(&filter, Some(subscription.options.qos), None);
        }
        // The store hears of this end before it hears of the next connection of this client.
        self.store.close(attachment, farewell, expiry_secs);
        self.sessions.remove(handle);
    }
}

fn expiry(message: &Message, now: Instant) -> Option<Instant> {
    let secs = message.expiry_secs?;
    now.checked_add(Duration::from_secs(u64::from(secs)))
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
