//! Whether a CONNECT may become a connection, decided before any session is touched.
//!
//! Authentication is not decided here: its outcome becomes a [`Refusal`] by [`Refusal::new`].

use mqtt_codec::{ConnAck, Connect, Message, ReasonCode, Will};

use crate::version;
use crate::{ProtocolError, ServerProfile};

/// Why a CONNECT is refused. Send [`connack`](Self::connack), then close the connection and read
/// nothing more from it `[MQTT-3.1.4-6]` `[MQTT-3.2.2-7]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CONNECT refused: {reason:?}")]
pub struct Refusal {
    /// Why. MQTT 3 clients are told the closest return code.
    pub reason: ReasonCode,
    /// The statement the CONNECT broke, if the standard says so.
    pub statement: Option<&'static str>,
}

impl Refusal {
    /// A refusal that the standard leaves to the server, such as [`ReasonCode::NotAuthorized`].
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self { reason, statement: None }
    }

    const fn by(reason: ReasonCode, statement: &'static str) -> Self {
        Self { reason, statement: Some(statement) }
    }

    /// The CONNACK that says so, without session `[MQTT-3.2.2-6]`.
    #[must_use]
    pub fn connack(&self) -> ConnAck {
        let reason = version::fitting(self.reason, mqtt_codec::PacketType::ConnAck);
        ConnAck { reason, ..ConnAck::default() }
    }
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Self {
        Self::by(error.reason, error.statement)
    }
}

/// Checks a CONNECT against the standard and the profile.
pub fn admit(connect: &Connect, profile: &ServerProfile) -> Result<(), Refusal> {
    if connect.authentication_method.is_some() {
        // [MQTT-4.12.0-1] No method is supported.
        return Err(Refusal::by(ReasonCode::BadAuthenticationMethod, "MQTT-4.12.0-1"));
    }
    admit_client_id(connect, profile)?;
    connect.will.as_ref().map_or(Ok(()), |will| admit_will(will, profile))
}

fn admit_client_id(connect: &Connect, profile: &ServerProfile) -> Result<(), Refusal> {
    let accepted = match &connect.client_id {
        Some(id) => id.as_str().len() <= usize::from(profile.maximum_client_id_bytes),
        // [MQTT-3.1.3-6]
        None => {
            profile.allow_empty_client_id
                && version::may_omit_client_id(connect.version, connect.clean_start)
        }
    };
    if accepted {
        return Ok(());
    }
    // [MQTT-3.1.3-8]
    Err(Refusal::by(ReasonCode::ClientIdentifierNotValid, "MQTT-3.1.3-8"))
}

fn admit_will(will: &Will, profile: &ServerProfile) -> Result<(), Refusal> {
    if will.message.qos > profile.maximum_qos {
        return Err(Refusal::by(ReasonCode::QoSNotSupported, "MQTT-3.2.2-12")); // [MQTT-3.2.2-12]
    }
    if will.message.retain && !profile.retain_available {
        return Err(Refusal::by(ReasonCode::RetainNotSupported, "MQTT-3.2.2-13")); // [MQTT-3.2.2-13]
    }
    let Message { topic, payload, properties, .. } = &will.message;
    let objection = profile.objection(topic, payload, properties);
    objection.map_or(Ok(()), |reason| Err(Refusal::new(reason)))
}
