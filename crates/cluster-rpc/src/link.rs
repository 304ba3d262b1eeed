//! One address of an intermediate: connects, keeps the streams, connects again.
//!
//! ```text
//! route stream   (own connection) Hello, Welcome | snapshot, deltas, beats up; Applied, View down
//! deliver stream (second connection)             | as long as the route stream stands
//! publish stream (second connection)             | as long as the intermediate is eligible
//! session stream (second connection)             | if the store is there; breaks and begins anew alone
//! ```
//!
//! When one of the others breaks all end and begin anew: a session stands or falls as a whole. It decides
//! nothing; what it hears goes to the roster, the window and the events.

mod ack;
mod channel;
mod data;
mod routes;
mod sessions;

use std::sync::Arc;

pub(crate) use self::ack::AckCell;
use self::channel::Dialer;
pub(crate) use self::channel::LinkError;
use crate::backoff::Backoff;
use crate::membership::{NewLink, Refused};
use crate::uplink::{Shared, count};

/// Runs until the address is dropped or the uplink stops.
pub(crate) async fn run<T: Send + 'static>(shared: Arc<Shared<T>>, link: NewLink) {
    let stop = link.stop.clone();
    tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => {}
        () = stop.cancelled() => {}
        () = keep(&shared, &link) => {}
    }
    // The connection's task goes on with what the route stream sends until the session has ended.
    shared.with_roster(|roster, now| roster.handle_down(link.address, Refused::No, now));
}

async fn keep<T: Send + 'static>(shared: &Arc<Shared<T>>, link: &NewLink) {
    let dialer = Dialer::new(&shared.config, link.address);
    let mut backoff = Backoff::default();
    let mut cell = None;
    let mut last_reason = String::new();
    loop {
        stand_by(shared, link).await;
        let mut session = routes::Session::new(shared, &dialer, &mut cell);
        let Err(error) = Box::pin(session.run()).await;
        if session.was_welcomed() {
            backoff.reset();
            last_reason.clear();
        }
        let refused = if error.is_refusal() { Refused::Yes } else { Refused::No };
        shared.with_roster(|roster, now| roster.handle_down(link.address, refused, now));
        shared.membership_changed();
        if shared.read_roster(|roster| roster.is_leaving()) {
            return;
        }
        shared.resolve.notify_one();
        count(&shared.metrics().reconnects, 1);
        report(link, &error, &mut last_reason);
        tokio::time::sleep(backoff.next(shared.random())).await;
    }
}

/// Waits while another address leads to the same intermediate.
async fn stand_by<T>(shared: &Shared<T>, link: &NewLink) {
    loop {
        let mut changed = std::pin::pin!(shared.standby.notified());
        changed.as_mut().enable();
        if !shared.read_roster(|roster| roster.is_standby(link.address)) {
            return;
        }
        changed.await;
    }
}

/// Says why once, not at every attempt.
fn report(link: &NewLink, error: &LinkError, last_reason: &mut String) {
    let reason = error.to_string();
    if *last_reason == reason {
        tracing::debug!(address = %link.address, reason, "no link to the intermediate");
    } else {
        tracing::warn!(address = %link.address, reason, "no link to the intermediate");
    }
    *last_reason = reason;
}
