//! Session frames: what is written by hand is what the generated code writes and reads.

use mqtt_codec::{ClientId, PacketId, RetainHandling, SubscriptionId, SubscriptionOptions, Will};

use super::*;
use crate::frame::{
    AttachCall, GroupPlace, Held, QueuePlace, SessionAnswer, SessionCall, SessionDelivery,
    SessionDown, SessionEpoch, SessionFarewell, SessionNumber, SessionRefusal, SessionRevocation,
    SessionUp,
};

const HELD: Held = Held { session: SessionNumber(3 << 48 | 7), epoch: SessionEpoch(u64::MAX) };

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text.to_owned()).unwrap()
}

fn message(qos: QoS) -> Message {
    routed(qos, true, Some(4)).message
}

fn places(places: &[u64]) -> Vec<QueuePlace> {
    places.iter().copied().map(QueuePlace).collect()
}

fn attach(will: Option<Will>) -> Box<AttachCall> {
    Box::new(AttachCall {
        client: ClientId::new("client").unwrap(),
        connection: 300,
        clean_start: true,
        expiry_secs: u32::MAX,
        receive_maximum: u16::MAX,
        will: will.map(Box::new),
        began_ms: -86_400_000,
        served: true,
    })
}

fn options(retain_handling: RetainHandling) -> SubscriptionOptions {
    let qos = QoS::ExactlyOnce;
    SubscriptionOptions { qos, no_local: true, retain_as_published: true, retain_handling }
}

fn subscription_id(id: u32) -> SubscriptionId {
    SubscriptionId::new(id).unwrap()
}

fn group(group: u64, place: u64) -> GroupPlace {
    GroupPlace { group, place }
}

fn calls() -> Vec<SessionCall> {
    let will = Will { message: message(QoS::ExactlyOnce), delay_secs: 5 };
    let detach = |farewell| SessionCall::Detach { held: HELD, farewell, expiry_secs: 9 };
    let withdraw = |expiry_secs, clean_start_ms| SessionCall::Withdraw {
        client: ClientId::new("client").unwrap(),
        connection: 300,
        farewell: SessionFarewell::Clean,
        expiry_secs,
        clean_start_ms,
    };
    let acknowledge = |settled, received| SessionCall::Acknowledge {
        held: HELD,
        settled: places(settled),
        received: places(received),
    };
    let packet_id = PacketId::new(u16::MAX).unwrap();
    vec![
        SessionCall::Attach { request: 1, attach: attach(None) },
        SessionCall::Attach { request: 2, attach: attach(Some(will.clone())) },
        SessionCall::Reattach {
            request: 3,
            attach: attach(Some(will)),
            held: HELD,
            received_up_to: QueuePlace(4),
            group_deliveries: vec![group(1, 2), group(u64::MAX, 0)],
            groups: vec![
                (filter("$share/g/a"), options(RetainHandling::Send), None),
                (
                    filter("$share/g/#"),
                    options(RetainHandling::DoNotSend),
                    Some(subscription_id(8)),
                ),
            ],
        },
        detach(SessionFarewell::Clean),
        detach(SessionFarewell::Abnormal),
        detach(SessionFarewell::ProxyStops),
        withdraw(None, None),
        withdraw(Some(0), Some(i64::MIN)),
        withdraw(Some(0), Some(0)),
        SessionCall::Subscribe {
            request: 4,
            held: HELD,
            filters: vec![
                (filter("a/+"), SubscriptionOptions::default()),
                (filter("b"), options(RetainHandling::SendIfNew)),
            ],
            subscription_id: Some(subscription_id(268_435_455)),
        },
        SessionCall::Unsubscribe { request: 5, held: HELD, filters: vec![filter("a/+")] },
        acknowledge(&[1, 300, u64::MAX], &[]),
        acknowledge(&[], &[2]),
        acknowledge(&[], &[]),
        SessionCall::AcknowledgeGroup { held: HELD, settled: vec![group(1, 2), group(3, 4)] },
        SessionCall::Begin { request: 6, held: HELD, packet_id, key: 1 << 100 },
        SessionCall::Release { request: 7, held: HELD, packet_id },
        SessionCall::ReadRetained { request: 8, filter: filter("#"), after: None, limit: 100 },
        SessionCall::ReadRetained {
            request: 9,
            filter: filter("a"),
            after: Some(TopicName::new("a/b").unwrap()),
            limit: 1,
        },
        SessionCall::Taken {
            held: HELD,
            packet_ids: vec![packet_id, PacketId::new(65_535).unwrap()],
        },
    ]
}

fn deliveries() -> Vec<SessionDelivery> {
    let first = SessionDelivery {
        connection: 1,
        session: HELD.session,
        place: QueuePlace(0),
        group: None,
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        subscription_ids: [].into_iter().collect(),
        message: Arc::new(message(QoS::AtLeastOnce)),
    };
    let shared = SessionDelivery {
        connection: 2,
        place: QueuePlace(u64::MAX),
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: [1, 300, 268_435_455].map(subscription_id).into_iter().collect(),
        ..first.clone()
    };
    let other = SessionDelivery {
        group: Some(group(5, 6)),
        qos: QoS::AtLeastOnce,
        message: Arc::new(message(QoS::ExactlyOnce)),
        ..first.clone()
    };
    vec![first, shared, other]
}

#[test]
fn frames_to_the_store_survive_the_wire() {
    survives([
        SessionUp::Open(member("p")),
        SessionUp::Calls(calls()),
        SessionUp::Calls(vec![calls().remove(10)]),
    ]);
}

#[test]
fn frames_from_the_store_survive_the_wire() {
    let refused = |refusal| SessionAnswer::Refused { request: 2, refusal };
    let revoked = |why| SessionAnswer::Revoked { connection: 3, held: HELD, why };
    let retained = |next: Option<&str>| SessionAnswer::Retained {
        request: 4,
        messages: vec![Arc::new(message(QoS::AtMostOnce)), Arc::new(message(QoS::AtLeastOnce))],
        next: next.map(|topic| TopicName::new(topic.to_owned()).unwrap()),
    };
    let reasons = vec![ReasonCode::GrantedQoS1, ReasonCode::QuotaExceeded];
    survives([
        SessionDown::Opened(member("s")),
        SessionDown::Answers(vec![
            SessionAnswer::Attached {
                request: 1,
                held: HELD,
                session_present: true,
                received: places(&[1, 2]),
                incoming: vec![
                    (PacketId::new(1).unwrap(), Some(u128::MAX)),
                    (PacketId::new(2).unwrap(), None),
                ],
            },
            refused(SessionRefusal::Fenced),
            refused(SessionRefusal::TooManySessions),
            refused(SessionRefusal::Contested),
            refused(SessionRefusal::Full),
            SessionAnswer::Subscribed { request: 5, reasons: reasons.clone() },
            SessionAnswer::Unsubscribed { request: 6, reasons },
            SessionAnswer::Begun { request: 7, key: 8 },
            SessionAnswer::Released { request: 9 },
            SessionAnswer::Received { connection: 10, places: places(&[11]) },
            revoked(SessionRevocation::TakenOver),
            revoked(SessionRevocation::Ended),
            retained(None),
            retained(Some("a/b")),
        ]),
        SessionDown::Deliveries(deliveries()),
    ]);
}

#[test]
fn a_call_weighs_no_less_than_it_is_long() {
    for call in calls() {
        let weight = call.weight();
        let length = SessionUp::Calls(vec![call.clone()]).encode().len();
        assert!(weight as usize >= length, "{weight} < {length}: {call:?}");
    }
}

#[test]
fn deliveries_of_one_message_carry_it_once_and_share_it_when_read() {
    let mut two = deliveries();
    two.truncate(2);
    let one = SessionDown::Deliveries(two[..1].to_vec()).encode().len();
    let both = SessionDown::Deliveries(two).encode();
    assert!(both.len() < one + 60, "{} after {one}", both.len());
    let Ok(SessionDown::Deliveries(read)) = SessionDown::decode(both.clone()) else {
        panic!("no deliveries")
    };
    assert!(Arc::ptr_eq(&read[0].message, &read[1].message));
    let payload = read[0].message.payload.as_ptr_range();
    let whole = both.as_ptr_range();
    assert!(whole.start <= payload.start && payload.end <= whole.end, "a copy");
}

#[test]
fn the_first_delivery_of_a_frame_must_have_a_message() {
    let delivery = proto::SessionDelivery { connection: 1, ..proto::SessionDelivery::default() };
    let deliveries = proto::SessionDeliveries { deliveries: vec![delivery] };
    let frame = Some(proto::session_down::Frame::Deliveries(deliveries));
    let frame = Bytes::from(proto::SessionDown { frame }.encode_to_vec());
    assert_eq!(SessionDown::decode(frame), Err(FrameError::Missing("message")));
}

fn refused_call(call: proto::session_call::Call) -> FrameError {
    let calls = proto::SessionCalls { calls: vec![proto::SessionCall { call: Some(call) }] };
    let frame = Some(proto::session_up::Frame::Calls(calls));
    let frame = Bytes::from(proto::SessionUp { frame }.encode_to_vec());
    SessionUp::decode(frame).unwrap_err()
}

#[test]
fn a_call_that_is_not_valid_is_refused() {
    use FrameError::{Invalid, Missing};
    use proto::session_call::Call;
    let held = Some(proto::Held { session: 1, epoch: 1 });
    let attach = |change: &dyn Fn(&mut proto::AttachCall)| {
        let mut attach = proto::AttachCall {
            client: Bytes::from_static(b"c"),
            receive_maximum: 1,
            ..proto::AttachCall::default()
        };
        change(&mut attach);
        refused_call(Call::Attach(proto::SessionAttach { request: 1, attach: Some(attach) }))
    };
    assert_eq!(attach(&|call| call.client = Bytes::new()), Invalid("client identifier"));
    assert_eq!(attach(&|call| call.receive_maximum = 0), Invalid("receive maximum"));
    assert_eq!(attach(&|call| call.receive_maximum = 65_536), Invalid("receive maximum"));
    assert_eq!(
        attach(&|call| call.will = Some(proto::Will::default())),
        Missing("message of a will")
    );
    assert_eq!(refused_call(Call::Attach(proto::SessionAttach::default())), Missing("attach"));
    assert_eq!(refused_call(Call::Detach(proto::SessionDetach::default())), Missing("session"));
    let detach = proto::SessionDetach { held, farewell: 9, expiry_secs: 0 };
    assert_eq!(refused_call(Call::Detach(detach)), Invalid("farewell"));
    let subscribe = |filter: &'static [u8], options, subscription_id| {
        let filter = Bytes::from_static(filter);
        let row = proto::Subscription { filter, options, subscription_id: 0 };
        let filters = vec![row];
        let call = proto::SessionSubscribe { request: 1, held, filters, subscription_id };
        refused_call(Call::Subscribe(call))
    };
    assert_eq!(subscribe(b"a#", 0, 0), Invalid("filter"));
    assert_eq!(subscribe(b"a", 3, 0), Invalid("qos"));
    assert_eq!(subscribe(b"a", 0x30, 0), Invalid("subscription options"));
    assert_eq!(subscribe(b"a", 0x40, 0), Invalid("subscription options"));
    assert_eq!(subscribe(b"a", 0, u32::MAX), Invalid("subscription id"));
    let begin = |packet_id, key: &'static [u8]| {
        let key = Bytes::from_static(key);
        refused_call(Call::Begin(proto::SessionBegin { request: 1, held, packet_id, key }))
    };
    assert_eq!(begin(0, &[0; 16]), Invalid("packet id"));
    assert_eq!(begin(65_536, &[0; 16]), Invalid("packet id"));
    assert_eq!(begin(1, &[0; 15]), Invalid("key"));
}

#[test]
fn lists_are_bounded() {
    let too_long = FrameError::Invalid("length of a list");
    let acknowledge = |count| {
        let settled = vec![1; count];
        let call = proto::SessionAcknowledge { settled, ..Default::default() };
        proto::session_call::Call::Acknowledge(call)
    };
    assert_eq!(refused_call(acknowledge(MAX_ENTRIES + 1)), too_long);
    let empty = || proto::SessionCall { call: Some(acknowledge(0)) };
    let many = |count| {
        let calls = proto::SessionCalls { calls: (0..count).map(|_| empty()).collect() };
        let frame = Some(proto::session_up::Frame::Calls(calls));
        SessionUp::decode(Bytes::from(proto::SessionUp { frame }.encode_to_vec()))
    };
    assert!(many(MAX_ENTRIES).is_ok());
    assert_eq!(many(MAX_ENTRIES + 1), Err(too_long));
    // Calls behind an unknown field would be read by the generated code, all at once.
    let mut disguised = vec![0x78, 1];
    disguised.extend_from_slice(&SessionUp::Calls(calls()).encode());
    disguised.resize(2_000, 0);
    let refused = FrameError::Invalid("length of a frame");
    assert_eq!(SessionUp::decode(disguised.into()), Err(refused));
}

proptest::proptest! {
    #[test]
    fn a_damaged_frame_is_refused_or_read_as_the_generated_code_reads_it(
        at in 0_usize..900, bits in 1_u8.., cut in 0_usize..4_000,
    ) {
        let damage = |frame: Bytes| {
            let mut bytes = frame.to_vec();
            bytes.truncate(cut.max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bits;
            }
            Bytes::from(bytes)
        };
        let up = damage(SessionUp::Calls(calls()).encode());
        if let (Ok(own), Ok(generated)) = (SessionUp::decode(up.clone()), SessionUp::decode_generated(up)) {
            proptest::prop_assert_eq!(own, generated);
        }
        let down = damage(SessionDown::Deliveries(deliveries()).encode());
        if let (Ok(own), Ok(generated)) =
            (SessionDown::decode(down.clone()), SessionDown::decode_generated(down))
        {
            proptest::prop_assert_eq!(own, generated);
        }
    }
}
