//! What the tests of all sections use: names nobody else uses, versions, common packets.

use std::sync::atomic::{AtomicU32, Ordering};

use mqtt_codec::{
    ClientId, Message, Packet, PublishProperties, QoS, RetainHandling, SubscriptionOptions,
    TopicName, Version, Will,
};
use testkit::{Broker, RawClient};
use tokio::task::JoinSet;

/// The two versions that have a standard with numbered statements.
pub(crate) const BOTH: [Version; 2] = [Version::V3_1_1, Version::V5];

/// Every version.
pub(crate) const ALL: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// Every QoS.
pub(crate) const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A client identifier, or the first level of topics, that no other test uses; at most 23 letters
/// and digits.
pub(crate) fn name(stem: &str) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("{stem}{}", LAST.fetch_add(1, Ordering::Relaxed))
}

/// The server with default settings.
pub(crate) fn server() -> &'static Broker {
    Broker::shared()
}

/// A connected client with a clean session on the shared server.
#[track_caller]
pub(crate) fn client(version: Version, stem: &str) -> impl Future<Output = RawClient> {
    server().connect(version, &name(stem), |_| {})
}

/// A subscriber of `filter` with a clean session on the shared server.
#[track_caller]
pub(crate) fn subscriber(
    version: Version,
    filter: &str,
    qos: QoS,
) -> impl Future<Output = RawClient> {
    let connected = client(version, "sub");
    async move {
        let mut client = connected.await;
        client.subscribe(filter, qos).await;
        client
    }
}

/// Publishes with RETAIN; an empty payload removes what is retained. Returns when that is done.
pub(crate) async fn retain(client: &mut RawClient, topic: &str, qos: QoS, payload: &'static str) {
    let mut publish = client.new_publish(topic, qos, payload);
    publish.retain = true;
    let reason = client.publish_with(publish).await;
    assert!(!reason.is_error(), "{reason:?}");
    if qos == QoS::AtMostOnce {
        // Nobody says when that is done, but what comes behind it is done later.
        let mut behind = client.new_publish(&name("behind"), QoS::AtLeastOnce, "");
        behind.retain = true;
        client.publish_with(behind).await;
    }
}

/// Subscription options that only say a QoS.
pub(crate) fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

/// Subscription options that only say how retained messages are handled.
pub(crate) fn handling(retain_handling: RetainHandling) -> SubscriptionOptions {
    SubscriptionOptions { retain_handling, ..at(QoS::AtLeastOnce) }
}

/// A will without properties or delay.
pub(crate) fn will(topic: &str, qos: QoS, payload: &'static str) -> Will {
    let message = Message {
        topic: TopicName::new(topic).expect("the test names a topic"),
        payload: payload.into(),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    };
    Will { message, delay_secs: 0 }
}

/// The topic of a PUBLISH, which must be there.
pub(crate) fn topic_of(publish: &mqtt_codec::Publish) -> &str {
    publish.topic.as_ref().expect("it names its topic").as_str()
}

/// Runs `body` for each case at the same time, for tests that let time go by.
pub(crate) async fn together<C, F>(cases: impl IntoIterator<Item = C>, body: impl Fn(C) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running: JoinSet<()> = cases.into_iter().map(body).collect();
    while let Some(done) = running.join_next().await {
        if let Err(error) = done {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Waits until everything `client` sent has been dealt with.
pub(crate) async fn settle(client: &mut RawClient) {
    client.send(Packet::PingReq).await;
    assert_eq!(client.recv().await, Packet::PingResp);
}

/// A client identifier from text.
pub(crate) fn client_id(text: &str) -> ClientId {
    ClientId::new(text).expect("the test gives an identifier")
}
