//! Groups over a store in memory: commands in, deliveries and rows out.

use std::sync::Arc;

use mqtt_codec::{Message, PublishProperties, SubscriptionId, SubscriptionOptions};

use super::*;
use crate::changes::Internal;
use crate::config::{GroupStrategy, Limits};
use crate::effect::GroupDelivery;
use crate::id::{ClientHash, Holder};
use crate::store::{MemoryStore, Store};

mod history;
mod queues;
mod sharing;

const PARTITION: PartitionId = PartitionId(2);
const FILTER: &str = "$share/g/t/#";

/// The groups of one partition, with their store and what came out.
struct Host {
    config: OwnerConfig,
    store: MemoryStore,
    groups: Groups,
    changes: Changes,
    now: UnixMillis,
    /// Messages for sessions' own queues, in order.
    moved: Vec<(SessionId, String)>,
    /// Deliveries that nobody has confirmed.
    taken: Vec<Delivery>,
}

const fn session(number: u64) -> SessionId {
    SessionId::new(PartitionId(1), number)
}

const fn proxy(number: u64) -> ProxyId {
    ProxyId(number)
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

fn config(strategy: GroupStrategy) -> OwnerConfig {
    let group = GroupConfig { strategy, when_empty: WhenEmpty::Drop };
    OwnerConfig { group, ..OwnerConfig::default() }
}

fn limited(messages: u64, when_full: WhenFull) -> OwnerConfig {
    let group = QueueLimits { messages, when_full, ..QueueLimits::default() };
    OwnerConfig { limits: Limits { group, ..Limits::default() }, ..OwnerConfig::default() }
}

fn message(topic: &str, payload: &str, qos: QoS) -> Message {
    Message {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

fn queued(payload: &str, qos: QoS) -> Queued {
    Queued {
        message: Arc::new(message("t/x", payload, qos)),
        expires_at: None,
        publisher: ClientHash(7),
        proxy: proxy(9),
    }
}

/// A connection: of this session, by this attachment, at this proxy.
fn connection(number: u64, epoch: u64, at: u64) -> changes::Member {
    changes::Member {
        session: session(number),
        epoch: Epoch(epoch),
        holder: Holder { proxy: proxy(at), connection: number * 1000 + epoch },
        receive_maximum: 2,
    }
}

fn join(kind: MemberKind, qos: QoS, member: changes::Member) -> JoinGroup {
    JoinGroup {
        filter: filter(FILTER),
        session: member.session,
        kind,
        options: SubscriptionOptions { qos, ..SubscriptionOptions::default() },
        subscription_id: None,
        member,
    }
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.payload.to_vec()).unwrap()
}

fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(text).collect()
}

impl Host {
    fn new(config: OwnerConfig) -> Self {
        Self::over(MemoryStore::new(), config)
    }

    fn over(store: MemoryStore, config: OwnerConfig) -> Self {
        let mut groups = Groups::new(PARTITION, config);
        for table in [Table::Group, Table::Member] {
            let prefix = PARTITION.0.to_be_bytes();
            let mut rows = Vec::new();
            let mut keep = |key: &[u8], value: &[u8]| {
                rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                true
            };
            store.scan(table, &prefix, &prefix, &mut keep).unwrap();
            for (key, value) in rows {
                if table == Table::Group {
                    groups.load_group(&key, &value).unwrap();
                } else {
                    groups.load_member(&key, &value).unwrap();
                }
            }
        }
        Self {
            config,
            store,
            groups,
            changes: Changes::default(),
            now: UnixMillis(0),
            moved: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// What a process finds after a crash. Dropped messages are counted on.
    fn reopen(self) -> Self {
        let mut again = Self::over(self.store.reopen(), self.config);
        again.changes.dropped = self.changes.dropped;
        Self { now: self.now, moved: self.moved, ..again }
    }

    fn with(&mut self, change: impl FnOnce(&mut Groups, &mut Call<'_>)) {
        change(&mut self.groups, &mut Call { now: self.now, changes: &mut self.changes });
    }

    /// Changes something, and commits until nothing is left to do.
    fn handle(&mut self, change: impl FnOnce(&mut Groups, &mut Call<'_>)) {
        self.with(change);
        self.commit();
        while self.groups.has_pages() {
            self.page();
        }
    }

    fn commit(&mut self) {
        let call = &mut Call { now: self.now, changes: &mut self.changes };
        self.groups.flush(call);
        self.store.commit(&self.changes.batch).unwrap();
        self.changes.batch.clear();
        for (to, forward) in self.changes.forwards.drain(..) {
            let Internal::Deliver { session, message, .. } = forward else { panic!("{forward:?}") };
            assert_eq!(to, session.partition());
            self.moved.push((session, String::from_utf8(message.payload.to_vec()).unwrap()));
        }
        self.groups.committed(&mut self.changes);
    }

    fn page(&mut self) {
        let call = &mut Call { now: self.now, changes: &mut self.changes };
        self.groups.page(&self.store, call).unwrap();
        self.commit();
    }

    fn join(&mut self, kind: MemberKind, qos: QoS, member: changes::Member) {
        self.handle(|groups, call| groups.join(&join(kind, qos, member), call));
    }

    fn publish(&mut self, payload: &str, qos: QoS) {
        self.handle(|groups, call| groups.publish(&queued(payload, qos), call));
    }

    fn publish_many(&mut self, numbers: std::ops::Range<usize>, qos: QoS) {
        for number in numbers {
            self.with(|groups, call| groups.publish(&queued(&number.to_string(), qos), call));
        }
        self.handle(|_, _| ());
    }

    fn away(&mut self, number: u64) {
        self.handle(|groups, call| groups.away(&filter(FILTER), session(number), call));
    }

    fn leave(&mut self, number: u64) {
        self.handle(|groups, call| groups.leave(&filter(FILTER), session(number), call));
    }

    fn back(&mut self, member: changes::Member, arrived: &[u64]) {
        self.handle(|groups, call| groups.back(&filter(FILTER), member, arrived, call));
    }

    /// Takes all there is for a proxy.
    fn take(&mut self, at: u64) -> Vec<Delivery> {
        let mut all = Vec::new();
        loop {
            let mut some = Vec::new();
            self.groups.deliveries(proxy(at), 1 << 20, &mut some);
            self.handle(|_, _| ());
            if some.is_empty() {
                self.taken.extend(all.iter().cloned());
                return all;
            }
            all.extend(some);
        }
    }

    fn confirm(&mut self, delivery: &Delivery, epoch: u64) {
        let GroupDelivery { group, seq } = delivery.group.unwrap();
        let member = (group, delivery.session, Epoch(epoch));
        self.handle(|groups, call| groups.confirm(member, &[seq], call));
    }

    /// Takes and confirms until there is nothing more.
    fn drain(&mut self, at: u64, epoch: u64) -> Vec<Delivery> {
        let mut all = Vec::new();
        loop {
            let some = self.take(at);
            if some.is_empty() {
                return all;
            }
            some.iter().for_each(|delivery| self.confirm(delivery, epoch));
            all.extend(some);
        }
    }

    fn queue_rows(&self) -> usize {
        self.rows(Table::GroupQueue)
    }

    fn rows(&self, table: Table) -> usize {
        let mut rows = 0;
        let prefix = PARTITION.0.to_be_bytes();
        let mut count = |_: &[u8], _: &[u8]| {
            rows += 1;
            true
        };
        self.store.scan(table, &prefix, &prefix, &mut count).unwrap();
        rows
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.changes.dropped.of(reason)
    }
}
