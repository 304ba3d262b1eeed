//! What it costs to match a topic in an index, and to look up kept topics by filter.
//!
//! `cargo bench -p benches --bench index`. Prints a table: nanoseconds per match at three index
//! sizes, nanoseconds per change, and resident bytes per filter. Invariant: the topics asked for come
//! in an order the caches cannot foresee. Does not measure the cost of a message around the match.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use mqtt_codec::{TopicFilter, TopicName};
use topic_index::{TopicIndex, TopicTree};

/// Topics asked for per figure.
const ASKED: usize = 100_000;

/// A figure is the best of this many rounds.
const ROUNDS: usize = 5;

/// The filters of a row, and the topics asked for, by number.
struct Shape {
    name: &'static str,
    filter: fn(usize) -> String,
    topic: fn(usize) -> String,
}

const SHAPES: [Shape; 4] = [
    Shape { name: "exact", filter: exact_filter, topic: exact_filter },
    Shape { name: "wildcard: mixed", filter: mixed_filter, topic: mixed_topic },
    Shape { name: "wildcard: no match", filter: mixed_filter, topic: other_topic },
    Shape { name: "wildcard: nodes shared by two", filter: pair_filter, topic: pair_topic },
];

const COUNTS: [usize; 3] = [1_000, 100_000, 1_000_000];

/// Each row has a process of its own: memory freed by one would be missing in the next one's figure.
fn main() -> std::io::Result<()> {
    let rows = COUNTS.len() * SHAPES.len();
    match std::env::args().find_map(|argument| argument.parse::<usize>().ok()) {
        Some(row) if row < rows => {
            bench_index(&SHAPES[row % SHAPES.len()], COUNTS[row / SHAPES.len()]);
        }
        Some(_) => bench_tree(1_000_000),
        None => {
            println!(
                "{:<30} {:>9} {:>10} {:>9} {:>10} {:>10} {:>9}",
                "filters", "count", "match ns", "matches", "insert ns", "remove ns", "B/filter"
            );
            let program = std::env::current_exe()?;
            for row in 0..=rows {
                Command::new(&program).arg(row.to_string()).status()?;
            }
        }
    }
    Ok(())
}

fn bench_index(shape: &Shape, count: usize) {
    let Shape { name, filter, topic } = shape;
    let filters: Vec<_> =
        (0..count).map(|at| TopicFilter::new(filter(at)).expect("a valid filter")).collect();
    let topics: Vec<_> =
        order(ASKED, count).map(|at| TopicName::new(topic(at)).expect("a valid topic")).collect();
    let mut index = TopicIndex::<u32, u32>::new();
    let before = resident_bytes();
    let start = Instant::now();
    for (key, filter) in filters.iter().enumerate() {
        index.insert(filter, key as u32, 0);
    }
    let insert = start.elapsed().as_nanos() as usize / count;
    let bytes = resident_bytes().saturating_sub(before) / count;
    let mut matches = 0;
    let per_match = best_of_rounds(|| {
        matches = 0;
        for topic in &topics {
            index.matches(topic, |key, value| {
                black_box((key, value));
                matches += 1;
            });
        }
    });
    let start = Instant::now();
    for (key, filter) in filters.iter().enumerate() {
        index.remove(filter, &(key as u32));
    }
    let remove = start.elapsed().as_nanos() as usize / count;
    assert!(index.is_empty());
    // Below this the pages of the process are too coarse to say.
    let bytes = if count < 100_000 { "-".to_owned() } else { bytes.to_string() };
    let matches = matches as f64 / ASKED as f64;
    println!(
        "{name:<30} {count:>9} {per_match:>10} {matches:>9.2} {insert:>10} {remove:>10} {bytes:>9}"
    );
}

fn bench_tree(count: usize) {
    let topics: Vec<_> = (0..count)
        .map(|at| format!("site/{}/dev/{}/{}", at / 1000, at / 10 % 100, KINDS[at % 10]))
        .map(|text| TopicName::new(text).expect("a valid topic"))
        .collect();
    let mut tree = TopicTree::new();
    let before = resident_bytes();
    let start = Instant::now();
    for at in order(count, count) {
        tree.insert(&topics[at], at);
    }
    let insert = start.elapsed().as_nanos() as usize / count;
    let bytes = resident_bytes().saturating_sub(before) / tree.len();
    println!("{} topics kept: insert {insert} ns, {bytes} B per topic", tree.len());
    println!("{:<30} {:>9} {:>12} {:>14}", "look-up", "matches", "us", "ns per match");
    let sites = count / 1000;
    bench_look_up(&tree, "site/{n}/dev/+/state", sites);
    bench_look_up(&tree, "site/{n}/dev/7/#", sites);
    bench_look_up(&tree, "site/{n}/#", sites);
    bench_look_up(&tree, "site/{n}/dev/7/state", sites);
    bench_look_up(&tree, "+/{n}/dev/+/state", sites);
    bench_look_up(&tree, "site/+/dev/7/state", 1);
    bench_look_up(&tree, "#", 1);
}

fn bench_look_up(tree: &TopicTree<usize>, shape: &str, sites: usize) {
    let asked = (ASKED / 1000).min(sites);
    let filters: Vec<_> = order(asked, sites)
        .map(|site| shape.replace("{n}", &site.to_string()))
        .map(|text| TopicFilter::new(text).expect("a valid filter"))
        .collect();
    let mut matches = 0;
    let started = Instant::now();
    for filter in &filters {
        tree.matches(filter, |topic, value| {
            black_box((topic, value));
            matches += 1;
        });
    }
    let nanos = started.elapsed().as_nanos() as usize;
    let (each, micros) = (matches / asked, nanos as f64 / asked as f64 / 1000.0);
    println!("{shape:<30} {each:>9} {micros:>12.2} {:>14}", nanos / matches.max(1));
}

const KINDS: [&str; 10] =
    ["state", "temp", "hum", "volt", "amp", "fw", "up", "rssi", "cfg", "alarm"];

fn exact_filter(at: usize) -> String {
    format!("site/{}/dev/{at}/state", at % 100)
}

fn mixed_filter(at: usize) -> String {
    match at % 3 {
        0 => format!("site/+/dev/{at}/#"),
        1 => format!("a/{at}/+/c"),
        _ => format!("site/{}/dev/{at}/+", at % 100),
    }
}

fn mixed_topic(at: usize) -> String {
    match at % 3 {
        1 => format!("a/{at}/b/c"),
        _ => format!("site/{}/dev/{at}/state", at % 100),
    }
}

fn other_topic(at: usize) -> String {
    format!("site/{}/dev/x{at}/state", at % 100)
}

/// Two filters share every node down to the last level.
fn pair_filter(at: usize) -> String {
    format!("org/+/site/{}/dev/{}/{}", at / 2 % 1000, at / 2, ["temp/+", "hum/+"][at % 2])
}

fn pair_topic(at: usize) -> String {
    format!("org/acme/site/{}/dev/{}/temp/c", at / 2 % 1000, at / 2)
}

/// `count` numbers below `below`, far from each other.
fn order(count: usize, below: usize) -> impl Iterator<Item = usize> {
    // A prime that divides no size here, so every number comes before one comes again.
    (0..count).map(move |step| (step + 1).wrapping_mul(7_368_787) % below)
}

fn best_of_rounds(mut round: impl FnMut()) -> usize {
    let nanos = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_nanos() as usize / ASKED
    });
    nanos.min().unwrap_or(0)
}

/// Zero where the system does not tell.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    resident.unwrap_or(0) * 4096
}
