//! Commands to the partitions that they concern.

use mqtt_codec::{QoS, ReasonCode};

use super::Owner;
use crate::changes::{Changes, Stamp};
use crate::command::{Begin, Command, Detach, Publish, Release, Taken, Withdraw};
use crate::effect::{Effect, Refusal};
use crate::id::{PartitionId, RequestId, SessionId};
use crate::partition::{Arrival, Partition, Retains, Source, Whole};
use crate::retained::RetainedAmount;
use crate::store::{Room, Store, StoreError};

/// Whether a request adds to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    Yes,
    No,
}

impl<S: Store> Owner<S> {
    pub(super) fn apply(&mut self, command: Command, stamp: Stamp) -> Result<(), StoreError> {
        match command {
            Command::Publish(publish) => return self.publish(&publish, stamp),
            Command::Attach(attach) => {
                let there = PartitionId::of_client(&attach.client, self.config.partitions);
                let whole = self.whole();
                if let Some((partition, changes)) = self.at(there) {
                    partition.attach(*attach, stamp, whole, changes);
                }
                self.fire_due(stamp);
            }
            Command::Reattach(reattach) => {
                let there = PartitionId::of_client(&reattach.attach.client, self.config.partitions);
                if let Some((partition, changes)) = self.at(there) {
                    partition.reattach(*reattach, stamp, changes);
                }
                self.fire_due(stamp);
            }
            Command::Detach(detach) => self.detach(detach, stamp),
            Command::Withdraw(withdraw) => self.withdraw(&withdraw, stamp),
            Command::ProxyDead(proxy) => {
                self.bury(proxy, stamp);
                self.fire_due(stamp);
            }
            Command::ForgetOrigin(origin) => {
                for partition in &mut self.partitions {
                    partition.forget_origin(origin, &mut self.changes);
                }
            }
            Command::Subscribe(subscribe) => {
                let of = (subscribe.session, subscribe.request);
                if let Some((partition, changes)) = self.asked(of, Growth::Yes) {
                    partition.subscribe(*subscribe, stamp, changes);
                }
            }
            Command::Unsubscribe(unsubscribe) => {
                let of = (unsubscribe.session, unsubscribe.request);
                if let Some((partition, changes)) = self.asked(of, Growth::No) {
                    partition.unsubscribe(*unsubscribe, changes);
                }
            }
            Command::Begin(begin) => self.begin(begin),
            Command::Taken(taken) => self.taken(&taken),
            Command::Release(release) => self.release(release),
            Command::Acknowledge(acknowledge) => {
                if let Some((partition, changes)) = self.at(acknowledge.session.partition()) {
                    partition.acknowledge(acknowledge, changes);
                }
            }
            Command::AcknowledgeGroup(acknowledge) => {
                if let Some((partition, changes)) = self.at(acknowledge.group.partition()) {
                    partition.acknowledge_group(&acknowledge, stamp, changes);
                }
            }
            Command::Sent(id) => {
                if let Some((partition, changes)) = self.at(id.partition) {
                    partition.outbox_mut().sent(id, &mut changes.batch);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin) {
        if let Some((partition, changes)) = self.asked((begin.session, begin.request), Growth::Yes)
        {
            partition.begin_incoming(begin, changes);
        }
    }

    fn taken(&mut self, taken: &Taken) {
        if let Some((partition, changes)) = self.at(taken.session.partition()) {
            partition.take_incoming(taken, changes);
        }
    }

    fn release(&mut self, release: Release) {
        if let Some((partition, changes)) =
            self.asked((release.session, release.request), Growth::No)
        {
            partition.release_incoming(release, changes);
        }
    }

    fn detach(&mut self, detach: Detach, stamp: Stamp) {
        let id = detach.session;
        let found = self.at(id.partition());
        let known = found.filter(|(partition, _)| partition.sessions().find(id).is_some());
        if let Some((partition, changes)) = known {
            partition.detach(detach, stamp, changes);
            return self.fire_due(stamp);
        }
        // A clean session of before the store was opened has no row, but its shares in groups have.
        for partition in &mut self.partitions {
            partition.end_member(id, stamp, &mut self.changes);
        }
    }

    fn withdraw(&mut self, withdraw: &Withdraw, stamp: Stamp) {
        let there = PartitionId::of_client(&withdraw.client, self.config.partitions);
        if let Some((partition, changes)) = self.at(there) {
            partition.withdraw(withdraw, stamp, changes);
        }
        self.fire_due(stamp);
    }

    /// The partition that answers a request; else it is refused.
    fn asked(
        &mut self,
        (session, request): (SessionId, RequestId),
        growth: Growth,
    ) -> Option<(&mut Partition, &mut Changes)> {
        let there = usize::from(session.partition().0);
        let refusal = match growth {
            Growth::Yes if self.room == Room::Low => Refusal::Full,
            Growth::Yes | Growth::No => Refusal::Fenced,
        };
        if refusal == Refusal::Full || there >= self.partitions.len() {
            self.changes.effects.push(Effect::Refused { request, refusal });
            return None;
        }
        self.at(session.partition())
    }

    pub(super) fn at(&mut self, partition: PartitionId) -> Option<(&mut Partition, &mut Changes)> {
        let partition = self.partitions.get_mut(usize::from(partition.0))?;
        Some((partition, &mut self.changes))
    }

    /// What partitions are told of the whole.
    fn whole(&self) -> Whole {
        let limits = self.config.limits;
        let persistent = self.partitions.iter().map(|one| one.sessions().persistent).sum();
        let kept = self.partitions.iter().map(|one| one.retained().amount()).fold(
            RetainedAmount::default(),
            |sum, one| RetainedAmount {
                messages: sum.messages + one.messages,
                bytes: sum.bytes + one.bytes,
            },
        );
        Whole {
            room: self.room,
            sessions_left: limits.sessions.saturating_sub(persistent),
            retained_left: RetainedAmount {
                messages: limits.retained_messages.saturating_sub(kept.messages),
                bytes: limits.retained_bytes.saturating_sub(kept.bytes),
            },
        }
    }

    /// A message from the relays.
    fn publish(&mut self, publish: &Publish, stamp: Stamp) -> Result<(), StoreError> {
        let mut targets = std::mem::take(&mut self.targets);
        self.routes.matches(&publish.message.topic, &mut targets);
        let concerned = !targets.is_empty() || publish.message.retain;
        // Nobody gets it, and it takes a retained message away.
        let only_deletes = targets.is_empty() && publish.message.payload.is_empty();
        let full = |owner: &mut Self| {
            (owner.room == Room::Low && !only_deletes)
                || targets.iter().any(|target| {
                    let partition = owner.partitions.get_mut(usize::from(*target));
                    partition.is_some_and(|partition| partition.would_refuse(publish))
                })
        };
        let refused = publish.message.qos > QoS::AtMostOnce
            && concerned
            && (self.was_refused(publish, &targets)
                || full(self) && !self.was_taken(publish, &targets));
        if refused {
            self.refuse(publish, &targets);
        }
        self.targets = targets;
        if refused {
            self.refused += 1;
            let (token, reason) = (publish.token, ReasonCode::QuotaExceeded);
            self.changes.effects.push(Effect::NotTaken { token, reason });
            return Ok(());
        }
        if concerned { self.spread(publish, Source::Relay, stamp) } else { Ok(()) }
    }

    /// Whether a message was refused when it came before: its publisher may not have heard it.
    fn was_refused(&self, publish: &Publish, targets: &[u16]) -> bool {
        let keeper = self.keeper(publish);
        targets.iter().copied().chain(keeper).any(|target| {
            let partition = self.partitions.get(usize::from(target));
            partition.is_some_and(|partition| partition.lanes().has_refused(publish.origin))
        })
    }

    /// Remembers that a message was refused, as long as it may come again.
    fn refuse(&mut self, publish: &Publish, targets: &[u16]) {
        let keeper = self.keeper(publish);
        for target in targets.iter().copied().chain(keeper) {
            if let Some(partition) = self.partitions.get_mut(usize::from(target)) {
                partition.lanes_mut().refuse(publish.origin);
            }
        }
    }

    /// The partition that keeps a message, if it is retained.
    fn keeper(&self, publish: &Publish) -> Option<u16> {
        let Publish { message, .. } = publish;
        let partitions = self.config.partitions;
        message.retain.then(|| PartitionId::of_topic(&message.topic, partitions).0)
    }

    /// Whether a message has come before: then it is as good as taken.
    fn was_taken(&self, publish: &Publish, targets: &[u16]) -> bool {
        let keeper = self.keeper(publish);
        targets.iter().copied().chain(keeper).all(|target| {
            let partition = self.partitions.get(usize::from(target));
            partition.is_some_and(|partition| partition.lanes().has_taken(publish.origin))
        })
    }

    /// A message for all partitions that it concerns.
    pub(super) fn spread(
        &mut self,
        publish: &Publish,
        source: Source,
        stamp: Stamp,
    ) -> Result<(), StoreError> {
        let mut targets = std::mem::take(&mut self.targets);
        if source == Source::Here {
            self.routes.matches(&publish.message.topic, &mut targets);
        }
        let keeper = self.keeper(publish);
        if let Some(keeper) = keeper
            && !targets.contains(&keeper)
        {
            targets.push(keeper);
        }
        let whole = if keeper.is_some() { self.whole() } else { Whole::of(self.room) };
        let Self { partitions, store, changes, .. } = self;
        let result = targets.iter().try_for_each(|target| {
            let Some(partition) = partitions.get_mut(usize::from(*target)) else { return Ok(()) };
            let retains = if keeper == Some(*target) { Retains::Yes } else { Retains::No };
            partition.publish(Arrival { publish, source, retains }, stamp, whole, store, changes)
        });
        self.targets = targets;
        result
    }
}
