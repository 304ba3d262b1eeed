//! The joined output: what `up` says, and the lines of the servers with their names before them.
//!
//! A thread of its own writes. When nobody reads the output, lines are dropped and counted, so that
//! a full pipe never holds up a server or the end of `up`. Lines of servers are held back until
//! [`Console::release`], so that the table comes first.

use std::fs::File;
use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Lines that may wait for the terminal.
const WAITING: usize = 4096;
/// Lines of servers that are held back until the table is printed.
const HELD: usize = 4096;
/// A longer line is broken.
const LONGEST_LINE: u64 = 64 * 1024;
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The output of `up`.
#[derive(Debug)]
pub(super) struct Console {
    out: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
    readers: TaskTracker,
    done: oneshot::Receiver<()>,
    colours: bool,
}

/// The output of one server.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    prefix: String,
    file: Option<Arc<Mutex<File>>>,
    out: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
    readers: TaskTracker,
}

#[derive(Debug)]
enum Line {
    Said(String),
    OfServer(String),
    Release,
}

impl Console {
    /// Starts the writing thread.
    pub(super) fn start() -> anyhow::Result<Self> {
        let (out, lines) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let (finished, done) = oneshot::channel();
        let lost = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                write_lines(&lines, &lost, &mut std::io::stdout());
                // Whoever waited may have stopped waiting.
                finished.send(()).ok();
            })
            .context("cannot start a thread")?;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = !no_color && std::io::stdout().is_terminal();
        Ok(Self { out, dropped, readers: TaskTracker::new(), done, colours })
    }

    /// Prints a text of `up` itself.
    pub(super) fn say(&self, text: String) {
        offer(&self.out, &self.dropped, Line::Said(text));
    }

    /// Prints the lines of servers from now on, beginning with those held back.
    pub(super) fn release(&self) {
        offer(&self.out, &self.dropped, Line::Release);
    }

    /// The output of the server `name`, the `index`-th; kept in `file` too.
    pub(super) fn lines(
        &self,
        name: &str,
        index: usize,
        file: Option<&Path>,
    ) -> anyhow::Result<Lines> {
        let open = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("cannot write {}", path.display()))
        };
        let file = file.map(open).transpose()?;
        Ok(Lines {
            prefix: prefix(name, index, self.colours),
            file: file.map(|file| Arc::new(Mutex::new(file))),
            out: self.out.clone(),
            dropped: Arc::clone(&self.dropped),
            readers: self.readers.clone(),
        })
    }

    /// Prints what is left, unless nobody reads it.
    pub(super) async fn finish(self) {
        let Self { out, readers, done, .. } = self;
        readers.close();
        let rest = async {
            readers.wait().await;
            drop(out);
            done.await.ok();
        };
        tokio::time::timeout(LAST_LINES, rest).await.ok();
    }
}

impl Lines {
    /// Prints the lines of `output` until it ends.
    pub(super) fn follow(&self, output: impl AsyncRead + Send + Unpin + 'static) {
        let lines = self.clone();
        self.readers.spawn(async move {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut output).take(LONGEST_LINE).read_until(b'\n', &mut line).await
            {
                lines.print(&line);
                line.clear();
            }
        });
    }

    fn print(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']);
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // The copy is a convenience: a full disk must not stop the cluster.
            writeln!(file, "{text}").ok();
        }
        offer(&self.out, &self.dropped, Line::OfServer(format!("{}{text}", self.prefix)));
    }
}

fn offer(out: &SyncSender<Line>, dropped: &AtomicU64, line: Line) {
    if out.try_send(line).is_err() {
        dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_lines(lines: &Receiver<Line>, dropped: &AtomicU64, out: &mut impl Write) {
    let mut held = Some(Vec::new());
    while let Ok(line) = lines.recv() {
        let texts = match (line, &mut held) {
            (Line::OfServer(text), Some(waiting)) => {
                if waiting.len() < HELD {
                    waiting.push(text);
                }
                continue;
            }
            (Line::Release, _) => held.take().unwrap_or_default(),
            (Line::Said(text) | Line::OfServer(text), _) => vec![text],
        };
        let lost = dropped.swap(0, Ordering::Relaxed);
        let note = (lost > 0).then(|| format!("({lost} lines were not read in time)"));
        for text in note.into_iter().chain(texts) {
            // With the output closed there is nobody to tell; the servers go on.
            writeln!(out, "{text}").ok();
        }
        out.flush().ok();
    }
}

fn prefix(name: &str, index: usize, colours: bool) -> String {
    /// Green, yellow, blue, magenta, cyan: readable on dark and on light.
    const COLOURS: [u8; 5] = [32, 33, 34, 35, 36];
    let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or(32);
    if colours { format!("\x1b[{colour}m{name:<14}\x1b[0m | ") } else { format!("{name:<14} | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_servers_wait_until_the_table_is_printed() {
        let (out, lines) = sync_channel(16);
        for line in [
            Line::OfServer("early".to_owned()),
            Line::Said("table".to_owned()),
            Line::Release,
            Line::OfServer("late".to_owned()),
        ] {
            out.send(line).unwrap();
        }
        drop(out);
        let mut printed = Vec::new();
        write_lines(&lines, &AtomicU64::new(0), &mut printed);
        assert_eq!(String::from_utf8(printed).unwrap(), "table\nearly\nlate\n");
    }

    #[test]
    fn names_are_coloured_only_on_a_terminal() {
        assert_eq!(prefix("proxy-0", 1, false), "proxy-0        | ");
        assert_eq!(prefix("proxy-0", 1, true), "\x1b[33mproxy-0       \x1b[0m | ");
    }
}
