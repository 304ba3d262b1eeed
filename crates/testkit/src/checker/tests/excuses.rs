//! What a fault excuses, and what it does not: only what it can have touched, and only around its time.

use super::script::{CLEAN, Hello, Item, PERSISTENT, Script, filter, item, will};
use super::{Rule, breaks, breaks_if, sound};
use crate::record::{ConnId, End, What};

/// A subscriber to wills on connection 1, and a client `c` with a will on connection 2, for ten seconds.
fn with_will(delay_secs: u32) -> Script {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("w", 1));
    script.connect(2, "c", Hello { will: Some(will("c", 2, delay_secs)), ..PERSISTENT });
    script.connected(2, false);
    script.wait(10_000);
    script
}

/// A fault of `target` that is over `millis` before what is next.
fn shortly(script: &mut Script, target: &str, millis: u64) {
    script.fault_of("stop", target);
    script.healed_of("stop", target);
    script.wait(millis);
}

/// Whether each target and time before excuses what `forge` does.
fn excused(begin: impl Fn() -> Script, forge: impl Fn(&mut Script), rule: Rule) {
    let wills = rule == Rule::Will;
    for (target, millis, is_excused) in [
        ("proxy 0", 5_000, true),
        ("proxy 1, proxy 0", 5_000, true),
        ("inner link 0", 5_000, true),
        ("client link 0", 5_000, true),
        ("intermediate", 5_000, !wills),
        ("all", 5_000, true),
        ("disk", 5_000, !wills),
        ("17", 5_000, true),
        ("proxy 1", 1, false),
        ("inner link 1, inner link 2", 1, false),
        ("client link 10", 1, false),
        ("proxy 0", 12_000, false),
        ("intermediate", 12_000, false),
    ] {
        let mut script = begin();
        shortly(&mut script, target, millis);
        forge(&mut script);
        script.put(What::AllHealed);
        script.settle();
        if is_excused {
            sound(&script);
        } else {
            breaks(&script, rule, 1);
        }
    }
}

#[test]
fn a_will_after_a_clean_disconnect() {
    let forge = |script: &mut Script| {
        script.end(2, End::Left(0));
        script.got(1, "will/c", 2, "w", 1);
    };
    excused(|| with_will(0), forge, Rule::Will);
}

#[test]
fn a_will_of_a_connection_that_lives() {
    let forge = |script: &mut Script| {
        script.got(1, "will/c", 2, "w", 1);
    };
    excused(|| with_will(0), forge, Rule::Will);
}

#[test]
fn a_will_before_its_time() {
    let forge = |script: &mut Script| {
        script.subscribe(2, filter("x", 1));
        script.end(2, End::Dropped);
        script.got(1, "will/c", 2, "w", 1);
    };
    excused(|| with_will(20), forge, Rule::Will);
}

#[test]
fn an_older_connection_that_is_served() {
    let begin = || {
        let mut script = Script::default();
        script.clean(9, "p");
        script.clean(1, "s");
        script.subscribe(1, filter("t", 1));
        script.clean(2, "s");
        script.wait(11_000);
        script
    };
    let forge = |script: &mut Script| {
        script.send(9, item(1, "t", 1));
        script.got(1, "p", 1, "t", 1);
        script.acknowledge(9, 1, 0);
        script.end(1, End::Broken);
    };
    excused(begin, forge, Rule::Takeover);
}

#[test]
fn two_members_of_a_group() {
    let begin = || {
        let mut script = Script::default();
        for (conn, client) in [(1, "a"), (3, "b")] {
            script.clean(conn, client);
            script.subscribe(conn, filter("$share/g/t", 1));
        }
        script.clean(2, "p");
        script
    };
    let forge = |script: &mut Script| {
        script.publish(2, item(1, "t", 1));
        script.got(1, "p", 1, "t", 1);
        script.got(3, "p", 1, "t", 1);
    };
    excused(begin, forge, Rule::Shared);
}

#[test]
fn a_session_that_is_not_told_after_a_clean_one_that_the_store_did_not_hear_of() {
    let forge = |script: &mut Script| {
        script.clean(2, "s");
        script.end(2, End::Left(0));
        script.wait(20_000);
        script.persistent(3, "s", true);
    };
    let begin = || {
        let mut script = Script::default();
        script.persistent(1, "s", false);
        script.end(1, End::Left(0));
        script
    };
    excused(begin, forge, Rule::SessionPresent);
}

#[test]
fn a_will_that_never_comes_is_missed_soon_after_all_is_healed() {
    for (wait, is_missed) in [(16_000, true), (14_000, false)] {
        let mut script = with_will(0);
        script.fault("kill");
        script.end(2, End::Broken);
        script.healed("kill");
        script.put(What::AllHealed);
        script.put(What::Quiet);
        script.wait(wait);
        script.put(What::Settled { in_time: true });
        breaks_if(is_missed, &script, Rule::Will, 1);
    }
}

/// A session of ten seconds that is found long after, and one that is not found too early.
fn expiry(jump_before: bool, lasting: bool, found: bool) -> Script {
    let mut script = Script::default();
    let jump = |script: &mut Script| {
        script.fault_of("clock-jump", "intermediate");
        script.wait(if lasting { 100 } else { 0 });
        script.healed_of("clock-jump", "intermediate");
    };
    if jump_before {
        jump(&mut script);
    }
    script.connect(1, "s", Hello { expiry_secs: 10, ..PERSISTENT });
    script.connected(1, false);
    script.subscribe(1, filter("t", 1));
    script.end(1, End::Left(0));
    script.wait(if found { 99_000 } else { 5_000 });
    script.persistent(2, "s", found);
    if !jump_before {
        jump(&mut script);
    }
    script.settle();
    script
}

#[test]
fn a_clock_that_jumps_later_excuses_no_expiry() {
    for (lasting, found) in [(true, true), (true, false), (false, true), (false, false)] {
        breaks(&expiry(false, lasting, found), Rule::SessionPresent, 1);
    }
}

#[test]
fn a_clock_that_jumped_before_excuses_what_lasts_and_what_may_still_start_anew() {
    sound(&expiry(true, true, true));
    sound(&expiry(true, false, true));
    sound(&expiry(true, false, false));
    breaks(&expiry(true, true, false), Rule::SessionPresent, 1);
}

#[test]
fn a_session_has_nothing_of_an_earlier_one() {
    for (sends, wait) in [(1, 5_000), (2, 5_000), (1, 1_000)] {
        let mut script = Script::default();
        script.persistent(1, "s", false);
        script.subscribe(1, filter("t", 1));
        script.end(1, End::Left(0));
        script.persistent(2, "p", false);
        script.send(2, item(1, "t", 1));
        let mut publisher = 2;
        if sends == 2 {
            script.end(2, End::Broken);
            script.persistent(3, "p", true);
            script.send(3, Item { dup: true, ..item(1, "t", 1) });
            publisher = 3;
        }
        script.acknowledge(publisher, 1, 0);
        // What no session had to have may still be on its way.
        script.wait(wait);
        script.connect(4, "s", Hello { clean_start: true, ..PERSISTENT });
        script.connected(4, false);
        script.subscribe(4, filter("t", 1));
        script.got(4, "p", 1, "t", 1);
        script.settle();
        breaks_if(sends == 1 && wait == 5_000, &script, Rule::Unsubscribed, 1);
    }
}

#[test]
fn what_was_retained_may_be_older_than_a_subscription() {
    let mut script = Script::default();
    script.clean(2, "p");
    script.publish(2, Item { retain: true, ..item(1, "t", 1) });
    script.connect(1, "s", CLEAN);
    script.connected(1, false);
    script.subscribe(1, filter("t", 1));
    script.receive(1, Item { retain: true, ..item(1, "t", 1) });
    script.settle();
    sound(&script);
    script.put(What::ReceivedEmpty { conn: ConnId(1), topic: "t".to_owned(), retain: false });
    breaks(&script, Rule::Invented, 1);
}

#[test]
fn order_across_the_connections_of_a_publisher() {
    for (acknowledged, topic) in [(true, "t"), (false, "t"), (true, "u")] {
        let mut script = Script::default();
        script.persistent(1, "s", false);
        script.subscribe(1, filter("#", 1));
        script.persistent(2, "p", false);
        script.send(2, item(1, "t", 1));
        if acknowledged {
            script.acknowledge(2, 1, 0);
        }
        script.end(2, End::Left(0));
        script.persistent(3, "p", true);
        script.publish(3, item(2, topic, 1));
        script.got(1, "p", 2, topic, 1);
        script.got(1, "p", 1, "t", 1);
        script.settle();
        breaks_if(acknowledged && topic == "t", &script, Rule::Order, 1);
    }
}

#[test]
fn a_session_that_ended_had_all_that_was_before_what_it_had() {
    for (granted, again, is_lost) in
        [(1, None, true), (2, None, true), (0, None, false), (1, Some(2), false)]
    {
        let mut script = Script::default();
        script.clean(1, "s");
        script.subscribe(1, filter("t", granted));
        if let Some(again) = again {
            script.subscribe(1, filter("t", again));
        }
        script.clean(2, "p");
        for number in 1..=3 {
            script.publish(2, item(number, "t", 1));
        }
        script.got(1, "p", 1, "t", granted.min(1));
        script.got(1, "p", 3, "t", granted.min(1));
        script.end(1, End::Broken);
        script.settle();
        breaks_if(is_lost, &script, Rule::Lost, 1);
    }
}

#[test]
fn a_subscription_that_was_given_up_had_all_before_what_it_had() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("t", 1));
    script.clean(2, "p");
    script.publish(2, item(1, "t", 1));
    script.publish(2, item(2, "t", 1));
    script.publish(2, item(3, "t", 1));
    script.got(1, "p", 2, "t", 1);
    script.unsubscribe(1, "t");
    script.settle();
    breaks(&script, Rule::Lost, 1);
}

#[test]
fn a_session_that_subscribed_later_lacks_nothing() {
    let mut script = Script::default();
    script.clean(1, "s");
    script.clean(2, "p");
    script.publish(2, item(1, "t", 1));
    script.ask(1, filter("t", 1));
    script.publish(2, item(2, "t", 1));
    script.answer(1, 1);
    script.publish(2, item(3, "t", 1));
    script.got(1, "p", 3, "t", 1);
    script.end(1, End::Broken);
    script.settle();
    sound(&script);
}

#[test]
fn what_was_retained_is_missed_though_it_was_deleted_long_after() {
    for (wait, fault, is_missed) in
        [(12_000, false, true), (5_000, false, false), (12_000, true, false)]
    {
        let mut script = Script::default();
        script.clean(2, "p");
        script.publish(2, Item { retain: true, ..item(1, "t", 1) });
        script.persistent(1, "s", false);
        if fault {
            script.fault("freeze");
        }
        script.subscribe(1, filter("t", 1));
        script.wait(wait);
        script.publish(2, Item { retain: true, empty: true, ..item(2, "t", 1) });
        script.settle();
        breaks_if(is_missed, &script, Rule::Retained, 1);
    }
}

#[test]
fn a_proxy_that_dies_before_the_store_is_back_may_never_tell_it_of_a_clean_disconnect() {
    for (dies, is_excused) in [(Some("proxy 0"), true), (Some("proxy 1"), false), (None, false)] {
        let mut script = with_will(0);
        script.fault_of("kill", "intermediate");
        script.end(2, End::Left(0));
        script.wait(9_000);
        if let Some(dies) = dies {
            script.fault_of("kill", dies);
            script.healed_of("kill", dies);
        }
        script.healed_of("kill", "intermediate");
        script.got(1, "will/c", 2, "w", 1);
        script.put(What::AllHealed);
        script.settle();
        breaks_if(!is_excused, &script, Rule::Will, 1);
    }
}

#[test]
fn who_is_back_before_the_store_has_heard_of_a_clean_disconnect_takes_over() {
    for (wait, is_excused) in [(1_500, true), (12_000, false)] {
        let mut script = with_will(0);
        script.fault_of("kill", "intermediate");
        script.end(2, End::Left(0));
        script.wait(500);
        script.healed_of("kill", "intermediate");
        script.wait(wait);
        script.persistent(3, "c", true);
        script.got(1, "will/c", 2, "w", 1);
        script.put(What::AllHealed);
        script.settle();
        breaks_if(!is_excused, &script, Rule::Will, 1);
    }
}
