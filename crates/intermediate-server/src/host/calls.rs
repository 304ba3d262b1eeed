//! What proxies say to the store, as commands of the partitions, and what comes out of those, as
//! what the store says to proxies.
//!
//! Owns the translation, both ways. Decides nothing.

use std::sync::Arc;

use cluster_rpc::Incoming;
use cluster_rpc::frame::{
    AttachCall, GroupPlace, Held, QueuePlace, SessionAnswer, SessionDelivery, SessionEpoch,
    SessionFarewell, SessionNumber, SessionRefusal, SessionRevocation,
};
use mqtt_codec::{Message, ReasonCode};
use partition::{
    AcknowledgeGroup, Attach, Attached, ClientHash, Delivery, Epoch, Farewell, GroupDelivery,
    GroupId, Holder, OnceKey, Origin, ProxyId, Publish, PublishToken, QueueSeq, Reattach, Refusal,
    RequestId, Revocation, SessionId, UnixMillis,
};

use super::clock::secs_left;

/// The session of a call.
pub(super) fn session(held: Held) -> SessionId {
    SessionId(held.session.0)
}

/// The epoch of a call.
pub(super) fn epoch(held: Held) -> Epoch {
    Epoch(held.epoch.0)
}

/// A session with its epoch, as proxies name it.
pub(super) fn held(session: SessionId, epoch: Epoch) -> Held {
    Held { session: SessionNumber(session.0), epoch: SessionEpoch(epoch.0) }
}

/// `began` is there if a connection that began since is not to be ended.
pub(super) fn attach(
    request: RequestId,
    proxy: ProxyId,
    call: AttachCall,
    began: Option<UnixMillis>,
) -> Attach {
    Attach {
        request,
        client: call.client,
        holder: Holder { proxy, connection: call.connection },
        clean_start: call.clean_start,
        began,
        promised: None,
        expiry_secs: call.expiry_secs,
        receive_maximum: call.receive_maximum.max(1),
        will: call.will.map(|will| *will),
    }
}

/// What a `Reattach` says beside how it was attached.
pub(super) fn reattach(
    attach: Attach,
    was: Held,
    received_up_to: QueuePlace,
    group_deliveries: Vec<GroupPlace>,
) -> Reattach {
    let group = |place: GroupPlace| (GroupId(place.group), QueueSeq(place.place));
    Reattach {
        attach,
        session: session(was),
        epoch: epoch(was),
        received_up_to: QueueSeq(received_up_to.0),
        group_deliveries: group_deliveries.into_iter().map(group).collect(),
        groups: Vec::new(),
    }
}

pub(super) fn farewell(farewell: SessionFarewell) -> Farewell {
    match farewell {
        SessionFarewell::Clean => Farewell::Clean,
        SessionFarewell::Abnormal => Farewell::Abnormal,
        SessionFarewell::ProxyStops => Farewell::ProxyStops,
    }
}

pub(super) fn places(places: Vec<QueuePlace>) -> Vec<QueueSeq> {
    places.into_iter().map(|place| QueueSeq(place.0)).collect()
}

/// Confirmations of groups, one command for each run of the same group.
pub(super) fn acknowledge_groups(
    held: Held,
    settled: &[GroupPlace],
) -> impl Iterator<Item = AcknowledgeGroup> {
    settled.chunk_by(|one, next| one.group == next.group).filter_map(move |run| {
        Some(AcknowledgeGroup {
            group: GroupId(run.first()?.group),
            session: session(held),
            epoch: epoch(held),
            settled: run.iter().map(|place| QueueSeq(place.place)).collect(),
        })
    })
}

/// A message from the relays.
pub(super) fn publish(incoming: &Incoming, token: PublishToken, now: UnixMillis) -> Publish {
    Publish {
        token,
        origin: Origin {
            proxy: ProxyId(incoming.origin.0),
            lane: incoming.lane.0,
            seq: incoming.seq,
        },
        publisher: ClientHash(incoming.provenance.publisher),
        once: incoming.provenance.once.map(OnceKey),
        message: Arc::clone(&incoming.message),
        expires_at: incoming.message.expiry_secs.map(|secs| now.after_secs(secs)),
    }
}

pub(super) fn attached(request: u64, attached: Attached) -> SessionAnswer {
    let place = |seq: QueueSeq| QueuePlace(seq.0);
    SessionAnswer::Attached {
        request,
        held: held(attached.session, attached.epoch),
        session_present: attached.session_present,
        received: attached.received.into_iter().map(place).collect(),
        incoming: attached
            .incoming
            .into_iter()
            .map(|(id, key)| (id, key.map(|key| key.0)))
            .collect(),
    }
}

pub(super) fn refusal(refusal: Refusal) -> SessionRefusal {
    match refusal {
        Refusal::Fenced => SessionRefusal::Fenced,
        Refusal::Contested => SessionRefusal::Contested,
        Refusal::TooManySessions => SessionRefusal::TooManySessions,
        Refusal::Full => SessionRefusal::Full,
    }
}

pub(super) fn revocation(why: Revocation) -> SessionRevocation {
    match why {
        Revocation::TakenOver => SessionRevocation::TakenOver,
    }
}

pub(super) fn delivery(delivery: Delivery, now: UnixMillis) -> SessionDelivery {
    let group = |group: GroupDelivery| GroupPlace { group: group.group.0, place: group.seq.0 };
    SessionDelivery {
        connection: delivery.holder.connection,
        session: SessionNumber(delivery.session.0),
        place: QueuePlace(delivery.seq.0),
        group: delivery.group.map(group),
        dup: delivery.dup,
        qos: delivery.qos,
        retain: delivery.retain,
        subscription_ids: delivery.subscription_ids,
        message: with_expiry(delivery.message, delivery.expires_at, now),
    }
}

/// `message` with what is left of its expiry interval; the same one if that is what it says.
pub(super) fn with_expiry(
    message: Arc<Message>,
    expires_at: Option<UnixMillis>,
    now: UnixMillis,
) -> Arc<Message> {
    let left = expires_at.map(|at| secs_left(now, at));
    if message.expiry_secs == left {
        return message;
    }
    Arc::new(Message { expiry_secs: left, ..Message::clone(&message) })
}

/// A reason that says that a message was not taken: what is no refusal must not be told as one.
pub(super) fn not_taken(reason: ReasonCode) -> ReasonCode {
    if reason.is_error() { reason } else { ReasonCode::UnspecifiedError }
}
