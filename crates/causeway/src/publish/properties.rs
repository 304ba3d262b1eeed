//! Properties of a message on the command line: `-D publish NAME VALUE`.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;

/// The properties that `words` name: the words of every `-D` one after the other.
///
/// # Errors
/// When a name is not known, a value is missing, or a number is not one.
pub(super) fn parse(words: &[String]) -> anyhow::Result<Option<PublishProperties>> {
    if words.is_empty() {
        return Ok(None);
    }
    let mut properties = PublishProperties::default();
    let mut words = words.iter();
    while let Some(packet) = words.next() {
        if packet != "publish" {
            bail!("-D takes properties of publish, not of {packet:?}");
        }
        let name = words.next().context("-D publish needs a name and a value")?;
        let mut value =
            || words.next().cloned().with_context(|| format!("the property {name} needs a value"));
        match name.as_str() {
            "content-type" => properties.content_type = Some(value()?),
            "response-topic" => properties.response_topic = Some(value()?),
            "correlation-data" => properties.correlation_data = Some(Bytes::from(value()?)),
            "message-expiry-interval" => {
                properties.message_expiry_interval = Some(number(name, &value()?)?);
            }
            "payload-format-indicator" => {
                properties.payload_format_indicator = Some(number(name, &value()?)?);
            }
            "user-property" => properties.user_properties.push((value()?, value()?)),
            _ => bail!("there is no property {name:?} of publish"),
        }
    }
    Ok(Some(properties))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> anyhow::Result<T> {
    text.parse().ok().with_context(|| format!("{name} must be a number, not {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<PublishProperties>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn every_property_of_a_message_can_be_given() {
        let line = "publish content-type text/plain publish response-topic r \
                    publish correlation-data id publish message-expiry-interval 60 \
                    publish payload-format-indicator 1 \
                    publish user-property a 1 publish user-property a 2";
        let properties = parsed(line).unwrap().unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.response_topic.as_deref(), Some("r"));
        assert_eq!(properties.correlation_data.as_deref(), Some(&b"id"[..]));
        assert_eq!(properties.message_expiry_interval, Some(60));
        assert_eq!(properties.payload_format_indicator, Some(1));
        let pair = |value: &str| ("a".to_owned(), value.to_owned());
        assert_eq!(properties.user_properties, [pair("1"), pair("2")]);
    }

    #[test]
    fn no_words_are_no_properties_and_wrong_ones_are_named() {
        assert_eq!(parsed(""), Ok(None));
        let cases = [
            ("connect user-property a b", "-D takes properties of publish, not of \"connect\""),
            ("publish colour red", "there is no property \"colour\" of publish"),
            ("publish user-property a", "the property user-property needs a value"),
            (
                "publish message-expiry-interval soon",
                "message-expiry-interval must be a number, not \"soon\"",
            ),
        ];
        for (line, message) in cases {
            assert_eq!(parsed(line), Err(message.to_owned()));
        }
    }
}
