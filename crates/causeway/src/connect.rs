//! The flags that `pub` and `sub` share: where to connect, as whom, and how.
//!
//! Named and abbreviated as in mosquitto's clients, so `-h` is the host and help is `--help`.

use std::hash::{BuildHasher, Hasher, RandomState};

use clap::{ArgAction, Args, ValueEnum};

/// Where to connect, as whom, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Host name or address of the server
    #[arg(short = 'h', long, default_value = "localhost", help_heading = "Connection")]
    pub(crate) host: String,
    /// Port of the server
    #[arg(short, long, default_value_t = 1883, help_heading = "Connection")]
    pub(crate) port: u16,
    /// Client id [default: a random one]
    #[arg(short, long, conflicts_with = "id_prefix", help_heading = "Connection")]
    pub(crate) id: Option<String>,
    /// Client id made of this and the process id
    #[arg(short = 'I', long, help_heading = "Connection")]
    pub(crate) id_prefix: Option<String>,
    /// User name
    #[arg(short, long, help_heading = "Connection")]
    pub(crate) username: Option<String>,
    /// Password
    #[arg(short = 'P', long = "pw", requires = "username", help_heading = "Connection")]
    pub(crate) password: Option<String>,
    /// MQTT version: 311 or 5 (also mqttv311, mqttv5)
    #[arg(short = 'V', long, default_value = "311", help_heading = "Connection")]
    pub(crate) protocol_version: ProtocolVersion,
    /// Seconds of silence after which the connection is checked; 0 = never (MQTT 5: at least 5)
    #[arg(short, long, default_value_t = 60, help_heading = "Connection")]
    pub(crate) keepalive: u16,
    /// Keep the session after the end, and resume it when there is one (needs --id)
    #[arg(short = 'c', long, help_heading = "Connection")]
    pub(crate) disable_clean_session: bool,
    /// Seconds that the session is kept after the end (MQTT 5) [default with -c: for ever]
    #[arg(short = 'x', long, value_name = "SECONDS", help_heading = "Connection")]
    pub(crate) session_expiry_interval: Option<u32>,
    #[command(flatten)]
    pub(crate) will: WillArgs,
    /// Print what is sent and received on standard error
    #[arg(short, long)]
    pub(crate) debug: bool,
    /// Print no errors
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// The message that the server publishes when the connection is lost.
#[derive(Clone, Debug, Args)]
pub(crate) struct WillArgs {
    /// Topic of the will
    #[arg(id = "will_topic", long = "will-topic", value_name = "TOPIC", help_heading = "Will")]
    pub(crate) topic: Option<String>,
    /// Payload of the will
    #[arg(
        id = "will_payload",
        long = "will-payload",
        value_name = "TEXT",
        requires = "will_topic",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        help_heading = "Will"
    )]
    pub(crate) payload: String,
    /// QoS of the will
    #[arg(
        id = "will_qos",
        long = "will-qos",
        value_name = "QOS",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=2),
        help_heading = "Will"
    )]
    pub(crate) qos: u8,
    /// Let the server retain the will
    #[arg(
        id = "will_retain",
        long = "will-retain",
        requires = "will_topic",
        help_heading = "Will"
    )]
    pub(crate) retain: bool,
}

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolVersion {
    /// MQTT 3.1.1
    #[value(name = "311", aliases = ["mqttv311", "3.1.1", "4"])]
    V311,
    /// MQTT 5.0
    #[value(name = "5", aliases = ["mqttv5", "5.0"])]
    V5,
}

impl ConnectArgs {
    /// The client id to connect with; `role` tells the random ones apart in the server's log.
    pub(crate) fn client_id(&self, role: &str) -> String {
        match (&self.id, &self.id_prefix) {
            (Some(id), _) => id.clone(),
            (None, Some(prefix)) => format!("{prefix}{}", std::process::id()),
            (None, None) => {
                // The keys of a new hasher are random: enough for a name nobody else has.
                let random = RandomState::new().build_hasher().finish();
                format!("causeway-{role}-{random:016x}")
            }
        }
    }

    /// Refuses combinations that cannot work.
    ///
    /// # Errors
    /// What to do instead.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let v5 = self.protocol_version == ProtocolVersion::V5;
        if self.disable_clean_session && self.id.is_none() && self.id_prefix.is_none() {
            anyhow::bail!("-c keeps the session of a client id: name it with --id");
        }
        if self.session_expiry_interval.is_some() && !v5 {
            anyhow::bail!("--session-expiry-interval needs MQTT 5: add -V 5");
        }
        if v5 && self.keepalive < 5 {
            anyhow::bail!("--keepalive must be at least 5 seconds with MQTT 5");
        }
        Ok(())
    }

    /// Whether the session outlives the connection.
    pub(crate) fn is_persistent(&self) -> bool {
        self.disable_clean_session || self.session_expiry_interval.is_some_and(|expiry| expiry > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        connect: ConnectArgs,
    }

    fn parse(flags: &[&str]) -> ConnectArgs {
        let line = ["line"].iter().chain(flags);
        Line::try_parse_from(line).unwrap().connect
    }

    #[test]
    fn versions_are_known_by_all_their_names() {
        for (name, version) in [
            ("311", ProtocolVersion::V311),
            ("mqttv311", ProtocolVersion::V311),
            ("5", ProtocolVersion::V5),
            ("mqttv5", ProtocolVersion::V5),
        ] {
            assert_eq!(parse(&["-V", name]).protocol_version, version);
        }
    }

    #[test]
    fn client_ids_are_given_prefixed_or_random() {
        assert_eq!(parse(&["-i", "me"]).client_id("sub"), "me");
        let prefixed = parse(&["-I", "me-"]).client_id("sub");
        assert_eq!(prefixed, format!("me-{}", std::process::id()));
        let random = parse(&[]);
        assert_ne!(random.client_id("sub"), random.client_id("sub"));
    }

    #[test]
    fn combinations_that_cannot_work_are_refused() {
        for flags in [&["-c"][..], &["-x", "5"], &["-V", "5", "-k", "3"]] {
            assert!(parse(flags).check().is_err(), "{flags:?}");
        }
        for flags in [&["-c", "-i", "me"][..], &["-x", "5", "-V", "5"], &["-k", "0"]] {
            assert!(parse(flags).check().is_ok(), "{flags:?}");
        }
    }

    #[test]
    fn a_password_needs_a_user_name() {
        assert!(Line::try_parse_from(["line", "-P", "secret"]).is_err());
    }
}
