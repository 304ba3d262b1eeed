//! The kinds of clients: each is a set of habits of one and the same driver.
//!
//! Topics: `t/PUBLISHER/N` for numbered messages, `r/PUBLISHER/N` for retained values (one publisher a topic),
//! `w/CLIENT` for wills.

use std::time::Duration;

use fastrand::Rng;
use mqtt_codec::Version;

use super::Plan;
use super::ledger::Ledger;
use crate::record::Filter;

/// What a client is, and how it behaves until publishers stop.
#[derive(Clone, Debug)]
pub(super) struct Habits {
    pub client_id: String,
    pub version: Version,
    /// Session Expiry Interval; 0: its sessions are clean.
    pub expiry_secs: u32,
    /// How often it starts a persistent session anew.
    pub clean_start_percent: u8,
    pub receive_maximum: u16,
    pub alias_maximum: u16,
    pub filters: Vec<Filter>,
    /// Whether the `$share/` filters above are always held, so that the group is owed messages.
    pub anchor: bool,
    /// Where the ledger counts what it is owed, and what its group is.
    pub slot: usize,
    pub group_slot: Option<usize>,
    /// Mean time until it subscribes again: with or without UNSUBSCRIBE before.
    pub resubscribe: Option<Duration>,
    /// Whether it subscribes once more when all is quiet, to see what is retained.
    pub looks: bool,
    /// Longest delay of an acknowledgement.
    pub confirm: Duration,
    /// Mean time until it stops reading for up to three seconds.
    pub stall: Option<Duration>,
    /// Mean time until it leaves, and how long it stays away.
    pub stay: Option<Duration>,
    pub away: Duration,
    /// How long it sometimes stays away when its connection broke. One with a will does not come back if the load comes to
    /// its end meanwhile.
    pub mourns: Option<Duration>,
    pub ways: &'static [Way],
    /// Comes in bouts only, after rests of that mean length.
    pub bouts: Option<Duration>,
    /// The topic of its wills.
    pub will: Option<String>,
    pub publishing: Option<Publishing>,
}

/// What a publisher publishes.
#[derive(Clone, Debug)]
pub(super) struct Publishing {
    pub topics: Vec<String>,
    /// Published to seldom, and often to delete what is retained.
    pub rare: Option<String>,
    /// Mean time between messages.
    pub pause: Duration,
    pub max_bytes: usize,
    /// Most messages without acknowledgement.
    pub window: usize,
    pub retain: bool,
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// DISCONNECT.
    Leave,
    /// DISCONNECT that asks for the will; in MQTT 3.1.1 as `Drop`.
    LeaveWithWill,
    /// Closes.
    Drop,
    /// Connects anew and leaves the old connection open, for the server to end.
    TakeOver,
}

const FOREVER: u32 = u32::MAX;
/// Longer than a lease.
const MOURNING: Duration = Duration::from_secs(15);
const WANDERING: &[Way] = &[Way::Leave, Way::Drop, Way::TakeOver];
const DYING: &[Way] = &[Way::Leave, Way::LeaveWithWill, Way::Drop, Way::Drop, Way::TakeOver];

/// All clients of `plan`.
pub(super) fn clients(plan: &Plan, ledger: &mut Ledger) -> Vec<Habits> {
    let rng = Rng::with_seed(plan.seed);
    let mut crowd = Crowd { plan, ledger, rng, all: Vec::new() };
    for number in 0..plan.publishers {
        crowd.publisher(number);
    }
    for number in 0..plan.retained {
        crowd.retained(number);
    }
    crowd.subscribers();
    for number in 0..plan.wanderers {
        crowd.wanderer(number);
    }
    for number in 0..plan.groups {
        crowd.group(number);
    }
    if plan.wills > 0 {
        crowd.heirs();
    }
    for number in 0..plan.wills {
        crowd.mortal(number);
    }
    for number in 0..plan.rivals {
        crowd.rivals(number);
    }
    crowd.all
}

struct Crowd<'a> {
    plan: &'a Plan,
    ledger: &'a mut Ledger,
    rng: Rng,
    all: Vec<Habits>,
}

impl Crowd<'_> {
    /// Somebody who does nothing but stay connected, with a clean session.
    fn somebody(&mut self, client_id: String) -> Habits {
        let version = if self.rng.bool() { Version::V5 } else { Version::V3_1_1 };
        let v5 = version == Version::V5;
        Habits {
            version,
            expiry_secs: 0,
            clean_start_percent: 0,
            receive_maximum: if v5 && self.rng.bool() { self.rng.u16(10..200) } else { u16::MAX },
            alias_maximum: if v5 && self.rng.bool() { self.rng.u16(1..20) } else { 0 },
            filters: Vec::new(),
            anchor: false,
            slot: self.ledger.add_slot(&client_id),
            group_slot: None,
            resubscribe: None,
            looks: false,
            confirm: Duration::ZERO,
            stall: None,
            stay: None,
            away: Duration::ZERO,
            mourns: None,
            ways: WANDERING,
            bouts: None,
            will: None,
            publishing: None,
            client_id,
        }
    }

    fn publisher(&mut self, number: usize) {
        let name = format!("p{number}");
        let mut habits = self.somebody(name.clone());
        habits.expiry_secs = if number.is_multiple_of(2) { FOREVER } else { 0 };
        habits.stay = self.rng.bool().then_some(Duration::from_secs(3));
        habits.away = Duration::from_millis(100);
        let topics = (0..self.plan.topics).map(|topic| format!("t/{name}/{topic}")).collect();
        habits.publishing = Some(self.publishing(topics, self.plan.pause));
        self.all.push(habits);
    }

    fn publishing(&mut self, topics: Vec<String>, pause: Duration) -> Publishing {
        let window = self.rng.usize(1..24);
        let max_bytes = self.plan.max_bytes;
        Publishing { topics, rare: None, pause, max_bytes, window, retain: false }
    }

    /// A publisher of retained values and a reader of them.
    fn retained(&mut self, number: usize) {
        let name = format!("r{number}");
        let mut writer = self.somebody(name.clone());
        writer.expiry_secs = if self.rng.bool() { FOREVER } else { 0 };
        writer.stay = self.rng.bool().then_some(Duration::from_secs(3));
        writer.away = Duration::from_millis(100);
        let topics = (0..self.plan.topics).map(|topic| format!("r/{name}/{topic}")).collect();
        let mut publishing = self.publishing(topics, 2 * self.plan.pause);
        publishing.retain = true;
        publishing.rare = Some(format!("r/{name}/rare"));
        writer.publishing = Some(publishing);
        self.all.push(writer);
        let mut reader = self.somebody(format!("reader{number}"));
        reader.expiry_secs = if number % 3 == 2 { FOREVER } else { 0 };
        let filter = [format!("r/{name}/+"), format!("r/{name}/0"), "r/#".to_owned()]
            [self.rng.usize(0..3)]
        .clone();
        reader.filters = vec![self.filter(&reader, filter)];
        reader.filters[0].retain_handling = 0;
        reader.resubscribe = Some(Duration::from_millis(500));
        reader.looks = true;
        self.all.push(reader);
    }

    /// Those who stay, of which some are slow.
    fn subscribers(&mut self) {
        let Plan { clean, persistent, slow, .. } = *self.plan;
        for number in 0..clean {
            let mut habits = self.somebody(format!("clean{number}"));
            habits.filters = self.filters(&habits);
            let often = number % 2 == 1;
            habits.resubscribe = often.then_some(Duration::from_secs(2));
            habits.stay = (number % 3 == 2).then_some(Duration::from_secs(2));
            self.all.push(habits);
        }
        for number in 0..persistent {
            let mut habits = self.somebody(format!("persistent{number}"));
            habits.expiry_secs = FOREVER;
            habits.filters = self.filters(&habits);
            habits.resubscribe = (number % 3 == 2).then_some(Duration::from_secs(3));
            self.all.push(habits);
        }
        for number in 0..slow {
            let mut habits = self.somebody(format!("slow{number}"));
            habits.expiry_secs = if number.is_multiple_of(2) { FOREVER } else { 0 };
            if habits.version == Version::V5 {
                habits.receive_maximum = self.rng.u16(1..9);
            }
            // Few topics: what it cannot take in time would only grow.
            let topics = format!("t/p{}/+", self.publisher_number());
            habits.filters = vec![self.filter(&habits, topics)];
            habits.confirm = Duration::from_millis(100);
            habits.stall = Some(Duration::from_secs(4));
            self.all.push(habits);
        }
    }

    fn wanderer(&mut self, number: usize) {
        let mut habits = self.somebody(format!("wanderer{number}"));
        let short = number % 2 == 1 && habits.version == Version::V5;
        habits.expiry_secs = if short { self.rng.u32(1..4) } else { FOREVER };
        habits.away = Duration::from_millis(if short { 1000 } else { 200 });
        habits.mourns = short.then_some(MOURNING);
        habits.clean_start_percent = 15;
        habits.filters = self.filters(&habits);
        habits.stay = Some(Duration::from_millis(1200));
        // Some talk too, and hear themselves or not: both directions of one session, in one set of packet identifiers.
        if number.is_multiple_of(2) {
            let own = self.filter(&habits, format!("t/{}/#", habits.client_id));
            let no_local = habits.version == Version::V5 && self.rng.bool();
            habits.filters.push(Filter { no_local, ..own });
            let topics = vec![format!("t/{}/0", habits.client_id)];
            habits.publishing = Some(self.publishing(topics, 4 * self.plan.pause));
        }
        self.all.push(habits);
    }

    /// One member that is always subscribed and three that come and go.
    fn group(&mut self, number: usize) {
        let topics = match number % 2 {
            0 => format!("t/p{}/#", self.publisher_number()),
            _ => "t/+/0".to_owned(),
        };
        let slot = self.ledger.add_slot(&format!("group{number}"));
        let qos = if number % 3 == 2 || self.rng.u8(0..3) == 0 { 2 } else { 1 };
        for member in 0..4 {
            let mut habits = self.somebody(format!("member{number}-{member}"));
            let filter = self.filter(&habits, format!("$share/group{number}/{topics}"));
            habits.filters = vec![Filter { qos, no_local: false, ..filter }];
            habits.anchor = member == 0;
            // What a member with QoS 2 had when its session ended goes to nobody else [MQTT-4.8.2-5].
            habits.group_slot = (qos == 1).then_some(slot);
            habits.expiry_secs = if member % 2 == 0 { FOREVER } else { 0 };
            if member > 0 {
                habits.stay = Some(Duration::from_secs(2));
                habits.away = Duration::from_millis(300);
                // So that it has something when it leaves.
                habits.confirm = Duration::from_millis(30);
            }
            habits.resubscribe = (member == 2).then_some(Duration::from_secs(3));
            self.all.push(habits);
        }
    }

    /// Those who hear the wills.
    fn heirs(&mut self) {
        for persistent in [true, false] {
            let name = if persistent { "heir" } else { "heir-clean" };
            let mut habits = self.somebody(name.to_owned());
            habits.expiry_secs = if persistent { FOREVER } else { 0 };
            let filter = self.filter(&habits, "w/#".to_owned());
            habits.filters = vec![Filter { qos: if persistent { 2 } else { 1 }, ..filter }];
            habits.resubscribe = (!persistent).then_some(Duration::from_secs(2));
            self.all.push(habits);
        }
    }

    /// One who connects with a will and ends in every way.
    fn mortal(&mut self, number: usize) {
        let mut habits = self.somebody(format!("mortal{number}"));
        habits.will = Some(format!("w/{}", habits.client_id));
        habits.expiry_secs = match (number % 3, habits.version) {
            (0, _) => 0,
            (1, Version::V5) => self.rng.u32(1..4),
            _ => FOREVER,
        };
        habits.stay = Some(Duration::from_millis(800));
        habits.away = Duration::from_millis(1200);
        habits.mourns = Some(MOURNING);
        habits.ways = DYING;
        self.all.push(habits);
    }

    /// One who is there always, and one with the same identifier who comes now and then. With QoS 2 each had to know what
    /// the other holds.
    fn rivals(&mut self, number: usize) {
        let mut habits = self.somebody(format!("rival{number}"));
        habits.expiry_secs = FOREVER;
        habits.filters = self.filters(&habits);
        for filter in &mut habits.filters {
            filter.qos = filter.qos.min(1);
        }
        habits.away = Duration::from_millis(20);
        self.all.push(habits.clone());
        habits.bouts = Some(Duration::from_secs(2));
        self.all.push(habits);
    }

    /// One to three filters, exact and with wildcards, which may overlap.
    fn filters(&mut self, habits: &Habits) -> Vec<Filter> {
        let mut filters: Vec<Filter> = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let publisher = self.publisher_number();
            let topic = self.rng.usize(0..self.plan.topics.max(1));
            let text = match self.rng.u8(0..8) {
                0..3 => format!("t/p{publisher}/{topic}"),
                3..5 => format!("t/p{publisher}/+"),
                5 => format!("t/p{publisher}/#"),
                6 => format!("t/+/{topic}"),
                _ => format!("+/p{publisher}/{topic}/#"),
            };
            if filters.iter().all(|filter| filter.filter != text) {
                filters.push(self.filter(habits, text));
            }
        }
        filters
    }

    fn filter(&mut self, habits: &Habits, filter: String) -> Filter {
        let v5 = habits.version == Version::V5;
        Filter {
            filter,
            qos: [0, 1, 1, 2, 2][self.rng.usize(0..5)],
            no_local: false,
            retain_as_published: v5 && self.rng.bool(),
            retain_handling: if v5 { self.rng.u8(0..3) } else { 0 },
        }
    }

    fn publisher_number(&mut self) -> usize {
        self.rng.usize(0..self.plan.publishers.max(1))
    }
}
