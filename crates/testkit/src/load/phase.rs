//! What the clients of a load are about, and how they hear that it changes.
//!
//! Invariant: they hear it in the order in which they began to wait. tokio's `watch` wakes in an order that nothing
//! decides, and what clients do then would depend on it.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// What the clients are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Everybody follows his habits.
    Run,
    /// Publishers begin nothing new; everybody connects and stays.
    Calm,
    /// Everything is acknowledged and everybody is there.
    Quiet,
    /// Everybody leaves.
    Over,
}

/// The phase of a load, as one client knows it. Clones hear of changes too.
#[derive(Clone, Debug)]
pub(super) struct Phases {
    shared: Arc<Shared>,
    seen: Phase,
}

#[derive(Debug)]
struct Shared {
    phase: Mutex<Phase>,
    changed: Notify,
}

impl Phases {
    pub(super) fn new() -> Self {
        let shared = Shared { phase: Mutex::new(Phase::Run), changed: Notify::new() };
        Self { shared: Arc::new(shared), seen: Phase::Run }
    }

    pub(super) fn enter(&self, phase: Phase) {
        *self.shared.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.shared.changed.notify_waiters();
    }

    pub(super) fn current(&self) -> Phase {
        *self.shared.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the phase is another than at the last time.
    pub(super) async fn changed(&mut self) {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let current = self.current();
            if current != std::mem::replace(&mut self.seen, current) {
                return;
            }
            changed.await;
        }
    }
}
