//! One connection and its session in the store.
//!
//! ```text
//! Asking ── Attached ──► Held ── close ──► Gone
//!   │ close                ▲
//!   ▼                      └ a new link: told again, with what has arrived
//! Leaving ── Attached ──► Gone, and what was given is given back
//! ```
//! A clean session may be served while it still asks: see [`Attachment::serve_before_answer`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use cluster_rpc::frame::{
    AttachCall, GroupPlace, Held, QueuePlace, SessionCall, SessionDelivery, SessionFarewell,
    SessionRefusal,
};
use cluster_rpc::{LinkEpoch, StoreLink};
use mqtt_codec::{PacketId, SubscriptionId, SubscriptionOptions, TopicFilter, TopicName};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::confirmations::{Confirmations, Recent};
use super::departures::Departure;
use super::{Answer, Attached, News};
use crate::mailbox::Mailbox;

/// Bits of a request number that tell the requests of one connection apart; the others are its number.
const ASK_BITS: u32 = 20;

/// A request of one connection; never 0, which is its attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskNumber(u32);

/// Something a connection asks of the store.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Answered by [`Answer::Reasons`].
    Subscribe {
        /// In the client's order.
        filters: Vec<(TopicFilter, SubscriptionOptions)>,
        /// Sent with every message that matches.
        subscription_id: Option<SubscriptionId>,
    },
    /// Answered by [`Answer::Reasons`].
    Unsubscribe(Vec<TopicFilter>),
    /// A QoS 2 PUBLISH, with the key it is to have. Answered by [`Answer::Begun`].
    Begin(PacketId, u128),
    /// A PUBREL. Answered by [`Answer::Released`].
    Release(PacketId),
    /// Answered by [`Answer::Retained`].
    ReadRetained {
        /// Which topics.
        filter: TopicFilter,
        /// Those after this one.
        after: Option<TopicName>,
        /// At most so many messages.
        limit: u32,
    },
}

/// One connection that has a session in the store, or has asked for one.
#[derive(Debug)]
pub(crate) struct Attachment {
    call: AttachCall,
    since: Instant,
    mailbox: Arc<Mailbox>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// The link on which the store was told of it last.
    link: Option<LinkEpoch>,
    /// Without an answer, in order.
    asked: VecDeque<(AskNumber, Ask)>,
    last_ask: u32,
    /// What has come from durable queues; most clean sessions have nothing from there.
    flow: Option<Box<Flow>>,
    /// Shared subscriptions of a clean session, which the store forgets when it is started anew.
    shared: Vec<(TopicFilter, SubscriptionOptions, Option<SubscriptionId>)>,
}

/// Who is to hear of the session.
type Told = oneshot::Sender<Result<Attached, SessionRefusal>>;

#[derive(Debug)]
enum Stage {
    /// `None` if the connection is served meanwhile.
    Asking(Option<Told>),
    Held(Held),
    /// The connection has ended before the answer came.
    Leaving(SessionFarewell, u32),
    Gone,
}

/// Messages of durable queues on their way to the client.
#[derive(Debug)]
struct Flow {
    /// The highest place of the session's own queue that has arrived.
    arrived: QueuePlace,
    /// Told as confirmed by PUBREC; the store has not said that it is committed.
    received: VecDeque<QueuePlace>,
    settled: Recent,
    /// Arrived from groups, and not confirmed.
    group: VecDeque<GroupPlace>,
    /// Confirmed, as many as the store can have missed.
    group_settled: VecDeque<GroupPlace>,
    /// A link has broken, so that the store may send what has arrived already.
    may_repeat: bool,
}

/// What is left to do when a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// The store is to be told that this is over.
    Detached(Held),
    /// Nothing: the store has not heard of it, or has ended it.
    Over,
    /// The store will answer the attach.
    Awaited,
}

/// What the answer to an attach leads to.
#[derive(Debug)]
pub(super) enum Begun {
    /// It goes on.
    Held,
    /// The connection must end: its session is not its own.
    Lost(SessionRefusal),
    /// The connection has ended; what it was given goes back.
    Returned(Departure),
    /// The connection has ended, and was given nothing.
    Over,
}

impl Attachment {
    pub(super) fn new(call: AttachCall, mailbox: Arc<Mailbox>, told: Told) -> Self {
        let state = State {
            stage: Stage::Asking(Some(told)),
            link: None,
            asked: VecDeque::new(),
            last_ask: 0,
            flow: None,
            shared: Vec::new(),
        };
        Self { call, since: Instant::now(), mailbox, state: Mutex::new(state) }
    }

    /// Its number in this process.
    #[must_use]
    pub(crate) fn connection(&self) -> u64 {
        self.call.connection
    }

    /// Session expiry as the client asked for it when it connected, in seconds.
    #[must_use]
    pub(crate) fn expiry_secs(&self) -> u32 {
        self.call.expiry_secs
    }

    /// What is on its way to it.
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The connection, of a clean session, does not wait for the store any longer: it is served, and its client
    /// identifier is made known when the store answers. Until then a connection with the same identifier at
    /// another proxy is not ended.
    pub(crate) fn serve_before_answer(&self) {
        if let Stage::Asking(told) = &mut self.state.lock().stage {
            *told = None;
        }
    }

    /// Asks for the session on `link`, unless it was on this or a later one.
    pub(super) fn begin(&self, to: &StoreLink, link: LinkEpoch) {
        let mut state = self.state.lock();
        if state.link.is_none() {
            state.link = Some(link);
            to.send(link, self.attach_call(&state));
        }
    }

    /// Tells a new link all that one before it may have lost.
    pub(super) fn begin_again(&self, to: &StoreLink, link: LinkEpoch) {
        let mut state = self.state.lock();
        if state.link >= Some(link) {
            return;
        }
        state.link = Some(link);
        if let Some(flow) = &mut state.flow {
            flow.may_repeat = true;
        }
        match state.stage {
            Stage::Asking(_) | Stage::Leaving(..) => to.send(link, self.attach_call(&state)),
            Stage::Held(held) => {
                to.send(link, self.reattach_call(&state, held));
                self.tell_again(&state, held, to, link);
            }
            Stage::Gone => {}
        }
    }

    /// The store has given the session, for the first time or again.
    pub(super) fn attached(&self, held: Held, attached: Attached, to: &StoreLink) -> Begun {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.stage, Stage::Held(held)) {
            Stage::Asking(told) => {
                if let Some(link) = state.link {
                    self.tell_again(&state, held, to, link);
                }
                // Whoever waited may have given up a moment ago, which `close` deals with.
                drop(told.map(|told| told.send(Ok(attached))));
                Begun::Held
            }
            Stage::Held(before) => {
                if before != held
                    && let Some(link) = state.link
                {
                    self.tell_again(&state, held, to, link);
                }
                Begun::Held
            }
            Stage::Leaving(farewell, expiry_secs) => {
                state.stage = Stage::Gone;
                Begun::Returned(Departure::new(held, farewell, expiry_secs))
            }
            Stage::Gone => {
                state.stage = Stage::Gone;
                Begun::Over
            }
        }
    }

    /// The store does not give the session, or not any more.
    pub(super) fn refused(&self, refusal: SessionRefusal) -> Begun {
        match std::mem::replace(&mut self.state.lock().stage, Stage::Gone) {
            Stage::Asking(Some(told)) => {
                drop(told.send(Err(refusal)));
                Begun::Over
            }
            Stage::Asking(None) | Stage::Held(_) => Begun::Lost(refusal),
            Stage::Leaving(..) | Stage::Gone => Begun::Over,
        }
    }

    /// Whether the connection holds its session by `held`.
    pub(super) fn holds(&self, held: Held) -> bool {
        matches!(self.state.lock().stage, Stage::Held(holds) if holds == held)
    }

    /// The connection has ended: what is to be done.
    pub(super) fn close(&self, farewell: SessionFarewell, expiry_secs: u32) -> Closing {
        let mut state = self.state.lock();
        state.asked = VecDeque::new();
        state.flow = None;
        match std::mem::replace(&mut state.stage, Stage::Gone) {
            Stage::Held(held) => Closing::Detached(held),
            Stage::Asking(_) if state.link.is_some() => {
                state.stage = Stage::Leaving(farewell, expiry_secs);
                Closing::Awaited
            }
            Stage::Asking(_) | Stage::Gone => Closing::Over,
            stage @ Stage::Leaving(..) => {
                state.stage = stage;
                Closing::Awaited
            }
        }
    }

    /// Requests without an answer.
    pub(super) fn pending(&self) -> usize {
        let state = self.state.lock();
        let asking = matches!(state.stage, Stage::Asking(_) | Stage::Leaving(..));
        state.asked.len() + usize::from(asking)
    }

    /// Asks something, now or when the session is there.
    pub(super) fn ask(&self, to: &StoreLink, ask: Ask) -> AskNumber {
        let mut state = self.state.lock();
        state.last_ask = (state.last_ask + 1) % (1 << ASK_BITS);
        state.last_ask = state.last_ask.max(1);
        let number = AskNumber(state.last_ask);
        if let (Stage::Held(held), Some(link)) = (&state.stage, state.link) {
            to.send(link, self.ask_call(*held, number, &ask));
        }
        state.asked.push_back((number, ask));
        number
    }

    /// A request was answered; `false` if it was answered before.
    pub(super) fn answered(&self, number: AskNumber, answer: &Answer) -> bool {
        let mut state = self.state.lock();
        let at = state.asked.iter().position(|(asked, _)| *asked == number);
        let Some((_, ask)) = at.and_then(|at| state.asked.remove(at)) else {
            return false;
        };
        if self.call.expiry_secs == 0 {
            state.note_shared(ask, answer);
        }
        true
    }

    /// Tells what the client has confirmed, now or on the next link.
    pub(super) fn confirm(&self, to: &StoreLink, confirmations: Confirmations) {
        let mut state = self.state.lock();
        let told = match (&state.stage, state.link) {
            (Stage::Held(held), Some(link)) => Some((*held, link)),
            _ => None,
        };
        let flow = state.flow.get_or_insert_with(|| Box::new(Flow::new(self.call.receive_maximum)));
        flow.confirm(&confirmations);
        let Confirmations { settled, received, group } = confirmations;
        let Some((held, link)) = told else {
            return;
        };
        if !settled.is_empty() || !received.is_empty() {
            to.send(link, SessionCall::Acknowledge { held, settled, received });
        }
        if !group.is_empty() {
            to.send(link, SessionCall::AcknowledgeGroup { held, settled: group });
        }
    }

    /// PUBRECs are committed: those of them that the client waits for.
    pub(super) fn committed(&self, places: Vec<QueuePlace>) -> Option<News> {
        let mut state = self.state.lock();
        let received = &mut state.flow.as_mut()?.received;
        // The store answers in the order in which it was told.
        let mut waits = |place: &QueuePlace| {
            let at = received.iter().position(|waiting| waiting == place);
            at.and_then(|at| received.remove(at)).is_some()
        };
        let waited: Vec<QueuePlace> = places.into_iter().filter(|place| waits(place)).collect();
        (!waited.is_empty()).then_some(News::Received(waited))
    }

    /// Whether a message is for this session and was not here before. What is, counts as arrived.
    pub(super) fn arrive(&self, delivery: &SessionDelivery) -> bool {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Held(held) if held.session == delivery.session) {
            return false;
        }
        if delivery.qos == mqtt_codec::QoS::AtMostOnce {
            return true;
        }
        let flow = state.flow.get_or_insert_with(|| Box::new(Flow::new(self.call.receive_maximum)));
        match delivery.group {
            Some(place) if flow.knows(place) => false,
            Some(place) => {
                flow.group.push_back(place);
                true
            }
            None if delivery.place <= flow.arrived => false,
            None => {
                flow.arrived = delivery.place;
                true
            }
        }
    }

    fn attach_call(&self, state: &State) -> SessionCall {
        SessionCall::Attach { request: self.request(0), attach: Box::new(self.call(state)) }
    }

    /// How it is attached, as of now.
    fn call(&self, state: &State) -> AttachCall {
        let served_ms = match state.stage {
            Stage::Asking(Some(_)) => 0,
            Stage::Asking(None) | Stage::Held(_) | Stage::Leaving(..) | Stage::Gone => {
                u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
            }
        };
        AttachCall { served_ms, ..self.call.clone() }
    }

    fn reattach_call(&self, state: &State, held: Held) -> SessionCall {
        let group_deliveries =
            state.flow.iter().flat_map(|flow| flow.group.iter().chain(&flow.group_settled));
        SessionCall::Reattach {
            request: self.request(0),
            attach: Box::new(self.call(state)),
            held,
            received_up_to: state.flow.as_ref().map_or(QueuePlace(0), |flow| flow.arrived),
            group_deliveries: group_deliveries.copied().collect(),
            groups: state.shared.clone(),
        }
    }

    /// Says again what has no answer.
    fn tell_again(&self, state: &State, held: Held, to: &StoreLink, link: LinkEpoch) {
        if let Some(flow) = &state.flow {
            let settled: Vec<QueuePlace> = flow.settled.places().collect();
            let received: Vec<QueuePlace> = flow.received.iter().copied().collect();
            if !settled.is_empty() || !received.is_empty() {
                to.send(link, SessionCall::Acknowledge { held, settled, received });
            }
            if !flow.group_settled.is_empty() {
                let settled = flow.group_settled.iter().copied().collect();
                to.send(link, SessionCall::AcknowledgeGroup { held, settled });
            }
        }
        for (number, ask) in &state.asked {
            to.send(link, self.ask_call(held, *number, ask));
        }
    }

    fn request(&self, number: u32) -> u64 {
        self.call.connection << ASK_BITS | u64::from(number)
    }

    fn ask_call(&self, held: Held, number: AskNumber, ask: &Ask) -> SessionCall {
        let request = self.request(number.0);
        match ask.clone() {
            Ask::Subscribe { filters, subscription_id } => {
                SessionCall::Subscribe { request, held, filters, subscription_id }
            }
            Ask::Unsubscribe(filters) => SessionCall::Unsubscribe { request, held, filters },
            Ask::Begin(packet_id, key) => SessionCall::Begin { request, held, packet_id, key },
            Ask::Release(packet_id) => SessionCall::Release { request, held, packet_id },
            Ask::ReadRetained { filter, after, limit } => {
                SessionCall::ReadRetained { request, filter, after, limit }
            }
        }
    }
}

/// The connection and the request of it that a request number stands for; `None` for its attach.
pub(super) fn asker(request: u64) -> (u64, Option<AskNumber>) {
    let number = u32::try_from(request & ((1 << ASK_BITS) - 1)).expect("20 bits are left");
    (request >> ASK_BITS, Some(number).filter(|&number| number > 0).map(AskNumber))
}

impl State {
    /// Keeps the list of shared subscriptions in step with what the store has answered.
    fn note_shared(&mut self, ask: Ask, answer: &Answer) {
        let Answer::Reasons(reasons) = answer else {
            return;
        };
        match ask {
            Ask::Subscribe { filters, subscription_id } => {
                let granted = filters.into_iter().zip(reasons).filter(|(_, why)| !why.is_error());
                for ((filter, options), _) in granted {
                    self.shared.retain(|(held, ..)| *held != filter);
                    self.shared.push((filter, options, subscription_id));
                }
            }
            Ask::Unsubscribe(filters) => {
                self.shared.retain(|(held, ..)| !filters.contains(held));
            }
            Ask::Begin(..) | Ask::Release(_) | Ask::ReadRetained { .. } => {}
        }
    }
}

impl Flow {
    fn new(receive_maximum: u16) -> Self {
        Self {
            arrived: QueuePlace(0),
            received: VecDeque::new(),
            settled: Recent::new(receive_maximum),
            group: VecDeque::new(),
            group_settled: VecDeque::new(),
            may_repeat: false,
        }
    }

    fn confirm(&mut self, confirmations: &Confirmations) {
        self.received.extend(&confirmations.received);
        for &place in &confirmations.settled {
            self.settled.push(place);
        }
        for &place in &confirmations.group {
            // Clients confirm in order, more or less.
            if let Some(at) = self.group.iter().position(|arrived| *arrived == place) {
                self.group.remove(at);
            }
            if self.group_settled.len() >= self.settled.capacity() {
                self.group_settled.pop_front();
            }
            self.group_settled.push_back(place);
        }
    }

    fn knows(&self, place: GroupPlace) -> bool {
        self.may_repeat && (self.group.contains(&place) || self.group_settled.contains(&place))
    }
}

#[cfg(test)]
mod tests {
    use mqtt_codec::ClientId;

    use super::*;
    use crate::mailbox::{QueueLimits, WhenFull};

    #[test]
    fn only_a_connection_that_does_not_wait_says_that_it_is_served() {
        let call = AttachCall {
            client: ClientId::new("a").unwrap(),
            connection: 1,
            clean_start: true,
            expiry_secs: 0,
            receive_maximum: 10,
            will: None,
            served_ms: 0,
        };
        let limits = QueueLimits { messages: 1, bytes: 1, when_full: WhenFull::Disconnect };
        let (told, _answer) = oneshot::channel();
        let attachment = Attachment::new(call, Arc::new(Mailbox::new(limits)), told);
        let served_ms = || attachment.call(&attachment.state.lock()).served_ms;
        assert_eq!(served_ms(), 0);
        attachment.serve_before_answer();
        assert!(served_ms() > 0);
    }
}
