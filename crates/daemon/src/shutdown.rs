//! The end of a process: by a signal, or because its parent is gone.

use std::io::Read as _;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::options::{Opt, OptKind};

/// Row `exit_with_parent` for a program's table; see [`stop_with_parent`].
pub const EXIT_WITH_PARENT: Opt = Opt {
    key: "exit_with_parent",
    default: "false",
    unit: "",
    help: "Stop when standard input ends: a parent process that holds the other end takes this one with it",
    kind: OptKind::Boolean,
};

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once, with exit code
/// 128 + signal. Call it inside the runtime.
pub fn on_signals() -> CancellationToken {
    let token = CancellationToken::new();
    let signals = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    match signals {
        Ok((terminate, interrupt)) => {
            tokio::spawn(obey(terminate, interrupt, token.clone()));
        }
        Err(error) => tracing::error!(%error, "signals cannot be received"),
    }
    token
}

/// Cancels `shutdown` when standard input ends. What is read from it is thrown away.
///
/// # Errors
/// When no thread can be started.
pub fn stop_with_parent(shutdown: &CancellationToken) -> std::io::Result<()> {
    let shutdown = shutdown.clone();
    // A thread of its own: a read of standard input cannot be cancelled, so on the runtime it would
    // hold up the end of the process.
    std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
        let mut scratch = [0_u8; 64];
        while matches!(std::io::stdin().read(&mut scratch), Ok(length) if length > 0) {}
        shutdown.cancel();
        tracing::info!("standard input ended: stopping with the parent process");
    })?;
    Ok(())
}

async fn obey(mut terminate: Signal, mut interrupt: Signal, token: CancellationToken) {
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    token.cancel();
    tracing::info!(signal = name, "stopping; a second signal ends the process at once");
    let code = tokio::select! {
        _ = terminate.recv() => 143,
        _ = interrupt.recv() => 130,
    };
    std::process::exit(code);
}
