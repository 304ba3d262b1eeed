//! One client's task: it moves bytes, packets and messages between the socket, the [`Connection`], the [`Broker`]
//! and the store, and decides nothing of the protocol.
//!
//! One wake-up serves as much as is there: it reads once, decodes everything read, drains the mailbox, and writes
//! the answers together. What bounds it: no reading while the output is long, while the uplink has no room
//! for this client's message, while the way to the store is full, or while too many of its requests wait for their
//! answer.

mod kept;
mod recent;
mod requests;
mod retained;
mod stored;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cluster_rpc::machine::now;
use mqtt_codec::{Decoder, PacketId, ReasonCode};
use mqtt_session::{Connection, DeliveryOutcome, Event, ProtocolError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use self::kept::Kept;
use self::recent::Recent;
use self::requests::{Request, RequestKind, Requests, Wait};
use self::retained::Scans;
use crate::broker::{Broker, Client, Publication, Published, Publisher, Stalled};
use crate::leftovers;
use crate::mailbox::Drained;
use crate::metrics::DropReason;
use crate::session_guard::SessionGuard;
use crate::wire::{Input, Output, READ_CHUNK};

/// No message is taken from the mailbox while more than this waits to be written, in bytes.
const OUTPUT_ENOUGH: usize = 64 * 1024;

/// Nothing is read while more than this waits to be written, in bytes.
const OUTPUT_MUCH: usize = 1024 * 1024;

/// Steps of a busy client before others have their turn.
const STEPS: u8 = 4;

/// SUBSCRIBE and UNSUBSCRIBE packets that may wait for their answers; then nothing is read.
const REQUESTS: usize = 16;

/// Subscriptions that may wait for their retained messages; then nothing is read.
const SCANS: usize = 1024;

/// How long a closed connection may take to send what it still has to say.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How the socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketEnd {
    /// The protocol closed it.
    Closed,
    /// The other side closed it, or it broke.
    Lost,
}

/// Who keeps the session of a connection.
#[derive(Debug)]
pub(crate) enum Keeping {
    /// This proxy, which forgets it when the connection ends.
    Clean,
    /// The store. QoS 2 messages of the client that are not released have these keys.
    Kept(Vec<(PacketId, u128)>),
}

/// One connection being served.
pub(crate) struct ClientTask<S> {
    stream: S,
    decoder: Decoder,
    input: Input,
    output: Output,
    connection: Connection,
    broker: Arc<Broker>,
    client: Client,
    publisher: Publisher,
    drained: Drained,
    stalled: Option<Box<StalledPublish>>,
    /// `None` for a clean session.
    kept: Option<Box<Kept>>,
    requests: Requests,
    /// `None` while no retained messages are owed, as nearly always.
    scans: Option<Box<Scans>>,
    /// `None` if no message with RETAIN came lately.
    recent: Option<Box<Recent>>,
    /// Something was told or asked at the store in this turn.
    told_store: bool,
    /// Until the way to the store has room.
    congested: Option<Wait>,
    timer: Pin<Box<Sleep>>,
    /// Steps since others had their turn.
    steps: u8,
    /// Whether the client was not listened to since the keep-alive was last looked at.
    deaf: bool,
    guard: SessionGuard,
}

/// A publish that waits for room in the uplink.
struct StalledPublish {
    stalled: Stalled,
    room: Wait,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientTask<S> {
    /// Serves `connection` over `stream`. `input` holds what came after the CONNECT.
    pub(crate) fn new(
        stream: S,
        (decoder, input): (Decoder, Input),
        (connection, keeping): (Connection, Keeping),
        (client, guard): (Client, SessionGuard),
        publisher: Publisher,
    ) -> Self {
        let broker = Arc::clone(guard.broker());
        let timer = Box::pin(tokio::time::sleep_until(deadline(&connection).into()));
        let kept = match keeping {
            Keeping::Clean => None,
            Keeping::Kept(incoming) => Some(Box::new(Kept::new(incoming))),
        };
        Self {
            stream,
            decoder,
            input,
            output: Output::default(),
            connection,
            broker,
            client,
            publisher,
            drained: Drained::default(),
            stalled: None,
            kept,
            requests: Requests::default(),
            scans: None,
            recent: None,
            told_store: false,
            congested: None,
            timer,
            steps: 0,
            deaf: false,
            guard,
        }
    }

    /// Serves the client until its connection ends, and hands the session back.
    pub(crate) async fn run(mut self: Box<Self>) {
        let end = loop {
            if self.connection.closed().is_some() {
                break SocketEnd::Closed;
            }
            match poll_fn(|context| self.poll_step(context)).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, "connection lost");
                    break SocketEnd::Lost;
                }
            }
        };
        let encoded = self.encode();
        let (stream, output) = self.finish();
        if end == SocketEnd::Closed && encoded.is_ok() {
            // In a box: a connection that idles is not to keep room for it.
            Box::pin(say_farewell(stream, output)).await;
        }
    }

    /// Ends the connection and hands its session back. What is left is to be said to the client.
    fn finish(mut self) -> (S, Output) {
        self.guard.disarm();
        self.publish_unrepeated(now());
        self.publisher.tally.flush(&self.broker.metrics);
        // Local recipients have it already, so the cluster should get it too. If it cannot, the client is told
        // nothing, and may send it again.
        let late = self.stalled.take();
        let late = late.and_then(|late| leftovers::relay(&self.broker, late.stalled).err());
        if let Some(ticket) = late.map(Stalled::into_ticket) {
            self.broker.metrics.count_dropped(DropReason::UplinkFull, 1);
            self.connection.complete(ticket, ReasonCode::QuotaExceeded);
        }
        self.confirm();
        let ended = self.connection.end();
        tracing::debug!(reason = ?ended.reason, "connection closed");
        self.broker.metrics.count_closed(&ended.reason);
        self.broker.close(&self.client, &ended, &self.drained);
        (self.stream, self.output)
    }

    /// Does everything that can be done now. Pending when there was nothing.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = now();
        let mut progress = self.poll_waits(context, now);
        progress |= self.poll_mailbox(context, now);
        progress |= self.poll_input(context, now)?;
        progress |= self.poll_timer(context, now);
        self.read_retained();
        self.hand_over(now);
        self.confirm();
        progress |= self.heed_congestion();
        self.encode()?;
        progress |= self.poll_output(context)?;
        self.publisher.tally.flush(&self.broker.metrics);
        let crowded = std::mem::take(&mut self.publisher.crowded);
        if self.connection.closed().is_some() {
            return Poll::Ready(Ok(()));
        }
        self.steps = if progress { self.steps + 1 } else { 0 };
        if crowded || self.steps >= STEPS {
            // A recipient's queue fills up, or this client alone is busy: let other tasks run before this one goes on.
            self.steps = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if progress {
            return Poll::Ready(Ok(()));
        }
        self.connection.shrink();
        Poll::Pending
    }

    fn poll_waits(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = self.poll_requests(context);
        if let Some(congested) = &mut self.congested
            && congested.as_mut().poll(context).is_ready()
        {
            self.congested = None;
            progress = true;
        }
        let Some(waiting) = &mut self.stalled else {
            return progress;
        };
        if waiting.room.as_mut().poll(context).is_pending() {
            return progress;
        }
        if let Some(waiting) = self.stalled.take() {
            let published = self.broker.relay(waiting.stalled);
            self.handle_published(published);
        }
        self.publish_due(now);
        true
    }

    fn poll_requests(&mut self, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Some(Request { ticket, kind, reasons, .. }) = self.requests.poll(context) {
            match kind {
                RequestKind::Subscribe(owed) => {
                    self.connection.complete_subscribe(ticket, reasons);
                    if let Some(owed) = owed {
                        self.owe_retained(owed);
                    }
                }
                RequestKind::Unsubscribe => self.connection.complete_unsubscribe(ticket, reasons),
            }
            progress = true;
        }
        progress
    }

    fn poll_mailbox(&mut self, context: &Context<'_>, now: Instant) -> bool {
        let room = OUTPUT_ENOUGH.saturating_sub(self.output.len());
        let before = self.drained.deliveries.len();
        let quota = if before > 0 { 0 } else { room };
        let window = self.connection.window();
        let mailbox = &self.client.handle.mailbox;
        let ready = mailbox.poll_drain(context, window, quota, &mut self.drained).is_ready();
        if self.kept.is_none() {
            self.note_live(before, now);
        }
        for (ticket, reason) in self.drained.completions.drain(..) {
            self.connection.complete(ticket, reason);
        }
        if !self.drained.news.is_empty() {
            self.handle_news(now);
        }
        if ready {
            // An answer can lead to the next question.
            self.handle_events(now);
        }
        if let Some(order) = self.drained.order.take() {
            self.connection.close(order.0);
        }
        ready
    }

    fn poll_input(&mut self, context: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        let mut progress = false;
        self.deaf |= !self.may_read();
        // A whole packet that waits is decoded before more is read.
        let missing = self.decoder.missing(&self.input.buffer);
        if missing > 0 && self.may_read() {
            match self.input.poll_read(context, &mut self.stream, missing) {
                Poll::Pending => {}
                Poll::Ready(read) => {
                    let read = read?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    if read >= READ_CHUNK {
                        self.steps = STEPS - 1;
                    }
                    progress = true;
                }
            }
        }
        progress |= self.decode_all(now);
        self.input.release();
        Ok(progress)
    }

    /// Whether the next packet may be taken from the client.
    fn may_read(&self) -> bool {
        self.stalled.is_none()
            && self.congested.is_none()
            && self.connection.closed().is_none()
            && self.connection.accepts_input()
            && self.requests.len() < REQUESTS
            && self.scans.as_ref().is_none_or(|scans| scans.len() < SCANS)
            && self.output.len() < OUTPUT_MUCH
    }

    fn decode_all(&mut self, now: Instant) -> bool {
        let mut progress = false;
        while self.may_read() && !self.publisher.crowded {
            let handled = match self.decoder.decode(&mut self.input.buffer) {
                Ok(None) => break,
                Ok(Some(packet)) => self.connection.handle_packet(packet, now),
                Err(error) => Err(ProtocolError::from(error)),
            };
            progress = true;
            match handled {
                Ok(()) => self.handle_events(now),
                Err(error) => self.connection.fail(error),
            }
        }
        progress
    }

    fn handle_events(&mut self, now: Instant) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Publish { message, once, ticket } if self.kept.is_some() => {
                    self.publish_kept(message, once, ticket, now);
                }
                Event::Publish { message, ticket, .. } => {
                    self.publish(Publication { message, once: None, ticket }, now);
                }
                Event::Release { packet_id, ticket } => self.release(packet_id, ticket),
                Event::Subscribe { subscription_id, filters, ticket, .. } => {
                    self.subscribe((filters, subscription_id), ticket, now);
                }
                Event::Unsubscribe { filters, ticket } => self.unsubscribe(filters, ticket, now),
            }
        }
    }

    fn publish(&mut self, publication: Publication, now: Instant) {
        let published = self.broker.publish(&mut self.publisher, publication, now);
        self.handle_published(published);
    }

    fn handle_published(&mut self, published: Published) {
        match published {
            Published::Done(ticket, reason) => self.connection.complete(ticket, reason),
            Published::Pending => {}
            Published::Stalled(stalled) => self.stalled = Some(self.wait_for_room(stalled)),
            Published::EarlierLife => self.connection.close(ReasonCode::ServerShuttingDown),
        }
    }

    fn wait_for_room(&self, stalled: Stalled) -> Box<StalledPublish> {
        let uplink = self.broker.uplink.clone();
        let room = Box::pin(async move { uplink.window_open().await });
        Box::new(StalledPublish { stalled, room })
    }

    fn hand_over(&mut self, now: Instant) {
        while let Some(delivery) = self.drained.deliveries.pop_front() {
            let qos = delivery.qos;
            match self.connection.handle_delivery(delivery, now) {
                DeliveryOutcome::Queued => self.publisher.tally.sent(qos),
                DeliveryOutcome::Repeated => {}
                DeliveryOutcome::Expired => self.publisher.tally.dropped(DropReason::Expired),
                DeliveryOutcome::TooLarge => self.publisher.tally.dropped(DropReason::TooLarge),
                DeliveryOutcome::Refused(delivery) => {
                    self.drained.deliveries.push_front(delivery);
                    return;
                }
            }
        }
        // An idle connection holds no queue memory.
        self.drained.deliveries = VecDeque::new();
    }

    fn encode(&mut self) -> io::Result<()> {
        let version = self.connection.version();
        while let Some(packet) = self.connection.poll_packet() {
            self.output.push(&packet, version).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn poll_output(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut progress = false;
        while !self.output.is_empty() {
            match self.output.poll_write(context, &mut self.stream) {
                Poll::Ready(written) => written?,
                Poll::Pending => break,
            }
            progress = true;
        }
        Ok(progress)
    }

    fn poll_timer(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        while self.timer.as_mut().poll(context).is_ready() {
            if std::mem::take(&mut self.deaf) {
                self.connection.excuse_silence(now);
            }
            self.connection.handle_timeout(now);
            if self.scans.is_none() {
                let next = self.drained.next;
                self.recent.take_if(|recent| recent.is_over(next, now));
            }
            if self.connection.closed().is_some() {
                return true;
            }
            self.reset_timer(now);
            progress = true;
        }
        progress
    }

    fn reset_timer(&mut self, now: Instant) {
        let keep_alive = deadline(&self.connection);
        let next =
            self.recent.as_ref().map_or(keep_alive, |_| keep_alive.min(now + recent::MEMORY));
        self.timer.as_mut().reset(next.into());
    }
}

/// The session has ended here already: nobody waits for a client that does not read.
async fn say_farewell<S: AsyncWrite + Unpin>(mut stream: S, mut output: Output) {
    let farewell = poll_fn(|context| poll_farewell(context, &mut stream, &mut output));
    drop(tokio::time::timeout(LAST_WORDS, farewell).await);
}

fn poll_farewell<S: AsyncWrite + Unpin>(
    context: &mut Context<'_>,
    stream: &mut S,
    output: &mut Output,
) -> Poll<io::Result<()>> {
    while !output.is_empty() {
        std::task::ready!(output.poll_write(context, stream))?;
    }
    Pin::new(stream).poll_shutdown(context)
}

/// When the keep-alive is to be looked at next; far away if there is none.
fn deadline(connection: &Connection) -> Instant {
    const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
    connection.poll_timeout().unwrap_or_else(|| now() + FAR)
}
