//! What goes wrong in a simulated run, and when: drawn from the seed.
//!
//! Owns the faults that are not over yet. A server has one fault at a time; links, disk and speed have theirs beside it.

use partition::Room;

use super::disk::CommitEnd;
use super::network::Notice;
use super::world::World;
use crate::random::Random;

/// Most of the time between two faults, in microseconds: drawn once for each run.
const GAPS: [u64; 3] = [1_000_000, 3_000_000, 8_000_000];

/// What ends a fault.
#[derive(Clone, Debug)]
enum Cure {
    /// The servers are started, those that stop in order when they have stopped.
    Start(Vec<usize>),
    /// It was over at once.
    None,
    /// The server goes on.
    Thaw(usize),
    /// The process is not killed any more when it commits.
    Spare,
    /// What a link holds back is let through.
    Release(usize),
    /// The server's ways are as fast as before.
    Fast(usize),
    /// The disk works.
    Disk,
}

#[derive(Debug)]
struct Open {
    until: u64,
    kind: &'static str,
    target: String,
    cure: Cure,
}

/// The schedule of a run.
#[derive(Debug)]
pub(super) struct Faults {
    random: Random,
    gap: u64,
    next: u64,
    open: Vec<Open>,
    clocks: bool,
    pub(super) count: u64,
}

/// A kind of fault and how often it comes beside the others.
const KINDS: [(Kind, u64); 15] = [
    (Kind::KillProxy, 6),
    (Kind::KillIntermediate, 5),
    (Kind::KillAndHold, 4),
    (Kind::KillSeveral, 2),
    (Kind::KillAll, 1),
    (Kind::KillInCommit, 4),
    (Kind::Stop, 4),
    (Kind::Freeze, 4),
    (Kind::CutLink, 5),
    (Kind::HoldLink, 4),
    (Kind::CutClients, 4),
    (Kind::HoldClient, 3),
    (Kind::Slow, 3),
    (Kind::Disk, 3),
    (Kind::Clock, 3),
];

/// In one of so many runs wall clocks jump: then nobody can say when anything expires.
const CLOCKS: usize = 8;

/// So many milliseconds a wall clock is wrong at most: no lasting session may seem to have expired.
const WRONG: u64 = 1_800_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    KillProxy,
    KillIntermediate,
    KillAndHold,
    KillSeveral,
    KillAll,
    KillInCommit,
    Stop,
    Freeze,
    CutLink,
    HoldLink,
    CutClients,
    HoldClient,
    Slow,
    Disk,
    Clock,
}

impl Faults {
    pub(super) fn new(seed: u64, first: u64) -> Self {
        let mut random = Random::part(seed, "faults");
        let gap = GAPS[random.index(GAPS.len())];
        let clocks = random.index(CLOCKS) == 0;
        Self { random, gap, next: first, open: Vec::new(), clocks, count: 0 }
    }

    /// When something is to be done.
    pub(super) fn next_due(&self) -> u64 {
        self.open.iter().map(|open| open.until).fold(self.next, u64::min)
    }

    /// Does what is due.
    pub(super) fn run(&mut self, world: &mut World) {
        self.cure(world);
        if world.now >= self.next {
            self.next = world.now + self.millis(1, self.gap / 1_000);
            if let Some(open) = self.begin(world) {
                world.tell_fault(open.kind, &open.target);
                self.count += 1;
                self.open.push(open);
            }
        }
    }

    /// Ends all of them now.
    pub(super) fn heal(&mut self, world: &mut World) {
        for open in &mut self.open {
            open.until = 0;
        }
        self.next = u64::MAX;
        self.cure(world);
    }

    /// Whether none is left.
    pub(super) fn are_over(&self) -> bool {
        self.open.is_empty()
    }

    /// What of them is left, in words.
    pub(super) fn unfinished(&self) -> String {
        let open = self.open.iter().map(|open| format!("{}: {}", open.kind, open.target));
        open.collect::<Vec<_>>().join("; ")
    }

    /// The servers that were killed by themselves are to be started again too.
    pub(super) fn died(&mut self, world: &mut World, server: usize) {
        let (until, target) = (world.now + self.away(), world.name(server));
        world.tell_fault("kill", &target);
        // One that stopped just then is started by that.
        let starts = |open: &Open| matches!(&open.cure, Cure::Start(all) if all.contains(&server));
        let known = self.open.iter().any(starts);
        let cure = if known { Cure::None } else { Cure::Start(vec![server]) };
        self.open.push(Open { until, kind: "kill", target, cure });
    }

    fn millis(&mut self, least: u64, most: u64) -> u64 {
        self.random.between(least, most) * 1_000
    }

    /// How long a server is away, in microseconds: sometimes longer than its lease.
    fn away(&mut self) -> u64 {
        match self.random.between(0, 9) {
            0..5 => self.millis(10, 900),
            5..8 => self.millis(500, 4_000),
            _ => self.millis(4_000, 9_000),
        }
    }

    fn cure(&mut self, world: &mut World) {
        let mut place = 0;
        while place < self.open.len() {
            if self.open[place].until > world.now {
                place += 1;
                continue;
            }
            let mut open = self.open.remove(place);
            if self.apply(world, &open.cure) {
                world.tell_healed(open.kind, &open.target);
            } else {
                open.until = world.now + 20_000;
                self.open.insert(place, open);
                place += 1;
            }
        }
    }

    /// Whether it is cured.
    fn apply(&mut self, world: &mut World, cure: &Cure) -> bool {
        match cure {
            Cure::Start(servers) => {
                // One that is still stopping is waited for.
                if servers.iter().any(|&server| world.servers[server].is_running()) {
                    return false;
                }
                for &server in servers {
                    // The clock of a machine that starts may be anything; not so far off that sessions expire.
                    let ahead = self.random.between(0, 400);
                    world.servers[server].jump(i64::try_from(ahead).unwrap_or_default() - 200);
                    world.start(server);
                }
                true
            }
            Cure::None => true,
            Cure::Thaw(server) => {
                world.servers[*server].thaw(world.now);
                true
            }
            Cure::Spare => {
                world.disk.spare();
                true
            }
            Cure::Release(site) => {
                world.net.lock().release(*site);
                true
            }
            Cure::Fast(site) => {
                world.net.lock().slow(*site, 0);
                true
            }
            Cure::Disk => {
                world.disk.heal();
                true
            }
        }
    }

    fn draw(&mut self) -> Kind {
        let total = KINDS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.between(1, total);
        for (kind, weight) in KINDS {
            if at <= weight {
                return kind;
            }
            at -= weight;
        }
        Kind::KillProxy
    }

    /// A fault that can begin now, begun; `None` if what was drawn cannot.
    fn begin(&mut self, world: &mut World) -> Option<Open> {
        match self.draw() {
            Kind::KillProxy => {
                let server = self.random.index(world.proxies());
                self.kill(world, "kill", vec![server])
            }
            Kind::KillIntermediate => self.kill(world, "kill", vec![world.hub()]),
            Kind::KillAndHold => {
                // One proxy comes back later than the others.
                let killed = self.kill(world, "kill", vec![world.hub()])?;
                let after = killed.until - world.now + self.millis(500, 5_000);
                let held = self.hold_link(world, after);
                world.tell_fault(held.kind, &held.target);
                self.open.push(held);
                Some(killed)
            }
            Kind::KillSeveral => {
                let spared = self.random.index(world.servers.len());
                let others = (0..world.servers.len()).filter(|&server| server != spared);
                self.kill(world, "kill", others.collect())
            }
            Kind::KillAll => {
                world.disk.lose_power(0);
                self.kill(world, "kill all", (0..world.servers.len()).collect())
            }
            Kind::KillInCommit => {
                let end = [CommitEnd::Nothing, CommitEnd::Everything][self.random.index(2)];
                let (after, until) = (self.random.between(0, 20), world.now + self.millis(50, 500));
                world.disk.kill_after(after, end);
                let target = world.name(world.hub());
                Some(Open { until, kind: "kill in commit", target, cure: Cure::Spare })
            }
            Kind::Stop => {
                let server = self.random.index(world.servers.len());
                self.stop(world, server)
            }
            Kind::Freeze => {
                let server = self.random.index(world.servers.len());
                self.freeze(world, server)
            }
            Kind::CutLink => Some(self.cut_link(world)),
            Kind::HoldLink => {
                let time = self.millis(50, 5_000);
                Some(self.hold_link(world, time))
            }
            Kind::CutClients => Some(self.cut_clients(world)),
            Kind::HoldClient => self.hold_client(world),
            Kind::Slow => {
                let site = self.random.index(world.servers.len());
                let until = world.now + self.millis(100, 3_000);
                let micros = self.millis(20, 800);
                world.net.lock().slow(site, micros);
                let target = world.name(site);
                Some(Open { until, kind: "slow", target, cure: Cure::Fast(site) })
            }
            Kind::Disk => Some(self.disk(world)),
            Kind::Clock => self.clock(world),
        }
    }

    fn kill(&mut self, world: &mut World, kind: &'static str, servers: Vec<usize>) -> Option<Open> {
        let sound = servers.into_iter().filter(|&server| world.servers[server].is_running());
        // A server that is away already is started by the fault that took it.
        let servers: Vec<_> = sound.filter(|&server| world.servers[server].is_sound()).collect();
        if servers.is_empty() {
            return None;
        }
        let silent = self.random.between(0, 4) == 0;
        let notice = if silent { Notice::Silence } else { Notice::Closed };
        let names: Vec<_> = servers.iter().map(|&server| world.name(server)).collect();
        for &server in &servers {
            world.servers[server].kill(notice);
        }
        let until = world.now + self.away();
        Some(Open { until, kind, target: names.join(", "), cure: Cure::Start(servers) })
    }

    fn stop(&mut self, world: &mut World, server: usize) -> Option<Open> {
        if !world.servers[server].is_sound() {
            return None;
        }
        world.servers[server].stop();
        let until = world.now + self.millis(100, 2_000);
        let target = world.name(server);
        Some(Open { until, kind: "graceful restart", target, cure: Cure::Start(vec![server]) })
    }

    fn freeze(&mut self, world: &mut World, server: usize) -> Option<Open> {
        if !world.servers[server].is_sound() {
            return None;
        }
        let time = match self.random.between(0, 2) {
            0 => self.millis(5, 300),
            1 => self.millis(300, 3_000),
            _ => self.millis(3_000, 10_000),
        };
        let until = world.now + time;
        world.servers[server].freeze(until);
        if time > 6_000_000 && self.random.between(0, 2) > 0 {
            // Its peers ask for signs of life meanwhile.
            let mut net = world.net.lock();
            let sites = if server == world.hub() { 0..world.proxies() } else { server..server + 1 };
            for site in sites {
                for connection in net.link(site) {
                    net.cut(connection, Notice::Silence);
                }
            }
        }
        Some(Open { until, kind: "freeze", target: world.name(server), cure: Cure::Thaw(server) })
    }

    fn cut_link(&mut self, world: &World) -> Open {
        let site = self.random.index(world.proxies());
        let which = self.random.index(3);
        let mut net = world.net.lock();
        for (place, connection) in net.link(site).into_iter().rev().enumerate() {
            // The newest, the one before, or all.
            if which == 2 || which == place {
                net.cut(connection, Notice::Closed);
            }
        }
        Open { until: world.now, kind: "cut link", target: world.name(site), cure: Cure::None }
    }

    fn hold_link(&mut self, world: &World, time: u64) -> Open {
        let site = self.random.index(world.proxies());
        let ways = self.random.between(1, 3);
        let mut net = world.net.lock();
        for direction in 0..2 {
            if ways & (1 << direction) != 0 {
                net.hold(site, direction);
            }
        }
        if time > 2_000_000 {
            for connection in net.link(site) {
                net.cut(connection, Notice::Silence);
            }
        }
        let (until, target) = (world.now + time, world.name(site));
        Open { until, kind: "hold link", target, cure: Cure::Release(site) }
    }

    fn cut_clients(&mut self, world: &World) -> Open {
        let site = self.random.index(world.proxies());
        let mut net = world.net.lock();
        for connection in net.clients_of(site, world.clients_site()) {
            if self.random.chance(40) {
                net.cut(connection, Notice::Closed);
            }
        }
        Open { until: world.now, kind: "cut clients", target: world.name(site), cure: Cure::None }
    }

    fn hold_client(&mut self, world: &World) -> Option<Open> {
        let site = self.random.index(world.proxies());
        let mut net = world.net.lock();
        let connections = net.clients_of(site, world.clients_site());
        if connections.is_empty() {
            return None;
        }
        let connection = connections[self.random.index(connections.len())];
        net.hold_connection(connection, self.random.index(2));
        drop(net);
        let until = world.now + self.millis(50, 4_000);
        let target = world.name(site);
        Some(Open { until, kind: "hold client", target, cure: Cure::Release(site) })
    }

    fn disk(&mut self, world: &World) -> Open {
        let (until, kind) = if self.random.chance(50) {
            world.disk.fail_after(self.random.between(0, 10));
            (world.now + self.millis(20, 500), "disk fails")
        } else {
            world.disk.set_room(Room::Low);
            (world.now + self.millis(200, 3_000), "disk full")
        };
        Open { until, kind, target: world.name(world.hub()), cure: Cure::Disk }
    }

    fn clock(&mut self, world: &World) -> Option<Open> {
        if !self.clocks {
            return None;
        }
        let server = self.random.index(world.servers.len());
        let ahead = self.random.between(0, 2 * WRONG).cast_signed();
        world.servers[server].set_clock(ahead - WRONG.cast_signed());
        let target = world.name(server);
        Some(Open { until: world.now, kind: "clock jump", target, cure: Cure::None })
    }
}
