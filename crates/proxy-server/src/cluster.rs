//! What comes from the intermediates: messages for local clients, answers to publishes, and the order to
//! begin again.

use std::sync::Arc;

use cluster_rpc::machine::now;
use cluster_rpc::{UplinkEvent, UplinkEvents};
use mqtt_codec::ReasonCode;

use crate::broker::{Broker, PublishTicket};
use crate::fanout::FanoutCache;
use crate::mailbox::{EndOrder, Mailbox};
use crate::metrics::Tally;

/// Topics whose recipients are remembered for the cluster's messages.
const REMEMBERED_TOPICS: usize = 4096;

/// Serves the uplink's events until it ends.
pub(crate) async fn pump(broker: Arc<Broker>, mut events: UplinkEvents<PublishTicket>) {
    let mut cache = FanoutCache::new(None, REMEMBERED_TOPICS);
    let mut tally = Tally::default();
    while let Some(event) = events.next().await {
        match event {
            UplinkEvent::Deliver(deliveries) => {
                let now = now();
                for incoming in deliveries.routed() {
                    let message = (&incoming.message, incoming.provenance.once);
                    if broker.deliver(message, now, &mut cache, &mut tally) {
                        // A recipient's queue fills up: let its task run before it overflows.
                        tokio::task::yield_now().await;
                    }
                }
                // Only now: every matching session has the messages in its queue.
                deliveries.accept();
                tally.flush(&broker.metrics);
            }
            UplinkEvent::Completed(tickets) => complete(tickets, ReasonCode::Success),
            UplinkEvent::Refused(refused) => {
                for (PublishTicket { mailbox, ticket }, reason) in refused {
                    broker.metrics.refused_publishes.inc();
                    mailbox.complete(std::iter::once(ticket), reason);
                }
            }
            UplinkEvent::Fenced { new, dropped } => {
                tracing::warn!(
                    incarnation = new.0,
                    "taken for dead by the cluster: closing all clients"
                );
                complete(dropped, ReasonCode::UnspecifiedError);
                broker.sessions.order_all(EndOrder(ReasonCode::ServerShuttingDown));
            }
        }
    }
}

/// Answers publishes, with one wake-up for each run of the same client.
fn complete(tickets: Vec<PublishTicket>, reason: ReasonCode) {
    let mut run = Vec::new();
    let mut of: Option<Arc<Mailbox>> = None;
    for PublishTicket { mailbox, ticket } in tickets {
        let same = of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &mailbox));
        if !same && let Some(of) = of.replace(mailbox) {
            of.complete(run.drain(..), reason);
        }
        run.push(ticket);
    }
    if let Some(of) = of {
        of.complete(run.drain(..), reason);
    }
}
