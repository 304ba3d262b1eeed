//! One client's task: it moves bytes, packets and messages between the socket, the [`Connection`]
//! and the [`Broker`], and decides nothing of the protocol.
//!
//! One wake-up serves as much as is there: it reads once, decodes everything read, drains the mailbox, and writes
//! the answers together. What bounds it: no reading while the output is long, while the uplink has no room
//! for this client's message, or while too many of its messages wait for their answer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mqtt_codec::{Decoder, ReasonCode, TopicFilter};
use mqtt_session::{Connection, DeliveryOutcome, Event, ProtocolError, Ticket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use crate::broker::{Broker, Published, Publisher, Stalled, Subscribed};
use crate::mailbox::Drained;
use crate::metrics::DropReason;
use crate::retained_scan::RetainedScan;
use crate::session_guard::SessionGuard;
use crate::will;
use crate::wire::{Input, Output};

/// No message is taken from the mailbox while more than this waits to be written, in bytes.
const OUTPUT_ENOUGH: usize = 64 * 1024;

/// Nothing is read while more than this waits to be written, in bytes.
const OUTPUT_MUCH: usize = 1024 * 1024;

/// SUBSCRIBE packets that may wait for the intermediates; then nothing is read.
const SUBSCRIBING: usize = 16;

/// Subscriptions that may wait for their retained messages; then nothing is read.
const SCANS: usize = 1024;

/// Retained messages read at once.
const RETAINED_PAGE: usize = 64;

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

/// One connection being served.
pub(crate) struct ClientTask<S> {
    stream: S,
    decoder: Decoder,
    input: Input,
    output: Output,
    connection: Connection,
    broker: Arc<Broker>,
    publisher: Publisher,
    drained: Drained,
    stalled: Option<StalledPublish>,
    subscribing: VecDeque<Subscribing>,
    scans: VecDeque<RetainedScan>,
    timer: Pin<Box<Sleep>>,
    /// Whether the client was not listened to since the keep-alive was last looked at.
    deaf: bool,
    guard: SessionGuard,
}

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A publish that waits for room in the uplink.
struct StalledPublish {
    stalled: Stalled,
    room: Wait,
}

/// A SUBSCRIBE whose routes are not applied everywhere yet.
struct Subscribing {
    ticket: Ticket,
    subscribed: Subscribed,
    applied: Wait,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientTask<S> {
    /// Serves `connection` over `stream`. `input` holds what came after the CONNECT.
    pub(crate) fn new(
        stream: S,
        (decoder, input): (Decoder, Input),
        connection: Connection,
        guard: SessionGuard,
        publisher: Publisher,
    ) -> Self {
        let broker = Arc::clone(guard.broker());
        if connection.session_expiry_secs() > 0 {
            publisher.handle.mailbox.limit(broker.inbox_limits());
        }
        let timer = Box::pin(tokio::time::sleep_until(deadline(&connection).into()));
        Self {
            stream,
            decoder,
            input,
            output: Output::default(),
            connection,
            broker,
            publisher,
            drained: Drained::default(),
            stalled: None,
            subscribing: VecDeque::new(),
            scans: VecDeque::new(),
            timer,
            deaf: false,
            guard,
        }
    }

    /// Serves the client until its connection ends, and hands the session back.
    pub(crate) async fn run(mut self) {
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
        let (mut stream, mut output) = self.finish();
        if end == SocketEnd::Closed && encoded.is_ok() {
            // The session is over or parked already: nobody waits for a client that does not read.
            let farewell = poll_fn(|context| poll_farewell(context, &mut stream, &mut output));
            drop(tokio::time::timeout(LAST_WORDS, farewell).await);
        }
    }

    /// Ends the connection and hands its session back. What is left is to be said to the client.
    fn finish(mut self) -> (S, Output) {
        self.guard.disarm();
        self.publisher.tally.flush(&self.broker.metrics);
        // Local recipients have it already, so the cluster should get it too. If it cannot, the client is told
        // nothing, and may send it again.
        let late =
            self.stalled.take().and_then(|late| will::relay(&self.broker, late.stalled).err());
        if let Some(ticket) = late.and_then(Stalled::into_ticket) {
            self.connection.complete(ticket, ReasonCode::QuotaExceeded);
        }
        let ended = self.connection.end();
        tracing::debug!(reason = ?ended.reason, "connection closed");
        self.broker.metrics.count_closed(&ended.reason);
        self.broker.close(self.publisher.handle, ended, self.drained);
        (self.stream, self.output)
    }

    /// Does everything that can be done now. Pending when there was nothing.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let mut progress = self.poll_waits(context);
        progress |= self.poll_mailbox(context);
        progress |= self.poll_input(context, now)?;
        progress |= self.poll_timer(context, now);
        let scanned = self.send_retained(now);
        self.hand_over(now);
        self.encode()?;
        progress |= self.poll_output(context)?;
        self.publisher.tally.flush(&self.broker.metrics);
        let crowded = std::mem::take(&mut self.publisher.crowded);
        if self.connection.closed().is_some() {
            return Poll::Ready(Ok(()));
        }
        if crowded || scanned {
            // A recipient's queue fills up, or a search for retained messages may go on for long: let other
            // tasks run before this one goes on.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_waits(&mut self, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Some(first) = self.subscribing.front_mut() {
            if first.applied.as_mut().poll(context).is_pending() {
                break;
            }
            if let Some(Subscribing { ticket, subscribed, .. }) = self.subscribing.pop_front() {
                self.finish_subscribe(ticket, subscribed);
            }
            progress = true;
        }
        let Some(waiting) = &mut self.stalled else {
            return progress;
        };
        if waiting.room.as_mut().poll(context).is_pending() {
            return progress;
        }
        if let Some(StalledPublish { stalled, .. }) = self.stalled.take() {
            self.stalled =
                self.broker.relay(stalled).err().map(|stalled| self.wait_for_room(stalled));
        }
        true
    }

    fn poll_mailbox(&mut self, context: &Context<'_>) -> bool {
        let room = OUTPUT_ENOUGH.saturating_sub(self.output.len());
        let busy = !self.drained.deliveries.is_empty();
        let quota = if busy { 0 } else { room };
        let window = self.connection.window();
        let mailbox = &self.publisher.handle.mailbox;
        let ready = mailbox.poll_drain(context, window, quota, &mut self.drained).is_ready();
        for (ticket, reason) in self.drained.completions.drain(..) {
            self.connection.complete(ticket, reason);
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
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
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
            && self.connection.closed().is_none()
            && self.connection.accepts_input()
            && self.subscribing.len() < SUBSCRIBING
            && self.scans.len() < SCANS
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
                Event::Publish { message, ticket, .. } => {
                    let published = self.broker.publish(&mut self.publisher, message, ticket, now);
                    self.after_publish(published);
                }
                Event::Subscribe { subscription_id, filters, ticket, .. } => {
                    let handle = &self.publisher.handle;
                    let subscribed = self.broker.subscribe(handle, filters, subscription_id);
                    self.after_subscribe(ticket, subscribed);
                }
                Event::Release { ticket, .. } => {
                    self.connection.complete(ticket, ReasonCode::Success);
                }
                Event::Unsubscribe { filters, ticket } => {
                    let reasons = self.broker.unsubscribe(&self.publisher.handle, &filters);
                    self.forget_retained(&filters);
                    self.connection.complete_unsubscribe(ticket, reasons);
                }
            }
        }
    }

    fn after_publish(&mut self, published: Published) {
        match published {
            Published::Done(ticket, reason) => self.connection.complete(ticket, reason),
            Published::Pending => {}
            Published::Stalled(stalled) => self.stalled = Some(self.wait_for_room(stalled)),
        }
    }

    fn wait_for_room(&self, stalled: Stalled) -> StalledPublish {
        let uplink = self.broker.uplink.clone();
        let room = Box::pin(async move {
            if let Some(uplink) = uplink {
                uplink.window_open().await;
            }
        });
        StalledPublish { stalled, room }
    }

    fn after_subscribe(&mut self, ticket: Ticket, subscribed: Subscribed) {
        match (&self.broker.uplink, subscribed.route) {
            (Some(uplink), Some(route)) if !uplink.is_applied(route) => {
                let uplink = uplink.clone();
                let applied = Box::pin(async move { uplink.applied(route).await });
                self.subscribing.push_back(Subscribing { ticket, subscribed, applied });
            }
            (_, _) => self.finish_subscribe(ticket, subscribed),
        }
    }

    fn finish_subscribe(&mut self, ticket: Ticket, subscribed: Subscribed) {
        self.connection.complete_subscribe(ticket, subscribed.reasons);
        for request in subscribed.retained {
            if self.scans.len() >= SCANS {
                // One reading for the same filter asked for again and again: no client can make this list longer than
                // its subscriptions.
                self.scans.retain(|scan| scan.has_begun() || !scan.is_for(&request.filter));
            }
            self.scans.push_back(RetainedScan::new(request));
        }
    }

    /// No retained message is sent for a subscription that has ended `[MQTT-3.10.4-2]`.
    fn forget_retained(&mut self, filters: &[TopicFilter]) {
        for filter in filters {
            self.scans.retain(|scan| !scan.is_for(filter));
            for waiting in &mut self.subscribing {
                waiting.subscribed.retained.retain(|request| request.filter != *filter);
            }
        }
    }

    /// Reads a page of retained messages, if the client's window and the output allow one.
    fn send_retained(&mut self, now: Instant) -> bool {
        let window = self.connection.window().min(RETAINED_PAGE);
        // What was published before a page is read goes out before it: a page never shows less than that.
        let blocked = self.scans.is_empty()
            || !self.drained.deliveries.is_empty()
            || !self.publisher.handle.mailbox.is_empty()
            || self.output.len() >= OUTPUT_ENOUGH;
        if blocked || window == 0 {
            return false;
        }
        let Some(scan) = self.scans.front_mut() else {
            return false;
        };
        if !scan.read(&self.broker.retained, window, now, &mut self.drained.deliveries) {
            self.scans.pop_front();
        }
        true
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
            let next = deadline(&self.connection);
            if self.connection.closed().is_some() {
                return true;
            }
            self.timer.as_mut().reset(next.into());
            progress = true;
        }
        progress
    }
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
    connection.poll_timeout().unwrap_or_else(|| Instant::now() + FAR)
}
