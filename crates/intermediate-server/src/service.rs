//! The streams of real peers around the relay.
//!
//! Owns the one lock of this process: the relay and, per attached stream, the queue of frames to its
//! peer. Whoever hands a frame in also moves what it caused into those queues, under the same lock:
//! so the frames of a stream keep their order, and a batch costs one lock and one wake-up per peer.
//! Nothing awaits under the lock. A peer whose queue is full keeps one frame parked here; a task waits
//! for room, and until then its messages stay in the relay's outbox, which is bounded.
//!
//! Session streams are not the relay's: they are passed on to who holds the store, if that is here.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_rpc::frame::{
    DeliverDown, DeliverUp, Member, NodeId, OriginId, PublishDown, PublishUp, RelayState,
    RouteDown, RouteUp, SessionDown, SessionUp,
};
use cluster_rpc::machine::now;
use cluster_rpc::{Attachment, Attachments, FrameSender, Stream, StreamError, TrySendError};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError as TryPassError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::relay::{Peer, Polled, Relay, StreamId, StreamKind, Violation};
use crate::stats::Stats;

/// How often the relay is told the time.
const TICK: Duration = Duration::from_millis(100);

/// A stream on which a proxy speaks with the store.
pub(crate) type SessionStream = Stream<SessionUp, SessionDown>;

/// The relay and everyone connected to it. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    shared: Arc<Mutex<Shared>>,
    state: watch::Sender<RelayState>,
    /// Someone has departed.
    departures: Arc<Notify>,
    /// To the store, if this process holds it.
    sessions: Option<mpsc::Sender<SessionStream>>,
}

#[derive(Debug)]
struct Shared {
    relay: Relay,
    outlets: HashMap<StreamId, Outlet, RandomState>,
    wakes: Vec<StreamId>,
    /// The state that watchers were told.
    told: RelayState,
}

/// The way to one peer.
#[derive(Debug)]
enum Outlet {
    Routes(Queue<RouteDown>),
    Publish(Queue<PublishDown>),
    Deliver(Queue<DeliverDown>),
}

#[derive(Debug)]
struct Queue<Down> {
    sender: FrameSender<Down>,
    /// A task waits for room for a frame: until it is in, none may follow.
    stalled: bool,
    /// Ends the stream.
    close: CancellationToken,
}

/// One kind of stream: which of the relay's functions it uses.
trait Kind: 'static {
    type Up: Send + 'static;
    type Down: Send + 'static;
    const KIND: StreamKind;

    fn handle(
        relay: &mut Relay,
        stream: StreamId,
        frame: Self::Up,
        now: Instant,
    ) -> Result<(), Violation>;
    fn poll(relay: &mut Relay, stream: StreamId, now: Instant) -> Polled<Self::Down>;
    fn outlet(queue: Queue<Self::Down>) -> Outlet;
}

struct Routes;
struct Publish;
struct Deliver;

impl Kind for Routes {
    type Up = RouteUp;
    type Down = RouteDown;
    const KIND: StreamKind = StreamKind::Routes;

    fn handle(
        relay: &mut Relay,
        stream: StreamId,
        frame: RouteUp,
        now: Instant,
    ) -> Result<(), Violation> {
        relay.handle_routes(stream, frame, now)
    }

    fn poll(relay: &mut Relay, stream: StreamId, _now: Instant) -> Polled<RouteDown> {
        relay.poll_routes(stream)
    }

    fn outlet(queue: Queue<RouteDown>) -> Outlet {
        Outlet::Routes(queue)
    }
}

impl Kind for Publish {
    type Up = PublishUp;
    type Down = PublishDown;
    const KIND: StreamKind = StreamKind::Publish;

    fn handle(
        relay: &mut Relay,
        stream: StreamId,
        frame: PublishUp,
        now: Instant,
    ) -> Result<(), Violation> {
        relay.handle_publish(stream, frame, now)
    }

    fn poll(relay: &mut Relay, stream: StreamId, _now: Instant) -> Polled<PublishDown> {
        relay.poll_publish(stream)
    }

    fn outlet(queue: Queue<PublishDown>) -> Outlet {
        Outlet::Publish(queue)
    }
}

impl Kind for Deliver {
    type Up = DeliverUp;
    type Down = DeliverDown;
    const KIND: StreamKind = StreamKind::Deliver;

    fn handle(
        relay: &mut Relay,
        stream: StreamId,
        frame: DeliverUp,
        now: Instant,
    ) -> Result<(), Violation> {
        relay.handle_deliver(stream, frame, now)
    }

    fn poll(relay: &mut Relay, stream: StreamId, now: Instant) -> Polled<DeliverDown> {
        relay.poll_deliver(stream, now)
    }

    fn outlet(queue: Queue<DeliverDown>) -> Outlet {
        Outlet::Deliver(queue)
    }
}

impl Service {
    pub(crate) fn new(relay: Relay) -> Self {
        let told = relay.state();
        let shared = Shared { relay, outlets: HashMap::default(), wakes: Vec::new(), told };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            state: watch::Sender::new(told),
            departures: Arc::default(),
            sessions: None,
        }
    }

    /// Passes session streams on to `sessions`: this process holds the store.
    pub(crate) fn with_sessions(self, sessions: mpsc::Sender<SessionStream>) -> Self {
        Self { sessions: Some(sessions), ..self }
    }

    /// Serves every stream that peers open, until the listener has ended.
    pub(crate) async fn run(self, mut attachments: Attachments) {
        let clock = tokio::spawn(self.clone().tell_time());
        while let Some(attachment) = attachments.next().await {
            let service = self.clone();
            match attachment {
                Attachment::Routes(stream) => drop(tokio::spawn(service.serve::<Routes>(stream))),
                Attachment::Publish(stream) => drop(tokio::spawn(service.serve::<Publish>(stream))),
                Attachment::Deliver(stream) => drop(tokio::spawn(service.serve::<Deliver>(stream))),
                Attachment::Sessions(stream) => self.pass_on(stream),
            }
        }
        clock.abort();
    }

    /// Says that this relay is going down.
    pub(crate) fn drain(&self) {
        self.with(|shared| shared.relay.drain());
    }

    /// Whether nobody waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.lock().relay.is_idle()
    }

    /// Whether messages are taken, as it changes.
    pub(crate) fn state(&self) -> watch::Receiver<RelayState> {
        self.state.subscribe()
    }

    /// The lives of endpoints that are over, each told once; waits for the next ones. For one caller;
    /// cancelling it loses none.
    pub(crate) async fn departed(&self) -> Vec<Member> {
        loop {
            let mut departed = Vec::new();
            self.shared.lock().relay.take_departed(&mut departed);
            if !departed.is_empty() {
                return departed;
            }
            self.departures.notified().await;
        }
    }

    /// See [`Relay::is_here`].
    pub(crate) fn is_here(&self, member: &Member) -> bool {
        self.shared.lock().relay.is_here(member)
    }

    /// See [`Relay::has_proxy`].
    pub(crate) fn has_proxy(&self, origin: OriginId) -> bool {
        self.shared.lock().relay.has_proxy(origin)
    }

    /// See [`Relay::proxies`].
    pub(crate) fn proxies(&self) -> Vec<Member> {
        self.shared.lock().relay.proxies()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.shared.lock().relay.stats()
    }

    /// See [`Relay::corrupt_route`].
    pub(crate) fn corrupt_route(&self, node: &NodeId) -> bool {
        self.shared.lock().relay.corrupt_route(node)
    }

    /// Changes the relay, and moves on what that caused.
    fn with<R>(&self, change: impl FnOnce(&mut Shared) -> R) -> R {
        let mut shared = self.shared.lock();
        let result = change(&mut shared);
        self.pump(&mut shared);
        result
    }

    fn pump(&self, shared: &mut Shared) {
        let mut wakes = std::mem::take(&mut shared.wakes);
        shared.relay.take_wakes(&mut wakes);
        for stream in wakes.drain(..) {
            self.fill(shared, stream);
        }
        shared.wakes = wakes;
        self.tell(shared);
    }

    /// What others wait for.
    fn tell(&self, shared: &mut Shared) {
        let state = shared.relay.state();
        if std::mem::replace(&mut shared.told, state) != state {
            self.state.send_replace(state);
        }
        if shared.relay.has_departed() {
            self.departures.notify_one();
        }
        if let Some((second, first)) = shared.relay.take_second_store() {
            tracing::error!(
                node = %second.node, store = %first,
                "a second store wants to join this cluster: stop it, or let all relays forget the first",
            );
        }
    }

    fn pass_on(&self, stream: SessionStream) {
        let peer = stream.peer();
        let Some(sessions) = &self.sessions else {
            tracing::warn!(%peer, "a proxy asked for sessions, but the store is not here");
            return;
        };
        match sessions.try_send(stream) {
            Ok(()) => {}
            Err(TryPassError::Full(_)) => {
                tracing::debug!(%peer, "session stream ended: too many wait for the store");
            }
            Err(TryPassError::Closed(_)) => {
                tracing::debug!(%peer, "session stream ended: the store has stopped");
            }
        }
    }

    fn fill(&self, shared: &mut Shared, stream: StreamId) {
        let relay = &mut shared.relay;
        match shared.outlets.get_mut(&stream) {
            Some(Outlet::Routes(queue)) => self.fill_queue::<Routes>(relay, queue, stream),
            Some(Outlet::Publish(queue)) => self.fill_queue::<Publish>(relay, queue, stream),
            Some(Outlet::Deliver(queue)) => self.fill_queue::<Deliver>(relay, queue, stream),
            None => {}
        }
    }

    fn fill_queue<K: Kind>(&self, relay: &mut Relay, queue: &mut Queue<K::Down>, stream: StreamId) {
        let now = now();
        while !queue.stalled {
            let frame = match K::poll(relay, stream, now) {
                Polled::Frame(frame) => frame,
                Polled::Pending => return,
                Polled::Closed => return queue.close.cancel(),
            };
            match queue.sender.try_send(frame) {
                Ok(()) => {}
                Err(TrySendError::Full(frame)) => {
                    queue.stalled = true;
                    tokio::spawn(self.clone().unstall::<K>(queue.sender.clone(), stream, frame));
                }
                Err(TrySendError::Ended(_)) => return queue.close.cancel(),
            }
        }
    }

    /// Waits until the peer's queue takes `frame`, then goes on with what has come since.
    async fn unstall<K: Kind>(
        self,
        sender: FrameSender<K::Down>,
        stream: StreamId,
        frame: K::Down,
    ) {
        // When the stream has ended its own task notices.
        if sender.send(frame).await.is_err() {
            return;
        }
        self.with(|shared| {
            match shared.outlets.get_mut(&stream) {
                Some(Outlet::Routes(queue)) => queue.stalled = false,
                Some(Outlet::Publish(queue)) => queue.stalled = false,
                Some(Outlet::Deliver(queue)) => queue.stalled = false,
                None => {}
            }
            self.fill(shared, stream);
        });
    }

    async fn tell_time(self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.with(|shared| shared.relay.handle_time(now()));
        }
    }

    async fn serve<K: Kind>(self, mut stream: Stream<K::Up, K::Down>) {
        let peer = stream.peer();
        let close = CancellationToken::new();
        let sender = stream.sender();
        let attached = self.attach::<K>(peer, sender.clone(), close.clone());
        let (mut closed, mut ended) = (pin!(close.cancelled()), pin!(sender.ended()));
        let end = loop {
            let frame = tokio::select! {
                biased;
                () = &mut closed => break End::Closed,
                frame = stream.recv() => frame,
                // A peer may have left its half open.
                () = &mut ended => break End::Ended,
            };
            let frame = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => break End::Ended,
                Err(StreamError::Broken(broken)) => break End::Broken(broken.to_string()),
                Err(error @ StreamError::Frame(_)) => break End::Refused(error.to_string()),
            };
            let now = now();
            let handled =
                self.with(|shared| K::handle(&mut shared.relay, attached.stream, frame, now));
            if let Err(violation) = handled {
                self.shared.lock().relay.count_violation();
                break End::Refused(violation.to_string());
            }
        };
        end.log(K::KIND, peer);
    }

    fn attach<K: Kind>(
        &self,
        peer: SocketAddr,
        sender: FrameSender<K::Down>,
        close: CancellationToken,
    ) -> Attached {
        let local = peer.ip().to_canonical().is_loopback();
        let peer = if local { Peer::Local } else { Peer::Remote };
        let stream = self.with(|shared| {
            let stream = shared.relay.attach(K::KIND, peer, now());
            let queue = Queue { sender, stalled: false, close };
            shared.outlets.insert(stream, K::outlet(queue));
            stream
        });
        Attached { service: self.clone(), stream }
    }
}

/// A stream the relay knows. Dropping it, also in a panic, tells the relay that it has ended.
struct Attached {
    service: Service,
    stream: StreamId,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.service.with(|shared| {
            shared.outlets.remove(&self.stream);
            shared.relay.detach(self.stream, now());
        });
    }
}

/// Why a stream ended.
enum End {
    /// The relay wanted it.
    Closed,
    /// The peer wanted it.
    Ended,
    /// The connection wanted it.
    Broken(String),
    /// The peer said what must not be said.
    Refused(String),
}

impl End {
    fn log(&self, kind: StreamKind, peer: SocketAddr) {
        match self {
            Self::Closed => tracing::debug!(?kind, %peer, "stream closed"),
            Self::Ended => tracing::debug!(?kind, %peer, "stream ended by its peer"),
            Self::Broken(error) => tracing::debug!(?kind, %peer, error, "stream broken"),
            Self::Refused(error) => {
                tracing::warn!(?kind, %peer, error, "stream ended because of what came on it");
            }
        }
    }
}
