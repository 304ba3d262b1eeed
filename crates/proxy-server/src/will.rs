//! Wills and the end of sessions whose clients stay away: the things that happen when nobody is
//! connected.

use std::sync::Arc;
use std::time::Duration;

use mqtt_codec::Message;
use tokio_util::task::AbortOnDropHandle;

use crate::broker::{Broker, Stalled};
use crate::sessions::SessionHandle;

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
                publish(&broker, message);
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

/// Publishes a will. It waits for room in the uplink if it must.
pub(crate) fn publish(broker: &Arc<Broker>, message: Message) {
    if let Err(stalled) = broker.publish_will(message) {
        tokio::spawn(relay_later(Arc::clone(broker), stalled));
    }
}

async fn relay_later(broker: Arc<Broker>, mut stalled: Stalled) {
    while let Some(uplink) = &broker.uplink {
        uplink.window_open().await;
        match broker.relay(stalled) {
            Ok(()) => return,
            Err(again) => stalled = again,
        }
    }
}
