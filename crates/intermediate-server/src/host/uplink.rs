//! The store's way to the relays: an endpoint as any other, but for its role.
//!
//! Owns a thread with a runtime of its own, unless the store runs as a task. Invariant: every route is announced before the first task of
//! the uplink runs, so no relay ever takes a part of the routes for all of them.

use cluster_rpc::frame::Route;
use cluster_rpc::{RouteSeq, Uplink, UplinkConfig, UplinkEvent, UplinkEvents};
use partition::OutboxId;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Running;
use super::life::Input;

/// A running uplink; ends when dropped.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) uplink: Uplink<OutboxId>,
    /// The last of the routes it began with.
    pub(super) last_route: Option<RouteSeq>,
    _shutdown: DropGuard,
}

/// Connects to the relays. What comes from there goes to `inputs`.
///
/// # Errors
/// The system gives no thread.
pub(super) fn connect(
    config: UplinkConfig,
    running: Running,
    routes: impl Iterator<Item = Route>,
    inputs: mpsc::Sender<Input>,
) -> std::io::Result<Connected> {
    let shutdown = CancellationToken::new();
    let runtime = match running {
        Running::Threads => Some(Builder::new_current_thread().enable_all().build()?),
        Running::Task => None,
    };
    let (uplink, events) = {
        // Its tasks wait until the thread below drives the runtime, or until this task lets them run.
        let _entered = runtime.as_ref().map(Runtime::enter);
        cluster_rpc::start(config, shutdown.clone())
    };
    let last_route = routes.map(|route| uplink.announce(route)).last();
    match runtime {
        Some(runtime) => {
            std::thread::Builder::new()
                .name("causeway-uplink".to_owned())
                .spawn(move || runtime.block_on(pass_on(events, inputs)))?;
        }
        None => drop(tokio::spawn(pass_on(events, inputs))),
    }
    Ok(Connected { uplink, last_route, _shutdown: shutdown.drop_guard() })
}

async fn pass_on(mut events: UplinkEvents<OutboxId>, inputs: mpsc::Sender<Input>) {
    while let Some(event) = events.next().await {
        let input = match event {
            UplinkEvent::Deliver(deliveries) => Input::Deliver(deliveries),
            UplinkEvent::Completed(ids) => Input::Sent(ids),
            UplinkEvent::Refused(refused) => Input::Refused(refused),
            UplinkEvent::Fenced { dropped, .. } => Input::Unsent(dropped),
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}
