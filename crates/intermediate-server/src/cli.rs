//! From arguments to an exit code: what the binary does, for every binary that contains it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use daemon::Start;
use tokio::net::TcpListener;

use crate::config::{Config, PROGRAM};
use crate::node::{Listeners, Node};

/// Runs an intermediate as a process; `args` begins with the program's name.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let config: Config = match daemon::configure(&PROGRAM, args) {
        Start::Run(config) => config,
        Start::Exit(code) => return code,
    };
    let workers = Some(config.workers).filter(|&workers| workers > 0);
    daemon::block_on(workers, async move {
        daemon::init_logs(&config.log)?;
        daemon::raise_open_files();
        let shutdown = daemon::on_signals();
        if config.exit_with_parent {
            daemon::stop_with_parent(&shutdown)?;
        }
        let grpc = bind("listen", config.listen).await?;
        let admin = match config.admin_listen {
            Some(address) => Some(bind("admin_listen", address).await?),
            None => None,
        };
        let node = Node::start(config, Listeners { grpc, admin }, shutdown)?;
        let addresses = node.addresses();
        tracing::info!(
            node = %node.member().node,
            grpc = %addresses.grpc,
            admin = ?addresses.admin,
            "intermediate started"
        );
        node.join().await?;
        tracing::info!("intermediate stopped");
        Ok(())
    })
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("bind {key} {address}"))
}
