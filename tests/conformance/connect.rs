//! Sections 3.1 and 3.2: CONNECT and CONNACK.

use mqtt_codec::{Connect, Packet, QoS, ReasonCode, Version};
use testkit::{Broker, RawClient, connect_packet, persistent, wire};

use crate::support::{
    ALL, BOTH, LEVELS, at, client, client_id, name, server, settle, subscriber, topic_of, will,
};

/// Requires that a CONNECT is refused: MQTT 5.0 with a CONNACK for `reason`, MQTT 3 with a return
/// code if there is one, and in both cases by closing.
async fn expect_refused(client: &mut RawClient, reason: ReasonCode) {
    let connack = client.expect_connack().await;
    assert_eq!(connack.reason, reason);
    assert!(!connack.session_present, "[MQTT-3.2.2-6]");
    client.expect_closed().await;
}

/// Sends `connect` over a new connection.
async fn attempt(broker: &Broker, connect: Connect) -> RawClient {
    let mut client = broker.open(connect.version).await;
    client.send(Packet::Connect(Box::new(connect))).await;
    client
}

/// What follows the Keep Alive in a CONNECT: no properties, then `fields`.
fn payload(version: Version, fields: &[&[u8]]) -> Vec<u8> {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    [properties, &fields.concat()].concat()
}

/// Requires that a malformed CONNECT gets nothing but the end, for MQTT 5.0 after a CONNACK with
/// 0x80 or above.
async fn expect_malformed(version: Version, bytes: &[u8], what: &str) {
    let mut client = server().open(version).await;
    client.send_bytes(bytes).await;
    let answer = client.recv_to_end().await;
    if version == Version::V5 {
        let reason = answer.get(3).copied();
        assert!(reason.is_some_and(|reason| reason >= 0x80), "{what}: {answer:02x?}");
    } else {
        assert!(answer.is_empty(), "{version:?}: {what}: {answer:02x?}");
    }
}

/// [MQTT-3.1.0-1] [MQTT311-3.1.0-1] [MQTT-3.14.0-1] [MQTT-3.2.0-1] [MQTT311-3.2.0-1] Whatever comes
/// before the CONNECT ends the connection, and nothing is sent on it.
#[tokio::test]
async fn the_first_packet_must_be_connect() {
    let others: [&[u8]; 5] = [
        &[0xC0, 0],
        &[0xE0, 0],
        &[0x30, 4, 0, 1, b't', 0],
        &[0x82, 6, 0, 1, 0, 1, b't', 0],
        &[0x20, 2, 0, 0],
    ];
    for version in BOTH {
        for bytes in others {
            let mut client = server().open(version).await;
            client.send_bytes(bytes).await;
            assert!(client.recv_to_end().await.is_empty(), "{bytes:02x?}");
        }
    }
}

/// [MQTT-3.1.0-2] [MQTT311-3.1.0-2] [MQTT-3.2.0-2] A second CONNECT ends the connection and gets no
/// CONNACK.
#[tokio::test]
async fn a_second_connect_ends_the_connection() {
    for version in BOTH {
        let id = name("con");
        let mut client = server().connect(version, &id, |_| {}).await;
        client.send(Packet::Connect(Box::new(connect_packet(version, &id)))).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.1.2-1] [MQTT311-3.1.2-1] Another protocol name is not served.
#[tokio::test]
async fn another_protocol_name_is_refused() {
    for version in BOTH {
        for other in ["MQTX", "mqtt", "HTTP", "", "MQTTMQTT"] {
            let mut client = server().open(version).await;
            let rest = payload(version, &[&wire::field("id")]);
            client.send_bytes(&wire::connect(other, version as u8, 2, &rest)).await;
            let answer = client.recv_to_end().await;
            let refusals: [&[u8]; 3] = [&[], &[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0]];
            assert!(refusals.contains(&answer.as_ref()), "{other}: {answer:02x?}");
        }
    }
}

/// [MQTT-3.1.2-2] [MQTT311-3.1.2-2] [MQTT311-3.2.2-5] An unknown protocol level is refused, in a
/// form its client may understand.
#[tokio::test]
async fn an_unknown_protocol_level_is_refused() {
    for level in [0, 2, 6, 0x7F, 0xFF] {
        let mut client = server().open(Version::V5).await;
        client.send_bytes(&wire::connect("MQTT", level, 2, &wire::field("id"))).await;
        let answer = client.recv_to_end().await;
        let refusals: [&[u8]; 2] = [&[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0]];
        assert!(refusals.contains(&answer.as_ref()), "level {level}: {answer:02x?}");
    }
}

/// [MQTT-3.1.2-3] [MQTT311-3.1.2-3] [MQTT311-3.1.4-1] The reserved connect flag must be 0.
#[tokio::test]
async fn the_reserved_connect_flag_must_not_be_set() {
    for version in BOTH {
        let rest = payload(version, &[&wire::field(name("con"))]);
        let bytes = wire::connect("MQTT", version as u8, 0b11, &rest);
        expect_malformed(version, &bytes, "reserved flag").await;
    }
}

/// [MQTT-3.1.2-9] [MQTT-3.1.2-11] [MQTT-3.1.2-12] [MQTT-3.1.2-13] [MQTT-3.1.2-16] [MQTT-3.1.2-17]
/// [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.3-3] [MQTT-3.1.4-1] [MQTT311-3.1.2-9]
/// [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] [MQTT311-3.1.2-14] [MQTT311-3.1.2-15] [MQTT311-3.1.2-18]
/// [MQTT311-3.1.2-19] [MQTT311-3.1.2-20] [MQTT311-3.1.2-21] [MQTT311-3.1.3-3] [MQTT311-3.1.4-1]
/// Flags and payload must agree.
#[tokio::test]
async fn connect_flags_and_payload_must_agree() {
    for version in BOTH {
        let id = wire::field(name("con"));
        let field = wire::field("x");
        let will_properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let cases: [(&str, u8, Vec<&[u8]>); 11] = [
            ("no client identifier", 0b0000_0010, vec![]),
            ("will QoS 1 without will", 0b0000_1010, vec![&id]),
            ("will QoS 2 without will", 0b0001_0010, vec![&id]),
            ("will retain without will", 0b0010_0010, vec![&id]),
            ("will QoS 3", 0b0001_1110, vec![&id, will_properties, &field, &field]),
            ("will without payload", 0b0000_0110, vec![&id, will_properties, &field]),
            ("will without topic", 0b0000_0110, vec![&id]),
            ("user name flag without user name", 0b1000_0010, vec![&id]),
            ("password flag without password", 0b1100_0010, vec![&id, &field]),
            ("user name without flag", 0b0000_0010, vec![&id, &field]),
            ("password without flag", 0b1000_0010, vec![&id, &field, &field]),
        ];
        for (what, flags, fields) in cases {
            let bytes = wire::connect("MQTT", version as u8, flags, &payload(version, &fields));
            expect_malformed(version, &bytes, what).await;
        }
    }
}

/// [MQTT311-3.1.2-22] In MQTT 3.1.1 a password needs a user name; in MQTT 5.0 it does not.
#[tokio::test]
async fn a_password_without_a_user_name_is_for_mqtt_5_only() {
    let fields = |id: &str| payload(Version::V3_1_1, &[&wire::field(id), &wire::field("secret")]);
    let bytes = wire::connect("MQTT", 4, 0b0100_0010, &fields(&name("con")));
    expect_malformed(Version::V3_1_1, &bytes, "password without user name").await;
    let client = server().connect(Version::V5, &name("con"), |c| c.password = Some("x".into()));
    client.await.expect_nothing().await;
}

/// [MQTT-3.1.3-1] [MQTT311-3.1.3-1] [MQTT-3.1.2-9] [MQTT311-3.1.2-9] [MQTT-3.1.2-17]
/// [MQTT-3.1.2-19] The payload's fields are read in their order: the will goes where it says.
#[tokio::test]
async fn the_fields_of_the_payload_are_read_in_their_order() {
    for version in BOTH {
        let topic = name("con");
        let mut watcher = subscriber(version, &topic, QoS::AtMostOnce).await;
        let all = server().connect(version, &name("con"), |c| {
            c.will = Some(will(&topic, QoS::AtMostOnce, "the will"));
            c.username = Some("user".into());
            c.password = Some("password".into());
        });
        drop(all.await);
        watcher.expect_message("the will").await;
    }
}

/// [MQTT-3.1.3-5] [MQTT311-3.1.3-5] Identifiers of 1 to 23 letters and digits are allowed, and here
/// also longer and other ones.
#[tokio::test]
async fn client_identifiers_of_every_allowed_form_are_accepted() {
    for version in BOTH {
        let long = "x".repeat(200);
        let ids = ["7", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHI", "JKLMNOPQRSTUVWXYZ"];
        for id in ids.into_iter().chain(["with space/and#ünïcode", long.as_str()]) {
            let mut client = server().connect(version, id, |_| {}).await;
            client.expect_nothing().await;
        }
    }
}

/// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16] An empty identifier is replaced by one that nobody
/// else has, whatever Clean Start says.
#[tokio::test]
async fn an_empty_client_identifier_is_replaced_by_an_assigned_one() {
    let first = server().connect(Version::V5, "", |_| {}).await;
    let second = server().connect(Version::V5, "", |c| c.clean_start = false).await;
    let first = first.connack().assigned_client_id.clone().expect("one was assigned");
    let second = second.connack().assigned_client_id.clone().expect("one was assigned");
    assert_ne!(first, second);
}

/// [MQTT-3.1.3-7] [MQTT-3.1.3-2] The assigned identifier is that of the session.
#[tokio::test]
async fn an_assigned_client_identifier_identifies_the_session() {
    let first = server().connect(Version::V5, "", persistent).await;
    let id = first.connack().assigned_client_id.clone().expect("one was assigned");
    first.disconnect().await;
    let second = server().connect(Version::V5, id.as_str(), persistent).await;
    assert!(second.connack().session_present);
    assert_eq!(second.connack().assigned_client_id, None);
}

/// [MQTT311-3.1.3-6] In MQTT 3.1.1 an empty identifier works with a clean session.
#[tokio::test]
async fn an_empty_client_identifier_is_enough_for_a_clean_session() {
    let topic = name("con");
    let mut first = server().connect(Version::V3_1_1, "", |_| {}).await;
    let mut second = server().connect(Version::V3_1_1, "", |_| {}).await;
    first.subscribe(&topic, QoS::AtMostOnce).await;
    second.subscribe(&topic, QoS::AtMostOnce).await;
    second.publish(&topic, QoS::AtLeastOnce, "to both").await;
    first.expect_message("to both").await;
    second.expect_message("to both").await;
}

/// [MQTT311-3.1.3-8] [MQTT311-3.1.3-9] [MQTT311-3.2.2-4] [MQTT311-3.2.2-5] In MQTT 3.1.1 an empty
/// identifier is rejected for a session that is to stay.
#[tokio::test]
async fn an_empty_client_identifier_is_rejected_for_a_session_to_keep() {
    let mut client = server().open(Version::V3_1_1).await;
    let rest = payload(Version::V3_1_1, &[&wire::field("")]);
    client.send_bytes(&wire::connect("MQTT", 4, 0, &rest)).await;
    assert_eq!(client.recv_to_end().await.as_ref(), [0x20, 2, 0, 2]);
}

/// [MQTT-3.1.4-3] [MQTT311-3.1.4-2] [MQTT-3.14.2-1] A second connection with an identifier ends the
/// first one.
#[tokio::test]
async fn a_newer_connection_takes_over_the_client_identifier() {
    for version in ALL {
        let id = name("con");
        let mut first = server().connect(version, &id, |_| {}).await;
        let mut second = server().connect(version, &id, |_| {}).await;
        first.expect_end(ReasonCode::SessionTakenOver).await;
        second.expect_nothing().await;
    }
}

/// [MQTT-3.1.4-3] [MQTT311-3.1.4-2] Also between clients of different versions, with sessions that
/// stay and without.
#[tokio::test]
async fn takeover_works_across_versions_and_kinds_of_session() {
    for (old, new) in [(Version::V5, Version::V3_1_1), (Version::V3_1_1, Version::V5)] {
        let id = name("con");
        let mut first = server().connect(old, &id, persistent).await;
        let mut second = server().connect(new, &id, |_| {}).await;
        first.expect_end(ReasonCode::SessionTakenOver).await;
        let third = server().connect(old, &id, persistent).await;
        assert!(!third.connack().session_present);
        second.expect_end(ReasonCode::SessionTakenOver).await;
    }
}

/// [MQTT-3.2.0-1] [MQTT-3.1.4-5] [MQTT311-3.2.0-1] [MQTT311-3.1.4-4] The CONNACK comes before
/// whatever waited for the client.
#[tokio::test]
async fn the_connack_is_the_first_packet_from_the_server() {
    for version in BOTH {
        let (id, topic) = (name("con"), name("con"));
        let mut sleeper = server().connect(version, &id, persistent).await;
        sleeper.subscribe(&topic, QoS::AtLeastOnce).await;
        sleeper.disconnect().await;
        client(version, "con").await.publish(&topic, QoS::AtLeastOnce, "waiting").await;
        let mut connect = connect_packet(version, &id);
        persistent(&mut connect);
        let mut sleeper = attempt(server(), connect).await;
        let first = sleeper.recv().await;
        assert!(matches!(&first, Packet::ConnAck(c) if c.session_present), "{first:?}");
        sleeper.expect_message("waiting").await;
    }
}

/// [MQTT-3.1.4-5] [MQTT311-3.1.4-4] A client need not wait for the CONNACK.
#[tokio::test]
async fn packets_sent_together_with_the_connect_are_served() {
    for version in BOTH {
        let topic = name("con");
        let mut watcher = subscriber(version, &topic, QoS::AtMostOnce).await;
        let mut eager = attempt(server(), connect_packet(version, &name("con"))).await;
        let publish = eager.new_publish(&topic, QoS::AtLeastOnce, "eager");
        eager.send(Packet::Publish(publish)).await;
        eager.send(Packet::PingReq).await;
        assert_eq!(eager.expect_connack().await.reason, ReasonCode::Success);
        let mut rest = [eager.recv().await, eager.recv().await];
        rest.sort_by_key(Packet::packet_type);
        assert!(matches!(rest, [Packet::PubAck(_), Packet::PingResp]), "{rest:?}");
        watcher.expect_message("eager").await;
    }
}

/// [MQTT-3.1.4-6] [MQTT311-3.1.4-5] What follows a refused CONNECT is not looked at.
#[tokio::test]
async fn packets_behind_a_refused_connect_are_ignored() {
    let topic = name("con");
    let mut watcher = subscriber(Version::V5, &topic, QoS::AtMostOnce).await;
    for version in BOTH {
        let id = if version == Version::V5 { name("con") } else { String::new() };
        let mut connect = connect_packet(version, &id);
        if version == Version::V5 {
            connect.authentication_method = Some("unknown".into());
        } else {
            connect.clean_start = false;
        }
        let mut refused = attempt(server(), connect).await;
        let publish = refused.new_publish(&topic, QoS::AtMostOnce, "must not come");
        refused.send(Packet::Publish(publish)).await;
        assert_ne!(refused.expect_connack().await.reason, ReasonCode::Success);
    }
    client(Version::V5, "con").await.publish(&topic, QoS::AtLeastOnce, "marker").await;
    watcher.expect_message("marker").await;
    watcher.expect_nothing().await;
}

/// [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-8] [MQTT-2.2.2-1] [MQTT311-3.2.2-1] [MQTT311-2.2.2-1]
/// The CONNACK of a new session, byte for byte.
#[tokio::test]
async fn the_connack_has_its_flags_and_its_reason() {
    for version in BOTH {
        let mut client = attempt(server(), connect_packet(version, &name("con"))).await;
        let bytes = client.recv_bytes(4).await;
        assert_eq!(bytes[0], 0x20);
        assert_eq!(bytes[2..4], [0, 0], "{bytes:02x?}");
        if version < Version::V5 {
            assert_eq!(bytes[1], 2);
        } else {
            let rest = client.recv_bytes(usize::from(bytes[1]) - 2).await;
            assert_eq!(usize::from(rest[0]), rest.len() - 1, "property length: {rest:02x?}");
        }
    }
}

/// [MQTT-3.2.2-9] [MQTT-3.2.2-10] [MQTT-3.2.2-11] A server with a Maximum QoS says so, still takes
/// every SUBSCRIBE, and ends who publishes above it.
#[tokio::test]
async fn a_maximum_qos_is_announced_and_enforced() {
    for maximum in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let broker = Broker::start(|config| config.mqtt.maximum_qos = maximum as u8).await;
        let mut client = broker.connect(Version::V5, "a", |_| {}).await;
        assert_eq!(client.connack().maximum_qos, Some(maximum));
        for qos in LEVELS {
            let suback = client.subscribe_with(&[("t", at(qos))], None).await;
            let granted = suback.reasons[0] as u8;
            assert_eq!(granted, (qos as u8).min(maximum as u8), "asked for {qos:?}");
        }
        let publish = client.new_publish("other", QoS::ExactlyOnce, "x");
        client.send(Packet::Publish(publish)).await;
        client.expect_end(ReasonCode::QoSNotSupported).await;

        let mut old = broker.connect(Version::V3_1_1, "b", |_| {}).await;
        old.subscribe("t", QoS::ExactlyOnce).await;
        let publish = old.new_publish("other", QoS::ExactlyOnce, "x");
        old.send(Packet::Publish(publish)).await;
        old.expect_closed().await;
    }
}

/// [MQTT-3.2.2-12] [MQTT-3.2.2-7] A will above the Maximum QoS is refused.
#[tokio::test]
async fn a_will_above_the_maximum_qos_is_refused() {
    let broker = Broker::start(|config| config.mqtt.maximum_qos = 0).await;
    let mut connect = connect_packet(Version::V5, "a");
    connect.will = Some(will("t", QoS::AtLeastOnce, "x"));
    let mut client = attempt(&broker, connect).await;
    expect_refused(&mut client, ReasonCode::QoSNotSupported).await;
}

/// [MQTT-3.2.2-13] [MQTT-3.2.2-14] [MQTT-3.2.2-7] A server without retained messages says so,
/// refuses a will that is one, and ends who publishes one.
#[tokio::test]
async fn a_server_without_retained_messages_refuses_them() {
    let broker = Broker::start(|config| config.mqtt.retain_available = false).await;
    let mut client = broker.connect(Version::V5, "a", |_| {}).await;
    assert_eq!(client.connack().retain_available, Some(false));
    let mut publish = client.new_publish("t", QoS::AtMostOnce, "x");
    publish.retain = true;
    client.send(Packet::Publish(publish)).await;
    client.expect_end(ReasonCode::RetainNotSupported).await;

    let mut connect = connect_packet(Version::V5, "b");
    let mut last = will("t", QoS::AtMostOnce, "x");
    last.message.retain = true;
    connect.will = Some(last);
    let mut client = attempt(&broker, connect).await;
    expect_refused(&mut client, ReasonCode::RetainNotSupported).await;
}

/// [MQTT-3.2.2-9] With everything available nothing is said about it.
#[tokio::test]
async fn the_connack_of_a_full_server_says_nothing_of_limits_it_does_not_have() {
    let client = client(Version::V5, "con").await;
    let connack = client.connack();
    assert_eq!(connack.maximum_qos, None);
    assert_ne!(connack.retain_available, Some(false));
    assert_ne!(connack.wildcard_subscription_available, Some(false));
    assert_ne!(connack.subscription_ids_available, Some(false));
    assert_ne!(connack.shared_subscription_available, Some(false));
}

/// [MQTT-3.1.2-28] Response Information comes only to who asks for it.
#[tokio::test]
async fn response_information_is_sent_to_who_requests_it() {
    let broker = Broker::start(|config| config.mqtt.response_information = "answers/".into()).await;
    let plain = broker.connect(Version::V5, "a", |_| {}).await;
    assert_eq!(plain.connack().response_information, None);
    let asking = broker.connect(Version::V5, "b", |c| c.request_response_information = true).await;
    assert_eq!(asking.connack().response_information.as_deref(), Some("answers/"));
}

/// [MQTT-3.1.2-29] A client that asks for no problem information gets no reason string and no user
/// properties, whatever it does wrong.
#[tokio::test]
async fn no_reasons_are_explained_to_who_does_not_want_them() {
    let topic = name("con");
    let quiet =
        server().connect(Version::V5, &name("con"), |c| c.request_problem_information = false);
    let mut client = quiet.await;
    let suback = client.subscribe_with(&[(&topic, at(QoS::AtMostOnce))], None).await;
    assert_eq!(suback.properties, None);
    assert_eq!(client.unsubscribe(&["never subscribed"]).await.properties, None);
    let publish = client.new_publish(&topic, QoS::AtLeastOnce, "x");
    client.send(Packet::Publish(publish)).await;
    assert_eq!(client.expect_puback().await.properties, None);
    client.expect_message("x").await;
    let unknown = mqtt_codec::Ack::new(client.new_id(), ReasonCode::Success);
    client.send(Packet::PubRel(unknown.clone())).await;
    assert_eq!(client.expect_pubcomp().await.properties, None);
    client.send(Packet::PubRec(unknown)).await;
    assert_eq!(client.expect_pubrel().await.properties, None);
}

/// [MQTT-3.1.2-24] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2]
/// [MQTT-3.5.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1]
/// [MQTT-3.11.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4] Explanations are left out where they would make a
/// packet too large for its client.
#[tokio::test]
async fn no_explanation_makes_a_packet_larger_than_the_client_takes() {
    const LARGEST: u32 = 24;
    let mut connect = connect_packet(Version::V5, &name("con"));
    connect.maximum_packet_size = Some(LARGEST);
    let mut client = attempt(server(), connect).await;
    let largest = LARGEST as usize;
    let fits = |packet: &Packet| packet.encoded_len(Version::V5) <= largest;
    let connack = client.recv().await;
    assert!(matches!(connack, Packet::ConnAck(_)) && fits(&connack), "{connack:?}");

    client.send_bytes(&[0x82, 7, 0, 1, 0, 0, 1, b'x', 0]).await;
    client.send_bytes(&[0xA2, 6, 0, 2, 0, 0, 1, b'y']).await;
    client.send_bytes(&[0x32, 6, 0, 1, b'z', 0, 3, 0]).await;
    client.send_bytes(&[0x34, 6, 0, 1, b'z', 0, 4, 0]).await;
    client.send_bytes(&[0x62, 2, 0, 9]).await;
    client.send_bytes(&[0x50, 2, 0, 9]).await;
    for _ in 0..6 {
        let packet = client.recv().await;
        assert!(fits(&packet), "{packet:?}");
    }
    client.send_bytes(&[0x36, 0]).await;
    let disconnect = client.recv().await;
    assert!(matches!(disconnect, Packet::Disconnect(_)) && fits(&disconnect), "{disconnect:?}");
}

/// MQTT 3.1 by its own name: connects, subscribes, publishes, and keeps a session.
#[tokio::test]
async fn mqtt_3_1_is_served_by_its_own_protocol_name() {
    let (id, topic) = (name("con"), name("con"));
    let mut client = server().connect(Version::V3_1, &id, persistent).await;
    client.subscribe(&topic, QoS::ExactlyOnce).await;
    for qos in LEVELS {
        client.publish(&topic, qos, "to myself").await;
        assert_eq!(client.expect_message("to myself").await.qos, qos);
    }
    settle(&mut client).await;
    client.disconnect().await;
    server()
        .connect(Version::V5, &name("con"), |_| {})
        .await
        .publish(&topic, QoS::AtLeastOnce, "meanwhile")
        .await;
    let mut client = server().connect(Version::V3_1, &id, persistent).await;
    client.expect_message("meanwhile").await;
}

/// [MQTT-3.1.3-2] [MQTT311-3.1.3-2] The identifier, and nothing else, says which session it is.
#[tokio::test]
async fn sessions_belong_to_client_identifiers() {
    for version in BOTH {
        let ids = [name("con"), name("con")];
        let topics = [name("con"), name("con")];
        for (id, topic) in ids.iter().zip(&topics) {
            let mut client = server().connect(version, id, persistent).await;
            client.subscribe(topic, QoS::AtLeastOnce).await;
            client.disconnect().await;
        }
        let mut publisher = client(version, "con").await;
        for topic in &topics {
            publisher.publish(topic, QoS::AtLeastOnce, "x").await;
        }
        for (id, topic) in ids.iter().zip(&topics) {
            let mut client = server().connect(version, id, persistent).await;
            assert_eq!(topic_of(&client.expect_message("x").await), topic);
            client.expect_nothing().await;
        }
        assert_ne!(client_id(&ids[0]), client_id(&ids[1]));
    }
}
