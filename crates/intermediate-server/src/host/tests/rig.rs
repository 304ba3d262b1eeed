//! An intermediate with its rows in memory, and bare proxies.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_rpc::frame::{
    AttachCall, Held, Provenance, QueuePlace, SessionAnswer, SessionCall, SessionDelivery,
    SessionFarewell,
};
use cluster_rpc::{
    LinkEpoch, StoreEvent, StoreEvents, StoreLink, Uplink, UplinkConfig, UplinkEvent,
};
use mqtt_codec::{
    ClientId, Message, PublishProperties, QoS, ReasonCode, RetainHandling, SubscriptionOptions,
    TopicFilter, TopicName, Will,
};
use parking_lot::Mutex;
use partition::{MemoryStore, OpenError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Config;
use crate::host::Home;
use crate::node::{Listeners, Node};

/// What a test waits for comes within this, or never.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Rows in memory, that a test can get at while they are used.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) store: Arc<Mutex<MemoryStore>>,
}

impl Home for Memory {
    type Store = MemoryStore;

    fn open(&mut self) -> Result<MemoryStore, OpenError> {
        let mut store = self.store.lock();
        *store = store.reopen();
        Ok(store.clone())
    }

    fn disk_bytes(_store: &MemoryStore) -> u64 {
        0
    }
}

/// A running intermediate.
pub(super) struct Rig {
    pub(super) memory: Memory,
    grpc: SocketAddr,
    admin: SocketAddr,
    node: Node,
    shutdown: CancellationToken,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::over(Memory::default()).await
    }

    /// With what is in `memory`.
    pub(super) async fn over(memory: Memory) -> Self {
        let config = Config {
            node_id: "i".to_owned(),
            start_grace: Duration::ZERO.into(),
            ..Config::default()
        };
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { grpc: bind().await, admin: Some(bind().await) };
        let shutdown = CancellationToken::new();
        let node =
            Node::start_with(config, listeners, shutdown.clone(), Some(memory.clone())).unwrap();
        let addresses = node.addresses();
        let admin = addresses.admin.unwrap();
        Self { memory, grpc: addresses.grpc, admin, node, shutdown }
    }

    /// Stops it in order, and gives its rows.
    pub(super) async fn stop(self) -> Memory {
        self.shutdown.cancel();
        self.node.join().await.unwrap();
        self.memory
    }

    /// A proxy that is connected and served.
    pub(super) async fn proxy(&self, name: &str) -> Proxy {
        Proxy::connect(name, &[self.grpc]).await
    }

    /// What the HTTP interface says.
    pub(super) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: i\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }

    /// Waits until the HTTP interface says `expected`.
    pub(super) async fn says(&self, path: &str, expected: &str) {
        let mut last = String::new();
        let said = async {
            loop {
                last = self.get(path).await;
                if last.contains(expected) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let said = tokio::time::timeout(DEADLINE, said).await;
        assert!(said.is_ok(), "it never said {expected}, but at last:\n{last}");
    }

    /// The value of a metric.
    pub(super) async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().parse().unwrap()
    }
}

/// An intermediate with a runtime of its own, so that it can end without a last word. Its port stays.
pub(super) struct Intermediate {
    name: &'static str,
    pub(super) address: SocketAddr,
    listener: std::net::TcpListener,
    running: Option<(Runtime, CancellationToken, Node)>,
}

impl Intermediate {
    pub(super) fn bind(name: &'static str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        Self { name, address, listener, running: None }
    }

    pub(super) fn run(&mut self, configure: impl FnOnce(&mut Config)) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = Config {
            node_id: self.name.to_owned(),
            start_grace: Duration::ZERO.into(),
            ..Config::default()
        };
        config.data.directory = None;
        configure(&mut config);
        let shutdown = CancellationToken::new();
        let node = {
            let _entered = runtime.enter();
            let grpc = TcpListener::from_std(self.listener.try_clone().unwrap()).unwrap();
            let listeners = Listeners { grpc, admin: None };
            Node::start(config, listeners, shutdown.clone()).unwrap()
        };
        self.running = Some((runtime, shutdown, node));
    }

    pub(super) fn node(&self) -> &Node {
        &self.running.as_ref().unwrap().2
    }

    pub(super) fn kill(&mut self) {
        if let Some((runtime, ..)) = self.running.take() {
            runtime.shutdown_background();
        }
    }

    pub(super) async fn stop(mut self) {
        let (runtime, shutdown, node) = self.running.take().unwrap();
        shutdown.cancel();
        within(runtime.spawn(node.join())).await.unwrap().unwrap();
        runtime.shutdown_background();
    }
}

impl Drop for Intermediate {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A proxy without clients.
pub(super) struct Proxy {
    pub(super) uplink: Uplink<u64>,
    store: StoreLink,
    events: StoreEvents,
    pub(super) link: LinkEpoch,
    published: mpsc::Receiver<(u64, ReasonCode)>,
    waiting: VecDeque<StoreEvent>,
    requests: u64,
    _shutdown: DropGuard,
}

impl Proxy {
    /// Connects to intermediates, and waits until one serves it and one has the store.
    pub(super) async fn connect(name: &str, intermediates: &[SocketAddr]) -> Self {
        let mut proxy = Self::start(name, intermediates);
        proxy.up().await;
        let mut serving = proxy.uplink.serving();
        within(serving.wait_for(|serving| *serving)).await.unwrap();
        proxy
    }

    pub(super) fn start(name: &str, intermediates: &[SocketAddr]) -> Self {
        let shutdown = CancellationToken::new();
        let config = UplinkConfig {
            node: cluster_rpc::frame::NodeId::new(name).unwrap(),
            intermediates: intermediates.iter().map(SocketAddr::to_string).collect(),
            ..UplinkConfig::default()
        };
        let (uplink, mut arrived, store, events) =
            cluster_rpc::start_with_store::<u64>(config, shutdown.clone());
        let (sender, published) = mpsc::channel(65_536);
        tokio::spawn(async move {
            while let Some(event) = arrived.next().await {
                let done: Vec<_> = match event {
                    UplinkEvent::Deliver(deliveries) => {
                        deliveries.accept();
                        continue;
                    }
                    UplinkEvent::Completed(tickets) => {
                        tickets.into_iter().map(|ticket| (ticket, ReasonCode::Success)).collect()
                    }
                    UplinkEvent::Refused(refused) => refused,
                    UplinkEvent::Fenced { .. } => panic!("nobody fences it"),
                };
                for one in done {
                    sender.send(one).await.unwrap();
                }
            }
        });
        Self {
            uplink,
            store,
            events,
            link: LinkEpoch::NONE,
            published,
            waiting: VecDeque::new(),
            requests: 0,
            _shutdown: shutdown.drop_guard(),
        }
    }

    /// Waits for a link to the store; what came before it is forgotten.
    pub(super) async fn up(&mut self) {
        loop {
            if let StoreEvent::Up { link, .. } = self.next().await {
                self.link = link;
                return;
            }
        }
    }

    /// Waits for the end of the link; what came before it is forgotten.
    pub(super) async fn down(&mut self) {
        while self.next().await != StoreEvent::Down {}
    }

    async fn next(&mut self) -> StoreEvent {
        within(self.events.next()).await.expect("the uplink runs")
    }

    pub(super) fn tell(&self, call: SessionCall) {
        self.store.send(self.link, call);
    }

    /// Sends the call made with a new number.
    pub(super) fn ask(&mut self, call: impl FnOnce(u64) -> SessionCall) -> u64 {
        self.requests += 1;
        self.tell(call(self.requests));
        self.requests
    }

    pub(super) fn ask_attach(&mut self, call: AttachCall) -> u64 {
        self.ask(|request| SessionCall::Attach { request, attach: Box::new(call) })
    }

    /// Attaches a client that nobody refuses.
    pub(super) async fn attach(&mut self, call: AttachCall) -> Attached {
        let request = self.ask_attach(call);
        self.attached(request).await
    }

    pub(super) async fn attached(&mut self, request: u64) -> Attached {
        let answer = self.answer(request).await;
        let SessionAnswer::Attached { held, session_present, .. } = answer else {
            panic!("not attached: {answer:?}")
        };
        Attached { held, session_present }
    }

    /// Goes on with a connection on a new link, after all deliveries up to `place`.
    pub(super) async fn reattach(&mut self, call: AttachCall, held: Held, place: u64) {
        let request = self.ask_reattach(call, held, place);
        assert_eq!(self.attached(request).await.held, held);
    }

    pub(super) fn ask_reattach(&mut self, call: AttachCall, held: Held, place: u64) -> u64 {
        self.ask(|request| SessionCall::Reattach {
            request,
            attach: Box::new(call),
            held,
            received_up_to: QueuePlace(place),
            group_deliveries: Vec::new(),
            groups: Vec::new(),
        })
    }

    pub(super) async fn subscribe(&mut self, held: Held, filter: &str) {
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let filters = vec![(TopicFilter::new(filter.to_owned()).unwrap(), options)];
        let request = self.ask(|request| {
            let subscription_id = None;
            SessionCall::Subscribe { request, held, filters, subscription_id }
        });
        let answer = self.answer(request).await;
        let SessionAnswer::Subscribed { reasons, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(reasons, [ReasonCode::GrantedQoS1]);
    }

    pub(super) fn detach(&self, held: Held, farewell: SessionFarewell) {
        self.tell(SessionCall::Detach { held, farewell, expiry_secs: 600 });
    }

    pub(super) fn acknowledge(&self, held: Held, place: u64) {
        let settled = vec![QueuePlace(place)];
        self.tell(SessionCall::Acknowledge { held, settled, received: Vec::new() });
    }

    /// The answer to this request; others are kept.
    pub(super) async fn answer(&mut self, request: u64) -> SessionAnswer {
        self.answer_where(|answer| number(answer) == Some(request)).await
    }

    /// The first answer that fits; others are kept.
    pub(super) async fn answer_where(
        &mut self,
        fits: impl Fn(&SessionAnswer) -> bool,
    ) -> SessionAnswer {
        let mut looked = 0;
        loop {
            while looked < self.waiting.len() {
                if let StoreEvent::Answers(answers) = &mut self.waiting[looked]
                    && let Some(index) = answers.iter().position(&fits)
                {
                    return answers.remove(index);
                }
                looked += 1;
            }
            let event = self.next().await;
            self.waiting.push_back(event);
        }
    }

    /// The next message for a client.
    pub(super) async fn delivery(&mut self) -> SessionDelivery {
        let mut looked = 0;
        loop {
            while looked < self.waiting.len() {
                if let StoreEvent::Deliveries(deliveries) = &mut self.waiting[looked]
                    && !deliveries.is_empty()
                {
                    return deliveries.remove(0);
                }
                looked += 1;
            }
            let event = self.next().await;
            self.waiting.push_back(event);
        }
    }

    /// Publishes, and waits for what becomes of it.
    pub(super) async fn publish(&mut self, topic: &str, payload: &[u8]) -> ReasonCode {
        self.send(topic, payload);
        self.published().await
    }

    pub(super) fn send(&self, topic: &str, payload: &[u8]) {
        let message = Arc::new(message(topic, payload));
        let life = self.uplink.life();
        self.uplink.publish(life, &message, None, Provenance::default(), Some(1)).unwrap();
    }

    /// What has become of a message, if that is known.
    pub(super) fn published_yet(&mut self) -> Option<ReasonCode> {
        self.published.try_recv().ok().map(|(_, reason)| reason)
    }

    /// What has become of the next message.
    pub(super) async fn published(&mut self) -> ReasonCode {
        within(self.published.recv()).await.expect("the uplink runs").1
    }
}

/// A session that a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) held: Held,
    pub(super) session_present: bool,
}

/// A persistent client on a connection of this number.
pub(super) fn client(name: &str, connection: u64) -> AttachCall {
    AttachCall {
        client: ClientId::new(name.to_owned()).unwrap(),
        connection,
        clean_start: false,
        expiry_secs: 600,
        receive_maximum: 100,
        will: None,
        began_ms: i64::MAX,
        served: false,
    }
}

/// The same with a will that is due at once.
pub(super) fn with_will(call: AttachCall, topic: &str) -> AttachCall {
    let will = Will { message: message(topic, b"gone"), delay_secs: 0 };
    AttachCall { will: Some(Box::new(will)), ..call }
}

pub(super) fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        topic: TopicName::new(topic.to_owned()).unwrap(),
        payload: Bytes::copy_from_slice(payload),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    }
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it comes in time")
}

fn number(answer: &SessionAnswer) -> Option<u64> {
    match answer {
        SessionAnswer::Attached { request, .. }
        | SessionAnswer::Refused { request, .. }
        | SessionAnswer::Subscribed { request, .. }
        | SessionAnswer::Unsubscribed { request, .. }
        | SessionAnswer::Begun { request, .. }
        | SessionAnswer::Released { request }
        | SessionAnswer::Retained { request, .. } => Some(*request),
        SessionAnswer::Received { .. } | SessionAnswer::Revoked { .. } => None,
    }
}
