//! Retained messages owed to one new subscription, read page by page.
//!
//! Each page shows the store as it is when the page is read, so what is sent is never older than what the
//! client got live before it.

use std::collections::VecDeque;
use std::time::Instant;

use mqtt_codec::{TopicFilter, TopicName};
use mqtt_session::{Delivery, DeliverySource};

use crate::broker::RetainedRequest;
use crate::retained::{Retained, RetainedStore};

/// How far the reading has come.
#[derive(Debug)]
pub(crate) struct RetainedScan {
    request: RetainedRequest,
    after: Option<TopicName>,
}

impl RetainedScan {
    /// Nothing is read yet.
    #[must_use]
    pub(crate) fn new(request: RetainedRequest) -> Self {
        Self { request, after: None }
    }

    /// Whether it reads for this filter.
    pub(crate) fn is_for(&self, filter: &TopicFilter) -> bool {
        self.request.filter == *filter
    }

    /// Whether a page was read.
    pub(crate) fn has_begun(&self) -> bool {
        self.after.is_some()
    }

    /// Appends the next page of at most `limit` to `to`; `true` when there may be more.
    pub(crate) fn read(
        &mut self,
        store: &RetainedStore,
        limit: usize,
        now: Instant,
        to: &mut VecDeque<Delivery>,
    ) -> bool {
        let page = store.page(&self.request.filter, self.after.as_ref(), limit, now);
        to.extend(page.retained.into_iter().map(|retained| self.delivery(retained)));
        self.after = page.next;
        self.after.is_some()
    }

    fn delivery(&self, Retained { message, expires_at }: Retained) -> Delivery {
        Delivery {
            qos: self.request.qos.min(message.qos),
            // [MQTT-3.3.1-8]
            retain: true,
            subscription_ids: self.request.subscription_id.into_iter().collect(),
            expires_at,
            message,
            source: DeliverySource::Own,
        }
    }
}
