//! What an owner does when time has passed, and what it tidies up bit by bit.

use mqtt_codec::{SubscriptionIds, TopicFilter, TopicName};

use super::Owner;
use crate::changes::{DueWill, Stamp};
use crate::command::{Command, Origin, Publish};
use crate::id::{ProxyId, PublishToken, SessionId, UnixMillis};
use crate::partition::{Left, Source};
use crate::retained::{RetainedPart, page_over};
use crate::row::{EntryHead, message_bytes};
use crate::store::{Room, Store, StoreError};
use crate::will::{Due, Outgoing};

/// Connections of a dead proxy that end at a time.
const CONNECTIONS_AT_A_TIME: usize = 512;
/// Sessions whose retained messages are read at a time.
const SCANS_AT_A_TIME: usize = 8;
/// Retained messages read at a time for one session.
const SCAN_PAGE: usize = 128;
/// And about so many bytes.
const SCAN_BYTES: usize = 1 << 20;
/// Sessions that end at a time.
const ENDS_AT_A_TIME: usize = 512;
/// Keys of known messages are looked through so often.
const KEYS_MILLIS: u64 = 1000;
/// In the past, whatever the time.
const AT_ONCE: UnixMillis = UnixMillis(0);

impl<S: Store> Owner<S> {
    pub(super) fn advance(&mut self, stamp: Stamp) -> Result<(), StoreError> {
        self.bury_some(stamp);
        self.fire_due(stamp);
        for _ in 0..SCANS_AT_A_TIME {
            if !self.may_scan() {
                break;
            }
            let Some(session) = self.scans.pop_front() else { break };
            self.scan(session, stamp);
        }
        self.expire_keys(stamp)?;
        let Self { partitions, store, changes, .. } = self;
        for partition in partitions {
            partition.tidy(stamp.now, store, changes)?;
            if partition.has_group_pages() {
                partition.page_groups(stamp, store, changes)?;
            }
        }
        Ok(())
    }

    /// Looks for keys of known messages that are over, in one partition at a time.
    fn expire_keys(&mut self, stamp: Stamp) -> Result<(), StoreError> {
        if stamp.now >= self.keys_due {
            self.keys_due = UnixMillis(stamp.now.0.saturating_add(KEYS_MILLIS));
            self.keys_left = self.partitions.len();
        }
        let Self { partitions, store, changes, keys_left, .. } = self;
        let Some(at) = keys_left.checked_sub(1) else { return Ok(()) };
        let Some(partition) = partitions.get_mut(at) else { return Ok(()) };
        if partition.expire_keys(stamp.now, store, changes)? == Left::Nothing {
            *keys_left = at;
        }
        Ok(())
    }

    /// Reads queues of groups, which is right only while the store has all of them.
    pub(super) fn page_groups(&mut self) -> Result<(), StoreError> {
        if !self.partitions.iter().any(|partition| partition.has_group_pages()) {
            return Ok(());
        }
        let stamp = self.stamp(self.now);
        let Self { partitions, store, changes, .. } = self;
        for partition in partitions {
            if partition.has_group_pages() {
                partition.page_groups(stamp, store, changes)?;
            }
        }
        self.settle(0, stamp)
    }

    /// Whether there is a session to read retained messages for, and room for them in its queue's rows.
    fn may_scan(&self) -> bool {
        !self.scans.is_empty() && self.room == Room::Enough
    }

    /// When there is something to do next.
    pub(super) fn deadline(&self) -> Option<UnixMillis> {
        let busy = !self.dead.is_empty()
            || self.may_scan()
            || self.keys_left > 0
            || self.partitions.iter().any(|one| one.is_untidy());
        if busy {
            return Some(AT_ONCE);
        }
        let timers = self.partitions.iter().filter_map(|partition| {
            let (at, due, _) = partition.timers().next()?;
            match due {
                Due::End => Some(at),
                Due::Will if partition.outbox().is_full() => None,
                Due::Will => Some(at.max(self.paced_until)),
            }
        });
        let retained = self.partitions.iter().filter_map(|one| one.retained().next_expiry());
        timers.chain(retained).chain([self.keys_due]).min()
    }

    /// The life of a proxy is over.
    pub(super) fn bury(&mut self, proxy: ProxyId, stamp: Stamp) {
        for partition in &mut self.partitions {
            partition.end_members_of(proxy, stamp, &mut self.changes);
        }
        self.ready.forget(proxy);
        self.dead.push_back(proxy);
        self.bury_some(stamp);
    }

    fn bury_some(&mut self, stamp: Stamp) {
        let Some(proxy) = self.dead.front().copied() else { return };
        let mut left = CONNECTIONS_AT_A_TIME;
        for partition in &mut self.partitions {
            left -= partition.leave_some(proxy, left, stamp, &mut self.changes);
            if left == 0 {
                return;
            }
        }
        self.dead.pop_front();
    }

    /// A proxy that is being buried has a connection after all: what it had before ends first, so that what it has
    /// from now on is not taken for that.
    pub(super) fn finish_burial(&mut self, command: &Command, stamp: Stamp) {
        let holder = if let Command::Attach(attach) = command {
            attach.holder
        } else if let Command::Reattach(reattach) = command {
            reattach.attach.holder
        } else {
            return;
        };
        if !self.dead.contains(&holder.proxy) {
            return;
        }
        self.dead.retain(|dead| *dead != holder.proxy);
        for partition in &mut self.partitions {
            partition.leave_some(holder.proxy, usize::MAX, stamp, &mut self.changes);
        }
        self.fire_due(stamp);
    }

    /// Wills and ends of sessions, in the order in which they are due. A will that has to wait holds up what
    /// comes behind it in its partition.
    pub(super) fn fire_due(&mut self, stamp: Stamp) {
        let mut ends = ENDS_AT_A_TIME;
        let mut open: Vec<usize> = (0..self.partitions.len()).collect();
        while let Some((due, session, at)) = self.next_due(stamp.now, &open) {
            let partition = &mut self.partitions[at];
            match due {
                Due::Will if partition.outbox().is_full() => open.retain(|one| *one != at),
                Due::Will if !self.pace.take(stamp.now) => {
                    self.paced_until = self.pace.next();
                    open.retain(|one| *one != at);
                }
                Due::Will => {
                    partition.timers_mut().pop(stamp.now);
                    partition.fire(session, stamp.now, &mut self.changes);
                    self.wills += 1;
                }
                Due::End if ends == 0 => return,
                Due::End => {
                    partition.timers_mut().pop(stamp.now);
                    partition.expire(session, stamp, &mut self.changes);
                    ends -= 1;
                }
            }
        }
    }

    /// What is due first in the partitions that are `open`.
    fn next_due(&self, now: UnixMillis, open: &[usize]) -> Option<(Due, SessionId, usize)> {
        let firsts = open.iter().filter_map(|at| {
            let (due_at, due, session) = self.partitions[*at].timers().next()?;
            (due_at <= now).then_some((due_at, due, session, *at))
        });
        firsts.min().map(|(_, due, session, at)| (due, session, at))
    }

    /// A will, to everyone here and to the relays.
    pub(super) fn publish_will(&mut self, will: DueWill, stamp: Stamp) -> Result<(), StoreError> {
        let DueWill { session, publisher, once, message, expires_at } = will;
        let there = usize::from(session.partition().0);
        let Some(partition) = self.partitions.get_mut(there) else { return Ok(()) };
        let outgoing = Outgoing { message: message.clone(), expires_at, once };
        let changes = &mut self.changes;
        let (batch, effects) = (&mut changes.batch, &mut changes.effects);
        partition.outbox_mut().send(outgoing, stamp.lsn, batch, effects);
        let origin = Origin { proxy: ProxyId(0), lane: 0, seq: 0 };
        let token = PublishToken(0);
        let once = Some(once);
        let publish = Publish { token, origin, publisher, once, message, expires_at };
        self.spread(&publish, Source::Here, stamp)
    }

    /// Goes on with what a session is owed of the retained messages.
    fn scan(&mut self, id: SessionId, stamp: Stamp) {
        let there = usize::from(id.partition().0);
        let Some(partition) = self.partitions.get_mut(there) else { return };
        let Some((number, mut scan)) = partition.next_scan(id) else { return };
        let page = self.page(&scan.filter, scan.after.as_ref(), SCAN_PAGE, stamp.now);
        let Self { partitions, changes, .. } = self;
        let Some(partition) = partitions.get_mut(there) else { return };
        let subscription_ids: SubscriptionIds = scan.subscription_id.into_iter().collect();
        let (mut left, mut bytes) =
            (page.next.as_ref().map_or(Left::Nothing, |_| Left::Something), 0);
        let mut next = page.next;
        for found in page.messages {
            if found.version > scan.since {
                continue;
            }
            let qos = scan.qos.min(found.message.qos);
            if bytes > SCAN_BYTES || !partition.has_room_for(id, qos) {
                // It goes on behind the last one that had room.
                (left, next) = (Left::Something, scan.after.take());
                break;
            }
            let head = EntryHead {
                qos,
                retain: true, // [MQTT-3.3.1-8]
                subscription_ids: subscription_ids.clone(),
                expires_at: found.expires_at,
            };
            partition.deliver(id, head, &found.message, changes);
            bytes += message_bytes(&found.message);
            scan.after = Some(found.message.topic.clone());
        }
        scan.after = next;
        partition.move_scan(id, (number, scan), left, changes);
    }

    pub(super) fn page(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        now: UnixMillis,
    ) -> RetainedPart {
        let retained: Vec<_> = self.partitions.iter().map(|one| one.retained()).collect();
        page_over(&retained, filter, after, limit, now)
    }
}
