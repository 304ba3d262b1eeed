//! Takeovers in virtual time.

use partition::{Holder, ProxyId, UnixMillis};

use super::*;

const HOLDER: SessionId = SessionId(9);
/// When a connection began that waits for its answer.
const NOW: UnixMillis = UnixMillis(1_000_000);
const HELD: Held = Held::By(HOLDER, Answers::Maybe);

fn asked(client: &str, request: u64) -> Asked {
    let attach = Attach {
        request: partition::RequestId(request),
        client: ClientId::new(client.to_owned()).unwrap(),
        holder: Holder { proxy: ProxyId(1), connection: request },
        clean_start: false,
        began: None,
        promised: None,
        expiry_secs: 60,
        receive_maximum: 10,
        will: None,
    };
    Asked { line: LineId(1), request, attach, since: NOW }
}

/// One that began so many milliseconds before those, and whose client is served already.
fn served(client: &str, request: u64, before: u64) -> Asked {
    let mut asked = asked(client, request);
    asked.since.0 -= before;
    asked.attach.began = Some(asked.since);
    asked
}

#[test]
fn an_identifier_that_nobody_holds_is_attached_at_once() {
    let mut attaches = Attaches::default();
    let (verdict, replaced) = attaches.handle(asked("c", 1), Held::Free, Instant::now());
    assert!(matches!(verdict, Verdict::Go(_)) && replaced.is_none());
    assert_eq!(attaches.next_deadline(), None);
}

#[test]
fn a_takeover_goes_on_when_the_holder_has_ended() {
    let mut attaches = Attaches::default();
    let (verdict, _) = attaches.handle(asked("c", 1), HELD, Instant::now());
    assert!(matches!(verdict, Verdict::Revoke));
    assert!(attaches.handle_detached(SessionId(8)).is_none());
    assert_eq!(attaches.handle_detached(HOLDER).unwrap().request, 1);
    assert_eq!(attaches.next_deadline(), None);
}

#[test]
fn a_takeover_goes_on_without_a_word_of_the_holder_after_200_ms() {
    let mut attaches = Attaches::default();
    let now = Instant::now();
    attaches.handle(asked("c", 1), HELD, now);
    assert!(attaches.take_due(now + Duration::from_millis(199)).is_none());
    assert_eq!(attaches.next_deadline(), Some(now + Duration::from_millis(200)));
    let due = attaches.take_due(now + Duration::from_millis(200));
    assert!(matches!(due, Some(Due::Unanswered(one)) if one.request == 1));
}

#[test]
fn a_holder_whose_proxy_is_gone_is_not_waited_for() {
    let mut attaches = Attaches::default();
    let held = Held::By(HOLDER, Answers::Never);
    let (verdict, _) = attaches.handle(asked("c", 1), held, Instant::now());
    assert!(matches!(verdict, Verdict::Go(_)));

    attaches.handle(asked("c", 2), HELD, Instant::now());
    assert!(attaches.take_freed(|_| true).is_empty());
    assert_eq!(attaches.take_freed(|_| false)[0].request, 2);
}

#[test]
fn the_newest_that_waits_replaces_the_one_before_and_inherits_its_time() {
    let mut attaches = Attaches::default();
    let now = Instant::now();
    attaches.handle(asked("c", 1), HELD, now);
    let later = now + Duration::from_millis(150);
    let (verdict, replaced) = attaches.handle(asked("c", 2), HELD, later);
    assert!(matches!(verdict, Verdict::Wait));
    assert_eq!(replaced.unwrap().request, 1);
    let due = attaches.take_due(now + Duration::from_millis(200));
    assert!(matches!(due, Some(Due::Unanswered(one)) if one.request == 2));
}

#[test]
fn the_sixth_takeover_in_ten_seconds_waits_a_second_and_then_succeeds() {
    let mut attaches = Attaches::default();
    let mut now = Instant::now();
    for request in 0..5 {
        let (verdict, _) = attaches.handle(asked("c", request), HELD, now);
        assert!(matches!(verdict, Verdict::Revoke), "{request}");
        attaches.handle_detached(HOLDER).unwrap();
        now += Duration::from_millis(100);
    }
    let (verdict, _) = attaches.handle(asked("c", 5), HELD, now);
    assert!(matches!(verdict, Verdict::Wait));
    assert_eq!((attaches.takeovers, attaches.contested), (6, 1));
    assert!(attaches.handle_detached(HOLDER).is_none(), "it is jailed");
    let (other, _) = attaches.handle(asked("d", 6), Held::Free, now);
    assert!(matches!(other, Verdict::Go(_)), "others are not");

    now += Duration::from_secs(1);
    let Some(Due::Released(one)) = attaches.take_due(now) else { panic!("it is over") };
    assert!(matches!(attaches.released(one, HELD, now), Verdict::Revoke));
    assert_eq!(attaches.handle_detached(HOLDER).unwrap().request, 5);

    now += Duration::from_secs(11);
    let (verdict, _) = attaches.handle(asked("c", 7), HELD, now);
    assert!(matches!(verdict, Verdict::Revoke), "all of that is long ago");
}

#[test]
fn a_connection_that_was_served_before_the_newest_began_does_not_take_its_place() {
    let mut attaches = Attaches::default();
    let now = Instant::now();
    let (verdict, replaced) = attaches.handle(served("c", 1, 200), Held::ByNewer, now);
    assert!(matches!(verdict, Verdict::Late(one) if one.request == 1) && replaced.is_none());

    // In doubt it does not, either.
    for before in [200, 0] {
        attaches.handle(asked("c", 2), HELD, now);
        let (verdict, replaced) = attaches.handle(served("c", 3, before), HELD, now);
        assert!(matches!(verdict, Verdict::Late(one) if one.request == 3) && replaced.is_none());
        assert_eq!(attaches.handle_detached(HOLDER).unwrap().request, 2);
    }
    assert!(matches!(attaches.released(served("c", 4, 1), Held::ByNewer, now), Verdict::Late(_)));
}

#[test]
fn the_clean_start_that_a_served_client_was_told_of_is_kept_by_the_newer_connection_that_waits() {
    let now = Instant::now();
    let older = |clean_start| {
        let mut older = served("c", 1, 200);
        older.attach.clean_start = clean_start;
        older
    };
    let promise = UnixMillis(NOW.0 - 200);
    for clean_start in [true, false] {
        let promised = clean_start.then_some(promise);
        let mut attaches = Attaches::default();
        attaches.handle(older(clean_start), HELD, now);
        let (verdict, replaced) = attaches.handle(asked("c", 2), HELD, now);
        assert!(matches!(verdict, Verdict::Wait) && replaced.unwrap().request == 1);
        let newer = attaches.handle_detached(HOLDER).unwrap();
        assert_eq!((newer.request, newer.attach.promised), (2, promised));
        assert!(!newer.attach.clean_start, "it says itself what is to end for it");

        // The older one comes later, told that the session is newer or not: that is looked at when it is given.
        for held in [HELD, Held::ByNewer] {
            attaches.handle(asked("c", 2), HELD, now);
            let (verdict, _) = attaches.handle(older(clean_start), held, now);
            assert!(matches!(verdict, Verdict::Late(_)));
            attaches.handle(asked("c", 3), HELD, now);
            let newest = attaches.handle_detached(HOLDER).unwrap();
            assert_eq!((newest.request, newest.attach.promised), (3, promised));
        }
    }
    // One that the client waits for can still be refused: nothing was told.
    let mut attaches = Attaches::default();
    let mut older = asked("c", 1);
    older.attach.clean_start = true;
    attaches.handle(older, HELD, now);
    attaches.handle(asked("c", 2), HELD, now);
    assert_eq!(attaches.handle_detached(HOLDER).unwrap().attach.promised, None);
}

#[test]
fn a_stream_that_ends_takes_its_waiting_attaches_with_it() {
    let mut attaches = Attaches::default();
    attaches.handle(asked("c", 1), HELD, Instant::now());
    attaches.handle_closed(LineId(2));
    assert!(attaches.next_deadline().is_some());
    attaches.handle_closed(LineId(1));
    assert_eq!(attaches.next_deadline(), None);
}

#[test]
fn what_is_remembered_of_takeovers_is_bounded() {
    let mut attaches = Attaches::default();
    let now = Instant::now();
    for number in 0..MOST_REMEMBERED + 10 {
        let held = Held::By(HOLDER, Answers::Never);
        attaches.handle(asked(&number.to_string(), 1), held, now);
    }
    assert_eq!(attaches.recent.len(), MOST_REMEMBERED);
    let late = now + Duration::from_secs(20);
    attaches.handle(asked("late", 1), Held::By(HOLDER, Answers::Never), late);
    assert_eq!(attaches.recent.len(), 1);
}
