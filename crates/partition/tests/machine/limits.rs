//! Limits and what happens at them, and a store without room.

use mqtt_codec::{Message, QoS, ReasonCode};
use partition::{
    Attach, Begin, Command, DropReason, Effect, Farewell, Limits, MemoryStore, OnceKey, Owner,
    OwnerConfig, OwnerError, ProxyId, PublishToken, QueueLimits, Refusal, RequestId, Room,
    StoreError, Table, UnixMillis, WhenFull,
};
use proptest::prelude::*;

use crate::rig::{EVER, Rig, attach, holder, message, options, publish, texts, will};

fn rig_with(inbox: QueueLimits) -> Rig {
    let limits = Limits { inbox, ..Limits::default() };
    Rig::with(OwnerConfig { partitions: 4, limits, ..OwnerConfig::default() })
}

fn offline(rig: &mut Rig, name: &str) {
    let client = rig.connect(name, holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.detach(&client, Farewell::Abnormal);
}

fn drain(rig: &mut Rig, name: &str) -> Vec<String> {
    let client = rig.connect(name, holder(2, 1));
    let mut all = Vec::new();
    loop {
        let taken = rig.take(2);
        if taken.is_empty() {
            return all;
        }
        rig.settle_all(&client, &taken);
        all.extend(texts(&taken));
    }
}

#[test]
fn a_full_queue_drops_what_its_policy_says() {
    for (when_full, left) in
        [(WhenFull::DropNewest, ["1", "2", "3"]), (WhenFull::DropOldest, ["3", "4", "5"])]
    {
        let mut rig = rig_with(QueueLimits { messages: 3, bytes: 1 << 20, when_full });
        offline(&mut rig, "a");
        for number in 1..=5 {
            rig.publish("t", &number.to_string(), QoS::AtLeastOnce);
        }
        assert_eq!(rig.owner.stats().dropped.of(DropReason::InboxFull), 2);
        rig.reopen();
        assert_eq!(drain(&mut rig, "a"), left);
    }
}

#[test]
fn bytes_count_too() {
    let bytes = 3 * 1064;
    let when_full = WhenFull::DropNewest;
    let mut rig = rig_with(QueueLimits { messages: 100, bytes, when_full });
    offline(&mut rig, "a");
    for _ in 0..5 {
        rig.publish("t", &"x".repeat(1000), QoS::AtLeastOnce);
    }
    assert_eq!(rig.owner.stats().queued_messages, 3);
    assert_eq!(drain(&mut rig, "a").len(), 3);
}

#[test]
fn as_many_old_ones_are_dropped_as_there_must_be_for_the_bytes() {
    let when_full = WhenFull::DropOldest;
    let mut rig = rig_with(QueueLimits { messages: 1_000, bytes: 10_000, when_full });
    offline(&mut rig, "a");
    for _ in 0..50 {
        rig.publish("t", "small", QoS::AtLeastOnce);
    }
    for _ in 0..20 {
        rig.publish("t", &"x".repeat(2_000), QoS::AtLeastOnce);
        let bytes = rig.owner.stats().queued_bytes;
        assert!(bytes <= 10_000 + 2_100, "{bytes}");
    }
    let dropped = rig.owner.stats().dropped.of(DropReason::InboxFull);
    assert_eq!(drain(&mut rig, "a").len() as u64 + dropped, 70);
}

#[test]
fn what_was_sent_is_not_dropped_for_something_newer() {
    let when_full = WhenFull::DropOldest;
    let mut rig = rig_with(QueueLimits { messages: 3, bytes: 1 << 20, when_full });
    let online = Attach { receive_maximum: 2, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(online).unwrap();
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    for number in 1..=2 {
        rig.publish("t", &number.to_string(), QoS::AtLeastOnce);
    }
    assert_eq!(texts(&rig.take(1)), ["1", "2"]);
    for number in 3..=6 {
        rig.publish("t", &number.to_string(), QoS::AtLeastOnce);
    }
    rig.acknowledge(&client, &[1, 2], &[]);
    assert_eq!(texts(&rig.take(1)), ["6"]);
}

#[test]
fn a_queue_that_always_drops_its_oldest_does_not_grow_in_the_store() {
    let when_full = WhenFull::DropOldest;
    for sent in [false, true] {
        let mut rig = rig_with(QueueLimits { messages: 100, bytes: 1 << 20, when_full });
        let client = rig.connect("a", holder(1, 1));
        rig.subscribe(&client, "t", QoS::AtLeastOnce);
        if sent {
            // It stays in flight, so the floor does not move.
            rig.publish("t", "first", QoS::AtLeastOnce);
            rig.take(1);
        }
        rig.detach(&client, Farewell::Abnormal);
        for number in 0..10_000 {
            rig.publish("t", &number.to_string(), QoS::AtLeastOnce);
            rig.settle();
        }
        let rows = rig.store.rows();
        let chunks = rows.iter().filter(|(table, _, _)| *table == Table::Inbox).count();
        assert!(chunks < 2_000, "{chunks}");
        rig.reopen();
        let left = drain(&mut rig, "a");
        assert_eq!(left.len(), 100);
        assert_eq!(left.first().is_some_and(|first| first == "first"), sent);
        assert_eq!(left.last().unwrap(), "9999");
        let rows = rig.store.rows();
        assert!(!rows.iter().any(|(table, _, _)| *table == Table::Inbox));
    }
}

#[test]
fn a_queue_that_refuses_does_so_for_everyone_and_the_publisher_hears_it() {
    let when_full = WhenFull::RejectNew;
    let mut rig = rig_with(QueueLimits { messages: 2, bytes: 1 << 20, when_full });
    offline(&mut rig, "a");
    offline(&mut rig, "b");
    let client = rig.connect("b", holder(2, 1));
    for number in 1..=2 {
        rig.publish("t", &number.to_string(), QoS::AtLeastOnce);
    }
    let taken = rig.take(2);
    rig.settle_all(&client, &taken);
    rig.told();
    for reopened in [false, true] {
        if reopened {
            rig.reopen();
            rig.connect("b", holder(2, 1));
            rig.told();
        }
        let retained = Message { retain: true, ..message("t", "3", QoS::AtLeastOnce) };
        rig.run(Command::Publish(publish(10, retained)));
        let (token, reason) = (PublishToken(10), ReasonCode::QuotaExceeded);
        assert_eq!(rig.told(), [Effect::NotTaken { token, reason }]);
        assert_eq!(rig.owner.stats().retained_messages, 0);
        assert_eq!(rig.take(2), []);
    }
    // Refused and then sent again it is taken as soon as there is room.
    assert_eq!(drain(&mut rig, "a"), ["1", "2"]);
    rig.told();
    rig.run(Command::Publish(publish(10, message("t", "3", QoS::AtLeastOnce))));
    assert_eq!(rig.answers(), []);
    assert_eq!(texts(&rig.take(2)).len(), 2);
    assert_eq!(rig.owner.stats().queued_messages, 2);
}

#[test]
fn a_refused_message_whose_refusal_was_lost_is_refused_again_although_later_ones_were_taken() {
    let when_full = WhenFull::RejectNew;
    let mut rig = rig_with(QueueLimits { messages: 1, bytes: 1 << 20, when_full });
    offline(&mut rig, "a");
    let come = |rig: &mut Rig, seq: u64| {
        rig.told();
        let message = message("t", &seq.to_string(), QoS::AtLeastOnce);
        rig.run(Command::Publish(publish(seq, message)));
        let refused =
            Effect::NotTaken { token: PublishToken(seq), reason: ReasonCode::QuotaExceeded };
        rig.answers().contains(&refused)
    };
    assert!(!come(&mut rig, 4));
    assert!(come(&mut rig, 5));
    assert_eq!(drain(&mut rig, "a"), ["4"]);
    assert!(!come(&mut rig, 6));
    // Killed before the origin hears of any of them: all come again.
    for _ in 0..2 {
        rig.reopen();
        assert!(!come(&mut rig, 4));
        assert!(come(&mut rig, 5));
        assert!(!come(&mut rig, 6));
    }
    assert_eq!(drain(&mut rig, "a"), ["6"]);
    // Nothing is left of it once the origin is over.
    rig.run(Command::ForgetOrigin(ProxyId(900)));
    assert!(!rig.store.rows().iter().any(|(table, _, _)| *table == Table::Lane));
}

#[test]
fn qos0_for_a_client_that_does_not_take_it_is_dropped_and_counted() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtMostOnce);
    for _ in 0..1_005 {
        rig.publish("t", "x", QoS::AtMostOnce);
    }
    assert_eq!(rig.owner.stats().dropped.of(DropReason::QoS0Full), 5);
    assert_eq!(rig.take(1).len(), 1_000);
}

#[test]
fn there_are_not_more_sessions_and_subscriptions_than_there_may_be() {
    let limits = Limits { sessions: 2, subscriptions_per_session: 2, ..Limits::default() };
    let mut rig = Rig::with(OwnerConfig { partitions: 4, limits, ..OwnerConfig::default() });
    let first = rig.connect("a", holder(1, 1));
    rig.connect("b", holder(1, 2));
    let third = rig.try_attach(attach("c", holder(1, 3)));
    assert_eq!(third.unwrap_err(), Refusal::TooManySessions);
    // One that takes the place of another is no more than there was; nor is a clean one.
    rig.try_attach(Attach { clean_start: true, ..attach("b", holder(1, 4)) }).unwrap();
    rig.try_attach(Attach { expiry_secs: 0, ..attach("c", holder(1, 5)) }).unwrap();
    let three = [
        ("1", options(QoS::AtMostOnce)),
        ("2", options(QoS::AtMostOnce)),
        ("3", options(QoS::AtMostOnce)),
    ];
    let reasons = rig.subscribe_with(&first, &three, None);
    assert_eq!(reasons, [ReasonCode::Success, ReasonCode::Success, ReasonCode::QuotaExceeded]);
    assert_eq!(rig.subscribe_with(&first, &three[..1], None), [ReasonCode::Success]);
}

#[test]
fn a_store_without_room_takes_nothing_new_and_lets_everything_go() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.publish("t", "1", QoS::AtLeastOnce);
    let taken = rig.take(1);
    rig.store.set_room(Room::Low);
    rig.run(Command::Acknowledge(partition::Acknowledge {
        session: client.attached.session,
        epoch: client.attached.epoch,
        settled: Vec::new(),
        received: Vec::new(),
    }));
    assert_eq!(rig.owner.room(), Room::Low);
    rig.told();
    rig.run(Command::Publish(publish(50, message("t", "2", QoS::AtLeastOnce))));
    let (token, reason) = (PublishToken(50), ReasonCode::QuotaExceeded);
    assert_eq!(rig.told(), [Effect::NotTaken { token, reason }]);
    // What nobody wants is not refused, and QoS 0 needs no room.
    rig.run(Command::Publish(publish(51, message("nobody", "2", QoS::AtLeastOnce))));
    rig.run(Command::Publish(publish(52, message("t", "0", QoS::AtMostOnce))));
    assert_eq!(rig.answers(), []);
    assert_eq!(texts(&rig.take(1)), ["0"]);
    let full = rig.try_attach(attach("new", holder(1, 9)));
    assert_eq!(full.unwrap_err(), Refusal::Full);
    let with_will =
        Attach { will: Some(will("w", "x", 0)), expiry_secs: 0, ..attach("w", holder(1, 8)) };
    assert_eq!(rig.try_attach(with_will).unwrap_err(), Refusal::Full);
    rig.try_attach(Attach { expiry_secs: 0, ..attach("clean", holder(1, 7)) }).unwrap();
    let (request, session, epoch) = (RequestId(99), client.attached.session, client.attached.epoch);
    let packet_id = mqtt_codec::PacketId::new(1).unwrap();
    rig.run(Command::Begin(Begin { request, session, epoch, packet_id, key: OnceKey(1) }));
    assert_eq!(rig.answers(), [Effect::Refused { request, refusal: Refusal::Full }]);
    rig.settle_all(&client, &taken);
    assert_eq!(rig.unsubscribe(&client, "t"), [ReasonCode::Success]);
    rig.detach_for(&client, Farewell::Clean, 0);
    rig.settle();
    assert_eq!(rig.owner.stats().persistent_sessions, 0);
    rig.store.set_room(Room::Enough);
    rig.run(Command::Sent(partition::OutboxId { partition: partition::PartitionId(0), number: 1 }));
    rig.connect("new", holder(1, 9));
}

#[test]
fn a_store_without_room_lets_retained_messages_go_and_takes_what_it_has_taken() {
    let mut rig = Rig::new();
    let retained = |number, payload| {
        let message = message("kept", payload, QoS::AtLeastOnce);
        Command::Publish(publish(number, Message { retain: true, ..message }))
    };
    rig.run(retained(50, "x"));
    rig.store.set_room(Room::Low);
    rig.run(retained(50, "x"));
    rig.told();
    rig.run(retained(50, "x"));
    rig.run(retained(51, ""));
    assert_eq!(rig.told(), []);
    assert_eq!(rig.owner.stats().retained_messages, 0);
    rig.run(retained(52, "x"));
    let (token, reason) = (PublishToken(52), ReasonCode::QuotaExceeded);
    assert_eq!(rig.told(), [Effect::NotTaken { token, reason }]);
}

#[test]
fn a_failing_store_gives_its_error_and_no_effects() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.told();
    let before = rig.store.rows();
    rig.store.fail_after(0);
    rig.owner.handle(Command::Publish(publish(1, message("t", "1", QoS::AtLeastOnce))), rig.now);
    let error = rig.owner.commit().unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }));
    assert_eq!(rig.owner.poll_effect(), None);
    assert_eq!(rig.store.rows(), before);
    rig.reopen();
    rig.publish("t", "1", QoS::AtLeastOnce);
    assert_eq!(rig.owner.stats().queued_messages, 1);
}

#[test]
fn a_store_for_another_number_of_partitions_is_not_opened() {
    let mut rig = Rig::new();
    rig.connect("a", holder(1, 1));
    let config = OwnerConfig { partitions: 5, ..rig.config };
    let error = Owner::open(rig.store.clone(), config, rig.now).unwrap_err();
    assert!(matches!(error, OwnerError::Partitions { stored: 4, configured: 5 }));
    Owner::open(MemoryStore::new(), config, UnixMillis(0)).unwrap();
}

#[test]
fn requests_for_what_is_nowhere_are_refused_and_harm_nothing() {
    let mut rig = Rig::new();
    let session = partition::SessionId(u64::MAX);
    let (request, epoch) = (RequestId(1), partition::Epoch(1));
    let packet_id = mqtt_codec::PacketId::new(1).unwrap();
    rig.run(Command::Begin(Begin { request, session, epoch, packet_id, key: OnceKey(1) }));
    assert_eq!(rig.answers(), [Effect::Refused { request, refusal: Refusal::Fenced }]);
    rig.run(Command::Detach(partition::Detach {
        session,
        epoch,
        farewell: Farewell::Clean,
        expiry_secs: EVER,
    }));
    rig.run(Command::ProxyDead(ProxyId(5)));
    rig.run(Command::ForgetOrigin(ProxyId(5)));
    assert_eq!(rig.answers(), []);
    assert_eq!(rig.take(77), []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_does_not_come_was_counted_and_the_rest_comes_in_order(
        oldest in any::<bool>(),
        steps in prop::collection::vec((1..6u64, 0..5u8, any::<prop::sample::Index>()), 1..60),
    ) {
        let when_full = if oldest { WhenFull::DropOldest } else { WhenFull::DropNewest };
        let mut rig = rig_with(QueueLimits { messages: 7, bytes: 1 << 20, when_full });
        let slow = |connection| Attach { receive_maximum: 3, ..attach("a", holder(1, connection)) };
        let mut client = rig.try_attach(slow(0)).unwrap();
        rig.subscribe(&client, "t", QoS::AtLeastOnce);
        let (mut published, mut dropped, mut connection) = (0, 0, 0);
        let (mut waiting, mut got) = (Vec::new(), std::collections::BTreeMap::new());
        for (count, move_on, pick) in steps {
            for _ in 0..count {
                published += 1;
                rig.publish("t", &published.to_string(), QoS::AtLeastOnce);
            }
            match move_on {
                0 => {
                    dropped += rig.owner.stats().dropped.of(DropReason::InboxFull);
                    rig.reopen();
                }
                1 => rig.detach(&client, Farewell::Abnormal),
                _ => {}
            }
            if move_on < 2 {
                connection += 1;
                waiting.clear();
                client = rig.try_attach(slow(connection)).unwrap();
            }
            for delivery in rig.take(1) {
                let place = delivery.seq.0;
                let number: u64 = crate::rig::text(&delivery.message).parse().unwrap();
                prop_assert_eq!(*got.entry(place).or_insert(number), number);
                waiting.push(place);
            }
            if !waiting.is_empty() {
                let at = pick.index(waiting.len());
                let place = waiting.remove(at);
                rig.acknowledge(&client, &[place], &[]);
            }
            prop_assert!(rig.owner.stats().queued_messages <= 7);
        }
        loop {
            rig.acknowledge(&client, &std::mem::take(&mut waiting), &[]);
            let taken = rig.take(1);
            if taken.is_empty() {
                break;
            }
            for delivery in taken {
                let number: u64 = crate::rig::text(&delivery.message).parse().unwrap();
                got.insert(delivery.seq.0, number);
                waiting.push(delivery.seq.0);
            }
        }
        dropped += rig.owner.stats().dropped.of(DropReason::InboxFull);
        prop_assert_eq!(got.len() as u64 + dropped, published);
        prop_assert!(got.values().is_sorted());
        let stats = rig.owner.stats();
        prop_assert_eq!((stats.queued_messages, stats.queued_bytes), (0, 0));
    }
}
