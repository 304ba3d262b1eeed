//! Retained messages: read by page, and into the queues of new subscriptions.

use mqtt_codec::{Message, QoS, RetainHandling, SubscriptionOptions};
use partition::{Attach, DropReason, Farewell, Limits, OwnerConfig, QueueLimits, WhenFull};

use crate::rig::{Rig, attach, filter, holder, message, options, texts};

fn page_all(rig: &Rig, text: &str) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = rig.owner.retained(&filter(text), after.as_ref(), 3, rig.now);
        all.extend(page.messages.iter().map(|(message, _)| crate::rig::text(message)));
        after = page.next;
        if after.is_none() {
            all.sort();
            return all;
        }
    }
}

#[test]
fn the_last_message_of_each_topic_is_found_by_pages_also_after_a_restart() {
    let mut rig = Rig::new();
    for number in 0..20 {
        rig.retain(&format!("t/{number}"), "old", QoS::AtLeastOnce);
        rig.retain(&format!("t/{number}"), &format!("{number:02}"), QoS::AtMostOnce);
    }
    rig.retain("t/3", "", QoS::AtLeastOnce);
    let wanted: Vec<String> =
        (0..20).filter(|number| *number != 3).map(|number| format!("{number:02}")).collect();
    for _ in 0..2 {
        assert_eq!(page_all(&rig, "t/+"), wanted);
        assert_eq!(page_all(&rig, "t/4"), ["04"]);
        assert_eq!(page_all(&rig, "t/3"), [""; 0]);
        rig.reopen();
    }
}

#[test]
fn a_new_subscription_gets_what_is_retained_within_what_the_client_takes() {
    let mut rig = Rig::new();
    for number in 0..500 {
        rig.retain(&format!("t/{number}"), &format!("{number:03}"), QoS::AtLeastOnce);
    }
    let slow = Attach { receive_maximum: 10, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(slow).unwrap();
    rig.subscribe(&client, "t/#", QoS::AtLeastOnce);
    let mut all = Vec::new();
    for round in 0.. {
        let taken = rig.take(1);
        if taken.is_empty() {
            break;
        }
        assert!(taken.len() <= 10);
        assert!(taken.iter().all(|delivery| delivery.retain));
        // Never more in the queue than a page beyond what the client takes.
        assert!(rig.owner.stats().queued_messages <= 10 + 128);
        rig.settle_all(&client, &taken);
        all.extend(texts(&taken));
        if round == 20 {
            rig.detach(&client, Farewell::Abnormal);
            rig.reopen();
            let slow = Attach { receive_maximum: 10, ..attach("a", holder(1, 2)) };
            rig.try_attach(slow).unwrap();
            rig.settle();
            break;
        }
    }
    let client = rig.connect("a", holder(1, 3));
    loop {
        let taken = rig.take(1);
        if taken.is_empty() {
            break;
        }
        rig.settle_all(&client, &taken);
        all.extend(texts(&taken));
    }
    all.sort();
    assert_eq!(all, (0..500).map(|number| format!("{number:03}")).collect::<Vec<_>>());
}

#[test]
fn retain_handling_says_whether_a_subscription_gets_retained_messages() {
    let mut rig = Rig::new();
    rig.retain("t", "x", QoS::ExactlyOnce);
    let handling =
        |retain_handling| SubscriptionOptions { retain_handling, ..options(QoS::AtLeastOnce) };
    let client = rig.connect("a", holder(1, 1));
    let subscribe = |rig: &mut Rig, handling: SubscriptionOptions| {
        rig.subscribe_with(&client, &[("t", handling)], Some(9));
        rig.settle();
        let taken = rig.take(1);
        assert!(taken.iter().all(|one| one.retain && one.qos == QoS::AtLeastOnce));
        assert!(taken.iter().all(|one| one.subscription_ids.len() == 1));
        taken.len()
    };
    assert_eq!(subscribe(&mut rig, handling(RetainHandling::DoNotSend)), 0);
    assert_eq!(subscribe(&mut rig, handling(RetainHandling::SendIfNew)), 0);
    assert_eq!(subscribe(&mut rig, handling(RetainHandling::Send)), 1);
    assert_eq!(subscribe(&mut rig, handling(RetainHandling::Send)), 1);
    rig.unsubscribe(&client, "t");
    assert_eq!(subscribe(&mut rig, handling(RetainHandling::SendIfNew)), 1);
}

#[test]
fn what_is_retained_while_a_scan_goes_on_comes_once_and_never_before_what_is_older() {
    let mut rig = Rig::new();
    for number in 0..300 {
        rig.retain(&format!("t/{number:03}"), "old", QoS::AtLeastOnce);
    }
    let slow = Attach { receive_maximum: 10, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(slow).unwrap();
    rig.subscribe(&client, "t/#", QoS::AtLeastOnce);
    for number in 0..300 {
        rig.retain(&format!("t/{number:03}"), "new", QoS::AtLeastOnce);
    }
    let mut seen: std::collections::BTreeMap<String, Vec<String>> = Default::default();
    loop {
        let taken = rig.take(1);
        if taken.is_empty() {
            break;
        }
        for delivery in &taken {
            let topic = delivery.message.topic.as_str().to_owned();
            seen.entry(topic).or_default().push(crate::rig::text(&delivery.message));
        }
        rig.settle_all(&client, &taken);
    }
    assert_eq!(seen.len(), 300);
    for (topic, payloads) in seen {
        let wanted = payloads == ["old", "new"] || payloads == ["new"];
        assert!(wanted, "{topic}: {payloads:?}");
    }
}

#[test]
fn unsubscribing_ends_what_was_still_owed() {
    let mut rig = Rig::new();
    for number in 0..300 {
        rig.retain(&format!("t/{number}"), "x", QoS::AtLeastOnce);
    }
    let slow = Attach { receive_maximum: 5, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(slow).unwrap();
    rig.subscribe(&client, "t/#", QoS::AtLeastOnce);
    rig.unsubscribe(&client, "t/#");
    let mut got = 0;
    loop {
        let taken = rig.take(1);
        if taken.is_empty() {
            break;
        }
        got += taken.len();
        rig.settle_all(&client, &taken);
    }
    assert!(got <= 128, "{got}");
    let rows = rig.store.rows();
    assert!(!rows.iter().any(|(table, _, _)| *table == partition::Table::Scan));
}

#[test]
fn retained_messages_expire_and_are_bounded() {
    let limits = Limits { retained_messages: 2, ..Limits::default() };
    let mut rig = Rig::with(OwnerConfig { partitions: 4, limits, ..OwnerConfig::default() });
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "#", QoS::AtLeastOnce);
    let expiring =
        Message { retain: true, expiry_secs: Some(5), ..message("a", "1", QoS::AtLeastOnce) };
    rig.publish_message(expiring);
    rig.retain("b", "2", QoS::AtLeastOnce);
    rig.retain("c", "3", QoS::AtLeastOnce);
    assert_eq!(texts(&rig.take(1)), ["1", "2", "3"]);
    assert_eq!(rig.owner.stats().dropped.of(DropReason::RetainedFull), 1);
    assert_eq!(page_all(&rig, "#"), ["1", "2"]);
    rig.pass(5_000);
    assert_eq!(page_all(&rig, "#"), ["2"]);
    assert_eq!(rig.owner.stats().retained_messages, 1);
    rig.retain("c", "3", QoS::AtLeastOnce);
    assert_eq!(page_all(&rig, "#"), ["2", "3"]);
}

#[test]
fn all_that_is_retained_comes_at_qos0_too() {
    let mut rig = Rig::new();
    for number in 0..500 {
        rig.retain(&format!("t/{number}"), &format!("{number:03}"), QoS::AtMostOnce);
    }
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t/#", QoS::AtLeastOnce);
    let mut all = texts(&rig.take(1));
    all.sort();
    assert_eq!(all, (0..500).map(|number| format!("{number:03}")).collect::<Vec<_>>());
    assert!(!rig.store.rows().iter().any(|(table, _, _)| *table == partition::Table::Scan));
}

#[test]
fn large_retained_messages_wait_for_room_instead_of_being_dropped() {
    let when_full = WhenFull::DropNewest;
    let inbox = QueueLimits { messages: 100, bytes: 4 << 20, when_full };
    let limits = Limits { inbox, ..Limits::default() };
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut rig = Rig::with(OwnerConfig { partitions: 4, limits, ..OwnerConfig::default() });
        for number in 0..40 {
            // One of them is larger than all that may wait at QoS 0.
            let bytes = if number == 7 { 1_500_000 } else { 200_000 };
            rig.retain(&format!("t/{number}"), &"x".repeat(bytes), QoS::AtLeastOnce);
        }
        let client = rig.connect("a", holder(1, 1));
        rig.subscribe(&client, "t/#", qos);
        let mut topics = std::collections::BTreeSet::new();
        loop {
            let taken = rig.take(1);
            if taken.is_empty() {
                break;
            }
            topics.extend(taken.iter().map(|one| one.message.topic.as_str().to_owned()));
            rig.settle_all(&client, &taken);
            rig.settle();
        }
        assert_eq!(topics.len(), 40, "{qos:?}");
        let dropped = rig.owner.stats().dropped;
        assert_eq!(dropped.of(DropReason::QoS0Full) + dropped.of(DropReason::InboxFull), 0);
    }
}
