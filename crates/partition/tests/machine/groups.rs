//! Shared groups: across partitions and proxies, with sessions of both kinds.

use std::collections::BTreeSet;

use mqtt_codec::QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
use mqtt_codec::{Message, QoS, ReasonCode};
use partition::{
    AcknowledgeGroup, Attach, Command, Delivery, DropReason, Effect, Farewell, GroupConfig,
    GroupDelivery, Limits, OwnerConfig, ProxyId, QueueLimits, QueueSeq, Reattach, UnixMillis,
    WhenEmpty, WhenFull,
};

use crate::rig::{Client, Rig, attach, filter, holder, message, options, texts};

const SHARED: &str = "$share/g/t/#";

fn clean(rig: &mut Rig, name: &str, proxy: u64) -> Client {
    let attach = Attach { expiry_secs: 0, ..attach(name, holder(proxy, 1)) };
    rig.try_attach(attach).unwrap()
}

fn member(rig: &mut Rig, name: &str, proxy: u64, qos: QoS) -> Client {
    let client = rig.connect(name, holder(proxy, 1));
    rig.subscribe(&client, SHARED, qos);
    client
}

fn place(delivery: &Delivery) -> GroupDelivery {
    delivery.group.expect("it comes from a group")
}

fn confirm(rig: &mut Rig, client: &Client, deliveries: &[Delivery]) {
    for delivery in deliveries {
        let GroupDelivery { group, seq } = place(delivery);
        rig.run(Command::AcknowledgeGroup(AcknowledgeGroup {
            group,
            session: client.attached.session,
            epoch: client.attached.epoch,
            settled: vec![seq],
        }));
    }
    rig.settle();
}

fn many(rig: &mut Rig, numbers: std::ops::Range<usize>, qos: QoS) {
    for number in numbers {
        rig.publish("t/x", &format!("{number:04}"), qos);
    }
    rig.settle();
}

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{number:04}")).collect()
}

fn reattach(rig: &mut Rig, client: &Client, expiry_secs: u32, arrived: &[Delivery]) -> Client {
    let request = rig.request();
    let holder = client.holder;
    let groups = vec![(filter(SHARED), options(ExactlyOnce), None)];
    rig.run(Command::Reattach(Box::new(Reattach {
        attach: Attach {
            request,
            client: client.id.clone(),
            expiry_secs,
            ..attach(client.id.as_str(), holder)
        },
        session: client.attached.session,
        epoch: client.attached.epoch,
        received_up_to: QueueSeq(0),
        group_deliveries: arrived.iter().map(|one| (place(one).group, place(one).seq)).collect(),
        groups: if expiry_secs == 0 { groups } else { Vec::new() },
    })));
    rig.settle();
    rig.attached(request, client.id.clone(), holder).unwrap()
}

#[test]
fn each_message_goes_to_one_member_and_to_every_group() {
    let mut rig = Rig::new();
    let clients: Vec<_> =
        (1..=3).map(|proxy| member(&mut rig, &format!("c{proxy}"), proxy, AtLeastOnce)).collect();
    rig.subscribe(&clients[0], "$share/other/t/x", AtLeastOnce);
    many(&mut rig, 0..30, AtLeastOnce);
    let mut shares = Vec::new();
    for (client, proxy) in clients.iter().zip(1..) {
        let taken = rig.take(proxy);
        confirm(&mut rig, client, &taken);
        shares.push(texts(&taken));
    }
    assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [40, 10, 10]);
    let all: BTreeSet<String> = shares.into_iter().flatten().collect();
    assert_eq!(all.into_iter().collect::<Vec<_>>(), names(0..30));
    assert_eq!(rig.owner.stats().group_messages, 0);
}

#[test]
fn an_own_subscription_and_a_shared_one_are_two() {
    let mut rig = Rig::new();
    let client = member(&mut rig, "a", 1, AtLeastOnce);
    rig.subscribe(&client, "t/x", AtLeastOnce);
    rig.publish("t/x", "m", AtLeastOnce);
    let taken = rig.take(1);
    assert_eq!(texts(&taken), ["m", "m"]);
    assert_eq!(taken.iter().filter(|delivery| delivery.group.is_some()).count(), 1);
}

#[test]
fn a_queue_outlives_its_members_connections_and_the_process() {
    let mut rig = Rig::new();
    let client = member(&mut rig, "a", 1, AtLeastOnce);
    rig.detach(&client, Farewell::Clean);
    many(&mut rig, 0..3000, AtLeastOnce);
    assert_eq!(rig.owner.stats().group_messages, 3000);
    rig.reopen();
    rig.settle();
    assert_eq!(rig.owner.stats().group_messages, 3000);
    let client = rig.connect("a", holder(2, 2));
    let mut all = Vec::new();
    loop {
        rig.settle();
        let taken = rig.take(2);
        if taken.is_empty() {
            break;
        }
        assert!(taken.len() <= 100, "within its receive maximum");
        confirm(&mut rig, &client, &taken);
        all.extend(texts(&taken));
    }
    assert_eq!(all, names(0..3000));
    assert_eq!(rig.owner.stats().group_messages, 0);
}

#[test]
fn what_a_member_did_not_confirm_goes_to_another_when_its_proxy_dies() {
    let mut rig = Rig::new();
    member(&mut rig, "a", 1, AtLeastOnce);
    let other = member(&mut rig, "b", 2, AtLeastOnce);
    many(&mut rig, 0..10, AtLeastOnce);
    let own = rig.take(2);
    let lost = rig.take(1);
    assert_eq!((own.len(), lost.len()), (5, 5));
    rig.run(Command::ProxyDead(ProxyId(1)));
    rig.settle();
    let again = rig.take(2);
    assert_eq!(texts(&again), texts(&lost));
    confirm(&mut rig, &other, &own);
    confirm(&mut rig, &other, &again);
    assert_eq!(rig.owner.stats().group_messages, 0);
}

#[test]
fn a_member_that_is_taken_over_gives_back_what_it_had() {
    let mut rig = Rig::new();
    let old = member(&mut rig, "a", 1, AtLeastOnce);
    rig.publish("t/x", "m", AtLeastOnce);
    let taken = rig.take(1);
    let new = rig.connect("a", holder(2, 2));
    confirm(&mut rig, &old, &taken);
    let again = rig.take(2);
    assert_eq!(texts(&again), ["m"], "the confirmation came too late");
    assert!(!again[0].dup || again[0].group.is_none());
    confirm(&mut rig, &new, &again);
    assert_eq!(rig.owner.stats().group_messages, 0);
}

#[test]
fn qos_2_goes_through_the_own_queue_of_a_persistent_session_exactly_once() {
    let mut rig = Rig::new();
    let slow = Attach { receive_maximum: 2, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(slow).unwrap();
    rig.subscribe(&client, SHARED, ExactlyOnce);
    many(&mut rig, 0..20, ExactlyOnce);
    let stats = rig.owner.stats();
    assert_eq!(stats.queued_messages + stats.group_messages, 20);
    assert!(stats.queued_messages <= 2, "the group keeps what the session cannot take");
    let mut all = Vec::new();
    for round in 0..20 {
        rig.settle();
        let taken = rig.take(1);
        assert!(taken.iter().all(|one| one.group.is_none() && one.qos == ExactlyOnce));
        let new = taken.iter().filter(|one| !all.contains(&texts(&[(*one).clone()])[0]));
        let new: Vec<Delivery> = new.cloned().collect();
        all.extend(texts(&new));
        rig.settle_all(&client, &taken);
        rig.settle();
        if round == 5 {
            rig.reopen();
            reattach(&mut rig, &client, crate::rig::EVER, &[]);
        }
    }
    assert_eq!(all, names(0..20));
    assert_eq!(rig.owner.stats().group_messages, 0);
}

#[test]
fn qos_2_that_a_clean_session_may_have_waits_for_it_and_ends_with_it() {
    let mut rig = Rig::new();
    let first = clean(&mut rig, "a", 1);
    rig.subscribe(&first, SHARED, ExactlyOnce);
    let second = clean(&mut rig, "b", 2);
    rig.subscribe(&second, SHARED, ExactlyOnce);
    many(&mut rig, 0..4, ExactlyOnce);
    let (of_first, of_second) = (rig.take(1), rig.take(2));
    assert_eq!((of_first.len(), of_second.len()), (2, 2));
    rig.reopen();
    assert_eq!(rig.owner.proxies(), [ProxyId(1), ProxyId(2)]);
    let second = reattach(&mut rig, &second, 0, &of_second[..1]);
    assert_eq!(texts(&rig.take(2)), texts(&of_second[1..]), "what had not arrived");
    confirm(&mut rig, &second, &of_second);
    assert!(rig.take(2).is_empty(), "that of the other is not for it");
    rig.run(Command::ProxyDead(ProxyId(1)));
    rig.settle();
    assert!(rig.take(2).is_empty());
    assert_eq!(rig.owner.stats().dropped.of(DropReason::MemberGone), 2);
    assert_eq!(rig.owner.stats().group_messages, 0);
}

#[test]
fn a_clean_session_that_ended_while_the_store_was_away_is_no_member_any_more() {
    let mut rig = Rig::new();
    let client = clean(&mut rig, "a", 1);
    rig.subscribe(&client, SHARED, AtLeastOnce);
    rig.publish("t/x", "m", AtLeastOnce);
    rig.reopen();
    rig.detach_for(&client, Farewell::Clean, 0);
    rig.settle();
    assert_eq!(rig.owner.stats().groups, 0);
    assert_eq!(rig.owner.stats().group_messages, 0);
}

#[test]
fn qos_0_goes_to_one_who_is_there() {
    let mut rig = Rig::new();
    let client = member(&mut rig, "a", 1, AtLeastOnce);
    member(&mut rig, "b", 2, AtLeastOnce);
    rig.detach(&client, Farewell::Clean);
    many(&mut rig, 0..5, AtMostOnce);
    assert_eq!(texts(&rig.take(2)), names(0..5));
    assert_eq!(rig.owner.stats().group_messages, 0);
}

#[test]
fn the_queue_of_a_group_that_nobody_is_in_is_deleted_or_kept() {
    for when_empty in [WhenEmpty::Drop, WhenEmpty::Keep] {
        let group = GroupConfig { when_empty, ..GroupConfig::default() };
        let mut rig = Rig::with(OwnerConfig { partitions: 4, group, ..OwnerConfig::default() });
        let client = member(&mut rig, "a", 1, AtLeastOnce);
        rig.detach(&client, Farewell::Clean);
        many(&mut rig, 0..1000, AtLeastOnce);
        let client = rig.connect("a", holder(1, 2));
        assert_eq!(rig.unsubscribe(&client, SHARED), [ReasonCode::Success]);
        rig.reopen();
        rig.settle();
        many(&mut rig, 1000..1001, AtLeastOnce);
        let mut other = member(&mut rig, "b", 2, AtLeastOnce);
        other.attached.request = rig.request();
        let first = rig.take(2);
        match when_empty {
            WhenEmpty::Drop => assert!(first.is_empty()),
            WhenEmpty::Keep => assert_eq!(texts(&first), names(0..100)),
        }
    }
}

#[test]
fn a_route_is_wanted_as_long_as_the_group_is() {
    let mut rig = Rig::new();
    let client = member(&mut rig, "a", 1, AtLeastOnce);
    let wanted = Effect::Route { filter: filter("t/#"), qos: Some(AtLeastOnce) };
    assert!(rig.told().contains(&wanted));
    rig.reopen();
    assert_eq!(rig.owner.routes().collect::<Vec<_>>(), [(filter("t/#"), AtLeastOnce)]);
    let client = reattach(&mut rig, &client, crate::rig::EVER, &[]);
    rig.unsubscribe(&client, SHARED);
    assert!(rig.told().contains(&Effect::Route { filter: filter("t/#"), qos: None }));
}

#[test]
fn a_full_group_refuses_a_message_for_everyone() {
    let group =
        QueueLimits { messages: 2, when_full: WhenFull::RejectNew, ..QueueLimits::default() };
    let limits = Limits { group, ..Limits::default() };
    let mut rig = Rig::with(OwnerConfig { partitions: 4, limits, ..OwnerConfig::default() });
    let client = member(&mut rig, "a", 1, AtLeastOnce);
    rig.detach(&client, Farewell::Clean);
    let other = rig.connect("b", holder(2, 1));
    rig.subscribe(&other, "t/x", AtLeastOnce);
    many(&mut rig, 0..3, AtLeastOnce);
    let refused = rig.answers().into_iter().filter(|effect| {
        matches!(effect, Effect::NotTaken { reason: ReasonCode::QuotaExceeded, .. })
    });
    assert_eq!(refused.count(), 1);
    assert_eq!(texts(&rig.take(2)), names(0..2));
}

#[test]
fn a_member_whose_moved_messages_expire_is_given_more() {
    let mut rig = Rig::new();
    let slow = Attach { receive_maximum: 2, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(slow).unwrap();
    rig.subscribe(&client, "$share/g/t", ExactlyOnce);
    for payload in ["1", "2"] {
        let expiring = Message { expiry_secs: Some(1), ..message("t", payload, ExactlyOnce) };
        rig.publish_message(expiring);
    }
    rig.publish("t", "3", ExactlyOnce);
    rig.now = UnixMillis(rig.now.0 + 2_000);
    assert_eq!(texts(&rig.take(1)), ["3"]);
}
