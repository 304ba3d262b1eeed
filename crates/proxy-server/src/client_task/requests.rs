//! SUBSCRIBE and UNSUBSCRIBE packets that wait for their answers, in the order they came.
//!
//! The filters of one packet can be in two places: those of a kept session and shared ones in the store, the others in
//! this proxy. The answer to the client goes out when both have answered and the intermediates know the routes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Context;

use mqtt_codec::{ReasonCode, TopicFilter};
use mqtt_session::Ticket;

use super::retained::Owed;
use crate::store::AskNumber;

/// Something to wait for.
pub(crate) type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One packet.
pub(crate) struct Request {
    /// For the answer.
    pub ticket: Ticket,
    /// Which packet it is.
    pub kind: RequestKind,
    /// One for each filter; those of the store are filled in when it answers.
    pub reasons: Vec<ReasonCode>,
    /// What the store was asked, and for which filters.
    pub asked: Option<(AskNumber, Vec<usize>)>,
    /// The intermediates that need not know it yet.
    pub applied: Option<Wait>,
}

/// The packets that are answered here.
pub(crate) enum RequestKind {
    /// With the retained messages that are owed after the answer.
    Subscribe(Option<Owed>),
    Unsubscribe,
}

/// Packets without an answer.
#[derive(Default)]
pub(crate) struct Requests {
    queue: VecDeque<Request>,
}

impl Requests {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds the newest.
    pub(crate) fn push(&mut self, request: Request) {
        self.queue.push_back(request);
    }

    /// The store has answered; `false` if nobody here has asked.
    pub(crate) fn answer(&mut self, number: AskNumber, reasons: &[ReasonCode]) -> bool {
        let is_it = |request: &&mut Request| {
            request.asked.as_ref().is_some_and(|(asked, _)| *asked == number)
        };
        let Some(request) = self.queue.iter_mut().find(is_it) else {
            return false;
        };
        let places = request.asked.take().into_iter().flat_map(|(_, places)| places);
        for (at, &reason) in places.zip(reasons) {
            request.reasons[at] = reason;
        }
        true
    }

    /// The store has refused all filters.
    pub(crate) fn refuse(&mut self, number: AskNumber, reason: ReasonCode) -> bool {
        let most = self.queue.iter().map(|request| request.reasons.len()).max().unwrap_or(0);
        self.answer(number, &vec![reason; most])
    }

    /// The oldest, if its answer can be given.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Option<Request> {
        let first = self.queue.front_mut()?;
        if let Some(applied) = &mut first.applied {
            if applied.as_mut().poll(context).is_pending() {
                return None;
            }
            first.applied = None;
        }
        if first.asked.is_some() {
            return None;
        }
        self.queue.pop_front()
    }

    /// No retained message is owed for a subscription that has ended.
    pub(crate) fn forget_retained(&mut self, filter: &TopicFilter) {
        for request in &mut self.queue {
            if let RequestKind::Subscribe(Some(owed)) = &mut request.kind {
                owed.requests.retain(|request| request.filter != *filter);
            }
        }
    }
}
