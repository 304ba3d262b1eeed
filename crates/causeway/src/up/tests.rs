//! What `up` starts and says; that it does so is tested with the real processes elsewhere.

use super::*;
use clap::Parser;
use std::net::TcpListener;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: UpArgs,
}

fn parse(line: &str) -> Result<UpArgs, clap::Error> {
    let words = ["up"].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args)
}

fn planned(line: &str) -> anyhow::Result<Vec<Spec>> {
    plan(&parse(line).unwrap(), Path::new("/store"))
}

/// A port with a few free ones after it.
fn base_port() -> u16 {
    let free = |base: &u16| ports::consecutive(IpAddr::from([127, 0, 0, 1]), *base, 3).is_ok();
    (20_000..60_000).step_by(97).find(free).unwrap()
}

#[test]
fn the_defaults_are_the_same_with_and_without_the_command() {
    assert_eq!(format!("{:?}", parse("").unwrap()), format!("{:?}", UpArgs::default()));
    assert!(parse("--proxies 0").is_err());
    assert!(parse("--base-port 0").is_err());
}

#[test]
fn the_plan_is_an_intermediate_and_proxies_that_know_it() {
    let base = base_port();
    let specs = planned(&format!("--base-port {base} --log-level debug")).unwrap();
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["intermediate-0", "proxy-0", "proxy-1"]);
    let grpc = specs[0].grpc.unwrap();
    let workers = workers(3);
    let expected = format!(
        "intermediate-server --node-id intermediate-0 --listen {grpc} --admin-listen {} \
         --start-grace 0s --data-directory /store --exit-with-parent true --workers {workers} --log-level debug",
        specs[0].admin
    );
    assert_eq!(specs[0].arguments.join(" "), expected);
    let expected = format!(
        "proxy-server --node-id proxy-1 --mqtt-listen 127.0.0.1:{} --admin-listen {} \
         --cluster-intermediates {grpc} --exit-with-parent true --workers {workers} \
         --log-level debug",
        base + 1,
        specs[2].admin
    );
    assert_eq!(specs[2].arguments.join(" "), expected);
}

#[test]
fn a_port_in_use_is_named_together_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let message = planned(&format!("--base-port {port}")).unwrap_err().to_string();
    assert!(message.contains(&port.to_string()), "{message}");
    assert!(message.contains("--base-port"), "{message}");
    assert!(planned("--base-port 65535").is_err());
}

#[test]
fn the_hints_publish_on_the_first_proxy_and_subscribe_on_the_last() {
    let admin = SocketAddr::from(([127, 0, 0, 1], 9000));
    let proxy = |number: usize, ip: [u8; 4]| {
        let port = 1883 + u16::try_from(number).unwrap();
        Spec::proxy(number, SocketAddr::from((ip, port)), admin, admin)
    };
    let text = hints("causeway", &[proxy(0, [0, 0, 0, 0]), proxy(1, [10, 0, 0, 7])]);
    assert!(text.contains("causeway sub -h 10.0.0.7 -p 1884 -t 'demo/#' -v\n"), "{text}");
    assert!(text.contains("causeway pub -p 1883 -t demo/hello"), "{text}");
    assert!(text.contains("mosquitto_sub -h 10.0.0.7 -p 1884"), "{text}");
}
