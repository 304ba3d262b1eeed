//! An intermediate that does what the test says, on the real acceptor.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::frame::{
    DeliverDown, DeliverOpen, DeliverUp, Hello, Incarnation, Member, NodeId, PublishDown,
    PublishUp, RelayState, RouteDown, RouteUp, Routed, SessionCall, SessionDown, SessionUp,
    StoreHere, View,
};
use crate::{AcceptorConfig, Attachment, Attachments, Stream, Token, serve};

pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for what must happen soon.
pub(super) async fn soon<F: Future>(what: F) -> F::Output {
    timeout(DEADLINE, what).await.expect("it did not happen in time")
}

pub(super) struct Fake {
    pub(super) address: SocketAddr,
    member: Member,
    /// Whether it says that the store is there.
    pub(super) store: StoreHere,
    attachments: Attachments,
    waiting: Vec<Attachment>,
    shutdown: CancellationToken,
}

impl Fake {
    pub(super) async fn start(node: &str) -> Self {
        Self::start_at(node, SocketAddr::from(([127, 0, 0, 1], 0)), None).await
    }

    pub(super) async fn start_at(node: &str, address: SocketAddr, token: Option<Token>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let config = AcceptorConfig { token, ..AcceptorConfig::default() };
        let member = Member { node: NodeId::new(node).unwrap(), incarnation: Incarnation(1) };
        let attachments = serve(listener, config, shutdown.clone());
        Self { address, member, store: StoreHere::No, attachments, waiting: Vec::new(), shutdown }
    }

    /// Ends it, and waits until the port is free.
    pub(super) async fn stop(mut self) {
        self.shutdown.cancel();
        self.waiting.clear();
        soon(async { while self.attachments.next().await.is_some() {} }).await;
    }

    pub(super) fn member(&self) -> Member {
        self.member.clone()
    }

    /// The next attachment that `wanted` takes; others wait for their turn.
    async fn attachment<S>(&mut self, wanted: impl Fn(Attachment) -> Result<S, Attachment>) -> S {
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        while let Some(attachment) = waiting.next() {
            match wanted(attachment) {
                Ok(stream) => {
                    self.waiting.extend(waiting);
                    return stream;
                }
                Err(attachment) => self.waiting.push(attachment),
            }
        }
        loop {
            match wanted(soon(self.attachments.next()).await.expect("the server has ended")) {
                Ok(stream) => return stream,
                Err(attachment) => self.waiting.push(attachment),
            }
        }
    }

    pub(super) async fn routes(&mut self) -> Routes {
        let wanted = |attachment| match attachment {
            Attachment::Routes(stream) => Ok(stream),
            other @ (Attachment::Publish(_) | Attachment::Deliver(_) | Attachment::Sessions(_)) => {
                Err(other)
            }
        };
        Routes(self.attachment(wanted).await)
    }

    /// A route stream past Hello and Welcome, serving.
    pub(super) async fn registered(&mut self) -> (Routes, Hello) {
        let mut routes = self.routes().await;
        let hello = routes.hello().await;
        let store = self.store;
        routes.send(RouteDown::Welcome { member: self.member(), deltas_from: None, store }).await;
        routes.view(RelayState::Serving, &[]).await;
        (routes, hello)
    }

    /// A publish stream with credit.
    pub(super) async fn publisher(&mut self) -> Publisher {
        let wanted = |attachment| match attachment {
            Attachment::Publish(stream) => Ok(stream),
            other @ (Attachment::Routes(_) | Attachment::Deliver(_) | Attachment::Sessions(_)) => {
                Err(other)
            }
        };
        let mut publisher = Publisher(self.attachment(wanted).await);
        assert!(matches!(publisher.recv().await, PublishUp::Open(_)));
        publisher.send(PublishDown::Credit { messages: 1_000, bytes: 1 << 20 }).await;
        publisher
    }

    /// Whether a session stream has come and was not taken.
    pub(super) fn has_sessions(&mut self) -> bool {
        while let Some(attachment) = self.attachments.try_next() {
            self.waiting.push(attachment);
        }
        self.waiting.iter().any(|attachment| matches!(attachment, Attachment::Sessions(_)))
    }

    /// A session stream that the store has not answered yet.
    pub(super) async fn sessions(&mut self) -> (Sessions, Member) {
        let wanted = |attachment| match attachment {
            Attachment::Sessions(stream) => Ok(stream),
            other @ (Attachment::Routes(_) | Attachment::Publish(_) | Attachment::Deliver(_)) => {
                Err(other)
            }
        };
        let mut sessions = Sessions(self.attachment(wanted).await);
        let SessionUp::Open(member) = sessions.recv().await else { panic!("no open") };
        (sessions, member)
    }

    pub(super) async fn deliverer(&mut self) -> (Deliverer, DeliverOpen) {
        let wanted = |attachment| match attachment {
            Attachment::Deliver(stream) => Ok(stream),
            other @ (Attachment::Routes(_) | Attachment::Publish(_) | Attachment::Sessions(_)) => {
                Err(other)
            }
        };
        let mut deliverer = Deliverer(self.attachment(wanted).await);
        let DeliverUp::Open(open) = deliverer.recv().await else { panic!("no open") };
        (deliverer, open)
    }
}

pub(super) struct Sessions(Stream<SessionUp, SessionDown>);

impl Sessions {
    pub(super) async fn recv(&mut self) -> SessionUp {
        soon(self.0.recv()).await.unwrap().expect("the stream has ended")
    }

    /// So many calls.
    pub(super) async fn calls(&mut self, count: usize) -> Vec<SessionCall> {
        let mut calls = Vec::new();
        while calls.len() < count {
            let SessionUp::Calls(more) = self.recv().await else { panic!("no calls") };
            calls.extend(more);
        }
        assert_eq!(calls.len(), count);
        calls
    }

    pub(super) async fn send(&self, frame: SessionDown) {
        soon(self.0.sender().send(frame)).await.unwrap();
    }

    /// Waits until the proxy has ended it.
    pub(super) async fn ended(mut self) {
        soon(async { while let Ok(Some(_)) = self.0.recv().await {} }).await;
    }
}

pub(super) struct Routes(Stream<RouteUp, RouteDown>);

impl Routes {
    /// The next frame that is no beat.
    pub(super) async fn recv(&mut self) -> RouteUp {
        loop {
            let frame = self.recv_any().await;
            if !matches!(frame, RouteUp::Beat(_)) {
                return frame;
            }
        }
    }

    pub(super) async fn recv_any(&mut self) -> RouteUp {
        let frame = soon(self.0.recv()).await.unwrap().expect("the stream has ended");
        if let RouteUp::Beat(beat) = frame {
            self.send(RouteDown::BeatAck(beat.nonce)).await;
        }
        frame
    }

    pub(super) async fn hello(&mut self) -> Hello {
        let RouteUp::Hello(hello) = self.recv().await else { panic!("no hello") };
        hello
    }

    pub(super) async fn send(&self, frame: RouteDown) {
        soon(self.0.sender().send(frame)).await.unwrap();
    }

    pub(super) async fn view(&self, state: RelayState, members: &[Member]) {
        self.send(RouteDown::View(View { state, members: members.to_vec() })).await;
    }

    /// Waits until the proxy has ended it.
    pub(super) async fn ended(mut self) {
        soon(async { while let Ok(Some(_)) = self.0.recv().await {} }).await;
    }
}

pub(super) struct Publisher(Stream<PublishUp, PublishDown>);

impl Publisher {
    pub(super) async fn recv(&mut self) -> PublishUp {
        soon(self.0.recv()).await.unwrap().expect("the stream has ended")
    }

    /// This many messages.
    pub(super) async fn messages(&mut self, count: usize) -> Vec<Routed> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let PublishUp::Batch(batch) = self.recv().await else { panic!("no batch") };
            messages.extend(batch);
        }
        assert_eq!(messages.len(), count);
        messages
    }

    pub(super) async fn send(&self, frame: PublishDown) {
        soon(self.0.sender().send(frame)).await.unwrap();
    }

    /// Waits until the proxy has ended it.
    pub(super) async fn ended(mut self) {
        soon(async { while let Ok(Some(_)) = self.0.recv().await {} }).await;
    }
}

pub(super) struct Deliverer(Stream<DeliverUp, DeliverDown>);

impl Deliverer {
    pub(super) async fn recv(&mut self) -> DeliverUp {
        soon(self.0.recv()).await.unwrap().expect("the stream has ended")
    }

    pub(super) async fn send(&self, frame: DeliverDown) {
        soon(self.0.sender().send(frame)).await.unwrap();
    }
}
