//! From arguments to an exit code: what the binary does, for every binary that contains it.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use daemon::Start;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::{Config, PROGRAM};
use crate::node::{Listeners, Node};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Runs a proxy as a process; `args` begins with the program's name.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let config: Config = match daemon::configure(&PROGRAM, args) {
        Start::Run(config) => config,
        Start::Exit(code) => return code,
    };
    let workers = Some(config.workers).filter(|&workers| workers > 0);
    daemon::block_on(workers, async move {
        daemon::init_logs(&config.log)?;
        let files = daemon::raise_open_files();
        let shutdown = daemon::on_signals();
        if config.exit_with_parent {
            daemon::stop_with_parent(&shutdown)?;
        }
        let listeners = bind(&config).await?;
        let node = Node::start(config, listeners, shutdown)?;
        tracing::info!(mqtt = ?node.addresses(), open_files = ?files.0, "proxy started");
        node.join().await?;
        tracing::info!("proxy stopped");
        Ok(())
    })
}

async fn bind(config: &Config) -> anyhow::Result<Listeners> {
    let mut mqtt = Vec::new();
    for address in &config.mqtt.listen {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(*address).with_context(|| format!("bind mqtt.listen {address}"))?;
        mqtt.push(socket.listen(BACKLOG).with_context(|| format!("listen on {address}"))?);
    }
    let admin = match config.admin_listen {
        None => None,
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.with_context(|| format!("bind admin_listen {address}"))?)
        }
    };
    Ok(Listeners { mqtt, admin })
}
