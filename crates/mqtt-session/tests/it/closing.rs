//! How a connection ends, and what that says about will and session.

use mqtt_codec::{
    Ack, Auth, ConnAck, Connect, DecodeError, Disconnect, Packet, QoS, ReasonCode, Version,
};
use mqtt_session::{CloseReason, ProtocolError, ServerProfile};

use crate::script::*;

fn lively(version: Version) -> Connect {
    Connect { keep_alive_secs: 60, ..connect(version) }
}

fn leave(session_expiry_secs: u32) -> Packet {
    Packet::Disconnect(Box::new(Disconnect {
        session_expiry_secs: Some(session_expiry_secs),
        ..Disconnect::default()
    }))
}

/// [MQTT-3.14.4-3] [MQTT-3.1.2-10]
#[test]
fn a_client_that_says_goodbye_leaves_in_order() {
    for version in VERSIONS {
        let mut script = Script::with(&lively(version), ServerProfile::default());
        script.send(disconnect(ReasonCode::Success));
        script.expect_nothing();
        let ended = script.end();
        assert_eq!(ended.reason, CloseReason::Client(ReasonCode::Success));
        assert!(ended.reason.is_clean());
    }
}

/// [MQTT-3.1.2-8]
#[test]
fn any_other_end_is_not_in_order() {
    for version in VERSIONS {
        let start = || Script::with(&lively(version), ServerProfile::default());

        let lost = start().end();
        assert_eq!(lost.reason, CloseReason::ConnectionLost);
        assert!(!lost.reason.is_clean());

        let mut silent = start();
        silent.advance(secs(90));
        assert!(!silent.end().reason.is_clean());

        let mut wrong = start();
        wrong.send_wrong(Packet::PingResp);
        assert!(!wrong.end().reason.is_clean());

        let mut taken_over = start();
        taken_over.connection.close(ReasonCode::SessionTakenOver);
        taken_over.expect_farewell(ReasonCode::SessionTakenOver);
        assert!(!taken_over.end().reason.is_clean());
    }
    for reason in [ReasonCode::DisconnectWithWillMessage, ReasonCode::UnspecifiedError] {
        let mut script = Script::with(&lively(Version::V5), ServerProfile::default());
        script.send(disconnect(reason));
        let ended = script.end();
        assert_eq!(ended.reason, CloseReason::Client(reason));
        assert!(!ended.reason.is_clean());
    }
}

/// [MQTT-3.1.2-22]
#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alive() {
    for version in VERSIONS {
        let mut script = Script::with(&lively(version), ServerProfile::default());
        script.advance(secs(89));
        script.send(Packet::PingReq);
        script.expect(Packet::PingResp);
        script.advance(secs(89));
        assert_eq!(script.connection.closed(), None);
        // What is sent to the client says nothing about it.
        script.deliver(delivery(1, QoS::AtMostOnce));
        script.expect_publish();
        script.advance(secs(1));
        script.expect_farewell(ReasonCode::KeepAliveTimeout);
        assert_eq!(script.connection.poll_timeout(), None);
        let reason = CloseReason::Server(ReasonCode::KeepAliveTimeout);
        assert_eq!(script.end().reason, reason);
    }
}

#[test]
fn without_keep_alive_a_client_may_be_silent() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        assert_eq!(script.connection.poll_timeout(), None);
        script.now += secs(1_000_000);
        script.connection.handle_timeout(script.now);
        assert_eq!(script.connection.closed(), None);
    }
}

/// A timer that is not set anew for each packet fires early.
#[test]
fn an_early_timeout_does_no_harm() {
    let mut script = Script::with(&lively(Version::V5), ServerProfile::default());
    let first = script.connection.poll_timeout().unwrap();
    script.now += secs(80);
    script.send(qos0(1));
    script.now = first;
    script.connection.handle_timeout(script.now);
    assert_eq!(script.connection.closed(), None);
    assert_eq!(script.connection.poll_timeout(), Some(first + secs(80)));
}

/// The task did not read for reasons of its own.
#[test]
fn a_silence_to_which_nobody_listened_is_excused() {
    let mut script = Script::with(&lively(Version::V5), ServerProfile::default());
    script.now += secs(90);
    script.connection.excuse_silence(script.now);
    script.connection.handle_timeout(script.now);
    assert_eq!(script.connection.closed(), None);
    script.advance(secs(89));
    assert_eq!(script.connection.closed(), None);
    script.advance(secs(1));
    script.expect_farewell(ReasonCode::KeepAliveTimeout);
}

#[test]
fn packets_of_a_server_are_a_protocol_error() {
    let packets = [
        Packet::ConnAck(Box::<ConnAck>::default()),
        suback(1, &[ReasonCode::Success]),
        unsuback(1, &[ReasonCode::Success]),
        Packet::PingResp,
    ];
    for version in VERSIONS {
        for packet in packets.clone() {
            let mut script = Script::start(version);
            script.send_wrong(packet);
            script.expect_farewell(ReasonCode::ProtocolError);
        }
    }
}

/// [MQTT-4.12.0-7]
#[test]
fn auth_without_a_method_is_a_protocol_error() {
    let mut script = Script::start(Version::V5);
    let error = script.send_wrong(Packet::Auth(Box::<Auth>::default()));
    assert_eq!(error.statement, "MQTT-4.12.0-7");
    script.expect_farewell(ReasonCode::ProtocolError);
}

/// [MQTT-3.14.4-1] [MQTT-3.1.4-6] Nothing in, nothing out, and the first reason stays.
#[test]
fn after_the_end_nothing_happens() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.connection.close(ReasonCode::AdministrativeAction);
        script.connection.close(ReasonCode::ServerShuttingDown);
        script.connection.fail(ProtocolError::from(DecodeError::Truncated));
        script.expect_farewell(ReasonCode::AdministrativeAction);
        for packet in [Packet::PingReq, qos1(1, 1), pubrel(1), pubrec(1), unsubscribe(1, &["a"])] {
            script.send(packet);
        }
        script.expect_nothing();
        script.expect_no_event();
        assert_eq!(script.connection.poll_timeout(), None);
        let reason = CloseReason::Server(ReasonCode::AdministrativeAction);
        assert_eq!(script.end().reason, reason);
    }
}

/// What was sent before the end is valid.
#[test]
fn events_before_the_end_can_be_taken_after_it() {
    let mut script = Script::start(Version::V5);
    script.send(qos0(1));
    script.send(disconnect(ReasonCode::Success));
    script.accept();
    script.expect_no_event();
}

/// [MQTT-3.14.2-1] A reason that DISCONNECT does not know.
#[test]
fn a_disconnect_carries_a_reason_of_its_own() {
    let mut script = Script::start(Version::V5);
    script.connection.close(ReasonCode::Banned);
    script.expect_farewell(ReasonCode::UnspecifiedError);
}

/// [MQTT-4.13.1-1] [MQTT-3.1.2-29] [MQTT-3.14.2-3] The statement goes along where it is wanted
/// and fits.
#[test]
fn a_disconnect_names_the_broken_statement() {
    let told = |connect: &Connect| {
        let mut script = Script::with(connect, ServerProfile::default());
        script.connection.fail(ProtocolError::from(DecodeError::PublishQoS3));
        match script.next() {
            Some(Packet::Disconnect(disconnect)) => {
                assert_eq!(disconnect.reason, ReasonCode::MalformedPacket);
                disconnect.reason_string
            }
            other => panic!("a DISCONNECT, not {other:?}"),
        }
    };
    let connect = connect(Version::V5);
    assert_eq!(told(&connect).as_deref(), Some("MQTT-3.3.1-4"));
    let unwanted = Connect { request_problem_information: false, ..connect.clone() };
    assert_eq!(told(&unwanted), None);
    // With the reason string it would have 19 bytes; the CONNACK has 16.
    let tight = Connect { maximum_packet_size: Some(18), ..connect };
    assert_eq!(told(&tight), None);
}

/// 3.14.2.2.2
#[test]
fn a_disconnect_may_change_how_long_the_session_lasts() {
    let profile = ServerProfile { maximum_session_expiry_secs: 500, ..ServerProfile::default() };
    for (asked, changed, kept) in [(100, 0, 0), (100, 50, 50), (100, 300, 300), (100, 900, 500)] {
        let connect = Connect { session_expiry_secs: asked, ..lively(Version::V5) };
        let mut script = Script::with(&connect, profile.clone());
        script.send(leave(changed));
        let ended = script.end();
        assert_eq!(ended.session_expiry_secs, kept);
        assert!(ended.reason.is_clean());
    }
}

/// 3.14.2.2.2 It is not a valid DISCONNECT, so the will is published.
#[test]
fn a_disconnect_cannot_keep_a_session_that_was_to_end() {
    let connect = Connect { session_expiry_secs: 0, ..lively(Version::V5) };
    let mut script = Script::with(&connect, ServerProfile::default());
    script.send_wrong(leave(1));
    script.expect_farewell(ReasonCode::ProtocolError);
    let ended = script.end();
    assert_eq!(ended.session_expiry_secs, 0);
    assert!(!ended.reason.is_clean());
    // Saying again that it ends is fine.
    let mut script = Script::with(&connect, ServerProfile::default());
    script.send(leave(0));
    assert!(script.end().reason.is_clean());
}

/// [MQTT-3.1.2-29]
#[test]
fn acknowledgements_carry_no_reason_string() {
    let mut script = Script::start(Version::V5);
    script.send(qos1(1, 1));
    let (_, ticket) = script.publish_event();
    script.connection.complete(ticket, ReasonCode::NotAuthorized);
    let ack = Ack { properties: None, ..Ack::new(id(1), ReasonCode::NotAuthorized) };
    script.expect(Packet::PubAck(ack));
}
