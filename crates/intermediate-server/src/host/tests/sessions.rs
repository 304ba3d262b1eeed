//! Sessions through the frames: queues, takeovers, departures, slow proxies.

use cluster_rpc::frame::{
    AttachCall, QueuePlace, SessionAnswer, SessionCall, SessionFarewell, SessionRefusal,
    SessionRevocation,
};
use mqtt_codec::{PacketId, QoS, ReasonCode, TopicFilter};

use super::rig::{Rig, client, message, with_will};

fn is_revoked(answer: &SessionAnswer) -> bool {
    matches!(answer, SessionAnswer::Revoked { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_queued_while_the_client_is_away_and_delivered_where_it_comes_back() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let first = p.attach(client("c", 1)).await;
    assert!(!first.session_present);
    p.subscribe(first.held, "a/+").await;
    assert_eq!(q.publish("a/1", b"one").await, ReasonCode::Success);
    let delivery = p.delivery().await;
    assert_eq!((delivery.place, delivery.connection), (QueuePlace(1), 1));
    assert_eq!((&delivery.message.payload[..], delivery.qos), (&b"one"[..], QoS::AtLeastOnce));
    p.acknowledge(first.held, 1);
    p.detach(first.held, SessionFarewell::Abnormal);
    assert_eq!(q.publish("a/2", b"two").await, ReasonCode::Success);

    let second = q.attach(client("c", 7)).await;
    assert!(second.session_present && second.held.epoch > first.held.epoch);
    let delivery = q.delivery().await;
    assert_eq!((delivery.place, delivery.connection), (QueuePlace(2), 7));
    assert_eq!(&delivery.message.payload[..], b"two");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_intermediate_goes_on_with_what_it_had() {
    let rig = Rig::start().await;
    let mut p = rig.proxy("p").await;
    let held = p.attach(client("c", 1)).await.held;
    p.subscribe(held, "a").await;
    p.detach(held, SessionFarewell::Abnormal);
    assert_eq!(p.publish("a", b"one").await, ReasonCode::Success);
    let rig = Rig::over(rig.stop().await).await;
    let mut p = rig.proxy("p").await;
    assert!(p.attach(client("c", 2)).await.session_present);
    assert_eq!(p.delivery().await.place, QueuePlace(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_goes_on_after_a_restart_of_the_store_where_its_deliveries_ended() {
    let rig = Rig::start().await;
    let mut p = rig.proxy("p").await;
    let held = p.attach(client("c", 1)).await.held;
    p.subscribe(held, "a").await;
    for payload in [b"1", b"2"] {
        assert_eq!(p.publish("a", payload).await, ReasonCode::Success);
    }
    assert_eq!(p.delivery().await.place, QueuePlace(1));
    rig.memory.store.lock().fail_after(0);
    p.send("a", b"3");
    p.up().await;
    p.reattach(client("c", 1), held, 1).await;
    assert_eq!(p.delivery().await.place, QueuePlace(2));
    assert_eq!(p.delivery().await.place, QueuePlace(3));
    assert_eq!(p.published().await, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_waits_for_the_last_word_of_the_older_connection() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let first = p.attach(client("c", 1)).await.held;
    p.subscribe(first, "a").await;
    assert_eq!(q.publish("a", b"one").await, ReasonCode::Success);
    assert_eq!(p.delivery().await.place, QueuePlace(1));
    let request = q.ask_attach(client("c", 2));
    let revoked = p.answer_where(is_revoked).await;
    let SessionAnswer::Revoked { connection, held, why } = revoked else { unreachable!() };
    assert_eq!((connection, held, why), (1, first, SessionRevocation::TakenOver));
    p.acknowledge(first, 1);
    p.detach(first, SessionFarewell::Abnormal);
    let second = q.attached(request).await;
    assert!(second.session_present);
    assert_eq!(q.publish("a", b"two").await, ReasonCode::Success);
    assert_eq!(q.delivery().await.place, QueuePlace(2), "the first was acknowledged in time");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_served_without_the_store_ends_no_newer_one_but_an_older_one() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    q.attach(client("c", 1)).await;
    let request = p.ask_attach(served("c", 2, 60_000));
    let contested = SessionRefusal::Contested;
    assert_eq!(p.answer(request).await, SessionAnswer::Refused { request, refusal: contested });

    let older = p.attach(served("d", 2, 3_600_000)).await.held;
    let request = q.ask_attach(served("d", 2, 60_000));
    p.answer_where(is_revoked).await;
    p.detach(older, SessionFarewell::Abnormal);
    q.attached(request).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_long_on_its_way_ends_no_newer_one_but_an_older_session() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let late = |name, before: i64| {
        let call = AttachCall { clean_start: true, began_ms: -before, ..client(name, 2) };
        AttachCall { expiry_secs: 0, ..call }
    };
    q.attach(client("c", 1)).await;
    let request = p.ask_attach(late("c", 60_000));
    let refusal = SessionRefusal::Contested;
    assert_eq!(p.answer(request).await, SessionAnswer::Refused { request, refusal });

    let older = q.attach(served("d", 1, 3_600_000)).await.held;
    let request = p.ask_attach(late("d", 60_000));
    q.answer_where(is_revoked).await;
    q.detach(older, SessionFarewell::Abnormal);
    p.attached(request).await;
    rig.stop().await;
}

/// A client without a lasting session that was served so many milliseconds before the stream was open.
fn served(name: &str, connection: u64, before: i64) -> AttachCall {
    let began_ms = -before;
    let call = client(name, connection);
    AttachCall { clean_start: true, expiry_secs: 0, began_ms, served: true, ..call }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_served_without_the_store_ends_no_newer_session_that_is_not_back_yet()
{
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let newer = q.attach(client("c", 1)).await.held;
    q.subscribe(newer, "a").await;
    rig.memory.store.lock().fail_after(0);
    p.send("a", b"1");
    p.up().await;
    q.up().await;
    // The store has its second life, and from the proxy of the newer connection it has heard nothing.
    let request = p.ask_attach(served("c", 2, 60_000));
    let refusal = SessionRefusal::Contested;
    assert_eq!(p.answer(request).await, SessionAnswer::Refused { request, refusal });
    q.reattach(client("c", 1), newer, 0).await;
    assert_eq!(&q.delivery().await.message.payload[..], b"1");
    assert_eq!(p.published().await, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_says_to_have_begun_in_the_future_keeps_no_newer_one_out() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let first = p.attach(client("c", 1)).await.held;
    tick().await;
    let late = q.ask_attach(served("c", 2, -3_600_000));
    p.answer_where(is_revoked).await;
    let newest = q.ask_attach(client("c", 3));
    let refusal = SessionRefusal::Contested;
    assert_eq!(q.answer(late).await, SessionAnswer::Refused { request: late, refusal });
    p.detach(first, SessionFarewell::Abnormal);
    assert!(!q.attached(newest).await.session_present, "a clean start was promised");
    rig.stop().await;
}

/// Resolves when the store's clock says another time than before.
async fn tick() {
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
}

fn withdraw(connection: u64, clean_start_ms: Option<i64>) -> SessionCall {
    SessionCall::Withdraw {
        client: client("c", connection).client,
        connection,
        farewell: SessionFarewell::Clean,
        expiry_secs: None,
        clean_start_ms,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_loses_its_session_in_the_commit_in_which_it_gets_it_is_told() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let held = q.attach(client("c", 1)).await.held;
    q.subscribe(held, "a").await;
    tick().await;
    rig.memory.store.lock().fail_after(0);
    p.send("a", b"1");
    p.up().await;
    q.up().await;
    // Nothing is committed between these: they are of one frame.
    let request = q.ask_reattach(client("c", 1), held, 0);
    q.tell(withdraw(2, Some(0)));
    assert_eq!(q.attached(request).await.held, held);
    let revoked = q.answer_where(is_revoked).await;
    let why = SessionRevocation::TakenOver;
    assert_eq!(revoked, SessionAnswer::Revoked { connection: 1, held, why });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_served_without_the_store_ends_no_newer_session_without_a_connection()
{
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let newer = q.attach(client("c", 1)).await.held;
    q.detach(newer, SessionFarewell::Abnormal);
    // The end of a session is known with the next answer on its stream.
    q.attach(client("other", 2)).await;
    let request = p.ask_attach(served("c", 1, 60_000));
    let refusal = SessionRefusal::Contested;
    assert_eq!(p.answer(request).await, SessionAnswer::Refused { request, refusal });
    assert!(q.attach(client("c", 3)).await.session_present);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_start_that_is_told_when_its_connection_is_over_ends_what_was_there_before_it() {
    /// Long before the streams were opened, and later than now: that is now.
    const TIMES: [i64; 2] = [-60_000, 60_000];
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let first = p.attach(client("c", 1)).await.held;
    p.detach(first, SessionFarewell::Abnormal);
    p.tell(withdraw(2, Some(TIMES[0])));
    let second = p.attach(client("c", 3)).await;
    assert!(second.session_present, "it is newer");
    p.detach(second.held, SessionFarewell::Abnormal);
    tick().await;
    p.tell(withdraw(4, Some(TIMES[1])));
    assert!(!p.attach(client("c", 5)).await.session_present);

    // One that has a connection, elsewhere: that ends, and who waits for it need not any more.
    p.tell(withdraw(5, Some(TIMES[1])));
    let sixth = q.attach(client("c", 6)).await.held;
    tick().await;
    let request = p.ask_attach(client("c", 7));
    q.answer_where(is_revoked).await;
    p.tell(withdraw(8, Some(TIMES[1])));
    let seventh = p.attached(request).await;
    assert!(!seventh.session_present && seventh.held.session != sixth.session);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_withdrawn_before_it_has_its_session_takes_it_from_nobody() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let withdraw = |connection| withdraw(connection, None);
    // In one frame: the end is here before the answer to the beginning is out.
    let request = p.ask_attach(client("c", 1));
    p.tell(withdraw(1));
    p.attached(request).await;
    let newer = q.attach(client("c", 2)).await;
    assert!(!newer.session_present);
    p.tell(withdraw(1));

    // One that waits for the holder's last word.
    let request = p.ask_attach(client("c", 3));
    q.answer_where(is_revoked).await;
    p.tell(withdraw(3));
    let refusal = SessionRefusal::Contested;
    assert_eq!(p.answer(request).await, SessionAnswer::Refused { request, refusal });
    q.detach(newer.held, SessionFarewell::Abnormal);
    assert!(q.attach(client("c", 4)).await.session_present);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_client_that_was_taken_is_told_as_that_to_the_next_connection() {
    let rig = Rig::start().await;
    let mut p = rig.proxy("p").await;
    let held = p.attach(client("c", 1)).await.held;
    let packet_ids = [5, 6].map(|id| PacketId::new(id).unwrap());
    for packet_id in packet_ids {
        let request = p.ask(|request| SessionCall::Begin { request, held, packet_id, key: 9 });
        assert_eq!(p.answer(request).await, SessionAnswer::Begun { request, key: 9 });
    }
    p.tell(SessionCall::Taken { held, packet_ids: packet_ids[..1].to_vec() });
    p.detach(held, SessionFarewell::Abnormal);
    let request = p.ask_attach(client("c", 2));
    let answer = p.answer(request).await;
    let SessionAnswer::Attached { incoming, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(incoming, [(packet_ids[0], None), (packet_ids[1], Some(9))]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_is_not_let_go_by_the_end_of_a_connection_before() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let before = p.attach(client("c", 1)).await.held;
    p.subscribe(before, "a").await;
    p.detach(before, SessionFarewell::Abnormal);
    let held = p.attach(client("c", 2)).await.held;
    assert_eq!(q.publish("a", b"one").await, ReasonCode::Success);
    assert_eq!(p.delivery().await.place, QueuePlace(1));
    let request = q.ask_attach(client("c", 3));
    p.answer_where(is_revoked).await;
    p.detach(before, SessionFarewell::Abnormal);
    p.acknowledge(held, 1);
    p.detach(held, SessionFarewell::Abnormal);
    q.attached(request).await;
    assert_eq!(q.publish("a", b"two").await, ReasonCode::Success);
    assert_eq!(q.delivery().await.place, QueuePlace(2), "the first was acknowledged in time");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_does_not_wait_for_ever_and_the_newest_wins() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let first = p.attach(client("c", 1)).await.held;
    let (second, third) = (q.ask_attach(client("c", 2)), q.ask_attach(client("c", 3)));
    let refused = q.answer(second).await;
    let contested = SessionRefusal::Contested;
    assert_eq!(refused, SessionAnswer::Refused { request: second, refusal: contested });
    let now = q.attached(third).await.held;
    // The older connection has heard it once, and is fenced.
    p.answer_where(is_revoked).await;
    let filter = TopicFilter::new("a".to_owned()).unwrap();
    let late = p.ask(|request| SessionCall::Unsubscribe {
        request,
        held: first,
        filters: vec![filter.clone()],
    });
    let refusal = SessionRefusal::Fenced;
    assert_eq!(p.answer(late).await, SessionAnswer::Refused { request: late, refusal });
    q.subscribe(now, "a").await;
    rig.says("/metrics", "causeway_session_takeovers_total 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_fight_for_an_identifier_are_slowed_and_counted() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let mut held = p.attach(client("c", 0)).await.held;
    for round in 1..=6 {
        let request = q.ask_attach(client("c", round));
        if round < 6 {
            p.answer_where(is_revoked).await;
            p.detach(held, SessionFarewell::Abnormal);
            held = q.attached(request).await.held;
            std::mem::swap(&mut p, &mut q);
        } else {
            rig.says("/metrics", "causeway_session_takeovers_contested_total 1").await;
            p.answer_where(is_revoked).await;
            q.attached(request).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_leaves_loses_its_sessions_and_their_wills_are_published() {
    let rig = Rig::start().await;
    let (mut p, mut q) = (rig.proxy("p").await, rig.proxy("q").await);
    let watcher = q.attach(client("watcher", 1)).await.held;
    q.subscribe(watcher, "will/#").await;
    p.attach(with_will(client("c", 1), "will/c")).await;
    p.uplink.leave().await;
    let delivery = q.delivery().await;
    assert_eq!(delivery.message.topic.as_str(), "will/c");
    assert!(q.attach(client("c", 2)).await.session_present);
    rig.says("/metrics", "causeway_wills_unsent 0").await;
    rig.says("/metrics", "causeway_store_proxies 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_are_read_in_pages() {
    let rig = Rig::start().await;
    let mut p = rig.proxy("p").await;
    for number in 0..5 {
        let mut retained = message(&format!("r/{number}"), b"kept");
        retained.retain = true;
        let retained = std::sync::Arc::new(retained);
        let provenance = cluster_rpc::frame::Provenance::default();
        p.uplink.publish(p.uplink.life(), &retained, None, provenance, Some(1)).unwrap();
        assert_eq!(p.published().await, ReasonCode::Success);
    }
    let filter = TopicFilter::new("r/+".to_owned()).unwrap();
    let (mut after, mut topics) = (None, Vec::new());
    loop {
        let (filter, from) = (filter.clone(), after.take());
        let request =
            p.ask(|request| SessionCall::ReadRetained { request, filter, after: from, limit: 2 });
        let answer = p.answer(request).await;
        let SessionAnswer::Retained { messages, next, .. } = answer else { panic!("{answer:?}") };
        assert!(messages.len() <= 2 && messages.iter().all(|message| message.retain));
        topics.extend(messages.iter().map(|message| message.topic.as_str().to_owned()));
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    topics.sort();
    assert_eq!(topics, ["r/0", "r/1", "r/2", "r/3", "r/4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_does_not_read_waits_in_the_store_and_holds_up_nobody_else() {
    const CLIENTS: u64 = 60;
    const MESSAGES: u64 = 16;
    const PAYLOAD: usize = 64 << 10;
    let rig = Rig::start().await;
    let (mut slow, mut q) = (rig.proxy("slow").await, rig.proxy("q").await);
    for number in 0..CLIENTS {
        let held = slow.attach(client(&format!("c{number}"), number)).await.held;
        slow.subscribe(held, "a").await;
    }
    let held = q.attach(client("quick", 1)).await.held;
    q.subscribe(held, "a").await;
    for _ in 0..MESSAGES {
        assert_eq!(q.publish("a", &[7; PAYLOAD]).await, ReasonCode::Success);
        q.delivery().await;
    }
    // The metrics are copied a few times per second.
    rig.says("/metrics", &format!("causeway_inbox_messages {}", (CLIENTS + 1) * MESSAGES)).await;
    let given = rig.metric("causeway_store_deliveries_total").await - MESSAGES;
    let most = (24 << 20) / PAYLOAD as u64;
    assert!(given < most, "{given} of {} left the store", CLIENTS * MESSAGES);
    for _ in 0..CLIENTS * MESSAGES {
        slow.delivery().await;
    }
}
