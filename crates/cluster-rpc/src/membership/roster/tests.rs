//! Who must have a change before a waiter is released.

use mqtt_codec::{QoS, TopicFilter};
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::frame::RouteUp;

const LEASE: Duration = Duration::from_secs(6);

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn member(node: &str, incarnation: u64) -> Member {
    Member { node: NodeId::new(node).unwrap(), incarnation: Incarnation(incarnation) }
}

fn new_roster(name: &str, start: Instant) -> Roster {
    Roster::new(member("p", 1), EndpointRole::Proxy, &[name.to_owned()], LEASE, start)
}

struct Script {
    roster: Roster,
    start: Instant,
    sessions: u64,
}

impl Script {
    /// Names `one`, `two`, ... at ports 1, 2, ...; resolved.
    fn new(names: &[&str]) -> Self {
        let start = Instant::now();
        let texts: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut roster = Roster::new(member("p", 100), EndpointRole::Proxy, &texts, LEASE, start);
        for (port, name) in (1..).zip(names) {
            assert_eq!(roster.handle_resolved(name, vec![address(port)], start).len(), 1);
        }
        Self { roster, start, sessions: 0 }
    }

    fn at(&self, secs: f64) -> Instant {
        self.start + Duration::from_secs_f64(secs)
    }

    fn welcome(&mut self, port: u16, node: &str, deltas_from: Option<u64>) {
        self.begin(port);
        self.roster.handle_welcome(address(port), member(node, 1), deltas_from, self.start);
    }

    fn welcome_at(&mut self, port: u16, node: &str, secs: f64) {
        let now = self.at(secs);
        self.roster.handle_welcome(address(port), member(node, 1), None, now);
    }

    fn begin(&mut self, port: u16) {
        self.sessions += 1;
        self.roster.begin(address(port), self.sessions).unwrap();
    }

    /// What it says first to the intermediate at a port.
    fn hello(&mut self, port: u16) -> Hello {
        self.begin(port);
        let waker = Waker::noop();
        let polled = self.roster.poll_route(address(port), self.sessions, BeatDue::No, waker);
        let RoutePoll::Frame(RouteUp::Hello(hello)) = polled else { panic!("{polled:?}") };
        hello
    }

    fn announce(&mut self, filter: &str) -> RouteSeq {
        let filter = TopicFilter::new(filter.to_owned()).unwrap();
        self.roster.announce(Route { filter, qos: Some(QoS::AtLeastOnce) })
    }

    fn down(&mut self, port: u16, secs: f64) {
        let now = self.at(secs);
        self.roster.handle_down(address(port), Refused::No, now);
    }

    fn is_applied(&mut self, seq: RouteSeq, secs: f64) -> bool {
        let now = self.at(secs);
        self.roster.is_applied(seq, now)
    }
}

#[test]
fn every_connected_intermediate_must_have_the_change() {
    let mut script = Script::new(&["one", "two"]);
    script.welcome(1, "i", None);
    script.welcome(2, "j", None);
    let seq = script.announce("a");
    let mut wait = script.roster.wait(seq);
    assert!(script.roster.handle_applied(address(1), 1));
    script.roster.settle(script.at(60.0));
    assert_eq!(wait.released.try_recv(), Err(TryRecvError::Empty));
    assert!(!script.is_applied(seq, 60.0));
    assert!(script.roster.handle_applied(address(2), 1));
    script.roster.settle(script.at(60.0));
    assert_eq!(wait.released.try_recv(), Ok(()));
    assert!(!script.roster.handle_applied(address(2), 2), "there is no such change");
}

#[test]
fn one_that_cannot_be_reached_counts_until_it_must_have_given_up() {
    let mut script = Script::new(&["one", "two"]);
    let seq = script.announce("a");
    script.welcome(1, "i", None);
    script.roster.handle_applied(address(1), 1);
    assert!(!script.is_applied(seq, 7.9), "since the start");
    assert!(script.is_applied(seq, 8.0));
    script.welcome(2, "j", None);
    assert!(!script.is_applied(seq, 9.0), "connected, it counts again");
    script.roster.handle_applied(address(2), 1);
    script.down(2, 20.0);
    assert!(script.is_applied(seq, 20.1), "it had the change");
    let later = script.announce("b");
    script.roster.handle_applied(address(1), 2);
    assert!(!script.is_applied(later, 27.9), "since the break");
    let deadline = script.roster.settle(script.at(21.0)).unwrap();
    assert!(script.roster.is_applied(later, deadline));
}

#[test]
fn a_name_that_never_resolved_counts_as_unreachable() {
    let start = Instant::now();
    let mut roster = new_roster("nowhere:1", start);
    assert!(roster.handle_resolved("nowhere:1", Vec::new(), start).is_empty());
    assert!(!roster.is_applied(RouteSeq(0), start));
    let deadline = roster.settle(start).unwrap();
    assert_eq!(deadline, start + LEASE + GRACE);
    assert!(roster.is_applied(RouteSeq(0), deadline));
}

#[test]
fn the_vacant_address_of_a_name_that_leads_somewhere_does_not_count() {
    let start = Instant::now();
    let mut script = Script { roster: new_roster("n", start), start, sessions: 0 };
    script.roster.handle_resolved("n", vec![address(1), address(2)], start);
    let seq = script.announce("a");
    script.welcome(1, "i", None);
    script.roster.handle_applied(address(1), 1);
    assert!(!script.is_applied(seq, 0.0), "not tried yet");
    script.roster.handle_down(address(2), Refused::Yes, start);
    assert!(script.is_applied(seq, 0.0));
}

#[test]
fn what_the_intermediate_says_it_has_at_the_welcome_is_applied() {
    let mut script = Script::new(&["one"]);
    let (a, b) = (script.announce("a"), script.announce("b"));
    script.welcome(1, "i", Some(2));
    assert!(script.is_applied(a, 0.0));
    assert!(!script.is_applied(b, 0.0));
}

#[test]
fn of_two_addresses_of_one_intermediate_the_later_is_kept() {
    let mut script = Script::new(&["one", "two"]);
    script.welcome(1, "i", None);
    let first = script.roster.entries[&address(1)].session.as_ref().unwrap().end.clone();
    script.welcome(2, "i", None);
    assert!(first.is_cancelled());
    assert!(script.roster.is_standby(address(1)));
    let seq = script.announce("a");
    script.roster.handle_applied(address(2), 1);
    assert!(script.is_applied(seq, 0.0), "one intermediate, one answer");
    script.down(1, 1.0);
    assert!(script.roster.is_standby(address(1)), "its own end changes nothing");
    script.down(2, 2.0);
    assert!(!script.roster.is_standby(address(1)), "now it may try");
}

#[test]
fn of_two_addresses_the_earlier_stands_by_also_when_its_end_is_seen_first() {
    let mut script = Script::new(&["one", "two"]);
    script.welcome(1, "i", None);
    script.begin(2);
    script.down(1, 1.0);
    script.welcome_at(2, "i", 1.1);
    assert!(script.roster.is_standby(address(1)));
    script.down(2, 5.0);
    assert!(!script.roster.is_standby(address(1)), "now it may try");
    script.begin(1);
    script.welcome_at(1, "i", 6.0);
    assert!(!script.roster.is_standby(address(2)), "it ended for another reason");
}

#[test]
fn an_address_that_stands_by_is_not_welcomed_late() {
    let mut script = Script::new(&["one", "two"]);
    script.welcome(1, "i", None);
    script.begin(2);
    script.down(1, 1.0);
    script.begin(1);
    script.welcome_at(2, "i", 1.1);
    script.welcome_at(1, "i", 1.2);
    assert!(script.roster.is_standby(address(1)));
    assert!(!script.roster.is_standby(address(2)), "the link stays where it is");
}

#[test]
fn vanished_addresses_are_dropped_once_they_are_down_for_good() {
    let mut script = Script::new(&["one"]);
    script.welcome(1, "i", None);
    let stop = script.roster.entries[&address(1)].stop.clone();
    let new = script.roster.handle_resolved("one", vec![address(9)], script.at(1.0));
    assert_eq!(new.len(), 1);
    assert!(!stop.is_cancelled(), "its link is up");
    script.down(1, 2.0);
    script.roster.handle_resolved("one", vec![address(9)], script.at(9.9));
    assert!(!stop.is_cancelled());
    script.roster.handle_resolved("one", vec![address(9)], script.at(10.0));
    assert!(stop.is_cancelled());
    script.roster.handle_resolved("one", Vec::new(), script.at(60.0));
    assert_eq!(script.roster.entries.len(), 1, "a resolver that fails drops nothing");
}

#[test]
fn a_fenced_life_is_followed_by_a_later_one_once() {
    let mut script = Script::new(&["one"]);
    script.welcome(1, "i", None);
    let members = vec![member("p", 100), member("q", 5)];
    let view = View { state: RelayState::Serving, members };
    script.roster.handle_view(address(1), view, script.start);
    let end = script.roster.entries[&address(1)].session.as_ref().unwrap().end.clone();
    let dead = RejectReason::DeclaredDead;
    let new = script.roster.fence(Incarnation(100), dead, 50, script.start);
    assert_eq!(new, Some(Incarnation(101)), "never back");
    assert_eq!(
        script.roster.fence(Incarnation(100), dead, 500, script.start),
        None,
        "known already"
    );
    assert!(end.is_cancelled());
    script.down(1, 1.0);
    let start = script.roster.begin(address(1), 9).unwrap();
    assert_eq!(start.member, member("p", 101));
    let poll = script.roster.poll_route(address(1), 9, BeatDue::No, Waker::noop());
    let RoutePoll::Frame(RouteUp::Hello(hello)) = poll else { panic!("no hello") };
    assert_eq!(hello.known, [member("q", 5)], "nobody must wait for the dead life");
    assert_eq!(
        script.roster.fence(Incarnation(101), dead, 500, script.start),
        Some(Incarnation(500))
    );
}

#[test]
fn after_a_fence_who_was_away_for_long_is_waited_for_again() {
    let mut script = Script::new(&["one"]);
    let seq = script.announce("a");
    assert!(script.is_applied(seq, 20.0), "nobody was there for long");
    let (dead, now) = (RejectReason::DeclaredDead, script.at(20.0));
    script.roster.fence(Incarnation(100), dead, 50, now).unwrap();
    assert!(!script.is_applied(seq, 27.9), "who declared it dead carries messages");
    assert!(script.is_applied(seq, 28.0));
}

#[test]
fn an_intermediate_is_allowed_while_it_serves() {
    let mut script = Script::new(&["one"]);
    script.sessions += 1;
    let start = script.roster.begin(address(1), 1).unwrap();
    script.roster.handle_welcome(address(1), member("i", 1), None, script.start);
    let allowed = |script: &mut Script, state| {
        let view = View { state, members: Vec::new() };
        script.roster.handle_view(address(1), view, script.start);
        script.roster.settle(script.start);
        *start.eligible.borrow()
    };
    assert!(!allowed(&mut script, RelayState::Joining));
    assert!(allowed(&mut script, RelayState::Serving));
    assert!(!allowed(&mut script, RelayState::Draining));
    assert!(allowed(&mut script, RelayState::Serving));
    script.down(1, 1.0);
    script.roster.settle(script.at(1.0));
    assert!(!*start.eligible.borrow());
}

#[test]
fn a_proxy_whose_clock_was_set_back_an_hour_soon_has_a_newer_life() {
    let mut script = Script::new(&["one"]);
    let hour_ahead = 3_600 * 1_000_000;
    let mut attempts = 0;
    while script.roster.incarnation().0 <= hour_ahead {
        let own = script.roster.incarnation();
        script.roster.fence(own, RejectReason::OldIncarnation, 200, script.start).unwrap();
        attempts += 1;
    }
    assert!(attempts <= 12, "{attempts}");
}

#[test]
fn an_intermediate_that_joins_makes_nobody_forgotten() {
    let mut script = Script::new(&["one", "two"]);
    let view = |state, nodes: &[&str]| View {
        state,
        members: nodes.iter().map(|node| member(node, 100)).collect(),
    };
    let known = |script: &mut Script| {
        script.sessions += 1;
        script.roster.begin(address(2), script.sessions).unwrap();
        let waker = Waker::noop();
        let polled = script.roster.poll_route(address(2), script.sessions, BeatDue::No, waker);
        let RoutePoll::Frame(RouteUp::Hello(hello)) = polled else { panic!("{polled:?}") };
        let mut nodes: Vec<_> = hello.known.into_iter().map(|known| known.node).collect();
        nodes.sort();
        nodes
    };
    let nodes = |names: &[&str]| names.iter().map(|name| member(name, 0).node).collect::<Vec<_>>();
    script.welcome(1, "i", None);
    script.roster.handle_view(address(1), view(RelayState::Serving, &["p", "q"]), script.start);
    script.down(1, 1.0);
    script.welcome(1, "i", None);
    // It has come back empty, and q has not found it yet.
    script.roster.handle_view(address(1), view(RelayState::Joining, &["p"]), script.at(2.0));
    assert_eq!(known(&mut script), nodes(&["p", "q"]));
    script.roster.handle_view(address(1), view(RelayState::Serving, &["p"]), script.at(9.0));
    assert_eq!(known(&mut script), nodes(&["p"]), "q was waited for and did not come");
}

#[test]
fn one_that_came_to_a_joining_intermediate_first_does_not_name_itself() {
    let mut script = Script::new(&["one"]);
    let own = script.roster.member().clone();
    let named = |script: &mut Script| {
        script.sessions += 1;
        script.roster.begin(address(1), script.sessions).unwrap();
        let waker = Waker::noop();
        let polled = script.roster.poll_route(address(1), script.sessions, BeatDue::No, waker);
        let RoutePoll::Frame(RouteUp::Hello(hello)) = polled else { panic!("{polled:?}") };
        hello.known
    };
    let members = vec![own, member("q", 5)];
    for (state, expected) in [
        (RelayState::Joining, vec![member("q", 5)]),
        (RelayState::Serving, members.clone()),
        (RelayState::Joining, members.clone()),
    ] {
        script.welcome(1, "i", None);
        let view = View { state, members: members.clone() };
        script.roster.handle_view(address(1), view, script.start);
        script.down(1, 1.0);
        assert_eq!(named(&mut script), expected, "{state:?}");
    }
}

#[test]
fn one_that_was_let_in_and_that_nobody_who_serves_has_any_more_says_that_it_is_a_stray() {
    let mut script = Script::new(&["one", "two"]);
    let stray = |script: &mut Script| script.hello(2).stray;
    assert!(!stray(&mut script), "it is new");
    script.welcome(1, "i", None);
    let view = View { state: RelayState::Serving, members: vec![script.roster.member().clone()] };
    script.roster.handle_view(address(1), view, script.start);
    assert!(!stray(&mut script), "the other one serves it");
    script.down(1, 1.0);
    assert!(stray(&mut script));
    let rejected = script.roster.incarnation();
    script.roster.fence(rejected, RejectReason::DeclaredDead, 0, script.at(2.0)).unwrap();
    assert!(!stray(&mut script), "its next life is new");
}

#[test]
fn one_that_let_a_client_rely_on_a_subscription_that_nobody_knows_says_that_it_is_a_stray() {
    for asked in [true, false] {
        let mut script = Script::new(&["one"]);
        let seq = script.announce("a");
        if asked {
            assert!(script.is_applied(seq, 8.0), "nobody was reached for so long");
        } else {
            let wait = script.roster.wait(seq);
            script.roster.settle(script.at(7.9));
            assert!(!script.hello(1).stray);
            script.roster.settle(script.at(8.0));
            drop(wait);
        }
        assert!(script.hello(1).stray);
    }
}

#[test]
fn the_first_intermediate_is_used_once_every_other_was_tried() {
    let serving =
        |members: &[Member]| View { state: RelayState::Serving, members: members.to_vec() };
    let allowed = |script: &mut Script, secs| {
        let now = script.at(secs);
        script.roster.settle(now);
        *script.roster.entries[&address(1)].eligible.borrow()
    };
    let connected = || {
        let mut script = Script::new(&["one", "two"]);
        script.welcome(1, "i", None);
        script.roster.handle_view(address(1), serving(&[member("p", 100)]), script.start);
        assert!(!allowed(&mut script, 0.1));
        script
    };
    let mut script = connected();
    script.down(2, 0.2);
    assert!(allowed(&mut script, 0.2), "the other cannot be reached");

    let mut script = connected();
    script.welcome(2, "j", None);
    assert!(!allowed(&mut script, 0.2));
    let more = serving(&[member("p", 100), member("q", 5)]);
    script.roster.handle_view(address(2), more, script.at(0.3));
    assert!(!allowed(&mut script, 0.3), "it lacks what the other knows");
    assert!(*script.roster.entries[&address(2)].eligible.borrow());

    let mut script = connected();
    let deadline = script.roster.settle(script.start).unwrap();
    assert_eq!(deadline, script.at(2.0));
    assert!(allowed(&mut script, 2.0), "one that is silent is not waited for any longer");

    let mut script = connected();
    script.down(2, 0.2);
    assert!(allowed(&mut script, 0.2));
    script.roster.handle_resolved("two", vec![address(2), address(3)], script.at(0.3));
    assert!(allowed(&mut script, 0.3), "one that is added later takes nothing away");
}
