//! The client's side of a session alone, and all kinds of clients with a cluster in this process.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mqtt_codec::{
    Ack, ConnAck, Connect, Packet, PacketId, Publish, PublishProperties, QoS, ReasonCode,
    ReceiveMaximum, SubAck, SubscriptionIds, TopicAlias, TopicName, Version,
};
use tokio::net::TcpStream;

use super::client::{Answer, Asked, Content, Session};
use super::{Counts, Load, Network, Plan};
use crate::record::{Event, Filter, MessageId, Recorder, What};
use crate::{Cluster, checker, elapse};

fn content(number: u64, qos: QoS) -> Content {
    let message = MessageId { publisher: "p".to_owned(), number };
    let payload = Bytes::from(message.payload(0));
    let topic = TopicName::new("t/p/0").unwrap();
    Content { message, topic, qos, retain: false, expiry_secs: None, payload }
}

fn connect() -> Connect {
    Connect { receive_maximum: ReceiveMaximum::new(2).unwrap(), ..Connect::new(Version::V5, None) }
}

fn connack(session_present: bool) -> ConnAck {
    ConnAck { session_present, ..ConnAck::default() }
}

/// A session on its first connection.
fn session() -> Session {
    let mut session = Session::new();
    assert_eq!(session.begin(&connect(), &connack(false)), []);
    session
}

fn ack(id: u16) -> Ack {
    Ack::new(PacketId::new(id).unwrap(), ReasonCode::Success)
}

fn publish(id: u16, qos: QoS, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        packet_id: PacketId::new(id),
        topic: Some(TopicName::new("t/p/0").unwrap()),
        alias: None,
        expiry_secs: None,
        subscription_ids: SubscriptionIds::new(),
        properties: PublishProperties::default(),
        payload: content(1, qos).payload,
    })
}

fn is_new(answer: Result<Answer, String>) -> bool {
    match answer {
        Ok(Answer::Publish(arrival)) => arrival.new,
        other => panic!("expected an arrival, got {other:?}"),
    }
}

#[test]
fn what_is_not_acknowledged_is_sent_again_in_order_and_with_dup() {
    let mut session = session();
    for (number, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::ExactlyOnce)] {
        session.publish(content(number, qos));
    }
    let pubrec = session.handle(Packet::PubRec(ack(2))).unwrap();
    let expected = content(2, QoS::ExactlyOnce);
    assert_eq!(pubrec, Answer::Acknowledged(expected, 0, Some(Packet::PubRel(ack(2)))));
    let again = session.begin(&connect(), &connack(true));
    let [(Some(first), Packet::Publish(one)), (None, two), (Some(third), Packet::Publish(three))] =
        &again[..]
    else {
        panic!("{again:?}")
    };
    assert_eq!((first.message.number, third.message.number), (1, 3));
    assert!(one.dup && three.dup);
    assert_eq!(two, &Packet::PubRel(ack(2)));
    assert_eq!((one.packet_id, three.packet_id), (PacketId::new(1), PacketId::new(3)));
    for packet in [Packet::PubAck(ack(1)), Packet::PubComp(ack(2)), Packet::PubRec(ack(3))] {
        session.handle(packet).unwrap();
    }
    assert!(!session.is_idle());
    session.handle(Packet::PubComp(ack(3))).unwrap();
    assert!(session.is_idle());
}

#[test]
fn a_reset_gives_up_what_was_not_acknowledged() {
    let mut session = session();
    session.publish(content(1, QoS::AtLeastOnce));
    assert_eq!(session.reset(), [content(1, QoS::AtLeastOnce)]);
    assert_eq!(session.begin(&connect(), &connack(false)), []);
    assert!(session.is_idle());
}

#[test]
fn acknowledgements_out_of_order_or_of_nothing_are_violations() {
    let mut session = session();
    session.publish(content(1, QoS::AtLeastOnce));
    session.publish(content(2, QoS::AtLeastOnce));
    session.publish(content(3, QoS::ExactlyOnce));
    let wrong = [
        Packet::PubAck(ack(9)),
        Packet::PubAck(ack(3)),
        Packet::PubRec(ack(1)),
        Packet::PubComp(ack(3)),
        Packet::PubAck(ack(2)),
    ];
    for packet in wrong {
        let answer = session.handle(packet.clone());
        assert!(answer.is_err(), "{packet:?}: {answer:?}");
    }
}

#[test]
fn packets_the_server_may_not_send_are_violations() {
    let mut session = session();
    let id = session.ask(Asked::Subscribe(vec![Filter {
        filter: "t/#".to_owned(),
        qos: 1,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    }]));
    let suback = |reasons| Packet::SubAck(SubAck { packet_id: id, reasons, properties: None });
    let mut alias = publish(7, QoS::AtLeastOnce, false);
    if let Packet::Publish(publish) = &mut alias {
        publish.alias = TopicAlias::new(1);
    }
    let wrong = [
        suback(vec![ReasonCode::GrantedQoS2]),
        suback(vec![ReasonCode::GrantedQoS1]),
        Packet::ConnAck(Box::default()),
        Packet::PingResp,
        Packet::PingReq,
        Packet::PubRel(ack(5)),
        alias,
    ];
    for packet in wrong {
        let answer = session.handle(packet.clone());
        assert!(answer.is_err(), "{packet:?}: {answer:?}");
    }
}

#[test]
fn a_qos2_message_is_new_once_however_often_it_is_sent() {
    let mut session = session();
    assert!(is_new(session.handle(publish(5, QoS::ExactlyOnce, false))));
    session.begin(&connect(), &connack(true));
    assert!(!is_new(session.handle(publish(5, QoS::ExactlyOnce, true))));
    assert!(session.handle(Packet::PubRel(ack(5))).is_err(), "PUBREL before PUBREC");
    assert_eq!(session.confirm(5, QoS::ExactlyOnce), Some(Packet::PubRec(ack(5))));
    let released = session.handle(Packet::PubRel(ack(5)));
    assert_eq!(released, Ok(Answer::Released(Packet::PubComp(ack(5)))));
    assert!(is_new(session.handle(publish(5, QoS::ExactlyOnce, false))));
}

#[test]
fn a_repetition_without_dup_or_on_the_same_connection_is_a_violation() {
    let mut session = session();
    assert!(is_new(session.handle(publish(5, QoS::ExactlyOnce, false))));
    assert!(session.handle(publish(5, QoS::ExactlyOnce, true)).is_err());
    session.begin(&connect(), &connack(true));
    assert!(session.handle(publish(5, QoS::ExactlyOnce, false)).is_err());
}

#[test]
fn more_than_the_receive_maximum_is_a_violation() {
    let mut session = session();
    for id in 1..=2 {
        assert!(is_new(session.handle(publish(id, QoS::AtLeastOnce, false))));
    }
    session.confirm(1, QoS::AtLeastOnce);
    assert!(is_new(session.handle(publish(3, QoS::ExactlyOnce, false))));
    session.confirm(3, QoS::ExactlyOnce);
    // PUBREC alone makes no room.
    assert!(session.handle(publish(4, QoS::AtLeastOnce, false)).is_err());
}

#[derive(Clone)]
struct Tcp(Vec<SocketAddr>);

impl Network for Tcp {
    type Stream = TcpStream;

    fn proxies(&self) -> usize {
        self.0.len()
    }

    async fn connect(&self, proxy: usize) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.0[proxy]).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A load of `seed` on a cluster that may be hurt meanwhile, until it has settled.
async fn run(plan: Plan, cluster: &mut Cluster, hurt: impl AsyncFnOnce(&mut Cluster, &Recorder)) {
    let network = Tcp((0..2).map(|proxy| cluster.proxy(proxy).address()).collect());
    let recorder = Recorder::new();
    recorder.record(What::Run { seed: plan.seed, command: "test".to_owned() });
    let load = Load::start(plan, network, recorder.clone());
    hurt(cluster, &recorder).await;
    load.all_healed();
    let witness = load.witness();
    let in_time = load.finish(Duration::from_secs(30)).await;
    let events = recorder.events();
    if let Ok(path) = std::env::var("HISTORY") {
        crate::record::save(&events, path.as_ref()).unwrap();
    }
    assert!(in_time, "not settled: {:#?}", witness.missing());
    check(&events, witness.counts());
}

fn check(events: &[Event], counts: Counts) {
    let broken: Vec<_> =
        events.iter().filter(|event| matches!(event.what, What::Violated { .. })).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let Counts { published, acknowledged, received, connected, .. } = counts;
    assert!(published > 50 && acknowledged > 30 && received > 50 && connected > 20, "{counts:?}");
    let verdict = checker::check(events);
    assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
}

fn seed(fixed: u64) -> u64 {
    std::env::var("SEED").map_or(fixed, |seed| seed.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_every_kind_find_no_fault_with_an_unhurt_cluster() {
    let mut cluster = Cluster::start(2, 1).await;
    run(Plan::small(seed(1)), &mut cluster, async |_, _| elapse(Duration::from_secs(3)).await)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_every_kind_find_no_fault_with_a_killed_intermediate() {
    let mut cluster = Cluster::start(2, 1).await;
    let hurt = async |cluster: &mut Cluster, recorder: &Recorder| {
        let (kind, target) = ("kill".to_owned(), "intermediate 0".to_owned());
        for _ in 0..2 {
            elapse(Duration::from_millis(900)).await;
            recorder.record(What::Fault { kind: kind.clone(), target: target.clone() });
            cluster.kill_intermediate(0).await;
            cluster.restart_intermediate(0).await;
            recorder.record(What::Healed { kind: kind.clone(), target: target.clone() });
        }
        elapse(Duration::from_millis(500)).await;
    };
    run(Plan::small(seed(2)), &mut cluster, hurt).await;
}
