//! Whether the rows of a store can be read, and fit each other.
//!
//! Goes through all tables once, in the order in which one names another. Keeps a few numbers for each session, group and
//! shared message. Changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use bytes::Bytes;

use crate::archive::line::{EntryText, Line};
use crate::archive::rows::{self, Row};
use crate::archive::{ArchiveError, open};
use crate::id::SessionId;
use crate::store::{Store, Table};

/// Stands for a partition in the owner's own row.
const OWNER: u16 = 0xfffe;
/// Problems that are told one by one.
const TOLD: usize = 100;

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many rows each table has.
    pub rows: BTreeMap<Table, u64>,
    /// What is wrong, the first hundred.
    pub problems: Vec<Problem>,
    /// How much is wrong in all.
    pub found: u64,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In which table.
    pub table: Table,
    /// Where and what.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "table {:?}: {}", self.table, self.what)
    }
}

/// Reads every row of the store at `path`. A write that had been cut short is dropped by that, as at any
/// start.
///
/// # Errors
/// The store is in use, it is none, something that was committed is missing, or a file of it cannot be read.
pub fn check(path: impl AsRef<Path>) -> Result<Report, ArchiveError> {
    let store = open(path.as_ref())?;
    Ok(check_rows(&store, store.partitions())?)
}

pub(super) fn check_rows(
    store: &impl Store,
    partitions: u16,
) -> Result<Report, crate::store::StoreError> {
    let mut check = Check::new(partitions);
    for table in Table::ALL {
        let mut rows = 0;
        store.scan(table, &[], &[], &mut |key, value| {
            let row = Row {
                table,
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
            };
            check.table = table;
            check.row(&row.key, rows::line(&row));
            rows += 1;
            true
        })?;
        check.report.rows.insert(table, rows);
    }
    check.finish();
    Ok(check.report)
}

/// How many messages there should be in a queue, and are.
#[derive(Debug)]
struct Count {
    /// Places of messages.
    from: u64,
    to: u64,
    /// First and last of runs that are done: their messages may be there, or not any more.
    done: Vec<(u64, u64)>,
    expected: u64,
    found: u64,
}

impl Count {
    /// How many places from `first` until before `end` are not done.
    fn undone(&self, first: u64, end: u64) -> u64 {
        let first = first.max(self.from);
        let done = self.done.iter();
        let done = done.map(|(from, to)| (to + 1).min(end).saturating_sub(first.max(*from)));
        end.saturating_sub(first).saturating_sub(done.sum())
    }
}

#[derive(Debug)]
struct Check {
    report: Report,
    partitions: u16,
    table: Table,
    /// Numbers given out, by partition.
    numbers: HashMap<u16, u64>,
    sessions: HashSet<u64>,
    /// What is left of them is being deleted.
    dying: HashSet<u64>,
    queues: HashMap<u64, Count>,
    groups: HashMap<u64, Count>,
    /// By partition and number: how often chunks name them.
    named: HashMap<(u16, u64), u64>,
    bodies: HashSet<(u16, u64)>,
}

impl Check {
    fn new(partitions: u16) -> Self {
        Self {
            report: Report::default(),
            partitions,
            table: Table::Meta,
            numbers: HashMap::new(),
            sessions: HashSet::new(),
            dying: HashSet::new(),
            queues: HashMap::new(),
            groups: HashMap::new(),
            named: HashMap::new(),
            bodies: HashSet::new(),
        }
    }

    fn row(&mut self, key: &[u8], line: Line) {
        let partition = key.first_chunk().map_or(u16::MAX, |bytes| u16::from_be_bytes(*bytes));
        let of_owner = self.table == Table::Meta && partition == OWNER;
        if partition >= self.partitions && !of_owner {
            let partitions = self.partitions;
            self.tell(format!("a row of partition {partition}, of {partitions}"));
        }
        match line {
            Line::Raw { key, .. } => self.tell(format!("the row {key} cannot be read")),
            Line::Numbers { partition, partitions, numbers, .. } => {
                // Only the owner's row says how many there are.
                if partition == OWNER && partitions != self.partitions {
                    self.tell(format!("made for {partitions} partitions"));
                }
                self.numbers.insert(partition, numbers);
            }
            Line::Session { session, kind, .. } => self.session(session.0, &kind),
            Line::Subscription { session, .. }
            | Line::Incoming { session, .. }
            | Line::Scan { session, .. } => self.belongs(session.0),
            Line::Queue { session, floor, next, done, .. } => {
                self.belongs(session.0);
                let skipped: u64 = done.iter().map(|(from, to)| to - from + 1).sum();
                let expected = (next - floor).saturating_sub(skipped);
                let count = Count { from: floor, to: next, done, expected, found: 0 };
                self.queues.insert(session.0, count);
            }
            Line::Messages { session, first, messages } => {
                self.messages(session.0, first, &messages);
            }
            Line::Body { partition, number, .. } => {
                self.bodies.insert((partition, number));
            }
            Line::BodyUse { partition, number, queues } => {
                let named = self.named.remove(&(partition, number)).unwrap_or_default();
                let there = self.bodies.remove(&(partition, number));
                if named != queues || !there {
                    let there = if there { "is there" } else { "is not there" };
                    self.tell(format!(
                        "body {number} of partition {partition} {there}, counts {queues} queues, is named by {named}"
                    ));
                }
            }
            Line::Group { group, dying, floor, next, count, .. } => {
                if dying {
                    self.dying.insert(group.0);
                }
                let count =
                    Count { from: floor, to: next, done: Vec::new(), expected: count, found: 0 };
                self.groups.insert(group.0, count);
            }
            Line::Member { group, .. } => {
                if !self.groups.contains_key(&group.0) {
                    self.tell(format!("a member of group {:016x}, which is not there", group.0));
                }
            }
            Line::GroupMessage { group, place, .. } => self.group_message(group.0, place),
            Line::GroupNumbers { .. }
            | Line::Lane { .. }
            | Line::Once { .. }
            | Line::Outbox { .. }
            | Line::Retained { .. } => {}
        }
    }

    fn session(&mut self, session: u64, kind: &str) {
        self.sessions.insert(session);
        if kind == "dying" {
            self.dying.insert(session);
        }
        let id = SessionId(session);
        if self.numbers.get(&id.partition().0).is_none_or(|numbers| id.number() >= *numbers) {
            self.tell(format!("session {session:016x} has a number that was not given out"));
        }
    }

    fn belongs(&mut self, session: u64) {
        if !self.sessions.contains(&session) {
            self.tell(format!("a row of session {session:016x}, which is not there"));
        }
    }

    fn messages(&mut self, session: u64, first: u64, messages: &[EntryText]) {
        self.belongs(session);
        let end = first + messages.len() as u64;
        let partition = SessionId(session).partition().0;
        for number in messages.iter().filter_map(|entry| entry.body) {
            *self.named.entry((partition, number)).or_default() += 1;
        }
        match self.queues.get_mut(&session) {
            Some(queue) if end <= queue.to => {
                queue.found += queue.undone(first, end);
            }
            Some(queue) => {
                let to = queue.to;
                self.tell(format!(
                    "session {session:016x} has messages up to place {}, and its queue ends before {to}",
                    end - 1
                ));
            }
            None => self.tell(format!("session {session:016x} has messages and no queue")),
        }
    }

    fn group_message(&mut self, group: u64, place: u64) {
        match self.groups.get_mut(&group) {
            Some(count) => {
                count.found += 1;
                if !(count.from..count.to).contains(&place) {
                    self.tell(format!("group {group:016x} has a message at place {place}"));
                }
            }
            None => self.tell(format!("a message of group {group:016x}, which is not there")),
        }
    }

    /// What can only be told when all rows are read.
    fn finish(&mut self) {
        self.table = Table::Inbox;
        let queues = std::mem::take(&mut self.queues);
        self.compare("session", queues);
        self.table = Table::GroupQueue;
        let groups = std::mem::take(&mut self.groups);
        self.compare("group", groups);
        self.table = Table::BodyUse;
        let missing: Vec<_> = self.named.drain().map(|(body, _)| body).collect();
        let unused: Vec<_> = self.bodies.drain().collect();
        for (partition, number) in missing {
            self.tell(format!("body {number} of partition {partition} is named and not counted"));
        }
        for (partition, number) in unused {
            self.tell(format!("body {number} of partition {partition} is there and not counted"));
        }
    }

    fn compare(&mut self, what: &str, counts: HashMap<u64, Count>) {
        for (id, Count { expected, found, .. }) in counts {
            if expected != found && !self.dying.contains(&id) {
                self.tell(format!(
                    "the queue of {what} {id:016x} should have {expected} messages and has {found}"
                ));
            }
        }
    }

    fn tell(&mut self, what: String) {
        self.report.found += 1;
        if self.report.problems.len() < TOLD {
            self.report.problems.push(Problem { table: self.table, what });
        }
    }
}
