//! Section 3.14: DISCONNECT.

use std::time::Duration;

use mqtt_codec::{Disconnect, Packet, QoS, ReasonCode, Version};
use testkit::{Broker, elapse, persistent, wire};

use crate::support::{BOTH, client, name, server, subscriber, together, will};

/// [MQTT-3.14.4-3] [MQTT-3.1.2-10] [MQTT-3.1.2-8] [MQTT311-3.14.4-3] [MQTT311-3.1.2-10]
/// [MQTT311-3.1.2-8] A will is not published after a normal end.
#[tokio::test]
async fn a_normal_disconnect_discards_the_will() {
    for version in BOTH {
        let topic = name("dis");
        let mut watcher = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let connect = server()
            .connect(version, &name("dis"), |c| c.will = Some(will(&topic, QoS::AtLeastOnce, "w")));
        connect.await.disconnect().await;
        client(version, "dis").await.publish(&topic, QoS::AtLeastOnce, "marker").await;
        watcher.expect_message("marker").await;
        watcher.expect_nothing().await;
    }
}

/// [MQTT-3.14.4-3] [MQTT-3.1.2-8] A DISCONNECT with another reason publishes the will.
#[tokio::test]
async fn a_disconnect_with_another_reason_publishes_the_will() {
    let topic = name("dis");
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtLeastOnce).await;
    for reason in [ReasonCode::DisconnectWithWillMessage, ReasonCode::UnspecifiedError] {
        let connect = server().connect(Version::V5, &name("dis"), |c| {
            c.will = Some(will(&topic, QoS::AtLeastOnce, "on purpose"));
        });
        let mut client = connect.await;
        client
            .send(Packet::Disconnect(Box::new(Disconnect { reason, ..Disconnect::default() })))
            .await;
        client.expect_closed().await;
        watcher.expect_message("on purpose").await;
    }
}

/// [MQTT-3.14.1-1] [MQTT311-3.14.1-1] [MQTT311-2.2.2-2] Flags of a DISCONNECT must be zero.
#[tokio::test]
async fn a_disconnect_with_flags_is_malformed() {
    for version in BOTH {
        for flags in [1, 2, 8, 15] {
            let topic = name("dis");
            let mut watcher = subscriber(version, &topic, QoS::AtMostOnce).await;
            let connect = server().connect(version, &name("dis"), |c| {
                c.will = Some(will(&topic, QoS::AtMostOnce, "not a normal end"));
            });
            let mut client = connect.await;
            client.send_bytes(&[0xE0 | flags, 0]).await;
            client.expect_end(ReasonCode::MalformedPacket).await;
            watcher.expect_message("not a normal end").await;
        }
    }
}

/// [MQTT-3.14.2-1] A DISCONNECT must carry one of its own reasons.
#[tokio::test]
async fn a_disconnect_with_a_foreign_reason_is_a_protocol_error() {
    for reason in [0x01, 0x10, 0x18, 0x7F, 0xFF] {
        let mut client = client(Version::V5, "dis").await;
        client.send_bytes(&[0xE0, 1, reason]).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.14.4-1] [MQTT311-3.14.4-2] What follows a DISCONNECT is not looked at.
#[tokio::test]
async fn packets_behind_a_disconnect_are_ignored() {
    for version in BOTH {
        let topic = name("dis");
        let mut watcher = subscriber(version, &topic, QoS::AtMostOnce).await;
        let mut leaver = client(version, "dis").await;
        leaver.send(Packet::Disconnect(Box::default())).await;
        let publish = leaver.new_publish(&topic, QoS::AtMostOnce, "too late");
        leaver.send(Packet::Publish(publish)).await;
        client(version, "dis").await.publish(&topic, QoS::AtLeastOnce, "marker").await;
        watcher.expect_message("marker").await;
        watcher.expect_nothing().await;
    }
}

/// [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-3.14.2-2] [MQTT-4.13.2-1] The server's DISCONNECT is the last
/// thing it says, and does not speak of session expiry.
#[tokio::test]
async fn the_servers_disconnect_is_its_last_packet() {
    let mut client = client(Version::V5, "dis").await;
    client.send_bytes(&[0xF0 | 1, 0, 0xC0, 0, 0xC0, 0]).await;
    let disconnect = client.expect_disconnect().await;
    assert_eq!(disconnect.reason, ReasonCode::MalformedPacket);
    assert_eq!(disconnect.session_expiry_secs, None);
    client.expect_closed().await;
}

/// [MQTT-4.13.1-1] A session that was to end with its connection cannot be prolonged.
#[tokio::test]
async fn a_session_expiry_of_zero_cannot_be_raised_by_disconnect() {
    let mut client = client(Version::V5, "dis").await;
    let later = Disconnect { session_expiry_secs: Some(60), ..Disconnect::default() };
    client.send(Packet::Disconnect(Box::new(later))).await;
    client.expect_end(ReasonCode::ProtocolError).await;
}

/// [MQTT-4.1.0-2] [MQTT-3.1.2-23] DISCONNECT can end a session that was to stay.
#[tokio::test]
async fn a_disconnect_can_end_the_session_at_once() {
    let id = name("dis");
    let mut first = server().connect(Version::V5, &id, persistent).await;
    let now = Disconnect { session_expiry_secs: Some(0), ..Disconnect::default() };
    first.send(Packet::Disconnect(Box::new(now))).await;
    first.expect_closed().await;
    let second = server().connect(Version::V5, &id, persistent).await;
    assert!(!second.connack().session_present);
}

/// [MQTT-4.1.0-2] [MQTT-3.1.2-23] DISCONNECT can shorten and lengthen a session.
#[tokio::test]
async fn a_disconnect_can_change_the_session_expiry() {
    together([(3600, 1, false), (1, 3600, true)], |(asked, changed, present)| async move {
        let id = name("dis");
        let connect = server().connect(Version::V5, &id, |c| {
            persistent(c);
            c.session_expiry_secs = asked;
        });
        let mut first = connect.await;
        let change = Disconnect { session_expiry_secs: Some(changed), ..Disconnect::default() };
        first.send(Packet::Disconnect(Box::new(change))).await;
        first.expect_closed().await;
        elapse(Duration::from_millis(2100)).await;
        let second = server().connect(Version::V5, &id, persistent).await;
        assert_eq!(second.connack().session_present, present, "{asked} changed to {changed}");
    })
    .await;
}

/// [MQTT-3.14.2-1] [MQTT-3.14.4-2] A server that goes down says so.
#[tokio::test]
async fn a_stopping_server_tells_its_clients() {
    let broker = Broker::start(|_| {}).await;
    let mut new = broker.connect(Version::V5, "new", |_| {}).await;
    let mut old = broker.connect(Version::V3_1_1, "old", |_| {}).await;
    let stop = tokio::spawn(broker.stop());
    new.expect_end(ReasonCode::ServerShuttingDown).await;
    old.expect_closed().await;
    stop.await.expect("it stops without a panic");
}

/// [MQTT-3.14.2-1] Properties of a DISCONNECT are accepted.
#[tokio::test]
async fn a_disconnect_with_properties_is_accepted() {
    let mut client = client(Version::V5, "dis").await;
    let reason = [&[0x1F][..], &wire::field("tired")].concat();
    let user = [&[0x26][..], &wire::field("k"), &wire::field("v")].concat();
    let body = [&[0][..], &wire::properties(&[&reason, &user, &user])].concat();
    client.send_bytes(&wire::frame(0xE0, &body)).await;
    client.expect_closed().await;
}
