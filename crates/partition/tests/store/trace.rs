//! What a process did to files, as `strace` wrote it down.
//!
//! Reads logs made with `-f -y -xx`: names and data are in hexadecimal, and each file descriptor comes with its path.

use std::path::{Path, PathBuf};

/// The calls that change files, or the order in which they reach a disk; and `sendto`, by which a writer
/// tells that it has committed.
pub(crate) const CALLS: &str = "openat,open,creat,write,writev,pwrite64,pwritev,ftruncate,truncate,fallocate,\
rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync_file_range,lseek,\
copy_file_range,sendfile,link,linkat,symlink,symlinkat,sendto";

/// A call that succeeded.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) result: String,
    /// How many calls had ended when this one began: others may have ended while it went on.
    pub(crate) begun: usize,
}

impl Call {
    /// A descriptor and its path, from `3<\x2f...>`.
    pub(crate) fn descriptor(text: &str) -> (i64, PathBuf) {
        let (number, path) = text.split_once('<').unwrap_or((text, ""));
        let path = path.split('>').next().unwrap_or_default();
        let path = String::from_utf8(bytes(path)).expect("paths of tests are UTF-8");
        (number.parse().unwrap_or(-1), path.into())
    }

    /// The path in argument `at`, which is relative to the directory in the one before if it is relative.
    pub(crate) fn path(&self, at: usize) -> PathBuf {
        let path = String::from_utf8(quoted(&self.arguments[at])).expect("paths are UTF-8");
        let folder = at.checked_sub(1).map(|before| Self::descriptor(&self.arguments[before]).1);
        folder.map_or_else(|| PathBuf::from(&path), |folder| folder.join(&path))
    }

    /// The bytes in argument `at`, or in all parts of an array of them.
    pub(crate) fn data(&self, at: usize) -> Vec<u8> {
        let argument = self.arguments[at..].join(", ");
        assert!(!argument.contains("\"..."), "strace has cut data short");
        if argument.starts_with('[') {
            let parts = argument.split("iov_base=").skip(1);
            return parts.flat_map(quoted).collect();
        }
        quoted(&argument)
    }

    pub(crate) fn number(&self, at: usize) -> u64 {
        self.arguments[at].parse().expect("a number")
    }
}

/// What stands between the first two quotes.
fn quoted(text: &str) -> Vec<u8> {
    bytes(text.split('"').nth(1).unwrap_or_default())
}

/// `\x41\x42` as bytes.
fn bytes(text: &str) -> Vec<u8> {
    let hexadecimal = |part: &str| u8::from_str_radix(part, 16);
    text.split("\\x").skip(1).map(|part| hexadecimal(part).expect("two digits")).collect()
}

/// All calls of a log that succeeded, in the order in which they ended.
pub(crate) fn read(log: &Path) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished = std::collections::HashMap::new();
    for line in std::fs::read_to_string(log).expect("strace has written a log").lines() {
        let (thread, line) = line.split_once(' ').expect("a thread, and what it did");
        let line = line.trim_start();
        if let Some(start) = line.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread.to_owned(), (start.to_owned(), calls.len()));
        } else if line.starts_with("<... ") {
            let (_, rest) = line.split_once(" resumed>").expect("a call goes on");
            let (start, begun) = unfinished.remove(thread).expect("it had begun");
            calls.extend(parse(&format!("{start}{rest}"), begun));
        } else {
            calls.extend(parse(line, calls.len()));
        }
    }
    calls
}

fn parse(line: &str, begun: usize) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with(['-', '?']) || line.starts_with(['-', '+']) {
        return None;
    }
    let arguments =
        arguments.trim_end().strip_suffix(')')?.split(", ").map(str::to_owned).collect();
    Some(Call { name: name.into(), arguments, result: result.trim().into(), begun })
}
