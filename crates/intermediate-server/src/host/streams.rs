//! The streams of proxies: from a connection to the store's thread.
//!
//! Owns nothing but the stream: reads its frames and gives them to the thread, as long as its proxy is not
//! owed too much. What goes out does so past here, by the stream's sender.

use std::sync::Arc;
use std::time::Duration;

use cluster_rpc::StreamError;
use cluster_rpc::frame::{Member, SessionDown, SessionUp};
use cluster_rpc::machine::now;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::life::Input;
use super::lines::{Debt, LineId, Opening};
use crate::service::SessionStream;

/// How long a stream may take to say whose it is.
const OPEN_WAIT: Duration = Duration::from_secs(5);

/// The way to a life of the store.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) inputs: mpsc::Sender<Input>,
    /// The life itself.
    pub(super) member: Member,
    /// Ends all its streams.
    pub(super) close: CancellationToken,
}

/// Serves a stream until it ends, or the life does.
pub(super) async fn serve(id: LineId, mut stream: SessionStream, way: Way) {
    let peer = stream.peer();
    let close = way.close.child_token();
    let ended = tokio::select! {
        biased;
        () = close.cancelled() => Ok(()),
        ended = talk(id, &mut stream, &way, &close) => ended,
    };
    match ended {
        Ok(()) => tracing::debug!(%peer, "session stream ended"),
        Err(StreamError::Broken(error)) => {
            tracing::debug!(%peer, %error, "session stream broken");
        }
        Err(error @ StreamError::Frame(_)) => {
            tracing::warn!(%peer, %error, "session stream ended because of what came on it");
        }
    }
}

async fn talk(
    id: LineId,
    stream: &mut SessionStream,
    way: &Way,
    close: &CancellationToken,
) -> Result<(), StreamError> {
    let Ok(first) = tokio::time::timeout(OPEN_WAIT, stream.recv()).await else { return Ok(()) };
    let Some(SessionUp::Open(member)) = first? else { return Ok(()) };
    let sender = stream.sender();
    let at = now();
    if sender.send(SessionDown::Opened(way.member.clone())).await.is_err() {
        return Ok(());
    }
    let debt = Arc::new(Debt::default());
    let opening = Opening { member, sender, debt: Arc::clone(&debt), close: close.clone(), at };
    if way.inputs.send(Input::Opened(id, opening)).await.is_err() {
        return Ok(());
    }
    let _closed = Closed { inputs: way.inputs.clone(), line: id };
    loop {
        debt.bearable().await;
        let calls = match stream.recv().await? {
            Some(SessionUp::Calls(calls)) => calls,
            Some(SessionUp::Open(_)) | None => return Ok(()),
        };
        debt.add_calls(&calls);
        if way.inputs.send(Input::Calls(id, calls)).await.is_err() {
            return Ok(());
        }
    }
}

/// Dropping it, however the stream ended, tells the thread.
struct Closed {
    inputs: mpsc::Sender<Input>,
    line: LineId,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let (inputs, line) = (self.inputs.clone(), self.line);
        // A task, because the queue may be full: the word must not be lost, and a drop cannot wait.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { inputs.send(Input::Closed(line)).await.ok() });
        }
    }
}
