//! Section 3.15 and 4.12: AUTH, on a server without methods of enhanced authentication.

use bytes::Bytes;
use mqtt_codec::{Auth, Packet, ReasonCode, Version};
use testkit::{RawClient, connect_packet, wire};

use crate::support::{client, name, server};

/// [MQTT-4.12.0-1] [MQTT-3.1.4-2] [MQTT-3.2.2-7] A method the server does not know is refused.
#[tokio::test]
async fn an_unknown_authentication_method_is_refused() {
    let mut client = server().open(Version::V5).await;
    let mut connect = connect_packet(Version::V5, &name("auth"));
    connect.authentication_method = Some("SCRAM-SHA-256".into());
    connect.authentication_data = Some(Bytes::from_static(b"first"));
    client.send(Packet::Connect(Box::new(connect))).await;
    let connack = client.expect_connack().await;
    assert_eq!(connack.reason, ReasonCode::BadAuthenticationMethod);
    assert!(!connack.session_present);
    client.expect_closed().await;
}

/// [MQTT-4.12.0-6] [MQTT-4.12.0-5] Who names no method gets none and is sent no AUTH.
#[tokio::test]
async fn no_method_is_named_to_a_client_that_named_none() {
    let mut client = client(Version::V5, "auth").await;
    assert_eq!(client.connack().authentication_method, None);
    assert_eq!(client.connack().authentication_data, None);
    client.expect_nothing().await;
}

/// [MQTT-4.12.0-7] An AUTH from a client that named no method is a protocol error.
#[tokio::test]
async fn an_auth_without_a_method_agreed_on_ends_the_connection() {
    let auth = |reason| Auth { reason, method: Some("X".into()), ..Auth::default() };
    for reason in [ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate] {
        let mut client = client(Version::V5, "auth").await;
        client.send(Packet::Auth(Box::new(auth(reason)))).await;
        client.expect_end(ReasonCode::ProtocolError).await;
    }
}

/// [MQTT-3.15.1-1] Flags of an AUTH must be zero.
#[tokio::test]
async fn an_auth_with_flags_ends_the_connection() {
    for flags in 1..16 {
        let mut client = client(Version::V5, "auth").await;
        client.send_bytes(&[0xF0 | flags, 0]).await;
        client.expect_end(ReasonCode::MalformedPacket).await;
    }
}

/// [MQTT-3.15.2-1] An AUTH must carry one of its own reasons.
#[tokio::test]
async fn an_auth_with_a_foreign_reason_ends_the_connection() {
    let mut client = client(Version::V5, "auth").await;
    let method = [&[0x15][..], &wire::field("X")].concat();
    let body = [&[0x87][..], &wire::properties(&[&method])].concat();
    client.send_bytes(&wire::frame(0xF0, &body)).await;
    client.expect_end(ReasonCode::ProtocolError).await;
}

/// [MQTT-3.1.0-1] [MQTT-3.14.0-1] An AUTH cannot be the first packet, and gets no answer.
#[tokio::test]
async fn an_auth_before_the_connect_is_not_answered() {
    let mut client = server().open(Version::V5).await;
    client.send_bytes(&[0xF0, 0]).await;
    assert!(client.recv_to_end().await.is_empty());
}

/// [MQTT311-2.2.2-2] [MQTT311-4.8.0-1] MQTT 3 has no AUTH.
#[tokio::test]
async fn mqtt_3_has_no_auth() {
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut client = client(version, "auth").await;
        client.send_bytes(&[0xF0, 0]).await;
        client.expect_closed().await;
    }
}

/// [MQTT-4.13.1-1] Authentication data belongs to a method.
#[tokio::test]
async fn authentication_data_without_a_method_is_refused() {
    let mut client = server().open(Version::V5).await;
    let data = [&[0x16][..], &wire::field("x")].concat();
    let rest = [wire::properties(&[&data]), wire::field(name("auth"))].concat();
    client.send_bytes(&wire::connect("MQTT", 5, 2, &rest)).await;
    refused(&mut client, ReasonCode::ProtocolError).await;
}

async fn refused(client: &mut RawClient, reason: ReasonCode) {
    assert_eq!(client.expect_connack().await.reason, reason);
    client.expect_closed().await;
}
