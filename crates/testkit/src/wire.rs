//! Packets by hand: the bytes of the standard, with nothing checked.
//!
//! For what an encoder refuses to write. Knows no meaning, only lengths.

/// A packet: its first byte, its length and its body.
#[must_use]
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(var_int(body.len()));
    bytes.extend(body);
    bytes
}

/// Binary data or text with its length in front.
///
/// # Panics
///
/// Above 65,535 bytes.
#[must_use]
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("the test asks for a field that exists");
    [&length.to_be_bytes(), bytes].concat()
}

/// A property block: its length and the properties one after another.
#[must_use]
pub fn properties(list: &[&[u8]]) -> Vec<u8> {
    let block = list.concat();
    [var_int(block.len()), block].concat()
}

/// A Variable Byte Integer in its shortest form.
///
/// # Panics
///
/// Above 268,435,455.
#[must_use]
pub fn var_int(value: usize) -> Vec<u8> {
    assert!(value <= 268_435_455, "{value} is no variable byte integer");
    let mut bytes = Vec::new();
    let mut rest = value;
    loop {
        let low = u8::try_from(rest & 0x7F).expect("seven bits fit into a byte");
        rest >>= 7;
        if rest == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A CONNECT whose every part is given: protocol name, level, flags, and all that follows the
/// Keep Alive (of 60 seconds).
#[must_use]
pub fn connect(name: &str, level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    frame(0x10, &[field(name), vec![level, flags, 0, 60], rest.to_vec()].concat())
}
