//! A partition as its rows say.
//!
//! Reads what there is of each session, not what is queued for it: the time this takes follows the number
//! of sessions. Invariant: nothing is loaded that its rows do not say; a row that makes no sense is an error.

use bytes::Bytes;
use mqtt_codec::{QoS, TopicFilter};

use super::{Partition, Terms};
use crate::config::OwnerConfig;
use crate::effect::Effect;
use crate::id::{OnceKey, PartitionId, ProxyId, SessionId};
use crate::numbers::Numbers;
use crate::queue::Queue;
use crate::row::{
    Cursor, LaneRow, Meta, Scan, SessionKind, SessionRow, decode_incoming, decode_subscription,
    owner_of, partition_key, place_of, text_of,
};
use crate::session::{Session, Subscription};
use crate::store::{Store, StoreError, Table};
use crate::will::{Due, session_end};

impl Partition {
    /// Reads a partition.
    pub(crate) fn load(
        id: PartitionId,
        config: OwnerConfig,
        store: &dyn Store,
    ) -> Result<Self, StoreError> {
        let mut partition = Self::new(id, config);
        if let Some(value) = store.lookup(Table::Meta, &partition_key(id))? {
            partition.numbers = Numbers::new(Meta::decode(&value)?.numbers);
        }
        let each = |table, partition: &mut Self, load: Load| {
            each_row(table, id, store, |key, value| load(partition, key, value))
        };
        each(Table::Session, &mut partition, Self::load_session)?;
        each(Table::Subscription, &mut partition, Self::load_subscription)?;
        each(Table::Cursor, &mut partition, Self::load_cursor)?;
        each(Table::Incoming, &mut partition, Self::load_incoming)?;
        each(Table::Scan, &mut partition, Self::load_scan)?;
        each(Table::Lane, &mut partition, Self::load_lane)?;
        each(Table::Retained, &mut partition, |partition, _, value| {
            partition.retained.load(value)
        })?;
        each(Table::Group, &mut partition, |partition, key, value| {
            partition.groups.load_group(key, value)
        })?;
        each(Table::Member, &mut partition, |partition, key, value| {
            partition.groups.load_member(key, value)
        })?;
        each(Table::Outbox, &mut partition, |partition, key, value| {
            partition.outbox.load(key, value)
        })?;
        partition.finish_loading();
        Ok(partition)
    }

    fn load_session(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let id = SessionId(owner_of(Table::Session, key)?);
        let session = Session::load(id, SessionRow::decode(value)?);
        if let Some(due) = session.will().and_then(|pending| pending.due) {
            self.timers.set(id, Due::Will, due);
        }
        if session.holder.is_none()
            && session.kind == SessionKind::Persistent
            && let Some(end) = session_end(session.detached_at, session.expiry_secs)
        {
            self.timers.set(id, Due::End, end);
        }
        self.sessions.load(session);
        Ok(())
    }

    fn session(&mut self, table: Table, key: &[u8]) -> Result<&mut Session, StoreError> {
        let id = SessionId(owner_of(table, key)?);
        self.sessions.find_mut(id).ok_or(StoreError::Damaged { table, what: "no such session" })
    }

    fn load_subscription(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let table = Table::Subscription;
        let (options, id) = decode_subscription(value)?;
        let filter = TopicFilter::new(text_of(table, key)?)
            .map_err(|_| StoreError::Damaged { table, what: "its filter is none" })?;
        let session = self.session(table, key)?;
        let number = session.id.0;
        if session.subscriptions.is_empty() {
            session.subscriptions.reserve_exact(1);
        }
        session.subscriptions.push(Subscription { filter: filter.as_str().into(), options, id });
        self.totals.subscriptions += 1;
        if filter.share_name().is_none() {
            let terms = Terms {
                qos: options.qos,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                id,
            };
            self.index.insert(&filter, number, terms);
        }
        Ok(())
    }

    fn load_cursor(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let cursor = Cursor::decode(value)?;
        let limits = self.config.limits.inbox;
        let session = self.session(Table::Cursor, key)?;
        let most = session.holder.map(|_| session.receive_maximum);
        session.queue = Queue::load(cursor, most);
        session.changed.cursor_stored = true;
        if session.kind == SessionKind::Dying {
            session.queue.end();
        }
        let (messages, bytes) = (session.queue.len(), session.queue.bytes());
        let id = session.id;
        if let Some(session) = self.sessions.find_mut(id) {
            super::enqueue::note_full(session, limits, &mut self.full);
        }
        self.totals.messages += messages;
        self.totals.bytes += bytes;
        Ok(())
    }

    fn load_incoming(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let table = Table::Incoming;
        let packet_id = key.get(8..).and_then(|rest| <[u8; 2]>::try_from(rest).ok());
        let packet_id =
            packet_id.ok_or(StoreError::Damaged { table, what: "its key has a wrong length" })?;
        let once: Option<OnceKey> = decode_incoming(value)?;
        let incoming = (u16::from_be_bytes(packet_id), once);
        self.session(table, key)?.more().incoming.push(incoming);
        Ok(())
    }

    fn load_scan(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let number = place_of(Table::Scan, key)?;
        let scan = Scan::decode(value)?;
        self.session(Table::Scan, key)?.more().scans.push((number, scan));
        Ok(())
    }

    fn load_lane(&mut self, key: &[u8], value: &Bytes) -> Result<(), StoreError> {
        let table = Table::Lane;
        let (origin, lane) = match key.get(2..) {
            Some([origin @ .., lane]) => (<[u8; 8]>::try_from(origin).ok(), *lane),
            _ => (None, 0),
        };
        let origin = origin.ok_or(StoreError::Damaged { table, what: "its key is too short" })?;
        let origin = ProxyId(u64::from_be_bytes(origin));
        self.lanes.load(origin, lane, LaneRow::decode(value)?);
        Ok(())
    }

    fn finish_loading(&mut self) {
        let dying = self.sessions.iter().filter(|session| session.kind == SessionKind::Dying);
        let mut dying: Vec<SessionId> = dying.map(|session| session.id).collect();
        dying.sort_unstable();
        self.dying.extend(dying);
    }

    /// Every filter that somebody here wants.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (TopicFilter, QoS)> {
        let sessions = self.sessions.iter().flat_map(|session| &session.subscriptions);
        let plain = sessions.filter(|subscription| !subscription.is_shared());
        plain
            .map(|subscription| (subscription.filter(), subscription.options.qos))
            .chain(self.groups.wanted())
    }

    /// Wills that were on their way.
    pub(crate) fn resend(&mut self, effects: &mut Vec<Effect>) {
        self.outbox.resend(effects);
    }
}

type Load = fn(&mut Partition, &[u8], &Bytes) -> Result<(), StoreError>;

fn each_row(
    table: Table,
    partition: PartitionId,
    store: &dyn Store,
    mut load: impl FnMut(&[u8], &Bytes) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let prefix = partition_key(partition);
    let mut result = Ok(());
    store.scan(table, &prefix, &prefix, &mut |key, value| {
        result = load(key, &Bytes::copy_from_slice(value));
        result.is_ok()
    })?;
    result
}
