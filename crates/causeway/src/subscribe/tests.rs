//! Arguments of `sub`, and what it prints of what comes.

use super::*;
use bytes::Bytes;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    args: SubArgs,
}

fn parse(line: &str) -> Result<(SubArgs, Vec<Subscription>, Printer), String> {
    let words = ["sub"].into_iter().chain(line.split_whitespace());
    let args = Line::try_parse_from(words).map_err(|error| error.to_string())?.args;
    let subscriptions = args.subscriptions().map_err(|error| format!("{error:#}"))?;
    let printer = args.printer().map_err(|error| format!("{error:#}"))?;
    Ok((args, subscriptions, printer))
}

fn message(topic: &str, payload: &'static str, retain: bool) -> Received {
    Received {
        topic: topic.to_owned(),
        payload: Bytes::from_static(payload.as_bytes()),
        retain,
        ..Received::default()
    }
}

/// What is printed of a retained, then live messages; and whether the last one was the end.
fn printed(line: &str) -> (String, bool) {
    let mut printer = parse(line).unwrap().2;
    let mut out = Vec::new();
    for message in
        [message("a/b", "old", true), message("a/b", "x", false), message("c", "y", false)]
    {
        if printer.print(&mut out, &message).unwrap() == After::End(End::Done) {
            return (String::from_utf8(out).unwrap(), true);
        }
    }
    (String::from_utf8(out).unwrap(), false)
}

#[test]
fn the_habits_of_mosquitto_sub_are_understood() {
    let line = "-h host -p 1884 -t a/# -t b -q 2 -C 3 -W 5 -v -c -i me -V 5 -x 60 --no-local \
                --retain-handling new --retain-as-published";
    let (args, subscriptions, printer) = parse(line).unwrap();
    assert_eq!((args.connect.host.as_str(), args.connect.port), ("host", 1884));
    assert_eq!(args.timeout, Some(5));
    assert_eq!(printer.left, Some(3));
    assert_eq!(subscriptions.len(), 2);
    for (wanted, filter) in subscriptions.iter().zip(["a/#", "b"]) {
        assert_eq!((wanted.filter.as_str(), wanted.qos), (filter, 2));
        assert!(wanted.no_local && wanted.retain_as_published);
        assert_eq!(wanted.retain_handling, 1);
    }
}

#[test]
fn what_cannot_work_is_refused_before_connecting() {
    for line in ["", "-t a/#/b", "-t a -C 0", "-t a -T +b", "-t a -q 3", "-t a -v --json"] {
        assert!(parse(line).is_err(), "{line}");
    }
    assert!(parse("-t a --no-local").is_err_and(|text| text.contains("add -V 5")));
    assert!(parse("-t a -F %w").is_err_and(|text| text.contains("\"%w\"")));
    assert!(parse("-U a").is_ok());
}

#[test]
fn messages_are_printed_as_asked() {
    let cases = [
        ("-t #", "old\nx\ny\n", false),
        ("-t # -v", "a/b old\na/b x\nc y\n", false),
        ("-t # -N", "oldxy", false),
        ("-t # -F %t=%p", "a/b=old\na/b=x\nc=y\n", false),
        ("-t # -R", "x\ny\n", false),
        ("-t # --retained-only", "old\n", true),
        ("-t # -T a/+", "y\n", false),
        ("-t # -C 2", "old\nx\n", true),
        ("-t # -C 1 -R", "x\n", true),
    ];
    for (line, expected, ended) in cases {
        assert_eq!(printed(line), (expected.to_owned(), ended), "{line}");
    }
}

#[test]
fn a_closed_pipe_is_an_end_and_no_error() {
    struct Closed;
    impl io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut printer = parse("-t a").unwrap().2;
    let after = printer.print(&mut Closed, &message("a", "x", false)).unwrap();
    assert_eq!(after, After::End(End::Unread));
}

#[test]
fn refused_filters_end_it_only_when_none_is_left() {
    let filters = ["a".to_owned(), "b".to_owned()];
    let refused = || Err("not authorized".to_owned());
    assert!(check_grants(&filters, &[Ok(1), refused()], true).is_ok());
    assert!(check_grants(&filters, &[refused(), refused()], true).is_err());
}
