//! The proxy's side of the store: which connections have which sessions there, what was asked and is not answered,
//! and what must be said again when the stream to the store broke.
//!
//! A stream is one link, with an epoch. What goes out names the link it was meant for, and is dropped with it; so
//! everything whose answer matters is kept until the answer is here, and [`pump`](crate::store::pump) says it again on
//! the next link, in this order: ends of connections, then each connection with its session, its confirmations and its
//! requests. Saying a thing twice changes nothing at the store. Locks: the departures, an attachment; never both at
//! once, and a mailbox inside either.

mod attachment;
mod confirmations;
mod departures;
mod pump;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_rpc::frame::{
    AttachCall, Incarnation, QueuePlace, SessionCall, SessionFarewell, SessionRefusal,
};
use cluster_rpc::machine::now;
use cluster_rpc::{LinkEpoch, StoreLink};
use dashmap::DashMap;
use mqtt_codec::{Message, PacketId, ReasonCode, TopicFilter, TopicName};
use mqtt_session::QueueSlot;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub(crate) use self::attachment::{Ask, AskNumber, Attachment};
pub(crate) use self::confirmations::Confirmations;
use self::departures::{Departure, Departures};
pub(crate) use self::pump::pump;
use crate::mailbox::Mailbox;

/// How long a stopping proxy waits for the store to have read all it was told.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The request number of [`last_call`]; no connection has it.
const LAST_CALL: u64 = u64::MAX;

/// What the store says to one connection.
#[derive(Debug)]
pub(crate) enum News {
    /// The answer to something it asked.
    Answer(AskNumber, Answer),
    /// PUBRELs may go out for these.
    Received(Vec<QueuePlace>),
}

/// The answer to an [`Ask`].
#[derive(Debug)]
pub(crate) enum Answer {
    /// To a SUBSCRIBE or an UNSUBSCRIBE: one reason for each filter.
    Reasons(Vec<ReasonCode>),
    /// The message may be published with this key.
    Begun(u128),
    /// PUBCOMP may go out.
    Released,
    /// A page of retained messages.
    Retained {
        /// In the order of their topics.
        messages: Vec<Arc<Message>>,
        /// Where the next page begins.
        next: Option<TopicName>,
    },
    /// Nothing was changed.
    Refused(SessionRefusal),
}

/// What a connection has got from the store at its beginning. The default is a clean session.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// Whether it goes on with an earlier session.
    pub session_present: bool,
    /// Places whose PUBREC is committed and whose PUBCOMP is not, in order.
    pub received: Vec<QueuePlace>,
    /// QoS 2 messages of the client that are not released, with their keys; `None` if taken.
    pub incoming: Vec<(PacketId, Option<u128>)>,
}

/// The answer to an attach, when it comes.
pub(crate) type AttachAnswer = oneshot::Receiver<Result<Attached, SessionRefusal>>;

/// The store as this proxy sees it.
#[derive(Debug)]
pub(crate) struct Store {
    link: StoreLink,
    attachments: DashMap<u64, Arc<Attachment>, foldhash::quality::RandomState>,
    standing: Mutex<Standing>,
    present: watch::Sender<bool>,
}

/// A link, and the life of this proxy that has it.
#[derive(Clone, Copy, Debug)]
struct Way {
    link: LinkEpoch,
    life: Incarnation,
    /// When it was heard that there is the link: what the store is told of earlier moments counts from here.
    up: Instant,
}

/// Which link there is, and the ends of connections that it may not have told the store.
#[derive(Debug, Default)]
struct Standing {
    way: Option<Way>,
    departures: Departures,
    /// Told when the answer to the last call is here.
    settled: Option<oneshot::Sender<()>>,
}

impl Store {
    /// A store that is not there yet.
    #[must_use]
    pub(crate) fn new(link: StoreLink) -> Self {
        Self {
            link,
            attachments: DashMap::default(),
            standing: Mutex::default(),
            present: watch::Sender::new(false),
        }
    }

    /// Whether the store is there.
    #[must_use]
    pub(crate) fn is_present(&self) -> bool {
        *self.present.borrow()
    }

    /// Tells whether the store is there.
    #[must_use]
    pub(crate) fn present(&self) -> watch::Receiver<bool> {
        self.present.subscribe()
    }

    /// Connections that have a session in the store, or have asked for one.
    #[must_use]
    pub(crate) fn attachments(&self) -> usize {
        self.attachments.len()
    }

    /// Ends of connections that are kept to be told, and how many were forgotten because there were too many.
    #[must_use]
    pub(crate) fn departures(&self) -> (usize, u64) {
        let mut standing = self.standing.lock();
        standing.departures.prune(now());
        (standing.departures.len(), standing.departures.forgotten())
    }

    /// Requests without an answer.
    #[must_use]
    pub(crate) fn pending(&self) -> usize {
        self.attachments.iter().map(|attachment| attachment.pending()).sum()
    }

    /// Asks for the session of a connection, which is numbered like its key. The answer comes when the
    /// store is there; [`close`](Self::close) ends the wait.
    pub(crate) fn attach(
        &self,
        call: AttachCall,
        mailbox: &Arc<Mailbox>,
    ) -> (Arc<Attachment>, AttachAnswer) {
        let (told, answer) = oneshot::channel();
        let attachment = Arc::new(Attachment::new(call, Arc::clone(mailbox), told));
        self.attachments.insert(attachment.connection(), Arc::clone(&attachment));
        let way = self.standing.lock().way;
        if let Some(way) = way {
            attachment.begin(&self.link, way);
        }
        (attachment, answer)
    }

    /// A connection is over, and what the store had to be told about it has been.
    pub(crate) fn close(
        &self,
        attachment: &Attachment,
        farewell: SessionFarewell,
        expiry_secs: u32,
    ) {
        let departures = attachment.close(farewell, expiry_secs);
        self.forget(attachment);
        for departure in departures {
            self.depart(departure);
        }
    }

    /// Asks something for a connection. The answer comes through its mailbox.
    pub(crate) fn ask(&self, attachment: &Attachment, ask: Ask) -> AskNumber {
        attachment.ask(&self.link, ask)
    }

    /// Tells what the client of a connection has confirmed.
    pub(crate) fn confirm(&self, attachment: &Attachment, confirmations: Confirmations) {
        attachment.confirm(&self.link, confirmations);
    }

    /// Whether so much waits to be sent to the store that no client should cause more.
    #[must_use]
    pub(crate) fn is_congested(&self) -> bool {
        self.link.is_congested()
    }

    /// Waits until that is over.
    pub(crate) async fn uncongested(&self) {
        self.link.uncongested().await;
    }

    /// The store is there, on a new link: it is told which connections have ended. The others follow by
    /// [`tell_again`](Self::tell_again).
    fn handle_up(&self, way: Way) {
        let mut standing = self.standing.lock();
        standing.way = Some(way);
        for departure in standing.departures.repeat(way.up) {
            self.link.send(way.link, departure.call(way.up));
        }
        drop(standing);
        self.present.send_replace(true);
    }

    /// Tells the store all that it may not have heard of the connections there are, at the pace at which it listens.
    /// What is asked meanwhile need not wait for that. In the order of the connections, so that the newest of a client
    /// is told last.
    async fn tell_again(&self, way: Way) {
        let mut all: Vec<Arc<Attachment>> =
            self.attachments.iter().map(|entry| Arc::clone(&entry)).collect();
        all.sort_unstable_by_key(|attachment| attachment.connection());
        for attachment in all {
            if self.link.is_congested() {
                self.link.uncongested().await;
            }
            attachment.begin_again(&self.link, way);
        }
    }

    /// The store is not there. What is asked waits.
    fn handle_down(&self) {
        let mut standing = self.standing.lock();
        standing.way = None;
        standing.departures.unsay(now());
        drop(standing);
        self.present.send_replace(false);
    }

    /// Waits, for a while, until the store has read what it was told.
    pub(crate) async fn settle(&self) {
        let (told, read) = oneshot::channel();
        {
            let mut standing = self.standing.lock();
            let Some(way) = standing.way else {
                return;
            };
            standing.settled = Some(told);
            self.link.send(way.link, last_call());
        }
        if tokio::time::timeout(LAST_WORDS, read).await.is_err() {
            tracing::warn!(
                "stopping although the store may not have heard how all connections ended"
            );
        }
    }

    /// The answer to the last call is here.
    fn settled(&self) {
        if let Some(settled) = self.standing.lock().settled.take() {
            // Whoever waited may have given up.
            settled.send(()).ok();
        }
    }

    fn depart(&self, departure: Departure) {
        let now = now();
        let mut standing = self.standing.lock();
        if let Some(way) = standing.way {
            self.link.send(way.link, departure.call(way.up));
        }
        let said = standing.way.map(|_| now);
        standing.departures.push(departure, said, now);
    }

    fn forget(&self, attachment: &Attachment) {
        self.attachments.remove(&attachment.connection());
    }

    fn find(&self, connection: u64) -> Option<Arc<Attachment>> {
        self.attachments.get(&connection).map(|found| Arc::clone(&found))
    }
}

/// Calls are read in order, so that the answer to a reading that finds nothing is the answer to all before it.
fn last_call() -> SessionCall {
    SessionCall::ReadRetained {
        request: LAST_CALL,
        filter: TopicFilter::new("$causeway/none").expect("a plain topic is a filter"),
        after: None,
        limit: 1,
    }
}

/// Packet identifiers that follow from a place in the queue of a session; the store counts on it.
const QUEUE_PACKET_IDS: u64 = 49_151;

/// A place in the queue of a session with the packet identifier that it always has.
pub(crate) fn slot_of(QueuePlace(place): QueuePlace) -> QueueSlot {
    let packet_id = u16::try_from(1 + place % QUEUE_PACKET_IDS).ok().and_then(PacketId::new);
    QueueSlot { place, packet_id: packet_id.expect("from 1 to 49,151") }
}
