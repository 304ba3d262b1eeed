//! Publish and acknowledge: who gets what, in which order, how often.

use mqtt_codec::{Message, QoS, ReasonCode, SubscriptionOptions};
use partition::{
    Attach, ClientHash, Command, Effect, Farewell, Origin, ProxyId, Publish, QueueSeq, UnixMillis,
};

use crate::rig::{Rig, attach, filter, holder, message, options, publish, seqs, texts};

#[test]
fn a_message_is_delivered_with_the_lower_qos_of_both() {
    let levels = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for published in levels {
        for subscribed in levels {
            let mut rig = Rig::new();
            let client = rig.connect("a", holder(1, 1));
            rig.subscribe(&client, "t", subscribed);
            rig.publish("t", "x", published);
            let taken = rig.take(1);
            assert_eq!(texts(&taken), ["x"]);
            assert_eq!(taken[0].qos, published.min(subscribed));
            assert_eq!(taken[0].seq.0 > 0, taken[0].qos > QoS::AtMostOnce);
            assert!(!taken[0].dup && !taken[0].retain);
        }
    }
}

#[test]
fn nothing_comes_out_before_it_is_committed() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.told();
    rig.owner.handle(Command::Publish(publish(1, message("t", "x", QoS::AtLeastOnce))), rig.now);
    let mut taken = Vec::new();
    rig.owner.deliveries(ProxyId(1), 1 << 20, rig.now, &mut taken).unwrap();
    assert_eq!(taken, []);
    assert_eq!(rig.owner.poll_effect(), None);
    rig.commit();
    assert_eq!(rig.told(), [Effect::Ready(ProxyId(1))]);
    assert_eq!(texts(&rig.take(1)), ["x"]);
}

#[test]
fn a_proxy_is_told_once_until_it_has_taken_all() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.told();
    rig.publish("t", "1", QoS::AtLeastOnce);
    rig.publish("t", "2", QoS::AtLeastOnce);
    assert_eq!(rig.told(), [Effect::Ready(ProxyId(1))]);
    assert_eq!(texts(&rig.take(1)), ["1", "2"]);
    rig.publish("t", "3", QoS::AtLeastOnce);
    assert_eq!(rig.told(), [Effect::Ready(ProxyId(1))]);
}

#[test]
fn a_session_without_connection_keeps_what_is_above_qos_0() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::ExactlyOnce);
    rig.detach(&client, Farewell::Abnormal);
    for (payload, qos) in [("0", QoS::AtMostOnce), ("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce)]
    {
        rig.publish("t", payload, qos);
    }
    rig.reopen();
    rig.connect("a", holder(2, 1));
    let taken = rig.take(2);
    assert_eq!(texts(&taken), ["1", "2"]);
    assert_eq!(seqs(&taken), [1, 2]);
}

#[test]
fn what_is_settled_is_never_sent_again_and_what_is_not_is_with_its_place() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    for number in 1..=5 {
        rig.publish("t", &number.to_string(), QoS::AtLeastOnce);
    }
    rig.take(1);
    rig.acknowledge(&client, &[1, 3, 4], &[]);
    rig.publish("t", "6", QoS::AtLeastOnce);
    for reopened in [false, true] {
        if reopened {
            rig.reopen();
        }
        rig.connect("a", holder(2, u64::from(reopened)));
        let taken = rig.take(2);
        assert_eq!(seqs(&taken), [2, 5, 6]);
        assert!(taken[..2].iter().all(|delivery| delivery.dup));
    }
    assert_eq!(rig.owner.stats().queued_messages, 3);
}

#[test]
fn a_received_qos2_message_is_released_and_not_sent_again() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::ExactlyOnce);
    rig.publish("t", "1", QoS::ExactlyOnce);
    rig.publish("t", "2", QoS::ExactlyOnce);
    rig.take(1);
    rig.told();
    rig.acknowledge(&client, &[], &[1]);
    let received = Effect::Received {
        holder: client.holder,
        session: client.attached.session,
        messages: vec![QueueSeq(1)],
    };
    assert_eq!(rig.answers(), std::slice::from_ref(&received));
    // Repeated, it is answered again.
    rig.acknowledge(&client, &[], &[1]);
    assert_eq!(rig.answers(), [received]);
    rig.reopen();
    let client = rig.connect("a", holder(2, 1));
    assert_eq!(client.attached.received, [QueueSeq(1)]);
    let taken = rig.take(2);
    assert_eq!(seqs(&taken), [2]);
    assert!(taken[0].dup);
    rig.acknowledge(&client, &[1, 2], &[]);
    rig.reopen();
    let client = rig.connect("a", holder(3, 1));
    assert_eq!(client.attached.received, []);
    assert_eq!(seqs(&rig.take(3)), [0; 0]);
}

#[test]
fn acknowledgements_of_an_older_connection_change_nothing() {
    let mut rig = Rig::new();
    let older = rig.connect("a", holder(1, 1));
    rig.subscribe(&older, "t", QoS::AtLeastOnce);
    rig.publish("t", "1", QoS::AtLeastOnce);
    rig.take(1);
    rig.connect("a", holder(2, 1));
    rig.acknowledge(&older, &[1], &[]);
    assert_eq!(seqs(&rig.take(2)), [1]);
}

#[test]
fn acknowledgements_of_what_was_never_sent_change_nothing() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.publish("t", "1", QoS::AtLeastOnce);
    rig.acknowledge(&client, &[0, 1, 2, u64::MAX], &[1, u64::MAX]);
    assert_eq!(texts(&rig.take(1)), ["1"]);
}

#[test]
fn a_message_that_comes_again_is_dropped_also_after_a_restart() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    let send = |rig: &mut Rig, seq: u64| {
        let text = seq.to_string();
        rig.run(Command::Publish(publish(seq, message("t", &text, QoS::AtLeastOnce))));
    };
    send(&mut rig, 1);
    send(&mut rig, 2);
    send(&mut rig, 1);
    rig.reopen();
    send(&mut rig, 2);
    send(&mut rig, 3);
    rig.connect("a", holder(2, 1));
    assert_eq!(texts(&rig.take(2)), ["1", "2", "3"]);
    assert_eq!(rig.owner.origins(), [ProxyId(900)]);
    rig.run(Command::ForgetOrigin(ProxyId(900)));
    rig.reopen();
    assert_eq!(rig.owner.origins(), []);
    send(&mut rig, 1);
    assert_eq!(rig.owner.stats().queued_messages, 4);
}

#[test]
fn a_key_makes_a_message_one_whatever_its_origin() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::ExactlyOnce);
    rig.publish_once("t", "x", 5);
    rig.publish_once("t", "x", 5);
    rig.reopen();
    rig.publish_once("t", "x", 5);
    rig.publish_once("t", "y", 6);
    rig.connect("a", holder(2, 1));
    assert_eq!(texts(&rig.take(2)), ["x", "y"]);
    rig.pass(25 * 60 * 60 * 1000);
    for _ in 0..10 {
        rig.pass(1000);
    }
    let rows = rig.store.rows();
    assert!(!rows.iter().any(|(table, _, _)| *table == partition::Table::Once));
}

#[test]
fn overlapping_subscriptions_give_one_message_with_all_identifiers() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe_with(&client, &[("t/#", options(QoS::AtMostOnce))], Some(1));
    rig.subscribe_with(&client, &[("t/+", options(QoS::ExactlyOnce))], Some(2));
    rig.subscribe_with(&client, &[("t/x", options(QoS::AtLeastOnce))], None);
    rig.publish("t/x", "1", QoS::ExactlyOnce);
    let taken = rig.take(1);
    assert_eq!(texts(&taken), ["1"]);
    assert_eq!(taken[0].qos, QoS::ExactlyOnce);
    let mut ids: Vec<u32> = taken[0].subscription_ids.iter().map(|id| id.value()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn a_client_that_asked_for_it_does_not_get_its_own_messages() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    let no_local = SubscriptionOptions { no_local: true, ..options(QoS::AtLeastOnce) };
    rig.subscribe_with(&client, &[("t", no_local)], None);
    for (seq, publisher) in [(1, ClientHash::of(&client.id)), (2, ClientHash(3))] {
        let message = message("t", &seq.to_string(), QoS::AtLeastOnce);
        rig.run(Command::Publish(Publish { publisher, ..publish(seq, message) }));
    }
    assert_eq!(texts(&rig.take(1)), ["2"]);
}

#[test]
fn retain_is_kept_for_who_asked_for_it() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    let kept = SubscriptionOptions { retain_as_published: true, ..options(QoS::AtLeastOnce) };
    rig.subscribe_with(&client, &[("t", kept), ("u", options(QoS::AtLeastOnce))], None);
    rig.retain("t", "1", QoS::AtLeastOnce);
    rig.retain("u", "2", QoS::AtLeastOnce);
    let retain: Vec<bool> = rig.take(1).iter().map(|delivery| delivery.retain).collect();
    assert_eq!(retain, [true, false]);
}

#[test]
fn a_message_expires_while_it_waits_unless_it_may_have_been_sent() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    let expiring =
        |payload| Message { expiry_secs: Some(10), ..message("t", payload, QoS::AtLeastOnce) };
    rig.publish_message(expiring("sent"));
    assert_eq!(rig.take(1)[0].expires_at, Some(UnixMillis(rig.now.0 + 10_000)));
    rig.detach(&client, Farewell::Abnormal);
    rig.publish_message(expiring("not sent"));
    rig.publish("t", "stays", QoS::AtLeastOnce);
    rig.reopen();
    rig.now.0 += 10_000;
    rig.connect("a", holder(2, 1));
    assert_eq!(texts(&rig.take(2)), ["sent", "stays"]);
    assert_eq!(rig.owner.stats().dropped.of(partition::DropReason::Expired), 1);
    assert_eq!(rig.owner.stats().queued_messages, 2);
}

#[test]
fn routes_tell_the_highest_qos_of_all_partitions_before_the_answer() {
    let mut rig = Rig::new();
    let clients: Vec<_> =
        (0..8).map(|number| rig.connect(&format!("c{number}"), holder(1, number))).collect();
    rig.told();
    rig.subscribe(&clients[0], "t", QoS::AtLeastOnce);
    let route = |qos| Effect::Route { filter: filter("t"), qos };
    assert_eq!(rig.answers(), [route(Some(QoS::AtLeastOnce))]);
    for client in &clients[1..] {
        rig.subscribe(client, "t", QoS::AtMostOnce);
    }
    assert_eq!(rig.answers(), []);
    rig.subscribe(&clients[5], "t", QoS::ExactlyOnce);
    assert_eq!(rig.answers(), [route(Some(QoS::ExactlyOnce))]);
    rig.reopen();
    let wanted: Vec<_> = rig.owner.routes().collect();
    assert_eq!(wanted, [(filter("t"), QoS::ExactlyOnce)]);
    rig.unsubscribe(&clients[5], "t");
    assert_eq!(rig.answers(), [route(Some(QoS::AtLeastOnce))]);
    for client in clients.iter().filter(|client| client.id.as_str() != "c5") {
        assert_eq!(rig.unsubscribe(client, "t"), [ReasonCode::Success]);
    }
    assert_eq!(rig.answers().last(), Some(&route(None)));
    assert_eq!(rig.unsubscribe(&clients[0], "t"), [ReasonCode::NoSubscriptionExisted]);
    rig.publish("t", "nobody", QoS::AtLeastOnce);
    assert_eq!(rig.take(1), []);
}

#[test]
fn different_origins_and_lanes_do_not_hide_each_other() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    for (proxy, lane) in [(1, 1), (1, 2), (2, 1)] {
        let origin = Origin { proxy: ProxyId(proxy), lane, seq: 1 };
        let message = message("t", &format!("{proxy}/{lane}"), QoS::AtLeastOnce);
        rig.run(Command::Publish(Publish { origin, ..publish(1, message) }));
    }
    assert_eq!(texts(&rig.take(1)), ["1/1", "1/2", "2/1"]);
}

#[test]
fn what_was_sent_behind_expired_messages_is_known_to_be_sent_after_a_kill() {
    let mut rig = Rig::new();
    let slow = |connection| Attach { receive_maximum: 2, ..attach("a", holder(1, connection)) };
    let client = rig.try_attach(slow(1)).unwrap();
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    for _ in 0..4 {
        let expiring = Message { expiry_secs: Some(1), ..message("t", "x", QoS::AtLeastOnce) };
        rig.publish_message(expiring);
    }
    rig.publish("t", "last", QoS::AtLeastOnce);
    rig.now = UnixMillis(rig.now.0 + 2_000);
    let mut sent = Vec::new();
    rig.owner.deliveries(ProxyId(1), 1 << 20, rig.now, &mut sent).unwrap();
    // Killed before anything else is committed.
    rig.reopen();
    let client = rig.try_attach(slow(2)).unwrap();
    let first = rig.take(1);
    // These may have been sent, for all that is known.
    assert!(first.iter().all(|delivery| delivery.dup));
    rig.settle_all(&client, &first);
    let last = rig.take(1);
    assert_eq!(texts(&last), ["last"]);
    assert!(sent.is_empty() || last[0].dup);
}

#[test]
fn what_lies_behind_expired_messages_comes() {
    let mut rig = Rig::new();
    let slow = Attach { receive_maximum: 2, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(slow).unwrap();
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    for _ in 0..4 {
        let expiring = Message { expiry_secs: Some(1), ..message("t", "x", QoS::AtLeastOnce) };
        rig.publish_message(expiring);
    }
    rig.publish("t", "last", QoS::AtLeastOnce);
    rig.now = UnixMillis(rig.now.0 + 2_000);
    assert_eq!(texts(&rig.take(1)), ["last"]);
}
