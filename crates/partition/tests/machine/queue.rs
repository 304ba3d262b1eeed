//! Long queues, shared bodies, and what is left of both in the store.

use mqtt_codec::QoS;
use partition::{Attach, Command, Farewell, Store, Table};

use crate::rig::{Rig, attach, holder, message, publish, seqs, texts};

fn count(rig: &Rig, table: Table) -> usize {
    rig.store.rows().iter().filter(|(of, _, _)| *of == table).count()
}

/// Several messages in one commit.
fn publish_many(rig: &mut Rig, numbers: std::ops::RangeInclusive<u64>, bytes: usize) {
    for number in numbers {
        let payload = format!("{number}{}", "-".repeat(bytes));
        let message = message("t", &payload, QoS::AtLeastOnce);
        rig.owner.handle(Command::Publish(publish(number, message)), rig.now);
        if number.is_multiple_of(97) || rig.owner.is_full() {
            rig.commit();
        }
    }
    rig.commit();
}

#[test]
fn a_long_queue_is_drained_in_order_and_leaves_nothing() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.detach(&client, Farewell::Abnormal);
    publish_many(&mut rig, 1..=10_000, 20);
    rig.reopen();
    let attach = Attach { receive_maximum: 50, ..attach("a", holder(2, 1)) };
    let client = rig.try_attach(attach).unwrap();
    let mut next = 1;
    while next <= 10_000 {
        let taken = rig.take(2);
        assert!(!taken.is_empty() && taken.len() <= 50, "{next}: {}", taken.len());
        for delivery in &taken {
            assert_eq!(delivery.seq.0, next);
            assert_eq!(delivery.message.payload, format!("{next}{}", "-".repeat(20)));
            next += 1;
        }
        rig.settle_all(&client, &taken);
    }
    assert_eq!(seqs(&rig.take(2)), [0; 0]);
    assert_eq!(count(&rig, Table::Inbox), 0);
    let stats = rig.owner.stats();
    assert_eq!((stats.queued_messages, stats.queued_bytes), (0, 0));
}

#[test]
fn not_more_than_the_client_takes_is_in_flight_until_it_confirms() {
    let mut rig = Rig::new();
    let attach = Attach { receive_maximum: 3, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(attach).unwrap();
    rig.subscribe(&client, "t", QoS::ExactlyOnce);
    for number in 1..=6 {
        rig.publish("t", &number.to_string(), QoS::ExactlyOnce);
    }
    assert_eq!(seqs(&rig.take(1)), [1, 2, 3]);
    // PUBREC does not make room, PUBCOMP does.
    rig.acknowledge(&client, &[], &[2]);
    assert_eq!(seqs(&rig.take(1)), [0; 0]);
    rig.acknowledge(&client, &[2], &[]);
    assert_eq!(seqs(&rig.take(1)), [4]);
    rig.acknowledge(&client, &[1, 3], &[]);
    assert_eq!(seqs(&rig.take(1)), [5, 6]);
}

#[test]
fn not_more_than_four_mebibytes_are_in_flight_but_one_message_always_is() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    publish_many(&mut rig, 1..=1, 5 << 20);
    publish_many(&mut rig, 2..=6, 1 << 20);
    assert_eq!(seqs(&rig.take(1)), [1]);
    rig.acknowledge(&client, &[1], &[]);
    assert_eq!(seqs(&rig.take(1)), [2, 3, 4]);
    rig.acknowledge(&client, &[2, 3], &[]);
    assert_eq!(seqs(&rig.take(1)), [5, 6]);
}

#[test]
fn places_in_flight_lie_close_together() {
    let mut rig = Rig::new();
    let attach = Attach { receive_maximum: u16::MAX, ..attach("a", holder(1, 1)) };
    let client = rig.try_attach(attach).unwrap();
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    publish_many(&mut rig, 1..=17_000, 1);
    let taken = rig.take(1);
    assert_eq!(taken.len(), 16_384);
    // All but the first are confirmed, and still nothing may follow.
    rig.acknowledge(&client, &seqs(&taken[1..]), &[]);
    assert_eq!(seqs(&rig.take(1)), [0; 0]);
    rig.acknowledge(&client, &[1], &[]);
    assert_eq!(rig.take(1).len(), 17_000 - 16_384);
}

#[test]
fn a_large_message_for_many_is_stored_once_and_goes_with_the_last() {
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..40)
        .map(|number| {
            let client = rig.connect(&format!("c{number}"), holder(1, number));
            rig.subscribe(&client, "t", QoS::AtLeastOnce);
            rig.detach(&client, Farewell::Abnormal);
            client
        })
        .collect();
    let payload = "x".repeat(1000);
    rig.publish("t", &payload, QoS::AtLeastOnce);
    assert_eq!(count(&rig, Table::Body), 4);
    rig.reopen();
    for (at, client) in clients.iter().enumerate() {
        assert!(count(&rig, Table::Body) > 0);
        let client = rig.connect(client.id.as_str(), holder(2, at as u64));
        let taken = rig.take(2);
        assert_eq!(texts(&taken), [payload.as_str()]);
        rig.settle_all(&client, &taken);
        if at % 7 == 0 {
            rig.reopen();
        }
    }
    assert_eq!((count(&rig, Table::Body), count(&rig, Table::BodyUse)), (0, 0));
}

#[test]
fn a_small_message_or_one_for_a_single_session_has_no_body() {
    let mut rig = Rig::new();
    let first = rig.connect("a", holder(1, 1));
    rig.subscribe(&first, "t", QoS::AtLeastOnce);
    rig.publish("t", &"x".repeat(1000), QoS::AtLeastOnce);
    assert_eq!(count(&rig, Table::Body), 0);
}

#[test]
fn the_queue_of_an_ended_session_is_deleted_bit_by_bit_also_across_a_restart() {
    let mut rig = Rig::new();
    for name in ["a", "b", "c", "d", "e"] {
        let client = rig.connect(name, holder(1, 1));
        rig.subscribe(&client, "t", QoS::AtLeastOnce);
        rig.detach(&client, Farewell::Abnormal);
    }
    for number in 1..=300 {
        rig.publish("t", &format!("{number:0>300}"), QoS::AtLeastOnce);
    }
    let chunks = count(&rig, Table::Inbox);
    assert_eq!(chunks, 5 * 300);
    for name in ["a", "b", "c", "d", "e"] {
        let fresh = Attach { clean_start: true, expiry_secs: 0, ..attach(name, holder(1, 2)) };
        let client = rig.try_attach(fresh).unwrap();
        assert!(!client.attached.session_present);
        rig.owner.handle_time(rig.now);
        rig.commit();
        rig.reopen();
    }
    assert!(count(&rig, Table::Inbox) > 0);
    rig.settle();
    for table in [Table::Inbox, Table::Cursor, Table::Session, Table::Body, Table::BodyUse] {
        let rows: Vec<_> = rig.store.rows().into_iter().filter(|row| row.0 == table).collect();
        assert_eq!(rows, [], "{table:?}");
    }
    assert_eq!(rig.owner.stats().queued_messages, 0);
}

#[test]
fn a_missing_row_of_a_queue_is_damage_and_not_a_gap() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.detach(&client, Farewell::Abnormal);
    for number in 1..=3 {
        rig.publish("t", &number.to_string(), QoS::AtLeastOnce);
    }
    let rows = rig.store.rows();
    let inbox: Vec<_> = rows.iter().filter(|(table, _, _)| *table == Table::Inbox).collect();
    let mut batch = partition::Batch::default();
    batch.delete(Table::Inbox, inbox[1].1.clone());
    rig.store.commit(&batch).unwrap();
    rig.reopen();
    rig.connect("a", holder(1, 2));
    let error =
        rig.owner.deliveries(partition::ProxyId(1), 1 << 20, rig.now, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn rows_that_make_no_sense_are_errors() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    rig.retain("t", "1", QoS::AtLeastOnce);
    for (table, key, value) in rig.store.rows() {
        for broken in [&value[..value.len() - 1], b"\xff", b""] {
            let store = rig.store.reopen();
            let mut batch = partition::Batch::default();
            batch.put(table, key.clone(), broken.to_vec());
            let mut writer = store.clone();
            writer.commit(&batch).unwrap();
            let opened = partition::Owner::open(store, rig.config, rig.now);
            let read_at_start =
                !matches!(table, Table::Inbox | Table::Body | Table::BodyUse | Table::Once);
            assert_eq!(opened.is_err(), read_at_start, "{table:?} {broken:?}");
        }
    }
}
