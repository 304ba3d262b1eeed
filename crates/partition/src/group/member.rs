//! A member of a group: what it has been given, and what of it the proxy has taken.
//!
//! Invariant: what waits to be taken is either below QoS 1, or unconfirmed and not taken yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt_codec::{QoS, SubscriptionIds};

use super::row::{MemberRow, Queued, Stay};
use crate::changes;
use crate::effect::{Delivery, GroupDelivery};
use crate::id::{GroupId, QueueSeq, SessionId};

/// Bytes of unconfirmed messages after which a member gets no more.
const CREDIT_BYTES: usize = 4 << 20;

/// Messages at QoS 0 that wait for a proxy to take them, for one member, and their bytes.
const FLEETING: usize = 1000;
const FLEETING_BYTES: usize = 1 << 20;

/// A session's share in a group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) row: MemberRow,
    /// Its connection, if it has one.
    pub(crate) connection: Option<changes::Member>,
    /// Given to it and not confirmed, by place.
    pub(crate) unconfirmed: BTreeMap<u64, Given>,
    unconfirmed_bytes: usize,
    /// Given to the session's own queue since that was last short.
    pub(crate) moved: u16,
    /// When it was last given something, in messages of the group.
    pub(crate) served: u64,
    /// How the group has it among those with credit.
    pub(crate) rank: Option<(u64, u64)>,
    /// Messages that are to go to nobody else as long as it is here, by place.
    pub(crate) reserved: BTreeSet<u64>,
    ready: VecDeque<Ready>,
    /// So many of those ready are committed.
    committed: usize,
    /// Whether it is noted for the next commit.
    pub(crate) noted: Noted,
    fleeting: usize,
    fleeting_bytes: usize,
    /// Its turn at its proxy.
    pub(crate) turn: Option<u64>,
}

/// An unconfirmed message.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) queued: Queued,
    pub(crate) qos: QoS,
    pub(crate) taken: Taken,
}

/// Whether a proxy has a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It never had it.
    No,
    Yes,
    /// It may have had it, and gets it once more.
    Again,
}

/// Whether something of a member waits for the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    No,
    Yes,
}

#[derive(Debug)]
enum Ready {
    Place(u64),
    Fleeting(Queued),
}

impl Member {
    pub(crate) fn new(row: MemberRow) -> Self {
        Self {
            row,
            connection: None,
            unconfirmed: BTreeMap::new(),
            unconfirmed_bytes: 0,
            moved: 0,
            served: 0,
            rank: None,
            reserved: BTreeSet::new(),
            ready: VecDeque::new(),
            committed: 0,
            noted: Noted::No,
            fleeting: 0,
            fleeting_bytes: 0,
            turn: None,
        }
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.row.stay == Stay::Persistent
    }

    /// Whether it may be given a message.
    pub(crate) fn has_credit(&self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let most = usize::from(connection.receive_maximum);
        self.unconfirmed.len() + usize::from(self.moved) < most
            && self.unconfirmed_bytes < CREDIT_BYTES
            && self.fleeting < FLEETING
            && self.fleeting_bytes < FLEETING_BYTES
    }

    /// Whether it may be given a message at QoS 0, whatever it has not confirmed.
    pub(crate) fn has_room(&self) -> bool {
        self.connection.is_some()
            && self.fleeting < FLEETING
            && self.fleeting_bytes < FLEETING_BYTES
    }

    pub(crate) fn push_fleeting(&mut self, queued: Queued) {
        self.fleeting += 1;
        self.fleeting_bytes += queued.weight();
        self.ready.push_back(Ready::Fleeting(queued));
    }

    /// Holds a message until it is confirmed. What is not taken yet is sent once there is a connection.
    pub(crate) fn push(&mut self, place: u64, given: Given) {
        if given.taken != Taken::Yes && self.connection.is_some() {
            self.ready.push_back(Ready::Place(place));
        }
        self.unconfirmed_bytes += given.queued.weight();
        self.unconfirmed.insert(place, given);
    }

    /// Takes out a confirmed message. One that was never sent cannot be confirmed.
    pub(crate) fn confirm(&mut self, place: u64) -> Option<Given> {
        self.unconfirmed.get(&place).filter(|given| given.taken != Taken::No)?;
        let given = self.unconfirmed.remove(&place)?;
        self.unconfirmed_bytes -= given.queued.weight();
        Some(given)
    }

    /// Takes out what is unconfirmed, but for what `keep` says.
    pub(crate) fn take_back(&mut self, keep: impl Fn(&Given) -> bool) -> BTreeMap<u64, Given> {
        let all = std::mem::take(&mut self.unconfirmed);
        let (kept, back): (BTreeMap<_, _>, _) = all.into_iter().partition(|(_, given)| keep(given));
        self.unconfirmed = kept;
        self.unconfirmed_bytes = self.unconfirmed.values().map(|given| given.queued.weight()).sum();
        back
    }

    /// Sends all that is not known to have arrived, in order, and nothing twice.
    pub(crate) fn send_again(&mut self, arrived: &BTreeSet<u64>) {
        let waiting = std::mem::take(&mut self.ready);
        self.ready.extend(waiting.into_iter().filter(|ready| matches!(ready, Ready::Fleeting(_))));
        self.committed = 0;
        for (place, given) in &mut self.unconfirmed {
            if arrived.contains(place) {
                given.taken = Taken::Yes;
                continue;
            }
            if given.taken == Taken::Yes {
                given.taken = Taken::Again;
            }
            self.ready.push_back(Ready::Place(*place));
        }
    }

    /// Forgets what waits to be taken, and returns how many messages are lost by that.
    pub(crate) fn clear_ready(&mut self) -> u64 {
        self.ready.clear();
        (self.committed, self.fleeting_bytes) = (0, 0);
        std::mem::take(&mut self.fleeting) as u64
    }

    /// All that is ready is committed. Whether there is anything.
    pub(crate) fn commit(&mut self) -> bool {
        self.noted = Noted::No;
        self.committed = self.ready.len();
        self.committed > 0
    }

    /// Whether there is something to take.
    pub(crate) fn is_ready(&self) -> bool {
        self.committed > 0
    }

    /// Takes the next committed delivery.
    pub(crate) fn pop(&mut self, group: GroupId, session: SessionId) -> Option<Delivery> {
        let holder = self.connection?.holder;
        while self.committed > 0 {
            self.committed -= 1;
            let (queued, qos, place) = match self.ready.pop_front()? {
                Ready::Fleeting(queued) => {
                    self.fleeting -= 1;
                    self.fleeting_bytes -= queued.weight();
                    (queued, QoS::AtMostOnce, 0)
                }
                Ready::Place(place) => {
                    let Some(given) = self.unconfirmed.get_mut(&place) else { continue };
                    given.taken = Taken::Yes;
                    (given.queued.clone(), given.qos, place)
                }
            };
            return Some(Delivery {
                holder,
                session,
                seq: QueueSeq(0),
                group: Some(GroupDelivery { group, seq: QueueSeq(place) }),
                dup: false,
                qos,
                retain: self.retain_of(&queued),
                subscription_ids: self.subscription_ids(),
                message: queued.message,
                expires_at: queued.expires_at,
            });
        }
        None
    }

    /// RETAIN as this member is to see it.
    pub(crate) fn retain_of(&self, queued: &Queued) -> bool {
        self.row.options.retain_as_published && queued.message.retain
    }

    pub(crate) fn subscription_ids(&self) -> SubscriptionIds {
        self.row.subscription_id.into_iter().collect()
    }
}
