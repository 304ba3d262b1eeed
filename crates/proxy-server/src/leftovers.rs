//! Messages whose publisher went before the uplink had room for them: local recipients have them, so the cluster
//! should get them too.

use std::sync::Arc;

use cluster_rpc::frame::Incarnation;

use crate::broker::{Broker, Stalled};
use crate::metrics::DropReason;

/// Sends a message as soon as there is room, but not in another life of this proxy than `life`: what its publisher had
/// sent before it is lost then, and will come again. It comes back when too many wait already.
pub(crate) fn relay(
    broker: &Arc<Broker>,
    stalled: Stalled,
    life: Incarnation,
) -> Result<(), Stalled> {
    let Ok(permit) = Arc::clone(&broker.leftovers).try_acquire_owned() else {
        return Err(stalled);
    };
    let broker = Arc::clone(broker);
    tokio::spawn(async move {
        let mut stalled = stalled;
        loop {
            broker.uplink.window_open().await;
            if broker.uplink.life() != life {
                broker.metrics.count_dropped(DropReason::UplinkFull, 1);
                break;
            }
            match broker.relay(stalled) {
                Ok(()) => break,
                Err(again) => stalled = again,
            }
        }
        drop(permit);
    });
    Ok(())
}
