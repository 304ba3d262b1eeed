//! What comes from the store: answers, orders to end, and messages for clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_rpc::frame::{Held, SessionAnswer, SessionDelivery, SessionRefusal, SessionRevocation};
use cluster_rpc::machine::now;
use cluster_rpc::{StoreEvent, StoreEvents};
use mqtt_codec::{QoS, ReasonCode};
use mqtt_session::{Delivery, DeliverySource};
use tokio_util::task::AbortOnDropHandle;

use super::attachment::{Attachment, Begun, asker};
use super::{Answer, Attached, LAST_CALL, News, Store, Way, slot_of};
use crate::fanout::count;
use crate::mailbox::EndOrder;
use crate::metrics::{Metrics, Tally};

/// Serves what the store says until the uplink ends.
pub(crate) async fn pump(store: Arc<Store>, metrics: Metrics, mut events: StoreEvents) {
    let mut tally = Tally::default();
    // What is told on one link ends with it.
    let mut _telling = None;
    while let Some(event) = events.next().await {
        match event {
            StoreEvent::Up { link, life, .. } => {
                tracing::info!("the store is there");
                let way = Way { link, life, up: now() };
                store.handle_up(way);
                // Beside this task, which must go on taking answers.
                let store = Arc::clone(&store);
                let telling = async move { store.tell_again(way).await };
                _telling = Some(AbortOnDropHandle::new(tokio::spawn(telling)));
            }
            StoreEvent::Down => {
                tracing::warn!("the store is not there: sessions that it keeps wait");
                _telling = None;
                store.handle_down();
            }
            StoreEvent::Answers(answers) => {
                for answer in answers {
                    handle_answer(&store, answer);
                }
            }
            StoreEvent::Deliveries(deliveries) => {
                deliver(&store, deliveries, &mut tally);
                tally.flush(&metrics);
            }
        }
    }
}

fn handle_answer(store: &Store, answer: SessionAnswer) {
    match answer {
        SessionAnswer::Attached { request, held, session_present, received, incoming } => {
            let attached = Attached { session_present, received, incoming };
            handle_attached(store, request, held, attached);
        }
        SessionAnswer::Refused { request, refusal } => handle_refused(store, request, refusal),
        SessionAnswer::Subscribed { request, reasons }
        | SessionAnswer::Unsubscribed { request, reasons } => {
            give(store, request, Answer::Reasons(reasons));
        }
        SessionAnswer::Begun { request, key } => give(store, request, Answer::Begun(key)),
        SessionAnswer::Released { request } => give(store, request, Answer::Released),
        SessionAnswer::Retained { request: LAST_CALL, .. } => store.settled(),
        SessionAnswer::Retained { request, messages, next } => {
            give(store, request, Answer::Retained { messages, next });
        }
        SessionAnswer::Received { connection, places } => {
            if let Some(attachment) = store.find(connection)
                && let Some(news) = attachment.committed(places)
            {
                attachment.mailbox().tell(news);
            }
        }
        SessionAnswer::Revoked { connection, held, why } => {
            if let Some(attachment) = store.find(connection)
                && attachment.holds(held)
            {
                let reason = match why {
                    SessionRevocation::TakenOver => ReasonCode::SessionTakenOver,
                    SessionRevocation::Ended => ReasonCode::AdministrativeAction,
                };
                attachment.mailbox().order(EndOrder(reason));
            }
        }
    }
}

fn handle_attached(store: &Store, request: u64, held: Held, attached: Attached) {
    let (connection, _) = asker(request);
    // One that is not there any more has told, or will tell, that it is over.
    if let Some(attachment) = store.find(connection) {
        finish(store, &attachment, |store| attachment.attached(held, attached, &store.link));
    }
}

fn handle_refused(store: &Store, request: u64, refusal: SessionRefusal) {
    if request == LAST_CALL {
        return store.settled();
    }
    match asker(request) {
        (_, Some(_)) => give(store, request, Answer::Refused(refusal)),
        (connection, None) => {
            if let Some(attachment) = store.find(connection) {
                finish(store, &attachment, |_| attachment.refused(refusal));
            }
        }
    }
}

fn finish(store: &Store, attachment: &Attachment, answer: impl FnOnce(&Store) -> Begun) {
    match answer(store) {
        Begun::Held => {}
        Begun::Lost(refusal) => attachment.mailbox().order(EndOrder(ended_by(refusal))),
        Begun::Over => store.forget(attachment),
    }
}

/// The reason a client is told whose session was refused after it was served.
fn ended_by(refusal: SessionRefusal) -> ReasonCode {
    match refusal {
        SessionRefusal::Fenced | SessionRefusal::Contested => ReasonCode::SessionTakenOver,
        SessionRefusal::TooManySessions | SessionRefusal::Full => ReasonCode::QuotaExceeded,
    }
}

fn give(store: &Store, request: u64, answer: Answer) {
    let (connection, Some(number)) = asker(request) else {
        return;
    };
    let Some(attachment) = store.find(connection) else {
        return;
    };
    // Asked twice, on two links, a thing is answered twice.
    if attachment.answered(number, &answer) {
        attachment.mailbox().tell(News::Answer(number, answer));
    }
}

fn deliver(store: &Store, deliveries: Vec<SessionDelivery>, tally: &mut Tally) {
    let now = now();
    // Messages for one connection come in runs.
    let mut last: Option<Arc<Attachment>> = None;
    for delivery in deliveries {
        if last.as_ref().is_none_or(|last| last.connection() != delivery.connection) {
            last = store.find(delivery.connection);
        }
        if let Some(attachment) = &last
            && attachment.arrive(&delivery)
        {
            count(attachment.mailbox().push(for_client(delivery, now)), tally);
        }
    }
}

fn for_client(delivery: SessionDelivery, now: Instant) -> Delivery {
    let SessionDelivery { place, group, dup, qos, retain, subscription_ids, message, .. } =
        delivery;
    let source = match (qos, group) {
        (QoS::AtMostOnce, _) => DeliverySource::Own,
        (_, Some(from)) => DeliverySource::Group { group: from.group, place: from.place },
        (_, None) => DeliverySource::Queue { slot: slot_of(place), dup },
    };
    let lifetime = message.expiry_secs.map(|secs| Duration::from_secs(u64::from(secs)));
    let expires_at = lifetime.and_then(|lifetime| now.checked_add(lifetime));
    Delivery { message, qos, retain, subscription_ids, expires_at, source }
}

#[cfg(test)]
mod tests {
    use cluster_rpc::UplinkConfig;
    use tokio::sync::oneshot;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn whatever_the_last_call_is_answered_the_wait_for_it_is_over() {
        let config = UplinkConfig::default();
        let ways = cluster_rpc::start_with_store::<()>(config, CancellationToken::new());
        let store = Store::new(ways.2);
        let (told, settled) = oneshot::channel();
        store.standing.lock().settled = Some(told);
        let refusal = SessionRefusal::Full;
        handle_answer(&store, SessionAnswer::Refused { request: LAST_CALL, refusal });
        settled.await.expect("it is told");
    }
}
