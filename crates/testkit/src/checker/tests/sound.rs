//! Histories in which everything is right, though it may not look so.

use super::script::{CLEAN, Hello, Item, PERSISTENT, Script, filter, item};
use super::{Rule, breaks, breaks_if, check, sound};
use crate::record::{End, Filter, What};

#[test]
fn every_qos_comes_to_every_kind_of_session() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t/#", 2));
    script.clean(2, "c");
    script.subscribe(2, filter("+/x", 1));
    script.clean(3, "p");
    for qos in 0..3 {
        let number = u64::from(qos) + 1;
        script.publish(3, item(number, "t/x", qos));
        script.got(1, "p", number, "t/x", qos);
        script.got(2, "p", number, "t/x", qos.min(1));
    }
    script.settle();
    let summary = sound(&script).summary;
    assert_eq!((summary.published.qos0, summary.published.qos2), (1, 1));
    assert_eq!((summary.acknowledged.qos1, summary.received.qos1), (1, 3));
    assert_eq!((summary.connects, summary.latency.count), (3, 6));
}

#[test]
fn what_is_not_owed_may_be_missing() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("zero", 0));
    script.ask(1, filter("refused", 1));
    script.answer(1, 0x97);
    script.ask(1, filter("unanswered", 1));
    script.subscribe(1, Filter { no_local: true, ..filter("own", 1) });
    script.subscribe(1, filter("left", 1));
    script.clean(2, "gone");
    script.subscribe(2, filter("#", 1));
    script.clean(3, "p");
    script.publish(3, item(1, "zero", 1));
    script.publish(3, item(2, "refused", 1));
    script.publish(3, item(3, "unanswered", 1));
    script.publish(3, item(4, "left", 1));
    script.publish(1, item(5, "own", 1));
    script.send(3, item(6, "left", 1));
    script.acknowledge(3, 6, 0x97);
    script.send(3, item(7, "left", 1));
    script.publish(3, Item { expiry_secs: Some(1), ..item(8, "left", 1) });
    script.publish(3, item(9, "zero", 0));
    script.unsubscribe(1, "left");
    script.end(2, End::Broken);
    script.settle();
    sound(&script);
}

#[test]
fn an_earlier_session_is_owed_nothing() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.clean(2, "p");
    script.publish(2, item(1, "t", 1));
    script.end(1, End::Broken);
    script.connect(3, "s", Hello { clean_start: true, ..PERSISTENT });
    script.connected(3, false);
    script.settle();
    sound(&script);
}

#[test]
fn what_expired_while_nobody_was_there_may_be_missing() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.clean(2, "p");
    script.end(1, End::Broken);
    script.publish(2, Item { expiry_secs: Some(10), ..item(1, "t", 1) });
    script.wait(20_000);
    script.persistent(3, "s", true);
    script.settle();
    sound(&script);
}

#[test]
fn an_unknown_connect_leaves_both_answers_open() {
    for present in [true, false] {
        let mut script = Script::default();
        script.connect(1, "s", PERSISTENT);
        script.not_connected(1);
        script.persistent(2, "s", present);
        script.settle();
        sound(&script);
    }
}

#[test]
fn an_unknown_clean_start_may_have_ended_the_session() {
    for present in [true, false] {
        let mut script = Script::default();
        script.persistent(1, "s", false);
        script.subscribe(1, filter("t", 1));
        script.clean(2, "p");
        script.publish(2, item(1, "t", 1));
        script.end(1, End::Broken);
        script.connect(3, "s", Hello { clean_start: true, ..PERSISTENT });
        script.not_connected(3);
        script.persistent(4, "s", present);
        script.settle();
        sound(&script);
    }
}

/// A client that comes back `millis` after its connection broke, at the second attempt, and gets nothing.
fn nothing_after(millis: u64) -> Script {
    let hello = Hello { expiry_secs: 10, ..PERSISTENT };
    let mut script = Script::default();
    script.connect(1, "s", hello.clone());
    script.connected(1, false);
    script.subscribe(1, filter("t", 1));
    script.clean(2, "p");
    script.end(1, End::Broken);
    script.wait(millis);
    script.connect(3, "s", hello.clone());
    script.not_connected(3);
    script.publish(2, item(1, "t", 1));
    script.connect(4, "s", hello);
    script.connected(4, true);
    script.settle();
    script
}

#[test]
fn an_unknown_connect_may_have_begun_another_session_after_the_earlier_one_expired() {
    sound(&nothing_after(11_000));
    breaks(&nothing_after(5_000), Rule::Lost, 1);
}

#[test]
fn an_unknown_connect_may_take_effect_late() {
    for present in [true, false] {
        let mut script = Script::default();
        script.persistent(1, "s", false);
        script.end(1, End::Broken);
        script.connect(2, "s", Hello { clean_start: true, expiry_secs: 0, ..PERSISTENT });
        script.not_connected(2);
        script.persistent(3, "s", true);
        script.wait(5_000);
        script.end(3, End::Sent(0x8E));
        script.persistent(4, "s", present);
        script.settle();
        sound(&script);
    }
}

#[test]
fn connects_at_the_same_time_have_any_order() {
    for present in [true, false] {
        let mut script = Script::default();
        script.connect(1, "s", CLEAN);
        script.connect(2, "s", PERSISTENT);
        script.connected(1, false);
        script.connected(2, false);
        script.end(1, End::Sent(0x8E));
        script.end(2, End::Broken);
        script.persistent(3, "s", present);
        script.settle();
        sound(&script);
    }
}

#[test]
fn a_session_may_be_there_or_not_when_it_is_about_to_expire() {
    for present in [true, false] {
        let mut script = Script::default();
        script.connect(1, "s", Hello { expiry_secs: 10, ..PERSISTENT });
        script.connected(1, false);
        script.end(1, End::Broken);
        script.wait(10_000);
        script.persistent(2, "s", present);
        script.settle();
        sound(&script);
    }
}

#[test]
fn messages_sent_again_come_again_and_keep_the_order_of_their_first_connection() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.persistent(2, "p", false);
    script.publish(2, item(1, "t", 1));
    script.send(2, item(2, "t", 1));
    script.send(2, item(3, "t", 1));
    for number in 1..=3 {
        script.got(1, "p", number, "t", 1);
    }
    script.end(2, End::Broken);
    script.persistent(3, "p", true);
    for number in 2..=3 {
        script.publish(3, Item { dup: true, ..item(number, "t", 1) });
    }
    script.publish(3, item(4, "t", 1));
    for number in 2..=4 {
        script.got(1, "p", number, "t", 1);
    }
    script.settle();
    let summary = sound(&script).summary;
    assert_eq!((summary.duplicates, summary.reconnects), (2, 1));
    assert!((summary.duplicates_per_thousand - 333.3).abs() < 0.1);
}

#[test]
fn a_message_that_expired_on_its_way_and_was_sent_again_may_come_after_a_later_one() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 2));
    script.persistent(2, "p", false);
    let expiring = || Item { expiry_secs: Some(1), ..item(1, "t", 2) };
    script.send(2, expiring());
    script.send(2, item(2, "t", 2));
    script.wait(2000);
    script.got(1, "p", 2, "t", 2);
    script.end(2, End::Broken);
    script.persistent(3, "p", true);
    script.publish(3, Item { dup: true, ..expiring() });
    script.publish(3, Item { dup: true, ..item(2, "t", 2) });
    script.got(1, "p", 1, "t", 2);
    script.settle();
    sound(&script);
}

#[test]
fn a_message_that_was_dropped_at_qos_0_and_sent_again_may_come_after_a_later_one() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 0));
    script.end(1, End::Broken);
    script.persistent(2, "p", false);
    script.send(2, item(1, "t", 1));
    script.persistent(3, "s", true);
    script.send(2, item(2, "t", 1));
    script.got(3, "p", 2, "t", 0);
    script.end(2, End::Broken);
    script.persistent(4, "p", true);
    script.publish(4, Item { dup: true, ..item(1, "t", 1) });
    script.publish(4, Item { dup: true, ..item(2, "t", 1) });
    script.got(3, "p", 1, "t", 0);
    script.got(3, "p", 2, "t", 0);
    script.settle();
    sound(&script);
}

#[test]
fn a_message_that_a_full_store_refused_and_that_was_sent_again_may_come_after_a_later_one() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.persistent(2, "p", false);
    script.fault("disk-full");
    script.send(2, item(1, "t", 1));
    script.healed("disk-full");
    script.send(2, item(2, "t", 1));
    script.got(1, "p", 2, "t", 1);
    script.end(2, End::Broken);
    script.persistent(3, "p", true);
    script.publish(3, Item { dup: true, ..item(1, "t", 1) });
    script.publish(3, Item { dup: true, ..item(2, "t", 1) });
    script.got(1, "p", 1, "t", 1);
    script.got(1, "p", 2, "t", 1);
    script.settle();
    sound(&script);
}

#[test]
fn a_message_sent_again_after_a_subscribe_may_come_after_one_that_was_sent_later() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.persistent(2, "p", false);
    script.send(2, item(1, "t", 1));
    script.subscribe(1, filter("t", 1));
    script.send(2, item(2, "t", 1));
    script.got(1, "p", 2, "t", 1);
    script.end(2, End::Broken);
    script.persistent(3, "p", true);
    script.publish(3, Item { dup: true, ..item(1, "t", 1) });
    script.publish(3, Item { dup: true, ..item(2, "t", 1) });
    script.got(1, "p", 1, "t", 1);
    script.got(1, "p", 2, "t", 1);
    script.settle();
    sound(&script);
}

#[test]
fn a_message_whose_first_copy_expired_comes_when_its_second_does() {
    for expiry_secs in [Some(1), None] {
        let mut script = Script::default();
        script.persistent(1, "s", false);
        script.subscribe(1, filter("t", 1));
        script.persistent(2, "p", false);
        let expiring = Item { expiry_secs, ..item(1, "t", 1) };
        script.send(2, expiring.clone());
        script.publish(2, item(2, "t", 1));
        script.end(2, End::Broken);
        script.wait(2_000);
        script.got(1, "p", 2, "t", 1);
        script.persistent(3, "p", true);
        script.publish(3, Item { dup: true, ..expiring });
        script.got(1, "p", 1, "t", 1);
        script.settle();
        breaks_if(expiry_secs.is_none(), &script, Rule::Order, 1);
    }
}

#[test]
fn a_takeover_ends_the_older_connection() {
    let mut script = Script::default();
    script.clean(9, "p");
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.publish(9, item(1, "t", 1));
    script.connect(2, "s", PERSISTENT);
    script.got(1, "p", 1, "t", 1);
    script.connected(2, true);
    script.end(1, End::Sent(0x8E));
    script.receive(2, Item { dup: true, ..item(1, "t", 1) });
    script.settle();
    assert_eq!(sound(&script).summary.takeovers, 1);
}

#[test]
fn a_client_that_was_served_while_the_store_was_away_may_end_its_successor() {
    for (fault, hello) in [(true, CLEAN), (true, PERSISTENT), (false, CLEAN)] {
        let is_sound = fault && hello.expiry_secs == 0;
        let mut script = Script::default();
        if fault {
            script.fault("freeze");
        }
        script.connect(1, "s", hello.clone());
        script.connected(1, false);
        script.end(1, End::Broken);
        script.connect(2, "s", hello);
        script.connected(2, false);
        script.end(2, End::Sent(0x8E));
        script.healed("freeze");
        script.settle();
        let counts = check(&script.events).counts;
        assert_eq!(counts.contains_key(&Rule::Takeover), !is_sound, "{counts:?}");
    }
}

#[test]
fn a_clean_start_that_the_store_never_heard_of_ends_nothing() {
    for fault in [true, false] {
        let mut script = Script::default();
        script.persistent(1, "s", false);
        script.end(1, End::Left(0));
        script.clean(2, "s");
        if fault {
            script.fault("hold link");
        }
        script.end(2, End::Broken);
        script.persistent(3, "s", true);
        script.settle();
        let counts = check(&script.events).counts;
        assert_eq!(counts.contains_key(&Rule::SessionPresent), !fault, "{counts:?}");
    }
}

#[test]
fn what_is_on_its_way_on_an_older_connection_may_come_after_what_the_newer_one_brings() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.clean(3, "p");
    script.publish(3, item(1, "t", 1));
    script.persistent(2, "s", true);
    script.publish(3, item(2, "t", 1));
    script.got(2, "p", 2, "t", 1);
    script.got(1, "p", 1, "t", 1);
    script.end(1, End::Sent(0x8E));
    script.settle();
    sound(&script);
}

#[test]
fn an_older_connection_may_be_answered_after_the_newer_one() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.end(1, End::Broken);
    script.clean(9, "p");
    script.connect(2, "s", PERSISTENT);
    script.publish(9, item(1, "t", 1));
    script.connect(3, "s", PERSISTENT);
    script.publish(9, item(2, "t", 1));
    script.connected(3, true);
    script.got(3, "p", 2, "t", 1);
    script.connected(2, true);
    script.got(2, "p", 1, "t", 1);
    script.end(2, End::Sent(0x8E));
    script.settle();
    sound(&script);
}

#[test]
fn what_was_published_before_an_unsubscribe_may_come_after_it() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.clean(2, "p");
    script.publish(2, item(1, "t", 1));
    script.unsubscribe(1, "t");
    script.got(1, "p", 1, "t", 1);
    script.settle();
    sound(&script);
}

#[test]
fn each_subscribe_brings_the_retained_message_beside_the_live_one() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 2));
    script.clean(2, "p");
    let message = Item { retain: true, ..item(1, "t", 2) };
    script.publish(2, message.clone());
    script.got(1, "p", 1, "t", 2);
    for _ in 0..2 {
        script.subscribe(1, filter("t", 2));
        script.receive(1, message.clone());
    }
    script.subscribe(1, Filter { retain_as_published: true, ..filter("#", 2) });
    script.receive(1, message);
    script.settle();
    sound(&script);
}

#[test]
fn a_retained_message_may_be_the_one_before_while_it_is_replaced() {
    for number in [1, 2] {
        let mut script = Script::default();
        script.clean(2, "p");
        let retained = |number| Item { retain: true, ..item(number, "t", 1) };
        script.publish(2, retained(1));
        script.send(2, retained(2));
        script.persistent(1, "s", false);
        script.subscribe(1, filter("t", 1));
        script.receive(1, retained(number));
        script.acknowledge(2, 2, 0);
        script.settle();
        sound(&script);
    }
}

/// A subscriber that gets 1 and 2 live and subscribes again, while 2 is not in the store for `millis`.
fn subscribed_again(hello: Hello, millis: u64) -> Script {
    let retained = |number| Item { retain: true, ..item(number, "t", 1) };
    let mut script = Script::default();
    script.connect(1, "s", hello);
    script.connected(1, false);
    script.subscribe(1, filter("t", 1));
    script.clean(2, "p");
    script.publish(2, retained(1));
    script.got(1, "p", 1, "t", 1);
    script.send(2, retained(2));
    script.got(1, "p", 2, "t", 1);
    script.wait(millis);
    script.subscribe(1, filter("t", 1));
    script.receive(1, retained(1));
    script.acknowledge(2, 2, 0);
    script.settle();
    script
}

#[test]
fn a_clean_session_remembers_for_some_seconds_what_the_store_has_not() {
    sound(&subscribed_again(CLEAN, 6_000));
    breaks(&subscribed_again(CLEAN, 3_000), Rule::Retained, 1);
    breaks(&subscribed_again(PERSISTENT, 6_000), Rule::Retained, 1);
}

#[test]
fn a_member_that_goes_gives_its_messages_to_another() {
    let mut script = Script::default();
    script.clean(1, "a");
    script.subscribe(1, filter("$share/g/t", 1));
    script.persistent(2, "b", false);
    script.subscribe(2, filter("$share/g/t", 1));
    script.clean(3, "p");
    script.publish(3, item(1, "t", 1));
    script.got(1, "p", 1, "t", 1);
    script.publish(3, item(2, "t", 1));
    script.end(1, End::Broken);
    for number in 1..=2 {
        script.got(2, "p", number, "t", 1);
    }
    script.settle();
    sound(&script);
}

#[test]
fn a_member_that_the_store_lost_sight_of_may_not_be_the_only_one() {
    for lost_sight in [true, false] {
        let mut script = Script::default();
        for (conn, client) in [(1, "a"), (2, "b")] {
            script.persistent(conn, client, false);
            script.subscribe(conn, filter("$share/g/t", 1));
        }
        script.clean(3, "p");
        script.publish(3, item(1, "t", 1));
        script.got(1, "p", 1, "t", 1);
        if lost_sight {
            script.fault("kill");
            script.healed("kill");
        }
        script.got(2, "p", 1, "t", 1);
        script.settle();
        breaks_if(!lost_sight, &script, Rule::Shared, 1);
    }
}

#[test]
fn a_member_with_another_subscription_gets_both() {
    let mut script = Script::default();
    script.persistent(1, "a", false);
    script.subscribe(1, filter("$share/g/t", 2));
    script.subscribe(1, filter("$share/h/#", 2));
    script.subscribe(1, filter("t", 2));
    script.clean(2, "p");
    script.publish(2, item(1, "t", 2));
    for _ in 0..3 {
        script.got(1, "p", 1, "t", 2);
    }
    script.settle();
    sound(&script);
}

#[test]
fn who_leaves_after_the_end_was_there_to_the_end() {
    let mut script = Script::default();
    script.clean(1, "s");
    script.subscribe(1, filter("t", 1));
    script.clean(2, "p");
    script.publish(2, item(1, "t", 1));
    script.settle();
    script.end(1, End::Left(0));
    breaks(&script, Rule::Lost, 1);
}

#[test]
fn recovery_is_counted_from_the_fault_to_the_first_message_of_each_publisher_that_is_done() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.clean(2, "p");
    script.publish(2, item(1, "t", 1));
    script.got(1, "p", 1, "t", 1);
    script.fault("kill");
    script.send(2, item(2, "t", 1));
    script.wait(3_000);
    script.acknowledge(2, 2, 0);
    script.got(1, "p", 2, "t", 1);
    script.healed("kill");
    script.put(What::AllHealed);
    script.settle();
    let summary = sound(&script).summary;
    assert_eq!(summary.faults.get("kill"), Some(&1));
    assert_eq!((summary.recovery.count, summary.recovery.max_micros), (1, 3_003_000));
    assert_eq!(summary.latency_after_kill.max_micros, 3_002_000);
    assert_eq!((summary.latency.count, summary.latency.p50_micros), (2, 2_000));
}
