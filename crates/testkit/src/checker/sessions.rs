//! The lives of sessions, and what they were subscribed to.
//!
//! Owns what is certain and what is possible of both. A life goes from a CONNACK without Session Present over all connections that
//! resumed it. Where a CONNECT of unknown outcome may have put another session in its place, a new life begins that may
//! be the same. Judges nothing.

use std::collections::{HashMap, HashSet};

use mqtt_codec::{TopicFilter, TopicName};

use super::present::may_have_expired;
use super::world::{Arrival, World};
use crate::record::{Filter, What};

/// All sessions and subscriptions of a history.
#[derive(Debug)]
pub(super) struct Sessions<'a> {
    pub(super) lives: Vec<Life>,
    /// By connection; `None` for one that was not `Connected`.
    pub(super) of_conn: Vec<Option<usize>>,
    pub(super) chains: Vec<Chain>,
    pub(super) filters: Vec<FilterInfo<'a>>,
    /// The filters that match each topic.
    pub(super) of_topic: Vec<Vec<usize>>,
    /// Messages that were sent again by a client whose session was another by then.
    pub(super) forgotten: HashSet<usize>,
    /// Subscriptions of a life that match a topic.
    matching: HashMap<(usize, usize), Vec<usize>>,
}

/// A session, as long as it was the same.
#[derive(Debug)]
pub(super) struct Life {
    /// In the order of their CONNACKs.
    pub(super) conns: Vec<usize>,
    /// The life that this one may go on with.
    pub(super) earlier: Option<usize>,
    /// The CONNACK that began the client's next life.
    pub(super) replaced: Option<usize>,
    /// Whether it surely was there, with a connection, at the end.
    pub(super) stays: bool,
    chains: Vec<usize>,
}

/// A filter, as in a SUBSCRIBE.
#[derive(Debug)]
pub(super) struct FilterInfo<'a> {
    pub(super) text: &'a str,
    parsed: Option<TopicFilter>,
    pub(super) shared: bool,
    pub(super) chains: Vec<usize>,
}

/// A subscription of a life, from its first SUBSCRIBE to its UNSUBSCRIBE.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) life: usize,
    pub(super) filter: usize,
    pub(super) asked: Vec<Asked>,
    /// What is certain of it.
    pieces: Vec<Piece>,
    /// The UNSUBSCRIBE.
    pub(super) leaving: Option<usize>,
    /// From here on it surely is not there.
    pub(super) left: Option<usize>,
}

/// A SUBSCRIBE of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) event: usize,
    pub(super) conn: usize,
    pub(super) qos: u8,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) retain_handling: u8,
    /// The SUBACK and its code.
    pub(super) answer: Option<(usize, u8)>,
}

/// A part of its time in which it surely was there with at least these terms.
#[derive(Clone, Copy, Debug)]
struct Piece {
    from: usize,
    until: usize,
    terms: Terms,
}

/// How a subscription gets its messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) qos: u8,
    pub(super) no_local: bool,
}

/// What is put together while the events are gone through.
#[derive(Debug, Default)]
struct Open<'a> {
    /// The chain that goes on with the next SUBSCRIBE of a filter.
    chains: HashMap<(usize, usize), usize>,
    numbers: HashMap<&'a str, usize>,
    /// Chains and the SUBSCRIBEs in them, for each filter of a request without an answer.
    subscribing: HashMap<(usize, u16), Vec<(usize, usize)>>,
    unsubscribing: HashMap<(usize, u16), Vec<usize>>,
}

impl<'a> Sessions<'a> {
    pub(super) fn new(world: &World<'a>) -> Self {
        let mut sessions = Self {
            lives: Vec::new(),
            of_conn: vec![None; world.conns.len()],
            chains: Vec::new(),
            filters: Vec::new(),
            of_topic: Vec::new(),
            forgotten: HashSet::new(),
            matching: HashMap::new(),
        };
        for client in &world.clients {
            sessions.find_lives(world, client);
        }
        let mut open = Open::default();
        for (place, event) in world.events.iter().enumerate() {
            let of_conn = |conn| {
                let conn = *world.places.get(conn)?;
                Some((conn, sessions.of_conn[conn]?))
            };
            match &event.what {
                What::Subscribe { conn, id, filters } => {
                    if let Some((conn, life)) = of_conn(conn) {
                        let requests = sessions.subscribe(&mut open, place, (conn, life), filters);
                        open.subscribing.insert((conn, *id), requests);
                    }
                }
                What::Subscribed { conn, id, codes } => {
                    let request = of_conn(conn).map(|(conn, _)| (conn, *id));
                    let requests = request.and_then(|request| open.subscribing.remove(&request));
                    for (request, code) in requests.into_iter().flatten().zip(codes) {
                        sessions.answer(&mut open, place, request, *code);
                    }
                }
                What::Unsubscribe { conn, id, filters } => {
                    if let Some((conn, life)) = of_conn(conn) {
                        let leaving = sessions.unsubscribe(&mut open, place, life, filters);
                        open.unsubscribing.insert((conn, *id), leaving);
                    }
                }
                What::Unsubscribed { conn, id } => {
                    let request = of_conn(conn).map(|(conn, _)| (conn, *id));
                    let left = request.and_then(|request| open.unsubscribing.remove(&request));
                    for chain in left.into_iter().flatten() {
                        sessions.chains[chain].left.get_or_insert(place);
                    }
                }
                What::Publish { conn, message, .. } => {
                    sessions.notice_forgotten(world, world.places.get(conn).copied(), message);
                }
                _ => {}
            }
        }
        sessions.match_topics(world);
        sessions
    }

    fn notice_forgotten(
        &mut self,
        world: &World<'_>,
        conn: Option<usize>,
        message: &crate::record::MessageId,
    ) {
        let (Some(conn), Some(message)) = (conn, world.message(message)) else { return };
        if self.of_conn[conn] != self.of_conn[world.messages[message].first_conn] {
            self.forgotten.insert(message);
        }
    }

    fn find_lives(&mut self, world: &World<'_>, client: &[usize]) {
        let mut connected: Vec<_> =
            client.iter().filter_map(|&conn| Some((world.conns[conn].connected?, conn))).collect();
        connected.sort_unstable_by_key(|(connected, _)| connected.event);
        let mut last: Option<(usize, usize)> = None;
        for (connected, conn) in connected {
            let goes_on = last.filter(|_| connected.session_present);
            let same = goes_on.filter(|&(before, _)| {
                world.conns[before].expiry_secs > 0 && !is_doubtful(world, before, conn)
            });
            let life = match (same, last) {
                (Some((_, life)), _) => life,
                (None, last) => {
                    if let Some((_, before)) = last {
                        self.lives[before].replaced = Some(connected.event);
                    }
                    self.lives.push(Life {
                        conns: Vec::new(),
                        earlier: goes_on.map(|(_, life)| life),
                        replaced: None,
                        stays: false,
                        chains: Vec::new(),
                    });
                    self.lives.len() - 1
                }
            };
            self.lives[life].conns.push(conn);
            self.of_conn[conn] = Some(life);
            last = Some((conn, life));
        }
        let Some((conn, life)) = last else { return };
        let unknown = |&other: &usize| {
            world.conns[other].connect > world.conns[conn].connect
                && world.conns[other].connect < world.end
                && world.conns[other].connected.is_none()
        };
        self.lives[life].stays = world.stays(conn) && !client.iter().any(unknown);
    }

    fn filter(&mut self, open: &mut Open<'a>, text: &'a str) -> usize {
        let next = self.filters.len();
        let filter = *open.numbers.entry(text).or_insert(next);
        if filter == next {
            let parsed = TopicFilter::new(text).ok();
            let shared = text.starts_with("$share/");
            self.filters.push(FilterInfo { text, parsed, shared, chains: Vec::new() });
        }
        filter
    }

    fn subscribe(
        &mut self,
        open: &mut Open<'a>,
        place: usize,
        (conn, life): (usize, usize),
        filters: &'a [Filter],
    ) -> Vec<(usize, usize)> {
        let mut requests = Vec::with_capacity(filters.len());
        for wanted in filters {
            let filter = self.filter(open, &wanted.filter);
            let next = self.chains.len();
            let chain = *open.chains.entry((life, filter)).or_insert(next);
            if chain == next {
                let (asked, pieces) = (Vec::new(), Vec::new());
                self.chains.push(Chain { life, filter, asked, pieces, leaving: None, left: None });
                self.lives[life].chains.push(chain);
                self.filters[filter].chains.push(chain);
            }
            let chain_of = &mut self.chains[chain];
            // Until the answer either terms may hold.
            if let Some(terms) = chain_of.cut(place) {
                let qos = terms.qos.min(wanted.qos);
                let no_local = terms.no_local || wanted.no_local;
                chain_of.pieces.push(Piece::open(place, Terms { qos, no_local }));
            }
            chain_of.asked.push(Asked {
                event: place,
                conn,
                qos: wanted.qos,
                no_local: wanted.no_local,
                retain_as_published: wanted.retain_as_published,
                retain_handling: wanted.retain_handling,
                answer: None,
            });
            requests.push((chain, chain_of.asked.len() - 1));
        }
        requests
    }

    fn answer(
        &mut self,
        open: &mut Open<'a>,
        place: usize,
        (number, asked): (usize, usize),
        code: u8,
    ) {
        let chain = &mut self.chains[number];
        chain.asked[asked].answer = Some((place, code));
        if chain.leaving.is_some() {
            return;
        }
        chain.cut(place);
        if code < 0x80 {
            let later = &chain.asked[asked + 1..];
            let qos = later.iter().map(|later| later.qos).fold(code, u8::min);
            let no_local = chain.asked[asked..].iter().any(|asked| asked.no_local);
            chain.pieces.push(Piece::open(place, Terms { qos, no_local }));
        } else if chain.asked.iter().all(|asked| asked.answer.is_some_and(|(_, code)| code > 0x80))
        {
            // 0x80 is also said where nobody knows whether it was done.
            chain.leaving = Some(place);
            chain.left = Some(place);
            open.chains.remove(&(chain.life, chain.filter));
        }
    }

    fn unsubscribe(
        &mut self,
        open: &mut Open<'a>,
        place: usize,
        life: usize,
        filters: &'a [String],
    ) -> Vec<usize> {
        let mut leaving = Vec::new();
        for filter in filters {
            let filter = self.filter(open, filter);
            open.chains.remove(&(life, filter));
            // Also of those whose UNSUBSCRIBE was not answered before.
            for &number in &self.lives[life].chains {
                let chain = &mut self.chains[number];
                if chain.filter == filter && chain.left.is_none() {
                    chain.cut(place);
                    chain.leaving.get_or_insert(place);
                    leaving.push(number);
                }
            }
        }
        leaving
    }

    fn match_topics(&mut self, world: &World<'_>) {
        let mut exact: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut wild = Vec::new();
        for (number, filter) in self.filters.iter().enumerate() {
            let Some(parsed) = &filter.parsed else { continue };
            if parsed.has_wildcards() {
                wild.push((number, parsed));
            } else {
                exact.entry(parsed.filter()).or_default().push(number);
            }
        }
        let of_topic = world.topics.names.iter().map(|&name| {
            let Ok(topic) = TopicName::new(name) else { return Vec::new() };
            let mut filters = exact.get(name).cloned().unwrap_or_default();
            let wild = wild.iter().filter(|(_, filter)| filter.matches(&topic));
            filters.extend(wild.map(|&(number, _)| number));
            filters.sort_unstable();
            filters
        });
        self.of_topic = of_topic.collect();
        let mut wanted: HashSet<(usize, usize)> = HashSet::new();
        for arrival in world.arrivals() {
            if let Some(life) = self.of_conn[arrival.conn] {
                wanted.insert((life, world.messages[arrival.message].topic));
            }
        }
        for (life, topic) in wanted {
            let matching = self.find_matching(life, topic);
            self.matching.insert((life, topic), matching);
        }
    }

    fn find_matching(&self, life: usize, topic: usize) -> Vec<usize> {
        let filters = &self.of_topic[topic];
        let is_of = |chain: &usize| filters.binary_search(&self.chains[*chain].filter).is_ok();
        self.lives[life].chains.iter().copied().filter(is_of).collect()
    }

    /// Subscriptions of a life that got something under a topic, as far as they match it; in the order of their SUBSCRIBEs.
    pub(super) fn matching(&self, life: usize, topic: usize) -> impl Iterator<Item = &Chain> {
        let found = self.matching.get(&(life, topic));
        found.into_iter().flatten().map(|&chain| &self.chains[chain])
    }

    /// All subscriptions of a life.
    pub(super) fn chains_of(&self, life: usize) -> impl Iterator<Item = &Chain> {
        self.lives[life].chains.iter().map(|&chain| &self.chains[chain])
    }

    pub(super) fn is_shared(&self, chain: &Chain) -> bool {
        self.filters[chain.filter].shared
    }

    /// Whether a filter is one for a topic that no message has.
    pub(super) fn matches_text(&self, chain: &Chain, topic: &str) -> bool {
        let parsed = self.filters[chain.filter].parsed.as_ref();
        parsed.zip(TopicName::new(topic).ok()).is_some_and(|(filter, topic)| filter.matches(&topic))
    }

    /// The life that something came to.
    pub(super) fn life_of(&self, arrival: &Arrival) -> Option<usize> {
        self.of_conn[arrival.conn]
    }

    /// Whether what came may have come because of a shared subscription.
    pub(super) fn may_be_shared(&self, life: usize, topic: usize) -> bool {
        self.matching(life, topic).any(|chain| self.is_shared(chain))
    }

    /// Why something came.
    pub(super) fn copy(&self, world: &World<'_>, arrival: &Arrival) -> Copy {
        if !arrival.retain {
            return Copy::Live;
        }
        let Some(life) = self.life_of(arrival) else { return Copy::Either };
        let topic = world.messages[arrival.message].topic;
        let as_published = |chain: &Chain| {
            let mut before = chain.asked.iter().filter(|asked| asked.event < arrival.event);
            before.any(|asked| asked.retain_as_published)
        };
        let any =
            self.lives[life].earlier.is_some() || self.matching(life, topic).any(as_published);
        if any { Copy::Either } else { Copy::Retained }
    }
}

/// Why a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// Because it was published.
    Live,
    /// Because it was retained, and the client subscribed.
    Retained,
    /// One of both.
    Either,
}

impl Piece {
    fn open(from: usize, terms: Terms) -> Self {
        Self { from, until: usize::MAX, terms }
    }
}

impl Chain {
    /// Ends what goes on, and returns its terms.
    fn cut(&mut self, place: usize) -> Option<Terms> {
        let last = self.pieces.last_mut().filter(|piece| piece.until == usize::MAX)?;
        last.until = place;
        Some(last.terms)
    }

    /// Its least terms in a time, if it surely was there all that time.
    pub(super) fn terms(&self, from: usize, until: usize) -> Option<Terms> {
        let first = self.pieces.partition_point(|piece| piece.until < from);
        let mut pieces = self.pieces[first..].iter();
        let mut last = pieces.next().filter(|piece| piece.from <= from)?;
        let mut terms = last.terms;
        while last.until < until {
            last = pieces.next().filter(|piece| piece.from == last.until)?;
            terms.qos = terms.qos.min(last.terms.qos);
            terms.no_local |= last.terms.no_local;
        }
        Some(terms)
    }

    /// The first SUBSCRIBE.
    pub(super) fn begun(&self) -> usize {
        self.asked[0].event
    }

    /// The last SUBSCRIBE before a place, and its answer: what shows that it is there.
    pub(super) fn shown(&self, place: usize) -> Vec<usize> {
        let answered = self.asked.iter().filter_map(|asked| Some((asked.event, asked.answer?.0)));
        let last = answered.take_while(|&(_, answer)| answer < place).last();
        last.map_or_else(|| vec![self.begun()], |(asked, answer)| vec![asked, answer])
    }
}

/// Whether another CONNECT may have put another session between these two connections of a client.
fn is_doubtful(world: &World<'_>, before: usize, conn: usize) -> bool {
    let Some(connected) = world.conns[conn].connected else { return true };
    // One that found none any more began another.
    let may_be_over = may_have_expired(world, &world.conns[before], connected);
    world.rivals(before, world.at(connected.event)).any(|other| {
        other != conn
            && world.conns[other].connect < connected.event
            && (world.conns[other].is_destructive() || may_be_over)
    })
}
