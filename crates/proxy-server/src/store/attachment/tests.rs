//! One connection and its session, over links to a store that is not there.

use std::future::poll_fn;
use std::time::Duration;

use cluster_rpc::UplinkConfig;
use cluster_rpc::frame::{SessionEpoch, SessionNumber};
use mqtt_codec::{ClientId, QoS};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::mailbox::{QueueLimits, WhenFull};

const FIRST: LinkEpoch = LinkEpoch::NONE.next();

fn way(link: LinkEpoch, life: u64) -> Way {
    Way { link, life: Incarnation(life), up: now() }
}

fn first() -> Way {
    way(FIRST, 1)
}

fn second() -> Way {
    way(FIRST.next(), 1)
}

fn other_life() -> Way {
    way(FIRST.next(), 2)
}

/// Seconds of session expiry when it is closed.
const EXPIRY: u32 = 7;

fn link() -> StoreLink {
    cluster_rpc::start_with_store::<()>(UplinkConfig::default(), CancellationToken::new()).2
}

fn attachment(expiry_secs: u32, receive_maximum: u16) -> Attachment {
    let call = AttachCall {
        client: ClientId::new("a").unwrap(),
        connection: 1,
        clean_start: false,
        expiry_secs,
        receive_maximum,
        will: None,
        began_ms: 0,
        served: false,
    };
    let limits = QueueLimits { messages: 1, bytes: 1, when_full: WhenFull::Disconnect };
    Attachment::new(call, Arc::new(Mailbox::new(limits)), oneshot::channel().0)
}

fn held(epoch: u64) -> Held {
    Held { session: SessionNumber(1), epoch: SessionEpoch(epoch) }
}

/// One that has its session.
fn attached(to: &StoreLink, expiry_secs: u32) -> Attachment {
    let attachment = attachment(expiry_secs, 2);
    attachment.begin(to, first());
    attachment.attached(held(1), Attached::default(), to);
    attachment
}

fn close(attachment: &Attachment) -> Vec<Departure> {
    attachment.close(SessionFarewell::Abnormal, EXPIRY)
}

fn detached(epoch: u64) -> Departure {
    let farewell = SessionFarewell::Abnormal;
    Departure::Detached { held: held(epoch), farewell, expiry_secs: EXPIRY }
}

fn withdrawn(expiry_secs: Option<u32>) -> Departure {
    let (client, farewell) = (ClientId::new("a").unwrap(), SessionFarewell::Abnormal);
    Departure::Withdrawn { client, connection: 1, farewell, expiry_secs, clean_start: None }
}

fn place(place: u64) -> GroupPlace {
    GroupPlace { group: 1, place }
}

#[tokio::test]
async fn a_connection_says_when_it_began_and_whether_it_waits() {
    let attachment = attachment(0, 10);
    let told = |up| {
        let call = attachment.call(&attachment.state.lock(), up);
        (call.began_ms, call.served)
    };
    assert_eq!(told(attachment.since), (0, false));
    assert!(attachment.serve_before_answer(IdOrigin::Given));
    assert_eq!(told(attachment.since), (0, true));
    // By the time of each link: not by how long ago it was, which changes on the way.
    assert_eq!(told(attachment.since + Duration::from_millis(7)), (-7, true));
}

#[tokio::test]
async fn a_clean_start_that_was_promised_is_told_however_the_connection_ends() {
    let to = link();
    let serve = |clean_start| {
        let mut attachment = attachment(0, 2);
        attachment.call.clean_start = clean_start;
        assert!(attachment.serve_before_answer(IdOrigin::Given));
        attachment
    };
    let is_told = |attachment: &Attachment| match &close(attachment)[..] {
        [Departure::Withdrawn { clean_start, .. }] => *clean_start == Some(attachment.since),
        other => panic!("{other:?}"),
    };
    let is_all = |attachment: &Attachment| match &close(attachment)[..] {
        [Departure::Promised { clean_start, .. }] => *clean_start == attachment.since,
        other => panic!("{other:?}"),
    };
    assert!(is_all(&serve(true)), "before there was a link");
    assert_eq!(close(&serve(false)), [], "nothing was promised");

    let asked = serve(true);
    asked.begin(&to, first());
    asked.begin_again(&to, second());
    assert!(is_told(&asked), "without an answer");

    let refused = serve(true);
    refused.begin(&to, first());
    let begun = refused.refused(SessionRefusal::Contested);
    assert!(matches!(begun, Begun::Lost(_)) && is_all(&refused));

    let fenced = serve(true);
    fenced.begin(&to, first());
    fenced.begin_again(&to, other_life());
    assert!(is_all(&fenced), "the life that has asked is over");

    let done = serve(true);
    done.begin(&to, first());
    done.attached(held(1), Attached::default(), &to);
    assert_eq!(close(&done), [detached(1)]);
}

#[tokio::test]
async fn nothing_was_promised_about_an_identifier_that_the_server_made() {
    let mut attachment = attachment(0, 2);
    attachment.call.clean_start = true;
    assert!(attachment.serve_before_answer(IdOrigin::Assigned));
    assert_eq!(close(&attachment), []);
}

#[tokio::test]
async fn a_connection_is_not_served_in_spite_of_an_answer_that_came_just_before() {
    let to = link();
    let answered = |answer: &dyn Fn(&Attachment)| {
        let (told, mut heard) = oneshot::channel();
        let Attachment { call, mailbox, .. } = attachment(0, 2);
        let attachment = Attachment::new(call, mailbox, told);
        attachment.begin(&to, first());
        answer(&attachment);
        assert!(!attachment.serve_before_answer(IdOrigin::Given));
        heard.try_recv().map(|answer| answer.map(|_| ()))
    };
    let refusal = SessionRefusal::Contested;
    let refused = answered(&|one| assert!(matches!(one.refused(refusal), Begun::Over)));
    assert_eq!(refused, Ok(Err(refusal)));
    let begin = |one: &Attachment| one.attached(held(1), Attached::default(), &to);
    let attached = answered(&|one| assert!(matches!(begin(one), Begun::Held)));
    assert_eq!(attached, Ok(Ok(())));
    assert!(answered(&|one| one.begin_again(&to, other_life())).is_err(), "told to end");
}

#[tokio::test]
async fn a_connection_of_an_earlier_life_must_end_and_the_store_hears_nothing_of_it() {
    let to = link();
    for is_held in [true, false] {
        let attachment = if is_held { attached(&to, EXPIRY) } else { attachment(EXPIRY, 2) };
        attachment.begin(&to, first());
        attachment.begin_again(&to, other_life());
        let order = poll_fn(|context| attachment.mailbox.poll_order(context)).await;
        assert_eq!(order, EndOrder(ReasonCode::ServerShuttingDown));
        assert!(matches!(attachment.attached(held(2), Attached::default(), &to), Begun::Over));
        assert_eq!(close(&attachment), []);
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_it_hears_its_new_epoch_gives_that_back_too() {
    let to = link();
    let attachment = attached(&to, EXPIRY);
    attachment.begin_again(&to, second());
    assert_eq!(close(&attachment), [detached(1), withdrawn(Some(EXPIRY))]);

    let attachment = attached(&to, EXPIRY);
    attachment.begin_again(&to, second());
    attachment.attached(held(2), Attached::default(), &to);
    assert_eq!(close(&attachment), [detached(2)]);

    // Its epoch changed on a link that broke before it heard.
    let attachment = attached(&to, EXPIRY);
    attachment.begin_again(&to, second());
    assert!(matches!(attachment.refused(SessionRefusal::Fenced), Begun::Lost(_)));
    assert_eq!(close(&attachment), [withdrawn(Some(EXPIRY))]);
}

#[tokio::test]
async fn a_connection_that_was_not_let_in_takes_nothing_and_changes_no_expiry() {
    let to = link();
    let waiting = attachment(EXPIRY, 2);
    waiting.abandon();
    assert_eq!(close(&waiting), [], "the store has not heard of it");

    let asked = attachment(EXPIRY, 2);
    asked.begin(&to, first());
    asked.abandon();
    assert_eq!(close(&asked), [withdrawn(None)]);
    asked.begin_again(&to, second());
    assert_eq!(asked.pending(), 0, "it is not asked for again");

    let too_late = attached(&to, EXPIRY);
    too_late.abandon();
    assert_eq!(close(&too_late), [withdrawn(None)]);
}

#[tokio::test]
async fn what_was_received_before_widens_what_may_have_to_be_told_again() {
    let to = link();
    let attachment = attachment(EXPIRY, 1);
    attachment.begin(&to, first());
    let places: Vec<_> = (1..=4).map(QueuePlace).collect();
    let resumed = Attached { received: places[..3].to_vec(), ..Attached::default() };
    attachment.attached(held(1), resumed, &to);
    let settled = places.clone();
    attachment.confirm(&to, Confirmations { settled, ..Confirmations::default() });
    let told = attachment.state.lock().flow().confirmed(held(1)).collect::<Vec<_>>();
    let all = SessionCall::Acknowledge { held: held(1), settled: places, received: Vec::new() };
    assert_eq!(told, [all]);
}

#[tokio::test]
async fn shared_subscriptions_that_a_call_cannot_hold_are_told_in_others() {
    const COUNT: usize = 300;
    let attachment = attached(&link(), 0);
    let long = "x".repeat(60_000);
    let filter = |number| TopicFilter::new(format!("$share/{number}/{long}")).unwrap();
    let filters: Vec<_> =
        (0..COUNT).map(|number| (filter(number), SubscriptionOptions::default())).collect();
    let mut state = attachment.state.lock();
    let ask = Ask::Subscribe { filters: filters.clone(), subscription_id: None };
    state.note_shared(ask, &Answer::Reasons(vec![ReasonCode::GrantedQoS1; COUNT]));
    let first = attachment.reattach_call(&state, held(1), now());
    assert!(first.weight() < 9 << 20, "{}", first.weight());
    let SessionCall::Reattach { groups, .. } = first else { panic!("{first:?}") };
    let mut told: Vec<_> =
        groups.into_iter().map(|(filter, options, _)| (filter, options)).collect();
    assert!(told.len() < COUNT);
    for ask in attachment.more_groups(&state) {
        let call = attachment.ask_call(held(1), AskNumber(1), &ask);
        assert!(call.weight() < 9 << 20, "{}", call.weight());
        let Ask::Subscribe { filters, .. } = ask else { panic!("{ask:?}") };
        told.extend(filters);
    }
    assert_eq!(told, filters);
}

#[tokio::test]
async fn of_what_a_group_gives_only_what_had_arrived_before_a_link_broke_is_known() {
    let mut flow = Flow::new(2);
    flow.group.push_back(place(1));
    assert!(!flow.knows(place(1)), "no link broke");
    let (to, attachment) = (link(), attached(&link(), 0));
    attachment.state.lock().flow = Some(Box::new(flow));
    attachment.begin_again(&to, second());
    let delivery = |place| SessionDelivery {
        connection: 1,
        session: held(1).session,
        place: QueuePlace(0),
        group: Some(place),
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_ids: [].into_iter().collect(),
        message: Arc::new(mqtt_codec::Message {
            topic: TopicName::new("t").unwrap(),
            payload: bytes::Bytes::new(),
            qos: QoS::AtLeastOnce,
            retain: false,
            expiry_secs: None,
            properties: mqtt_codec::PublishProperties::default(),
        }),
    };
    assert!(!attachment.arrive(&delivery(place(1))));
    assert!(attachment.arrive(&delivery(place(2))));
}
