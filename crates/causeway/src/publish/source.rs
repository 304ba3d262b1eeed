//! Where the payloads of `causeway pub` come from.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use crate::link::{Outgoing, Requests};

/// The largest payload that fits a packet with the longest topic, rounded down.
const MAX_PAYLOAD: u64 = 268_435_455 - 70_000;

/// Where the payloads come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// One payload, sent once or repeatedly.
    One(Bytes),
    /// A payload per line of standard input.
    Lines,
}

impl Source {
    /// The content of a file.
    pub(super) async fn file(path: &Path) -> anyhow::Result<Self> {
        let file = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("cannot open {}", path.display()))?;
        whole(file).await.with_context(|| format!("cannot read {}", path.display()))
    }

    /// All of standard input.
    pub(super) async fn standard_input() -> anyhow::Result<Self> {
        whole(tokio::io::stdin()).await.context("cannot read standard input")
    }

    /// Hands every payload to the connection and returns how many there were.
    pub(super) async fn send(
        self,
        requests: &Requests,
        message: &Outgoing,
        repeat: u64,
        delay: Duration,
    ) -> anyhow::Result<u64> {
        match self {
            Self::One(payload) => {
                for round in 0..repeat {
                    if round > 0 && !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    requests.publish(message, payload.clone()).await?;
                }
                Ok(repeat)
            }
            Self::Lines => {
                let mut count = 0;
                let mut input = BufReader::new(tokio::io::stdin());
                while let Some(line) = next_line(&mut input).await? {
                    requests.publish(message, line).await?;
                    count += 1;
                }
                Ok(count)
            }
        }
    }
}

async fn whole(input: impl AsyncRead + Unpin) -> anyhow::Result<Source> {
    let mut content = Vec::new();
    input.take(MAX_PAYLOAD + 1).read_to_end(&mut content).await?;
    ensure!(content.len() as u64 <= MAX_PAYLOAD, "more than {MAX_PAYLOAD} bytes are no message");
    Ok(Source::One(content.into()))
}

/// The next line without its end, or `None` at the end of the input.
async fn next_line(input: &mut BufReader<impl AsyncRead + Unpin>) -> anyhow::Result<Option<Bytes>> {
    let mut line = Vec::new();
    let read = input
        .take(MAX_PAYLOAD + 1)
        .read_until(b'\n', &mut line)
        .await
        .context("cannot read standard input")?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    ensure!(line.len() as u64 <= MAX_PAYLOAD, "a line of standard input is too long");
    Ok(Some(line.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_split_also_when_empty_or_without_an_end() {
        let mut input = BufReader::new(&b"one\n\nlast"[..]);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input).await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["one", "", "last"]);
    }

    #[tokio::test]
    async fn a_whole_input_is_one_message_line_breaks_included() {
        let source = whole(&b"a\nb\n"[..]).await.unwrap();
        assert_eq!(source, Source::One(Bytes::from_static(b"a\nb\n")));
    }
}
