//! The task that keeps the list of addresses: resolves names, starts links, watches deadlines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::link;
use crate::machine::now;

/// Names are not resolved more often than this, however often links break.
const RESOLVE_PAUSE: Duration = Duration::from_millis(200);

/// How often there is something to do although nothing happens.
const IDLE: Duration = Duration::from_secs(60);

/// Runs until the shutdown.
pub(crate) async fn run<T: Send + 'static>(shared: Arc<Shared<T>>) {
    tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => {}
        () = watch_deadlines(&shared) => {}
        () = resolve(&shared) => {}
    }
}

async fn resolve<T: Send + 'static>(shared: &Arc<Shared<T>>) {
    loop {
        for name in &shared.config.intermediates {
            let addresses = lookup(name).await;
            let links =
                shared.with_roster(|roster, now| roster.handle_resolved(name, addresses, now));
            for new in links {
                tokio::spawn(link::run(Arc::clone(shared), new));
            }
        }
        shared.membership_changed();
        tokio::time::sleep(RESOLVE_PAUSE).await;
        // Whether by an event or by time, names are resolved anew.
        tokio::time::timeout(shared.config.resolve_interval, shared.resolve.notified()).await.ok();
    }
}

async fn lookup(name: &str) -> Vec<SocketAddr> {
    if let Ok(address) = name.parse() {
        return vec![address];
    }
    match tokio::net::lookup_host(name).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            tracing::debug!(name, %error, "the name of an intermediate does not resolve");
            Vec::new()
        }
    }
}

async fn watch_deadlines<T>(shared: &Shared<T>) {
    loop {
        let deadline = shared.read_roster(|roster| roster.settle(now()));
        let pause = deadline.map_or(IDLE, |at| at.saturating_duration_since(now()));
        // Whether by an event or by time, conclusions are drawn anew.
        if tokio::time::timeout(pause.min(IDLE), shared.settled.notified()).await.is_err() {
            shared.note_time();
        }
    }
}
