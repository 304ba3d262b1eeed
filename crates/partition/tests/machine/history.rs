//! Random histories, held against what a session is promised.
//!
//! After each step the store may be opened again, as after a kill, and nobody may notice. A model says
//! what each session is owed: nothing is lost, QoS 2 comes once, order is kept, a message keeps its place.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_codec::QoS;
use partition::{
    Attach, Command, Delivery, Farewell, GroupConfig, Limits, OwnerConfig, ProxyId, QueueSeq,
    Reattach,
};
use proptest::prelude::*;

use crate::rig::{Client, EVER, Rig, attach, holder, text};

const CLIENTS: usize = 4;
const TOPICS: [&str; 3] = ["t/1", "t/2", "u/1"];
const FILTERS: [&str; 4] = ["t/1", "t/+", "u/#", "#"];

#[derive(Clone, Debug)]
enum Step {
    Connect {
        client: usize,
        proxy: u64,
        receive_maximum: u16,
    },
    /// The stream to the proxy broke; some of what was sent has not arrived.
    Reconnect {
        client: usize,
        lost: u64,
    },
    Detach(usize),
    ProxyDead(u64),
    Subscribe {
        client: usize,
        filter: usize,
        qos: QoS,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    /// Several in one commit; large ones get a body.
    Publish {
        topic: usize,
        qos: QoS,
        count: u64,
        large: bool,
    },
    Repeat,
    Take {
        proxy: u64,
        bytes: usize,
    },
    /// The client answers some of what it has, as far as each may go.
    Answer {
        client: usize,
        picks: Vec<prop::sample::Index>,
    },
    End(usize),
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn above_0() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let proxy = 1..4u64;
    prop_oneof![
        3 => (client.clone(), proxy.clone(), prop_oneof![Just(1), Just(3), Just(100)]).prop_map(
            |(client, proxy, receive_maximum)| Step::Connect { client, proxy, receive_maximum }
        ),
        1 => (client.clone(), 0..4u64).prop_map(|(client, lost)| Step::Reconnect { client, lost }),
        1 => client.clone().prop_map(Step::Detach),
        1 => proxy.clone().prop_map(Step::ProxyDead),
        3 => (client.clone(), 0..FILTERS.len(), qos())
            .prop_map(|(client, filter, qos)| Step::Subscribe { client, filter, qos }),
        1 => (client.clone(), 0..FILTERS.len())
            .prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        6 => (0..TOPICS.len(), above_0(), 1..6u64, any::<bool>())
            .prop_map(|(topic, qos, count, large)| Step::Publish { topic, qos, count, large }),
        1 => Just(Step::Repeat),
        5 => (proxy, prop_oneof![Just(1usize), Just(300), Just(1 << 20)])
            .prop_map(|(proxy, bytes)| Step::Take { proxy, bytes }),
        6 => (client.clone(), prop::collection::vec(any::<prop::sample::Index>(), 1..6))
            .prop_map(|(client, picks)| Step::Answer { client, picks }),
        1 => client.prop_map(Step::End),
    ]
}

/// What a session is owed and what its client has.
#[derive(Debug, Default)]
struct Model {
    connection: Option<(Client, u16)>,
    subscriptions: BTreeMap<usize, QoS>,
    /// Above QoS 0, by place, with the QoS of the delivery.
    owed: BTreeMap<u64, (String, QoS)>,
    next: u64,
    /// Places that the connection has been given, and not lost.
    given: BTreeSet<u64>,
    /// Those of them of which an earlier connection has said PUBREC: only PUBREL follows, which needs no quota.
    resumed: BTreeSet<u64>,
    /// Places that it was ever given.
    seen: BTreeSet<u64>,
    /// Places that earlier connections were given.
    seen_before: BTreeSet<u64>,
    /// PUBREC is committed.
    received: BTreeSet<u64>,
    /// Payloads of QoS 2 that the client has handed on.
    handed_on: BTreeSet<String>,
}

struct World {
    rig: Rig,
    models: Vec<Model>,
    connections: u64,
    published: u64,
    last: Vec<(u64, mqtt_codec::Message)>,
}

impl World {
    fn new() -> Self {
        let config = OwnerConfig {
            partitions: 2,
            limits: Limits::default(),
            group: GroupConfig::default(),
            wills_per_second: 1,
        };
        let model = |_| Model { next: 1, ..Model::default() };
        Self {
            rig: Rig::with(config),
            models: (0..CLIENTS).map(model).collect(),
            connections: 0,
            published: 0,
            last: Vec::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Connect { client, proxy, receive_maximum } => {
                self.connect(*client, *proxy, *receive_maximum);
            }
            Step::Reconnect { client, lost } => self.reconnect(*client, *lost),
            Step::Detach(client) => {
                if let Some((connection, _)) = self.models[*client].connection.take() {
                    self.rig.detach(&connection, Farewell::Abnormal);
                }
            }
            Step::ProxyDead(proxy) => {
                self.rig.run(Command::ProxyDead(ProxyId(*proxy)));
                for model in &mut self.models {
                    let dead = model.connection.take_if(|one| one.0.holder.proxy.0 == *proxy);
                    drop(dead);
                }
            }
            Step::Subscribe { client, filter, qos } => {
                let model = &mut self.models[*client];
                // What nobody wanted when it came may be taken when it comes again.
                self.last.clear();
                if let Some((connection, _)) = &model.connection {
                    self.rig.subscribe(connection, FILTERS[*filter], *qos);
                    model.subscriptions.insert(*filter, *qos);
                }
            }
            Step::Unsubscribe { client, filter } => {
                let model = &mut self.models[*client];
                if let Some((connection, _)) = &model.connection {
                    self.rig.unsubscribe(connection, FILTERS[*filter]);
                    model.subscriptions.remove(filter);
                }
            }
            Step::Publish { topic, qos, count, large } => {
                self.publish(*topic, *qos, *count, if *large { 400 } else { 1 });
            }
            Step::Repeat => {
                for (seq, message) in self.last.clone() {
                    self.rig.run(Command::Publish(crate::rig::publish(seq, message)));
                }
            }
            Step::Take { proxy, bytes } => self.take(*proxy, *bytes),
            Step::Answer { client, picks } => self.answer(*client, picks),
            Step::End(client) => {
                if let Some((connection, _)) = self.models[*client].connection.take() {
                    self.rig.detach_for(&connection, Farewell::Clean, 0);
                    self.models[*client] = Model { next: 1, ..Model::default() };
                }
            }
        }
        self.rig.settle();
    }

    fn connect(&mut self, client: usize, proxy: u64, receive_maximum: u16) {
        self.connections += 1;
        let holder = holder(proxy, self.connections);
        let attach = Attach { receive_maximum, ..attach(&format!("client {client}"), holder) };
        let connection = self.rig.try_attach(attach).unwrap();
        let model = &mut self.models[client];
        let received: Vec<u64> = connection.attached.received.iter().map(|seq| seq.0).collect();
        assert_eq!(received, model.received.iter().copied().collect::<Vec<_>>());
        model.given = model.received.clone();
        model.resumed = model.received.clone();
        model.seen_before.append(&mut model.seen);
        model.connection = Some((connection, receive_maximum));
    }

    fn reconnect(&mut self, client: usize, lost: u64) {
        let model = &mut self.models[client];
        let Some((connection, receive_maximum)) = model.connection.clone() else { return };
        let highest = model.given.last().copied().unwrap_or(0);
        let up_to = highest.saturating_sub(lost);
        model.given.retain(|place| *place <= up_to || model.received.contains(place));
        let request = self.rig.request();
        let attach = Attach {
            request,
            receive_maximum,
            expiry_secs: EVER,
            ..attach(&format!("client {client}"), connection.holder)
        };
        self.rig.run(Command::Reattach(Box::new(Reattach {
            attach,
            session: connection.attached.session,
            epoch: connection.attached.epoch,
            received_up_to: QueueSeq(up_to),
            group_deliveries: Vec::new(),
            groups: Vec::new(),
        })));
        let again = self.rig.attached(request, connection.id.clone(), connection.holder).unwrap();
        assert_eq!(again.attached.epoch, connection.attached.epoch);
        assert_eq!(again.attached.session, connection.attached.session);
    }

    fn publish(&mut self, topic: usize, qos: QoS, count: u64, bytes: usize) {
        self.last.clear();
        for _ in 0..count {
            self.published += 1;
            let payload = format!("{}{}", self.published, ".".repeat(bytes));
            let message = crate::rig::message(TOPICS[topic], &payload, qos);
            self.last.push((self.published, message.clone()));
            let publish = crate::rig::publish(self.published, message.clone());
            self.rig.owner.handle(Command::Publish(publish), self.rig.now);
            for model in &mut self.models {
                let matching = model.subscriptions.iter().filter(|(filter, _)| {
                    crate::rig::filter(FILTERS[**filter]).matches(&message.topic)
                });
                let granted = matching.map(|(_, granted)| *granted).max();
                let granted = granted.map(|granted| granted.min(qos));
                if let Some(granted) = granted.filter(|granted| *granted > QoS::AtMostOnce) {
                    model.owed.insert(model.next, (payload.clone(), granted));
                    model.next += 1;
                }
            }
        }
        self.rig.commit();
    }

    fn take(&mut self, proxy: u64, bytes: usize) {
        let mut taken = Vec::new();
        self.rig.owner.deliveries(ProxyId(proxy), bytes, self.rig.now, &mut taken).unwrap();
        self.rig.commit();
        for delivery in taken {
            self.given(&delivery);
        }
    }

    /// A client gets a message.
    fn given(&mut self, delivery: &Delivery) {
        let model = self.models.iter_mut().find(|model| {
            model.connection.as_ref().is_some_and(|(client, _)| client.holder == delivery.holder)
        });
        let model = model.expect("nothing comes for a connection that is over");
        let (_, receive_maximum) = model.connection.as_ref().unwrap();
        if delivery.qos == QoS::AtMostOnce {
            return;
        }
        let place = delivery.seq.0;
        let owed = model.owed.get(&place);
        let (payload, qos) = owed.unwrap_or_else(|| panic!("{place} is not owed: {model:?}"));
        assert_eq!((&text(&delivery.message), delivery.qos), (payload, *qos));
        assert!(!model.received.contains(&place), "PUBLISH after PUBREC: {place}");
        assert!(model.given.insert(place), "{place} was given twice");
        let sent = model.given.difference(&model.resumed).count();
        assert!(sent <= usize::from(*receive_maximum), "more than the Receive Maximum at a time");
        // In order: nothing that is owed and not given has a lower place.
        let skipped = model.owed.keys().find(|owed| **owed < place && !model.given.contains(owed));
        assert_eq!(skipped, None, "{place} came too early");
        model.seen.insert(place);
        let again = model.seen_before.contains(&place);
        assert!(!again || delivery.dup, "{place} comes again without DUP");
    }

    fn answer(&mut self, client: usize, picks: &[prop::sample::Index]) {
        let given: Vec<u64> = self.models[client].given.iter().copied().collect();
        if !given.is_empty() {
            let places: Vec<u64> = picks.iter().map(|pick| *pick.get(&given)).collect();
            self.answer_places(client, &places);
        }
    }

    fn answer_places(&mut self, client: usize, places: &[u64]) {
        let model = &mut self.models[client];
        let Some((connection, _)) = model.connection.clone() else { return };
        let (mut settled, mut received) = (BTreeSet::new(), BTreeSet::new());
        for place in places.iter().copied() {
            let Some((payload, qos)) = model.owed.get(&place).cloned() else { continue };
            if qos == QoS::AtLeastOnce || model.received.contains(&place) {
                settled.insert(place);
                model.given.remove(&place);
                model.received.remove(&place);
                model.owed.remove(&place);
            } else if received.insert(place) {
                assert!(model.handed_on.insert(payload), "QoS 2 came twice");
                model.received.insert(place);
            }
        }
        // One that is received and settled at once is settled.
        let settled: Vec<u64> = settled.into_iter().collect();
        let received: Vec<u64> =
            received.into_iter().filter(|place| !settled.contains(place)).collect();
        self.rig.acknowledge(&connection, &settled, &received);
    }

    /// As after a kill: connections go on, or are gone.
    fn restart(&mut self, connections_live: bool) {
        let before = self.durable();
        self.rig.reopen();
        assert_eq!(self.durable(), before);
        for client in 0..CLIENTS {
            if connections_live {
                self.reconnect(client, 0);
            }
        }
        if !connections_live {
            for proxy in 1..4 {
                self.run(&Step::ProxyDead(proxy));
            }
        }
    }

    /// What another process finds, beside what it counts for itself.
    fn durable(&self) -> partition::Stats {
        let stats = self.rig.owner.stats();
        partition::Stats {
            wills: 0,
            expired_sessions: 0,
            refused_messages: 0,
            repeated_messages: 0,
            dropped: partition::Dropped::default(),
            commits: 0,
            rows: 0,
            row_bytes: 0,
            ..stats
        }
    }

    /// In the end everyone gets what is owed, and nothing is left.
    fn finish(&mut self) {
        for client in 0..CLIENTS {
            self.connect(client, 1, 100);
        }
        let stats = self.rig.owner.stats();
        let owed: usize = self.models.iter().map(|model| model.owed.len()).sum();
        assert_eq!(stats.queued_messages, owed as u64);
        for _ in 0..10_000 {
            if self.models.iter().all(|model| model.owed.is_empty()) {
                break;
            }
            self.take(1, 1 << 20);
            for client in 0..CLIENTS {
                let places: Vec<u64> = self.models[client].given.iter().copied().collect();
                self.answer_places(client, &places);
            }
        }
        assert!(self.models.iter().all(|model| model.owed.is_empty()), "something is never sent");
        self.rig.settle();
        assert_eq!(self.rig.owner.stats().queued_messages, 0);
        let kinds = [partition::Table::Inbox, partition::Table::Body, partition::Table::BodyUse];
        let rows = self.rig.store.rows();
        let left: Vec<_> = rows.iter().filter(|(table, _, _)| kinds.contains(table)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_gets_what_it_is_owed_and_nothing_twice(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.finish();
    }

    #[test]
    fn nobody_notices_when_the_store_is_opened_again_after_each_step(
        steps in prop::collection::vec(step(), 1..60),
        lives in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut world = World::new();
        for (step, live) in steps.iter().zip(lives) {
            world.run(step);
            world.restart(live);
        }
        world.finish();
    }
}
