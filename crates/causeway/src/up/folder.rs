//! Where the store of the cluster lies: in the folder of the user, or in one that goes with the cluster.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// How the names of temporary folders begin.
const PREFIX: &str = "causeway-up-";

/// Locked in a temporary folder as long as its `up` runs.
const LOCK: &str = "lock";

/// The folder of the store.
#[derive(Debug)]
pub(super) enum StoreFolder {
    /// Stays.
    Kept(PathBuf),
    /// Is removed when this is dropped.
    Temporary(Temporary),
}

/// A folder that goes with the cluster, for this user's eyes only.
#[derive(Debug)]
pub(super) struct Temporary {
    folder: PathBuf,
    store: PathBuf,
    /// Says to others that the folder is in use; the system gives it back however this process ends.
    _lock: File,
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
        remove_abandoned(parent);
        for number in 0_u32.. {
            let folder = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Temporary::new(folder).map(Self::Temporary),
                // Of another process with this number, on this machine or in a container.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot make the folder {} for the store", folder.display())
                    });
                }
            }
        }
        anyhow::bail!("too many folders of earlier processes in {}", parent.display())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kept(store) | Self::Temporary(Temporary { store, .. }) => store,
        }
    }
}

impl Temporary {
    fn new(folder: PathBuf) -> anyhow::Result<Self> {
        let lock = File::create(folder.join(LOCK)).and_then(|lock| {
            lock.try_lock()?;
            Ok(lock)
        });
        let lock = lock.with_context(|| format!("cannot lock the folder {}", folder.display()))?;
        Ok(Self { store: folder.join("store"), folder, _lock: lock })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which clears its folder for such things.
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Removes what processes left behind that were killed.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let lock = File::open(entry.path().join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            // Somebody else's stays, for this user may not remove it.
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn absolute(folder: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(folder).with_context(|| format!("cannot use {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn temporary(parent: &Path) -> (StoreFolder, PathBuf) {
        let made = StoreFolder::temporary(parent).unwrap();
        std::fs::create_dir(made.path()).unwrap();
        let folder = made.path().parent().unwrap().to_owned();
        (made, folder)
    }

    #[test]
    fn without_a_folder_of_the_user_the_store_goes_with_the_cluster() {
        let parent = tempfile::tempdir().unwrap();
        let ((first, one), (_second, other)) = (temporary(parent.path()), temporary(parent.path()));
        assert_ne!(one, other);
        drop(first);
        assert!(!one.exists() && other.exists());
    }

    #[test]
    fn nobody_else_can_look_into_a_temporary_folder() {
        let parent = tempfile::tempdir().unwrap();
        let (_made, folder) = temporary(parent.path());
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_a_killed_process_left_behind_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let (_running, used) = temporary(parent.path());
        let [abandoned, foreign] = [format!("{PREFIX}1-0"), "else".to_owned()].map(|name| {
            let folder = parent.path().join(name);
            std::fs::create_dir_all(folder.join("store")).unwrap();
            File::create(folder.join(LOCK)).unwrap();
            folder
        });
        let (_next, _) = temporary(parent.path());
        assert!(!abandoned.exists() && used.exists() && foreign.exists());
    }

    #[test]
    fn in_the_folder_of_the_user_the_store_stays() {
        let data = tempfile::tempdir().unwrap();
        let kept = StoreFolder::new(Some(data.path())).unwrap();
        std::fs::create_dir(kept.path()).unwrap();
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.ends_with("store") && path.exists());
    }
}
