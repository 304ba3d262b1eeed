//! The real binary as processes: what `up` does, what `kill -9` does, the command line.
//!
//! Where a process is ended, that is by the id that `up` printed for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Output;

use mqtt_codec::{QoS, Version};
use testkit::{DEADLINE, Process, eventually, http, kill, run};
use tokio::time::Instant;

use crate::load::Load;
use crate::rumqtt::meet_across;
use crate::support::{name, value};
use crate::up::{Up, is_alive};

/// What a command printed, when it reported success.
fn success(output: Output) -> String {
    let Output { status, stdout, stderr } = output;
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("the output is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn up_says_what_runs_where_and_what_to_try_and_sigterm_stops_it_all() {
    let mut up = Up::start(3).await;
    let names: Vec<_> = up.servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["intermediate-0", "proxy-0", "proxy-1", "proxy-2"], "{:#?}", up.printed);
    assert!(up.intermediate().grpc.is_some());
    for number in 0..3 {
        let proxy = up.proxy(number);
        let port = up.base_port + u16::try_from(number).expect("below 3");
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(proxy.mqtt, Some(SocketAddr::new(ip, port)));
        assert!(http(proxy.admin, "/readyz").await.starts_with("HTTP/1.1 200 "));
        assert!(is_alive(proxy.process));
    }
    let to_try = |word: &str| {
        let lines = up.printed.iter().filter(|line| line.contains(word));
        lines.cloned().collect::<Vec<_>>()
    };
    let (subscribe, publish) = (to_try("causeway sub "), to_try("causeway pub "));
    assert_eq!(subscribe.len() + publish.len(), 3, "{:#?}", up.printed);
    assert!(subscribe.iter().all(|line| line.contains(&format!("-p {}", up.proxy(2).port()))));
    assert!(publish.iter().all(|line| line.contains(&format!("-p {}", up.proxy(0).port()))));
    let log = up.process.line_with(" | ").await;
    assert!(names.iter().any(|name| log.starts_with(name)), "{log}");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_end_when_up_is_killed() {
    let mut up = Up::start(2).await;
    up.process.kill().await;
    eventually("no server is left", async || {
        up.servers.iter().all(|server| !is_alive(server.process))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_clients_of_both_versions_meet_across_proxies() {
    let up = Up::start(2).await;
    let proxies = [up.proxy(0).address(), up.proxy(1).address()];
    meet_across(proxies).await;
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_holds_publishers_back_for_a_moment_only_and_may_return() {
    let mut up = Up::start(2).await;
    let topic = name("killed");
    let mut lost = up.proxy(1).connect(Version::V5).await;
    lost.subscribe(&topic, QoS::ExactlyOnce).await;
    let mut publisher = up.proxy(0).connect(Version::V5).await;
    publisher.publish(&topic, QoS::ExactlyOnce, "before").await;
    lost.expect_message("before").await;
    kill("KILL", up.proxy(1).process).await;
    let began = Instant::now();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish(&topic, qos, "into the void").await;
    }
    // A local process is declared dead after a second; the lease would be six.
    assert!(began.elapsed() < DEADLINE, "it took {:?}", began.elapsed());
    let report = up.process.line_with("has ended").await;
    assert!(report.contains(&format!("proxy-1 (process {})", up.proxy(1).process)), "{report}");
    let again = up.proxy(1).start_again().await;
    let mut back = up.proxy(1).connect(Version::V5).await;
    back.subscribe(&topic, QoS::ExactlyOnce).await;
    publisher.publish(&topic, QoS::ExactlyOnce, "after").await;
    back.expect_message("after").await;
    back.expect_nothing().await;
    drop(again);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_intermediate_that_is_started_by_hand_loses_nothing() {
    let up = Up::start(3).await;
    let [a, b, c] = [0, 1, 2].map(|number| up.proxy(number).address());
    let load = Load::start(&[a], &[b, c]).await;
    let arguments: Vec<_> = up.intermediate().command.iter().map(String::as_str).collect();
    load.progress(100).await;
    kill("KILL", up.intermediate().process).await;
    let mut by_hand = Process::start(&arguments).await;
    for _ in 0..2 {
        load.progress(100).await;
        by_hand.kill().await;
        by_hand = Process::start(&arguments).await;
    }
    load.progress(100).await;
    load.finish().await;
    // Proxies stop only when what they took has gone out: so the intermediate goes last.
    up.stop().await;
    drop(by_hand);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_proxy_that_thaws_within_its_lease_loses_nothing() {
    let up = Up::start(3).await;
    let [a, b, c] = [0, 1, 2].map(|number| up.proxy(number).address());
    let load = Load::start(&[a], &[b, c]).await;
    load.progress(50).await;
    kill("STOP", up.proxy(1).process).await;
    let window = load.most_in_flight() as u64;
    eventually("its messages wait", async || {
        let text = http(up.proxy(0).admin, "/metrics").await;
        value(&text, "causeway_uplink_window_messages") == window
    })
    .await;
    kill("CONT", up.proxy(1).process).await;
    load.progress(50).await;
    load.finish().await;
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pub_and_sub_talk_across_proxies_in_text_formats_and_json() {
    let up = Up::start(2).await;
    let (near, far) = (up.proxy(0).port(), up.proxy(1).port());
    let topic = name("cli/");
    // A filter each: so the number of routes says when all four are subscribed.
    let filters = [topic.clone(), format!("{topic}/#"), topic.replace("cli", "+"), "cli/#".into()];
    let flags: [&[&str]; 4] = [&["-V", "5"], &["-v"], &["-F", "%t|%q|%l|%p"], &["--json"]];
    let subscribe = async |number: usize| {
        let common = ["sub", "-p", &far, "-t", &filters[number], "-q", "2", "-C", "1"];
        success(run(&[&common, flags[number]].concat(), "").await)
    };
    let publish = async {
        up.routes(4).await;
        success(run(&["pub", "-p", &near, "-t", &topic, "-m", "hello", "-q", "1"], "").await)
    };
    let (text, verbose, format, json, _) =
        tokio::join!(subscribe(0), subscribe(1), subscribe(2), subscribe(3), publish);
    assert_eq!(text, "hello\n");
    assert_eq!(verbose, format!("{topic} hello\n"));
    assert_eq!(format, format!("{topic}|1|5|hello\n"));
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    for (key, wanted) in [("topic", topic.as_str()), ("payload", "hello")] {
        assert_eq!(json[key], wanted, "{json}");
    }
    assert_eq!(json["qos"], 1, "{json}");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_pub_arrive_at_sub_in_order_in_both_versions() {
    const COUNT: usize = 300;
    let up = Up::start(2).await;
    let (near, far) = (up.proxy(0).port(), up.proxy(1).port());
    let lines: String = (0..COUNT).map(|number| format!("line {number}\n")).collect();
    for (publishing, subscribing) in [("5", "311"), ("311", "5")] {
        let (topic, count) = (name("lines"), COUNT.to_string());
        let subscribe =
            ["sub", "-p", &far, "-V", subscribing, "-t", &topic, "-q", "2", "-C", &count];
        let publish = ["pub", "-p", &near, "-V", publishing, "-t", &topic, "-q", "2", "-l"];
        let (printed, _) = tokio::join!(run(&subscribe, ""), async {
            up.routes(1).await;
            success(run(&publish, &lines).await)
        });
        assert_eq!(success(printed), lines);
        up.routes(0).await;
    }
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_checked_and_a_wrong_one_refused_by_key_value_and_expectation() {
    for server in ["proxy-server", "intermediate-server"] {
        let output = run(&[server, "--check-config"], "").await;
        assert!(output.status.success(), "{server}: {output:?}");
    }
    let wrong: [(&[&str], [&str; 3]); 4] = [
        (
            &["proxy-server", "--mqtt-receive-maximum", "0"],
            ["mqtt.receive_maximum", "0", "1 to 65535"],
        ),
        (
            &["proxy-server", "--check-config", "--cluster-intermediates", "nowhere"],
            ["cluster.intermediates", "nowhere", "host:port"],
        ),
        (
            &["proxy-server", "--check-config", "--mailbox-when-full", "explode"],
            ["mailbox.when_full", "explode", "drop-oldest"],
        ),
        (
            &["intermediate-server", "--check-config", "--cluster-lease", "10ms"],
            ["lease", "10ms", "1s"],
        ),
    ];
    for (arguments, words) in wrong {
        let Output { status, stderr, .. } = run(arguments, "").await;
        let text = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(2), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: no {word:?} in {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_explains_its_options() {
    let pages: [(&[&str], &[&str]); 7] = [
        (&["--help"], &["up", "pub", "sub", "bench"]),
        (&["up", "--help"], &["--proxies", "--base-port", "--data"]),
        (&["pub", "--help"], &["--topic", "--message", "--qos", "--retain", "--port"]),
        (&["sub", "--help"], &["--topic", "--count", "--format", "--json", "--verbose"]),
        (&["bench", "--help"], &["Usage"]),
        (&["proxy-server", "--help"], &["--mqtt-listen", "--cluster-intermediates"]),
        (&["intermediate-server", "--help"], &["--listen", "--cluster-token", "--cluster-lease"]),
    ];
    for (arguments, words) in pages {
        let page = success(run(arguments, "").await);
        for word in words {
            assert!(page.contains(word), "{arguments:?}: no {word:?} in\n{page}");
        }
        assert!(page.lines().count() > 10, "{arguments:?}: {page}");
    }
}
