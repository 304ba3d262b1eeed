//! The data streams of a session: deliveries in, publishes out.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::ack::AckCell;
use super::channel::{Dialer, LinkError};
use crate::convert::{Wire as _, incoming_frame};
use crate::frame::{DeliverOpen, DeliverUp, Member, PublishDown, PublishUp, StoreHere};
use crate::network::{Connection, StreamKind};
use crate::origin::{LinkId, OriginFrame};
use crate::receiver::IncomingFrame;
use crate::uplink::{Arrived, PublishPoll, Shared};
use crate::wire;

/// The data streams between one life of this proxy and one of an intermediate.
pub(super) struct Data<'a, T> {
    pub(super) shared: &'a Arc<Shared<T>>,
    pub(super) dialer: &'a Dialer,
    pub(super) own: Member,
    pub(super) member: Member,
    pub(super) cell: Arc<AckCell>,
    /// Whether the intermediate has the store.
    pub(super) store: StoreHere,
}

impl<T: Send + 'static> Data<'_, T> {
    /// Runs until one of them breaks.
    pub(super) async fn run(
        &self,
        eligible: watch::Receiver<bool>,
    ) -> Result<Infallible, LinkError> {
        let connection = self.dialer.connect().await?;
        let connection = connection.as_ref();
        let store = self.shared.store.as_ref().filter(|_| self.store == StoreHere::Yes);
        let attend = async {
            match store {
                Some(store) => self.attend(connection, store).await,
                None => std::future::pending().await,
            }
        };
        let attend = async { match attend.await {} };
        tokio::select! {
            // First what is bounded by what this side sends, so a flood of deliveries keeps nobody waiting.
            biased;
            ended = self.publish(connection, eligible) => ended,
            ended = by_turns(attend, self.deliver(connection)) => ended,
        }
    }

    async fn deliver(&self, connection: &dyn Connection) -> Result<Infallible, LinkError> {
        let session = self.shared.number();
        let (last_link, last_seq) = self.cell.begin(session);
        let open = DeliverUp::Open(DeliverOpen { member: self.own.clone(), last_link, last_seq });
        let outgoing = DeliverOut { open: Some(open), cell: Arc::clone(&self.cell), session };
        let mut incoming = connection.open(StreamKind::Deliver, Box::pin(outgoing)).await?;
        let mut opened = false;
        loop {
            let message = incoming.next().await.ok_or(LinkError::Ended)??;
            match (incoming_frame(message)?, opened) {
                (IncomingFrame::LinkOpen(id), false) => {
                    self.cell.open(session, id);
                    opened = true;
                }
                (IncomingFrame::Batch { up_to, messages }, true) => {
                    let cell = Arc::clone(&self.cell);
                    let arrived = Arrived { messages, cell, session, up_to };
                    // Waits while the broker is behind: then the intermediate's outbox fills.
                    self.shared.arrived.send(arrived).await.map_err(|_| LinkError::Ended)?;
                }
                (IncomingFrame::LinkOpen(_), true) => {
                    return Err(LinkError::Unexpected("second link"));
                }
                (IncomingFrame::Batch { .. }, false) => {
                    return Err(LinkError::Unexpected("delivery before the link"));
                }
            }
        }
    }

    /// A publish stream stands exactly as long as the intermediate may be used: one that is opened anew
    /// makes the intermediate forget the earlier one, so no acknowledgement is ever out of date.
    async fn publish(
        &self,
        connection: &dyn Connection,
        mut eligible: watch::Receiver<bool>,
    ) -> Result<Infallible, LinkError> {
        let gone = |_| LinkError::Replaced;
        loop {
            eligible.wait_for(|&eligible| eligible).await.map_err(gone)?;
            tokio::select! {
                biased;
                changed = eligible.wait_for(|&eligible| !eligible) => {
                    changed.map_err(gone)?;
                    continue;
                }
                ended = self.publish_while_eligible(connection) => ended?,
            };
        }
    }

    async fn publish_while_eligible(
        &self,
        connection: &dyn Connection,
    ) -> Result<Infallible, LinkError> {
        let id = LinkId(self.shared.number());
        if !self.shared.link_up(id, &self.member.node, self.own.incarnation) {
            return Err(LinkError::Replaced);
        }
        let _down = DownAtLast { shared: self.shared, id };
        let open = Some(PublishUp::Open(self.own.clone()));
        let outgoing = PublishOut { shared: Arc::clone(self.shared), id, open };
        let mut incoming = connection.open(StreamKind::Publish, Box::pin(outgoing)).await?;
        loop {
            let message = incoming.next().await.ok_or(LinkError::Ended)??;
            self.shared.handle_publish_down(id, PublishDown::decode(message)?);
        }
    }
}

/// Runs both until one has ended. Each is the first every other time: the first can use up what tokio lets a task do
/// before it has to yield, and then the second would get nowhere as long as there is something for the first.
async fn by_turns<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let mut is_turn_of_one = false;
    poll_fn(|context| {
        is_turn_of_one = !is_turn_of_one;
        if is_turn_of_one && let Poll::Ready(ended) = one.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        if let Poll::Ready(ended) = other.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        if is_turn_of_one { Poll::Pending } else { one.as_mut().poll(context) }
    })
    .await
}

/// Gives the link's lanes to others, however the stream ends.
struct DownAtLast<'a, T> {
    shared: &'a Shared<T>,
    id: LinkId,
}

impl<T> Drop for DownAtLast<'_, T> {
    fn drop(&mut self) {
        self.shared.link_down(self.id);
    }
}

/// What the publish stream sends: the window's frames for this link.
struct PublishOut<T> {
    shared: Arc<Shared<T>>,
    id: LinkId,
    open: Option<PublishUp>,
}

impl<T> tokio_stream::Stream for PublishOut<T> {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(open) = this.open.take() {
            return Poll::Ready(Some(open.encode()));
        }
        match this.shared.poll_publish(this.id, context.waker()) {
            PublishPoll::Frame(OriginFrame::Batch(batch)) => {
                Poll::Ready(Some(wire::publish_batch(&batch)))
            }
            PublishPoll::Frame(OriginFrame::Barrier { lane, id }) => {
                Poll::Ready(Some(PublishUp::Barrier { lane, id }.encode()))
            }
            PublishPoll::Idle => Poll::Pending,
            PublishPoll::Ended => Poll::Ready(None),
        }
    }
}

/// What the deliver stream sends: refusals and acknowledgements, whenever there are new ones.
struct DeliverOut {
    open: Option<DeliverUp>,
    cell: Arc<AckCell>,
    session: u64,
}

impl tokio_stream::Stream for DeliverOut {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(open) = this.open.take() {
            return Poll::Ready(Some(open.encode()));
        }
        let frame = ready!(this.cell.poll(this.session, context.waker()));
        Poll::Ready(frame.map(DeliverUp::encode))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::task::coop::consume_budget;

    use super::*;

    #[tokio::test]
    async fn of_two_that_always_have_something_to_do_neither_keeps_the_other_from_it() {
        let done = [Cell::new(0), Cell::new(0)];
        let busy = |number: usize| {
            let done = &done;
            async move {
                loop {
                    consume_budget().await;
                    done[number].set(done[number].get() + 1);
                    if done[number].get() == 10_000 {
                        return;
                    }
                }
            }
        };
        by_turns(busy(0), busy(1)).await;
        let [one, other] = done.map(|done| done.get());
        assert!(one.min(other) > 4_000, "{one} {other}");
    }
}
