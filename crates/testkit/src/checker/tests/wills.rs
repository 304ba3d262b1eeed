//! Wills, sound and forged.

use super::script::{CLEAN, Hello, Item, PERSISTENT, Script, filter, item, will};
use super::{Rule, breaks, breaks_if, sound};
use crate::record::{End, What, Will};

const OF: &str = "will/c";

/// A persistent subscriber on connection 1 and a client `c` with a will on connection 2.
fn begin(delay_secs: u32, qos: u8, hello: Hello) -> Script {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.subscribe(1, filter("w", qos));
    let will = Will { qos, ..will("c", 2, delay_secs) };
    script.connect(2, "c", Hello { will: Some(will), ..hello });
    script.connected(2, false);
    script
}

#[test]
fn a_will_comes_after_every_end_but_a_clean_disconnect() {
    let ends = [
        (End::Left(0), false),
        (End::Left(4), true),
        (End::Dropped, true),
        (End::Broken, true),
        (End::Sent(0x8D), true),
    ];
    for (end, due) in ends {
        for came in [true, false] {
            let mut script = begin(0, 1, CLEAN);
            script.end(2, end.clone());
            if came {
                script.got(1, OF, 2, "w", 1);
            }
            script.settle();
            breaks_if(came != due, &script, Rule::Will, 1);
        }
    }
}

#[test]
fn a_will_does_not_come_while_its_connection_lives() {
    let mut script = begin(0, 1, CLEAN);
    script.got(1, OF, 2, "w", 1);
    script.settle();
    breaks(&script, Rule::Will, 1);
}

#[test]
fn a_clean_disconnect_in_a_fault_leaves_either() {
    for came in [true, false] {
        let mut script = begin(0, 1, CLEAN);
        script.fault("stop");
        script.end(2, End::Left(0));
        if came {
            script.got(1, OF, 2, "w", 1);
        }
        script.healed("stop");
        script.put(What::AllHealed);
        script.settle();
        sound(&script);
    }
}

#[test]
fn a_takeover_publishes_a_will_without_delay() {
    for came in [true, false] {
        let mut script = begin(0, 1, PERSISTENT);
        script.persistent(3, "c", true);
        script.end(2, End::Sent(0x8E));
        if came {
            script.got(1, OF, 2, "w", 1);
        }
        script.settle();
        breaks_if(!came, &script, Rule::Will, 1);
    }
}

#[test]
fn a_session_that_goes_on_before_the_delay_is_over_calls_its_will_off() {
    for came in [true, false] {
        let mut script = begin(20, 1, PERSISTENT);
        script.end(2, End::Broken);
        script.wait(5_000);
        script.persistent(3, "c", true);
        script.wait(30_000);
        if came {
            script.got(1, OF, 2, "w", 1);
        }
        script.settle();
        breaks_if(came, &script, Rule::Will, 1);
    }
}

#[test]
fn a_session_that_goes_on_about_when_the_delay_is_over_leaves_either() {
    for came in [true, false] {
        let mut script = begin(5, 1, PERSISTENT);
        script.end(2, End::Broken);
        script.wait(5_000);
        if came {
            script.got(1, OF, 2, "w", 1);
        }
        script.persistent(3, "c", true);
        script.settle();
        sound(&script);
    }
}

#[test]
fn a_will_does_not_come_before_its_delay_is_over() {
    for (wait, early) in [(10_000, true), (20_000, false)] {
        let mut script = begin(20, 1, PERSISTENT);
        script.end(2, End::Dropped);
        script.wait(wait);
        script.got(1, OF, 2, "w", 1);
        script.settle();
        breaks_if(early, &script, Rule::Will, 1);
    }
}

#[test]
fn a_will_comes_with_the_end_of_its_session_if_that_is_earlier() {
    for came in [true, false] {
        let mut script = begin(600, 1, Hello { expiry_secs: 2, ..PERSISTENT });
        script.end(2, End::Dropped);
        script.wait(2_000);
        if came {
            script.got(1, OF, 2, "w", 1);
        }
        script.settle();
        breaks_if(!came, &script, Rule::Will, 1);
    }
}

#[test]
fn a_will_comes_once() {
    for qos in [0, 1, 2] {
        let mut script = begin(0, qos, CLEAN);
        script.end(2, End::Dropped);
        script.got(1, OF, 2, "w", qos);
        script.got(1, OF, 2, "w", qos);
        script.settle();
        breaks_if(qos != 1, &script, Rule::Will, 1);
    }
}

#[test]
fn a_will_of_a_client_that_comes_back_from_a_stopping_proxy_may_be_called_off() {
    for came in [true, false] {
        let mut script = begin(0, 1, PERSISTENT);
        script.end(2, End::Sent(0x8B));
        script.wait(1_000);
        script.persistent(3, "c", true);
        if came {
            script.got(1, OF, 2, "w", 1);
        }
        script.settle();
        sound(&script);
    }
}

#[test]
fn a_connect_without_an_answer_leaves_either() {
    for came in [true, false] {
        let mut script = Script::default();
        script.persistent(1, "s", false);
        script.subscribe(1, filter("w", 1));
        script.connect(2, "c", Hello { will: Some(will("c", 2, 0)), ..PERSISTENT });
        script.not_connected(2);
        if came {
            script.got(1, OF, 2, "w", 1);
        }
        script.settle();
        sound(&script);
    }
}

#[test]
fn a_will_comes_under_its_topic_and_soon() {
    let mut script = begin(0, 1, CLEAN);
    script.end(2, End::Dropped);
    script.put(What::AllHealed);
    script.wait(40_000);
    script.got(1, OF, 2, "w", 1);
    script.settle();
    breaks(&script, Rule::Liveness, 1);
    let mut script = begin(0, 1, CLEAN);
    script.subscribe(1, filter("v", 1));
    script.end(2, End::Dropped);
    script.got(1, OF, 2, "w", 1);
    script.receive(1, Item { publisher: OF, ..item(2, "v", 1) });
    script.settle();
    breaks(&script, Rule::Invented, 1);
}
