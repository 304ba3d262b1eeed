//! What the broker counts when a connection ends, and its proxy's life.

use std::collections::VecDeque;

use bytes::Bytes;
use cluster_rpc::UplinkConfig;
use mqtt_codec::{
    ClientId, Connect, Packet, PacketId, Publish, PublishProperties, TopicName, Version,
};
use mqtt_session::{Connection, Delivery, DeliverySource, Event, IdOrigin, Opened, Session};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::mailbox::WhenFull;

fn broker() -> Broker {
    let limits = BrokerLimits {
        mailbox: QueueLimits { messages: 10, bytes: 1 << 20, when_full: WhenFull::DropNewest },
        subscriptions_per_client: 10,
        attach_timeout: Duration::from_secs(10),
    };
    let (uplink, _, link, _) =
        cluster_rpc::start_with_store(UplinkConfig::default(), CancellationToken::new());
    let ways = (uplink, Arc::new(Store::new(link)));
    Broker::new(ServerProfile::default(), limits, ways, Metrics::default())
}

fn delivery(qos: QoS, source: DeliverySource) -> Delivery {
    let message = Message {
        topic: TopicName::new("a/b").expect("a topic"),
        payload: Bytes::from_static(b"x"),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    };
    let message = Arc::new(message);
    let subscription_ids = Default::default();
    Delivery { message, qos, retain: false, subscription_ids, expires_at: None, source }
}

/// Of a message that a client has published.
fn ticket() -> Ticket {
    let now = Instant::now();
    let client_id = ClientId::new("a").expect("an identifier");
    let connect = Connect::new(Version::V3_1_1, Some(client_id.clone()));
    let opened = Opened { client_id, id_origin: IdOrigin::Given, session: Session::Clean };
    let mut connection = Connection::new(&connect, opened, Arc::default(), now);
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        packet_id: PacketId::new(1),
        topic: TopicName::new("a/b").ok(),
        alias: None,
        payload: Bytes::new(),
        expiry_secs: None,
        subscription_ids: Default::default(),
        properties: PublishProperties::default(),
    };
    connection.handle_packet(Packet::Publish(publish), now).expect("a valid packet");
    match connection.poll_event() {
        Some(Event::Publish { ticket, .. }) => ticket,
        other => panic!("{other:?}"),
    }
}

async fn client(broker: &Broker) -> Client {
    let id = ClientId::new("a").expect("an identifier");
    let handle = broker.sessions.open(&id).await.expect("nobody has it");
    let call = AttachCall {
        client: id,
        connection: handle.key.0,
        clean_start: true,
        expiry_secs: 0,
        receive_maximum: 10,
        will: None,
        began_ms: 0,
        served: false,
    };
    broker.attach(handle, call).0
}

#[tokio::test]
async fn what_a_client_had_not_yet_been_sent_is_counted_unless_the_store_has_it() {
    let broker = broker();
    let client = client(&broker).await;
    let group = DeliverySource::Group { group: 1, place: 1 };
    for source in [DeliverySource::Own, group] {
        client.handle.mailbox.push(delivery(QoS::AtLeastOnce, source));
    }
    let levels = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    let mut unread = VecDeque::from(levels.map(|qos| delivery(qos, DeliverySource::Own)));
    unread.push_back(delivery(QoS::AtLeastOnce, group));
    let drained = Drained { deliveries: unread, ..Drained::default() };
    let ended = Ended { session_expiry_secs: 0, reason: CloseReason::ConnectionLost };
    broker.close(&client, &ended, &drained);
    assert_eq!(broker.metrics.dropped(DropReason::SessionEnded), 3);
    assert_eq!(broker.sessions.len(), 0);
    assert_eq!(broker.store.attachments(), 0);
}

#[tokio::test]
async fn what_waited_for_room_in_an_earlier_life_is_counted_and_not_sent() {
    let broker = broker();
    let mailbox = client(&broker).await.handle.mailbox.clone();
    let stalled = Stalled {
        life: Incarnation(0),
        message: delivery(QoS::AtLeastOnce, DeliverySource::Own).message,
        expires_at: None,
        provenance: Provenance::default(),
        ticket: PublishTicket { mailbox, ticket: ticket() },
    };
    assert!(matches!(broker.relay(stalled), Published::EarlierLife));
    assert_eq!(broker.metrics.dropped(DropReason::UplinkFull), 1);
    assert_eq!(broker.uplink.status().window_messages, 0);
}
