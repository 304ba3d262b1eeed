//! The store among the endpoints, and what only those ask for: refusals, leaving, departures.

use cluster_rpc::origin_of;
use mqtt_codec::ReasonCode;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const FULL: ReasonCode = ReasonCode::QuotaExceeded;

impl Net {
    fn with_store(routes: &[Route]) -> (Self, Proxy) {
        let mut net = Self::without_store(|config| config.start_grace = Duration::ZERO);
        let store = net.join_store(1, routes);
        (net, store)
    }

    fn refuse(&mut self, by: &Proxy, refused: &[(u64, ReasonCode)]) -> Result<(), Violation> {
        self.relay.handle_deliver(by.deliver, DeliverUp::Refused(refused.to_vec()), self.now)
    }

    /// Everything of `of` ends, as when its process is killed.
    fn cut(&mut self, of: &Proxy) {
        for stream in [of.routes, of.publish, of.deliver] {
            self.relay.detach(stream, self.now);
        }
    }

    fn departed(&mut self) -> Vec<Member> {
        let mut departed = Vec::new();
        self.relay.take_departed(&mut departed);
        departed
    }

    /// What is said of messages, without credits.
    fn told(&mut self, origin: &Proxy) -> Vec<PublishDown> {
        let mut said = self.said_on_publish(origin.publish);
        said.retain(|frame| !matches!(frame, PublishDown::Credit { .. }));
        said
    }
}

fn acked(seq: u64) -> PublishDown {
    PublishDown::Acked(vec![(Lane(7), seq)])
}

fn refused(seqs: &[u64], why: ReasonCode) -> PublishDown {
    PublishDown::Refused(seqs.iter().map(|&seq| (Lane(7), seq, why)).collect())
}

#[test]
fn the_store_is_never_declared_dead_and_what_waits_for_it_waits() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, vec![message(1, "t", 1)]);
    assert_eq!(net.delivered(&store), [(1, 1)]);
    net.cut(&store);
    net.pass(60 * SECOND, &[&a]);
    assert_eq!(net.acked(&a), None);
    assert_eq!(net.relay.state(), RelayState::Serving);
    net.publish(&a, vec![message(2, "t", 1)]);
    assert_eq!(net.acked(&a), None, "its routes are still here");
    let stats = net.relay.stats();
    assert_eq!((stats.store_outbox_messages, stats.counts.declared_dead), (2, 0));
    assert!(stats.store_outbox_bytes > 0);
}

#[test]
fn a_silent_stores_streams_end_and_nothing_else() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, vec![message(1, "t", 1)]);
    net.relay.detach(store.routes, net.now);
    net.pass(Duration::from_millis(5_900), &[&a]);
    assert!(!net.is_closed(store.publish));
    net.pass(SECOND, &[&a]);
    assert!(net.is_closed(store.publish));
    assert_eq!(net.relay.poll_deliver(store.deliver, net.now), Polled::Closed);
    assert_eq!((net.acked(&a), net.relay.stats().routes), (None, 1));
    // It comes again as it is.
    let routes = net.hello_of(hello_frame(&store.member, EndpointRole::Store, &[]));
    let deliver = net.open_deliver(&store.member, (0, 0));
    assert_eq!(net.delivered(&Proxy { routes, deliver, ..store }), [(1, 1)]);
}

#[test]
fn a_local_store_that_ends_is_waited_for_like_any_other() {
    let mut net = Net::without_store(|config| config.start_grace = Duration::ZERO);
    let stream = net.relay.attach(StreamKind::Routes, Peer::Local, net.now);
    let hello = hello_frame(&member(STORE, 1), EndpointRole::Store, &[]);
    net.up(stream, RouteUp::Hello(hello));
    net.snapshot(stream, 0, &[route("t", 1)]);
    let a = net.join("a", &[]);
    net.relay.detach(stream, net.now);
    net.pass(3 * SECOND, &[&a]);
    net.publish(&a, vec![message(1, "t", 1)]);
    assert_eq!(net.acked(&a), None);
}

#[test]
fn the_next_life_of_the_store_gets_everything_that_the_last_one_has_not_acknowledged() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, (1..=4).map(|seq| message(seq, "t", 1)).collect());
    assert_eq!(net.delivered(&store).len(), 4);
    net.take(&store, 1);
    net.cut(&store);
    net.publish(&a, vec![message(5, "t", 1)]);

    let member = member(STORE, 2);
    let routes = net.hello_of(hello_frame(&member, EndpointRole::Store, &[]));
    assert_eq!(net.told(&a), [acked(1)]);
    net.publish(&a, vec![message(6, "t", 1)]);
    let deliver = net.open_deliver(&member, (0, 0));
    let store = Proxy { member, routes, deliver, ..store };
    assert_eq!(net.delivered(&store), [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]);
    assert_eq!(net.told(&a), []);
    net.snapshot(routes, 0, &[]);
    net.take(&store, 5);
    assert_eq!(net.told(&a), [acked(6)], "what came before its rows went is waited for too");
    assert!(net.relay.is_idle());
    let counts = net.relay.stats().counts;
    assert_eq!((counts.dropped_dead, counts.fenced), (0, 1));
}

#[test]
fn a_store_that_is_away_stops_the_origins_once_its_outbox_is_full_and_not_before() {
    let mut net = Net::without_store(|config| {
        config.start_grace = Duration::ZERO;
        config.outbox.bytes = 1_000;
        config.credit = Amount { messages: 10, bytes: 100_000 };
    });
    let store = net.join_store(1, &[route("t", 1)]);
    let a = net.join("a", &[]);
    net.cut(&store);
    let batch = |seqs: std::ops::Range<u64>| {
        PublishUp::Batch(seqs.map(|seq| message(seq, "t", 1)).collect())
    };
    assert!(matches!(net.said_on_publish(a.publish)[..], [PublishDown::Credit { .. }]));
    net.relay.handle_publish(a.publish, batch(1..11), net.now).unwrap();
    assert!(matches!(net.said_on_publish(a.publish)[..], [PublishDown::Credit { .. }]));
    net.relay.handle_publish(a.publish, batch(11..31), net.now).unwrap();
    assert_eq!(net.said_on_publish(a.publish), []);
    net.pass(20 * SECOND, &[&a]);
    let renewed = net.join_store(2, &[route("t", 1)]);
    assert_eq!(net.relay.stats().congested_outboxes, 1);
    let last = net.delivered(&renewed).last().map(|(number, _)| *number);
    assert_eq!(last, Some(30));
    net.take(&renewed, 30);
    let said = net.said_on_publish(a.publish);
    assert!(matches!(said[..], [PublishDown::Acked(_), PublishDown::Credit { .. }]), "{said:?}");
    assert_eq!(said[0], acked(30));
}

#[test]
fn a_stream_of_the_stores_next_life_that_comes_before_its_routes_loses_nothing_either() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, vec![message(1, "t", 1)]);
    let member = member(STORE, 2);
    let deliver = net.open_deliver(&member, (0, 0));
    let store = Proxy { member: member.clone(), deliver, ..store };
    assert_eq!(net.delivered(&store), [(1, 1)]);
    assert_eq!(net.acked(&a), None);
    net.hello_of(hello_frame(&member, EndpointRole::Store, &[]));
    net.cut(&store);
    net.pass(20 * SECOND, &[&a]);
    assert_eq!(net.acked(&a), None);
}

#[test]
fn no_message_is_taken_before_the_store_has_told_its_routes() {
    let mut net = Net::without_store(|config| config.start_grace = Duration::ZERO);
    let a = net.join("a", &[]);
    net.pass(60 * SECOND, &[&a]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    assert!(net.relay.stats().waits_for_store);
    assert_eq!(net.said_on_publish(a.publish), []);
    let routes = net.hello_of(hello_frame(&member(STORE, 1), EndpointRole::Store, &[]));
    let store = Proxy { routes, ..a.clone() };
    net.pass(60 * SECOND, &[&a, &store]);
    assert_eq!(net.relay.state(), RelayState::Joining, "it has as much time as it needs");
    net.snapshot(store.routes, 0, &[route("t", 1)]);
    assert_eq!(net.relay.state(), RelayState::Serving);
    assert!(!net.relay.stats().waits_for_store);
    assert!(matches!(net.said_on_publish(a.publish)[..], [PublishDown::Credit { .. }]));
}

#[test]
fn the_store_alone_does_not_open_the_gate() {
    let (mut net, store) = Net::with_store(&[]);
    net.pass(60 * SECOND, &[&store]);
    assert_eq!(net.relay.state(), RelayState::Joining, "nobody has named the others yet");
    let known = [member("a", 1), member("b", 1)];
    let a = net.hello(&known[0], &known);
    net.snapshot(a, 0, &[]);
    assert_eq!(net.relay.state(), RelayState::Joining, "another one was named");
    let b = net.hello(&known[1], &[]);
    net.snapshot(b, 0, &[]);
    assert_eq!(net.relay.state(), RelayState::Serving);
}

#[test]
fn going_down_does_not_open_the_gate() {
    let mut net = Net::without_store(|config| config.start_grace = Duration::ZERO);
    let a = net.join("a", &[]);
    net.relay.drain();
    assert_eq!(net.said_on_publish(a.publish), []);
}

#[test]
fn a_store_that_was_named_and_came_late_is_let_in_as_it_is() {
    let mut net = Net::without_store(|config| config.start_grace = Duration::ZERO);
    let known = [member("a", 1), member(STORE, 1)];
    let stream = net.hello(&known[0], &known);
    net.snapshot(stream, 0, &[]);
    let a = Proxy { routes: stream, ..net.join("b", &[]) };
    net.pass(20 * SECOND, &[&a]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    let store = net.hello_of(hello_frame(&known[1], EndpointRole::Store, &[]));
    assert!(matches!(net.said_on_routes(store)[0], RouteDown::Welcome { .. }));
    net.snapshot(store, 0, &[]);
    assert_eq!(net.relay.state(), RelayState::Serving);
}

#[test]
fn after_a_stall_the_store_is_awaited_for_as_long_as_it_takes() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, vec![message(1, "t", 1)]);
    net.now += 8 * SECOND;
    net.relay.handle_time(net.now);
    let a = Proxy { routes: net.hello(&a.member, &[]), ..a };
    net.pass(30 * SECOND, &[&a]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    assert!(net.relay.stats().waits_for_store);
    net.hello_of(hello_frame(&store.member, EndpointRole::Store, &[]));
    assert_eq!(net.relay.state(), RelayState::Serving);
    let deliver = net.open_deliver(&store.member, (0, 0));
    assert_eq!(net.delivered(&Proxy { deliver, ..store }), [(1, 1)]);
}

#[test]
fn a_second_store_is_turned_away_and_told_of_once() {
    let (mut net, store) = Net::with_store(&[]);
    let second = member("other/store", 9);
    for _ in 0..3 {
        let stream = net.hello_of(hello_frame(&second, EndpointRole::Store, &[]));
        let rejected = RouteDown::Reject(RejectReason::SecondStore);
        assert_eq!(net.said_on_routes(stream), [rejected]);
    }
    let told = net.relay.take_second_store();
    assert_eq!(told, Some((second.clone(), store.member.node.clone())));
    assert_eq!(net.relay.take_second_store(), None);
    assert!(!net.relay.is_here(&second) && net.relay.is_here(&store.member));
    // Also if the name was a proxy's before.
    let proxy = net.join("b", &[]);
    let stream = net.hello_of(hello_frame(&proxy.member, EndpointRole::Store, &[]));
    let rejected = RouteDown::Reject(RejectReason::SecondStore);
    assert_eq!(net.said_on_routes(stream), [rejected]);
}

#[test]
fn a_proxy_cannot_take_the_stores_name_and_with_it_what_waits() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, vec![message(1, "t", 1)]);
    for life in [1, 2] {
        let stream = net.relay.attach(StreamKind::Routes, Peer::Remote, net.now);
        let hello = hello_frame(&member(STORE, life), EndpointRole::Proxy, &[]);
        let refused = net.relay.handle_routes(stream, RouteUp::Hello(hello), net.now);
        assert_eq!(refused, Err(Violation::NoStore));
        net.relay.detach(stream, net.now);
    }
    assert_eq!(net.delivered(&store), [(1, 1)]);
    assert_eq!(net.acked(&a), None);
}

#[test]
fn a_retained_message_goes_to_the_store_and_to_whom_it_matches_and_to_nobody_else() {
    let (mut net, store) = Net::with_store(&[route("quiet", 0), route("loud", 1)]);
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    let c = net.join("c", &[]);
    let topics = ["t", "quiet", "loud"];
    net.publish(&a, (1..).zip(topics).map(|(seq, topic)| retained(seq, topic, 1)).collect());
    assert_eq!(net.delivered(&store), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!((net.delivered(&b), net.delivered(&c)), (vec![(1, 1)], Vec::new()));
    net.take(&b, 1);
    assert_eq!(net.acked(&a), None);
    for number in 1..=3 {
        net.take(&store, number);
        assert_eq!(net.acked(&a), Some(number), "held though nobody there wants QoS 1");
    }
    net.publish(&a, vec![retained(4, "t", 0)]);
    assert_eq!((net.delivered(&store), net.delivered(&b)), (vec![(4, 4)], vec![(2, 4)]));
}

#[test]
fn what_the_store_publishes_does_not_come_back_to_it() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let b = net.join("b", &[route("t", 1)]);
    net.publish(&store, vec![retained(1, "t", 1)]);
    assert_eq!((net.delivered(&store), net.delivered(&b)), (Vec::new(), vec![(1, 1)]));
    assert_eq!(net.acked(&store), None);
    net.take(&b, 1);
    assert_eq!(net.acked(&store), Some(1));
}

#[test]
fn a_refusal_is_told_once_all_have_the_message_and_before_it_is_acknowledged() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.publish(&a, (1..=3).map(|seq| message(seq, "t", 1)).collect());
    assert_eq!((net.delivered(&store).len(), net.delivered(&b).len()), (3, 3));
    net.refuse(&store, &[(1, FULL), (3, ReasonCode::ImplementationSpecificError)]).unwrap();
    net.refuse(&b, &[(3, FULL)]).unwrap();
    assert_eq!(net.told(&a), [], "the refusal alone releases nothing");
    net.take(&store, 3);
    assert_eq!(net.told(&a), [], "the other has none of it");
    net.take(&b, 2);
    assert_eq!(net.told(&a), [refused(&[1], FULL), acked(2)]);
    net.take(&b, 3);
    // What was released first counts.
    let why = ReasonCode::ImplementationSpecificError;
    assert_eq!(net.told(&a), [refused(&[3], why), acked(3)]);
    let counts = net.relay.stats().counts;
    assert_eq!((counts.refused_quota, counts.refused_other), (1, 1));
    assert!(net.relay.is_idle());
}

#[test]
fn more_refusals_than_fit_in_a_frame_are_all_told_before_the_acknowledgement() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, (1..=2_500).map(|seq| message(seq, "t", 1)).collect());
    assert_eq!(net.delivered(&store).len(), 2_500);
    net.refuse(&store, &(1..=2_500).map(|number| (number, FULL)).collect::<Vec<_>>()).unwrap();
    net.take(&store, 2_500);
    let told = net.told(&a);
    let (last, refusals) = told.split_last().unwrap();
    let count = |frame: &PublishDown| match frame {
        PublishDown::Refused(refused) => refused.len(),
        PublishDown::Acked(_) | PublishDown::BarrierDone(_) | PublishDown::Credit { .. } => {
            panic!("told between refusals: {frame:?}")
        }
    };
    assert_eq!((refusals.iter().map(count).sum(), last), (2_500, &acked(2_500)));
}

#[test]
fn a_refusal_survives_a_break_of_the_link_and_is_told_when_the_message_is_taken_for_a_repetition() {
    let (mut net, mut store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 1)]);
    assert_eq!(net.delivered(&store).len(), 2);
    net.refuse(&store, &[(1, FULL)]).unwrap();
    store.deliver = net.open_deliver(&store.member, (0, 0));
    assert_eq!(net.delivered(&store), [(1, 1), (2, 2)]);
    net.take(&store, 2);
    assert_eq!(net.told(&a), [refused(&[1], FULL), acked(2)]);
}

#[test]
fn only_what_is_on_the_link_can_be_refused() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, vec![message(1, "t", 1), message(2, "t", 0), message(3, "t", 1)]);
    assert_eq!(net.refuse(&store, &[(1, FULL)]), Err(Violation::RefusedUnsent(1)));
    assert_eq!(net.delivered(&store).len(), 3);
    for number in [0, 4, u64::MAX] {
        assert_eq!(net.refuse(&store, &[(number, FULL)]), Err(Violation::RefusedUnsent(number)));
    }
    net.refuse(&store, &[(2, FULL)]).unwrap();
    net.take(&store, 3);
    assert_eq!(net.refuse(&store, &[(3, FULL)]), Err(Violation::RefusedUnsent(3)));
    assert_eq!(net.told(&a), [acked(3)], "nobody waited for the second");
}

#[test]
fn an_endpoint_that_leaves_holds_nothing_back_and_comes_again_in_a_new_life() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.said_on_routes(a.routes);
    net.publish(&a, vec![message(1, "t", 1)]);
    net.up(b.routes, RouteUp::Leave);
    assert_eq!(net.acked(&a), Some(1));
    let said = net.said_on_routes(a.routes);
    let members = vec![a.member.clone(), member(STORE, 1)];
    assert_eq!(said, [RouteDown::View(View { state: RelayState::Serving, members })]);
    assert_eq!(net.relay.poll_routes(b.routes), Polled::Closed);
    assert!(net.is_closed(b.publish));
    assert_eq!(net.relay.stats().routes, 0);
    let late = net.hello(&b.member, &[]);
    let rejected = RouteDown::Reject(RejectReason::DeclaredDead);
    assert_eq!(net.said_on_routes(late), [rejected]);
    net.join_as(member("b", 2), &[route("t", 1)]);
    net.publish(&a, vec![message(2, "t", 1)]);
    assert_eq!(net.acked(&a), None);
    let counts = net.relay.stats().counts;
    assert_eq!((counts.left, counts.declared_dead, counts.fenced), (1, 0, 0));
}

#[test]
fn who_leaves_before_the_gate_is_open_is_not_awaited() {
    let (mut net, _store) = Net::with_store(&[]);
    let known = [member("a", 1), member("b", 1)];
    let a = net.hello(&known[0], &known);
    net.snapshot(a, 0, &[]);
    let b = net.hello(&known[1], &[]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    net.up(b, RouteUp::Leave);
    assert_eq!(net.relay.state(), RelayState::Serving);
}

#[test]
fn a_store_that_leaves_only_ends_its_streams() {
    let (mut net, store) = Net::with_store(&[route("t", 1)]);
    let a = net.join("a", &[]);
    net.publish(&a, vec![message(1, "t", 1)]);
    net.up(store.routes, RouteUp::Leave);
    assert_eq!(net.relay.poll_routes(store.routes), Polled::Closed);
    net.pass(20 * SECOND, &[&a]);
    net.publish(&a, vec![message(2, "t", 1)]);
    assert_eq!(net.acked(&a), None);
    let renewed = net.join_store(2, &[route("t", 1)]);
    assert_eq!(net.delivered(&renewed), [(1, 1), (2, 2)]);
}

#[test]
fn every_life_that_ends_is_told_once_however_it_ends() {
    let (mut net, _store) = Net::with_store(&[]);
    let (a, b) = (net.join("a", &[]), net.join("b", &[]));
    let (c, d) = (net.join("c", &[]), net.join("d", &[]));
    assert_eq!(net.departed(), []);
    assert!([&a, &b, &c, &d].iter().all(|proxy| net.relay.is_here(&proxy.member)));
    assert_eq!(net.relay.proxies().len(), 4);
    net.up(a.routes, RouteUp::Leave);
    net.join_as(member("b", 2), &[]);
    net.cut(&c);
    let half = member("half", 1);
    net.hello(&half, &[]);
    net.pass(7 * SECOND, &[&d]);
    let mut departed = net.departed();
    departed.sort();
    let expected = [&a.member, &b.member, &member("b", 2), &c.member, &half];
    assert!(departed.iter().eq(expected), "{departed:?}");
    assert_eq!(net.departed(), []);
    let [is_here, was_here] = [&d, &a].map(|one| net.relay.has_proxy(origin_of(&one.member)));
    assert!(is_here && !was_here);
    assert_eq!(net.relay.proxies(), [d.member]);
}

#[test]
fn one_that_was_named_and_never_came_has_departed_too() {
    let mut net = Net::without_store(|config| config.start_grace = Duration::ZERO);
    let known = [member("a", 1), member("b", 1)];
    net.hello(&known[0], &known);
    net.pass(7 * SECOND, &[]);
    let mut departed = net.departed();
    departed.sort();
    assert_eq!(departed, known);
}

#[test]
fn a_relay_without_the_store_remembers_no_departures_and_says_that_it_has_none() {
    let mut net = Net::with(|config| {
        config.start_grace = Duration::ZERO;
        config.store_here = StoreHere::No;
    });
    let a = net.join("a", &[]);
    let said = net.said_on_routes(a.routes);
    assert!(matches!(said[0], RouteDown::Welcome { store: StoreHere::No, .. }), "{said:?}");
    net.up(a.routes, RouteUp::Leave);
    assert_eq!(net.departed(), []);
}
