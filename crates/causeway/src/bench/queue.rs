//! A load for what a broker keeps: sessions whose clients are away, a queue of messages for each,
//! and the clients that come back for them.
//!
//! Plain blocking sockets, one thread for each client that drains: the broker's work per message is
//! far more than the tool's here.

use std::fmt::{self, Display, Formatter};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use mqtt_codec::QoS;
use serde::Serialize;

use super::args::{Broker, QueueArgs};
use super::board::idle_until;
use super::drive::{usages, watch};
use super::open::{Job, Stay, open, open_all, resolve};
use super::plan::{address, client_id, login};
use super::process::{Process, written_bytes};
use super::report::{Costs, grouped};
use super::wire::{DISCONNECT, Frame, Login, Template, first, push_ack};

/// Bytes taken from a socket at a time.
const READ_BYTES: usize = 256 * 1024;
/// Clients that drain at the same time.
const PARALLEL: usize = 8;
/// How often memory is read while queues are drained.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What it took to keep messages and to give them out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct QueueReport {
    load: &'static str,
    sessions: u64,
    messages: u64,
    payload: usize,
    /// Making the sessions, a SUBSCRIBE each.
    open: Phase,
    /// Queueing all messages for all sessions.
    queue: Phase,
    /// What the watched brokers gave to the file system for each queued message, in bytes.
    written_bytes_per_queued: Option<f64>,
    /// Giving all of it out.
    drain: Phase,
    /// Most resident memory of the watched brokers while they gave it out, in KiB.
    drain_peak_kib: u64,
}

/// One part of the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Phase {
    secs: f64,
    /// Sessions or messages per second.
    per_sec: f64,
    /// All watched brokers together.
    broker_cpu_us_each: Option<f64>,
    /// Resident memory of the watched brokers after it, in KiB.
    resident_kib: u64,
}

/// Makes sessions, fills their queues and drains them.
pub(super) fn run(args: &QueueArgs, bar: &ProgressBar) -> anyhow::Result<QueueReport> {
    ensure!(args.payload >= NUMBER_LEN, "--payload must be at least {NUMBER_LEN}");
    let run = Run::new(args)?;
    let sessions = u64::from(args.sessions);
    bar.set_length(sessions * 2 + args.messages);
    bar.set_message("making sessions");
    let opened = run.phase(sessions, || run.make_sessions(bar))?;
    bar.set_message("queueing");
    let before = run.written();
    let queued = run.phase(sessions * args.messages, || run.publish(bar))?;
    let written = run.written().zip(before).map(|(after, before)| after - before);
    bar.set_message("draining");
    let peak = AtomicU64::new(0);
    let drained = run.phase(sessions * args.messages, || run.drain(&peak, bar))?;
    run.forget(bar)?;
    Ok(QueueReport {
        load: "queue",
        sessions,
        messages: args.messages,
        payload: args.payload,
        open: opened,
        queue: queued,
        written_bytes_per_queued: written
            .map(|bytes| bytes as f64 / (sessions * args.messages) as f64),
        drain: drained,
        drain_peak_kib: peak.into_inner() / 1024,
    })
}

/// A message begins with its number.
const NUMBER_LEN: usize = 8;

struct Run<'a> {
    args: &'a QueueArgs,
    login: Login,
    watched: Vec<Process>,
    jobs: Vec<Job>,
    topic: String,
}

impl<'a> Run<'a> {
    fn new(args: &'a QueueArgs) -> anyhow::Result<Self> {
        let to = if args.subscribe_to.is_empty() {
            vec![resolve(&address(&args.broker))?]
        } else {
            args.subscribe_to.iter().map(|text| resolve(text)).collect::<anyhow::Result<_>>()?
        };
        let topic = format!("bench/queue/{}", std::process::id());
        let job = |at: usize| Job {
            broker: *to.get(at % to.len()).expect("at least one address was resolved"),
            client_id: client_id('q', at),
            filters: vec![topic.clone()],
            qos: QoS::AtLeastOnce,
            stay: Stay::Kept,
        };
        let jobs = (0..args.sessions as usize).map(job).collect();
        let watched = watch(&args.broker.pid)?;
        Ok(Self { args, login: login(&args.broker), watched, jobs, topic })
    }

    fn phase(
        &self,
        count: u64,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Phase> {
        let (started, before) = (Instant::now(), usages(&self.watched)?);
        work()?;
        let secs = started.elapsed().as_secs_f64();
        let after = usages(&self.watched)?;
        let costs = Costs::between(&self.watched, &before, &after);
        let each = count.max(1) as f64;
        let resident: u64 = after.iter().skip(1).map(|usage| usage.resident_bytes).sum();
        Ok(Phase {
            secs,
            per_sec: each / secs,
            broker_cpu_us_each: costs.broker_cpu_secs().map(|secs| secs * 1e6 / each),
            resident_kib: resident / 1024,
        })
    }

    /// Of all watched brokers; `None` when none is watched, or it must not be read.
    fn written(&self) -> Option<u64> {
        let brokers = self.watched.get(1..).filter(|brokers| !brokers.is_empty())?;
        brokers.iter().map(|broker| written_bytes(broker).ok()).sum()
    }

    fn make_sessions(&self, bar: &ProgressBar) -> anyhow::Result<()> {
        for mut opened in open_all(&self.jobs, &self.login, bar)? {
            opened.socket.write_all(&DISCONNECT).context("a connection was closed")?;
        }
        Ok(())
    }

    fn publish(&self, bar: &ProgressBar) -> anyhow::Result<()> {
        let job = Job {
            broker: resolve(&address(&self.args.broker))?,
            client_id: client_id('p', 0),
            filters: Vec::new(),
            qos: QoS::AtLeastOnce,
            stay: Stay::Clean,
        };
        let mut opened = open(&job, &self.login, 0)?;
        let version = self.args.broker.mqtt;
        let template = Template::new(version, &self.topic, QoS::AtLeastOnce, self.args.payload);
        let window = u64::from(opened.granted.receive_maximum.min(self.args.inflight));
        let (mut sent, mut acknowledged, mut out) = (0, 0, Vec::new());
        let mut reader = Reader::default();
        while acknowledged < self.args.messages {
            while sent < self.args.messages && sent - acknowledged < window {
                template.write(&mut out, packet_id(sent), &sent.to_be_bytes());
                sent += 1;
            }
            opened.socket.write_all(&out).context("the publisher's connection broke")?;
            out.clear();
            reader.take(&mut opened.socket, |frame| {
                ensure!(frame.kind() == first::PUBACK, "a publisher got no PUBACK");
                ensure!(frame.reason() < 0x80, "refused with code {:#04x}", frame.reason());
                acknowledged += 1;
                bar.inc(1);
                Ok(())
            })?;
        }
        opened.socket.write_all(&DISCONNECT).context("the publisher's connection broke")
    }

    fn drain(&self, peak: &AtomicU64, bar: &ProgressBar) -> anyhow::Result<()> {
        let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let brokers = self.watched.get(1..).unwrap_or_default();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let resident = brokers.iter().filter_map(|broker| broker.usage().ok());
                    let sum = resident.map(|usage| usage.resident_bytes).sum();
                    peak.fetch_max(sum, Ordering::Relaxed);
                    idle_until(Instant::now() + LOOK_EVERY);
                }
            });
            let client = || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(job) = self.jobs.get(number) else { return anyhow::Ok(()) };
                    self.drain_one(job, number)?;
                    bar.inc(1);
                }
            };
            let threads: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(client)).collect();
            let results = threads.into_iter().map(|one| one.join().expect("it does not panic"));
            let results: Vec<_> = results.collect();
            done.store(true, Ordering::Relaxed);
            results.into_iter().collect()
        })
    }

    /// Takes everything of one session; it must be whole and in order.
    fn drain_one(&self, job: &Job, number: usize) -> anyhow::Result<()> {
        let job = Job { filters: Vec::new(), ..job.clone() };
        let mut opened = open(&job, &self.login, number)?;
        let version = self.args.broker.mqtt;
        let (mut expected, mut reader, mut out) = (0_u64, Reader::default(), Vec::new());
        while expected < self.args.messages {
            reader.take(&mut opened.socket, |frame| {
                ensure!(frame.kind() == first::PUBLISH, "a subscriber got no PUBLISH");
                let delivery = frame.publish(version)?;
                let number = delivery.payload.first_chunk().copied().map(u64::from_be_bytes);
                if number != Some(expected) {
                    bail!("expected message {expected}, got {number:?}");
                }
                expected += 1;
                push_ack(&mut out, first::PUBACK, delivery.packet_id);
                Ok(())
            })?;
            opened.socket.write_all(&out).context("a subscriber's connection broke")?;
            out.clear();
        }
        opened.socket.write_all(&DISCONNECT).context("a subscriber's connection broke")
    }

    /// Ends the sessions.
    fn forget(&self, bar: &ProgressBar) -> anyhow::Result<()> {
        let clean = |job: &Job| Job { filters: Vec::new(), stay: Stay::Clean, ..job.clone() };
        let jobs: Vec<_> = self.jobs.iter().map(clean).collect();
        open_all(&jobs, &self.login, bar).map(drop)
    }
}

/// Whole packets out of a blocking socket.
#[derive(Debug, Default)]
struct Reader {
    bytes: Vec<u8>,
    filled: usize,
}

impl Reader {
    /// Waits for bytes and gives every whole packet to `handle`.
    fn take(
        &mut self,
        socket: &mut TcpStream,
        mut handle: impl FnMut(&Frame<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.bytes.len() < self.filled + READ_BYTES {
            self.bytes.resize(self.filled + READ_BYTES, 0);
        }
        let free = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let read = socket.read(free).context("the broker fell silent")?;
        ensure!(read > 0, "the broker closed a connection");
        self.filled += read;
        let mut at = 0;
        while let Some(frame) = Frame::cut(self.bytes.get(at..self.filled).unwrap_or_default())? {
            at += frame.len;
            handle(&frame)?;
        }
        self.bytes.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }
}

fn packet_id(sequence: u64) -> u16 {
    u16::try_from(sequence % 65_535).expect("below 65,535") + 1
}

impl Display for Phase {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{:>9.2} s  {} per second", self.secs, grouped(self.per_sec as u64))?;
        if let Some(cost) = self.broker_cpu_us_each {
            write!(out, "  {cost:.2} us of broker CPU each")?;
        }
        match self.resident_kib {
            0 => Ok(()),
            kib => write!(out, "  {} KiB resident after", grouped(kib)),
        }
    }
}

impl Display for QueueReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let (sessions, messages) = (grouped(self.sessions), grouped(self.messages));
        writeln!(out, "queue: {sessions} sessions, {messages} messages of {} bytes", self.payload)?;
        writeln!(out, "  sessions  {}", self.open)?;
        writeln!(out, "  queued    {}", self.queue)?;
        if let Some(bytes) = self.written_bytes_per_queued {
            writeln!(out, "  written   {bytes:>9.1} bytes for each queued message")?;
        }
        writeln!(out, "  drained   {}", self.drain)?;
        write!(out, "  at most   {} KiB resident while drained", grouped(self.drain_peak_kib))
    }
}

/// Opens kept sessions that all runs with the same prefix share: the second run resumes them.
pub(super) fn named_jobs(broker: &Broker, count: u32, prefix: &str) -> anyhow::Result<Vec<Job>> {
    let address = resolve(&address(broker))?;
    let job = |at: u32| Job {
        broker: address,
        client_id: format!("{prefix}{at}"),
        filters: Vec::new(),
        qos: QoS::AtMostOnce,
        stay: Stay::Kept,
    };
    Ok((0..count).map(job).collect())
}
