//! A store without room, one that fails, and one that cannot be opened.

use std::time::Duration;

use cluster_rpc::frame::{SessionAnswer, SessionRefusal};
use mqtt_codec::ReasonCode;
use partition::{MemoryStore, OpenError, Room};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::rig::{Intermediate, Proxy, Rig, client, with_will, within};
use crate::config::Config;
use crate::host::Home;
use crate::node::{Listeners, Node};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_adds_and_says_so_until_there_is_room() {
    let rig = Rig::start().await;
    let mut p = rig.proxy("p").await;
    let held = p.attach(client("c", 1)).await.held;
    p.subscribe(held, "a").await;
    rig.says("/readyz", "200 OK").await;
    rig.memory.store.lock().set_room(Room::Low);
    rig.says("/readyz", "the disk of the store is full").await;
    assert_eq!(p.publish("a", b"one").await, ReasonCode::QuotaExceeded);
    rig.says("/metrics", "causeway_store_room 0").await;
    let request = p.ask_attach(client("new", 2));
    let refusal = SessionRefusal::Full;
    assert_eq!(p.answer(request).await, SessionAnswer::Refused { request, refusal });

    rig.memory.store.lock().set_room(Room::Enough);
    rig.says("/readyz", "200 OK").await;
    assert_eq!(p.publish("a", b"two").await, ReasonCode::Success);
    assert_eq!(&p.delivery().await.message.payload[..], b"two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_is_opened_again_and_nothing_acknowledged_is_lost() {
    let rig = Rig::start().await;
    let mut p = rig.proxy("p").await;
    let held = p.attach(client("c", 1)).await.held;
    p.subscribe(held, "a").await;
    assert_eq!(p.publish("a", b"one").await, ReasonCode::Success);
    rig.memory.store.lock().fail_after(0);
    p.send("a", b"two");
    p.down().await;
    p.up().await;
    assert_eq!(p.published().await, ReasonCode::Success, "it was sent again");
    rig.says("/readyz", "200 OK").await;
    assert_eq!(rig.metric("causeway_store_lives").await, 2);
    assert!(p.attach(client("c", 2)).await.session_present);
    let payloads = [p.delivery().await, p.delivery().await].map(|one| one.message.payload.clone());
    assert_eq!(payloads, [&b"one"[..], b"two"]);
}

struct Unopenable;

impl Home for Unopenable {
    type Store = MemoryStore;

    fn open(&mut self) -> Result<MemoryStore, OpenError> {
        Err(OpenError::Broken { path: "here".to_owned(), what: "a test".to_owned() })
    }

    fn disk_bytes(_store: &MemoryStore) -> u64 {
        0
    }
}

/// A store in memory on a disk that is full at the first attempt to open it.
struct FullDisk {
    attempts: mpsc::Sender<()>,
    is_full: bool,
}

impl Home for FullDisk {
    type Store = MemoryStore;

    fn open(&mut self) -> Result<MemoryStore, OpenError> {
        self.attempts.try_send(()).unwrap();
        match std::mem::take(&mut self.is_full) {
            true => Err(OpenError::Full { path: "here".to_owned(), error: "a test".to_owned() }),
            false => Ok(MemoryStore::new()),
        }
    }

    fn disk_bytes(_store: &MemoryStore) -> u64 {
        0
    }
}

#[tokio::test]
async fn an_intermediate_whose_disk_is_full_at_its_start_waits_for_room() {
    let (attempts, mut attempted) = mpsc::channel(2);
    let (config, listeners, stop) =
        (Config::default(), listeners().await, CancellationToken::new());
    let home = FullDisk { attempts, is_full: true };
    let node = Node::start_with(config, listeners, stop.clone(), Some(home)).unwrap();
    for _ in 0..2 {
        within(attempted.recv()).await.unwrap();
    }
    stop.cancel();
    within(node.join()).await.unwrap();
}

async fn listeners() -> Listeners {
    Listeners { grpc: TcpListener::bind("127.0.0.1:0").await.unwrap(), admin: None }
}

#[tokio::test]
async fn an_intermediate_whose_store_cannot_be_opened_ends_and_says_why() {
    let (config, listeners) = (Config::default(), listeners().await);
    let node = Node::start_with(config, listeners, CancellationToken::new(), Some(Unopenable));
    let error = within(node.unwrap().join()).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.starts_with("open the store: ") && text.contains("a test"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intermediate_that_ends_without_a_word_leaves_its_folder_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut intermediate = Intermediate::bind("i");
    intermediate.run(|config| config.data.directory = Some(folder.path().to_owned()));
    let mut p = Proxy::connect("p", &[intermediate.address]).await;
    let held = p.attach(client("c", 1)).await.held;
    p.subscribe(held, "a").await;
    assert_eq!(p.publish("a", b"one").await, ReasonCode::Success);
    intermediate.kill();

    intermediate.run(|config| config.data.directory = Some(folder.path().to_owned()));
    p.up().await;
    assert!(p.attach(client("c", 2)).await.session_present);
    assert_eq!(&p.delivery().await.message.payload[..], b"one");
    intermediate.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_connections_go_on_and_those_of_a_proxy_that_is_gone_end_after_the_lease() {
    let folder = tempfile::tempdir().unwrap();
    let mut intermediate = Intermediate::bind("i");
    let configure = |config: &mut Config| {
        config.data.directory = Some(folder.path().to_owned());
        config.cluster.lease = Duration::from_secs(1).into();
    };
    intermediate.run(configure);
    let mut p = Proxy::connect("p", &[intermediate.address]).await;
    let mut q = Proxy::connect("q", &[intermediate.address]).await;
    p.attach(with_will(client("gone", 1), "will/gone")).await;
    let stays = with_will(client("stays", 1), "will/stays");
    let held = q.attach(stays.clone()).await.held;
    q.subscribe(held, "will/#").await;
    intermediate.kill();
    drop(p);

    intermediate.run(configure);
    q.up().await;
    q.reattach(stays, held, 0).await;
    assert_eq!(q.delivery().await.message.topic.as_str(), "will/gone");
    q.acknowledge(held, 1);
    assert_eq!(q.publish("will/none", b"").await, ReasonCode::Success);
    assert_eq!(q.delivery().await.message.topic.as_str(), "will/none", "its own was not published");
    intermediate.stop().await;
}
