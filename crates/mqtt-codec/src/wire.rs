//! Integers, strings and binary data as they stand on the wire.
//!
//! Owns every step from bytes to numbers and back, so that no other file of this crate counts
//! bytes. A [`Reader`] never reads past its end and never panics, whatever it is given. A [`Sink`]
//! takes what one packet writes: once to count and check it, once to store it. Knows no packet.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::{DecodeError, EncodeError, PacketId};

/// Largest value of a Variable Byte Integer.
pub(crate) const VAR_INT_MAX: usize = 268_435_455;

/// Longest string or binary field, in bytes.
const FIELD_MAX: usize = u16::MAX as usize;

/// The unread rest of a packet or of a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    frame: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(frame: &'a Bytes) -> Self {
        Self { frame, rest: frame }
    }

    /// How many bytes are unread.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What has been read since this reader was at `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> &'a [u8] {
        earlier.rest.get(..earlier.len().saturating_sub(self.len())).unwrap_or_default()
    }

    /// The next `count` bytes, without reading them.
    pub(crate) fn ahead(&self, count: usize) -> &'a [u8] {
        self.rest.get(..count).unwrap_or_default()
    }

    /// `part` of this frame as bytes that share its memory.
    pub(crate) fn share(&self, part: &'a [u8]) -> Bytes {
        self.frame.slice_ref(part)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*array)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketIdZero) // [MQTT-2.2.1-3]
    }

    /// A Variable Byte Integer in its shortest form `[MQTT-1.5.5-1]`.
    #[inline]
    pub(crate) fn var_int(&mut self) -> Result<u32, DecodeError> {
        let (value, width) = var_int(self.rest)?.ok_or(DecodeError::Truncated)?;
        self.rest = self.rest.get(width..).unwrap_or_default();
        Ok(value)
    }

    /// A reader of the next `count` bytes, which this one skips.
    pub(crate) fn part(&mut self, count: u32) -> Result<Self, DecodeError> {
        let rest = self.take(usize::try_from(count).map_err(|_| DecodeError::Truncated)?)?;
        Ok(Self { frame: self.frame, rest })
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Binary data with its length in front, borrowed.
    #[inline]
    pub(crate) fn binary_ref(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = self.u16()?;
        self.take(usize::from(count))
    }

    /// A string with its length in front, borrowed.
    pub(crate) fn text_ref(&mut self) -> Result<&'a str, DecodeError> {
        let text = std::str::from_utf8(self.binary_ref()?).map_err(|_| DecodeError::Utf8)?;
        refuse_null(text)?;
        Ok(text)
    }

    /// Binary data with its length in front.
    pub(crate) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let part = self.binary_ref()?;
        Ok(self.share(part))
    }

    /// A string with its length in front.
    pub(crate) fn text(&mut self) -> Result<ByteString, DecodeError> {
        let text = self.unchecked_text()?;
        refuse_null(&text)?;
        Ok(text)
    }

    /// A string that may hold U+0000, for a type that refuses it by itself.
    #[inline]
    pub(crate) fn unchecked_text(&mut self) -> Result<ByteString, DecodeError> {
        let part = self.binary_ref()?;
        ByteString::try_from(self.share(part)).map_err(|_| DecodeError::Utf8) // [MQTT-1.5.4-1]
    }

    /// Refuses bytes that belong to no field.
    pub(crate) const fn finish(&self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

fn refuse_null(text: &str) -> Result<(), DecodeError> {
    // [MQTT-1.5.4-2]
    if text.as_bytes().contains(&0) { Err(DecodeError::NullCharacter) } else { Ok(()) }
}

/// The Variable Byte Integer `bytes` begin with and its width; `None` if it is not complete.
#[inline]
pub(crate) fn var_int(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            // A last byte of zero means that fewer would have done [MQTT-1.5.5-1].
            let padded = byte == 0 && index > 0;
            return if padded { Err(DecodeError::Length) } else { Ok(Some((value, index + 1))) };
        }
    }
    if bytes.len() >= 4 { Err(DecodeError::Length) } else { Ok(None) }
}

/// How many bytes `value` takes as a Variable Byte Integer.
pub(crate) const fn var_int_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Writes `value`, which must not be above [`VAR_INT_MAX`], as a Variable Byte Integer.
#[inline]
pub(crate) fn put_var_int(value: usize, mut put: impl FnMut(u8)) {
    let mut rest = value;
    while rest > 0x7F {
        put((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    put(rest as u8);
}

/// Takes what a packet writes.
pub(crate) trait Sink {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn slice(&mut self, bytes: &[u8]);
    /// Says that the packet must not be sent; the first word counts.
    fn refuse(&mut self, error: EncodeError);
}

impl dyn Sink + '_ {
    /// `value` must not be above [`VAR_INT_MAX`].
    pub(crate) fn var_int(&mut self, value: usize) {
        put_var_int(value, |byte| self.u8(byte));
    }

    pub(crate) fn binary(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(count) => {
                self.u16(count);
                self.slice(bytes);
            }
            Err(_) => self.refuse(EncodeError::FieldTooLong),
        }
    }

    pub(crate) fn text(&mut self, text: &str) {
        if text.as_bytes().contains(&0) {
            self.refuse(EncodeError::NullCharacter); // [MQTT-1.5.4-2]
        }
        self.binary(text.as_bytes());
    }

    /// Writes what `write` writes, with its length in front.
    pub(crate) fn block(&mut self, write: &dyn Fn(&mut dyn Sink)) {
        let mut count = Count::default();
        write(&mut count);
        match count.finish() {
            Ok(length) => {
                self.var_int(length);
                write(self);
            }
            Err(error) => self.refuse(error),
        }
    }
}

impl Sink for BytesMut {
    fn u8(&mut self, value: u8) {
        self.put_u8(value);
    }

    fn u16(&mut self, value: u16) {
        self.put_u16(value);
    }

    fn u32(&mut self, value: u32) {
        self.put_u32(value);
    }

    fn slice(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn refuse(&mut self, _: EncodeError) {
        debug_assert!(false, "a packet is counted, and with that checked, before it is written");
    }
}

/// Counts the bytes of a packet, and remembers why it must not be sent.
#[derive(Debug, Default)]
pub(crate) struct Count {
    bytes: usize,
    refused: Option<EncodeError>,
}

impl Count {
    /// How many bytes were counted, even if the packet must not be sent.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many bytes were counted, if they may be sent.
    pub(crate) fn finish(self) -> Result<usize, EncodeError> {
        match self.refused {
            Some(error) => Err(error),
            None if self.bytes > VAR_INT_MAX => Err(EncodeError::PacketTooLarge(self.bytes)),
            None => Ok(self.bytes),
        }
    }
}

impl Sink for Count {
    fn u8(&mut self, _: u8) {
        self.bytes += 1;
    }

    fn u16(&mut self, _: u16) {
        self.bytes += 2;
    }

    fn u32(&mut self, _: u32) {
        self.bytes += 4;
    }

    fn slice(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn refuse(&mut self, error: EncodeError) {
        self.refused.get_or_insert(error);
    }
}

/// How many bytes a fixed header takes before `remaining` bytes.
pub(crate) const fn fixed_header_len(remaining: usize) -> usize {
    1 + var_int_len(remaining)
}

/// Writes a fixed header; `remaining` must not be above [`VAR_INT_MAX`].
#[inline]
pub(crate) fn put_fixed_header(first: u8, remaining: usize, dst: &mut BytesMut) {
    dst.put_u8(first);
    put_var_int(remaining, |byte| dst.put_u8(byte));
}

/// Writes a string that is known not to be longer than 65,535 bytes.
#[inline]
pub(crate) fn put_short_text(text: &str, dst: &mut BytesMut) {
    debug_assert!(text.len() <= FIELD_MAX, "topics are checked where they are built");
    dst.put_u16(text.len() as u16);
    dst.put_slice(text.as_bytes());
}
