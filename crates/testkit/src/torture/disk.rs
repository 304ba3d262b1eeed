//! The disk of the store: a small one that can be filled, where this user may mount one.
//!
//! Owns the mount: it is gone with it. Elsewhere the store lies in a plain folder, and is restarted with a reserve that no
//! disk has, which refuses the same.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Size of the small disk in MiB: the store's reserve, and what it may write within a run.
const SIZE_MIB: u64 = 1024;
/// The reserve that the store is started with, in MiB: its default.
const RESERVE_MIB: u64 = 256;
const MIB: u64 = 1 << 20;

/// Where the store is.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    is_small: bool,
}

impl Disk {
    /// Makes the disk in `folder`.
    pub(super) fn new(folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE_MIB}m"), "tmpfs"])
            .arg(&folder)
            .stderr(Stdio::null())
            .status();
        let is_small = mount.is_ok_and(|status| status.success());
        Ok(Self { folder, is_small })
    }

    /// The folder for the store.
    pub(super) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Whether it can be filled without touching anything else.
    pub(super) const fn is_small(&self) -> bool {
        self.is_small
    }

    /// Leaves so much free: below the store's reserve, or nothing at all.
    pub(super) fn fill(&self, leave_mib: u64) -> anyhow::Result<()> {
        let ballast = File::create(self.ballast()).context("make the ballast")?;
        loop {
            let space = statvfs(&self.folder).context("ask for the free space")?;
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let length = free.saturating_sub(leave_mib.min(RESERVE_MIB) * MIB);
            if length == 0 {
                return Ok(());
            }
            match fallocate(&ballast, FallocateFlags::empty(), 0, length) {
                // The store was quicker: there is less than there was.
                Err(Errno::NOSPC) => {}
                done => return done.context("fill the disk"),
            }
        }
    }

    /// Gives the room back.
    pub(super) fn empty(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("remove the ballast")
            }
            _ => Ok(()),
        }
    }

    /// Keeps a copy of the store, for people who look for what went wrong.
    pub(super) fn keep(&self, copy: &Path) -> anyhow::Result<()> {
        let status = Command::new("cp").arg("-r").arg(self.store()).arg(copy).status();
        anyhow::ensure!(status.context("start cp")?.success(), "copy the store");
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_small {
            // Lazily: a process that was just killed may still be there. What fails is seen in the list of mounts.
            Command::new("umount").arg("-l").arg(&self.folder).status().ok();
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}
