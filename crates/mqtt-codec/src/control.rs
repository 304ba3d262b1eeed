//! DISCONNECT and AUTH. PINGREQ and PINGRESP carry nothing.

use bytes::Bytes;
use bytestring::ByteString;

use crate::properties::{Block, id, not_allowed};
use crate::wire::{Reader, Sink};
use crate::{DecodeError, EncodeError, PacketType, ReasonCode, UserProperties, Version};

/// A DISCONNECT packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// [`ReasonCode::Success`] is a normal disconnection.
    pub reason: ReasonCode,
    /// A new session expiry in seconds, from the client only.
    pub session_expiry_secs: Option<u32>,
    /// For people.
    pub reason_string: Option<ByteString>,
    /// For programs.
    pub user_properties: UserProperties,
    /// Where to go instead, from the server only.
    pub server_reference: Option<ByteString>,
}

/// An AUTH packet of MQTT 5.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// Success, continue, or re-authenticate.
    pub reason: ReasonCode,
    /// Method of enhanced authentication.
    pub method: Option<ByteString>,
    /// Its data.
    pub data: Option<Bytes>,
    /// For people.
    pub reason_string: Option<ByteString>,
    /// For programs.
    pub user_properties: UserProperties,
}

impl Disconnect {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let mut disconnect = Self::default();
        if version < Version::V5 || reader.is_empty() {
            return Ok(disconnect);
        }
        disconnect.reason = ReasonCode::decode(reader, PacketType::Disconnect)?;
        if !reader.is_empty() {
            disconnect.decode_properties(reader)?;
        }
        Ok(disconnect)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let mut block = Block::open(reader)?;
        while let Some(id) = block.next()? {
            match id {
                id::SESSION_EXPIRY => self.session_expiry_secs = Some(block.reader().u32()?),
                id::REASON_STRING => self.reason_string = Some(block.reader().text()?),
                id::USER_PROPERTY => block.user_property(&mut self.user_properties)?,
                id::SERVER_REFERENCE => self.server_reference = Some(block.reader().text()?),
                other => return not_allowed(other),
            }
        }
        Ok(())
    }

    /// As MQTT 5.0; earlier versions write nothing.
    pub(crate) fn write(&self, sink: &mut dyn Sink) {
        let plain = self.session_expiry_secs.is_none()
            && self.reason_string.is_none()
            && self.user_properties.is_empty()
            && self.server_reference.is_none();
        if plain && self.reason == ReasonCode::Success {
            return;
        }
        sink.reason(PacketType::Disconnect, self.reason);
        // An empty block could be left out, but rumqttc 0.25 would not read the packet then.
        sink.block(&|sink| {
            sink.u32_property(id::SESSION_EXPIRY, self.session_expiry_secs);
            sink.text_property(id::REASON_STRING, self.reason_string.as_ref());
            sink.user_properties(&self.user_properties);
            sink.text_property(id::SERVER_REFERENCE, self.server_reference.as_ref());
        });
    }
}

impl Auth {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut auth = Self::default();
        if reader.is_empty() {
            return Ok(auth);
        }
        auth.reason = ReasonCode::decode(reader, PacketType::Auth)?;
        let mut block = Block::open(reader)?;
        while let Some(id) = block.next()? {
            match id {
                id::AUTHENTICATION_METHOD => auth.method = Some(block.reader().text()?),
                id::AUTHENTICATION_DATA => auth.data = Some(block.reader().binary()?),
                id::REASON_STRING => auth.reason_string = Some(block.reader().text()?),
                id::USER_PROPERTY => block.user_property(&mut auth.user_properties)?,
                other => return not_allowed(other),
            }
        }
        match auth.method {
            Some(_) => Ok(auth),
            None => Err(DecodeError::AuthenticationMethodMissing),
        }
    }

    pub(crate) fn write(&self, sink: &mut dyn Sink) {
        if self.method.is_none() {
            // Only the empty packet does without a method.
            return match *self == Self::default() {
                true => {}
                false => sink.refuse(EncodeError::AuthenticationMethodMissing),
            };
        }
        sink.reason(PacketType::Auth, self.reason);
        sink.block(&|sink| {
            sink.text_property(id::AUTHENTICATION_METHOD, self.method.as_ref());
            sink.binary_property(id::AUTHENTICATION_DATA, self.data.as_ref());
            sink.text_property(id::REASON_STRING, self.reason_string.as_ref());
            sink.user_properties(&self.user_properties);
        });
    }
}
