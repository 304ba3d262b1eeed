//! Every frame survives the wire; what is not valid is refused.

mod sessions;

use std::sync::Arc;

use mqtt_codec::{Message, PublishProperties, QoS, ReasonCode, TopicFilter, TopicName};
use prost::Message as _;

use super::*;
use crate::frame::{
    Beat, DeliverDown, DeliverOpen, DeliverUp, Delivery, Delta, EndpointRole, Hello, Lane,
    OriginId, Provenance, PublishDown, PublishUp, RejectReason, RelayState, Route, RouteDown,
    RouteUp, Routed, SnapshotChunk, StoreHere, View,
};
use crate::origin::Outgoing;
use crate::receiver::IncomingFrame;
use crate::wire;

/// Every frame survives our own encoding, and the generated code understands it and is understood.
fn survives<F>(frames: impl IntoIterator<Item = F>)
where
    F: Wire + Clone + PartialEq + std::fmt::Debug,
    F::Proto: PartialEq + std::fmt::Debug,
{
    for frame in frames {
        let own = frame.clone().encode();
        let generated = Bytes::from(frame.clone().into_proto().encode_to_vec());
        assert_eq!(F::Proto::decode(own.clone()), Ok(frame.clone().into_proto()));
        for bytes in [own, generated] {
            assert_eq!(F::decode(bytes).as_ref(), Ok(&frame));
        }
    }
}

fn member(node: &str) -> Member {
    Member { node: NodeId::new(node).unwrap(), incarnation: Incarnation(u64::MAX) }
}

fn route(filter: &str, qos: Option<QoS>) -> Route {
    Route { filter: TopicFilter::new(filter.to_owned()).unwrap(), qos }
}

fn routed(qos: QoS, retain: bool, expiry_secs: Option<u32>) -> Routed {
    let properties = PublishProperties::decode(Bytes::from_static(b"\x01\x01")).unwrap();
    let message = Message {
        topic: TopicName::new("a/b").unwrap(),
        payload: Bytes::from_static(b"payload"),
        qos,
        retain,
        expiry_secs,
        properties,
    };
    let provenance = match qos {
        QoS::AtMostOnce => Provenance::default(),
        QoS::AtLeastOnce => Provenance { publisher: 1 << 60, once: None },
        QoS::ExactlyOnce => Provenance { publisher: 2, once: Some(u128::MAX - 1) },
    };
    Routed { lane: Lane(255), seq: 7, provenance, message }
}

#[test]
fn route_frames_survive_the_wire() {
    let routes = vec![
        route("a/+/#", Some(QoS::AtMostOnce)),
        route("b", Some(QoS::AtLeastOnce)),
        route("c", Some(QoS::ExactlyOnce)),
    ];
    let withdrawn = [routes.clone(), vec![route("a", None)]].concat();
    let hello = |role| {
        RouteUp::Hello(Hello {
            member: member("p"),
            protocol: 1,
            head_seq: 9,
            oldest_delta: 3,
            known: vec![member("p"), member("q")],
            role,
            stray: role == EndpointRole::Proxy,
        })
    };
    survives([
        hello(EndpointRole::Proxy),
        hello(EndpointRole::Store),
        RouteUp::Leave,
        RouteUp::Snapshot(SnapshotChunk { at_seq: 9, last: true, routes }),
        RouteUp::Delta(Delta { first_seq: 10, routes: withdrawn }),
        RouteUp::Beat(Beat { nonce: 1, seq: 2, count: 3, digest: u128::MAX - 4 }),
    ]);
    let view = |state| RouteDown::View(View { state, members: vec![member("p")] });
    survives([
        RouteDown::Welcome { member: member("i"), deltas_from: None, store: StoreHere::No },
        RouteDown::Welcome { member: member("i"), deltas_from: Some(4), store: StoreHere::Yes },
        RouteDown::Applied(5),
        RouteDown::Resync,
        view(RelayState::Joining),
        view(RelayState::Serving),
        view(RelayState::Draining),
        RouteDown::BeatAck(6),
        RouteDown::Reject(RejectReason::OldIncarnation),
        RouteDown::Reject(RejectReason::DeclaredDead),
        RouteDown::Reject(RejectReason::Protocol),
        RouteDown::Reject(RejectReason::SecondStore),
    ]);
}

#[test]
fn relay_frames_survive_the_wire() {
    let messages = vec![
        routed(QoS::AtMostOnce, false, None),
        routed(QoS::AtLeastOnce, true, Some(0)),
        routed(QoS::ExactlyOnce, false, Some(u32::MAX)),
    ];
    survives([
        PublishUp::Open(member("p")),
        PublishUp::Batch(messages.clone()),
        PublishUp::Barrier { lane: Lane(3), id: 4 },
    ]);
    survives([
        PublishDown::Credit { messages: 1, bytes: 2 },
        PublishDown::Acked(vec![(Lane(0), 1), (Lane(255), u64::MAX)]),
        PublishDown::BarrierDone(3),
        PublishDown::Refused(vec![
            (Lane(0), 1, ReasonCode::QuotaExceeded),
            (Lane(255), u64::MAX, ReasonCode::UnspecifiedError),
        ]),
    ]);
    survives([
        DeliverUp::Open(DeliverOpen { member: member("p"), last_link: 1, last_seq: 2 }),
        DeliverUp::Acked(3),
        DeliverUp::Refused(vec![(1, ReasonCode::QuotaExceeded), (9, ReasonCode::ServerBusy)]),
    ]);
    let delivery = |routed| Delivery { origin: OriginId(5), routed: Arc::new(routed) };
    survives([
        DeliverDown::LinkOpen(1),
        DeliverDown::Batch {
            first_seq: 8,
            deliveries: messages.into_iter().map(delivery).collect(),
        },
    ]);
}

#[test]
fn the_window_sends_what_the_frame_says() {
    let routed = routed(QoS::AtLeastOnce, true, Some(3));
    let outgoing = Outgoing {
        lane: routed.lane,
        seq: routed.seq,
        message: Arc::new(Message { expiry_secs: Some(9), ..routed.message.clone() }),
        expiry_secs: Some(3),
        provenance: routed.provenance,
    };
    let frame = PublishUp::decode(wire::publish_batch(&[outgoing]));
    assert_eq!(frame, Ok(PublishUp::Batch(vec![routed])));
}

#[test]
fn a_proxy_takes_what_the_frame_says() {
    let routed = routed(QoS::ExactlyOnce, true, Some(3));
    let delivery = Delivery { origin: OriginId(5), routed: Arc::new(routed.clone()) };
    let batch = DeliverDown::Batch { first_seq: 8, deliveries: vec![delivery.clone(), delivery] };
    let Ok(IncomingFrame::Batch { up_to, messages }) = incoming_frame(batch.encode()) else {
        panic!("no batch")
    };
    assert_eq!((up_to, messages.len()), (9, 2));
    assert_eq!((messages[0].origin, messages[0].lane), (OriginId(5), Lane(255)));
    assert_eq!((messages[0].seq, &*messages[0].message), (7, &routed.message));
    assert_eq!(messages[0].provenance, routed.provenance);
    assert_eq!((messages[0].number, messages[1].number), (8, 9));
}

#[test]
fn a_received_payload_shares_the_buffer_it_came_in() {
    let batch = PublishUp::Batch(vec![routed(QoS::AtMostOnce, false, None)]);
    let buffer = Bytes::from(batch.into_proto().encode_to_vec());
    let Ok(PublishUp::Batch(messages)) = PublishUp::decode(buffer.clone()) else {
        panic!("no batch")
    };
    let payload = messages[0].message.payload.as_ptr_range();
    let whole = buffer.as_ptr_range();
    assert!(whole.start <= payload.start && payload.end <= whole.end);
}

fn proto_routed() -> proto::Routed {
    let PublishUp::Batch(batch) = PublishUp::Batch(vec![routed(QoS::AtMostOnce, false, None)])
    else {
        unreachable!()
    };
    let message = PublishUp::Batch(batch).into_proto();
    let Some(proto::publish_up::Frame::Batch(mut batch)) = message.frame else { unreachable!() };
    batch.messages.remove(0)
}

fn refused(change: impl FnOnce(&mut proto::Routed)) -> FrameError {
    let mut message = proto_routed();
    change(&mut message);
    let batch = proto::PublishBatch { messages: vec![message] };
    let frame = Some(proto::publish_up::Frame::Batch(batch));
    let frame = Bytes::from(proto::PublishUp { frame }.encode_to_vec());
    PublishUp::decode(frame).unwrap_err()
}

#[test]
fn a_message_that_is_not_valid_is_refused() {
    use FrameError::Invalid;
    assert_eq!(refused(|message| message.lane = 256), Invalid("lane"));
    assert_eq!(refused(|message| message.seq = 0), Invalid("sequence number"));
    assert_eq!(refused(|message| message.topic = Bytes::new()), Invalid("topic"));
    assert_eq!(refused(|message| message.topic = Bytes::from_static(b"a/+")), Invalid("topic"));
    assert_eq!(refused(|message| message.topic = Bytes::from_static(b"\xff")), Invalid("topic"));
    assert_eq!(refused(|message| message.flags = 3), Invalid("qos"));
    assert_eq!(refused(|message| message.flags = 8), Invalid("flags"));
    let alias = Bytes::from_static(b"\x23\x00\x01");
    assert_eq!(refused(|message| message.properties = alias), Invalid("properties"));
    let cut = Bytes::from_static(b"\x03\x00\x09ab");
    assert_eq!(refused(|message| message.properties = cut), Invalid("properties"));
    for length in [1, 15, 17] {
        let once = Bytes::from(vec![1; length]);
        assert_eq!(refused(|message| message.once = once), Invalid("key"));
    }
}

fn route_up(frame: proto::route_up::Frame) -> FrameError {
    RouteUp::from_proto(proto::RouteUp { frame: Some(frame) }).unwrap_err()
}

#[test]
fn a_route_frame_that_is_not_valid_is_refused() {
    use proto::route_up::Frame;
    let route = |filter: &'static [u8], qos_plus_one| {
        let routes = vec![proto::Route { filter: Bytes::from_static(filter), qos_plus_one }];
        route_up(Frame::Delta(proto::Delta { first_seq: 1, routes }))
    };
    assert_eq!(route(b"a#", 1), FrameError::Invalid("filter"));
    assert_eq!(route(b"\xff", 1), FrameError::Invalid("filter"));
    assert_eq!(route(b"a", 4), FrameError::Invalid("qos"));
    let withdrawal = vec![proto::Route { filter: Bytes::from_static(b"a"), qos_plus_one: 0 }];
    let chunk = proto::SnapshotChunk { at_seq: 1, last: true, routes: withdrawal };
    let error = FrameError::Invalid("withdrawal in a snapshot");
    assert_eq!(route_up(Frame::Snapshot(chunk)), error);
    let beat = proto::Beat { digest: Bytes::from_static(&[0; 15]), ..proto::Beat::default() };
    assert_eq!(route_up(Frame::Beat(beat)), FrameError::Invalid("digest"));
    assert_eq!(route_up(Frame::Hello(proto::Hello::default())), FrameError::Missing("member"));
    for node_id in [String::new(), "x".repeat(256), "a\nb".to_owned()] {
        let member = Some(proto::Member { node_id, incarnation: 1 });
        let hello = proto::Hello { member, ..proto::Hello::default() };
        assert_eq!(route_up(Frame::Hello(hello)), FrameError::Invalid("node id"));
    }
    let nothing = RouteUp::from_proto(proto::RouteUp::default());
    assert_eq!(nothing, Err(FrameError::Missing("frame")));
}

#[test]
fn an_answer_that_is_not_valid_is_refused() {
    let down = |frame| RouteDown::from_proto(proto::RouteDown { frame: Some(frame) });
    let view = proto::View { state: 9, members: Vec::new() };
    let view = down(proto::route_down::Frame::View(view));
    assert_eq!(view, Err(FrameError::Invalid("view state")));
    for why in [0, 9] {
        let reject = down(proto::route_down::Frame::Reject(proto::Reject { why }));
        assert_eq!(reject, Err(FrameError::Invalid("reject reason")));
    }
    let acked = proto::Acked { lanes: vec![1, 2], up_to: vec![1] };
    let acked = proto::PublishDown { frame: Some(proto::publish_down::Frame::Acked(acked)) };
    assert!(PublishDown::from_proto(acked).is_err());
}

#[test]
fn a_refusal_that_is_not_valid_is_refused() {
    let down = |lanes, seqs, reasons| {
        let refused = proto::Refused { lanes, seqs, reasons };
        let frame = Some(proto::publish_down::Frame::Refused(refused));
        PublishDown::from_proto(proto::PublishDown { frame }).unwrap_err()
    };
    let up = |seqs, reasons| {
        let refused = proto::DeliverRefused { seqs, reasons };
        let frame = Some(proto::deliver_up::Frame::Refused(refused));
        DeliverUp::from_proto(proto::DeliverUp { frame }).unwrap_err()
    };
    for reason in [0, 1, 0x7F, 0xFF, 0x197] {
        let invalid = FrameError::Invalid("reason of a refusal");
        assert_eq!(
            (down(vec![1], vec![1], vec![reason]), up(vec![1], vec![reason])),
            (invalid, invalid)
        );
    }
    assert_eq!(down(vec![256], vec![1], vec![0x97]), FrameError::Invalid("lane"));
    let columns = FrameError::Invalid("refused: columns of different length");
    assert_eq!(down(vec![1], vec![1, 2], vec![0x97]), columns);
    assert_eq!(down(vec![1, 2], vec![1, 2], vec![0x97]), columns);
    assert_eq!(up(vec![1, 2], vec![0x97]), columns);
}

#[test]
fn a_delivery_batch_must_be_numbered() {
    let delivery = || proto::Delivery { origin: 1, message: Some(proto_routed()) };
    for (first_seq, deliveries) in
        [(0, vec![delivery()]), (1, Vec::new()), (u64::MAX, vec![delivery(), delivery()])]
    {
        let batch = proto::DeliverBatch { first_seq, deliveries };
        let frame = Some(proto::deliver_down::Frame::Batch(batch));
        let message = proto::DeliverDown { frame };
        let frame = Bytes::from(message.encode_to_vec());
        assert!(DeliverDown::decode(frame.clone()).is_err(), "{first_seq}");
        assert!(incoming_frame(frame).is_err(), "{first_seq}");
    }
}

/// A batch of both kinds, as bytes.
fn batches() -> [Bytes; 2] {
    let messages =
        || vec![routed(QoS::AtLeastOnce, true, Some(300)), routed(QoS::AtMostOnce, false, None)];
    let delivery = |routed| Delivery { origin: OriginId(1 << 40), routed: Arc::new(routed) };
    let deliveries = messages().into_iter().map(delivery).collect();
    [
        PublishUp::Batch(messages()).encode(),
        DeliverDown::Batch { first_seq: 1 << 20, deliveries }.encode(),
    ]
}

proptest::proptest! {
    #[test]
    fn a_damaged_batch_is_refused_or_read_as_the_generated_code_reads_it(
        at in 0_usize..200, bits in 1_u8.., cut in 0_usize..200,
    ) {
        for batch in batches() {
            let mut bytes = batch.to_vec();
            bytes.truncate(cut.max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bits;
            }
            let bytes = Bytes::from(bytes);
            if let (Ok(own), Ok(generated)) = (
                PublishUp::decode(bytes.clone()),
                proto::PublishUp::decode(bytes.clone()).map_or(Err(FrameError::Missing("")), PublishUp::from_proto),
            ) {
                proptest::prop_assert_eq!(own, generated);
            }
            drop(incoming_frame(bytes));
        }
    }
}
