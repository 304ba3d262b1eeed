//! All partitions of one process over one store.
//!
//! Owns the store, what the next commit writes, and what waits to go out after it. Invariant: an
//! effect or a delivery comes out only when everything that caused it is committed. Does not: wait,
//! start a thread, read a clock.

use std::sync::Arc;

use mqtt_codec::{ClientId, Message, QoS, TopicFilter, TopicName};

use crate::command::Command;
use crate::config::OwnerConfig;
use crate::effect::{Delivery, Effect};
use crate::id::{Epoch, Holder, ProxyId, SessionId, UnixMillis};
use crate::stats::Stats;
use crate::store::{Room, Store, StoreError};

/// All partitions of one process.
#[derive(Debug)]
pub struct Owner<S> {
    store: S,
    config: OwnerConfig,
}

/// Why a store cannot be owned.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The number of partitions is fixed when a store is made.
    #[error("the store was made with {stored} partitions, and {configured} are configured")]
    Partitions {
        /// What the store says.
        stored: u16,
        /// What was asked for.
        configured: u16,
    },
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether there is more to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Take again.
    Yes,
    /// Wait for [`Effect::Ready`].
    No,
}

/// Retained messages, in the order of partitions and topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainedPage {
    /// With the moment each expires at.
    pub messages: Vec<(Arc<Message>, Option<UnixMillis>)>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<TopicName>,
}

impl<S: Store> Owner<S> {
    /// Reads what is not queued messages.
    ///
    /// # Errors
    /// The store has failed, or was made for another number of partitions.
    pub fn open(store: S, config: OwnerConfig, now: UnixMillis) -> Result<Self, OwnerError> {
        let _ = now;
        Ok(Self { store, config })
    }

    /// Every filter that somebody here wants, with its highest QoS. Later changes come as [`Effect::Route`].
    pub fn routes(&self) -> impl Iterator<Item = (TopicFilter, QoS)> {
        std::iter::empty()
    }

    /// Applies a command. Its effects come out after the next [`commit`](Self::commit).
    pub fn handle(&mut self, command: Command, now: UnixMillis) {
        let _ = (command, now, &mut self.config);
    }

    /// Does what is due, and a little of what is to be tidied up.
    pub fn handle_time(&mut self, now: UnixMillis) {
        let _ = (now, &mut self.config);
    }

    /// When [`handle_time`](Self::handle_time) is to be called; a moment in the past if there is something left to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        None
    }

    /// Whether so much is collected that it is to be committed now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        false
    }

    /// Whether a commit would do anything.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        false
    }

    /// Writes all that was handled since the last time, as one batch, and lets its effects out.
    ///
    /// # Errors
    /// The store has failed: drop the owner, and open the store again.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        let _ = &mut self.config;
        Ok(())
    }

    /// The next effect of what is committed.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        let _ = &mut self.config;
        None
    }

    /// Takes messages for clients of a proxy, of about so many bytes. It may leave changes to commit.
    ///
    /// # Errors
    /// The store has failed: drop the owner, and open the store again.
    pub fn deliveries(
        &mut self,
        proxy: ProxyId,
        bytes: usize,
        now: UnixMillis,
        into: &mut Vec<Delivery>,
    ) -> Result<More, StoreError> {
        let _ = (proxy, bytes, now, into, &mut self.config);
        Ok(More::No)
    }

    /// A page of the retained messages that `filter` matches, behind the topic `after`.
    #[must_use]
    pub fn retained(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        now: UnixMillis,
    ) -> RetainedPage {
        let _ = (filter, after, limit, now);
        RetainedPage::default()
    }

    /// Who has the session of a client.
    #[must_use]
    pub fn holder_of(&self, client: &ClientId) -> Option<(Holder, SessionId, Epoch)> {
        let _ = client;
        None
    }

    /// The proxies that hold sessions.
    #[must_use]
    pub fn proxies(&self) -> Vec<ProxyId> {
        Vec::new()
    }

    /// The proxies of whose messages the last numbers are known.
    #[must_use]
    pub fn origins(&self) -> Vec<ProxyId> {
        Vec::new()
    }

    /// Whether there is room in the store.
    pub fn room(&self) -> Room {
        self.store.room()
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }
}
