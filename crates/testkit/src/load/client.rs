//! The client's side of a session: packet identifiers, what is not acknowledged yet, what was received and not released.
//!
//! Packets in, answers out: no socket, no clock, no history. Strict: what the server may not send is an error that says
//! so. Knows nothing of other connections or clients.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mqtt_codec::{
    Ack, ConnAck, Connect, Packet, PacketId, Publish, PublishProperties, QoS, ReasonCode,
    SubscriptionIds, TopicName, Version,
};

use crate::record::{Filter, MessageId};

/// A message of a publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub message: MessageId,
    pub topic: TopicName,
    pub qos: QoS,
    pub retain: bool,
    pub expiry_secs: Option<u32>,
    /// Empty for a deletion.
    pub payload: Bytes,
}

/// What a PUBLISH from the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// `None` if the payload is empty.
    pub message: Option<MessageId>,
    pub topic: TopicName,
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    /// 0 at QoS 0.
    pub packet_id: u16,
    /// False for a repetition of what the session holds.
    pub new: bool,
}

/// A request that is answered by SUBACK or UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Subscribe(Vec<Filter>),
    Unsubscribe(Vec<String>),
}

/// What a packet of the server means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Publish(Arrival),
    /// PUBACK or PUBREC; a PUBREL may have to be sent.
    Acknowledged(Content, u8, Option<Packet>),
    /// PUBCOMP.
    Completed(Content),
    /// PUBREL; PUBCOMP is to be sent.
    Released(Packet),
    Subscribed(u16, Vec<Filter>, Vec<u8>),
    Unsubscribed(u16),
    /// PINGRESP.
    Alive,
    /// DISCONNECT.
    Ended(u8),
}

/// The client's part of a session, and of the connection it is used on.
#[derive(Debug)]
pub(super) struct Session {
    last_id: u16,
    /// In the order in which they were sent first.
    outgoing: Vec<Outgoing>,
    /// QoS 2 from the server: received and not released.
    held: BTreeSet<u16>,
    here: Here,
}

#[derive(Debug)]
struct Outgoing {
    id: PacketId,
    content: Content,
    /// PUBREC has come: PUBREL is what must be sent from now on.
    released: bool,
}

/// What ends with the connection.
#[derive(Debug)]
struct Here {
    version: Version,
    resumed: bool,
    /// Most that may be unacknowledged: by the server, by this client.
    window: usize,
    take: usize,
    alias_maximum: u16,
    aliases: BTreeMap<u16, TopicName>,
    /// PUBLISHes sent here that have neither PUBACK nor PUBREC, in their order.
    unanswered: VecDeque<(u16, QoS)>,
    /// PUBLISHes received here and not done with: whether they are confirmed.
    unconfirmed: BTreeMap<u16, bool>,
    asked: BTreeMap<u16, Asked>,
    pings: u32,
}

impl Session {
    pub(super) fn new() -> Self {
        let here = Here::new(&Connect::new(Version::V5, None), &ConnAck::default());
        Self { last_id: 0, outgoing: Vec::new(), held: BTreeSet::new(), here }
    }

    /// Forgets everything; what was not acknowledged will not be sent again.
    pub(super) fn reset(&mut self) -> Vec<Content> {
        self.held.clear();
        self.outgoing.drain(..).map(|outgoing| outgoing.content).collect()
    }

    /// Begins with a connection that was accepted. What must be sent again, in order: messages with DUP, and PUBREL.
    pub(super) fn begin(
        &mut self,
        connect: &Connect,
        connack: &ConnAck,
    ) -> Vec<(Option<Content>, Packet)> {
        self.here = Here::new(connect, connack);
        let again = self.outgoing.iter().map(|outgoing| {
            if outgoing.released {
                return (None, Packet::PubRel(Ack::new(outgoing.id, ReasonCode::Success)));
            }
            self.here.unanswered.push_back((outgoing.id.value(), outgoing.content.qos));
            let packet = outgoing.content.packet(Some(outgoing.id), true);
            (Some(outgoing.content.clone()), packet)
        });
        again.collect()
    }

    /// Whether another message may be sent before one is acknowledged.
    pub(super) fn has_room(&self, window: usize) -> bool {
        self.outgoing.len() < window.min(self.here.window)
    }

    /// Whether everything sent was acknowledged, and everything asked was answered.
    pub(super) fn is_idle(&self) -> bool {
        self.outgoing.is_empty() && self.here.asked.is_empty()
    }

    /// Whether a SUBSCRIBE or UNSUBSCRIBE waits for its answer.
    pub(super) fn is_asking(&self) -> bool {
        !self.here.asked.is_empty()
    }

    /// A PUBLISH that is sent for the first time.
    pub(super) fn publish(&mut self, content: Content) -> Packet {
        if content.qos == QoS::AtMostOnce {
            return content.packet(None, false);
        }
        let id = self.new_id();
        let packet = content.packet(Some(id), false);
        self.here.unanswered.push_back((id.value(), content.qos));
        self.outgoing.push(Outgoing { id, content, released: false });
        packet
    }

    /// The packet identifier for a request that is sent now.
    pub(super) fn ask(&mut self, asked: Asked) -> PacketId {
        let id = self.new_id();
        self.here.asked.insert(id.value(), asked);
        id
    }

    /// PINGREQ is sent now.
    pub(super) const fn ping(&mut self) -> Packet {
        self.here.pings += 1;
        Packet::PingReq
    }

    /// PUBACK or PUBREC for what was received.
    pub(super) fn confirm(&mut self, id: u16, qos: QoS) -> Option<Packet> {
        let ack = Ack::new(PacketId::new(id)?, ReasonCode::Success);
        if qos == QoS::ExactlyOnce {
            self.here.unconfirmed.insert(id, true);
            return Some(Packet::PubRec(ack));
        }
        self.here.unconfirmed.remove(&id);
        Some(Packet::PubAck(ack))
    }

    /// What `packet` means, or what is wrong with it.
    pub(super) fn handle(&mut self, packet: Packet) -> Result<Answer, String> {
        match packet {
            Packet::Publish(publish) => self.arrival(publish).map(Answer::Publish),
            Packet::PubAck(ack) => self.acknowledged(&ack, QoS::AtLeastOnce),
            Packet::PubRec(ack) => self.acknowledged(&ack, QoS::ExactlyOnce),
            Packet::PubRel(ack) => self.released(&ack),
            Packet::PubComp(ack) => self.completed(&ack),
            Packet::SubAck(suback) => self.subscribed(suback.packet_id, &suback.reasons),
            Packet::UnsubAck(unsuback) => self.unsubscribed(unsuback.packet_id, &unsuback.reasons),
            Packet::PingResp if self.here.pings == 0 => Err("PINGRESP without PINGREQ".to_owned()),
            Packet::PingResp => {
                self.here.pings -= 1;
                Ok(Answer::Alive)
            }
            Packet::Disconnect(disconnect) if self.here.version == Version::V5 => {
                Ok(Answer::Ended(disconnect.reason as u8))
            }
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq
            | Packet::Disconnect(_)
            | Packet::Auth(_) => Err(format!("{:?} is not allowed here", packet.packet_type())),
        }
    }

    fn arrival(&mut self, publish: Publish) -> Result<Arrival, String> {
        let topic = self.here.topic(&publish)?;
        let message = MessageId::parse(&publish.payload);
        if message.is_none() && !publish.payload.is_empty() {
            return Err(format!("a payload to {topic} that no client has made"));
        }
        let (qos, retain, dup) = (publish.qos, publish.retain, publish.dup);
        let mut arrival = Arrival { message, topic, qos, retain, dup, packet_id: 0, new: true };
        let Some(id) = publish.packet_id else { return Ok(arrival) };
        let id = id.value();
        if self.here.unconfirmed.len() >= self.here.take {
            return Err(format!("PUBLISH {id} above the receive maximum of {}", self.here.take));
        }
        if self.here.unconfirmed.insert(id, false).is_some() {
            return Err(format!(
                "PUBLISH {id} again on the same connection, or for another message"
            ));
        }
        if qos == QoS::ExactlyOnce {
            arrival.new = self.held.insert(id);
        } else if self.held.contains(&id) {
            return Err(format!("PUBLISH {id} with QoS 1 while it is in use with QoS 2"));
        }
        if !arrival.new && !dup {
            return Err(format!("PUBLISH {id} repeated without DUP [MQTT-3.3.1-1]"));
        }
        arrival.packet_id = id;
        Ok(arrival)
    }

    fn acknowledged(&mut self, ack: &Ack, qos: QoS) -> Result<Answer, String> {
        let id = ack.packet_id;
        let sent = |outgoing: &Outgoing| outgoing.id == id && outgoing.content.qos == qos;
        let Some(place) = self.outgoing.iter().position(|one| sent(one) && !one.released) else {
            return Err(format!("acknowledgement of {} at {qos:?}, which nobody sent", id.value()));
        };
        let first = self.here.unanswered.iter().position(|&(_, sent)| sent == qos);
        match first.and_then(|first| self.here.unanswered.remove(first)) {
            Some((expected, _)) if expected == id.value() => {}
            first => return Err(format!("{} acknowledged before {first:?}", id.value())),
        }
        let code = ack.reason as u8;
        if qos == QoS::AtLeastOnce || ack.reason.is_error() {
            return Ok(Answer::Acknowledged(self.outgoing.remove(place).content, code, None));
        }
        let outgoing = &mut self.outgoing[place];
        outgoing.released = true;
        let pubrel = Packet::PubRel(Ack::new(id, ReasonCode::Success));
        Ok(Answer::Acknowledged(outgoing.content.clone(), code, Some(pubrel)))
    }

    fn completed(&mut self, ack: &Ack) -> Result<Answer, String> {
        let id = ack.packet_id;
        match self.outgoing.iter().position(|one| one.id == id && one.released) {
            Some(place) => Ok(Answer::Completed(self.outgoing.remove(place).content)),
            None => Err(format!("PUBCOMP {} without PUBREL", id.value())),
        }
    }

    fn released(&mut self, ack: &Ack) -> Result<Answer, String> {
        let id = ack.packet_id.value();
        if self.here.unconfirmed.get(&id) == Some(&false) {
            return Err(format!("PUBREL {id} before its PUBREC"));
        }
        self.here.unconfirmed.remove(&id);
        let held = self.held.remove(&id);
        // The server repeats PUBREL when PUBCOMP was lost with an earlier connection.
        if !held && !self.here.resumed {
            return Err(format!("PUBREL {id} for nothing"));
        }
        let reason = if held { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        Ok(Answer::Released(Packet::PubComp(Ack::new(ack.packet_id, reason))))
    }

    fn subscribed(&mut self, id: PacketId, reasons: &[ReasonCode]) -> Result<Answer, String> {
        let Some(Asked::Subscribe(filters)) = self.here.asked.remove(&id.value()) else {
            return Err(format!("SUBACK {} without SUBSCRIBE", id.value()));
        };
        let codes: Vec<_> = reasons.iter().map(|&reason| reason as u8).collect();
        if codes.len() != filters.len() {
            return Err(format!("SUBACK with {} codes for {filters:?}", codes.len()));
        }
        for (filter, &code) in filters.iter().zip(&codes) {
            if code < 0x80 && code != filter.qos {
                return Err(format!("SUBACK grants {code} for {filter:?}"));
            }
        }
        Ok(Answer::Subscribed(id.value(), filters, codes))
    }

    fn unsubscribed(&mut self, id: PacketId, reasons: &[ReasonCode]) -> Result<Answer, String> {
        let Some(Asked::Unsubscribe(filters)) = self.here.asked.remove(&id.value()) else {
            return Err(format!("UNSUBACK {} without UNSUBSCRIBE", id.value()));
        };
        if self.here.version == Version::V5 && reasons.len() != filters.len() {
            return Err(format!("UNSUBACK with {} codes for {filters:?}", reasons.len()));
        }
        Ok(Answer::Unsubscribed(id.value()))
    }

    fn new_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let used = |id: PacketId| {
                self.outgoing.iter().any(|one| one.id == id)
                    || self.here.asked.contains_key(&id.value())
            };
            match PacketId::new(self.last_id) {
                Some(id) if !used(id) => return id,
                _ => {}
            }
        }
    }
}

impl Here {
    fn new(connect: &Connect, connack: &ConnAck) -> Self {
        let window = connack.receive_maximum.unwrap_or_default();
        Self {
            version: connect.version,
            resumed: connack.session_present,
            window: usize::from(window.value()),
            take: usize::from(connect.receive_maximum.value()),
            alias_maximum: connect.topic_alias_maximum,
            aliases: BTreeMap::new(),
            unanswered: VecDeque::new(),
            unconfirmed: BTreeMap::new(),
            asked: BTreeMap::new(),
            pings: 0,
        }
    }

    /// The topic of a PUBLISH, whose alias may stand for it.
    fn topic(&mut self, publish: &Publish) -> Result<TopicName, String> {
        let alias = publish.alias.map(mqtt_codec::TopicAlias::value);
        if alias.is_some_and(|alias| alias > self.alias_maximum) {
            return Err(format!("topic alias {alias:?} above {}", self.alias_maximum));
        }
        match (&publish.topic, alias) {
            (Some(topic), None) => Ok(topic.detached()),
            (Some(topic), Some(alias)) => {
                self.aliases.insert(alias, topic.detached());
                Ok(topic.detached())
            }
            (None, Some(alias)) => match self.aliases.get(&alias) {
                Some(topic) => Ok(topic.clone()),
                None => Err(format!("topic alias {alias} stands for nothing")),
            },
            (None, None) => Err("PUBLISH without a topic".to_owned()),
        }
    }
}

impl Content {
    /// Whether it deletes what is retained.
    pub(super) fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    fn packet(&self, packet_id: Option<PacketId>, dup: bool) -> Packet {
        Packet::Publish(Publish {
            dup,
            qos: self.qos,
            retain: self.retain,
            packet_id,
            topic: Some(self.topic.clone()),
            alias: None,
            expiry_secs: self.expiry_secs,
            subscription_ids: SubscriptionIds::new(),
            properties: PublishProperties::default(),
            payload: self.payload.clone(),
        })
    }
}
