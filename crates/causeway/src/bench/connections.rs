//! Loads without messages: connections that stay and do nothing, and connections that come and
//! go. What they cost is memory and processor time per connection.

use std::fmt::{self, Display, Formatter};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use mqtt_codec::QoS;
use serde::Serialize;

use super::args::Broker;
use super::board::idle_until;
use super::drive::{usages, watch};
use super::open::{Job, Stay, open, open_all, resolve};
use super::plan::{address, client_id, login, ping_every};
use super::queue::named_jobs;
use super::report::{Cost, Costs, Latency, grouped};
use super::wire::{DISCONNECT, Login, PINGREQ};
use super::worker::latencies;

/// The result of a load without messages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ConnectionReport {
    load: &'static str,
    connections: u64,
    /// Time it took to open them.
    connect_secs: f64,
    connects_per_sec: f64,
    /// From the start of a connection to its CONNACK, in microseconds.
    latency_us: Option<Latency>,
    /// All watched brokers together; `null` when no process id was given.
    broker_cpu_us_per_connection: Option<f64>,
    broker_kib_per_connection: Option<f64>,
    own_cpu_us_per_connection: f64,
    brokers: Vec<Cost>,
    own: Cost,
}

/// Opens connections, holds them and reads the memory they take.
pub(super) fn idle(
    broker: &Broker,
    connections: u32,
    hold: Duration,
    bar: &ProgressBar,
) -> anyhow::Result<ConnectionReport> {
    let watched = watch(&broker.pid)?;
    let login = login(broker);
    let jobs = jobs(broker, connections)?;
    let before = usages(&watched)?;
    bar.set_length(jobs.len() as u64);
    bar.set_message("connecting");
    let started = Instant::now();
    let mut opened = open_all(&jobs, &login, bar)?;
    let connect_secs = started.elapsed().as_secs_f64();
    let ping_every = ping_every(broker, opened.iter().map(|opened| &opened.granted));
    bar.set_message("holding");
    let end = Instant::now() + hold;
    while !ping_every.is_zero() && Instant::now() + ping_every < end {
        idle_until(Instant::now() + ping_every);
        for connection in &mut opened {
            connection.socket.write_all(&PINGREQ).context("an idle connection was closed")?;
        }
    }
    idle_until(end);
    let after = usages(&watched)?;
    let costs = Costs::between(&watched, &before, &after);
    Ok(ConnectionReport::new("idle", opened.len() as u64, connect_secs, None, costs))
}

/// Opens and closes connections.
pub(super) fn connect(
    broker: &Broker,
    arrivals: &Arrivals,
    bar: &ProgressBar,
) -> anyhow::Result<ConnectionReport> {
    let watched = watch(&broker.pid)?;
    let login = login(broker);
    let jobs = match &arrivals.kept_as {
        Some(prefix) => named_jobs(broker, arrivals.count, prefix)?,
        None => jobs(broker, arrivals.count)?,
    };
    bar.set_length(jobs.len() as u64);
    bar.set_message("connecting");
    let before = usages(&watched)?;
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let door = Door { jobs: &jobs, login: &login, next: &next, started, rate: arrivals.rate, bar };
    let found = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..arrivals.parallel.max(1)).map(|_| scope.spawn(|| door.run())).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().expect("connecting does not panic"));
        results.collect::<Vec<_>>()
    });
    let connect_secs = started.elapsed().as_secs_f64();
    let after = usages(&watched)?;
    let mut sum = latencies();
    for latencies in found {
        sum.add(latencies?).context("histograms of one shape")?;
    }
    let costs = Costs::between(&watched, &before, &after);
    Ok(ConnectionReport::new("connect", sum.len(), connect_secs, Latency::of(&sum), costs))
}

/// How connections come.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    pub(super) count: u32,
    /// Per second; `None` for as fast as possible.
    pub(super) rate: Option<f64>,
    /// Connections being opened at the same time.
    pub(super) parallel: u32,
    /// Sessions are kept, under client identifiers that begin so.
    pub(super) kept_as: Option<String>,
}

/// What the threads of a connect load share.
struct Door<'a> {
    jobs: &'a [Job],
    login: &'a Login,
    /// Number of the next connection.
    next: &'a AtomicU64,
    started: Instant,
    rate: Option<f64>,
    bar: &'a ProgressBar,
}

impl Door<'_> {
    /// Opens one connection after the other; returns the latencies in nanoseconds.
    fn run(&self) -> anyhow::Result<Histogram<u64>> {
        let mut latencies = latencies();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(number as usize) else { return Ok(latencies) };
            // Counted from the moment it was due: a slow broker cannot hide the wait of those
            // that come after.
            let due = self.rate.map_or_else(Instant::now, |rate| {
                self.started + Duration::from_secs_f64(number as f64 / rate)
            });
            idle_until(due);
            let mut opened = open(job, self.login, 0)?;
            latencies.saturating_record(due.elapsed().as_nanos() as u64);
            opened.socket.write_all(&DISCONNECT).context("a connection was closed")?;
            self.bar.inc(1);
        }
    }
}

fn jobs(broker: &Broker, count: u32) -> anyhow::Result<Vec<Job>> {
    let broker = resolve(&address(broker))?;
    let job = |at: u32| Job {
        broker,
        client_id: client_id('c', at as usize),
        filters: Vec::new(),
        qos: QoS::AtMostOnce,
        stay: Stay::Clean,
    };
    Ok((0..count).map(job).collect())
}

impl ConnectionReport {
    fn new(
        load: &'static str,
        connections: u64,
        connect_secs: f64,
        latency_us: Option<Latency>,
        costs: Costs,
    ) -> Self {
        let each = connections.max(1) as f64;
        let growth: f64 = costs.brokers.iter().map(Cost::growth_kib).sum();
        Self {
            load,
            connections,
            connect_secs,
            connects_per_sec: connections as f64 / connect_secs,
            latency_us,
            broker_cpu_us_per_connection: costs.broker_cpu_secs().map(|secs| secs * 1e6 / each),
            broker_kib_per_connection: (!costs.brokers.is_empty()).then_some(growth / each),
            own_cpu_us_per_connection: costs.own.cpu_secs * 1e6 / each,
            brokers: costs.brokers,
            own: costs.own,
        }
    }
}

impl Display for ConnectionReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}: {} connections", self.load, grouped(self.connections))?;
        let per_sec = grouped(self.connects_per_sec as u64);
        writeln!(out, "  {:<12}{:>12.2} s  {per_sec} per second", "connected", self.connect_secs)?;
        if let Some(latency) = &self.latency_us {
            writeln!(out, "  {:<12}{latency} us", "latency")?;
        }
        if let Some(cost) = self.broker_cpu_us_per_connection {
            writeln!(out, "  {:<12}{cost:>12.2} us per connection", "broker CPU")?;
        }
        if let (Some(memory), "idle") = (self.broker_kib_per_connection, self.load) {
            writeln!(out, "  {:<12}{memory:>12.2} KiB resident per connection", "broker")?;
        }
        let own = self.own_cpu_us_per_connection;
        write!(out, "  {:<12}{own:>12.2} us per connection", "own CPU")
    }
}
