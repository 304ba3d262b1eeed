//! Scripts for the origin, and a simulation under random schedules.

mod simulation;

use std::time::Duration;

use bytes::Bytes;
use mqtt_codec::{PublishProperties, TopicName};

use super::*;

pub(super) fn message(qos: QoS, payload: &[u8]) -> Arc<Message> {
    Arc::new(Message {
        topic: TopicName::new("t").unwrap(),
        payload: Bytes::copy_from_slice(payload),
        qos,
        retain: false,
        expiry_secs: None,
        properties: PublishProperties::default(),
    })
}

pub(super) fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

const LIMITS: WindowLimits =
    WindowLimits { messages: 100, bytes: 1 << 20, backlog_messages: 10, backlog_bytes: 1 << 20 };

const A: LinkId = LinkId(1);
const B: LinkId = LinkId(2);

struct Script {
    origin: Origin<u32>,
    metrics: Arc<UplinkMetrics>,
    now: Instant,
}

impl Script {
    fn new(limits: WindowLimits) -> Self {
        let metrics = Arc::new(UplinkMetrics::default());
        Self { origin: Origin::new(limits, Arc::clone(&metrics)), metrics, now: Instant::now() }
    }

    fn up(&mut self, link: LinkId, id: &str) {
        self.origin.handle_link_up(link, node(id));
        self.origin.handle_credit(link, 1_000, 1 << 20);
    }

    fn publish(&mut self, lane: u8, qos: QoS, ticket: u32) -> Option<LinkId> {
        let kept = (qos != QoS::AtMostOnce).then_some(ticket);
        self.put(lane, &message(qos, &ticket.to_be_bytes()), None, kept).unwrap()
    }

    fn put(
        &mut self,
        lane: u8,
        message: &Arc<Message>,
        expires_at: Option<Instant>,
        ticket: Option<u32>,
    ) -> Result<Option<LinkId>, NotTaken<u32>> {
        let (lane, provenance) = (Lane(lane), Provenance::default());
        self.origin.publish(Publication { lane, message, expires_at, provenance }, ticket)
    }

    /// Numbers of all messages the link sends now; barriers in between fail the test.
    fn sent(&mut self, link: LinkId) -> Vec<(u8, u64)> {
        let mut sent = Vec::new();
        while let Some(frame) = self.origin.poll_frame(link, self.now) {
            let OriginFrame::Batch(batch) = frame else { panic!("a barrier") };
            sent.extend(batch.iter().map(|message| (message.lane.0, message.seq)));
        }
        sent
    }

    fn acked(&mut self, link: LinkId, lane: u8, up_to: u64) -> Vec<u32> {
        self.origin.handle_acked(link, &[(Lane(lane), up_to)]);
        self.origin.take_completed()
    }

    fn counts(&self, counter: impl Fn(&UplinkMetrics) -> &std::sync::atomic::AtomicU64) -> u64 {
        counter(&self.metrics).load(std::sync::atomic::Ordering::Relaxed)
    }
}

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// A lane that prefers node "b" over "a".
fn lane_of_b() -> u8 {
    let prefers_b = |lane: &Lane| preference(*lane, &node("b")) > preference(*lane, &node("a"));
    lanes().find(prefers_b).unwrap().0
}

#[test]
fn acknowledgements_are_cumulative_and_per_lane() {
    let mut script = Script::new(LIMITS);
    script.up(A, "a");
    for ticket in 1..=3 {
        script.publish(7, Q1, ticket);
    }
    script.publish(8, Q2, 4);
    assert_eq!(script.sent(A), [(7, 1), (7, 2), (7, 3), (8, 1)]);
    assert_eq!(script.acked(A, 7, 2), [1, 2]);
    assert_eq!(script.acked(A, 7, 2), []);
    assert_eq!(script.acked(A, 8, 9), [4], "a number above all sent ones is no harm");
    assert_eq!(script.acked(A, 7, 3), [3]);
    assert_eq!(script.origin.usage(), (0, 0));
    assert_eq!(script.counts(|metrics| &metrics.acked), 4);
}

#[test]
fn after_a_break_everything_unacknowledged_is_sent_again_in_order_before_new_messages() {
    let mut script = Script::new(LIMITS);
    script.up(A, "a");
    script.publish(7, Q1, 1);
    script.publish(7, Q1, 2);
    script.publish(7, Q0, 3);
    script.publish(7, Q1, 4);
    assert_eq!(script.sent(A), [(7, 1), (7, 2), (7, 3), (7, 4)]);
    assert_eq!(script.acked(A, 7, 1), [1]);
    script.publish(7, Q1, 5);
    script.origin.handle_link_down(A);
    script.publish(7, Q1, 6);
    script.up(B, "b");
    assert_eq!(script.sent(B), [(7, 2), (7, 4), (7, 5), (7, 6)], "QoS 0 is not repeated");
    assert_eq!(script.counts(|metrics| &metrics.resent), 2);
    assert_eq!(script.acked(A, 7, 6), [], "the broken link has no say");
    assert_eq!(script.acked(B, 7, 6), [2, 4, 5, 6]);
}

#[test]
fn a_lane_moves_to_the_other_link_at_a_break() {
    let mut script = Script::new(LIMITS);
    let lane = lane_of_b();
    script.up(A, "a");
    script.up(B, "b");
    script.publish(lane, Q1, 1);
    assert_eq!(script.sent(A), []);
    assert_eq!(script.sent(B), [(lane, 1)]);
    script.origin.handle_link_down(B);
    assert_eq!(script.sent(A), [(lane, 1)]);
    assert_eq!(script.acked(A, lane, 1), [1]);
}

#[test]
fn a_lane_moves_back_only_after_the_barrier() {
    let mut script = Script::new(LIMITS);
    let lane = lane_of_b();
    script.up(A, "a");
    script.publish(lane, Q1, 1);
    assert_eq!(script.sent(A), [(lane, 1)]);
    script.up(B, "b");
    let Some(OriginFrame::Barrier { lane: moving, id }) = script.origin.poll_frame(A, script.now)
    else {
        panic!("no barrier")
    };
    assert_eq!(moving.0, lane);
    script.publish(lane, Q1, 2);
    assert_eq!((script.sent(A), script.sent(B)), (vec![], vec![]));
    script.origin.handle_barrier_done(B, id);
    assert_eq!(script.sent(B), [], "an answer on another link is none");
    script.origin.handle_barrier_done(A, id);
    assert_eq!(script.origin.take_completed(), [1], "what was before the barrier has arrived");
    assert_eq!((script.sent(A), script.sent(B)), (vec![], vec![(lane, 2)]));
    assert_eq!(script.acked(B, lane, 2), [2]);
}

#[test]
fn a_lane_on_which_nothing_was_sent_moves_at_once() {
    let mut script = Script::new(LIMITS);
    let lane = lane_of_b();
    script.origin.handle_link_up(A, node("a"));
    script.publish(lane, Q1, 1);
    script.up(B, "b");
    assert_eq!(script.sent(B), [(lane, 1)]);
    script.origin.handle_credit(A, 10, 1_000);
    assert_eq!(script.sent(A), []);
}

#[test]
fn a_link_that_breaks_under_a_barrier_is_a_break() {
    let mut script = Script::new(LIMITS);
    let lane = lane_of_b();
    script.up(A, "a");
    script.publish(lane, Q1, 1);
    script.sent(A);
    script.up(B, "b");
    script.publish(lane, Q1, 2);
    script.origin.handle_link_down(A);
    assert_eq!(script.sent(B), [(lane, 1), (lane, 2)]);
}

#[test]
fn the_better_link_may_break_while_the_barrier_is_under_way() {
    let mut script = Script::new(LIMITS);
    let lane = lane_of_b();
    script.up(A, "a");
    script.publish(lane, Q1, 1);
    script.sent(A);
    script.up(B, "b");
    let Some(OriginFrame::Barrier { id, .. }) = script.origin.poll_frame(A, script.now) else {
        panic!("no barrier")
    };
    script.publish(lane, Q1, 2);
    script.origin.handle_link_down(B);
    script.origin.handle_barrier_done(A, id);
    assert_eq!(script.sent(A), [(lane, 2)], "it stays where it is");
}

#[test]
fn a_full_window_gives_the_ticket_back_until_completions_are_fetched() {
    let mut script = Script::new(WindowLimits { messages: 2, ..LIMITS });
    script.up(A, "a");
    script.publish(7, Q1, 1);
    script.publish(8, Q1, 2);
    assert!(!script.origin.has_room());
    let refused = script.put(9, &message(Q1, b""), None, Some(3));
    assert!(matches!(refused, Err(NotTaken::WindowFull { ticket: Some(3) })), "{refused:?}");
    script.publish(7, Q0, 0);
    script.sent(A);
    script.origin.handle_acked(A, &[(Lane(7), 1)]);
    assert!(!script.origin.has_room(), "the completion is not fetched");
    assert_eq!(script.origin.take_completed(), [1]);
    script.publish(9, Q1, 3);
    assert!(!script.origin.has_room());
}

#[test]
fn the_window_is_bounded_in_bytes() {
    let mut script = Script::new(WindowLimits { bytes: 1_000, ..LIMITS });
    let large = message(Q1, &[0; 2_000]);
    assert!(script.put(1, &large, None, Some(1)).is_ok(), "one always fits");
    assert!(script.put(1, &large, None, Some(2)).is_err());
}

#[test]
fn nothing_is_sent_beyond_the_credit() {
    let mut script = Script::new(LIMITS);
    script.origin.handle_link_up(A, node("a"));
    for ticket in 1..=5 {
        script.publish(7, Q1, ticket);
    }
    assert_eq!(script.sent(A), []);
    script.origin.handle_credit(A, 2, 1 << 20);
    assert_eq!(script.sent(A), [(7, 1), (7, 2)]);
    script.origin.handle_credit(A, 1, 0);
    assert_eq!(script.sent(A), [], "credit is never taken back nor given twice");
    script.origin.handle_credit(A, 4, 1 << 20);
    assert_eq!(script.sent(A), [(7, 3), (7, 4)]);
}

#[test]
fn the_credit_in_bytes_is_exceeded_by_one_message_at_most() {
    let mut script = Script::new(LIMITS);
    script.origin.handle_link_up(A, node("a"));
    for ticket in 1..=5 {
        script.publish(7, Q1, ticket);
    }
    let weight = weight_of(&message(Q1, &[0; 4]));
    script.origin.handle_credit(A, 100, 2 * weight + 1);
    assert_eq!(script.sent(A), [(7, 1), (7, 2), (7, 3)]);
}

#[test]
fn qos0_is_dropped_and_counted_when_nobody_can_carry_it_or_too_much_waits() {
    let mut script = Script::new(LIMITS);
    script.publish(7, Q0, 0);
    assert_eq!(script.counts(|metrics| &metrics.dropped_no_intermediate), 1);
    script.origin.handle_link_up(A, node("a"));
    for _ in 0..12 {
        script.publish(7, Q0, 0);
    }
    assert_eq!(script.counts(|metrics| &metrics.dropped_backlog), 2);
    script.publish(7, Q1, 1);
    script.origin.handle_link_down(A);
    assert_eq!(script.counts(|metrics| &metrics.dropped_no_intermediate), 11);
    script.up(B, "b");
    assert_eq!(script.sent(B), [(7, 11)], "QoS 1 has waited");
    for _ in 0..10 {
        script.publish(7, Q0, 0);
    }
    assert_eq!(script.counts(|metrics| &metrics.dropped_backlog), 2, "the backlog was emptied");
}

#[test]
fn what_expires_while_it_waits_is_completed_and_not_sent() {
    let mut script = Script::new(LIMITS);
    let at = |secs: u64| Some(script.now + Duration::from_millis(secs * 1_000 - 500));
    let (soon, late) = (at(2), at(10));
    script.put(7, &message(Q1, b""), soon, Some(1)).unwrap();
    script.put(7, &message(Q1, b""), late, Some(2)).unwrap();
    script.now += Duration::from_secs(3);
    script.up(A, "a");
    let Some(OriginFrame::Batch(batch)) = script.origin.poll_frame(A, script.now) else {
        panic!("no batch")
    };
    let left: Vec<_> = batch.iter().map(|sent| (sent.seq, sent.expiry_secs)).collect();
    assert_eq!(left, [(2, Some(7))], "what is left, rounded up");
    assert_eq!(script.origin.take_completed(), [1]);
    assert_eq!(script.counts(|metrics| &metrics.expired), 1);
}

#[test]
fn only_a_link_that_was_idle_is_to_be_woken() {
    let mut script = Script::new(LIMITS);
    script.up(A, "a");
    assert_eq!(script.publish(7, Q1, 1), Some(A));
    assert_eq!(script.publish(7, Q1, 2), None);
    assert_eq!(script.publish(8, Q1, 3), None);
    script.sent(A);
    assert_eq!(script.publish(8, Q1, 4), Some(A));
}

#[test]
fn batches_are_bounded_and_lanes_take_turns() {
    let mut script = Script::new(WindowLimits { messages: 10_000, bytes: 1 << 30, ..LIMITS });
    script.origin.handle_link_up(A, node("a"));
    script.origin.handle_credit(A, u64::MAX, u64::MAX);
    let large = message(Q1, &[0; 30 << 10]);
    for _ in 0..5 {
        script.put(1, &large, None, Some(0)).unwrap();
    }
    let huge = message(Q1, &[0; 100 << 10]);
    script.put(2, &huge, None, Some(0)).unwrap();
    for _ in 0..1_500 {
        script.put(3, &message(Q1, b""), None, Some(0)).unwrap();
    }
    let mut batches = Vec::new();
    while let Some(OriginFrame::Batch(batch)) = script.origin.poll_frame(A, script.now) {
        batches.push((batch[0].lane.0, batch.len()));
    }
    assert_eq!(batches, [(1, 2), (2, 1), (1, 2), (3, 1_000), (1, 501)]);
}

#[test]
fn what_is_refused_is_done_and_not_sent_again() {
    let mut script = Script::new(LIMITS);
    script.up(A, "a");
    for ticket in 1..=4 {
        script.publish(7, Q1, ticket);
    }
    script.publish(8, Q1, 5);
    script.sent(A);
    let full = ReasonCode::QuotaExceeded;
    script.origin.handle_refused(B, &[(Lane(7), 1, full)]);
    assert_eq!(script.origin.take_refused(), [], "another link has no say");
    script.origin.handle_refused(A, &[(Lane(7), 2, full), (Lane(7), 2, full), (Lane(7), 9, full)]);
    assert!(script.origin.has_results());
    assert_eq!(script.origin.take_refused(), [(2, full)]);
    assert_eq!(script.origin.usage().0, 4);
    assert_eq!(script.acked(A, 7, 3), [1, 3]);
    script.origin.handle_refused(A, &[(Lane(7), 3, full), (Lane(8), 1, full)]);
    assert_eq!(script.origin.take_refused(), [(5, full)], "what is acknowledged stays so");
    script.origin.handle_link_down(A);
    script.up(B, "b");
    assert_eq!(script.sent(B), [(7, 4)]);
    assert_eq!(script.counts(|metrics| &metrics.refused), 2);
}

#[test]
fn refusals_that_are_not_fetched_hold_publishers_back() {
    let mut script = Script::new(WindowLimits { messages: 1, ..LIMITS });
    script.up(A, "a");
    script.publish(7, Q1, 1);
    script.sent(A);
    script.origin.handle_refused(A, &[(Lane(7), 1, ReasonCode::QuotaExceeded)]);
    assert!(!script.origin.has_room());
    script.origin.take_refused();
    assert!(script.origin.has_room());
}

#[test]
fn a_fenced_origin_begins_anew() {
    let mut script = Script::new(LIMITS);
    script.up(A, "a");
    script.publish(7, Q1, 1);
    script.publish(7, Q1, 2);
    script.sent(A);
    script.publish(7, Q1, 3);
    assert_eq!(script.origin.fence(), [1, 2, 3]);
    assert_eq!(script.origin.take_completed(), []);
    assert_eq!(script.counts(|metrics| &metrics.dropped_fenced), 3);
    assert_eq!((script.origin.usage(), script.origin.links()), ((0, 0), 0));
    script.up(B, "b");
    script.publish(7, Q1, 4);
    assert_eq!(script.sent(B), [(7, 1)]);
}
