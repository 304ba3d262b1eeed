//! Attach, reattach, detach: who has a session, and how long it lasts.

use mqtt_codec::{PacketId, QoS};
use partition::{
    Attach, Begin, Command, Effect, Epoch, Farewell, OnceKey, ProxyId, QueueSeq, Reattach, Refusal,
    Release, RequestId, Revocation, Subscribe, Taken, UnixMillis, Withdraw,
};

use crate::rig::{EVER, Rig, attach, filter, holder, options, texts, will};

#[test]
fn a_first_attach_begins_a_session_and_a_second_goes_on_with_it() {
    let mut rig = Rig::new();
    let first = rig.connect("a", holder(1, 1));
    assert!(!first.attached.session_present);
    rig.detach(&first, Farewell::Clean);
    let second = rig.connect("a", holder(2, 1));
    assert!(second.attached.session_present);
    assert_eq!(second.attached.session, first.attached.session);
    assert_eq!(second.attached.epoch, Epoch(first.attached.epoch.0 + 1));
}

#[test]
fn the_same_attach_again_gives_the_same_answer_also_after_the_store_was_opened_again() {
    let mut rig = Rig::new();
    let first = rig.connect("a", holder(1, 1));
    for _ in 0..2 {
        let again = rig.connect("a", holder(1, 1));
        assert_eq!(again.attached.session, first.attached.session);
        assert_eq!(again.attached.epoch, first.attached.epoch);
        assert!(!again.attached.session_present);
        assert_eq!(rig.answers(), []);
        rig.reopen();
    }
}

#[test]
fn a_clean_start_ends_the_earlier_session() {
    let mut rig = Rig::new();
    let first = rig.connect("a", holder(1, 1));
    rig.subscribe(&first, "t", QoS::AtLeastOnce);
    rig.detach(&first, Farewell::Clean);
    rig.publish("t", "1", QoS::AtLeastOnce);
    let second = Attach { clean_start: true, ..attach("a", holder(1, 2)) };
    let second = rig.try_attach(second).unwrap();
    assert!(!second.attached.session_present);
    assert_ne!(second.attached.session, first.attached.session);
    rig.publish("t", "2", QoS::AtLeastOnce);
    assert_eq!(texts(&rig.take(1)), [""; 0]);
    rig.settle();
    let stats = rig.owner.stats();
    assert_eq!((stats.persistent_sessions, stats.subscriptions, stats.queued_messages), (1, 0, 0));
}

#[test]
fn a_session_lasts_as_long_as_it_was_to_and_no_longer() {
    let mut rig = Rig::new();
    for (wait, present) in [(9_999, true), (10_000, false)] {
        let first = rig.connect("a", holder(1, 1));
        rig.detach_for(&first, Farewell::Clean, 10);
        rig.now.0 += wait;
        let second = Attach { expiry_secs: 10, ..attach("a", holder(1, 2)) };
        let second = rig.try_attach(second).unwrap();
        assert_eq!(second.attached.session_present, present, "{wait}");
        rig.detach(&second, Farewell::Clean);
    }
}

#[test]
fn a_session_that_nobody_comes_back_to_is_gone_with_its_rows() {
    let mut rig = Rig::new();
    let empty = rig.store.rows().len();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.detach_for(&client, Farewell::Clean, 10);
    rig.publish("t", "1", QoS::AtLeastOnce);
    rig.reopen();
    rig.pass(10_000);
    assert_eq!(rig.owner.stats().expired_sessions, 1);
    assert_eq!(rig.owner.routes().count(), 0);
    let left = rig.store.rows();
    let rows = left
        .iter()
        .filter(|(table, _, _)| !matches!(table, partition::Table::Meta | partition::Table::Lane));
    assert_eq!(rows.count(), empty, "{left:?}");
}

#[test]
fn the_newer_connection_has_the_session_and_the_older_is_told() {
    let mut rig = Rig::new();
    let older = rig.connect("a", holder(1, 1));
    rig.told();
    let newer = rig.connect("a", holder(2, 1));
    assert!(newer.attached.session_present);
    let revoked = Effect::Revoked {
        holder: older.holder,
        session: older.attached.session,
        epoch: older.attached.epoch,
        why: Revocation::TakenOver,
    };
    assert_eq!(rig.answers(), [revoked]);
    assert_eq!(
        rig.owner.holder_of(&newer.id),
        Some((newer.holder, newer.attached.session, newer.attached.epoch))
    );
    // What the older one says now changes nothing.
    rig.detach_for(&older, Farewell::Clean, 0);
    assert!(rig.owner.holder_of(&newer.id).is_some());
    let request = RequestId(77);
    rig.run(Command::Subscribe(Box::new(Subscribe {
        request,
        session: older.attached.session,
        epoch: older.attached.epoch,
        filters: vec![(filter("t"), options(QoS::AtLeastOnce))],
        subscription_id: None,
    })));
    assert_eq!(rig.answers(), [Effect::Refused { request, refusal: Refusal::Fenced }]);
}

#[test]
fn a_clean_session_is_one_in_the_cluster_too_and_leaves_no_row() {
    let mut rig = Rig::new();
    let clean = |connection| Attach { expiry_secs: 0, ..attach("a", holder(1, connection)) };
    let first = rig.try_attach(clean(1)).unwrap();
    rig.told();
    let second = rig.try_attach(clean(2)).unwrap();
    assert!(!second.attached.session_present);
    assert_ne!(second.attached.session, first.attached.session);
    assert_eq!(rig.answers().len(), 1);
    assert!(rig.store.rows().iter().all(|(table, _, _)| *table == partition::Table::Meta));
    rig.detach_for(&second, Farewell::Abnormal, 0);
    assert_eq!(rig.owner.stats().attached, 0);
}

#[test]
fn numbers_of_clean_sessions_are_never_given_twice() {
    let mut rig = Rig::new();
    let clean = |connection| Attach { expiry_secs: 0, ..attach("a", holder(1, connection)) };
    let mut seen = Vec::new();
    for connection in 0..5 {
        seen.push(rig.try_attach(clean(connection)).unwrap().attached.session);
        rig.reopen();
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

fn reattach(client: &crate::rig::Client, expiry_secs: u32, up_to: u64) -> Reattach {
    Reattach {
        attach: Attach { expiry_secs, ..attach(client.id.as_str(), client.holder) },
        session: client.attached.session,
        epoch: client.attached.epoch,
        received_up_to: QueueSeq(up_to),
        group_deliveries: Vec::new(),
        groups: Vec::new(),
    }
}

fn run_reattach(rig: &mut Rig, reattach: Reattach) -> Result<crate::rig::Client, Refusal> {
    let request = rig.request();
    let (id, holder) = (reattach.attach.client.clone(), reattach.attach.holder);
    let attach = Attach { request, ..reattach.attach.clone() };
    rig.run(Command::Reattach(Box::new(Reattach { attach, ..reattach })));
    rig.attached(request, id, holder)
}

#[test]
fn a_clean_session_that_is_not_known_is_made_anew_under_its_number() {
    let mut rig = Rig::new();
    let clean = Attach { expiry_secs: 0, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(clean).unwrap();
    rig.reopen();
    let again = run_reattach(&mut rig, reattach(&client, 0, 0)).unwrap();
    assert_eq!(again.attached.session, client.attached.session);
    assert_eq!(again.attached.epoch, client.attached.epoch);
    assert_eq!(rig.owner.stats().attached, 1);
}

#[test]
fn a_persistent_session_that_is_not_known_is_refused() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    let mut other = Rig::new();
    let refused = run_reattach(&mut other, reattach(&client, EVER, 0));
    assert_eq!(refused.unwrap_err(), Refusal::Fenced);
}

#[test]
fn a_reattach_of_a_connection_that_was_taken_over_is_refused() {
    let mut rig = Rig::new();
    let older = rig.connect("a", holder(1, 1));
    rig.connect("a", holder(2, 1));
    let refused = run_reattach(&mut rig, reattach(&older, EVER, 0));
    assert_eq!(refused.unwrap_err(), Refusal::Fenced);
}

#[test]
fn a_connection_that_goes_on_gets_what_did_not_arrive_and_no_other() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    for number in 1..=4 {
        rig.publish("t", &number.to_string(), QoS::AtLeastOnce);
    }
    assert_eq!(rig.take(1).len(), 4);
    for reopened in [false, true] {
        if reopened {
            rig.reopen();
        }
        let again = run_reattach(&mut rig, reattach(&client, EVER, 2)).unwrap();
        assert_eq!(again.attached.epoch, client.attached.epoch);
        assert_eq!(texts(&rig.take(1)), ["3", "4"], "{reopened}");
    }
    rig.acknowledge(&client, &[1, 2, 3, 4], &[]);
    assert_eq!(rig.owner.stats().queued_messages, 0);
}

#[test]
fn a_dead_proxy_leaves_its_sessions_detached() {
    let mut rig = Rig::new();
    for number in 0..3 {
        rig.connect(&format!("c{number}"), holder(1, number));
    }
    let other = rig.connect("other", holder(2, 1));
    rig.run(Command::ProxyDead(ProxyId(1)));
    rig.settle();
    assert_eq!(rig.owner.proxies(), [ProxyId(2)]);
    assert_eq!(rig.owner.stats().attached, 1);
    assert_eq!(rig.owner.stats().persistent_sessions, 4);
    assert!(rig.owner.holder_of(&other.id).is_some());
}

#[test]
fn holders_are_known_after_the_store_was_opened_again() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.reopen();
    assert_eq!(rig.owner.proxies(), [ProxyId(1)]);
    assert_eq!(
        rig.owner.holder_of(&client.id),
        Some((client.holder, client.attached.session, client.attached.epoch))
    );
}

#[test]
fn the_key_of_an_incoming_message_stays_until_it_is_released() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    let packet_id = PacketId::new(5).unwrap();
    let (session, epoch) = (client.attached.session, client.attached.epoch);
    let begin = |key, request| Begin { request, session, epoch, packet_id, key: OnceKey(key) };
    rig.run(Command::Begin(begin(10, RequestId(70))));
    assert_eq!(rig.answers(), [Effect::Begun { request: RequestId(70), key: OnceKey(10) }]);
    rig.reopen();
    rig.run(Command::Begin(begin(11, RequestId(71))));
    assert_eq!(rig.answers(), [Effect::Begun { request: RequestId(71), key: OnceKey(10) }]);
    let client = rig.connect("a", holder(2, 1));
    assert_eq!(client.attached.incoming, [(packet_id, Some(OnceKey(10)))]);
    let (request, epoch) = (RequestId(72), client.attached.epoch);
    rig.run(Command::Release(Release { request, session, epoch, packet_id }));
    assert!(rig.answers().contains(&Effect::Released { request }));
    rig.reopen();
    assert_eq!(rig.connect("a", holder(3, 1)).attached.incoming, []);
}

#[test]
fn an_incoming_message_that_was_taken_is_known_as_that_until_it_is_released() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    let (session, epoch) = (client.attached.session, client.attached.epoch);
    let [first, second] = [5, 6].map(|id| PacketId::new(id).unwrap());
    let begin = |packet_id, key, request| {
        let (request, key) = (RequestId(request), OnceKey(key));
        Command::Begin(Begin { request, session, epoch, packet_id, key })
    };
    rig.run(begin(first, 10, 70));
    rig.run(begin(second, 11, 71));
    let taken = |epoch| Command::Taken(Taken { session, epoch, packet_ids: vec![first] });
    rig.run(taken(Epoch(epoch.0 + 1)));
    rig.run(taken(epoch));
    rig.run(taken(epoch));
    rig.reopen();
    let client = rig.connect("a", holder(2, 1));
    assert_eq!(client.attached.incoming, [(first, None), (second, Some(OnceKey(11)))]);
    let (request, epoch) = (RequestId(72), client.attached.epoch);
    rig.run(Command::Release(Release { request, session, epoch, packet_id: first }));
    let client = rig.connect("a", holder(3, 1));
    assert_eq!(client.attached.incoming, [(second, Some(OnceKey(11)))]);
}

#[test]
fn a_will_is_published_after_an_abnormal_end_and_not_after_a_clean_one() {
    for (farewell, published) in [(Farewell::Abnormal, 1), (Farewell::Clean, 0)] {
        let mut rig = Rig::new();
        let watcher = rig.connect("watcher", holder(1, 1));
        rig.subscribe(&watcher, "w", QoS::AtLeastOnce);
        let will = Some(will("w", "gone", 0));
        let client = rig.try_attach(Attach { will, ..attach("a", holder(1, 2)) }).unwrap();
        rig.told();
        rig.detach(&client, farewell);
        let sends = rig.told().into_iter().filter(|effect| matches!(effect, Effect::Send { .. }));
        assert_eq!(sends.count(), published);
        assert_eq!(rig.take(1).len(), published);
    }
}

#[test]
fn a_takeover_publishes_a_will_unless_it_waits_for_the_session_to_go_on() {
    for (delay, published) in [(0, 1), (5, 0)] {
        let mut rig = Rig::new();
        let will = Some(will("w", "gone", delay));
        rig.try_attach(Attach { will, ..attach("a", holder(1, 2)) }).unwrap();
        rig.connect("a", holder(2, 1));
        rig.pass(10_000);
        let sends = rig.told().into_iter().filter(|effect| matches!(effect, Effect::Send { .. }));
        assert_eq!(sends.count(), published, "{delay}");
    }
}

#[test]
fn a_will_is_sent_again_until_the_relays_have_it() {
    let mut rig = Rig::new();
    let will = Some(will("w", "gone", 0));
    let client = rig.try_attach(Attach { will, ..attach("a", holder(1, 2)) }).unwrap();
    rig.told();
    rig.detach(&client, Farewell::Abnormal);
    let sent = rig.answers();
    let [Effect::Send { id, .. }] = sent[..] else { panic!("{sent:?}") };
    rig.reopen();
    assert_eq!(rig.answers(), sent);
    rig.run(Command::Sent(id));
    rig.reopen();
    assert_eq!(rig.answers(), []);
}

#[test]
fn the_will_of_a_clean_session_survives_both_processes() {
    let mut rig = Rig::new();
    let will = Some(will("w", "gone", 0));
    rig.try_attach(Attach { will, expiry_secs: 0, ..attach("a", holder(1, 2)) }).unwrap();
    rig.reopen();
    rig.run(Command::ProxyDead(ProxyId(1)));
    assert!(rig.told().iter().any(|effect| matches!(effect, Effect::Send { .. })));
    rig.settle();
    let rows = rig.store.rows();
    assert!(!rows.iter().any(|(table, _, _)| *table == partition::Table::Session), "{rows:?}");
}

#[test]
fn a_client_that_comes_back_while_its_proxy_stops_calls_its_will_off() {
    for expiry_secs in [0, 60] {
        for back in [true, false] {
            let mut rig = Rig::new();
            let will = Some(will("w", "gone", 0));
            let first = Attach { will, expiry_secs, ..attach("a", holder(1, 2)) };
            let first = rig.try_attach(first).unwrap();
            rig.detach_for(&first, Farewell::ProxyStops, expiry_secs);
            rig.reopen();
            rig.pass(5_000);
            if back {
                rig.try_attach(Attach { expiry_secs, ..attach("a", holder(2, 2)) }).unwrap();
            }
            rig.pass(20_000);
            let sends =
                rig.told().into_iter().filter(|effect| matches!(effect, Effect::Send { .. }));
            assert_eq!(sends.count(), usize::from(!back), "{expiry_secs} {back}");
        }
    }
}

fn withdraw(connection: u64, expiry_secs: Option<u32>) -> Command {
    withdraw_clean(connection, expiry_secs, None)
}

fn withdraw_clean(
    connection: u64,
    expiry_secs: Option<u32>,
    clean_start: Option<UnixMillis>,
) -> Command {
    let Attach { client, holder, .. } = attach("a", holder(1, connection));
    let farewell = Farewell::Clean;
    Command::Withdraw(Box::new(Withdraw { client, holder, farewell, expiry_secs, clean_start }))
}

#[test]
fn a_store_that_is_opened_again_remembers_when_its_sessions_changed_last() {
    let mut rig = Rig::new();
    assert_eq!(rig.owner.last_change(), None);
    let client = rig.connect("a", holder(2, 1));
    let attached = rig.now;
    rig.pass(10);
    rig.reopen();
    assert_eq!(rig.owner.last_change(), Some(attached));
    rig.detach_for(&client, Farewell::Clean, 60);
    rig.reopen();
    assert_eq!(rig.owner.last_change(), Some(rig.now));
}

#[test]
fn a_clean_start_that_is_told_late_ends_the_sessions_that_were_attached_before_it() {
    for (is_held, is_reopened) in [(true, false), (true, true), (false, false)] {
        let mut rig = Rig::new();
        let older = rig.connect("a", holder(2, 1));
        rig.pass(10);
        let began = rig.now;
        rig.pass(10);
        if !is_held {
            rig.detach_for(&older, Farewell::Clean, 60);
        }
        if is_reopened {
            rig.reopen();
        }
        rig.told();
        rig.run(withdraw_clean(9, Some(0), Some(began)));
        let is_revoked = |effect: &Effect| matches!(effect, Effect::Revoked { .. });
        assert_eq!(rig.told().iter().any(is_revoked), is_held);
        let newer = rig.connect("a", holder(2, 2));
        assert!(!newer.attached.session_present, "{is_held} {is_reopened}");

        // Told again, it is older than what is there, also without a connection, also after a restart.
        for _ in 0..2 {
            rig.run(withdraw_clean(9, Some(0), Some(began)));
            assert!(rig.owner.holder_of(&newer.id).is_some());
            rig.reopen();
        }
        rig.detach_for(&newer, Farewell::Clean, 60);
        for _ in 0..2 {
            rig.run(withdraw_clean(9, Some(0), Some(began)));
            rig.reopen();
        }
        let again = rig.connect("a", holder(2, 3));
        assert!(again.attached.session_present);

        // The connection goes on after a break: that makes it no newer.
        rig.pass(10);
        let later = rig.now;
        rig.pass(10);
        rig.run(Command::ProxyDead(ProxyId(2)));
        rig.settle();
        run_reattach(&mut rig, reattach(&again, EVER, 0)).unwrap();
        rig.run(withdraw_clean(9, Some(0), Some(later)));
        assert_eq!(rig.owner.holder_of(&again.id), None);
    }
}

/// A CONNECT that was served at `began` and is told of only now.
fn late(connection: u64, began: UnixMillis) -> Attach {
    let began = Some(began);
    Attach { clean_start: true, began, expiry_secs: 0, ..attach("a", holder(1, connection)) }
}

#[test]
fn a_connection_that_was_served_before_takes_no_session_that_was_attached_then_or_later() {
    for (is_held, is_reopened) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut rig = Rig::new();
        let began = rig.now;
        for newer_by in [0, 10] {
            rig.now.0 += newer_by;
            let newer = rig.connect("a", holder(2, rig.now.0));
            if !is_held {
                rig.detach_for(&newer, Farewell::Clean, 60);
            }
            if is_reopened {
                rig.reopen();
            }
            rig.told();
            rig.pass(10);
            assert_eq!(rig.try_attach(late(9, began)).unwrap_err(), Refusal::Contested);
            assert!(!rig.told().iter().any(|effect| matches!(effect, Effect::Revoked { .. })));
            assert_eq!(rig.owner.holder_of(&newer.id).is_some(), is_held);
            assert!(rig.connect("a", holder(3, rig.now.0)).attached.session_present);
        }
    }
}

#[test]
fn of_connections_that_were_served_before_the_one_that_began_last_has_the_identifier() {
    for is_remade in [false, true] {
        let mut rig = Rig::new();
        let times = [100, 200, 300].map(|after| UnixMillis(rig.now.0 + after));
        rig.pass(1_000);
        let middle = rig.try_attach(late(2, times[1])).unwrap();
        if is_remade {
            // Of a clean session the store knows nothing after its end.
            rig.reopen();
            rig.run(Command::ProxyDead(ProxyId(1)));
            rig.settle();
            let again = Reattach { attach: late(2, times[1]), ..reattach(&middle, 0, 0) };
            run_reattach(&mut rig, again).unwrap();
        }
        assert_eq!(rig.try_attach(late(1, times[0])).unwrap_err(), Refusal::Contested);
        let last = rig.try_attach(late(3, times[2])).unwrap();
        assert_eq!(rig.owner.holder_of(&last.id).map(|(holder, ..)| holder), Some(last.holder));
    }
}

#[test]
fn the_promise_of_an_older_connection_ends_what_was_attached_before_it_and_nothing_newer() {
    for is_newer in [false, true] {
        let mut rig = Rig::new();
        let before = rig.now;
        rig.pass(10);
        let session = rig.connect("a", holder(2, 1));
        rig.pass(10);
        let promised = Some(if is_newer { before } else { rig.now });
        rig.pass(10);
        let next = rig.try_attach(Attach { promised, ..attach("a", holder(3, 2)) }).unwrap();
        assert_eq!(next.attached.session_present, is_newer);
        assert_eq!(next.attached.session == session.attached.session, is_newer);
    }
}

#[test]
fn a_connection_that_is_withdrawn_leaves_the_session_with_the_expiry_that_it_had() {
    let mut rig = Rig::new();
    let first = rig.connect("a", holder(1, 1));
    rig.detach_for(&first, Farewell::Clean, 10);
    let brief =
        Attach { expiry_secs: 0, will: Some(will("gone", "", 0)), ..attach("a", holder(1, 2)) };
    rig.try_attach(brief).unwrap();
    rig.run(withdraw(2, None));
    assert_eq!(rig.owner.holder_of(&first.id), None);
    rig.pass(9_999);
    let again = rig.connect("a", holder(1, 3));
    assert!(again.attached.session_present);
    rig.run(withdraw(3, Some(0)));
    assert!(!rig.connect("a", holder(1, 4)).attached.session_present, "it asked for the end");
}

#[test]
fn a_connection_that_is_withdrawn_ends_the_session_that_it_began_and_nobody_elses() {
    let mut rig = Rig::new();
    let first = rig.connect("a", holder(1, 1));
    rig.run(withdraw(1, None));
    let second = rig.connect("a", holder(1, 2));
    assert!(!second.attached.session_present);
    assert_ne!(second.attached.session, first.attached.session);
    rig.told();
    rig.run(withdraw(1, None));
    assert!(rig.owner.holder_of(&second.id).is_some());
    assert_eq!(rig.answers(), []);
}
