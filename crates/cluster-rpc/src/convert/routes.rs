//! The frames of the route stream.

use mqtt_codec::{QoS, TopicFilter};

use super::{Wire, members, required, text};
use crate::error::FrameError;
use crate::frame::{
    Beat, Delta, EndpointRole, Hello, Member, RejectReason, RelayState, Route, RouteDown, RouteUp,
    SnapshotChunk, StoreHere, View,
};
use crate::proto;
use crate::proto::{route_down, route_up};

impl Wire for RouteUp {
    type Proto = proto::RouteUp;

    fn from_proto(message: proto::RouteUp) -> Result<Self, FrameError> {
        Ok(match required(message.frame, "frame")? {
            route_up::Frame::Hello(hello) => Self::Hello(Hello {
                member: Member::from_proto(required(hello.member, "member")?)?,
                protocol: hello.protocol,
                head_seq: hello.head_seq,
                oldest_delta: hello.oldest_delta,
                known: members(hello.known)?,
                role: role(hello.role)?,
                stray: hello.stray,
            }),
            route_up::Frame::Snapshot(chunk) => Self::Snapshot(SnapshotChunk {
                at_seq: chunk.at_seq,
                last: chunk.last,
                routes: rows(chunk.routes, Withdrawals::Refused)?,
            }),
            route_up::Frame::Delta(delta) => Self::Delta(Delta {
                first_seq: delta.first_seq,
                routes: rows(delta.routes, Withdrawals::Allowed)?,
            }),
            route_up::Frame::Beat(beat) => Self::Beat(Beat {
                nonce: beat.nonce,
                seq: beat.seq,
                count: beat.count,
                digest: <[u8; 16]>::try_from(&beat.digest[..])
                    .map(u128::from_le_bytes)
                    .map_err(|_| FrameError::Invalid("digest"))?,
            }),
            route_up::Frame::Leave(proto::Leave {}) => Self::Leave,
        })
    }

    fn into_proto(self) -> proto::RouteUp {
        let frame = match self {
            Self::Hello(hello) => route_up::Frame::Hello(proto::Hello {
                member: Some(hello.member.into_proto()),
                protocol: hello.protocol,
                head_seq: hello.head_seq,
                oldest_delta: hello.oldest_delta,
                known: hello.known.into_iter().map(Wire::into_proto).collect(),
                role: match hello.role {
                    EndpointRole::Proxy => proto::Role::Proxy,
                    EndpointRole::Store => proto::Role::Store,
                }
                .into(),
                stray: hello.stray,
            }),
            Self::Snapshot(chunk) => route_up::Frame::Snapshot(proto::SnapshotChunk {
                at_seq: chunk.at_seq,
                last: chunk.last,
                routes: chunk.routes.into_iter().map(Wire::into_proto).collect(),
            }),
            Self::Delta(delta) => route_up::Frame::Delta(proto::Delta {
                first_seq: delta.first_seq,
                routes: delta.routes.into_iter().map(Wire::into_proto).collect(),
            }),
            Self::Beat(beat) => route_up::Frame::Beat(proto::Beat {
                nonce: beat.nonce,
                seq: beat.seq,
                count: beat.count,
                digest: beat.digest.to_le_bytes().to_vec().into(),
            }),
            Self::Leave => route_up::Frame::Leave(proto::Leave {}),
        };
        proto::RouteUp { frame: Some(frame) }
    }
}

impl Wire for RouteDown {
    type Proto = proto::RouteDown;

    fn from_proto(message: proto::RouteDown) -> Result<Self, FrameError> {
        Ok(match required(message.frame, "frame")? {
            route_down::Frame::Welcome(welcome) => Self::Welcome {
                member: Member::from_proto(required(welcome.member, "member")?)?,
                deltas_from: (welcome.deltas_from != 0).then_some(welcome.deltas_from),
                store: if welcome.holds_store { StoreHere::Yes } else { StoreHere::No },
            },
            route_down::Frame::Applied(applied) => Self::Applied(applied.seq),
            route_down::Frame::Resync(proto::Resync {}) => Self::Resync,
            route_down::Frame::View(view) => {
                Self::View(View { state: state(view.state)?, members: members(view.members)? })
            }
            route_down::Frame::BeatAck(ack) => Self::BeatAck(ack.nonce),
            route_down::Frame::Reject(reject) => Self::Reject(reason(reject.why)?),
        })
    }

    fn into_proto(self) -> proto::RouteDown {
        let frame = match self {
            Self::Welcome { member, deltas_from, store } => {
                route_down::Frame::Welcome(proto::Welcome {
                    member: Some(member.into_proto()),
                    deltas_from: deltas_from.unwrap_or(0),
                    holds_store: store == StoreHere::Yes,
                })
            }
            Self::Applied(seq) => route_down::Frame::Applied(proto::Applied { seq }),
            Self::Resync => route_down::Frame::Resync(proto::Resync {}),
            Self::View(view) => route_down::Frame::View(proto::View {
                state: match view.state {
                    RelayState::Joining => proto::view::State::Joining,
                    RelayState::Serving => proto::view::State::Serving,
                    RelayState::Draining => proto::view::State::Draining,
                }
                .into(),
                members: view.members.into_iter().map(Wire::into_proto).collect(),
            }),
            Self::BeatAck(nonce) => route_down::Frame::BeatAck(proto::BeatAck { nonce }),
            Self::Reject(reason) => route_down::Frame::Reject(proto::Reject {
                why: match reason {
                    RejectReason::OldIncarnation => proto::reject::Why::OldIncarnation,
                    RejectReason::DeclaredDead => proto::reject::Why::DeclaredDead,
                    RejectReason::Protocol => proto::reject::Why::Protocol,
                    RejectReason::SecondStore => proto::reject::Why::SecondStore,
                }
                .into(),
            }),
        };
        proto::RouteDown { frame: Some(frame) }
    }
}

impl Wire for Route {
    type Proto = proto::Route;

    fn from_proto(route: proto::Route) -> Result<Self, FrameError> {
        let filter = TopicFilter::new(text(route.filter, "filter")?)
            .map_err(|_| FrameError::Invalid("filter"))?;
        let qos = match route.qos_plus_one {
            0 => None,
            1 => Some(QoS::AtMostOnce),
            2 => Some(QoS::AtLeastOnce),
            3 => Some(QoS::ExactlyOnce),
            _ => return Err(FrameError::Invalid("qos")),
        };
        // The row outlives the buffer it came in by far: it must not keep it.
        Ok(Self { filter: filter.detached(), qos })
    }

    fn into_proto(self) -> proto::Route {
        proto::Route {
            filter: self.filter.as_byte_string().as_bytes().clone(),
            qos_plus_one: self.qos.map_or(0, |qos| u32::from(qos as u8) + 1),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Withdrawals {
    Allowed,
    Refused,
}

fn rows(rows: Vec<proto::Route>, withdrawals: Withdrawals) -> Result<Vec<Route>, FrameError> {
    let checked = |row| {
        let route = Route::from_proto(row)?;
        if route.qos.is_none() && withdrawals == Withdrawals::Refused {
            return Err(FrameError::Invalid("withdrawal in a snapshot"));
        }
        Ok(route)
    };
    rows.into_iter().map(checked).collect()
}

fn state(state: i32) -> Result<RelayState, FrameError> {
    match proto::view::State::try_from(state) {
        Ok(proto::view::State::Joining) => Ok(RelayState::Joining),
        Ok(proto::view::State::Serving) => Ok(RelayState::Serving),
        Ok(proto::view::State::Draining) => Ok(RelayState::Draining),
        Err(_) => Err(FrameError::Invalid("view state")),
    }
}

fn reason(why: i32) -> Result<RejectReason, FrameError> {
    match proto::reject::Why::try_from(why) {
        Ok(proto::reject::Why::OldIncarnation) => Ok(RejectReason::OldIncarnation),
        Ok(proto::reject::Why::DeclaredDead) => Ok(RejectReason::DeclaredDead),
        Ok(proto::reject::Why::Protocol) => Ok(RejectReason::Protocol),
        Ok(proto::reject::Why::SecondStore) => Ok(RejectReason::SecondStore),
        Ok(proto::reject::Why::Unspecified) | Err(_) => Err(FrameError::Invalid("reject reason")),
    }
}

fn role(role: i32) -> Result<EndpointRole, FrameError> {
    match proto::Role::try_from(role) {
        Ok(proto::Role::Proxy) => Ok(EndpointRole::Proxy),
        Ok(proto::Role::Store) => Ok(EndpointRole::Store),
        Err(_) => Err(FrameError::Invalid("role")),
    }
}
