//! The command line of `causeway bench`.

use std::time::Duration;

use clap::{Args, Subcommand};
use mqtt_codec::{QoS, Version};

/// Load a broker, check what it delivers and print what it cost.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  causeway bench pairs --pairs 10 --qos 1 --pid $(pidof mosquitto)
  causeway bench pairs --pairs 10 --rate 5000 --duration 10
  causeway bench fanout --subscribers 100 --payload 256 --json
  causeway bench pairs --publish-to 127.0.0.1:1883 --subscribe-to 127.0.0.1:1884 --qos 2
  causeway bench pairs --persistent --qos 1 --pid 4711
  causeway bench queue --sessions 10000 --messages 100 --pid 4711
  causeway bench idle --connections 15000 --pid 4711

Exit codes: 0 all checks passed, 1 the run could not be made, 3 the broker lost (QoS 1 and 2, or
QoS 0 within the window), repeated (QoS 0 and 2), reordered, made up or refused messages.")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(super) load: Load,
}

/// The shapes of load.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Load {
    /// N publishers, each with a topic and a subscriber of its own
    Pairs {
        /// Publisher-subscriber pairs
        #[arg(long, value_name = "N", default_value_t = 10)]
        pairs: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Few publishers, many subscribers, one topic: every subscriber receives everything
    Fanout {
        /// Publishers
        #[arg(long, value_name = "N", default_value_t = 1)]
        publishers: u32,
        /// Subscribers
        #[arg(long, value_name = "N", default_value_t = 100)]
        subscribers: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Many publishers, few subscribers, one topic
    Fanin {
        /// Publishers
        #[arg(long, value_name = "N", default_value_t = 100)]
        publishers: u32,
        /// Subscribers
        #[arg(long, value_name = "N", default_value_t = 1)]
        subscribers: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Subscribers in one shared group: every message goes to one of them
    Shared {
        /// Publishers
        #[arg(long, value_name = "N", default_value_t = 10)]
        publishers: u32,
        /// Members of the group
        #[arg(long, value_name = "N", default_value_t = 10)]
        subscribers: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Connections that do nothing: memory and connect rate
    Idle {
        /// Connections to hold; each takes a file descriptor (see `ulimit -n`)
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        connections: u32,
        /// Seconds to hold them before memory is read
        #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
        hold: Duration,
        #[command(flatten)]
        broker: Broker,
    },
    /// Connections that come and go: connect rate and the time to a CONNACK
    Connect {
        /// Connections to open, each closed after its CONNACK
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        count: u32,
        /// Connections per second; as fast as possible when left out
        #[arg(long, value_name = "PER_SECOND", value_parser = per_second)]
        rate: Option<f64>,
        /// Connections being opened at the same time
        #[arg(long, value_name = "N", default_value_t = 16)]
        parallel: u32,
        /// Sessions outlive their connections, under client ids PREFIX0, PREFIX1, ...: the next run with the same prefix resumes them
        #[arg(long, value_name = "PREFIX")]
        kept: Option<String>,
        #[command(flatten)]
        broker: Broker,
    },
    /// Sessions whose clients are away: makes them, queues messages for all of them, drains them
    Queue(QueueArgs),
}

/// What is queued for whom.
#[derive(Clone, Debug, Args)]
pub(super) struct QueueArgs {
    /// Sessions, all subscribed to one topic
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) sessions: u32,
    /// Messages published to it with QoS 1
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) messages: u64,
    /// Payload size in bytes, at least 8
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(super) payload: usize,
    /// Most unacknowledged messages of the publisher
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) inflight: u16,
    /// Where subscribers connect (may be repeated: they take turns) [default: the broker]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) subscribe_to: Vec<String>,
    #[command(flatten)]
    pub(super) broker: Broker,
}

/// Which broker, and how to show the result.
#[derive(Clone, Debug, Args)]
pub(super) struct Broker {
    /// Host of the broker
    #[arg(long, default_value = "127.0.0.1")]
    pub(super) host: String,
    /// Port of the broker
    #[arg(long, default_value_t = 1883)]
    pub(super) port: u16,
    /// Protocol version
    #[arg(long, value_name = "3.1.1|5", default_value = "3.1.1", value_parser = version)]
    pub(super) mqtt: Version,
    /// User name
    #[arg(long)]
    pub(super) username: Option<String>,
    /// Password
    #[arg(long)]
    pub(super) password: Option<String>,
    /// Keep Alive of every connection; 0 turns it off
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(super) keep_alive: u16,
    /// Process id of a broker, whose processor time and memory are read (may be repeated)
    #[arg(long, value_name = "PID")]
    pub(super) pid: Vec<u32>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// What is sent, for how long and how fast.
#[derive(Clone, Debug, Args)]
pub(super) struct Traffic {
    #[command(flatten)]
    pub(super) broker: Broker,
    /// Where publishers connect (may be repeated: they take turns) [default: the broker]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) publish_to: Vec<String>,
    /// Where subscribers connect (may be repeated: they take turns) [default: the broker]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) subscribe_to: Vec<String>,
    /// Quality of service of publishers and subscribers
    #[arg(long, value_name = "0|1|2", default_value = "0", value_parser = qos)]
    pub(super) qos: QoS,
    /// Payload size in bytes, at least 16
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub(super) payload: usize,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) duration: Duration,
    /// Measure this many published messages instead of a duration
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(super) messages: Option<u64>,
    /// Seconds of the same load before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(super) warmup: Duration,
    /// Seconds without any arrival until what is still missing counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) drain: Duration,
    /// Messages per second of all publishers together; as fast as possible when left out
    #[arg(long, value_name = "PER_SECOND", value_parser = per_second)]
    pub(super) rate: Option<f64>,
    /// Most unacknowledged QoS 1 and 2 messages of a publisher
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) inflight: u16,
    /// Most messages on their way to a subscriber, so that no bounded queue must drop; 0: no limit [default: 1000, fewer when payloads are large]
    #[arg(long, value_name = "N")]
    pub(super) window: Option<u64>,
    /// Wildcard filters that other clients subscribe to first, and that match nothing sent here
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) filters: u32,
    /// Subscribers have sessions that outlive their connections
    #[arg(long)]
    pub(super) persistent: bool,
    /// Subscribe with wildcard filters
    #[arg(long)]
    pub(super) wildcard: bool,
    /// First levels of all topics
    #[arg(long, value_name = "TOPIC", default_value = "bench")]
    pub(super) topic_prefix: String,
    /// Threads that carry the load [default: half of the processors, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) threads: Option<u16>,
    /// At full speed, most microseconds to let arrivals gather before they are read; keeps the
    /// tool cheaper than the broker
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 20_000)]
    pub(super) gather: u32,
}

fn qos(text: &str) -> Result<QoS, String> {
    let bits = text.parse::<u8>().ok();
    bits.and_then(QoS::from_bits).ok_or_else(|| "must be 0, 1 or 2".to_owned())
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "3.1.1" | "311" | "4" => Ok(Version::V3_1_1),
        "5" | "5.0" => Ok(Version::V5),
        _ => Err("must be 3.1.1 or 5".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let secs = text.trim_end_matches('s').parse::<f64>().ok();
    let span = secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    span.ok_or_else(|| "must be a number of seconds, such as 5 or 0.5".to_owned())
}

fn per_second(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "must be a number above 0".to_owned())
}
