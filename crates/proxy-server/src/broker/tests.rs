//! What the broker counts and whom it spares.

use std::collections::VecDeque;

use bytes::Bytes;
use mqtt_codec::{ClientId, PublishProperties, TopicName};
use mqtt_session::{CloseReason, Delivery};

use super::*;
use crate::mailbox::WhenFull;
use crate::sessions::Start;

fn broker() -> Arc<Broker> {
    let queue = QueueLimits { messages: 10, bytes: 1 << 20, when_full: WhenFull::DropNewest };
    let limits = BrokerLimits {
        mailbox: queue,
        inbox: queue,
        retained: RetainedLimits { messages: 1, bytes: 1 << 20 },
        sessions: 10,
        subscriptions_per_client: 10,
    };
    Arc::new(Broker::new(ServerProfile::default(), limits, None, Metrics::default()))
}

fn delivery(qos: QoS) -> Delivery {
    let message = Message {
        topic: TopicName::new("a/b").expect("a topic"),
        payload: Bytes::from_static(b"x"),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    };
    let message = Arc::new(message);
    Delivery {
        message,
        qos,
        retain: false,
        subscription_ids: Default::default(),
        expires_at: None,
        source: Default::default(),
    }
}

#[tokio::test]
async fn what_a_clean_session_had_not_yet_been_sent_is_counted_when_it_ends() {
    let broker = broker();
    let id = ClientId::new("a").expect("an identifier");
    let opened = broker.sessions.open(&id, Start::Clean).await.expect("there is room");
    opened.handle.mailbox.push(delivery(QoS::AtLeastOnce));
    let unread = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].map(delivery);
    let drained = Drained { deliveries: VecDeque::from(unread), ..Drained::default() };
    let ended = Ended { session_expiry_secs: 0, will: None, reason: CloseReason::ConnectionLost };
    broker.close(opened.handle, ended, drained);
    assert_eq!(broker.metrics.dropped(DropReason::SessionEnded), 3);
    assert_eq!(broker.sessions.len(), 0);
}
