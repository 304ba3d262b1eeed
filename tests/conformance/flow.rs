//! Section 4.9 and the limits on both sides: Receive Maximum and Maximum Packet Size.

use daemon::ByteSize;
use mqtt_codec::{Ack, Packet, QoS, ReasonCode, ReceiveMaximum, Version};
use testkit::{Broker, RawClient, persistent, wire};

use crate::support::{BOTH, client, name, server, subscriber};

/// A subscriber of `topic` that takes `maximum` messages at once.
async fn narrow(topic: &str, maximum: u16) -> RawClient {
    let connect = server().connect(Version::V5, &name("flow"), |c| {
        c.receive_maximum = ReceiveMaximum::new(maximum).expect("the test gives a maximum");
    });
    let mut client = connect.await;
    client.subscribe(topic, QoS::ExactlyOnce).await;
    client
}

/// [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2] The server has no more than the client's Receive Maximum
/// unacknowledged, and goes on when one is acknowledged.
#[tokio::test]
async fn the_clients_receive_maximum_is_kept() {
    for maximum in [1, 3] {
        let topic = name("flow");
        let mut receiver = narrow(&topic, maximum).await;
        let mut sender = client(Version::V5, "flow").await;
        for number in 0..10 {
            sender.publish(&topic, QoS::AtLeastOnce, number.to_string()).await;
        }
        let mut waiting = Vec::new();
        for _ in 0..maximum {
            waiting.push(receiver.expect_publish().await);
        }
        receiver.expect_nothing().await;
        for number in 0..10 {
            let publish = waiting.remove(0);
            assert_eq!(publish.payload, number.to_string());
            receiver.accept(&publish).await;
            if number + usize::from(maximum) < 10 {
                waiting.push(receiver.expect_publish().await);
                receiver.expect_nothing().await;
            }
        }
    }
}

/// [MQTT-3.3.4-9] [MQTT-4.9.0-2] A QoS 2 message counts until its PUBCOMP, or until it is refused.
#[tokio::test]
async fn a_qos_2_message_counts_until_it_is_complete_or_refused() {
    let topic = name("flow");
    let mut receiver = narrow(&topic, 1).await;
    let mut sender = client(Version::V5, "flow").await;
    for number in 0..3 {
        sender.publish(&topic, QoS::ExactlyOnce, number.to_string()).await;
    }
    let first = receiver.expect_publish().await;
    let ack = Ack::new(first.packet_id.expect("QoS 2 has one"), ReasonCode::Success);
    receiver.send(Packet::PubRec(ack.clone())).await;
    receiver.expect_pubrel().await;
    receiver.expect_nothing().await;
    receiver.send(Packet::PubComp(ack)).await;
    let second = receiver.expect_publish().await;
    assert_eq!(second.payload, "1");
    let id = second.packet_id.expect("QoS 2 has one");
    receiver.send(Packet::PubRec(Ack::new(id, ReasonCode::QuotaExceeded))).await;
    receiver.expect_message("2").await;
}

/// [MQTT-3.3.4-10] [MQTT-4.9.0-3] What is no PUBLISH is not held back.
#[tokio::test]
async fn other_packets_are_not_held_back_by_a_full_window() {
    let topic = name("flow");
    let mut receiver = narrow(&topic, 1).await;
    let mut sender = client(Version::V5, "flow").await;
    sender.publish(&topic, QoS::AtLeastOnce, "in flight").await;
    sender.publish(&topic, QoS::AtLeastOnce, "held back").await;
    let in_flight = receiver.expect_publish().await;
    receiver.expect_nothing().await;
    receiver.subscribe("another/filter", QoS::AtMostOnce).await;
    receiver.unsubscribe(&["another/filter"]).await;
    receiver.publish("another/topic", QoS::AtLeastOnce, "out").await;
    receiver.publish("another/topic", QoS::ExactlyOnce, "out").await;
    receiver.accept(&in_flight).await;
    receiver.expect_message("held back").await;
}

/// [MQTT-3.3.4-9] [MQTT-4.4.0-1] The Receive Maximum of the new connection counts when a session is
/// resumed.
#[tokio::test]
async fn a_resumed_session_keeps_the_new_receive_maximum() {
    let (id, topic) = (name("flow"), name("flow"));
    let mut first = server().connect(Version::V5, &id, persistent).await;
    first.subscribe(&topic, QoS::AtLeastOnce).await;
    let mut sender = client(Version::V5, "flow").await;
    for number in 0..4 {
        sender.publish(&topic, QoS::AtLeastOnce, number.to_string()).await;
        first.expect_publish().await;
    }
    drop(first);
    let connect = server().connect(Version::V5, &id, |c| {
        persistent(c);
        c.receive_maximum = ReceiveMaximum::new(2).expect("2 is a maximum");
    });
    let mut second = connect.await;
    let mut waiting = [second.expect_publish().await, second.expect_publish().await].to_vec();
    second.expect_nothing().await;
    for number in 0..4 {
        let publish = waiting.remove(0);
        assert_eq!(publish.payload, number.to_string());
        second.accept(&publish).await;
        if number < 2 {
            waiting.push(second.expect_publish().await);
        }
    }
    second.expect_nothing().await;
}

/// [MQTT-3.3.4-7] [MQTT-3.3.4-8] The server's own Receive Maximum: announced, and enforced for who has
/// more QoS 2 messages under way.
#[tokio::test]
async fn the_servers_receive_maximum_is_announced_and_enforced() {
    let broker = Broker::start(|config| config.mqtt.receive_maximum = 2).await;
    let mut sender = broker.connect(Version::V5, "a", |_| {}).await;
    assert_eq!(sender.connack().receive_maximum, ReceiveMaximum::new(2));
    for _ in 0..2 {
        let publish = sender.new_publish("t", QoS::ExactlyOnce, "x");
        sender.send(Packet::Publish(publish)).await;
        sender.expect_pubrec().await;
    }
    let publish = sender.new_publish("t", QoS::ExactlyOnce, "x");
    sender.send(Packet::Publish(publish)).await;
    sender.expect_end(ReasonCode::ReceiveMaximumExceeded).await;
}

/// [MQTT-3.3.4-7] A completed message makes room for another one, any number of times.
#[tokio::test]
async fn completed_messages_make_room_within_the_servers_receive_maximum() {
    let broker = Broker::start(|config| config.mqtt.receive_maximum = 1).await;
    let mut sender = broker.connect(Version::V5, "a", |_| {}).await;
    for _ in 0..5 {
        sender.publish("t", QoS::ExactlyOnce, "x").await;
        sender.publish("t", QoS::AtLeastOnce, "x").await;
    }
    sender.expect_nothing().await;
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25] A message too large for a client is not sent to it, others are, and
/// the session goes on as if it had been delivered.
#[tokio::test]
async fn a_message_too_large_for_a_client_is_dropped_for_it_alone() {
    let topic = name("flow");
    let limited = server().connect(Version::V5, &name("flow"), |c| {
        c.maximum_packet_size = Some(100);
        c.receive_maximum = ReceiveMaximum::new(1).expect("1 is a maximum");
    });
    let mut small = limited.await;
    small.subscribe(&topic, QoS::ExactlyOnce).await;
    let mut large = subscriber(Version::V5, &topic, QoS::ExactlyOnce).await;
    let mut sender = client(Version::V5, "flow").await;
    for qos in crate::support::LEVELS {
        sender.publish(&topic, qos, vec![b'x'; 200]).await;
        sender.publish(&topic, qos, "small").await;
        large.expect_message(vec![b'x'; 200]).await;
        large.expect_message("small").await;
        small.expect_message("small").await;
    }
    small.expect_nothing().await;
}

/// [MQTT-3.1.2-24] A packet of exactly the Maximum Packet Size is sent.
#[tokio::test]
async fn a_packet_of_exactly_the_maximum_size_is_sent() {
    let topic = name("flow");
    // First byte, one byte of length, topic with its length, no properties.
    let overhead = 2 + 2 + topic.len() + 1;
    let limited =
        server().connect(Version::V5, &name("flow"), |c| c.maximum_packet_size = Some(100));
    let mut receiver = limited.await;
    receiver.subscribe(&topic, QoS::AtMostOnce).await;
    let mut sender = client(Version::V5, "flow").await;
    sender.publish(&topic, QoS::AtMostOnce, vec![b'x'; 101 - overhead]).await;
    sender.publish(&topic, QoS::AtMostOnce, vec![b'y'; 100 - overhead]).await;
    receiver.expect_message(vec![b'y'; 100 - overhead]).await;
}

/// [MQTT-3.1.2-25] [MQTT-4.4.0-1] What a resumed session holds and its new connection cannot take is
/// dropped too.
#[tokio::test]
async fn a_waiting_message_too_large_for_the_new_connection_is_dropped() {
    let (id, topic) = (name("flow"), name("flow"));
    let mut first = server().connect(Version::V5, &id, persistent).await;
    first.subscribe(&topic, QoS::AtLeastOnce).await;
    first.disconnect().await;
    let mut sender = client(Version::V5, "flow").await;
    sender.publish(&topic, QoS::AtLeastOnce, vec![b'x'; 200]).await;
    sender.publish(&topic, QoS::AtLeastOnce, "small").await;
    let limited = server().connect(Version::V5, &id, |c| {
        persistent(c);
        c.maximum_packet_size = Some(100);
    });
    let mut second = limited.await;
    second.expect_message("small").await;
    second.expect_nothing().await;
}

/// [MQTT-3.2.2-15] [MQTT311-4.8.0-1] A packet larger than the server takes is refused from its header,
/// before its body has come.
#[tokio::test]
async fn an_oversized_packet_is_refused_from_its_header() {
    for version in BOTH {
        for first in [0x30, 0x82, 0x40, 0xE0] {
            let mut sender = client(version, "flow").await;
            let header = [&[first][..], &wire::var_int(200 * 1024 * 1024)].concat();
            sender.send_bytes(&header).await;
            sender.expect_end(ReasonCode::PacketTooLarge).await;
        }
    }
}

/// [MQTT-3.2.2-15] The server's Maximum Packet Size is announced, taken up to its last byte, and not
/// beyond.
#[tokio::test]
async fn the_servers_maximum_packet_size_is_announced_and_exact() {
    let broker =
        Broker::start(|config| config.mqtt.maximum_packet_size = ByteSize::new(1024)).await;
    let mut sender = broker.connect(Version::V5, "a", |_| {}).await;
    assert_eq!(sender.connack().maximum_packet_size, Some(1024));
    sender.subscribe("t", QoS::AtMostOnce).await;
    // First byte, two bytes of length, topic with its length, no properties.
    let overhead = 3 + 3 + 1;
    sender.publish("t", QoS::AtMostOnce, vec![b'x'; 1024 - overhead]).await;
    sender.expect_message(vec![b'x'; 1024 - overhead]).await;
    sender.publish("t", QoS::AtMostOnce, vec![b'x'; 1025 - overhead]).await;
    sender.expect_end(ReasonCode::PacketTooLarge).await;
}

/// [MQTT-3.1.0-1] [MQTT311-3.1.0-1] Before a CONNECT was accepted nobody may send much.
#[tokio::test]
async fn an_oversized_first_packet_is_refused_from_its_header() {
    let mut stranger = server().open(Version::V5).await;
    stranger.send_bytes(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]).await;
    let answer = stranger.recv_to_end().await;
    assert!(answer.len() <= 5, "{answer:02x?}");
}
