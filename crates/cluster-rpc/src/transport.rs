//! What both ends of a connection agree on without saying it: windows, keep-alive, limits.

use std::time::Duration;

/// HTTP/2 flow control: what one stream may have on the way.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// HTTP/2 flow control: what all streams of a connection may have on the way.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The largest HTTP/2 frame: a whole batch goes as one, where the default would cut it into four.
pub(crate) const FRAME_BYTES: u32 = 128 << 10;

/// How long a connection may take to come about, the first time and whenever a channel tries again.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A peer that hangs is noticed after this and [`KEEP_ALIVE_TIMEOUT`].
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How long the answer to a keep-alive may take.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// The largest MQTT packet unless configured otherwise.
pub(crate) const DEFAULT_MAX_PACKET_BYTES: usize = 1 << 20;

/// Room for what a frame carries beside one largest packet: a batch that was not full yet, or what a session's
/// answer or delivery says beside its message. The store ends a page of retained messages in time.
const FRAME_MARGIN_BYTES: usize = 1 << 20;

/// A View of many members or a chunk of long filters must fit whatever the largest packet is.
const SMALLEST_DECODE_LIMIT_BYTES: usize = 16 << 20;

/// The largest call that is sent: with others before it, it is still a frame that is decoded.
pub(crate) fn max_call_bytes(max_packet_bytes: usize) -> u64 {
    decode_limit(max_packet_bytes).saturating_sub(FRAME_MARGIN_BYTES / 2) as u64
}

/// The largest frame that is decoded.
pub(crate) fn decode_limit(max_packet_bytes: usize) -> usize {
    max_packet_bytes.saturating_add(FRAME_MARGIN_BYTES).max(SMALLEST_DECODE_LIMIT_BYTES)
}
