//! The store's keeper: opens the store, lives with it, and opens it again when it has failed.
//!
//! Owns when there is a life and who knows the way to it. Invariant: nothing of a life that has failed is used
//! by the next: its streams are closed, its uplink is ended, what it had not committed is sent again.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cluster_rpc::UplinkConfig;
use cluster_rpc::frame::{Incarnation, Member, NodeId, RelayState, Route};
use cluster_rpc::machine::now;
use daemon::Condition;
use partition::{OpenError, Owner, OwnerConfig, OwnerError, Room, Store, StoreError, UnixMillis};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::life::{End, Input, Life, Surroundings, Tasks};
use super::metrics::HostMetrics;
use super::streams::Way;
use super::uplink;
use super::waiter::{Alarm, Waiter, Woken};
use super::{Home, Running};
use crate::service::Service;

/// Inputs that may wait for the thread: a frame each. Then streams and the uplink are not read.
const INPUTS: usize = 128;

/// How long after a failure the store is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// How long another process that has the store may take to end, at the start.
const IN_USE: Duration = Duration::from_secs(5);
const IN_USE_LOOK: Duration = Duration::from_millis(50);

/// Why the store is not open.
#[derive(Debug, thiserror::Error)]
enum NotOpen {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Owner(#[from] OwnerError),
}

/// All that the store works with.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) node: NodeId,
    pub(super) owner: OwnerConfig,
    pub(super) uplink: UplinkConfig,
    pub(super) running: Running,
    pub(super) service: Service,
    pub(super) condition: Condition,
    pub(super) metrics: Arc<HostMetrics>,
    pub(super) way: watch::Sender<Option<Way>>,
    pub(super) runtime: Handle,
    pub(super) stop: CancellationToken,
    pub(super) gone: CancellationToken,
}

impl Keeper {
    /// Runs until the end.
    ///
    /// # Errors
    /// The store could not be opened at first, for another reason than a full disk. Later it is tried again for ever.
    pub(super) async fn run<H: Home>(self, alarm: Alarm, mut home: H) -> anyhow::Result<()> {
        let mut clock = Clock::start(self.uplink.machine.as_ref());
        let mut waiter = Waiter::new(alarm, self.stop.clone(), self.gone.clone());
        let Some(mut owner) = self.open_first(&mut home, clock, &mut waiter).await? else {
            return Ok(());
        };
        loop {
            if let Some(known) = owner.last_change() {
                clock = clock.not_before(known, now());
            }
            let error = match self.live(owner, clock, &mut waiter, H::disk_bytes).await? {
                Ok(End::Stopped | End::Gone) => return Ok(()),
                Err(error) => error,
            };
            tracing::error!(%error, "the store has failed; opens it again");
            self.condition.set(false, format!("the store has failed: {error}"));
            owner = match self.open_again(&mut home, clock, &mut waiter).await {
                Some(owner) => owner,
                None => return Ok(()),
            };
        }
    }

    fn open<H: Home>(&self, home: &mut H, now: UnixMillis) -> Result<Owner<H::Store>, NotOpen> {
        let store = home.open()?;
        Ok(Owner::open(store, self.owner, now)?)
    }

    /// `None` if the end comes first.
    async fn open_first<H: Home>(
        &self,
        home: &mut H,
        clock: Clock,
        waiter: &mut Waiter,
    ) -> anyhow::Result<Option<Owner<H::Store>>> {
        self.condition.set(false, "the store is being opened");
        let patience = now() + IN_USE;
        loop {
            match self.open(home, clock.unix(now())) {
                Ok(owner) => return Ok(Some(owner)),
                Err(NotOpen::Store(error @ OpenError::InUse { .. })) if now() < patience => {
                    self.condition.set(false, error.to_string());
                }
                // To start anew would not help.
                Err(error @ NotOpen::Store(OpenError::Full { .. })) => {
                    self.say_not_open(&error);
                    return Ok(self.open_again(home, clock, waiter).await);
                }
                Err(error) => return Err(error).context("open the store"),
            }
            if pause(waiter, IN_USE_LOOK).await == Pause::End {
                return Ok(None);
            }
        }
    }

    /// `None` if the end comes first.
    async fn open_again<H: Home>(
        &self,
        home: &mut H,
        clock: Clock,
        waiter: &mut Waiter,
    ) -> Option<Owner<H::Store>> {
        let mut told = String::new();
        loop {
            if pause(waiter, REOPEN).await == Pause::End {
                return None;
            }
            match self.open(home, clock.unix(now())) {
                Ok(owner) => return Some(owner),
                Err(error) => {
                    let error = error.to_string();
                    // Each reason once: it is tried every second.
                    if error != told {
                        self.say_not_open(&error);
                        told = error;
                    }
                }
            }
        }
    }

    fn say_not_open(&self, error: &dyn Display) {
        tracing::error!(%error, "the store cannot be opened; goes on trying");
        self.condition.set(false, format!("the store is not open: {error}"));
    }

    /// One life. The outer error is one of the system, which gives no thread.
    async fn live<S: Store>(
        &self,
        owner: Owner<S>,
        clock: Clock,
        waiter: &mut Waiter,
        disk_bytes: fn(&S) -> u64,
    ) -> anyhow::Result<Result<End, StoreError>> {
        let (sender, mut inputs) = mpsc::channel(INPUTS);
        let routes = owner.routes().map(|(filter, qos)| Route { filter, qos: Some(qos) });
        let connected = uplink::connect(self.uplink.clone(), self.running, routes, sender.clone())
            .context("start the store's uplink")?;
        let close = CancellationToken::new();
        let way = Way { inputs: sender.clone(), member: self.member(clock), close: close.clone() };
        let around = Surroundings {
            clock,
            service: self.service.clone(),
            uplink: connected.uplink.clone(),
            metrics: Arc::clone(&self.metrics),
            tasks: Tasks { runtime: self.runtime.clone(), inputs: sender },
            lease: self.uplink.lease,
        };
        let mut life = Life::new(owner, around, connected.last_route, disk_bytes);
        self.metrics.begin();
        self.way.send_replace(Some(way));
        let _shown = Shown { way: &self.way, close };
        // Who tells of later changes has seen the way by now, or has told nobody.
        if *self.service.state().borrow() == RelayState::Serving {
            life.serving();
        }
        Ok(life.run(&mut inputs, waiter, |room| self.report(room)).await)
    }

    /// Which life of the store begins.
    fn member(&self, clock: Clock) -> Member {
        let micros = clock.unix(now()).0.saturating_mul(1000);
        Member { node: self.node.clone(), incarnation: Incarnation(micros) }
    }

    fn report(&self, room: Room) {
        self.metrics.has_room(room == Room::Enough);
        match room {
            Room::Enough => self.condition.set(true, "the store is open"),
            Room::Low => self.condition.set(false, "the disk of the store is full"),
        }
    }
}

/// A life that can be found. When it ends, however it does, it cannot, and its streams are closed.
struct Shown<'a> {
    way: &'a watch::Sender<Option<Way>>,
    close: CancellationToken,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.way.send_replace(None);
        self.close.cancel();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    Over,
    End,
}

async fn pause(waiter: &mut Waiter, time: Duration) -> Pause {
    let (_sender, mut nothing) = mpsc::channel::<Input>(1);
    match waiter.wait(&mut nothing, Some(now() + time)).await {
        Woken::Input(_) | Woken::Deadline => Pause::Over,
        Woken::Stop | Woken::Gone => Pause::End,
    }
}
