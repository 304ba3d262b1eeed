//! Who is there: endpoints are admitted, begin new lives, leave and die.
//!
//! Owns no state of its own. Invariant: an endpoint that goes leaves nothing that anyone waits for, and
//! is told to whoever takes the departures. The store never goes: it has what it took on disk, so what
//! waits for it is kept until it, or its next life, has it.

use std::time::Instant;

use cluster_rpc::frame::{
    EndpointRole, Incarnation, Member, NodeId, OriginId, RejectReason, StoreHere,
};

use super::{Attached, Bound, Relay, StreamId, StreamKind, Violation, at};
use crate::endpoint::{Endpoint, Line};
use crate::outbox::Outbox;
use crate::routes::Slot;

/// With this many departures that nobody has taken, nobody is admitted: each that comes can depart.
const MOST_DEPARTED: usize = 65_536;

/// What the first frame of a stream says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening<'a> {
    pub(super) kind: StreamKind,
    pub(super) member: &'a Member,
    /// Said on the route stream alone.
    pub(super) role: Option<EndpointRole>,
}

impl Relay {
    /// Moves the lives that are over since this was last called to `into`: declared dead, left, or
    /// followed by a newer one. Only a relay whose process holds the store remembers them.
    pub fn take_departed(&mut self, into: &mut Vec<Member>) {
        into.append(&mut self.departed);
    }

    /// Whether there is something to take.
    pub(crate) fn has_departed(&self) -> bool {
        !self.departed.is_empty()
    }

    /// Whether exactly this life of an endpoint is here, its routes told or not. If it is, its departure
    /// will be told.
    #[must_use]
    pub fn is_here(&self, member: &Member) -> bool {
        let slot = self.by_node.get(&member.node);
        let endpoint = slot.and_then(|slot| self.endpoints.get(slot.0 as usize)?.as_ref());
        endpoint.is_some_and(|endpoint| endpoint.member == *member)
    }

    /// Whether the life of a proxy that makes messages of this origin is here, its routes told or not.
    #[must_use]
    pub fn has_proxy(&self, origin: OriginId) -> bool {
        self.slots().any(|(_, one)| one.role == EndpointRole::Proxy && one.origin == origin)
    }

    /// The proxies that are here, their routes told or not.
    #[must_use]
    pub fn proxies(&self) -> Vec<Member> {
        let proxies = self.slots().filter(|(_, endpoint)| endpoint.role == EndpointRole::Proxy);
        proxies.map(|(_, endpoint)| endpoint.member.clone()).collect()
    }

    /// A store that was turned away because there is another one, with the node of that: once for each
    /// of its lives.
    pub fn take_second_store(&mut self) -> Option<(Member, NodeId)> {
        let news = std::mem::take(&mut self.second_store_is_news);
        let second = self.second_store.clone().filter(|_| news)?;
        let first = self.endpoints.get(self.store?.0 as usize)?.as_ref()?;
        Some((second, first.member.node.clone()))
    }

    /// The first frame of a stream. `None`: its sender is turned away.
    pub(super) fn bind(
        &mut self,
        stream: StreamId,
        opening: Opening<'_>,
        now: Instant,
    ) -> Result<Option<Slot>, Violation> {
        let Some(&Attached { kind, peer, bound, .. }) = self.streams.get(&stream) else {
            return Ok(None);
        };
        match bound {
            Bound::Closed | Bound::Rejected(_) => return Ok(None),
            Bound::To(_) => return Err(Violation::OpenedTwice),
            Bound::Nobody if kind != opening.kind => return Err(Violation::WrongStream),
            Bound::Nobody => {}
        }
        if self.departed.len() >= MOST_DEPARTED {
            self.set_bound(stream, Bound::Closed);
            return Ok(None);
        }
        self.check_role(&opening)?;
        let slot = match self.admit(&opening, now) {
            Ok(slot) => slot,
            Err(reason) => {
                self.set_bound(stream, Bound::Rejected(reason));
                return Ok(None);
            }
        };
        self.set_bound(stream, Bound::To(slot));
        let endpoint = at(&mut self.endpoints, slot).expect("it was admitted to this slot");
        endpoint.last_heard = now;
        let line = match kind {
            StreamKind::Routes => {
                endpoint.peer = peer;
                &mut endpoint.routes
            }
            StreamKind::Publish => &mut endpoint.publish,
            StreamKind::Deliver => &mut endpoint.deliver,
        };
        let former = line.replace(Line::new(stream));
        if let Some(former) = former {
            self.set_bound(former.stream, Bound::Closed);
        }
        Ok(Some(slot))
    }

    /// What waits for the store must not go because something else takes its name.
    fn check_role(&self, opening: &Opening<'_>) -> Result<(), Violation> {
        let held = self.by_node.get(&opening.member.node).copied();
        let is_the_store = held.is_some() && held == self.store;
        match opening.role {
            Some(EndpointRole::Proxy) if is_the_store => Err(Violation::NoStore),
            Some(EndpointRole::Proxy | EndpointRole::Store) | None => Ok(()),
        }
    }

    /// The slot of a member: its own, its earlier life's (which ends), or a new one.
    fn admit(&mut self, opening: &Opening<'_>, now: Instant) -> Result<Slot, RejectReason> {
        let Opening { member, role, .. } = *opening;
        let held = self.by_node.get(&member.node).copied();
        let is_store = role == Some(EndpointRole::Store);
        if is_store && self.store.is_some_and(|store| Some(store) != held) {
            self.second_store_is_news |= self.second_store.as_ref() != Some(member);
            self.second_store = Some(member.clone());
            return Err(RejectReason::SecondStore);
        }
        let slot = match held {
            Some(slot) => {
                let known = at(&mut self.endpoints, slot).map(|one| one.member.incarnation);
                match known {
                    Some(known) if known > member.incarnation => {
                        return Err(RejectReason::OldIncarnation);
                    }
                    Some(known) if known == member.incarnation => {}
                    Some(_) | None => self.succeed(slot, member.incarnation, now),
                }
                slot
            }
            None => {
                // Others may have named the store, and it may have been too late for them.
                if !is_store {
                    self.retired.check(member)?;
                }
                self.take_slot(member, now)
            }
        };
        if is_store && let Some(endpoint) = at(&mut self.endpoints, slot) {
            endpoint.role = EndpointRole::Store;
            self.store = Some(slot);
        }
        Ok(slot)
    }

    fn take_slot(&mut self, member: &Member, now: Instant) -> Slot {
        let free = self.endpoints.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.endpoints.push(None);
            self.endpoints.len() - 1
        });
        self.endpoints[index] = Some(Endpoint::new(member.clone(), now));
        let slot = Slot(u32::try_from(index).expect("endpoints are far fewer than 2^32"));
        self.by_node.insert(member.node.clone(), slot);
        slot
    }

    /// A new life of the endpoint in `slot`: the old one is fenced, its rows stay for now. What a proxy
    /// has not taken died with its sessions; what the store has not taken is for its next life.
    fn succeed(&mut self, slot: Slot, incarnation: Incarnation, now: Instant) {
        self.close_streams(slot);
        if self.store != Some(slot) {
            self.drop_outbox(slot);
        }
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        let was_member = endpoint.table.is_complete();
        let mut table = std::mem::take(&mut endpoint.table);
        table.renew();
        let outbox = std::mem::take::<Outbox>(&mut endpoint.outbox);
        let Endpoint { role, peer, .. } = *endpoint;
        let member = Member { node: endpoint.member.node.clone(), incarnation };
        self.gate.renewed(&member);
        let new = Endpoint { role, peer, table, outbox, ..Endpoint::new(member, now) };
        let old = std::mem::replace(endpoint, new);
        self.counts.fenced += 1;
        self.departed(&old.member);
        self.retired.insert(old.member);
        if was_member {
            self.say_view_to_all();
        }
    }

    /// The endpoint in `slot` was silent for too long.
    pub(super) fn declare_dead(&mut self, slot: Slot) {
        let Some(Gone { endpoint, was_member, was_awaited }) = self.remove(slot) else {
            return;
        };
        // Who was neither was promised nothing and may come again as it is. Whoever was awaited may
        // have subscribers here: from now on messages are acknowledged without them.
        if was_member || was_awaited {
            self.counts.declared_dead += 1;
            self.retired.insert(endpoint.member);
        }
    }

    /// Whether messages may have been acknowledged here that the endpoint in `slot` should have had.
    pub(super) fn served_without(&mut self, slot: Slot) -> bool {
        let is_member = at(&mut self.endpoints, slot).is_some_and(|one| one.table.is_complete());
        self.gate.is_open() && !is_member
    }

    /// The endpoint in `slot` was declared dead by an earlier life of this relay, as far as can be told: its clients may lack
    /// what was acknowledged without it, and nobody is left who remembers that.
    pub(super) fn turn_away(&mut self, slot: Slot) {
        if let Some(Gone { endpoint, .. }) = self.remove(slot) {
            self.counts.declared_dead += 1;
            self.retired.insert(endpoint.member);
        }
    }

    /// The endpoint in `slot` has said that it goes. The store comes again: it is on disk.
    pub(super) fn leave(&mut self, slot: Slot, now: Instant) {
        if self.store == Some(slot) {
            self.close_streams(slot);
        } else if let Some(Gone { endpoint, .. }) = self.remove(slot) {
            self.counts.left += 1;
            self.retired.insert(endpoint.member);
            self.try_open_gate(now);
        }
    }

    fn remove(&mut self, slot: Slot) -> Option<Gone> {
        self.close_streams(slot);
        self.drop_outbox(slot);
        let mut endpoint = self.endpoints.get_mut(slot.0 as usize).and_then(Option::take)?;
        self.by_node.remove(&endpoint.member.node);
        let was_awaited = self.gate.gone(&endpoint.member.node);
        let was_member = endpoint.table.is_complete();
        endpoint.table.clear(slot, &mut self.routes);
        self.departed(&endpoint.member);
        if was_member {
            self.say_view_to_all();
        }
        Some(Gone { endpoint, was_member, was_awaited })
    }

    /// The life of `member` is over.
    pub(super) fn departed(&mut self, member: &Member) {
        if self.config.store_here == StoreHere::Yes {
            self.departed.push(member.clone());
        }
    }

    pub(super) fn close_streams(&mut self, slot: Slot) {
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        let lines = [endpoint.routes.take(), endpoint.publish.take(), endpoint.deliver.take()];
        for line in lines.into_iter().flatten() {
            self.set_bound(line.stream, Bound::Closed);
        }
    }

    fn drop_outbox(&mut self, slot: Slot) {
        let Some(endpoint) = at(&mut self.endpoints, slot) else {
            return;
        };
        let was_congested = endpoint.outbox.is_congested();
        self.counts.dropped_dead += endpoint.outbox.clear(&mut self.released);
        self.after_release(was_congested, false);
    }
}

/// An endpoint that is no longer here.
struct Gone {
    endpoint: Endpoint,
    was_member: bool,
    was_awaited: bool,
}
