//! What one intermediate is still to be told of the routing table. Pure.
//!
//! Invariant: it gets the Hello, then - once welcomed - the whole table or the changes it lacks, then
//! each change once and in order. While a snapshot is on its way nothing else is. A good-bye is the last.

use std::vec::IntoIter;

use crate::frame::{Beat, Delta, Hello, Route, RouteUp, SnapshotChunk};
use crate::route_log::RouteLog;

/// Largest chunk of a snapshot and largest delta, about.
const CHUNK_BYTES: usize = 512 << 10;

/// What a row costs on the wire beside its filter, at most.
const ROW_OVERHEAD_BYTES: usize = 16;

#[derive(Debug)]
pub(crate) struct RouteFeed {
    stage: Stage,
    beats: u64,
}

#[derive(Debug)]
enum Stage {
    /// The Hello is to be sent.
    Greeting(Option<Box<Hello>>),
    /// The rest of the table as it was at `at_seq`.
    Snapshot {
        at_seq: u64,
        rows: IntoIter<Route>,
    },
    /// The number of the next change.
    Deltas {
        next: u64,
    },
    /// The good-bye is to be sent.
    Leaving,
    Left,
}

impl RouteFeed {
    pub(crate) fn new(hello: Hello) -> Self {
        Self { stage: Stage::Greeting(Some(Box::new(hello))), beats: 0 }
    }

    /// The intermediate wants the changes from a number on, or the whole table.
    pub(crate) fn handle_welcome(&mut self, deltas_from: Option<u64>, log: &RouteLog) {
        // One that leaves has nothing more to tell.
        if matches!(self.stage, Stage::Leaving | Stage::Left) {
            return;
        }
        match deltas_from.filter(|&first| log.changes_from(first).is_some()) {
            Some(next) => self.stage = Stage::Deltas { next },
            None => self.begin_snapshot(log),
        }
    }

    /// The intermediate's table is another one.
    pub(crate) fn handle_resync(&mut self, log: &RouteLog) {
        // Asked for before the end of the snapshot that is on its way: answered by it.
        if matches!(self.stage, Stage::Deltas { .. }) {
            self.begin_snapshot(log);
        }
    }

    /// The endpoint goes for good. An intermediate that has not heard who it is hears nothing more.
    pub(crate) fn leave(&mut self) {
        self.stage = match self.stage {
            Stage::Greeting(Some(_)) | Stage::Left => Stage::Left,
            Stage::Greeting(None)
            | Stage::Snapshot { .. }
            | Stage::Deltas { .. }
            | Stage::Leaving => Stage::Leaving,
        };
    }

    /// Whether everything is said.
    pub(crate) fn has_left(&self) -> bool {
        matches!(self.stage, Stage::Left)
    }

    /// The next frame that is due, whatever the time.
    pub(crate) fn poll(&mut self, log: &RouteLog) -> Option<RouteUp> {
        match &mut self.stage {
            Stage::Greeting(hello) => hello.take().map(|hello| RouteUp::Hello(*hello)),
            Stage::Leaving => {
                self.stage = Stage::Left;
                Some(RouteUp::Leave)
            }
            Stage::Left => None,
            Stage::Snapshot { at_seq, rows } => {
                let at_seq = *at_seq;
                let routes = chunk(rows.by_ref());
                let last = rows.as_slice().is_empty();
                if last {
                    self.stage = Stage::Deltas { next: at_seq + 1 };
                }
                Some(RouteUp::Snapshot(SnapshotChunk { at_seq, last, routes }))
            }
            Stage::Deltas { next } => {
                let first_seq = *next;
                if first_seq > log.head() {
                    return None;
                }
                let Some(changes) = log.changes_from(first_seq) else {
                    // More has changed than can be repeated.
                    self.begin_snapshot(log);
                    return self.poll(log);
                };
                let routes = chunk(changes.cloned());
                *next += routes.len() as u64;
                Some(RouteUp::Delta(Delta { first_seq, routes }))
            }
        }
    }

    /// A sign of life, if there is nothing else to say: what is due is one itself, and the sum must be
    /// that of all that was sent.
    pub(crate) fn beat(&mut self, log: &RouteLog) -> Option<RouteUp> {
        match self.stage {
            Stage::Deltas { next } if next > log.head() => {
                self.beats += 1;
                Some(RouteUp::Beat(Beat {
                    nonce: self.beats,
                    seq: log.head(),
                    count: log.count(),
                    digest: log.digest(),
                }))
            }
            Stage::Greeting(_)
            | Stage::Snapshot { .. }
            | Stage::Deltas { .. }
            | Stage::Leaving
            | Stage::Left => None,
        }
    }

    fn begin_snapshot(&mut self, log: &RouteLog) {
        self.stage = Stage::Snapshot { at_seq: log.head(), rows: log.snapshot().into_iter() };
    }
}

fn chunk(rows: impl Iterator<Item = Route>) -> Vec<Route> {
    let mut bytes = 0;
    let mut routes = Vec::new();
    for route in rows {
        bytes += route.filter.as_str().len() + ROW_OVERHEAD_BYTES;
        routes.push(route);
        if bytes >= CHUNK_BYTES {
            break;
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use mqtt_codec::{QoS, TopicFilter};

    use super::*;
    use crate::frame::{EndpointRole, Incarnation, Member, NodeId, PROTOCOL};

    fn hello() -> Hello {
        let node = NodeId::new("p").unwrap();
        Hello {
            member: Member { node, incarnation: Incarnation(1) },
            protocol: PROTOCOL,
            head_seq: 0,
            oldest_delta: 1,
            known: Vec::new(),
            role: EndpointRole::Proxy,
            stray: false,
        }
    }

    fn announce(log: &mut RouteLog, filter: &str) {
        let filter = TopicFilter::new(filter.to_owned()).unwrap();
        log.announce(Route { filter, qos: Some(QoS::AtMostOnce) });
    }

    #[test]
    fn says_hello_and_waits_for_the_welcome() {
        let mut log = RouteLog::new();
        announce(&mut log, "a");
        let mut feed = RouteFeed::new(hello());
        assert_eq!(feed.poll(&log), Some(RouteUp::Hello(hello())));
        assert_eq!((feed.poll(&log), feed.beat(&log)), (None, None));
        feed.handle_welcome(Some(1), &log);
        let Some(RouteUp::Delta(delta)) = feed.poll(&log) else { panic!("no delta") };
        assert_eq!((delta.first_seq, delta.routes.len()), (1, 1));
        assert_eq!(feed.poll(&log), None);
        assert!(matches!(feed.beat(&log), Some(RouteUp::Beat(Beat { seq: 1, count: 1, .. }))));
    }

    #[test]
    fn an_empty_table_is_a_snapshot_of_one_empty_chunk() {
        let log = RouteLog::new();
        let mut feed = RouteFeed::new(hello());
        feed.handle_welcome(None, &log);
        let chunk = SnapshotChunk { at_seq: 0, last: true, routes: Vec::new() };
        assert_eq!(feed.poll(&log), Some(RouteUp::Snapshot(chunk)));
        assert_eq!(feed.poll(&log), None);
    }

    #[test]
    fn a_large_table_comes_in_chunks_with_changes_after_them() {
        let mut log = RouteLog::new();
        let long = "x".repeat(60_000);
        for n in 0..20 {
            announce(&mut log, &format!("{n}/{long}"));
        }
        let mut feed = RouteFeed::new(hello());
        feed.handle_welcome(None, &log);
        let (mut rows, mut chunks) = (0, 0);
        loop {
            let Some(RouteUp::Snapshot(chunk)) = feed.poll(&log) else { panic!("no chunk") };
            assert_eq!(chunk.at_seq, 20);
            rows += chunk.routes.len();
            chunks += 1;
            announce(&mut log, &format!("later/{chunks}"));
            feed.handle_resync(&log);
            if chunk.last {
                break;
            }
        }
        assert_eq!(rows, 20);
        assert!(chunks > 1);
        // The resync of the last round came after the last chunk was taken: one more snapshot.
        let Some(RouteUp::Snapshot(again)) = feed.poll(&log) else { panic!("no snapshot") };
        assert_eq!(again.at_seq, 20 + chunks);
    }

    #[test]
    fn changes_asked_for_that_are_gone_or_never_were_become_a_snapshot() {
        for first in [0, 3, u64::MAX] {
            let mut log = RouteLog::new();
            announce(&mut log, "a");
            let mut feed = RouteFeed::new(hello());
            feed.handle_welcome(Some(first), &log);
            assert!(matches!(feed.poll(&log), Some(RouteUp::Snapshot(_))), "{first}");
        }
    }
}
