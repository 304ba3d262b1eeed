//! What every payload carries, so that loss, repetition, order and latency can be seen at the
//! receiver. 16 bytes, so that the smallest common benchmark payload holds it.
//!
//! ```text
//!  0               8           11              16
//!  | time sent, ns | publisher | sequence      |  zeros up to the payload size
//! ```

/// Length of a stamp, and so the smallest payload, in bytes.
pub(super) const STAMP_LEN: usize = 16;
/// Publishers that can be told apart.
pub(super) const MOST_PUBLISHERS: u32 = 1 << 24;
/// Messages of one publisher that can be told apart; years at full speed.
const MOST_MESSAGES: u64 = 1 << 40;

/// Who sent a message, as which of its messages, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Nanoseconds since the clock of this run started.
    pub(super) sent_ns: u64,
    /// Number of the publisher, below [`MOST_PUBLISHERS`].
    pub(super) publisher: u32,
    /// Number of the message at its publisher, from 0.
    pub(super) sequence: u64,
}

impl Stamp {
    /// The bytes at the start of the payload.
    pub(super) fn encode(self) -> [u8; STAMP_LEN] {
        let publisher = u64::from(self.publisher % MOST_PUBLISHERS) << 40;
        let who = publisher | (self.sequence % MOST_MESSAGES);
        let whole = (u128::from(self.sent_ns) << 64) | u128::from(who);
        whole.to_be_bytes()
    }

    /// The stamp at the start of `payload`; `None` when it is too short for one.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let whole = u128::from_be_bytes(*payload.first_chunk::<STAMP_LEN>()?);
        let who = whole as u64;
        Some(Self {
            sent_ns: (whole >> 64) as u64,
            publisher: (who >> 40) as u32,
            sequence: who % MOST_MESSAGES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamps = [
            Stamp { sent_ns: 0, publisher: 0, sequence: 0 },
            Stamp {
                sent_ns: u64::MAX,
                publisher: MOST_PUBLISHERS - 1,
                sequence: MOST_MESSAGES - 1,
            },
            Stamp { sent_ns: 1_234_567_890_123, publisher: 0x0A_0B_0C, sequence: 0x01_02_03_04_05 },
        ];
        for stamp in stamps {
            let mut payload = stamp.encode().to_vec();
            assert_eq!(Stamp::decode(&payload), Some(stamp));
            payload.extend([9; 100]);
            assert_eq!(Stamp::decode(&payload), Some(stamp));
        }
    }

    #[test]
    fn the_fields_lie_where_the_drawing_says() {
        let stamp = Stamp { sent_ns: 1, publisher: 2, sequence: 3 };
        assert_eq!(stamp.encode(), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn a_payload_without_room_has_no_stamp() {
        assert_eq!(Stamp::decode(&[0; STAMP_LEN - 1]), None);
    }
}
