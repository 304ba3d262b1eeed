//! Formats from outside: text in, bytes out.

use super::*;
use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use std::time::Duration;

fn message(payload: &'static [u8]) -> Received {
    Received {
        topic: "demo/a".to_owned(),
        payload: Bytes::from_static(payload),
        qos: 1,
        retain: true,
        packet_id: 7,
        properties: Some(PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(60),
            response_topic: Some("answers".to_owned()),
            correlation_data: Some(Bytes::from_static(b"id")),
            user_properties: vec![("a".to_owned(), "1".to_owned()), ("a".into(), "2".into())],
            subscription_identifiers: vec![3, 4],
            content_type: Some("text/plain".to_owned()),
            topic_alias: None,
        }),
    }
}

/// 2024-02-29 23:59:58.123456789 UTC
fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(1_709_251_198, 123_456_789)
}

fn printed(format: &str, message: &Received) -> String {
    let mut out = Vec::new();
    Format::parse(format).unwrap().write(&mut out, message, moment()).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn every_sequence_prints_its_part_of_the_message() {
    let cases = [
        ("%t|%p|%q|%r|%l|%m", "demo/a|hi!|1|1|3|7"),
        ("%x %X %%", "686921 686921 %"),
        ("%C %R %D %E %F", "text/plain answers id 60 1"),
        ("%P / %S / %A.", "a:1 a:2 / 3 4 / ."),
        ("%I", "2024-02-29T23:59:58+0000"),
        ("%U", "1709251198.123456789"),
        ("@Y-@m-@d @H:@M:@S.@N @F @T @@", "2024-02-29 23:59:58.123456789 2024-02-29 23:59:58 @"),
        ("a\\tb\\n\\\\", "a\tb\n\\"),
        ("plain", "plain"),
        ("", ""),
    ];
    for (format, expected) in cases {
        assert_eq!(printed(format, &message(b"hi!")), expected, "{format}");
    }
}

#[test]
fn width_alignment_and_precision_are_as_in_c() {
    let cases = [
        ("[%8t]", "[  demo/a]"),
        ("[%-8t]", "[demo/a  ]"),
        ("[%.4t]", "[demo]"),
        ("[%6.2p]", "[    hi]"),
        ("[%05l]", "[00003]"),
        ("[%2t]", "[demo/a]"),
    ];
    for (format, expected) in cases {
        assert_eq!(printed(format, &message(b"hi!")), expected, "{format}");
    }
}

#[test]
fn binary_numbers_are_decoded_when_their_length_is_right() {
    let mut double = message(b"");
    double.payload = Bytes::copy_from_slice(&2.5_f64.to_ne_bytes());
    assert_eq!(printed("%d %.2d", &double), "2.5 2.50");
    assert_eq!(printed("[%f]", &double), "[]");
    double.payload = Bytes::copy_from_slice(&0.25_f32.to_ne_bytes());
    assert_eq!(printed("%f", &double), "0.25");
}

#[test]
fn payloads_that_are_no_text_are_printed_unchanged() {
    let mut out = Vec::new();
    Format::parse("%p").unwrap().write(&mut out, &message(b"\xff\0a"), moment()).unwrap();
    assert_eq!(out, b"\xff\0a");
}

#[test]
fn json_has_the_names_of_mosquitto_sub() {
    let expected = concat!(
        r#"{"tst":"2024-02-29T23:59:58.123456Z","topic":"demo/a","qos":1,"retain":1,"#,
        r#""payloadlen":3,"mid":7,"properties":{"payload-format-indicator":1,"#,
        r#""message-expiry-interval":60,"content-type":"text/plain","response-topic":"answers","#,
        r#""correlation-data":"id","subscription-identifier":[3,4],"#,
        r#""user-properties":{"a":"1","a":"2"}},"payload":"a\"b"}"#,
    );
    assert_eq!(printed("%j", &message(b"a\"b")), expected);
}

#[test]
fn json_payloads_are_embedded_only_when_they_are_json() {
    let plain = |payload| Received { properties: None, qos: 0, ..message(payload) };
    let end = |format: &str, payload| {
        let text = printed(format, &plain(payload));
        text.split_once("\"payloadlen\":").unwrap().1.to_owned()
    };
    assert_eq!(end("%J", b"{\"t\": 1}"), r#"8,"payload":{"t":1}}"#);
    assert_eq!(end("%J", b"not"), r#"3,"payload":"not"}"#);
    assert_eq!(end("%j", b"\xff\x00"), r#"2,"payload":null,"payloadhex":"ff00"}"#);
}

#[test]
fn dates_are_those_of_the_calendar() {
    let days = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
    let cases = [
        (0, "1970-01-01"),
        (59, "1970-03-01"),
        (789, "1972-02-29"),
        (10_957, "2000-01-01"),
        (11_016, "2000-02-29"),
        (47_540, "2100-02-28"),
        (47_541, "2100-03-01"),
    ];
    for (day, expected) in cases {
        assert_eq!(Clock::at(days(day)).strftime('F').as_deref(), Some(expected));
    }
}

#[test]
fn formats_that_say_nothing_are_refused() {
    assert_eq!(Format::parse("a%"), Err(FormatError::Unfinished));
    assert_eq!(Format::parse("%5"), Err(FormatError::Unfinished));
    assert_eq!(Format::parse("\\"), Err(FormatError::Unfinished));
    assert_eq!(Format::parse("%w"), Err(FormatError::Unknown("%w".to_owned())));
    assert_eq!(Format::parse("@q"), Err(FormatError::Unknown("@q".to_owned())));
    assert!(Format::parse("%99999999999999999999t").is_ok());
}
