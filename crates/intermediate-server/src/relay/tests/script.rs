//! One rule each, step by step.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn view(state: RelayState, members: &[&Proxy]) -> RouteDown {
    let proxies = members.iter().map(|proxy| proxy.member.clone());
    let members = proxies.chain([member(STORE, 1)]).collect();
    RouteDown::View(View { state, members })
}

#[test]
fn a_message_is_acknowledged_only_after_every_matched_endpoint_took_it() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    let c = net.join("c", &[route("+", 2)]);
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 2)]);
    assert_eq!(net.acked(&a), None);
    assert_eq!(net.delivered(&b), [(1, 1), (2, 2)]);
    assert_eq!(net.delivered(&c), [(1, 1), (2, 2)]);
    net.take(&b, 2);
    assert_eq!(net.acked(&a), None);
    net.take(&c, 1);
    assert_eq!(net.acked(&a), Some(1));
    net.take(&c, 2);
    assert_eq!(net.acked(&a), Some(2));
    assert!(net.relay.is_idle());
}

#[test]
fn what_matches_nobody_else_is_acknowledged_at_once_and_never_comes_back() {
    let mut net = Net::new();
    let a = net.join("a", &[route("#", 2)]);
    net.publish(&a, vec![message(5, "t", 1), message(9, "t", 2)]);
    assert_eq!(net.acked(&a), Some(9));
    assert_eq!(net.delivered(&a), []);
}

#[test]
fn an_endpoint_with_qos0_routes_alone_holds_nothing_back() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 0)]));
    net.publish(&a, vec![message(1, "t", 1)]);
    assert_eq!(net.acked(&a), Some(1));
    assert_eq!(net.delivered(&b), [(1, 1)]);
}

#[test]
fn a_later_message_is_not_acknowledged_before_an_earlier_one_of_its_lane() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    let _c = net.join("c", &[]);
    net.publish(&a, vec![message(1, "t", 1), message(2, "nobody", 1)]);
    assert_eq!(net.acked(&a), None);
    assert_eq!(net.delivered(&b), [(1, 1)]);
    net.take(&b, 1);
    assert_eq!(net.acked(&a), Some(2));
}

#[test]
fn an_endpoint_that_is_declared_dead_holds_nothing_back_any_more() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.publish(&a, vec![message(1, "t", 1)]);
    net.pass(Duration::from_millis(5_900), &[&a]);
    assert_eq!(net.acked(&a), None);
    net.pass(SECOND, &[&a]);
    assert_eq!(net.acked(&a), Some(1));
    assert!(net.is_closed(b.publish));
    assert_eq!(net.said_on_routes(a.routes).last(), Some(&RouteDown::BeatAck(1)));
    let again = net.hello(&b.member, &[]);
    let rejected = RouteDown::Reject(RejectReason::DeclaredDead);
    assert_eq!(net.said_on_routes(again), [rejected]);
    assert_eq!(net.relay.poll_routes(again), Polled::Closed);
    let next = net.hello(&member("b", 2), &[]);
    assert!(matches!(net.said_on_routes(next)[..], [RouteDown::Welcome { .. }, ..]));
}

#[test]
fn a_local_endpoint_is_dead_a_second_after_its_route_stream_ended() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    let stream = net.relay.attach(StreamKind::Routes, Peer::Local, net.now);
    let hello = hello_frame(&b.member, EndpointRole::Proxy, &[]);
    net.up(stream, RouteUp::Hello(hello));
    net.publish(&a, vec![message(1, "t", 1)]);
    net.relay.detach(stream, net.now);
    net.pass(Duration::from_millis(900), &[&a]);
    assert_eq!(net.acked(&a), None);
    net.pass(Duration::from_millis(200), &[&a]);
    assert_eq!(net.acked(&a), Some(1));
}

#[test]
fn the_time_the_relay_itself_stood_still_is_not_held_against_anyone() {
    let mut net = Net::new();
    let a = net.join("a", &[]);
    net.now += 60 * SECOND;
    net.relay.handle_time(net.now);
    assert_eq!(net.relay.stats().members, 1);
    net.pass(7 * SECOND, &[]);
    assert_eq!(net.relay.stats().members, 0);
    assert!(net.is_closed(a.publish));
}

#[test]
fn a_link_that_is_opened_again_goes_on_where_the_endpoint_stopped_and_keeps_the_order() {
    let mut net = Net::new();
    let (a, mut b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 0), message(3, "t", 1)]);
    let said = net.said_on_deliver(b.deliver);
    let DeliverDown::LinkOpen(link) = said[0] else { panic!("{said:?}") };
    net.relay.detach(b.deliver, net.now);
    net.publish(&a, vec![message(4, "t", 0), message(5, "t", 1)]);
    b.deliver = net.open_deliver(&b.member, (link, 1));
    assert_eq!(net.acked(&a), Some(1));
    let said = net.said_on_deliver(b.deliver);
    assert!(matches!(said[0], DeliverDown::LinkOpen(other) if other != link));
    let again: Vec<_> = said.into_iter().flat_map(numbers).collect();
    // The second was QoS 0 and may have arrived; the fourth was never sent.
    assert_eq!(again, [(1, 3), (2, 4), (3, 5)]);
    assert_eq!(net.relay.stats().counts.dropped_link, 1);
    net.take(&b, 3);
    assert_eq!(net.acked(&a), Some(5));
}

#[test]
fn a_link_the_relay_does_not_know_starts_anew_with_everything_kept() {
    let mut net = Net::new();
    let (a, mut b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 1)]);
    let said = net.said_on_deliver(b.deliver);
    let DeliverDown::LinkOpen(link) = said[0] else { panic!("{said:?}") };
    net.take(&b, 1);
    net.relay.detach(b.deliver, net.now);
    b.deliver = net.open_deliver(&b.member, (link + 77, 2));
    let said = net.said_on_deliver(b.deliver);
    assert!(matches!(said[0], DeliverDown::LinkOpen(other) if other != link));
    assert_eq!(said.into_iter().flat_map(numbers).collect::<Vec<_>>(), [(1, 2)]);
}

#[test]
fn a_barrier_is_answered_when_everything_before_it_was_taken_qos0_included() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    let c = net.join("c", &[route("t", 0)]);
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 0)]);
    let barrier = PublishUp::Barrier { lane: Lane(7), id: 42 };
    net.relay.handle_publish(a.publish, barrier, net.now).unwrap();
    net.publish(&a, vec![message(3, "t", 1)]);
    assert_eq!(net.delivered(&b).len() + net.delivered(&c).len(), 6);
    net.take(&b, 2);
    net.take(&c, 1);
    let done = PublishDown::BarrierDone(42);
    assert!(!net.said_on_publish(a.publish).contains(&done));
    net.take(&c, 2);
    assert!(net.said_on_publish(a.publish).contains(&done));
}

#[test]
fn a_barrier_survives_the_loss_of_qos0_messages_with_their_link() {
    let mut net = Net::new();
    let (a, mut b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 0)]);
    let barrier = PublishUp::Barrier { lane: Lane(7), id: 42 };
    net.relay.handle_publish(a.publish, barrier, net.now).unwrap();
    net.publish(&a, vec![message(3, "t", 1)]);
    assert_eq!(net.delivered(&b).len(), 3);
    net.relay.detach(b.deliver, net.now);
    b.deliver = net.open_deliver(&b.member, (0, 0));
    assert_eq!(net.delivered(&b), [(1, 1), (2, 3)]);
    let done = PublishDown::BarrierDone(42);
    assert!(!net.said_on_publish(a.publish).contains(&done));
    net.take(&b, 1);
    assert!(net.said_on_publish(a.publish).contains(&done));
}

#[test]
fn an_origin_that_opens_again_starts_with_nothing_pending_and_late_takes_do_no_harm() {
    let mut net = Net::new();
    let (mut a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 1)]);
    assert_eq!(net.delivered(&b).len(), 2);
    let old = a.publish;
    a.publish = net.open_publish(&a.member);
    assert!(net.is_closed(old));
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 1), message(3, "t", 1)]);
    net.take(&b, 2);
    assert_eq!(net.acked(&a), None);
    assert_eq!(net.delivered(&b), [(3, 1), (4, 2), (5, 3)]);
    net.take(&b, 4);
    assert_eq!(net.acked(&a), Some(2));
    net.take(&b, 5);
    assert_eq!(net.acked(&a), Some(3));
}

#[test]
fn a_new_incarnation_fences_the_old_one_and_keeps_its_routes_until_its_own_are_complete() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("old", 1)]));
    net.publish(&a, vec![message(1, "old", 1)]);
    let renewed = member("b", 2);
    let stream = net.hello(&renewed, &[]);
    assert_eq!(net.acked(&a), Some(1));
    for old in [b.publish, b.deliver] {
        assert!(net.is_closed(old));
    }
    let deliver = net.open_deliver(&renewed, (0, 0));
    let b = Proxy { member: renewed, routes: stream, deliver, ..b };
    net.publish(&a, vec![message(2, "old", 1)]);
    assert_eq!(net.delivered(&b), [(1, 2)]);
    net.snapshot(stream, 0, &[route("new", 1)]);
    net.publish(&a, vec![message(3, "old", 1), message(4, "new", 1)]);
    assert_eq!(net.delivered(&b), [(2, 4)]);
    let late = net.hello(&member("b", 1), &[]);
    let rejected = RouteDown::Reject(RejectReason::OldIncarnation);
    assert_eq!(net.said_on_routes(late), [rejected]);
}

#[test]
fn no_credit_is_granted_before_every_named_endpoint_has_told_its_routes() {
    let mut net = Net::without_store(|config| config.start_grace = Duration::ZERO);
    let known = [member("a", 1), member("b", 1)];
    let a = net.hello(&known[0], &known);
    net.snapshot(a, 0, &[]);
    net.join_store(1, &[]);
    let publish = net.open_publish(&known[0]);
    assert_eq!(net.said_on_publish(publish), []);
    let batch = PublishUp::Batch(vec![message(1, "t", 1)]);
    let refused = net.relay.handle_publish(publish, batch, net.now);
    assert_eq!(refused, Err(Violation::CreditExceeded));
    let b = net.hello(&known[1], &[]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    net.snapshot(b, 0, &[]);
    assert_eq!(net.relay.state(), RelayState::Serving);
    assert!(matches!(net.said_on_publish(publish)[..], [PublishDown::Credit { .. }]));
}

#[test]
fn a_named_endpoint_that_stays_away_is_declared_dead_and_waited_for_no_longer() {
    let mut net = Net::new();
    net.pass(20 * SECOND, &[]);
    let known = [member("a", 1), member("b", 1)];
    let a = net.join("a", &[]);
    assert_eq!(net.relay.state(), RelayState::Serving);
    let mut net = Net::without_store(|config| config.start_grace = Duration::ZERO);
    net.pass(20 * SECOND, &[]);
    let stream = net.hello(&known[0], &known);
    net.snapshot(stream, 0, &[]);
    net.join_store(1, &[]);
    let a = Proxy { routes: stream, ..a };
    net.pass(Duration::from_millis(5_900), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    net.pass(Duration::from_millis(200), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Serving);
    let late = net.hello(&known[1], &[]);
    let rejected = RouteDown::Reject(RejectReason::DeclaredDead);
    assert_eq!(net.said_on_routes(late), [rejected]);
}

#[test]
fn unless_someone_was_here_before_the_grace_is_waited_out() {
    let mut net = Net::with(|config| config.start_grace = 2 * SECOND);
    let a = net.join("a", &[]);
    net.pass(Duration::from_millis(1_900), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    net.pass(Duration::from_millis(200), &[&a]);
    assert_eq!(net.said_on_routes(a.routes)[2], view(RelayState::Serving, &[&a]));
}

#[test]
fn the_grace_begins_when_the_first_proxy_comes() {
    let mut net = Net::with(|config| config.start_grace = 2 * SECOND);
    net.pass(60 * SECOND, &[]);
    let a = net.join("a", &[]);
    net.pass(Duration::from_millis(1_900), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    net.pass(Duration::from_millis(200), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Serving);
}

#[test]
fn applied_is_said_when_the_row_matches_and_a_known_endpoint_needs_deltas_only() {
    let mut net = Net::new();
    let (a, mut b) = (net.join("a", &[]), net.join("b", &[]));
    net.said_on_routes(b.routes);
    net.delta(b.routes, 1, &[route("t", 1), route("u/+", 1)]);
    assert_eq!(net.said_on_routes(b.routes), [RouteDown::Applied(2)]);
    net.publish(&a, vec![message(1, "t", 1), message(2, "u/1", 1)]);
    assert_eq!(net.delivered(&b).len(), 2);

    net.relay.detach(b.routes, net.now);
    net.publish(&a, vec![message(3, "t", 1)]);
    assert_eq!(net.delivered(&b).len(), 1, "stale routes are kept");
    b.routes = net.hello_at(&b.member, &[], 4, 1);
    let (member, store) = (member("relay", 1_000), StoreHere::Yes);
    let welcome = RouteDown::Welcome { member, deltas_from: Some(3), store };
    assert_eq!(net.said_on_routes(b.routes)[..2], [welcome, RouteDown::Applied(2)]);
    // What overlaps is passed over.
    net.delta(b.routes, 2, &[route("u/+", 1), Route { qos: None, ..route("t", 0) }]);
    assert_eq!(net.said_on_routes(b.routes), [RouteDown::Applied(3)]);
    net.publish(&a, vec![message(4, "t", 1)]);
    assert_eq!(net.delivered(&b), []);

    let too_old = net.hello_at(&b.member, &[], 9, 5);
    let said = net.said_on_routes(too_old);
    assert!(matches!(said[0], RouteDown::Welcome { deltas_from: None, .. }));
}

#[test]
fn missing_changes_and_another_digest_are_answered_with_resync_and_repaired_by_a_snapshot() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.said_on_routes(b.routes);
    net.delta(b.routes, 5, &[route("late", 1)]);
    assert_eq!(net.said_on_routes(b.routes), [RouteDown::Resync]);
    net.snapshot(b.routes, 5, &[route("t", 1), route("late", 1)]);
    net.said_on_routes(b.routes);

    let mut digest = RouteDigest::default();
    digest.add(&route("t", 1));
    digest.add(&route("late", 1));
    let beat = Beat { nonce: 9, seq: 5, count: 2, digest: digest.value() };
    net.up(b.routes, RouteUp::Beat(beat));
    assert_eq!(net.said_on_routes(b.routes), [RouteDown::BeatAck(9)]);
    assert!(net.relay.corrupt_route(&b.member.node));
    net.up(b.routes, RouteUp::Beat(beat));
    net.up(b.routes, RouteUp::Beat(beat));
    assert_eq!(net.said_on_routes(b.routes), [RouteDown::Resync, RouteDown::BeatAck(9)]);
    assert_eq!(net.relay.stats().counts.digest_mismatches, 1);
    net.snapshot(b.routes, 5, &[route("t", 1), route("late", 1)]);
    net.up(b.routes, RouteUp::Beat(beat));
    let said = net.said_on_routes(b.routes);
    assert_eq!(said, [RouteDown::Applied(5), RouteDown::BeatAck(9)]);
    net.publish(&a, vec![message(1, "t", 1), message(2, "late", 1)]);
    assert_eq!(net.delivered(&b).len(), 2);
}

#[test]
fn a_snapshot_in_parts_leaves_no_moment_without_the_rows_it_repeats() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("kept", 1), route("gone", 1)]));
    let chunk = |last, routes: &[Route]| {
        RouteUp::Snapshot(SnapshotChunk { at_seq: 9, last, routes: routes.to_vec() })
    };
    net.up(b.routes, chunk(false, &[route("new", 1)]));
    net.publish(&a, vec![message(1, "kept", 1), message(2, "gone", 1), message(3, "new", 1)]);
    assert_eq!(net.delivered(&b), [(1, 1), (2, 2)]);
    net.up(b.routes, chunk(true, &[route("kept", 2)]));
    net.publish(&a, vec![message(4, "kept", 1), message(5, "gone", 1), message(6, "new", 1)]);
    assert_eq!(net.delivered(&b), [(3, 4), (4, 6)]);
    net.relay.detach(b.routes, net.now);
    let stream = net.hello_at(&b.member, &[], 9, 1);
    net.up(stream, chunk(false, &[]));
    net.relay.detach(stream, net.now);
    net.publish(&a, vec![message(7, "kept", 1)]);
    assert_eq!(net.delivered(&b), [(5, 7)], "half a snapshot changes nothing");
}

#[test]
fn a_full_outbox_drops_qos0_and_withholds_credit_for_the_rest() {
    let mut net = Net::with(|config| {
        config.start_grace = Duration::ZERO;
        config.outbox.bytes = 1_000;
        config.outbox.qos0_bytes = 500;
        config.credit = Amount { messages: 10, bytes: 100_000 };
    });
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    assert!(matches!(
        net.said_on_publish(a.publish)[..],
        [PublishDown::Credit { messages: 10, .. }]
    ));
    let send = |net: &mut Net, seqs: std::ops::Range<u64>, qos| {
        let batch = PublishUp::Batch(seqs.map(|seq| message(seq, "t", qos)).collect());
        net.relay.handle_publish(a.publish, batch, net.now).unwrap();
    };
    send(&mut net, 1..21, 0);
    let stats = net.relay.stats();
    assert!(stats.counts.dropped_full > 0 && stats.outbox_bytes < 1_000, "{stats:?}");
    assert!(matches!(
        net.said_on_publish(a.publish)[..],
        [PublishDown::Credit { messages: 30, .. }]
    ));
    send(&mut net, 21..41, 1);
    assert_eq!(net.relay.stats().congested_outboxes, 1);
    assert_eq!(net.said_on_publish(a.publish), []);
    let (mut wakes, last) = (Vec::new(), net.delivered(&b).last().map(|(link, _)| *link));
    net.relay.take_wakes(&mut wakes);
    wakes.clear();
    net.take(&b, last.unwrap());
    net.relay.take_wakes(&mut wakes);
    assert!(wakes.contains(&a.publish));
    let said = net.said_on_publish(a.publish);
    assert_eq!(said[0], PublishDown::Acked(vec![(Lane(7), 40)]));
    assert!(matches!(said[1..], [PublishDown::Credit { messages: 50, .. }]));
}

#[test]
fn no_more_is_put_on_a_link_than_its_window_and_the_rest_follows_what_is_taken() {
    let mut net = Net::with(|config| {
        config.start_grace = Duration::ZERO;
        config.outbox.window_messages = 4;
        config.outbox.batch_messages = 3;
    });
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.publish(&a, (1..=6).map(|seq| message(seq, "t", 1)).collect());
    let said = net.said_on_deliver(b.deliver);
    let sizes: Vec<_> = said.into_iter().map(|frame| numbers(frame).len()).collect();
    assert_eq!(sizes, [0, 3, 1]);
    net.take(&b, 3);
    assert_eq!(net.delivered(&b), [(5, 5), (6, 6)]);
    let unsent = net.relay.handle_deliver(b.deliver, DeliverUp::Acked(7), net.now);
    assert_eq!(unsent, Err(Violation::AckedUnsent { acked: 7, sent: 6 }));
}

/// A batch as it was read: one buffer, of which `b` is sent a few bytes only.
struct Read(std::sync::Arc<[u8]>);

impl AsRef<[u8]> for Read {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn an_endpoint_that_takes_nothing_does_not_keep_every_batch_in_memory_of_which_it_got_a_part() {
    let mut net = Net::with(|config| {
        config.start_grace = Duration::ZERO;
        config.outbox.window_bytes = 64 << 10;
    });
    let (a, mut b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    let kept: std::sync::Arc<[u8]> = vec![0; 32 << 10].into();
    for seq in 0..100 {
        let read = bytes::Bytes::from_owner(Read(std::sync::Arc::clone(&kept)));
        let (mut small, mut large) = (message(2 * seq, "t", 1), message(2 * seq + 1, "u", 0));
        (small.message.payload, large.message.payload) = (read.slice(..9), read.slice(9..));
        drop(read);
        net.publish(&a, vec![small, large]);
        net.acked(&a);
    }
    let batches = std::sync::Arc::strong_count(&kept) - 1;
    assert!((1..=9).contains(&batches), "{batches} batches are kept");
    assert_eq!(net.delivered(&b).len(), 100);
    b.deliver = net.open_deliver(&b.member, (0, 0));
    assert_eq!(net.delivered(&b).len(), 100);
    net.take(&b, 100);
    assert_eq!(std::sync::Arc::strong_count(&kept), 1);
    assert!(net.relay.is_idle());
}

#[test]
fn the_time_a_message_waited_is_taken_off_its_expiry() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    let mut expiring = message(1, "t", 1);
    expiring.message.expiry_secs = Some(10);
    net.publish(&a, vec![expiring]);
    net.now += Duration::from_millis(3_500);
    let said = net.said_on_deliver(b.deliver);
    let DeliverDown::Batch { deliveries, .. } = &said[1] else { panic!("{said:?}") };
    assert_eq!(deliveries[0].routed.message.expiry_secs, Some(7));
}

#[test]
fn views_name_the_members_and_follow_every_change() {
    let mut net = Net::new();
    let a = net.join("a", &[]);
    assert_eq!(net.said_on_routes(a.routes).last(), Some(&view(RelayState::Serving, &[&a])));
    let b = net.join("b", &[]);
    assert_eq!(net.said_on_routes(a.routes), [view(RelayState::Serving, &[&a, &b])]);
    net.relay.detach(b.routes, net.now);
    assert_eq!(net.said_on_routes(a.routes), [], "a stale member is still one");
    net.pass(7 * SECOND, &[&a]);
    assert!(net.said_on_routes(a.routes).contains(&view(RelayState::Serving, &[&a])));
    net.relay.drain();
    assert_eq!(net.said_on_routes(a.routes), [view(RelayState::Draining, &[&a])]);
}

#[test]
fn frames_that_must_not_come_end_the_stream_and_nothing_else() {
    let mut net = Net::new();
    let a = net.join("a", &[]);
    let now = net.now;
    let silent = net.relay.attach(StreamKind::Publish, Peer::Remote, now);
    let relay = &mut net.relay;
    let batch = || PublishUp::Batch(Vec::new());
    assert_eq!(relay.handle_publish(silent, batch(), now), Err(Violation::NotOpened));
    let twice = PublishUp::Open(a.member.clone());
    assert_eq!(relay.handle_publish(a.publish, twice, now), Err(Violation::OpenedTwice));
    let delta = RouteUp::Delta(Delta { first_seq: 1, routes: vec![route("$share/g/t", 1)] });
    assert_eq!(relay.handle_routes(a.routes, delta, now), Err(Violation::SharedFilter));
    let chunk = SnapshotChunk { at_seq: 1, last: false, routes: Vec::new() };
    relay.handle_routes(a.routes, RouteUp::Snapshot(chunk), now).unwrap();
    let delta = RouteUp::Delta(Delta { first_seq: 1, routes: Vec::new() });
    assert_eq!(relay.handle_routes(a.routes, delta, now), Err(Violation::DeltaInSnapshot));
    let stranger = relay.attach(StreamKind::Routes, Peer::Remote, now);
    let known = hello_frame(&member("z", 1), EndpointRole::Proxy, &[]);
    let hello = Hello { protocol: PROTOCOL + 1, ..known };
    relay.handle_routes(stranger, RouteUp::Hello(hello), now).unwrap();
    let rejected = RouteDown::Reject(RejectReason::Protocol);
    assert_eq!(net.said_on_routes(stranger), [rejected]);
    net.pass(7 * SECOND, &[&a]);
    assert!(net.is_closed(silent), "who never says who it is is not waited for");
    assert_eq!(net.relay.stats().members, 1);
}
