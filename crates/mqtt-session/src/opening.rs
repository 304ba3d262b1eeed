//! What the first two packets agree on: the terms of a connection, and the CONNACK that tells
//! the client where they differ from what it asked for.

use std::time::Duration;

use mqtt_codec::{ClientId, ConnAck, Connect, QoS, ReceiveMaximum};

use crate::version;
use crate::{ServerProfile, Session};

/// Whose idea the client identifier was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOrigin {
    /// The client's.
    Given,
    /// The server's; the CONNACK tells it `[MQTT-3.1.3-7]`.
    Assigned,
}

/// The session a connection starts with, opened by the caller for a CONNECT that
/// [`admit`](crate::admit) let in.
#[derive(Debug)]
pub struct Opened {
    /// Of the client. It is kept, so it should share no read buffer.
    pub client_id: ClientId,
    /// Whose idea it was.
    pub id_origin: IdOrigin,
    /// Where it is kept. It is never an earlier one after Clean Start `[MQTT-3.2.2-2]`.
    pub session: Session,
}

/// What holds for one connection, after both sides have spoken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// How long the client may be silent: one and a half keep alive; `None` for ever.
    pub(crate) silence: Option<Duration>,
    /// How long the session outlives the connection.
    pub(crate) session_expiry_secs: u32,
    /// Whether the client asked for a session that ends with the connection.
    pub(crate) asked_no_expiry: bool,
    /// Whether the client wants reason strings.
    pub(crate) explain: bool,
}

impl Terms {
    pub(crate) fn new(connect: &Connect, profile: &ServerProfile) -> Self {
        let keep_alive = keep_alive(connect, profile);
        let expiry = connect.session_expiry_secs;
        Self {
            // [MQTT-3.1.2-22]
            silence: (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500)),
            session_expiry_secs: expiry.min(profile.maximum_session_expiry_secs),
            asked_no_expiry: expiry == 0,
            explain: connect.request_problem_information,
        }
    }
}

/// The CONNACK that accepts `[MQTT-3.1.4-5]`. A property is there only if it says something.
pub(crate) fn connack(connect: &Connect, opened: &Opened, profile: &ServerProfile) -> ConnAck {
    let terms = Terms::new(connect, profile);
    let keep_alive = keep_alive(connect, profile);
    let differs = |available: bool| (!available).then_some(false);
    ConnAck {
        session_present: opened.session.is_present(), // [MQTT-3.2.2-3]
        session_expiry_secs: (terms.session_expiry_secs != connect.session_expiry_secs)
            .then_some(terms.session_expiry_secs),
        receive_maximum: Some(profile.receive_maximum)
            .filter(|maximum| *maximum != ReceiveMaximum::default()),
        // [MQTT-3.2.2-9]
        maximum_qos: Some(profile.maximum_qos).filter(|qos| *qos < QoS::ExactlyOnce),
        retain_available: differs(profile.retain_available),
        maximum_packet_size: Some(profile.maximum_packet_size).filter(|size| *size < u32::MAX),
        // [MQTT-3.1.3-7] [MQTT-3.2.2-16]
        assigned_client_id: (opened.id_origin == IdOrigin::Assigned)
            .then(|| opened.client_id.clone()),
        topic_alias_maximum: Some(profile.topic_alias_maximum).filter(|maximum| *maximum > 0),
        wildcard_subscription_available: differs(profile.wildcard_subscriptions),
        subscription_ids_available: differs(profile.subscription_ids),
        shared_subscription_available: differs(profile.shared_subscriptions),
        // [MQTT-3.2.2-22]
        server_keep_alive_secs: (keep_alive != connect.keep_alive_secs).then_some(keep_alive),
        // [MQTT-3.1.2-28]
        response_information: profile
            .response_information
            .clone()
            .filter(|_| connect.request_response_information),
        ..ConnAck::default()
    }
}

/// The keep alive that holds, in seconds; 0 for none.
fn keep_alive(connect: &Connect, profile: &ServerProfile) -> u16 {
    let asked = connect.keep_alive_secs;
    if !version::may_set_keep_alive(connect.version) {
        return asked; // [MQTT-3.2.2-22]
    }
    if let Some(imposed) = profile.server_keep_alive_secs {
        return imposed; // [MQTT-3.2.2-21]
    }
    match profile.maximum_keep_alive_secs {
        0 => asked,
        maximum if asked == 0 => maximum,
        maximum => asked.min(maximum),
    }
}
