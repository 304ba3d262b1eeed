//! SUBSCRIBE and UNSUBSCRIBE.

use mqtt_codec::{Packet, QoS, ReasonCode, SubscriptionOptions, TopicFilter, Version};
use mqtt_session::{Event, ServerProfile, Ticket};

use crate::script::*;

const GRANTED: [ReasonCode; 3] =
    [ReasonCode::Success, ReasonCode::GrantedQoS1, ReasonCode::GrantedQoS2];

struct Asked {
    filters: Vec<(TopicFilter, SubscriptionOptions)>,
    refused: Vec<(TopicFilter, ReasonCode)>,
    ticket: Ticket,
}

fn asked(script: &mut Script) -> Asked {
    match script.connection.poll_event() {
        Some(Event::Subscribe { filters, refused, ticket, .. }) => {
            Asked { filters, refused, ticket }
        }
        other => panic!("a subscribe event, not {other:?}"),
    }
}

fn send(script: &mut Script, filters: &[(&'static str, QoS)]) {
    script.send(Packet::Subscribe(Box::new(subscribe(9, filters))));
}

/// [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.9.3-1] [MQTT-2.2.1-6]
#[test]
fn a_subscribe_is_answered_when_the_broker_has_it() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        let filters =
            [("a/#", QoS::AtMostOnce), ("$share/g/b", QoS::AtLeastOnce), ("c", QoS::ExactlyOnce)];
        send(&mut script, &filters);
        let asked = asked(&mut script);
        assert!(asked.refused.is_empty());
        let texts = asked.filters.iter().map(|(filter, options)| (filter.as_str(), options.qos));
        assert!(texts.eq(filters));
        script.expect_nothing();
        script.connection.complete_subscribe(asked.ticket, GRANTED.to_vec());
        script.expect(suback(9, &GRANTED));
    }
}

/// [MQTT-3.8.4-7] MQTT 3 knows one way to fail.
#[test]
fn a_filter_the_broker_refuses_is_told_as_the_version_allows() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        send(&mut script, &[("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce)]);
        let asked = asked(&mut script);
        let reasons = vec![ReasonCode::NotAuthorized, ReasonCode::GrantedQoS1];
        script.connection.complete_subscribe(asked.ticket, reasons);
        let failure = match version {
            Version::V5 => ReasonCode::NotAuthorized,
            _ => ReasonCode::UnspecifiedError,
        };
        script.expect(suback(9, &[failure, ReasonCode::GrantedQoS1]));
    }
}

/// [MQTT-3.8.4-6] Each filter has its reason, also when the broker is asked about some only.
#[test]
fn filters_the_server_does_not_offer_are_refused_one_by_one() {
    let profile = ServerProfile {
        wildcard_subscriptions: false,
        shared_subscriptions: false,
        maximum_topic_levels: 3,
        ..ServerProfile::default()
    };
    let at_most = QoS::AtMostOnce;
    let filters = [
        ("a/+", at_most),
        ("b", at_most),
        ("$share/g/c", at_most),
        ("1/2/3/4", at_most),
        ("d", at_most),
    ];
    for version in VERSIONS {
        let mut script = Script::with(&connect(version), profile.clone());
        send(&mut script, &filters);
        let asked = asked(&mut script);
        let texts: Vec<_> = asked.filters.iter().map(|(filter, _)| filter.as_str()).collect();
        assert_eq!(texts, ["b", "d"]);
        assert_eq!(asked.refused.len(), 3);
        let reasons = vec![ReasonCode::Success, ReasonCode::QuotaExceeded];
        script.connection.complete_subscribe(asked.ticket, reasons);
        let reasons = [
            ReasonCode::WildcardSubscriptionsNotSupported,
            ReasonCode::Success,
            ReasonCode::SharedSubscriptionsNotSupported,
            ReasonCode::TopicFilterInvalid,
            ReasonCode::QuotaExceeded,
        ];
        let told = reasons.map(|reason| match version {
            Version::V5 => reason,
            _ if reason.is_error() => ReasonCode::UnspecifiedError,
            _ => reason,
        });
        script.expect(suback(9, &told));
    }
}

#[test]
fn the_broker_is_not_asked_when_every_filter_is_refused() {
    let profile = ServerProfile { wildcard_subscriptions: false, ..ServerProfile::default() };
    let mut script = Script::with(&connect(Version::V5), profile);
    send(&mut script, &[("#", QoS::AtMostOnce), ("+/a", QoS::AtMostOnce)]);
    script.expect(suback(9, &[ReasonCode::WildcardSubscriptionsNotSupported; 2]));
    script.expect_no_event();
}

#[test]
fn a_subscription_identifier_goes_to_the_broker_or_is_refused() {
    let mut subscribe = subscribe(9, &[("a", QoS::AtMostOnce), ("b", QoS::AtMostOnce)]);
    subscribe.subscription_id = Some(subscription_id(77));
    let packet = Packet::Subscribe(Box::new(subscribe));
    let mut script = Script::start(Version::V5);
    script.send(packet.clone());
    let Some(Event::Subscribe { subscription_id: Some(given), .. }) =
        script.connection.poll_event()
    else {
        panic!("a subscribe event with an identifier");
    };
    assert_eq!(given.value(), 77);
    let profile = ServerProfile { subscription_ids: false, ..ServerProfile::default() };
    let mut script = Script::with(&connect(Version::V5), profile);
    script.send(packet);
    script.expect(suback(9, &[ReasonCode::SubscriptionIdentifiersNotSupported; 2]));
    script.expect_no_event();
}

/// [MQTT-3.2.2-10]
#[test]
fn a_subscription_above_the_maximum_qos_is_lowered() {
    let profile = ServerProfile { maximum_qos: QoS::AtLeastOnce, ..ServerProfile::default() };
    for version in VERSIONS {
        let mut script = Script::with(&connect(version), profile.clone());
        send(&mut script, &[("a", QoS::ExactlyOnce)]);
        assert_eq!(asked(&mut script).filters[0].1.qos, QoS::AtLeastOnce);
    }
}

/// [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1]
#[test]
fn an_unsubscribe_is_answered_when_the_broker_has_it() {
    for version in VERSIONS {
        let mut script = Script::start(version);
        script.send(unsubscribe(3, &["a/#", "b"]));
        let Some(Event::Unsubscribe { filters, ticket }) = script.connection.poll_event() else {
            panic!("an unsubscribe event");
        };
        assert!(filters.iter().map(TopicFilter::as_str).eq(["a/#", "b"]));
        script.expect_nothing();
        let reasons = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
        script.connection.complete_unsubscribe(ticket, reasons.to_vec());
        script.expect(unsuback(3, if version == Version::V5 { &reasons } else { &[] }));
    }
}

/// [MQTT-3.9.3-2] [MQTT-3.11.3-2] Too few reasons, or reasons of another packet.
#[test]
fn a_wrong_answer_of_the_broker_still_is_a_right_packet() {
    let mut script = Script::start(Version::V5);
    send(&mut script, &[("a", QoS::AtMostOnce), ("b", QoS::AtMostOnce)]);
    let ticket = asked(&mut script).ticket;
    script.connection.complete_subscribe(ticket, vec![ReasonCode::ServerBusy]);
    script.expect(suback(9, &[ReasonCode::UnspecifiedError; 2]));
    script.send(unsubscribe(3, &["a", "b"]));
    let Some(Event::Unsubscribe { ticket, .. }) = script.connection.poll_event() else {
        panic!("an unsubscribe event");
    };
    script.connection.complete(ticket, ReasonCode::NotAuthorized);
    script.expect(unsuback(3, &[ReasonCode::NotAuthorized; 2]));
    assert!(script.connection.accepts_input());
}

#[test]
fn a_subscribe_waits_for_nothing_but_the_broker() {
    let mut script = Script::start(Version::V5);
    script.send(qos1(1, 1));
    send(&mut script, &[("a", QoS::AtMostOnce)]);
    let (_, publish) = script.publish_event();
    let ticket = asked(&mut script).ticket;
    script.connection.complete_subscribe(ticket, vec![ReasonCode::Success]);
    script.expect(suback(9, &[ReasonCode::Success]));
    script.connection.complete(publish, ReasonCode::Success);
    script.expect(puback(1));
}

/// [MQTT-3.1.2-24]
#[test]
fn a_suback_the_client_does_not_take_is_not_sent() {
    let connect = mqtt_codec::Connect { maximum_packet_size: Some(40), ..connect(Version::V5) };
    let mut script = Script::with(&connect, ServerProfile::default());
    let filters = [("a", QoS::AtMostOnce); 50];
    send(&mut script, &filters);
    let ticket = asked(&mut script).ticket;
    script.connection.complete_subscribe(ticket, vec![ReasonCode::Success; 50]);
    script.expect_nothing();
}
