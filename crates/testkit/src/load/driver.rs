//! The life of a client: it connects, is served, leaves, waits and connects again, until the load is over.
//!
//! Writes down what begins and ends connections. What happens on one is in `visit`.

use std::time::Duration;

use fastrand::Rng;
use mqtt_codec::{
    ClientId, ConnAck, Connect, Message, Packet, PublishProperties, QoS, ReasonCode,
    ReceiveMaximum, TopicName, Version,
};
use tokio::time::timeout;

use super::client::Session;
use super::kinds::{Habits, Way};
use super::line::Line;
use super::{Network, Office, Phase};
use crate::record::{ConnId, End, Filter, What, Will};

/// How long a connection may take to be opened.
const OPEN: Duration = Duration::from_secs(10);
/// How long CONNACK may take: a little more than a proxy waits for the store, to hear it say so.
const CONNACK: Duration = Duration::from_secs(11);
/// The same for who is in haste.
const HASTE: Duration = Duration::from_millis(500);
/// How long the server has to close after a DISCONNECT, and after another connection took over.
const CLOSE: Duration = Duration::from_secs(3);
const TAKEN_OVER: Duration = Duration::from_secs(20);
/// Keep Alive, in seconds. Clients ping more often.
const KEEP_ALIVE_SECS: u16 = 6;
/// How long a bout lasts.
const BOUT: Duration = Duration::from_millis(1500);
/// Longest pause after failures to connect.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// A client.
#[derive(Debug)]
pub(super) struct Driver<N> {
    pub number: usize,
    pub habits: Habits,
    pub network: N,
    pub office: Office,
    pub rng: Rng,
    pub session: Session,
    /// What SUBACK has granted in this session.
    pub have: Vec<Filter>,
    pub last_message: u64,
    /// Whether a last SUBSCRIBE was sent when all was quiet.
    pub looked: bool,
    /// It stays away since its connection broke.
    pub mourns: bool,
    /// A clean start whose outcome is unknown: it must be repeated until it is known.
    anew: bool,
    /// A CONNECT whose outcome is unknown may have begun another session, if it found that the earlier one had expired.
    doubtful: bool,
    /// The will of the present connection.
    will: Option<Will>,
    /// The will of the last one, if it is called off when the session goes on in time.
    delayed: Option<Will>,
    /// When the present bout ends.
    pub bout_until: Option<tokio::time::Instant>,
}

impl<N: Network> Driver<N> {
    pub(super) fn new(number: usize, habits: Habits, network: N, office: Office, rng: Rng) -> Self {
        Self {
            number,
            habits,
            network,
            office,
            rng,
            session: Session::new(),
            have: Vec::new(),
            last_message: 0,
            looked: false,
            mourns: false,
            anew: false,
            doubtful: false,
            will: None,
            delayed: None,
            bout_until: None,
        }
    }

    /// Lives until the load is over.
    pub(super) async fn run(mut self) {
        // Not all at the same moment.
        let mut pause = self.jitter(Duration::from_millis(200));
        loop {
            self.rest(pause).await;
            self.rest_between_bouts().await;
            let phase = self.phase();
            if phase == Phase::Over || self.habits.bouts.is_some() && phase != Phase::Run {
                return;
            }
            if std::mem::take(&mut self.mourns) && phase != Phase::Run && self.habits.will.is_some()
            {
                // Never seen again.
                return self.office.ledger().set_ready(self.number, true);
            }
            pause = match self.connect().await {
                Some(line) => self.serve(line).await,
                None => (2 * pause).clamp(Duration::from_millis(20), LONGEST_PAUSE),
            };
            pause = self.jitter(pause);
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.office.phase.current()
    }

    /// Half of `mean` to one and a half.
    pub(super) fn jitter(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(0.5 + self.rng.f64())
    }

    /// Waits, but not beyond the end of the phase.
    async fn rest(&mut self, pause: Duration) {
        tokio::select! {
            biased;
            () = self.office.phase.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    async fn rest_between_bouts(&mut self) {
        let Some(mean) = self.habits.bouts else { return };
        if self.bout_until.is_some_and(|until| until > tokio::time::Instant::now()) {
            return;
        }
        let pause = self.jitter(mean);
        self.rest(pause).await;
        self.bout_until = Some(tokio::time::Instant::now() + BOUT);
    }

    /// A connection that was accepted, at any proxy.
    async fn connect(&mut self) -> Option<Line<N::Stream>> {
        let proxy = self.rng.usize(0..self.network.proxies());
        let opened = timeout(OPEN, self.network.connect(proxy)).await;
        let Ok(Ok(stream)) = opened else {
            self.office.ledger().counts.not_connected += 1;
            return None;
        };
        let conn = self.office.ledger().new_conn();
        let connect = self.introduction(conn, proxy);
        let mut line = Line::new(conn, stream, connect);
        line.send(&Packet::Connect(Box::new(line.connect.clone())));
        let hasty = self.phase() == Phase::Run && self.rng.u8(0..4) == 0;
        let patience = if hasty { self.jitter(HASTE) } else { CONNACK };
        let answer = timeout(patience, line.exchange()).await.ok().flatten();
        let refused = match answer {
            Some(Ok(Packet::ConnAck(connack))) if connack.reason == ReasonCode::Success => {
                self.accepted(&mut line, &connack);
                return Some(line);
            }
            Some(Ok(Packet::ConnAck(connack))) => Some(connack.reason as u8),
            Some(other) => {
                self.violated(conn, format!("{other:?} instead of CONNACK"));
                None
            }
            None => None,
        };
        self.doubtful = self.habits.expiry_secs != u32::MAX;
        self.office.recorder.record(What::NotConnected { conn, code: refused });
        self.office.ledger().counts.not_connected += 1;
        None
    }

    /// The CONNECT that is sent now, and written down.
    fn introduction(&mut self, conn: ConnId, proxy: usize) -> Connect {
        let habits = &self.habits;
        let v5 = habits.version == Version::V5;
        let running = self.office.phase.current() == Phase::Run;
        let chance = running && self.rng.u8(0..100) < habits.clean_start_percent;
        let clean_start = habits.expiry_secs == 0 || self.anew || chance;
        let mut connect = Connect::new(habits.version, ClientId::new(habits.client_id.as_str()));
        connect.clean_start = clean_start;
        connect.session_expiry_secs = if clean_start && !v5 { 0 } else { habits.expiry_secs };
        connect.keep_alive_secs = KEEP_ALIVE_SECS;
        connect.receive_maximum = ReceiveMaximum::new(habits.receive_maximum).unwrap_or_default();
        connect.topic_alias_maximum = habits.alias_maximum;
        // In the end nobody dies any more.
        let topic = habits.will.as_ref().filter(|_| running && self.rng.u8(0..5) > 0);
        self.will = topic.map(|topic| Will {
            message: crate::record::MessageId {
                publisher: format!("will/{}", habits.client_id),
                number: conn.0,
            },
            topic: topic.clone(),
            qos: self.rng.u8(0..3),
            retain: self.rng.u8(0..3) == 0,
            delay_secs: if v5 { [0, 0, 1, 2][self.rng.usize(0..4)] } else { 0 },
        });
        connect.will = self.will.as_ref().map(will_packet);
        if clean_start {
            self.anew = true;
            self.forget();
        }
        self.office.recorder.record(What::Connect {
            conn,
            client_id: self.habits.client_id.clone(),
            version: self.habits.version as u8,
            proxy,
            clean_start,
            expiry_secs: connect.session_expiry_secs,
            will: self.will.clone(),
        });
        connect
    }

    fn accepted(&mut self, line: &mut Line<N::Stream>, connack: &ConnAck) {
        let (conn, session_present) = (line.conn, connack.session_present);
        self.office.recorder.record(What::Connected { conn, session_present });
        self.office.ledger().counts.connected += 1;
        self.anew = false;
        if session_present && line.connect.clean_start {
            self.violated(conn, "a session after a clean start [MQTT-3.2.2-2]".to_owned());
        }
        if let Some(will) = self.delayed.take().filter(|_| session_present) {
            self.office.ledger().called_off(&will.message);
        }
        if !session_present {
            self.forget();
        } else if self.doubtful {
            self.have.clear();
            self.office.ledger().reset(self.habits.slot);
        }
        self.doubtful = false;
        for (content, packet) in self.session.begin(&line.connect, connack) {
            if let Some(content) = content {
                self.office.ledger().cut_off(&content);
                self.office.recorder.record(super::visit::publish_event(conn, &content, true));
            }
            line.send(&packet);
        }
    }

    /// The session is over: what was to be sent again is not, and nothing is owed.
    fn forget(&mut self) {
        self.have.clear();
        let mut ledger = self.office.ledger();
        for content in self.session.reset() {
            ledger.given_up(&content);
        }
        ledger.reset(self.habits.slot);
    }

    pub(super) fn violated(&self, conn: ConnId, text: String) {
        self.office.ledger().counts.violations += 1;
        self.office.recorder.record(What::Violated { conn, text });
    }

    /// Writes down that a connection is over, before anybody else can know.
    pub(super) fn ended(&mut self, line: &Line<N::Stream>, how: End) {
        let abnormal = how != End::Left(0x00);
        self.office.recorder.record(What::Ended { conn: line.conn, how });
        self.over(line, abnormal);
    }

    /// What follows from the end of a connection.
    fn over(&mut self, line: &Line<N::Stream>, abnormal: bool) {
        if let Some(will) = self.will.take().filter(|will| abnormal && will.qos > 0) {
            let topic = TopicName::new(will.topic.as_str()).expect("it was sent");
            let delay = will.delay_secs.min(line.connect.session_expiry_secs);
            let after = Duration::from_secs(u64::from(delay));
            self.office.ledger().due(will.message.clone(), &topic, after);
            self.delayed = Some(will).filter(|_| delay > 0);
        }
        if line.connect.session_expiry_secs == 0 {
            self.forget();
        }
        if self.habits.bouts.is_none() {
            self.office.ledger().set_ready(self.number, false);
        }
    }

    /// Ends a connection as the client likes.
    pub(super) async fn leave(&mut self, mut line: Line<N::Stream>, way: Way) {
        let v5 = line.version() == Version::V5;
        let watched = line.connect.session_expiry_secs == 0 && !self.habits.filters.is_empty();
        match way {
            // What comes on the old connection is not read: with a clean session it would be missed.
            Way::TakeOver if !watched => self.abandon(line),
            Way::LeaveWithWill if v5 => self.say_goodbye(line, 0x04).await,
            Way::Leave => self.say_goodbye(line, 0x00).await,
            Way::LeaveWithWill | Way::Drop | Way::TakeOver => {
                line.unsent.clear();
                self.ended(&line, End::Dropped);
            }
        }
    }

    async fn say_goodbye(&mut self, mut line: Line<N::Stream>, code: u8) {
        let reason = ReasonCode::from_byte(code).unwrap_or_default();
        let disconnect = mqtt_codec::Disconnect { reason, ..Default::default() };
        line.send(&Packet::Disconnect(Box::new(disconnect)));
        self.ended(&line, End::Left(code));
        // Whether it was read in time cannot be known anyway.
        drop(timeout(CLOSE, line.close()).await);
    }

    /// Leaves it to the server to end a connection when the next one takes over.
    fn abandon(&mut self, line: Line<N::Stream>) {
        let conn = line.conn;
        self.over(&line, false);
        let recorder = self.office.recorder.clone();
        self.office.spawn(async move {
            let how = match timeout(TAKEN_OVER, line.last_words()).await {
                Ok(Some(code)) => End::Sent(code),
                Ok(None) => End::Broken,
                Err(_) => End::Dropped,
            };
            recorder.record(What::Ended { conn, how });
        });
    }
}

fn will_packet(will: &Will) -> mqtt_codec::Will {
    mqtt_codec::Will {
        message: Message {
            topic: TopicName::new(will.topic.as_str()).expect("wills have valid topics"),
            payload: will.message.payload(0).into(),
            qos: QoS::from_bits(will.qos).unwrap_or_default(),
            retain: will.retain,
            expiry_secs: None,
            properties: PublishProperties::default(),
        },
        delay_secs: will.delay_secs,
    }
}
