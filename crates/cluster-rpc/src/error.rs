//! What can go wrong on a stream, as facts.

use crate::network::Broken;

/// Why a received frame is not one of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame or a part of it that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds what it must not.
    #[error("{0} is not valid")]
    Invalid(&'static str),
}

/// Why a stream of frames ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer sent what this protocol does not know.
    #[error("invalid frame: {0}")]
    Frame(#[from] FrameError),
    /// The connection broke, or the peer ended the stream with an error.
    #[error("stream broken: {0}")]
    Broken(#[from] Broken),
}

/// The stream has ended: nothing more can be sent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Ended;

/// Why a frame was not queued at once. The frame comes back.
#[derive(Debug, thiserror::Error)]
pub enum TrySendError<Frame> {
    /// As many frames as fit are waiting already.
    #[error("the stream's queue is full")]
    Full(Frame),
    /// The stream has ended.
    #[error("the stream has ended")]
    Ended(Frame),
}
