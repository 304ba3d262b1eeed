//! Messages whose publisher went before the uplink had room for them: local recipients have them, so the cluster
//! should get them too.

use std::sync::Arc;

use crate::broker::{Broker, Published, Stalled};

/// Sends a message as soon as there is room. It comes back when too many wait already.
pub(crate) fn relay(broker: &Arc<Broker>, stalled: Stalled) -> Result<(), Stalled> {
    let Ok(permit) = Arc::clone(&broker.leftovers).try_acquire_owned() else {
        return Err(stalled);
    };
    let broker = Arc::clone(broker);
    tokio::spawn(async move {
        let mut stalled = stalled;
        loop {
            broker.uplink.window_open().await;
            match broker.relay(stalled) {
                Published::Stalled(again) => stalled = again,
                Published::Done(..) | Published::Pending | Published::EarlierLife => break,
            }
        }
        drop(permit);
    });
    Ok(())
}
