//! MQTT 5.0 on rumqttc.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rumqttc::Outgoing as Written;
use rumqttc::v5::mqttbytes::v5::{
    Filter, LastWill, Packet, PubAckReason, PubCompReason, PubRecReason, Publish,
    RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error as CodecError, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};

use super::{IN_FLIGHT, MAX_PACKET, WRITE_TIMEOUT};
use super::{Outgoing, Received, Step, Subscription, Waiting, dialled, reason, words};
use crate::connect::ConnectArgs;

pub(super) fn open(
    args: &ConnectArgs,
    client_id: String,
    waiting: Waiting,
) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(client_id, dialled(&args.host), args.port);
    // Session expiry 0xFFFFFFFF is "for ever" [MQTT-3.1.2.11.2].
    let expiry =
        args.session_expiry_interval.or_else(|| args.disable_clean_session.then_some(u32::MAX));
    options
        .set_keep_alive(Duration::from_secs(args.keepalive.into()))
        .set_clean_start(!args.disable_clean_session)
        .set_session_expiry_interval(expiry)
        .set_max_packet_size(Some(MAX_PACKET))
        .set_outgoing_inflight_upper_limit(IN_FLIGHT)
        .set_connection_timeout(WRITE_TIMEOUT.as_secs())
        .set_manual_acks(true);
    if let Some(username) = &args.username {
        options.set_credentials(username, args.password.clone().unwrap_or_default());
    }
    if let Some(topic) = &args.will.topic {
        let will = &args.will;
        let payload = will.payload.as_bytes();
        options.set_last_will(LastWill::new(topic, payload, qos(will.qos), will.retain, None));
    }
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut events) = AsyncClient::new(options, waiting.capacity());
    if args.is_persistent() {
        expect_any_release(&mut events);
    }
    (client, events)
}

pub(super) async fn publish(
    client: &AsyncClient,
    message: &Outgoing,
    payload: Bytes,
) -> anyhow::Result<()> {
    let topic = message.topic.clone();
    let (qos, retain) = (qos(message.qos), message.retain);
    let queued = match message.properties.clone() {
        Some(properties) => {
            client.publish_bytes_with_properties(topic, qos, retain, payload, properties).await
        }
        None => client.publish_bytes(topic, qos, retain, payload).await,
    };
    queued.context("cannot publish")
}

pub(super) fn subscribe(
    client: &AsyncClient,
    subscriptions: &[Subscription],
) -> anyhow::Result<()> {
    let filters = subscriptions.iter().map(|wanted| Filter {
        path: wanted.filter.clone(),
        qos: qos(wanted.qos),
        nolocal: wanted.no_local,
        preserve_retain: wanted.retain_as_published,
        retain_forward_rule: match wanted.retain_handling {
            0 => RetainForwardRule::OnEverySubscribe,
            1 => RetainForwardRule::OnNewSubscribe,
            _ => RetainForwardRule::Never,
        },
    });
    client.try_subscribe_many(filters).context("cannot subscribe")
}

pub(super) fn acknowledge(client: &AsyncClient, message: &Received) -> anyhow::Result<()> {
    let mut publish = Publish::new(String::new(), qos(message.qos), Bytes::new(), None);
    publish.pkid = message.packet_id;
    client.try_ack(&publish).context("cannot acknowledge")
}

pub(super) fn step(event: Event) -> Step {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Step::Connected,
        Event::Incoming(Packet::Publish(publish)) => Step::Message(Received {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            packet_id: publish.pkid,
            properties: publish.properties,
        }),
        Event::Incoming(Packet::SubAck(answer)) => {
            let said = answer.properties.and_then(|properties| properties.reason_string);
            let grants = answer.return_codes.iter().map(|code| grant(code, said.as_ref()));
            Step::Subscribed(grants.collect())
        }
        Event::Incoming(Packet::UnsubAck(_)) => Step::Unsubscribed,
        Event::Incoming(Packet::PubAck(answer)) => {
            let taken = matches!(
                answer.reason,
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers
            );
            let said = answer.properties.and_then(|properties| properties.reason_string);
            let refusal = || reason(&answer.reason, said.as_ref());
            Step::Completed(if taken { Ok(()) } else { Err(refusal()) })
        }
        // A PUBREC that accepts is only half of the exchange.
        Event::Incoming(Packet::PubRec(answer))
            if !matches!(
                answer.reason,
                PubRecReason::Success | PubRecReason::NoMatchingSubscribers
            ) =>
        {
            let said = answer.properties.and_then(|properties| properties.reason_string);
            Step::Completed(Err(reason(&answer.reason, said.as_ref())))
        }
        Event::Incoming(Packet::PubComp(answer)) => Step::Completed(match answer.reason {
            PubCompReason::Success => Ok(()),
            refusal @ PubCompReason::PacketIdentifierNotFound => Err(words(&refusal)),
        }),
        Event::Outgoing(Written::Publish(0)) => Step::Sent,
        Event::Outgoing(Written::PubComp(id)) => Step::Released(id),
        Event::Outgoing(Written::Disconnect) => Step::Closing,
        Event::Incoming(_) | Event::Outgoing(_) => Step::Other,
    }
}

pub(super) fn lost(error: &ConnectionError) -> anyhow::Error {
    if let ConnectionError::ConnectionRefused(code) = error {
        return anyhow::anyhow!("the server refused the connection: {}", words(code));
    }
    if let ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) =
        error
    {
        let why = reason(reason_code, reason_string.as_ref());
        return anyhow::anyhow!("the server ended the connection: {why}");
    }
    if let ConnectionError::MqttState(StateError::ConnectionAborted) = error {
        return anyhow::anyhow!("the server closed the connection");
    }
    if let ConnectionError::Io(cause)
    | ConnectionError::MqttState(
        StateError::Io(cause) | StateError::Deserialization(CodecError::Io(cause)),
    ) = error
    {
        return anyhow::anyhow!("connection: {cause}");
    }
    anyhow::anyhow!("connection: {error}")
}

pub(super) fn describe(event: &Event) -> String {
    match event {
        Event::Incoming(Packet::Publish(publish)) => format!(
            "received PUBLISH {} (q{}, r{}, d{}, m{}, {} bytes)",
            String::from_utf8_lossy(&publish.topic),
            publish.qos as u8,
            u8::from(publish.retain),
            u8::from(publish.dup),
            publish.pkid,
            publish.payload.len(),
        ),
        Event::Incoming(packet) => format!("received {packet:?}"),
        Event::Outgoing(written) => format!("sent {written:?}"),
    }
}

/// See the same function for MQTT 3.1.1.
fn expect_any_release(events: &mut EventLoop) {
    for id in 1..=u16::MAX {
        let mut seen = Publish::new(String::new(), QoS::ExactlyOnce, Bytes::new(), None);
        seen.pkid = id;
        let noted = events.state.handle_incoming_packet(Packet::Publish(seen));
        noted.expect("a PUBLISH is taken in any state");
        events.state.events.clear();
    }
}

fn grant(code: &SubscribeReasonCode, said: Option<&String>) -> Result<u8, String> {
    if let SubscribeReasonCode::Success(qos) = code {
        return Ok(*qos as u8);
    }
    Err(reason(code, said))
}

fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
