//! Puts known faults into a copy of the product, one at a time, and sees which tool catches each.
//!
//! Owns the copy, below the target folder, and its builds. The list is `tests/mutations.toml`. A net that lets a fault
//! through has a hole; one that catches something in the unchanged product is broken, so that is tried first.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// What a build needs.
const SOURCES: [&str; 6] = ["Cargo.toml", "Cargo.lock", "clippy.toml", "crates", "proto", "tests"];

/// The rest of the workspace, which cargo wants to see.
const ALSO: [&str; 1] = ["benches"];

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutation {
    /// Short, in the form of a file name.
    pub name: String,
    /// What goes wrong with it.
    pub breaks: String,
    /// Of the sources; one a file.
    pub changes: Vec<Change>,
}

/// A change of a source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// From the root of the repository.
    pub file: PathBuf,
    /// What is there: exactly once.
    pub old: String,
    /// What is put there.
    pub new: String,
}

#[derive(Deserialize)]
struct List {
    mutation: Vec<Mutation>,
}

/// Of what else was wrong, so many letters are told.
const LONGEST_RULE: usize = 80;

/// How long each tool may look for one fault.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seeds of the simulation.
    pub seeds: u32,
    /// Steps of each.
    pub steps: u32,
    /// Seconds of torture, if the simulation finds nothing.
    pub seconds: u32,
}

/// Who caught a fault, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Caught {
    tool: &'static str,
    rule: String,
    took: Duration,
}

/// Reads the list of the repository at `root`.
///
/// # Errors
/// It is not there, or no list of mutations.
pub fn list(root: &Path) -> anyhow::Result<Vec<Mutation>> {
    let path = root.join("tests/mutations.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let list: List = toml::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    Ok(list.mutation)
}

impl Change {
    /// `source` with the change in it.
    ///
    /// # Errors
    /// What it changes is not there exactly once.
    pub fn apply(&self, source: &str) -> anyhow::Result<String> {
        let count = source.matches(&self.old).count();
        ensure!(count == 1, "{:?}: found {count} times in {}", self.old, self.file.display());
        Ok(source.replacen(&self.old, &self.new, 1))
    }
}

/// Tries the mutations with these names, or all, and writes a table. Returns whether each was caught.
///
/// # Errors
/// Something cannot be copied or built, a name is unknown, or a tool fails on the unchanged product.
pub fn run(root: &Path, names: &[String], effort: Effort) -> anyhow::Result<bool> {
    let all = list(root)?;
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|one| one.name != **name)) {
        let known: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
        bail!("no mutation {unknown}; there are {}", known.join(", "));
    }
    let chosen = all.iter().filter(|one| names.is_empty() || names.contains(&one.name));
    let copy = Copy::make(root)?;
    let mut out = io::stdout();
    writeln!(out, "the unchanged product")?;
    if let Some(caught) = copy.look(effort)? {
        bail!("{} fails on the unchanged product: {}", caught.tool, caught.rule);
    }
    let mut missed = 0;
    writeln!(
        out,
        "| mutation | what it breaks | caught by | rule | after |\n|---|---|---|---|---|"
    )?;
    for mutation in chosen {
        let Mutation { name, breaks, .. } = mutation;
        match copy.with(mutation, || copy.look(effort))? {
            Some(Caught { tool, rule, took }) => {
                writeln!(out, "| {name} | {breaks} | {tool} | {rule} | {} s |", took.as_secs())?;
            }
            None => {
                missed += 1;
                writeln!(out, "| {name} | {breaks} | **nothing** | | |")?;
            }
        }
    }
    Ok(missed == 0)
}

/// A copy of the sources, with its own target folder.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn make(from: &Path) -> anyhow::Result<Self> {
        let root = from.join("target/mutations");
        for entry in SOURCES.iter().chain(&ALSO) {
            let into = root.join(entry);
            synchronize(&from.join(entry), &into)
                .with_context(|| format!("copy {entry} to {}", into.display()))?;
        }
        Ok(Self { root })
    }

    /// Does something while the fault is in the built copy.
    fn with<T>(
        &self,
        mutation: &Mutation,
        what: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut sources = Vec::new();
        for change in &mutation.changes {
            let path = self.root.join(&change.file);
            let source =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            fs::write(&path, change.apply(&source).with_context(|| mutation.name.clone())?)?;
            sources.push((path, source));
        }
        let result = what().with_context(|| format!("with {}", mutation.name));
        for (path, source) in sources {
            fs::write(path, source)?;
        }
        result
    }

    fn build(&self, programs: &[&str]) -> anyhow::Result<()> {
        let mut cargo = self.cargo("build");
        cargo.args(["--quiet", "--release", "-p", "testkit", "-p", "causeway"]);
        cargo.args(programs.iter().flat_map(|program| ["--bin", program]));
        ensure!(cargo.status().context("start cargo")?.success(), "it does not build");
        Ok(())
    }

    /// Quick to build again: a fault costs a minute, not five.
    fn cargo(&self, command: &str) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut cargo = Command::new(cargo);
        cargo
            .arg(command)
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", self.root.join("target"))
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true")
            .env("RUSTFLAGS", "--cap-lints=warn");
        cargo
    }

    fn look(&self, effort: Effort) -> anyhow::Result<Option<Caught>> {
        let Effort { seeds, steps, seconds } = effort;
        self.build(&["simulation"])?;
        let simulation =
            ["--seeds".to_owned(), seeds.to_string(), "--steps".into(), steps.to_string()];
        if let Some(caught) = self.try_tool("simulation", &simulation)? {
            return Ok(Some(caught));
        }
        self.build(&["torture", "causeway"])?;
        let torture = ["--seconds".to_owned(), seconds.to_string(), "--seed".into(), "1".into()];
        self.try_tool("torture", &torture)
    }

    fn try_tool(&self, tool: &'static str, arguments: &[String]) -> anyhow::Result<Option<Caught>> {
        let begun = Instant::now();
        let programs = self.root.join("target/release");
        let mut command = Command::new(programs.join(tool));
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        // Else it builds its own, as the profile says.
        command.env("CARGO_BIN_EXE_causeway", programs.join("causeway"));
        let output = command.output().with_context(|| format!("start {tool}"))?;
        let caught = |rule| Caught { tool, rule, took: begun.elapsed() };
        match code(output.status) {
            Some(0) => Ok(None),
            Some(1) => Ok(Some(caught(rule_in(&output.stdout)))),
            // A fault may also make the product fail in a way that the tool did not expect.
            Some(101) | None => Ok(Some(caught("panic".to_owned()))),
            Some(code) => bail!("{tool} ended with {code}: {}", text(&output.stderr)),
        }
    }
}

fn code(status: ExitStatus) -> Option<i32> {
    status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The rule of the first violation a tool has told, or what else was wrong.
fn rule_in(stdout: &[u8]) -> String {
    let stdout = text(stdout);
    let rule = stdout.lines().find_map(|line| {
        if let Some((_, after)) = line.split_once("violation of ") {
            return Some(after.split([':', ' ']).next()?.to_owned());
        }
        let (_, what) = line.split_once(": at step ").or_else(|| line.split_once("process: "))?;
        Some(what.chars().filter(|&letter| letter != '|').take(LONGEST_RULE).collect())
    });
    rule.unwrap_or_else(|| "?".to_owned())
}

/// Makes `into` what `from` is. What is the same already stays untouched, so that nothing is built twice.
fn synchronize(from: &Path, into: &Path) -> io::Result<()> {
    if !from.is_dir() {
        let source = fs::read(from)?;
        if fs::read(into).is_ok_and(|there| there == source) {
            return Ok(());
        }
        if let Some(folder) = into.parent() {
            fs::create_dir_all(folder)?;
        }
        return fs::write(into, source);
    }
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(into)? {
        let gone = entry?.path();
        let name = gone.file_name().unwrap_or_default();
        if name != "target" && !from.join(name).exists() {
            if gone.is_dir() { fs::remove_dir_all(&gone)? } else { fs::remove_file(&gone)? }
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() != "target" {
            synchronize(&entry.path(), &into.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_of_the_list_fits_the_source() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let list = list(&root).unwrap();
        assert!(!list.is_empty());
        for Mutation { name, changes, .. } in &list {
            assert!(!changes.is_empty(), "{name}");
            for change in changes {
                let source = fs::read_to_string(root.join(&change.file)).unwrap();
                assert_ne!(change.apply(&source).unwrap(), source, "{name}");
            }
        }
    }

    #[test]
    fn a_copy_becomes_what_its_original_is() {
        let folder = tempfile::tempdir().unwrap();
        let (from, into) = (folder.path().join("from"), folder.path().join("into"));
        fs::create_dir_all(from.join("a")).unwrap();
        fs::write(from.join("a/b"), "1").unwrap();
        fs::create_dir_all(into.join("old/deep")).unwrap();
        synchronize(&from, &into).unwrap();
        assert_eq!(fs::read_to_string(into.join("a/b")).unwrap(), "1");
        assert!(!into.join("old").exists());
    }

    #[test]
    fn the_rule_is_read_from_what_a_tool_prints() {
        assert_eq!(rule_in(b"seed 7\n\nviolation of order: x\nviolation of lost: y\n"), "order");
        assert_eq!(rule_in(b"seed 7: violation of lost: y\n"), "lost");
        assert_eq!(rule_in(b"seed 7: at step 12: 1 digests differed\n"), "12: 1 digests differed");
        assert_eq!(rule_in(b"process: proxy-1 ended by itself\n"), "proxy-1 ended by itself");
        assert_eq!(rule_in(b"nothing"), "?");
    }
}
