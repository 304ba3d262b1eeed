//! Wills and the end of sessions whose clients stay away: the things that happen when nobody is
//! connected.

use std::sync::Arc;
use std::time::Duration;

use mqtt_codec::Message;
use tokio_util::task::AbortOnDropHandle;

use crate::broker::{Broker, Stalled};
use crate::metrics::DropReason;
use crate::sessions::SessionHandle;
use crate::subscriptions::SessionKey;

/// What the standard takes as "for ever".
const NEVER: u32 = u32::MAX;

/// Starts what must happen to a parked session: its will after `will_delay` seconds, its end after
/// `expiry` seconds, whichever is first `[MQTT-3.1.3-9]`. `None` when nothing ever must.
pub(crate) fn session_timer(
    broker: &Arc<Broker>,
    handle: &Arc<SessionHandle>,
    will_delay: Option<u32>,
    expiry: u32,
) -> Option<AbortOnDropHandle<()>> {
    if will_delay.is_none() && expiry == NEVER {
        return None;
    }
    let (broker, handle) = (Arc::clone(broker), Arc::clone(handle));
    let parked_at = tokio::time::Instant::now();
    let after = move |secs: u32| parked_at + Duration::from_secs(u64::from(secs));
    let timer = async move {
        if let Some(delay) = will_delay.filter(|&delay| delay < expiry) {
            tokio::time::sleep_until(after(delay)).await;
            if let Some(message) = broker.sessions.take_will(&handle) {
                publish(&broker, message, handle.key);
            }
        }
        if expiry == NEVER {
            return;
        }
        tokio::time::sleep_until(after(expiry)).await;
        if let Some(ended) = broker.sessions.expire(&handle) {
            broker.end_session(ended);
        }
    };
    Some(AbortOnDropHandle::new(tokio::spawn(timer)))
}

/// Publishes the will of a session's client, which must not get it back if it asked for No Local
/// `[MQTT-3.8.3-3]`. It waits for room in the uplink if it must; when too many wait, the cluster does
/// not get it, which is counted.
pub(crate) fn publish(broker: &Arc<Broker>, message: Message, of: SessionKey) {
    let late = broker.publish_will(message, of).err();
    if late.and_then(|late| relay(broker, late).err()).is_some() {
        broker.metrics.count_dropped(DropReason::UplinkFull, 1);
    }
}

/// Sends, as soon as there is room, what a client left behind when it went: local recipients have
/// it, the cluster has not. It comes back when too many wait already.
pub(crate) fn relay(broker: &Arc<Broker>, stalled: Stalled) -> Result<(), Stalled> {
    let Ok(permit) = Arc::clone(&broker.leftovers).try_acquire_owned() else {
        return Err(stalled);
    };
    let broker = Arc::clone(broker);
    tokio::spawn(async move {
        relay_later(&broker, stalled).await;
        drop(permit);
    });
    Ok(())
}

async fn relay_later(broker: &Broker, mut stalled: Stalled) {
    while let Some(uplink) = &broker.uplink {
        uplink.window_open().await;
        match broker.relay(stalled) {
            Ok(()) => return,
            Err(again) => stalled = again,
        }
    }
}
