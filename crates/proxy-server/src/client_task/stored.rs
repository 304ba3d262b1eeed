//! What a client's task has to do with the store: what it asks there, what the answers mean for the client, and what
//! it tells of the client's confirmations.

use std::time::Instant;

use cluster_rpc::frame::SessionRefusal;
use mqtt_codec::{Message, PacketId, ReasonCode, SubscriptionId, SubscriptionOptions, TopicFilter};
use mqtt_session::{DeliverySource, Once, Ticket};
use tokio::io::{AsyncRead, AsyncWrite};

use super::kept::{Due, Key};
use super::requests::{Request, RequestKind};
use super::retained::{Owed, Scans};
use super::{ClientTask, OUTPUT_ENOUGH, SCANS};
use crate::broker::Publication;
use crate::store::{Answer, Ask, AskNumber, Confirmations, News, slot_of};

impl<S: AsyncRead + AsyncWrite + Unpin> ClientTask<S> {
    /// Subscribes where each filter belongs.
    pub(super) fn subscribe(
        &mut self,
        (filters, subscription_id): (
            Vec<(TopicFilter, SubscriptionOptions)>,
            Option<SubscriptionId>,
        ),
        ticket: Ticket,
        now: Instant,
    ) {
        let mut reasons = vec![ReasonCode::Success; filters.len()];
        let (stored, local) = self.split(filters, |(filter, _)| filter);
        let asked =
            ask_for(stored, |filters| self.ask(Ask::Subscribe { filters, subscription_id }));
        let (places, filters): (Vec<usize>, Vec<_>) = local.into_iter().unzip();
        let mark = self.client.handle.mailbox.next_number();
        let since = (!filters.is_empty()).then(|| self.scans().begin(mark, now));
        let subscribed = self.broker.subscribe(&self.client.handle, filters, subscription_id);
        for (at, reason) in places.into_iter().zip(subscribed.reasons) {
            reasons[at] = reason;
        }
        let uplink = &self.broker.uplink;
        let route = subscribed.route.filter(|&route| !uplink.is_applied(route));
        let applied = route.map(|route| {
            let uplink = uplink.clone();
            Box::pin(async move { uplink.applied(route).await }) as super::Wait
        });
        let owed = since.map(|since| Owed { since, requests: subscribed.retained });
        let kind = RequestKind::Subscribe(owed);
        self.requests.push(Request { ticket, kind, reasons, asked, applied });
    }

    /// Unsubscribes where each filter is.
    pub(super) fn unsubscribe(&mut self, filters: Vec<TopicFilter>, ticket: Ticket, now: Instant) {
        for filter in &filters {
            if let Some(scans) = &mut self.scans {
                scans.forget(filter);
            }
            self.requests.forget_retained(filter);
        }
        self.drop_scans();
        let mut reasons = vec![ReasonCode::Success; filters.len()];
        let (stored, local) = self.split(filters, |filter| filter);
        let asked = ask_for(stored, |filters| self.ask(Ask::Unsubscribe(filters)));
        let (places, filters): (Vec<usize>, Vec<_>) = local.into_iter().unzip();
        let removed = self.broker.unsubscribe(&self.client.handle, &filters);
        self.forget_recent(&filters, now);
        for (at, reason) in places.into_iter().zip(removed) {
            reasons[at] = reason;
        }
        let kind = RequestKind::Unsubscribe;
        self.requests.push(Request { ticket, kind, reasons, asked, applied: None });
    }

    /// What belongs into the store, and what stays here, each with its place in the packet.
    fn split<T>(
        &self,
        filters: Vec<T>,
        filter: impl Fn(&T) -> &TopicFilter,
    ) -> (Placed<T>, Placed<T>) {
        let is_stored = |item: &T| self.kept.is_some() || filter(item).share_name().is_some();
        filters.into_iter().enumerate().partition(|(_, item)| is_stored(item))
    }

    fn scans(&mut self) -> &mut Scans {
        self.scans.get_or_insert_with(|| Box::new(Scans::new()))
    }

    /// Subscriptions are answered: their retained messages come next.
    pub(super) fn owe_retained(&mut self, owed: Owed) {
        let scans = self.scans();
        scans.end();
        for request in owed.requests {
            if scans.len() >= SCANS {
                scans.forget_repetition(&request.filter);
            }
            scans.push(request, owed.since);
        }
        self.drop_scans();
    }

    fn drop_scans(&mut self) {
        self.scans.take_if(|scans| scans.is_idle());
    }

    /// Remembers which of the messages that came with RETAIN, but for the first `skipped`. Those of a group do not
    /// count: its members do not get all.
    pub(super) fn note_live(&mut self, skipped: usize, now: Instant) {
        let had_none = self.recent.is_none();
        let new = self.drained.deliveries.len() - skipped;
        let first = self.drained.next - new as u64;
        for (number, delivery) in (first..).zip(self.drained.deliveries.iter().skip(skipped)) {
            if !delivery.message.retain || !matches!(delivery.source, DeliverySource::Own) {
                continue;
            }
            if let Some(scans) = &mut self.scans {
                scans.note_live(&delivery.message.topic, number);
            }
            self.recent.get_or_insert_default().push(delivery, number, now);
        }
        if had_none && self.recent.is_some() {
            self.reset_timer(now);
        }
    }

    /// Subscriptions have ended: what they brought, and what still waits of that, is not the newest for long.
    fn forget_recent(&mut self, filters: &[TopicFilter], now: Instant) {
        let mailbox = &self.client.handle.mailbox;
        let had_none = self.recent.is_none();
        if had_none && mailbox.is_empty() {
            return;
        }
        let recent = self.recent.get_or_insert_default();
        for filter in filters {
            recent.forget(filter, mailbox.next_number());
        }
        if had_none {
            self.reset_timer(now);
        }
    }

    /// Asks for the next page of retained messages, if the client's window and the output allow one.
    pub(super) fn read_retained(&mut self) {
        // What was published before a page is read goes out before it: a page never shows less than that.
        let blocked = self.scans.is_none()
            || !self.drained.deliveries.is_empty()
            || !self.client.handle.mailbox.is_empty()
            || self.output.len() >= OUTPUT_ENOUGH;
        if blocked {
            return;
        }
        let window = self.connection.window();
        if let Some(ask) = self.scans.as_ref().and_then(|scans| scans.next_ask(window)) {
            let number = self.ask(ask);
            if let Some(scans) = &mut self.scans {
                scans.asked(number);
            }
        }
    }

    /// Publishes for a kept session: at once, or when the message's key is safe and its turn has come.
    pub(super) fn publish_kept(
        &mut self,
        message: Message,
        once: Option<Once>,
        ticket: Ticket,
        now: Instant,
    ) {
        let key = match once {
            None => Key::None,
            Some(Once::Begin(packet_id)) => self.begin(packet_id),
            Some(Once::Again(packet_id)) => {
                let known = self.kept.as_ref().and_then(|kept| kept.key_of(packet_id));
                known.map_or_else(|| self.begin(packet_id), Key::Safe)
            }
        };
        match &mut self.kept {
            Some(kept) if !kept.is_empty() || matches!(key, Key::Asked(_)) => {
                kept.push(message, ticket, key);
            }
            _ => {
                let once = if let Key::Safe(key) = key { Some(key) } else { None };
                self.publish(Publication { message, once, ticket }, now);
            }
        }
    }

    fn begin(&mut self, packet_id: PacketId) -> Key {
        Key::Asked(self.ask(Ask::Begin(packet_id, self.broker.keys.next())))
    }

    /// Publishes what has its key, in order, as far as the uplink takes it.
    pub(super) fn publish_due(&mut self, now: Instant) {
        while self.stalled.is_none()
            && let Some(due) = self.kept.as_mut().and_then(|kept| kept.due())
        {
            match due {
                Due::Publish(publication) => self.publish(publication, now),
                Due::Refuse(ticket, reason) => self.connection.complete(ticket, reason),
            }
        }
    }

    /// The connection is over: publishes what waits for a key that is not its own, and would come no second time.
    pub(super) fn publish_unrepeated(&mut self, now: Instant) {
        for (message, ticket) in self.kept.as_mut().into_iter().flat_map(|kept| kept.abandon()) {
            // One of QoS 0 never waits for room.
            let publication = Publication { message, once: None, ticket };
            self.broker.publish(&mut self.publisher, publication, now);
        }
    }

    /// The client gives the packet identifier of a QoS 2 message back.
    pub(super) fn release(&mut self, packet_id: PacketId, ticket: Ticket) {
        // That it was taken is told before.
        self.confirm();
        let number = self.ask(Ask::Release(packet_id));
        if let Some(kept) = &mut self.kept {
            kept.releasing(packet_id, number, ticket);
        }
    }

    /// Acts on what the store has said.
    pub(super) fn handle_news(&mut self, now: Instant) {
        for news in std::mem::take(&mut self.drained.news) {
            match news {
                News::Received(places) => {
                    for place in places {
                        self.connection.complete_received(slot_of(place));
                    }
                }
                News::Answer(number, answer) => self.handle_answer(number, answer, now),
            }
        }
    }

    fn handle_answer(&mut self, number: AskNumber, answer: Answer, now: Instant) {
        match answer {
            Answer::Reasons(reasons) => {
                self.requests.answer(number, &reasons);
            }
            Answer::Begun(key) => {
                if let Some(kept) = &mut self.kept {
                    kept.answer(number, Key::Safe(key));
                }
                self.publish_due(now);
            }
            Answer::Released => self.released(number, ReasonCode::Success),
            Answer::Retained { messages, next } => {
                if let Some(scans) = &mut self.scans {
                    let recent = self.recent.as_deref();
                    let page = scans.page(number, (messages, next), recent, now);
                    self.drained.deliveries.extend(page);
                }
                self.drop_scans();
            }
            Answer::Refused(refusal) => self.handle_refusal(number, refusal, now),
        }
    }

    fn handle_refusal(&mut self, number: AskNumber, refusal: SessionRefusal, now: Instant) {
        let reason = match refusal {
            SessionRefusal::Full | SessionRefusal::TooManySessions => ReasonCode::QuotaExceeded,
            SessionRefusal::Fenced | SessionRefusal::Contested => ReasonCode::UnspecifiedError,
        };
        if let Some(scans) = &mut self.scans {
            scans.refuse(number);
        }
        self.drop_scans();
        if self.requests.refuse(number, reason) {
            return;
        }
        if self.kept.as_mut().is_some_and(|kept| kept.answer(number, Key::Refused(reason))) {
            return self.publish_due(now);
        }
        self.released(number, reason);
    }

    fn released(&mut self, number: AskNumber, reason: ReasonCode) {
        if let Some(ticket) = self.kept.as_mut().and_then(|kept| kept.released(number)) {
            self.connection.complete(ticket, reason);
        }
    }

    /// Tells the store what the client has confirmed.
    pub(super) fn confirm(&mut self) {
        let mut confirmations = Confirmations::default();
        while let Some(confirmation) = self.connection.poll_confirmation() {
            confirmations.push(confirmation);
        }
        if !confirmations.is_empty() {
            self.told_store = true;
            self.broker.store.confirm(&self.client.attachment, confirmations);
        }
    }

    /// Stops reading from the client while the way to the store is full; `true` when it is.
    pub(super) fn heed_congestion(&mut self) -> bool {
        if !std::mem::take(&mut self.told_store) || !self.broker.store.is_congested() {
            return false;
        }
        let store = std::sync::Arc::clone(&self.broker.store);
        self.congested = Some(Box::pin(async move { store.uncongested().await }));
        true
    }

    fn ask(&mut self, ask: Ask) -> AskNumber {
        self.told_store = true;
        self.broker.store.ask(&self.client.attachment, ask)
    }
}

/// Items of a packet with their places in it.
type Placed<T> = Vec<(usize, T)>;

/// Asks for all items at once, and says for which places of the packet; nothing if there are none.
fn ask_for<T>(
    items: Placed<T>,
    ask: impl FnOnce(Vec<T>) -> AskNumber,
) -> Option<(AskNumber, Vec<usize>)> {
    if items.is_empty() {
        return None;
    }
    let (places, items) = items.into_iter().unzip();
    Some((ask(items), places))
}
