//! Where the store of the cluster lies: in the folder of the user, or in one that goes with the cluster.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The folder of the store.
#[derive(Debug)]
pub(super) enum StoreFolder {
    /// Stays.
    Kept(PathBuf),
    /// Is removed when this is dropped.
    Temporary(PathBuf),
}

impl StoreFolder {
    /// In `data`, if there is one.
    pub(super) fn new(data: Option<&Path>) -> anyhow::Result<Self> {
        match data {
            Some(folder) => Ok(Self::Kept(absolute(folder)?.join("store"))),
            None => Self::temporary(&std::env::temp_dir()),
        }
    }

    fn temporary(parent: &Path) -> anyhow::Result<Self> {
        for number in 0_u32.. {
            let path = parent.join(format!("causeway-up-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self::Temporary(path)),
                // Left by an earlier process of this number, that was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot make the folder {} for the store", path.display())
                    });
                }
            }
        }
        anyhow::bail!("too many folders of earlier processes in {}", parent.display())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) | Self::Temporary(path) => path,
        }
    }
}

impl Drop for StoreFolder {
    fn drop(&mut self) {
        if let Self::Temporary(path) = self {
            // What cannot be removed is left to the system, which clears its folder for such things.
            std::fs::remove_dir_all(path).ok();
        }
    }
}

fn absolute(folder: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(folder).with_context(|| format!("cannot use {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_folder_of_the_user_the_store_goes_with_the_cluster() {
        let first = StoreFolder::new(None).unwrap();
        let second = StoreFolder::new(None).unwrap();
        assert_ne!(first.path(), second.path());
        std::fs::write(first.path().join("a"), "b").unwrap();
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }

    #[test]
    fn in_the_folder_of_the_user_the_store_stays() {
        let data = StoreFolder::new(None).unwrap();
        let kept = StoreFolder::new(Some(data.path())).unwrap();
        std::fs::create_dir(kept.path()).unwrap();
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.ends_with("store") && path.exists());
    }
}
