//! The same over rows on disk.

use std::path::Path;

use mqtt_codec::QoS;
use partition::{
    Acknowledge, Attach, Attached, Command, Delivery, Durability, Effect, FjallConfig, FjallStore,
    More, Owner, OwnerConfig, ProxyId, QueueSeq, RequestId, Subscribe, UnixMillis,
};

use crate::rig::{attach, filter, holder, message, options, publish};

const NOW: UnixMillis = UnixMillis(1_000_000);

fn open(path: &Path) -> Owner<FjallStore> {
    let config = FjallConfig { durability: Durability::Os, reserve_bytes: 0, partitions: 16 };
    let store = FjallStore::open(path, config).unwrap();
    Owner::open(store, OwnerConfig::default(), NOW).unwrap()
}

fn attached(owner: &mut Owner<FjallStore>, connection: u64) -> Attached {
    let attach = Attach { request: RequestId(connection), ..attach("a", holder(1, connection)) };
    owner.handle(Command::Attach(Box::new(attach)), NOW);
    owner.commit().unwrap();
    let answers: Vec<Effect> = std::iter::from_fn(|| owner.poll_effect()).collect();
    let mut found = answers.into_iter().filter_map(|effect| {
        if let Effect::Attached(attached) = effect { Some(*attached) } else { None }
    });
    found.next().unwrap()
}

fn take(owner: &mut Owner<FjallStore>) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while owner.deliveries(ProxyId(1), 16 << 10, NOW, &mut taken).unwrap() == More::Yes {}
    owner.commit().unwrap();
    taken
}

#[test]
fn a_queue_is_drained_in_order_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut owner = open(&path);
    let Attached { session, epoch, .. } = attached(&mut owner, 1);
    owner.handle(
        Command::Subscribe(Box::new(Subscribe {
            request: RequestId(9),
            session,
            epoch,
            filters: vec![(filter("t/#"), options(QoS::ExactlyOnce))],
            subscription_id: None,
        })),
        NOW,
    );
    owner.commit().unwrap();
    for number in 1..=3_000u64 {
        let message = message("t/x", &number.to_string(), QoS::ExactlyOnce);
        owner.handle(Command::Publish(publish(number, message)), NOW);
        if number.is_multiple_of(7) {
            owner.commit().unwrap();
        }
    }
    owner.commit().unwrap();
    drop(owner);
    let mut owner = open(&path);
    assert_eq!(owner.stats().queued_messages, 3_000);
    let Attached { session, epoch, session_present, .. } = attached(&mut owner, 2);
    assert!(session_present);
    let mut next = 1;
    while next <= 3_000 {
        let taken = take(&mut owner);
        assert!(!taken.is_empty() && taken.len() <= 100);
        for delivery in &taken {
            assert_eq!(delivery.seq, QueueSeq(next));
            assert_eq!(delivery.message.payload, next.to_string());
            next += 1;
        }
        let settled: Vec<QueueSeq> = taken.iter().map(|delivery| delivery.seq).collect();
        for (settled, received) in [(Vec::new(), settled.clone()), (settled, Vec::new())] {
            let acknowledge = Acknowledge { session, epoch, settled, received };
            owner.handle(Command::Acknowledge(acknowledge), NOW);
            owner.commit().unwrap();
        }
    }
    assert_eq!(take(&mut owner), []);
    drop(owner);
    assert_eq!(open(&path).stats().queued_messages, 0);
}
