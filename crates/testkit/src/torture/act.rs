//! What a fault does, and that it is healed.
//!
//! Owns the cluster under torture: its processes, the cables between them and to the clients, the disk. Each fault is written
//! down before it begins and after it is over.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::disk::Disk;
use super::faults::{Fault, Kind, Part};
use super::nodes::{Node, Spec, address, faketime};
use crate::random::Random;
use crate::record::{Recorder, What};
use crate::{Flow, LinkProxy};

/// How long a fault waits for what it restarted to be ready: other faults may hold that up.
const READY: Duration = Duration::from_secs(20);
/// How often those that start are asked.
const ASK: Duration = Duration::from_millis(20);
/// The reserve that no disk has.
const ALL_OF_IT: &str = "4EiB";

/// The cluster, and what is between its parts.
#[derive(Debug)]
pub(super) struct World {
    proxies: Vec<Node>,
    intermediate: Node,
    inner: Vec<LinkProxy>,
    clients: Vec<LinkProxy>,
    // After the nodes: they are gone when it goes.
    disk: Disk,
    recorder: Recorder,
    /// Faults that are not over, for people who watch.
    under_way: Mutex<Vec<String>>,
    /// What processes did that they must not.
    troubles: Mutex<Vec<String>>,
    /// What could not be done on this machine.
    unavailable: Mutex<Vec<String>>,
}

impl World {
    /// Starts a cluster with its files in `folder`, and waits until it is ready.
    pub(super) async fn start(
        binary: &Path,
        folder: &Path,
        proxies: usize,
        recorder: Recorder,
    ) -> anyhow::Result<Self> {
        let disk = Disk::new(folder.join("disk"))?;
        let (grpc, admin) = (address()?, address()?);
        let store = disk.store().display().to_string();
        let (listen, admin_listen) = (grpc.to_string(), admin.to_string());
        let flags = [
            ("--listen", listen.as_str()),
            ("--admin-listen", &admin_listen),
            ("--data-directory", &store),
        ];
        let intermediate = Node::new(
            Spec::new("intermediate-server", "intermediate-0", admin, &flags),
            binary,
            folder,
        );
        let mut world = Self {
            proxies: Vec::new(),
            intermediate,
            inner: Vec::new(),
            clients: Vec::new(),
            disk,
            recorder,
            under_way: Mutex::default(),
            troubles: Mutex::default(),
            unavailable: Mutex::default(),
        };
        for number in 0..proxies {
            let (mqtt, admin) = (address()?, address()?);
            let inner = LinkProxy::start(grpc).await;
            let (listen, admin_listen) = (mqtt.to_string(), admin.to_string());
            let there = inner.address().to_string();
            let flags = [
                ("--mqtt-listen", listen.as_str()),
                ("--admin-listen", &admin_listen),
                ("--cluster-intermediates", &there),
            ];
            let name = format!("proxy-{number}");
            let spec = Spec::new("proxy-server", &name, admin, &flags);
            world.proxies.push(Node::new(spec, binary, folder));
            world.clients.push(LinkProxy::start(mqtt).await);
            world.inner.push(inner);
        }
        for node in world.nodes() {
            node.start()?;
        }
        world.all_ready(READY).await.map_err(anyhow::Error::msg)?;
        Ok(world)
    }

    /// The intermediate, then the proxies.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        [&self.intermediate].into_iter().chain(&self.proxies)
    }

    /// How many proxies there are.
    pub(super) const fn proxies(&self) -> usize {
        self.proxies.len()
    }

    /// Where clients connect to a proxy.
    pub(super) fn client_cable(&self, proxy: usize) -> std::net::SocketAddr {
        self.clients[proxy].address()
    }

    /// Whether the disk can be filled under the running store.
    pub(super) const fn has_small_disk(&self) -> bool {
        self.disk.is_small()
    }

    /// The store's disk.
    pub(super) const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Faults that are not over.
    pub(super) fn under_way(&self) -> Vec<String> {
        list(&self.under_way).clone()
    }

    /// What processes did that they must not.
    pub(super) fn troubles(&self) -> Vec<String> {
        list(&self.troubles).clone()
    }

    /// What could not be done here, each once.
    pub(super) fn unavailable(&self) -> Vec<String> {
        list(&self.unavailable).clone()
    }

    /// Waits until every process is ready.
    ///
    /// # Errors
    /// Names the one that was not in time.
    pub(super) async fn all_ready(&self, within: Duration) -> Result<(), String> {
        let end = Instant::now() + within;
        for node in self.nodes() {
            if node.ready(end.saturating_duration_since(Instant::now())).await.is_none() {
                return Err(format!("{} was not ready within {within:?}", node.name()));
            }
        }
        Ok(())
    }

    /// Looks after the processes for ever: reads their metrics, and starts those again that ended by themselves.
    pub(super) async fn watch(&self) {
        loop {
            for node in self.nodes() {
                node.observe().await;
                if let Some(status) = node.ended_by_itself().await {
                    self.trouble(format!("{} ended by itself: {status}", node.name()));
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Does `fault`, and returns when it is over.
    pub(super) async fn act(&self, fault: Fault) {
        let Fault { kind, parts, mut random } = fault;
        if kind == Kind::ClockJump && faketime().is_none() {
            return self.miss("clock-jump: libfaketime is not installed");
        }
        let target = target(kind, &parts);
        let words = format!("{} ({target})", kind.name());
        list(&self.under_way).push(words.clone());
        self.recorder.record(What::Fault { kind: kind.name().to_owned(), target: target.clone() });
        if let Err(error) = self.do_to(kind, &parts, &mut random).await {
            self.trouble(format!("{words}: {error:#}"));
        }
        list(&self.under_way).retain(|other| *other != words);
        self.recorder.record(What::Healed { kind: kind.name().to_owned(), target });
    }

    async fn do_to(&self, kind: Kind, parts: &[Part], random: &mut Random) -> anyhow::Result<()> {
        let nodes: Vec<_> = parts.iter().filter_map(|part| self.node(*part)).collect();
        match kind {
            Kind::KillProxy | Kind::KillProxies | Kind::KillIntermediate | Kind::KillAll => {
                let away = pause(random);
                // Who is first to die and to be back is another one each time.
                let nodes = shuffled(nodes, random);
                self.kill(&nodes, away).await?;
            }
            Kind::StopProxy | Kind::StopIntermediate => freeze(&nodes, frozen(random)).await,
            Kind::RestartProxy | Kind::RestartIntermediate => {
                for node in nodes {
                    self.restart(node).await?;
                }
            }
            // Proxies first: `parts` has the intermediate last.
            Kind::RollingRestart => {
                for node in nodes {
                    self.restart(node).await?;
                    node.ready(READY).await;
                }
            }
            Kind::CutInner | Kind::CutClient => {
                self.link(parts, LinkProxy::cut, lasting(random)).await;
            }
            Kind::HalfOpenInner | Kind::HalfOpenClient => {
                let (there, back) = half_open(random);
                self.link(parts, |link| link.set(there, back), frozen(random)).await;
            }
            Kind::DelayInner | Kind::DelayClient => {
                let flow = Flow::Delayed(Duration::from_millis(random.between(10, 300)));
                self.link(parts, |link| link.set(flow, flow), lasting(random)).await;
            }
            Kind::ThrottleInner | Kind::ThrottleClient => {
                let rate = u32::try_from(random.between(2_000, 100_000)).unwrap_or(u32::MAX);
                let flow = Flow::Throttled(rate);
                self.link(parts, |link| link.set(flow, flow), lasting(random)).await;
            }
            Kind::DiskFull => self.fill_disk(random).await?,
            Kind::ClockJump => self.jump(random).await?,
        }
        Ok(())
    }

    async fn kill(&self, nodes: &[&Node], away: Duration) -> anyhow::Result<()> {
        Node::kill_all(nodes).await;
        sleep(away).await;
        for node in nodes {
            node.start()?;
        }
        let born = Instant::now();
        let mut starting = nodes.to_vec();
        while !starting.is_empty() && born.elapsed() < READY {
            for place in (0..starting.len()).rev() {
                if starting[place].is_ready().await {
                    starting.swap_remove(place).ledger().starts.push(born.elapsed());
                }
            }
            sleep(ASK).await;
        }
        Ok(())
    }

    async fn restart(&self, node: &Node) -> anyhow::Result<()> {
        if let Err(trouble) = node.stop().await {
            self.trouble(trouble);
        }
        node.start()?;
        node.ready(READY).await;
        Ok(())
    }

    async fn link(&self, parts: &[Part], harm: impl Fn(&LinkProxy), time: Duration) {
        let links: Vec<_> = parts.iter().filter_map(|part| self.cable(*part)).collect();
        for link in &links {
            harm(link);
        }
        sleep(time).await;
        for link in &links {
            link.heal();
        }
    }

    async fn fill_disk(&self, random: &mut Random) -> anyhow::Result<()> {
        let time = Duration::from_millis(random.between(1000, 8000));
        if self.disk.is_small() {
            // Sometimes there is no byte left, which the reserve is there to prevent.
            let leave_mib = if random.chance(25) { 0 } else { random.between(128, 255) };
            self.disk.fill(leave_mib)?;
            sleep(time).await;
            return self.disk.empty();
        }
        self.miss("disk-full: no tmpfs can be mounted; the store is started with a reserve that no disk has");
        self.intermediate.set_flags(vec!["--data-reserve".to_owned(), ALL_OF_IT.to_owned()]);
        self.restart(&self.intermediate).await?;
        sleep(time).await;
        self.intermediate.set_flags(Vec::new());
        self.restart(&self.intermediate).await
    }

    async fn jump(&self, random: &mut Random) -> anyhow::Result<()> {
        let secs = i64::try_from(random.between(1, 20)).unwrap_or_default();
        self.intermediate.move_clock(if random.chance(50) { secs } else { -secs });
        self.kill(&[&self.intermediate], pause(random)).await
    }

    /// Something cannot be done on this machine.
    fn miss(&self, what: &str) {
        let mut unavailable = list(&self.unavailable);
        if unavailable.iter().all(|known| known != what) {
            unavailable.push(what.to_owned());
        }
    }

    fn trouble(&self, text: String) {
        list(&self.troubles).push(text);
    }

    fn node(&self, part: Part) -> Option<&Node> {
        match part {
            Part::Proxy(number) => self.proxies.get(number),
            Part::Intermediate => Some(&self.intermediate),
            Part::Inner(_) | Part::Client(_) | Part::Disk => None,
        }
    }

    fn cable(&self, part: Part) -> Option<&LinkProxy> {
        match part {
            Part::Inner(number) => self.inner.get(number),
            Part::Client(number) => self.clients.get(number),
            Part::Proxy(_) | Part::Intermediate | Part::Disk => None,
        }
    }
}

fn shuffled<T>(mut all: Vec<T>, random: &mut Random) -> Vec<T> {
    for last in (1..all.len()).rev() {
        all.swap(last, random.index(last + 1));
    }
    all
}

fn list(list: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Freezes processes: what a long pause of a virtual machine looks like.
async fn freeze(nodes: &[&Node], time: Duration) {
    for node in nodes {
        node.signal("STOP").await;
    }
    sleep(time).await;
    for node in nodes {
        node.signal("CONT").await;
    }
}

/// How long killed processes stay away: half of the time they do not.
fn pause(random: &mut Random) -> Duration {
    let millis = if random.chance(50) { 0 } else { random.between(1, 3000) };
    Duration::from_millis(millis)
}

/// How long something stands still: one time in three beyond the lease of 6 s.
fn frozen(random: &mut Random) -> Duration {
    let (least, most) = if random.chance(33) { (6000, 12_000) } else { (200, 6000) };
    Duration::from_millis(random.between(least, most))
}

/// How long a cable is cut or slow.
fn lasting(random: &mut Random) -> Duration {
    Duration::from_millis(random.between(100, 8000))
}

/// Both directions still, or one, and what was sent meanwhile kept or lost.
fn half_open(random: &mut Random) -> (Flow, Flow) {
    let flow = if random.chance(50) { Flow::Held } else { Flow::Swallowed };
    match random.index(3) {
        0 => (flow, flow),
        1 => (flow, Flow::Whole),
        _ => (Flow::Whole, flow),
    }
}

/// The parts of a fault in words.
fn target(kind: Kind, parts: &[Part]) -> String {
    if matches!(kind, Kind::KillAll | Kind::RollingRestart) {
        return "all".to_owned();
    }
    let words = parts.iter().map(|part| match part {
        Part::Proxy(number) => format!("proxy {number}"),
        Part::Intermediate => "intermediate".to_owned(),
        Part::Inner(number) => format!("inner link {number}"),
        Part::Client(number) => format!("client link {number}"),
        Part::Disk => "disk".to_owned(),
    });
    words.collect::<Vec<_>>().join(", ")
}
