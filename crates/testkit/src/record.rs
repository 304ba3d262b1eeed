//! What clients did and saw in a run, event by event, so that it can be judged afterwards.
//!
//! Owns the form of a history: one JSON object a line, in the order in which it was written down. An operation has an
//! invocation and at most one outcome; without one its effect is unknown. Judges nothing: that is the checker's.
//!
//! What the checker relies on: an invocation is written down before the first byte of it is sent, an outcome after its last byte
//! was read. What came on one connection is written down in the order in which it came, with nothing left out, also what
//! came after the client stopped caring. Whoever stops reading a connection says that it `Ended`.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A network connection of a client, unique in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// A message, known by its payload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId {
    /// Who published it: the name of a publisher, or `will/` and the client identifier.
    pub publisher: String,
    /// Counts from 1; of a will, the number of the connection.
    pub number: u64,
}

/// The last will a connection was opened with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Will {
    /// What its payload says.
    pub message: MessageId,
    pub topic: String,
    /// 0, 1 or 2.
    pub qos: u8,
    pub retain: bool,
    /// Will Delay Interval in seconds; 0 in MQTT 3.1.1.
    pub delay_secs: u32,
}

/// One entry of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// As on the wire, with `$share/GROUP/`.
    pub filter: String,
    /// 0, 1 or 2: the most that is asked for.
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// Retain Handling: 0, 1 or 2.
    pub retain_handling: u8,
}

/// How a connection came to its end, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The client sent DISCONNECT with this reason code, and closed.
    Left(u8),
    /// The client closed without DISCONNECT.
    Dropped,
    /// The server sent DISCONNECT with this reason code.
    Sent(u8),
    /// The connection broke or was closed by the other side.
    Broken,
}

/// What happened. Where a connection is named it is the one it happened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The first event: what is needed to repeat the run.
    Run {
        seed: u64,
        command: String,
    },

    /// CONNECT is about to be sent. Also when there is no telling whether it went out: then `NotConnected` follows.
    Connect {
        conn: ConnId,
        client_id: String,
        /// 4 for 3.1.1, 5 for 5.0.
        version: u8,
        proxy: usize,
        clean_start: bool,
        /// Session Expiry Interval; `u32::MAX` never expires. In 3.1.1: 0 or never.
        expiry_secs: u32,
        will: Option<Will>,
    },
    /// CONNACK with success.
    Connected {
        conn: ConnId,
        session_present: bool,
    },
    /// CONNACK with another code, or none: then what the CONNECT did is unknown. The client has closed the connection: whoever
    /// gets the CONNECT later finds it closed behind it.
    NotConnected {
        conn: ConnId,
        code: Option<u8>,
    },
    /// A connection that was `Connected` is over; once for each, before the client connects anew because of it. `Left` and
    /// `Dropped` are written down when the client is about to do so, `Sent` and `Broken` when it has seen it.
    Ended {
        conn: ConnId,
        how: End,
    },

    Subscribe {
        conn: ConnId,
        id: u16,
        filters: Vec<Filter>,
    },
    /// SUBACK; a code for each filter, in their order.
    Subscribed {
        conn: ConnId,
        id: u16,
        codes: Vec<u8>,
    },
    Unsubscribe {
        conn: ConnId,
        id: u16,
        filters: Vec<String>,
    },
    /// UNSUBACK.
    Unsubscribed {
        conn: ConnId,
        id: u16,
    },

    /// A PUBLISH is about to be sent, for the first time or again: then on a connection that resumed the session of the
    /// earlier one (QoS 1 and 2), and with DUP. The number of a message counts within its publisher, whatever the connection.
    /// A publisher is one client: it publishes on one connection at a time. After PUBREC nothing is published again.
    Publish {
        conn: ConnId,
        message: MessageId,
        topic: String,
        qos: u8,
        retain: bool,
        dup: bool,
        /// Message Expiry Interval.
        expiry_secs: Option<u32>,
        /// Deletes what is retained for the topic: the payload is empty, and nobody can know it again.
        empty: bool,
    },
    /// PUBACK or PUBREC. A code of 0x80 or above refuses. Written down before anything is published because of it.
    Acknowledged {
        conn: ConnId,
        message: MessageId,
        code: u8,
    },
    /// PUBCOMP. Without PUBREC, if that was lost, it counts as nothing.
    Completed {
        conn: ConnId,
        message: MessageId,
    },

    /// A PUBLISH has come, whatever it is: also a repetition, with DUP or not.
    Received {
        conn: ConnId,
        message: MessageId,
        topic: String,
        qos: u8,
        retain: bool,
        dup: bool,
        /// 0 at QoS 0.
        packet_id: u16,
        /// False for a QoS 2 repetition whose packet identifier the session still holds: from PUBLISH to PUBREL, across
        /// connections as long as the session is the same. Otherwise true.
        new: bool,
    },
    /// A PUBLISH with an empty payload has come: a deletion, as live subscribers see it.
    ReceivedEmpty {
        conn: ConnId,
        topic: String,
        retain: bool,
    },
    /// PUBACK, or PUBREC, is about to be sent for what was received.
    Confirm {
        conn: ConnId,
        packet_id: u16,
    },

    /// The server broke the protocol on this connection, as its client alone could see: an answer to nothing, a second
    /// CONNACK, a packet that cannot be decoded. Always a violation.
    Violated {
        conn: ConnId,
        text: String,
    },

    /// Something is about to be done to the cluster, told in words: `kill proxy 1`, `cut link 0`. The checker knows these words
    /// in `kind`: `kill` (a process ends without warning), `restart`, `graceful`, `rolling`, `term` (a process is stopped in
    /// order: its clients' wills wait for their return), `disk` and `full` (the store may have no room), `clock` (a
    /// clock jumps: no expiry is certain around it). `rolling restart` lasts from its `Fault` to its `Healed`. Of `target` it
    /// knows `proxy N`, `inner link N` and `client link N`, also several with commas between them: those excuse only what
    /// clients of these proxies saw. Every other target may have touched everything.
    Fault {
        kind: String,
        target: String,
    },
    /// It is over: the process runs and is ready again, the link carries. With the words of its `Fault`.
    Healed {
        kind: String,
        target: String,
    },
    /// No fault is left, and none will come.
    AllHealed,
    /// Publishers have stopped; every persistent session is connected from now on, until `Settled`.
    Quiet,
    /// Nothing was owed any more as far as the clients could see, or the time for it was over. The end of what is judged: who
    /// leaves after it was connected to the end.
    Settled {
        in_time: bool,
    },
}

/// An event and when it was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since the run began. Never falls.
    pub at: u64,
    #[serde(flatten)]
    pub what: What,
}

/// Takes down events as they happen. Clones write to the same history.
#[derive(Clone, Debug)]
pub struct Recorder {
    start: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    /// An empty history that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now(), events: Arc::default() }
    }

    /// Writes an event down.
    pub fn record(&self, what: What) {
        let mut events = self.lock();
        let at = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        events.push(Event { at, what });
    }

    /// How many events were written down so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// The events from the one with the number `first` on.
    #[must_use]
    pub fn since(&self, first: usize) -> Vec<Event> {
        self.lock().get(first..).map(<[Event]>::to_vec).unwrap_or_default()
    }

    /// All that was written down so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl MessageId {
    /// The payload by which it is known again, filled up to `bytes`, with its length in it.
    #[must_use]
    pub fn payload(&self, bytes: usize) -> Vec<u8> {
        let mut payload = format!("{} {} {bytes} ", self.publisher, self.number).into_bytes();
        let filler = (payload.len()..bytes).map(|place| self.filler(place));
        payload.extend(filler.collect::<Vec<_>>());
        payload
    }

    /// What is at a place of the payload: differs from message to message, and from place to place.
    fn filler(&self, place: usize) -> u8 {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
        let number = usize::try_from(self.number % 26).unwrap_or_default();
        LETTERS[(number + place) % LETTERS.len()]
    }

    /// What [`payload`](Self::payload) says; `None` if it is nothing that this made, or not as this made it to the last byte.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let (publisher, rest) = text.split_once(' ')?;
        let (number, rest) = rest.split_once(' ')?;
        let (bytes, _) = rest.split_once(' ')?;
        let message = Self { publisher: publisher.to_owned(), number: number.parse().ok()? };
        let bytes = bytes.parse().ok().filter(|&bytes| bytes <= payload.len())?;
        (message.payload(bytes) == payload).then_some(message)
    }
}

/// Writes a history to a file.
///
/// # Errors
/// The file cannot be written.
pub fn save(events: &[Event], path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for event in events {
        serde_json::to_writer(&mut file, event)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads a history from a file.
///
/// # Errors
/// The file cannot be read, or a line is no event.
pub fn load(path: &Path) -> io::Result<Vec<Event>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_reads_back_as_it_was_written() {
        let recorder = Recorder::new();
        let message = MessageId { publisher: "p1".to_owned(), number: 7 };
        recorder.record(What::Run { seed: 1, command: "torture".to_owned() });
        recorder.record(What::Acknowledged { conn: ConnId(3), message, code: 0 });
        recorder.record(What::AllHealed);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        save(&recorder.events(), &path).unwrap();
        assert_eq!(load(&path).unwrap(), recorder.events());
    }

    #[test]
    fn a_message_is_known_by_its_payload() {
        let message = MessageId { publisher: "will/c 1".replace(' ', "-"), number: 41 };
        for bytes in [0, 200] {
            let payload = message.payload(bytes);
            assert!(payload.len() >= bytes);
            assert_eq!(MessageId::parse(&payload), Some(message.clone()));
        }
        assert_eq!(MessageId::parse(b"foreign"), None);
    }

    #[test]
    fn a_payload_that_was_harmed_is_none() {
        let message = MessageId { publisher: "p1".to_owned(), number: 41 };
        let payload = message.payload(200);
        assert_eq!(MessageId::parse(&payload[..199]), None);
        assert_eq!(MessageId::parse(&[payload.clone(), b"x".to_vec()].concat()), None);
        let mut moved = payload.clone();
        moved.swap(150, 151);
        assert_eq!(MessageId::parse(&moved), None);
        let other = MessageId { number: 42, ..message }.payload(200);
        assert_eq!(MessageId::parse(&[&payload[..100], &other[100..]].concat()), None);
    }
}
