//! The frames of the session stream from a proxy to the store.
//!
//! What the store keeps (names, filters, wills) is copied out of the frame's buffer: it outlives that by
//! far. Lists are bounded, so that a small frame cannot become a large value.

mod down;

use bytes::Bytes;

use mqtt_codec::{
    ClientId, PacketId, RetainHandling, SubscriptionId, SubscriptionOptions, TopicFilter,
    TopicName, Will,
};
use prost::Message as _;

pub(crate) use self::down::{delivery, flags as delivery_flags};
use super::relay::{from_message, message};
use super::{Wire, from_key, key, qos, required, text};
use crate::error::FrameError;
use crate::frame::{
    AttachCall, GroupPlace, Held, Member, QueuePlace, SessionCall, SessionEpoch, SessionFarewell,
    SessionNumber, SessionUp,
};
use crate::proto;
use crate::proto::{session_call, session_up};
use crate::wire;

/// Entries of any list in a frame, calls and deliveries included.
pub(crate) const MAX_ENTRIES: usize = 65_536;

/// The largest frame that is not calls: a node id is short.
const MAX_OPEN_BYTES: usize = 1_024;

const NO_LOCAL: u32 = 0b100;
const RETAIN_AS_PUBLISHED: u32 = 0b1000;
const RETAIN_HANDLING_SHIFT: u32 = 4;

impl Wire for SessionUp {
    type Proto = proto::SessionUp;

    fn from_proto(message: proto::SessionUp) -> Result<Self, FrameError> {
        Ok(match required(message.frame, "frame")? {
            session_up::Frame::Open(member) => Self::Open(Member::from_proto(member)?),
            session_up::Frame::Calls(calls) => Self::Calls(list(calls.calls, call)?),
        })
    }

    fn into_proto(self) -> proto::SessionUp {
        let frame = match self {
            Self::Open(member) => session_up::Frame::Open(member.into_proto()),
            Self::Calls(calls) => session_up::Frame::Calls(proto::SessionCalls {
                calls: calls.into_iter().map(from_call).collect(),
            }),
        };
        proto::SessionUp { frame: Some(frame) }
    }

    fn encode(self) -> Bytes {
        match self {
            Self::Open(_) => self.into_proto().encode_to_vec().into(),
            Self::Calls(calls) => wire::calls(calls),
        }
    }

    fn decode(frame: Bytes) -> Result<Self, FrameError> {
        match wire::read_calls(&frame)? {
            Some(calls) => Ok(Self::Calls(calls)),
            // Calls that are laid out otherwise could be any number, and small ones make large values.
            None if frame.len() > MAX_OPEN_BYTES => Err(FrameError::Invalid("length of a frame")),
            None => Self::decode_generated(frame),
        }
    }
}

pub(crate) fn call(call: proto::SessionCall) -> Result<SessionCall, FrameError> {
    use session_call::Call;
    Ok(match required(call.call, "call")? {
        Call::Attach(call) => SessionCall::Attach {
            request: call.request,
            attach: Box::new(attach(required(call.attach, "attach")?)?),
        },
        Call::Reattach(call) => SessionCall::Reattach {
            request: call.request,
            attach: Box::new(attach(required(call.attach, "attach")?)?),
            held: held(call.held)?,
            received_up_to: QueuePlace(call.received_up_to),
            group_deliveries: list(call.group_deliveries, |place| Ok(group_place(place)))?,
            groups: list(call.groups, group)?,
        },
        Call::Detach(call) => SessionCall::Detach {
            held: held(call.held)?,
            farewell: farewell(call.farewell)?,
            expiry_secs: call.expiry_secs,
        },
        Call::Withdraw(call) => SessionCall::Withdraw {
            client: client(call.client)?,
            connection: call.connection,
            farewell: farewell(call.farewell)?,
            expiry_secs: call.expiry_secs,
            clean_start_ms: call.clean_start_ms,
        },
        Call::Subscribe(call) => SessionCall::Subscribe {
            request: call.request,
            held: held(call.held)?,
            subscription_id: subscription_id(call.subscription_id)?,
            filters: list(call.filters, |row| Ok((filter(row.filter)?, options(row.options)?)))?,
        },
        Call::Unsubscribe(call) => SessionCall::Unsubscribe {
            request: call.request,
            held: held(call.held)?,
            filters: list(call.filters, filter)?,
        },
        Call::Acknowledge(call) => SessionCall::Acknowledge {
            held: held_flat(call.session, call.epoch),
            settled: places(call.settled)?,
            received: places(call.received)?,
        },
        Call::AcknowledgeGroup(call) => SessionCall::AcknowledgeGroup {
            held: held_flat(call.session, call.epoch),
            settled: list(call.settled, |place| Ok(group_place(place)))?,
        },
        Call::Begin(call) => SessionCall::Begin {
            request: call.request,
            held: held(call.held)?,
            packet_id: packet_id(call.packet_id)?,
            key: key(&call.key)?,
        },
        Call::Taken(call) => SessionCall::Taken {
            held: held_flat(call.session, call.epoch),
            packet_ids: list(call.packet_ids, packet_id)?,
        },
        Call::Release(call) => SessionCall::Release {
            request: call.request,
            held: held(call.held)?,
            packet_id: packet_id(call.packet_id)?,
        },
        Call::ReadRetained(call) => SessionCall::ReadRetained {
            request: call.request,
            filter: filter(call.filter)?,
            after: topic(call.after)?,
            limit: call.limit,
        },
    })
}

pub(crate) fn from_call(call: SessionCall) -> proto::SessionCall {
    use session_call::Call;
    let call = match call {
        SessionCall::Attach { request, attach } => {
            Call::Attach(proto::SessionAttach { request, attach: Some(from_attach(*attach)) })
        }
        SessionCall::Reattach {
            request,
            attach,
            held,
            received_up_to,
            group_deliveries,
            groups,
        } => Call::Reattach(proto::SessionReattach {
            request,
            attach: Some(from_attach(*attach)),
            held: Some(from_held(held)),
            received_up_to: received_up_to.0,
            group_deliveries: group_deliveries.into_iter().map(from_group_place).collect(),
            groups: groups.into_iter().map(from_group).collect(),
        }),
        SessionCall::Detach { held, farewell, expiry_secs } => Call::Detach(proto::SessionDetach {
            held: Some(from_held(held)),
            farewell: from_farewell(farewell).into(),
            expiry_secs,
        }),
        SessionCall::Withdraw { client, connection, farewell, expiry_secs, clean_start_ms } => {
            Call::Withdraw(proto::SessionWithdraw {
                client: client.as_byte_string().as_bytes().clone(),
                connection,
                farewell: from_farewell(farewell).into(),
                expiry_secs,
                clean_start_ms,
            })
        }
        SessionCall::Subscribe { request, held, filters, subscription_id } => {
            Call::Subscribe(from_subscribe(request, held, (filters, subscription_id)))
        }
        SessionCall::Unsubscribe { request, held, filters } => {
            Call::Unsubscribe(proto::SessionUnsubscribe {
                request,
                held: Some(from_held(held)),
                filters: filters.iter().map(from_filter).collect(),
            })
        }
        SessionCall::Acknowledge { held, settled, received } => {
            Call::Acknowledge(from_acknowledge(held, &settled, &received))
        }
        SessionCall::AcknowledgeGroup { held, settled } => {
            Call::AcknowledgeGroup(from_acknowledge_group(held, settled))
        }
        SessionCall::Begin { request, held, packet_id, key } => Call::Begin(proto::SessionBegin {
            request,
            held: Some(from_held(held)),
            packet_id: packet_id.value().into(),
            key: from_key(key),
        }),
        SessionCall::Taken { held, packet_ids } => Call::Taken(from_taken(held, &packet_ids)),
        SessionCall::Release { request, held, packet_id } => Call::Release(proto::SessionRelease {
            request,
            held: Some(from_held(held)),
            packet_id: packet_id.value().into(),
        }),
        SessionCall::ReadRetained { request, filter, after, limit } => {
            let (filter, after) = (from_filter(&filter), from_topic(after));
            Call::ReadRetained(proto::SessionReadRetained { request, filter, after, limit })
        }
    };
    proto::SessionCall { call: Some(call) }
}

fn from_acknowledge(
    held: Held,
    settled: &[QueuePlace],
    received: &[QueuePlace],
) -> proto::SessionAcknowledge {
    let numbers = |places: &[QueuePlace]| places.iter().map(|place| place.0).collect();
    proto::SessionAcknowledge {
        session: held.session.0,
        epoch: held.epoch.0,
        settled: numbers(settled),
        received: numbers(received),
    }
}

fn from_acknowledge_group(held: Held, settled: Vec<GroupPlace>) -> proto::SessionAcknowledgeGroup {
    proto::SessionAcknowledgeGroup {
        session: held.session.0,
        epoch: held.epoch.0,
        settled: settled.into_iter().map(from_group_place).collect(),
    }
}

fn from_subscribe(
    request: u64,
    held: Held,
    (filters, subscription_id): (Vec<(TopicFilter, SubscriptionOptions)>, Option<SubscriptionId>),
) -> proto::SessionSubscribe {
    let row = |(filter, options)| from_group((filter, options, None));
    proto::SessionSubscribe {
        request,
        held: Some(from_held(held)),
        filters: filters.into_iter().map(row).collect(),
        subscription_id: subscription_id.map_or(0, SubscriptionId::value),
    }
}

fn from_taken(held: Held, packet_ids: &[PacketId]) -> proto::SessionTaken {
    proto::SessionTaken {
        session: held.session.0,
        epoch: held.epoch.0,
        packet_ids: packet_ids.iter().map(|packet_id| packet_id.value().into()).collect(),
    }
}

fn attach(call: proto::AttachCall) -> Result<AttachCall, FrameError> {
    let receive_maximum = u16::try_from(call.receive_maximum).ok().filter(|&maximum| maximum != 0);
    Ok(AttachCall {
        client: client(call.client)?,
        connection: call.connection,
        clean_start: call.clean_start,
        expiry_secs: call.expiry_secs,
        receive_maximum: receive_maximum.ok_or(FrameError::Invalid("receive maximum"))?,
        will: call.will.map(will).transpose()?.map(Box::new),
        began_ms: call.began_ms,
        served: call.served,
    })
}

fn client(bytes: Bytes) -> Result<ClientId, FrameError> {
    let client = ClientId::new(text(bytes, "client identifier")?);
    Ok(client.ok_or(FrameError::Invalid("client identifier"))?.detached())
}

fn from_attach(call: AttachCall) -> proto::AttachCall {
    proto::AttachCall {
        client: call.client.as_byte_string().as_bytes().clone(),
        connection: call.connection,
        clean_start: call.clean_start,
        expiry_secs: call.expiry_secs,
        receive_maximum: call.receive_maximum.into(),
        will: call.will.map(|will| proto::Will {
            message: Some(from_message(&will.message)),
            delay_secs: will.delay_secs,
        }),
        began_ms: call.began_ms,
        served: call.served,
    }
}

fn will(will: proto::Will) -> Result<Will, FrameError> {
    let message = message(required(will.message, "message of a will")?)?;
    Ok(Will { message: message.detached(), delay_secs: will.delay_secs })
}

fn farewell(farewell: i32) -> Result<SessionFarewell, FrameError> {
    use proto::session_detach::Farewell;
    match Farewell::try_from(farewell) {
        Ok(Farewell::Clean) => Ok(SessionFarewell::Clean),
        Ok(Farewell::Abnormal) => Ok(SessionFarewell::Abnormal),
        Ok(Farewell::ProxyStops) => Ok(SessionFarewell::ProxyStops),
        Ok(Farewell::Unspecified) | Err(_) => Err(FrameError::Invalid("farewell")),
    }
}

fn from_farewell(farewell: SessionFarewell) -> proto::session_detach::Farewell {
    use proto::session_detach::Farewell;
    match farewell {
        SessionFarewell::Clean => Farewell::Clean,
        SessionFarewell::Abnormal => Farewell::Abnormal,
        SessionFarewell::ProxyStops => Farewell::ProxyStops,
    }
}

type Group = (TopicFilter, SubscriptionOptions, Option<SubscriptionId>);

fn group(row: proto::Subscription) -> Result<Group, FrameError> {
    Ok((filter(row.filter)?, options(row.options)?, subscription_id(row.subscription_id)?))
}

fn from_group((filter, options, id): Group) -> proto::Subscription {
    proto::Subscription {
        filter: from_filter(&filter),
        options: from_options(options),
        subscription_id: id.map_or(0, SubscriptionId::value),
    }
}

fn options(bits: u32) -> Result<SubscriptionOptions, FrameError> {
    let retain_handling = match bits >> RETAIN_HANDLING_SHIFT {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(FrameError::Invalid("subscription options")),
    };
    Ok(SubscriptionOptions {
        qos: qos(bits & 0b11)?,
        no_local: bits & NO_LOCAL != 0,
        retain_as_published: bits & RETAIN_AS_PUBLISHED != 0,
        retain_handling,
    })
}

fn from_options(options: SubscriptionOptions) -> u32 {
    let flag = |is_set, bit| if is_set { bit } else { 0 };
    options.qos as u32
        | flag(options.no_local, NO_LOCAL)
        | flag(options.retain_as_published, RETAIN_AS_PUBLISHED)
        | (options.retain_handling as u32) << RETAIN_HANDLING_SHIFT
}

fn filter(bytes: Bytes) -> Result<TopicFilter, FrameError> {
    let filter = TopicFilter::new(text(bytes, "filter")?);
    Ok(filter.map_err(|_| FrameError::Invalid("filter"))?.detached())
}

fn from_filter(filter: &TopicFilter) -> Bytes {
    filter.as_byte_string().as_bytes().clone()
}

/// `None` if empty.
fn topic(bytes: Bytes) -> Result<Option<TopicName>, FrameError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let topic = TopicName::new(text(bytes, "topic")?).map_err(|_| FrameError::Invalid("topic"))?;
    Ok(Some(topic.detached()))
}

fn from_topic(topic: Option<TopicName>) -> Bytes {
    topic.map(|topic| topic.as_byte_string().as_bytes().clone()).unwrap_or_default()
}

fn subscription_id(id: u32) -> Result<Option<SubscriptionId>, FrameError> {
    match id {
        0 => Ok(None),
        id => SubscriptionId::new(id).map(Some).ok_or(FrameError::Invalid("subscription id")),
    }
}

fn packet_id(id: u32) -> Result<PacketId, FrameError> {
    let id = u16::try_from(id).ok().and_then(PacketId::new);
    id.ok_or(FrameError::Invalid("packet id"))
}

fn held(held: Option<proto::Held>) -> Result<Held, FrameError> {
    let held = required(held, "session")?;
    Ok(held_flat(held.session, held.epoch))
}

fn held_flat(session: u64, epoch: u64) -> Held {
    Held { session: SessionNumber(session), epoch: SessionEpoch(epoch) }
}

fn from_held(held: Held) -> proto::Held {
    proto::Held { session: held.session.0, epoch: held.epoch.0 }
}

fn group_place(place: proto::GroupPlace) -> GroupPlace {
    GroupPlace { group: place.group, place: place.place }
}

fn from_group_place(place: GroupPlace) -> proto::GroupPlace {
    proto::GroupPlace { group: place.group, place: place.place }
}

fn places(places: Vec<u64>) -> Result<Vec<QueuePlace>, FrameError> {
    list(places, |place| Ok(QueuePlace(place)))
}

fn list<P, T>(
    list: Vec<P>,
    convert: impl FnMut(P) -> Result<T, FrameError>,
) -> Result<Vec<T>, FrameError> {
    if list.len() > MAX_ENTRIES {
        return Err(FrameError::Invalid("length of a list"));
    }
    list.into_iter().map(convert).collect()
}
