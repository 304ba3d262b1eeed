//! The table of options from outside: layers, refusals, texts, the reference page.

use super::*;
use crate::{ByteSize, LogConfig, LogFormat, Period, Secret};
use serde::Deserialize;
use std::time::Duration;

static PROGRAM: Program = Program {
    name: "example-server",
    about: "Serves examples",
    env_prefix: "CAUSEWAY",
    options: &[
        opt("node_id", "", "", OptKind::Text),
        opt("mqtt.receive_maximum", "1024", "messages", OptKind::Integer),
        opt("mqtt.packet_size", "\"1MiB\"", "bytes", OptKind::Size),
        opt("cluster.intermediates", "[]", "", OptKind::List),
        opt("cluster.lease", "\"6s\"", "", OptKind::Duration),
        opt("cluster.token", "", "", OptKind::Secret),
        crate::LOG_LEVEL,
        crate::LOG_FORMAT,
        crate::EXIT_WITH_PARENT,
    ],
    after_help: "",
};

const fn opt(key: &'static str, default: &'static str, unit: &'static str, kind: OptKind) -> Opt {
    Opt { key, default, unit, help: "What | it does", kind }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    node_id: Option<String>,
    mqtt: Mqtt,
    cluster: Cluster,
    log: LogConfig,
    exit_with_parent: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mqtt {
    receive_maximum: u32,
    packet_size: ByteSize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    intermediates: Vec<String>,
    lease: Period,
    token: Option<Secret>,
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Refused> {
        let maximum = self.mqtt.receive_maximum;
        if !(1..=65_535).contains(&maximum) {
            return Err(Refused::new("mqtt.receive_maximum", maximum, "1 to 65535"));
        }
        if self.cluster.token.as_ref().is_some_and(|token| token.reveal().len() < 4) {
            return Err(Refused::new("cluster.token", "abc", "at least 4 characters"));
        }
        self.log.validate()
    }
}

/// A configuration from a file's text, variables and flags.
fn config(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Config, String> {
    let mut written = tempfile::NamedTempFile::new().unwrap();
    written.write_all(file.as_bytes()).unwrap();
    let path = written.path().to_str().unwrap().to_owned();
    let args = ["example-server", "--config", &path].into_iter().chain(flags.iter().copied());
    let matches = command(&PROGRAM).try_get_matches_from(args).unwrap();
    let environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(&PROGRAM, &matches, &environment).map_err(|error| error.to_string().replace(&path, "FILE"))
}

#[test]
fn the_table_describes_a_valid_command_line() {
    command(&PROGRAM).debug_assert();
}

#[test]
fn defaults_alone_make_a_configuration() {
    let config: Config = defaults(&PROGRAM).unwrap();
    assert_eq!(config.node_id, None);
    assert_eq!(config.mqtt.receive_maximum, 1024);
    assert_eq!(config.mqtt.packet_size.bytes(), 1 << 20);
    assert_eq!(config.cluster.lease.duration(), Duration::from_secs(6));
    assert!(config.cluster.intermediates.is_empty());
    assert_eq!(config.log.format, LogFormat::Text);
    assert!(!config.exit_with_parent);
}

#[test]
fn each_layer_wins_over_the_one_before() {
    let file = "[mqtt]\nreceive_maximum = 1\npacket_size = 2048\n[cluster]\nlease = \"1s\"";
    let variables =
        [("CAUSEWAY_MQTT__RECEIVE_MAXIMUM", "2"), ("CAUSEWAY_MQTT__PACKET_SIZE", "4KiB")];
    let read = config(file, &variables, &["--mqtt-receive-maximum", "3"]).unwrap();
    assert_eq!(read.mqtt.receive_maximum, 3);
    assert_eq!(read.mqtt.packet_size.bytes(), 4096);
    assert_eq!(read.cluster.lease.duration(), Duration::from_secs(1));
}

#[test]
fn a_later_file_wins_over_an_earlier_one() {
    let mut second = tempfile::NamedTempFile::new().unwrap();
    second.write_all(b"mqtt.receive_maximum = 7").unwrap();
    let flags = ["--config", second.path().to_str().unwrap()];
    let file = "[mqtt]\nreceive_maximum = 1\npacket_size = 2048";
    let read = config(file, &[], &flags).unwrap();
    assert_eq!(read.mqtt.receive_maximum, 7);
    assert_eq!(read.mqtt.packet_size.bytes(), 2048);
}

#[test]
fn lists_are_separated_by_commas_and_flags_are_repeatable() {
    let variables = [("CAUSEWAY_CLUSTER__INTERMEDIATES", "a:1, b:2")];
    let read = config("", &variables, &[]).unwrap();
    assert_eq!(read.cluster.intermediates, ["a:1", "b:2"]);
    let flags = ["--cluster-intermediates", "c:3,d:4", "--cluster-intermediates", "e:5"];
    let read = config("", &variables, &flags).unwrap();
    assert_eq!(read.cluster.intermediates, ["c:3", "d:4", "e:5"]);
    let read = config("cluster.intermediates = [\"f:6\"]", &[], &[]).unwrap();
    assert_eq!(read.cluster.intermediates, ["f:6"]);
}

#[test]
fn a_boolean_flag_stands_alone_or_takes_its_value() {
    assert!(config("", &[], &["--exit-with-parent"]).unwrap().exit_with_parent);
    assert!(config("", &[], &["--exit-with-parent", "true"]).unwrap().exit_with_parent);
    let off = config("exit_with_parent = true", &[], &["--exit-with-parent", "false"]);
    assert!(!off.unwrap().exit_with_parent);
}

/// File, variables, flags, and the message they are refused with.
struct Case(
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
    &'static str,
);

#[test]
fn refusals_name_key_value_source_and_what_would_be_right() {
    let cases: [Case; 9] = [
        Case(
            "",
            &[("CAUSEWAY_MQTT__RECEIVE_MAXIMUM", "0")],
            &[],
            "mqtt.receive_maximum = 0 (from the environment variable \
             CAUSEWAY_MQTT__RECEIVE_MAXIMUM): must be 1 to 65535",
        ),
        Case(
            "[mqtt]\nreceive_maximum = 70000",
            &[],
            &[],
            "mqtt.receive_maximum = 70000 (from the file FILE): must be 1 to 65535",
        ),
        Case(
            "",
            &[],
            &["--mqtt-receive-maximum", "many"],
            "mqtt.receive_maximum = \"many\" (from the flag --mqtt-receive-maximum): must be a \
             whole number, not negative",
        ),
        Case("mqtt = 3", &[], &[], "mqtt (from the file FILE): there is no such option"),
        Case(
            "[mqtt]\nrecieve_maximum = 5",
            &[],
            &[],
            "mqtt.recieve_maximum (from the file FILE): there is no such option; did you mean \
             mqtt.receive_maximum?",
        ),
        Case(
            "mqtt.receive_maximum = \"12\"",
            &[],
            &[],
            "mqtt.receive_maximum = \"12\" (from the file FILE): must be a whole number, not \
             negative",
        ),
        Case(
            "cluster.lease = 6",
            &[],
            &[],
            "cluster.lease = 6 (from the file FILE): must be a duration with its unit, such as \
             \"500ms\", \"6s\" or \"2m\"",
        ),
        Case(
            "",
            &[("CAUSEWAY_MQTT__RECIEVE_MAXIMUM", "5")],
            &[],
            "CAUSEWAY_MQTT__RECIEVE_MAXIMUM (from the environment variable \
             CAUSEWAY_MQTT__RECIEVE_MAXIMUM): there is no such option; did you mean \
             CAUSEWAY_MQTT__RECEIVE_MAXIMUM?",
        ),
        Case(
            "log.format = \"xml\"",
            &[],
            &[],
            "log.format = \"xml\" (from the file FILE): must be a value that is understood \
             (unknown variant `xml`, expected `text` or `json`)",
        ),
    ];
    for Case(file, variables, flags, message) in cases {
        assert_eq!(config(file, variables, flags).unwrap_err(), message);
    }
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let message = config("[mqtt\n", &[], &[]).unwrap_err();
    assert!(message.starts_with("the file FILE is not TOML: "), "{message}");
    assert!(message.contains("line 1"), "{message}");
}

#[test]
fn variables_of_others_with_the_same_prefix_are_left_alone() {
    let variables = [
        ("CAUSEWAY_SERVICE_HOST", "10.0.0.1"),
        ("CAUSEWAY_PORT_1883_TCP_ADDR", "10.0.0.1"),
        ("CAUSEWAY_NODE_ID", ""),
        ("PATH", "/bin"),
    ];
    assert_eq!(config("", &variables, &[]).unwrap().node_id, None);
}

#[test]
fn a_secret_comes_from_its_file_and_is_never_shown() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"open sesame\n").unwrap();
    let path = file.path().to_str().unwrap();
    let read = config("", &[("CAUSEWAY_CLUSTER__TOKEN_FILE", path)], &[]).unwrap();
    assert_eq!(read.cluster.token.as_ref().unwrap().reveal(), "open sesame");
    assert!(!format!("{read:?}").contains("sesame"));

    let refused = config("", &[], &["--cluster-token", "abc"]).unwrap_err();
    let expected =
        "cluster.token = (hidden) (from the flag --cluster-token): must be at least 4 characters";
    assert_eq!(refused, expected);
    let refused = config("cluster.token_file = \"/nowhere/token\"", &[], &[]).unwrap_err();
    let expected = "cluster.token_file = \"/nowhere/token\" (from the file FILE): must be a file \
                    that can be read";
    assert!(refused.starts_with(expected), "{refused}");
}

#[test]
fn the_reference_lists_every_option_once() {
    let page = reference(&PROGRAM);
    let expected = "\
| flag | environment | TOML key | default | unit | meaning |
|---|---|---|---|---|---|
| `--node-id` | `CAUSEWAY_NODE_ID` | `node_id` |  |  | What \\| it does |
| `--mqtt-receive-maximum` | `CAUSEWAY_MQTT__RECEIVE_MAXIMUM` | `mqtt.receive_maximum` | `1024` | messages | What \\| it does |
";
    assert!(page.starts_with(expected), "{page}");
    assert!(page.contains("| `--cluster-token-file` | `CAUSEWAY_CLUSTER__TOKEN_FILE` |"), "{page}");
    assert_eq!(page.lines().count(), PROGRAM.options.len() + 3);
}

#[test]
fn help_shows_flag_default_unit_and_variable() {
    let help = command(&PROGRAM).render_long_help().to_string();
    assert!(help.contains("--mqtt-receive-maximum <NUMBER>"), "{help}");
    assert!(help.contains("[messages] [default: 1024] [env: CAUSEWAY_MQTT__RECEIVE_MAXIMUM]"));
}

#[test]
fn configure_refuses_with_exit_code_2_and_checks_with_0() {
    let run = |flags: &[&str]| {
        let args = ["example-server"].iter().chain(flags).map(OsString::from).collect::<Vec<_>>();
        configure::<Config>(&PROGRAM, args.into_iter())
    };
    let code = |start: Start<Config>| match start {
        Start::Run(_) => None,
        Start::Exit(code) => Some(code),
    };
    assert_eq!(code(run(&["--check-config"])), Some(ExitCode::SUCCESS));
    assert_eq!(code(run(&["--no-such-flag"])), Some(ExitCode::from(2)));
    let refused = run(&["--check-config", "--mqtt-receive-maximum", "0"]);
    assert_eq!(code(refused), Some(ExitCode::from(2)));
    assert_eq!(code(run(&["--node-id", "a"])), None);
}
