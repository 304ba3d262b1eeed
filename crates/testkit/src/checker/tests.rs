//! Histories written by hand: sound ones pass, forged ones are caught by the rule that they break and by no other.

mod excuses;
mod forged;
mod model;
mod script;
mod sound;
mod wills;

use super::{Rule, Verdict, check};
use script::Script;

/// Nothing is wrong with it.
#[track_caller]
fn sound(script: &Script) -> Verdict {
    let verdict = check(&script.events);
    assert!(verdict.is_sound(), "{verdict}");
    verdict
}

/// It breaks this rule, so often, and no other.
#[track_caller]
fn breaks(script: &Script, rule: Rule, times: u64) -> Verdict {
    let verdict = check(&script.events);
    let counts: Vec<_> = verdict.counts.clone().into_iter().collect();
    assert_eq!(counts, [(rule, times)], "{verdict}");
    let shown = verdict.violations.iter().all(|violation| {
        !violation.events.is_empty() && violation.events.len() == violation.excerpt.len()
    });
    assert!(shown && !verdict.violations.is_empty(), "{verdict}");
    verdict
}

/// It breaks this rule so often and no other if `broken`; else nothing is wrong with it.
#[track_caller]
fn breaks_if(broken: bool, script: &Script, rule: Rule, times: u64) {
    if broken {
        breaks(script, rule, times);
    } else {
        sound(script);
    }
}

#[test]
fn an_empty_history_is_sound() {
    let verdict = sound(&Script::default());
    assert_eq!(verdict.summary.events, 0);
}

#[test]
fn a_violation_prints_its_rule_its_sentence_and_its_events_with_their_times() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    script.wait(1_500);
    let place = script.got(1, "p", 7, "t", 1);
    script.settle();
    let verdict = breaks(&script, Rule::Invented, 1);
    let text = verdict.to_string();
    let line = format!("#{place} ");
    assert!(text.starts_with("violation of invented: p 7 came, and nobody"), "{text}");
    assert!(text.contains(&line) && text.contains("1.5") && text.contains("Received"), "{text}");
}

#[test]
fn of_each_rule_some_violations_are_kept_and_all_are_counted() {
    let mut script = Script::default();
    script.persistent(1, "s", false);
    for number in 1..=50 {
        script.got(1, "p", number, "t", 1);
    }
    script.settle();
    let verdict = breaks(&script, Rule::Invented, 50);
    assert_eq!(verdict.violations.len(), 20);
}
