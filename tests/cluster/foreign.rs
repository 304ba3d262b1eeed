//! Clients that others wrote, across two proxies. They must be installed, so these tests run when asked
//! for: `.ci/run` installs the clients and does that.

use std::path::Path;
use std::process::{Output, Stdio};

use mqtt_codec::{QoS, Version};
use testkit::{Cluster, eventually};
use tokio::process::{Child, Command};

use crate::support::{RECOVERY, name, subscriber};

/// Two proxies and the one intermediate between them.
async fn pair() -> Cluster {
    Cluster::start(2, 1).await
}

/// Waits until so many filters are known to the intermediate: their subscribers have their SUBACK, or
/// will have it without anything else that could delay it.
async fn routes(cluster: &Cluster, count: u64) {
    eventually("the subscription is known", async || {
        cluster.intermediate(0).stats().routes == count
    })
    .await;
}

/// A mosquitto client for one proxy, with what every call has in common.
fn mosquitto(program: &str, cluster: &Cluster, proxy: usize, version: &str) -> Command {
    let port = cluster.proxy(proxy).address().port().to_string();
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &port, "-V", version]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().expect("the client is installed")
}

/// What it printed, when it has ended well.
async fn output(child: Child) -> String {
    let ended = tokio::time::timeout(RECOVERY, child.wait_with_output()).await;
    let Output { status, stdout, stderr } =
        ended.expect("it ends in time").expect("a child can be waited for");
    let [stdout, stderr] =
        [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{status}\n{stdout}\n{stderr}");
    stdout
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto-clients"]
async fn mosquitto_clients_meet_across_proxies_at_every_qos() {
    let cluster = pair().await;
    for version in ["311", "5"] {
        let topic = format!("{}/a", name("mosquitto"));
        let filter = topic.replace("/a", "/+");
        let mut command = mosquitto("mosquitto_sub", &cluster, 1, version);
        let subscriber =
            spawn(command.args(["-q", "2", "-C", "3", "-F", "%t %q %r %p", "-t", &filter]));
        routes(&cluster, 1).await;
        for qos in ["0", "1", "2"] {
            let mut command = mosquitto("mosquitto_pub", &cluster, 0, version);
            output(spawn(command.args(["-q", qos, "-t", &topic, "-m", "hello"]))).await;
        }
        let wanted = [0, 1, 2].map(|qos| format!("{topic} {qos} 0 hello\n")).concat();
        assert_eq!(output(subscriber).await, wanted);
        routes(&cluster, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto-clients"]
async fn many_lines_of_mosquitto_pub_arrive_in_order() {
    const COUNT: usize = 500;
    let cluster = pair().await;
    let topic = name("lines");
    let count = COUNT.to_string();
    let mut command = mosquitto("mosquitto_sub", &cluster, 1, "5");
    let subscriber = spawn(command.args(["-q", "2", "-C", &count, "-t", &topic]));
    routes(&cluster, 1).await;
    let lines: String = (0..COUNT).map(|number| format!("{number}\n")).collect();
    let mut command = mosquitto("mosquitto_pub", &cluster, 0, "311");
    let mut publisher = spawn(command.args(["-q", "2", "-l", "-t", &topic]).stdin(Stdio::piped()));
    let mut stdin = publisher.stdin.take().expect("its input is piped");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, lines.as_bytes()).await.expect("it reads");
    drop(stdin);
    output(publisher).await;
    assert_eq!(output(subscriber).await, lines);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto-clients"]
async fn mosquitto_sub_gets_what_was_retained_at_another_proxy() {
    let cluster = pair().await;
    for (version, qos) in [("311", "1"), ("5", "2")] {
        let topic = name("kept");
        let mut command = mosquitto("mosquitto_pub", &cluster, 0, version);
        output(spawn(command.args(["-q", qos, "-r", "-t", &topic, "-m", "value"]))).await;
        let mut command = mosquitto("mosquitto_sub", &cluster, 1, version);
        let subscriber =
            spawn(command.args(["-q", qos, "-C", "1", "-F", "%q %r %p", "-t", &topic]));
        assert_eq!(output(subscriber).await, format!("{qos} 1 value\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto-clients"]
async fn the_will_of_a_killed_mosquitto_sub_is_published_across_proxies() {
    let cluster = pair().await;
    for version in ["311", "5"] {
        let (topic, will) = (name("alive"), name("will"));
        let mut heir = subscriber(&cluster, 1, Version::V5, &will, QoS::AtLeastOnce).await;
        let mut command = mosquitto("mosquitto_sub", &cluster, 0, version);
        command.args(["--will-topic", &will, "--will-payload", "gone", "--will-qos", "1"]);
        let mut dying = spawn(command.args(["-t", &topic]));
        routes(&cluster, 2).await;
        heir.expect_nothing().await;
        dying.kill().await.expect("a child can be killed");
        heir.expect_message("gone").await;
        heir.disconnect().await;
        routes(&cluster, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs paho-mqtt"]
async fn paho_clients_meet_across_proxies() {
    let cluster = pair().await;
    let python = std::env::var_os("CAUSEWAY_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    assert_eq!(script(&mut command, "paho_across.py", &cluster).await, "ok\n");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mqtt.js"]
async fn mqtt_js_clients_meet_across_proxies() {
    let cluster = pair().await;
    let mut command = Command::new("node");
    let path = std::env::var_os("CAUSEWAY_NODE_PATH").or_else(|| std::env::var_os("NODE_PATH"));
    command.env("NODE_PATH", path.unwrap_or_default());
    assert_eq!(script(&mut command, "mqttjs_across.js", &cluster).await, "ok\n");
}

/// Runs a script of `tests/foreign` with the ports of both proxies.
async fn script(interpreter: &mut Command, file: &str, cluster: &Cluster) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign").join(file);
    let ports = [0, 1].map(|number| cluster.proxy(number).address().port().to_string());
    interpreter.arg(path).args(ports).stdin(Stdio::null());
    interpreter.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    output(spawn(interpreter)).await
}
