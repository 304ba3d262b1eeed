//! Histories that break one promise each.

use super::script::{CLEAN, Hello, Item, PERSISTENT, Script, filter, item};
use super::{Rule, breaks, sound};
use crate::record::{ConnId, End, Filter, What};

/// A subscriber `s` on connection 1, persistent, and a publisher on connection 2.
fn pair(text: &str, qos: u8) -> Script {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter(text, qos));
    script.clean(2, "p");
    script
}

fn retained(number: u64, qos: u8) -> Item {
    Item { retain: true, ..item(number, "t", qos) }
}

fn deletion(number: u64) -> Item {
    Item { empty: true, ..retained(number, 1) }
}

#[test]
fn lost_for_a_persistent_session() {
    for (qos, granted) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let mut script = pair("+/x", granted);
        script.end(1, End::Broken);
        let first = script.send(2, item(1, "t/x", qos));
        let acked = script.acknowledge(2, 1, 0);
        script.publish(2, item(2, "t/x", qos));
        script.persistent(3, "s", true);
        script.got(3, "p", 2, "t/x", qos.min(granted));
        script.settle();
        let verdict = breaks(&script, Rule::Lost, 1);
        let shown = &verdict.violations[0].events;
        assert!(shown.contains(&first) && shown.contains(&acked), "{verdict}");
    }
}

#[test]
fn lost_for_a_clean_session_that_stayed() {
    let mut script = Script::default();
    script.clean(1, "s");
    script.subscribe(1, filter("#", 1));
    script.clean(2, "p");
    script.publish(2, item(1, "t", 1));
    script.settle();
    breaks(&script, Rule::Lost, 1);
}

#[test]
fn lost_though_it_could_not_have_expired() {
    let expiring = Item { expiry_secs: Some(10), ..item(1, "t", 1) };
    let mut script = pair("t", 1);
    script.publish(2, expiring);
    script.publish(2, item(2, "t", 1));
    script.got(1, "p", 2, "t", 1);
    script.settle();
    breaks(&script, Rule::Lost, 1);
}

#[test]
fn lost_though_the_subscription_was_asked_for_again() {
    let mut script = pair("t", 1);
    script.ask(1, filter("t", 2));
    script.publish(2, item(1, "t", 1));
    script.answer(1, 2);
    script.settle();
    breaks(&script, Rule::Lost, 1);
}

#[test]
fn repeated_at_qos_2() {
    let mut script = pair("t", 2);
    script.publish(2, item(1, "t", 2));
    script.got(1, "p", 1, "t", 2);
    script.end(1, End::Broken);
    script.persistent(3, "s", true);
    script.receive(3, Item { dup: true, new: false, ..item(1, "t", 2) });
    script.settle();
    sound(&script);
    script.events.pop();
    script.got(3, "p", 1, "t", 2);
    breaks(&script, Rule::Repeated, 1);
}

#[test]
fn repeated_at_qos_0() {
    let mut script = pair("t", 0);
    script.publish(2, item(1, "t", 2));
    script.got(1, "p", 1, "t", 0);
    script.got(1, "p", 1, "t", 0);
    script.settle();
    breaks(&script, Rule::Repeated, 1);
}

#[test]
fn repeated_for_overlapping_subscriptions() {
    let mut script = pair("t", 2);
    script.subscribe(1, filter("#", 2));
    script.publish(2, item(1, "t", 2));
    script.got(1, "p", 1, "t", 2);
    script.got(1, "p", 1, "t", 2);
    script.settle();
    breaks(&script, Rule::Repeated, 1);
}

#[test]
fn repeated_as_retained_message_of_one_subscribe() {
    let mut script = Script::default();
    script.clean(2, "p");
    script.publish(2, retained(1, 2));
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 2));
    script.receive(1, retained(1, 2));
    script.settle();
    sound(&script);
    script.receive(1, retained(1, 2));
    breaks(&script, Rule::Repeated, 1);
}

#[test]
fn order_of_one_connection() {
    let mut script = pair("t", 1);
    for number in 1..=3 {
        script.publish(2, item(number, "t", 1));
    }
    for number in [1, 3, 2] {
        script.got(1, "p", number, "t", 1);
    }
    script.settle();
    breaks(&script, Rule::Order, 1);
}

#[test]
fn order_across_connections_that_followed_each_other() {
    let mut script = pair("t", 1);
    script.publish(2, item(1, "t", 1));
    script.publish(2, item(2, "t", 1));
    script.got(1, "p", 2, "t", 1);
    script.persistent(3, "s", true);
    script.got(3, "p", 1, "t", 1);
    script.end(1, End::Sent(0x8E));
    script.settle();
    breaks(&script, Rule::Order, 1);
}

#[test]
fn order_of_messages_that_were_sent_again() {
    let mut script = pair("t", 1);
    script.persistent(3, "p", true);
    script.events.truncate(script.events.len() - 2);
    script.persistent(3, "p2", false);
    script.send(3, item(1, "t", 1));
    script.send(3, item(2, "t", 1));
    script.end(3, End::Broken);
    script.persistent(4, "p2", true);
    for number in [1, 2] {
        script.publish(4, Item { dup: true, ..item(number, "t", 1) });
    }
    for number in [2, 1] {
        script.got(1, "p", number, "t", 1);
    }
    script.settle();
    breaks(&script, Rule::Order, 1);
}

#[test]
fn unsubscribed_from_the_beginning() {
    for (text, topic) in [("a/+", "a/b/c"), ("#", "$a"), ("+/b", "$a/b"), ("a/b", "a")] {
        let mut script = pair(text, 1);
        script.send(2, item(1, topic, 1));
        script.got(1, "p", 1, topic, 1);
        script.settle();
        breaks(&script, Rule::Unsubscribed, 1);
    }
}

#[test]
fn unsubscribed_before_the_publish() {
    let mut script = pair("t", 1);
    script.subscribe(1, filter("#", 1));
    script.unsubscribe(1, "#");
    script.publish(2, item(1, "t", 1));
    script.got(1, "p", 1, "t", 1);
    script.unsubscribe(1, "t");
    script.publish(2, item(2, "t", 1));
    script.settle();
    sound(&script);
    script.got(1, "p", 2, "t", 1);
    breaks(&script, Rule::Unsubscribed, 1);
}

#[test]
fn unsubscribed_in_a_new_session_of_the_client() {
    let mut script = pair("t", 1);
    script.end(1, End::Left(0));
    script.connect(3, "s", Hello { clean_start: true, ..PERSISTENT });
    script.connected(3, false);
    script.publish(2, item(1, "t", 1));
    script.got(3, "p", 1, "t", 1);
    script.settle();
    breaks(&script, Rule::Unsubscribed, 1);
}

#[test]
fn unsubscribed_from_a_deletion() {
    let mut script = pair("t", 1);
    script.publish(2, Item { topic: "u", ..deletion(1) });
    script.put(What::ReceivedEmpty { conn: ConnId(1), topic: "u".to_owned(), retain: false });
    script.settle();
    breaks(&script, Rule::Unsubscribed, 1);
}

#[test]
fn session_present_after_a_clean_start() {
    let mut script = Script::default();
    script.connect(1, "s", CLEAN);
    script.connected(1, true);
    script.settle();
    breaks(&script, Rule::SessionPresent, 1);
}

#[test]
fn session_present_without_a_session() {
    let mut script = Script::default();
    script.persistent(1, "s", true);
    script.settle();
    breaks(&script, Rule::SessionPresent, 1);
    let mut script = Script::default();
    script.clean(1, "s");
    script.end(1, End::Left(0));
    script.persistent(2, "s", true);
    script.settle();
    breaks(&script, Rule::SessionPresent, 1);
}

#[test]
fn session_present_after_the_session_expired() {
    for (wait, present) in [(99_000, true), (5_000, false)] {
        let mut script = Script::default();
        script.connect(1, "s", Hello { expiry_secs: 10, ..PERSISTENT });
        script.connected(1, false);
        script.end(1, End::Left(0));
        script.wait(wait);
        script.persistent(2, "s", present);
        script.settle();
        breaks(&script, Rule::SessionPresent, 1);
    }
}

#[test]
fn session_present_not_told() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.end(1, End::Broken);
    script.connect(2, "s", PERSISTENT);
    script.not_connected(2);
    script.persistent(3, "s", false);
    script.settle();
    breaks(&script, Rule::SessionPresent, 1);
}

#[test]
fn takeover_that_leaves_two() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.persistent(2, "s", true);
    script.settle();
    breaks(&script, Rule::Takeover, 1);
}

#[test]
fn takeover_after_which_the_older_is_served() {
    let mut script = Script::default();
    script.clean(9, "p");
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.persistent(2, "s", true);
    script.wait(11_000);
    script.send(9, item(1, "t", 1));
    script.got(1, "p", 1, "t", 1);
    script.end(1, End::Broken);
    script.settle();
    breaks(&script, Rule::Takeover, 1);
}

#[test]
fn takeover_told_to_a_connection_that_nobody_followed() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.end(1, End::Left(0));
    script.persistent(2, "s", true);
    script.end(2, End::Sent(0x8E));
    script.wait(1_000);
    script.persistent(3, "s", true);
    script.settle();
    breaks(&script, Rule::Takeover, 1);
}

/// A publisher on connection 2 that retained messages 1 and 2.
fn two_retained() -> Script {
    let mut script = Script::default();
    script.clean(2, "p");
    script.publish(2, retained(1, 1));
    script.publish(2, retained(2, 1));
    script.persistent(1, "s", false);
    script
}

#[test]
fn retained_a_older_than_what_was_acknowledged_before_the_subscribe() {
    let mut script = two_retained();
    script.subscribe(1, filter("t", 1));
    script.receive(1, retained(1, 1));
    script.receive(1, retained(2, 1));
    script.settle();
    breaks(&script, Rule::Retained, 1);
}

#[test]
fn retained_b_older_than_what_was_received_before_the_subscribe() {
    let mut script = pair("t", 1);
    script.publish(2, retained(1, 1));
    script.send(2, retained(2, 1));
    script.got(1, "p", 1, "t", 1);
    script.got(1, "p", 2, "t", 1);
    script.subscribe(1, filter("#", 1));
    script.receive(1, retained(1, 1));
    script.acknowledge(2, 2, 0);
    script.settle();
    let verdict = breaks(&script, Rule::Retained, 1);
    assert!(verdict.violations[0].what.ends_with("later subscription"), "{verdict}");
}

#[test]
fn retained_c_older_after_newer_in_one_answer() {
    let mut script = Script::default();
    script.clean(2, "p");
    script.persistent(1, "s", false);
    script.publish(2, retained(1, 1));
    script.ask(1, filter("t", 1));
    script.send(2, retained(2, 1));
    script.answer(1, 1);
    script.receive(1, retained(2, 1));
    script.receive(1, retained(1, 1));
    script.acknowledge(2, 2, 0);
    script.settle();
    let verdict = breaks(&script, Rule::Retained, 1);
    assert!(verdict.violations[0].what.ends_with("in one answer"), "{verdict}");
}

#[test]
fn retained_d_though_it_was_deleted() {
    let mut script = two_retained();
    script.publish(2, deletion(3));
    script.subscribe(1, filter("t", 1));
    script.settle();
    sound(&script);
    script.receive(1, retained(2, 1));
    let verdict = breaks(&script, Rule::Retained, 1);
    assert!(verdict.violations[0].what.contains("deleted"), "{verdict}");
}

#[test]
fn retained_e_and_never_received() {
    let mut script = two_retained();
    script.subscribe(1, filter("t", 1));
    script.settle();
    breaks(&script, Rule::Retained, 1);
}

/// Two members of a group, on connections 1 and 3.
fn group(qos: u8, hello: &Hello) -> Script {
    let mut script = Script::default();
    for (conn, client) in [(1, "a"), (3, "b")] {
        script.connect(conn, client, hello.clone());
        script.connected(conn, false);
        script.subscribe(conn, filter("$share/g/t", qos));
    }
    script.clean(2, "p");
    script
}

#[test]
fn shared_and_come_to_nobody() {
    for qos in [1, 2] {
        let mut script = group(qos, &PERSISTENT);
        script.publish(2, item(1, "t", qos));
        script.settle();
        breaks(&script, Rule::Shared, 1);
    }
}

#[test]
fn shared_and_new_at_two_sessions() {
    let mut script = group(2, &PERSISTENT);
    script.publish(2, item(1, "t", 2));
    script.got(1, "p", 1, "t", 2);
    script.got(3, "p", 1, "t", 2);
    script.settle();
    breaks(&script, Rule::Shared, 1);
}

#[test]
fn shared_and_new_at_another_after_the_session_of_the_first() {
    let mut script = group(2, &CLEAN);
    script.publish(2, item(1, "t", 2));
    script.got(1, "p", 1, "t", 2);
    script.end(1, End::Dropped);
    script.got(3, "p", 1, "t", 2);
    script.settle();
    breaks(&script, Rule::Shared, 1);
}

#[test]
fn shared_and_with_two_members_at_once() {
    let mut script = group(1, &CLEAN);
    script.publish(2, item(1, "t", 1));
    script.got(1, "p", 1, "t", 1);
    script.got(3, "p", 1, "t", 1);
    script.settle();
    breaks(&script, Rule::Shared, 1);
}

#[test]
fn liveness_of_what_is_owed() {
    for shared in [false, true] {
        let mut script = pair(if shared { "$share/g/t" } else { "t" }, 1);
        script.fault("kill");
        script.publish(2, item(1, "t", 1));
        script.put(What::AllHealed);
        script.wait(31_000);
        script.got(1, "p", 1, "t", 1);
        script.settle();
        breaks(&script, Rule::Liveness, 1);
    }
}

#[test]
fn liveness_of_the_whole() {
    let mut script = Script::default();
    script.put(What::AllHealed);
    script.put(What::Settled { in_time: false });
    breaks(&script, Rule::Liveness, 1);
}

#[test]
fn invented_messages() {
    let mut script = pair("#", 1);
    script.publish(2, item(1, "t", 0));
    script.got(1, "p", 1, "u", 0);
    script.got(1, "p", 1, "t", 0);
    script.settle();
    let verdict = super::check(&script.events);
    assert_eq!(verdict.counts.get(&Rule::Invented), Some(&1), "{verdict}");
    let mut script = pair("#", 2);
    script.publish(2, item(1, "t", 1));
    script.got(1, "p", 1, "t", 2);
    script.settle();
    breaks(&script, Rule::Invented, 1);
    let mut script = pair("#", 2);
    script.got(1, "p", 1, "t", 1);
    script.publish(2, item(1, "t", 1));
    script.got(1, "p", 1, "t", 1);
    script.settle();
    breaks(&script, Rule::Invented, 1);
    let mut script = pair("#", 2);
    script.put(What::ReceivedEmpty { conn: ConnId(1), topic: "t".to_owned(), retain: true });
    script.settle();
    breaks(&script, Rule::Invented, 1);
}

#[test]
fn unanswered_requests() {
    let mut script = pair("t", 1);
    script.send(2, item(1, "t", 1));
    script.got(1, "p", 1, "t", 1);
    script.put(What::AllHealed);
    script.settle();
    breaks(&script, Rule::Unanswered, 1);
    let mut script = pair("t", 2);
    script.put(What::AllHealed);
    script.publish(2, item(1, "t", 2));
    script.publish(2, item(2, "t", 2));
    script.put(What::Completed {
        conn: ConnId(2),
        message: crate::record::MessageId { publisher: "p".to_owned(), number: 1 },
    });
    script.got(1, "p", 1, "t", 2);
    script.got(1, "p", 2, "t", 2);
    script.settle();
    breaks(&script, Rule::Unanswered, 1);
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.ask(1, Filter { no_local: true, ..filter("t", 1) });
    script.put(What::AllHealed);
    script.settle();
    breaks(&script, Rule::Unanswered, 1);
}

#[test]
fn protocol_broken_as_a_client_saw() {
    let mut script = pair("t", 1);
    script.put(What::Violated { conn: ConnId(1), text: "a second CONNACK".to_owned() });
    script.settle();
    breaks(&script, Rule::Protocol, 1);
}
