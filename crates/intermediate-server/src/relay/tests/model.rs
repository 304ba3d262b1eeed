//! Random histories: whatever is lost, broken, killed, refused or repeated, an acknowledged message is
//! where it must be unless its origin was told of a refusal, and in the end everything is acknowledged.
//! The last of the endpoints is the store: it forgets nothing that it took when it is killed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cluster_rpc::frame::OriginId;
use cluster_rpc::origin_of;
use mqtt_codec::ReasonCode;
use proptest::prelude::*;

use super::*;

const FILTERS: [&str; 4] = ["x/1", "x/+", "#", "y"];
const TOPICS: [&str; 3] = ["x/1", "x/2", "y"];
const NAMES: [&str; 4] = ["a", "b", "c", STORE];
const FULL: ReasonCode = ReasonCode::QuotaExceeded;

#[derive(Clone, Debug)]
enum Step {
    Publish { messages: Vec<(usize, u8, bool)> },
    Pump,
    Take { count: usize, tell: bool, refuse: bool },
    BreakDeliver { forget: bool, lose: bool },
    Listen,
    BreakPublish,
    Announce { filter: usize, qos: Option<u8> },
    BreakRoutes,
    Snapshot,
    Kill,
    Restart,
    Barrier,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec((0..TOPICS.len(), 0..3_u8, any::<bool>()), 1..5)
            .prop_map(|messages| Step::Publish { messages }),
        6 => Just(Step::Pump),
        6 => (1..6_usize, any::<bool>(), any::<bool>())
            .prop_map(|(count, tell, refuse)| Step::Take { count, tell, refuse }),
        2 => any::<(bool, bool)>()
            .prop_map(|(forget, lose)| Step::BreakDeliver { forget, lose }),
        4 => Just(Step::Listen),
        2 => Just(Step::BreakPublish),
        4 => (0..FILTERS.len(), prop::option::of(0..3_u8))
            .prop_map(|(filter, qos)| Step::Announce { filter, qos }),
        2 => Just(Step::BreakRoutes),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
        2 => Just(Step::Barrier),
    ]
}

/// An origin and number of its message.
type Id = (OriginId, u64);

/// A QoS >= 1 message its origin has no acknowledgement of.
struct Unacked {
    routed: Routed,
    /// Who had to have it when it was first sent, and when it was last.
    first: BTreeSet<Member>,
    last: BTreeSet<Member>,
    /// Whether the origin was told that somebody does not take it.
    refused: bool,
}

struct Model {
    proxy: Proxy,
    rows: BTreeMap<&'static str, u8>,
    log: Vec<Route>,
    next_seq: u64,
    unacked: VecDeque<Unacked>,
    barriers: VecDeque<(u64, u64)>,
    link: (u64, u64),
    /// Received and not taken, with the link and number to tell.
    inbox: VecDeque<((u64, u64), Id)>,
    newest: BTreeMap<OriginId, u64>,
    taken: BTreeSet<Id>,
    /// Refused here, each time it comes.
    refused: BTreeSet<Id>,
    /// Numbers of the link that are to be told as refused.
    refusals: Vec<u64>,
    /// The lowest number of the link that is refused: what is claimed of it ends before.
    first_refused: Option<u64>,
}

impl Model {
    fn new(proxy: Proxy) -> Self {
        Self {
            proxy,
            rows: BTreeMap::new(),
            log: Vec::new(),
            next_seq: 1,
            unacked: VecDeque::new(),
            barriers: VecDeque::new(),
            link: (0, 0),
            inbox: VecDeque::new(),
            newest: BTreeMap::new(),
            taken: BTreeSet::new(),
            refused: BTreeSet::new(),
            refusals: Vec::new(),
            first_refused: None,
        }
    }

    fn is_store(&self) -> bool {
        self.proxy.member.node.as_str() == STORE
    }

    /// Who must have a message: this life, or the store in whichever of its lives.
    fn holder(&self) -> Member {
        match self.is_store() {
            true => member(STORE, 0),
            false => self.proxy.member.clone(),
        }
    }

    fn must_have(&self, message: &Message) -> bool {
        let matches = |filter| TopicFilter::new(filter).unwrap().matches(&message.topic);
        let subscribed = self.rows.iter().any(|(&filter, &qos)| qos > 0 && matches(filter));
        subscribed || (message.retain && self.is_store())
    }

    fn table(&self) -> Vec<Route> {
        self.rows.iter().map(|(filter, &qos)| route(filter, qos)).collect()
    }
}

struct World {
    net: Net,
    models: Vec<Model>,
    /// Whether a proxy has begun a new life.
    has_killed: bool,
}

impl World {
    fn new() -> Self {
        let mut net = Net::without_store(|config| config.start_grace = Duration::ZERO);
        let join = |(name, life): (&&str, u64)| match *name {
            STORE => Model::new(net.join_store(life, &[])),
            name => Model::new(net.join_as(member(name, life), &[])),
        };
        let models = NAMES.iter().zip(1..).map(join).collect();
        Self { net, models, has_killed: false }
    }

    fn step(&mut self, who: usize, step: Step) {
        match step {
            Step::Publish { messages } => self.publish(who, &messages),
            Step::Pump => self.pump(who),
            Step::Take { count, tell, refuse } => self.take(who, count, (tell, refuse)),
            Step::BreakDeliver { forget, lose } => self.break_deliver(who, forget, lose),
            Step::Listen => self.listen(who),
            Step::BreakPublish => self.break_publish(who),
            Step::Announce { filter, qos } => self.announce(who, FILTERS[filter], qos),
            Step::BreakRoutes => self.break_routes(who),
            Step::Snapshot => {
                let model = &self.models[who];
                let (seq, table) = (model.log.len() as u64, model.table());
                self.net.snapshot(model.proxy.routes, seq, &table);
            }
            Step::Kill => self.kill(who),
            Step::Restart => self.restart(who),
            Step::Barrier => self.barrier(who),
        }
    }

    fn owed(&self, from: usize, message: &Message) -> BTreeSet<Member> {
        let others = self.models.iter().enumerate().filter(|(index, _)| *index != from);
        let owed = others.filter(|(_, model)| model.must_have(message));
        owed.map(|(_, model)| model.holder()).collect()
    }

    fn publish(&mut self, who: usize, messages: &[(usize, u8, bool)]) {
        let mut batch = Vec::new();
        for &(topic, qos, retain) in messages {
            let model = &mut self.models[who];
            let mut routed = message(model.next_seq, TOPICS[topic], qos);
            routed.message.retain = retain;
            model.next_seq += 1;
            batch.push(routed.clone());
            let owed = self.owed(who, &routed.message);
            if qos > 0 {
                let (first, last) = (owed.clone(), owed);
                let unacked = Unacked { routed, first, last, refused: false };
                self.models[who].unacked.push_back(unacked);
            }
        }
        let proxy = self.models[who].proxy.clone();
        self.net.publish(&proxy, batch);
    }

    fn break_publish(&mut self, who: usize) {
        let old = self.models[who].proxy.publish;
        let member = self.models[who].proxy.member.clone();
        self.net.relay.detach(old, self.net.now);
        self.models[who].proxy.publish = self.net.open_publish(&member);
        self.models[who].barriers.clear();
        let mut unacked = std::mem::take(&mut self.models[who].unacked);
        for message in &mut unacked {
            message.last = self.owed(who, &message.routed.message);
        }
        let batch: Vec<_> = unacked.iter().map(|message| message.routed.clone()).collect();
        self.models[who].unacked = unacked;
        if !batch.is_empty() {
            let proxy = self.models[who].proxy.clone();
            self.net.publish(&proxy, batch);
        }
    }

    fn pump(&mut self, who: usize) {
        let model = &mut self.models[who];
        for frame in self.net.said_on_deliver(model.proxy.deliver) {
            match frame {
                DeliverDown::LinkOpen(link) => {
                    model.link = (link, 0);
                    (model.refusals, model.first_refused) = (Vec::new(), None);
                }
                DeliverDown::Batch { first_seq, deliveries } => {
                    let link = model.link.0;
                    let last = model.inbox.back().filter(|((of, _), _)| *of == link);
                    let before = last.map_or(model.link.1, |((_, seq), _)| *seq);
                    assert_eq!(first_seq, before + 1, "numbers of a link have no gap");
                    let ids = deliveries.iter().map(|one| (one.origin, one.routed.seq));
                    let places = (first_seq..).map(|seq| (link, seq));
                    model.inbox.extend(places.zip(ids));
                }
            }
        }
    }

    fn take(&mut self, who: usize, count: usize, (tell, refuse): (bool, bool)) {
        let model = &mut self.models[who];
        for _ in 0..count.min(model.inbox.len()) {
            let Some((place, (origin, seq))) = model.inbox.pop_front() else { break };
            // What came on an earlier link is taken, but told to nobody.
            if place.0 == model.link.0 {
                model.link = place;
            }
            let newest = model.newest.entry(origin).or_default();
            if seq > *newest {
                *newest = seq;
                let places = if refuse { &mut model.refused } else { &mut model.taken };
                places.insert((origin, seq));
            }
            if place.0 == model.link.0 && model.refused.contains(&(origin, seq)) {
                model.refusals.push(place.1);
                model.first_refused.get_or_insert(place.1);
            }
        }
        if tell && model.link.1 > 0 {
            let (proxy, up_to) = (model.proxy.clone(), model.link.1);
            let refusals = std::mem::take(&mut model.refusals);
            let refusals = refusals.into_iter().map(|number| (number, FULL)).collect();
            let (relay, now) = (&mut self.net.relay, self.net.now);
            relay.handle_deliver(proxy.deliver, DeliverUp::Refused(refusals), now).unwrap();
            self.net.take(&proxy, up_to);
        }
    }

    fn break_deliver(&mut self, who: usize, forget: bool, lose: bool) {
        let model = &mut self.models[who];
        self.net.relay.detach(model.proxy.deliver, self.net.now);
        if lose {
            model.inbox.clear();
        }
        if forget {
            model.link = (0, 0);
        }
        // Nobody knows whether a refusal arrived, so what is claimed ends before it.
        let sure = model.first_refused.map_or(u64::MAX, |first| first - 1);
        let link = (model.link.0, model.link.1.min(sure));
        let member = model.proxy.member.clone();
        model.proxy.deliver = self.net.open_deliver(&member, link);
        self.pump(who);
    }

    /// The origin hears what is acknowledged: the heart of the matter.
    fn listen(&mut self, who: usize) {
        let stream = self.models[who].proxy.publish;
        for frame in self.net.said_on_publish(stream) {
            match frame {
                PublishDown::Acked(lanes) => {
                    let up_to = lanes[0].1;
                    let of = |seq| seq <= up_to;
                    while let Some(message) =
                        self.models[who].unacked.pop_front_if(|message| of(message.routed.seq))
                    {
                        self.check_arrived(who, &message);
                    }
                }
                PublishDown::BarrierDone(id) => {
                    let (expected, seq) = self.models[who].barriers.pop_front().unwrap();
                    assert_eq!(id, expected);
                    let waiting = self.models[who].unacked.front();
                    assert!(waiting.is_none_or(|message| message.routed.seq > seq));
                }
                PublishDown::Refused(refused) => {
                    for (_, seq, why) in refused {
                        let unacked = &mut self.models[who].unacked;
                        let mut named = unacked.iter_mut().filter(|one| one.routed.seq == seq);
                        named.next().expect("it is not acknowledged yet").refused = true;
                        assert_eq!(why, FULL);
                    }
                }
                PublishDown::Credit { .. } => {}
            }
        }
    }

    fn check_arrived(&self, from: usize, message: &Unacked) {
        let id = (origin_of(&self.models[from].proxy.member), message.routed.seq);
        let mut was_refused = false;
        for model in &self.models {
            was_refused |= model.refused.contains(&id);
            let member = &model.holder();
            let newest = model.newest.get(&id.0).copied().unwrap_or_default();
            if message.last.contains(member) {
                assert!(newest >= id.1, "{member:?} was passed over: {id:?}");
            }
            if message.last.contains(member) && message.first.contains(member) {
                let taken = model.taken.contains(&id);
                let told = message.refused && model.refused.contains(&id);
                assert!(taken || told, "{member:?} lost {id:?}");
            }
        }
        // Who refused it may have died since.
        assert!(was_refused || !message.refused || self.has_killed, "{id:?} was never refused");
    }

    fn announce(&mut self, who: usize, filter: &'static str, qos: Option<u8>) {
        let model = &mut self.models[who];
        match qos {
            Some(qos) => drop(model.rows.insert(filter, qos)),
            None => drop(model.rows.remove(filter)),
        }
        let row = route(filter, qos.unwrap_or(u8::MAX));
        model.log.push(row.clone());
        self.net.delta(model.proxy.routes, model.log.len() as u64, &[row]);
    }

    fn break_routes(&mut self, who: usize) {
        let model = &mut self.models[who];
        self.net.relay.detach(model.proxy.routes, self.net.now);
        let (member, head) = (model.proxy.member.clone(), model.log.len() as u64);
        let role = if model.is_store() { EndpointRole::Store } else { EndpointRole::Proxy };
        let hello = hello_frame(&member, role, &[]);
        model.proxy.routes = self.net.hello_of(Hello { head_seq: head, ..hello });
        let said = self.net.said_on_routes(model.proxy.routes);
        let RouteDown::Welcome { deltas_from: Some(from), .. } = said[0] else {
            panic!("{said:?}");
        };
        assert_eq!(from, head + 1, "nothing was missed");
    }

    fn kill(&mut self, who: usize) {
        let proxy = self.models[who].proxy.clone();
        for stream in [proxy.routes, proxy.publish, proxy.deliver] {
            self.net.relay.detach(stream, self.net.now);
        }
        let others = self.models.iter().filter(|model| model.proxy.member != proxy.member);
        let alive: Vec<_> = others.map(|model| model.proxy.clone()).collect();
        self.net.pass(Duration::from_secs(7), &alive.iter().collect::<Vec<_>>());
        self.restart(who);
    }

    fn restart(&mut self, who: usize) {
        let old = &self.models[who].proxy.member;
        let member = Member {
            node: old.node.clone(),
            incarnation: Incarnation(old.incarnation.0 + NAMES.len() as u64),
        };
        if self.models[who].is_store() {
            return self.restart_store(who, member);
        }
        let routes = self.net.hello(&member, &[]);
        self.net.snapshot(routes, 0, &[]);
        let publish = self.net.open_publish(&member);
        let deliver = self.net.open_deliver(&member, (0, 0));
        self.models[who] = Model::new(Proxy { member, routes, publish, deliver });
        self.has_killed = true;
    }

    /// The store has its rows and what it took on disk; what it refused, and what it had not taken, not.
    fn restart_store(&mut self, who: usize, member: Member) {
        let publish = self.net.open_publish(&member);
        let deliver = self.net.open_deliver(&member, (0, 0));
        let routes = self.net.hello_of(hello_frame(&member, EndpointRole::Store, &[]));
        let model = &mut self.models[who];
        let (seq, table) = (model.log.len() as u64, model.table());
        self.net.snapshot(routes, seq, &table);
        let new = Model::new(Proxy { member, routes, publish, deliver });
        let Model { rows, log, newest, taken, refused, .. } = std::mem::replace(model, new);
        *model = Model { rows, log, newest, taken, refused, ..Model::new(model.proxy.clone()) };
    }

    fn barrier(&mut self, who: usize) {
        let model = &mut self.models[who];
        let id = 1_000 + model.next_seq;
        model.barriers.push_back((id, model.next_seq - 1));
        let barrier = PublishUp::Barrier { lane: Lane(7), id };
        self.net.relay.handle_publish(model.proxy.publish, barrier, self.net.now).unwrap();
    }

    /// Everyone takes everything: nothing may be left.
    fn settle(&mut self) {
        for _ in 0..3 {
            for who in 0..NAMES.len() {
                self.pump(who);
                self.take(who, usize::MAX, (true, false));
            }
        }
        for who in 0..NAMES.len() {
            self.listen(who);
            assert!(self.models[who].unacked.is_empty());
            assert!(self.models[who].barriers.is_empty());
        }
        assert!(self.net.relay.is_idle());
        let stats = self.net.relay.stats();
        let rows: usize = self.models.iter().map(|model| model.rows.len()).sum();
        assert_eq!((stats.routes, stats.members), (rows as u64, 3));
        assert_eq!((stats.outbox_bytes, stats.congested_outboxes), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_acknowledged_has_arrived_and_everything_is_acknowledged_in_the_end(
        steps in prop::collection::vec((0..NAMES.len(), step()), 1..120),
    ) {
        let mut world = World::new();
        for (who, step) in steps {
            world.step(who, step);
        }
        world.settle();
    }
}
