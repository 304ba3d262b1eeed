//! An owner over rows in memory, with the moves that most tests make.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{
    ClientId, Message, PublishProperties, QoS, ReasonCode, SubscriptionId, SubscriptionOptions,
    TopicFilter, TopicName, Will,
};
use partition::{
    Acknowledge, Attach, Attached, ClientHash, Command, Delivery, Detach, Effect, Farewell, Holder,
    MemoryStore, OnceKey, Origin, Owner, OwnerConfig, ProxyId, Publish, PublishToken, QueueSeq,
    Refusal, RequestId, Subscribe, UnixMillis, Unsubscribe,
};

/// For ever.
pub(crate) const EVER: u32 = u32::MAX;

pub(crate) struct Rig {
    pub(crate) owner: Owner<MemoryStore>,
    pub(crate) store: MemoryStore,
    pub(crate) config: OwnerConfig,
    pub(crate) now: UnixMillis,
    /// All effects that nobody asked for yet.
    pub(crate) effects: Vec<Effect>,
    requests: u64,
    published: u64,
}

/// A client that was let in.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) holder: Holder,
    pub(crate) attached: Attached,
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

pub(crate) fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| text(&delivery.message)).collect()
}

pub(crate) fn seqs(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.seq.0).collect()
}

pub(crate) fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text.to_owned()).unwrap()
}

pub(crate) fn message(topic: &str, payload: &str, qos: QoS) -> Message {
    Message {
        topic: TopicName::new(topic.to_owned()).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

pub(crate) fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

pub(crate) fn will(topic: &str, payload: &str, delay_secs: u32) -> Will {
    Will { message: message(topic, payload, QoS::AtLeastOnce), delay_secs }
}

pub(crate) fn holder(proxy: u64, connection: u64) -> Holder {
    Holder { proxy: ProxyId(proxy), connection }
}

pub(crate) fn attach(client: &str, holder: Holder) -> Attach {
    Attach {
        request: RequestId(0),
        client: ClientId::new(client.to_owned()).unwrap(),
        holder,
        clean_start: false,
        began: None,
        promised: None,
        expiry_secs: EVER,
        receive_maximum: 100,
        will: None,
    }
}

pub(crate) fn publish(seq: u64, message: Message) -> Publish {
    Publish {
        token: PublishToken(seq),
        origin: Origin { proxy: ProxyId(900), lane: 7, seq },
        publisher: ClientHash(0),
        once: None,
        message: Arc::new(message),
        expires_at: None,
    }
}

fn match_attached(effect: &Effect, of: RequestId) -> Option<Result<Attached, Refusal>> {
    if let Effect::Attached(attached) = effect
        && attached.request == of
    {
        return Some(Ok((**attached).clone()));
    }
    if let Effect::Refused { request, refusal } = effect
        && *request == of
    {
        return Some(Err(*refusal));
    }
    None
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(OwnerConfig { partitions: 4, ..OwnerConfig::default() })
    }

    pub(crate) fn with(config: OwnerConfig) -> Self {
        let (store, now) = (MemoryStore::new(), UnixMillis(1_000_000));
        let owner = Owner::open(store.clone(), config, now).unwrap();
        Self { owner, store, config, now, effects: Vec::new(), requests: 0, published: 0 }
    }

    /// What a process finds that starts after this one was killed.
    pub(crate) fn reopen(&mut self) {
        self.store = self.store.reopen();
        self.owner = Owner::open(self.store.clone(), self.config, self.now).unwrap();
        self.effects.clear();
        self.collect();
    }

    pub(crate) fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// Handles and commits.
    pub(crate) fn run(&mut self, command: Command) {
        self.owner.handle(command, self.now);
        self.commit();
    }

    pub(crate) fn commit(&mut self) {
        self.owner.commit().unwrap();
        self.collect();
    }

    fn collect(&mut self) {
        self.effects.extend(std::iter::from_fn(|| self.owner.poll_effect()));
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now = UnixMillis(self.now.0 + millis);
        self.settle();
    }

    /// Does all that is due.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let is_due = self.owner.next_deadline().is_some_and(|due| due <= self.now);
            if !is_due && !self.owner.has_changes() {
                return;
            }
            if is_due {
                self.owner.handle_time(self.now);
            }
            self.commit();
        }
        panic!("it is never done");
    }

    /// The effects since the last time.
    pub(crate) fn told(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Those that are no sign of deliveries.
    pub(crate) fn answers(&mut self) -> Vec<Effect> {
        let mut told = self.told();
        told.retain(|effect| !matches!(effect, Effect::Ready(_)));
        told
    }

    /// Takes out the first effect that is looked for.
    fn answer<T>(&mut self, look: impl Fn(&Effect) -> Option<T>) -> T {
        let at = self.effects.iter().position(|effect| look(effect).is_some());
        let effect = self.effects.remove(at.expect("a request is answered"));
        look(&effect).unwrap()
    }

    pub(crate) fn try_attach(&mut self, attach: Attach) -> Result<Client, Refusal> {
        let request = self.request();
        let (id, holder) = (attach.client.clone(), attach.holder);
        self.run(Command::Attach(Box::new(Attach { request, ..attach })));
        self.attached(request, id, holder)
    }

    pub(crate) fn attached(
        &mut self,
        request: RequestId,
        id: ClientId,
        holder: Holder,
    ) -> Result<Client, Refusal> {
        let attached = self.answer(|effect| match_attached(effect, request))?;
        Ok(Client { id, holder, attached })
    }

    pub(crate) fn connect(&mut self, client: &str, holder: Holder) -> Client {
        self.try_attach(attach(client, holder)).unwrap()
    }

    pub(crate) fn subscribe_with(
        &mut self,
        client: &Client,
        filters: &[(&str, SubscriptionOptions)],
        subscription_id: Option<u32>,
    ) -> Vec<ReasonCode> {
        let request = self.request();
        let filters = filters.iter().map(|(text, options)| (filter(text), *options)).collect();
        self.run(Command::Subscribe(Box::new(Subscribe {
            request,
            session: client.attached.session,
            epoch: client.attached.epoch,
            filters,
            subscription_id: subscription_id.and_then(SubscriptionId::new),
        })));
        self.answer(|effect| {
            if let Effect::Subscribed { request: of, reasons } = effect
                && *of == request
            {
                Some(reasons.clone())
            } else {
                None
            }
        })
    }

    pub(crate) fn subscribe(&mut self, client: &Client, filter: &str, qos: QoS) {
        let reasons = self.subscribe_with(client, &[(filter, options(qos))], None);
        assert_eq!(reasons, [ReasonCode::from_byte(qos as u8).unwrap()]);
        self.settle();
    }

    pub(crate) fn unsubscribe(&mut self, client: &Client, text: &str) -> Vec<ReasonCode> {
        let request = self.request();
        self.run(Command::Unsubscribe(Box::new(Unsubscribe {
            request,
            session: client.attached.session,
            epoch: client.attached.epoch,
            filters: vec![filter(text)],
        })));
        self.answer(|effect| {
            if let Effect::Unsubscribed { request: of, reasons } = effect
                && *of == request
            {
                Some(reasons.clone())
            } else {
                None
            }
        })
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: &str, qos: QoS) {
        self.publish_message(message(topic, payload, qos));
    }

    pub(crate) fn retain(&mut self, topic: &str, payload: &str, qos: QoS) {
        self.publish_message(Message { retain: true, ..message(topic, payload, qos) });
    }

    pub(crate) fn publish_message(&mut self, message: Message) {
        self.published += 1;
        let expires_at = message.expiry_secs.map(|seconds| self.now.after_secs(seconds));
        let publish = Publish { expires_at, ..publish(self.published, message) };
        self.run(Command::Publish(publish));
    }

    pub(crate) fn publish_once(&mut self, topic: &str, payload: &str, key: u128) {
        self.published += 1;
        let message = message(topic, payload, QoS::ExactlyOnce);
        let once = Some(OnceKey(key));
        self.run(Command::Publish(Publish { once, ..publish(self.published, message) }));
    }

    /// Takes everything there is for a proxy.
    pub(crate) fn take(&mut self, proxy: u64) -> Vec<Delivery> {
        let mut all = Vec::new();
        for _ in 0..100_000 {
            let (before, told) = (all.len(), self.readies());
            let more = self.owner.deliveries(ProxyId(proxy), 64 << 10, self.now, &mut all).unwrap();
            self.commit();
            self.settle();
            let more = more == partition::More::Yes || self.readies() > told;
            if !more && all.len() == before {
                return all;
            }
        }
        panic!("there is no end of deliveries");
    }

    fn readies(&self) -> usize {
        self.effects.iter().filter(|effect| matches!(effect, Effect::Ready(_))).count()
    }

    pub(crate) fn settle_all(&mut self, client: &Client, deliveries: &[Delivery]) {
        self.acknowledge(client, &seqs(deliveries), &[]);
    }

    pub(crate) fn acknowledge(&mut self, client: &Client, settled: &[u64], received: &[u64]) {
        self.run(Command::Acknowledge(Acknowledge {
            session: client.attached.session,
            epoch: client.attached.epoch,
            settled: settled.iter().copied().map(QueueSeq).collect(),
            received: received.iter().copied().map(QueueSeq).collect(),
        }));
    }

    pub(crate) fn detach(&mut self, client: &Client, farewell: Farewell) {
        self.detach_for(client, farewell, EVER);
    }

    pub(crate) fn detach_for(&mut self, client: &Client, farewell: Farewell, expiry_secs: u32) {
        self.run(Command::Detach(Detach {
            session: client.attached.session,
            epoch: client.attached.epoch,
            farewell,
            expiry_secs,
        }));
    }
}
