//! Deep queues, limits, ends, and what a start finds.

use super::*;
use MemberKind::{Clean, Persistent};
use QoS::{AtLeastOnce, ExactlyOnce};

fn away(config: OwnerConfig) -> Host {
    let mut host = Host::new(config);
    host.join(Persistent, AtLeastOnce, connection(1, 1, 9));
    host.away(1);
    host
}

fn window(host: &Host) -> usize {
    host.groups.groups.values().map(|group| group.queue.window.len()).sum()
}

#[test]
fn a_deep_queue_is_drained_in_order_and_never_all_in_memory() {
    let mut host = away(OwnerConfig::default());
    host.publish_many(0..5000, AtLeastOnce);
    assert_eq!((host.queue_rows(), host.groups.queued().0), (5000, 5000));
    assert!(window(&host) <= 1024);
    host.back(connection(1, 2, 9), &[]);
    let mut all = Vec::new();
    loop {
        let some = host.take(9);
        if some.is_empty() {
            break;
        }
        some.iter().for_each(|delivery| host.confirm(delivery, 2));
        assert!(window(&host) <= 1024);
        all.extend(texts(&some));
    }
    assert_eq!(all, (0..5000).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!((host.queue_rows(), host.groups.queued()), (0, (0, 0)));
}

#[test]
fn a_start_reads_no_message_and_goes_on_where_it_was() {
    let mut host = away(OwnerConfig::default());
    host.publish_many(0..3000, AtLeastOnce);
    host.back(connection(1, 2, 9), &[]);
    for delivery in host.take(9) {
        host.confirm(&delivery, 2);
    }
    let queued = host.groups.queued();
    let mut host = host.reopen();
    assert_eq!((host.groups.queued(), window(&host)), (queued, 0));
    host.publish("last", AtLeastOnce);
    assert_eq!(window(&host), 0, "nobody is there to read it for");
    host.back(connection(1, 3, 9), &[]);
    let taken = host.drain(9, 3);
    assert_eq!((text(&taken[0]), taken.len()), ("2".to_owned(), 2999));
    assert_eq!(text(taken.last().unwrap()), "last");
    assert_eq!(host.groups.queued(), (0, 0));
}

#[test]
fn reading_before_a_commit_passes_over_nothing() {
    let mut host = away(OwnerConfig::default());
    host.publish_many(0..1500, AtLeastOnce);
    for number in 1500..3000 {
        host.with(|groups, call| groups.publish(&queued(&number.to_string(), AtLeastOnce), call));
    }
    host.with(|groups, call| groups.back(&filter(FILTER), connection(1, 2, 9), &[], call));
    for _ in 0..20 {
        let call = &mut Call { now: host.now, changes: &mut host.changes };
        host.groups.page(&host.store, call).unwrap();
    }
    host.handle(|_, _| ());
    let all: Vec<String> = (0..3000).map(|number| number.to_string()).collect();
    assert_eq!(texts(&host.drain(9, 2)), all);
    assert_eq!(host.queue_rows(), 0);
}

#[test]
fn a_queue_that_ends_before_its_last_messages_are_committed_is_deleted_whole() {
    let mut host = away(OwnerConfig::default());
    host.publish_many(0..10, AtLeastOnce);
    host.with(|groups, call| groups.publish(&queued("late", AtLeastOnce), call));
    host.with(|groups, call| groups.leave(&filter(FILTER), session(1), call));
    let call = &mut Call { now: host.now, changes: &mut host.changes };
    host.groups.page(&host.store, call).unwrap();
    host.handle(|_, _| ());
    assert_eq!((host.queue_rows(), host.rows(Table::Group)), (0, 1));
}

#[test]
fn places_are_not_given_out_again_after_a_start() {
    let mut host = Host::new(OwnerConfig::default());
    host.join(Persistent, AtLeastOnce, connection(1, 1, 9));
    host.publish("a", AtLeastOnce);
    let before = host.drain(9, 1);
    let mut host = host.reopen();
    host.back(connection(1, 1, 9), &[]);
    host.publish("b", AtLeastOnce);
    let after = host.drain(9, 1);
    assert!(before[0].group.unwrap().seq < after[0].group.unwrap().seq);
}

#[test]
fn groups_get_numbers_that_none_had_before() {
    let mut host = Host::new(OwnerConfig::default());
    let mut ids = Vec::new();
    for _ in 0..3 {
        host.join(Clean, AtLeastOnce, connection(1, 1, 9));
        ids.extend(host.groups.groups.keys().copied());
        host.leave(1);
        assert_eq!((host.groups.len(), host.rows(Table::Group)), (0, 1), "the counter stays");
        host = host.reopen();
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn the_newest_is_dropped_when_the_queue_is_full() {
    let mut host = away(limited(3, WhenFull::DropNewest));
    host.publish_many(0..5, AtLeastOnce);
    assert_eq!(host.dropped(DropReason::GroupFull), 2);
    assert!(!host.groups.would_refuse(&TopicName::new("t/x").unwrap()));
    host.back(connection(1, 2, 9), &[]);
    assert_eq!(texts(&host.drain(9, 2)), ["0", "1", "2"]);
}

#[test]
fn the_oldest_that_nobody_has_is_dropped_when_the_queue_is_full() {
    let mut host = Host::new(limited(4, WhenFull::DropOldest));
    host.join(Persistent, AtLeastOnce, connection(1, 1, 9));
    host.publish_many(0..6, AtLeastOnce);
    assert_eq!(host.dropped(DropReason::GroupFull), 2);
    assert_eq!(texts(&host.drain(9, 1)), ["0", "1", "4", "5"]);
}

#[test]
fn the_oldest_is_dropped_from_a_queue_that_is_not_in_memory_too() {
    let mut host = away(limited(2000, WhenFull::DropOldest));
    for start in (0..6000).step_by(500) {
        host.publish_many(start..start + 500, AtLeastOnce);
    }
    assert_eq!((host.queue_rows(), host.dropped(DropReason::GroupFull)), (2000, 4000));
    host.back(connection(1, 2, 9), &[]);
    let last: Vec<String> = (4000..6000).map(|number| number.to_string()).collect();
    assert_eq!(texts(&host.drain(9, 2)), last);
}

#[test]
fn a_full_queue_refuses_where_that_is_the_policy() {
    let mut host = away(limited(2, WhenFull::RejectNew));
    let topic = TopicName::new("t/x").unwrap();
    host.publish("a", AtLeastOnce);
    assert!(!host.groups.would_refuse(&topic));
    host.publish("b", AtLeastOnce);
    assert!(host.groups.would_refuse(&topic));
    assert!(!host.groups.would_refuse(&TopicName::new("other").unwrap()));
    let mut host = host.reopen();
    assert!(host.groups.would_refuse(&topic), "also after a start");
    host.back(connection(1, 2, 9), &[]);
    host.drain(9, 2);
    assert!(!host.groups.would_refuse(&topic));
}

#[test]
fn bytes_are_limited_too() {
    let mut config = limited(100, WhenFull::DropNewest);
    config.limits.group.bytes = 200;
    let mut host = away(config);
    host.publish_many(0..10, AtLeastOnce);
    assert_eq!((host.queue_rows(), host.dropped(DropReason::GroupFull)), (3, 7));
}

#[test]
fn the_queue_of_a_group_without_members_is_deleted_bit_by_bit() {
    let mut host = away(OwnerConfig::default());
    host.publish_many(0..2000, AtLeastOnce);
    host.with(|groups, call| groups.leave(&filter(FILTER), session(1), call));
    host.commit();
    host.page();
    let left = host.queue_rows();
    assert!(0 < left && left < 2000, "one step: {left}");
    assert_eq!(host.dropped(DropReason::Ended), 2000);
    // A new group with this filter has nothing to do with it.
    host.with(|groups, call| {
        groups.join(&join(Clean, AtLeastOnce, connection(2, 1, 9)), call);
    });
    host.commit();
    let mut host = host.reopen();
    while host.groups.has_pages() {
        host.page();
    }
    assert_eq!((host.queue_rows(), host.rows(Table::Group), host.groups.len()), (0, 2, 1));
    host.join(Clean, AtLeastOnce, connection(2, 1, 9));
    host.publish("new", AtLeastOnce);
    assert_eq!(texts(&host.drain(9, 1)), ["new"]);
}

#[test]
fn a_group_without_members_may_be_kept_and_goes_on_to_grow() {
    let mut config = config(GroupStrategy::RoundRobin);
    config.group.when_empty = WhenEmpty::Keep;
    let mut host = away(config);
    host.publish("a", AtLeastOnce);
    host.leave(1);
    host.publish("b", AtLeastOnce);
    let mut host = host.reopen();
    assert_eq!(host.groups.wanted().collect::<Vec<_>>(), [(filter("t/#"), AtLeastOnce)]);
    host.publish("c", AtLeastOnce);
    host.join(Clean, ExactlyOnce, connection(2, 1, 9));
    assert_eq!(texts(&host.drain(9, 1)), ["a", "b", "c"]);
}

#[test]
fn expired_messages_are_dropped_when_their_turn_comes() {
    let mut host = away(OwnerConfig::default());
    for number in 0..2000 {
        let expires_at = (number != 1990).then_some(UnixMillis(10));
        let queued = Queued { expires_at, ..queued(&number.to_string(), AtLeastOnce) };
        host.with(|groups, call| groups.publish(&queued, call));
    }
    host.handle(|_, _| ());
    host.now = UnixMillis(10);
    host.back(connection(1, 2, 9), &[]);
    assert_eq!(texts(&host.drain(9, 2)), ["1990"]);
    assert_eq!((host.dropped(DropReason::Expired), host.queue_rows()), (1999, 0));
}

#[test]
fn a_topic_is_for_every_group_that_matches() {
    let mut host = Host::new(OwnerConfig::default());
    for (number, text) in [(1, "$share/a/t/#"), (2, "$share/b/t/x"), (3, "$share/c/u")] {
        let join = JoinGroup {
            filter: filter(text),
            ..join(Clean, AtLeastOnce, connection(number, 1, 9))
        };
        host.handle(|groups, call| groups.join(&join, call));
    }
    host.publish("a", AtLeastOnce);
    let taken = host.take(9);
    let mut sessions: Vec<u64> = taken.iter().map(|one| one.session.number()).collect();
    sessions.sort_unstable();
    assert_eq!(sessions, [1, 2]);
}

#[test]
fn a_proxy_takes_from_all_its_members_in_turns_and_not_more_than_it_wants() {
    let mut host = Host::new(OwnerConfig::default());
    for number in [1, 2] {
        let member = changes::Member { receive_maximum: 500, ..connection(number, 1, 9) };
        host.join(Clean, AtLeastOnce, member);
    }
    host.publish_many(0..400, AtLeastOnce);
    let mut some = Vec::new();
    host.groups.deliveries(proxy(9), 64 * 68 * 2, &mut some);
    assert!(some.iter().any(|one| one.session == session(1)));
    assert!(some.iter().any(|one| one.session == session(2)));
    assert!(some.len() < 200 && host.groups.is_ready(proxy(9)));
    assert_eq!(some.len() + host.take(9).len(), 400);
}

#[test]
fn damaged_rows_are_errors() {
    let mut groups = Host::new(OwnerConfig::default()).groups;
    let key = rows::number_key(PARTITION, 1);
    groups.load_group(&key[..3], &Bytes::new()).unwrap_err();
    groups.load_group(&key, &Bytes::from_static(b"\x01\x00")).unwrap_err();
    groups.load_member(&rows::place_key(5, 5), &Bytes::new()).unwrap_err();
    let value = Bytes::from(queued("a", AtLeastOnce).encode(Some(session(1))));
    Queued::decode(&value).unwrap();
    for length in 0..value.len() {
        Queued::decode(&value.slice(..length)).unwrap_err();
    }
}
