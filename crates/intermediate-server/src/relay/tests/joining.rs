//! When messages are taken: after a start, after the relay itself stood still, and who is then too late.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(4);

fn rejected(why: RejectReason) -> [RouteDown; 1] {
    [RouteDown::Reject(why)]
}

fn beat() -> RouteUp {
    RouteUp::Beat(Beat { nonce: 1, seq: u64::MAX, count: 0, digest: 0 })
}

impl Net {
    /// `proxy` connects again and has nothing new to tell.
    fn return_of(&mut self, proxy: &Proxy, known: &[Member]) -> Proxy {
        let (member, routes) = (proxy.member.clone(), self.hello(&proxy.member, known));
        let publish = self.open_publish(&member);
        let deliver = self.open_deliver(&member, (0, 0));
        Proxy { member, routes, publish, deliver }
    }

    /// The store connects again and has nothing new to tell.
    fn return_of_store(&mut self) {
        self.hello_of(hello_frame(&member(STORE, 1), EndpointRole::Store, &[]));
    }
}

fn joining() -> Net {
    Net::without_store(|config| config.start_grace = Duration::ZERO)
}

#[test]
fn a_relay_that_stood_still_for_a_lease_takes_nothing_until_every_member_has_come_again() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[]));
    net.credit(&a);
    net.now += 8 * SECOND;
    // Was sent before the others gave this relay up, and is read before any timer runs.
    let batch = PublishUp::Batch(vec![message(1, "t", 1)]);
    net.relay.handle_publish(a.publish, batch, net.now).unwrap();
    assert_eq!(net.said_on_publish(a.publish), []);
    assert_eq!(net.relay.state(), RelayState::Joining);
    assert!(
        [a.routes, b.routes].map(|stream| net.relay.poll_routes(stream)).contains(&Polled::Closed)
    );

    let a = net.return_of(&a, &[]);
    net.return_of_store();
    net.pass(SECOND, &[&a]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    assert_eq!(net.said_on_publish(a.publish), []);
    // It has told a subscriber that it is subscribed, when the relay was given up.
    let stream = net.hello_at(&b.member, &[], 1, 1);
    net.relay.handle_time(net.now);
    assert_eq!(net.relay.state(), RelayState::Joining, "its change is not here");
    net.delta(stream, 1, &[route("t", 1)]);
    assert_eq!(net.relay.state(), RelayState::Serving);
    net.publish(&a, vec![message(1, "t", 1)]);
    assert_eq!(net.acked(&a), None);
    assert_eq!(net.relay.stats().counts.stalls, 1);
}

#[test]
fn a_member_that_does_not_come_again_after_a_stall_is_declared_dead() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[]));
    net.now += 8 * SECOND;
    net.relay.handle_time(net.now);
    net.pass(2 * SECOND, &[]);
    let a = net.return_of(&a, &[]);
    net.return_of_store();
    net.pass(Duration::from_millis(3_900), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    net.pass(Duration::from_millis(200), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Serving);
    let late = net.hello(&b.member, &[]);
    assert_eq!(net.said_on_routes(late), rejected(RejectReason::DeclaredDead));
}

#[test]
fn a_stray_that_comes_when_messages_were_taken_without_it_is_told_that_it_was_declared_dead() {
    let mut net = Net::new();
    let a = net.join("a", &[]);
    let stray =
        |life| Hello { stray: true, ..hello_frame(&member("b", life), EndpointRole::Proxy, &[]) };
    for _ in 0..2 {
        let late = net.hello_of(stray(1));
        assert_eq!(net.said_on_routes(late), rejected(RejectReason::DeclaredDead));
    }
    assert_eq!(net.relay.stats().counts.declared_dead, 1);
    // Its next life was let in by nobody yet, and one that is a member here may lose its stream.
    let b = net.join_as(member("b", 2), &[route("t", 1)]);
    net.relay.detach(b.routes, net.now);
    let back = net.hello_of(Hello { head_seq: 1, ..stray(2) });
    assert!(!matches!(net.said_on_routes(back)[..], [RouteDown::Reject(_), ..]));
    net.publish(&a, vec![message(1, "t", 1)]);
    assert_eq!(net.acked(&a), None, "it is waited for");
}

#[test]
fn a_stray_that_comes_before_messages_are_taken_is_let_in() {
    let mut net = joining();
    let known = [member("a", 1)];
    let stream = net.hello(&known[0], &known);
    net.snapshot(stream, 0, &[]);
    let hello = hello_frame(&member("b", 1), EndpointRole::Proxy, &[]);
    let late = net.hello_of(Hello { stray: true, ..hello });
    assert!(matches!(net.said_on_routes(late)[..], [RouteDown::Welcome { .. }, ..]));
}

#[test]
fn a_short_stall_is_forgiven_but_nobody_lives_longer_than_a_lease_after_it() {
    let mut net = Net::new();
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("t", 1)]));
    net.now += 5 * SECOND;
    // A beat that lay in the socket's buffer is read before the timer runs.
    net.up(b.routes, beat());
    net.up(a.routes, beat());
    net.relay.handle_time(net.now);
    assert_eq!(net.relay.state(), RelayState::Serving);
    net.publish(&a, vec![message(1, "t", 1)]);
    net.pass(Duration::from_millis(5_900), &[&a]);
    assert_eq!(net.acked(&a), None);
    net.pass(Duration::from_millis(200), &[&a]);
    assert_eq!(net.acked(&a), Some(1));
}

#[test]
fn a_stall_while_joining_shortens_nobodys_time_to_come() {
    for stall in [5 * SECOND, 8 * SECOND] {
        let mut net = joining();
        let known = [member("a", 1), member("b", 1)];
        let stream = net.hello(&known[0], &known);
        net.snapshot(stream, 0, &[]);
        net.join_store(1, &[]);
        net.pass(2 * SECOND, &[]);
        let silent = net.relay.attach(StreamKind::Routes, Peer::Remote, net.now);
        net.now += stall;
        net.relay.handle_time(net.now);
        assert_eq!(net.relay.poll_routes(silent), Polled::Pending);
        let b = net.hello(&known[1], &known);
        let said = net.said_on_routes(b);
        assert!(matches!(said[0], RouteDown::Welcome { .. }), "{said:?}");
        assert_eq!(net.relay.state(), RelayState::Joining);
    }
}

#[test]
fn a_named_endpoint_that_is_cut_off_before_its_last_row_is_too_late_like_one_that_never_came() {
    let mut net = joining();
    let known = [member("a", 1), member("b", 1)];
    let stream = net.hello(&known[0], &known);
    net.snapshot(stream, 0, &[]);
    net.join_store(1, &[]);
    let cut = net.hello(&known[1], &known);
    net.relay.detach(cut, net.now);
    let publish = net.open_publish(&known[0]);
    let deliver = net.open_deliver(&known[0], (0, 0));
    let a = Proxy { member: known[0].clone(), routes: stream, publish, deliver };
    net.pass(Duration::from_millis(6_500), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Serving);
    net.publish(&a, vec![message(1, "t", 1)]);
    assert_eq!(net.acked(&a), Some(1));
    let late = net.hello(&known[1], &known);
    assert_eq!(net.said_on_routes(late), rejected(RejectReason::DeclaredDead));
}

#[test]
fn an_endpoint_that_comes_again_and_again_without_its_rows_keeps_nobody_waiting_beyond_the_lease() {
    let mut net = Net::with(|config| {
        config.start_grace = Duration::ZERO;
        config.max_routes = 1;
    });
    let a = net.join("a", &[]);
    net.now += 8 * SECOND;
    net.relay.handle_time(net.now);
    let b = member("b", 1);
    let a = net.return_of(&a, std::slice::from_ref(&b));
    net.return_of_store();
    for _ in 0..59 {
        let stream = net.hello(&b, &[]);
        let chunk =
            SnapshotChunk { at_seq: 0, last: true, routes: vec![route("t", 1), route("u", 1)] };
        let refused = net.relay.handle_routes(stream, RouteUp::Snapshot(chunk), net.now);
        assert_eq!(refused, Err(Violation::TooManyRoutes(1)));
        net.relay.detach(stream, net.now);
        // What was in the way of b is not here.
        net.pass(Duration::from_millis(100), &[&a]);
    }
    assert_eq!(net.relay.stats().routes, 0);
    assert_eq!(net.relay.state(), RelayState::Joining);
    net.pass(Duration::from_millis(200), &[&a]);
    assert_eq!(net.relay.state(), RelayState::Serving);
    assert_eq!(net.relay.stats().members, 1);
}

#[test]
fn changes_beyond_the_most_routes_are_refused_before_one_of_them_is_a_row() {
    let mut net = Net::with(|config| {
        config.start_grace = Duration::ZERO;
        config.max_routes = 2;
    });
    let (a, b) = (net.join("a", &[]), net.join("b", &[route("x", 1)]));
    let gone = |filter| Route { qos: None, ..route(filter, 0) };
    let swap = [route("y", 1), route("z", 1), gone("x"), route("y", 2)];
    net.delta(b.routes, 1, &swap);
    assert_eq!(net.relay.stats().routes, 2);
    let delta = Delta { first_seq: 5, routes: vec![gone("y"), route("v", 1), route("w", 1)] };
    let refused = net.relay.handle_routes(b.routes, RouteUp::Delta(delta), net.now);
    assert_eq!(refused, Err(Violation::TooManyRoutes(2)));
    net.publish(&a, vec![message(1, "y", 1), message(2, "v", 1)]);
    assert_eq!(net.delivered(&b), [(1, 1)]);
}

#[test]
fn after_everyone_who_came_was_given_up_the_next_one_has_its_own_time() {
    let mut net = joining();
    let first = net.hello(&member("a", 1), &[]);
    net.relay.detach(first, net.now);
    net.pass(20 * SECOND, &[]);
    let stream = net.hello(&member("b", 1), &[member("c", 1)]);
    net.pass(SECOND, &[]);
    let said = net.said_on_routes(stream);
    assert!(matches!(said[..], [RouteDown::Welcome { .. }, RouteDown::View(_)]), "{said:?}");
    let named = net.hello(&member("c", 1), &[]);
    assert!(matches!(net.said_on_routes(named)[0], RouteDown::Welcome { .. }));
}

#[test]
fn one_that_nobody_names_has_a_second_after_the_first_that_was_here_before() {
    let mut net = Net::without_store(|config| config.start_grace = GRACE);
    net.pass(SECOND, &[]);
    let known = [member("a", 1)];
    let stream = net.hello(&known[0], &known);
    net.snapshot(stream, 0, &[]);
    net.join_store(1, &[]);
    net.pass(Duration::from_millis(900), &[]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    let b = net.hello(&member("b", 1), &[]);
    net.pass(Duration::from_millis(200), &[]);
    assert_eq!(net.relay.state(), RelayState::Joining);
    net.snapshot(b, 0, &[]);
    assert_eq!(net.relay.state(), RelayState::Serving);
}
