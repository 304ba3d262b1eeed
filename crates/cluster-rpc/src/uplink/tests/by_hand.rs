//! An uplink without sockets, in virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;

use super::*;
use crate::frame::NodeId;
use crate::machine::System;
use crate::network::{Attempt, Broken, Connection, FramesIn, FramesOut, Network, StreamKind};
use crate::{Acceptor, Attachment, Attachments};

fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7420))
}

/// Without delay; while there is no acceptor, nothing listens.
#[derive(Clone, Debug, Default)]
struct Wire(Arc<Mutex<Option<Acceptor>>>);

impl Network for Wire {
    fn connect(&self, from: &NodeId, to: SocketAddr) -> Attempt<Arc<dyn Connection>> {
        assert_eq!((from.as_str(), to), ("proxy", address()));
        let acceptor = self.0.lock().clone();
        let connection = acceptor.map(|acceptor| Arc::new(Ends(acceptor)) as Arc<dyn Connection>);
        Box::pin(async move { connection.ok_or(Broken::Refused) })
    }
}

#[derive(Debug)]
struct Ends(Acceptor);

impl Connection for Ends {
    fn open(&self, kind: StreamKind, outgoing: FramesOut) -> Attempt<FramesIn> {
        let acceptor = self.0.clone();
        Box::pin(async move {
            let answers = acceptor.accept(kind, address(), Box::pin(outgoing.map(Ok))).await?;
            Ok(Box::pin(answers.map(Ok)) as FramesIn)
        })
    }
}

fn proxy(wire: &Wire) -> Proxy {
    Proxy::with(UplinkConfig {
        intermediates: vec![address().to_string()],
        machine: Arc::new(System),
        network: Some(Arc::new(wire.clone())),
        ..UplinkConfig::default()
    })
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_reached_is_waited_for_by_the_clock_of_the_runtime() {
    let proxy = proxy(&Wire::default());
    let seq = proxy.announce("a", Some(QoS::AtMostOnce));
    let started = Instant::now();
    proxy.uplink.applied(seq).await;
    let lease = UplinkConfig::default().lease;
    let waited = started.elapsed();
    assert!(waited >= lease && waited < lease * 2, "{waited:?} of virtual time");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_accepted_by_hand_carries_frames_both_ways_until_silence_ends_it() {
    let (wire, shutdown) = (Wire::default(), CancellationToken::new());
    let proxy = proxy(&wire);
    sleep(Duration::from_secs(3)).await;
    let (acceptor, mut attachments) = Attachments::by_hand(shutdown.clone());
    *wire.0.lock() = Some(acceptor);
    let Some(Attachment::Routes(mut stream)) = attachments.next().await else { panic!("none") };
    assert_eq!(stream.peer(), address());
    let Ok(Some(RouteUp::Hello(hello))) = stream.recv().await else { panic!("no hello") };
    assert_eq!(hello.member, proxy.uplink.member());
    let opened = Instant::now();
    // Nothing is said: after the lease the uplink gives this one up, and tries again.
    while let Ok(Some(_)) = stream.recv().await {}
    assert_eq!(opened.elapsed(), UplinkConfig::default().lease);
    assert!(matches!(attachments.next().await, Some(Attachment::Routes(_))));
    // The acceptor is still there; nothing is taken all the same.
    shutdown.cancel();
    assert!(attachments.next().await.is_none());
}
