//! Order, pace and outbox.

use bytes::Bytes;
use mqtt_codec::{PublishProperties, QoS, TopicName};

use super::*;
use crate::store::Write;

const fn at(millis: u64) -> UnixMillis {
    UnixMillis(millis)
}

const fn session(number: u64) -> SessionId {
    SessionId::new(PartitionId(3), number)
}

fn will(topic: &str) -> Outgoing {
    let message = Message {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_secs: Some(7),
        properties: PublishProperties::default(),
    };
    let once = will_key(session(1), Epoch(2));
    Outgoing { message: Arc::new(message), expires_at: Some(at(9)), once }
}

#[test]
fn a_will_is_due_after_its_delay_or_at_the_end_of_its_session() {
    let due = |delay, expiry, farewell| will_due(at(5_000), delay, expiry, farewell).0;
    assert_eq!(due(0, 60, Farewell::Abnormal), 5_000);
    assert_eq!(due(30, 60, Farewell::Abnormal), 35_000);
    assert_eq!(due(90, 60, Farewell::Abnormal), 65_000);
    assert_eq!(due(u32::MAX, u32::MAX, Farewell::Abnormal), 5_000 + 1000 * u64::from(u32::MAX));
}

#[test]
fn clients_of_a_proxy_that_stops_have_ten_seconds() {
    assert_eq!(will_due(at(5_000), 0, 0, Farewell::ProxyStops).0, 15_000);
    assert_eq!(will_due(at(5_000), 30, 60, Farewell::ProxyStops).0, 35_000);
}

#[test]
fn a_session_without_end_never_ends() {
    assert_eq!(session_end(at(1), u32::MAX), None);
    assert_eq!(session_end(at(1), 2), Some(at(2_001)));
}

#[test]
fn what_is_due_comes_in_order_and_a_will_before_the_end_of_its_session() {
    let mut timers = Timers::default();
    timers.set(session(1), Due::End, at(20));
    timers.set(session(1), Due::Will, at(20));
    timers.set(session(2), Due::Will, at(30));
    timers.set(session(3), Due::End, at(10));
    assert_eq!(timers.next(), Some((at(10), Due::End, session(3))));
    assert_eq!(timers.pop(at(9)), None);
    let order: Vec<_> = std::iter::from_fn(|| timers.pop(at(29))).collect();
    assert_eq!(order, [(Due::End, session(3)), (Due::Will, session(1)), (Due::End, session(1))]);
    assert_eq!(timers.pop(at(30)), Some((Due::Will, session(2))));
    assert_eq!((timers.next(), timers.sessions.len()), (None, 0));
}

#[test]
fn setting_a_timer_again_moves_it_and_clearing_leaves_nothing() {
    let mut timers = Timers::default();
    timers.set(session(1), Due::Will, at(10));
    timers.set(session(1), Due::Will, at(40));
    timers.set(session(1), Due::End, at(50));
    assert_eq!(timers.pop(at(39)), None);
    timers.clear_will(session(1));
    assert_eq!(timers.pop(at(49)), None);
    timers.clear(session(1));
    assert_eq!(timers.pop(at(u64::MAX)), None);
    assert_eq!(timers.sessions.len(), 0);
}

#[test]
fn wills_keep_to_their_pace_however_many_are_due() {
    let mut pace = WillPace::new(100);
    let mut fired = 0;
    let mut now = at(1_000);
    while now.0 < 3_000 {
        if pace.take(now) {
            fired += 1;
        } else {
            assert!(pace.next() > now, "waits for a moment that is still to come");
            now = pace.next();
        }
    }
    // Two seconds' worth, and what may come at once.
    assert!((200..=211).contains(&fired), "{fired}");
}

#[test]
fn a_pace_of_more_than_one_will_each_millisecond_is_kept_too() {
    let mut pace = WillPace::new(5_000);
    let fired = (0..1_000).map(|millis| {
        let now = at(10_000 + millis);
        (0..100).filter(|_| pace.take(now)).count()
    });
    let fired: usize = fired.sum();
    assert!((4_995..=5_500).contains(&fired), "{fired}");
}

#[test]
fn a_will_is_sent_again_until_the_relays_have_taken_it() {
    let (mut batch, mut effects) = (Batch::default(), Vec::new());
    let mut outbox = Outbox::new(PartitionId(3));
    outbox.send(will("a"), Lsn(70), &mut batch, &mut effects);
    outbox.send(will("b"), Lsn(70), &mut batch, &mut effects);
    let [Effect::Send { id: a, .. }, Effect::Send { id: b, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_ne!(a, b);
    let mut batch_of_sent = Batch::default();
    outbox.sent(*a, &mut batch_of_sent);
    outbox.sent(*a, &mut batch_of_sent);
    assert_eq!(batch_of_sent.writes().len(), 1);

    let mut again = Outbox::new(PartitionId(3));
    for write in batch.writes().iter().skip(1) {
        let Write::Put { table: Table::Outbox, key, value } = write else { panic!("{write:?}") };
        again.load(key, value).unwrap();
    }
    let mut resent = Vec::new();
    again.resend(&mut resent);
    assert_eq!(resent, effects[1..]);
    again.resend(&mut resent);
    assert_eq!(resent.len(), 1, "once is enough until the next start");
    again.sent(*b, &mut batch_of_sent);
    assert_eq!((again.len(), batch_of_sent.writes().len()), (0, 2));
}

#[test]
fn numbers_of_wills_are_not_given_out_again_after_a_start_with_an_empty_outbox() {
    let (mut batch, mut effects) = (Batch::default(), Vec::new());
    Outbox::new(PartitionId(0)).send(will("a"), Lsn(5), &mut batch, &mut effects);
    Outbox::new(PartitionId(0)).send(will("a"), Lsn(6), &mut batch, &mut effects);
    let [Effect::Send { id: before, .. }, Effect::Send { id: after, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(before.number < after.number);
}

#[test]
fn a_full_outbox_says_so_until_one_is_taken() {
    let (mut batch, mut effects) = (Batch::default(), Vec::new());
    let mut outbox = Outbox::new(PartitionId(0));
    while !outbox.is_full() {
        outbox.send(will("a"), Lsn(1), &mut batch, &mut effects);
    }
    assert_eq!(outbox.len(), OUTBOX_LIMIT);
    let Some(Effect::Send { id, .. }) = effects.pop() else { panic!() };
    outbox.sent(id, &mut batch);
    assert!(!outbox.is_full());
}

#[test]
fn a_damaged_will_is_an_error() {
    let value = Bytes::from(will("a").encode());
    assert_eq!(Outgoing::decode(&value).unwrap(), will("a"));
    for length in 0..value.len() {
        Outgoing::decode(&value.slice(..length)).unwrap_err();
    }
    let key = row::number_key(PartitionId(0), 1);
    Outbox::new(PartitionId(0)).load(&key[..7], &value).unwrap_err();
}
