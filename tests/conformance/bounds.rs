//! What a client may hold and use up: queues, bursts, connections that cannot even be answered.

use mqtt_codec::{Packet, Publish, QoS, Version};
use testkit::{Broker, RawClient, eventually, persistent};

use crate::support::{name, retain};

/// Sends `count` QoS 1 PUBLISH packets in one go, and takes their PUBACKs.
async fn burst(sender: &mut RawClient, topic: &str, count: usize) {
    let publishes: Vec<Publish> =
        (0..count).map(|n| sender.new_publish(topic, QoS::AtLeastOnce, n.to_string())).collect();
    for publish in publishes {
        sender.send(Packet::Publish(publish)).await;
    }
    for _ in 0..count {
        let packet = sender.recv().await;
        assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}");
    }
}

/// [MQTT-4.5.0-1] What was acknowledged while a client was away, and right after it came back to a queue longer than that of a
/// connected client, is delivered.
#[tokio::test]
async fn a_live_message_behind_a_long_queue_is_not_lost() {
    let broker = Broker::start(|config| config.mailbox.messages = 10).await;
    let id = name("bound");
    let topic = name("bound");
    let connect = || broker.connect(Version::V3_1_1, &id, persistent);
    let mut receiver = connect().await;
    receiver.subscribe(&topic, QoS::AtLeastOnce).await;
    receiver.disconnect().await;
    let mut sender = broker.connect(Version::V5, &name("bound"), |_| {}).await;
    for number in 0..100 {
        sender.publish(&topic, QoS::AtLeastOnce, number.to_string()).await;
    }
    let mut receiver = connect().await;
    sender.publish(&topic, QoS::AtLeastOnce, "100").await;
    for number in 0..=100 {
        receiver.expect_message(number.to_string()).await;
    }
}

/// [MQTT-4.5.0-1] A publisher that sends much at once does not make a subscriber that reads overrun its queue.
#[tokio::test]
async fn a_burst_is_delivered_whole_to_a_client_that_reads() {
    let broker = Broker::start(|config| config.mailbox.messages = 100).await;
    let topic = name("bound");
    let mut receiver = broker.connect(Version::V3_1_1, &name("bound"), |_| {}).await;
    receiver.subscribe(&topic, QoS::AtLeastOnce).await;
    let mut sender = broker.connect(Version::V3_1_1, &name("bound"), |_| {}).await;
    let read = async {
        for number in 0..2000 {
            receiver.expect_message(number.to_string()).await;
        }
    };
    tokio::join!(burst(&mut sender, &topic, 2000), read);
}

/// [MQTT-3.1.2-24] A client that takes no packet as large as a CONNACK is let go, and leaves nothing behind.
#[tokio::test]
async fn a_client_too_small_for_its_connack_is_let_go() {
    let broker = Broker::start(|_| {}).await;
    let mut client = broker.open(Version::V5).await;
    let mut connect = testkit::connect_packet(Version::V5, "");
    connect.maximum_packet_size = Some(5);
    client.send(Packet::Connect(Box::new(connect))).await;
    client.expect_closed().await;
    eventually("the session is gone", async || broker.stats().sessions == 0).await;
}

/// [MQTT-3.10.4-2] Retained messages stop with the subscription they were owed to.
#[tokio::test]
async fn unsubscribing_ends_what_is_left_of_the_retained_messages() {
    let broker = Broker::start(|_| {}).await;
    let mut sender = broker.connect(Version::V5, &name("bound"), |_| {}).await;
    for number in 0..500 {
        retain(&mut sender, &format!("kept/{number}"), QoS::AtLeastOnce, "x").await;
    }
    let connect = broker.connect(Version::V5, &name("bound"), |c| {
        c.receive_maximum = mqtt_codec::ReceiveMaximum::new(10).expect("not zero");
    });
    let mut receiver = connect.await;
    receiver.subscribe("kept/#", QoS::AtLeastOnce).await;
    receiver.unsubscribe(&["kept/#"]).await;
    let mut left = 0;
    loop {
        receiver.send(Packet::PingReq).await;
        let packet = receiver.recv().await;
        let Packet::Publish(publish) = packet else { break };
        receiver.accept(&publish).await;
        left += 1;
    }
    assert!(left <= 100, "{left} retained messages after the UNSUBACK");
}
