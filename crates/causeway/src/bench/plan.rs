//! Who publishes what to whom: turns the command line into connections and flows, and refuses
//! what cannot be run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, ensure};
use mqtt_codec::{QoS, TopicName};

use super::args::{Broker, Load, Traffic};
use super::flow::{Flow, Home, Lane, Sharing};
use super::gather::Gather;
use super::open::{Job, Stay, resolve};
use super::publisher::{Outline, Pace, Publisher};
use super::stamp::{MOST_PUBLISHERS, STAMP_LEN};
use super::subscriber::Subscriber;
use super::wire::{Granted, Login, Template};
use super::worker::Role;

/// Filters per SUBSCRIBE and client when filters are loaded first.
const FILTERS_PER_CLIENT: u32 = 500;
/// Messages on their way to one subscriber, unless told otherwise.
const WINDOW: u64 = 1_000;
/// Bytes on their way to one subscriber, unless told otherwise.
const WINDOW_BYTES: u64 = 512 * 1024;

/// What a socket is sure to hold: a broker must not wait for a tool that lets arrivals gather.
const SOCKET_BYTES: u64 = 64 * 1024;

/// A traffic load, ready to be connected.
#[derive(Debug)]
pub(super) struct Plan {
    /// One of `pairs`, `fanout`, `fanin`, `shared`.
    pub(super) name: &'static str,
    pub(super) traffic: Traffic,
    /// Publishers, subscribers and flows of one kind each.
    groups: u32,
    publishers: u32,
    subscribers: u32,
    sharing: Sharing,
    publish_to: Vec<SocketAddr>,
    subscribe_to: Vec<SocketAddr>,
}

/// A connection of the load and where it goes.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) worker: usize,
    pub(super) role: Role,
}

impl Plan {
    /// Reads the command line; `None` for a load without messages.
    pub(super) fn new(load: &Load) -> anyhow::Result<Option<Self>> {
        let (name, groups, publishers, subscribers, traffic) = match load {
            Load::Pairs { pairs, traffic } => ("pairs", *pairs, 1, 1, traffic),
            Load::Fanout { publishers, subscribers, traffic } => {
                ("fanout", 1, *publishers, *subscribers, traffic)
            }
            Load::Fanin { publishers, subscribers, traffic } => {
                ("fanin", 1, *publishers, *subscribers, traffic)
            }
            Load::Shared { publishers, subscribers, traffic } => {
                ("shared", 1, *publishers, *subscribers, traffic)
            }
            Load::Idle { .. } | Load::Connect { .. } | Load::Queue(_) => return Ok(None),
        };
        ensure!(groups.min(publishers).min(subscribers) > 0, "a load needs at least one of each");
        ensure!(
            groups.saturating_mul(publishers) < MOST_PUBLISHERS,
            "publishers must be fewer than {MOST_PUBLISHERS}"
        );
        ensure!(traffic.payload >= STAMP_LEN, "--payload must be at least {STAMP_LEN}");
        ensure!(traffic.payload < 256 << 20, "--payload must be less than 256 MiB");
        let prefix = &traffic.topic_prefix;
        TopicName::new(prefix.clone()).with_context(|| format!("--topic-prefix {prefix:?}"))?;
        ensure!(prefix.len() < 60_000, "--topic-prefix must be shorter than 60,000 bytes");
        let sharing = if name == "shared" { Sharing::Group } else { Sharing::Everyone };
        Ok(Some(Self {
            name,
            traffic: traffic.clone(),
            groups,
            publishers,
            subscribers,
            sharing,
            publish_to: addresses(&traffic.publish_to, &traffic.broker)?,
            subscribe_to: addresses(&traffic.subscribe_to, &traffic.broker)?,
        }))
    }

    /// All publishers.
    pub(super) const fn publishers(&self) -> u32 {
        self.groups * self.publishers
    }

    /// All subscribers.
    pub(super) const fn subscribers(&self) -> u32 {
        self.groups * self.subscribers
    }

    /// Deliveries each published message must lead to.
    pub(super) const fn copies(&self) -> u64 {
        match self.sharing {
            Sharing::Everyone => self.subscribers as u64,
            Sharing::Group => 1,
        }
    }

    /// Threads that carry the load.
    pub(super) fn workers(&self) -> usize {
        let half = || available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 8));
        let asked = self.traffic.threads.map_or_else(half, usize::from);
        asked.min((self.publishers() + self.subscribers()) as usize)
    }

    /// Most messages on their way to one subscriber; 0 for no limit.
    pub(super) fn window(&self) -> u64 {
        let by_bytes = (WINDOW_BYTES / self.traffic.payload as u64).max(1);
        self.traffic.window.unwrap_or_else(|| WINDOW.min(by_bytes))
    }

    /// How workers let arrivals gather: only at full speed, as it delays them, and only when
    /// enough messages may be on their way.
    pub(super) fn gather(&self) -> Gather {
        let window = match self.window() {
            0 => u64::MAX,
            window => window / u64::from(self.publishers),
        };
        let on_the_way = match self.traffic.qos {
            QoS::AtMostOnce => window,
            QoS::AtLeastOnce | QoS::ExactlyOnce => window.min(self.traffic.inflight.into()),
        };
        let buffered = SOCKET_BYTES / self.traffic.payload as u64;
        let on_the_way = on_the_way.min(buffered);
        let most = if self.traffic.rate.is_none() { self.traffic.gather } else { 0 };
        Gather::new(Duration::from_micros(most.into()), on_the_way)
    }

    /// The schedule of all publishers; `None` for full speed.
    pub(super) fn pace(&self) -> Option<Pace> {
        let publishers = self.publishers();
        self.traffic.rate.map(|rate| Pace { rate, publishers })
    }

    /// Connections of other clients that subscribe to filters which match nothing sent here.
    pub(super) fn filter_jobs(&self) -> Vec<Job> {
        let all: Vec<u32> = (0..self.traffic.filters).collect();
        let chunks = all.chunks(FILTERS_PER_CLIENT as usize).enumerate();
        let prefix = &self.traffic.topic_prefix;
        // Half of them share the first level only, half put a wildcard beside the load's topics.
        let filter = |&number: &u32| match number % 2 {
            0 => format!("{prefix}/filter/{number}/+"),
            _ => format!("{prefix}/+/f{number}/#"),
        };
        chunks
            .map(|(at, numbers)| Job {
                broker: turn(&self.subscribe_to, at),
                client_id: client_id('f', at),
                filters: numbers.iter().map(filter).collect(),
                qos: QoS::AtMostOnce,
                stay: Stay::Clean,
            })
            .collect()
    }

    /// The connections of all publishers, then of all subscribers.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let qos = self.traffic.qos;
        let publisher = |at: u32| Job {
            broker: turn(&self.publish_to, at as usize),
            client_id: client_id('p', at as usize),
            filters: Vec::new(),
            qos,
            stay: Stay::Clean,
        };
        let subscriber = |at: u32| Job {
            broker: turn(&self.subscribe_to, at as usize),
            client_id: client_id('s', at as usize),
            filters: vec![self.filter(at / self.subscribers)],
            qos,
            stay: if self.traffic.persistent { Stay::Kept } else { Stay::Clean },
        };
        let publishers = (0..self.publishers()).map(publisher);
        publishers.chain((0..self.subscribers()).map(subscriber)).collect()
    }

    /// Connections that end the sessions which outlive this run.
    pub(super) fn last_jobs(&self) -> Vec<Job> {
        let mut jobs = self.jobs();
        jobs.retain(|job| job.stay == Stay::Kept);
        for job in &mut jobs {
            (job.stay, job.filters) = (Stay::Clean, Vec::new());
        }
        jobs
    }

    /// Roles and places for the connections of [`Self::jobs`], in the same order.
    pub(super) fn seats(&self, granted: &[Granted]) -> Vec<Seat> {
        let mut places = Places::new(self.workers());
        let homes: Vec<Home> = (0..self.publishers()).map(|at| places.publisher(at)).collect();
        let flows: Vec<Arc<Flow>> = homes
            .chunks(self.publishers as usize)
            .enumerate()
            .map(|(group, homes)| Arc::new(self.flow(group as u32, homes)))
            .collect();
        let flow_of = |at: u32, size: u32| flows.get((at / size) as usize).expect("one per group");
        let mut seats = Vec::with_capacity(granted.len());
        for (at, (home, granted)) in (0..).zip(homes.iter().zip(granted)) {
            let flow = flow_of(at, self.publishers);
            let publisher = Publisher::new(self.outline(flow, at, granted));
            seats.push(Seat { worker: home.worker, role: Role::Publisher(publisher) });
        }
        for at in 0..self.subscribers() {
            let flow = Arc::clone(flow_of(at, self.subscribers));
            let number = (at % self.subscribers) as usize;
            let subscriber = Subscriber::new(flow, number, self.traffic.broker.mqtt);
            seats.push(Seat { worker: places.subscriber(at), role: Role::Subscriber(subscriber) });
        }
        seats
    }

    fn flow(&self, group: u32, homes: &[Home]) -> Flow {
        let window = match self.window() {
            0 => 0,
            window => (window / u64::from(self.publishers)).max(1),
        };
        let subscribers = self.subscribers as usize;
        let lane = |&home: &Home| Lane::new(self.sharing, subscribers, window, home);
        Flow { first_publisher: group * self.publishers, lanes: homes.iter().map(lane).collect() }
    }

    fn outline(&self, flow: &Arc<Flow>, at: u32, granted: &Granted) -> Outline {
        let traffic = &self.traffic;
        let topic = format!("{}/{}/{}/t", traffic.topic_prefix, self.name, at / self.publishers);
        Outline {
            flow: Arc::clone(flow),
            lane: (at % self.publishers) as usize,
            template: Template::new(traffic.broker.mqtt, &topic, traffic.qos, traffic.payload),
            qos: traffic.qos,
            inflight: traffic.inflight.min(granted.receive_maximum),
            pace: self.pace(),
        }
    }

    fn filter(&self, group: u32) -> String {
        let share = match self.sharing {
            Sharing::Everyone => "",
            Sharing::Group => "$share/bench/",
        };
        let last = if self.traffic.wildcard { "+" } else { "t" };
        format!("{share}{}/{}/{group}/{last}", self.traffic.topic_prefix, self.name)
    }
}

/// Hands out places at the workers in turn; in `pairs` both ends meet at the same worker.
#[derive(Debug)]
struct Places(Vec<usize>);

impl Places {
    fn new(workers: usize) -> Self {
        Self(vec![0; workers])
    }

    fn publisher(&mut self, at: u32) -> Home {
        let worker = self.subscriber(at);
        let taken = self.0.get_mut(worker).expect("a remainder of the length");
        *taken += 1;
        Home { worker, peer: *taken - 1 }
    }

    fn subscriber(&self, at: u32) -> usize {
        at as usize % self.0.len()
    }
}

/// What every CONNECT says.
pub(super) fn login(broker: &Broker) -> Login {
    Login {
        version: broker.mqtt,
        keep_alive_secs: broker.keep_alive,
        username: broker.username.clone(),
        password: broker.password.clone(),
    }
}

/// Time between two PINGREQ: half of what the broker allows; zero for none.
pub(super) fn ping_every<'a>(
    broker: &Broker,
    granted: impl Iterator<Item = &'a Granted>,
) -> Duration {
    let secs = granted.filter_map(|granted| granted.keep_alive_secs).min();
    Duration::from_secs(secs.unwrap_or(broker.keep_alive).into()) / 2
}

/// A client id that no other run on this machine has.
pub(super) fn client_id(role: char, number: usize) -> String {
    format!("bench{}{role}{number}", std::process::id())
}

/// The address of the broker.
pub(super) fn address(broker: &Broker) -> String {
    let bare = broker.host.trim_start_matches('[').trim_end_matches(']');
    if bare.contains(':') {
        format!("[{bare}]:{}", broker.port)
    } else {
        format!("{bare}:{}", broker.port)
    }
}

fn addresses(texts: &[String], broker: &Broker) -> anyhow::Result<Vec<SocketAddr>> {
    if texts.is_empty() {
        return Ok(vec![resolve(&address(broker))?]);
    }
    texts.iter().map(|text| resolve(text)).collect()
}

fn turn(addresses: &[SocketAddr], at: usize) -> SocketAddr {
    *addresses.get(at % addresses.len()).expect("at least one address was resolved")
}
