//! The application message: what travels from a publisher to its subscribers.
//!
//! It is free of everything that belongs to one connection: no packet identifier, DUP flag, alias
//! or subscription identifier. Those are in [`Publish`](crate::Publish).

use bytes::{BufMut, Bytes, BytesMut};

use crate::properties::{Block, id, not_allowed};
use crate::topic::check_name;
use crate::wire::{Count, Reader, Sink};
use crate::{DecodeError, EncodeError, QoS, TopicName};

/// One application message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published to.
    pub topic: TopicName,
    /// What was published; shared, never copied on its way.
    pub payload: Bytes,
    /// The QoS it was published with; a subscriber gets at most this.
    pub qos: QoS,
    /// Whether the publisher set RETAIN.
    pub retain: bool,
    /// Message Expiry Interval in seconds, as received; the holder subtracts the time it waited.
    pub expiry_secs: Option<u32>,
    /// The properties that go on unaltered to every subscriber.
    pub properties: PublishProperties,
}

/// The properties of a PUBLISH that a server passes on unaltered: Payload Format Indicator
/// `[MQTT-3.3.2-4]`, Content Type `[MQTT-3.3.2-20]`, Response Topic `[MQTT-3.3.2-15]`, Correlation
/// Data `[MQTT-3.3.2-16]` and User Properties in their order `[MQTT-3.3.2-17]` `[MQTT-3.3.2-18]`.
///
/// Kept as their encoded and checked bytes, so that passing them on costs a reference count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PublishProperties {
    /// Encoded properties without their length prefix. Only this crate fills it.
    pub(crate) block: Bytes,
}

/// One of the properties in [`PublishProperties`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishProperty<'a> {
    /// 0: bytes; 1: UTF-8 text.
    PayloadFormatIndicator(u8),
    /// What the payload is, mostly a MIME type.
    ContentType(&'a str),
    /// Where to send a response.
    ResponseTopic(&'a str),
    /// By which the requester knows the response.
    CorrelationData(&'a [u8]),
    /// Name and value, for the application.
    UserProperty(&'a str, &'a str),
}

/// Puts [`PublishProperties`] together. Made by [`PublishProperties::builder`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct PublishPropertiesBuilder<'a> {
    payload_format: Option<u8>,
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    correlation_data: Option<&'a [u8]>,
    user_properties: Vec<(&'a str, &'a str)>,
}

impl Message {
    /// A copy that shares no memory with a read buffer: use it for whatever is kept for long.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            topic: self.topic.detached(),
            payload: Bytes::copy_from_slice(&self.payload),
            properties: self.properties.detached(),
            ..*self
        }
    }
}

impl PublishProperties {
    /// Starts with none.
    pub fn builder<'a>() -> PublishPropertiesBuilder<'a> {
        PublishPropertiesBuilder::default()
    }

    /// Checks and takes an encoded block without its length prefix.
    pub fn decode(block: Bytes) -> Result<Self, DecodeError> {
        Self::decode_from(Block::whole(Reader::new(&block)), |id, _| not_allowed(id))
    }

    /// Takes from `block` what is passed on, and leaves each other property to `other`.
    ///
    /// What is passed on shares the memory of the frame as long as nothing else stands between.
    pub(crate) fn decode_from(
        mut block: Block<'_>,
        mut other: impl FnMut(u8, &mut Block<'_>) -> Result<(), DecodeError>,
    ) -> Result<Self, DecodeError> {
        let mut pass_on = PassOn::new(block.reader().clone());
        loop {
            let before = block.reader().clone();
            let Some(id) = block.next()? else {
                return Ok(pass_on.finish());
            };
            if skip_passed_on(id, &mut block)? {
                pass_on.push(before, block.reader());
            } else {
                other(id, &mut block)?;
            }
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// The encoded block, without its length prefix.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.block
    }

    /// The properties in the order they were sent.
    pub fn iter(&self) -> impl Iterator<Item = PublishProperty<'_>> {
        let mut reader = Reader::new(&self.block);
        std::iter::from_fn(move || PublishProperty::decode(&mut reader))
    }

    /// Payload Format Indicator: 1 if the payload is UTF-8 text.
    #[must_use]
    pub fn payload_format(&self) -> Option<u8> {
        self.iter().find_map(|property| {
            if let PublishProperty::PayloadFormatIndicator(value) = property {
                Some(value)
            } else {
                None
            }
        })
    }

    /// What the payload is.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.iter().find_map(|property| {
            if let PublishProperty::ContentType(value) = property { Some(value) } else { None }
        })
    }

    /// Where to send a response: a valid topic name.
    #[must_use]
    pub fn response_topic(&self) -> Option<&str> {
        self.iter().find_map(|property| {
            if let PublishProperty::ResponseTopic(value) = property { Some(value) } else { None }
        })
    }

    /// By which the requester knows the response.
    #[must_use]
    pub fn correlation_data(&self) -> Option<&[u8]> {
        self.iter().find_map(|property| {
            if let PublishProperty::CorrelationData(value) = property { Some(value) } else { None }
        })
    }

    /// Names and values in the order they were sent.
    pub fn user_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(|property| {
            let PublishProperty::UserProperty(name, value) = property else {
                return None;
            };
            Some((name, value))
        })
    }

    /// A copy that shares no memory with a read buffer: use it for whatever is kept for long.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { block: Bytes::copy_from_slice(&self.block) }
    }
}

impl<'a> PublishProperty<'a> {
    /// The next of a checked block; the end, should it not be one.
    fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        Some(match reader.u8().ok()? {
            id::PAYLOAD_FORMAT => Self::PayloadFormatIndicator(reader.u8().ok()?),
            id::CONTENT_TYPE => Self::ContentType(reader.text_ref().ok()?),
            id::RESPONSE_TOPIC => Self::ResponseTopic(reader.text_ref().ok()?),
            id::CORRELATION_DATA => Self::CorrelationData(reader.binary_ref().ok()?),
            id::USER_PROPERTY => {
                Self::UserProperty(reader.text_ref().ok()?, reader.text_ref().ok()?)
            }
            _ => return None,
        })
    }
}

impl<'a> PublishPropertiesBuilder<'a> {
    /// 0: bytes; 1: UTF-8 text.
    pub const fn payload_format(mut self, indicator: u8) -> Self {
        self.payload_format = Some(indicator);
        self
    }

    /// What the payload is.
    pub const fn content_type(mut self, content_type: &'a str) -> Self {
        self.content_type = Some(content_type);
        self
    }

    /// Where to send a response; must be a topic name.
    pub const fn response_topic(mut self, topic: &'a str) -> Self {
        self.response_topic = Some(topic);
        self
    }

    /// By which the requester knows the response.
    pub const fn correlation_data(mut self, correlation: &'a [u8]) -> Self {
        self.correlation_data = Some(correlation);
        self
    }

    /// Adds a name and a value.
    pub fn user_property(mut self, name: &'a str, value: &'a str) -> Self {
        self.user_properties.push((name, value));
        self
    }

    /// Checks and encodes what was given.
    pub fn build(&self) -> Result<PublishProperties, EncodeError> {
        if self.payload_format.is_some_and(|indicator| indicator > 1) {
            return Err(EncodeError::PropertyValue(id::PAYLOAD_FORMAT));
        }
        if let Some(topic) = self.response_topic {
            check_name(topic.as_bytes()).map_err(EncodeError::ResponseTopic)?;
        }
        let mut count = Count::default();
        self.write(&mut count);
        let mut block = BytesMut::with_capacity(count.finish()?);
        self.write(&mut block);
        Ok(PublishProperties { block: block.freeze() })
    }

    fn write(&self, sink: &mut dyn Sink) {
        if let Some(indicator) = self.payload_format {
            sink.u8(id::PAYLOAD_FORMAT);
            sink.u8(indicator);
        }
        if let Some(content_type) = self.content_type {
            sink.u8(id::CONTENT_TYPE);
            sink.text(content_type);
        }
        if let Some(topic) = self.response_topic {
            sink.u8(id::RESPONSE_TOPIC);
            sink.text(topic);
        }
        if let Some(correlation) = self.correlation_data {
            sink.u8(id::CORRELATION_DATA);
            sink.binary(correlation);
        }
        for (name, value) in &self.user_properties {
            sink.u8(id::USER_PROPERTY);
            sink.text(name);
            sink.text(value);
        }
    }
}

/// Checks and skips the value of a property that is passed on; `false` for any other property.
fn skip_passed_on(id: u8, block: &mut Block<'_>) -> Result<bool, DecodeError> {
    match id {
        id::PAYLOAD_FORMAT => {
            block.flag(id)?;
        }
        id::CONTENT_TYPE => {
            block.reader().text_ref()?;
        }
        id::RESPONSE_TOPIC => {
            // [MQTT-3.3.2-14]
            check_name(block.reader().text_ref()?.as_bytes())
                .map_err(DecodeError::ResponseTopic)?;
        }
        id::CORRELATION_DATA => {
            block.reader().binary_ref()?;
        }
        id::USER_PROPERTY => {
            block.reader().text_ref()?;
            block.reader().text_ref()?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The properties to pass on that were found so far: a stretch of the frame while they stand
/// side by side, a copy as soon as something stands between them.
struct PassOn<'a> {
    /// At the first of them.
    start: Reader<'a>,
    length: usize,
    copy: Option<BytesMut>,
}

impl<'a> PassOn<'a> {
    const fn new(start: Reader<'a>) -> Self {
        Self { start, length: 0, copy: None }
    }

    /// Adds what stands from `before` to `after`.
    fn push(&mut self, before: Reader<'a>, after: &Reader<'a>) {
        let piece = after.since(&before);
        if let Some(copy) = &mut self.copy {
            return copy.put_slice(piece);
        }
        if self.length == 0 {
            self.start = before;
        } else if self.start.len() - self.length != before.len() {
            let mut copy = BytesMut::with_capacity(self.length + before.len());
            copy.put_slice(self.start.ahead(self.length));
            copy.put_slice(piece);
            self.copy = Some(copy);
        }
        self.length += piece.len();
    }

    fn finish(self) -> PublishProperties {
        let block = match self.copy {
            Some(copy) => copy.freeze(),
            None if self.length == 0 => Bytes::new(),
            None => self.start.share(self.start.ahead(self.length)),
        };
        PublishProperties { block }
    }
}
