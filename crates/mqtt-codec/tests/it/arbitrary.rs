//! Random packets that may be sent in a given version, and what is left of them on the other side.

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{
    Ack, Auth, ClientId, ConnAck, Connect, Disconnect, Message, Packet, PacketId, Publish,
    PublishProperties, QoS, ReasonCode, ReasonProperties, ReceiveMaximum, RetainHandling, SubAck,
    Subscribe, SubscriptionId, SubscriptionOptions, TopicAlias, TopicFilter, TopicName, UnsubAck,
    Unsubscribe, UserProperties, Version, Will,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// A packet that can be encoded in `version`.
pub(crate) fn packet(version: Version) -> BoxedStrategy<Packet> {
    let both = prop_oneof![
        connect(version).prop_map(|connect| Packet::Connect(Box::new(connect))),
        connack(version).prop_map(|connack| Packet::ConnAck(Box::new(connack))),
        publish(version).prop_map(Packet::Publish),
        publish(version).prop_map(Packet::Publish),
        ack(&[0x00, 0x10, 0x80, 0x99]).prop_map(Packet::PubAck),
        ack(&[0x00, 0x10, 0x83, 0x97]).prop_map(Packet::PubRec),
        ack(&[0x00, 0x92]).prop_map(Packet::PubRel),
        ack(&[0x00, 0x92]).prop_map(Packet::PubComp),
        subscribe().prop_map(|subscribe| Packet::Subscribe(Box::new(subscribe))),
        suback().prop_map(Packet::SubAck),
        unsubscribe().prop_map(|unsubscribe| Packet::Unsubscribe(Box::new(unsubscribe))),
        unsuback().prop_map(Packet::UnsubAck),
        select(vec![Packet::PingReq, Packet::PingResp]),
        disconnect().prop_map(|disconnect| Packet::Disconnect(Box::new(disconnect))),
    ];
    match version {
        Version::V3_1 | Version::V3_1_1 => both.boxed(),
        Version::V5 => {
            let auth = auth().prop_map(|auth| Packet::Auth(Box::new(auth)));
            prop_oneof![10 => both, 1 => auth].boxed()
        }
    }
}

/// A version, and a packet for it.
pub(crate) fn versioned_packet() -> impl Strategy<Value = (Version, Packet)> {
    select(&VERSIONS[..]).prop_flat_map(|version| (Just(version), packet(version)))
}

/// What `version` can say of `packet`.
pub(crate) fn lowered(packet: Packet, version: Version) -> Packet {
    if version == Version::V5 {
        return packet;
    }
    match packet {
        Packet::Connect(connect) => Packet::Connect(Box::new(lowered_connect(*connect))),
        Packet::ConnAck(connack) => Packet::ConnAck(Box::new(ConnAck {
            session_present: connack.session_present && version == Version::V3_1_1,
            reason: connack.reason,
            ..ConnAck::default()
        })),
        Packet::Publish(publish) => Packet::Publish(Publish {
            alias: None,
            expiry_secs: None,
            subscription_ids: Vec::new().into(),
            properties: PublishProperties::default(),
            ..publish
        }),
        Packet::PubAck(ack) => Packet::PubAck(Ack::new(ack.packet_id, ReasonCode::Success)),
        Packet::PubRec(ack) => Packet::PubRec(Ack::new(ack.packet_id, ReasonCode::Success)),
        Packet::PubRel(ack) => Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)),
        Packet::PubComp(ack) => Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)),
        Packet::Subscribe(subscribe) => Packet::Subscribe(Box::new(lowered_subscribe(*subscribe))),
        Packet::SubAck(suback) => Packet::SubAck(lowered_suback(suback)),
        Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe(Box::new(Unsubscribe {
            user_properties: UserProperties::new(),
            ..*unsubscribe
        })),
        Packet::UnsubAck(unsuback) => {
            Packet::UnsubAck(UnsubAck { reasons: Vec::new(), properties: None, ..unsuback })
        }
        Packet::Disconnect(_) => Packet::Disconnect(Box::default()),
        Packet::PingReq | Packet::PingResp | Packet::Auth(_) => packet,
    }
}

fn lowered_connect(connect: Connect) -> Connect {
    Connect {
        clean_start: connect.clean_start,
        keep_alive_secs: connect.keep_alive_secs,
        session_expiry_secs: if connect.clean_start { 0 } else { u32::MAX },
        will: connect.will.map(|will| Will {
            message: Message {
                expiry_secs: None,
                properties: PublishProperties::default(),
                ..will.message
            },
            delay_secs: 0,
        }),
        username: connect.username,
        password: connect.password,
        ..Connect::new(connect.version, connect.client_id)
    }
}

fn lowered_subscribe(subscribe: Subscribe) -> Subscribe {
    let only_qos = |options: SubscriptionOptions| SubscriptionOptions {
        qos: options.qos,
        ..SubscriptionOptions::default()
    };
    Subscribe {
        packet_id: subscribe.packet_id,
        subscription_id: None,
        user_properties: UserProperties::new(),
        filters: subscribe
            .filters
            .into_iter()
            .map(|(filter, options)| (filter, only_qos(options)))
            .collect(),
    }
}

fn lowered_suback(suback: SubAck) -> SubAck {
    let lower = |reason: ReasonCode| match reason.is_error() {
        true => ReasonCode::UnspecifiedError,
        false => reason,
    };
    SubAck {
        packet_id: suback.packet_id,
        reasons: suback.reasons.into_iter().map(lower).collect(),
        properties: None,
    }
}

prop_compose! {
    fn text()(text in "[a-zA-Z0-9 é客🦀]{0,6}") -> ByteString {
        text.into()
    }
}

prop_compose! {
    fn binary()(bytes in vec(any::<u8>(), 0..8)) -> Bytes {
        bytes.into()
    }
}

prop_compose! {
    pub(crate) fn topic_name()(text in "[a-c$é/]{1,8}") -> TopicName {
        TopicName::new(text).unwrap()
    }
}

prop_compose! {
    fn topic_filter()(
        share in select(vec!["", "$share/g/"]),
        levels in vec(select(vec!["a", "bc", "+", "é", "$x"]), 1..4),
        tail in select(vec!["", "/", "/#"]),
    ) -> TopicFilter {
        TopicFilter::new(format!("{share}{}{tail}", levels.join("/"))).unwrap()
    }
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..3)
}

fn reason(codes: &'static [u8]) -> impl Strategy<Value = ReasonCode> {
    select(codes).prop_map(|code| ReasonCode::from_byte(code).unwrap())
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn receive_maximum() -> impl Strategy<Value = ReceiveMaximum> {
    (1..=u16::MAX).prop_map(|maximum| ReceiveMaximum::new(maximum).unwrap())
}

prop_compose! {
    fn reason_properties()(
        properties in option::of((option::of(text()), user_properties()))
    ) -> Option<Box<ReasonProperties>> {
        let (reason_string, user_properties) = properties?;
        // An empty block is read as none.
        let empty = reason_string.is_none() && user_properties.is_empty();
        (!empty).then(|| Box::new(ReasonProperties { reason_string, user_properties }))
    }
}

prop_compose! {
    pub(crate) fn publish_properties()(
        format in option::of(0_u8..=1),
        content_type in option::of(text()),
        response_topic in option::of(topic_name()),
        correlation in option::of(binary()),
        pairs in user_properties(),
    ) -> PublishProperties {
        let mut builder = PublishProperties::builder();
        if let Some(format) = format {
            builder = builder.payload_format(format);
        }
        if let Some(content_type) = &content_type {
            builder = builder.content_type(content_type);
        }
        if let Some(topic) = &response_topic {
            builder = builder.response_topic(topic.as_str());
        }
        if let Some(correlation) = &correlation {
            builder = builder.correlation_data(correlation);
        }
        for (name, value) in &pairs {
            builder = builder.user_property(name, value);
        }
        builder.build().unwrap()
    }
}

prop_compose! {
    pub(crate) fn message()(
        topic in topic_name(),
        payload in vec(any::<u8>(), 0..300),
        qos in qos(),
        retain in any::<bool>(),
        expiry_secs in option::of(any::<u32>()),
        properties in publish_properties(),
    ) -> Message {
        Message { topic, payload: payload.into(), qos, retain, expiry_secs, properties }
    }
}

prop_compose! {
    pub(crate) fn publish(version: Version)(
        message in message(),
        dup in any::<bool>(),
        id in packet_id(),
        named in any::<bool>(),
        alias in option::of(1..=u16::MAX),
        subscription_ids in vec(1_u32..=268_435_455, 0..4),
    ) -> Publish {
        let above = message.qos > QoS::AtMostOnce;
        let named = named || alias.is_none() || version < Version::V5;
        let id_of = |value| SubscriptionId::new(value).unwrap();
        Publish {
            dup: dup && above,
            qos: message.qos,
            retain: message.retain,
            packet_id: above.then_some(id),
            topic: named.then_some(message.topic),
            alias: alias.and_then(TopicAlias::new),
            expiry_secs: message.expiry_secs,
            subscription_ids: subscription_ids.into_iter().map(id_of).collect(),
            properties: message.properties,
            payload: message.payload,
        }
    }
}

prop_compose! {
    fn connect(version: Version)(
        client_id in option::of("[a-z0-9é]{1,30}"),
        (clean_start, request_response_information, request_problem_information) in any::<(bool, bool, bool)>(),
        (keep_alive_secs, topic_alias_maximum, session_expiry_secs) in any::<(u16, u16, u32)>(),
        receive_maximum in receive_maximum(),
        maximum_packet_size in option::of(1..=u32::MAX),
        user_properties in user_properties(),
        authentication in option::of((text(), option::of(binary()))),
        will in option::of((message(), any::<u32>())),
        username in option::of(text()),
        password in option::of(binary()),
    ) -> Connect {
        let (method, data) = authentication.unzip();
        Connect {
            version,
            client_id: client_id.and_then(ClientId::new),
            clean_start,
            keep_alive_secs,
            session_expiry_secs,
            receive_maximum,
            maximum_packet_size,
            topic_alias_maximum,
            request_response_information,
            request_problem_information,
            user_properties,
            authentication_method: method,
            authentication_data: data.flatten(),
            will: will.map(|(message, delay_secs)| Will { message, delay_secs }),
            password: password.filter(|_| version == Version::V5 || username.is_some()),
            username,
        }
    }
}

fn connack_reasons(version: Version) -> &'static [u8] {
    match version {
        Version::V3_1 | Version::V3_1_1 => &[0x00, 0x84, 0x85, 0x88, 0x86, 0x87],
        Version::V5 => &[0x00, 0x80, 0x8C, 0x9F],
    }
}

prop_compose! {
    fn connack(version: Version)(
        (session_present, reason) in (any::<bool>(), reason(connack_reasons(version))),
        (session_expiry_secs, topic_alias_maximum, server_keep_alive_secs) in any::<(Option<u32>, Option<u16>, Option<u16>)>(),
        receive_maximum in option::of(receive_maximum()),
        maximum_qos in option::of(select(vec![QoS::AtMostOnce, QoS::AtLeastOnce])),
        maximum_packet_size in option::of(1..=u32::MAX),
        (retain, wildcard, ids, shared) in any::<(Option<bool>, Option<bool>, Option<bool>, Option<bool>)>(),
        client_id in option::of("[a-z0-9é]{1,30}"),
        (reason_string, response_information, server_reference) in (option::of(text()), option::of(text()), option::of(text())),
        user_properties in user_properties(),
        (authentication_method, authentication_data) in (option::of(text()), option::of(binary())),
    ) -> ConnAck {
        ConnAck {
            session_present: session_present && !reason.is_error(),
            reason,
            session_expiry_secs,
            receive_maximum,
            maximum_qos,
            retain_available: retain,
            maximum_packet_size,
            assigned_client_id: client_id.and_then(ClientId::new),
            topic_alias_maximum,
            reason_string,
            user_properties,
            wildcard_subscription_available: wildcard,
            subscription_ids_available: ids,
            shared_subscription_available: shared,
            server_keep_alive_secs,
            response_information,
            server_reference,
            authentication_method,
            authentication_data,
        }
    }
}

prop_compose! {
    fn ack(codes: &'static [u8])(
        packet_id in packet_id(),
        reason in reason(codes),
        properties in reason_properties(),
    ) -> Ack {
        Ack { packet_id, reason, properties }
    }
}

prop_compose! {
    fn subscription(filter: TopicFilter)(
        qos in qos(),
        (no_local, retain_as_published) in any::<(bool, bool)>(),
        retain_handling in select(vec![RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]),
        filter in Just(filter),
    ) -> (TopicFilter, SubscriptionOptions) {
        let no_local = no_local && filter.share_name().is_none();
        (filter, SubscriptionOptions { qos, no_local, retain_as_published, retain_handling })
    }
}

prop_compose! {
    fn subscribe()(
        packet_id in packet_id(),
        subscription_id in option::of(1_u32..=268_435_455),
        user_properties in user_properties(),
        filters in vec(topic_filter().prop_flat_map(subscription), 1..4),
    ) -> Subscribe {
        let subscription_id = subscription_id.and_then(SubscriptionId::new);
        Subscribe { packet_id, subscription_id, user_properties, filters }
    }
}

prop_compose! {
    fn suback()(
        packet_id in packet_id(),
        reasons in vec(reason(&[0x00, 0x01, 0x02, 0x80, 0x8F, 0xA2]), 1..5),
        properties in reason_properties(),
    ) -> SubAck {
        SubAck { packet_id, reasons, properties }
    }
}

prop_compose! {
    fn unsubscribe()(
        packet_id in packet_id(),
        user_properties in user_properties(),
        filters in vec(topic_filter(), 1..4),
    ) -> Unsubscribe {
        Unsubscribe { packet_id, user_properties, filters }
    }
}

prop_compose! {
    fn unsuback()(
        packet_id in packet_id(),
        reasons in vec(reason(&[0x00, 0x11, 0x80, 0x91]), 1..5),
        properties in reason_properties(),
    ) -> UnsubAck {
        UnsubAck { packet_id, reasons, properties }
    }
}

prop_compose! {
    fn disconnect()(
        reason in reason(&[0x00, 0x04, 0x81, 0x8E, 0xA2]),
        session_expiry_secs in option::of(any::<u32>()),
        reason_string in option::of(text()),
        user_properties in user_properties(),
        server_reference in option::of(text()),
    ) -> Disconnect {
        Disconnect { reason, session_expiry_secs, reason_string, user_properties, server_reference }
    }
}

prop_compose! {
    fn auth()(
        reason in reason(&[0x00, 0x18, 0x19]),
        method in text(),
        data in option::of(binary()),
        reason_string in option::of(text()),
        user_properties in user_properties(),
    ) -> Auth {
        Auth { reason, method: Some(method), data, reason_string, user_properties }
    }
}
