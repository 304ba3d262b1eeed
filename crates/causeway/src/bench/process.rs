//! What the kernel says about a process: processor time and resident memory. Linux only; it reads
//! `/proc` and asks for no rights beyond those of the same user.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};

/// Length of a clock tick in `/proc/PID/stat`. The kernel shows 100 ticks per second to user
/// space on every architecture Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// A process that is being watched.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pid: String,
    /// What the kernel calls it, at most 15 characters.
    pub(super) name: String,
}

/// What a process has used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// User and system time of all its threads, those that ended included.
    pub(super) cpu: Duration,
    /// Resident memory in bytes.
    pub(super) resident_bytes: u64,
}

impl Process {
    /// The process with this id.
    pub(super) fn watch(pid: u32) -> anyhow::Result<Self> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))
            .with_context(|| format!("there is no process {pid} to watch"))?;
        Ok(Self { pid: pid.to_string(), name: name.trim_end().to_owned() })
    }

    /// This process.
    pub(super) fn own() -> Self {
        Self { pid: "self".to_owned(), name: "bench".to_owned() }
    }

    /// Its process id; `self` for this process.
    pub(super) fn pid(&self) -> &str {
        &self.pid
    }

    /// What it has used by now.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        Ok(Usage { cpu: self.cpu()?, resident_bytes: self.resident_bytes()? })
    }

    /// Processor time used by now.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        parse_cpu(&self.read("stat")?)
    }

    fn resident_bytes(&self) -> anyhow::Result<u64> {
        // The roll-up counts page by page; the status file's figure may lag behind by some pages
        // per thread, so it is only second choice.
        let text = match self.read("smaps_rollup") {
            Ok(text) => text,
            Err(_) => self.read("status")?,
        };
        parse_resident(&text)
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has it ended?"))
    }
}

/// Bytes that a process has given to the file system by now.
pub(super) fn written_bytes(process: &Process) -> anyhow::Result<u64> {
    let text = process.read("io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.context("no write_bytes in the process's io")?.parse()?)
}

fn parse_cpu(stat: &str) -> anyhow::Result<Duration> {
    // The name stands in brackets and may hold spaces and brackets itself.
    let (_, fields) = stat.rsplit_once(')').context("no process name in stat")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let (Some(user), Some(system)) = (fields.next(), fields.next()) else {
        bail!("no processor time in stat");
    };
    let ticks = user.parse::<u32>()?.saturating_add(system.parse::<u32>()?);
    Ok(TICK.saturating_mul(ticks))
}

fn parse_resident(text: &str) -> anyhow::Result<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Rss:").or_else(|| line.strip_prefix("VmRSS:")));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next());
    Ok(kib.context("no resident memory in the process status")?.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_an_awkward_name() {
        let stat = "12 (a) b ) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(parse_cpu(stat).unwrap(), Duration::from_secs(3));
        assert!(parse_cpu("12 (a) S 1 2").is_err());
    }

    #[test]
    fn resident_memory_is_read_from_either_file() {
        assert_eq!(parse_resident("a\nRss:     12 kB\nPss: 3 kB").unwrap(), 12 * 1024);
        assert_eq!(parse_resident("VmSize: 99 kB\nVmRSS:\t 7 kB\n").unwrap(), 7 * 1024);
        assert!(parse_resident("").is_err());
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(Process::own().usage().unwrap().resident_bytes > 0);
        assert!(Process::watch(std::process::id()).is_ok());
    }
}
