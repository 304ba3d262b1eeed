//! One server as a child process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::console::Lines;

/// How long a server may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Name of the node.
    pub(super) name: String,
    /// The hidden command, and the server's flags.
    pub(super) arguments: Vec<String>,
    /// Where clients connect, when they do.
    pub(super) mqtt: Option<SocketAddr>,
    /// Where proxies connect, when they do.
    pub(super) grpc: Option<SocketAddr>,
    /// Where the server says whether it is ready.
    pub(super) admin: SocketAddr,
}

/// A server that was started.
#[derive(Debug)]
pub(super) struct Server {
    /// Process id.
    pub(super) process: u32,
    stop: CancellationToken,
}

impl Spec {
    /// The intermediate, with its store in the folder `store`.
    pub(super) fn intermediate(grpc: SocketAddr, admin: SocketAddr, store: &str) -> Self {
        let name = "intermediate-0".to_owned();
        let arguments = arguments(
            crate::INTERMEDIATE_SERVER,
            &[
                ("--node-id", name.clone()),
                ("--listen", grpc.to_string()),
                ("--admin-listen", admin.to_string()),
                ("--start-grace", "0s".to_owned()),
                ("--data-directory", store.to_owned()),
            ],
        );
        Self { name, arguments, mqtt: None, grpc: Some(grpc), admin }
    }

    /// A proxy that connects to the intermediate at `grpc`.
    pub(super) fn proxy(
        number: usize,
        mqtt: SocketAddr,
        admin: SocketAddr,
        grpc: SocketAddr,
    ) -> Self {
        let name = format!("proxy-{number}");
        let arguments = arguments(
            crate::PROXY_SERVER,
            &[
                ("--node-id", name.clone()),
                ("--mqtt-listen", mqtt.to_string()),
                ("--admin-listen", admin.to_string()),
                ("--cluster-intermediates", grpc.to_string()),
            ],
        );
        Self { name, arguments, mqtt: Some(mqtt), grpc: None, admin }
    }
}

impl Server {
    /// Starts `program` as `spec` says, with what it prints going to `lines`. The future resolves
    /// when the process has ended.
    pub(super) fn start(
        program: &Path,
        spec: &Spec,
        lines: &Lines,
    ) -> anyhow::Result<(Self, impl Future<Output = ExitStatus> + Send + 'static)> {
        let mut child = Command::new(program)
            .args(&spec.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C in the terminal is for `up` alone, which keeps the order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", spec.name))?;
        let process = child.id().unwrap_or_default();
        if let Some(output) = child.stdout.take() {
            lines.follow(output);
        }
        if let Some(output) = child.stderr.take() {
            lines.follow(output);
        }
        let stop = CancellationToken::new();
        let end = end(child, stop.clone());
        Ok((Self { process, stop }, end))
    }

    /// Asks the server to stop, and kills it when it does not.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

async fn end(mut child: Child, stop: CancellationToken) -> ExitStatus {
    let input = child.stdin.take();
    tokio::select! {
        Ok(status) = child.wait() => return status,
        () = stop.cancelled() => {}
    }
    // The end of its standard input tells the server to stop.
    drop(input);
    if let Ok(Ok(status)) = tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        return status;
    }
    // It fails only when the process has just ended.
    child.start_kill().ok();
    child.wait().await.unwrap_or_default()
}

fn arguments(command: &str, flags: &[(&str, String)]) -> Vec<String> {
    let mut arguments = vec![command.to_owned()];
    for (flag, value) in flags {
        arguments.extend([(*flag).to_owned(), value.clone()]);
    }
    arguments.extend(["--exit-with-parent".to_owned(), "true".to_owned()]);
    arguments
}
