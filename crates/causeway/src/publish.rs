//! `causeway pub`: publishes and waits until the server has taken every message.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::{ArgGroup, Args};
use mqtt_codec::TopicName;
use tokio::task::JoinHandle;

use crate::connect::{ConnectArgs, ProtocolVersion};
use crate::link::{Link, Outgoing, Requests, Step, Waiting, complain};

mod properties;
mod source;

use source::Source;

/// How long the end of the connection may take.
const LAST_PACKET: Duration = Duration::from_secs(1);
/// rumqttc counts a refused QoS 2 message as on its way for ever, so before its window is full of
/// them, `pub` gives up.
const MAX_REFUSED: u64 = 19;

/// Publish messages, as mosquitto_pub does.
#[derive(Clone, Debug, Args)]
#[command(
    disable_help_flag = true,
    group = ArgGroup::new("payload").required(true),
    after_help = "\
Examples:
  causeway pub -t demo/a -m hello
  causeway pub -h 10.0.0.7 -p 1884 -t demo/a -m hello -q 1 -r
  causeway pub -t demo/picture -f picture.png -V 5 -D publish content-type image/png
  dmesg --follow | causeway pub -t logs/kernel -l -q 1
  causeway pub -t demo/a -m tick --repeat 10 --repeat-delay 0.5

With QoS 1 and 2 the command ends when the server has acknowledged every message.
Exit codes: 0 all taken, 1 connection refused or lost, or messages refused, 2 wrong usage."
)]
pub(crate) struct PubArgs {
    /// Topic to publish to
    #[arg(short, long)]
    topic: String,
    /// The message
    #[arg(short, long, value_name = "TEXT", group = "payload", allow_hyphen_values = true)]
    message: Option<String>,
    /// Send this file's content as one message
    #[arg(short, long, value_name = "FILE", group = "payload")]
    file: Option<PathBuf>,
    /// Send each line of standard input as a message
    #[arg(short = 'l', long, group = "payload", conflicts_with = "repeat")]
    stdin_lines: bool,
    /// Send all of standard input as one message
    #[arg(short = 's', long, group = "payload")]
    stdin: bool,
    /// Send an empty message (with -r: removes the retained one)
    #[arg(short, long, group = "payload")]
    null_message: bool,
    /// QoS: 0, 1 or 2
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Let the server retain the message
    #[arg(short, long)]
    retain: bool,
    /// Send the message this many times
    #[arg(long, value_name = "COUNT", default_value_t = 1, hide_default_value = true)]
    repeat: u64,
    /// Seconds between repetitions, also parts of one
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, hide_default_value = true)]
    repeat_delay: f64,
    /// Property of the message (MQTT 5), as often as needed: `-D publish NAME VALUE`, or
    /// `-D publish user-property NAME VALUE`. Names: content-type, response-topic,
    /// correlation-data, message-expiry-interval, payload-format-indicator, user-property
    #[arg(
        short = 'D',
        long = "property",
        num_args = 3..=4,
        value_names = ["publish", "NAME", "VALUE"]
    )]
    properties: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What became of the messages.
#[derive(Debug, Default)]
struct Tally {
    taken: u64,
    refused: u64,
}

/// Runs the command.
pub(crate) async fn run(args: PubArgs) -> anyhow::Result<ExitCode> {
    let quiet = args.connect.quiet;
    match publish(args).await {
        Ok(tally) if tally.refused == 0 => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
        Err(_) if quiet => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    }
}

async fn publish(args: PubArgs) -> anyhow::Result<Tally> {
    let message = args.message()?;
    let delay = args.delay()?;
    let source = args.source().await?;
    let client_id = args.connect.client_id("pub");
    let (requests, mut link) = Link::new(&args.connect, client_id, Waiting::Few);
    link.connect().await?;

    let sender = requests.clone();
    let repeat = args.repeat;
    let producer = tokio::spawn(async move { source.send(&sender, &message, repeat, delay).await });
    let mut tally = Tally::default();
    let watched = watch(&mut link, producer, &mut tally, args.connect.quiet).await;
    watched.with_context(|| format!("after {} messages were taken", tally.taken))?;
    close(&requests, &mut link).await;
    Ok(tally)
}

/// Drives the connection until everything that `producer` sent is taken or refused.
async fn watch(
    link: &mut Link,
    mut producer: JoinHandle<anyhow::Result<u64>>,
    tally: &mut Tally,
    quiet: bool,
) -> anyhow::Result<()> {
    let mut total = None;
    while total != Some(tally.taken + tally.refused) {
        // The future is kept until it is done: dropped half-way, it could lose a message.
        let mut next = pin!(link.next());
        let step = loop {
            tokio::select! {
                step = &mut next => break step?,
                sent = &mut producer, if total.is_none() => {
                    total = Some(sent.context("the sender failed")??);
                    if total == Some(tally.taken + tally.refused) {
                        return Ok(());
                    }
                }
            }
        };
        match step {
            Step::Sent | Step::Completed(Ok(())) => tally.taken += 1,
            Step::Completed(Err(why)) => {
                tally.refused += 1;
                if !quiet {
                    complain(&format!("error: the server refused a message: {why}"));
                }
                if tally.refused >= MAX_REFUSED {
                    bail!("the server refused {} messages", tally.refused);
                }
            }
            Step::Connected
            | Step::Subscribed(_)
            | Step::Unsubscribed
            | Step::Message(_)
            | Step::Released(_)
            | Step::Closing
            | Step::Other => {}
        }
    }
    Ok(())
}

/// Ends the connection; that it may already be lost does not matter any more.
async fn close(requests: &Requests, link: &mut Link) {
    if requests.disconnect().is_err() {
        return;
    }
    let closing = async { while !matches!(link.next().await, Ok(Step::Closing) | Err(_)) {} };
    tokio::time::timeout(LAST_PACKET, closing).await.ok();
}

impl PubArgs {
    fn message(&self) -> anyhow::Result<Outgoing> {
        self.connect.check()?;
        TopicName::new(self.topic.as_str())
            .with_context(|| format!("{:?} is not a topic to publish to", self.topic))?;
        let properties = properties::parse(&self.properties)?;
        if properties.is_some() && self.connect.protocol_version != ProtocolVersion::V5 {
            bail!("--property needs MQTT 5: add -V 5");
        }
        Ok(Outgoing { topic: self.topic.clone(), qos: self.qos, retain: self.retain, properties })
    }

    fn delay(&self) -> anyhow::Result<Duration> {
        Duration::try_from_secs_f64(self.repeat_delay)
            .context("--repeat-delay must be a number of seconds")
    }

    async fn source(&self) -> anyhow::Result<Source> {
        if let Some(text) = &self.message {
            return Ok(Source::One(Bytes::copy_from_slice(text.as_bytes())));
        }
        if let Some(path) = &self.file {
            return Source::file(path).await;
        }
        if self.stdin {
            return Source::standard_input().await;
        }
        if self.stdin_lines { Ok(Source::Lines) } else { Ok(Source::One(Bytes::new())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        args: PubArgs,
    }

    fn parse(flags: &[&str]) -> Result<PubArgs, String> {
        let line = ["pub", "-t", "a"].iter().chain(flags);
        let parsed = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        parsed.args.message().map_err(|error| format!("{error:#}"))?;
        Ok(parsed.args)
    }

    #[test]
    fn the_habits_of_mosquitto_pub_are_understood() {
        let flags = "-h host -p 1884 -m hi -q 2 -r -i me -u user -P word -V mqttv5 -k 10 -d";
        let args = parse(&flags.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!((args.connect.host.as_str(), args.connect.port), ("host", 1884));
        assert_eq!((args.message.as_deref(), args.qos, args.retain), (Some("hi"), 2, true));
        assert_eq!(args.connect.protocol_version, ProtocolVersion::V5);
        assert_eq!(parse(&["-m", "-5"]).unwrap().message.as_deref(), Some("-5"));
    }

    #[test]
    fn exactly_one_payload_is_needed() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["-m", "a", "-n"]).is_err());
        assert!(parse(&["-l", "-s"]).is_err());
        for flag in ["-n", "-l", "-s"] {
            assert!(parse(&[flag]).is_ok(), "{flag}");
        }
    }

    #[test]
    fn what_cannot_be_published_is_refused_before_connecting() {
        assert!(parse(&["-m", "a", "-q", "3"]).is_err());
        assert!(parse(&["-m", "a", "-t", "b/#"]).is_err());
        let properties = ["-m", "a", "-D", "publish", "content-type", "text/plain"];
        assert_eq!(parse(&properties).unwrap_err(), "--property needs MQTT 5: add -V 5");
    }

    #[test]
    fn properties_are_followed_by_other_flags() {
        let flags = "-V 5 -D publish user-property k v -D publish content-type x -q 1 -m a";
        let args = parse(&flags.split(' ').collect::<Vec<_>>()).unwrap();
        let properties = args.message().unwrap().properties.unwrap();
        assert_eq!(properties.user_properties, [("k".to_owned(), "v".to_owned())]);
        assert_eq!(properties.content_type.as_deref(), Some("x"));
        assert_eq!(args.qos, 1);
    }
}
