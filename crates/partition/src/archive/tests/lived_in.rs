//! Stores that an owner wrote: what it does must never look damaged, and must come back.

use std::sync::Arc;

use mqtt_codec::{SubscriptionOptions, TopicFilter};

use super::*;
use crate::{
    Acknowledge, Attach, ClientHash, Command, Detach, Effect, Farewell, Limits, Origin, Owner,
    OwnerConfig, ProxyId, Publish, PublishToken, QueueLimits, QueueSeq, RequestId, Subscribe,
    WhenFull,
};

const NOW: UnixMillis = UnixMillis(1_000_000);

struct Life {
    owner: Owner<MemoryStore>,
    store: MemoryStore,
    published: u64,
}

impl Life {
    /// Queues hold 20 messages.
    fn new() -> Self {
        let inbox =
            QueueLimits { messages: 20, when_full: WhenFull::DropOldest, ..QueueLimits::default() };
        let limits = Limits { inbox, ..Limits::default() };
        let store = MemoryStore::new();
        let owner =
            Owner::open(store.clone(), OwnerConfig { limits, ..OwnerConfig::default() }, NOW);
        Self { owner: owner.unwrap(), store, published: 0 }
    }

    /// Commits, looks at the rows, and gives the last session that was attached.
    fn run(&mut self, command: Command) -> Option<(SessionId, crate::Epoch)> {
        self.owner.handle(command, NOW);
        self.owner.commit().unwrap();
        let report = check_rows(&self.store, 16).unwrap();
        assert_eq!(report.problems, []);
        std::iter::from_fn(|| self.owner.poll_effect())
            .filter_map(|effect| {
                if let Effect::Attached(attached) = effect {
                    return Some((attached.session, attached.epoch));
                }
                None
            })
            .last()
    }

    fn connect(&mut self, client: &str, connection: u64) -> (SessionId, crate::Epoch) {
        let attach = Attach {
            request: RequestId(0),
            client: ClientId::new(ByteString::from(client)).unwrap(),
            holder: Holder { proxy: ProxyId(1), connection },
            clean_start: false,
            began: None,
            promised: None,
            expiry_secs: u32::MAX,
            receive_maximum: 10,
            will: Some(Will { message: message("will", b"gone"), delay_secs: 3 }),
        };
        self.run(Command::Attach(Box::new(attach))).unwrap()
    }

    fn subscribe(&mut self, (session, epoch): (SessionId, crate::Epoch), filters: &[&str]) {
        let options =
            SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
        let filters = filters.iter().map(|filter| TopicFilter::new(*filter).unwrap());
        self.run(Command::Subscribe(Box::new(Subscribe {
            request: RequestId(1),
            session,
            epoch,
            filters: filters.map(|filter| (filter, options)).collect(),
            subscription_id: None,
        })));
    }

    fn publish(&mut self, topic: &str, size: usize) {
        self.published += 1;
        let message = Message { retain: true, ..message(topic, &vec![b'x'; size]) };
        self.run(Command::Publish(Publish {
            token: PublishToken(self.published),
            origin: Origin { proxy: ProxyId(2), lane: 1, seq: self.published },
            publisher: ClientHash(5),
            once: Some(OnceKey(u128::from(self.published))),
            message: Arc::new(message),
            expires_at: None,
        }));
    }
}

#[test]
fn what_an_owner_writes_fits_at_each_step_and_comes_back() {
    let mut life = Life::new();
    // Enough that several are in one partition and share messages.
    let clients: Vec<_> = (0..40).map(|n| life.connect(&format!("client {n}"), n)).collect();
    for client in &clients {
        life.subscribe(*client, &["a/#", "$share/g/s"]);
    }
    for size in 0..30 {
        life.publish("a/b", size * 40);
        life.publish("s", size);
    }
    for (at, (session, epoch)) in clients.iter().copied().enumerate() {
        let mut taken = Vec::new();
        life.owner.deliveries(ProxyId(1), 1 << 16, NOW, &mut taken).unwrap();
        let places = taken.iter().filter(|delivery| delivery.session == session);
        let settled: Vec<QueueSeq> = places.map(|delivery| delivery.seq).skip(1).collect();
        let acknowledge = Acknowledge { session, epoch, settled, received: Vec::new() };
        life.run(Command::Acknowledge(acknowledge));
        let expiry_secs = if at % 3 == 0 { 0 } else { 60 };
        let farewell = if at % 2 == 0 { Farewell::Clean } else { Farewell::Abnormal };
        life.run(Command::Detach(Detach { session, epoch, farewell, expiry_secs }));
    }
    let text = archive(&life.store);
    assert!(!text.contains("\"raw\""), "{text}");
    for kind in ["session", "queue", "messages", "body", "retained", "group", "member", "once"] {
        assert!(text.contains(&format!("\"row\":\"{kind}\"")), "no {kind}");
    }
    assert_eq!(restore(&text).unwrap().rows(), life.store.rows());
}
