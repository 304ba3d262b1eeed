//! What a server does that is full: what it refuses, and what that must not touch.

use mqtt_codec::{Packet, QoS, ReasonCode, ReceiveMaximum, Version};
use proxy_server::DropReason;
use testkit::{Broker, connect_packet, eventually, persistent, wire};

use crate::support::{ALL, BOTH, LEVELS};

fn dropped(broker: &Broker, wanted: DropReason) -> u64 {
    broker.stats().dropped.iter().filter(|(reason, _)| *reason == wanted).map(|(_, n)| n).sum()
}

/// [MQTT-3.3.4-1] [MQTT311-3.3.4-1] A message that the server has no room to retain is delivered and acknowledged as any
/// other.
#[tokio::test]
async fn a_message_that_cannot_be_retained_is_delivered_and_counted() {
    let broker = Broker::start_with(|_| {}, |config| config.limits.retained_messages = 1).await;
    let mut refused = 0;
    for version in ALL {
        for qos in LEVELS {
            let mut watcher = broker.connect(version, "watcher", |_| {}).await;
            watcher.subscribe("full/#", qos).await;
            let mut publisher = broker.connect(version, "publisher", |_| {}).await;
            for topic in ["kept", "full/a"] {
                let mut publish = publisher.new_publish(topic, qos, "x");
                publish.retain = true;
                assert!(!publisher.publish_with(publish).await.is_error());
            }
            watcher.expect_message("x").await;
            refused += 1;
            let count = format!("{{reason=\"retained_full\"}} {refused}\n");
            eventually("it is counted", async || {
                broker.store_http("/metrics").await.contains(&count)
            })
            .await;
            watcher.subscribe("kept", qos).await;
            watcher.expect_message("x").await;
            watcher.subscribe("full/a", qos).await;
            watcher.expect_nothing().await;
        }
    }
}

/// [MQTT-3.1.4-6] A server that keeps as many sessions as it may refuses a client whose session it would have to keep
/// too, and serves one that has one, or needs none.
#[tokio::test]
async fn a_server_full_of_sessions_refuses_new_ones_only() {
    for version in BOTH {
        let broker = Broker::start_with(|_| {}, |config| config.limits.sessions = 1).await;
        broker.connect(version, "parked", persistent).await.disconnect().await;
        let mut connect = connect_packet(version, "new");
        persistent(&mut connect);
        let mut refused = broker.open(version).await;
        refused.send(Packet::Connect(Box::new(connect))).await;
        let reason = refused.expect_connack().await.reason;
        let v5 = version == Version::V5;
        let expected = if v5 { ReasonCode::QuotaExceeded } else { ReasonCode::ServerUnavailable };
        assert_eq!(reason, expected);
        refused.expect_closed().await;
        assert!(broker.http("/metrics").await.contains("causeway_mqtt_refused_total 1\n"));
        broker.connect(version, "needs none", |_| {}).await;
        let back = broker.connect(version, "parked", persistent).await;
        assert!(back.connack().session_present);
        back.disconnect().await;
        let anew = broker.connect(version, "parked", |_| {}).await;
        anew.disconnect().await;
        broker.connect(version, "new", persistent).await;
    }
}

/// [MQTT-3.1.4-2] A first packet larger than any client needs is refused from its header; the larger packets of a
/// client that is known are taken.
#[tokio::test]
async fn a_connect_may_not_be_as_large_as_other_packets() {
    const LARGE: usize = 300_000;
    let broker = Broker::start(|_| {}).await;
    let mut stranger = broker.open(Version::V5).await;
    let header = wire::frame(0x10, &[0; LARGE]);
    stranger.send_bytes(&header[..5]).await;
    stranger.expect_closed().await;
    for version in BOTH {
        let mut client = broker.connect(version, "known", |_| {}).await;
        client.subscribe("large", QoS::AtLeastOnce).await;
        client.publish("large", QoS::AtLeastOnce, vec![7; LARGE]).await;
        client.expect_message(vec![7; LARGE]).await;
    }
}

/// [MQTT-4.8.2-4] A member of a shared subscription that does not keep up is passed over, not
/// disconnected, while another one has room.
#[tokio::test]
async fn a_slow_member_of_a_group_is_passed_over() {
    let broker = Broker::start(|config| config.mailbox.messages = 5).await;
    let filter = "$share/group/work";
    let one = ReceiveMaximum::new(1).expect("not 0");
    let mut slow = broker.connect(Version::V5, "slow", |c| c.receive_maximum = one).await;
    slow.subscribe(filter, QoS::AtLeastOnce).await;
    let mut quick = broker.connect(Version::V5, "quick", |_| {}).await;
    quick.subscribe(filter, QoS::AtLeastOnce).await;
    let mut publisher = broker.connect(Version::V5, "publisher", |_| {}).await;
    let mut quick_got = 0;
    for number in 0..60 {
        publisher.publish("work", QoS::AtLeastOnce, number.to_string()).await;
        quick.send(Packet::PingReq).await;
        while let Packet::Publish(publish) = quick.recv().await {
            quick.accept(&publish).await;
            quick_got += 1;
        }
    }
    assert_eq!(dropped(&broker, DropReason::QueueFull), 0);
    assert!(quick_got >= 60 - 7, "{quick_got}");
    slow.expect_publish().await;
    slow.send(Packet::PingReq).await;
    assert_eq!(slow.recv().await, Packet::PingResp);
}
