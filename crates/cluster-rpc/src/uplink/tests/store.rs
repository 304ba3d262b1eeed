//! The way to the store: one link at a time, nothing of an earlier one on a later.

use mqtt_codec::SubscriptionIds;

use super::*;
use crate::frame::{
    Held, QueuePlace, SessionAnswer, SessionCall, SessionDelivery, SessionDown, SessionEpoch,
    SessionNumber, StoreHere,
};
use crate::uplink::tests::fake::Sessions;

struct Client {
    proxy: Proxy,
    store: StoreLink,
    events: StoreEvents,
}

impl Client {
    fn of(fakes: &[&Fake]) -> Self {
        let config = UplinkConfig {
            intermediates: fakes.iter().map(|fake| fake.address.to_string()).collect(),
            ..UplinkConfig::default()
        };
        let shutdown = CancellationToken::new();
        let (uplink, uplink_events, store, events) = start_with_store(config, shutdown.clone());
        let proxy = Proxy { uplink, events: uplink_events, _stop: shutdown.drop_guard() };
        Self { proxy, store, events }
    }

    async fn event(&mut self) -> StoreEvent {
        soon(self.events.next()).await.expect("it goes on")
    }

    async fn up(&mut self, sessions: &Sessions, fake: &Fake) -> LinkEpoch {
        sessions.send(SessionDown::Opened(fake.member())).await;
        let StoreEvent::Up { link, store, life } = self.event().await else { panic!("not up") };
        assert_eq!(store, fake.member());
        assert_eq!(life, self.proxy.uplink.status().incarnation);
        link
    }
}

async fn with_store(node: &str) -> Fake {
    let mut fake = Fake::start(node).await;
    fake.store = StoreHere::Yes;
    fake
}

/// Each of another session: those of one would be merged.
fn call(session: u64) -> SessionCall {
    acknowledge(session, &[1], &[])
}

fn acknowledge(session: u64, settled: &[u64], received: &[u64]) -> SessionCall {
    let held = Held { session: SessionNumber(session), epoch: SessionEpoch(1) };
    let places = |places: &[u64]| places.iter().copied().map(QueuePlace).collect();
    SessionCall::Acknowledge { held, settled: places(settled), received: places(received) }
}

fn delivery() -> SessionDelivery {
    SessionDelivery {
        connection: 1,
        session: SessionNumber(1),
        place: QueuePlace(1),
        group: None,
        dup: false,
        qos: Q1,
        retain: false,
        subscription_ids: SubscriptionIds::new(),
        message: Arc::new(message("t", Q1)),
    }
}

#[tokio::test]
async fn calls_go_out_and_answers_and_deliveries_come_in_in_order() {
    let mut fake = with_store("i").await;
    let mut client = Client::of(&[&fake]);
    let (_routes, hello) = fake.registered().await;
    let (mut sessions, member) = fake.sessions().await;
    assert_eq!(member, hello.member);
    let link = client.up(&sessions, &fake).await;
    for session in 1..=3_000 {
        client.store.send(link, call(session));
    }
    let calls = sessions.calls(3_000).await;
    assert!(calls.into_iter().eq((1..=3_000).map(call)));
    let answers = vec![SessionAnswer::Released { request: 1 }];
    sessions.send(SessionDown::Answers(answers.clone())).await;
    sessions.send(SessionDown::Deliveries(vec![delivery()])).await;
    assert_eq!(client.event().await, StoreEvent::Answers(answers));
    assert_eq!(client.event().await, StoreEvent::Deliveries(vec![delivery()]));
}

#[tokio::test]
async fn confirmations_of_one_session_that_wait_together_go_as_one() {
    let mut fake = with_store("i").await;
    let mut client = Client::of(&[&fake]);
    let (_routes, _) = fake.registered().await;
    let (mut sessions, _) = fake.sessions().await;
    let link = client.up(&sessions, &fake).await;
    let sent = [(1, &[1][..], &[][..]), (1, &[2], &[3]), (2, &[1], &[]), (1, &[4], &[])];
    for (session, settled, received) in sent {
        client.store.send(link, acknowledge(session, settled, received));
    }
    let calls = [(1, &[1, 2][..], &[3][..]), (2, &[1], &[]), (1, &[4], &[])];
    let calls = calls.map(|(session, settled, received)| acknowledge(session, settled, received));
    assert_eq!(sessions.calls(3).await, calls);
}

#[tokio::test]
async fn who_is_there_is_what_the_intermediates_say() {
    let mut fake = Fake::start("i").await;
    let proxy = Proxy::of(&fake);
    let (routes, hello) = fake.registered().await;
    let members = [hello.member.clone(), fake.member()];
    routes.view(RelayState::Serving, &members).await;
    proxy.until(|proxy| proxy.uplink.present().len() == 2).await;
    let origins = proxy.uplink.present_origins();
    assert!(members.iter().all(|member| origins.contains(&origin_of(member))));
    assert_eq!(proxy.uplink.member(), hello.member);
}

#[tokio::test]
async fn after_a_break_nothing_of_the_old_link_goes_out_or_comes_in() {
    let mut fake = with_store("i").await;
    let mut client = Client::of(&[&fake]);
    let (_routes, _) = fake.registered().await;
    let (sessions, _) = fake.sessions().await;
    client.store.send(LinkEpoch::NONE, call(7));
    let old = client.up(&sessions, &fake).await;
    client.store.send(old, call(1));
    sessions.send(SessionDown::Deliveries(vec![delivery()])).await;
    drop(sessions);
    // The link beside it stands: only the session stream is opened again.
    let (mut sessions, _) = fake.sessions().await;
    client.store.send(old, call(2));
    sessions.send(SessionDown::Opened(fake.member())).await;
    let new = loop {
        match client.event().await {
            StoreEvent::Deliveries(_) | StoreEvent::Down => {}
            StoreEvent::Up { link, .. } => break link,
            StoreEvent::Answers(_) => panic!("no answer was sent"),
        }
    };
    assert!(new > old);
    client.store.send(old, call(3));
    client.store.send(new, call(4));
    assert_eq!(sessions.calls(1).await, [call(4)]);
}

#[tokio::test]
async fn the_end_of_a_link_is_told_before_the_next() {
    let mut fake = with_store("i").await;
    let mut client = Client::of(&[&fake]);
    let (_routes, _) = fake.registered().await;
    let (sessions, _) = fake.sessions().await;
    client.up(&sessions, &fake).await;
    drop(sessions);
    let (sessions, _) = fake.sessions().await;
    sessions.send(SessionDown::Opened(fake.member())).await;
    assert_eq!(client.event().await, StoreEvent::Down);
    assert!(matches!(client.event().await, StoreEvent::Up { .. }));
}

#[tokio::test]
async fn an_intermediate_without_the_store_is_not_asked() {
    let mut fake = Fake::start("i").await;
    let client = Client::of(&[&fake]);
    let (_routes, _) = fake.registered().await;
    let (_deliverer, _) = fake.deliverer().await;
    let _publisher = fake.publisher().await;
    client.proxy.serving().await;
    assert!(!fake.has_sessions(), "a session stream");
}

#[tokio::test]
async fn of_two_that_claim_the_store_the_first_is_used_until_its_link_ends() {
    let (mut one, mut other) = (with_store("i").await, with_store("j").await);
    let mut client = Client::of(&[&one, &other]);
    let (one_routes, _) = one.registered().await;
    let (sessions, _) = one.sessions().await;
    client.up(&sessions, &one).await;
    let (_other_routes, _) = other.registered().await;
    let _publisher = other.publisher().await;
    assert!(!other.has_sessions(), "a session stream");
    drop((one_routes, sessions));
    one.stop().await;
    let (sessions, _) = other.sessions().await;
    assert_eq!(client.event().await, StoreEvent::Down);
    client.up(&sessions, &other).await;
}

#[tokio::test]
async fn too_many_calls_make_it_congested_until_they_are_sent() {
    let mut fake = with_store("i").await;
    let mut client = Client::of(&[&fake]);
    let (_routes, _) = fake.registered().await;
    let (mut sessions, _) = fake.sessions().await;
    let link = client.up(&sessions, &fake).await;
    let mut sent = 0;
    while !client.store.is_congested() {
        sent += 1;
        client.store.send(link, call(sent));
    }
    let calls = sessions.calls(usize::try_from(sent).unwrap()).await;
    assert!(calls.into_iter().eq((1..=sent).map(call)));
    soon(client.store.uncongested()).await;
}

#[tokio::test]
async fn a_caller_that_does_not_stop_loses_the_link() {
    let mut fake = with_store("i").await;
    let mut client = Client::of(&[&fake]);
    let (_routes, _) = fake.registered().await;
    let (sessions, _) = fake.sessions().await;
    let link = client.up(&sessions, &fake).await;
    // One thread: nothing is sent meanwhile.
    for session in 0..8 * 65_536 {
        client.store.send(link, call(session));
    }
    assert!(!client.store.is_congested(), "nothing is kept");
    assert_eq!(client.event().await, StoreEvent::Down);
    sessions.ended().await;
    let metrics = client.proxy.uplink.metrics();
    assert_eq!(metrics.overflowed_links.load(std::sync::atomic::Ordering::Relaxed), 1);
    let (sessions, _) = fake.sessions().await;
    assert!(client.up(&sessions, &fake).await > link);
}

#[tokio::test]
async fn the_events_end_with_the_uplink() {
    let fake = with_store("i").await;
    let mut client = Client::of(&[&fake]);
    drop(client.proxy);
    assert!(soon(client.events.next()).await.is_none());
}
