//! A history, event by event: a millisecond apart, unless time is let go by.

use crate::record::{ConnId, End, Event, Filter, MessageId, What, Will};

/// A history that grows. Every method returns the place of its last event.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) events: Vec<Event>,
    now: u64,
    requests: u16,
}

/// What a CONNECT says.
#[derive(Clone, Debug)]
pub(super) struct Hello {
    pub(super) version: u8,
    pub(super) clean_start: bool,
    pub(super) expiry_secs: u32,
    pub(super) will: Option<Will>,
}

/// A PUBLISH or what came of one.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) publisher: &'static str,
    pub(super) number: u64,
    pub(super) topic: &'static str,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) expiry_secs: Option<u32>,
    pub(super) empty: bool,
    pub(super) new: bool,
}

pub(super) const PERSISTENT: Hello =
    Hello { version: 5, clean_start: false, expiry_secs: u32::MAX, will: None };
pub(super) const CLEAN: Hello = Hello { version: 5, clean_start: true, expiry_secs: 0, will: None };

/// A message of the publisher `p`.
pub(super) fn item(number: u64, topic: &'static str, qos: u8) -> Item {
    Item {
        publisher: "p",
        number,
        topic,
        qos,
        retain: false,
        dup: false,
        expiry_secs: None,
        empty: false,
        new: true,
    }
}

/// A will under `w` at QoS 1.
pub(super) fn will(client: &str, number: u64, delay_secs: u32) -> Will {
    Will {
        message: MessageId { publisher: format!("will/{client}"), number },
        topic: "w".to_owned(),
        qos: 1,
        retain: false,
        delay_secs,
    }
}

pub(super) fn filter(filter: &str, qos: u8) -> Filter {
    Filter {
        filter: filter.to_owned(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    }
}

impl Script {
    pub(super) fn wait(&mut self, millis: u64) {
        self.now += millis * 1000;
    }

    pub(super) fn put(&mut self, what: What) -> usize {
        self.wait(1);
        self.events.push(Event { at: self.now, what });
        self.events.len() - 1
    }

    /// A CONNECT of which nobody says how it went.
    pub(super) fn connect(&mut self, conn: u64, client: &str, hello: Hello) -> usize {
        let Hello { version, clean_start, expiry_secs, will } = hello;
        let (conn, client_id) = (ConnId(conn), client.to_owned());
        let (proxy, expiry_secs) = (0, expiry_secs);
        self.put(What::Connect { conn, client_id, version, proxy, clean_start, expiry_secs, will })
    }

    pub(super) fn connected(&mut self, conn: u64, session_present: bool) -> usize {
        self.put(What::Connected { conn: ConnId(conn), session_present })
    }

    pub(super) fn not_connected(&mut self, conn: u64) -> usize {
        self.put(What::NotConnected { conn: ConnId(conn), code: None })
    }

    /// A session that never expires.
    pub(super) fn persistent(&mut self, conn: u64, client: &str, present: bool) -> usize {
        self.connect(conn, client, PERSISTENT);
        self.connected(conn, present)
    }

    pub(super) fn clean(&mut self, conn: u64, client: &str) -> usize {
        self.connect(conn, client, CLEAN);
        self.connected(conn, false)
    }

    pub(super) fn end(&mut self, conn: u64, how: End) -> usize {
        self.put(What::Ended { conn: ConnId(conn), how })
    }

    /// A SUBSCRIBE that is not answered.
    pub(super) fn ask(&mut self, conn: u64, filter: Filter) -> usize {
        self.requests += 1;
        let (conn, id) = (ConnId(conn), self.requests);
        self.put(What::Subscribe { conn, id, filters: vec![filter] })
    }

    /// The answer to the last one.
    pub(super) fn answer(&mut self, conn: u64, code: u8) -> usize {
        let (conn, id) = (ConnId(conn), self.requests);
        self.put(What::Subscribed { conn, id, codes: vec![code] })
    }

    pub(super) fn subscribe(&mut self, conn: u64, filter: Filter) -> usize {
        let qos = filter.qos;
        self.ask(conn, filter);
        self.answer(conn, qos)
    }

    pub(super) fn unsubscribe(&mut self, conn: u64, filter: &str) -> usize {
        self.requests += 1;
        let (conn, id) = (ConnId(conn), self.requests);
        self.put(What::Unsubscribe { conn, id, filters: vec![filter.to_owned()] });
        self.put(What::Unsubscribed { conn, id })
    }

    pub(super) fn send(&mut self, conn: u64, item: Item) -> usize {
        self.put(What::Publish {
            conn: ConnId(conn),
            message: item.message(),
            topic: item.topic.to_owned(),
            qos: item.qos,
            retain: item.retain,
            dup: item.dup,
            expiry_secs: item.expiry_secs,
            empty: item.empty,
        })
    }

    pub(super) fn acknowledge(&mut self, conn: u64, number: u64, code: u8) -> usize {
        let message = MessageId { publisher: "p".to_owned(), number };
        self.put(What::Acknowledged { conn: ConnId(conn), message, code })
    }

    /// A message of `p`, acknowledged above QoS 0.
    pub(super) fn publish(&mut self, conn: u64, item: Item) -> usize {
        let (number, qos) = (item.number, item.qos);
        let place = self.send(conn, item);
        if qos == 0 { place } else { self.acknowledge(conn, number, 0) }
    }

    pub(super) fn receive(&mut self, conn: u64, item: Item) -> usize {
        self.put(What::Received {
            conn: ConnId(conn),
            message: item.message(),
            topic: item.topic.to_owned(),
            qos: item.qos,
            retain: item.retain,
            dup: item.dup,
            packet_id: u16::from(item.qos > 0),
            new: item.new,
        })
    }

    pub(super) fn got(
        &mut self,
        conn: u64,
        publisher: &'static str,
        number: u64,
        topic: &'static str,
        qos: u8,
    ) -> usize {
        self.receive(conn, Item { publisher, ..item(number, topic, qos) })
    }

    /// A fault of the proxy that all clients are connected to.
    pub(super) fn fault(&mut self, kind: &str) -> usize {
        self.fault_of(kind, "proxy 0")
    }

    pub(super) fn fault_of(&mut self, kind: &str, target: &str) -> usize {
        self.put(What::Fault { kind: kind.to_owned(), target: target.to_owned() })
    }

    pub(super) fn healed(&mut self, kind: &str) -> usize {
        self.healed_of(kind, "proxy 0")
    }

    pub(super) fn healed_of(&mut self, kind: &str, target: &str) -> usize {
        self.put(What::Healed { kind: kind.to_owned(), target: target.to_owned() })
    }

    /// The end, a minute after what was last.
    pub(super) fn settle(&mut self) -> usize {
        self.put(What::Quiet);
        self.wait(60_000);
        self.put(What::Settled { in_time: true })
    }
}

impl Item {
    fn message(&self) -> MessageId {
        MessageId { publisher: self.publisher.to_owned(), number: self.number }
    }
}
