//! How much is read of the store at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use mqtt_codec::QoS;
use partition::{
    Acknowledge, Attach, Batch, Command, Delivery, Effect, Farewell, MemoryStore, OnceKey, Owner,
    ProxyId, Publish, Room, Store, StoreError, Table, UnixMillis,
};

use crate::rig::{Rig, attach, holder, message, publish, seqs};

/// Counts what is read of one table, in bytes and rows.
#[derive(Debug)]
struct Counted {
    store: MemoryStore,
    table: Table,
    bytes: Arc<AtomicUsize>,
    rows: Arc<AtomicUsize>,
}

impl Counted {
    fn new(store: MemoryStore, table: Table) -> Self {
        Self { store, table, bytes: Arc::default(), rows: Arc::default() }
    }

    fn count(&self, table: Table, value: usize) {
        if table == self.table {
            self.bytes.fetch_add(value, Ordering::Relaxed);
            self.rows.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Store for Counted {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.store.commit(batch)
    }

    fn lookup(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.store.lookup(table, key)?;
        self.count(table, value.as_ref().map_or(0, Bytes::len));
        Ok(value)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.store.scan(table, prefix, from, &mut |key, value| {
            self.count(table, value.len());
            visit(key, value)
        })
    }

    fn room(&self) -> Room {
        self.store.room()
    }
}

#[test]
fn of_a_queue_of_large_shared_messages_little_more_is_read_than_is_sent() {
    const MESSAGES: u64 = 60;
    let mut rig = Rig::new();
    // Two in each partition, so that each large message lies in the store once.
    let clients: Vec<_> =
        (0..8).map(|number| rig.connect(&number.to_string(), holder(1, number))).collect();
    for client in &clients {
        rig.subscribe(client, "t", QoS::AtLeastOnce);
        rig.detach(client, Farewell::Abnormal);
    }
    for number in 1..=MESSAGES {
        let message = message("t", &"x".repeat(400_000), QoS::AtLeastOnce);
        rig.owner.handle(Command::Publish(publish(number, message)), rig.now);
    }
    rig.commit();
    let bodies = rig.store.rows().iter().filter(|row| row.0 == Table::Body).count();
    assert!(bodies >= MESSAGES as usize, "{bodies}");

    let counted = Counted::new(rig.store.clone(), Table::Body);
    let bytes = Arc::clone(&counted.bytes);
    let mut owner = Owner::open(counted, rig.config, rig.now).unwrap();
    let slow = Attach { receive_maximum: 1, ..attach("0", holder(2, 1)) };
    owner.handle(Command::Attach(Box::new(slow)), rig.now);
    owner.commit().unwrap();
    let attached = std::iter::from_fn(|| owner.poll_effect()).find_map(|effect| {
        if let Effect::Attached(attached) = effect { Some(attached) } else { None }
    });
    let attached = attached.unwrap();
    for next in 1..=MESSAGES {
        bytes.store(0, Ordering::Relaxed);
        let taken = take(&mut owner, rig.now);
        assert_eq!(seqs(&taken), [next]);
        let read = bytes.load(Ordering::Relaxed);
        assert!(read <= 2_000_000, "{read} bytes read for message {next}");
        owner.handle(
            Command::Acknowledge(Acknowledge {
                session: attached.session,
                epoch: attached.epoch,
                settled: taken.iter().map(|delivery| delivery.seq).collect(),
                received: Vec::new(),
            }),
            rig.now,
        );
        owner.commit().unwrap();
    }
    assert_eq!(take(&mut owner, rig.now), []);
}

fn take(owner: &mut Owner<Counted>, now: UnixMillis) -> Vec<Delivery> {
    let mut taken = Vec::new();
    owner.deliveries(ProxyId(2), 16 << 20, now, &mut taken).unwrap();
    owner.commit().unwrap();
    taken
}

#[test]
fn keys_that_are_over_are_deleted_without_reading_many_at_once() {
    const KEYS: u64 = 20_000;
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::ExactlyOnce);
    let counted = Counted::new(rig.store.clone(), Table::Once);
    let rows = Arc::clone(&counted.rows);
    let mut owner = Owner::open(counted, rig.config, rig.now).unwrap();
    for number in 1..=KEYS {
        let once = Some(OnceKey(u128::from(number)));
        let message = message("t", "x", QoS::ExactlyOnce);
        owner.handle(Command::Publish(Publish { once, ..publish(number, message) }), rig.now);
    }
    owner.commit().unwrap();
    let now = UnixMillis(rig.now.0 + 25 * 3600 * 1000);
    let left = |rig: &Rig| rig.store.rows().iter().filter(|row| row.0 == Table::Once).count();
    assert_eq!(left(&rig), KEYS as usize);
    for _ in 0..1_000 {
        if owner.next_deadline().is_none_or(|due| due > now) {
            break;
        }
        rows.store(0, Ordering::Relaxed);
        owner.handle_time(now);
        owner.commit().unwrap();
        let read = rows.load(Ordering::Relaxed);
        assert!(read <= 5_000, "{read} rows read at once");
    }
    assert_eq!(left(&rig), 0);
}
