//! Which member of a group gets a message.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{Message, PublishProperties, QoS, SubscriptionOptions, TopicName};

use super::*;
use crate::mailbox::{QueueLimits, WhenFull};

const TINY: QueueLimits =
    QueueLimits { messages: 2, bytes: 1 << 20, when_full: WhenFull::Disconnect };

fn delivery(qos: QoS) -> Delivery {
    let message = Message {
        topic: TopicName::new("a/b").expect("a topic"),
        payload: Bytes::from_static(b"x"),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    };
    let message = Arc::new(message);
    Delivery {
        message,
        qos,
        retain: false,
        subscription_ids: Default::default(),
        expires_at: None,
        source: Default::default(),
    }
}

fn group(mailboxes: &[&Arc<Mailbox>]) -> Group {
    let group = Group::new(1);
    for (number, mailbox) in (1..).zip(mailboxes) {
        let subscription = Subscription { options: SubscriptionOptions::default(), id: None };
        let mailbox = Arc::clone(mailbox);
        group.join(Member { session: SessionKey(number), mailbox, subscription });
    }
    group
}

fn attached() -> Arc<Mailbox> {
    Arc::new(Mailbox::new(TINY))
}

fn away() -> Arc<Mailbox> {
    let mailbox = attached();
    let limits = QueueLimits { when_full: WhenFull::DropNewest, ..TINY };
    mailbox.park(limits, Default::default());
    mailbox
}

#[test]
fn a_member_with_room_is_preferred_to_one_whose_queue_is_full() {
    let (full, free) = (attached(), attached());
    while full.has_room(&delivery(QoS::AtLeastOnce)) {
        full.push(delivery(QoS::AtLeastOnce));
    }
    let group = group(&[&full, &free]);
    for _ in 0..2 {
        let pushed = group.deliver(|_| delivery(QoS::AtLeastOnce));
        assert!(matches!(pushed, Some(Pushed::Queued | Pushed::Crowded)), "{pushed:?}");
    }
    assert!(!free.has_room(&delivery(QoS::AtLeastOnce)));
}

#[test]
fn a_member_that_is_away_takes_what_would_disconnect_another() {
    let (full, away) = (attached(), away());
    while full.has_room(&delivery(QoS::AtLeastOnce)) {
        full.push(delivery(QoS::AtLeastOnce));
    }
    let group = group(&[&full, &away]);
    let pushed = group.deliver(|_| delivery(QoS::AtLeastOnce));
    assert_eq!(pushed, Some(Pushed::Queued));
    // QoS 0 is not kept for a client that is away.
    let pushed = group.deliver(|_| delivery(QoS::AtMostOnce));
    assert_eq!(pushed, Some(Pushed::DroppedFull));
}

#[test]
fn one_message_disconnects_one_member_when_nobody_has_room() {
    let members = [attached(), attached()];
    for member in &members {
        while member.has_room(&delivery(QoS::AtLeastOnce)) {
            member.push(delivery(QoS::AtLeastOnce));
        }
    }
    let group = group(&[&members[0], &members[1]]);
    let offers = std::cell::Cell::new(0);
    let pushed = group.deliver(|_| {
        offers.set(offers.get() + 1);
        delivery(QoS::AtLeastOnce)
    });
    assert_eq!(pushed, Some(Pushed::Overrun));
    assert_eq!(offers.get(), 5, "two looks for room at each member, and one push");
}

#[test]
fn nobody_takes_qos_0_when_all_are_away() {
    assert_eq!(group(&[&away()]).deliver(|_| delivery(QoS::AtMostOnce)), None);
    assert_eq!(group(&[]).deliver(|_| delivery(QoS::AtLeastOnce)), None);
}
