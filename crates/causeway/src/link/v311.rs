//! MQTT 3.1.1 on rumqttc.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, NetworkOptions,
    Outgoing as Written, Packet, Publish, QoS, StateError, SubscribeFilter, SubscribeReasonCode,
};

use super::{IN_FLIGHT, MAX_PACKET, WRITE_TIMEOUT};
use super::{Outgoing, Received, Step, Subscription, Waiting, dialled, words};
use crate::connect::ConnectArgs;

pub(super) fn open(
    args: &ConnectArgs,
    client_id: String,
    waiting: Waiting,
) -> (AsyncClient, EventLoop) {
    let limit = usize::try_from(MAX_PACKET).unwrap_or(usize::MAX);
    let mut options = MqttOptions::new(client_id, dialled(&args.host), args.port);
    options
        .set_keep_alive(Duration::from_secs(args.keepalive.into()))
        .set_clean_session(!args.disable_clean_session)
        .set_max_packet_size(limit, limit)
        .set_inflight(IN_FLIGHT)
        .set_manual_acks(true);
    if let Some(username) = &args.username {
        options.set_credentials(username, args.password.clone().unwrap_or_default());
    }
    if let Some(topic) = &args.will.topic {
        let will = &args.will;
        let payload = will.payload.as_bytes();
        options.set_last_will(LastWill::new(topic, payload, qos(will.qos), will.retain));
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(WRITE_TIMEOUT.as_secs());
    let (client, mut events) = AsyncClient::new(options, waiting.capacity());
    events.set_network_options(network);
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
    client
        .publish_bytes(message.topic.clone(), qos(message.qos), message.retain, payload)
        .await
        .context("cannot publish")
}

pub(super) fn subscribe(
    client: &AsyncClient,
    subscriptions: &[Subscription],
) -> anyhow::Result<()> {
    let filters = subscriptions
        .iter()
        .map(|wanted| SubscribeFilter::new(wanted.filter.clone(), qos(wanted.qos)));
    client.try_subscribe_many(filters).context("cannot subscribe")
}

pub(super) fn acknowledge(client: &AsyncClient, message: &Received) -> anyhow::Result<()> {
    let mut publish = Publish::new(String::new(), qos(message.qos), Vec::new());
    publish.pkid = message.packet_id;
    client.try_ack(&publish).context("cannot acknowledge")
}

pub(super) fn step(event: Event) -> Step {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Step::Connected,
        Event::Incoming(Packet::Publish(publish)) => Step::Message(Received {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            packet_id: publish.pkid,
            properties: None,
        }),
        Event::Incoming(Packet::SubAck(answer)) => {
            Step::Subscribed(answer.return_codes.into_iter().map(grant).collect())
        }
        Event::Incoming(Packet::UnsubAck(_)) => Step::Unsubscribed,
        Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => Step::Completed(Ok(())),
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
            publish.topic,
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

/// After a resume the server may send PUBREL for a message that an earlier process received.
/// rumqttc takes that as an error unless it saw the message itself: so let it have seen all.
fn expect_any_release(events: &mut EventLoop) {
    for id in 1..=u16::MAX {
        let mut seen = Publish::new(String::new(), QoS::ExactlyOnce, Vec::new());
        seen.pkid = id;
        let noted = events.state.handle_incoming_packet(Packet::Publish(seen));
        noted.expect("a PUBLISH is taken in any state");
        events.state.events.clear();
    }
}

fn grant(code: SubscribeReasonCode) -> Result<u8, String> {
    match code {
        SubscribeReasonCode::Success(qos) => Ok(qos as u8),
        SubscribeReasonCode::Failure => Err("refused".to_owned()),
    }
}

fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
