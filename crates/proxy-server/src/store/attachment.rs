//! One connection and its session in the store.
//!
//! ```text
//! Asking ── Attached ──► Held ── close ──► Gone
//!   │                     ▲ │ └ refused ──► Lost ── close ──► Gone
//!   │ close               └─┘ a new link: told again, with what has arrived
//!   └──────► Gone
//! ```
//! One that ends before it has heard what it was given is withdrawn: the store takes back what it has given to that
//! connection, if it has. What was told in an earlier life of this proxy is lost with that life, and never told again.
//! A clean session may be served while it still asks: see [`Attachment::serve_before_answer`]. Its client was told that
//! an earlier session ends, so the store hears of that however the connection ends, if this process lives until it can
//! be said and too many others do not come between (see [`Departure`]).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use cluster_rpc::frame::{
    AttachCall, GroupPlace, Held, Incarnation, QueuePlace, SessionCall, SessionDelivery,
    SessionFarewell, SessionRefusal,
};
use cluster_rpc::machine::now;
use cluster_rpc::{LinkEpoch, StoreLink};
use mqtt_codec::{
    PacketId, ReasonCode, SubscriptionId, SubscriptionOptions, TopicFilter, TopicName,
};
use mqtt_session::IdOrigin;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::confirmations::{Confirmations, Recent};
use super::departures::{Departure, millis_after};
use super::{Answer, Attached, News, Way};
use crate::mailbox::{EndOrder, Mailbox};

/// Bits of a request number that tell the requests of one connection apart; the others are its number.
const ASK_BITS: u32 = 20;

/// Most bytes of shared subscriptions that a `Reattach` says, with its will. The others follow it.
const GROUPS_BYTES: usize = 8 << 20;

/// Most shared subscriptions that one call says.
const GROUPS: usize = 32_768;

/// Most places that one call says.
const PLACES: usize = 32_768;

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
    /// The life of this proxy in which that was.
    life: Option<Incarnation>,
    /// A `Reattach` is not answered: the epoch may be another one by now.
    again: bool,
    /// The client was not let in.
    abandoned: bool,
    /// The client was told that an earlier session ends, and the store has not said so.
    promised: bool,
    /// Messages that may be unconfirmed, or whose end the store may have missed, at a time.
    window: usize,
    /// Without an answer, in order.
    asked: VecDeque<(AskNumber, Ask)>,
    last_ask: u32,
    /// What has come from durable queues; most clean sessions have nothing from there.
    flow: Option<Box<Flow>>,
    /// Shared subscriptions of a clean session, which the store forgets when it is started anew.
    shared: Vec<SharedFilter>,
}

/// A shared subscription.
type SharedFilter = (TopicFilter, SubscriptionOptions, Option<SubscriptionId>);

/// Who is to hear of the session.
type Told = oneshot::Sender<Result<Attached, SessionRefusal>>;

#[derive(Debug)]
enum Stage {
    /// `None` if the connection is served meanwhile.
    Asking(Option<Told>),
    Held(Held),
    /// Refused after it was served. The store may count it as held all the same, if an answer was lost.
    Lost,
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
    /// Those of groups that had arrived when a link broke last: the store may send them again.
    repeated: HashSet<GroupPlace, foldhash::fast::RandomState>,
    /// QoS 2 messages from the client that were published, and are not released.
    taken: VecDeque<PacketId>,
}

/// What the answer to an attach leads to.
#[derive(Debug)]
pub(super) enum Begun {
    /// It goes on.
    Held,
    /// The connection must end: its session is not its own.
    Lost(SessionRefusal),
    /// The connection has ended, or was given nothing.
    Over,
}

impl Attachment {
    pub(super) fn new(call: AttachCall, mailbox: Arc<Mailbox>, told: Told) -> Self {
        let state = State {
            stage: Stage::Asking(Some(told)),
            link: None,
            life: None,
            again: false,
            abandoned: false,
            promised: false,
            window: usize::from(call.receive_maximum),
            asked: VecDeque::new(),
            last_ask: 0,
            flow: None,
            shared: Vec::new(),
        };
        Self { call, since: now(), mailbox, state: Mutex::new(state) }
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
    /// another proxy is not ended. False if the answer came before that, and is to be looked at.
    #[must_use]
    pub(crate) fn serve_before_answer(&self, id_origin: IdOrigin) -> bool {
        let mut state = self.state.lock();
        let Stage::Asking(told) = &mut state.stage else { return false };
        *told = None;
        // Nobody had a session before under an identifier that was made for this connection.
        state.promised = self.call.clean_start && id_origin == IdOrigin::Given;
        true
    }

    /// The client is not let in: its session is to be as it was before.
    pub(crate) fn abandon(&self) {
        self.state.lock().abandoned = true;
    }

    /// Asks for the session on this link, unless it was on this or a later one.
    pub(super) fn begin(&self, to: &StoreLink, Way { link, life, up }: Way) {
        let mut state = self.state.lock();
        if state.link.is_none() {
            (state.link, state.life) = (Some(link), Some(life));
            to.send(link, self.attach_call(&state, up));
        }
    }

    /// Tells a new link all that one before it may have lost. A connection of an earlier life of this proxy must end:
    /// the store has ended it, and its session may be another one's.
    pub(super) fn begin_again(&self, to: &StoreLink, Way { link, life, up }: Way) {
        let mut state = self.state.lock();
        if state.link >= Some(link) {
            return;
        }
        state.link = Some(link);
        if state.life.replace(life).is_some_and(|told_in| told_in != life) {
            state.stage = Stage::Gone;
            return self.mailbox.order(EndOrder(ReasonCode::ServerShuttingDown));
        }
        if let Some(flow) = &mut state.flow {
            flow.repeated = flow.group.iter().chain(&flow.group_settled).copied().collect();
        }
        match state.stage {
            Stage::Asking(_) => to.send(link, self.attach_call(&state, up)),
            Stage::Held(held) => {
                state.again = true;
                to.send(link, self.reattach_call(&state, held, up));
                self.tell_again(&mut state, held, to, link);
            }
            Stage::Lost | Stage::Gone => {}
        }
    }

    /// The store has given the session, for the first time or again.
    pub(super) fn attached(&self, held: Held, attached: Attached, to: &StoreLink) -> Begun {
        let mut state = self.state.lock();
        (state.again, state.promised) = (false, false);
        state.widen(usize::from(self.call.receive_maximum) + attached.received.len());
        match std::mem::replace(&mut state.stage, Stage::Held(held)) {
            Stage::Asking(told) => {
                if let Some(link) = state.link {
                    self.tell_again(&mut state, held, to, link);
                }
                // Whoever waited may have given up a moment ago, which `close` deals with.
                drop(told.map(|told| told.send(Ok(attached))));
                Begun::Held
            }
            Stage::Held(before) => {
                if before != held
                    && let Some(link) = state.link
                {
                    self.tell_again(&mut state, held, to, link);
                }
                Begun::Held
            }
            stage @ (Stage::Lost | Stage::Gone) => {
                state.stage = stage;
                Begun::Over
            }
        }
    }

    /// The store does not give the session, or not any more.
    pub(super) fn refused(&self, refusal: SessionRefusal) -> Begun {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.stage, Stage::Gone) {
            Stage::Asking(Some(told)) => {
                drop(told.send(Err(refusal)));
                Begun::Over
            }
            Stage::Asking(None) => Begun::Lost(refusal),
            Stage::Held(_) => {
                state.stage = Stage::Lost;
                Begun::Lost(refusal)
            }
            stage @ (Stage::Lost | Stage::Gone) => {
                state.stage = stage;
                Begun::Over
            }
        }
    }

    /// Whether the connection holds its session by `held`.
    pub(super) fn holds(&self, held: Held) -> bool {
        matches!(self.state.lock().stage, Stage::Held(holds) if holds == held)
    }

    /// The connection has ended: what the store is to be told, in order. Nothing if it has not heard of it, or has
    /// ended it, unless an earlier session is to end.
    pub(super) fn close(&self, farewell: SessionFarewell, expiry_secs: u32) -> Vec<Departure> {
        let mut state = self.state.lock();
        state.asked = VecDeque::new();
        state.flow = None;
        let withdrawn = || Departure::Withdrawn {
            client: self.call.client.clone(),
            connection: self.call.connection,
            farewell,
            expiry_secs: (!state.abandoned).then_some(expiry_secs),
            clean_start: state.promised.then_some(self.since),
        };
        let departures = match state.stage {
            Stage::Held(_) if state.abandoned => vec![withdrawn()],
            // The answer may give another epoch, and never come.
            Stage::Held(held) if state.again => {
                vec![Departure::Detached { held, farewell, expiry_secs }, withdrawn()]
            }
            Stage::Held(held) => vec![Departure::Detached { held, farewell, expiry_secs }],
            Stage::Asking(_) if state.link.is_some() => vec![withdrawn()],
            Stage::Lost => vec![withdrawn()],
            Stage::Asking(_) | Stage::Gone if state.promised => vec![Departure::Promised {
                client: self.call.client.clone(),
                connection: self.call.connection,
                clean_start: self.since,
            }],
            Stage::Asking(_) | Stage::Gone => Vec::new(),
        };
        state.stage = Stage::Gone;
        departures
    }

    /// Requests without an answer.
    pub(super) fn pending(&self) -> usize {
        let state = self.state.lock();
        let asking = matches!(state.stage, Stage::Asking(_));
        state.asked.len() + usize::from(asking)
    }

    /// Asks something, now or when the session is there.
    pub(super) fn ask(&self, to: &StoreLink, ask: Ask) -> AskNumber {
        let mut state = self.state.lock();
        let number = state.next_ask();
        if let (Ask::Release(packet_id), Some(flow)) = (&ask, &mut state.flow) {
            flow.release(*packet_id);
        }
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
        let flow = state.flow();
        flow.confirm(&confirmations);
        let Confirmations { settled, received, group, taken } = confirmations;
        let Some((held, link)) = told else {
            return;
        };
        if !settled.is_empty() || !received.is_empty() {
            to.send(link, SessionCall::Acknowledge { held, settled, received });
        }
        if !group.is_empty() {
            to.send(link, SessionCall::AcknowledgeGroup { held, settled: group });
        }
        if !taken.is_empty() {
            to.send(link, SessionCall::Taken { held, packet_ids: taken });
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
        let flow = state.flow();
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

    fn attach_call(&self, state: &State, up: Instant) -> SessionCall {
        SessionCall::Attach { request: self.request(0), attach: Box::new(self.call(state, up)) }
    }

    /// How it is attached, on a link that is there since `up`.
    fn call(&self, state: &State, up: Instant) -> AttachCall {
        let served = match state.stage {
            Stage::Asking(Some(_)) => false,
            Stage::Asking(None) | Stage::Held(_) | Stage::Lost | Stage::Gone => true,
        };
        AttachCall { began_ms: millis_after(up, self.since), served, ..self.call.clone() }
    }

    fn reattach_call(&self, state: &State, held: Held, up: Instant) -> SessionCall {
        let group_deliveries =
            state.flow.iter().flat_map(|flow| flow.group.iter().chain(&flow.group_settled));
        let first = self.groups_of_reattach(state);
        SessionCall::Reattach {
            request: self.request(0),
            attach: Box::new(self.call(state, up)),
            held,
            received_up_to: state.flow.as_ref().map_or(QueuePlace(0), |flow| flow.arrived),
            // What else had arrived is told as confirmed, and not taken twice.
            group_deliveries: group_deliveries.take(2 * PLACES).copied().collect(),
            groups: state.shared[..first].to_vec(),
        }
    }

    /// How many of the shared subscriptions are said with the `Reattach`.
    fn groups_of_reattach(&self, state: &State) -> usize {
        let mut bytes = self.call.will.as_ref().map_or(0, |will| will.message.payload.len());
        let fits = |(filter, ..): &&SharedFilter| {
            bytes += filter.as_str().len() + 24;
            bytes <= GROUPS_BYTES
        };
        state.shared.iter().take(GROUPS).take_while(fits).count()
    }

    /// Says again what has no answer.
    fn tell_again(&self, state: &mut State, held: Held, to: &StoreLink, link: LinkEpoch) {
        for call in state.flow.iter().flat_map(|flow| flow.confirmed(held)) {
            to.send(link, call);
        }
        // Nobody waits for the answers.
        let number = state.next_ask();
        for ask in self.more_groups(state) {
            to.send(link, self.ask_call(held, number, &ask));
        }
        for (number, ask) in &state.asked {
            to.send(link, self.ask_call(held, *number, ask));
        }
    }

    /// Subscriptions to the groups that had no room in the `Reattach`.
    fn more_groups(&self, state: &State) -> impl Iterator<Item = Ask> {
        /// As many of the longest filters are half of what a `Reattach` says.
        const IN_A_CALL: usize = 64;
        let left = &state.shared[self.groups_of_reattach(state)..];
        let runs = left.chunk_by(|one, next| one.2 == next.2);
        runs.flat_map(|run| run.chunks(IN_A_CALL)).map(|run| Ask::Subscribe {
            filters: run.iter().map(|(filter, options, _)| (filter.clone(), *options)).collect(),
            subscription_id: run[0].2,
        })
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
    fn next_ask(&mut self) -> AskNumber {
        self.last_ask = ((self.last_ask + 1) % (1 << ASK_BITS)).max(1);
        AskNumber(self.last_ask)
    }

    /// So many messages may be unconfirmed at a time: the client's window, and what was received before.
    fn widen(&mut self, window: usize) {
        self.window = self.window.max(window);
        if let Some(flow) = &mut self.flow {
            flow.settled.widen(self.window);
        }
    }

    fn flow(&mut self) -> &mut Flow {
        self.flow.get_or_insert_with(|| Box::new(Flow::new(self.window)))
    }

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
    fn new(window: usize) -> Self {
        Self {
            arrived: QueuePlace(0),
            received: VecDeque::new(),
            settled: Recent::new(window),
            group: VecDeque::new(),
            group_settled: VecDeque::new(),
            repeated: HashSet::default(),
            taken: VecDeque::new(),
        }
    }

    fn confirm(&mut self, confirmations: &Confirmations) {
        self.received.extend(&confirmations.received);
        self.taken.extend(&confirmations.taken);
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

    /// The client gives a packet identifier back; in the order in which it began with them, more or less.
    fn release(&mut self, packet_id: PacketId) {
        if let Some(at) = self.taken.iter().position(|taken| *taken == packet_id) {
            self.taken.remove(at);
        }
    }

    fn knows(&self, place: GroupPlace) -> bool {
        self.repeated.contains(&place)
    }

    /// What the store may not have heard of this.
    fn confirmed(&self, held: Held) -> impl Iterator<Item = SessionCall> {
        let settled: Vec<QueuePlace> = self.settled.places().collect();
        let received: Vec<QueuePlace> = self.received.iter().copied().collect();
        let group: Vec<GroupPlace> = self.group_settled.iter().copied().collect();
        let calls = |places: Vec<QueuePlace>, call: fn(Held, Vec<QueuePlace>) -> SessionCall| {
            let chunks: Vec<_> = places.chunks(PLACES).map(<[QueuePlace]>::to_vec).collect();
            chunks.into_iter().map(move |places| call(held, places))
        };
        let of_group: Vec<_> = group.chunks(PLACES).map(<[GroupPlace]>::to_vec).collect();
        let settled = calls(settled, |held, settled| SessionCall::Acknowledge {
            held,
            settled,
            received: Vec::new(),
        });
        let received = calls(received, |held, received| SessionCall::Acknowledge {
            held,
            settled: Vec::new(),
            received,
        });
        let of_group = of_group
            .into_iter()
            .map(move |settled| SessionCall::AcknowledgeGroup { held, settled });
        let taken = (!self.taken.is_empty()).then(|| {
            let packet_ids = self.taken.iter().copied().collect();
            SessionCall::Taken { held, packet_ids }
        });
        settled.chain(received).chain(of_group).chain(taken)
    }
}

#[cfg(test)]
mod tests;
