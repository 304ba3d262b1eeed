//! `causeway sub`: subscribes and prints what comes.
//!
//! A message is acknowledged after it was printed, so what a killed `sub` did not print stays with
//! a session that is kept.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use mqtt_codec::{TopicFilter, TopicName};
use tokio_util::sync::CancellationToken;

use crate::connect::{ConnectArgs, ProtocolVersion};
use crate::format::Format;
use crate::link::{Link, Received, Requests, Step, Subscription, Waiting, complain};

#[cfg(test)]
mod tests;

/// Exit code when `-W` ran out, as mosquitto_sub's.
const TIMED_OUT: u8 = 27;
/// How long the last packets may take.
const LAST_PACKETS: Duration = Duration::from_secs(1);

/// Subscribe and print what comes, as mosquitto_sub does.
#[derive(Clone, Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  causeway sub -t 'demo/#' -v
  causeway sub -h 10.0.0.7 -p 1884 -t demo/a -q 1 -C 1 -W 10
  causeway sub -t 'demo/#' --json | jq .payload
  causeway sub -t 'demo/#' -F '%I %t: %p'
  causeway sub -t '$share/workers/jobs/#' -q 1 -c -i worker-1 -V 5

Sequences in formats:
  %t topic          %p payload        %l its length     %x %X in hexadecimal
  %q QoS            %r retained       %m packet id      %I %U time, as ISO 8601 and Unix time
  %j JSON object    %J the same with the payload as JSON
  %d %f payload as binary double, float                 %% a percent sign
  MQTT 5: %C content type, %R response topic, %D correlation data, %E message expiry,
  %F payload format, %P user properties, %S subscription identifiers, %A topic alias
  %-8t %08l %.4p    left-aligned, width with zeros, at most 4 characters
  @Y @m @d @H @M @S @N @F @T @s    parts of the time (UTC); \\n \\t \\0 ...: escapes

Exit codes: 0 ended by -C or Ctrl-C, 1 connection refused or lost or all filters refused,
2 wrong usage, 27 -W ran out."
)]
pub(crate) struct SubArgs {
    /// Filter to subscribe to; may be repeated
    #[arg(short, long = "topic", value_name = "FILTER", required_unless_present = "unsubscribe")]
    topic: Vec<String>,
    /// Do not print messages whose topic matches this filter; may be repeated
    #[arg(short = 'T', long, value_name = "FILTER")]
    filter_out: Vec<String>,
    /// End a subscription of the session; may be repeated
    #[arg(short = 'U', long, value_name = "FILTER")]
    unsubscribe: Vec<String>,
    /// Greatest QoS to receive with: 0, 1 or 2
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// End after this many messages
    #[arg(short = 'C', long = "count", value_name = "COUNT")]
    count: Option<u64>,
    /// End after this many seconds, with exit code 27
    #[arg(short = 'W', long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// End when the subscriptions are made
    #[arg(short = 'E', long)]
    exit_after_subscribe: bool,
    /// Print the topic before the payload
    #[arg(short, long, conflicts_with_all = ["format", "json"], help_heading = "Output")]
    verbose: bool,
    /// Print each message in this format; see below
    #[arg(short = 'F', long, conflicts_with = "json", help_heading = "Output")]
    format: Option<String>,
    /// Print each message as a JSON object on a line of its own
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Print no line break after a message
    #[arg(short = 'N', long, help_heading = "Output")]
    no_newline: bool,
    /// Do not print retained messages from before the subscription
    #[arg(short = 'R', long, help_heading = "Retained messages")]
    no_retained: bool,
    /// Print only retained messages, and end at the first other one
    #[arg(long, conflicts_with = "no_retained", help_heading = "Retained messages")]
    retained_only: bool,
    /// When the server sends retained messages (MQTT 5)
    #[arg(long, value_name = "WHEN", help_heading = "Retained messages")]
    retain_handling: Option<RetainHandling>,
    /// Keep the retain flag as the publisher set it (MQTT 5)
    #[arg(long, help_heading = "Retained messages")]
    retain_as_published: bool,
    /// Do not receive what this client id publishes (MQTT 5)
    #[arg(long)]
    no_local: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// When retained messages are sent for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RetainHandling {
    /// At every subscribe
    Always,
    /// Only when the subscription is new
    New,
    /// Never
    Never,
}

/// Why `sub` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    TimedOut,
    /// Nobody reads what is printed any more.
    Unread,
}

/// What to do after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    GoOn,
    End(End),
}

/// What is printed of what comes, and how often.
struct Printer {
    format: Format,
    line_end: &'static str,
    filter_out: Vec<TopicFilter>,
    no_retained: bool,
    retained_only: bool,
    left: Option<u64>,
}

/// Runs the command.
pub(crate) async fn run(args: SubArgs) -> anyhow::Result<ExitCode> {
    let quiet = args.connect.quiet;
    match subscribe(args).await {
        Ok(End::Done | End::Unread) => Ok(ExitCode::SUCCESS),
        Ok(End::TimedOut) => Ok(ExitCode::from(TIMED_OUT)),
        Err(_) if quiet => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    }
}

async fn subscribe(args: SubArgs) -> anyhow::Result<End> {
    let subscriptions = args.subscriptions()?;
    let mut printer = args.printer()?;
    let interrupted = daemon::on_signals();
    let client_id = args.connect.client_id("sub");
    let (requests, mut link) = Link::new(&args.connect, client_id, Waiting::AllAnswers);

    let work = async {
        link.connect().await?;
        if !subscriptions.is_empty() {
            requests.subscribe(&subscriptions)?;
        }
        for filter in &args.unsubscribe {
            requests.unsubscribe(filter)?;
        }
        receive(&args, &requests, &mut link, &mut printer).await
    };
    let end = tokio::select! {
        end = work => end?,
        end = stopped(args.timeout, &interrupted) => end,
    };
    close(&requests, &mut link).await;
    Ok(end)
}

async fn stopped(timeout: Option<u64>, interrupted: &CancellationToken) -> End {
    let Some(seconds) = timeout else {
        interrupted.cancelled().await;
        return End::Done;
    };
    tokio::select! {
        () = interrupted.cancelled() => End::Done,
        () = tokio::time::sleep(Duration::from_secs(seconds)) => End::TimedOut,
    }
}

async fn receive(
    args: &SubArgs,
    requests: &Requests,
    link: &mut Link,
    printer: &mut Printer,
) -> anyhow::Result<End> {
    let mut answers = usize::from(!args.topic.is_empty()) + args.unsubscribe.len();
    loop {
        match link.next().await? {
            Step::Message(message) => {
                let after = printer.print(&mut io::stdout().lock(), &message)?;
                if after == After::End(End::Unread) {
                    return Ok(End::Unread);
                }
                requests.acknowledge(&message)?;
                if let After::End(end) = after {
                    finish(link, &message).await;
                    return Ok(end);
                }
            }
            Step::Subscribed(grants) => {
                check_grants(&args.topic, &grants, args.connect.quiet)?;
                answers = answers.saturating_sub(1);
            }
            Step::Unsubscribed => answers = answers.saturating_sub(1),
            Step::Connected
            | Step::Sent
            | Step::Completed(_)
            | Step::Released(_)
            | Step::Closing
            | Step::Other => {}
        }
        if answers == 0 && (args.exit_after_subscribe || args.topic.is_empty()) {
            return Ok(End::Done);
        }
    }
}

/// Sees the last message of QoS 2 through, so that the server need not keep its state.
async fn finish(link: &mut Link, message: &Received) {
    if message.qos < 2 {
        return;
    }
    let id = message.packet_id;
    let done = |step: &Step| matches!(step, Step::Released(released) if *released == id);
    let released = async { while !link.next().await.as_ref().map_or(true, done) {} };
    tokio::time::timeout(LAST_PACKETS, released).await.ok();
}

/// Ends the connection; that it may already be lost does not matter any more.
async fn close(requests: &Requests, link: &mut Link) {
    if requests.disconnect().is_err() {
        return;
    }
    let closing = async { while !matches!(link.next().await, Ok(Step::Closing) | Err(_)) {} };
    tokio::time::timeout(LAST_PACKETS, closing).await.ok();
}

fn check_grants(
    filters: &[String],
    grants: &[Result<u8, String>],
    quiet: bool,
) -> anyhow::Result<()> {
    for (filter, grant) in filters.iter().zip(grants) {
        if let (Err(why), false) = (grant, quiet) {
            complain(&format!("error: the server refused the filter {filter:?}: {why}"));
        }
    }
    if !grants.is_empty() && grants.iter().all(Result::is_err) {
        bail!("the server refused every filter");
    }
    Ok(())
}

impl Printer {
    /// Prints `message` when it is to be printed.
    fn print(&mut self, out: &mut impl io::Write, message: &Received) -> io::Result<After> {
        if self.retained_only && !message.retain {
            return Ok(After::End(End::Done));
        }
        if self.no_retained && message.retain || self.is_filtered_out(&message.topic) {
            return Ok(After::GoOn);
        }
        let written = self
            .format
            .write(out, message, SystemTime::now())
            .and_then(|()| out.write_all(self.line_end.as_bytes()))
            .and_then(|()| out.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(After::End(End::Unread));
            }
            other => other?,
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Ok(After::End(End::Done));
            }
        }
        Ok(After::GoOn)
    }

    fn is_filtered_out(&self, topic: &str) -> bool {
        if self.filter_out.is_empty() {
            return false;
        }
        let Ok(topic) = TopicName::new(topic) else {
            return false;
        };
        self.filter_out.iter().any(|filter| filter.matches(&topic))
    }
}

impl SubArgs {
    fn subscriptions(&self) -> anyhow::Result<Vec<Subscription>> {
        self.connect.check()?;
        let options = self.no_local || self.retain_as_published || self.retain_handling.is_some();
        if options && self.connect.protocol_version != ProtocolVersion::V5 {
            bail!("--no-local, --retain-as-published and --retain-handling need MQTT 5: add -V 5");
        }
        self.topic.iter().chain(&self.unsubscribe).try_for_each(|text| filter(text).map(drop))?;
        let subscription = |text: &String| Subscription {
            filter: text.clone(),
            qos: self.qos,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: match self.retain_handling {
                None | Some(RetainHandling::Always) => 0,
                Some(RetainHandling::New) => 1,
                Some(RetainHandling::Never) => 2,
            },
        };
        Ok(self.topic.iter().map(subscription).collect())
    }

    fn printer(&self) -> anyhow::Result<Printer> {
        if self.count == Some(0) {
            bail!("--count must be at least 1");
        }
        let format = match &self.format {
            Some(text) => Format::parse(text).context("--format")?,
            None if self.json => Format::json(),
            None if self.verbose => Format::verbose(),
            None => Format::payload(),
        };
        Ok(Printer {
            format,
            line_end: if self.no_newline { "" } else { "\n" },
            filter_out: self
                .filter_out
                .iter()
                .map(|text| filter(text))
                .collect::<Result<_, _>>()?,
            no_retained: self.no_retained,
            retained_only: self.retained_only,
            left: self.count,
        })
    }
}

fn filter(text: &str) -> anyhow::Result<TopicFilter> {
    TopicFilter::new(text).with_context(|| format!("{text:?} is not a filter"))
}
