//! The real binary as a process of its own, for what only a process can show: signals, sudden
//! death, the command line.
//!
//! Owns the child: it dies with its [`Process`]. Does not interpret what the binary prints.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

use crate::DEADLINE;

/// A running `causeway`.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The last lines, for failure messages.
    seen: VecDeque<String>,
}

impl Process {
    /// Starts `causeway` with `arguments`, building it first if it is not there.
    ///
    /// # Panics
    ///
    /// When it cannot be built or started.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(causeway().await)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary was built and can be started");
        let stdout = child.stdout.take().expect("its output is piped");
        Self { child, lines: BufReader::new(stdout).lines(), seen: VecDeque::new() }
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// When it has ended and was waited for.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// The next line of output that contains `text`.
    ///
    /// # Panics
    ///
    /// When none comes within six times the usual deadline, for a start takes its time.
    pub async fn line_with(&mut self, text: &str) -> String {
        let until = tokio::time::Instant::now() + 6 * DEADLINE;
        loop {
            let next = tokio::time::timeout_at(until, self.lines.next_line()).await;
            let Ok(Ok(Some(line))) = next else {
                panic!("no line with {text:?}; the last were {:#?}", self.seen);
            };
            if line.contains(text) {
                return line;
            }
            if self.seen.len() == 50 {
                self.seen.pop_front();
            }
            self.seen.push_back(line);
        }
    }

    /// The next line of output; `None` when there will be none.
    ///
    /// # Panics
    ///
    /// When neither comes within the deadline.
    pub async fn line(&mut self) -> Option<String> {
        let next = tokio::time::timeout(DEADLINE, self.lines.next_line()).await;
        next.expect("a line, or the end of the output").expect("the output is text")
    }

    /// Ends it without a chance to say goodbye.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Waits until it has ended by itself and says whether it reported success.
    ///
    /// # Panics
    ///
    /// When it goes on past the deadline.
    pub async fn end(&mut self) -> bool {
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        let status = status.expect("it ends within the deadline");
        status.expect("a child can be waited for").success()
    }
}

/// Runs `causeway` with `arguments` and `input` until it ends by itself.
///
/// # Panics
///
/// When it cannot be started, or goes on past the deadline.
pub async fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(causeway().await)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary was built and can be started");
    let mut stdin = child.stdin.take().expect("its input is piped");
    let feed = async {
        // It need not read all of it.
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
    };
    let both = async { tokio::join!(child.wait_with_output(), feed).0 };
    let ended = tokio::time::timeout(DEADLINE, both).await.expect("it ends within the deadline");
    ended.expect("a child can be waited for")
}

/// Sends a signal, named as `kill` names it (`KILL`, `TERM`, `STOP`), to a process that a
/// [`Process`] started and told the id of.
///
/// # Panics
///
/// When there is no such process.
pub async fn kill(signal: &str, id: u32) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(id.to_string()).status().await;
    assert!(status.is_ok_and(|status| status.success()), "kill -{signal} {id}");
}

/// Where the binary is, after it was built once.
pub(crate) async fn causeway() -> &'static PathBuf {
    static PATH: OnceCell<PathBuf> = OnceCell::const_new();
    PATH.get_or_init(async || {
        if let Some(path) = std::env::var_os("CARGO_BIN_EXE_causeway") {
            return path.into();
        }
        // A test binary is target/{profile}/deps/{name}, a program target/{profile}/{name}.
        let program = std::env::current_exe().expect("a running program has a path");
        let folder = program.parent().expect("a program is in a folder");
        let profile = folder.parent().filter(|_| folder.ends_with("deps")).unwrap_or(folder);
        let path = profile.join("causeway");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "causeway"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().await.expect("cargo can be started");
        assert!(status.success(), "causeway does not build");
        path
    })
    .await
}
