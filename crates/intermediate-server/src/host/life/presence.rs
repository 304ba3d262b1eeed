//! Which lives of proxies there are: those that are over lose their sessions' connections, and after a
//! while their messages' numbers.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use cluster_rpc::frame::Member;
use cluster_rpc::machine::now;
use cluster_rpc::origin_of;
use foldhash::fast::RandomState;
use partition::{Command, ProxyId, Store};

use super::Life;

/// How long the numbers of an origin are kept after it was last there: nothing of it may be on its way.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How often absent origins are looked for.
const LOOK: Duration = Duration::from_secs(60);

/// When who is not there is forgotten.
#[derive(Debug)]
pub(super) struct Presence {
    /// How long a proxy may take to come back to a relay that was away.
    lease: Duration,
    /// When proxies that hold sessions and have not come back are taken for dead.
    judge_at: Option<Instant>,
    /// Since when which origins are not there.
    absent: BTreeMap<ProxyId, Instant>,
    next_look: Instant,
}

impl Presence {
    pub(super) fn new(lease: Duration, now: Instant) -> Self {
        let absent = BTreeMap::new();
        Self { lease, judge_at: None, absent, next_look: now + LOOK }
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.judge_at.map_or(self.next_look, |at| at.min(self.next_look))
    }

    /// The relay serves, and has not done so before, or was away: proxies come back to it now.
    pub(super) fn serving(&mut self, now: Instant) {
        self.judge_at = Some(now + self.lease);
    }

    /// Of the `known` those that are absent for long.
    fn look(
        &mut self,
        known: &[ProxyId],
        present: &HashSet<ProxyId, RandomState>,
        now: Instant,
    ) -> Vec<ProxyId> {
        self.next_look = now + LOOK;
        let absent = known.iter().filter(|proxy| !present.contains(proxy));
        let before = std::mem::take(&mut self.absent);
        let since = |proxy: &ProxyId| before.get(proxy).copied().unwrap_or(now);
        self.absent = absent.map(|proxy| (*proxy, since(proxy))).collect();
        let long = |at: &Instant| now.saturating_duration_since(*at) >= REMEMBERED;
        self.absent.extract_if(.., |_, at| long(at)).map(|(proxy, _)| proxy).collect()
    }
}

impl<S: Store> Life<S> {
    /// These lives are over.
    pub(super) fn departed(&mut self, members: &[Member], now: Instant) {
        for member in members {
            self.declare_dead(ProxyId(origin_of(member).0), now);
        }
        self.attach_freed(now);
    }

    /// Whoever was to come back has done so: proxies that hold sessions and are not here are gone. The
    /// relay alone cannot tell: after a restart it knows only those that have come.
    pub(super) fn judge_absent(&mut self, now: Instant) {
        if self.presence.judge_at.is_none_or(|at| at > now) {
            return;
        }
        self.presence.judge_at = None;
        let present = self.present();
        for proxy in self.owner.proxies() {
            if !present.contains(&proxy) {
                self.declare_dead(proxy, now);
            }
        }
        self.attach_freed(now);
    }

    /// The relay serves already.
    pub(in crate::host) fn serving(&mut self) {
        self.presence.serving(now());
    }

    fn declare_dead(&mut self, proxy: ProxyId, now: Instant) {
        self.owner.handle(Command::ProxyDead(proxy), self.around.clock.unix(now));
        if let Some(line) = self.lines.of_proxy(proxy) {
            self.lines.close(line);
            self.attaches.handle_closed(line);
        }
    }

    pub(super) fn forget_origins(&mut self, now: Instant) {
        if now < self.presence.next_look {
            return;
        }
        let mut present = self.present();
        let others = self.around.uplink.present_origins();
        present.extend(others.into_iter().map(|origin| ProxyId(origin.0)));
        for proxy in self.presence.look(&self.owner.origins(), &present, now) {
            self.owner.handle(Command::ForgetOrigin(proxy), self.around.clock.unix(now));
        }
    }

    fn present(&self) -> HashSet<ProxyId, RandomState> {
        let members = self.around.service.proxies();
        members.iter().map(|member| ProxyId(origin_of(member).0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_forgotten_after_ten_minutes_of_absence() {
        let start = Instant::now();
        let mut origins = Presence::new(Duration::from_secs(6), start);
        let known = [ProxyId(1), ProxyId(2)];
        let present: HashSet<_, RandomState> = [ProxyId(1)].into_iter().collect();
        assert!(origins.look(&known, &present, start).is_empty());
        let after = |secs| start + Duration::from_secs(secs);
        let all: HashSet<_, RandomState> = known.into_iter().collect();
        assert!(origins.look(&known, &present, after(599)).is_empty());
        assert!(origins.look(&known, &all, after(600)).is_empty(), "it has come back");
        assert!(origins.look(&known, &present, after(700)).is_empty());
        assert_eq!(origins.look(&known, &present, after(1_300)), [ProxyId(2)]);
    }
}
