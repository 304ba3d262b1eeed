//! The queue of one session: its limits, its order, who is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use mqtt_codec::{Message, PublishProperties, QoS, ReasonCode, TopicName};
use mqtt_session::{Delivery, DeliverySource};

use super::*;

fn limits(messages: usize, when_full: WhenFull) -> QueueLimits {
    QueueLimits { messages, bytes: 1 << 20, when_full }
}

fn delivery(payload: &'static str, qos: QoS) -> Delivery {
    let message = Message {
        topic: TopicName::new("a/b").expect("a topic"),
        payload: Bytes::from_static(payload.as_bytes()),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    };
    Delivery {
        message: Arc::new(message),
        qos,
        retain: false,
        subscription_ids: Default::default(),
        expires_at: None,
        source: DeliverySource::Own,
    }
}

fn drain(mailbox: &Mailbox, window: usize, quota: usize) -> (Poll<()>, Vec<String>) {
    let mut drained = Drained::default();
    let context = Context::from_waker(Waker::noop());
    let poll = mailbox.poll_drain(&context, window, quota, &mut drained);
    let text =
        |delivery: &Delivery| String::from_utf8_lossy(&delivery.message.payload).into_owned();
    (poll, drained.deliveries.iter().map(text).collect())
}

#[test]
fn messages_come_out_in_the_order_they_went_in_as_far_as_the_window_allows() {
    let mailbox = Mailbox::new(limits(10, WhenFull::Disconnect));
    for (payload, qos) in [("1", QoS::AtLeastOnce), ("2", QoS::AtMostOnce), ("3", QoS::ExactlyOnce)]
    {
        assert_eq!(mailbox.push(delivery(payload, qos)), Pushed::Queued);
    }
    assert_eq!(drain(&mailbox, 1, usize::MAX), (Poll::Ready(()), vec!["1".into(), "2".into()]));
    assert_eq!(drain(&mailbox, 0, usize::MAX), (Poll::Pending, vec![]));
    assert_eq!(drain(&mailbox, 1, usize::MAX), (Poll::Ready(()), vec!["3".into()]));
}

#[test]
fn a_quota_of_bytes_lets_at_least_one_message_through() {
    let mailbox = Mailbox::new(limits(10, WhenFull::Disconnect));
    mailbox.push(delivery("1", QoS::AtMostOnce));
    mailbox.push(delivery("2", QoS::AtMostOnce));
    assert_eq!(drain(&mailbox, 9, 1).1, ["1"]);
    assert_eq!(drain(&mailbox, 9, 0).1, [""; 0]);
    assert_eq!(drain(&mailbox, 9, 1).1, ["2"]);
}

#[test]
fn a_full_mailbox_drops_qos_0_and_disconnects_for_qos_1() {
    let mailbox = Mailbox::new(limits(1, WhenFull::Disconnect));
    mailbox.push(delivery("1", QoS::AtMostOnce));
    assert_eq!(mailbox.push(delivery("2", QoS::AtMostOnce)), Pushed::DroppedFull);
    assert_eq!(mailbox.push(delivery("3", QoS::AtLeastOnce)), Pushed::Overrun);
    let mut drained = Drained::default();
    let context = Context::from_waker(Waker::noop());
    assert!(mailbox.poll_drain(&context, 9, 9, &mut drained).is_ready());
    assert_eq!(drained.order, Some(EndOrder(ReasonCode::QuotaExceeded)));
}

#[test]
fn the_oldest_messages_make_room_when_the_policy_says_so() {
    let mailbox = Mailbox::new(limits(2, WhenFull::DropOldest));
    for payload in ["1", "2"] {
        mailbox.push(delivery(payload, QoS::AtLeastOnce));
    }
    assert_eq!(mailbox.push(delivery("3", QoS::AtLeastOnce)), Pushed::Displaced(1));
    assert_eq!(drain(&mailbox, 9, usize::MAX).1, ["2", "3"]);
}

#[test]
fn bytes_are_bounded_too() {
    let one = weight(&delivery("12345678", QoS::AtLeastOnce));
    let bounded = QueueLimits { messages: 100, bytes: 2 * one, when_full: WhenFull::DropNewest };
    let mailbox = Mailbox::new(bounded);
    let pushed = [(); 3].map(|()| mailbox.push(delivery("12345678", QoS::AtLeastOnce)));
    assert_eq!(pushed, [Pushed::Queued, Pushed::Crowded, Pushed::DroppedFull]);
}

#[test]
fn what_the_store_gives_is_never_refused() {
    let mailbox = Mailbox::new(limits(1, WhenFull::Disconnect));
    for place in 1..=3 {
        let source = DeliverySource::Group { group: 1, place };
        let pushed = mailbox.push(Delivery { source, ..delivery("1", QoS::AtLeastOnce) });
        assert!(matches!(pushed, Pushed::Queued | Pushed::Crowded), "{pushed:?}");
    }
    assert_eq!(mailbox.push(delivery("2", QoS::AtMostOnce)), Pushed::DroppedFull);
    assert_eq!(drain(&mailbox, 9, usize::MAX).1.len(), 3);
}

#[test]
fn a_closed_mailbox_takes_nothing_and_tells_what_was_lost() {
    let mailbox = Mailbox::new(limits(10, WhenFull::Disconnect));
    mailbox.push(delivery("1", QoS::AtLeastOnce));
    mailbox.push(delivery("2", QoS::AtMostOnce));
    assert_eq!(mailbox.close(), 1);
    assert_eq!(mailbox.push(delivery("3", QoS::AtLeastOnce)), Pushed::Closed);
}

struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_reader_that_waits_is_woken_once_for_many_pushes() {
    let mailbox = Mailbox::new(limits(10, WhenFull::Disconnect));
    let counting = Arc::new(Counting(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counting));
    let mut drained = Drained::default();
    let context = Context::from_waker(&waker);
    assert!(mailbox.poll_drain(&context, 9, usize::MAX, &mut drained).is_pending());
    mailbox.push(delivery("1", QoS::AtMostOnce));
    mailbox.push(delivery("2", QoS::AtMostOnce));
    assert_eq!(counting.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_message_that_waits_alone_leaves_the_buffer_it_was_read_in() {
    let mailbox = Mailbox::new(limits(100, WhenFull::Disconnect));
    let stranger = || {
        // In the middle: nothing outside of the buffer is near, wherever the allocator puts it.
        let place = READ_BUFFER..READ_BUFFER + 3;
        let mut far = vec![0_u8; 2 * READ_BUFFER];
        far[place.clone()].copy_from_slice(b"x/y");
        let far = Bytes::from(far);
        let mut delivery = delivery("1", QoS::AtMostOnce);
        let topic = bytestring::ByteString::try_from(far.slice(place)).expect("text");
        let topic = TopicName::new(topic).expect("a topic");
        delivery.message = Arc::new(Message { topic, ..(*delivery.message).clone() });
        (far, delivery)
    };
    let buffers: Vec<Bytes> = std::iter::repeat_with(|| {
        let (buffer, delivery) = stranger();
        mailbox.push(delivery);
        buffer
    })
    .take(40)
    .collect();
    let kept = buffers.into_iter().filter(|buffer| !buffer.is_unique()).count();
    assert!(kept <= 16, "{kept} read buffers are kept alive");
}

#[test]
fn a_queue_that_is_half_full_of_bytes_is_crowded() {
    let one = weight(&delivery("12345678", QoS::AtLeastOnce));
    let bounded = QueueLimits { messages: 100, bytes: 4 * one, when_full: WhenFull::DropNewest };
    let mailbox = Mailbox::new(bounded);
    let pushed = [(); 3].map(|()| mailbox.push(delivery("12345678", QoS::AtLeastOnce)));
    assert_eq!(pushed, [Pushed::Queued, Pushed::Queued, Pushed::Crowded]);
}

#[test]
fn a_reader_that_can_take_nothing_is_neither_woken_nor_waited_for() {
    let mailbox = Mailbox::new(limits(4, WhenFull::Disconnect));
    let counting = Arc::new(Counting(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counting));
    let context = Context::from_waker(&waker);
    let mut drained = Drained::default();
    mailbox.push(delivery("1", QoS::AtLeastOnce));
    assert!(mailbox.poll_drain(&context, 0, usize::MAX, &mut drained).is_pending());
    for _ in 0..3 {
        assert_eq!(mailbox.push(delivery("2", QoS::AtLeastOnce)), Pushed::Queued);
    }
    assert_eq!(counting.0.load(Ordering::Relaxed), 0);
    // What it can act on wakes it: here, that its queue is full.
    assert_eq!(mailbox.push(delivery("3", QoS::AtLeastOnce)), Pushed::Overrun);
    assert_eq!(counting.0.load(Ordering::Relaxed), 1);
    assert!(mailbox.poll_drain(&context, 9, usize::MAX, &mut drained).is_ready());
    assert_eq!(drained.deliveries.len(), 4);
}
