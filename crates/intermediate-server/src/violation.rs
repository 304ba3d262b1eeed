//! What a peer did that ends its stream.
//!
//! Owns the list of facts; whoever finds one returns it, and the task of the stream logs it once.

/// A frame that must not have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The first frame was not the one that says who is there.
    #[error("the first frame does not say who opens the stream")]
    NotOpened,
    /// A second opening frame.
    #[error("the stream is open already")]
    OpenedTwice,
    /// The frame belongs on another kind of stream.
    #[error("the frame belongs on another kind of stream")]
    WrongStream,
    /// Chunks of two snapshots in one.
    #[error("a chunk of another snapshot came before the last one of this")]
    SnapshotMixed,
    /// A snapshot has rows, not withdrawals.
    #[error("a snapshot withdraws a route")]
    SnapshotWithdraws,
    /// Changes came before the last chunk.
    #[error("changes came between the chunks of a snapshot")]
    DeltaInSnapshot,
    /// Changes came where a snapshot was asked for.
    #[error("changes came where a snapshot was asked for")]
    DeltaBeforeSnapshot,
    /// Numbers of changes ended.
    #[error("the number of a change is beyond 64 bits")]
    SeqOverflow,
    /// `$share/{name}/` was left on.
    #[error("a route has a share name")]
    SharedFilter,
    /// The table is larger than allowed.
    #[error("the proxy has more than {0} routes: see maximum_routes")]
    TooManyRoutes(usize),
    /// More was sent than granted.
    #[error("messages came without credit")]
    CreditExceeded,
    /// Barriers without end.
    #[error("more than {0} barriers wait at once")]
    TooManyBarriers(usize),
    /// An acknowledgement of what was never sent.
    #[error("delivery {acked} is acknowledged, but only {sent} were sent")]
    AckedUnsent {
        /// What was acknowledged.
        acked: u64,
        /// What was sent.
        sent: u64,
    },
    /// A refusal of what is not on the link.
    #[error("delivery {0} is refused, but it is not on the link")]
    RefusedUnsent(u64),
    /// The name of the store, used by something else.
    #[error("the store's name is used by something that is no store")]
    NoStore,
}
