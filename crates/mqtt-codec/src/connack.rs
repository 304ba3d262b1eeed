//! CONNACK: the server's answer to a CONNECT.

use bytes::Bytes;
use bytestring::ByteString;

use crate::properties::{Block, id, not_allowed};
use crate::wire::{Reader, Sink};
use crate::{
    ClientId, DecodeError, EncodeError, PacketType, QoS, ReasonCode, ReceiveMaximum,
    UserProperties, Version,
};

/// A CONNACK packet. Absent properties mean what the standard says they mean when absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server goes on with an earlier session's state.
    pub session_present: bool,
    /// [`ReasonCode::Success`], or why not.
    pub reason: ReasonCode,
    /// Seconds, if not what the client asked for.
    pub session_expiry_secs: Option<u32>,
    /// Most unacknowledged QoS 1 and 2 messages the server takes at once.
    pub receive_maximum: Option<ReceiveMaximum>,
    /// Highest QoS the server accepts, if below 2.
    pub maximum_qos: Option<QoS>,
    /// Whether retained messages are supported; absent: yes.
    pub retain_available: Option<bool>,
    /// Largest packet the server takes, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// The identifier the server chose for the client.
    pub assigned_client_id: Option<ClientId>,
    /// Highest topic alias the client may use.
    pub topic_alias_maximum: Option<u16>,
    /// For people who look for the cause of a refusal.
    pub reason_string: Option<ByteString>,
    /// For whatever the two sides agree on.
    pub user_properties: UserProperties,
    /// Whether wildcard subscriptions are supported; absent: yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether subscription identifiers are supported; absent: yes.
    pub subscription_ids_available: Option<bool>,
    /// Whether shared subscriptions are supported; absent: yes.
    pub shared_subscription_available: Option<bool>,
    /// Keep Alive in seconds the client must use instead of its own.
    pub server_keep_alive_secs: Option<u16>,
    /// From which the client builds response topics.
    pub response_information: Option<ByteString>,
    /// Where to go instead.
    pub server_reference: Option<ByteString>,
    /// Method of enhanced authentication.
    pub authentication_method: Option<ByteString>,
    /// Its data.
    pub authentication_data: Option<Bytes>,
}

impl ConnAck {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let session_present = match reader.u8()? {
            // MQTT 3.1 has no use for the byte.
            _ if version == Version::V3_1 => false,
            0 => false,
            1 => true,
            _ => return Err(DecodeError::ConnAckFlags), // [MQTT-3.2.2-1]
        };
        let reason = if version == Version::V5 {
            ReasonCode::decode(reader, PacketType::ConnAck)?
        } else {
            let code = reader.u8()?;
            let packet = PacketType::ConnAck;
            ReasonCode::from_return_code(code)
                .ok_or(DecodeError::ReasonNotAllowed { packet, code })?
        };
        if session_present && reason.is_error() {
            return Err(DecodeError::SessionPresentOnRefusal); // [MQTT-3.2.2-6]
        }
        let mut connack = Self { session_present, reason, ..Self::default() };
        if version == Version::V5 {
            let mut block = Block::open(reader)?;
            while let Some(id) = block.next()? {
                connack.decode_limit(id, &mut block)?;
            }
        }
        Ok(connack)
    }

    /// What the server offers and bounds.
    fn decode_limit(&mut self, id: u8, block: &mut Block<'_>) -> Result<(), DecodeError> {
        match id {
            id::SESSION_EXPIRY => self.session_expiry_secs = Some(block.reader().u32()?),
            id::RECEIVE_MAXIMUM => {
                let maximum = ReceiveMaximum::new(block.reader().u16()?);
                self.receive_maximum = Some(maximum.ok_or(DecodeError::PropertyValue(id))?);
            }
            id::MAXIMUM_QOS => {
                let level = if block.flag(id)? { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                self.maximum_qos = Some(level);
            }
            id::RETAIN_AVAILABLE => self.retain_available = Some(block.flag(id)?),
            id::MAXIMUM_PACKET_SIZE => self.maximum_packet_size = Some(block.nonzero_u32(id)?),
            id::TOPIC_ALIAS_MAXIMUM => self.topic_alias_maximum = Some(block.reader().u16()?),
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
                self.wildcard_subscription_available = Some(block.flag(id)?);
            }
            id::SUBSCRIPTION_IDS_AVAILABLE => {
                self.subscription_ids_available = Some(block.flag(id)?);
            }
            id::SHARED_SUBSCRIPTION_AVAILABLE => {
                self.shared_subscription_available = Some(block.flag(id)?);
            }
            id::SERVER_KEEP_ALIVE => self.server_keep_alive_secs = Some(block.reader().u16()?),
            other => return self.decode_text(other, block),
        }
        Ok(())
    }

    /// What the server tells.
    fn decode_text(&mut self, id: u8, block: &mut Block<'_>) -> Result<(), DecodeError> {
        match id {
            id::ASSIGNED_CLIENT_ID => {
                let assigned = ClientId::new(block.reader().text()?);
                self.assigned_client_id = Some(assigned.ok_or(DecodeError::PropertyValue(id))?);
            }
            id::REASON_STRING => self.reason_string = Some(block.reader().text()?),
            id::USER_PROPERTY => block.user_property(&mut self.user_properties)?,
            id::RESPONSE_INFORMATION => self.response_information = Some(block.reader().text()?),
            id::SERVER_REFERENCE => self.server_reference = Some(block.reader().text()?),
            id::AUTHENTICATION_METHOD => self.authentication_method = Some(block.reader().text()?),
            id::AUTHENTICATION_DATA => self.authentication_data = Some(block.reader().binary()?),
            other => return not_allowed(other),
        }
        Ok(())
    }

    pub(crate) fn write(&self, version: Version, sink: &mut dyn Sink) {
        if self.session_present && self.reason.is_error() {
            sink.refuse(EncodeError::SessionPresentOnRefusal);
        }
        // MQTT 3.1 does not know the flag and reserves its byte.
        sink.u8(u8::from(self.session_present && version > Version::V3_1));
        if version < Version::V5 {
            return sink.u8(self.reason.return_code());
        }
        sink.reason(PacketType::ConnAck, self.reason);
        sink.block(&|sink| {
            self.write_limits(sink);
            self.write_texts(sink);
        });
    }

    fn write_limits(&self, sink: &mut dyn Sink) {
        if self.maximum_packet_size == Some(0) {
            sink.refuse(EncodeError::PropertyValue(id::MAXIMUM_PACKET_SIZE));
        }
        sink.u32_property(id::SESSION_EXPIRY, self.session_expiry_secs);
        sink.u16_property(id::RECEIVE_MAXIMUM, self.receive_maximum.map(ReceiveMaximum::value));
        match self.maximum_qos {
            // The standard has no value for 2: it is what an absent property means.
            None | Some(QoS::ExactlyOnce) => {}
            Some(level) => sink.flag_property(id::MAXIMUM_QOS, Some(level == QoS::AtLeastOnce)),
        }
        sink.flag_property(id::RETAIN_AVAILABLE, self.retain_available);
        sink.u32_property(id::MAXIMUM_PACKET_SIZE, self.maximum_packet_size);
        sink.u16_property(id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        let wildcards = self.wildcard_subscription_available;
        sink.flag_property(id::WILDCARD_SUBSCRIPTION_AVAILABLE, wildcards);
        sink.flag_property(id::SUBSCRIPTION_IDS_AVAILABLE, self.subscription_ids_available);
        sink.flag_property(id::SHARED_SUBSCRIPTION_AVAILABLE, self.shared_subscription_available);
        sink.u16_property(id::SERVER_KEEP_ALIVE, self.server_keep_alive_secs);
    }

    fn write_texts(&self, sink: &mut dyn Sink) {
        let assigned = self.assigned_client_id.as_ref().map(ClientId::as_byte_string);
        sink.text_property(id::ASSIGNED_CLIENT_ID, assigned);
        sink.text_property(id::REASON_STRING, self.reason_string.as_ref());
        sink.user_properties(&self.user_properties);
        sink.text_property(id::RESPONSE_INFORMATION, self.response_information.as_ref());
        sink.text_property(id::SERVER_REFERENCE, self.server_reference.as_ref());
        sink.text_property(id::AUTHENTICATION_METHOD, self.authentication_method.as_ref());
        sink.binary_property(id::AUTHENTICATION_DATA, self.authentication_data.as_ref());
    }
}
