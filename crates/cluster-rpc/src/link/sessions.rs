//! The session stream: calls to the store out, its answers and deliveries in.
//!
//! It breaks alone: the store may be away while the relay beside it goes on. It is opened again as long as
//! the link stands.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio_stream::StreamExt as _;

use super::channel::LinkError;
use super::data::Data;
use crate::backoff::Backoff;
use crate::convert::Wire as _;
use crate::frame::{SessionDown, SessionUp};
use crate::network::{Connection, StreamKind};
use crate::uplink::{LinkEpoch, StoreEvent, StoreShared, count};

impl<T: Send + 'static> Data<'_, T> {
    /// Keeps a session stream, one after the other.
    pub(super) async fn attend(
        &self,
        connection: &dyn Connection,
        store: &Arc<StoreShared>,
    ) -> Infallible {
        let _turn = store.turn(&self.member.node).await;
        let mut backoff = Backoff::default();
        loop {
            let mut opened = false;
            let Err(error) = self.attend_once(connection, store, &mut opened).await;
            let node = &self.member.node;
            if opened {
                backoff.reset();
                tracing::warn!(%node, %error, "the store is away");
            } else {
                tracing::debug!(%node, %error, "the store does not answer");
            }
            count(&self.shared.metrics().store_breaks, 1);
            tokio::time::sleep(backoff.next(self.shared.random())).await;
        }
    }

    async fn attend_once(
        &self,
        connection: &dyn Connection,
        store: &Arc<StoreShared>,
        opened: &mut bool,
    ) -> Result<Infallible, LinkError> {
        let stream = self.shared.number();
        let _guard = store.begin(stream);
        let open = Some(SessionUp::Open(self.own.clone()));
        let outgoing = SessionOut { store: Arc::clone(store), stream, open };
        let mut incoming = connection.open(StreamKind::Sessions, Box::pin(outgoing)).await?;
        loop {
            let message = tokio::select! {
                biased;
                () = store.ended(stream), if *opened => return Err(LinkError::Replaced),
                message = incoming.next() => message.ok_or(LinkError::Ended)??,
            };
            let event = match (SessionDown::decode(message)?, *opened) {
                (SessionDown::Opened(member), false) => {
                    tracing::info!(store = %member.node, "the store is there");
                    *opened = true;
                    store.open(stream);
                    let life = self.own.incarnation;
                    StoreEvent::Up { link: LinkEpoch(stream), store: member, life }
                }
                (SessionDown::Answers(answers), true) => StoreEvent::Answers(answers),
                (SessionDown::Deliveries(deliveries), true) => StoreEvent::Deliveries(deliveries),
                (SessionDown::Opened(_), true) => {
                    return Err(LinkError::Unexpected("second life of the store"));
                }
                (SessionDown::Answers(_) | SessionDown::Deliveries(_), false) => {
                    return Err(LinkError::Unexpected("before the store has opened"));
                }
            };
            if !store.arrived(stream, event).await {
                return Err(LinkError::Ended);
            }
        }
    }
}

/// What the session stream sends: calls, as many as wait in one frame.
struct SessionOut {
    store: Arc<StoreShared>,
    stream: u64,
    open: Option<SessionUp>,
}

impl tokio_stream::Stream for SessionOut {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(open) = this.open.take() {
            return Poll::Ready(Some(open.encode()));
        }
        let calls = ready!(this.store.poll(this.stream, context.waker()));
        Poll::Ready(calls.map(|calls| SessionUp::Calls(calls).encode()))
    }
}
