//! What the tests of all modules use: names nobody else uses, clients, what a cluster looks like.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cluster_rpc::{IntermediateState, UplinkStatus};
use mqtt_codec::{
    Message, Publish, PublishProperties, QoS, SubscriptionOptions, TopicName, Version,
};
use testkit::{Broker, Cluster, RawClient};
use tokio::time::Instant;

/// The versions that clients of today speak.
pub(crate) const BOTH: [Version; 2] = [Version::V3_1_1, Version::V5];

/// Every QoS.
pub(crate) const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// What a return after a fault may take: more than the lease.
pub(crate) const RECOVERY: Duration = Duration::from_secs(20);

/// A name that no other test of this process uses.
pub(crate) fn name(stem: &str) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("{stem}{}", LAST.fetch_add(1, Ordering::Relaxed))
}

/// A client with a clean session at one proxy.
#[track_caller]
pub(crate) fn client(
    cluster: &Cluster,
    proxy: usize,
    version: Version,
) -> impl Future<Output = RawClient> + use<> {
    cluster.proxy(proxy).connect(version, &name("client"), |_| {})
}

/// A client that is subscribed.
#[track_caller]
pub(crate) fn subscriber(
    cluster: &Cluster,
    proxy: usize,
    version: Version,
    filter: &str,
    qos: QoS,
) -> impl Future<Output = RawClient> + use<> {
    let connected = client(cluster, proxy, version);
    let filter = filter.to_owned();
    async move {
        let mut client = connected.await;
        client.subscribe(&filter, qos).await;
        client
    }
}

/// Subscription options that only say a QoS.
pub(crate) fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

/// A message with nothing but a topic and a payload.
pub(crate) fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: TopicName::new(topic).expect("the test gives a topic name"),
        payload: payload.to_owned().into(),
        qos: QoS::AtMostOnce,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

/// The topic of a PUBLISH, which must be there.
pub(crate) fn topic_of(publish: &Publish) -> &str {
    publish.topic.as_ref().expect("it names its topic").as_str()
}

/// Polls `condition` until it holds; panics with `what` after `limit`. For what may take longer than
/// [`testkit::DEADLINE`]: a lease, a start.
#[track_caller]
pub(crate) fn within(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let until = Instant::now() + limit;
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while !condition().await {
            assert!(Instant::now() < until, "{at}: not within {limit:?}: {what}");
            look.tick().await;
        }
    }
}

/// How a proxy sees the intermediates.
pub(crate) fn uplink(proxy: &Broker) -> UplinkStatus {
    proxy.stats().uplink
}

/// Waits until `count` intermediates are `wanted` for a proxy.
pub(crate) async fn sees(proxy: &Broker, count: usize, wanted: IntermediateState) {
    within(RECOVERY, &format!("{count} intermediates are {wanted:?}"), async || {
        let links = uplink(proxy).intermediates;
        links.iter().filter(|link| link.state == wanted).count() == count
    })
    .await;
}

/// Waits until every one of these proxies uses every one of `intermediates`, which know them all.
pub(crate) async fn complete(cluster: &Cluster, proxies: usize, intermediates: usize) {
    for proxy in 0..proxies {
        sees(cluster.proxy(proxy), intermediates, IntermediateState::Serving).await;
    }
    for number in 0..intermediates {
        within(RECOVERY, "the intermediate knows all proxies", async || {
            cluster.intermediate(number).stats().members == proxies as u64
        })
        .await;
    }
}

/// Waits until `/readyz` of a proxy answers so.
pub(crate) async fn readiness(proxy: &Broker, status: u16) {
    let wanted = format!("HTTP/1.1 {status} ");
    within(RECOVERY, &wanted, async || proxy.http("/readyz").await.starts_with(&wanted)).await;
}

/// The value of a counter at `/metrics` of a proxy, summed over its labels.
pub(crate) async fn metric(proxy: &Broker, name: &str) -> u64 {
    value(&proxy.http("/metrics").await, name)
}

/// The value of a metric in the text of `/metrics`, summed over its labels.
pub(crate) fn value(text: &str, name: &str) -> u64 {
    let of_name =
        |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let values = text.lines().filter(of_name).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<u64>().expect("a count is a number")).sum()
}
