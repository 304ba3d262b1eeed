//! The property table of MQTT 5.0.
//!
//! Owns the identifiers and what holds for every property block: its length prefix, that nothing
//! stands twice, that flags are 0 or 1. Which properties a packet may have is said by that packet.

use bytestring::ByteString;

use crate::wire::{Reader, Sink};
use crate::{DecodeError, ReasonProperties};

/// Name-value pairs in the order they were sent.
pub type UserProperties = Vec<(ByteString, ByteString)>;

pub(crate) mod id {
    //! Property identifiers `[MQTT5 2.2.2.2]`.

    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
    pub(crate) const REASON_STRING: u8 = 0x1F;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER_PROPERTY: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// The unread rest of one property block.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    reader: Reader<'a>,
    /// One bit for each identifier that stood already.
    seen: u64,
}

impl<'a> Block<'a> {
    /// The block `reader` is at, with its length in front.
    pub(crate) fn open(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = reader.var_int()?;
        Ok(Self::whole(reader.part(length)?))
    }

    /// A block that is all of `reader`.
    pub(crate) const fn whole(reader: Reader<'a>) -> Self {
        Self { reader, seen: 0 }
    }

    /// Where the block is read.
    pub(crate) const fn reader(&mut self) -> &mut Reader<'a> {
        &mut self.reader
    }

    /// The identifier of the next property, whose value must be read before the next call.
    ///
    /// Refuses an identifier that stood already, except those that may stand several times.
    pub(crate) fn next(&mut self) -> Result<Option<u8>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let wide = self.reader.var_int()?;
        let id = u8::try_from(wide).map_err(|_| DecodeError::PropertyNotAllowed(wide))?;
        let Some(bit) = 1_u64.checked_shl(wide) else {
            return Err(DecodeError::PropertyNotAllowed(wide));
        };
        let several = id == id::USER_PROPERTY || id == id::SUBSCRIPTION_ID;
        if self.seen & bit != 0 && !several {
            return Err(DecodeError::PropertyRepeated(id));
        }
        self.seen |= bit;
        Ok(Some(id))
    }

    /// A byte that must be 0 or 1.
    pub(crate) fn flag(&mut self, id: u8) -> Result<bool, DecodeError> {
        match self.reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::PropertyValue(id)),
        }
    }

    /// A number that must not be 0.
    pub(crate) fn nonzero_u32(&mut self, id: u8) -> Result<u32, DecodeError> {
        match self.reader.u32()? {
            0 => Err(DecodeError::PropertyValue(id)),
            value => Ok(value),
        }
    }

    /// One name-value pair, added to `pairs`.
    pub(crate) fn user_property(&mut self, pairs: &mut UserProperties) -> Result<(), DecodeError> {
        pairs.push((self.reader.text()?, self.reader.text()?));
        Ok(())
    }
}

/// Refuses a property the packet does not have.
pub(crate) fn not_allowed<T>(id: u8) -> Result<T, DecodeError> {
    Err(DecodeError::PropertyNotAllowed(u32::from(id)))
}

impl ReasonProperties {
    /// Reads a block that holds nothing else; `None` if it is empty.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Option<Box<Self>>, DecodeError> {
        let mut block = Block::open(reader)?;
        let mut properties = None::<Box<Self>>;
        while let Some(id) = block.next()? {
            let properties = properties.get_or_insert_default();
            match id {
                id::REASON_STRING => properties.reason_string = Some(block.reader().text()?),
                id::USER_PROPERTY => block.user_property(&mut properties.user_properties)?,
                other => return not_allowed(other),
            }
        }
        Ok(properties)
    }

    /// Whether it would write an empty block.
    pub(crate) fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }

    pub(crate) fn write(&self, sink: &mut dyn Sink) {
        sink.text_property(id::REASON_STRING, self.reason_string.as_ref());
        sink.user_properties(&self.user_properties);
    }
}

impl dyn Sink + '_ {
    pub(crate) fn flag_property(&mut self, id: u8, value: Option<bool>) {
        if let Some(value) = value {
            self.u8(id);
            self.u8(u8::from(value));
        }
    }

    pub(crate) fn u16_property(&mut self, id: u8, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id);
            self.u16(value);
        }
    }

    pub(crate) fn u32_property(&mut self, id: u8, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id);
            self.u32(value);
        }
    }

    pub(crate) fn text_property(&mut self, id: u8, value: Option<&ByteString>) {
        if let Some(value) = value {
            self.u8(id);
            self.text(value);
        }
    }

    pub(crate) fn binary_property(&mut self, id: u8, value: Option<&bytes::Bytes>) {
        if let Some(value) = value {
            self.u8(id);
            self.binary(value);
        }
    }

    pub(crate) fn user_properties(&mut self, pairs: &UserProperties) {
        for (name, value) in pairs {
            self.u8(id::USER_PROPERTY);
            self.text(name);
            self.text(value);
        }
    }

    /// A block of [`ReasonProperties`], which may be missing.
    pub(crate) fn reason_properties(&mut self, properties: Option<&ReasonProperties>) {
        self.block(&|sink| {
            if let Some(properties) = properties {
                properties.write(sink);
            }
        });
    }
}
