//! Clients of every kind that use a cluster for as long as a test likes, and write down what they did and saw.
//!
//! Owns the clients: a strict MQTT client of its own, and what each kind of client does with it. Takes its network from
//! outside and its time from tokio, and everything random from the seed, so that the same clients run over TCP and in
//! virtual time. Judges nothing but the protocol of a single connection: the rest is the checker's.

mod client;
mod driver;
mod kinds;
mod ledger;
mod line;
mod phase;
#[cfg(test)]
mod tests;
mod visit;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::driver::Driver;
use self::ledger::Ledger;
use self::phase::{Phase, Phases};
use crate::record::{Recorder, What};

/// How often it is looked whether all is at rest, and how often in a row it must be.
const STEP: Duration = Duration::from_millis(50);
const MOMENT: u32 = 4;
/// How long clients have to leave.
const LEAVING: Duration = Duration::from_secs(5);

/// Where the clients connect to.
pub trait Network: Clone + Send + Sync + 'static {
    /// A connection to a proxy.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// How many proxies there are; clients know them as 0 and up.
    fn proxies(&self) -> usize;

    /// Opens a connection to a proxy. An error is a proxy that is away: the client tries another.
    fn connect(&self, proxy: usize) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// How many clients of each kind there are, and how much they do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything random comes from it.
    pub seed: u64,
    /// Publishers with numbered messages, half of them with persistent sessions.
    pub publishers: usize,
    /// Topics of each publisher.
    pub topics: usize,
    /// Mean time between two messages of a publisher.
    pub pause: Duration,
    /// Largest payload.
    pub max_bytes: usize,
    /// Subscribers with clean sessions.
    pub clean: usize,
    /// Subscribers with persistent sessions that stay connected when they can.
    pub persistent: usize,
    /// Subscribers that acknowledge late or stop reading for seconds, half of them persistent.
    pub slow: usize,
    /// Persistent subscribers that go from proxy to proxy.
    pub wanderers: usize,
    /// Shared groups, of four members each.
    pub groups: usize,
    /// Publishers of retained values, each with a reader that subscribes again and again.
    pub retained: usize,
    /// Clients that connect with a will and end in every way.
    pub wills: usize,
    /// Client identifiers that two clients fight for in short bouts.
    pub rivals: usize,
}

/// What the clients did so far, for lines of progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// PUBLISH packets sent for the first time.
    pub published: u64,
    /// Messages that were acknowledged with success.
    pub acknowledged: u64,
    /// PUBLISH packets received.
    pub received: u64,
    /// CONNECT packets that were accepted.
    pub connected: u64,
    /// Connections that were refused or not answered.
    pub not_connected: u64,
    /// Violations of the protocol.
    pub violations: u64,
}

/// Clients at work. They end with [`finish`](Self::finish), or when this is dropped.
#[derive(Debug)]
pub struct Load {
    office: Office,
    _stop: DropGuard,
}

/// Tells how a load goes.
#[derive(Clone, Debug)]
pub struct Witness {
    ledger: Arc<Mutex<Ledger>>,
}

/// What all clients of a load share.
#[derive(Clone, Debug)]
struct Office {
    recorder: Recorder,
    ledger: Arc<Mutex<Ledger>>,
    phase: Phases,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Plan {
    /// Everything, as much as two processors bear beside the cluster.
    #[must_use]
    pub fn torture(seed: u64) -> Self {
        Self {
            seed,
            publishers: 12,
            topics: 3,
            pause: Duration::from_millis(25),
            max_bytes: 8 * 1024,
            clean: 6,
            persistent: 6,
            slow: 4,
            wanderers: 4,
            groups: 3,
            retained: 3,
            wills: 6,
            rivals: 2,
        }
    }

    /// One or two of each kind.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        Self {
            seed,
            publishers: 3,
            topics: 2,
            pause: Duration::from_millis(40),
            max_bytes: 1024,
            clean: 1,
            persistent: 2,
            slow: 1,
            wanderers: 1,
            groups: 1,
            retained: 1,
            wills: 1,
            rivals: 1,
        }
    }

    /// What makes work for the store: enqueueing, acknowledging and retaining.
    #[must_use]
    pub fn store(seed: u64) -> Self {
        Self {
            seed,
            publishers: 6,
            topics: 2,
            pause: Duration::from_millis(5),
            max_bytes: 1024,
            clean: 0,
            persistent: 6,
            slow: 0,
            wanderers: 2,
            groups: 1,
            retained: 3,
            wills: 0,
            rivals: 0,
        }
    }
}

impl Load {
    /// Starts the clients of `plan` in the runtime this is called in. They write to `recorder`, to which the caller has
    /// written [`What::Run`] first. A recorder takes one load.
    pub fn start<N: Network>(plan: Plan, network: N, recorder: Recorder) -> Self {
        let stop = CancellationToken::new();
        let mut ledger = Ledger::default();
        let clients = kinds::clients(&plan, &mut ledger);
        let office = Office {
            recorder,
            ledger: Arc::new(Mutex::new(ledger)),
            phase: Phases::new(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        };
        for (number, habits) in clients.into_iter().enumerate() {
            if habits.bouts.is_none() {
                office.ledger().set_ready(number, false);
            }
            // Mixed, so that neither a client nor the next seed repeats the choices of another.
            let seed = plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (number as u64 + 1) << 32;
            let rng = Rng::with_seed(seed);
            let driver = Driver::new(number, habits, network.clone(), office.clone(), rng);
            office.spawn(driver.run());
        }
        Self { office, _stop: stop.drop_guard() }
    }

    /// Writes down that no fault is left and none will come.
    pub fn all_healed(&self) {
        self.office.recorder.record(What::AllHealed);
        self.office.ledger().all_healed();
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.office.ledger().counts
    }

    /// Somebody to ask while and after [`finish`](Self::finish) runs.
    #[must_use]
    pub fn witness(&self) -> Witness {
        Witness { ledger: self.office.ledger.clone() }
    }

    /// Stops the publishers when they have their acknowledgements, has every client connect and stay, and
    /// waits until nothing is owed as far as the clients can see, or `within` is over. Writes down
    /// [`What::Quiet`] and [`What::Settled`], and whether it was in time is the result. Then everybody leaves.
    pub async fn finish(self, within: Duration) -> bool {
        let until = Instant::now() + within;
        self.enter(Phase::Calm);
        let calm = self.reached(until, |ledger| ledger.all_ready()).await;
        self.office.recorder.record(What::Quiet);
        self.enter(Phase::Quiet);
        // Whoever looks once more is not ready before he has: he is told so in his next turn.
        tokio::time::sleep(STEP).await;
        let drained =
            |ledger: &Ledger| ledger.all_ready() && ledger.owed() == 0 && ledger.is_silent();
        let in_time = calm && self.reached(until, drained).await;
        self.office.recorder.record(What::Settled { in_time });
        let missing = if in_time { Vec::new() } else { self.office.ledger().missing() };
        self.office.ledger().unsettled = Some(missing);
        self.enter(Phase::Over);
        self.office.tasks.close();
        // What still hangs is ended with the load.
        drop(tokio::time::timeout(LEAVING, self.office.tasks.wait()).await);
        in_time
    }

    fn enter(&self, phase: Phase) {
        self.office.phase.enter(phase);
    }

    /// Waits until `condition` has held for a moment.
    async fn reached(&self, until: Instant, condition: impl Fn(&Ledger) -> bool) -> bool {
        let mut held = 0;
        while held < MOMENT {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(STEP).await;
            held = if condition(&self.office.ledger()) { held + 1 } else { 0 };
        }
        true
    }
}

impl Witness {
    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        lock(&self.ledger).counts
    }

    /// What the clients wait for, in words: what was acknowledged and has not come, and who is not at rest. After the
    /// end: what they had waited for in vain.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let ledger = lock(&self.ledger);
        ledger.unsettled.clone().unwrap_or_else(|| ledger.missing())
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Office {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Runs a task until it is done or the load is dropped.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        drop(self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        }));
    }
}
