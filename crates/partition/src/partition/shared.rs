//! Groups of a partition: commands for them, from here and from other partitions.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Partition;
use crate::changes::{Changes, Internal, Stamp};
use crate::command::{AcknowledgeGroup, Publish};
use crate::effect::Delivery;
use crate::group::{Call, Queued};
use crate::id::{ProxyId, SessionId};
use crate::store::{Store, StoreError};

impl Partition {
    /// A command of another partition, or of this one.
    pub(crate) fn handle_internal(
        &mut self,
        internal: Internal,
        stamp: Stamp,
        changes: &mut Changes,
    ) {
        let call = &mut Call { now: stamp.now, changes };
        match internal {
            Internal::JoinGroup(join) => self.groups.join(&join, call),
            Internal::LeaveGroup { filter, session } => self.groups.leave(&filter, session, call),
            Internal::MemberBack { filter, member, arrived } => {
                // Places are told apart by what the member was given: those of other groups are not known here.
                let arrived: SmallVec<[u64; 16]> = arrived
                    .iter()
                    .filter(|(group, _)| self.groups.is_group(*group, &filter))
                    .map(|(_, place)| place.0)
                    .collect();
                self.groups.back(&filter, member, &arrived, call);
            }
            Internal::MemberAway { filter, session } => self.groups.away(&filter, session, call),
            Internal::MemberDrained { session } => self.groups.drained(session, call),
            Internal::Deliver { session, head, message } => {
                if let Some(fed) = self.sessions.find_mut(session) {
                    fed.changed.fed = true;
                }
                self.deliver(session, head, &message, changes);
            }
        }
    }

    pub(super) fn publish_to_groups(
        &mut self,
        publish: &Publish,
        stamp: Stamp,
        changes: &mut Changes,
    ) {
        if self.groups.len() == 0 {
            return;
        }
        let queued = Queued {
            message: Arc::clone(&publish.message),
            expires_at: publish.expires_at,
            publisher: publish.publisher,
            proxy: publish.origin.proxy,
        };
        self.groups.publish(&queued, &mut Call { now: stamp.now, changes });
    }

    /// A member has confirmed messages of a group.
    pub(crate) fn acknowledge_group(
        &mut self,
        acknowledge: &AcknowledgeGroup,
        stamp: Stamp,
        changes: &mut Changes,
    ) {
        let AcknowledgeGroup { group, session, epoch, settled } = acknowledge;
        let call = &mut Call { now: stamp.now, changes };
        self.groups.confirm((*group, *session, *epoch), settled, call);
    }

    /// A session that is not known is over: it may have been a member.
    pub(crate) fn end_member(&mut self, session: SessionId, stamp: Stamp, changes: &mut Changes) {
        self.groups.end(session, &mut Call { now: stamp.now, changes });
    }

    /// Members at a proxy that is gone.
    pub(crate) fn end_members_of(&mut self, proxy: ProxyId, stamp: Stamp, changes: &mut Changes) {
        self.groups.proxy_dead(proxy, &mut Call { now: stamp.now, changes });
    }

    /// Whether queues of groups are to be read.
    pub(crate) fn has_group_pages(&self) -> bool {
        self.groups.has_pages()
    }

    /// Reads some of the queue of a group.
    pub(crate) fn page_groups(
        &mut self,
        stamp: Stamp,
        store: &impl Store,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        self.groups.page(store, &mut Call { now: stamp.now, changes })
    }

    /// Takes what groups have given to members at a proxy; what is left of the budget.
    pub(crate) fn take_of_groups(
        &mut self,
        proxy: ProxyId,
        budget: usize,
        into: &mut Vec<Delivery>,
    ) -> usize {
        self.groups.deliveries(proxy, budget, into)
    }

    /// Everything handled so far is committed.
    pub(crate) fn committed(&mut self, changes: &mut Changes) {
        self.groups.committed(changes);
    }
}
