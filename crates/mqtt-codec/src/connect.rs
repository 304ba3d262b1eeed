//! CONNECT: how a client introduces itself.

use bytes::Bytes;
use bytestring::ByteString;

use crate::properties::{Block, id, not_allowed};
use crate::wire::{Reader, Sink};
use crate::{
    ClientId, DecodeError, EncodeError, Message, PublishProperties, QoS, ReceiveMaximum, TopicName,
    UserProperties, Version,
};

/// A CONNECT packet of any version, in the terms of MQTT 5.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The version the client speaks.
    pub version: Version,
    /// `None` when empty: the server assigns one, or refuses.
    pub client_id: Option<ClientId>,
    /// Start without the state of an earlier session (MQTT 3: Clean Session).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_secs: u16,
    /// Seconds the session outlives the connection; `u32::MAX` for ever. MQTT 3: 0 with Clean
    /// Session 1, `u32::MAX` with 0.
    pub session_expiry_secs: u32,
    /// Most unacknowledged QoS 1 and 2 messages the client takes at once.
    pub receive_maximum: ReceiveMaximum,
    /// Largest packet the client takes, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// Highest topic alias the server may use towards the client; 0 for none.
    pub topic_alias_maximum: u16,
    /// Whether the client asks for Response Information in the CONNACK.
    pub request_response_information: bool,
    /// Whether reason strings and user properties are welcome in packets other than PUBLISH,
    /// CONNACK and DISCONNECT.
    pub request_problem_information: bool,
    /// Sent on by nobody; for authentication and logs.
    pub user_properties: UserProperties,
    /// Method of enhanced authentication.
    pub authentication_method: Option<ByteString>,
    /// Its data; only with a method.
    pub authentication_data: Option<Bytes>,
    /// Published when the connection ends badly.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password.
    pub password: Option<Bytes>,
}

/// The message a server publishes for a client that went away without saying goodbye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// What to publish.
    pub message: Message,
    /// Seconds to wait before publishing it, unless the session ends earlier.
    pub delay_secs: u32,
}

/// The connect flags `[MQTT5 3.1.2.3]`.
#[derive(Clone, Copy)]
struct Flags(u8);

impl Flags {
    const RESERVED: u8 = 0b0000_0001;
    const CLEAN_START: u8 = 0b0000_0010;
    const WILL: u8 = 0b0000_0100;
    const WILL_QOS_SHIFT: u8 = 3;
    const WILL_QOS: u8 = 0b0001_1000;
    const WILL_RETAIN: u8 = 0b0010_0000;
    const PASSWORD: u8 = 0b0100_0000;
    const USERNAME: u8 = 0b1000_0000;

    const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    const fn will_qos(self) -> Option<QoS> {
        QoS::from_bits((self.0 & Self::WILL_QOS) >> Self::WILL_QOS_SHIFT)
    }

    const fn check(self, version: Version) -> Result<(), DecodeError> {
        if self.has(Self::RESERVED) {
            return Err(DecodeError::ConnectFlagReserved); // [MQTT-3.1.2-3]
        }
        if !self.has(Self::WILL) && self.has(Self::WILL_QOS) {
            return Err(DecodeError::WillQoSWithoutWill); // [MQTT-3.1.2-11]
        }
        if !self.has(Self::WILL) && self.has(Self::WILL_RETAIN) {
            return Err(DecodeError::WillRetainWithoutWill); // [MQTT-3.1.2-13]
        }
        let password_only = self.has(Self::PASSWORD) && !self.has(Self::USERNAME);
        if password_only && !matches!(version, Version::V5) {
            return Err(DecodeError::PasswordWithoutUsername); // 3.1.1 [MQTT-3.1.2-22]
        }
        Ok(())
    }

    fn of(connect: &Connect) -> Self {
        let mut flags = 0;
        let mut set = |flag, condition| flags |= if condition { flag } else { 0 };
        set(Self::CLEAN_START, connect.clean_start);
        set(Self::PASSWORD, connect.password.is_some());
        set(Self::USERNAME, connect.username.is_some());
        if let Some(Will { message, .. }) = &connect.will {
            set(Self::WILL, true);
            set((message.qos as u8) << Self::WILL_QOS_SHIFT, true);
            set(Self::WILL_RETAIN, message.retain);
        }
        Self(flags)
    }
}

impl Connect {
    /// A CONNECT that starts clean, has no will and no credentials, no keep-alive, and else what
    /// the standard says of absent properties.
    #[must_use]
    pub fn new(version: Version, client_id: Option<ClientId>) -> Self {
        Self {
            version,
            client_id,
            clean_start: true,
            keep_alive_secs: 0,
            session_expiry_secs: 0,
            receive_maximum: ReceiveMaximum::default(),
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: UserProperties::new(),
            authentication_method: None,
            authentication_data: None,
            will: None,
            username: None,
            password: None,
        }
    }

    /// The protocol name and level a CONNECT begins with.
    pub(crate) fn decode_version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
        let name = reader.binary_ref()?;
        let level = reader.u8()?;
        // [MQTT-3.1.2-1] [MQTT-3.1.2-2]
        Version::from_name(name, level).ok_or(DecodeError::UnsupportedProtocol { level })
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = Self::decode_version(reader)?;
        let flags = Flags(reader.u8()?);
        flags.check(version)?;
        let mut connect = Self::new(version, None);
        connect.clean_start = flags.has(Flags::CLEAN_START);
        connect.keep_alive_secs = reader.u16()?;
        if version == Version::V5 {
            connect.decode_properties(reader)?;
        } else if !connect.clean_start {
            // Clean Session 0 keeps the session for as long as the server likes.
            connect.session_expiry_secs = u32::MAX;
        }
        connect.client_id = ClientId::new(reader.text()?);
        if flags.has(Flags::WILL) {
            connect.will = Some(Will::decode(reader, flags, version)?);
        }
        connect.decode_credentials(reader, flags)?;
        Ok(connect)
    }

    fn decode_credentials(
        &mut self,
        reader: &mut Reader<'_>,
        flags: Flags,
    ) -> Result<(), DecodeError> {
        // In MQTT 3.1 the remaining length takes precedence over the flags.
        let ends = |reader: &Reader<'_>| self.version == Version::V3_1 && reader.is_empty();
        if flags.has(Flags::USERNAME) && !ends(reader) {
            self.username = Some(reader.text()?);
        }
        if flags.has(Flags::PASSWORD) && !ends(reader) {
            self.password = Some(reader.binary()?);
        }
        Ok(())
    }

    fn decode_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let mut block = Block::open(reader)?;
        while let Some(id) = block.next()? {
            self.decode_property(id, &mut block)?;
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataWithoutMethod);
        }
        Ok(())
    }

    fn decode_property(&mut self, id: u8, block: &mut Block<'_>) -> Result<(), DecodeError> {
        match id {
            id::SESSION_EXPIRY => self.session_expiry_secs = block.reader().u32()?,
            id::RECEIVE_MAXIMUM => {
                let maximum = ReceiveMaximum::new(block.reader().u16()?);
                self.receive_maximum = maximum.ok_or(DecodeError::PropertyValue(id))?;
            }
            id::MAXIMUM_PACKET_SIZE => self.maximum_packet_size = Some(block.nonzero_u32(id)?),
            id::TOPIC_ALIAS_MAXIMUM => self.topic_alias_maximum = block.reader().u16()?,
            id::REQUEST_RESPONSE_INFORMATION => {
                self.request_response_information = block.flag(id)?;
            }
            id::REQUEST_PROBLEM_INFORMATION => self.request_problem_information = block.flag(id)?,
            id::USER_PROPERTY => block.user_property(&mut self.user_properties)?,
            id::AUTHENTICATION_METHOD => self.authentication_method = Some(block.reader().text()?),
            id::AUTHENTICATION_DATA => self.authentication_data = Some(block.reader().binary()?),
            other => return not_allowed(other),
        }
        Ok(())
    }

    pub(crate) fn write(&self, sink: &mut dyn Sink) {
        let v5 = self.version == Version::V5;
        if self.password.is_some() && self.username.is_none() && !v5 {
            sink.refuse(EncodeError::PasswordWithoutUsername);
        }
        sink.text(self.version.name());
        sink.u8(self.version as u8);
        sink.u8(Flags::of(self).0);
        sink.u16(self.keep_alive_secs);
        if v5 {
            sink.block(&|sink| self.write_properties(sink));
        }
        sink.text(self.client_id.as_ref().map_or("", ClientId::as_str));
        if let Some(will) = &self.will {
            will.write(self.version, sink);
        }
        if let Some(username) = &self.username {
            sink.text(username);
        }
        if let Some(password) = &self.password {
            sink.binary(password);
        }
    }

    /// What has its default value is left out.
    fn write_properties(&self, sink: &mut dyn Sink) {
        if self.maximum_packet_size == Some(0) {
            sink.refuse(EncodeError::PropertyValue(id::MAXIMUM_PACKET_SIZE));
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            sink.refuse(EncodeError::AuthenticationDataWithoutMethod);
        }
        let expiry = Some(self.session_expiry_secs).filter(|&seconds| seconds != 0);
        sink.u32_property(id::SESSION_EXPIRY, expiry);
        let receive = Some(self.receive_maximum).filter(|&max| max != ReceiveMaximum::default());
        sink.u16_property(id::RECEIVE_MAXIMUM, receive.map(ReceiveMaximum::value));
        sink.u32_property(id::MAXIMUM_PACKET_SIZE, self.maximum_packet_size);
        let aliases = Some(self.topic_alias_maximum).filter(|&maximum| maximum != 0);
        sink.u16_property(id::TOPIC_ALIAS_MAXIMUM, aliases);
        let response = self.request_response_information.then_some(true);
        sink.flag_property(id::REQUEST_RESPONSE_INFORMATION, response);
        let problem = (!self.request_problem_information).then_some(false);
        sink.flag_property(id::REQUEST_PROBLEM_INFORMATION, problem);
        sink.user_properties(&self.user_properties);
        sink.text_property(id::AUTHENTICATION_METHOD, self.authentication_method.as_ref());
        sink.binary_property(id::AUTHENTICATION_DATA, self.authentication_data.as_ref());
    }
}

impl Will {
    fn decode(
        reader: &mut Reader<'_>,
        flags: Flags,
        version: Version,
    ) -> Result<Self, DecodeError> {
        let (mut delay_secs, mut expiry_secs) = (0, None);
        let mut properties = PublishProperties::default();
        if version == Version::V5 {
            let block = Block::open(reader)?;
            properties = PublishProperties::decode_from(block, |id, block| {
                match id {
                    id::WILL_DELAY => delay_secs = block.reader().u32()?,
                    id::MESSAGE_EXPIRY => expiry_secs = Some(block.reader().u32()?),
                    other => return not_allowed(other),
                }
                Ok(())
            })?;
        }
        let topic = TopicName::decode(reader.binary_ref()?, reader)?;
        let message = Message {
            topic,
            payload: reader.binary()?,
            qos: flags.will_qos().ok_or(DecodeError::WillQoS3)?, // [MQTT-3.1.2-12]
            retain: flags.has(Flags::WILL_RETAIN),
            expiry_secs,
            properties,
        };
        Ok(Self { message, delay_secs })
    }

    fn write(&self, version: Version, sink: &mut dyn Sink) {
        if version == Version::V5 {
            sink.block(&|sink| {
                let delay = Some(self.delay_secs).filter(|&seconds| seconds != 0);
                sink.u32_property(id::WILL_DELAY, delay);
                sink.u32_property(id::MESSAGE_EXPIRY, self.message.expiry_secs);
                sink.slice(self.message.properties.as_bytes());
            });
        }
        sink.text(self.message.topic.as_str());
        sink.binary(&self.message.payload);
    }
}
