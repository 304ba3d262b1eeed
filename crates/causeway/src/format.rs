//! How `causeway sub` prints a message: the `%` sequences of mosquitto_sub.
//!
//! A format is parsed once and cannot fail afterwards. Times are UTC: the time zone of a machine is
//! not known without a dependency that this would be the only use of.

use std::io::{self, Write};
use std::time::SystemTime;

use crate::link::Received;

mod clock;
mod json;
#[cfg(test)]
mod tests;

use clock::Clock;

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format(Vec<Piece>);

/// Why a format was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// The format ends in the middle of a sequence.
    #[error("the format ends within a sequence; write %% for a percent sign")]
    Unfinished,
    /// There is no such sequence.
    #[error("there is no sequence {0:?} in formats")]
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(Field, Layout),
    Time(char),
}

/// What a `%` sequence stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    PayloadLength,
    PacketId,
    Payload,
    Property(Property),
    QoS,
    Retain,
    Topic,
    HexLower,
    HexUpper,
    Double,
    Float,
    IsoTime,
    UnixTime,
    JsonQuoted,
    JsonRaw,
}

/// What a `%` sequence stands for when only MQTT 5 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Property {
    TopicAlias,
    ContentType,
    CorrelationData,
    MessageExpiry,
    PayloadFormat,
    UserProperties,
    ResponseTopic,
    SubscriptionIds,
}

/// Width, alignment and precision, as in C.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Layout {
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
}

impl Format {
    /// Only the payload.
    pub(crate) fn payload() -> Self {
        Self(vec![field(Field::Payload)])
    }

    /// Topic, a space, payload.
    pub(crate) fn verbose() -> Self {
        Self(vec![field(Field::Topic), Piece::Literal(" ".to_owned()), field(Field::Payload)])
    }

    /// One JSON object.
    pub(crate) fn json() -> Self {
        Self(vec![field(Field::JsonQuoted)])
    }

    /// Reads a format: `%` sequences, `@` sequences for the time, `\` escapes.
    pub(crate) fn parse(text: &str) -> Result<Self, FormatError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let piece = match letter {
                '%' => sequence(&mut letters)?,
                '@' => time_sequence(&mut letters)?,
                '\\' => Piece::Literal(escape(&mut letters)?.to_string()),
                other => Piece::Literal(other.to_string()),
            };
            match piece {
                Piece::Literal(part) => literal.push_str(&part),
                other @ (Piece::Field(..) | Piece::Time(_)) => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(other);
                }
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// Writes `message`, received at `time`, without a line break of its own.
    pub(crate) fn write(
        &self,
        out: &mut impl Write,
        message: &Received,
        time: SystemTime,
    ) -> io::Result<()> {
        let clock = Clock::at(time);
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.write_all(text.as_bytes())?,
                Piece::Time(letter) => {
                    let text = clock.strftime(*letter).unwrap_or_default();
                    out.write_all(text.as_bytes())?;
                }
                Piece::Field(field, layout) => field.write(out, message, *layout, &clock)?,
            }
        }
        Ok(())
    }
}

impl Field {
    fn named(letter: char) -> Option<Self> {
        Some(match letter {
            'A' => Self::Property(Property::TopicAlias),
            'C' => Self::Property(Property::ContentType),
            'D' => Self::Property(Property::CorrelationData),
            'E' => Self::Property(Property::MessageExpiry),
            'F' => Self::Property(Property::PayloadFormat),
            'I' => Self::IsoTime,
            'J' => Self::JsonRaw,
            'P' => Self::Property(Property::UserProperties),
            'R' => Self::Property(Property::ResponseTopic),
            'S' => Self::Property(Property::SubscriptionIds),
            'U' => Self::UnixTime,
            'X' => Self::HexUpper,
            'd' => Self::Double,
            'f' => Self::Float,
            'j' => Self::JsonQuoted,
            'l' => Self::PayloadLength,
            'm' => Self::PacketId,
            'p' => Self::Payload,
            'q' => Self::QoS,
            'r' => Self::Retain,
            't' => Self::Topic,
            'x' => Self::HexLower,
            _ => return None,
        })
    }

    fn write(
        self,
        out: &mut impl Write,
        message: &Received,
        layout: Layout,
        clock: &Clock,
    ) -> io::Result<()> {
        // Bytes, not text: what is not UTF-8 must come out unchanged.
        if layout == Layout::default() && self == Self::Payload {
            return out.write_all(&message.payload);
        }
        let text = self.text(message, layout, clock);
        let mut layout = layout;
        if matches!(self, Self::Double | Self::Float) {
            layout.precision = None; // it was the number of digits
        }
        out.write_all(layout.apply(text).as_bytes())
    }

    fn text(self, message: &Received, layout: Layout, clock: &Clock) -> String {
        let payload = &message.payload;
        match self {
            Self::Topic => message.topic.clone(),
            Self::Payload => String::from_utf8_lossy(payload).into_owned(),
            Self::PayloadLength => payload.len().to_string(),
            Self::PacketId => message.packet_id.to_string(),
            Self::QoS => message.qos.to_string(),
            Self::Retain => u8::from(message.retain).to_string(),
            Self::HexLower => payload.iter().map(|byte| format!("{byte:02x}")).collect(),
            Self::HexUpper => payload.iter().map(|byte| format!("{byte:02X}")).collect(),
            Self::Double => number(<[u8; 8]>::try_from(&**payload).map(f64::from_ne_bytes), layout),
            Self::Float => {
                let bytes = <[u8; 4]>::try_from(&**payload);
                number(bytes.map(|bytes| f64::from(f32::from_ne_bytes(bytes))), layout)
            }
            Self::IsoTime => clock.iso(),
            Self::UnixTime => clock.unix(),
            Self::JsonQuoted => json::quoted(message, clock),
            Self::JsonRaw => json::raw(message, clock),
            Self::Property(property) => property.text(message).unwrap_or_default(),
        }
    }
}

impl Property {
    fn text(self, message: &Received) -> Option<String> {
        let properties = message.properties.as_ref()?;
        match self {
            Self::TopicAlias => properties.topic_alias.map(|alias| alias.to_string()),
            Self::ContentType => properties.content_type.clone(),
            Self::CorrelationData => {
                let bytes = properties.correlation_data.as_ref()?;
                Some(String::from_utf8_lossy(bytes).into_owned())
            }
            Self::MessageExpiry => properties.message_expiry_interval.map(|s| s.to_string()),
            Self::PayloadFormat => properties.payload_format_indicator.map(|f| f.to_string()),
            Self::ResponseTopic => properties.response_topic.clone(),
            Self::SubscriptionIds => {
                let ids = properties.subscription_identifiers.iter();
                Some(ids.map(usize::to_string).collect::<Vec<_>>().join(" "))
            }
            Self::UserProperties => {
                let pairs = properties.user_properties.iter();
                let pairs = pairs.map(|(name, value)| format!("{name}:{value}"));
                Some(pairs.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

impl Layout {
    fn apply(self, text: String) -> String {
        let cut: String = match self.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text,
        };
        let missing = self.width.saturating_sub(cut.chars().count());
        match (missing, self.left, self.zeros) {
            (0, _, _) => cut,
            (_, true, _) => cut + &" ".repeat(missing),
            (_, false, true) => "0".repeat(missing) + &cut,
            (_, false, false) => " ".repeat(missing) + &cut,
        }
    }
}

fn field(field: Field) -> Piece {
    Piece::Field(field, Layout::default())
}

/// The rest of a sequence after its `%`: `-`, `0`, width, `.precision`, letter.
fn sequence(letters: &mut std::str::Chars<'_>) -> Result<Piece, FormatError> {
    /// Wider fields help nobody and cost memory.
    const WIDEST: usize = 10_000;
    let mut layout = Layout::default();
    let mut written = String::from("%");
    loop {
        let letter = letters.next().ok_or(FormatError::Unfinished)?;
        written.push(letter);
        match letter {
            '%' => return Ok(Piece::Literal("%".to_owned())),
            '-' => layout.left = true,
            '0' if layout.width == 0 && layout.precision.is_none() => layout.zeros = true,
            '.' => layout.precision = Some(0),
            '0'..='9' => {
                let digit = letter.to_digit(10).map_or(0, |digit| digit as usize);
                let number = layout.precision.as_mut().unwrap_or(&mut layout.width);
                *number = number.saturating_mul(10).saturating_add(digit).min(WIDEST);
            }
            _ => {
                let field = Field::named(letter).ok_or(FormatError::Unknown(written))?;
                return Ok(Piece::Field(field, layout));
            }
        }
    }
}

fn time_sequence(letters: &mut std::str::Chars<'_>) -> Result<Piece, FormatError> {
    match letters.next().ok_or(FormatError::Unfinished)? {
        '@' => Ok(Piece::Literal("@".to_owned())),
        letter if Clock::at(SystemTime::UNIX_EPOCH).strftime(letter).is_some() => {
            Ok(Piece::Time(letter))
        }
        letter => Err(FormatError::Unknown(format!("@{letter}"))),
    }
}

fn escape(letters: &mut std::str::Chars<'_>) -> Result<char, FormatError> {
    match letters.next().ok_or(FormatError::Unfinished)? {
        '\\' => Ok('\\'),
        '0' => Ok('\0'),
        'a' => Ok('\x07'),
        'e' => Ok('\x1b'),
        'n' => Ok('\n'),
        'r' => Ok('\r'),
        't' => Ok('\t'),
        'v' => Ok('\x0b'),
        letter => Err(FormatError::Unknown(format!("\\{letter}"))),
    }
}

fn number<E>(value: Result<f64, E>, layout: Layout) -> String {
    match (value, layout.precision) {
        (Ok(value), Some(digits)) => format!("{value:.digits$}"),
        (Ok(value), None) => value.to_string(),
        (Err(_), _) => String::new(),
    }
}
