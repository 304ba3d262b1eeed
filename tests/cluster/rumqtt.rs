//! rumqttc, a client with an event loop of its own, in both versions behind one face.

use std::net::SocketAddr;

use rumqttc::v5;
use tokio::sync::mpsc;

use crate::support::name;

/// Events that may wait for the test.
const WAITING: usize = 64;

/// What the event loop of a client has seen.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Subscribed,
    /// The handshake of a message it published is complete.
    Published,
    Message {
        topic: String,
        payload: Vec<u8>,
        qos: u8,
    },
}

enum Sender {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A client whose event loop runs.
struct Client {
    sender: Sender,
    seen: mpsc::Receiver<Seen>,
}

/// Publishes at the first proxy and receives at the second, for all versions and every QoS.
pub(crate) async fn meet_across([near, far]: [SocketAddr; 2]) {
    let clients: [fn(SocketAddr) -> Client; 2] = [Client::v4, Client::v5];
    for subscribing in clients {
        for publishing in clients {
            let topic = format!("{}/a", name("rumqttc"));
            let (mut subscriber, mut publisher) = (subscribing(far), publishing(near));
            subscriber.subscribe(&topic.replace("/a", "/+")).await;
            for qos in 0..=2 {
                let payload = format!("at {qos}").into_bytes();
                publisher.publish(&topic, qos, payload.clone()).await;
                let wanted = Seen::Message { topic: topic.clone(), payload, qos };
                assert_eq!(subscriber.next().await, wanted);
            }
        }
    }
}

impl Client {
    fn v4(address: SocketAddr) -> Self {
        use rumqttc::{Event, Packet};
        let options =
            rumqttc::MqttOptions::new(name("v4-"), address.ip().to_string(), address.port());
        let (client, mut events) = rumqttc::AsyncClient::new(options, WAITING);
        let (send, seen) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            loop {
                let event = match events.poll().await.expect("the connection holds") {
                    Event::Incoming(Packet::SubAck(_)) => Seen::Subscribed,
                    Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => Seen::Published,
                    Event::Incoming(Packet::Publish(publish)) => Seen::Message {
                        topic: publish.topic,
                        payload: publish.payload.to_vec(),
                        qos: publish.qos as u8,
                    },
                    _ => continue,
                };
                if send.send(event).await.is_err() {
                    return;
                }
            }
        });
        Self { sender: Sender::V4(client), seen }
    }

    fn v5(address: SocketAddr) -> Self {
        use v5::Event;
        use v5::mqttbytes::v5::Packet;
        let options = v5::MqttOptions::new(name("v5-"), address.ip().to_string(), address.port());
        let (client, mut events) = v5::AsyncClient::new(options, WAITING);
        let (send, seen) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            loop {
                let event = match events.poll().await.expect("the connection holds") {
                    Event::Incoming(Packet::SubAck(_)) => Seen::Subscribed,
                    Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => Seen::Published,
                    Event::Incoming(Packet::Publish(publish)) => Seen::Message {
                        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                        payload: publish.payload.to_vec(),
                        qos: publish.qos as u8,
                    },
                    _ => continue,
                };
                if send.send(event).await.is_err() {
                    return;
                }
            }
        });
        Self { sender: Sender::V5(client), seen }
    }

    async fn next(&mut self) -> Seen {
        let next = tokio::time::timeout(testkit::DEADLINE, self.seen.recv()).await;
        next.expect("something happens in time").expect("the event loop runs")
    }

    async fn subscribe(&mut self, filter: &str) {
        match &self.sender {
            Sender::V4(client) => client
                .subscribe(filter, rumqttc::QoS::ExactlyOnce)
                .await
                .expect("the event loop runs"),
            Sender::V5(client) => client
                .subscribe(filter, v5::mqttbytes::QoS::ExactlyOnce)
                .await
                .expect("the event loop runs"),
        }
        assert_eq!(self.next().await, Seen::Subscribed);
    }

    async fn publish(&mut self, topic: &str, qos: u8, payload: Vec<u8>) {
        match &self.sender {
            Sender::V4(client) => {
                let qos = rumqttc::qos(qos).expect("0 to 2");
                client.publish(topic, qos, false, payload).await.expect("the event loop runs");
            }
            Sender::V5(client) => {
                let qos = v5::mqttbytes::qos(qos).expect("0 to 2");
                client.publish(topic, qos, false, payload).await.expect("the event loop runs");
            }
        }
        if qos > 0 {
            assert_eq!(self.next().await, Seen::Published);
        }
    }
}
