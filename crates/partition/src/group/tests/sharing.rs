//! Who gets a message, and what becomes of it when its member goes.

use super::*;
use MemberKind::{Clean, Persistent};
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.session.number()).collect()
}

#[test]
fn nothing_comes_out_before_it_is_committed() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Clean, AtLeastOnce, connection(1, 1, 9));
    host.with(|groups, call| groups.publish(&queued("a", AtLeastOnce), call));
    let mut into = Vec::new();
    host.groups.deliveries(proxy(9), 1000, &mut into);
    assert!(into.is_empty() && !host.groups.is_ready(proxy(9)));
    host.commit();
    let ready = Ready { proxy: proxy(9), what: Source::Groups(PARTITION) };
    assert_eq!(host.changes.ready, [ready]);
    assert_eq!(texts(&host.take(9)), ["a"]);
}

#[test]
fn members_take_turns_whatever_the_qos() {
    for qos in [AtMostOnce, AtLeastOnce] {
        let mut host = Host::new(config(GroupStrategy::RoundRobin));
        for number in [1, 2, 3] {
            host.join(Clean, AtLeastOnce, connection(number, 1, 9));
        }
        let mut got = [0; 4];
        for _ in 0..30 {
            host.publish("a", qos);
            for delivery in host.drain(9, 1) {
                got[delivery.session.number() as usize] += 1;
            }
        }
        assert_eq!(got, [0, 10, 10, 10]);
    }
}

#[test]
fn a_member_without_credit_is_passed_over_until_it_confirms() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Clean, AtLeastOnce, connection(1, 1, 9));
    host.join(Clean, AtLeastOnce, connection(2, 1, 9));
    host.publish_many(0..6, AtLeastOnce);
    let first = host.take(9);
    let mut got = numbers(&first);
    got.sort_unstable();
    assert_eq!(got, [1, 1, 2, 2]);
    let of_second: Vec<_> = first.iter().filter(|one| one.session == session(2)).collect();
    host.confirm(of_second[0], 1);
    host.confirm(of_second[0], 1);
    assert_eq!(numbers(&host.take(9)), [2]);
    assert_eq!(host.queue_rows(), 5);
}

#[test]
fn the_one_with_the_fewest_unconfirmed_is_next() {
    let mut host = Host::new(config(GroupStrategy::LeastInFlight));
    host.join(Clean, AtLeastOnce, connection(1, 1, 9));
    host.join(Clean, AtLeastOnce, connection(2, 1, 9));
    host.publish_many(0..2, AtLeastOnce);
    let first = host.take(9);
    assert_eq!(numbers(&first), [1, 2]);
    host.confirm(&first[1], 1);
    host.publish("b", AtLeastOnce);
    assert_eq!(numbers(&host.take(9)), [2]);
}

#[test]
fn members_at_the_proxy_of_the_publisher_come_first() {
    let mut host = Host::new(config(GroupStrategy::LocalFirst));
    for (number, at) in [(1, 8), (2, 9), (3, 9), (4, 10)] {
        host.join(Clean, AtLeastOnce, connection(number, 1, at));
    }
    host.publish_many(0..8, AtLeastOnce);
    assert_eq!(numbers(&host.take(9)).sorted(), [2, 2, 3, 3]);
    assert_eq!((host.take(8).len(), host.take(10).len()), (2, 2), "there is no credit at home");
    host.leave(2);
    host.leave(3);
    assert_eq!(host.queue_rows(), 8);
}

trait Sorted {
    fn sorted(&self) -> Vec<u64>;
}

impl Sorted for [u64] {
    fn sorted(&self) -> Vec<u64> {
        let mut all = self.to_vec();
        all.sort_unstable();
        all
    }
}

fn publish_of(host: &mut Host, publisher: u64, topic: &str) {
    let message = Arc::new(message(topic, "x", AtLeastOnce));
    let queued = Queued { message, publisher: ClientHash(publisher), ..queued("", AtLeastOnce) };
    host.handle(|groups, call| groups.publish(&queued, call));
}

#[test]
fn a_publisher_or_a_topic_keeps_its_member_though_others_come_and_go() {
    for strategy in [GroupStrategy::StickyClient, GroupStrategy::HashTopic] {
        let mut host = Host::new(config(strategy));
        for number in 1..=4 {
            host.join(Clean, AtLeastOnce, connection(number, 1, 9));
        }
        let one_each = |host: &mut Host| -> Vec<u64> {
            let of = |host: &mut Host, key: u64| {
                let (publisher, topic) = if strategy == GroupStrategy::StickyClient {
                    (key, "t/same".to_owned())
                } else {
                    (7, format!("t/{key}"))
                };
                publish_of(host, publisher, &topic);
                let taken = host.drain(9, 1);
                assert_eq!(taken.len(), 1);
                taken[0].session.number()
            };
            (0..40).map(|key| of(host, key)).collect()
        };
        let before = one_each(&mut host);
        assert!((1..=4).all(|number| before.contains(&number)), "all have a share: {before:?}");
        assert_eq!(one_each(&mut host), before);
        host.leave(3);
        let without = one_each(&mut host);
        assert!(before.iter().zip(&without).all(|(a, b)| a == b || *a == 3));
        host.join(Clean, AtLeastOnce, connection(3, 1, 9));
        assert_eq!(one_each(&mut host), before);
    }
}

#[test]
fn what_waits_for_a_sticky_member_goes_on_with_another_when_it_leaves() {
    let mut host = Host::new(config(GroupStrategy::StickyClient));
    host.join(Clean, AtLeastOnce, connection(1, 1, 9));
    host.join(Clean, AtLeastOnce, connection(2, 1, 9));
    host.publish_many(0..4, AtLeastOnce);
    let taken = host.take(9);
    let holder = taken[0].session.number();
    assert_eq!(numbers(&taken), [holder, holder], "the other two wait for it");
    host.leave(holder);
    assert_eq!(texts(&host.drain(9, 1)), ["0", "1", "2", "3"]);
}

#[test]
fn an_unconfirmed_qos_1_message_goes_to_another_in_its_old_place() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 8));
    host.publish_many(0..5, AtLeastOnce);
    assert_eq!(texts(&host.take(8)), ["0", "1"]);
    host.away(1);
    host.join(Clean, AtLeastOnce, connection(2, 1, 9));
    let taken = host.drain(9, 1);
    assert_eq!(texts(&taken), ["0", "1", "2", "3", "4"]);
    assert!(taken.iter().all(|delivery| !delivery.dup), "each is new to this client");
    assert_eq!(host.queue_rows(), 0);
}

#[test]
fn a_late_confirmation_of_an_earlier_connection_changes_nothing() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 9));
    host.publish("a", AtLeastOnce);
    let taken = host.take(9);
    host.back(connection(1, 2, 9), &[]);
    host.confirm(&taken[0], 1);
    assert_eq!(host.queue_rows(), 1);
    assert_eq!(texts(&host.drain(9, 2)), ["a"]);
    assert_eq!(host.queue_rows(), 0);
}

#[test]
fn a_message_that_was_not_taken_cannot_be_confirmed() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Clean, AtLeastOnce, connection(1, 1, 9));
    host.publish("a", AtLeastOnce);
    let id = *host.groups.groups.keys().next().unwrap();
    let member = (id, session(1), Epoch(1));
    host.handle(|groups, call| groups.confirm(member, &[QueueSeq(1), QueueSeq(99)], call));
    assert_eq!(texts(&host.take(9)), ["a"]);
}

#[test]
fn qos_2_goes_into_the_own_queue_of_a_persistent_session() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, ExactlyOnce, connection(1, 1, 9));
    host.publish_many(0..3, ExactlyOnce);
    let moved = |host: &Host| host.moved.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
    assert_eq!(moved(&host), ["0", "1"], "as many as it may have unconfirmed");
    assert_eq!((host.queue_rows(), host.take(9).len()), (1, 0));
    host.handle(|groups, call| groups.drained(session(1), call));
    assert_eq!(moved(&host), ["0", "1", "2"]);
    assert_eq!(host.queue_rows(), 0);
}

#[test]
fn qos_2_that_a_clean_session_may_have_had_ends_with_it() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Clean, ExactlyOnce, connection(1, 1, 8));
    host.publish("had", ExactlyOnce);
    assert_eq!(texts(&host.take(8)), ["had"]);
    host.publish("not taken", ExactlyOnce);
    host.join(Clean, ExactlyOnce, connection(2, 1, 9));
    host.handle(|groups, call| groups.end(session(1), call));
    assert_eq!(texts(&host.drain(9, 1)), ["not taken"]);
    assert_eq!((host.dropped(DropReason::MemberGone), host.queue_rows()), (1, 0));
}

#[test]
fn qos_2_of_a_clean_session_waits_for_it_after_a_restart() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Clean, ExactlyOnce, connection(1, 1, 8));
    host.join(Clean, ExactlyOnce, connection(2, 1, 9));
    host.publish_many(0..2, ExactlyOnce);
    let first = host.take(8);
    host.take(9);
    let mut host = host.reopen();
    assert_eq!(host.groups.proxies().collect::<Vec<_>>().len(), 2);
    host.join(Clean, ExactlyOnce, connection(2, 1, 9));
    assert_eq!(texts(&host.take(9)), ["1"], "its own once more, not that of the other");
    host.join(Clean, ExactlyOnce, connection(1, 1, 8));
    let place = first[0].group.unwrap().seq.0;
    host.back(connection(1, 1, 8), &[place]);
    assert!(host.take(8).is_empty(), "it said that it has it");
    host.confirm(&first[0], 1);
    host.handle(|groups, call| groups.proxy_dead(proxy(9), call));
    assert_eq!(host.dropped(DropReason::MemberGone), 1);
    assert_eq!(host.queue_rows(), 0);
}

#[test]
fn a_proxy_that_is_gone_takes_its_clean_members_with_it_and_gives_back_the_rest() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 8));
    host.join(Clean, AtLeastOnce, connection(2, 1, 8));
    host.publish_many(0..4, AtLeastOnce);
    assert_eq!(host.take(8).len(), 4);
    host.handle(|groups, call| groups.proxy_dead(proxy(8), call));
    assert_eq!(host.rows(Table::Member), 1);
    host.back(connection(1, 2, 9), &[]);
    assert_eq!(texts(&host.drain(9, 2)), ["0", "1", "2", "3"]);
}

#[test]
fn a_connection_that_goes_on_gets_only_what_has_not_arrived() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 9));
    host.publish_many(0..2, AtLeastOnce);
    let taken = host.take(9);
    host.back(connection(1, 1, 9), &[taken[0].group.unwrap().seq.0]);
    assert_eq!(texts(&host.take(9)), ["1"]);
    host.confirm(&taken[0], 1);
    assert_eq!(host.queue_rows(), 1);
}

#[test]
fn what_has_arrived_before_a_restart_is_not_sent_again() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 9));
    host.publish_many(0..3, AtLeastOnce);
    let taken = host.take(9);
    let places: Vec<u64> = taken.iter().map(|one| one.group.unwrap().seq.0).collect();
    let mut host = host.reopen();
    host.back(connection(1, 1, 9), &places);
    assert!(host.take(9).is_empty(), "it has its two");
    host.confirm(&taken[1], 1);
    assert_eq!(texts(&host.take(9)), ["2"]);
    host.confirm(&taken[0], 1);
    assert_eq!(host.queue_rows(), 1);
}

#[test]
fn qos_0_is_for_those_who_are_there_and_needs_no_credit() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 9));
    host.publish_many(0..5, AtMostOnce);
    let taken = host.take(9);
    assert_eq!(texts(&taken), ["0", "1", "2", "3", "4"]);
    let delivery = GroupDelivery { group: taken[0].group.unwrap().group, seq: QueueSeq(0) };
    assert_eq!((taken[0].qos, taken[0].group), (AtMostOnce, Some(delivery)));
    host.publish("lost", AtMostOnce);
    host.away(1);
    host.publish("nobody", AtMostOnce);
    assert_eq!(host.dropped(DropReason::NoMember), 2);
    assert_eq!((host.queue_rows(), host.store.commits() > 0), (0, true));
}

#[test]
fn a_member_that_takes_nothing_does_not_collect_qos_0_without_end() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 9));
    host.publish_many(0..1500, AtMostOnce);
    assert_eq!(host.dropped(DropReason::QoS0Full), 500);
    assert_eq!(host.take(9).len(), 1000);
}

#[test]
fn a_member_at_qos_0_gets_a_stored_message_once_and_in_turns() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 8));
    host.away(1);
    host.publish_many(0..2500, AtLeastOnce);
    host.join(Clean, AtMostOnce, connection(2, 1, 9));
    let taken = host.take(9);
    assert_eq!(texts(&taken), (0..2500).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(host.queue_rows(), 0);
}

#[test]
fn deliveries_are_as_the_subscription_says() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    let mut join = join(Clean, ExactlyOnce, connection(1, 1, 9));
    join.options.retain_as_published = true;
    join.subscription_id = SubscriptionId::new(5);
    host.handle(|groups, call| groups.join(&join, call));
    let message = Message { retain: true, ..message("t/x", "a", AtLeastOnce) };
    let expires_at = Some(UnixMillis(50));
    let queued = Queued { message: Arc::new(message), expires_at, ..queued("", AtLeastOnce) };
    host.handle(|groups, call| groups.publish(&queued, call));
    let delivery = host.take(9).remove(0);
    assert_eq!((delivery.qos, delivery.retain, delivery.dup), (AtLeastOnce, true, false));
    assert_eq!(delivery.subscription_ids.to_vec(), [SubscriptionId::new(5).unwrap()]);
    assert_eq!((delivery.expires_at, delivery.seq), (expires_at, QueueSeq(0)));
    join.options.retain_as_published = false;
    host.handle(|groups, call| groups.join(&join, call));
    host.handle(|groups, call| groups.publish(&queued, call));
    assert!(!host.take(9)[0].retain);
}

#[test]
fn a_route_follows_the_highest_qos_of_all_members() {
    let mut host = Host::new(config(GroupStrategy::RoundRobin));
    let mut seen = Vec::new();
    let mut routes = |host: &mut Host| {
        let changes = std::mem::take(&mut host.changes.routes);
        for change in changes {
            assert_eq!(change.filter.as_str(), "t/#");
            let at = seen.iter().position(|qos| *qos == change.qos);
            match (change.count, at) {
                (1, _) => seen.push(change.qos),
                (_, Some(at)) => drop(seen.remove(at)),
                (_, None) => panic!("{change:?}"),
            }
        }
        seen.clone()
    };
    host.join(Clean, AtLeastOnce, connection(1, 1, 9));
    assert_eq!(routes(&mut host), [AtLeastOnce]);
    host.join(Clean, ExactlyOnce, connection(2, 1, 9));
    assert_eq!(routes(&mut host), [ExactlyOnce]);
    host.leave(2);
    assert_eq!(routes(&mut host), [AtLeastOnce]);
    assert_eq!(host.groups.wanted().collect::<Vec<_>>(), [(filter("t/#"), AtLeastOnce)]);
    host.leave(1);
    assert!(routes(&mut host).is_empty());
}
