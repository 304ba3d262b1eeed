//! CONNECT and CONNACK: who is let in, and what the server says of itself.

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{
    ClientId, Connect, PublishProperties, QoS, ReasonCode, ReceiveMaximum, Version, Will,
};
use mqtt_session::{CloseReason, Refusal, ServerProfile, Session, admit};

use crate::script::*;

fn refusal(connect: &Connect, profile: &ServerProfile) -> ReasonCode {
    let refusal = admit(connect, profile).unwrap_err();
    let connack = refusal.connack();
    assert!(!connack.session_present);
    assert_eq!(connack.reason, refusal.reason);
    connack.reason
}

fn with_will(version: Version, change: impl FnOnce(&mut Will)) -> Connect {
    let mut will = Will { message: message(1), delay_secs: 0 };
    change(&mut will);
    Connect { will: Some(will), ..connect(version) }
}

/// [MQTT-4.12.0-1] No authentication method is supported.
#[test]
fn an_authentication_method_is_refused() {
    let connect = Connect {
        authentication_method: Some(ByteString::from_static("SCRAM-SHA-256")),
        ..connect(Version::V5)
    };
    let reason = refusal(&connect, &ServerProfile::default());
    assert_eq!(reason, ReasonCode::BadAuthenticationMethod);
}

/// [MQTT-3.1.3-6] [MQTT-3.1.3-8] [MQTT311-3.1.3-7] [MQTT311-3.1.3-8]
#[test]
fn an_empty_client_id_is_allowed_where_the_version_allows_it() {
    let allowed = [
        (Version::V3_1, false, false),
        (Version::V3_1, true, false),
        (Version::V3_1_1, false, false),
        (Version::V3_1_1, true, true),
        (Version::V5, false, true),
        (Version::V5, true, true),
    ];
    for (version, clean_start, allowed) in allowed {
        let connect = Connect { clean_start, ..Connect::new(version, None) };
        let profile = ServerProfile::default();
        assert_eq!(admit(&connect, &profile).is_ok(), allowed, "{version:?} {clean_start}");
        if !allowed {
            assert_eq!(refusal(&connect, &profile), ReasonCode::ClientIdentifierNotValid);
        }
        let never = ServerProfile { allow_empty_client_id: false, ..profile };
        assert_eq!(refusal(&connect, &never), ReasonCode::ClientIdentifierNotValid);
    }
}

/// [MQTT-3.1.3-5] [MQTT-3.1.3-8]
#[test]
fn a_client_id_may_be_as_long_as_the_server_allows() {
    let profile = ServerProfile { maximum_client_id_bytes: 23, ..ServerProfile::default() };
    for version in VERSIONS {
        let longest = Connect::new(version, ClientId::new("x".repeat(23)));
        assert_eq!(admit(&longest, &profile), Ok(()));
        let longer = Connect::new(version, ClientId::new("x".repeat(24)));
        assert_eq!(refusal(&longer, &profile), ReasonCode::ClientIdentifierNotValid);
    }
}

/// [MQTT-3.2.2-12]
#[test]
fn a_will_above_the_maximum_qos_is_refused() {
    let profile = ServerProfile { maximum_qos: QoS::AtLeastOnce, ..ServerProfile::default() };
    for version in VERSIONS {
        let allowed = with_will(version, |will| will.message.qos = QoS::AtLeastOnce);
        assert_eq!(admit(&allowed, &profile), Ok(()));
        let refused = with_will(version, |will| will.message.qos = QoS::ExactlyOnce);
        assert_eq!(refusal(&refused, &profile), ReasonCode::QoSNotSupported);
    }
}

/// [MQTT-3.2.2-13]
#[test]
fn a_retained_will_is_refused_where_nothing_is_retained() {
    let profile = ServerProfile { retain_available: false, ..ServerProfile::default() };
    for version in VERSIONS {
        assert_eq!(admit(&with_will(version, |_| {}), &profile), Ok(()));
        let refused = with_will(version, |will| will.message.retain = true);
        assert_eq!(refusal(&refused, &profile), ReasonCode::RetainNotSupported);
    }
}

#[test]
fn a_will_is_checked_like_a_publish() {
    let profile = ServerProfile {
        maximum_topic_levels: 2,
        check_payload_format: true,
        ..ServerProfile::default()
    };
    let deep = with_will(Version::V5, |will| will.message.topic = topic("a/b/c"));
    assert_eq!(refusal(&deep, &profile), ReasonCode::TopicNameInvalid);
    let text = PublishProperties::builder().payload_format(1).build().unwrap();
    let garbled = with_will(Version::V5, |will| {
        will.message.topic = topic("a/b");
        will.message.payload = Bytes::from_static(&[0xff]);
        will.message.properties = text;
    });
    assert_eq!(refusal(&garbled, &profile), ReasonCode::PayloadFormatInvalid);
}

#[test]
fn a_refusal_by_the_caller_becomes_a_connack() {
    let connack = Refusal::new(ReasonCode::NotAuthorized).connack();
    assert_eq!(connack.reason, ReasonCode::NotAuthorized);
    // Not a reason of CONNACK [MQTT-3.2.2-8].
    let connack = Refusal::new(ReasonCode::SessionTakenOver).connack();
    assert_eq!(connack.reason, ReasonCode::UnspecifiedError);
}

/// [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2] [MQTT-2.2.2-1] A property that would say what
/// its absence says is left out.
#[test]
fn a_connack_says_only_what_differs() {
    let profile = ServerProfile {
        receive_maximum: ReceiveMaximum::default(),
        maximum_packet_size: u32::MAX,
        topic_alias_maximum: 0,
        ..ServerProfile::default()
    };
    for version in VERSIONS {
        let mut script = Script::open(&connect(version), profile.clone(), Session::Clean, now());
        assert_eq!(script.connack(), mqtt_codec::ConnAck::default());
        script.expect_nothing();
    }
}

/// [MQTT-3.2.2-9] and the rest of 3.2.2.3.
#[test]
fn a_connack_says_what_the_server_does_not_do() {
    let profile = ServerProfile {
        maximum_qos: QoS::AtMostOnce,
        retain_available: false,
        wildcard_subscriptions: false,
        subscription_ids: false,
        shared_subscriptions: false,
        ..ServerProfile::default()
    };
    let connack = Script::open(&connect(Version::V5), profile, Session::Clean, now()).connack();
    assert_eq!(connack.reason, ReasonCode::Success);
    assert_eq!(connack.maximum_qos, Some(QoS::AtMostOnce));
    assert_eq!(connack.retain_available, Some(false));
    assert_eq!(connack.wildcard_subscription_available, Some(false));
    assert_eq!(connack.subscription_ids_available, Some(false));
    assert_eq!(connack.shared_subscription_available, Some(false));
    assert_eq!(connack.receive_maximum, ReceiveMaximum::new(1024));
    assert_eq!(connack.maximum_packet_size, Some(1024 * 1024));
    assert_eq!(connack.topic_alias_maximum, Some(16));
    assert_eq!(connack.authentication_method, None); // [MQTT-4.12.0-6]
}

/// [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[test]
fn an_assigned_client_id_is_told() {
    let anonymous = Connect::new(Version::V5, None);
    let mut script = Script::open(&anonymous, ServerProfile::default(), Session::Clean, now());
    assert_eq!(script.connack().assigned_client_id, ClientId::new("assigned"));
    assert_eq!(script.connection.client_id().as_str(), "assigned");
}

/// [MQTT-3.1.2-28]
#[test]
fn response_information_is_for_those_who_ask() {
    let profile = ServerProfile {
        response_information: Some(ByteString::from_static("replies/")),
        ..ServerProfile::default()
    };
    for asks in [false, true] {
        let connect = Connect { request_response_information: asks, ..connect(Version::V5) };
        let connack = Script::open(&connect, profile.clone(), Session::Clean, now()).connack();
        assert_eq!(connack.response_information.is_some(), asks);
    }
}

/// [MQTT-3.2.2-2] [MQTT-3.2.2-3]
#[test]
fn session_present_is_what_the_caller_found() {
    for version in [Version::V3_1_1, Version::V5] {
        let connect = connect(version);
        let sessions = [Session::Clean, Session::New, resumed(&[], &[])];
        for (session, present) in sessions.into_iter().zip([false, false, true]) {
            let mut script = Script::open(&connect, ServerProfile::default(), session, now());
            assert_eq!(script.connack().session_present, present);
        }
    }
}

#[test]
fn a_session_lasts_no_longer_than_the_server_allows() {
    let profile = ServerProfile { maximum_session_expiry_secs: 60, ..ServerProfile::default() };
    for (asked, told, kept) in [(0, None, 0), (59, None, 59), (60, None, 60), (61, Some(60), 60)] {
        let connect = Connect { session_expiry_secs: asked, ..connect(Version::V5) };
        let mut script = Script::open(&connect, profile.clone(), Session::Clean, now());
        assert_eq!(script.connack().session_expiry_secs, told);
        assert_eq!(script.connection.session_expiry_secs(), kept);
        assert_eq!(script.end().session_expiry_secs, kept);
    }
}

/// [MQTT-3.2.2-21] [MQTT-3.2.2-22] MQTT 3 has no way to tell another keep alive.
#[test]
fn keep_alive_is_the_servers_where_it_can_be_told() {
    let imposed = ServerProfile { server_keep_alive_secs: Some(20), ..ServerProfile::default() };
    let bounded = ServerProfile { maximum_keep_alive_secs: 100, ..ServerProfile::default() };
    let cases = [
        (Version::V5, 60, &imposed, Some(20), Some(30_000)),
        (Version::V5, 20, &imposed, None, Some(30_000)),
        (Version::V5, 60, &bounded, None, Some(90_000)),
        (Version::V5, 600, &bounded, Some(100), Some(150_000)),
        (Version::V5, 0, &bounded, Some(100), Some(150_000)),
        (Version::V3_1_1, 60, &imposed, None, Some(90_000)),
        (Version::V3_1_1, 600, &bounded, None, Some(900_000)),
        (Version::V3_1, 0, &bounded, None, None),
    ];
    for (version, asked, profile, told, silence_ms) in cases {
        let connect = Connect { keep_alive_secs: asked, ..connect(version) };
        let mut script = Script::open(&connect, profile.clone(), Session::Clean, now());
        assert_eq!(script.connack().server_keep_alive_secs, told);
        let deadline = script.connection.poll_timeout().map(|at| at - script.now);
        assert_eq!(deadline.map(|silence| silence.as_millis()), silence_ms);
    }
}

/// [MQTT-3.1.2-24] There is no talking with a client that does not take the CONNACK.
#[test]
fn a_client_that_takes_no_connack_is_closed_without_a_word() {
    let connect = Connect { maximum_packet_size: Some(8), ..connect(Version::V5) };
    let mut script = Script::open(&connect, ServerProfile::default(), Session::Clean, now());
    script.expect_nothing();
    let reason = CloseReason::Server(ReasonCode::PacketTooLarge);
    assert_eq!(script.connection.closed(), Some(&reason));
}

/// [MQTT-3.1.0-2]
#[test]
fn a_second_connect_ends_the_connection() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        let error = script.send_wrong(mqtt_codec::Packet::Connect(Box::new(connect(version))));
        assert_eq!(error.statement, "MQTT-3.1.0-2");
        script.expect_farewell(ReasonCode::ProtocolError);
    }
}

fn now() -> std::time::Instant {
    std::time::Instant::now()
}
