//! A session that is kept elsewhere: what its connection tells, what it waits for, and how the next
//! connection goes on.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{Ack, Connect, Message, Packet, Publish, QoS, ReasonCode, Version};
use mqtt_session::{
    Confirmation, Delivery, DeliveryOutcome, DeliverySource, Once, Resumed, ServerProfile, Session,
};

use crate::script::*;

fn resent(place: u16, qos: QoS) -> Packet {
    Packet::Publish(Publish { dup: true, ..publish(u32::from(place), qos, place) })
}

fn refusal(packet_id: u16) -> Packet {
    Packet::PubRec(Ack::new(id(packet_id), ReasonCode::QuotaExceeded))
}

impl Script {
    #[track_caller]
    fn expect_confirmations(&mut self, expected: &[Confirmation]) {
        assert_eq!(self.confirmations(), expected);
    }

    /// The client sends a QoS 2 message, and has its PUBREC.
    #[track_caller]
    fn hand_over(&mut self, number: u32, packet_id: u16) {
        self.send(qos2(number, packet_id));
        let ticket = self.once_event(Once::Begin(id(packet_id)));
        self.connection.complete(ticket, ReasonCode::Success);
        self.expect(pubrec(packet_id));
    }
}

/// [MQTT-4.3.2-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] Whoever keeps the session hears of each step.
#[test]
fn a_queued_message_is_confirmed_step_by_step() {
    for version in VERSIONS {
        let mut script = Script::kept(version);
        script.deliver(queued(700, QoS::AtLeastOnce));
        script.deliver(queued(701, QoS::ExactlyOnce));
        script.expect(qos1(700, 700));
        script.expect(qos2(701, 701));
        script.expect_confirmations(&[]);
        script.send(puback(700));
        script.expect_confirmations(&[settled(700)]);
        script.send(pubrec(701));
        script.expect_confirmations(&[received(701)]);
        script.expect_nothing();
        // Again, and it is still to be made safe.
        script.send(pubrec(701));
        script.expect_nothing();
        script.connection.complete_received(slot(701));
        script.expect(pubrel(701));
        script.connection.complete_received(slot(701));
        script.expect_nothing();
        script.send(pubrec(701));
        script.expect(pubrel(701));
        script.expect_confirmations(&[]);
        script.send(pubcomp(701));
        script.expect_confirmations(&[settled(701)]);
        assert!(script.connection.is_settled());
        assert_eq!(script.connection.stray_acknowledgements(), 0);
    }
}

/// [MQTT-4.6.0-4] In whatever order they are made safe.
#[test]
fn pubrels_leave_in_the_order_of_their_pubrecs() {
    for version in VERSIONS {
        let mut script = Script::kept(version);
        for place in 1..=4 {
            script.deliver(queued(place, QoS::ExactlyOnce));
            script.expect_publish();
        }
        for packet_id in [2, 1, 4, 3] {
            script.send(pubrec(packet_id));
        }
        script.expect_confirmations(&[received(2), received(1), received(4), received(3)]);
        for place in [1, 3, 4] {
            script.connection.complete_received(slot(place));
            script.expect_nothing();
        }
        script.connection.complete_received(slot(2));
        for packet_id in [2, 1, 4, 3] {
            script.expect(pubrel(packet_id));
        }
        script.expect_nothing();
    }
}

/// A PUBREC that is taken back holds up nobody.
#[test]
fn a_message_refused_after_its_pubrec_lets_the_others_go_on() {
    let mut script = Script::kept(Version::V5);
    for place in [1, 2] {
        script.deliver(queued(place, QoS::ExactlyOnce));
        script.expect_publish();
        script.send(pubrec(place));
    }
    script.connection.complete_received(slot(2));
    script.expect_nothing();
    script.send(refusal(1));
    script.expect(pubrel(2));
    script.expect_confirmations(&[received(1), received(2), settled(1)]);
    // The answer comes late, when the identifier is another's.
    let other = mqtt_session::QueueSlot { place: 49_152, packet_id: id(1) };
    let source = DeliverySource::Queue { slot: other, dup: false };
    script.deliver(Delivery { source, ..delivery(3, QoS::ExactlyOnce) });
    script.expect_publish();
    script.send(pubrec(1));
    script.connection.complete_received(slot(1));
    script.expect_nothing();
    script.connection.complete_received(other);
    script.expect(pubrel(1));
}

/// [MQTT-4.4.0-2] The client will not take it another time either.
#[test]
fn an_acknowledgement_with_an_error_settles_a_queued_message() {
    let mut script = Script::kept(Version::V5);
    script.deliver(queued(1, QoS::AtLeastOnce));
    script.deliver(queued(2, QoS::ExactlyOnce));
    script.expect_publish();
    script.expect_publish();
    script.send(Packet::PubAck(Ack::new(id(1), ReasonCode::UnspecifiedError)));
    script.send(refusal(2));
    script.expect_nothing();
    script.expect_confirmations(&[settled(1), settled(2)]);
    assert!(script.connection.is_settled());
}

/// [MQTT-4.3.3-5] It does not answer a PUBREL.
#[test]
fn a_pubcomp_before_its_pubrel_is_a_protocol_error() {
    for version in VERSIONS {
        let mut script = Script::kept(version);
        script.deliver(queued(1, QoS::ExactlyOnce));
        script.expect_publish();
        script.send(pubrec(1));
        script.send_wrong(pubcomp(1));
        script.expect_farewell(ReasonCode::ProtocolError);
        script.expect_confirmations(&[received(1)]);
    }
}

/// [MQTT-4.4.0-1] [MQTT-3.3.1-1] The messages come again by delivery, the PUBRELs by themselves.
#[test]
fn a_resumed_session_goes_on_under_the_same_packet_ids() {
    for version in VERSIONS {
        let mut script = Script::resume(&connect(version), resumed(&[6, 5], &[]));
        script.expect(pubrel(6));
        script.expect(pubrel(5));
        script.expect_nothing();
        script.deliver(again(4, QoS::ExactlyOnce));
        script.deliver(again(7, QoS::AtLeastOnce));
        script.deliver(queued(8, QoS::AtLeastOnce));
        script.expect(resent(4, QoS::ExactlyOnce));
        script.expect(resent(7, QoS::AtLeastOnce));
        script.expect(qos1(8, 8));
        script.send(pubcomp(5));
        script.send(puback(8));
        script.send(pubcomp(6));
        script.send(pubrec(4));
        script.send(puback(7));
        let all = [settled(5), settled(8), settled(6), received(4), settled(7)];
        script.expect_confirmations(&all);
        script.connection.complete_received(slot(4));
        script.expect(pubrel(4));
        script.send(pubcomp(4));
        script.expect_confirmations(&[settled(4)]);
        assert!(script.connection.is_settled());
        assert_eq!(script.connection.stray_acknowledgements(), 0);
    }
}

/// [MQTT-4.4.0-1] At no other time, whoever hands it in.
#[test]
fn nothing_is_sent_again_within_a_connection() {
    for version in VERSIONS {
        let mut script = Script::resume(&connect(version), resumed(&[2], &[]));
        script.expect(pubrel(2));
        script.deliver(queued(1, QoS::ExactlyOnce));
        script.expect_publish();
        script.advance(secs(100_000));
        for place in [1, 2] {
            let outcome =
                script.connection.handle_delivery(again(place, QoS::ExactlyOnce), script.now);
            assert_eq!(outcome, DeliveryOutcome::Repeated);
        }
        script.send(Packet::PingReq);
        script.expect(Packet::PingResp);
        script.expect_nothing();
        script.expect_confirmations(&[]);
    }
}

/// [MQTT-2.2.1-4] Another message with the same identifier waits.
#[test]
fn a_queued_message_waits_for_its_packet_id() {
    let mut script = Script::kept(Version::V5);
    script.deliver(queued(1, QoS::AtLeastOnce));
    script.expect_publish();
    let slot = mqtt_session::QueueSlot { place: 49_152, packet_id: id(1) };
    let source = DeliverySource::Queue { slot, dup: false };
    let later = Delivery { source, ..delivery(2, QoS::AtLeastOnce) };
    let outcome = script.connection.handle_delivery(later.clone(), script.now);
    assert_eq!(outcome, DeliveryOutcome::Refused(later.clone()));
    script.send(puback(1));
    script.deliver(later);
    script.expect(qos1(2, 1));
    script.send(puback(1));
    script.expect_confirmations(&[settled(1), settled(49_152)]);
}

/// [MQTT-3.3.4-9] [MQTT-3.3.4-10] The new connection's receive maximum holds for what is sent
/// again; a PUBREL takes none of it.
#[test]
fn the_receive_maximum_counts_what_is_sent_on_this_connection() {
    let narrow = Connect { receive_maximum: maximum(2), ..connect(Version::V5) };
    let mut script = Script::resume(&narrow, resumed(&[3, 4, 5], &[]));
    for packet_id in [3, 4, 5] {
        script.expect(pubrel(packet_id));
    }
    assert_eq!(script.connection.window(), 2);
    script.deliver(again(1, QoS::ExactlyOnce));
    script.deliver(again(2, QoS::ExactlyOnce));
    assert_eq!(script.connection.window(), 0);
    let third = again(6, QoS::AtLeastOnce);
    let outcome = script.connection.handle_delivery(third.clone(), script.now);
    assert_eq!(outcome, DeliveryOutcome::Refused(third));
    script.send(pubcomp(3)); // Not one of the two: frees no place.
    assert_eq!(script.connection.window(), 0);
    script.send(pubrec(1));
    script.connection.complete_received(slot(1));
    assert_eq!(script.connection.window(), 0);
    script.send(pubcomp(1));
    assert_eq!(script.connection.window(), 1);
}

/// The places of PUBRELs are the server's own.
#[test]
fn unanswered_pubrels_leave_less_room_for_messages() {
    let profile = ServerProfile { inflight_maximum: 3, ..ServerProfile::default() };
    let session = resumed(&[3, 4], &[]);
    let now = std::time::Instant::now();
    let mut script = Script::open(&connect(Version::V5), profile, session, now);
    assert_eq!(script.connection.window(), 1);
    script.send(pubcomp(3));
    assert_eq!(script.connection.window(), 2);
}

/// [MQTT-4.3.3-7]
#[test]
fn a_message_that_may_have_been_sent_expires_no_more() {
    for version in VERSIONS {
        let mut script = Script::kept(version);
        let expires_at = Some(script.now + secs(10));
        script.advance(secs(4));
        let left = |seconds| (version == Version::V5).then_some(seconds);
        script.deliver(Delivery { expires_at, ..again(1, QoS::ExactlyOnce) });
        assert_eq!(script.expect_publish().expiry_secs, left(6));
        script.advance(secs(60));
        script.deliver(Delivery { expires_at, ..again(2, QoS::AtLeastOnce) });
        assert_eq!(script.expect_publish().expiry_secs, left(0));
    }
}

/// [MQTT-3.3.2-5] [MQTT-3.1.2-25] Nobody waits for it.
#[test]
fn what_is_dropped_instead_of_sent_is_confirmed() {
    let connect = Connect { maximum_packet_size: Some(100), ..connect(Version::V5) };
    let mut script = Script::resume(&connect, Session::New);
    let large = Arc::new(Message { payload: Bytes::from(vec![0; 200]), ..message(1) });
    for (delivery, confirmation) in [
        (queued(1, QoS::AtLeastOnce), settled(1)),
        (queued(2, QoS::ExactlyOnce), settled(2)),
        (again(3, QoS::ExactlyOnce), settled(3)),
        (grouped(4, QoS::AtLeastOnce), of_group(4)),
    ] {
        let delivery = Delivery { message: Arc::clone(&large), ..delivery };
        let outcome = script.connection.handle_delivery(delivery, script.now);
        assert_eq!(outcome, DeliveryOutcome::TooLarge);
        script.expect_confirmations(&[confirmation]);
    }
    let expires_at = Some(script.now);
    for (delivery, confirmation) in [
        (queued(5, QoS::AtLeastOnce), vec![settled(5)]),
        (grouped(6, QoS::ExactlyOnce), vec![of_group(6)]),
        (grouped(7, QoS::AtMostOnce), vec![]),
        (delivery(8, QoS::AtLeastOnce), vec![]),
    ] {
        let delivery = Delivery { expires_at, ..delivery };
        let outcome = script.connection.handle_delivery(delivery, script.now);
        assert_eq!(outcome, DeliveryOutcome::Expired);
        script.expect_confirmations(&confirmation);
    }
    assert!(script.connection.is_settled());
}

/// [MQTT-4.8.2-5] A group's message is the client's with its PUBACK or PUBREC; what is left of QoS 2 is
/// between it and the connection.
#[test]
fn a_message_of_a_group_is_confirmed_when_the_client_has_it() {
    for version in VERSIONS {
        for session in [Session::Clean, Session::New] {
            let mut script = Script::resume(&connect(version), session.clone());
            let first = if session == Session::Clean { 1 } else { 49_152 };
            script.deliver(grouped(1, QoS::AtLeastOnce));
            script.deliver(grouped(2, QoS::ExactlyOnce));
            script.deliver(grouped(3, QoS::AtMostOnce));
            script.expect(qos1(1, first));
            script.expect(qos2(2, first + 1));
            script.expect(qos0(3));
            script.send(puback(first));
            script.expect_confirmations(&[of_group(1)]);
            script.send(pubrec(first + 1));
            script.expect_confirmations(&[of_group(2)]);
            script.expect(pubrel(first + 1));
            script.send(pubcomp(first + 1));
            script.expect_confirmations(&[]);
            assert!(script.connection.is_settled());
        }
    }
}

/// [MQTT-4.8.2-6]
#[test]
fn a_message_of_a_group_that_is_refused_is_confirmed_once() {
    let mut script = Script::start(Version::V5);
    for place in [1, 2] {
        script.deliver(grouped(place, QoS::ExactlyOnce));
        script.expect_publish();
    }
    script.send(refusal(1));
    script.expect_confirmations(&[of_group(1)]);
    script.send(pubrec(2));
    script.send(refusal(2));
    script.expect_confirmations(&[of_group(2)]);
    assert!(script.connection.is_settled());
}

/// [MQTT-2.2.1-4] The identifiers of a kept session's queue are left to it.
#[test]
fn chosen_packet_ids_keep_out_of_the_queue() {
    let mut script = Script::kept(Version::V3_1_1);
    script.deliver(grouped(0, QoS::AtLeastOnce));
    assert_eq!(script.expect_publish().packet_id, Some(id(49_152)));
    let mut chosen = 49_152;
    for place in 1..=40_000 {
        script.deliver(queued(place, QoS::AtLeastOnce));
        assert_eq!(script.expect_publish().packet_id, Some(id(place)));
        script.deliver(grouped(place, QoS::AtLeastOnce));
        // The first is never acknowledged.
        chosen = if chosen == u16::MAX { 49_153 } else { chosen + 1 };
        assert_eq!(script.expect_publish().packet_id, Some(id(chosen)));
        script.send(puback(chosen));
        script.send(puback(place));
        script.expect_confirmations(&[of_group(u64::from(place)), settled(u64::from(place))]);
    }
    assert_eq!(script.connection.in_flight(), 1);
    assert_eq!(script.connection.stray_acknowledgements(), 0);
}

/// A PUBREL before the message comes again would make the client take it twice.
#[test]
fn a_pubrec_before_its_message_comes_again_is_not_answered() {
    for version in VERSIONS {
        let mut script = Script::resume(&connect(version), resumed(&[], &[]));
        script.send(pubrec(1));
        script.expect_nothing();
        assert_eq!(script.connection.stray_acknowledgements(), 1);
        script.deliver(again(1, QoS::ExactlyOnce));
        script.expect(resent(1, QoS::ExactlyOnce));
        script.send(pubrec(1));
        script.expect_confirmations(&[received(1)]);
    }
}

/// [MQTT-4.3.3-8] [MQTT-4.3.3-11] Both answers wait for the keeper.
#[test]
fn a_qos2_publish_is_begun_and_released_elsewhere() {
    for version in VERSIONS {
        let mut script = Script::kept(version);
        script.send(qos2(1, 4));
        let ticket = script.once_event(Once::Begin(id(4)));
        script.expect_nothing();
        script.connection.complete(ticket, ReasonCode::Success);
        script.expect_confirmations(&[Confirmation::Taken { packet_id: id(4) }]);
        script.expect(pubrec(4));
        script.send(qos2(1, 4)); // [MQTT-4.3.3-10]
        script.expect_no_event();
        script.expect(pubrec(4));
        script.send(pubrel(4));
        let ticket = script.release_event(4);
        script.send(pubrel(4));
        script.expect_no_event();
        script.expect_nothing();
        script.connection.complete(ticket, ReasonCode::Success);
        script.expect(pubcomp(4));
        script.expect_nothing();
        assert!(script.connection.is_settled());
        script.hand_over(2, 4); // [MQTT-4.3.3-12]
        // QoS 0 and 1 need no key.
        script.send(qos1(3, 5));
        script.accept();
        script.send(qos0(3));
        script.accept();
    }
}

/// [MQTT-4.3.3-10] Across connections, and however long is between them.
#[test]
fn a_qos2_publish_that_an_earlier_connection_has_published_is_answered_and_released_only() {
    for version in VERSIONS {
        let session = Session::Resumed(Resumed { taken: vec![id(4)], ..Resumed::default() });
        let mut script = Script::resume(&connect(version), session);
        for _ in 0..2 {
            script.send(qos2(1, 4));
            script.expect_no_event();
            script.expect(pubrec(4));
        }
        script.expect_confirmations(&[]);
        script.send(pubrel(4));
        let ticket = script.release_event(4);
        script.connection.complete(ticket, ReasonCode::Success);
        script.expect(pubcomp(4));
        script.send(qos2(2, 4));
        drop(script.once_event(Once::Begin(id(4))));
    }
}

/// [MQTT-4.3.3-10] Across connections.
#[test]
fn a_qos2_publish_repeated_after_a_lost_pubrec_is_published_under_its_key() {
    for version in VERSIONS {
        let mut script = Script::resume(&connect(version), resumed(&[], &[9, 4]));
        for packet_id in [4, 9] {
            script.send(qos2(1, packet_id));
            let ticket = script.once_event(Once::Again(id(packet_id)));
            script.send(qos2(1, packet_id)); // Its one PUBREC is still to come.
            script.expect_no_event();
            script.expect_nothing();
            script.connection.complete(ticket, ReasonCode::Success);
            script.expect(pubrec(packet_id));
            script.send(qos2(1, packet_id));
            script.expect_no_event();
            script.expect(pubrec(packet_id));
        }
        script.send(qos2(1, 5));
        drop(script.once_event(Once::Begin(id(5))));
    }
}

/// The client had its PUBREC on an earlier connection.
#[test]
fn a_pubrel_of_an_earlier_message_is_released_elsewhere() {
    for version in VERSIONS {
        let mut script = Script::resume(&connect(version), resumed(&[], &[4]));
        script.send(pubrel(4));
        let ticket = script.release_event(4);
        script.expect_nothing();
        script.connection.complete(ticket, ReasonCode::Success);
        script.expect(pubcomp(4));
        // What nobody knows needs no commit.
        script.send(pubrel(4));
        script.expect_no_event();
        let reason = lowered(version, ReasonCode::PacketIdentifierNotFound);
        script.expect(Packet::PubComp(Ack::new(id(4), reason)));
        assert!(script.connection.is_settled());
    }
}

/// [MQTT-4.3.3-9] The client may use the identifier for another message after it: the key must be gone
/// by then.
#[test]
fn a_refused_qos2_publish_is_released_before_its_pubrec() {
    let mut script = Script::kept(Version::V5);
    script.send(qos2(1, 4));
    script.send(qos1(2, 5));
    let ticket = script.once_event(Once::Begin(id(4)));
    script.accept();
    script.connection.complete(ticket, ReasonCode::QuotaExceeded);
    let ticket = script.release_event(4);
    script.send(qos2(1, 4));
    script.expect_no_event();
    script.expect_nothing();
    script.connection.complete(ticket, ReasonCode::Success);
    script.expect(refusal(4));
    script.expect(puback(5));
    let used = Ack::new(id(4), ReasonCode::PacketIdentifierInUse);
    script.expect(Packet::PubRec(used));
    assert!(script.connection.is_settled());
    script.hand_over(3, 4);
}

/// Without a PUBREC the client sends it again, and its key must be the same.
#[test]
fn a_refusal_that_cannot_be_told_releases_nothing() {
    let mut script = Script::kept(Version::V3_1_1);
    script.send(qos2(1, 4));
    let ticket = script.once_event(Once::Begin(id(4)));
    script.connection.complete(ticket, ReasonCode::QuotaExceeded);
    script.expect_farewell(ReasonCode::QuotaExceeded);
    script.expect_no_event();

    let mut script = Script::kept(Version::V5);
    script.send(qos2(1, 4));
    let ticket = script.once_event(Once::Begin(id(4)));
    script.connection.close(ReasonCode::SessionTakenOver);
    script.expect_farewell(ReasonCode::SessionTakenOver);
    script.connection.complete(ticket, ReasonCode::QuotaExceeded);
    script.expect_no_event();
}

/// There is no PUBCOMP that says it: the client asks again on its next connection.
#[test]
fn a_release_that_fails_ends_the_connection() {
    for version in VERSIONS {
        let mut script = Script::resume(&connect(version), resumed(&[], &[4]));
        script.send(pubrel(4));
        let ticket = script.release_event(4);
        script.connection.complete(ticket, ReasonCode::ServerUnavailable);
        script.expect_farewell(ReasonCode::UnspecifiedError);
    }
}

/// [MQTT-4.9.0-1] What an earlier connection had counted is not counted again.
#[test]
fn the_receive_maximum_starts_anew_with_each_connection() {
    let profile = ServerProfile { receive_maximum: maximum(2), ..ServerProfile::default() };
    let now = std::time::Instant::now();
    let session = resumed(&[], &[1, 2]);
    let mut script = Script::open(&connect(Version::V5), profile, session, now);
    script.connack();
    // Both are released without having been sent on this connection.
    script.send(qos2(3, 3));
    script.send(qos2(4, 4));
    for packet_id in [1, 2] {
        script.send(pubrel(packet_id));
    }
    let error = script.send_wrong(qos2(5, 5));
    assert_eq!(error.reason, ReasonCode::ReceiveMaximumExceeded);
}

/// A client of MQTT 3 knows no maximum: what it asks is bounded by not reading from it.
#[test]
fn unanswered_releases_hold_back_a_client_without_a_maximum() {
    let profile = ServerProfile { receive_maximum: maximum(2), ..ServerProfile::default() };
    let now = std::time::Instant::now();
    for version in VERSIONS {
        let session = resumed(&[], &[1, 2]);
        let mut script = Script::open(&connect(version), profile.clone(), session, now);
        for packet_id in [1, 2] {
            script.send(pubrel(packet_id));
        }
        assert_eq!(script.connection.accepts_input(), version == Version::V5);
        let ticket = script.release_event(1);
        script.connection.complete(ticket, ReasonCode::Success);
        assert!(script.connection.accepts_input());
    }
}

/// [MQTT-3.3.2-7]
#[test]
fn aliases_do_not_outlive_their_connection() {
    let connect = Connect { topic_alias_maximum: 10, ..connect(Version::V5) };
    for _ in 0..2 {
        let mut script = Script::resume(&connect, resumed(&[], &[]));
        script.deliver(again(1, QoS::AtLeastOnce));
        script.deliver(again(2, QoS::AtLeastOnce));
        assert!(script.expect_publish().topic.is_some());
        assert!(script.expect_publish().topic.is_none());
    }
}
