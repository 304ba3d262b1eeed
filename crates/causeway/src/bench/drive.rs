//! Carries out a traffic load: connects, starts the workers, leads them through warm-up,
//! measurement and drain, and gathers what they found.
//!
//! Order, loss and repetition are judged over all messages of the run, cost and rate over the
//! measured part. The run ends when all that was sent has arrived, or nothing has for a while.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;
use mio::Waker;
use mqtt_codec::QoS;

use super::board::{Board, Stage, Totals, idle_for};
use super::check::Verdicts;
use super::open::{Opened, open_all};
use super::plan::{Plan, login, ping_every};
use super::process::{Process, Usage};
use super::report::{Costs, Settings, TrafficReport};
use super::wire::Granted;
use super::worker::{Findings, Surroundings, Worker, latencies, poll_and_waker};

/// How often the driver looks while load runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it looks for the end of a drain.
const LOOK_CLOSELY: Duration = Duration::from_millis(2);
/// How long everything must have been quiet for a drain to be complete: longer than a worker may
/// be between sending a message and counting it.
const QUIET: Duration = Duration::from_millis(20);
/// Without any arrival for this long, what is on its way no longer holds publishers back.
const STALL: Duration = Duration::from_secs(1);

/// Runs the load and reports.
pub(super) fn drive(plan: &Plan, bar: &ProgressBar) -> anyhow::Result<TrafficReport> {
    let watched = watch(&plan.traffic.broker.pid)?;
    let login = login(&plan.traffic.broker);
    bar.set_length(plan.filter_jobs().len() as u64 + plan.jobs().len() as u64);
    bar.set_message("connecting");
    // Kept open to the end, so that their filters stay in the broker's index.
    let _filters = open_all(&plan.filter_jobs(), &login, bar)?;
    let opened = open_all(&plan.jobs(), &login, bar)?;
    let crew = Crew::start(plan, opened)?;
    let measured = match plan.traffic.messages {
        None => crew.measure_duration(bar, &watched),
        Some(messages) => crew.measure_messages(messages, bar, &watched),
    };
    let board = Arc::clone(&crew.board);
    // A worker's failure is the cause of the driver's, so it is reported first.
    let findings = crew.dismiss()?;
    let (before, after) = measured?;
    open_all(&plan.last_jobs(), &login, bar)?;
    let (totals, stalls) = (board.totals(), board.stalls());
    let cost = Costs::between(&watched, &before.usages, &after.usages);
    Ok(TrafficReport::new(
        Settings::of(plan),
        Outcome { before, after, totals, stalls, copies: plan.copies(), qos: plan.traffic.qos },
        cost,
        &findings,
    ))
}

/// The processes to watch: this one first, then the brokers.
pub(super) fn watch(pids: &[u32]) -> anyhow::Result<Vec<Process>> {
    let brokers = pids.iter().map(|&pid| Process::watch(pid));
    std::iter::once(Ok(Process::own())).chain(brokers).collect()
}

/// What the watched processes have used by now.
pub(super) fn usages(watched: &[Process]) -> anyhow::Result<Vec<Usage>> {
    watched.iter().map(Process::usage).collect()
}

/// The state of the run at a moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) totals: Totals,
    /// By watched process.
    pub(super) usages: Vec<Usage>,
}

/// What the driver itself has counted.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) before: Snapshot,
    pub(super) after: Snapshot,
    /// Over the whole run.
    pub(super) totals: Totals,
    /// How often nothing arrived for a while although something was on its way.
    pub(super) stalls: u64,
    /// Deliveries per published message.
    pub(super) copies: u64,
    pub(super) qos: QoS,
}

/// The workers of a run.
struct Crew<'a> {
    plan: &'a Plan,
    board: Arc<Board>,
    wakers: Arc<[Waker]>,
    workers: Vec<JoinHandle<anyhow::Result<Findings>>>,
}

impl<'a> Crew<'a> {
    fn start(plan: &'a Plan, opened: Vec<Opened>) -> anyhow::Result<Self> {
        let board = Arc::new(Board::new(plan.workers()));
        let made: Vec<_> =
            (0..plan.workers()).map(|_| poll_and_waker()).collect::<anyhow::Result<_>>()?;
        let (polls, wakers): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let wakers: Arc<[Waker]> = wakers.into();
        let granted: Vec<Granted> = opened.iter().map(|opened| opened.granted).collect();
        let around = Surroundings {
            board: Arc::clone(&board),
            wakers: Arc::clone(&wakers),
            gather: plan.gather(),
            pace: plan.pace(),
            ping_every: ping_every(&plan.traffic.broker, granted.iter()),
        };
        let mut workers: Vec<Worker> = polls
            .into_iter()
            .enumerate()
            .map(|(number, poll)| Worker::new(number, around.clone(), poll))
            .collect::<anyhow::Result<_>>()?;
        for (seat, opened) in plan.seats(&granted).into_iter().zip(opened) {
            let worker = workers.get_mut(seat.worker).context("a seat without a worker")?;
            worker.adopt(opened.socket, seat.role)?;
        }
        let named = |number: usize| thread::Builder::new().name(format!("load-{number}"));
        let workers = workers
            .into_iter()
            .enumerate()
            .map(|(number, worker)| named(number).spawn(move || worker.run()))
            .collect::<Result<_, _>>()
            .context("cannot start a thread")?;
        Ok(Self { plan, board, wakers, workers })
    }

    /// Load throughout; measured is what happens within the duration.
    fn measure_duration(
        &self,
        bar: &ProgressBar,
        watched: &[Process],
    ) -> anyhow::Result<(Snapshot, Snapshot)> {
        self.start_run(u64::MAX);
        self.load_for(self.plan.traffic.warmup, bar, "warming up")?;
        let before = self.snapshot(watched)?;
        self.board.start_measuring();
        self.load_for(self.plan.traffic.duration, bar, "measuring")?;
        self.board.stop_measuring();
        let after = self.snapshot(watched)?;
        self.drain(bar)?;
        Ok((before, after))
    }

    /// A warm-up that ends, then exactly so many messages; measured is from the first publish to
    /// the last arrival.
    fn measure_messages(
        &self,
        messages: u64,
        bar: &ProgressBar,
        watched: &[Process],
    ) -> anyhow::Result<(Snapshot, Snapshot)> {
        if !self.plan.traffic.warmup.is_zero() {
            self.start_run(u64::MAX);
            self.load_for(self.plan.traffic.warmup, bar, "warming up")?;
            self.drain(bar)?;
        }
        let before = self.snapshot(watched)?;
        self.board.start_measuring();
        let each = messages.div_ceil(self.plan.publishers().into());
        let last = before.totals.sent + each * u64::from(self.plan.publishers());
        self.start_run(each);
        bar.set_message("measuring");
        bar.set_length(last - before.totals.sent);
        let mut calm = Calm::new(self.board.totals());
        while self.board.totals().sent < last {
            self.look(&mut calm, LOOK_CLOSELY)?;
            bar.set_position(self.board.totals().sent - before.totals.sent);
            if calm.lasts() > self.plan.traffic.drain + STALL {
                bail!("the broker takes no more messages");
            }
        }
        let arrived = self.drain(bar)?;
        let mut after = self.snapshot(watched)?;
        after.at = arrived;
        Ok((before, after))
    }

    fn start_run(&self, budget: u64) {
        self.board.start_run(budget);
        self.wake_all();
    }

    fn wake_all(&self) {
        for waker in self.wakers.iter() {
            // A worker that ended needs no waking.
            waker.wake().ok();
        }
    }

    fn snapshot(&self, watched: &[Process]) -> anyhow::Result<Snapshot> {
        // Memory first: its files take long to read, and the time belongs to no phase.
        let mut usages = usages(watched)?;
        for (usage, process) in usages.iter_mut().zip(watched) {
            usage.cpu = process.cpu()?;
        }
        Ok(Snapshot { at: Instant::now(), totals: self.board.totals(), usages })
    }

    fn load_for(
        &self,
        span: Duration,
        bar: &ProgressBar,
        what: &'static str,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut calm = Calm::new(self.board.totals());
        bar.set_length(span.as_millis() as u64);
        while started.elapsed() < span {
            let left = span.saturating_sub(started.elapsed());
            self.look(&mut calm, LOOK_EVERY.min(left))?;
            bar.set_position(started.elapsed().as_millis() as u64);
            bar.set_message(format!("{what}: {} delivered", self.board.totals().received));
        }
        Ok(())
    }

    /// Waits a moment, sees to it that the workers live and nobody waits for lost messages.
    fn look(&self, calm: &mut Calm, wait: Duration) -> anyhow::Result<()> {
        idle_for(wait);
        calm.look(self.board.totals());
        if self.workers.iter().any(JoinHandle::is_finished) {
            bail!("a thread of the load ended before its time");
        }
        let totals = self.board.totals();
        let missing = totals.received < totals.sent * self.plan.copies();
        if missing && calm.lasts() > STALL && calm.excused.elapsed() > STALL {
            calm.excused = Instant::now();
            self.board.note_stall();
            self.wake_all();
        }
        Ok(())
    }

    /// Stops publishing and waits for what is on its way. Returns when the last of it arrived.
    fn drain(&self, bar: &ProgressBar) -> anyhow::Result<Instant> {
        self.board.set_stage(Stage::Rest);
        bar.set_message("draining");
        let mut calm = Calm::new(self.board.totals());
        while calm.lasts() < self.plan.traffic.drain {
            idle_for(LOOK_CLOSELY);
            calm.look(self.board.totals());
            if self.workers.iter().any(JoinHandle::is_finished) {
                bail!("a thread of the load ended before its time");
            }
            if calm.lasts() >= QUIET && self.is_complete(calm.last) {
                break;
            }
        }
        Ok(calm.since)
    }

    fn is_complete(&self, totals: Totals) -> bool {
        let acknowledged = match self.plan.traffic.qos {
            QoS::AtMostOnce => totals.sent,
            QoS::AtLeastOnce | QoS::ExactlyOnce => totals.acknowledged,
        };
        acknowledged >= totals.sent && totals.received >= totals.sent * self.plan.copies()
    }

    /// Ends the threads and gathers their findings.
    fn dismiss(self) -> anyhow::Result<Findings> {
        self.board.set_stage(Stage::Stop);
        self.wake_all();
        let mut sum =
            Findings { verdicts: Verdicts::default(), refused: 0, latencies: latencies() };
        // All are joined before the first failure is reported.
        let found: Vec<_> = self.workers.into_iter().map(JoinHandle::join).collect();
        for findings in found {
            let findings = findings.map_err(|_| anyhow!("a thread of the load panicked"))??;
            sum.verdicts.add(findings.verdicts);
            sum.refused += findings.refused;
            sum.latencies.add(&findings.latencies).context("histograms of one shape")?;
        }
        Ok(sum)
    }
}

/// How long nothing has moved.
struct Calm {
    last: Totals,
    since: Instant,
    /// When waiting publishers were last let go on.
    excused: Instant,
}

impl Calm {
    fn new(totals: Totals) -> Self {
        Self { last: totals, since: Instant::now(), excused: Instant::now() }
    }

    fn look(&mut self, totals: Totals) {
        if totals != self.last {
            self.last = totals;
            self.since = Instant::now();
        }
    }

    fn lasts(&self) -> Duration {
        self.since.elapsed()
    }
}
