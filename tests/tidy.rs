//! Rules about the source itself: structure, dependencies, and the coverage of the standards.
//!
//! Reads text only. Each rule lists everything that breaks it, so that one run shows all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The crates of DESIGN.md section 9 and which of ours each may use. What is not listed may use
/// anything, because nothing that ships uses it.
const MAY_USE: [(&str, &[&str]); 10] = [
    ("mqtt-codec", &[]),
    ("mqtt-session", &["mqtt-codec"]),
    ("topic-index", &["mqtt-codec"]),
    ("cluster-rpc", &["mqtt-codec"]),
    ("daemon", &[]),
    ("partition", &["mqtt-codec", "topic-index"]),
    ("proxy-server", LIBRARIES),
    ("intermediate-server", LIBRARIES),
    ("push-server", LIBRARIES),
    (
        "causeway",
        &[
            "mqtt-codec",
            "mqtt-session",
            "topic-index",
            "cluster-rpc",
            "daemon",
            "partition",
            "proxy-server",
            "intermediate-server",
            "push-server",
        ],
    ),
];

/// What a server may be made of: all crates that are no server.
const LIBRARIES: &[&str] =
    &["mqtt-codec", "mqtt-session", "topic-index", "cluster-rpc", "daemon", "partition"];

/// The only crate that sees protobuf and gRPC.
const SEES_GRPC: &str = "cluster-rpc";

/// Files whose word on the standards counts as a test.
const TESTS_OF_STANDARDS: [&str; 2] = ["tests/conformance", "tests/cluster"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository").into()
}

/// All files below `start`, in order, but for what is built.
fn files(start: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(start) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            if !path.ends_with("target") {
                found.extend(files(&path));
            }
        } else {
            found.push(path);
        }
    }
    found
}

/// Every Rust source of the workspace, with its path from the root and its text.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut sources = Vec::new();
    for folder in ["crates", "tests", "benches"] {
        for path in files(&root.join(folder)) {
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push((relative(&path), read(&path)));
            }
        }
    }
    assert!(sources.len() > 50, "the sources are not where they are looked for");
    sources
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("it was found below the root");
    path.to_str().expect("paths of the repository are text").replace('\\', "/")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn require_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_source_begins_with_what_it_owns() {
    let broken = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    require_none("no //! at the top", &broken.map(|(path, _)| path).collect::<Vec<_>>());
}

#[test]
fn no_source_has_more_than_800_lines() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let (lines, most) = (text.lines().count(), if is_main(&path) { 60 } else { 800 });
        if lines > most {
            broken.push(format!("{path}: {lines} of at most {most}"));
        }
    }
    require_none("too long", &broken);
}

/// Names of faults, which are words of the torture's command line and no tests.
const FAULTS: &str = "crates/testkit/src/torture/faults.rs";

#[test]
fn the_scenarios_name_only_tests_and_faults_that_exist() {
    let text = read(&root().join("docs/scenarios.md"));
    let tests: Vec<_> = sources().into_iter().filter(|(path, _)| path != "tests/tidy.rs").collect();
    let exists = |name: &str| {
        let function = format!("fn {name}(");
        let fault = format!("\"{name}\"");
        tests
            .iter()
            .any(|(path, text)| text.contains(&function) || path == FAULTS && text.contains(&fault))
    };
    let mut broken = Vec::new();
    for number in 1..=50 {
        let start = format!("| F{number} |");
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with(&start)).collect();
        let [row] = rows.as_slice() else {
            broken.push(format!("F{number} has {} rows", rows.len()));
            continue;
        };
        let shown_by = row.split(" | ").nth(2).unwrap_or_default();
        let names: Vec<_> = shown_by.split('`').skip(1).step_by(2).collect();
        if names.is_empty() && !shown_by.starts_with("does not apply") {
            broken.push(format!("F{number} names no test"));
        }
        let names = names.into_iter().filter(|name| !name.contains('.') && !exists(name));
        broken.extend(names.map(|name| format!("F{number}: {name}")));
    }
    require_none("not in the sources", &broken);
}

/// Whether it is the page a binary is; `tests/*/main.rs` only lists the modules of a test.
fn is_main(path: &str) -> bool {
    path.ends_with("/src/main.rs")
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not break its own rule.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let upper =
                |word: &String| line.split(|c: char| !c.is_alphanumeric()).any(|w| w == word);
            if words.iter().any(upper) {
                broken.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    require_none("left to do", &broken);
}

/// The names in the dependency tables of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside = table.ends_with("dependencies");
            // A dependency with a table of its own: [dependencies.name].
            if let Some((_, name)) = table.split_once("dependencies.") {
                names.insert(name.to_owned());
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            names.extend(Some(name.to_owned()).filter(|name| !name.is_empty()));
        }
    }
    names
}

/// Our crates and their manifests.
fn manifests() -> BTreeMap<String, String> {
    let mut manifests = BTreeMap::new();
    for entry in fs::read_dir(root().join("crates")).expect("there are crates") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        manifests.insert(name, read(&path.join("Cargo.toml")));
    }
    assert!(manifests.len() >= 9, "the crates are not where they are looked for");
    manifests
}

#[test]
fn crates_use_only_what_the_design_lets_them() {
    let manifests = manifests();
    let mut broken = Vec::new();
    for (name, manifest) in &manifests {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "folder {name} is its crate");
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| known == name) else { continue };
        for used in dependencies(manifest) {
            if manifests.contains_key(&used) && !allowed.contains(&used.as_str()) {
                broken.push(format!("{name} uses {used}"));
            }
        }
    }
    require_none("against the table of DESIGN.md section 9", &broken);
}

#[test]
fn one_crate_sees_grpc() {
    let mut broken = Vec::new();
    let mut seen = false;
    for (name, manifest) in manifests() {
        for used in dependencies(&manifest) {
            let grpc = used.starts_with("prost") || used.starts_with("tonic");
            seen |= grpc && name == SEES_GRPC;
            if grpc && name != SEES_GRPC {
                broken.push(format!("{name} uses {used}"));
            }
        }
    }
    require_none("only cluster-rpc may", &broken);
    assert!(seen, "dependencies are not read as they stand in a manifest");
}

#[test]
fn the_map_names_only_files_that_exist() {
    let paths: Vec<_> = sources().into_iter().map(|(path, _)| format!("/{path}")).collect();
    let map = read(&root().join("ARCHITECTURE.md"));
    let named = map.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs"));
    let (missing, found): (BTreeSet<_>, _) = named
        .map(str::to_owned)
        .partition(|name| !paths.iter().any(|path| path.ends_with(&format!("/{name}"))));
    require_none("ARCHITECTURE.md", &missing.into_iter().collect::<Vec<_>>());
    assert!(found.len() > 20, "the names of files are not read as they stand there");
}

/// The number that a constant of a source has.
fn constant(path: &str, name: &str) -> u64 {
    let text = read(&root().join(path));
    let rest = text.split_once(&format!("const {name}: ")).map(|(_, rest)| rest);
    let number = rest.and_then(|rest| rest.split_once(" = ")?.1.split_once(';'));
    let number = number.map(|(number, _)| number.replace('_', "").parse());
    number.unwrap_or_else(|| panic!("no {name} in {path}")).expect("a number")
}

/// The proxy and the store have no crate in common that it could be said in.
#[test]
fn a_place_in_a_queue_has_the_same_packet_identifier_everywhere() {
    let places = constant("crates/partition/src/id.rs", "QUEUE_PACKET_IDS");
    assert_eq!(constant("crates/proxy-server/src/store.rs", "QUEUE_PACKET_IDS"), places);
    let chosen = constant("crates/mqtt-session/src/outbound/in_flight.rs", "CHOSEN");
    assert_eq!(chosen, places + 1, "a session chooses others than those of places");
}

/// A line of a list of statements.
struct Statement {
    binds: String,
    status: String,
    asks: String,
}

/// The statements of both standards. Those of MQTT 3.1.1 are written `MQTT311-x.y.z-n`, because the
/// same number means something else in MQTT 5.0.
fn statements() -> BTreeMap<String, Statement> {
    let mut statements = BTreeMap::new();
    for (file, prefix, count) in
        [("statements-5.0.txt", "MQTT-", 251), ("statements-3.1.1.txt", "MQTT311-", 141)]
    {
        let text = read(&root().join("tests").join(file));
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), count, "{file} must list every statement of its standard");
        for line in lines {
            let parts: Vec<_> = line.split(" | ").map(str::to_owned).collect();
            let [id, binds, status, asks] = <[String; 4]>::try_from(parts)
                .unwrap_or_else(|parts| panic!("{file}: not four parts: {parts:?}"));
            assert!(id.starts_with(prefix), "{file}: {id}");
            let statement = Statement { binds, status, asks };
            assert!(statements.insert(id.clone(), statement).is_none(), "{file}: {id} twice");
        }
    }
    statements
}

/// The identifiers of statements in `text`: `MQTT-x.y.z-n` and `MQTT311-x.y.z-n`.
fn identifiers(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, prefix) in text.match_indices("MQTT-").chain(text.match_indices("MQTT311-")) {
        let rest = &text[at + prefix.len()..];
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'));
        let number = rest[..end.unwrap_or(rest.len())].trim_end_matches(['.', '-']);
        if number.contains('.') && number.contains('-') {
            found.insert(format!("{prefix}{number}"));
        }
    }
    found
}

/// Which files name which statement, among the tests.
fn named_in_tests() -> BTreeMap<String, Vec<String>> {
    let mut named = BTreeMap::<String, Vec<String>>::new();
    for (path, text) in sources() {
        let counts = TESTS_OF_STANDARDS.iter().any(|folder| path.starts_with(folder))
            || path.starts_with("crates/") && path.contains("/tests/");
        if counts {
            for id in identifiers(&text) {
                named.entry(id).or_default().push(path.clone());
            }
        }
    }
    named
}

#[test]
fn every_statement_is_tested_or_excused() {
    let named = named_in_tests();
    let mut broken = Vec::new();
    for (id, Statement { binds, status, asks }) in statements() {
        if !["server", "client", "both"].contains(&binds.as_str()) || asks.is_empty() {
            broken.push(format!("{id}: binds {binds:?}, asks {asks:?}"));
        }
        let excuse = status.strip_prefix("not applicable: ").filter(|why| why.len() > 10);
        match (excuse, status.as_str(), named.get(&id)) {
            (None, "tested", Some(_)) | (Some(_), _, None) => {}
            (None, "tested", None) => broken.push(format!("{id} is in no test")),
            (Some(_), _, Some(files)) => broken.push(format!("{id} is excused, and in {files:?}")),
            (None, other, _) => broken.push(format!("{id}: {other:?} is no status")),
        }
    }
    require_none("coverage of the standards", &broken);
}

#[test]
fn no_test_names_a_statement_that_does_not_exist() {
    let known = statements();
    let unknown = named_in_tests().into_iter().filter(|(id, _)| !known.contains_key(id));
    let broken: Vec<_> = unknown.map(|(id, files)| format!("{id} in {files:?}")).collect();
    require_none("unknown statements (those of MQTT 3.1.1 are MQTT311-...)", &broken);
}

#[test]
fn every_conformance_test_says_which_statements_it_shows() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        if !path.starts_with("tests/conformance/") {
            continue;
        }
        let blocks: Vec<_> = text.split("\n\n").filter(|block| block.contains("::test]")).collect();
        for block in blocks {
            // The versions before 3.1.1 have no numbered statements.
            if !block.starts_with("/// [MQTT") && !block.starts_with("/// MQTT 3.1 ") {
                let name = block.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
                broken.push(format!("{path}: {}", name.unwrap_or(block)));
            }
        }
    }
    require_none("no statement at the start of its doc", &broken);
}
