//! Section 3.1.2.10: Keep Alive. Time is the subject, so time goes by.

use std::time::{Duration, Instant};

use mqtt_codec::{Packet, QoS, ReasonCode, Version};
use testkit::{Broker, elapse};

use crate::support::{ALL, BOTH, name, server, subscriber, together, will};

/// [MQTT-3.1.2-22] [MQTT311-3.1.2-24] [MQTT-3.2.2-22] Silence of one and a half Keep Alive ends the
/// connection, not earlier.
#[tokio::test]
async fn a_silent_client_is_closed_after_one_and_a_half_keep_alive() {
    together(ALL, |version| async move {
        let mut client = server().connect(version, &name("ka"), |c| c.keep_alive_secs = 1).await;
        let start = Instant::now();
        client.expect_end(ReasonCode::KeepAliveTimeout).await;
        let silence = start.elapsed();
        assert!(silence >= Duration::from_millis(1400), "{version:?}: {silence:?}");
        assert!(silence < Duration::from_millis(2500), "{version:?}: {silence:?}");
    })
    .await;
}

/// [MQTT-3.1.2-22] [MQTT311-3.1.2-24] Any packet counts, not only PINGREQ.
#[tokio::test]
async fn a_client_that_sends_something_in_time_stays() {
    together(BOTH, |version| async move {
        let topic = name("ka");
        let mut client = server().connect(version, &name("ka"), |c| c.keep_alive_secs = 1).await;
        for _ in 0..3 {
            elapse(Duration::from_millis(900)).await;
            client.publish(&topic, QoS::AtLeastOnce, "here").await;
        }
        client.expect_nothing().await;
    })
    .await;
}

/// [MQTT-3.1.2-22] [MQTT311-3.1.2-24] What the server sends does not count.
#[tokio::test]
async fn what_a_silent_client_receives_does_not_keep_it() {
    together(BOTH, |version| async move {
        let topic = name("ka");
        let mut silent = server().connect(version, &name("ka"), |c| c.keep_alive_secs = 1).await;
        silent.subscribe(&topic, QoS::AtMostOnce).await;
        let mut publisher = server().connect(version, &name("ka"), |_| {}).await;
        for _ in 0..4 {
            publisher.publish(&topic, QoS::AtMostOnce, "news").await;
            elapse(Duration::from_millis(300)).await;
        }
        for _ in 0..4 {
            silent.expect_message("news").await;
        }
        silent.expect_end(ReasonCode::KeepAliveTimeout).await;
    })
    .await;
}

/// [MQTT-3.1.2-8] [MQTT311-3.1.2-8] [MQTT311-3.1.2-24] It ends as if the network had failed: with
/// the will.
#[tokio::test]
async fn a_keep_alive_timeout_publishes_the_will() {
    together(BOTH, |version| async move {
        let topic = name("ka");
        let mut watcher = subscriber(version, &topic, QoS::AtLeastOnce).await;
        let mut silent = server()
            .connect(version, &name("ka"), |c| {
                c.keep_alive_secs = 1;
                c.will = Some(will(&topic, QoS::AtLeastOnce, "gone"));
            })
            .await;
        silent.expect_end(ReasonCode::KeepAliveTimeout).await;
        watcher.expect_message("gone").await;
    })
    .await;
}

/// [MQTT-3.1.2-22] [MQTT311-3.1.2-24] Keep Alive 0 turns it off.
#[tokio::test]
async fn a_keep_alive_of_zero_never_ends_the_connection() {
    together(BOTH, |version| async move {
        let mut client = server().connect(version, &name("ka"), |c| c.keep_alive_secs = 0).await;
        elapse(Duration::from_millis(2200)).await;
        client.expect_nothing().await;
    })
    .await;
}

/// [MQTT-3.2.2-21] [MQTT-3.1.2-21] A Server Keep Alive is said in the CONNACK and is what counts.
#[tokio::test]
async fn the_servers_keep_alive_replaces_the_clients() {
    let always = Broker::start(|config| config.mqtt.server_keep_alive = 1).await;
    let at_most = Broker::start(|config| config.mqtt.maximum_keep_alive = 1).await;
    for broker in [always, at_most] {
        for asked in [0, 3600] {
            let mut client = broker.connect(Version::V5, "a", |c| c.keep_alive_secs = asked).await;
            assert_eq!(client.connack().server_keep_alive_secs, Some(1), "asked for {asked}");
            let start = Instant::now();
            client.expect_end(ReasonCode::KeepAliveTimeout).await;
            assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
        }
    }
}

/// [MQTT-3.2.2-22] Without a Server Keep Alive the client's own counts.
#[tokio::test]
async fn the_server_names_no_keep_alive_if_it_takes_the_clients() {
    let client = server().connect(Version::V5, &name("ka"), |c| c.keep_alive_secs = 30).await;
    assert_eq!(client.connack().server_keep_alive_secs, None);
}

/// [MQTT-3.1.2-22] [MQTT311-3.1.2-24] Half a packet is no packet.
#[tokio::test]
async fn the_bytes_of_an_unfinished_packet_do_not_keep_a_client() {
    together(BOTH, |version| async move {
        let mut client = server().connect(version, &name("ka"), |c| c.keep_alive_secs = 1).await;
        client.send_bytes(&[0x30, 20, 0, 1]).await;
        for _ in 0..3 {
            elapse(Duration::from_millis(400)).await;
            client.send_bytes(b"x").await;
        }
        client.expect_end(ReasonCode::KeepAliveTimeout).await;
    })
    .await;
}

/// [MQTT-3.12.4-1] [MQTT311-3.12.4-1] PINGREQ keeps a client that has nothing else to say.
#[tokio::test]
async fn pings_keep_an_idle_client() {
    together(BOTH, |version| async move {
        let mut client = server().connect(version, &name("ka"), |c| c.keep_alive_secs = 1).await;
        for _ in 0..3 {
            elapse(Duration::from_millis(900)).await;
            client.send(Packet::PingReq).await;
            assert_eq!(client.recv().await, Packet::PingResp);
        }
    })
    .await;
}
