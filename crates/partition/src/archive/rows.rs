//! Rows and their lines.
//!
//! Owns both directions. Invariant: a row comes back as it was, or it goes as a raw one: who writes a
//! line reads it again first.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "`read` and `row` name all, and pass each on to a function that knows some"
)]

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{
    ClientId, QoS, RetainHandling, SubscriptionId, SubscriptionOptions, TopicFilter, TopicName,
    Will,
};

use crate::archive::line::{EntryText, HolderText, Line, Options, WillText};
use crate::archive::text::{Hex, Key, MessageText, Name};
use crate::group::row::{GroupRow, GroupState, MemberRow, Queued, Stay};
use crate::id::{ClientHash, Holder, Lsn, OnceKey, PartitionId, ProxyId, SessionId, UnixMillis};
use crate::retained::RetainedMessage;
use crate::row::{
    self, Chunk, Content, Cursor, EntryHead, Grace, LaneRow, Meta, PendingWill, Scan, SessionKind,
    SessionRow,
};
use crate::store::Table;
use crate::will::Outgoing;

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) table: Table,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

impl Row {
    fn new(table: Table, key: impl AsRef<[u8]>, value: Vec<u8>) -> Option<Self> {
        let key = Bytes::copy_from_slice(key.as_ref());
        Some(Self { table, key, value: Bytes::from(value) })
    }
}

/// The line of a row.
pub(super) fn line(row: &Row) -> Line {
    if let Some(line) = read(row)
        && read(row).and_then(self::row).as_ref() == Some(row)
    {
        return line;
    }
    Line::Raw {
        table: format!("{:?}", row.table),
        key: Hex(row.key.to_vec()),
        value: Hex(row.value.to_vec()),
    }
}

/// The row as its tables' owner reads it.
fn read(row: &Row) -> Option<Line> {
    match row.table {
        Table::Meta | Table::Body | Table::BodyUse | Table::Lane | Table::Once | Table::Outbox => {
            read_of_partition(row)
        }
        Table::Retained => read_retained(row),
        Table::Session => read_session(row),
        Table::Subscription | Table::Cursor | Table::Inbox | Table::Incoming | Table::Scan => {
            read_of_session(row)
        }
        Table::Group | Table::Member | Table::GroupQueue => read_of_group(row),
    }
}

fn read_of_partition(Row { table, key, value }: &Row) -> Option<Line> {
    let (partition, rest) = key.split_first_chunk()?;
    let partition = u16::from_be_bytes(*partition);
    let number = || Some(SessionId(row::owner_of(*table, key).ok()?).number());
    let value_number = || row::decode_number(*table, value).ok();
    Some(match table {
        Table::Meta => {
            let Meta { partitions, numbers, lsn } = Meta::decode(value).ok()?;
            Line::Numbers { partition, partitions, numbers, lsn: lsn.0 }
        }
        Table::Body => {
            let message = MessageText::of(&row::decode_body(value).ok()?);
            Line::Body { partition, number: number()?, message }
        }
        Table::BodyUse => Line::BodyUse { partition, number: number()?, queues: value_number()? },
        Table::Lane => {
            let (lane, origin) = rest.split_last()?;
            let origin = Name(u64::from_be_bytes(origin.try_into().ok()?));
            let LaneRow { last, refused } = LaneRow::decode(value).ok()?;
            Line::Lane { partition, origin, lane: *lane, last, refused }
        }
        Table::Once => {
            let key = Key(u128::from_be_bytes(rest.try_into().ok()?));
            Line::Once { partition, key, until: value_number()? }
        }
        _ => {
            let Outgoing { message, expires_at, once } = Outgoing::decode(value).ok()?;
            Line::Outbox {
                partition,
                number: number()?,
                key: Key(once.0),
                expires_at: expires_at.map(|at| at.0),
                message: MessageText::of(&message),
            }
        }
    })
}

fn read_retained(Row { key, value, .. }: &Row) -> Option<Line> {
    let retained = RetainedMessage::decode(value).ok()?;
    Some(Line::Retained {
        partition: u16::from_be_bytes(*key.first_chunk()?),
        version: retained.version.0,
        expires_at: retained.expires_at.map(|at| at.0),
        message: MessageText::of(&retained.message),
    })
}

fn read_session(Row { table, key, value }: &Row) -> Option<Line> {
    let session = SessionRow::decode(value).ok()?;
    let kind = match session.kind {
        SessionKind::Clean => "clean",
        SessionKind::Persistent => "persistent",
        SessionKind::Dying => "dying",
    };
    Some(Line::Session {
        session: Name(row::owner_of(*table, key).ok()?),
        kind: kind.into(),
        client: session.client.as_str().to_owned(),
        epoch: session.epoch,
        fresh: session.fresh,
        holder: session
            .holder
            .map(|Holder { proxy, connection }| HolderText { proxy: Name(proxy.0), connection }),
        expiry_secs: session.expiry_secs,
        receive_maximum: session.receive_maximum,
        detached_at: session.changed_at.0,
        will: session.will.map(|pending| WillText {
            delay_secs: pending.will.delay_secs,
            due: pending.due.map(|due| due.0),
            grace: pending.grace == Grace::Yes,
            message: MessageText::of(&pending.will.message),
        }),
    })
}

fn read_of_session(Row { table, key, value }: &Row) -> Option<Line> {
    let session = Name(row::owner_of(*table, key).ok()?);
    Some(match table {
        Table::Subscription => {
            let (asked, id) = row::decode_subscription(value).ok()?;
            let filter = row::text_of(*table, key).ok()?.to_owned();
            Line::Subscription { session, filter, options: options(asked, id) }
        }
        Table::Cursor => {
            let Cursor { swept, floor, next, bytes, sent, done, received } =
                Cursor::decode(value).ok()?;
            Line::Queue { session, swept, floor, next, bytes, sent, done, received }
        }
        Table::Inbox => {
            let entries = Chunk::decode(value).ok()?;
            let first = entries.first()?.place;
            let messages = entries
                .into_iter()
                .map(|entry| entry_text(&entry.head, entry.weight, &entry.content))
                .collect();
            Line::Messages { session, first, messages }
        }
        Table::Incoming => {
            let packet_id = u16::from_be_bytes(key.get(8..)?.try_into().ok()?);
            let key = row::decode_incoming(value).ok()?.map(|key| Key(key.0));
            Line::Incoming { session, packet_id, key }
        }
        _ => {
            let scan = Scan::decode(value).ok()?;
            Line::Scan {
                session,
                number: row::place_of(*table, key).ok()?,
                filter: scan.filter.as_str().to_owned(),
                qos: scan.qos as u8,
                subscription_id: scan.subscription_id.map(|id| id.value()),
                after: scan.after.map(|topic| topic.as_str().to_owned()),
                since: scan.since.0,
            }
        }
    })
}

fn read_of_group(Row { table, key, value }: &Row) -> Option<Line> {
    let group = Name(row::owner_of(*table, key).ok()?);
    let id = SessionId(group.0);
    Some(match table {
        // No group has this number.
        Table::Group if id.number() == 0 => Line::GroupNumbers {
            partition: id.partition().0,
            next: row::decode_number(*table, value).ok()?,
        },
        Table::Group => {
            let row = GroupRow::decode(value).ok()?;
            Line::Group {
                group,
                filter: row.filter.as_str().to_owned(),
                qos: row.qos as u8,
                dying: row.state == GroupState::Dying,
                floor: row.floor,
                next: row.next,
                count: row.count,
                bytes: row.bytes,
            }
        }
        Table::Member => {
            let member = MemberRow::decode(value).ok()?;
            let proxy = match member.stay {
                Stay::Persistent => None,
                Stay::Clean(proxy) => Some(Name(proxy.0)),
            };
            let session = Name(row::place_of(*table, key).ok()?);
            let options = options(member.options, member.subscription_id);
            Line::Member { group, session, proxy, options }
        }
        _ => {
            let (queued, only) = Queued::decode(value).ok()?;
            Line::GroupMessage {
                group,
                place: row::place_of(*table, key).ok()?,
                only: only.map(|session| Name(session.0)),
                publisher: Name(queued.publisher.0),
                proxy: Name(queued.proxy.0),
                expires_at: queued.expires_at.map(|at| at.0),
                message: MessageText::of(&queued.message),
            }
        }
    })
}

fn entry_text(head: &EntryHead, weight: u64, content: &Content) -> EntryText {
    let (message, body) = match content {
        Content::Inline(message) => (Some(MessageText::of(message)), None),
        Content::Body(number) => (None, Some(*number)),
    };
    EntryText {
        qos: head.qos as u8,
        retain: head.retain,
        subscription_ids: head.subscription_ids.iter().map(|id| id.value()).collect(),
        expires_at: head.expires_at.map(|at| at.0),
        weight,
        message,
        body,
    }
}

fn options(asked: SubscriptionOptions, id: Option<SubscriptionId>) -> Options {
    Options {
        qos: asked.qos as u8,
        no_local: asked.no_local,
        retain_as_published: asked.retain_as_published,
        retain_handling: asked.retain_handling as u8,
        subscription_id: id.map(|id| id.value()),
    }
}

/// The row of a line; `None` if a value in it cannot be.
pub(super) fn row(line: Line) -> Option<Row> {
    match line {
        Line::Session { .. } => session_row(line),
        Line::Subscription { .. }
        | Line::Queue { .. }
        | Line::Messages { .. }
        | Line::Incoming { .. }
        | Line::Scan { .. } => row_of_session(line),
        Line::GroupNumbers { .. }
        | Line::Group { .. }
        | Line::Member { .. }
        | Line::GroupMessage { .. } => row_of_group(line),
        Line::Raw { table, key, value } => {
            let table = Table::ALL.into_iter().find(|known| format!("{known:?}") == table)?;
            Row::new(table, key.0, value.0)
        }
        Line::Numbers { .. }
        | Line::Body { .. }
        | Line::BodyUse { .. }
        | Line::Lane { .. }
        | Line::Once { .. }
        | Line::Outbox { .. }
        | Line::Retained { .. } => row_of_partition(line),
    }
}

fn row_of_partition(line: Line) -> Option<Row> {
    match line {
        Line::Numbers { partition, partitions, numbers, lsn } => {
            let meta = Meta { partitions, numbers, lsn: Lsn(lsn) };
            Row::new(Table::Meta, row::partition_key(PartitionId(partition)), meta.encode())
        }
        Line::Body { partition, number, message } => {
            let key = row::number_key(PartitionId(partition), number);
            Row::new(Table::Body, key, row::encode_body(&*message.message()?))
        }
        Line::BodyUse { partition, number, queues } => {
            let key = row::number_key(PartitionId(partition), number);
            Row::new(Table::BodyUse, key, row::encode_number(queues))
        }
        Line::Lane { partition, origin, lane, last, refused } => {
            let key = row::lane_key(PartitionId(partition), ProxyId(origin.0), lane);
            Row::new(Table::Lane, key, LaneRow { last, refused }.encode())
        }
        Line::Once { partition, key, until } => {
            let key = row::once_key(PartitionId(partition), OnceKey(key.0));
            Row::new(Table::Once, key, row::encode_number(until))
        }
        Line::Outbox { partition, number, key, expires_at, message } => {
            let mut value = row::begin(64);
            value.extend_from_slice(&key.0.to_be_bytes());
            row::put_moment(&mut value, expires_at.map(UnixMillis));
            row::put_message(&mut value, &*message.message()?);
            Row::new(Table::Outbox, row::number_key(PartitionId(partition), number), value)
        }
        Line::Retained { partition, version, expires_at, message } => {
            let message = message.message()?;
            let key = row::partition_text_key(PartitionId(partition), message.topic.as_str());
            let mut value = row::begin(64);
            row::put_varint(&mut value, version);
            row::put_moment(&mut value, expires_at.map(UnixMillis));
            row::put_message(&mut value, &message);
            Row::new(Table::Retained, key, value)
        }
        _ => None,
    }
}

fn session_row(line: Line) -> Option<Row> {
    let Line::Session {
        session,
        kind,
        client,
        epoch,
        fresh,
        holder,
        expiry_secs,
        receive_maximum,
        detached_at,
        will,
    } = line
    else {
        return None;
    };
    let kind = match kind.as_str() {
        "clean" => SessionKind::Clean,
        "persistent" => SessionKind::Persistent,
        "dying" => SessionKind::Dying,
        _ => return None,
    };
    let will = match will {
        None => None,
        Some(text) => {
            let message = Arc::unwrap_or_clone(text.message.message()?);
            let grace = if text.grace { Grace::Yes } else { Grace::No };
            let will = Will { message, delay_secs: text.delay_secs };
            Some(PendingWill { will, due: text.due.map(UnixMillis), grace })
        }
    };
    let holder = holder
        .map(|HolderText { proxy, connection }| Holder { proxy: ProxyId(proxy.0), connection });
    let row = SessionRow {
        kind,
        client: ClientId::new(ByteString::from(client))?,
        epoch,
        fresh,
        holder,
        expiry_secs,
        receive_maximum,
        changed_at: UnixMillis(detached_at),
        will,
    };
    Row::new(Table::Session, row::owner_key(session.0), row.encode())
}

fn row_of_session(line: Line) -> Option<Row> {
    match line {
        Line::Subscription { session, filter, options } => {
            let (asked, id) = asked(&options)?;
            let value = row::encode_subscription(asked, id);
            Row::new(Table::Subscription, row::text_key(session.0, &filter), value)
        }
        Line::Queue { session, swept, floor, next, bytes, sent, done, received } => {
            let ordered = swept <= floor
                && floor <= next
                && sent < next
                && is_rising(floor, &done, &received);
            let cursor = Cursor { swept, floor, next, bytes, sent, done, received };
            ordered.then_some(())?;
            Row::new(Table::Cursor, row::owner_key(session.0), cursor.encode())
        }
        Line::Messages { session, first, messages } => {
            let last = first.checked_add(messages.len() as u64)?.checked_sub(1)?;
            let mut chunk = Chunk::starting(first);
            for entry in messages {
                push(&mut chunk, entry)?;
            }
            Row::new(Table::Inbox, row::place_key(session.0, last), chunk.finish())
        }
        Line::Incoming { session, packet_id, key } => {
            let value = row::encode_incoming(key.map(|key| OnceKey(key.0)));
            Row::new(Table::Incoming, row::incoming_key(SessionId(session.0), packet_id), value)
        }
        Line::Scan { session, number, filter, qos, subscription_id, after, since } => {
            let scan = Scan {
                filter: TopicFilter::new(filter).ok()?,
                qos: QoS::from_bits(qos)?,
                subscription_id: identifier(subscription_id)?,
                after: after.map(TopicName::new).transpose().ok()?,
                since: Lsn(since),
            };
            Row::new(Table::Scan, row::place_key(session.0, number), scan.encode())
        }
        _ => None,
    }
}

fn row_of_group(line: Line) -> Option<Row> {
    match line {
        Line::GroupNumbers { partition, next } => {
            let key = row::number_key(PartitionId(partition), 0);
            Row::new(Table::Group, key, row::encode_number(next))
        }
        Line::Group { group, filter, qos, dying, floor, next, count, bytes } => {
            next.checked_sub(floor)?;
            let row = GroupRow {
                filter: TopicFilter::new(filter).ok()?,
                qos: QoS::from_bits(qos)?,
                next,
                floor,
                count,
                bytes,
                state: if dying { GroupState::Dying } else { GroupState::Live },
            };
            Row::new(Table::Group, row::owner_key(group.0), row.encode())
        }
        Line::Member { group, session, proxy, options } => {
            let (options, subscription_id) = asked(&options)?;
            let stay = proxy.map_or(Stay::Persistent, |proxy| Stay::Clean(ProxyId(proxy.0)));
            let row = MemberRow { stay, options, subscription_id };
            Row::new(Table::Member, row::place_key(group.0, session.0), row.encode())
        }
        Line::GroupMessage { group, place, only, publisher, proxy, expires_at, message } => {
            let queued = Queued {
                message: message.message()?,
                expires_at: expires_at.map(UnixMillis),
                publisher: ClientHash(publisher.0),
                proxy: ProxyId(proxy.0),
            };
            let value = queued.encode(only.map(|session| SessionId(session.0)));
            Row::new(Table::GroupQueue, row::place_key(group.0, place), value)
        }
        _ => None,
    }
}

/// Whether runs and places come in order, from `floor` on.
fn is_rising(floor: u64, done: &[(u64, u64)], received: &[u64]) -> bool {
    let mut last = floor;
    let runs = done.iter().all(|(from, to)| {
        let rises = last <= *from && from <= to;
        last = *to;
        rises
    });
    let mut last = floor;
    let places = received.iter().all(|place| {
        let rises = last <= *place;
        last = *place;
        rises
    });
    runs && places
}

fn push(chunk: &mut Chunk, text: EntryText) -> Option<()> {
    let ids = text.subscription_ids.into_iter().map(SubscriptionId::new);
    let head = EntryHead {
        qos: QoS::from_bits(text.qos)?,
        retain: text.retain,
        subscription_ids: ids.collect::<Option<_>>()?,
        expires_at: text.expires_at.map(UnixMillis),
    };
    match (text.message, text.body) {
        (Some(message), None) => chunk.push_message(&head, text.weight, &*message.message()?),
        (None, Some(body)) => chunk.push_body(&head, text.weight, body),
        _ => return None,
    }
    Some(())
}

fn asked(options: &Options) -> Option<(SubscriptionOptions, Option<SubscriptionId>)> {
    let retain_handling = match options.retain_handling {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return None,
    };
    let asked = SubscriptionOptions {
        qos: QoS::from_bits(options.qos)?,
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling,
    };
    Some((asked, identifier(options.subscription_id)?))
}

fn identifier(id: Option<u32>) -> Option<Option<SubscriptionId>> {
    match id {
        None => Some(None),
        Some(id) => SubscriptionId::new(id).map(Some),
    }
}
