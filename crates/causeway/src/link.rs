//! One connection to a server, in either version, as the clients of this crate need it.
//!
//! [`Link::next`] drives the connection; requests go through [`Requests`], which is cheap to clone
//! and may be used from another task. Acknowledgements are sent only when [`Requests::acknowledge`]
//! is called, so a message is never acknowledged before it was printed. There is no reconnecting.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use crate::connect::{ConnectArgs, ProtocolVersion};

mod v311;
mod v5;

/// The largest packet of the protocol: 256 MiB and its header.
const MAX_PACKET: u32 = 268_435_455 + 5;
/// QoS 1 and 2 messages that are sent before the first is acknowledged. As mosquitto_pub: its server
/// ends connections of MQTT 3.1.1 that send more.
const IN_FLIGHT: u16 = 20;
/// rumqttc gives up when one write takes longer. A server that is slow to read is no error here.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long the server may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A message to publish.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// Used by MQTT 5 only.
    pub(crate) properties: Option<PublishProperties>,
}

/// A message that was received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) packet_id: u16,
    pub(crate) properties: Option<PublishProperties>,
}

/// A filter to subscribe to.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) filter: String,
    pub(crate) qos: u8,
    /// Used by MQTT 5 only.
    pub(crate) no_local: bool,
    /// Used by MQTT 5 only.
    pub(crate) retain_as_published: bool,
    /// 0 always, 1 for new subscriptions, 2 never. Used by MQTT 5 only.
    pub(crate) retain_handling: u8,
}

/// What happened on the connection.
#[derive(Debug)]
pub(crate) enum Step {
    /// The server accepted the connection.
    Connected,
    /// Answer to a SUBSCRIBE: per filter the granted QoS, or why it was refused.
    Subscribed(Vec<Result<u8, String>>),
    /// Answer to an UNSUBSCRIBE.
    Unsubscribed,
    /// A message came.
    Message(Received),
    /// A QoS 0 message was written.
    Sent,
    /// A QoS 1 or 2 message is done: acknowledged, or refused and why.
    Completed(Result<(), String>),
    /// The last packet of an incoming QoS 2 message was written.
    Released(u16),
    /// DISCONNECT was written.
    Closing,
    /// Nothing that matters to the clients.
    Other,
}

/// The connection.
pub(crate) struct Link {
    events: Events,
    debug: bool,
}

/// The way to ask something of a connection.
#[derive(Clone)]
pub(crate) enum Requests {
    V311(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

/// How many requests may wait for the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    /// A few: for a publisher, which waits.
    Few,
    /// As many as a server may await: for a subscriber, which never waits with its answers.
    AllAnswers,
}

impl Waiting {
    fn capacity(self) -> usize {
        match self {
            Self::Few => 16,
            // Every packet id once, and SUBSCRIBE, UNSUBSCRIBE and DISCONNECT.
            Self::AllAnswers => 65_535 + 16,
        }
    }
}

enum Events {
    V311(Box<rumqttc::EventLoop>),
    V5(Box<rumqttc::v5::EventLoop>),
}

impl Link {
    /// A connection as `args` say, opened by the first call of [`next`](Self::next).
    pub(crate) fn new(args: &ConnectArgs, client_id: String, waiting: Waiting) -> (Requests, Self) {
        let (requests, events) = match args.protocol_version {
            ProtocolVersion::V311 => {
                let (client, events) = v311::open(args, client_id, waiting);
                (Requests::V311(client), Events::V311(Box::new(events)))
            }
            ProtocolVersion::V5 => {
                let (client, events) = v5::open(args, client_id, waiting);
                (Requests::V5(client), Events::V5(Box::new(events)))
            }
        };
        (requests, Self { events, debug: args.debug })
    }

    /// Opens the connection and waits until the server accepts it.
    pub(crate) async fn connect(&mut self) -> anyhow::Result<()> {
        let accepted = async {
            while !matches!(self.next().await?, Step::Connected) {}
            anyhow::Ok(())
        };
        tokio::time::timeout(CONNECT_TIMEOUT, accepted)
            .await
            .context("the server did not answer")?
    }

    /// Waits for what happens next. Dropping the future may lose what is being written: do so only
    /// at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Step> {
        match &mut self.events {
            Events::V311(events) => {
                let event = events.poll().await.map_err(|error| v311::lost(&error))?;
                self.trace(|| v311::describe(&event));
                Ok(v311::step(event))
            }
            Events::V5(events) => {
                let event = events.poll().await.map_err(|error| v5::lost(&error))?;
                self.trace(|| v5::describe(&event));
                Ok(v5::step(event))
            }
        }
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        if self.debug {
            complain(&text());
        }
    }
}

impl Requests {
    /// Publishes; waits while the connection has enough to do.
    pub(crate) async fn publish(&self, message: &Outgoing, payload: Bytes) -> anyhow::Result<()> {
        match self {
            Self::V311(client) => v311::publish(client, message, payload).await,
            Self::V5(client) => v5::publish(client, message, payload).await,
        }
    }

    /// Subscribes to all of `subscriptions` with one packet.
    pub(crate) fn subscribe(&self, subscriptions: &[Subscription]) -> anyhow::Result<()> {
        match self {
            Self::V311(client) => v311::subscribe(client, subscriptions),
            Self::V5(client) => v5::subscribe(client, subscriptions),
        }
    }

    /// Ends a subscription.
    pub(crate) fn unsubscribe(&self, filter: &str) -> anyhow::Result<()> {
        match self {
            Self::V311(client) => client.try_unsubscribe(filter).context("cannot unsubscribe"),
            Self::V5(client) => client.try_unsubscribe(filter).context("cannot unsubscribe"),
        }
    }

    /// Acknowledges a QoS 1 or 2 message; for QoS 0 there is nothing to do.
    pub(crate) fn acknowledge(&self, message: &Received) -> anyhow::Result<()> {
        match self {
            Self::V311(client) => v311::acknowledge(client, message),
            Self::V5(client) => v5::acknowledge(client, message),
        }
    }

    /// Ends the connection after everything asked so far.
    pub(crate) fn disconnect(&self) -> anyhow::Result<()> {
        match self {
            Self::V311(client) => client.try_disconnect().context("cannot disconnect"),
            Self::V5(client) => client.try_disconnect().context("cannot disconnect"),
        }
    }
}

/// A line on standard error.
pub(crate) fn complain(line: &str) {
    use std::io::Write as _;
    // With standard error closed there is nobody to tell.
    writeln!(std::io::stderr(), "{line}").ok();
}

/// A reason code's name as words: `NotAuthorized` becomes `not authorized`.
fn words(reason: &impl std::fmt::Debug) -> String {
    let mut text = String::new();
    for (index, letter) in format!("{reason:?}").chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// A reason code with the server's own words, when it sent some.
fn reason(code: &impl std::fmt::Debug, said: Option<&String>) -> String {
    match said {
        Some(said) => format!("{} ({said})", words(code)),
        None => words(code),
    }
}

/// The host as rumqttc must see it to make an address of it.
fn dialled(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}
