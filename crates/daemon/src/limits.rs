//! Limits that the system puts on the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The number of files and sockets the process may have open; `None` means without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles(pub Option<u64>);

/// Raises the limit of open files to the most that the process may give itself, and logs it.
pub fn raise_open_files() -> OpenFiles {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            limit.current
        }
    };
    let shown = now.map_or_else(|| "unlimited".to_owned(), |number| number.to_string());
    tracing::info!(open_files = shown, "limit of open files");
    OpenFiles(now)
}
