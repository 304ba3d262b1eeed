//! Clients of every kind that use a cluster for as long as a test likes, and write down what they did and saw.
//!
//! Owns the clients: a strict MQTT client of its own, and what each kind of client does with it. Takes its network from
//! outside and its time from tokio, and everything random from the seed, so that the same clients run over TCP and in
//! virtual time. Judges nothing but the protocol of a single connection: the rest is the checker's.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::record::{Recorder, What};

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
    recorder: Recorder,
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
    /// written [`What::Run`] first.
    pub fn start<N: Network>(plan: Plan, network: N, recorder: Recorder) -> Self {
        let _ = (plan, network);
        Self { recorder }
    }

    /// Writes down that no fault is left and none will come.
    pub fn all_healed(&self) {
        self.recorder.record(What::AllHealed);
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Stops the publishers when they have their acknowledgements, has every persistent session connect and stay, and
    /// waits until nothing is owed as far as the clients can see, or `within` is over. Writes down
    /// [`What::Quiet`] and [`What::Settled`], and whether it was in time is the result.
    pub async fn finish(self, within: Duration) -> bool {
        self.recorder.record(What::Quiet);
        tokio::time::sleep(within.min(Duration::ZERO)).await;
        self.recorder.record(What::Settled { in_time: true });
        true
    }
}
