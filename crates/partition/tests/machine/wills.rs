//! Wills: when they are published, when not, and that each is one message whatever is killed.

use mqtt_codec::{Message, QoS};
use partition::{
    Attach, Command, Effect, Farewell, OnceKey, OutboxId, OwnerConfig, ProxyId, QueueSeq, Reattach,
    UnixMillis,
};

use crate::rig::{Client, EVER, Rig, attach, holder, text, texts, will};

/// A client with a will to `w`, of its own name.
fn client(rig: &mut Rig, name: &str, expiry_secs: u32, delay_secs: u32) -> Client {
    let will = Some(will("w", name, delay_secs));
    let attach = Attach { will, expiry_secs, ..attach(name, holder(1, rig.now.0)) };
    rig.try_attach(attach).unwrap()
}

fn sends(rig: &mut Rig) -> Vec<(OutboxId, String, OnceKey)> {
    let sent = rig.told().into_iter().filter_map(|effect| {
        let Effect::Send { id, message, once, .. } = effect else { return None };
        Some((id, text(&message), once))
    });
    sent.collect()
}

fn fired(rig: &mut Rig) -> Vec<String> {
    rig.settle();
    sends(rig).into_iter().map(|(_, text, _)| text).collect()
}

#[test]
fn an_abnormal_end_publishes_the_will_and_a_clean_one_does_not() {
    for expiry_secs in [0, 60] {
        let mut rig = Rig::new();
        let clean = client(&mut rig, "clean", expiry_secs, 0);
        rig.detach_for(&clean, Farewell::Clean, expiry_secs);
        let lost = client(&mut rig, "lost", expiry_secs, 0);
        rig.detach_for(&lost, Farewell::Abnormal, expiry_secs);
        assert_eq!(fired(&mut rig), ["lost"]);
        rig.pass(100_000);
        assert_eq!(fired(&mut rig), [""; 0]);
    }
}

#[test]
fn a_will_waits_for_its_delay_and_not_longer_than_its_session() {
    let mut rig = Rig::new();
    let delayed = client(&mut rig, "delayed", EVER, 30);
    let short = client(&mut rig, "short", 10, 30);
    rig.detach(&delayed, Farewell::Abnormal);
    rig.detach_for(&short, Farewell::Abnormal, 10);
    rig.pass(9_999);
    assert_eq!(fired(&mut rig), [""; 0]);
    rig.pass(1);
    assert_eq!(fired(&mut rig), ["short"]);
    rig.pass(20_000);
    assert_eq!(fired(&mut rig), ["delayed"]);
}

#[test]
fn a_client_that_comes_back_in_time_calls_its_will_off() {
    let mut rig = Rig::new();
    let first = client(&mut rig, "a", EVER, 30);
    rig.detach(&first, Farewell::Abnormal);
    rig.pass(29_000);
    rig.connect("a", holder(2, 2));
    rig.pass(100_000);
    assert_eq!(fired(&mut rig), [""; 0]);
}

#[test]
fn a_new_session_of_the_client_publishes_the_will_of_the_old_one_at_once() {
    let mut rig = Rig::new();
    let first = client(&mut rig, "a", EVER, 30);
    rig.detach(&first, Farewell::Abnormal);
    let anew = Attach { clean_start: true, ..attach("a", holder(2, 2)) };
    rig.try_attach(anew).unwrap();
    assert_eq!(fired(&mut rig), ["a"]);
}

#[test]
fn clients_of_a_proxy_that_stops_have_a_moment_to_go_elsewhere() {
    for (clean_start, expiry_secs) in [(false, EVER), (true, 0), (true, EVER)] {
        let mut rig = Rig::new();
        for name in ["moves", "stays"] {
            let client = client(&mut rig, name, expiry_secs, 0);
            rig.detach_for(&client, Farewell::ProxyStops, expiry_secs);
        }
        rig.pass(9_000);
        let elsewhere = Attach { clean_start, expiry_secs, ..attach("moves", holder(2, 2)) };
        rig.try_attach(elsewhere).unwrap();
        assert_eq!(fired(&mut rig), [""; 0]);
        rig.pass(1_000);
        assert_eq!(fired(&mut rig), ["stays"]);
        rig.pass(100_000);
        assert_eq!(fired(&mut rig), [""; 0]);
    }
}

#[test]
fn a_takeover_is_an_abnormal_end_of_the_older_connection() {
    let mut rig = Rig::new();
    client(&mut rig, "clean", 0, 0);
    rig.try_attach(Attach { expiry_secs: 0, ..attach("clean", holder(2, 2)) }).unwrap();
    assert_eq!(fired(&mut rig), ["clean"]);
}

#[test]
fn a_dead_proxy_leaves_the_wills_of_its_clients() {
    let mut rig = Rig::new();
    client(&mut rig, "clean", 0, 0);
    client(&mut rig, "kept", EVER, 0);
    rig.run(Command::ProxyDead(ProxyId(1)));
    let mut all = fired(&mut rig);
    all.sort();
    assert_eq!(all, ["clean", "kept"]);
}

#[test]
fn wills_outlive_the_process_and_are_published_when_their_proxy_does_not_come_back() {
    let mut rig = Rig::new();
    client(&mut rig, "clean", 0, 0);
    client(&mut rig, "kept", EVER, 0);
    let there = client(&mut rig, "there", 0, 0);
    rig.reopen();
    assert_eq!(rig.owner.proxies(), [ProxyId(1)]);
    assert_eq!(fired(&mut rig), [""; 0]);
    // One connection goes on, and then all end with their proxy.
    let request = rig.request();
    rig.run(Command::Reattach(Box::new(Reattach {
        attach: Attach {
            request,
            expiry_secs: 0,
            will: Some(will("w", "there", 0)),
            ..attach("there", there.holder)
        },
        session: there.attached.session,
        epoch: there.attached.epoch,
        received_up_to: QueueSeq(0),
        group_deliveries: Vec::new(),
        groups: Vec::new(),
    })));
    assert_eq!(fired(&mut rig), [""; 0]);
    rig.run(Command::ProxyDead(ProxyId(1)));
    let mut all = fired(&mut rig);
    all.sort();
    assert_eq!(all, ["clean", "kept", "there"]);
}

#[test]
fn a_will_that_is_due_fires_after_a_restart_too() {
    let mut rig = Rig::new();
    let lost = client(&mut rig, "a", EVER, 30);
    rig.detach(&lost, Farewell::Abnormal);
    rig.reopen();
    rig.pass(29_999);
    assert_eq!(fired(&mut rig), [""; 0]);
    rig.reopen();
    rig.pass(1);
    assert_eq!(fired(&mut rig), ["a"]);
}

#[test]
fn a_will_is_sent_again_after_each_restart_until_the_relays_have_it() {
    let mut rig = Rig::new();
    let lost = client(&mut rig, "a", 0, 0);
    rig.detach_for(&lost, Farewell::Abnormal, 0);
    rig.settle();
    let first = sends(&mut rig);
    rig.reopen();
    assert_eq!(sends(&mut rig), first, "the same message with the same key");
    assert_eq!(rig.owner.stats().outbox, 1);
    rig.run(Command::Sent(first[0].0));
    rig.reopen();
    assert_eq!((sends(&mut rig).len(), rig.owner.stats().outbox), (0, 0));
}

#[test]
fn everyone_here_gets_a_will_with_the_commit_that_fires_it_and_once() {
    let mut rig = Rig::new();
    let own = rig.connect("own", holder(2, 1));
    rig.subscribe(&own, "w", QoS::AtLeastOnce);
    let shared = rig.connect("shared", holder(3, 1));
    rig.subscribe(&shared, "$share/g/w", QoS::AtLeastOnce);
    let retained = Message { retain: true, ..crate::rig::message("w", "gone", QoS::AtLeastOnce) };
    let will = Some(mqtt_codec::Will { message: retained, delay_secs: 0 });
    let lost = rig.try_attach(Attach { will, ..attach("lost", holder(1, 1)) }).unwrap();
    rig.detach(&lost, Farewell::Abnormal);
    rig.settle();
    rig.reopen();
    let sent = sends(&mut rig);
    assert_eq!(sent.len(), 1);
    for name in ["own", "shared"] {
        rig.connect(name, holder(4, 9));
        rig.settle();
        assert_eq!(texts(&rig.take(4)), ["gone"], "for {name}");
    }
    let page = rig.owner.retained(&crate::rig::filter("#"), None, 10, rig.now);
    assert_eq!(page.messages.len(), 1);
    // It comes back by the relays, from another who had sent it.
    rig.publish_once("w", "gone", sent[0].2.0);
    assert!(rig.take(4).is_empty());
}

#[test]
fn a_burst_of_wills_keeps_to_its_pace_and_none_is_lost() {
    let config = OwnerConfig { partitions: 4, wills_per_second: 100, ..OwnerConfig::default() };
    let mut rig = Rig::with(config);
    for number in 0..300 {
        let will = Some(will("w", &number.to_string(), 0));
        let attach =
            Attach { will, expiry_secs: 0, ..attach(&format!("c{number}"), holder(1, number)) };
        rig.try_attach(attach).unwrap();
    }
    rig.run(Command::ProxyDead(ProxyId(1)));
    let mut all = fired(&mut rig).len();
    assert!((1..=20).contains(&all), "{all} at once");
    for _ in 0..4 {
        rig.pass(500);
        let some = fired(&mut rig).len();
        assert!(some <= 61, "{some} in half a second");
        all += some;
    }
    assert!(all < 300);
    for _ in 0..30 {
        rig.pass(500);
        all += fired(&mut rig).len();
    }
    assert_eq!(all, 300);
}

#[test]
fn wills_that_had_to_wait_come_in_the_order_in_which_they_were_due() {
    let config = OwnerConfig { partitions: 4, wills_per_second: 10, ..OwnerConfig::default() };
    let mut rig = Rig::with(config);
    for number in (0..20).rev() {
        let lost = client(&mut rig, &format!("{number:02}"), EVER, 10 + number);
        rig.detach(&lost, Farewell::Abnormal);
    }
    rig.now = UnixMillis(rig.now.0 + 100_000);
    let mut all = Vec::new();
    for _ in 0..40 {
        all.extend(fired(&mut rig));
        rig.pass(100);
    }
    assert_eq!(all, (0..20).map(|number| format!("{number:02}")).collect::<Vec<_>>());
}
