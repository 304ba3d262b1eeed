//! Random histories: members come and go, proxies and the store too, and no message is lost or doubled.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Members and proxies of a history.
const MEMBERS: u64 = 5;
const PROXIES: u64 = 2;

#[derive(Clone, Debug)]
enum Step {
    Publish(QoS),
    Join(u64, QoS),
    Leave(u64),
    /// The connection of a member ends.
    Close(u64),
    /// A persistent member connects.
    Open(u64),
    /// A proxy takes what there is.
    Take(u64),
    /// One of the deliveries that clients have is confirmed.
    Confirm(usize),
    /// The stream of a proxy breaks, and some of what it took is lost.
    Break(u64),
    ProxyDead(u64),
    /// The store is opened again, and all connections go on.
    Restart,
}

fn qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn step() -> impl Strategy<Value = Step> {
    let member = 1..=MEMBERS;
    let proxy = 1..=PROXIES;
    prop_oneof![
        8 => qos().prop_map(Step::Publish),
        3 => (member.clone(), qos()).prop_map(|(member, qos)| Step::Join(member, qos)),
        1 => member.clone().prop_map(Step::Leave),
        1 => member.clone().prop_map(Step::Close),
        2 => member.prop_map(Step::Open),
        4 => proxy.clone().prop_map(Step::Take),
        6 => any::<usize>().prop_map(Step::Confirm),
        1 => proxy.clone().prop_map(Step::Break),
        1 => proxy.prop_map(Step::ProxyDead),
        1 => Just(Step::Restart),
    ]
}

fn strategies() -> impl Strategy<Value = GroupStrategy> {
    prop::sample::select(vec![
        GroupStrategy::RoundRobin,
        GroupStrategy::LeastInFlight,
        GroupStrategy::StickyClient,
        GroupStrategy::HashTopic,
        GroupStrategy::LocalFirst,
    ])
}

/// The first members outlive their connections, the others do not.
fn kind(member: u64) -> MemberKind {
    if member <= 2 { MemberKind::Persistent } else { MemberKind::Clean }
}

/// What the world outside knows.
struct World {
    host: Host,
    /// Of any subscription.
    lowest: QoS,
    /// Messages above QoS 0.
    published: usize,
    names: usize,
    /// Subscriptions, by member.
    members: BTreeMap<u64, QoS>,
    /// Epochs of the connections there are.
    open: BTreeMap<u64, u64>,
    epochs: u64,
    /// What clients have and have not confirmed, by message.
    held: BTreeMap<String, Vec<Delivery>>,
    /// Messages that are done: confirmed, or taken at QoS 0.
    done: BTreeSet<String>,
    /// The only session that may ever have a message at QoS 2.
    exact: BTreeMap<String, SessionId>,
}

impl World {
    fn new(strategy: GroupStrategy, lowest: QoS) -> Self {
        let mut config = config(strategy);
        config.group.when_empty = WhenEmpty::Keep;
        let mut world = Self {
            host: Host::new(config),
            lowest,
            published: 0,
            names: 0,
            members: BTreeMap::new(),
            open: BTreeMap::new(),
            epochs: 0,
            held: BTreeMap::new(),
            done: BTreeSet::new(),
            exact: BTreeMap::new(),
        };
        // So that every message is for a group, from the beginning.
        world.join(1, QoS::ExactlyOnce);
        world
    }

    fn connection(&self, member: u64) -> changes::Member {
        connection(member, self.open[&member], 1 + member % PROXIES)
    }

    fn join(&mut self, member: u64, qos: QoS) {
        let qos = qos.max(self.lowest);
        self.epochs += 1;
        self.open.entry(member).or_insert(self.epochs);
        self.members.insert(member, qos);
        self.host.join(kind(member), qos, self.connection(member));
    }

    fn lose(&mut self, member: u64) {
        self.open.remove(&member);
        for held in self.held.values_mut() {
            held.retain(|delivery| delivery.session != session(member));
        }
    }

    fn close(&mut self, member: u64) {
        if self.open.contains_key(&member) {
            self.lose(member);
            if kind(member) == MemberKind::Persistent {
                self.host.away(member);
            } else {
                self.members.remove(&member);
                self.host.handle(|groups, call| groups.end(session(member), call));
            }
        }
    }

    fn open(&mut self, member: u64) {
        if self.members.contains_key(&member) && !self.open.contains_key(&member) {
            self.epochs += 1;
            self.open.insert(member, self.epochs);
            self.host.back(self.connection(member), &[]);
        }
    }

    fn take(&mut self, proxy: u64) -> Result<(), TestCaseError> {
        for delivery in self.host.take(proxy) {
            let (text, member) = (text(&delivery), delivery.session.number());
            prop_assert_eq!(Some(delivery.holder.connection), self.holder(member));
            prop_assert!(!self.done.contains(&text), "{} is done", text);
            let held = self.held.entry(text.clone()).or_default();
            if delivery.qos == QoS::AtMostOnce {
                self.done.insert(text);
                continue;
            }
            prop_assert!(held.is_empty(), "{} is with two members at once", text);
            if delivery.qos == QoS::ExactlyOnce {
                prop_assert_eq!(
                    *self.exact.entry(text).or_insert(delivery.session),
                    delivery.session
                );
            }
            held.push(delivery);
        }
        Ok(())
    }

    fn holder(&self, member: u64) -> Option<u64> {
        self.open.get(&member).map(|epoch| member * 1000 + epoch)
    }

    fn confirm(&mut self, which: usize) {
        let held: Vec<Delivery> = self.held.values().flatten().cloned().collect();
        if let Some(delivery) = which.checked_rem(held.len()).map(|which| &held[which]) {
            let epoch = self.open[&delivery.session.number()];
            self.host.confirm(delivery, epoch);
            self.held.remove(&text(delivery));
            self.done.insert(text(delivery));
        }
    }

    /// The connections of a proxy go on; every other delivery did not arrive.
    fn go_on(&mut self, proxy: u64) {
        let members: Vec<u64> = self.open.keys().copied().collect();
        for member in members.into_iter().filter(|member| 1 + member % PROXIES == proxy) {
            let mut arrived = Vec::new();
            for held in self.held.values_mut() {
                held.retain(|delivery| {
                    let place = delivery.group.unwrap().seq.0;
                    let stays = delivery.session != session(member) || place.is_multiple_of(2);
                    if stays && delivery.session == session(member) {
                        arrived.push(place);
                    }
                    stays
                });
            }
            let connection = self.connection(member);
            if let Some(qos) = self.members.get(&member).copied() {
                if kind(member) == MemberKind::Clean {
                    let join = join(MemberKind::Clean, qos, connection);
                    self.host.with(|groups, call| groups.join(&join, call));
                }
                self.host.back(connection, &arrived);
            }
        }
    }

    fn restart(mut self) -> Result<Self, TestCaseError> {
        if self.lowest == QoS::AtMostOnce {
            // What is not kept ends with the process, and nobody counts it.
            for proxy in 1..=PROXIES {
                self.take(proxy)?;
            }
        }
        self.host = self.host.reopen();
        // What a client has at QoS 1 may go to another one too, before its own comes back.
        for held in self.held.values_mut() {
            held.retain(|delivery| delivery.qos == QoS::ExactlyOnce);
        }
        (1..=PROXIES).for_each(|proxy| self.go_on(proxy));
        Ok(self)
    }

    fn step(mut self, step: &Step) -> Result<Self, TestCaseError> {
        match *step {
            Step::Publish(qos) => {
                self.names += 1;
                self.host.publish(&format!("{}-{}", self.names, qos as u8), qos);
                self.published += usize::from(qos > QoS::AtMostOnce);
            }
            Step::Join(member, qos) => self.join(member, qos),
            Step::Leave(member) => {
                self.members.remove(&member);
                self.lose(member);
                self.host.leave(member);
            }
            Step::Close(member) => self.close(member),
            Step::Open(member) => self.open(member),
            Step::Take(proxy) => self.take(proxy)?,
            Step::Confirm(which) => self.confirm(which),
            Step::Break(proxy) => self.go_on(proxy),
            Step::ProxyDead(proxy) => {
                let open: Vec<u64> = self.open.keys().copied().collect();
                for member in open.into_iter().filter(|member| 1 + member % PROXIES == proxy) {
                    self.lose(member);
                    if kind(member) == MemberKind::Clean {
                        self.members.remove(&member);
                    }
                }
                self.host.handle(|groups, call| groups.proxy_dead(super::proxy(proxy), call));
            }
            Step::Restart => self = self.restart()?,
        }
        let (count, _) = self.host.groups.queued();
        prop_assert_eq!(self.host.queue_rows() as u64, count, "after {:?}", step);
        Ok(self)
    }

    /// Brings somebody who takes everything, and compares.
    fn finish(mut self) -> Result<(), TestCaseError> {
        let members: Vec<u64> = (1..=MEMBERS).collect();
        for member in members {
            self.close(member);
            self.host.leave(member);
        }
        let mut join = join(MemberKind::Clean, QoS::AtLeastOnce, connection(77, 1, 1));
        join.member.receive_maximum = 1000;
        self.host.handle(|groups, call| groups.join(&join, call));
        let rest = self.host.drain(1, 1);
        for delivery in &rest {
            prop_assert!(!self.exact.contains_key(&text(delivery)), "at QoS 2 with another");
            prop_assert!(self.done.insert(text(delivery)), "done twice");
        }
        let moved: BTreeSet<&String> = self.host.moved.iter().map(|(_, text)| text).collect();
        prop_assert_eq!(moved.len(), self.host.moved.len(), "moved once");
        prop_assert!(self.done.iter().all(|text| !moved.contains(text)));
        let done = self.done.iter().filter(|text| !text.ends_with("-0")).count();
        let gone = self.host.dropped(DropReason::MemberGone) as usize;
        prop_assert!(done + moved.len() + gone <= self.published);
        if self.lowest > QoS::AtMostOnce {
            prop_assert_eq!(done + moved.len() + gone, self.published, "none is lost");
        }
        prop_assert_eq!(self.host.groups.queued(), (0, 0));
        prop_assert_eq!(self.host.queue_rows(), 0);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn no_message_is_lost_and_none_at_qos_2_is_with_two_members(
        strategy in strategies(),
        lowest in prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce]),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(strategy, lowest);
        for step in &steps {
            world = world.step(step)?;
        }
        world.finish()?;
    }
}
